//! An engine with one empty bucket, and short words for what tests do with it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lobos::clock::{Clock, Entropy, Timestamp};
use lobos::engine::blob::{BlobEngine, BlobMemory, BlobSettings};
use lobos::engine::fs::{FsEngine, FsSettings, Symlinks};
use lobos::engine::{
    Bucket, BucketConfig, BucketName, ByteStream, Commit, CompletePlan, Deleted, Durability, ETag,
    Engine, EngineError, Entry, Metadata, ObjectKey, Part, PartRef, Precondition, Range, Resume,
    ScanItem, ScanPlan, UploadId, UploadPlan, Writer,
};
use lobos::io::device::{Device, DeviceError, DeviceKind, OpenOptions, create_file};
use lobos::io::sim::{SimDisk, SimPlan};
use md5::{Digest as _, Md5};

/// An engine at a place of its own, with one empty bucket named `bucket`.
pub(crate) struct Fixture {
    place: Place,
    shift_nanos: Arc<AtomicI64>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) bucket: Bucket,
}

/// Where an engine keeps its data, so that it can be opened again.
enum Place {
    Fs(tempfile::TempDir),
    BlobFile(tempfile::TempDir),
    BlobLoop(LoopDevice),
    BlobSim(SimDisk),
    #[cfg(feature = "spdk")]
    Spdk(crate::spdk::Bdev),
}

/// A loop block device over a file; detached when dropped.
struct LoopDevice {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl LoopDevice {
    /// `Err`: why this machine cannot make one.
    fn attach() -> Result<Self, String> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let image = directory.path().join(IMAGE);
        create_file(&image, IMAGE_BYTES).expect("the image is made");
        let made = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&image)
            .output()
            .map_err(|error| format!("losetup cannot be run: {error}"))?;
        if !made.status.success() {
            let said = String::from_utf8_lossy(&made.stderr);
            return Err(format!("no loop device can be made: {}", said.trim()));
        }
        let path = String::from_utf8(made.stdout).expect("losetup says a path");
        Ok(Self {
            path: path.trim().into(),
            _directory: directory,
        })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let mut detach = Command::new("losetup");
        let _says_so_itself = detach.arg("--detach").arg(&self.path).status();
    }
}

impl Fixture {
    /// The filesystem engine on an empty root directory.
    pub(crate) async fn fs() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self::at(Place::Fs(directory)).await
    }

    /// The blob engine on a file, through io_uring where the kernel has it.
    pub(crate) async fn blob_file() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let image = directory.path().join(IMAGE);
        create_file(&image, IMAGE_BYTES).expect("the image is made");
        format(&image).await;
        Self::at(Place::BlobFile(directory)).await
    }

    /// The blob engine on a block device; `Err`: why this machine has none.
    pub(crate) async fn blob_loop() -> Result<Self, String> {
        let device = LoopDevice::attach()?;
        format(&device.path).await;
        Ok(Self::at(Place::BlobLoop(device)).await)
    }

    /// The blob engine on a simulated disk.
    pub(crate) async fn blob_sim() -> Self {
        let disk = SimDisk::new(SimPlan::new(1, IMAGE_BYTES));
        let entropy = Entropy::system();
        BlobEngine::format(&disk.device(), &entropy, false)
            .await
            .expect("it is formatted");
        Self::at(Place::BlobSim(disk)).await
    }

    #[cfg(feature = "spdk")]
    pub(crate) async fn blob_spdk_malloc() -> Self {
        Self::at(Place::Spdk(crate::spdk::Bdev::empty("Malloc").await)).await
    }

    #[cfg(feature = "spdk")]
    pub(crate) async fn blob_spdk_aio() -> Self {
        Self::at(Place::Spdk(crate::spdk::Bdev::empty("Aio").await)).await
    }

    #[cfg(feature = "spdk")]
    pub(crate) async fn blob_spdk_uring() -> Self {
        Self::at(Place::Spdk(crate::spdk::Bdev::empty("Uring").await)).await
    }

    /// The same place after the engine was closed and opened again.
    pub(crate) async fn reopen(self) -> Self {
        let Self {
            place,
            shift_nanos,
            engine,
            bucket,
        } = self;
        drop(bucket);
        engine.close().await.expect("the engine closes");
        drop(engine);
        let engine = Arc::new(place.open(shifted(&shift_nanos)).await);
        let bucket = engine.bucket(&bucket_name("bucket")).await.unwrap();
        Self {
            place,
            shift_nanos,
            engine,
            bucket,
        }
    }

    /// A second engine on the same place, where an engine allows that.
    pub(crate) fn twin(&self) -> Option<Arc<Engine>> {
        match &self.place {
            Place::Fs(directory) => {
                let clock = shifted(&self.shift_nanos);
                let engine = open_fs_root(directory.path(), clock);
                Some(Arc::new(Engine::Fs(engine)))
            }
            // One process owns a device.
            Place::BlobFile(_) | Place::BlobLoop(_) | Place::BlobSim(_) => None,
            #[cfg(feature = "spdk")]
            Place::Spdk(_) => None,
        }
    }

    /// The directory that is the bucket, where another program can work in it.
    pub(crate) fn tree(&self, bucket: &str) -> Option<PathBuf> {
        match &self.place {
            Place::Fs(directory) => Some(directory.path().join(bucket)),
            Place::BlobFile(_) | Place::BlobLoop(_) | Place::BlobSim(_) => None,
            #[cfg(feature = "spdk")]
            Place::Spdk(_) => None,
        }
    }

    /// Moves the engine's clock, which is the system's otherwise.
    pub(crate) fn move_clock(&self, seconds: i64) {
        let nanos = Timestamp::from_unix_seconds(seconds).unix_nanos;
        self.shift_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    async fn at(place: Place) -> Self {
        let shift_nanos = Arc::default();
        let engine = Arc::new(place.open(shifted(&shift_nanos)).await);
        let name = bucket_name("bucket");
        engine.create_bucket(&name, bucket_config()).await.unwrap();
        let bucket = engine.bucket(&name).await.unwrap();
        Self {
            place,
            shift_nanos,
            engine,
            bucket,
        }
    }
}

