//! The memory that all request and reply bodies in flight may take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that requests reserve before their first body byte moves. One for the whole process.
///
/// # Invariants
/// A request reserves all that it will hold at once and never waits for more while it holds
/// some, hence waiting requests cannot block each other for good.
#[derive(Debug)]
pub struct Budget {
    /// A permit is a KiB.
    free: Arc<Semaphore>,
    total: u32,
    wait_max: Duration,
    /// Requests that wait.
    waiting: AtomicUsize,
}

/// A share of the budget; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    share: OwnedSemaphorePermit,
}

impl Permit {
    pub fn bytes(&self) -> usize {
        self.share.num_permits().saturating_mul(UNIT_BYTES)
    }

    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let surplus = self
            .share
            .num_permits()
            .saturating_sub(bytes.div_ceil(UNIT_BYTES));
        drop(self.share.split(surplus));
    }
}

/// Nothing became free in time: the request is answered 503 SlowDown.
#[derive(Debug, thiserror::Error)]
#[error("the memory for bodies in flight is in use")]
pub struct Full;

impl Budget {
    /// `total_bytes` counts in whole KiB, at most 4 TiB. `wait_max`: how long a request waits for
    /// others to finish.
    pub fn new(total_bytes: usize, wait_max: Duration) -> Self {
        let total = u32::try_from(total_bytes / UNIT_BYTES).unwrap_or(u32::MAX);
        let permits = usize::try_from(total).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(permits)),
            total,
            wait_max,
            waiting: AtomicUsize::new(0),
        }
    }

    /// A window for a body that moves through memory: all of `whole_bytes` while half of the memory
    /// stays free for others, otherwise at most `least_bytes`, so that many slow peers leave room
    /// for quick ones. What was given holds to the end; nothing more is asked for later.
    pub async fn reserve_window(
        &self,
        whole_bytes: usize,
        least_bytes: usize,
    ) -> Result<Permit, Full> {
        let left = self.free_bytes().saturating_sub(whole_bytes);
        let is_scarce = left < self.total_bytes() / 2;
        let bytes = if is_scarce {
            whole_bytes.min(least_bytes)
        } else {
            whole_bytes
        };
        self.reserve(bytes).await
    }

    /// Takes `bytes` (a request larger than the whole budget takes all of it), in turn with the
    /// others that wait.
    pub async fn reserve(&self, bytes: usize) -> Result<Permit, Full> {
        let share = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let share = share.min(self.total);
        let taken = match Arc::clone(&self.free).try_acquire_many_owned(share) {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = Waiting::begin(&self.waiting);
                let turn = Arc::clone(&self.free).acquire_many_owned(share);
                let waited = tokio::time::timeout(self.wait_max, turn).await;
                waited.map_err(|_| Full)?.map_err(|_| Full)?
            }
        };
        Ok(Permit { share: taken })
    }

    /// Requests that wait for their share now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Bytes that all requests together may hold.
    pub fn total_bytes(&self) -> usize {
        usize::try_from(self.total)
            .unwrap_or(usize::MAX)
            .saturating_mul(UNIT_BYTES)
    }

    /// Bytes that nobody holds now.
    pub fn free_bytes(&self) -> usize {
        self.free.available_permits().saturating_mul(UNIT_BYTES)
    }
}

/// A request that waits, also one that is given up while it does.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

const UNIT_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[tokio::test(start_paused = true)]
    async fn p12_a_request_waits_for_room_and_is_told_when_none_comes() {
        let budget = Budget::new(100 * KIB, Duration::from_secs(10));
        let first = budget.reserve(60 * KIB).await.unwrap();
        assert!(budget.reserve(60 * KIB).await.is_err());
        let small = budget.reserve(39 * KIB + 1).await.unwrap();
        assert_eq!(budget.free_bytes(), 0);
        let mut first = first;
        first.shrink(10 * KIB - 1);
        assert_eq!(budget.free_bytes(), 50 * KIB);
        first.shrink(60 * KIB);
        assert_eq!(budget.free_bytes(), 50 * KIB, "a permit does not grow");
        drop((first, small));
        assert!(budget.reserve(usize::MAX).await.is_ok(), "takes it all");
        assert_eq!(budget.free_bytes(), 100 * KIB);
    }

    #[tokio::test]
    async fn p12_windows_are_small_when_memory_is_scarce() {
        let budget = Budget::new(100 * KIB, Duration::from_secs(10));
        let mut held = Vec::new();
        for expected in [20, 20, 8, 8, 8] {
            let permit = budget.reserve_window(20 * KIB, 8 * KIB).await.unwrap();
            assert_eq!(permit.bytes(), expected * KIB);
            held.push(permit);
        }
        assert_eq!(
            budget.reserve_window(KIB, 8 * KIB).await.unwrap().bytes(),
            KIB
        );
        held.clear();
        let whole = budget.reserve_window(50 * KIB, 8 * KIB).await.unwrap();
        assert_eq!(whole.bytes(), 50 * KIB);
    }

    #[tokio::test(start_paused = true)]
    async fn p12_small_requests_do_not_overtake_a_large_one_that_waits() {
        let budget = Arc::new(Budget::new(100 * KIB, Duration::from_secs(10)));
        let held = budget.reserve(90 * KIB).await.unwrap();
        let large = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.reserve(100 * KIB).await.is_ok() }
        });
        tokio::task::yield_now().await;
        let small = budget.reserve(KIB);
        tokio::pin!(small);
        let early = tokio::time::timeout(Duration::from_secs(1), &mut small).await;
        assert!(early.is_err(), "the small one waits behind the large one");
        assert_eq!(budget.waiting(), 2);
        drop(held);
        assert!(large.await.unwrap());
        assert!(small.await.is_ok());
        assert_eq!(budget.waiting(), 0);
    }
}
