//! Which blocks are free, who shares and who reads what is not, and what waits to be freed.
//!
//! Allocation is next-fit: what is written together lies together.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::entry::Allocation;
use super::hot::Hot;
use super::layout::{BLOCK, Extent, JOURNAL_FIRST, SUPERBLOCKS, count_of, join};

/// The space of one device.
#[derive(Debug)]
pub(super) struct Space {
    state: Mutex<State>,
    /// What is kept in memory of allocations that are not free.
    pub(super) hot: Hot,
}

#[derive(Debug)]
struct State {
    /// One bit a block; set: in use.
    map: Vec<u64>,
    size_blocks: u64,
    free_blocks: u64,
    /// Where the next search begins.
    cursor: u64,
    /// Blocks freed by records that no durable block proves yet (I3), in order of sequence.
    held: VecDeque<(u64, Allocation)>,
    held_blocks: u64,
    /// The device is told of extents before they become free.
    discards: bool,
    /// Those that it has not been told of; in `held_blocks`.
    undiscarded: Vec<Extent>,
    /// By the first block of an allocation; only where there is something to say.
    uses: HashMap<u64, Use>,
}

/// Runs of free blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    pub(super) count: u64,
    pub(super) longest_blocks: u64,
    /// Blocks in runs of less than 1 MiB.
    pub(super) short_blocks: u64,
}

impl Runs {
    fn add(&mut self, blocks: u64) {
        if blocks == 0 {
            return;
        }
        self.count += 1;
        self.longest_blocks = self.longest_blocks.max(blocks);
        if blocks < (1 << 20) / BLOCK {
            self.short_blocks += blocks;
        }
    }
}

/// What is special about one allocation.
#[derive(Debug, Default)]
struct Use {
    /// Owners beyond the first.
    extra: u32,
    readers: u32,
    /// Free it when its last reader has gone.
    doomed: Option<Allocation>,
}

/// Two owners claim a block, or one claims what is not part of the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overlap {
    pub(super) block: u64,
}

impl Space {
    /// All free but the fixed places.
    pub(super) fn new(size_blocks: u64, journal_blocks: u64) -> Self {
        let words = usize::try_from(size_blocks.div_ceil(64)).unwrap_or(usize::MAX);
        let mut state = State {
            map: vec![0; words],
            size_blocks,
            free_blocks: size_blocks,
            cursor: JOURNAL_FIRST + journal_blocks,
            held: VecDeque::new(),
            held_blocks: 0,
            discards: false,
            undiscarded: Vec::new(),
            uses: HashMap::new(),
        };
        for block in SUPERBLOCKS {
            state.set(block, 1);
        }
        state.set(JOURNAL_FIRST, journal_blocks);
        Self {
            state: Mutex::new(state),
            hot: Hot::new(0),
        }
    }

