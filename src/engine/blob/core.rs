//! What all rooms of the engine share: device, space, index, and whether it still works.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwap;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::commit::Sequencer;
use super::entry::{Allocation, Stored};
use super::index::Tree;
use super::layout::{BLOCK, Extent};
use super::record::{Change, Record, Table};
use super::space::Space;
use super::superblock::Superblock;
use crate::clock::{Clock, Entropy};
use crate::engine::{BucketConfig, BucketName, Durability, EngineError};
use crate::io::device::Device;

/// The open engine.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) device: Device,
    pub(super) space: Space,
    pub(super) clock: Clock,
    pub(super) entropy: Entropy,
    pub(super) durability: Durability,
    pub(super) index_bytes_max: u64,
    pub(super) buckets: RwLock<Buckets>,
    pub(super) sequencer: Mutex<Sequencer>,
    /// The superblock that both copies hold.
    pub(super) superblock: Mutex<Superblock>,
    /// Highest sequence number known flushed.
    pub(super) durable: AtomicU64,
    /// Upload numbers and bucket ids come from here; both are only compared.
    pub(super) next_number: AtomicU64,
    pub(super) checkpoint_runs: AtomicBool,
    pub(super) flush_is_armed: AtomicBool,
    pub(super) discard_runs: AtomicBool,
    /// The installed checkpoint's segments.
    pub(super) segments: Mutex<Vec<Extent>>,
    /// Something was released: journal blocks or space.
    pub(super) room: Notify,
    pub(super) tasks: Tasks,
    /// The engine's end begins.
    pub(super) closing: Notify,
    is_closing: AtomicBool,
    poisoned: AtomicBool,
    flushes: AtomicU64,
    flush_nanos: AtomicU64,
}

/// Work that goes on beside its caller, so that the engine's end can wait for it.
#[derive(Debug)]
pub(super) struct Tasks {
    /// Each task has a receiver of it.
    running: watch::Sender<()>,
    /// The event loop that the engine was opened on, and that outlives it.
    home: Handle,
}

