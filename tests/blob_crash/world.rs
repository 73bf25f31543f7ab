//! A simulated disk, clients that work on it, and the model of what they were told.

use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lobos::clock::{Clock, Entropy, Timestamp};
use lobos::engine::blob::{BlobBucket, BlobEngine, BlobOpenError, BlobSettings};
use lobos::engine::{
    BucketConfig, BucketName, Commit, CompletePlan, Durability, ETag, EngineError, Metadata,
    ObjectKey, PartRef, Precondition, Range, ScanPlan, UploadPlan, UploadsPlan,
};
use lobos::io::sim::{SimDisk, SimPlan, SimRandom};

use crate::model::{Content, Model};

pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) random: SimRandom,
    model: Arc<Mutex<Model>>,
    next_content: Arc<AtomicU64>,
    entropy: Entropy,
    clock: Clock,
    free_bytes: u64,
}

const SIZE_BYTES: u64 = 26 << 20;
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
        world
    }

    async fn open(&self, disk: &SimDisk) -> Result<BlobEngine, BlobOpenError> {
        let settings = BlobSettings {
            durability: Durability::Strict,
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
        };
        BlobEngine::open(disk.device(), settings).await
    }

    /// Clients work until `operations` more operations were submitted; then power fails.
    pub(crate) fn work_until_crash(&mut self, operations: u64, round: u64) {
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
        self.disk.crash(seed);
    }

    pub(crate) fn recover_until_crash(&mut self, operations: u64) {
        let limit = self.disk.operations() + operations;
        block_on(async {
            tokio::select! {
                biased;
                () = reached(&self.disk, limit) => {}
                opened = self.open(&self.disk) => { opened.unwrap(); }
            }
        });
        let seed = self.random.next();
        self.disk.crash(seed);
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
        let clients = (0..CLIENTS).map(|client| {
            let client = Client {
                number: client,
                random: SimRandom::new(client + 100 * round + 7),
                bucket: bucket.clone(),
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
                let now = read(&bucket, key).await.expect("it is readable");
                found.push((key.clone(), identify(key, now.as_deref(), &allowed)));
            }
            let listed = list(&bucket).await;
            let there = found.iter().filter(|(_, content)| content.is_some());
            let there: Vec<_> = there.map(|(key, _)| key.clone()).collect();
            assert_eq!(listed, there, "the listing");
            found
        });
        let mut model = self.model.lock().unwrap();
        for (key, content) in found {
            model.ack(&key, content, 0);
        }
    }

    /// All space comes back.
    pub(crate) fn delete_everything(&mut self) {
        block_on(async {
            let engine = self.open(&self.disk).await.unwrap();
            let bucket = engine.bucket(&name()).await.unwrap();
            for key in list(&bucket).await {
                let none = Precondition::default();
                bucket
                    .delete(&ObjectKey::parse(&key).unwrap(), &none)
                    .await
                    .unwrap();
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
                let mut allowed = vec![before.and_then(|(_, _, content)| *content)];
                allowed.extend(
                    of_key
                        .filter(|(at, ..)| *at > cut)
                        .map(|(_, _, c)| *c)
                        .take(1),
                );
                let now = read(&bucket, key).await.expect("it is readable");
                identify(key, now.as_deref(), &allowed);
            }
        });
    }

    /// Refused, an error for a key, or the right bytes.
    pub(crate) fn check_damaged(&self, disk: &SimDisk, block: u64, at: usize) {
        let model = self.model.lock().unwrap().clone();
        block_on(async {
            let Ok(engine) = self.open(disk).await else {
                return;
            };
            let bucket = engine.bucket(&name()).await.expect("the bucket is there");
            for (key, state) in &model.keys {
                match read(&bucket, key).await {
                    Ok(now) => {
                        let is_right = now.as_deref() == state.acked.map(Content::bytes).as_deref();
                        // Damage to the last batch cannot be told from a torn write.
                        let is_last = model.history.iter().rev().take(CLIENTS as usize);
                        let is_last = is_last.map(|(_, name, _)| name).any(|name| name == key);
                        assert!(
                            is_right || is_last,
                            "block {block}, byte {at}: {key} is wrong"
                        );
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

/// Which of the allowed contents these bytes are.
fn identify(key: &str, now: Option<&[u8]>, allowed: &[Option<Content>]) -> Option<Content> {
    let fits = |content: &&Option<Content>| match (content, now) {
        (None, None) => true,
        (Some(content), Some(now)) => content.bytes() == now,
        _ => false,
    };
    let size = now.map(<[u8]>::len);
    *allowed
        .iter()
        .find(fits)
        .unwrap_or_else(|| panic!("{key} holds {size:?} bytes, none of {allowed:?}"))
}

async fn read(bucket: &BlobBucket, key: &str) -> Result<Option<Vec<u8>>, EngineError> {
    let reader = match bucket.open(&ObjectKey::parse(key).unwrap()).await {
        Ok(reader) => reader,
        Err(EngineError::NoSuchKey) => return Ok(None),
        Err(error) => return Err(error),
    };
    let size_bytes = reader.entry().size_bytes;
    let mut stream = reader.read(Range {
        start_bytes: 0,
        size_bytes,
    });
    let mut all = Vec::new();
    while let Some(piece) = std::future::poll_fn(|cx| stream.poll_next(cx)).await {
        all.extend_from_slice(&piece?);
    }
    Ok(Some(all))
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
    model: Arc<Mutex<Model>>,
    next_content: Arc<AtomicU64>,
    disk: SimDisk,
}

impl Client {
    async fn run(mut self, steps: u64) {
        for _ in 0..steps {
            let key = self.key();
            let done = match self.random.below(10) {
                0..5 => self.put(&key).await,
                5..7 => self.delete(&key).await,
                7 => self.copy(&key).await,
                8 => self.multipart(&key).await,
                _ => self.get(&key).await,
            };
            if done.is_err() {
                return;
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

    fn ack(&self, key: &str, content: Option<Content>) {
        let trace = self.disk.trace_len();
        self.model.lock().unwrap().ack(key, content, trace);
    }

    async fn put(&mut self, key: &str) -> Result<(), EngineError> {
        let content = self.content();
        self.model.lock().unwrap().begin(key, Some(content));
        let known = (self.random.below(2) == 0).then_some(content.size as u64);
        let mut writer = self.bucket.begin(&object(key), known).await?;
        writer.append(content.bytes()).await?;
        writer.commit(commit(content)).await?;
        self.ack(key, Some(content));
        Ok(())
    }

    async fn delete(&mut self, key: &str) -> Result<(), EngineError> {
        self.model.lock().unwrap().begin(key, None);
        self.bucket
            .delete(&object(key), &Precondition::default())
            .await?;
        self.ack(key, None);
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
            .and_then(|key| key.acked);
        let Some(content) = content else {
            return Ok(());
        };
        self.model.lock().unwrap().begin(key, Some(content));
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
        writer.commit(commit(content)).await?;
        self.ack(key, Some(content));
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
        self.model.lock().unwrap().begin(key, Some(content));
        let plan = CompletePlan {
            parts,
            etag: commit(content).etag,
            checksum: None,
            precondition: Precondition::default(),
        };
        self.bucket.complete(&object(key), &id, plan).await?;
        self.ack(key, Some(content));
        Ok(())
    }

    async fn get(&mut self, key: &str) -> Result<(), EngineError> {
        let wanted = self
            .model
            .lock()
            .unwrap()
            .keys
            .get(key)
            .and_then(|key| key.acked);
        let now = read(&self.bucket, key).await?;
        identify(key, now.as_deref(), &[wanted]);
        Ok(())
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
