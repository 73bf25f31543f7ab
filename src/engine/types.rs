//! The words of the engine contract: names, entries, plans and errors.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::locks::{BucketLock, Lock};
use crate::clock::Timestamp;
use crate::limits::{BUCKET_CONFIG_BYTES_MAX, KEY_BYTES_MAX};

/// A legal bucket name: 3 to 63 of `a-z`, `0-9`, `-` and `.`, as S3's naming rules have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketName(Arc<str>);

impl BucketName {
    /// Checks the general-purpose bucket naming rules of S3's user guide.
    pub fn parse(raw: &str) -> Result<Self, InvalidName> {
        let bytes = raw.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let legal =
            |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        let reason = if !(3..=63).contains(&bytes.len()) {
            "must be 3 to 63 characters long"
        } else if !bytes.iter().all(legal) {
            "may hold only lower-case letters, digits, '-' and '.'"
        } else if !edge(bytes.first()) || !edge(bytes.last()) {
            "must start and end with a lower-case letter or a digit"
        } else if raw.contains("..") {
            "must not hold two dots in a row"
        } else if raw.parse::<std::net::Ipv4Addr>().is_ok() {
            "must not look like an IP address"
        } else if RESERVED_PREFIXES
            .iter()
            .any(|prefix| raw.starts_with(prefix))
        {
            "starts with a prefix that S3 reserves"
        } else if RESERVED_SUFFIXES.iter().any(|suffix| raw.ends_with(suffix)) {
            "ends with a suffix that S3 reserves"
        } else {
            return Ok(Self(raw.into()));
        };
        Err(InvalidName {
            what: "bucket name",
            reason,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A legal object key: 1 to 1,024 bytes of UTF-8 without NUL. Any other string is a key, `..`
/// and `a//b` included: a key is not a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Arc<str>);

impl ObjectKey {
    pub fn parse(raw: &str) -> Result<Self, InvalidName> {
        let reason = if raw.is_empty() {
            "must not be empty"
        } else if raw.len() > KEY_BYTES_MAX {
            "must not be longer than 1024 bytes"
        } else if raw.contains('\0') {
            "must not hold a NUL character"
        } else {
            return Ok(Self(raw.into()));
        };
        Err(InvalidName {
            what: "key",
            reason,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a string is no bucket name or no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} {reason}")]
pub struct InvalidName {
    pub what: &'static str,
    pub reason: &'static str,
}

/// An entity tag without its quotes: 32 hex digits (MD5 of the bytes) or `<32 hex>-<number>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ETag(Arc<str>);

impl ETag {
    pub fn new(value: impl Into<Arc<str>>) -> Self {
        Self(value.into())
    }

    /// The ETag of bytes with this MD5.
    pub fn from_md5(digest: [u8; 16]) -> Self {
        Self(hex(&digest).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The additional checksums that S3 knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ChecksumAlgorithm {
    Crc32,
    Crc32c,
    Crc64nvme,
    Sha1,
    Sha256,
    Sha512,
    Md5,
    Xxhash64,
    Xxhash3,
    Xxhash128,
}

/// What a checksum was computed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ChecksumKind {
    /// The bytes of the object, or of one part.
    FullObject,
    /// The checksums of the parts, one after the other.
    Composite,
}

/// A checksum as the client gave it or asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    pub algorithm: ChecksumAlgorithm,
    pub kind: ChecksumKind,
    /// The digest's bytes, big-endian: 4 to 64.
    pub digest: Box<[u8]>,
}

/// What a client says about an object beside its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    pub content_type: Option<Box<str>>,
    pub content_encoding: Option<Box<str>>,
    pub content_language: Option<Box<str>>,
    pub content_disposition: Option<Box<str>>,
    pub cache_control: Option<Box<str>>,
    pub expires: Option<Box<str>>,
    pub website_redirect: Option<Box<str>>,
    /// Names in lower case without `x-amz-meta-`, in the order they came.
    pub user: UserMetadata,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Tags,
    /// Who owns the object and whom it lets in, as the S3 layer writes it; `None`: it is the
    /// bucket owner's alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acl: Option<Box<str>>,
    /// Changed by [`super::Bucket::set_lock`] alone.
    #[serde(skip_serializing_if = "Lock::is_empty")]
    pub lock: Lock,
}

/// Names and values of user metadata.
pub type UserMetadata = Vec<(Box<str>, Box<str>)>;

/// Keys and values of an object's or a bucket's tags, in the order they came.
pub type Tags = Vec<(Box<str>, Box<str>)>;

/// One object as HEAD shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub size_bytes: u64,
    pub etag: ETag,
    pub modified: Timestamp,
    pub checksum: Option<Checksum>,
    pub metadata: Metadata,
    /// The parts that it was completed from, in order; empty for an object of one PUT.
    pub parts: Arc<[Part]>,
    pub version: VersionId,
    /// `None`: the bytes are the object's own.
    pub seal: Option<Box<Seal>>,
}

impl Entry {
    /// The object's size as clients see it. [`Entry::size_bytes`] is that of the bytes that the
    /// engine has, which are more where they are sealed.
    pub fn plain_bytes(&self) -> u64 {
        let seal = self.seal.as_ref();
        seal.map_or(self.size_bytes, |seal| seal.plain_bytes)
    }
}

/// Says that bytes are sealed: encrypted with a key that the server does not keep. The S3 layer
/// seals and opens them; an engine keeps the seal with them, and never stores sealed bytes where
/// somebody could take them for the object's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The size of what was sealed; 0 in the plan of an upload.
    pub plain_bytes: u64,
    /// Random: no two seals have one.
    pub salt: [u8; 16],
    /// Tells the right key from others, and nobody what the key is.
    pub key_check: [u8; 16],
}

/// Names one version of a key: opaque, URL-safe, and never given twice for a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum VersionId {
    /// The version that was written while versioning was off or suspended, or by another program.
    /// A key has at most one.
    #[default]
    Null,
    Named(Arc<str>),
}

impl VersionId {
    /// Any string; one that no engine gave out finds no version.
    pub fn parse(raw: &str) -> Self {
        match raw {
            NULL_VERSION => Self::Null,
            raw => Self::Named(raw.into()),
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Null => NULL_VERSION,
            Self::Named(id) => id,
        }
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const NULL_VERSION: &str = "null";

/// What becomes of a version when its key is written or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Versioning {
    /// It is kept; the new one, or the delete marker, gets an id of its own.
    Enabled,
    /// The new one, or the delete marker, is the null version and replaces only that.
    Suspended,
}

/// One part of an upload, or of the object made from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// 1 to 10,000.
    pub number: u32,
    pub size_bytes: u64,
    pub etag: ETag,
    pub modified: Timestamp,
    pub checksum: Option<Checksum>,
}

/// Bytes `start_bytes .. start_bytes + size_bytes` of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start_bytes: u64,
    pub size_bytes: u64,
}

/// What must hold of the current entry for a write or delete to happen; all parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// `If-Match`: the entry must exist and match.
    pub if_match: Option<Condition>,
    /// `If-None-Match`: the entry must be absent or not match.
    pub if_none_match: Option<Condition>,
    /// DELETE only: the entry's last modification, compared in whole seconds.
    pub if_modified_at: Option<Timestamp>,
    /// DELETE only: the entry's size.
    pub if_size_bytes: Option<u64>,
}

/// An ETag condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `*`: any entry.
    Any,
    /// One of these.
    OneOf(Vec<ETag>),
}

impl Condition {
    pub fn matches(&self, etag: &ETag) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(etags) => etags.contains(etag),
        }
    }
}