impl Tasks {
    /// Starts what a request waits for, on the request's event loop.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        tokio::spawn(self.counted(work))
    }

    /// Starts what no request waits for: it must not end with the event loop of one.
    pub(super) fn spawn_at_home(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.home.spawn(self.counted(work));
    }

    /// Ready when none is running.
    pub(super) async fn settle(&self) {
        self.running.closed().await;
    }

    fn counted<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        let running = self.running.subscribe();
        async move {
            // Dropped behind the work and all that it holds.
            let _running = running;
            work.await
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Buckets {
    pub(super) by_name: BTreeMap<BucketName, Arc<BucketState>>,
    by_id: HashMap<u64, Arc<BucketState>>,
}

/// One bucket's items.
#[derive(Debug)]
pub(super) struct BucketState {
    pub(super) name: BucketName,
    pub(super) id: u64,
    pub(super) config: ArcSwap<BucketConfig>,
    pub(super) objects: Tree,
    pub(super) uploads: Tree,
    pub(super) parts: Tree,
    pub(super) versions: Tree,
    /// Objects and versions there once all pending records are in the index. Changed under the
    /// sequencer.
    pub(super) expected: AtomicU64,
    /// A record that removes it has been sequenced.
    pub(super) is_going: AtomicBool,
}

impl BucketState {
    /// The tree of one table; buckets are in none.
    pub(super) fn tree(&self, table: Table) -> Option<&Tree> {
        match table {
            Table::Buckets => None,
            Table::Objects => Some(&self.objects),
            Table::Uploads => Some(&self.uploads),
            Table::Parts => Some(&self.parts),
            Table::Versions => Some(&self.versions),
        }
    }

    pub(super) fn trees(&self) -> [&Tree; 4] {
        [&self.objects, &self.uploads, &self.parts, &self.versions]
    }

    pub(super) fn check(&self) -> Result<(), EngineError> {
        match self.is_going.load(Ordering::Acquire) {
            true => Err(EngineError::NoSuchBucket),
            false => Ok(()),
        }
    }
}

impl Buckets {
    /// Makes one record true; gives the values that it replaced. `None`: the record makes no
    /// sense.
    pub(super) fn apply(&mut self, record: &Record) -> Option<Vec<Box<[u8]>>> {
        if record.item.table == Table::Buckets {
            return self.apply_bucket(record);
        }
        // Records of a bucket that is gone meanwhile have nothing left to change.
        let Some(bucket) = self.by_id.get(&record.item.bucket) else {
            return Some(Vec::new());
        };
        apply_item(bucket, record)
    }

    fn apply_bucket(&mut self, record: &Record) -> Option<Vec<Box<[u8]>>> {
        let name = BucketName::parse(std::str::from_utf8(&record.item.key).ok()?).ok()?;
        match &record.change {
            Change::Put { value, .. } => {
                let mut from = super::codec::Cursor::new(value);
                let id = from.varint()?;
                let config = serde_json::from_slice(from.rest()).ok()?;
                if let Some(known) = self.by_name.get(&name)
                    && known.id == id
                {
                    known.config.store(Arc::new(config));
                    return Some(Vec::new());
                }
                let old = self.remove(&name);
                let state = Arc::new(BucketState {
                    name: name.clone(),
                    id,
                    config: ArcSwap::from_pointee(config),
                    objects: Tree::new(),
                    uploads: Tree::new(),
                    parts: Tree::new(),
                    versions: Tree::new(),
                    expected: AtomicU64::new(0),
                    is_going: AtomicBool::new(false),
                });
                self.by_id.insert(id, Arc::clone(&state));
                self.by_name.insert(name, state);
                Some(old)
            }
            Change::Gone => Some(self.remove(&name)),
            Change::PartsGone => None,
        }
    }

    fn remove(&mut self, name: &BucketName) -> Vec<Box<[u8]>> {
        let Some(bucket) = self.by_name.remove(name) else {
            return Vec::new();
        };
        self.by_id.remove(&bucket.id);
        bucket.is_going.store(true, Ordering::Release);
        let trees = bucket.trees();
        trees.iter().flat_map(|tree| drain(tree, &[])).collect()
    }

    pub(super) fn has_id(&self, id: u64) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn all(&self) -> Vec<Arc<BucketState>> {
        self.by_name.values().cloned().collect()
    }
}

/// Makes one record about an item true.
pub(super) fn apply_item(bucket: &BucketState, record: &Record) -> Option<Vec<Box<[u8]>>> {
    let tree = bucket.tree(record.item.table)?;
    let key = &record.item.key;
    Some(match &record.change {
        Change::Put { value, .. } => tree.replace(key, Some(value)).into_iter().collect(),
        Change::Gone => tree.replace(key, None).into_iter().collect(),
        Change::PartsGone => drain(tree, key),
    })
}

/// Removes all items whose keys begin with `prefix`.
fn drain(tree: &Tree, prefix: &[u8]) -> Vec<Box<[u8]>> {
    let mut values = Vec::new();
    loop {
        let mut items = tree.items_from(prefix, 512);
        items.retain(|(key, _)| key.starts_with(prefix));
        if items.is_empty() {
            return values;
        }
        values.extend(items.iter().filter_map(|(key, _)| tree.replace(key, None)));
    }
}

impl Core {
    pub(super) fn new(device: Device, superblock: Superblock, parts: Parts) -> Self {
        Self {
            space: parts.space,
            clock: parts.clock,
            entropy: parts.entropy,
            durability: parts.durability,
            index_bytes_max: parts.index_bytes_max,
            buckets: RwLock::new(parts.buckets),
            durable: AtomicU64::new(superblock.flushed),
            sequencer: Mutex::new(parts.sequencer),
            superblock: Mutex::new(superblock),
            next_number: AtomicU64::new(parts.next_number),
            checkpoint_runs: AtomicBool::new(false),
            flush_is_armed: AtomicBool::new(false),
            discard_runs: AtomicBool::new(false),
            segments: Mutex::new(parts.segments),
            room: Notify::new(),
            tasks: Tasks {
                running: watch::Sender::new(()),
                home: Handle::current(),
            },
            closing: Notify::new(),
            is_closing: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            flushes: AtomicU64::new(0),
            flush_nanos: AtomicU64::new(0),
            device,
        }
    }

    /// Writes are refused once a write or flush has failed (I9), and once the end has begun.
    pub(super) fn check_writable(&self) -> Result<(), EngineError> {
        match self.is_closing.load(Ordering::Acquire) {
            true => Err(EngineError::ReadOnly {
                why: "the server stops",
            }),
            false => self.check_whole(),
        }
    }

    /// Refuses everything that continues a write once one has failed. Upholds I9.
    pub(super) fn check_whole(&self) -> Result<(), EngineError> {
        match self.poisoned.load(Ordering::Acquire) {
            true => Err(EngineError::ReadOnly {
                why: "a write to the device failed; restart after the device works again",
            }),
            false => Ok(()),
        }
    }

    /// For a device that is only read.
    pub(super) fn refuse_writes(&self) {
        self.is_closing.store(true, Ordering::Release);
    }

    pub(super) fn poison(&self, error: &io::Error) {
        if !self.poisoned.swap(true, Ordering::AcqRel) {
            tracing::error!(%error, "a write or flush failed: the engine answers no more writes");
        }
        self.room.notify_waiters();
    }

    /// Takes no more writes, waits for those under way and for all other work, and leaves a
    /// checkpoint behind.
    pub(super) async fn close(self: &Arc<Self>) -> Result<(), EngineError> {
        self.is_closing.store(true, Ordering::Release);
        self.room.notify_waiters();
        self.closing.notify_waiters();
        self.tasks.settle().await;
        self.flush_armed().await;
        self.checkpoint().await.map(|_| ())
    }

    /// A flush of the device, counted.
    pub(super) async fn flush(&self) -> io::Result<()> {
        let began = Instant::now();
        let result = self.device.flush().await;
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.flush_nanos.fetch_add(nanos, Ordering::Relaxed);
        result
    }

    /// Flushes so far, and the time they took together.
    pub(super) fn flushes(&self) -> (u64, Duration) {
        let nanos = self.flush_nanos.load(Ordering::Relaxed);
        let count = self.flushes.load(Ordering::Relaxed);
        (count, Duration::from_nanos(nanos))
    }

    pub(super) fn superblock(&self) -> Superblock {
        self.superblock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Bytes of keys and values in the index.
    pub(super) fn index_bytes(&self) -> u64 {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        let of = |bucket: &Arc<BucketState>| {
            bucket
                .trees()
                .iter()
                .map(|tree| tree.bytes() + 20 * tree.len())
                .sum::<u64>()
                + 4096
        };
        buckets.by_name.values().map(of).sum()
    }

    /// Blocks that both copies of the next checkpoint take.
    fn checkpoint_blocks(&self) -> u64 {
        2 * (self.index_bytes() + self.index_bytes() / 8).div_ceil(BLOCK) + 64
    }

    /// Blocks that stay free for deletes and checkpoints. Upholds I10.
    pub(super) fn reserve_blocks(&self) -> u64 {
        let size = self.superblock().size_blocks;
        self.checkpoint_blocks() + (size / 64).min((64 << 20) / BLOCK)
    }

    /// Refuses a delete that adds to the index where that would cost the next checkpoint its room
    /// (upholds I10), or where the index has no memory left.
    pub(super) fn check_room_for_marker(&self) -> Result<(), EngineError> {
        if self.index_bytes() >= self.index_bytes_max {
            return Err(EngineError::IndexFull {
                budget_bytes: self.index_bytes_max,
            });
        }
        let free = self.space.free_blocks() + self.space.held_blocks();
        match free > self.checkpoint_blocks() {
            true => Ok(()),
            false => Err(EngineError::Full),
        }
    }

    /// Refuses what adds an item if the index has no memory for it. Those that are under way when
    /// the budget ends still come in.
    pub(super) fn check_index_room(
        &self,
        bucket: &BucketState,
        table: Table,
        key: &[u8],
    ) -> Result<(), EngineError> {
        if self.index_bytes() < self.index_bytes_max {
            return Ok(());
        }
        let keeps_versions = bucket.config.load().kept_versions().is_some();
        let is_there = bucket.tree(table).is_some_and(|tree| tree.has(key));
        match is_there && !keeps_versions {
            true => Ok(()),
            false => Err(EngineError::IndexFull {
                budget_bytes: self.index_bytes_max,
            }),
        }
    }

    /// Takes blocks for data.
    pub(super) fn allocate(&self, count: u64) -> Result<Allocation, EngineError> {
        let reserve = self.reserve_blocks();
        self.space.allocate(count, reserve).ok_or(EngineError::Full)
    }
}

/// What recovery hands to [`Core::new`].
pub(super) struct Parts {
    pub(super) space: Space,
    pub(super) clock: Clock,
    pub(super) entropy: Entropy,
    pub(super) durability: Durability,
    pub(super) index_bytes_max: u64,
    pub(super) buckets: Buckets,
    pub(super) sequencer: Sequencer,
    pub(super) next_number: u64,
    pub(super) segments: Vec<Extent>,
}

/// The blocks that a value of the index holds.
pub(super) fn allocations_of(value: &[u8]) -> Vec<Allocation> {
    Stored::decode(value)
        .map(|stored| stored.allocations())
        .unwrap_or_default()
}
