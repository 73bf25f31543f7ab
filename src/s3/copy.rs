//! CopyObject, and what UploadPartCopy shares with it.

use std::sync::Arc;

use http::header::HeaderMap;
use md5::{Digest as _, Md5};

use super::authorize::Access;
use super::checksum::{self, Hasher};
use super::conditions::{self, ReadConditions};
use super::error::{Code, S3Error};
use super::reply::{self, Reply};
use super::request::{self, ObjectRef};
use super::route::Operation;
use super::sse::{self, CustomerKey, Opened, Sink};
use super::versioning::SOURCE_VERSION_ID;
use super::xml::Writer as Xml;
use super::{Call, acl, headers, object_lock, put, reserve, versioning};
use crate::engine::{
    Bucket, Checksum, ChecksumAlgorithm, ChecksumKind, Commit, Condition, ETagMode, EngineError,
    Entry, Metadata, Precondition, Range,
};
use crate::limits::PUT_BYTES_MAX;

/// CopyObject: the engine moves the bytes (by reference where it can); they pass through here
/// only when a checksum of another kind is asked for, or to be sealed or opened.
pub(super) async fn object(
    call: &Call<'_>,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let bucket = &access.bucket;
    let asked = &call.head.headers;
    headers::refuse_unsupported(asked)?;
    let key = CustomerKey::of_object(asked, call.local)?;
    let replace = directive(asked, "x-amz-metadata-directive")?;
    let replace_tags = directive(asked, "x-amz-tagging-directive")?;
    let wanted = wanted_algorithm(asked)?;
    let precondition = conditions::of_write(asked)?;
    let source = source(call, access).await?;
    let source_version = source.reader.entry().version.clone();
    let source_bucket = source.bucket.clone();
    if source.size_bytes > PUT_BYTES_MAX {
        return Err(S3Error::with_message(Code::InvalidRequest, TOO_LARGE));
    }
    let mut given = headers::metadata(asked)?;
    given.acl = acl::of_write(access, object).await?;
    given.lock = object_lock::of_write(access).await?;
    if !replace_tags && !source.reader.entry().metadata.tags.is_empty() {
        permit_tags(access, &source, object).await?;
    }
    let metadata = new_metadata(source.reader.entry(), given, replace, replace_tags);
    let movement = Movement::of(&source, key.as_ref(), wanted);
    let is_itself = source.object == *object && !source.is_version;
    let is_change = replace
        || replace_tags
        || is_change(&metadata, source.reader.entry())
        || key.is_some()
        || source.is_sealed();
    if is_itself && movement == Movement::AsStored && !is_change {
        return Err(illegal_self_copy());
    }
    // Where versions are kept a copy is a new one, also of itself.
    let keeps_versions = bucket.config().await?.versioning.is_some();
    let entry = if is_itself && movement == Movement::AsStored && !keeps_versions {
        let precondition = pin(precondition, source.reader.entry());
        bucket
            .set_metadata(&object.key, metadata, &precondition)
            .await?
    } else {
        let target = Target {
            object,
            metadata,
            precondition,
            key: key.as_ref(),
        };
        write(call, bucket, source, movement, target).await?
    };
    let mut reply = reply::xml(result(&entry));
    let headers = reply.headers_mut();
    sse::write_key(headers, key.as_ref());
    versioning::write_new_id(headers, &entry.version);
    versioning::write_id(headers, SOURCE_VERSION_ID, &source_bucket, &source_version).await?;
    Ok(reply)
}

/// How a copy's bytes come from the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Movement {
    /// The same bytes, which the engine may share.
    AsStored,
    /// Read and written again, with this checksum computed on the way.
    Through(Option<ChecksumAlgorithm>),
}