impl Precondition {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `Err(NoSuchKey)` when an ETag is asked for and there is no entry (S3 answers 404 then),
    /// `Err(PreconditionFailed)` when an entry is there and does not fit. Time and size say only
    /// what an entry must be like if there is one: S3 documents 204 for a key that is absent.
    pub fn check(&self, current: Option<&Entry>) -> Result<(), EngineError> {
        let Some(entry) = current else {
            return match self.if_match {
                Some(_) => Err(EngineError::NoSuchKey),
                None => Ok(()),
            };
        };
        let holds = self
            .if_match
            .as_ref()
            .is_none_or(|c| c.matches(&entry.etag))
            && self
                .if_none_match
                .as_ref()
                .is_none_or(|c| !c.matches(&entry.etag))
            && self
                .if_modified_at
                .is_none_or(|at| at.unix_seconds() == entry.modified.unix_seconds())
            && self
                .if_size_bytes
                .is_none_or(|size| size == entry.plain_bytes());
        if holds {
            Ok(())
        } else {
            Err(EngineError::PreconditionFailed)
        }
    }
}

/// What a commit stores beside the bytes.
#[derive(Clone, Debug)]
pub struct Commit {
    pub etag: ETag,
    pub checksum: Option<Checksum>,
    pub metadata: Metadata,
    pub precondition: Precondition,
    /// The bytes are sealed.
    pub seal: Option<Box<Seal>>,
}

