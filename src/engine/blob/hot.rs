//! Bytes that are asked for often, in memory: direct transfers go past the kernel's cache.

use std::hash::{BuildHasherDefault, DefaultHasher};

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};

use super::entry::{Allocation, Piece, Place};
use super::layout::{BLOCK, CHUNK_BYTES, count_of};

/// Verified bytes, by the block that names their allocation and the step of it that they are.
///
/// # Invariants
/// What is kept under a block is of the allocation that the block names now: it is put in while
/// that allocation is pinned, and taken out before its blocks are free for others.
#[derive(Debug)]
pub(super) struct Hot {
    /// `None`: nothing is kept.
    steps: Option<Cache<(u64, u64), Bytes, Weight, Hasher>>,
}

impl Hot {
    /// Keeps up to `bytes_max`.
    pub(super) fn new(bytes_max: u64) -> Self {
        let typical = usize::try_from(bytes_max / TYPICAL_BYTES).unwrap_or(usize::MAX);
        Self {
            steps: (bytes_max > 0).then(|| {
                let hasher = Hasher::default();
                Cache::with(
                    typical,
                    bytes_max,
                    Weight,
                    hasher,
                    DefaultLifecycle::default(),
                )
            }),
        }
    }

    pub(super) fn get(&self, name: u64, step: u64) -> Option<Bytes> {
        self.steps.as_ref()?.get(&(name, step))
    }

    /// The caller has pinned the allocation and verified the bytes, which are the whole step.
    pub(super) fn keep(&self, name: u64, step: u64, bytes: &Bytes) {
        let Some(steps) = &self.steps else {
            return;
        };
        // A copy: a transfer's buffer is larger, and its memory may be scarce.
        steps.insert((name, step), Bytes::copy_from_slice(bytes));
    }

    /// The blocks of an allocation are about to be free.
    pub(super) fn forget(&self, allocation: &Allocation) {
        let (Some(steps), Some(first)) = (&self.steps, allocation.first()) else {
            return;
        };
        let blocks = count_of(allocation);
        if blocks <= PIECE_BYTES_MAX / BLOCK {
            for step in 0..(blocks * BLOCK).div_ceil(STEP_BYTES) {
                steps.remove(&(first.first, step));
            }
        }
    }

    /// All bytes of an object that is one piece of one step.
    pub(super) fn whole(&self, pieces: &[Piece]) -> Option<Bytes> {
        let [piece] = pieces else {
            return None;
        };
        match &piece.place {
            Place::Extents { extents, .. } if piece.size_bytes <= STEP_BYTES => {
                self.get(extents.first()?.first, 0)
            }
            _ => None,
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.steps.as_ref().map_or(0, |steps| steps.weight())
    }
}

/// The same in every process, so that a simulated run can be repeated. Clients do not choose block
/// numbers.
type Hasher = BuildHasherDefault<DefaultHasher>;

/// Whether steps of a piece of this size are kept.
pub(super) fn is_kept(size_bytes: u64) -> bool {
    size_bytes <= PIECE_BYTES_MAX
}

#[derive(Clone, Debug)]
struct Weight;

impl quick_cache::Weighter<(u64, u64), Bytes> for Weight {
    fn weight(&self, _: &(u64, u64), bytes: &Bytes) -> u64 {
        bytes.len() as u64 + ENTRY_BYTES
    }
}

/// Bytes of one read, and of one entry at most.
pub(super) const STEP_BYTES: u64 = 4 * CHUNK_BYTES;
/// Larger pieces are read from the device each time.
const PIECE_BYTES_MAX: u64 = 1 << 20;
const TYPICAL_BYTES: u64 = 16 << 10;
/// What an entry takes beside its bytes.
const ENTRY_BYTES: u64 = 128;

#[cfg(test)]
mod tests {
    use super::super::layout::Extent;
    use super::*;

    #[test]
    fn what_is_freed_is_forgotten_to_its_last_step() {
        let hot = Hot::new(16 << 20);
        let blocks = PIECE_BYTES_MAX / BLOCK;
        let allocation = [(7, 1), (100, blocks - 1)].map(|(first, count)| Extent { first, count });
        for step in 0..4 {
            hot.keep(7, step, &Bytes::from_static(b"bytes"));
        }
        hot.keep(8, 0, &Bytes::from_static(b"others"));
        hot.forget(&allocation.to_vec());
        assert!((0..4).all(|step| hot.get(7, step).is_none()));
        assert_eq!(hot.get(8, 0).as_deref(), Some(&b"others"[..]));
    }

    #[test]
    fn no_more_is_kept_than_was_said() {
        let hot = Hot::new(1 << 20);
        for block in 0..1000 {
            hot.keep(block, 0, &Bytes::from(vec![1; 5000]));
        }
        assert!(hot.used_bytes() <= 1 << 20, "{}", hot.used_bytes());
        assert!(hot.used_bytes() > 1 << 19, "{}", hot.used_bytes());
        let none = Hot::new(0);
        none.keep(1, 0, &Bytes::from_static(b"bytes"));
        assert_eq!(none.get(1, 0), None);
    }
}
