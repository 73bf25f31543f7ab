//! The engine contract: what every engine promises to the S3 layer, and nothing about HTTP.
//!
//! # Buckets
//! A bucket has a name, a directory of entries and one [`BucketConfig`] document. Creating is
//! refused for a name that exists; deleting is refused while anything is in it.
//!
//! # Entries
//! A key is at any instant one complete [`Entry`] with its bytes, or absent. What a reader opened
//! stays what it reads, whatever happens to the key meanwhile.
//!
//! # Writing
//! `begin -> append* -> commit`. The [`Precondition`] is evaluated atomically with the commit.
//! When `commit` returns `Ok`, the write is durable as the bucket's [`Durability`] says. A
//! [`Writer`] that is dropped before its commit undoes itself without blocking. Bytes are hashed
//! by the caller: the engine stores the ETag and the checksum that it is given.
//!
//! # Scanning
//! Ordered by the keys' UTF-8 bytes. A delimiter seeks past a common prefix, it does not walk it.
//!
//! # Multipart
//! Uploads and parts survive a restart. Completing is one atomic commit, and repeating it with the
//! same upload while its object is current answers the same entry.
//!
//! # Seals
//! Bytes that the S3 layer encrypted come with a [`Seal`], which is the entry's from then on: with
//! the commit, or with the upload whose parts they are. Sizes and ranges of readers, parts and
//! [`Entry::size_bytes`] are those of the bytes that the engine was given.
//!
//! # Versions
//! A bucket that keeps versions ([`BucketConfig::versioning`], read with each write) gives every
//! commit a [`VersionId`] of its own, in [`Entry::version`], and keeps what was current. A delete
//! without an id then writes a delete marker: the key has no current entry, and its versions stay.
//! While versioning is suspended, commit and delete write the null version, which replaces only
//! the null version. Deleting a version by its id removes it for good; if it was the newest, the
//! one before it is the newest again. Ids are never given twice, and the order of a key's versions
//! is that in which they were committed, whatever the clock says. A precondition speaks of the
//! current entry; a delete marker is none.
//!
//! # Object lock
//! In a bucket that has it ([`BucketConfig::lock`], read with each write) a version carries a
//! [`Lock`], in [`Metadata::lock`]: what its commit said, or the bucket's default
//! (`Lock::of_commit`). [`Bucket::delete_version`] asks [`Lock::check_removal`], and
//! [`Bucket::set_lock`] asks [`Lock::changed`], in one step with the removal or the change, so that
//! of a removal and a lock that race one comes first. Such a bucket keeps versions whatever
//! [`BucketConfig::versioning`] says (`BucketConfig::kept_versions`); so a write or a delete
//! without an id, which only adds a version, asks nothing. A lock that cannot be read is an error,
//! never no lock. Locks bind callers of this contract, not other programs in a directory.
//!
//! `tests/engine_contract.rs` holds every engine to this page.

pub mod blob;
mod engines;
mod everything;
pub mod fs;
mod locks;
mod types;
mod uploads_page;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

pub use engines::{Engines, EnginesError};
pub use everything::{Everything, Stored};
pub use locks::{
    BucketLock, Bypass, DefaultRetention, Lock, LockChange, Retention, RetentionMode,
    RetentionPeriod,
};
pub use types::{
    BucketConfig, BucketInfo, BucketName, Checksum, ChecksumAlgorithm, ChecksumKind, Commit,
    CompletePlan, Condition, Deleted, Durability, ETag, ETagMode, EngineError, Entry, InvalidName,
    Metadata, ObjectKey, Part, PartRef, PartsPage, Precondition, Range, RenamePlan, Resume,
    ScanItem, ScanPage, ScanPlan, Seal, Tags, Upload, UploadId, UploadPlan, UploadsPage,
    UploadsPlan, UserMetadata, VersionId, VersionItem, Versioning, VersionsPage, VersionsPlan,
    VersionsResume,
};

/// One place where buckets are: finds a bucket by its name and makes new ones.
#[derive(Debug)]
pub enum Engine {
    Fs(fs::FsEngine),
    Blob(blob::BlobEngine),
}

