//! PutObject.

use http::StatusCode;

use super::authorize::Access;
use super::error::{Code, S3Error};
use super::etag::etag;
use super::payload::{Digests, Payload, Want};
use super::reply::{self, Reply};
use super::request::ObjectRef;
use super::{Call, acl, conditions, headers, object_lock, versioning};
use crate::engine::{Bucket, Commit, ETagMode, EngineError, Entry, Precondition, Writer};
use crate::limits::PUT_BYTES_MAX;

pub(super) async fn object(
    call: Call<'_>,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let bucket = &access.bucket;
    let asked = &call.head.headers;
    headers::refuse_unsupported(asked)?;
    let mut metadata = headers::metadata(asked)?;
    metadata.acl = acl::of_write(access, object).await?;
    metadata.lock = object_lock::of_write(access).await?;
    let precondition = conditions::of_write(asked)?;
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
    let size_bytes = payload.size_bytes().unwrap_or(0);
    let _within = s3.quotas.claim(&object.bucket, bucket, size_bytes).await?;
    let mut writer = bucket.begin(&object.key, payload.size_bytes()).await?;
    writer.set_window(room.bytes());
    append_all(&mut payload, &mut writer).await?;
    let Digests { md5, checksum, .. } = payload.digests();
    let commit = Commit {
        etag: etag(md5, &s3.entropy),
        checksum,
        metadata,
        precondition,
    };
    let entry = writer
        .commit(commit)
        .await
        .map_err(|error| versioning::missing(error, object, None))?;
    let mut reply = reply_with(&entry);
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
pub(super) async fn append_all(payload: &mut Payload, writer: &mut Writer) -> Result<(), S3Error> {
    while let Some(bytes) = payload.next().await? {
        writer.append(bytes).await?;
    }
    Ok(())
}

fn reply_with(entry: &Entry) -> Reply {
    let mut reply = reply::empty(StatusCode::OK);
    headers::write_etag(reply.headers_mut(), entry.etag.as_str());
    if let Some(checksum) = &entry.checksum {
        headers::write_checksum(reply.headers_mut(), checksum, 0);
    }
    reply
}