impl Movement {
    fn of(source: &Source, key: Option<&CustomerKey>, wanted: Option<ChecksumAlgorithm>) -> Self {
        let stored = source.reader.stored();
        let same_seal = match (stored.seal.as_deref(), key) {
            (None, None) => true,
            // The parts were sealed one by one, and the copy has none.
            (Some(seal), Some(key)) => key.is_of(seal) && stored.parts.is_empty(),
            _ => false,
        };
        match needs_hashing(stored.checksum.as_ref(), wanted) {
            None if same_seal => Self::AsStored,
            algorithm => Self::Through(algorithm),
        }
    }
}

/// What a copy is to be.
struct Target<'a> {
    object: &'a ObjectRef,
    metadata: Metadata,
    precondition: Precondition,
    key: Option<&'a CustomerKey>,
}

async fn write(
    call: &Call<'_>,
    bucket: &Bucket,
    source: Source,
    movement: Movement,
    target: Target<'_>,
) -> Result<Arc<Entry>, S3Error> {
    let (s3, object) = (call.s3, target.object);
    let Entry { etag, checksum, .. } = Entry::clone(source.reader.entry());
    let size = sse::stored_size(source.size_bytes, target.key.is_some());
    let _within = s3.quotas.claim(&object.bucket, bucket, size).await?;
    let mut writer = bucket.begin(&object.key, Some(size)).await?;
    let mut commit = Commit {
        etag,
        checksum,
        metadata: target.metadata,
        precondition: target.precondition,
        seal: source.reader.stored().seal.clone(),
    };
    match movement {
        Movement::AsStored => {
            let stored = source.reader.into_stored();
            let size_bytes = stored.entry().size_bytes;
            writer
                .append_from(
                    stored,
                    Range {
                        start_bytes: 0,
                        size_bytes,
                    },
                )
                .await?;
        }
        Movement::Through(algorithm) => {
            let room = reserve(s3, source.range.size_bytes).await?;
            writer.set_window(room.bytes());
            let was_sealed = source.is_sealed();
            let seal = target.key.map(|key| key.seal(&s3.entropy));
            let lock = target.key.zip(seal.as_deref());
            let mut sink = Sink::new(writer, lock, 0, &s3.entropy);
            let is_new = was_sealed || lock.is_some();
            let mode = s3.etags.of_bucket(&object.bucket, bucket).await?;
            let wants_md5 = is_new && mode == ETagMode::Md5;
            let digests = stream(source, &mut sink, room.bytes(), wants_md5, algorithm).await?;
            let plain_bytes;
            (writer, plain_bytes) = sink.finish().await?;
            if is_new {
                commit.etag = sse::etag(lock, digests.md5, &s3.entropy);
            }
            commit.checksum = digests.checksum.or(commit.checksum);
            commit.seal = put::sealed(seal, plain_bytes);
        }
    }
    let committed = writer.commit(commit).await;
    committed.map_err(|error| versioning::missing(error, object, None))
}

fn result(entry: &Entry) -> String {
    let mut page = Xml::document("CopyObjectResult");
    page.time("LastModified", entry.modified);
    page.etag(entry.etag.as_str());
    if let Some(checksum) = &entry.checksum {
        page.leaf("ChecksumType", checksum::kind_name(checksum.kind));
        page.leaf(
            checksum::element_name(checksum.algorithm),
            &checksum::format(checksum, 0),
        );
    }
    page.finish("CopyObjectResult")
}

const TOO_LARGE: &str = "The specified copy source is larger than the maximum allowable size for a \
                         copy source: 5368709120";

/// Tags that are copied are read there and written here.
async fn permit_tags(access: &Access<'_>, source: &Source, to: &ObjectRef) -> Result<(), S3Error> {
    let version = source.is_version.then(|| &source.reader.entry().version);
    let from = &source.object;
    let action = match version {
        None => "s3:GetObjectTagging",
        Some(_) => "s3:GetObjectVersionTagging",
    };
    let there = access.enter_source(&from.bucket, version).await?;
    there.require(action, Some(&from.key)).await?;
    access.require("s3:PutObjectTagging", Some(&to.key)).await
}

