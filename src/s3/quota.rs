//! Room in buckets that have a quota ([`crate::engine::BucketConfig::quota_bytes`]).
//!
//! How much lies in a bucket is measured by listing it: before the first write, then again when a
//! write would not fit, and when the last look is old, since other programs and processes may
//! write there too. Between two looks every write is added and nothing is taken off, so that the
//! writes of this process never exceed a quota. Buckets without one cost nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::{Code, S3Error};
use crate::engine::{Bucket, BucketName, EngineError, Everything};

/// What is known of the buckets that have a quota.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    buckets: Mutex<HashMap<BucketName, Arc<Usage>>>,
}

/// What is known of one bucket.
#[derive(Debug, Default)]
struct Usage {
    /// Who holds it lists the bucket; the others wait for what is found.
    measuring: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    /// What the last look found; `None`: nobody looked yet.
    look: Option<Look>,
    /// Bytes of writes that go on.
    open_bytes: u64,
    /// Bytes of writes that ended since the last look began.
    landed_bytes: u64,
    /// Something was deleted since the last look began.
    has_shrunk: bool,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    bytes: u64,
    began: Instant,
    took: Duration,
}

impl Known {
    /// At least what is in the bucket, as far as this process can know; `None`: not measured yet.
    fn used_bytes(&self) -> Option<u64> {
        let look = self.look?;
        let added = self.open_bytes.saturating_add(self.landed_bytes);
        Some(look.bytes.saturating_add(added))
    }

    /// Whether so much more is within the quota.
    fn fits(&self, bytes: u64, quota_bytes: u64) -> bool {
        let used = self.used_bytes();
        used.is_some_and(|used| used.saturating_add(bytes) <= quota_bytes)
    }

    /// Whether a look could find less than is known: by what this process did, or others in a time
    /// that is long beside that of a look.
    fn may_be_less(&self, now: Instant) -> bool {
        let Some(look) = self.look else { return true };
        let age = now.saturating_duration_since(look.began);
        self.landed_bytes > 0 || self.has_shrunk || age >= look.took * REST_OF_LOOKS
    }

    fn is_old(&self, now: Instant) -> bool {
        self.look.is_none_or(|look| {
            now.saturating_duration_since(look.began) >= LOOK_AGE_MAX.max(look.took * REST_OF_LOOKS)
        })
    }
}

impl Quotas {
    /// Room for `bytes` more in the bucket until the value is dropped, when the write has landed
    /// or failed. `None`: the bucket has no quota. Refuses with `QuotaExceeded`.
    pub(super) async fn claim(
        &self,
        name: &BucketName,
        bucket: &Bucket,
        bytes: u64,
    ) -> Result<Option<Room>, S3Error> {
        let Some(quota_bytes) = bucket.config().await?.quota_bytes else {
            return Ok(None);
        };
        let usage = Arc::clone(lock(&self.buckets).entry(name.clone()).or_default());
        if !usage.take(bytes, quota_bytes, Instant::now()) {
            let _turn = usage.measuring.lock().await;
            // Somebody else may have looked meanwhile.
            if !usage.take(bytes, quota_bytes, Instant::now()) {
                if lock(&usage.known).may_be_less(Instant::now()) {
                    usage.measure(bucket).await?;
                }
                let mut known = lock(&usage.known);
                if !known.fits(bytes, quota_bytes) {
                    return Err(exceeded(quota_bytes));
                }
                known.open_bytes = known.open_bytes.saturating_add(bytes);
            }
        }
        Ok(Some(Room { usage, bytes }))
    }

    /// Something in the bucket was deleted.
    pub(super) fn has_shrunk(&self, name: &BucketName) {
        if let Some(usage) = lock(&self.buckets).get(name) {
            lock(&usage.known).has_shrunk = true;
        }
    }

    /// What is known to be in the bucket; `None`: it was not measured.
    pub(super) fn used_bytes(&self, name: &BucketName) -> Option<u64> {
        let usage = Arc::clone(lock(&self.buckets).get(name)?);
        let known = lock(&usage.known);
        known.used_bytes()
    }
}

