//! One writer per key, across shards and processes.
//!
//! A writer holds the key's lock from the check of its precondition to the rename and the sync of
//! the directory. It takes an async lock inside the process first, so that those who wait occupy
//! no thread, and then one byte of `.lobos/lock`, chosen by the key's hash, for other processes.
//! The second is asked for again and again rather than waited for: a thread that waits in the
//! kernel might be the one that the holder needs.
//!
//! Deleting the bucket takes all bytes at once: writers share the bucket by holding their bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::bucket::FsBucket;
use super::faults::Doing;
use super::scratch::Home;
use super::types::KeyHash;
use crate::engine::{EngineError, ObjectKey};
use crate::io::files::{self, ByteSpan};

/// The right to change one key. Dropping it gives the lock back, without blocking.
#[derive(Debug)]
pub(super) struct KeyLock {
    pub(super) home: Arc<Home>,
    bytes: ByteSpan,
    // Dropped after the lock between processes was given back in `drop`.
    _local: LocalLock,
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Fails only when the lock file is gone, and then there is nothing to give back.
        let _ = files::ofd_unlock(&self.home.lock, self.bytes);
    }
}

impl FsBucket {
    /// Takes the key's lock, and makes sure that the bucket's path still leads to this bucket.
    /// Errors: [`EngineError::Busy`] when another process keeps the lock for too long, and that of
    /// [`FsBucket::gone`].
    pub(super) async fn lock(self: &Arc<Self>, key: &ObjectKey) -> Result<KeyLock, EngineError> {
        self.lock_hash(KeyHash::of(key.as_str())).await
    }

    pub(super) async fn lock_hash(self: &Arc<Self>, hash: KeyHash) -> Result<KeyLock, EngineError> {
        self.check_writable()?;
        let local = self.locks.lock(hash.short()).await;
        let bytes = ByteSpan::One(hash.short());
        let mut wait = WAIT_FIRST;
        let mut waited = Duration::ZERO;
        while waited < WAIT_MAX {
            let home = self.home().await?;
            if files::ofd_lock(&home.lock, bytes).doing("locking a key")? {
                if self.is_home(&home)? {
                    return Ok(KeyLock {
                        home,
                        bytes,
                        _local: local,
                    });
                }
                // Somebody removed `.lobos` (or the bucket, which `home` finds out).
                let _ = files::ofd_unlock(&home.lock, bytes);
                self.forget_home(&home);
            }
            tokio::time::sleep(wait).await;
            waited += wait;
            wait = (wait * 2).min(WAIT_STEP_MAX);
        }
        Err(EngineError::Busy)
    }
}

/// The locks inside this process: one for each key that somebody is changing.
#[derive(Debug, Default)]
pub(super) struct LocalLocks {
    held: Mutex<HashMap<u64, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Debug)]
pub(super) struct LocalLock {
    locks: Arc<LocalLocks>,
    hash: u64,
    guard: Option<OwnedMutexGuard<()>>,
}

impl LocalLocks {
    pub(super) async fn lock(self: &Arc<Self>, hash: u64) -> LocalLock {
        let lock = Arc::clone(self.table().entry(hash).or_default());
        // Made before the wait: a waiter that is dropped cleans up after itself.
        let mut local = LocalLock {
            locks: Arc::clone(self),
            hash,
            guard: None,
        };
        local.guard = Some(lock.lock_owned().await);
        local
    }

    fn table(&self) -> MutexGuard<'_, HashMap<u64, Arc<tokio::sync::Mutex<()>>>> {
        // The table is whole after every statement.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LocalLock {
    fn drop(&mut self) {
        let mut table = self.locks.table();
        self.guard = None;
        // Waiters hold the lock's other references; new ones need the table to get theirs.
        if table
            .get(&self.hash)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            table.remove(&self.hash);
        }
    }
}

/// Between two attempts to get a lock that another process holds.
const WAIT_FIRST: Duration = Duration::from_micros(200);
const WAIT_STEP_MAX: Duration = Duration::from_millis(20);
/// Longer than any write holds a key, unless the device hangs.
const WAIT_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holder_per_key_and_no_entry_is_left() {
        let locks = Arc::new(LocalLocks::default());
        let held = locks.lock(7).await;
        let other = locks.lock(8).await;
        let waiter = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { drop(locks.lock(7).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(held);
        waiter.await.unwrap();
        drop(other);
        assert!(locks.table().is_empty());
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_leaves_nothing() {
        let locks = Arc::new(LocalLocks::default());
        let held = locks.lock(7).await;
        let waiter = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { drop(locks.lock(7).await) }
        });
        tokio::task::yield_now().await;
        waiter.abort();
        assert!(waiter.await.unwrap_err().is_cancelled());
        drop(held);
        assert!(locks.table().is_empty());
    }
}
