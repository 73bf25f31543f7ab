//! The worker that does what the lifecycle rules of buckets say.
//!
//! It sleeps while no bucket has rules, but for a look at the configurations once an hour: another
//! process may have been told some. A bucket with rules is walked when they are new to this
//! process, which includes its start, a minute after they were put, and then after each midnight
//! UTC, when days of rules end.
//! Nothing is kept of a walk: one that was cut short begins anew.
//!
//! Several processes on one directory each walk it, and do each other no harm: what a walk removes
//! is named so that only what it saw is removed, once.

mod lineup;
mod walk;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use walk::Walk;

use crate::clock::Timestamp;
use crate::engine::{BucketConfig, BucketInfo, BucketName, EngineError};
use crate::s3::S3;
use crate::s3::lifecycle::{self, Day, Rules};

/// Never ends.
pub(super) async fn work(s3: Arc<S3>, day: Day) {
    let mut worker = Worker {
        s3: Arc::clone(&s3),
        day,
        walked: HashMap::new(),
    };
    loop {
        if let Err(error) = worker.round().await {
            tracing::warn!(%error, "the buckets could not be listed for their lifecycle rules");
        }
        tokio::select! {
            () = tokio::time::sleep(worker.look_every()) => {}
            () = s3.lifecycle_changes().notified() => {
                // Who made a mistake may take it back.
                tokio::time::sleep(worker.look_every().min(GRACE_MAX)).await;
            }
        }
    }
}

#[derive(Debug)]
struct Worker {
    s3: Arc<S3>,
    day: Day,
    walked: HashMap<BucketName, Walked>,
}

/// The last walk of a bucket that came to its end.
#[derive(Debug)]
struct Walked {
    rules: Rules,
    began: Timestamp,
}

impl Worker {
    async fn round(&mut self) -> Result<(), EngineError> {
        let buckets = self.s3.engines().list_buckets().await?;
        let mut with_rules = Vec::new();
        for BucketInfo { name, config } in buckets {
            match lifecycle::rules_of(&config) {
                Ok(Some(rules)) if !rules.is_idle() => with_rules.push((name, config, rules)),
                Ok(_) => {}
                Err(error) => {
                    self.s3.metrics().lifecycle.failed.add(1);
                    tracing::error!(bucket = %name, %error,
                        "the bucket's lifecycle rules cannot be read; nothing is removed by them");
                }
            }
        }
        let is_there = |name: &BucketName| with_rules.iter().any(|(known, ..)| known == name);
        self.walked.retain(|name, _| is_there(name));
        for (name, config, rules) in with_rules {
            let began = self.s3.clock().now();
            if !self.is_due(&name, &rules, began) {
                continue;
            }
            match self.walk(&name, &config, &rules).await {
                Ok(()) => {
                    self.walked.insert(name, Walked { rules, began });
                }
                // Deleted since it was listed.
                Err(EngineError::NoSuchBucket) => {}
                Err(error) => {
                    self.s3.metrics().lifecycle.failed.add(1);
                    tracing::warn!(bucket = %name, %error,
                        "the bucket was not walked to its end for its lifecycle rules");
                }
            }
        }
        Ok(())
    }

    fn is_due(&self, name: &BucketName, rules: &Rules, now: Timestamp) -> bool {
        self.walked.get(name).is_none_or(|last| {
            let next = match self.day.is_real() {
                // Strictly after it began.
                true => {
                    let nanos = last.began.unix_nanos.saturating_add(1);
                    self.day.after(Timestamp::from_unix_nanos(nanos), 0)
                }
                false => {
                    let rest = self.look_every().as_nanos();
                    let rest = i64::try_from(rest).unwrap_or(i64::MAX);
                    Timestamp::from_unix_nanos(last.began.unix_nanos.saturating_add(rest))
                }
            };
            last.rules != *rules || next <= now
        })
    }

    async fn walk(
        &self,
        name: &BucketName,
        config: &BucketConfig,
        rules: &Rules,
    ) -> Result<(), EngineError> {
        let bucket = self.s3.engines().bucket(name).await?;
        let keeps_versions = config.versioning.is_some() || config.lock.is_some();
        let (clock, counts) = (self.s3.clock(), &self.s3.metrics().lifecycle);
        let mut walk = Walk::new(&bucket, rules, self.day, clock, counts);
        walk.all(keeps_versions).await?;
        if walk.removed > 0 {
            tracing::info!(bucket = %name, removed = walk.removed, "lifecycle rules were applied");
        }
        Ok(())
    }

    /// How often the buckets' configurations are looked at.
    fn look_every(&self) -> Duration {
        match self.day.is_real() {
            true => Duration::from_secs(3600),
            false => self.day.length() / 4,
        }
    }
}

/// Between new rules and the first walk by them.
const GRACE_MAX: Duration = Duration::from_secs(60);
