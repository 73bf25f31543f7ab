//! A simulated disk, clients that work on it, and the model of what they were told.

use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lobos::clock::{Clock, Entropy, Timestamp};
use lobos::engine::blob::{
    BlobBucket, BlobEngine, BlobMemory, BlobOpenError, BlobReader, BlobSettings,
};
use lobos::engine::{
    BucketConfig, BucketName, Bypass, Commit, CompletePlan, Condition, Deleted, Durability, ETag,
    EngineError, Metadata, ObjectKey, PartRef, Precondition, Range, ScanPlan, UploadPlan,
    UploadsPlan, VersionId, VersionItem, Versioning, VersionsPlan, VersionsResume,
};
use lobos::io::sim::{SimDisk, SimPlan, SimRandom};

use crate::model::{Content, Held, Key, Model, Op, State, fit};

pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) random: SimRandom,
    model: Arc<Mutex<Model>>,
    next_content: Arc<AtomicU64>,
    entropy: Entropy,
    clock: Clock,
    durability: Durability,
    memory: BlobMemory,
    /// The superblock copies as they were first.
    first_superblocks: [[u8; 4096]; 2],
    free_bytes: u64,
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// What was not flushed is gone, in any part and mixture.
    Power,
    /// What reached the device stays readable, and is not durable for that.
    Process,
}

const SIZE_BYTES: u64 = 26 << 20;
pub(crate) const SUPERBLOCKS: [u64; 2] = [0, 4096];
/// What [`World::fill`] leaves, the reserve for deletes and checkpoints included.
const FREE_BYTES: u64 = 2 << 20;
const CLIENTS: u64 = 4;
const KEYS: u64 = 6;
const SIZES: [usize; 13] = [
    0, 1, 511, 2047, 2048, 2049, 4095, 4096, 4097, 65_535, 65_537, 131_072, 300_000,
];

