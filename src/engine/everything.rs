//! All that is stored in a bucket, page by page.

use std::sync::Arc;

use super::{
    Bucket, EngineError, Entry, ObjectKey, Reader, Resume, ScanItem, ScanPlan, VersionItem,
    VersionsPlan, VersionsResume,
};

/// Every object of a bucket, each of its versions where it keeps them.
#[derive(Debug)]
pub struct Everything {
    bucket: Bucket,
    has_versions: bool,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Current(ScanPlan),
    Versions(VersionsPlan),
    End,
}

impl Everything {
    /// From the first key on.
    pub async fn of(bucket: Bucket) -> Result<Self, EngineError> {
        let kept = bucket.config().await?.kept_versions();
        let place = match kept {
            None => Place::Current(ScanPlan {
                limit: PAGE_ITEMS,
                ..ScanPlan::default()
            }),
            Some(_) => Place::Versions(VersionsPlan {
                limit: PAGE_ITEMS,
                ..VersionsPlan::default()
            }),
        };
        Ok(Self {
            bucket,
            has_versions: kept.is_some(),
            place,
        })
    }

    /// Pins what a page told of for reading. Errors as those of [`Bucket::open_version`].
    pub async fn open(&self, (key, entry): &Stored) -> Result<Reader, EngineError> {
        match self.has_versions {
            true => self.bucket.open_version(key, &entry.version).await,
            false => self.bucket.open(key).await,
        }
    }

    /// The next page, which may be empty; `None`: that was all.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Stored>>, EngineError> {
        let (page, next) = match &self.place {
            Place::Current(plan) => current(&self.bucket, plan).await?,
            Place::Versions(plan) => versions(&self.bucket, plan).await?,
            Place::End => return Ok(None),
        };
        self.place = next;
        Ok(Some(page))
    }
}

/// An object or one version of it.
pub type Stored = (ObjectKey, Arc<Entry>);

async fn current(bucket: &Bucket, plan: &ScanPlan) -> Result<(Vec<Stored>, Place), EngineError> {
    let page = bucket.scan(plan).await?;
    let next = match page.items.last() {
        Some(last) if page.truncated => Place::Current(ScanPlan {
            after: Some(Resume::Key(last.name().into())),
            ..plan.clone()
        }),
        _ => Place::End,
    };
    let stored = page.items.into_iter().filter_map(|item| match item {
        ScanItem::Object { key, entry } => Some((key, entry)),
        ScanItem::CommonPrefix(_) => None,
    });
    Ok((stored.collect(), next))
}

async fn versions(
    bucket: &Bucket,
    plan: &VersionsPlan,
) -> Result<(Vec<Stored>, Place), EngineError> {
    let page = bucket.scan_versions(plan).await?;
    let last = page.items.last().and_then(|item| match item {
        VersionItem::Object { key, entry, .. } => Some((key.clone(), entry.version.clone())),
        VersionItem::Marker { key, version, .. } => Some((key.clone(), version.clone())),
        VersionItem::CommonPrefix(_) => None,
    });
    let next = match last {
        Some((key, version)) if page.truncated => Place::Versions(VersionsPlan {
            after: Some(VersionsResume::Version(key, version)),
            ..plan.clone()
        }),
        _ => Place::End,
    };
    let stored = page.items.into_iter().filter_map(|item| match item {
        VersionItem::Object { key, entry, .. } => Some((key, entry)),
        VersionItem::Marker { .. } | VersionItem::CommonPrefix(_) => None,
    });
    Ok((stored.collect(), next))
}

const PAGE_ITEMS: usize = 1000;
