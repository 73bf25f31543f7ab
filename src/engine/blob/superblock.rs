//! The superblock: what a device is, and where its checkpoint and journal begin.

use super::codec::{Cursor, is_sealed, put_u32, put_u64, seal};
use super::layout::{BLOCK_BYTES, JOURNAL_FIRST, SIZE_BLOCKS_MIN};

/// See `docs/design-blob.md`, section 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) uuid: [u8; 16],
    pub(super) generation: u64,
    pub(super) size_blocks: u64,
    pub(super) journal_blocks: u64,
    pub(super) epoch: u64,
    pub(super) epoch_first: u64,
    pub(super) start: Start,
    pub(super) flushed: u64,
    pub(super) checkpoint: Option<Checkpoint>,
}

/// Where the replay of the journal begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) sequence: u64,
    /// Blocks from the journal's beginning.
    pub(super) place: u64,
    /// Of the journal block before.
    pub(super) hash: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// Of its stream.
    pub(super) bytes: u64,
    pub(super) first: SegmentPlace,
}

/// Where a checkpoint segment lies, twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentPlace {
    pub(super) copies: [u64; 2],
    pub(super) blocks: u32,
}

/// What a block at a superblock's place is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Valid(Box<Superblock>),
    /// Another format version.
    Version(u32),
    Damaged,
    /// Not ours.
    Foreign,
}

impl Superblock {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK_BYTES);
        out.extend_from_slice(MAGIC);
        put_u32(&mut out, VERSION);
        put_u32(&mut out, 0);
        out.extend_from_slice(&self.uuid);
        let checkpoint = self.checkpoint.unwrap_or(NO_CHECKPOINT);
        for number in [
            self.generation,
            self.size_blocks,
            JOURNAL_FIRST,
            self.journal_blocks,
            self.epoch,
            self.epoch_first,
            self.start.sequence,
            self.start.place,
            self.start.hash,
            self.flushed,
            checkpoint.bytes,
            checkpoint.first.copies[0],
            checkpoint.first.copies[1],
        ] {
            put_u64(&mut out, number);
        }
        put_u32(&mut out, checkpoint.first.blocks);
        out.resize(BLOCK_BYTES, 0);
        seal(&mut out, CRC_AT);
        out
    }

    pub(super) fn decode(block: &[u8]) -> Found {
        let mut from = Cursor::new(block);
        if from.take(MAGIC.len()) != Some(MAGIC) {
            return Found::Foreign;
        }
        if !is_sealed(block, CRC_AT) {
            return Found::Damaged;
        }
        match from.u32() {
            Some(VERSION_OLDEST..=VERSION) => {}
            Some(other) => return Found::Version(other),
            None => return Found::Damaged,
        }
        match fields(&mut from) {
            Some(superblock) if superblock.is_sound() => Found::Valid(Box::new(superblock)),
            _ => Found::Damaged,
        }
    }

    fn is_sound(&self) -> bool {
        self.size_blocks >= SIZE_BLOCKS_MIN
            && self.journal_blocks < self.size_blocks - JOURNAL_FIRST
            && self.start.place < self.journal_blocks
    }
}

fn fields(from: &mut Cursor<'_>) -> Option<Superblock> {
    from.u32()?;
    let uuid = from.array()?;
    let (generation, size_blocks) = (from.u64()?, from.u64()?);
    if from.u64()? != JOURNAL_FIRST {
        return None;
    }
    Some(Superblock {
        uuid,
        generation,
        size_blocks,
        journal_blocks: from.u64()?,
        epoch: from.u64()?,
        epoch_first: from.u64()?,
        start: Start {
            sequence: from.u64()?,
            place: from.u64()?,
            hash: from.u64()?,
        },
        flushed: from.u64()?,
        checkpoint: Some(Checkpoint {
            bytes: from.u64()?,
            first: SegmentPlace {
                copies: [from.u64()?, from.u64()?],
                blocks: from.u32()?,
            },
        })
        .filter(|checkpoint| *checkpoint != NO_CHECKPOINT),
    })
}

const MAGIC: &[u8] = b"LOBOSBLB";
/// Version 1 had no table of versions; what it wrote is read as it is.
const VERSION: u32 = 2;
const VERSION_OLDEST: u32 = 1;
const CRC_AT: usize = 12;
const NO_CHECKPOINT: Checkpoint = Checkpoint {
    bytes: 0,
    first: SegmentPlace {
        copies: [0, 0],
        blocks: 0,
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Superblock {
        Superblock {
            uuid: *b"0123456789abcdef",
            generation: 3,
            size_blocks: 100_000,
            journal_blocks: 256,
            epoch: 4,
            epoch_first: 9,
            start: Start {
                sequence: 7,
                place: 12,
                hash: 99,
            },
            flushed: 8,
            checkpoint: Some(Checkpoint {
                bytes: 1000,
                first: SegmentPlace {
                    copies: [5000, 90_000],
                    blocks: 1,
                },
            }),
        }
    }

    #[test]
    fn a_superblock_comes_back() {
        for checkpoint in [None, example().checkpoint] {
            let superblock = Superblock {
                checkpoint,
                ..example()
            };
            let found = Superblock::decode(&superblock.encode());
            assert_eq!(found, Found::Valid(Box::new(superblock)));
        }
    }

    #[test]
    fn p17_an_unknown_version_is_named() {
        let mut block = example().encode();
        for version in [0, 3] {
            block[8] = version;
            block[CRC_AT..CRC_AT + 4].fill(0);
            seal(&mut block, CRC_AT);
            let found = Superblock::decode(&block);
            assert_eq!(found, Found::Version(u32::from(version)));
        }
        assert_eq!(Superblock::decode(&[0; 4096]), Found::Foreign);
    }

    #[test]
    fn an_older_version_is_read_and_becomes_this_one() {
        let mut block = example().encode();
        block[8] = 1;
        block[CRC_AT..CRC_AT + 4].fill(0);
        seal(&mut block, CRC_AT);
        let Found::Valid(found) = Superblock::decode(&block) else {
            panic!("it is not read");
        };
        assert_eq!(*found, example());
        assert_eq!(found.encode()[8], 2);
    }

    #[test]
    fn damage_is_seen() {
        let mut block = example().encode();
        block[50] ^= 1;
        assert_eq!(Superblock::decode(&block), Found::Damaged);
    }
}
