//! One page of all versions of all keys, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use super::bucket::BlobBucket;
use super::entry::{Stored, Version};
use super::record::ItemKey;
use super::scan::{UNREADABLE, after_all, common_prefix};
use super::versions::LOOKS;
use crate::engine::{
    EngineError, Entry, ObjectKey, Resume, VersionId, VersionItem, VersionsPage, VersionsPlan,
    VersionsResume,
};

impl BlobBucket {
    /// See [`crate::engine::Bucket::scan_versions`].
    pub async fn scan_versions(&self, plan: &VersionsPlan) -> Result<VersionsPage, EngineError> {
        self.state.check()?;
        let mut page = VersionsPage::default();
        let prefix = plan.prefix.as_bytes();
        let mut from = match &plan.after {
            _ if plan.limit == 0 => None,
            None => Some(Vec::new()),
            Some(VersionsResume::Key(Resume::Key(key))) => Some(behind_key(key.as_bytes())),
            Some(VersionsResume::Key(Resume::Prefix(common))) => after_all(common.as_bytes()),
            Some(VersionsResume::Version(key, _)) => Some(key.as_str().into()),
        };
        if let Some(from) = &mut from
            && from.as_slice() < prefix
        {
            *from = prefix.to_vec();
        }
        let mut keys = 0_usize;
        while let Some(start) = from.take() {
            let Some(key) = self.next_key(start).filter(|key| key.starts_with(prefix)) else {
                return Ok(page);
            };
            let text = std::str::from_utf8(&key).map_err(|_| UNREADABLE)?;
            let items = match common_prefix(text, &plan.prefix, plan.delimiter.as_deref()) {
                Some(common) => {
                    from = after_all(common.as_bytes());
                    VecDeque::from([VersionItem::CommonPrefix(common.into())])
                }
                None => {
                    from = Some(behind_key(&key));
                    let key = ObjectKey::parse(text).map_err(|_| UNREADABLE)?;
                    let wanted = plan.limit - page.items.len() + 1;
                    self.versions_of(plan, &key, wanted).await?
                }
            };
            for item in items {
                if page.items.len() == plan.limit {
                    page.truncated = true;
                    return Ok(page);
                }
                page.items.push(item);
            }
            keys += 1;
            if keys.is_multiple_of(KEYS_AT_ONCE) {
                tokio::task::yield_now().await;
            }
        }
        Ok(page)
    }

    /// The first key at or behind `from` that has any version.
    fn next_key(&self, from: Vec<u8>) -> Option<Box<[u8]>> {
        let current = self.state.objects.items_from(&from, 1).pop();
        let current = current.map(|(key, _)| key);
        let mut at = from.clone();
        let kept = loop {
            let Some((item, _)) = self.state.versions.items_from(&at, 1).pop() else {
                break None;
            };
            let key = item.split(|byte| *byte == 0).next().unwrap_or_default();
            // `from` need not be a key, and then may lie among the versions of one.
            if key >= from.as_slice() {
                break Some(Box::from(key));
            }
            at = behind_key(key);
        };
        match (current, kept) {
            (Some(current), Some(kept)) => Some(current.min(kept)),
            (current, kept) => current.or(kept),
        }
    }

    /// Up to `limit` versions of a key, newest first, behind the one where the plan goes on.
    async fn versions_of(
        &self,
        plan: &VersionsPlan,
        key: &ObjectKey,
        limit: usize,
    ) -> Result<VecDeque<VersionItem>, EngineError> {
        let object = self.object_item(key);
        let (current, kept, newest) = {
            let mut looks = 0;
            loop {
                let current = self.state.objects.value(&object.key);
                let below = self.below(plan, key, &object, current.as_deref())?;
                let kept = self.state.kept(&object, below, limit)?;
                let newest = self.state.kept(&object, None, 1)?.pop();
                looks += 1;
                // The same before and after: nothing moved between the tables meanwhile.
                if self.state.objects.value(&object.key) == current || looks == LOOKS {
                    let current = current.map(|value| Stored::decode(&value).ok_or(UNREADABLE));
                    let current = current.transpose()?;
                    let newest = newest.map_or(0, |kept| kept.sequence());
                    let newest = current.as_ref().map_or(newest, |now| now.version.sequence);
                    let is_behind = |now: &Stored| below.is_none_or(|b| now.version.sequence < b);
                    break (current.filter(is_behind), kept, newest);
                }
            }
        };
        let current_id = current.as_ref().map(|stored| stored.version.id());
        let mut items = VecDeque::new();
        // A version on its way from one table to the other is in both.
        let kept = kept.into_iter().map(|kept| kept.stored);
        let kept = kept.filter(|kept| Some(kept.version.id()) != current_id);
        for stored in current.into_iter().chain(kept).take(limit) {
            let is_latest = stored.version.sequence == newest;
            items.extend(self.line(key, stored, is_latest).await?);
        }
        Ok(items)
    }

    /// The sequence number below which a key's versions are wanted; `None`: all are.
    fn below(
        &self,
        plan: &VersionsPlan,
        key: &ObjectKey,
        object: &ItemKey,
        current: Option<&[u8]>,
    ) -> Result<Option<u64>, EngineError> {
        let id = match &plan.after {
            Some(VersionsResume::Version(at, id)) if at == key => id,
            _ => return Ok(None),
        };
        if let Some(version) = Version::named(id) {
            return Ok(Some(version.sequence));
        }
        if *id != VersionId::Null {
            return Ok(None);
        }
        let null_item = super::succession::kept_item(object, &Version::default());
        let kept = self.state.versions.value(&null_item.key);
        let both = [current.map(Box::from), kept].into_iter().flatten();
        for value in both {
            let stored = Stored::decode(&value).ok_or(UNREADABLE)?;
            if stored.version.salt.is_none() {
                return Ok(Some(stored.version.sequence));
            }
        }
        Ok(None)
    }

    /// `None`: it has gone since its item was read.
    async fn line(
        &self,
        key: &ObjectKey,
        stored: Stored,
        is_latest: bool,
    ) -> Result<Option<VersionItem>, EngineError> {
        let (key, version) = (key.clone(), stored.version.id());
        if stored.is_marker {
            return Ok(Some(VersionItem::Marker {
                key,
                version,
                modified: stored.modified,
                is_latest,
            }));
        }
        let entry: Arc<Entry> = match stored.overflow {
            None => Arc::new(super::describe::plain_entry(&stored)),
            Some(_) => match self.head_version(&key, &version).await {
                Ok(entry) => entry,
                Err(EngineError::NoSuchVersion) => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        Ok(Some(VersionItem::Object {
            key,
            entry,
            is_latest,
        }))
    }
}

/// The smallest string that may be a key behind this one. No key holds NUL, and the versions of a
/// key have one behind it.
fn behind_key(key: &[u8]) -> Vec<u8> {
    [key, &[1]].concat()
}

/// Keys after which others get their turn.
const KEYS_AT_ONCE: usize = 64;