impl Engine {
    /// The bucket of that name, or [`EngineError::NoSuchBucket`].
    pub async fn bucket(&self, name: &BucketName) -> Result<Bucket, EngineError> {
        match self {
            Self::Fs(fs) => fs.bucket(name).await.map(Bucket::Fs),
            Self::Blob(blob) => blob.bucket(name).await.map(Bucket::Blob),
        }
    }

    /// All buckets, ordered by name.
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>, EngineError> {
        match self {
            Self::Fs(fs) => fs.list_buckets().await,
            Self::Blob(blob) => blob.list_buckets().await,
        }
    }

    /// Makes an empty bucket. Errors: [`EngineError::BucketExists`], and
    /// [`EngineError::BucketsAreFixed`] where buckets cannot be made.
    pub async fn create_bucket(
        &self,
        name: &BucketName,
        config: BucketConfig,
    ) -> Result<(), EngineError> {
        match self {
            Self::Fs(fs) => fs.create_bucket(name, config).await,
            Self::Blob(blob) => blob.create_bucket(name, config).await,
        }
    }

    /// Removes an empty bucket. Errors: [`EngineError::NoSuchBucket`],
    /// [`EngineError::BucketNotEmpty`], [`EngineError::BucketsAreFixed`].
    pub async fn delete_bucket(&self, name: &BucketName) -> Result<(), EngineError> {
        match self {
            Self::Fs(fs) => fs.delete_bucket(name).await,
            Self::Blob(blob) => blob.delete_bucket(name).await,
        }
    }

    /// Ready at a moment when nothing goes on that a request began, also of requests whose client
    /// has gone. An event loop that waits for this before it ends cuts nothing off.
    pub async fn settle(&self) {
        match self {
            // What runs beside a request there is a call that blocks: it has its own end.
            Self::Fs(_) => {}
            Self::Blob(blob) => blob.settle().await,
        }
    }

    /// The end: takes no more writes, waits for all that is under way, also where its caller has
    /// gone, and makes durable what was acknowledged. Call it when no writer is left. An error
    /// loses nothing that was acknowledged; the next start takes longer.
    pub async fn close(&self) -> Result<(), EngineError> {
        match self {
            // Strict writes are durable already, and relaxed ones are the kernel's to write back.
            Self::Fs(_) => Ok(()),
            Self::Blob(blob) => blob.close().await,
        }
    }
}

/// One bucket. Cheap to clone; every method may be called from any shard.
#[derive(Clone, Debug)]
pub enum Bucket {
    Fs(Arc<fs::FsBucket>),
    Blob(blob::BlobBucket),
}

impl Bucket {
    /// When a write is answered, unless [`BucketConfig::durability`] says otherwise.
    pub fn durability(&self) -> Durability {
        match self {
            Self::Fs(bucket) => bucket.durability(),
            Self::Blob(bucket) => bucket.durability(),
        }
    }

