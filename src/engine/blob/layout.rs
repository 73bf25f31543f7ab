//! Where the fixed things lie, and the words for places on the device. Units are blocks.

use super::codec::{Cursor, put_varint};

/// Bytes of a block, as a place on the device counts them.
pub(super) const BLOCK: u64 = 4096;
pub(super) const BLOCK_BYTES: usize = 4096;
/// Where the superblock's copies lie.
pub(super) const SUPERBLOCKS: [u64; 2] = [0, 4096];
pub(super) const JOURNAL_FIRST: u64 = 4097;
/// The smallest device.
pub(super) const SIZE_BLOCKS_MIN: u64 = (24 << 20) / BLOCK;
/// Bytes of data that one checksum covers.
pub(super) const CHUNK_BYTES: u64 = 64 << 10;
/// Body bytes of one journal block.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;

/// Blocks of the journal of a device of this size.
pub(super) fn journal_blocks(size_blocks: u64) -> u64 {
    (size_blocks / 64).clamp((1 << 20) / BLOCK, (1 << 30) / BLOCK)
}

/// Blocks that hold this many bytes.
pub(super) fn blocks_of(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK)
}

/// `count` blocks from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Extent {
    pub(super) first: u64,
    pub(super) count: u64,
}

impl Extent {
    pub(super) fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// Adds an extent behind others; one that continues the last becomes part of it.
pub(super) fn join(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last) if last.end() == extent.first => last.count += extent.count,
        _ => extents.push(extent),
    }
}

pub(super) fn count_of(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.count).sum()
}

pub(super) fn put_extents(out: &mut Vec<u8>, extents: &[Extent]) {
    put_varint(out, extents.len() as u64);
    for extent in extents {
        put_varint(out, extent.first);
        put_varint(out, extent.count);
    }
}

pub(super) fn take_extents(from: &mut Cursor<'_>) -> Option<Vec<Extent>> {
    let count = usize::try_from(from.varint()?).ok()?;
    // Each takes two bytes at least: a damaged count cannot ask for memory.
    if count > from.rest().len() / 2 {
        return None;
    }
    let mut extents = Vec::with_capacity(count);
    for _ in 0..count {
        let extent = Extent {
            first: from.varint()?,
            count: from.varint()?,
        };
        if extent.count == 0 || extent.first.checked_add(extent.count).is_none() {
            return None;
        }
        extents.push(extent);
    }
    Some(extents)
}

/// The device's places for `bytes` bytes from `start_bytes` on of what the extents hold, each as
/// (offset on the device, bytes). Both are whole blocks.
pub(super) fn spans(extents: &[Extent], start_bytes: u64, bytes: u64) -> Vec<(u64, u64)> {
    let (mut skip, mut left) = (start_bytes, bytes);
    let mut spans = Vec::new();
    for extent in extents {
        let extent_bytes = extent.count * BLOCK;
        if skip >= extent_bytes {
            skip -= extent_bytes;
            continue;
        }
        let span = (extent_bytes - skip).min(left);
        if span == 0 {
            break;
        }
        spans.push((extent.first * BLOCK + skip, span));
        left -= span;
        skip = 0;
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_follow_the_extents() {
        let extents = [
            Extent {
                first: 10,
                count: 2,
            },
            Extent {
                first: 30,
                count: 3,
            },
        ];
        assert_eq!(spans(&extents, 0, BLOCK), [(10 * BLOCK, BLOCK)]);
        assert_eq!(
            spans(&extents, BLOCK, 3 * BLOCK),
            [(11 * BLOCK, BLOCK), (30 * BLOCK, 2 * BLOCK)]
        );
        assert_eq!(spans(&extents, 4 * BLOCK, BLOCK), [(32 * BLOCK, BLOCK)]);
    }
}