impl Place {
    async fn open(&self, clock: Clock) -> Engine {
        let device = match self {
            Self::Fs(directory) => return Engine::Fs(open_fs_root(directory.path(), clock)),
            Self::BlobFile(directory) => open_device(&directory.path().join(IMAGE)).await,
            Self::BlobLoop(device) => open_device(&device.path).await,
            Self::BlobSim(disk) => disk.device(),
            #[cfg(feature = "spdk")]
            Self::Spdk(bdev) => bdev.device(),
        };
        open_blob(device, clock).await
    }
}

fn shifted(shift_nanos: &Arc<AtomicI64>) -> Clock {
    let (system, shift_nanos) = (Clock::system(), Arc::clone(shift_nanos));
    Clock::from_fn(move || {
        let now = system.now().unix_nanos;
        Timestamp::from_unix_nanos(now + shift_nanos.load(Ordering::Relaxed))
    })
}

const IMAGE: &str = "image";
const IMAGE_BYTES: u64 = 96 << 20;

async fn format(path: &Path) {
    let device = open_device(path).await;
    BlobEngine::format(&device, &Entropy::system(), false)
        .await
        .expect("it is formatted");
}

/// Set in a process that may not make a ring: it must do with threads.
pub(crate) const WITHOUT_IO_URING: &str = "LOBOS_TEST_WITHOUT_IO_URING";

