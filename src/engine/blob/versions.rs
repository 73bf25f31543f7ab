//! Versions, of which every key has one yet: the null version.

use super::bucket::BlobBucket;
use super::get::BlobReader;
use crate::engine::{
    Bypass, Deleted, EngineError, Entry, ObjectKey, Precondition, Resume, ScanItem, ScanPlan,
    VersionId, VersionItem, VersionsPage, VersionsPlan, VersionsResume,
};
use std::sync::Arc;

impl BlobBucket {
    /// See [`crate::engine::Bucket::head_version`].
    pub async fn head_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
    ) -> Result<Arc<Entry>, EngineError> {
        match version {
            VersionId::Null => self.head(key).await.map_err(no_such_version),
            VersionId::Named(_) => Err(EngineError::NoSuchVersion),
        }
    }

    /// See [`crate::engine::Bucket::open_version`].
    pub async fn open_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
    ) -> Result<BlobReader, EngineError> {
        match version {
            VersionId::Null => self.open(key).await.map_err(no_such_version),
            VersionId::Named(_) => Err(EngineError::NoSuchVersion),
        }
    }

    /// See [`crate::engine::Bucket::delete_version`].
    pub async fn delete_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        precondition: &Precondition,
        _bypass: Bypass,
    ) -> Result<Deleted, EngineError> {
        match version {
            VersionId::Null => self.delete(key, precondition).await,
            VersionId::Named(_) => Ok(Deleted::Absent),
        }
    }

    /// See [`crate::engine::Bucket::scan_versions`].
    pub async fn scan_versions(&self, plan: &VersionsPlan) -> Result<VersionsPage, EngineError> {
        let after = match &plan.after {
            None => None,
            Some(VersionsResume::Key(resume)) => Some(resume.clone()),
            Some(VersionsResume::Version(key, _)) => Some(Resume::Key(key.as_str().into())),
        };
        let plan = ScanPlan {
            prefix: plan.prefix.clone(),
            delimiter: plan.delimiter.clone(),
            after,
            limit: plan.limit,
        };
        let page = self.scan(&plan).await?;
        let items = page.items.into_iter().map(|item| match item {
            ScanItem::Object { key, entry } => VersionItem::Object {
                key,
                entry,
                is_latest: true,
            },
            ScanItem::CommonPrefix(prefix) => VersionItem::CommonPrefix(prefix),
        });
        Ok(VersionsPage {
            items: items.collect(),
            truncated: page.truncated,
        })
    }
}

fn no_such_version(error: EngineError) -> EngineError {
    match error {
        EngineError::NoSuchKey => EngineError::NoSuchVersion,
        error => error,
    }
}
