//! Directory syncs, shared by everybody who waits for the same directory.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::io::files::{self, Node};

/// The syncs of one bucket.
#[derive(Debug, Default)]
pub(super) struct DirSyncs {
    rounds: Mutex<HashMap<Node, Arc<Round>>>,
}

impl DirSyncs {
    /// Returns when a sync of `dir` that started after this call has ended. One of those who wait
    /// makes it for all of them; a sync that has already started does not count, for it may have
    /// passed the change that the caller wants to be durable.
    pub(super) fn sync(&self, dir: impl AsFd) -> Result<(), Errno> {
        let node = files::stat(&dir)?.node();
        let round = Arc::clone(lock(&self.rounds).entry(node).or_default());
        let result = round.join(|| files::sync_all(&dir));
        let mut rounds = lock(&self.rounds);
        // The map's and ours: nobody else waits.
        if Arc::strong_count(&round) == 2 {
            rounds.remove(&node);
        }
        result
    }
}

/// The syncs of one directory, one at a time.
#[derive(Debug, Default)]
struct Round {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Syncs started; the last one runs while `ended < started`.
    started: u64,
    ended: u64,
    /// The first failure stays: what a failed sync should have written is lost for good.
    failed: Option<Errno>,
}

impl Round {
    fn join(&self, sync: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        let wanted = state.started + 1;
        loop {
            if state.ended >= wanted {
                return state.failed.map_or(Ok(()), Err);
            }
            if state.ended == state.started {
                break;
            }
            state = self
                .ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.started += 1;
        drop(state);
        let result = sync();
        let mut state = lock(&self.state);
        state.ended = state.started;
        if let Err(errno) = result {
            state.failed.get_or_insert(errno);
        }
        self.ended.notify_all();
        state.failed.map_or(Ok(()), Err)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Both maps are whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn who_comes_during_a_sync_shares_the_next_one() {
        let round = Arc::new(Round::default());
        let syncs = Arc::new(AtomicUsize::new(0));
        let (entered, has_entered) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();

        let first = std::thread::spawn({
            let (round, syncs) = (Arc::clone(&round), Arc::clone(&syncs));
            move || {
                round.join(|| {
                    syncs.fetch_add(1, Ordering::SeqCst);
                    entered.send(()).unwrap();
                    released.recv().unwrap();
                    Ok(())
                })
            }
        });
        has_entered.recv().unwrap();
        let late: Vec<_> = (0..8)
            .map(|_| {
                let (round, syncs) = (Arc::clone(&round), Arc::clone(&syncs));
                std::thread::spawn(move || {
                    round.join(|| {
                        syncs.fetch_add(1, Ordering::SeqCst);
                        Ok(())
                    })
                })
            })
            .collect();
        // All of them hold the round once they have asked for it.
        while Arc::strong_count(&round) < 10 {
            std::thread::yield_now();
        }
        assert_eq!(
            syncs.load(Ordering::SeqCst),
            1,
            "none joined the running one"
        );
        release.send(()).unwrap();
        first.join().unwrap().unwrap();
        for thread in late {
            thread.join().unwrap().unwrap();
        }
        let syncs = syncs.load(Ordering::SeqCst);
        assert!((2..=9).contains(&syncs), "{syncs}");
    }

    #[test]
    fn a_failed_sync_fails_everybody_who_waited_for_it() {
        let round = Round::default();
        assert_eq!(round.join(|| Err(Errno::IO)), Err(Errno::IO));
        assert_eq!(round.join(|| Ok(())), Err(Errno::IO));
    }
}
