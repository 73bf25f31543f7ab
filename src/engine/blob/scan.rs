//! One page of the ordered listing.

use std::sync::Arc;

use super::bucket::BlobBucket;
use super::describe::plain_entry;
use super::entry::Stored;
use super::record::{ItemKey, Table};
use crate::engine::{EngineError, Entry, ObjectKey, Resume, ScanItem, ScanPage, ScanPlan};

impl BlobBucket {
    /// See [`crate::engine::Bucket::scan`]. A common prefix is sought past, not walked.
    pub async fn scan(&self, plan: &ScanPlan) -> Result<ScanPage, EngineError> {
        self.state.check()?;
        let mut page = ScanPage::default();
        if plan.limit == 0 {
            return Ok(page);
        }
        let prefix = plan.prefix.as_bytes();
        let mut from = match &plan.after {
            None => Some(Vec::new()),
            Some(Resume::Key(key)) => Some([key.as_bytes(), &[0]].concat()),
            Some(Resume::Prefix(common)) => after_all(common.as_bytes()),
        };
        if let Some(from) = &mut from
            && from.as_slice() < prefix
        {
            *from = prefix.to_vec();
        }
        while let Some(start) = from.take() {
            let wanted = (plan.limit - page.items.len() + 1).min(BATCH_ITEMS);
            let items = self.state.objects.items_from(&start, wanted);
            for (key, value) in items {
                if !key.starts_with(prefix) {
                    return Ok(page);
                }
                if page.items.len() == plan.limit {
                    page.truncated = true;
                    return Ok(page);
                }
                match self.item(plan, &key, &value).await? {
                    None => from = Some([&key, &[0][..]].concat()),
                    Some(ScanItem::CommonPrefix(common)) => {
                        from = after_all(common.as_bytes());
                        page.items.push(ScanItem::CommonPrefix(common));
                        break;
                    }
                    Some(object) => {
                        from = Some([&key, &[0][..]].concat());
                        page.items.push(object);
                    }
                }
            }
        }
        Ok(page)
    }

    /// `None`: deleted since its value was read.
    async fn item(
        &self,
        plan: &ScanPlan,
        key: &[u8],
        value: &[u8],
    ) -> Result<Option<ScanItem>, EngineError> {
        let text = std::str::from_utf8(key).map_err(|_| UNREADABLE)?;
        if let Some(common) = common_prefix(text, &plan.prefix, plan.delimiter.as_deref()) {
            return Ok(Some(ScanItem::CommonPrefix(common.into())));
        }
        let key = ObjectKey::parse(text).map_err(|_| UNREADABLE)?;
        let stored = Stored::decode(value).ok_or(UNREADABLE)?;
        let entry = match stored.overflow {
            None => Some(Arc::new(plain_entry(&stored))),
            Some(_) => self.described(key.as_str()).await?,
        };
        Ok(entry.map(|entry| ScanItem::Object { key, entry }))
    }

    /// The whole entry of a key as it is now.
    async fn described(&self, key: &str) -> Result<Option<Arc<Entry>>, EngineError> {
        let item = ItemKey {
            table: Table::Objects,
            bucket: self.state.id,
            key: key.as_bytes().into(),
        };
        match self.core.pinned(&self.state, &item)? {
            None => Ok(None),
            Some((stored, _pins)) => self.core.entry(&stored).await.map(Some),
        }
    }
}

/// The part of a key, which begins with `prefix`, up to the delimiter behind that.
pub(super) fn common_prefix<'a>(
    key: &'a str,
    prefix: &str,
    delimiter: Option<&str>,
) -> Option<&'a str> {
    let delimiter = delimiter.filter(|text| !text.is_empty())?;
    let at = key.get(prefix.len()..)?.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

/// The smallest string behind all that begin with `prefix`.
pub(super) fn after_all(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if let Some(raised) = last.checked_add(1) {
            next.push(raised);
            return Some(next);
        }
    }
    None
}

const BATCH_ITEMS: usize = 256;
pub(super) const UNREADABLE: EngineError = EngineError::Corrupt {
    what: "an item of the index cannot be decoded",
};