/// On what conditions an object gets another key.
#[derive(Clone, Debug, Default)]
pub struct RenamePlan {
    pub source: Precondition,
    pub target: Precondition,
}

impl RenamePlan {
    /// `target`: what has the new key now. An entry that a condition asks for and that is not there
    /// fails the condition: [`EngineError::NoSuchKey`] speaks of the source.
    pub(super) fn check(&self, source: &Entry, target: Option<&Entry>) -> Result<(), EngineError> {
        self.source.check(Some(source))?;
        self.target.check(target).map_err(|error| match error {
            EngineError::NoSuchKey => EngineError::PreconditionFailed,
            error => error,
        })
    }
}

/// What a delete did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// An entry and its bytes are gone.
    Removed,
    /// A delete marker that was named is gone.
    MarkerRemoved,
    /// There was nothing to remove.
    Absent,
    /// This delete marker is now the newest of the key's versions.
    Marked(VersionId),
}

/// Which page of a listing.
#[derive(Clone, Debug, Default)]
pub struct ScanPlan {
    /// Only keys that start with this.
    pub prefix: Box<str>,
    /// Keys that hold it after the prefix are rolled up to a common prefix that ends with it.
    pub delimiter: Option<Box<str>>,
    /// Where to go on; `None`: at the start.
    pub after: Option<Resume>,
    /// Most items (keys and common prefixes) of the page; 0 gives an empty page that is not
    /// truncated.
    pub limit: usize,
}

/// Where a scan goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At the first key greater than this string (which need not be a key).
    Key(Box<str>),
    /// At the first key that is greater than this common prefix and does not start with it.
    Prefix(Box<str>),
}

/// One page, ordered by UTF-8 bytes, keys and common prefixes mixed.
#[derive(Clone, Debug, Default)]
pub struct ScanPage {
    pub items: Vec<ScanItem>,
    /// More follows after the last item.
    pub truncated: bool,
}

/// One line of a listing.
#[derive(Clone, Debug)]
pub enum ScanItem {
    Object {
        key: ObjectKey,
        entry: Arc<Entry>,
    },
    /// Ends with the delimiter.
    CommonPrefix(Box<str>),
}

impl ScanItem {
    pub fn name(&self) -> &str {
        match self {
            Self::Object { key, .. } => key.as_str(),
            Self::CommonPrefix(prefix) => prefix,
        }
    }
}

/// Which page of all versions.
#[derive(Clone, Debug, Default)]
pub struct VersionsPlan {
    /// As in [`ScanPlan`].
    pub prefix: Box<str>,
    pub delimiter: Option<Box<str>>,
    /// Where to go on; `None`: at the start.
    pub after: Option<VersionsResume>,
    /// Most items of the page, as in [`ScanPlan`].
    pub limit: usize,
}

/// Where a listing of versions goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionsResume {
    /// At a key, as a scan does.
    Key(Resume),
    /// Behind this version of the key. If it is gone, at the first that is older; if nobody can
    /// tell which those are, at the key's newest.
    Version(ObjectKey, VersionId),
}

/// One page: keys by UTF-8 bytes, the versions of a key newest first.
#[derive(Clone, Debug, Default)]
pub struct VersionsPage {
    pub items: Vec<VersionItem>,
    /// More follows after the last item.
    pub truncated: bool,
}

/// One line of a listing of versions.
#[derive(Clone, Debug)]
pub enum VersionItem {
    Object {
        key: ObjectKey,
        entry: Arc<Entry>,
        is_latest: bool,
    },
    Marker {
        key: ObjectKey,
        version: VersionId,
        modified: Timestamp,
        is_latest: bool,
    },
    /// Ends with the delimiter.
    CommonPrefix(Box<str>),
}

/// Names an upload: opaque, unguessable, URL-safe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UploadId(Arc<str>);