    /// Of an open store: keeps up to `hot_bytes_max` of what is read in memory; `discards`: what
    /// becomes free waits for [`Space::take_discards`].
    pub(super) fn serving(self, hot_bytes_max: u64, discards: bool) -> Self {
        self.lock().discards = discards;
        Self {
            hot: Hot::new(hot_bytes_max),
            ..self
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside aborts the process where it matters (I12).
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `count` blocks, in one extent if there is one, if `floor` blocks stay free after it.
    pub(super) fn allocate(&self, count: u64, floor: u64) -> Option<Allocation> {
        let mut state = self.lock();
        if count == 0 || state.free_blocks < count.saturating_add(floor) {
            return None;
        }
        let mut extents = Vec::new();
        let mut left = count;
        while left > 0 {
            let extent = state.find(left)?;
            state.set(extent.first, extent.count);
            state.cursor = extent.end();
            left -= extent.count;
            join(&mut extents, extent);
        }
        Some(extents)
    }

    /// Takes one extent of at most `count` blocks: the best there is near the cursor.
    pub(super) fn allocate_run(&self, count: u64) -> Option<Extent> {
        let mut state = self.lock();
        let extent = state.find(count)?;
        state.set(extent.first, extent.count);
        state.cursor = extent.end();
        Some(extent)
    }

    /// Gives back blocks that no record ever named.
    pub(super) fn give_back(&self, extents: &[Extent]) {
        let mut state = self.lock();
        for extent in extents {
            state.clear(extent.first, extent.count);
        }
    }

    /// While the index is rebuilt: one more owner. Owners of one block share all of the extents.
    pub(super) fn claim(&self, allocation: &Allocation) -> Result<(), Overlap> {
        let mut state = self.lock();
        let Some(first) = allocation.first() else {
            return Ok(());
        };
        let name = first.first;
        if first.end() <= state.size_blocks && state.is_set(name) {
            let known = state
                .uses
                .get_mut(&name)
                .filter(|known| known.doomed.is_some());
            let Some(known) = known else {
                return Err(Overlap { block: name });
            };
            if known.doomed.as_ref() != Some(allocation) {
                return Err(Overlap { block: name });
            }
            known.extra += 1;
            return Ok(());
        }
        for extent in allocation {
            if extent.end() > state.size_blocks {
                return Err(Overlap {
                    block: extent.first,
                });
            }
            for block in extent.first..extent.end() {
                if state.is_set(block) {
                    return Err(Overlap { block });
                }
            }
            state.set(extent.first, extent.count);
        }
        // Until `claimed` the whole allocation is kept, to compare it with another owner's.
        let doomed = Some(allocation.clone());
        state.uses.insert(
            name,
            Use {
                doomed,
                ..Use::default()
            },
        );
        Ok(())
    }

    /// Ends the rebuilding.
    pub(super) fn claimed(&self) {
        let mut state = self.lock();
        state.uses.retain(|_, known| {
            known.doomed = None;
            known.extra > 0
        });
        state.uses.shrink_to_fit();
    }

    /// One more owner of an allocation that has one.
    pub(super) fn retain(&self, allocation: &Allocation) {
        if let Some(first) = allocation.first() {
            self.lock().uses.entry(first.first).or_default().extra += 1;
        }
    }

    /// One owner less, by a record of journal block `sequence`; with the last one the blocks wait
    /// for [`Space::prove`].
    pub(super) fn release(&self, sequence: u64, allocation: Allocation) {
        let mut state = self.lock();
        let Some(name) = allocation.first().map(|first| first.first) else {
            return;
        };
        if let Some(known) = state.uses.get_mut(&name).filter(|known| known.extra > 0) {
            known.extra -= 1;
            state.forget_plain(name);
            return;
        }
        state.held_blocks += count_of(&allocation);
        state.held.push_back((sequence, allocation));
    }

    /// A journal block that says `durable` has been flushed. Upholds I3.
    pub(super) fn prove(&self, durable: u64) {
        let mut state = self.lock();
        while let Some((sequence, _)) = state.held.front() {
            if *sequence > durable {
                break;
            }
            if let Some((_, allocation)) = state.held.pop_front() {
                state.held_blocks -= count_of(&allocation);
                state.free_or_doom(allocation, &self.hot);
            }
        }
    }

    /// A reader of the allocation that begins at `name`. Call it where the entry cannot be
    /// replaced before it returns.
    pub(super) fn pin(&self, name: u64) {
        self.lock().uses.entry(name).or_default().readers += 1;
    }

    pub(super) fn unpin(&self, name: u64) {
        let mut state = self.lock();
        let Some(known) = state.uses.get_mut(&name) else {
            return;
        };
        known.readers = known.readers.saturating_sub(1);
        if known.readers == 0
            && let Some(allocation) = known.doomed.take()
        {
            state.free(&allocation, &self.hot);
        }
        state.forget_plain(name);
    }

    /// Extents that become free with [`Space::discarded`], once the device has been told of them.
    pub(super) fn take_discards(&self) -> Vec<Extent> {
        std::mem::take(&mut self.lock().undiscarded)
    }

    pub(super) fn has_discards(&self) -> bool {
        !self.lock().undiscarded.is_empty()
    }

    pub(super) fn discarded(&self, extents: &[Extent]) {
        let mut state = self.lock();
        for extent in extents {
            state.held_blocks -= extent.count;
            state.clear(extent.first, extent.count);
        }
    }

    /// How the free blocks lie. Looks at some at a time, so that nobody waits long for the lock.
    pub(super) fn runs(&self) -> Runs {
        let (mut runs, mut open, mut at) = (Runs::default(), 0, 0);
        loop {
            let state = self.lock();
            let stop = (at + RUNS_STEP_BLOCKS).min(state.size_blocks);
            while at < stop {
                let end = state.next_used(at, stop);
                open += end - at;
                at = end;
                if end < stop {
                    runs.add(std::mem::take(&mut open));
                    at = state.next_free(end, stop).unwrap_or(stop);
                }
            }
            if at >= state.size_blocks {
                runs.add(open);
                return runs;
            }
        }
    }

    /// Free blocks, those that wait to be freed not counted.
    pub(super) fn free_blocks(&self) -> u64 {
        self.lock().free_blocks
    }

    pub(super) fn held_blocks(&self) -> u64 {
        self.lock().held_blocks
    }
}

impl State {
    fn free_or_doom(&mut self, allocation: Allocation, hot: &Hot) {
        let name = allocation.first().map_or(0, |first| first.first);
        match self.uses.get_mut(&name).filter(|known| known.readers > 0) {
            Some(known) => known.doomed = Some(allocation),
            None => self.free(&allocation, hot),
        }
    }

    fn free(&mut self, allocation: &Allocation, hot: &Hot) {
        hot.forget(allocation);
        for extent in allocation {
            if self.discards && extent.count >= DISCARD_BLOCKS_MIN {
                self.held_blocks += extent.count;
                self.undiscarded.push(*extent);
            } else {
                self.clear(extent.first, extent.count);
            }
        }
    }

    fn forget_plain(&mut self, name: u64) {
        let is_plain = |known: &Use| known.extra == 0 && known.readers == 0;
        if self.uses.get(&name).is_some_and(is_plain) {
            self.uses.remove(&name);
        }
    }

    /// The first run of `count` free blocks at or behind the cursor, else the longest one met. On a
    /// large device that is nearly full there may be none that long, and nobody shall wait while
    /// all of it is searched.
    fn find(&self, count: u64) -> Option<Extent> {
        let mut best = Extent { first: 0, count: 0 };
        let mut runs = 0;
        let sides = [(self.cursor, self.size_blocks), (0, self.cursor)];
        for (from, to) in sides {
            let mut at = from;
            while at < to {
                let Some(first) = self.next_free(at, to) else {
                    break;
                };
                let end = self.next_used(first, to.min(first.saturating_add(count)));
                if end - first > best.count {
                    best = Extent {
                        first,
                        count: end - first,
                    };
                }
                runs += 1;
                if best.count >= count || runs == RUNS_SEEN_MAX {
                    return Some(best);
                }
                at = end + 1;
            }
        }
        (best.count > 0).then_some(best)
    }

    fn next_free(&self, from: u64, to: u64) -> Option<u64> {
        let mut at = from;
        while at < to {
            let used = self.word(at) >> (at % 64);
            let run = u64::from(used.trailing_ones()).min(64 - at % 64);
            if run < 64 - at % 64 {
                return Some(at + run).filter(|at| *at < to);
            }
            at += run;
        }
        None
    }

    fn next_used(&self, from: u64, to: u64) -> u64 {
        let mut at = from;
        while at < to {
            let used = self.word(at) >> (at % 64);
            let left = 64 - at % 64;
            let run = u64::from(used.trailing_zeros()).min(left);
            at += run;
            if run < left {
                break;
            }
        }
        at.min(to)
    }

    fn word(&self, block: u64) -> u64 {
        let at = usize::try_from(block / 64).unwrap_or(usize::MAX);
        self.map.get(at).copied().unwrap_or(u64::MAX)
    }

    fn is_set(&self, block: u64) -> bool {
        self.word(block) >> (block % 64) & 1 == 1
    }

    fn set(&mut self, first: u64, count: u64) {
        self.change(first, count, true);
        self.free_blocks -= count;
    }

    fn clear(&mut self, first: u64, count: u64) {
        self.change(first, count, false);
        self.free_blocks += count;
    }

    fn change(&mut self, first: u64, count: u64, to_used: bool) {
        for block in first..first + count {
            let bit = 1 << (block % 64);
            let at = usize::try_from(block / 64).unwrap_or(usize::MAX);
            if let Some(word) = self.map.get_mut(at) {
                // A block taken or freed twice is a bug that would cost somebody's data.
                assert_eq!(*word & bit == 0, to_used, "block {block} changes twice");
                *word ^= bit;
            }
        }
    }
}

/// Free runs that one search looks at: some microseconds.
const RUNS_SEEN_MAX: u32 = 256;
/// Telling the device of smaller extents costs more than it gains.
const DISCARD_BLOCKS_MIN: u64 = (64 << 10) / BLOCK;
/// Blocks that are looked at under one lock.
const RUNS_STEP_BLOCKS: u64 = 1 << 22;

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Space {
        Space::new(8192, 256)
    }

    #[test]
    fn neighbours_in_time_are_neighbours_in_space() {
        let space = space();
        let first = space.allocate(9, 0).unwrap();
        let second = space.allocate(3, 0).unwrap();
        assert_eq!(
            first,
            [Extent {
                first: 4353,
                count: 9
            }]
        );
        assert_eq!(
            second,
            [Extent {
                first: 4362,
                count: 3
            }]
        );
    }

    #[test]
    fn a_search_among_many_short_runs_ends_early_with_the_longest_of_them() {
        let space = Space::new(1 << 20, 256);
        let all = space.allocate(space.free_blocks(), 0).unwrap();
        let (first, end) = (all.last().unwrap().first, all.last().unwrap().end());
        for block in (first..end - 64).step_by(2) {
            space.give_back(&[Extent {
                first: block,
                count: 1,
            }]);
        }
        space.give_back(&[Extent {
            first: end - 64,
            count: 64,
        }]);
        let before = space.free_blocks();
        // A run of 64 is there, beyond what is looked at.
        let found = space.allocate(64, 0).unwrap();
        assert!(found.len() > 1, "{found:?}");
        assert_eq!(count_of(&found), 64);
        assert_eq!(space.free_blocks(), before - 64);
    }

    #[test]
    fn all_space_can_be_taken_and_comes_back() {
        let space = space();
        let all = space.free_blocks();
        assert_eq!(all, 8192 - 2 - 256);
        let mut taken = Vec::new();
        while let Some(extents) = space.allocate(7, 0) {
            taken.push(extents);
        }
        assert!(space.free_blocks() < 7);
        for extents in &taken {
            space.give_back(extents);
        }
        assert_eq!(space.free_blocks(), all);
        assert_eq!(space.allocate(all, 1), None, "the floor holds");
        assert_eq!(count_of(&space.allocate(all, 0).unwrap()), all);
    }

    #[test]
    fn a_used_block_at_the_beginning_of_a_word_ends_a_run() {
        let space = space();
        space
            .claim(&vec![Extent {
                first: 4416,
                count: 64,
            }])
            .unwrap();
        space.claimed();
        let extents = space.allocate(100, 0).unwrap();
        assert_eq!(
            extents,
            [Extent {
                first: 4480,
                count: 100
            }]
        );
        let extents = space.allocate(3611 + 1, 0).unwrap();
        assert_eq!(count_of(&extents), 3612);
    }

    #[test]
    fn runs_of_free_blocks_are_counted() {
        let space = space();
        let all = space.free_blocks();
        let whole = space.runs();
        // Between the superblocks, and behind the journal.
        assert_eq!((whole.count, whole.longest_blocks), (2, 4095));
        assert_eq!(whole.short_blocks, 0);
        let extent = Extent {
            first: 8000,
            count: 1,
        };
        space.claim(&vec![extent]).unwrap();
        let cut = space.runs();
        assert_eq!((cut.count, cut.short_blocks), (3, 191));
        assert_eq!(space.free_blocks(), all - 1);
    }

    #[test]
    fn i3_blocks_are_free_only_when_proven_and_unread() {
        let space = space();
        let all = space.free_blocks();
        let extents = space.allocate(5, 0).unwrap();
        space.pin(extents[0].first);
        space.release(10, extents.clone());
        space.prove(9);
        assert_eq!((space.free_blocks(), space.held_blocks()), (all - 5, 5));
        space.prove(10);
        assert_eq!((space.free_blocks(), space.held_blocks()), (all - 5, 0));
        space.unpin(extents[0].first);
        assert_eq!(space.free_blocks(), all);
    }

    #[test]
    fn shared_blocks_are_freed_with_their_last_owner() {
        let space = space();
        let all = space.free_blocks();
        let extents = vec![Extent {
            first: 5000,
            count: 4,
        }];
        space.claim(&extents).unwrap();
        space.claim(&extents).unwrap();
        let other = vec![Extent {
            first: 5001,
            count: 1,
        }];
        assert_eq!(space.claim(&other), Err(Overlap { block: 5001 }));
        space.claimed();
        space.release(1, extents.clone());
        space.prove(1);
        assert_eq!(space.free_blocks(), all - 4);
        space.release(2, extents);
        space.prove(2);
        assert_eq!(space.free_blocks(), all);
    }
}