/// A pinned copy source and what of it is wanted.
pub(super) struct Source {
    pub(super) object: ObjectRef,
    pub(super) bucket: Bucket,
    /// The request names a version of the object.
    pub(super) is_version: bool,
    pub(super) reader: Opened,
    /// Of the plain bytes, as the size.
    pub(super) range: Range,
    /// The size of the whole entry.
    pub(super) size_bytes: u64,
}

impl Source {
    pub(super) fn is_sealed(&self) -> bool {
        self.reader.stored().seal.is_some()
    }
}

/// Opens what `x-amz-copy-source` names, if the caller may read it and its conditions hold.
pub(super) async fn source(call: &Call<'_>, access: &Access<'_>) -> Result<Source, S3Error> {
    let raw = call
        .head
        .headers
        .get("x-amz-copy-source")
        .map(|value| value.as_bytes());
    let raw = std::str::from_utf8(raw.unwrap_or_default()).map_err(|_| {
        S3Error::invalid_argument("The copy source is not UTF-8.", "x-amz-copy-source", "")
    })?;
    let (from, version) = request::copy_source(raw)?;
    let key = CustomerKey::of_source(&call.head.headers, call.local)?;
    let access = access.enter_source(&from.bucket, version.as_ref()).await?;
    let action = match version {
        None => "s3:GetObject",
        Some(_) => "s3:GetObjectVersion",
    };
    access.require(action, Some(&from.key)).await?;
    let bucket = access.bucket.clone();
    let opened = match &version {
        None => bucket.open(&from.key).await,
        Some(version) => bucket.open_version(&from.key, version).await,
    };
    let reader = opened.map_err(|error| match error {
        // Nobody can copy what says that nothing is there.
        EngineError::DeleteMarker { .. } if version.is_some() => S3Error::with_message(
            Code::InvalidRequest,
            "The source of a copy request may not specifically refer to a delete marker by version \
             id.",
        ),
        error => versioning::missing(error, &from, version.as_ref()),
    });
    let reader = access.hide_missing(&from.key, reader).await?;
    access
        .confirm(Operation::GetObject, &from.key, reader.entry())
        .await?;
    let reader = Opened::new(reader, key.as_ref())?;
    ReadConditions::of_copy_source(&call.head.headers).check_source(reader.entry())?;
    let size_bytes = reader.entry().size_bytes;
    Ok(Source {
        object: from,
        bucket,
        is_version: version.is_some(),
        reader,
        range: Range {
            start_bytes: 0,
            size_bytes,
        },
        size_bytes,
    })
}

/// What was computed over the plain bytes of a copy.
pub(super) struct CopyDigests {
    pub(super) md5: Option<[u8; 16]>,
    pub(super) checksum: Option<Checksum>,
}

/// Copies through memory, for which there is room, hashing on the way.
pub(super) async fn stream(
    source: Source,
    sink: &mut Sink,
    window_bytes: usize,
    wants_md5: bool,
    algorithm: Option<ChecksumAlgorithm>,
) -> Result<CopyDigests, S3Error> {
    let mut md5 = wants_md5.then(Md5::new);
    let mut hasher = algorithm.map(Hasher::new);
    if source.range.size_bytes > 0 {
        let mut bytes = source.reader.read(source.range).await?;
        bytes.set_window(window_bytes);
        while let Some(piece) = bytes.next().await {
            let piece = piece?;
            if let Some(md5) = &mut md5 {
                md5.update(&piece);
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(&piece);
            }
            sink.append(piece).await?;
        }
    }
    Ok(CopyDigests {
        md5: md5.map(|md5| md5.finalize().into()),
        checksum: hasher.map(|hasher| Checksum {
            algorithm: hasher.algorithm(),
            kind: ChecksumKind::FullObject,
            digest: hasher.finalize(),
        }),
    })
}