/// Bytes of a write that goes on.
#[derive(Debug)]
pub(super) struct Room {
    usage: Arc<Usage>,
    bytes: u64,
}

impl Drop for Room {
    /// A write that failed is taken for one that landed until the next look: too much rather than
    /// too little.
    fn drop(&mut self) {
        let mut known = lock(&self.usage.known);
        known.open_bytes = known.open_bytes.saturating_sub(self.bytes);
        known.landed_bytes = known.landed_bytes.saturating_add(self.bytes);
    }
}

impl Usage {
    /// Takes the bytes if they fit into what is known and that is not too old.
    fn take(&self, bytes: u64, quota_bytes: u64, now: Instant) -> bool {
        let mut known = lock(&self.known);
        let fits = !known.is_old(now) && known.fits(bytes, quota_bytes);
        if fits {
            known.open_bytes = known.open_bytes.saturating_add(bytes);
        }
        fits
    }

    /// Lists the bucket. Writes that go on, or end meanwhile, count in addition to what is found.
    async fn measure(&self, bucket: &Bucket) -> Result<(), EngineError> {
        let began = Instant::now();
        let landed_before = {
            let mut known = lock(&self.known);
            known.has_shrunk = false;
            known.landed_bytes
        };
        let (mut bytes, mut all) = (0_u64, Everything::of(bucket.clone()).await?);
        while let Some(page) = all.next_page().await? {
            let sizes = page.iter().map(|(_, entry)| entry.size_bytes);
            bytes = sizes.fold(bytes, u64::saturating_add);
        }
        let mut known = lock(&self.known);
        known.landed_bytes = known.landed_bytes.saturating_sub(landed_before);
        known.look = Some(Look {
            bytes,
            began,
            took: began.elapsed(),
        });
        Ok(())
    }
}

fn exceeded(quota_bytes: u64) -> S3Error {
    S3Error::new(Code::QuotaExceeded).detail("QuotaBytes", quota_bytes.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What others write into a bucket is seen after this time.
const LOOK_AGE_MAX: Duration = Duration::from_secs(60);
/// Looks that only what others did could make necessary take one part in so many of the time.
const REST_OF_LOOKS: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(bytes: u64, began: Instant) -> Arc<Usage> {
        let usage = Usage::default();
        let took = Duration::from_millis(1);
        lock(&usage.known).look = Some(Look { bytes, began, took });
        Arc::new(usage)
    }

    #[test]
    fn writes_that_go_on_and_those_that_landed_count_until_the_next_look() {
        let now = Instant::now();
        let usage = looked(50, now);
        assert!(usage.take(30, 100, now));
        assert!(
            !usage.take(21, 100, now),
            "50 are there and 30 on their way"
        );
        let room = Room {
            usage: Arc::clone(&usage),
            bytes: 30,
        };
        drop(room);
        assert!(!usage.take(21, 100, now), "those 30 may have landed");
        assert!(
            usage.take(20, 100, now),
            "a full bucket is within its quota"
        );
        assert_eq!(lock(&usage.known).used_bytes(), Some(100));
    }

    #[test]
    fn a_bucket_that_nobody_looked_at_for_long_is_looked_at_again() {
        let now = Instant::now();
        let usage = looked(0, now);
        assert!(usage.take(1, 100, now));
        assert!(!usage.take(1, 100, now + LOOK_AGE_MAX));
        assert!(!Usage::default().take(0, 100, now), "nor is one never seen");
    }

    #[test]
    fn a_look_is_worth_it_when_it_could_find_less() {
        let now = Instant::now();
        let usage = looked(100, now);
        assert!(!lock(&usage.known).may_be_less(now));
        assert!(lock(&usage.known).may_be_less(now + Duration::from_millis(20)));
        lock(&usage.known).has_shrunk = true;
        assert!(lock(&usage.known).may_be_less(now));
    }
}
