//! One walk through a bucket, in order, page by page.

use std::time::Instant;

use futures_util::{StreamExt, stream};

use super::lineup::{Act, Judge, Lineup, Order};
use crate::clock::Clock;
use crate::engine::{
    Bucket, Bypass, Deleted, EngineError, ObjectKey, Resume, ScanItem, ScanPlan, UploadsPlan,
    VersionId, VersionItem, VersionsPlan, VersionsResume,
};
use crate::metrics::Lifecycle;
use crate::s3::lifecycle::{Day, Place, Rules, What};

#[derive(Debug)]
pub(super) struct Walk<'a> {
    bucket: &'a Bucket,
    rules: &'a Rules,
    day: Day,
    clock: &'a Clock,
    counts: &'a Lifecycle,
    pub(super) removed: u64,
    failed: u64,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        bucket: &'a Bucket,
        rules: &'a Rules,
        day: Day,
        clock: &'a Clock,
        counts: &'a Lifecycle,
    ) -> Self {
        Self {
            bucket,
            rules,
            day,
            clock,
            counts,
            removed: 0,
            failed: 0,
        }
    }

    /// Everything that a rule may be about. An error ends the walk; a key that cannot be removed is
    /// counted, and ends it only if it is one of many.
    pub(super) async fn all(&mut self, keeps_versions: bool) -> Result<(), EngineError> {
        for prefix in self.rules.prefixes() {
            match keeps_versions {
                true => self.versions(prefix).await?,
                false => self.objects(prefix).await?,
            }
        }
        match self.rules.drops_uploads() {
            true => self.uploads().await,
            false => Ok(()),
        }
    }

    async fn objects(&mut self, prefix: &str) -> Result<(), EngineError> {
        let mut plan = ScanPlan {
            prefix: prefix.into(),
            limit: PAGE,
            ..ScanPlan::default()
        };
        loop {
            let began = Instant::now();
            let page = self.bucket.scan(&plan).await?;
            let judge = self.judge();
            let due = page.items.iter().filter_map(|item| match item {
                ScanItem::Object { key, entry } => {
                    let place = Place::Current { is_only: true };
                    judge
                        .is_due(key, What::Object(entry), place)
                        .then(|| Order::expire(key, entry))
                }
                ScanItem::CommonPrefix(_) => None,
            });
            self.carry_out(due.collect()).await?;
            let Some(last) = page.items.last().filter(|_| page.truncated) else {
                return Ok(());
            };
            plan.after = Some(Resume::Key(last.name().into()));
            rest(began).await;
        }
    }

    async fn versions(&mut self, prefix: &str) -> Result<(), EngineError> {
        let mut plan = VersionsPlan {
            prefix: prefix.into(),
            limit: PAGE,
            ..VersionsPlan::default()
        };
        let mut lineup = Lineup::default();
        loop {
            let began = Instant::now();
            let page = self.bucket.scan_versions(&plan).await?;
            let (judge, mut orders) = (self.judge(), Vec::new());
            for item in &page.items {
                lineup.next(item, judge, &mut orders);
            }
            if !page.truncated {
                lineup.end(judge, &mut orders);
            }
            self.carry_out(orders).await?;
            let last = page.items.last().and_then(resume_after);
            let Some(last) = last.filter(|_| page.truncated) else {
                return Ok(());
            };
            plan.after = Some(last);
            rest(began).await;
        }
    }

    async fn uploads(&mut self) -> Result<(), EngineError> {
        let mut plan = UploadsPlan {
            limit: PAGE,
            ..UploadsPlan::default()
        };
        loop {
            let began = Instant::now();
            let page = self.bucket.list_uploads(&plan).await?;
            let now = self.clock.now();
            for upload in &page.uploads {
                let (key, opened) = (upload.key.as_str(), upload.opened);
                if !self.rules.is_upload_due(key, opened, now, self.day) {
                    continue;
                }
                match self.bucket.abort(&upload.key, &upload.id).await {
                    Ok(()) => {
                        self.counts.uploads.add(1);
                        self.removed += 1;
                    }
                    // Completed, or aborted by somebody else.
                    Err(EngineError::NoSuchUpload) => {}
                    Err(error) => self.note_failure(&upload.key, error)?,
                }
            }
            let Some(last) = page.uploads.last().filter(|_| page.truncated) else {
                return Ok(());
            };
            plan.after_key = last.key.as_str().into();
            plan.after_id = Some(last.id.clone());
            rest(began).await;
        }
    }

    async fn carry_out(&mut self, orders: Vec<Order>) -> Result<(), EngineError> {
        let bucket = self.bucket;
        let mut outcomes = stream::iter(orders)
            .map(|order| async move { (remove(bucket, &order).await, order) })
            .buffered(REMOVALS_AT_ONCE);
        while let Some((outcome, order)) = outcomes.next().await {
            match outcome {
                Ok(Outcome::Removed) => {
                    self.removed += 1;
                    let count = match order.act {
                        Act::Expire => &self.counts.expired,
                        Act::RemoveOld(_) => &self.counts.noncurrent,
                        Act::RemoveMarker(_) => &self.counts.markers,
                    };
                    count.add(1);
                    let Order { key, act, .. } = &order;
                    tracing::debug!(%key, ?act, "removed by lifecycle rules");
                }
                Ok(Outcome::Locked) => self.counts.locked.add(1),
                Ok(Outcome::Changed) => {}
                Err(error) => self.note_failure(&order.key, error)?,
            }
        }
        Ok(())
    }

    fn note_failure(&mut self, key: &ObjectKey, error: EngineError) -> Result<(), EngineError> {
        self.counts.failed.add(1);
        self.failed += 1;
        if self.failed > FAILURES_MAX {
            return Err(error);
        }
        tracing::warn!(%key, %error, "what lifecycle rules end could not be removed");
        Ok(())
    }

    fn judge(&self) -> Judge<'a> {
        Judge {
            rules: self.rules,
            now: self.clock.now(),
            day: self.day,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Removed,
    Locked,
    /// It is not any more what it was when it was seen.
    Changed,
}