    /// The bucket's configuration as this installation trusts it (at most one second old when
    /// another process changed it).
    pub async fn config(&self) -> Result<Arc<BucketConfig>, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.config().await,
            Self::Blob(bucket) => bucket.config().await,
        }
    }

    /// Changes the configuration by `change`, which sees the newest one: no change of anybody
    /// else is lost, also not one that another process makes at the same time. An error of
    /// `change` is the answer, and nothing is changed. Durable when it returns, and what this
    /// process answers from then on. `change` runs under an engine's lock: it does not wait, and
    /// does not panic.
    ///
    /// Errors: [`EngineError::ConfigTooLarge`], [`EngineError::ForeignConfig`].
    pub async fn change_config<E>(
        &self,
        change: impl FnOnce(&mut BucketConfig) -> Result<(), E> + Send + 'static,
    ) -> Result<Arc<BucketConfig>, E>
    where
        E: From<EngineError> + Send + 'static,
    {
        match self {
            Self::Fs(bucket) => bucket.change_config(change).await,
            Self::Blob(bucket) => bucket.change_config(change).await,
        }
    }

    /// The current entry of a key, without its bytes. [`EngineError::DeleteMarker`] where the
    /// newest of the key's versions is one.
    pub async fn head(&self, key: &ObjectKey) -> Result<Arc<Entry>, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.head(key).await,
            Self::Blob(bucket) => bucket.head(key).await,
        }
    }

    /// Pins the current entry of a key for reading.
    pub async fn open(&self, key: &ObjectKey) -> Result<Reader, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.open(key).await.map(Reader::Fs),
            Self::Blob(bucket) => bucket.open(key).await.map(Reader::Blob),
        }
    }

    /// One version of a key, without its bytes. [`EngineError::NoSuchVersion`], or
    /// [`EngineError::DeleteMarker`] if it is one.
    pub async fn head_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
    ) -> Result<Arc<Entry>, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.head_version(key, version).await,
            Self::Blob(bucket) => bucket.head_version(key, version).await,
        }
    }

    /// Pins one version of a key for reading. Errors as [`Bucket::head_version`].
    pub async fn open_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
    ) -> Result<Reader, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.open_version(key, version).await.map(Reader::Fs),
            Self::Blob(bucket) => bucket.open_version(key, version).await.map(Reader::Blob),
        }
    }

    /// Starts a write. `size_bytes`: the length that is to come, where it is known.
    pub async fn begin(
        &self,
        key: &ObjectKey,
        size_bytes: Option<u64>,
    ) -> Result<Writer, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.begin(key, size_bytes).await.map(Writer::Fs),
            Self::Blob(bucket) => bucket.begin(key, size_bytes).await.map(Writer::Blob),
        }
    }

    /// Replaces the metadata of the current entry but its lock; its bytes, ETag, checksum, parts
    /// and version stay.
    /// The entry's `modified` becomes now.
    pub async fn set_metadata(
        &self,
        key: &ObjectKey,
        metadata: Metadata,
        precondition: &Precondition,
    ) -> Result<Arc<Entry>, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.set_metadata(key, metadata, precondition).await,
            Self::Blob(bucket) => bucket.set_metadata(key, metadata, precondition).await,
        }
    }

    /// Replaces [`Metadata::acl`] of the current entry. Everything else of it stays, its time too.
    pub async fn set_acl(
        &self,
        key: &ObjectKey,
        acl: Option<Box<str>>,
        precondition: &Precondition,
    ) -> Result<Arc<Entry>, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.set_acl(key, acl, precondition).await,
            Self::Blob(bucket) => bucket.set_acl(key, acl, precondition).await,
        }
    }

    /// Replaces the tags of the current entry, or of the version that is named. Everything else of
    /// it stays, its time too.
    pub async fn set_tags(
        &self,
        key: &ObjectKey,
        version: Option<&VersionId>,
        tags: Tags,
    ) -> Result<Arc<Entry>, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.set_tags(key, version, tags).await,
            Self::Blob(bucket) => bucket.set_tags(key, version, tags).await,
        }
    }

    /// Changes the lock of the current entry, or of the version that is named, if it lets itself be
    /// changed so. Everything else of it stays, its time too. Errors: [`EngineError::Locked`],
    /// [`EngineError::NoObjectLock`].
    pub async fn set_lock(
        &self,
        key: &ObjectKey,
        version: Option<&VersionId>,
        change: LockChange,
        bypass: Bypass,
    ) -> Result<Arc<Entry>, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.set_lock(key, version, change, bypass).await,
            Self::Blob(bucket) => bucket.set_lock(key, version, change, bypass).await,
        }
    }

    /// Removes the current entry, or writes a delete marker where versions are kept. A key that
    /// does not exist is `Deleted::Absent`, not an error, unless the precondition asks for one that
    /// exists; where versions are kept it gets its marker too.
    pub async fn delete(
        &self,
        key: &ObjectKey,
        precondition: &Precondition,
    ) -> Result<Deleted, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.delete(key, precondition).await,
            Self::Blob(bucket) => bucket.delete(key, precondition).await,
        }
    }

    /// Removes one version, or delete marker, for good. One that does not exist is
    /// `Deleted::Absent`, whatever the precondition, which speaks of that version. `bypass`: the
    /// retention that does not count. [`EngineError::Locked`] if another does, or a legal hold.
    pub async fn delete_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        precondition: &Precondition,
        bypass: Bypass,
    ) -> Result<Deleted, EngineError> {
        match self {
            Self::Fs(bucket) => {
                bucket
                    .delete_version(key, version, precondition, bypass)
                    .await
            }
            Self::Blob(bucket) => {
                bucket
                    .delete_version(key, version, precondition, bypass)
                    .await
            }
        }
    }

    /// Gives an object another key, in place of what has that, atomically and durably: nobody finds
    /// it under both keys, or neither. Its bytes stay where they are; its ETag and time stay, too.
    /// [`EngineError::NoSuchKey`] if there is no source. [`EngineError::CannotRename`]: where
    /// versions are kept, and for objects that an engine cannot move at once.
    pub async fn rename(
        &self,
        from: &ObjectKey,
        to: &ObjectKey,
        plan: RenamePlan,
    ) -> Result<(), EngineError> {
        match self {
            Self::Fs(bucket) => bucket.rename(from, to, plan).await,
            Self::Blob(bucket) => bucket.rename(from, to, plan).await,
        }
    }

    /// One page of all versions and delete markers.
    pub async fn scan_versions(&self, plan: &VersionsPlan) -> Result<VersionsPage, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.scan_versions(plan).await,
            Self::Blob(bucket) => bucket.scan_versions(plan).await,
        }
    }

    /// One page of the ordered listing of current entries.
    pub async fn scan(&self, plan: &ScanPlan) -> Result<ScanPage, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.scan(plan).await,
            Self::Blob(bucket) => bucket.scan(plan).await,
        }
    }

    /// Opens a multipart upload; durable when it returns.
    pub async fn create_upload(
        &self,
        key: &ObjectKey,
        plan: UploadPlan,
    ) -> Result<UploadId, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.create_upload(key, plan).await,
            Self::Blob(bucket) => bucket.create_upload(key, plan).await,
        }
    }

    /// The upload, or [`EngineError::NoSuchUpload`] also when it belongs to another key.
    pub async fn upload(&self, key: &ObjectKey, id: &UploadId) -> Result<Arc<Upload>, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.upload(key, id).await,
            Self::Blob(bucket) => bucket.upload(key, id).await,
        }
    }

    /// Starts part `number`; finished by [`Writer::commit_part`]. The last commit of a number wins.
    pub async fn begin_part(
        &self,
        key: &ObjectKey,
        id: &UploadId,
        number: u32,
        size_bytes: Option<u64>,
    ) -> Result<Writer, EngineError> {
        match self {
            Self::Fs(bucket) => bucket
                .begin_part(key, id, number, size_bytes)
                .await
                .map(Writer::Fs),
            Self::Blob(bucket) => bucket
                .begin_part(key, id, number, size_bytes)
                .await
                .map(Writer::Blob),
        }
    }

    /// Committed parts with `number > after`, ordered by number, at most `limit`.
    pub async fn list_parts(
        &self,
        key: &ObjectKey,
        id: &UploadId,
        after: u32,
        limit: usize,
    ) -> Result<PartsPage, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.list_parts(key, id, after, limit).await,
            Self::Blob(bucket) => bucket.list_parts(key, id, after, limit).await,
        }
    }

    /// Open uploads ordered by key, then by the time they were opened.
    pub async fn list_uploads(&self, plan: &UploadsPlan) -> Result<UploadsPage, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.list_uploads(plan).await,
            Self::Blob(bucket) => bucket.list_uploads(plan).await,
        }
    }

    /// Turns the named parts, in this order, into the current entry of the key, atomically.
    /// [`EngineError::InvalidPart`] if one is no longer what the plan names. A repetition while
    /// the object made by this upload is current answers its entry again.
    pub async fn complete(
        &self,
        key: &ObjectKey,
        id: &UploadId,
        plan: CompletePlan,
    ) -> Result<Arc<Entry>, EngineError> {
        match self {
            Self::Fs(bucket) => bucket.complete(key, id, plan).await,
            Self::Blob(bucket) => bucket.complete(key, id, plan).await,
        }
    }

    /// Drops the upload and its parts.
    pub async fn abort(&self, key: &ObjectKey, id: &UploadId) -> Result<(), EngineError> {
        match self {
            Self::Fs(bucket) => bucket.abort(key, id).await,
            Self::Blob(bucket) => bucket.abort(key, id).await,
        }
    }
}

