//! The ordered index of one table of one bucket: a directory of leaves of up to 512 items.
//!
//! A lookup loads the directory without a lock and touches one leaf's lock. A split puts a new
//! directory in place; whoever still has the old one sees at the leaf that its items moved, and
//! looks again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwap;

use super::leaf::Leaf;

/// Keys to values, both byte strings, ordered by key.
#[derive(Debug)]
pub(super) struct Tree {
    directory: ArcSwap<Vec<Place>>,
    /// Held while the tree changes; readers never take it.
    writer: Mutex<()>,
    items: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Clone, Debug)]
struct Place {
    /// The leaf holds no smaller key.
    first: Arc<[u8]>,
    leaf: Arc<RwLock<Leaf>>,
}

impl Tree {
    pub(super) fn new() -> Self {
        let place = Place {
            first: Arc::from([].as_slice()),
            leaf: Arc::default(),
        };
        Self {
            directory: ArcSwap::from_pointee(vec![place]),
            writer: Mutex::new(()),
            items: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Calls `found` with the value while it cannot be replaced.
    pub(super) fn get<T>(&self, key: &[u8], found: impl FnOnce(&[u8]) -> T) -> Option<T> {
        loop {
            let leaf = self.leaf_of(key);
            let leaf = leaf.read().unwrap_or_else(PoisonError::into_inner);
            if !leaf.covers(key) {
                continue;
            }
            return leaf.get(key).map(found);
        }
    }

    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.get(key, |_| ()).is_some()
    }

    /// A copy of the value.
    pub(super) fn value(&self, key: &[u8]) -> Option<Box<[u8]>> {
        self.get(key, |value| Box::<[u8]>::from(value))
    }

    /// Sets or removes a value; gives the old one.
    pub(super) fn replace(&self, key: &[u8], value: Option<&[u8]>) -> Option<Box<[u8]>> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = self.leaf_of(key);
        let mut leaf = shared.write().unwrap_or_else(PoisonError::into_inner);
        let old = leaf.replace(key, value);
        let weight = |value: &[u8]| (key.len() + value.len()) as u64;
        if let Some(value) = value {
            self.items.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(weight(value), Ordering::Relaxed);
        }
        if let Some(old) = &old {
            self.items.fetch_sub(1, Ordering::Relaxed);
            self.bytes.fetch_sub(weight(old), Ordering::Relaxed);
        }
        if leaf.is_full() {
            let (first, upper) = leaf.split();
            let upper = Place {
                first,
                leaf: Arc::new(RwLock::new(upper)),
            };
            let mut places = self.directory.load().to_vec();
            let at = places.partition_point(|place| *place.first <= *upper.first);
            places.insert(at, upper);
            self.directory.store(Arc::new(places));
        }
        old
    }

    /// Copies of up to `limit` items with keys at or behind `from`, in order; fewer do not mean
    /// the end, none does.
    pub(super) fn items_from(&self, from: &[u8], limit: usize) -> Vec<Item> {
        let mut from: Box<[u8]> = from.into();
        loop {
            let leaf = self.leaf_of(&from);
            let leaf = leaf.read().unwrap_or_else(PoisonError::into_inner);
            if !leaf.covers(&from) {
                continue;
            }
            let items = leaf.items_from(&from, limit);
            match leaf.end() {
                Some(end) if items.is_empty() => from = end.into(),
                _ => return items,
            }
        }
    }

    /// Copies of up to `limit` items at or behind `from` whose keys begin with `prefix`, as `from`
    /// does; fewer mean the end.
    pub(super) fn items_within(&self, prefix: &[u8], from: &[u8], limit: usize) -> Vec<Item> {
        let (mut found, mut from) = (Vec::new(), from.to_vec());
        while found.len() < limit {
            let items = self.items_from(&from, limit - found.len());
            let Some((last, _)) = items.last() else {
                break;
            };
            from = [last, &[0][..]].concat();
            let count = found.len() + items.len();
            found.extend(
                items
                    .into_iter()
                    .take_while(|(key, _)| key.starts_with(prefix)),
            );
            if found.len() < count {
                break;
            }
        }
        found
    }

    pub(super) fn len(&self) -> u64 {
        self.items.load(Ordering::Relaxed)
    }

    /// Bytes of keys and values.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn leaf_of(&self, key: &[u8]) -> Arc<RwLock<Leaf>> {
        let places = self.directory.load();
        let at = places.partition_point(|place| *place.first <= *key);
        // The first leaf begins at the empty key, so `at` is never 0.
        let place = places.get(at.saturating_sub(1));
        place.map_or_else(Arc::default, |place| Arc::clone(&place.leaf))
    }
}

/// A key and its value.
pub(super) type Item = (Box<[u8]>, Box<[u8]>);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_tree_is_a_sorted_map() {
        let tree = Tree::new();
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut state = 7_u64;
        for step in 0..30_000_u64 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let key = format!("key/{}", (state >> 33) % 5000).into_bytes();
            if state >> 62 == 0 {
                let old = tree.replace(&key, None);
                assert_eq!(old.as_deref(), model.remove(&key).as_deref());
            } else {
                let value = step.to_le_bytes().to_vec();
                let old = tree.replace(&key, Some(&value));
                assert_eq!(old.as_deref(), model.insert(key, value).as_deref());
            }
        }
        assert_eq!(tree.len(), model.len() as u64);
        for (key, value) in &model {
            assert_eq!(tree.get(key, <[u8]>::to_vec).as_ref(), Some(value));
        }
        let mut all = Vec::new();
        let mut from = Vec::new();
        loop {
            let items = tree.items_from(&from, 100);
            let Some((last, _)) = items.last() else { break };
            from = [last, &[0][..]].concat();
            all.extend(items.into_iter().map(|(k, v)| (k.into_vec(), v.into_vec())));
        }
        assert!(all.iter().map(|(k, v)| (k, v)).eq(&model));
    }
}