impl UploadId {
    /// Any string; one that no engine gave out finds no upload.
    pub fn new(value: impl Into<Arc<str>>) -> Self {
        Self(value.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What an upload's object will carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadPlan {
    pub metadata: Metadata,
    /// The checksum that its parts carry and how the object's is made from them.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
    /// Owner id of whoever opened it.
    pub initiator: Box<str>,
    /// Its parts are sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Box<Seal>>,
}

/// An open upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub id: UploadId,
    pub key: ObjectKey,
    pub opened: Timestamp,
    pub plan: UploadPlan,
}

/// One page of an upload's parts.
#[derive(Clone, Debug)]
pub struct PartsPage {
    pub upload: Arc<Upload>,
    pub parts: Vec<Part>,
    pub truncated: bool,
}

/// Which page of the open uploads.
#[derive(Clone, Debug, Default)]
pub struct UploadsPlan {
    pub prefix: Box<str>,
    pub delimiter: Option<Box<str>>,
    /// Keys greater than this, or equal with an upload id after `after_id` in the order listed.
    pub after_key: Box<str>,
    pub after_id: Option<UploadId>,
    pub limit: usize,
}

/// One page of open uploads.
#[derive(Clone, Debug, Default)]
pub struct UploadsPage {
    pub uploads: Vec<Arc<Upload>>,
    pub common_prefixes: Vec<Box<str>>,
    pub truncated: bool,
}

/// The parts to make an object from, and what it shall be.
#[derive(Clone, Debug)]
pub struct CompletePlan {
    /// In ascending order of number.
    pub parts: Vec<PartRef>,
    pub etag: ETag,
    pub checksum: Option<Checksum>,
    pub precondition: Precondition,
    /// What the seal of a sealed upload's object says of its size.
    pub plain_bytes: u64,
}

impl CompletePlan {
    /// The seal of the object that an upload of this plan becomes.
    pub(super) fn seal(&self, upload: &UploadPlan) -> Option<Box<Seal>> {
        let mut seal = upload.seal.clone()?;
        seal.plain_bytes = self.plain_bytes;
        Some(seal)
    }
}

/// A part by number and content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRef {
    pub number: u32,
    pub etag: ETag,
    pub size_bytes: u64,
}

/// One bucket in the list of all.
#[derive(Clone, Debug)]
pub struct BucketInfo {
    pub name: BucketName,
    pub config: Arc<BucketConfig>,
}

/// A bucket's configuration. The engine stores it and hands it out; the S3 layer understands it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketConfig {
    /// Owner id; `None`: the root user's (a directory that nobody created through S3).
    pub owner: Option<Box<str>>,
    pub created: Timestamp,
    /// What was said about the bucket, by the name of the sub-resource ("cors", "tagging"). The
    /// text of each is the S3 layer's own; all of it together is bounded by
    /// [`BUCKET_CONFIG_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub documents: BTreeMap<Box<str>, Box<str>>,
    /// `None`: it never kept versions. Once it does, it can only be suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versioning: Option<Versioning>,
    /// `Some`: versions can be locked, and are kept as if `versioning` were `Enabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<BucketLock>,
    /// When a write to it is answered; `None`: as the engine was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// What the ETags of new objects are; `None`: as the server was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<ETagMode>,
    /// How many bytes all objects together may have; `None`: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
}

impl BucketConfig {
    /// Of a new bucket that nothing was said about yet.
    pub fn new(owner: Option<Box<str>>, created: Timestamp) -> Self {
        Self {
            owner,
            created,
            documents: BTreeMap::new(),
            versioning: None,
            lock: None,
            durability: None,
            etag: None,
            quota_bytes: None,
        }
    }

    /// What becomes of versions now.
    pub(super) fn kept_versions(&self) -> Option<Versioning> {
        match self.lock {
            Some(_) => Some(Versioning::Enabled),
            None => self.versioning,
        }
    }

    /// The form in which engines store it. Errors: [`EngineError::ConfigTooLarge`].
    pub(super) fn encode(&self) -> Result<Vec<u8>, EngineError> {
        let bytes = serde_json::to_vec(self).map_err(|error| EngineError::Io {
            doing: "encoding a bucket's configuration",
            source: error.into(),
        })?;
        match bytes.len() <= BUCKET_CONFIG_BYTES_MAX {
            true => Ok(bytes),
            false => Err(EngineError::ConfigTooLarge),
        }
    }
}

