//! PutObject.

use http::StatusCode;

use super::authorize::Access;
use super::error::{Code, S3Error};
use super::payload::{Digests, Payload, Want};
use super::reply::{self, Reply};
use super::request::ObjectRef;
use super::sse::{self, CustomerKey, Sink};
use super::{Call, acl, append, conditions, headers, object_lock, versioning};
use crate::engine::{Bucket, Commit, Condition, ETagMode, EngineError, Entry, Precondition, Seal};
use crate::limits::PUT_BYTES_MAX;

pub(super) async fn object(
    call: Call<'_>,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let bucket = &access.bucket;
    let asked = &call.head.headers;
    headers::refuse_unsupported(asked)?;
    let key = CustomerKey::of_object(asked, call.local)?;
    let mut metadata = headers::metadata(asked)?;
    metadata.acl = acl::of_write(access, object).await?;
    metadata.lock = object_lock::of_write(access).await?;
    let mut precondition = conditions::of_write(asked)?;
    if let Some(offset_bytes) = append::offset(asked)? {
        if key.is_some() {
            return Err(append::cannot("with a key of yours"));
        }
        match append::base(access, object, offset_bytes).await? {
            Some(base) => return append::object(call, bucket, object, base, &precondition).await,
            // The first bytes of an object are a PUT of what is not there.
            None => precondition.if_none_match = Some(Condition::Any),
        }
    }
    check_early(bucket, object, &precondition).await?;
    let s3 = call.s3;
    let (mut payload, room) = call
        .payload(Want {
            md5: s3.etags.of_bucket(&object.bucket, bucket).await? == ETagMode::Md5,
            is_data: true,
            algorithm: None,
            ..Want::default()
        })
        .await?;
    check_size(&payload)?;
    let seal = key.as_ref().map(|key| key.seal(&s3.entropy));
    let size = payload.size_bytes();
    let size = size.map(|size| sse::stored_size(size, seal.is_some()));
    let _within = s3
        .quotas
        .claim(&object.bucket, bucket, size.unwrap_or(0))
        .await?;
    let mut writer = bucket.begin(&object.key, size).await?;
    writer.set_window(room.bytes());
    let lock = key.as_ref().zip(seal.as_deref());
    let mut sink = Sink::new(writer, lock, 0, &s3.entropy);
    append_all(&mut payload, &mut sink).await?;
    let (writer, plain_bytes) = sink.finish().await?;
    let Digests { md5, checksum, .. } = payload.digests();
    let commit = Commit {
        etag: sse::etag(lock, md5, &s3.entropy),
        checksum,
        metadata,
        precondition,
        seal: sealed(seal, plain_bytes),
    };
    let entry = writer
        .commit(commit)
        .await
        .map_err(|error| versioning::missing(error, object, None))?;
    let mut reply = reply_with(&entry);
    sse::write_key(reply.headers_mut(), key.as_ref());
    versioning::write_new_id(reply.headers_mut(), &entry.version);
    Ok(reply)
}

/// A condition that does not hold now is answered before the body is asked for. It is evaluated
/// again, atomically, with the commit.
pub(super) async fn check_early(
    bucket: &Bucket,
    object: &ObjectRef,
    precondition: &Precondition,
) -> Result<(), S3Error> {
    if precondition.is_empty() {
        return Ok(());
    }
    let current = match bucket.head(&object.key).await {
        Ok(entry) => Some(entry),
        Err(EngineError::NoSuchKey | EngineError::DeleteMarker { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    precondition
        .check(current.as_deref())
        .map_err(|error| versioning::missing(error, object, None))
}

/// At most 5 GiB come in one request.
pub(super) fn check_size(payload: &Payload) -> Result<(), S3Error> {
    let size = payload.size_bytes().unwrap_or(0);
    if size <= PUT_BYTES_MAX {
        return Ok(());
    }
    Err(S3Error::new(Code::EntityTooLarge)
        .detail("ProposedSize", size.to_string())
        .detail("MaxSizeAllowed", PUT_BYTES_MAX.to_string()))
}

/// Moves the body; it is verified when this returns `Ok`.
pub(super) async fn append_all(payload: &mut Payload, sink: &mut Sink) -> Result<(), S3Error> {
    while let Some(bytes) = payload.next().await? {
        sink.append(bytes).await?;
    }
    Ok(())
}

/// The seal of an object that turned out to have this size.
pub(super) fn sealed(seal: Option<Box<Seal>>, plain_bytes: u64) -> Option<Box<Seal>> {
    let mut seal = seal?;
    seal.plain_bytes = plain_bytes;
    Some(seal)
}

fn reply_with(entry: &Entry) -> Reply {
    let mut reply = reply::empty(StatusCode::OK);
    headers::write_etag(reply.headers_mut(), entry.etag.as_str());
    if let Some(checksum) = &entry.checksum {
        headers::write_checksum(reply.headers_mut(), checksum, 0);
    }
    reply
}