/// A reader that was dropped may have a transfer under way, which keeps the device a moment longer.
async fn open_device(path: &Path) -> Device {
    for _ in 0..1000 {
        match Device::open(path, &OpenOptions::default()) {
            Err(DeviceError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            opened => {
                let device = opened.expect("the image opens");
                if std::env::var_os(WITHOUT_IO_URING).is_some() {
                    assert_eq!(device.describe().kind, DeviceKind::Pool);
                }
                return device;
            }
        }
    }
    panic!("10 s after the engine was closed, something still holds its device");
}

async fn open_blob(device: Device, clock: Clock) -> Engine {
    let settings = BlobSettings {
        durability: Durability::Strict,
        clock,
        entropy: Entropy::system(),
        memory: BlobMemory {
            cache_bytes: 1 << 20,
            ..BlobMemory::ANY
        },
        discards: true,
    };
    let engine = BlobEngine::open(device, settings).await;
    Engine::Blob(engine.expect("the device opens"))
}

fn open_fs_root(root: &Path, clock: Clock) -> FsEngine {
    let settings = FsSettings {
        buckets: Vec::new(),
        root: Some(root.to_owned()),
        durability: Durability::Relaxed,
        symlinks: Symlinks::Inside,
        file_mode: None,
        dir_mode: None,
        installation: [7; 16],
        cache_bytes: 8 << 20,
        upload_expiry: None,
    };
    FsEngine::open(settings, clock, Entropy::system()).expect("the root opens")
}

/// Runs a test the way a shard would: on one thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// Runs `count` copies of `work` at once, each on a thread and a runtime of its own, and gives
/// their results in order.
pub(crate) async fn race<T, F>(count: usize, work: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(std::sync::Barrier::new(count));
    let threads: Vec<_> = (0..count)
        .map(|index| {
            let (start, future) = (Arc::clone(&start), work(index));
            std::thread::spawn(move || {
                start.wait();
                block_on(future)
            })
        })
        .collect();
    let join = move || {
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a racer panicked"))
            .collect()
    };
    tokio::task::spawn_blocking(join).await.expect("the join")
}

pub(crate) fn bucket_name(name: &str) -> BucketName {
    BucketName::parse(name).unwrap()
}

pub(crate) fn bucket_config() -> BucketConfig {
    BucketConfig::new(Some("tester".into()), Clock::system().now())
}

pub(crate) fn key(raw: &str) -> ObjectKey {
    ObjectKey::parse(raw).unwrap()
}

/// `size` bytes that differ by `seed` and by position.
pub(crate) fn pattern(seed: u64, size: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

pub(crate) fn etag(bytes: &[u8]) -> ETag {
    ETag::from_md5(Md5::digest(bytes).into())
}

/// What a commit of these bytes says when nothing else is asked for.
pub(crate) fn plain(bytes: &[u8]) -> Commit {
    Commit {
        etag: etag(bytes),
        checksum: None,
        metadata: Metadata::default(),
        precondition: Precondition::default(),
        seal: None,
    }
}

/// Metadata that differs by `mark`.
pub(crate) fn marked(mark: &str) -> Metadata {
    Metadata {
        content_type: Some(format!("text/{mark}").into()),
        user: vec![("mark".into(), mark.into())],
        ..Metadata::default()
    }
}

pub(crate) async fn put(bucket: &Bucket, name: &str, bytes: &Bytes) -> Arc<Entry> {
    put_with(bucket, name, bytes, plain(bytes))
        .await
        .unwrap_or_else(|error| panic!("put {name:?}: {error}"))
}

pub(crate) async fn put_with(
    bucket: &Bucket,
    name: &str,
    bytes: &Bytes,
    commit: Commit,
) -> Result<Arc<Entry>, EngineError> {
    let mut writer = bucket.begin(&key(name), Some(bytes.len() as u64)).await?;
    if !bytes.is_empty() {
        writer.append(bytes.clone()).await?;
    }
    writer.commit(commit).await
}

pub(crate) async fn head(bucket: &Bucket, name: &str) -> Result<Arc<Entry>, EngineError> {
    bucket.head(&key(name)).await
}

/// The entry and all of its bytes.
pub(crate) async fn get(bucket: &Bucket, name: &str) -> Result<(Arc<Entry>, Vec<u8>), EngineError> {
    let reader = bucket.open(&key(name)).await?;
    let entry = Arc::clone(reader.entry());
    let bytes = collect(reader.read(whole(&entry))).await?;
    Ok((entry, bytes))
}

pub(crate) fn whole(entry: &Entry) -> Range {
    Range {
        start_bytes: 0,
        size_bytes: entry.size_bytes,
    }
}

pub(crate) async fn collect(mut stream: ByteStream) -> Result<Vec<u8>, EngineError> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

/// Asserts that the key is there, whole, with exactly these bytes and their ETag.
pub(crate) async fn assert_holds(bucket: &Bucket, name: &str, bytes: &[u8]) {
    let (entry, got) = get(bucket, name)
        .await
        .unwrap_or_else(|error| panic!("get {name:?}: {error}"));
    assert_eq!(entry.size_bytes, bytes.len() as u64, "size of {name:?}");
    assert!(got == bytes, "bytes of {name:?}");
    assert_eq!(entry.etag, etag(bytes), "ETag of {name:?}");
    assert_eq!(head(bucket, name).await.unwrap(), entry, "head of {name:?}");
}

pub(crate) async fn assert_absent(bucket: &Bucket, name: &str) {
    let answer = head(bucket, name).await;
    assert!(
        matches!(answer, Err(EngineError::NoSuchKey)),
        "head {name:?}: {answer:?}"
    );
    let answer = bucket.open(&key(name)).await;
    assert!(
        matches!(answer, Err(EngineError::NoSuchKey)),
        "open {name:?}: {answer:?}"
    );
}

pub(crate) async fn delete(bucket: &Bucket, name: &str) -> Deleted {
    bucket
        .delete(&key(name), &Precondition::default())
        .await
        .unwrap_or_else(|error| panic!("delete {name:?}: {error}"))
}

/// All keys, page by page.
pub(crate) async fn keys(bucket: &Bucket) -> Vec<String> {
    scan_all(bucket, "", None, 1000).await
}

/// The names of all items that pages of `limit` give, common prefixes as they are.
pub(crate) async fn scan_all(
    bucket: &Bucket,
    prefix: &str,
    delimiter: Option<&str>,
    limit: usize,
) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut plan = ScanPlan {
        prefix: prefix.into(),
        delimiter: delimiter.map(Into::into),
        after: None,
        limit,
    };
    loop {
        let page = bucket.scan(&plan).await.unwrap();
        assert!(page.items.len() <= limit, "a page is longer than its limit");
        names.extend(page.items.iter().map(|item| item.name().to_owned()));
        plan.after = page.items.last().map(resume_after);
        if !page.truncated {
            return names;
        }
        assert!(!page.items.is_empty(), "a truncated page is empty");
    }
}

/// Where a listing goes on after this item.
pub(crate) fn resume_after(item: &ScanItem) -> Resume {
    match item {
        ScanItem::Object { key, .. } => Resume::Key(key.as_str().into()),
        ScanItem::CommonPrefix(prefix) => Resume::Prefix(prefix.clone()),
    }
}

/// Opens an upload without metadata or checksum.
pub(crate) async fn open_upload(bucket: &Bucket, name: &str) -> UploadId {
    bucket
        .create_upload(&key(name), UploadPlan::default())
        .await
        .unwrap_or_else(|error| panic!("create upload {name:?}: {error}"))
}

pub(crate) async fn begin_part(
    bucket: &Bucket,
    name: &str,
    id: &UploadId,
    number: u32,
    size: Option<u64>,
) -> Result<Writer, EngineError> {
    bucket.begin_part(&key(name), id, number, size).await
}

pub(crate) async fn put_part(
    bucket: &Bucket,
    name: &str,
    id: &UploadId,
    number: u32,
    bytes: &Bytes,
) -> Result<Part, EngineError> {
    let size = Some(bytes.len() as u64);
    let mut writer = begin_part(bucket, name, id, number, size).await?;
    if !bytes.is_empty() {
        writer.append(bytes.clone()).await?;
    }
    writer.commit_part(etag(bytes), None).await
}

/// What completing an upload from these parts says.
pub(crate) fn completion(parts: &[Part]) -> CompletePlan {
    let tags: String = parts.iter().map(|part| part.etag.as_str()).collect();
    CompletePlan {
        parts: parts
            .iter()
            .map(|part| PartRef {
                number: part.number,
                etag: part.etag.clone(),
                size_bytes: part.size_bytes,
            })
            .collect(),
        etag: ETag::new(format!("{}-{}", etag(tags.as_bytes()), parts.len())),
        checksum: None,
        precondition: Precondition::default(),
        plain_bytes: 0,
    }
}

pub(crate) async fn complete(
    bucket: &Bucket,
    name: &str,
    id: &UploadId,
    parts: &[Part],
) -> Result<Arc<Entry>, EngineError> {
    bucket.complete(&key(name), id, completion(parts)).await
}

/// Asserts that the key holds the object completed from these parts with these bytes.
pub(crate) async fn assert_completed(bucket: &Bucket, name: &str, parts: &[Part], bytes: &[u8]) {
    let (entry, got) = get(bucket, name)
        .await
        .unwrap_or_else(|error| panic!("get {name:?}: {error}"));
    assert_eq!(entry.size_bytes, bytes.len() as u64, "size of {name:?}");
    assert!(got == bytes, "bytes of {name:?}");
    assert_eq!(entry.etag, completion(parts).etag, "ETag of {name:?}");
    let shape = |parts: &[Part]| -> Vec<_> {
        let shape = |part: &Part| (part.number, part.size_bytes, part.checksum.clone());
        parts.iter().map(shape).collect()
    };
    assert_eq!(shape(&entry.parts), shape(parts), "parts of {name:?}");
    assert_eq!(head(bucket, name).await.unwrap(), entry, "head of {name:?}");
}

pub(crate) async fn assert_no_upload(bucket: &Bucket, name: &str, id: &UploadId) {
    let answer = bucket.upload(&key(name), id).await;
    assert!(
        matches!(answer, Err(EngineError::NoSuchUpload)),
        "{answer:?}"
    );
}
