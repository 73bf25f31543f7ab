//! Journal blocks as bytes, and the ring that they go to.

use super::codec::{Cursor, crc64, is_sealed, put_u32, put_u64, seal};
use super::layout::{BLOCK, BLOCK_BYTES, BODY_BYTES_MAX, blocks_of};

/// The head of a journal block. See `docs/design-blob.md`, section 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) uuid: [u8; 16],
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    /// Hash of the block before.
    pub(super) previous: u64,
    pub(super) durable: u64,
    pub(super) body_bytes: u32,
    pub(super) records: u32,
}

impl Head {
    /// The head that these bytes claim to be; whether they are whole is not known yet.
    pub(super) fn peek(block: &[u8]) -> Option<Self> {
        let mut from = Cursor::new(block);
        if from.take(4)? != MAGIC {
            return None;
        }
        from.u32()?;
        let head = Self {
            uuid: from.array()?,
            epoch: from.u64()?,
            sequence: from.u64()?,
            previous: from.u64()?,
            durable: from.u64()?,
            body_bytes: from.u32()?,
            records: from.u32()?,
        };
        (head.body_bytes as usize <= BODY_BYTES_MAX).then_some(head)
    }

    /// Blocks of 4 KiB that the journal block takes.
    pub(super) fn blocks(&self) -> u64 {
        block_count(self.body_bytes as usize)
    }

    /// The whole journal block.
    pub(super) fn seal(&self, body: &[u8]) -> Vec<u8> {
        debug_assert_eq!(self.body_bytes as usize, body.len());
        let mut out = Vec::with_capacity(HEAD_BYTES + body.len() + BLOCK_BYTES);
        out.extend_from_slice(MAGIC);
        put_u32(&mut out, 0);
        out.extend_from_slice(&self.uuid);
        for number in [self.epoch, self.sequence, self.previous, self.durable] {
            put_u64(&mut out, number);
        }
        put_u32(&mut out, self.body_bytes);
        put_u32(&mut out, self.records);
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
        seal(&mut out, CRC_AT);
        out
    }
}

/// Head and body of a whole journal block.
pub(super) fn open(bytes: &[u8]) -> Option<(Head, &[u8])> {
    let head = Head::peek(bytes)?;
    if bytes.len() as u64 != head.blocks() * BLOCK || !is_sealed(bytes, CRC_AT) {
        return None;
    }
    let body = bytes.get(HEAD_BYTES..HEAD_BYTES + head.body_bytes as usize)?;
    Some((head, body))
}

/// The hash by which the next block names this one.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    crc64(bytes)
}

/// Blocks of a journal block with a body of this size.
pub(super) fn block_count(body_bytes: usize) -> u64 {
    blocks_of((HEAD_BYTES + body_bytes) as u64)
}

/// The ring's head and tail, in blocks from its beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    blocks: u64,
    head: u64,
    /// Blocks between tail and head, those left out at the ring's end included.
    used: u64,
}

impl Ring {
    /// A ring whose tail is at `tail` and whose next block goes to `head`. They are the same only
    /// if nothing is in it.
    pub(super) fn new(blocks: u64, tail: u64, head: u64) -> Self {
        let used = if head >= tail {
            head - tail
        } else {
            blocks - tail + head
        };
        Self { blocks, head, used }
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// The place of the next journal block of `count` blocks. The caller has made sure that there
    /// is room.
    pub(super) fn push(&mut self, count: u64) -> u64 {
        let left = self.blocks - self.head;
        if count > left {
            self.used += left;
            self.head = 0;
        }
        let place = self.head;
        self.head += count;
        if self.head == self.blocks {
            self.head = 0;
        }
        self.used += count;
        assert!(self.used < self.blocks, "the journal's head meets its tail");
        place
    }

    /// Moves the tail to `tail`.
    pub(super) fn release(&mut self, tail: u64) {
        *self = Self::new(self.blocks, tail, self.head);
    }
}

const MAGIC: &[u8] = b"LBJ1";
const CRC_AT: usize = 4;
pub(super) const HEAD_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_block_comes_back_and_shows_damage() {
        let body = vec![9; 5000];
        let head = Head {
            uuid: [1; 16],
            epoch: 2,
            sequence: 3,
            previous: 4,
            durable: 2,
            body_bytes: 5000,
            records: 6,
        };
        let mut bytes = head.seal(&body);
        assert_eq!(bytes.len(), 2 * BLOCK_BYTES);
        assert_eq!(open(&bytes), Some((head, &body[..])));
        assert_eq!(open(&bytes[..BLOCK_BYTES]), None);
        bytes[8000] ^= 4;
        assert_eq!(open(&bytes), None);
    }

    #[test]
    fn the_ring_leaves_out_what_does_not_fit_at_its_end() {
        let mut ring = Ring::new(10, 0, 0);
        assert_eq!(ring.push(4), 0);
        assert_eq!(ring.push(4), 4);
        ring.release(4);
        assert_eq!(ring.used(), 4);
        assert_eq!(ring.push(3), 0);
        assert_eq!(ring.used(), 9);
        ring.release(0);
        assert_eq!((ring.used(), ring.head()), (3, 3));
    }
}
