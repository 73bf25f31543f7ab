//! PutObject with `x-amz-write-offset-bytes`: bytes are appended to an object.
//!
//! The object is written anew with what comes behind it, its old bytes by reference where the
//! engine can, and committed on the condition that it still is what it was: whoever reads sees it
//! as it was or as it is then, and of those who append at the same place one succeeds.

use http::header::HeaderMap;
use http::{HeaderValue, StatusCode};

use super::authorize::Access;
use super::checksum::{self, PartDigest};
use super::error::{Code, S3Error};
use super::etag::etag;
use super::payload::{Digests, Want};
use super::reply::{self, Reply};
use super::request::ObjectRef;
use super::sse::Sink;
use super::{Call, headers, put, versioning};
use crate::engine::{
    Bucket, Checksum, ChecksumKind, Commit, Condition, EngineError, Entry, Precondition, Range,
    Reader,
};
use crate::limits::OBJECT_BYTES_MAX;

const HEADER: &str = "x-amz-write-offset-bytes";

/// Where the request wants to append, if it does.
pub(super) fn offset(headers: &HeaderMap) -> Result<Option<u64>, S3Error> {
    let Some(raw) = headers.get(HEADER) else {
        return Ok(None);
    };
    let raw = raw.to_str().unwrap_or("");
    let digits = raw.bytes().all(|byte| byte.is_ascii_digit());
    match raw.parse().ok().filter(|_| digits) {
        Some(offset_bytes) => Ok(Some(offset_bytes)),
        None => {
            let message = "The write offset must be a number of bytes.";
            Err(S3Error::invalid_argument(message, HEADER, raw))
        }
    }
}

/// The object that is appended to; `None`: there is none, and its first bytes come now.
pub(super) async fn base(
    access: &Access<'_>,
    object: &ObjectRef,
    offset_bytes: u64,
) -> Result<Option<Reader>, S3Error> {
    let bucket = &access.bucket;
    if bucket.config().await?.versioning.is_some() {
        return Err(cannot("in a bucket that keeps versions"));
    }
    let reader = match bucket.open(&object.key).await {
        Ok(reader) => reader,
        Err(EngineError::NoSuchKey) if offset_bytes == 0 => return Ok(None),
        Err(error) => return Err(versioning::missing(error, object, None)),
    };
    let entry = reader.entry();
    if entry.seal.is_some() {
        return Err(cannot("to an object that is encrypted"));
    }
    if !entry.parts.is_empty() {
        return Err(cannot("to an object that was uploaded in parts"));
    }
    if entry.size_bytes != offset_bytes {
        return Err(wrong_offset().detail("ActualObjectSize", entry.size_bytes.to_string()));
    }
    Ok(Some(reader))
}

/// Appends the body to `base`, on the request's own conditions.
pub(super) async fn object(
    call: Call<'_>,
    bucket: &Bucket,
    object: &ObjectRef,
    base: Reader,
    asked: &Precondition,
) -> Result<Reply, S3Error> {
    refuse_dropped(&call.head.headers)?;
    let old = Entry::clone(base.entry());
    asked.check(Some(&old))?;
    let s3 = call.s3;
    let want = Want {
        is_data: true,
        ..Want::default()
    };
    let (mut payload, room) = call.payload(want).await?;
    put::check_size(&payload)?;
    let added_bytes = payload.size_bytes().unwrap_or(0);
    let size_bytes = old.size_bytes.saturating_add(added_bytes);
    if size_bytes > OBJECT_BYTES_MAX {
        return Err(Code::EntityTooLarge.into());
    }
    let quotas = &s3.quotas;
    let _within = quotas.claim(&object.bucket, bucket, added_bytes).await?;
    let mut writer = bucket.begin(&object.key, Some(size_bytes)).await?;
    writer.set_window(room.bytes());
    let whole = Range {
        start_bytes: 0,
        size_bytes: old.size_bytes,
    };
    writer.append_from(base, whole).await?;
    let mut sink = Sink::new(writer, None, 0, &s3.entropy);
    put::append_all(&mut payload, &mut sink).await?;
    let (writer, _) = sink.finish().await?;
    let Digests { checksum, .. } = payload.digests();
    let commit = Commit {
        checksum: joined(&old, checksum.as_ref(), added_bytes),
        // Nobody knows the MD5 of the whole, and no ETag may come twice.
        etag: etag(None, &s3.entropy),
        metadata: old.metadata,
        precondition: Precondition {
            if_match: Some(Condition::OneOf(vec![old.etag])),
            ..Precondition::default()
        },
        seal: None,
    };
    let committed = writer.commit(commit).await;
    let entry = committed.map_err(|error| match error {
        EngineError::PreconditionFailed | EngineError::NoSuchKey => wrong_offset(),
        error => error.into(),
    })?;
    let mut reply = reply::empty(StatusCode::OK);
    let out = reply.headers_mut();
    headers::write_etag(out, entry.etag.as_str());
    if let Some(checksum) = &entry.checksum {
        headers::write_checksum(out, checksum, 0);
    }
    out.insert("x-amz-object-size", HeaderValue::from(entry.size_bytes));
    Ok(reply)
}

/// An object that is appended to keeps its tags, its ACL and its lock: what asks for others is not
/// silently left out.
fn refuse_dropped(headers: &HeaderMap) -> Result<(), S3Error> {
    let dropped = headers.keys().map(|name| name.as_str()).find(|name| {
        matches!(*name, "x-amz-tagging" | "x-amz-acl")
            || name.starts_with("x-amz-grant-")
            || name.starts_with("x-amz-object-lock-")
    });
    let Some(name) = dropped else { return Ok(()) };
    let message = format!("An append leaves this as it is: send it without {name}.");
    Err(S3Error::with_message(Code::InvalidRequest, message).detail("Header", name))
}

/// The checksum of the whole, where those of both halves say it.
fn joined(old: &Entry, added: Option<&Checksum>, added_bytes: u64) -> Option<Checksum> {
    let (first, second) = (old.checksum.as_ref()?, added?);
    if first.kind != ChecksumKind::FullObject || first.algorithm != second.algorithm {
        return None;
    }
    let halves = [(first, old.size_bytes), (second, added_bytes)];
    let halves = halves.map(|(sum, size_bytes)| PartDigest {
        digest: &sum.digest,
        size_bytes,
    });
    checksum::of_parts(first.algorithm, ChecksumKind::FullObject, halves)
}

pub(super) fn cannot(what: &'static str) -> S3Error {
    let message = format!("This server cannot append {what} ({HEADER}).");
    S3Error::with_message(Code::NotImplemented, message).detail("Header", HEADER)
}

fn wrong_offset() -> S3Error {
    Code::InvalidWriteOffset.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_a_number_of_bytes() {
        let parse = |raw: &'static str| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static(HEADER),
                HeaderValue::from_static(raw),
            )]);
            offset(&headers).map_err(|error| error.code)
        };
        assert_eq!(parse("0"), Ok(Some(0)));
        assert_eq!(parse("12"), Ok(Some(12)));
        for wrong in ["", "-1", "+1", "1.0", "0x1", "99999999999999999999999"] {
            assert_eq!(parse(wrong), Err(Code::InvalidArgument), "{wrong}");
        }
        assert_eq!(offset(&HeaderMap::new()).unwrap(), None);
    }
}