/// A pinned entry: reads the bytes of the version that was current when it was opened.
#[derive(Clone, Debug)]
pub enum Reader {
    Fs(fs::FsReader),
    Blob(blob::BlobReader),
}

impl Reader {
    pub fn entry(&self) -> &Arc<Entry> {
        match self {
            Self::Fs(reader) => reader.entry(),
            Self::Blob(reader) => reader.entry(),
        }
    }

    /// Whether the engine compares every byte that it gives with a checksum of its own.
    pub fn verifies(&self) -> bool {
        match self {
            Self::Fs(_) => false,
            Self::Blob(_) => true,
        }
    }

    /// The bytes of `range`, which lies within the entry, in order.
    pub fn read(self, range: Range) -> ByteStream {
        match self {
            Self::Fs(reader) => ByteStream::Fs(reader.read(range)),
            Self::Blob(reader) => ByteStream::Blob(reader.read(range)),
        }
    }
}

/// Bytes of one reader, piece by piece.
#[derive(Debug)]
pub enum ByteStream {
    Fs(fs::FsByteStream),
    Blob(blob::BlobByteStream),
}

impl ByteStream {
    /// How much may be in memory at a time: [`REQUEST_WINDOW_BYTES`] or less. Said before the first
    /// piece is asked for.
    ///
    /// [`REQUEST_WINDOW_BYTES`]: crate::limits::REQUEST_WINDOW_BYTES
    pub fn set_window(&mut self, window_bytes: usize) {
        match self {
            Self::Fs(stream) => stream.set_window(window_bytes),
            Self::Blob(stream) => stream.set_window(window_bytes),
        }
    }