/// How a bucket's ETags are made. The S3 layer makes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ETagMode {
    /// The MD5 of the bytes, as S3 makes it. It costs as much as the rest of a PUT.
    #[default]
    Md5,
    /// Random bytes, new with every write, in a form that clients do not take for an MD5.
    Fast,
}

impl ETagMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Fast => "fast",
        }
    }
}

/// When a success is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// After everything is on stable media.
    #[default]
    Strict,
    /// As `docs/durability.md` says for the engine; a crash of the process loses nothing.
    Relaxed,
}

impl Durability {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
        }
    }
}

/// Everything an engine answers instead of a result.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the bucket does not exist")]
    NoSuchBucket,
    #[error("the bucket exists")]
    BucketExists,
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// The set of buckets was given at start and cannot change.
    #[error("buckets cannot be created or deleted here; start the server with --root")]
    BucketsAreFixed,
    /// The bucket's configuration would be larger than [`BUCKET_CONFIG_BYTES_MAX`].
    #[error("the bucket's configuration would be too large")]
    ConfigTooLarge,
    /// There is a configuration that this installation does not believe and must not replace.
    #[error("the bucket's .lobos/config is not this server's own")]
    ForeignConfig,
    #[error("the key does not exist")]
    NoSuchKey,
    #[error("the version does not exist")]
    NoSuchVersion,
    /// The version that was asked for, or the key's newest, is a delete marker.
    #[error("the version {version} is a delete marker")]
    DeleteMarker {
        version: VersionId,
        modified: Timestamp,
    },
    #[error("the upload does not exist")]
    NoSuchUpload,
    /// The part is missing, or is no longer the one that was named.
    #[error("part {number} is missing or has another content")]
    InvalidPart { number: u32 },
    #[error("the precondition does not hold")]
    PreconditionFailed,
    /// The object could be copied and its source deleted, but not both at once.
    #[error("the object cannot be renamed: {why}")]
    CannotRename { why: &'static str },
    /// A retention or a legal hold forbids it.
    #[error("the version is protected by object lock")]
    Locked,
    /// A lock was asked for where the bucket has none.
    #[error("the bucket has no object lock")]
    NoObjectLock,
    /// No space, inodes or quota left.
    #[error("the storage is full")]
    Full,
    /// The memory for keys is used up.
    #[error("the index has reached its memory budget of {budget_bytes} bytes (blob.index_memory)")]
    IndexFull { budget_bytes: u64 },
    /// The place is mounted read-only, or went read-only after a failed sync.
    #[error("the storage is read-only: {why}")]
    ReadOnly { why: &'static str },
    /// The server's user may not touch this key's file.
    #[error("the server may not access the key's file")]
    Denied,
    /// Too much is in flight; try again.
    #[error("the engine is busy")]
    Busy,
    /// The place is gone or has been replaced (a moved directory, an unplugged drive).
    #[error("the storage is not available: {why}")]
    Unavailable { why: &'static str },
    /// Another program rewrote the bytes while they were read.
    #[error("the object changed while it was read")]
    Changed,
    /// What is stored does not match its checksum or cannot be decoded.
    #[error("stored data is damaged: {what}")]
    Corrupt { what: &'static str },
    /// The operating system refused something that it should not refuse.
    #[error("{doing} failed: {source}")]
    Io {
        doing: &'static str,
        source: io::Error,
    },
}

const RESERVED_PREFIXES: [&str; 3] = ["xn--", "sthree-", "amzn-s3-demo-"];
const RESERVED_SUFFIXES: [&str; 5] = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_follow_the_naming_rules() {
        for name in ["abc", "a-b", "a.b", "0ab", "1.2.3", &"a".repeat(63)] {
            assert!(BucketName::parse(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "ab",
            "Abc",
            "a_b",
            "-ab",
            "ab-",
            ".ab",
            "a..b",
            "192.168.0.1",
            "xn--a",
            "a/b",
            "a-s3alias",
            "äbc",
            &"a".repeat(64),
        ] {
            assert!(BucketName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_precondition_on_an_absent_key_asks_for_a_key_or_passes() {
        let absent = Precondition {
            if_none_match: Some(Condition::Any),
            ..Default::default()
        };
        assert!(absent.check(None).is_ok());
        let present = Precondition {
            if_match: Some(Condition::Any),
            ..Default::default()
        };
        assert!(matches!(present.check(None), Err(EngineError::NoSuchKey)));
    }
}
