//! What is kept in memory about files, so that a hot GET or HEAD costs one look at the file.
//!
//! Nothing here is believed without a fresh [`Identity`] of the file. An identity proves that
//! nothing changed only if the state was read after the time step in which the file last changed:
//! a second change within that step would leave the same times. Such a state is not kept.

use std::sync::Arc;

use bytes::Bytes;

use super::bucket::FsBucket;
use crate::engine::{Entry, ObjectKey};
use crate::io::files::{Identity, Node, Stat};

/// Entries by file, and the bytes of small objects by key; bounded by bytes, not by number.
#[derive(Debug)]
pub(super) struct Cache {
    entries: quick_cache::sync::Cache<Node, Known, KnownWeight>,
    objects: quick_cache::sync::Cache<HotKey, Arc<Hot>, HotWeight>,
}

/// The entry of one state of one file.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) identity: Identity,
    pub(super) entry: Arc<Entry>,
    /// The content type was taken from the name, of which a file may have several.
    pub(super) is_typed_by_name: bool,
}

/// A small object, whole.
#[derive(Debug)]
pub(super) struct Hot {
    pub(super) identity: Identity,
    pub(super) entry: Arc<Entry>,
    pub(super) bytes: Bytes,
}

/// The number of the bucket and the key.
type HotKey = (u32, ObjectKey);

impl Cache {
    /// `None` for a size of 0: nothing is kept.
    pub(super) fn new(size_bytes: u64) -> Option<Self> {
        if size_bytes == 0 {
            return None;
        }
        // An entry is what HEAD, GET and each line of a LIST need; bytes only small GETs do.
        let entries_bytes = size_bytes / 2;
        let objects_bytes = size_bytes - entries_bytes;
        let items = |bytes: u64, each: u64| usize::try_from(bytes / each).unwrap_or(usize::MAX);
        Some(Self {
            entries: quick_cache::sync::Cache::with_weighter(
                items(entries_bytes, ENTRY_BYTES_TYPICAL),
                entries_bytes,
                KnownWeight,
            ),
            objects: quick_cache::sync::Cache::with_weighter(
                items(objects_bytes, OBJECT_BYTES_TYPICAL),
                objects_bytes,
                HotWeight,
            ),
        })
    }
}

impl FsBucket {
    /// What is known of the file in the state `stat`.
    pub(super) fn known_entry(&self, stat: &Stat) -> Option<Known> {
        let known = self.shared.cache.as_ref()?.entries.get(&stat.node())?;
        (known.identity == stat.identity).then_some(known)
    }

    /// Keeps the entry of the file in the state `stat`, if it was looked at late enough.
    /// `looked_nanos`: [`files::stamp_clock_nanos`] before the file was looked at.
    pub(super) fn keep_entry(&self, known: Known, looked_nanos: i64) {
        let Some(cache) = &self.shared.cache else {
            return;
        };
        if self.is_settled(&known.identity, looked_nanos) {
            let node = Node {
                device: known.identity.device,
                inode: known.identity.inode,
            };
            cache.entries.insert(node, known);
        }
    }

    /// The object as it was last read; its identity is to be compared with the file's.
    pub(super) fn hot_object(&self, key: &ObjectKey) -> Option<Arc<Hot>> {
        let cache = self.shared.cache.as_ref()?;
        cache.objects.get(&(self.number, key.clone()))
    }

    pub(super) fn keep_object(&self, key: &ObjectKey, hot: Hot, looked_nanos: i64) {
        let Some(cache) = &self.shared.cache else {
            return;
        };
        if self.is_settled(&hot.identity, looked_nanos) {
            cache
                .objects
                .insert((self.number, key.clone()), Arc::new(hot));
        }
    }

    /// Whether any change after the look must show in the times.
    pub(super) fn is_settled(&self, identity: &Identity, looked_nanos: i64) -> bool {
        let last = identity.changed_nanos.max(identity.modified_nanos);
        // Whole seconds are what inodes without room for more keep.
        let is_fine = self.traits.fine_timestamps && last % 1_000_000_000 != 0;
        let step_nanos = if is_fine { 0 } else { COARSE_STEP_NANOS };
        last.saturating_add(step_nanos) < looked_nanos
    }
}

/// The directories that this process knows to be durable up to the bucket's own: path, and which
/// directory it was.
#[derive(Debug)]
pub(super) struct Durable {
    known: quick_cache::sync::Cache<Box<str>, (Node, i64)>,
}

impl Default for Durable {
    fn default() -> Self {
        Self {
            known: quick_cache::sync::Cache::new(DURABLE_MAX),
        }
    }
}

impl Durable {
    pub(super) fn contains(&self, path: &str, stat: &Stat) -> bool {
        self.known.get(path) == Some((stat.node(), stat.born_nanos))
    }

    pub(super) fn insert(&self, path: &str, stat: &Stat) {
        self.known
            .insert(path.into(), (stat.node(), stat.born_nanos));
    }
}

#[derive(Clone, Debug)]
struct KnownWeight;

impl quick_cache::Weighter<Node, Known> for KnownWeight {
    fn weight(&self, _: &Node, known: &Known) -> u64 {
        entry_bytes(&known.entry)
    }
}

#[derive(Clone, Debug)]
struct HotWeight;

impl quick_cache::Weighter<HotKey, Arc<Hot>> for HotWeight {
    fn weight(&self, key: &HotKey, hot: &Arc<Hot>) -> u64 {
        entry_bytes(&hot.entry) + (hot.bytes.len() + key.1.as_str().len()) as u64
    }
}

/// Memory that an entry takes, with its share of the table around it.
fn entry_bytes(entry: &Entry) -> u64 {
    let texts = [
        &entry.metadata.content_type,
        &entry.metadata.content_encoding,
        &entry.metadata.content_language,
        &entry.metadata.content_disposition,
        &entry.metadata.cache_control,
        &entry.metadata.expires,
        &entry.metadata.website_redirect,
    ];
    let texts: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
    let user = entry.metadata.user.iter().chain(&entry.metadata.tags);
    let user: usize = user.map(|(n, v)| n.len() + v.len() + 32).sum();
    let parts = entry.parts.len() * PART_BYTES;
    (ENTRY_BYTES + texts + user + parts) as u64
}

/// An entry without its texts, its ETag, its reference count, and the tables' slots.
const ENTRY_BYTES: usize = 480;
const PART_BYTES: usize = 120;
const ENTRY_BYTES_TYPICAL: u64 = 512;
const OBJECT_BYTES_TYPICAL: u64 = 8 << 10;
/// FAT's step; servers' clocks are taken to be no worse.
const COARSE_STEP_NANOS: i64 = 2_000_000_000;
/// Directories remembered as durable; one that is forgotten costs a few syncs again.
const DURABLE_MAX: usize = 4096;