async fn remove(bucket: &Bucket, order: &Order) -> Result<Outcome, EngineError> {
    let (key, precondition) = (&order.key, &order.precondition);
    let done = match &order.act {
        Act::Expire => bucket.delete(key, precondition).await,
        Act::RemoveOld(version) if is_current(bucket, key, version).await? => {
            // What was newer has been removed since.
            return Ok(Outcome::Changed);
        }
        Act::RemoveOld(version) | Act::RemoveMarker(version) => {
            let bypass = Bypass::Nothing;
            bucket
                .delete_version(key, version, precondition, bypass)
                .await
        }
    };
    match done {
        Ok(Deleted::Absent) => Ok(Outcome::Changed),
        Ok(Deleted::Removed | Deleted::MarkerRemoved | Deleted::Marked(_)) => Ok(Outcome::Removed),
        Err(EngineError::Locked) => Ok(Outcome::Locked),
        Err(
            EngineError::PreconditionFailed
            | EngineError::NoSuchKey
            | EngineError::NoSuchVersion
            | EngineError::DeleteMarker { .. },
        ) => Ok(Outcome::Changed),
        Err(error) => Err(error),
    }
}

async fn is_current(
    bucket: &Bucket,
    key: &ObjectKey,
    asked: &VersionId,
) -> Result<bool, EngineError> {
    match bucket.head(key).await {
        Ok(entry) => Ok(entry.version == *asked),
        Err(EngineError::DeleteMarker { version, .. }) => Ok(version == *asked),
        Err(EngineError::NoSuchKey) => Ok(false),
        Err(error) => Err(error),
    }
}

fn resume_after(item: &VersionItem) -> Option<VersionsResume> {
    match item {
        VersionItem::Object { key, entry, .. } => {
            Some(VersionsResume::Version(key.clone(), entry.version.clone()))
        }
        VersionItem::Marker { key, version, .. } => {
            Some(VersionsResume::Version(key.clone(), version.clone()))
        }
        VersionItem::CommonPrefix(_) => None,
    }
}

/// As long as the page took, so that requests have the other half of a disk.
async fn rest(began: Instant) {
    tokio::time::sleep(began.elapsed()).await;
}

const PAGE: usize = 1000;
/// Concurrent removals share directory syncs.
const REMOVALS_AT_ONCE: usize = 16;
/// So many keys that cannot be removed are not the keys' fault.
const FAILURES_MAX: u64 = 100;