impl World {
    pub(crate) fn new(seed: u64, is_traced: bool) -> Self {
        let mut plan = SimPlan::new(seed, SIZE_BYTES);
        plan.is_traced = is_traced;
        let disk = SimDisk::new(plan);
        let counter = Arc::new(AtomicU64::new(seed << 20));
        let entropy = Entropy::from_fn(move |bytes| {
            for byte in bytes {
                let step = counter.fetch_add(1, Ordering::Relaxed);
                *byte = (step.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
            }
        });
        let time = AtomicI64::new(1_000_000);
        let clock = Clock::from_fn(move || {
            Timestamp::from_unix_nanos(time.fetch_add(1, Ordering::Relaxed))
        });
        let mut world = Self {
            disk,
            random: SimRandom::new(seed ^ 0xABCD),
            model: Arc::default(),
            next_content: Arc::new(AtomicU64::new(1)),
            entropy,
            clock,
            durability: Durability::Strict,
            memory: BlobMemory {
                cache_bytes: 256 << 10,
                ..BlobMemory::ANY
            },
            first_superblocks: [[0; 4096]; 2],
            free_bytes: 0,
        };
        world.free_bytes = block_on(async {
            let device = world.disk.device();
            BlobEngine::format(&device, &world.entropy, false)
                .await
                .unwrap();
            let engine = world.open(&world.disk).await.unwrap();
            let config = BucketConfig::new(None, Timestamp::default());
            engine.create_bucket(&name(), config).await.unwrap();
            engine.free_bytes()
        });
        world.first_superblocks = SUPERBLOCKS.map(|block| world.disk.block(block));
        world
    }

    pub(crate) fn keeps_versions(&self) -> bool {
        self.model.lock().unwrap().versioning.is_some()
    }

    /// From now on the bucket keeps versions, or keeps those that it has.
    pub(crate) fn set_versioning(&mut self, versioning: Versioning) {
        self.model.lock().unwrap().versioning = Some(versioning);
        block_on(async {
            let engine = self.open(&self.disk).await.unwrap();
            let bucket = engine.bucket(&name()).await.unwrap();
            let change = move |config: &mut BucketConfig| {
                config.versioning = Some(versioning);
                Ok::<_, EngineError>(())
            };
            bucket.change_config(change).await.unwrap();
        });
    }

    /// The same world, which goes its own way from here.
    pub(crate) fn fork(&self) -> Self {
        let model = self.model.lock().unwrap().clone();
        Self {
            disk: self.disk.fork(),
            random: self.random.clone(),
            model: Arc::new(Mutex::new(model)),
            next_content: Arc::new(AtomicU64::new(self.next_content.load(Ordering::Relaxed))),
            entropy: self.entropy.clone(),
            clock: self.clock.clone(),
            durability: self.durability,
            memory: self.memory,
            first_superblocks: self.first_superblocks,
            free_bytes: self.free_bytes,
        }
    }

    /// From now on the engine is opened with this.
    pub(crate) fn set_durability(&mut self, durability: Durability) {
        self.durability = durability;
    }

    /// From now on the index may take no more than it does now.
    pub(crate) fn set_index_budget(&mut self) {
        block_on(async {
            let engine = self.open(&self.disk).await.unwrap();
            self.memory.index_bytes_max = engine.info().index_bytes;
            engine.close().await.unwrap();
        });
    }

    /// What becomes of a PUT of each key, and then of its DELETE.
    pub(crate) fn put_and_delete(&self, keys: &[&str]) -> Vec<(Option<EngineError>, bool)> {
        block_on(async {
            let engine = self.open(&self.disk).await.unwrap();
            let bucket = engine.bucket(&name()).await.unwrap();
            let mut outcomes = Vec::new();
            for key in keys {
                let content = Content { seed: 1, size: 100 };
                let put = write(&bucket, key, content, commit(content)).await;
                let key = object(key);
                let gone = bucket.delete(&key, &Precondition::default()).await;
                outcomes.push((put.err(), gone.is_ok()));
            }
            outcomes
        })
    }

    /// Everything from here on, the order of operations included, follows from this seed.
    pub(crate) fn reseed(&mut self, seed: u64) {
        self.disk.reseed(seed);
        self.random = SimRandom::new(seed ^ 0xABCD);
    }

    /// Leaves so little space that what is freed is soon used again.
    pub(crate) fn fill(&mut self) {
        self.free_bytes = block_on(async {
            let engine = self.open(&self.disk).await.unwrap();
            let other = BucketName::parse("ballast").unwrap();
            let config = BucketConfig::new(None, Timestamp::default());
            engine.create_bucket(&other, config).await.unwrap();
            let bucket = engine.bucket(&other).await.unwrap();
            let size = engine.free_bytes() - FREE_BYTES;
            let mut writer = bucket.begin(&object("zeros"), Some(size)).await.unwrap();
            let zeros = bytes::Bytes::from(vec![0; 1 << 20]);
            let mut left = size as usize;
            while left > 0 {
                let piece = zeros.slice(..left.min(zeros.len()));
                left -= piece.len();
                writer.append(piece).await.unwrap();
            }
            let content = Content { seed: 0, size: 0 };
            writer.commit(commit(content)).await.unwrap();
            engine.free_bytes()
        });
    }

    async fn open(&self, disk: &SimDisk) -> Result<BlobEngine, BlobOpenError> {
        let settings = BlobSettings {
            durability: self.durability,
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            memory: self.memory,
            discards: true,
        };
        BlobEngine::open(disk.device(), settings).await
    }

    /// Clients work until `operations` more operations were submitted; then power fails, or only
    /// the process dies.
    pub(crate) fn work_until_crash(&mut self, operations: u64, round: u64, loss: Loss) {
        let limit = self.disk.operations() + operations;
        block_on(async {
            let work = self.clients(10_000, round);
            tokio::select! {
                biased;
                () = reached(&self.disk, limit) => {}
                () = work => {}
            }
        });
        let seed = self.random.next();
        match loss {
            Loss::Power => self.disk.crash(seed),
            Loss::Process => self.disk.kill(seed),
        }
    }

    /// Power fails after so many operations of a recovery; false: it was over before.
    pub(crate) fn recover_until_crash(&mut self, operations: u64) -> bool {
        let limit = self.disk.operations() + operations;
        let is_cut = block_on(async {
            tokio::select! {
                biased;
                () = reached(&self.disk, limit) => true,
                opened = self.open(&self.disk) => {
                    opened.unwrap();
                    false
                }
            }
        });
        let seed = self.random.next();
        self.disk.crash(seed);
        is_cut
    }

    /// One superblock copy is damaged, or is an old one because its last writes were lost.
    pub(crate) fn spoil_a_superblock(&mut self) {
        let copy = self.random.below(2) as usize;
        match self.random.below(2) {
            0 => {
                let at = self.random.below(140);
                self.disk.flip(SUPERBLOCKS[copy] * 4096 + at, 1 << (at % 8));
            }
            _ => self
                .disk
                .set_block(SUPERBLOCKS[copy], self.first_superblocks[copy]),
        }
    }

    /// All clients do `steps` steps in all, and nothing fails.
    pub(crate) fn work(&mut self, steps: u64) {
        let round = self.random.below(1000);
        block_on(self.clients(steps / CLIENTS + 1, round));
        for key in self.model.lock().unwrap().keys.values() {
            assert!(key.under_way.is_empty(), "an operation failed");
        }
    }

    /// As `work`, where operations may fail.
    pub(crate) fn work_despite_failures(&mut self, steps: u64) {
        let round = self.random.below(1000);
        block_on(self.clients(steps / CLIENTS + 1, round));
    }

    pub(crate) fn put_all(&self, keys: &[&str]) {
        let content = Content { seed: 1, size: 9 };
        block_on(async {
            let engine = self.open(&self.disk).await.unwrap();
            let bucket = engine.bucket(&name()).await.unwrap();
            for key in keys {
                write(&bucket, key, content, commit(content)).await.unwrap();
            }
        });
    }

    /// Deletes one after the other, each acknowledged, and nothing is flushed but what must be.
    pub(crate) fn delete_then_lose_power(&mut self, keys: &[&str]) {
        block_on(async {
            let engine = self.open(&self.disk).await.unwrap();
            let bucket = engine.bucket(&name()).await.unwrap();
            for key in keys {
                let none = Precondition::default();
                bucket.delete(&object(key), &none).await.unwrap();
            }
        });
        let seed = self.random.next();
        self.disk.crash(seed);
    }

    /// One batch holds an object and its replacement; then all free space is written to, and power
    /// fails meanwhile.
    pub(crate) fn replace_in_one_batch_and_reuse(&mut self) {
        let keys = ["a", "k", "k", "m"];
        // What is replaced leaves a hole that the next writer has to use.
        let sizes = [5000, 800_000, 5000, 5000];
        let mut contents = sizes.map(|size| Content { seed: 0, size });
        (1..)
            .zip(&mut contents)
            .for_each(|(seed, content)| content.seed = seed);
        let more = self.random.below(30);
        block_on(async {
            let engine = self.open(&self.disk).await.unwrap();
            let bucket = engine.bucket(&name()).await.unwrap();
            // While the first is flushed, the others gather.
            let writes = keys.into_iter().zip(contents);
            let writes = writes.map(|(key, now)| write(&bucket, key, now, commit(now)));
            for done in futures_util::future::join_all(writes).await {
                done.unwrap();
            }
            for (key, content) in keys.into_iter().zip(contents) {
                self.model.lock().unwrap().wrote(key, null(content), 0);
            }
            let flood = async {
                let mut size = engine.free_bytes();
                while size > 0 {
                    if let Ok(mut writer) = bucket.begin(&object("flood"), Some(size)).await {
                        let bytes = bytes::Bytes::from(vec![7; size as usize]);
                        let _cut_off = writer.append(bytes).await;
                        return;
                    }
                    size -= size.min(64 << 10);
                }
            };
            tokio::select! {
                biased;
                () = reached(&self.disk, self.disk.operations() + more) => {}
                () = flood => {}
            }
        });
        let seed = self.random.next();
        self.disk.crash(seed);
    }

    /// Those of the keys that are there.
    pub(crate) fn present<'a>(&self, keys: &[&'a str]) -> Vec<&'a str> {
        block_on(async {
            let engine = self.open(&self.disk).await.unwrap();
            let bucket = engine.bucket(&name()).await.unwrap();
            let mut found = Vec::new();
            for key in keys {
                if read(&bucket, key).await.unwrap().is_some() {
                    found.push(*key);
                }
            }
            found
        })
    }

    pub(crate) fn close(&mut self) {
        block_on(async {
            let engine = self.open(&self.disk).await.unwrap();
            engine.close().await.unwrap();
        });
    }

    async fn clients(&self, steps: u64, round: u64) {
        let Ok(engine) = self.open(&self.disk).await else {
            return;
        };
        let Ok(bucket) = engine.bucket(&name()).await else {
            return;
        };
        let keeps_versions = self.keeps_versions();
        let clients = (0..CLIENTS).map(|client| {
            let client = Client {
                number: client,
                random: SimRandom::new(client + 100 * round + 7),
                bucket: bucket.clone(),
                keeps_versions,
                model: Arc::clone(&self.model),
                next_content: Arc::clone(&self.next_content),
                disk: self.disk.clone(),
            };
            tokio::spawn(client.run(steps))
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.expect("a client panicked");
        }
    }

    /// Recovers and compares everything; what was found is acknowledged from now on.
    pub(crate) fn verify(&mut self) {
        let found = block_on(async {
            let engine = self.open(&self.disk).await.expect("the device opens");
            let bucket = engine.bucket(&name()).await.expect("the bucket is there");
            let mut found = Vec::new();
            let model = self.model.lock().unwrap().clone();
            for key in model.keys.keys() {
                let allowed = model.allowed(key);
                let now = read_all(&bucket, key).await.expect("it is readable");
                found.push((key.clone(), identify(key, &now, &allowed)));
            }
            let listed = list(&bucket).await;
            let is_object = |state: &State| state.first().is_some_and(|h| h.content.is_some());
            let there = found.iter().filter(|(_, state)| is_object(state));
            let there: Vec<_> = there.map(|(key, _)| key.clone()).collect();
            assert_eq!(listed, there, "the listing");
            found
        });
        let mut model = self.model.lock().unwrap();
        for (key, state) in found {
            model.ack(&key, state, 0);
        }
    }

    /// Acknowledgements so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.model.lock().unwrap().history.len()
    }

    /// As [`World::verify`] after a power loss in relaxed mode, in which the first `durable`
    /// acknowledgements were durable: of those behind them each client keeps the first ones.
    pub(crate) fn verify_relaxed(&mut self, durable: usize) {
        let model = self.model.lock().unwrap().clone();
        let found = block_on(async {
            let engine = self.open(&self.disk).await.expect("the device opens");
            let bucket = engine.bucket(&name()).await.expect("the bucket is there");
            let mut found = Vec::new();
            for key in model.keys.keys() {
                let now = read_all(&bucket, key).await.expect("it is readable");
                let allowed = model.allowed_since(key, durable);
                found.push((key.clone(), identify(key, &now, &allowed)));
            }
            found
        });
        for client in 0..CLIENTS {
            let prefix = format!("{client}/");
            let of_client = found.iter().filter(|(key, _)| key.starts_with(&prefix));
            let newest = of_client
                .clone()
                .map(|(key, now)| model.index_of(key, now, durable));
            let newest = newest.max().unwrap_or(durable);
            for (key, now) in of_client {
                let needed = model.newest_before(key, newest).max(durable);
                let allowed = model.allowed_since(key, needed);
                assert!(
                    allowed.iter().any(|state| fit(state, now)),
                    "{key} holds {now:?}, although acknowledgement {newest} of the same client \
                     survived: one of {allowed:?}"
                );
            }
        }
        let mut model = self.model.lock().unwrap();
        for (key, state) in found {
            model.ack(&key, state, 0);
        }
    }

    /// Puts one object in relaxed mode, and power fails when the window is over.
    pub(crate) fn put_and_wait_for_the_window(&mut self, key: &str) {
        let content = self.model.lock().unwrap().history.len() as u64 + 1;
        let content = Content {
            seed: content,
            size: 5000,
        };
        block_on(async {
            let engine = self.open(&self.disk).await.unwrap();
            let bucket = engine.bucket(&name()).await.unwrap();
            write(&bucket, key, content, commit(content)).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        });
        self.model.lock().unwrap().wrote(key, null(content), 0);
        let seed = self.random.next();
        self.disk.crash(seed);
    }

    /// All space comes back.
    pub(crate) fn delete_everything(&mut self) {
        block_on(async {
            let engine = self.open(&self.disk).await.unwrap();
            let bucket = engine.bucket(&name()).await.unwrap();
            let none = Precondition::default();
            for (key, versions) in versions(&bucket).await {
                for id in versions {
                    let deleted = bucket
                        .delete_version(&object(&key), &id, &none, Bypass::Nothing)
                        .await;
                    assert_ne!(deleted.unwrap(), Deleted::Absent);
                }
            }
            let plan = UploadsPlan {
                limit: 1000,
                ..UploadsPlan::default()
            };
            for upload in bucket.list_uploads(&plan).await.unwrap().uploads {
                bucket.abort(&upload.key, &upload.id).await.unwrap();
            }
            engine.close().await.unwrap();
            let lost = self.free_bytes.saturating_sub(engine.free_bytes());
            assert!(lost <= 2 * 32 * 4096, "{lost} bytes were lost");
        });
    }

    /// The image at a cut of the trace holds what was acknowledged before it.
    pub(crate) fn check_cut(&self, cut: usize, seed: u64) {
        let image = self.disk.image_at(cut, seed);
        let model = self.model.lock().unwrap().clone();
        block_on(async {
            let engine = match self.open(&image).await {
                Ok(engine) => engine,
                // Before the format was complete nothing was promised.
                Err(BlobOpenError::NotFormatted | BlobOpenError::SuperblocksDamaged)
                    if model.history.first().is_none_or(|(at, ..)| cut < *at) =>
                {
                    return;
                }
                Err(error) => panic!("cut {cut}, seed {seed}: {error}"),
            };
            let Ok(bucket) = engine.bucket(&name()).await else {
                assert!(model.history.first().is_none_or(|(at, ..)| cut < *at));
                return;
            };
            for key in model.keys.keys() {
                let of_key = model.history.iter().filter(|(_, name, _)| name == key);
                let before = of_key.clone().rfind(|(at, ..)| *at <= cut);
                let mut allowed = vec![before.map_or_else(Vec::new, |(_, _, s)| s.clone())];
                allowed.extend(
                    of_key
                        .filter(|(at, ..)| *at > cut)
                        .map(|(_, _, s)| s.clone())
                        // Two writers of a key may be under way.
                        .take(2),
                );
                let now = read_all(&bucket, key).await.expect("it is readable");
                identify(key, &now, &allowed);
            }
        });
    }

    /// Refused, an error for a key, or the right bytes.
    pub(crate) fn check_damaged(&self, disk: &SimDisk, block: u64, at: usize) {
        let model = self.model.lock().unwrap().clone();
        block_on(async {
            let engine = match self.open(disk).await {
                Ok(engine) => engine,
                Err(error) => {
                    // One copy of the superblock is enough.
                    assert!(
                        !SUPERBLOCKS.contains(&block),
                        "block {block}, byte {at}: {error}"
                    );
                    return;
                }
            };
            let bucket = engine.bucket(&name()).await.expect("the bucket is there");
            for (key, state) in &model.keys {
                match read_all(&bucket, key).await {
                    Ok(now) => {
                        // Damage to the last batch cannot be told from a torn write.
                        let mut last = model.history.iter().rev().take(2 * CLIENTS as usize);
                        let mut allowed = vec![state.acked.clone()];
                        if last.any(|(_, name, _)| name == key) {
                            allowed = model.allowed_since(key, 0);
                        }
                        let place = format!("{key} after damage to block {block}, byte {at},");
                        identify(&place, &now, &allowed);
                    }
                    Err(EngineError::Corrupt { .. }) => {}
                    Err(error) => panic!("block {block}, byte {at}: {error}"),
                }
            }
        });
    }
}