    /// The next piece; `None` once all of the range has been given. An error
    /// ([`EngineError::Changed`], [`EngineError::Corrupt`], [`EngineError::Io`]) is final, and the
    /// last piece is given only after the engine knows that all pieces belong together.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, EngineError>>> {
        match self {
            Self::Fs(stream) => stream.poll_next(cx),
            Self::Blob(stream) => stream.poll_next(cx),
        }
    }

    pub async fn next(&mut self) -> Option<Result<Bytes, EngineError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

/// An unfinished object or part. Dropping it undoes it without blocking.
#[derive(Debug)]
pub enum Writer {
    Fs(fs::FsWriter),
    Blob(blob::BlobWriter),
}

impl Writer {
    /// How much may be in memory at a time: [`REQUEST_WINDOW_BYTES`] or less. Said before the first
    /// byte is appended.
    ///
    /// [`REQUEST_WINDOW_BYTES`]: crate::limits::REQUEST_WINDOW_BYTES
    pub fn set_window(&mut self, window_bytes: usize) {
        match self {
            Self::Fs(writer) => writer.set_window(window_bytes),
            Self::Blob(writer) => writer.set_window(window_bytes),
        }
    }

    pub async fn append(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        match self {
            Self::Fs(writer) => writer.append(bytes).await,
            Self::Blob(writer) => writer.append(bytes).await,
        }
    }

    /// Appends `range` of another entry; by reference or inside the kernel where possible.
    pub async fn append_from(&mut self, source: Reader, range: Range) -> Result<(), EngineError> {
        match (self, source) {
            (Self::Fs(writer), Reader::Fs(source)) => writer.append_from(source, range).await,
            (Self::Blob(writer), Reader::Blob(source)) => writer.append_from(source, range).await,
            (writer, source) => {
                let mut stream = source.read(range);
                while let Some(piece) = stream.next().await {
                    Box::pin(writer.append(piece?)).await?;
                }
                Ok(())
            }
        }
    }

    /// Makes the bytes the current entry of the key.
    pub async fn commit(self, commit: Commit) -> Result<Arc<Entry>, EngineError> {
        match self {
            Self::Fs(writer) => writer.commit(commit).await,
            Self::Blob(writer) => writer.commit(commit).await,
        }
    }

    /// Makes the bytes the part that [`Bucket::begin_part`] named.
    pub async fn commit_part(
        self,
        etag: ETag,
        checksum: Option<Checksum>,
    ) -> Result<Part, EngineError> {
        match self {
            Self::Fs(writer) => writer.commit_part(etag, checksum).await,
            Self::Blob(writer) => writer.commit_part(etag, checksum).await,
        }
    }
}