/// COPY (the default) or REPLACE.
fn directive(headers: &HeaderMap, name: &'static str) -> Result<bool, S3Error> {
    match headers.get(name).map(|value| value.to_str().unwrap_or("")) {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(other) => Err(S3Error::invalid_argument(
            "Unknown metadata directive.",
            name,
            other,
        )),
    }
}

/// `x-amz-checksum-algorithm`: the checksum that the copy is to carry.
pub(super) fn wanted_algorithm(headers: &HeaderMap) -> Result<Option<ChecksumAlgorithm>, S3Error> {
    let Some(raw) = headers.get("x-amz-checksum-algorithm") else {
        return Ok(None);
    };
    let raw = raw.to_str().unwrap_or("");
    checksum::algorithm_by_name(raw).map(Some).ok_or_else(|| {
        S3Error::with_message(
            Code::InvalidRequest,
            format!(
                "Checksum algorithm provided is unsupported. Please try again with any of the \
                 valid types: [{}]",
                checksum::all_names()
            ),
        )
    })
}

/// The algorithm to compute while copying: another one than the source has is asked for, or the
/// source's is made of checksums of parts that the copy does not have.
fn needs_hashing(
    has: Option<&Checksum>,
    wanted: Option<ChecksumAlgorithm>,
) -> Option<ChecksumAlgorithm> {
    match (has, wanted) {
        (Some(has), None) if has.kind == ChecksumKind::FullObject => None,
        (Some(has), Some(wanted))
            if has.kind == ChecksumKind::FullObject && has.algorithm == wanted =>
        {
            None
        }
        (has, wanted) => wanted.or(has.map(|has| has.algorithm)),
    }
}

/// What the copy's metadata is. The website redirect, the ACL and the lock are never copied;
/// they are what this request says.
fn new_metadata(source: &Entry, given: Metadata, replace: bool, replace_tags: bool) -> Metadata {
    let source = &source.metadata;
    let tags = match replace_tags {
        true => given.tags.clone(),
        false => source.tags.clone(),
    };
    match replace {
        true => Metadata { tags, ..given },
        false => Metadata {
            tags,
            website_redirect: given.website_redirect,
            acl: given.acl,
            lock: given.lock,
            ..source.clone()
        },
    }
}

/// Whether a copy would say something else than its source. A lock counts only if one is given.
fn is_change(metadata: &Metadata, source: &Entry) -> bool {
    let lock = metadata.lock;
    let same = Metadata {
        lock,
        ..source.metadata.clone()
    };
    !lock.is_empty() || *metadata != same
}

/// A metadata change must hit the entry that was read.
fn pin(precondition: Precondition, entry: &Entry) -> Precondition {
    match precondition.if_match {
        Some(_) => precondition,
        None => Precondition {
            if_match: Some(Condition::OneOf(vec![entry.etag.clone()])),
            ..precondition
        },
    }
}

fn illegal_self_copy() -> S3Error {
    S3Error::with_message(
        Code::InvalidRequest,
        "This copy request is illegal because it is trying to copy an object to itself without \
         changing the object's metadata, storage class, website redirect location or encryption \
         attributes.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_hashed_only_when_the_stored_checksum_will_not_do() {
        use ChecksumAlgorithm::{Crc32, Sha256};
        let has = |algorithm, kind| Checksum {
            algorithm,
            kind,
            digest: Box::new([0; 4]),
        };
        let full = has(Crc32, ChecksumKind::FullObject);
        let parts = has(Crc32, ChecksumKind::Composite);
        assert_eq!(needs_hashing(None, None), None);
        assert_eq!(needs_hashing(Some(&full), None), None);
        assert_eq!(needs_hashing(Some(&full), Some(Crc32)), None);
        assert_eq!(needs_hashing(Some(&full), Some(Sha256)), Some(Sha256));
        assert_eq!(needs_hashing(Some(&parts), None), Some(Crc32));
        assert_eq!(needs_hashing(None, Some(Sha256)), Some(Sha256));
    }
}
