//! HEAD, GET and DELETE of one version by its id.

use std::sync::Arc;

use super::bucket::BlobBucket;
use super::commit::Class;
use super::core::{BucketState, Core};
use super::entry::Version;
use super::get::BlobReader;
use super::record::ItemKey;
use super::succession::{Kept, Removal, kept_item};
use crate::engine::{Bypass, Deleted, EngineError, Entry, ObjectKey, Precondition, VersionId};

impl BlobBucket {
    /// See [`crate::engine::Bucket::head_version`].
    pub async fn head_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
    ) -> Result<Arc<Entry>, EngineError> {
        let reader = self.open_version(key, version).await?;
        Ok(Arc::clone(reader.entry()))
    }

    /// See [`crate::engine::Bucket::open_version`].
    pub async fn open_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
    ) -> Result<BlobReader, EngineError> {
        self.state.check()?;
        let object = self.object_item(key);
        let kept = match version {
            VersionId::Null => Some(Version::default()),
            VersionId::Named(_) => Version::named(version),
        };
        let kept = kept.map(|kept| kept_item(&object, &kept));
        // It may move between the two places from one look to the next.
        for _ in 0..LOOKS {
            for item in [Some(&object), kept.as_ref()].into_iter().flatten() {
                if let Some((stored, pins)) = self.core.pinned(&self.state, item)?
                    && stored.version.id() == *version
                {
                    return self.core.reader(&self.state, item, stored, pins).await;
                }
            }
        }
        Err(EngineError::NoSuchVersion)
    }

    /// See [`crate::engine::Bucket::delete_version`].
    pub async fn delete_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        precondition: &Precondition,
        bypass: Bypass,
    ) -> Result<Deleted, EngineError> {
        let (bucket, object) = (Arc::clone(&self.state), self.object_item(key));
        let removal = Removal {
            id: version.clone(),
            precondition: precondition.clone(),
            now: self.core.clock.now(),
            bypass,
        };
        self.core
            .commit(Class::Delete, None, move |turn| {
                bucket.check()?;
                turn.delete_version(&bucket, object, &removal)
            })
            .await
    }
}

impl Core {
    /// What a key without a current entry answers; `None`: it has one again.
    pub(super) fn absent(
        &self,
        bucket: &BucketState,
        object: &ItemKey,
    ) -> Result<Option<EngineError>, EngineError> {
        let newest = bucket.kept(object, None, 1)?.pop();
        Ok(match newest {
            None => Some(EngineError::NoSuchKey),
            Some(newest) if newest.stored.is_marker => Some(EngineError::DeleteMarker {
                version: newest.stored.version.id(),
                modified: newest.stored.modified,
            }),
            Some(_) => None,
        })
    }
}

impl BucketState {
    /// Up to `limit` versions of a key that are not current, newest first; with `below`, those with
    /// a lower sequence number.
    pub(super) fn kept(
        &self,
        object: &ItemKey,
        below: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Kept>, EngineError> {
        if self.versions.len() == 0 || below == Some(0) {
            return Ok(Vec::new());
        }
        let null_item = kept_item(object, &Version::default());
        let is_wanted = |kept: &Kept| below.is_none_or(|below| kept.sequence() < below);
        let null = self.versions.value(&null_item.key);
        let null = null.map(|value| Kept::decode(null_item.clone(), value));
        let null = null.transpose()?.filter(is_wanted);
        let first = below.map_or(u64::MAX, |below| below - 1);
        let from = [&null_item.key, &(!first).to_be_bytes()[..]].concat();
        let numbered = self.versions.items_within(&null_item.key, &from, limit);
        let has_more = numbered.len() == limit;
        let mut kept = Vec::with_capacity(numbered.len() + 1);
        for (key, value) in numbered {
            kept.push(Kept::decode(ItemKey { key, ..null_item }, value)?);
        }
        if let Some(null) = null {
            let at = kept.partition_point(|kept| kept.sequence() > null.sequence());
            // Behind the last one of more it is not its turn yet.
            if at < kept.len() || !has_more {
                kept.insert(at, null);
            }
        }
        kept.truncate(limit);
        Ok(kept)
    }
}

/// Looks for a version that moves between the two tables.
pub(super) const LOOKS: usize = 8;
