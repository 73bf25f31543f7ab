//! What is sequenced and not in the index yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::commit::Batch;
use super::record::{ItemKey, Table};

/// The newest sequenced value of each item that is not in the index yet.
#[derive(Debug, Default)]
pub(super) struct PendingItems {
    items: HashMap<ItemKey, Newest>,
    /// Those of the table of versions, which are also asked for in their order.
    versions: BTreeMap<ItemKey, Newest>,
}

#[derive(Debug)]
pub(super) struct Newest {
    /// `None`: it will be gone.
    pub(super) value: Option<Box<[u8]>>,
    pub(super) batch: Arc<Batch>,
}

impl PendingItems {
    pub(super) fn get(&self, item: &ItemKey) -> Option<&Newest> {
        match item.table {
            Table::Versions => self.versions.get(item),
            _ => self.items.get(item),
        }
    }

    /// The first of the same table and bucket at or behind `from`, a version.
    pub(super) fn next(&self, from: &ItemKey) -> Option<(&ItemKey, &Newest)> {
        let (item, newest) = self.versions.range(from..).next()?;
        (item.bucket == from.bucket).then_some((item, newest))
    }

    pub(super) fn insert(&mut self, item: ItemKey, newest: Newest) {
        match item.table {
            Table::Versions => self.versions.insert(item, newest),
            _ => self.items.insert(item, newest),
        };
    }

    /// Its batch is in the index; what a later one made of it is kept.
    pub(super) fn published(&mut self, item: &ItemKey, batch: &Arc<Batch>) {
        if !self
            .get(item)
            .is_some_and(|newest| Arc::ptr_eq(&newest.batch, batch))
        {
            return;
        }
        match item.table {
            Table::Versions => self.versions.remove(item),
            _ => self.items.remove(item),
        };
    }
}