/// Ready once that many operations were submitted.
async fn reached(disk: &SimDisk, operations: u64) {
    std::future::poll_fn(|cx| {
        if disk.operations() >= operations {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// One version as it was found.
#[derive(Debug)]
struct Found {
    id: VersionId,
    /// `None`: a delete marker.
    object: Option<Object>,
}

struct Object {
    etag: ETag,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} bytes", self.etag, self.bytes.len())
    }
}

impl Found {
    fn is(&self, held: &Held) -> bool {
        let is_same = match (&self.object, held.content) {
            (None, None) => true,
            // Empty objects differ by their ETag alone.
            (Some(object), Some(content)) => {
                object.etag == commit(content).etag && object.bytes == content.bytes()
            }
            _ => false,
        };
        is_same && held.id.as_ref().is_none_or(|id| *id == self.id)
    }
}

/// Which of the allowed states this is.
fn identify(key: &str, now: &[Found], allowed: &[State]) -> State {
    let fits = |state: &&State| {
        state.len() == now.len() && now.iter().zip(state.iter()).all(|(now, held)| now.is(held))
    };
    let state = allowed
        .iter()
        .find(fits)
        .unwrap_or_else(|| panic!("{key} holds {now:?}, none of {allowed:?}"));
    let known = now.iter().zip(state);
    known
        .map(|(now, held)| Held {
            id: Some(now.id.clone()),
            content: held.content,
        })
        .collect()
}

/// All versions of a key, newest first, after a look at the current one.
async fn read_all(bucket: &BlobBucket, key: &str) -> Result<Vec<Found>, EngineError> {
    let current = read(bucket, key).await?;
    if bucket.config().await?.versioning.is_none() {
        let id = VersionId::Null;
        let object = current;
        return Ok(object
            .map(|o| Found {
                id,
                object: Some(o),
            })
            .into_iter()
            .collect());
    }
    let mut found = Vec::new();
    let listed = versions_of(bucket, key, 3).await?;
    for id in &listed {
        let object = match bucket.open_version(&object(key), id).await {
            Ok(reader) => Some(bytes_of(reader).await?),
            Err(EngineError::DeleteMarker { .. }) => None,
            Err(error) => return Err(error),
        };
        let id = id.clone();
        found.push(Found { id, object });
    }
    let newest = found.first().and_then(|found| found.object.as_ref());
    let etag = |object: &Object| object.etag.clone();
    assert_eq!(
        newest.map(etag),
        current.as_ref().map(etag),
        "{key}: the newest is current"
    );
    Ok(found)
}

/// Page by page.
async fn versions_of(
    bucket: &BlobBucket,
    prefix: &str,
    limit: usize,
) -> Result<Vec<VersionId>, EngineError> {
    let mut plan = VersionsPlan {
        prefix: prefix.into(),
        limit,
        ..VersionsPlan::default()
    };
    let mut all = Vec::new();
    loop {
        let page = bucket.scan_versions(&plan).await?;
        for item in page.items {
            let (key, id, is_latest) = match item {
                VersionItem::Object {
                    key,
                    entry,
                    is_latest,
                } => (key, entry.version.clone(), is_latest),
                VersionItem::Marker {
                    key,
                    version,
                    is_latest,
                    ..
                } => (key, version, is_latest),
                VersionItem::CommonPrefix(prefix) => panic!("{prefix}"),
            };
            assert_eq!(is_latest, all.is_empty(), "{key} {id}");
            assert_eq!(key.as_str(), prefix);
            plan.after = Some(VersionsResume::Version(key, id.clone()));
            all.push(id);
        }
        if !page.truncated {
            return Ok(all);
        }
    }
}

/// All versions of all keys.
async fn versions(bucket: &BlobBucket) -> Vec<(String, Vec<VersionId>)> {
    let plan = VersionsPlan {
        limit: 100_000,
        ..VersionsPlan::default()
    };
    let page = bucket.scan_versions(&plan).await.unwrap();
    let mut all: Vec<(String, Vec<VersionId>)> = Vec::new();
    for item in page.items {
        let (key, id) = match item {
            VersionItem::Object { key, entry, .. } => (key, entry.version.clone()),
            VersionItem::Marker { key, version, .. } => (key, version),
            VersionItem::CommonPrefix(prefix) => panic!("{prefix}"),
        };
        match all.last_mut() {
            Some((last, ids)) if *last == *key.as_str() => ids.push(id),
            _ => all.push((key.as_str().into(), vec![id])),
        }
    }
    all
}

async fn read(bucket: &BlobBucket, key: &str) -> Result<Option<Object>, EngineError> {
    match bucket.open(&object(key)).await {
        Ok(reader) => bytes_of(reader).await.map(Some),
        Err(EngineError::NoSuchKey | EngineError::DeleteMarker { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn bytes_of(reader: BlobReader) -> Result<Object, EngineError> {
    let (etag, size_bytes) = (reader.entry().etag.clone(), reader.entry().size_bytes);
    let mut stream = reader.read(Range {
        start_bytes: 0,
        size_bytes,
    });
    let mut bytes = Vec::new();
    while let Some(piece) = std::future::poll_fn(|cx| stream.poll_next(cx)).await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(Object { etag, bytes })
}

async fn list(bucket: &BlobBucket) -> Vec<String> {
    let plan = ScanPlan {
        limit: 1000,
        ..ScanPlan::default()
    };
    let page = bucket.scan(&plan).await.unwrap();
    page.items
        .iter()
        .map(|item| item.name().to_owned())
        .collect()
}

struct Client {
    number: u64,
    random: SimRandom,
    bucket: BlobBucket,
    keeps_versions: bool,
    model: Arc<Mutex<Model>>,
    next_content: Arc<AtomicU64>,
    disk: SimDisk,
}

impl Client {
    async fn run(mut self, steps: u64) {
        for _ in 0..steps {
            let key = self.key();
            let kinds = if self.keeps_versions { 16 } else { 12 };
            let done = match self.random.below(kinds) {
                0..5 => self.put(&key).await,
                5..7 => self.delete(&key).await,
                7 => self.copy(&key).await,
                8 => self.multipart(&key).await,
                9 | 10 => self.contest(&key).await,
                12.. => self.delete_version(&key).await,
                _ => self.get(&key).await,
            };
            match done {
                Ok(()) | Err(EngineError::Full) => {}
                Err(_) => return,
            }
        }
    }

    fn key(&mut self) -> String {
        format!("{}/{}", self.number, self.random.below(KEYS))
    }

    fn content(&mut self) -> Content {
        let size = SIZES[self.random.below(SIZES.len() as u64) as usize];
        let seed = self.next_content.fetch_add(1, Ordering::Relaxed);
        Content { seed, size }
    }

    fn begin(&self, key: &str, op: Op) {
        self.model.lock().unwrap().begin(key, op);
    }

    fn ack(&self, key: &str, content: Option<Content>, id: Option<VersionId>) {
        let trace = self.disk.trace_len();
        let mut model = self.model.lock().unwrap();
        model.wrote(key, Held { id, content }, trace);
    }

    async fn put(&mut self, key: &str) -> Result<(), EngineError> {
        let content = self.content();
        self.begin(key, Op::Write(Some(content)));
        let known = (self.random.below(2) == 0).then_some(content.size as u64);
        let mut writer = self.bucket.begin(&object(key), known).await?;
        writer.append(content.bytes()).await?;
        let entry = writer.commit(commit(content)).await?;
        self.ack(key, Some(content), Some(entry.version.clone()));
        Ok(())
    }

    /// Two writers of an absent key, one of which may only create it: being told that it exists is
    /// as good as the other's acknowledgement.
    async fn contest(&mut self, key: &str) -> Result<(), EngineError> {
        self.delete(key).await?;
        let (any, first) = (self.content(), self.content());
        self.begin(key, Op::Write(Some(any)));
        self.begin(key, Op::Write(Some(first)));
        let only_first = Commit {
            precondition: Precondition {
                if_none_match: Some(Condition::Any),
                ..Precondition::default()
            },
            ..commit(first)
        };
        let (mut any_is_done, mut has_failed) = (false, false);
        let (any_writer, first_writer) = (
            write(&self.bucket, key, any, commit(any)),
            write(&self.bucket, key, first, only_first),
        );
        tokio::pin!(any_writer, first_writer);
        let (mut any_waits, mut first_waits) = (true, true);
        while any_waits || first_waits {
            tokio::select! {
                done = &mut any_writer, if any_waits => {
                    any_waits = false;
                    match done {
                        Ok(id) => {
                            any_is_done = true;
                            if first_waits && !self.keeps_versions {
                                // It may have come first, and in relaxed mode outlive the other.
                                self.ack(key, Some(first), None);
                            }
                            self.ack(key, Some(any), Some(id));
                            if first_waits {
                                self.begin(key, Op::Beneath(first));
                            }
                        }
                        Err(EngineError::Full) => {}
                        Err(_) => has_failed = true,
                    }
                }
                done = &mut first_writer, if first_waits => {
                    first_waits = false;
                    match done {
                        // It came first; the other has replaced it since.
                        Ok(id) if any_is_done => {
                            let trace = self.disk.trace_len();
                            let mut model = self.model.lock().unwrap();
                            let (id, content) = (Some(id), Some(first));
                            model.wrote_beneath(key, Held { id, content }, trace);
                        }
                        Ok(id) => {
                            self.ack(key, Some(first), Some(id));
                            self.begin(key, Op::Write(Some(any)));
                        }
                        Err(EngineError::PreconditionFailed) if !any_is_done => {
                            self.ack(key, Some(any), None);
                        }
                        Err(EngineError::PreconditionFailed) => {
                            self.model.lock().unwrap().settle(key);
                        }
                        Err(EngineError::Full) => {}
                        Err(_) => has_failed = true,
                    }
                }
            }
        }
        match has_failed {
            true => Err(EngineError::Busy),
            false => Ok(()),
        }
    }

    async fn delete(&mut self, key: &str) -> Result<(), EngineError> {
        self.begin(key, Op::Write(None));
        let none = Precondition::default();
        match self.bucket.delete(&object(key), &none).await? {
            Deleted::Marked(id) => self.ack(key, None, Some(id)),
            _ => self.ack(key, None, None),
        }
        Ok(())
    }

    /// Removes one of a key's versions for good.
    async fn delete_version(&mut self, key: &str) -> Result<(), EngineError> {
        let state = self.model.lock().unwrap().acked(key);
        if state.is_empty() {
            return Ok(());
        }
        let held = &state[self.random.below(state.len() as u64) as usize];
        // Without an id: its writer failed, and it survived.
        let Some(id) = held.id.clone() else {
            return Ok(());
        };
        self.begin(key, Op::Remove(id.clone()));
        let none = Precondition::default();
        let object = object(key);
        let gone = self
            .bucket
            .delete_version(&object, &id, &none, Bypass::Nothing);
        let deleted = gone.await?;
        assert_ne!(deleted, Deleted::Absent, "{key} {id}");
        let trace = self.disk.trace_len();
        self.model.lock().unwrap().removed(key, &id, trace);
        Ok(())
    }

    async fn copy(&mut self, key: &str) -> Result<(), EngineError> {
        let source = self.key();
        let content = self
            .model
            .lock()
            .unwrap()
            .keys
            .get(&source)
            .and_then(Key::current);
        let Some(content) = content else {
            return Ok(());
        };
        self.begin(key, Op::Write(Some(content)));
        let reader = self.bucket.open(&object(&source)).await?;
        let mut writer = self
            .bucket
            .begin(&object(key), Some(content.size as u64))
            .await?;
        let size_bytes = content.size as u64;
        let start_bytes = 0;
        writer
            .append_from(
                reader,
                Range {
                    start_bytes,
                    size_bytes,
                },
            )
            .await?;
        let entry = writer.commit(commit(content)).await?;
        self.ack(key, Some(content), Some(entry.version.clone()));
        Ok(())
    }

    async fn multipart(&mut self, key: &str) -> Result<(), EngineError> {
        let content = self.content();
        let id = self
            .bucket
            .create_upload(&object(key), UploadPlan::default())
            .await?;
        let bytes = content.bytes();
        let cut = bytes.len() / 3;
        let mut parts = Vec::new();
        for (number, bytes) in [(1, bytes.slice(..cut)), (2, bytes.slice(cut..))] {
            let size_bytes = bytes.len() as u64;
            let mut writer = self
                .bucket
                .begin_part(&object(key), &id, number, None)
                .await?;
            writer.append(bytes).await?;
            let etag = commit(content).etag;
            writer.commit_part(etag.clone(), None).await?;
            parts.push(PartRef {
                number,
                etag,
                size_bytes,
            });
        }
        if self.random.below(4) == 0 {
            return self.bucket.abort(&object(key), &id).await;
        }
        self.begin(key, Op::Write(Some(content)));
        let plan = CompletePlan {
            parts,
            etag: commit(content).etag,
            checksum: None,
            precondition: Precondition::default(),
            plain_bytes: 0,
        };
        let entry = self.bucket.complete(&object(key), &id, plan).await?;
        self.ack(key, Some(content), Some(entry.version.clone()));
        Ok(())
    }

    async fn get(&mut self, key: &str) -> Result<(), EngineError> {
        let wanted = self
            .model
            .lock()
            .unwrap()
            .keys
            .get(key)
            .and_then(Key::current);
        let now = read(&self.bucket, key).await?;
        let etag = wanted.map(|wanted| commit(wanted).etag);
        assert_eq!(now.as_ref().map(|now| &now.etag), etag.as_ref(), "{key}");
        let bytes = wanted.map(Content::bytes).unwrap_or_default();
        assert!(
            now.is_none_or(|now| now.bytes == bytes),
            "the bytes of {key}"
        );
        Ok(())
    }
}

async fn write(
    bucket: &BlobBucket,
    key: &str,
    content: Content,
    commit: Commit,
) -> Result<VersionId, EngineError> {
    let mut writer = bucket.begin(&object(key), None).await?;
    writer.append(content.bytes()).await?;
    Ok(writer.commit(commit).await?.version.clone())
}

/// Where no versions are kept.
fn null(content: Content) -> Held {
    Held {
        id: Some(VersionId::Null),
        content: Some(content),
    }
}

fn object(key: &str) -> ObjectKey {
    ObjectKey::parse(key).unwrap()
}

fn commit(content: Content) -> Commit {
    Commit {
        etag: ETag::new(format!("{:032x}", content.seed)),
        checksum: None,
        metadata: Metadata {
            user: match content.seed % 3 {
                0 => vec![("seed".into(), content.seed.to_string().into())],
                _ => Vec::new(),
            },
            ..Metadata::default()
        },
        precondition: Precondition::default(),
        seal: None,
    }
}

fn name() -> BucketName {
    BucketName::parse("bucket").unwrap()
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(future)
}
