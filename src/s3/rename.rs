//! RenameObject: an object gets another key in its bucket, at once.

use http::StatusCode;
use http::header::HeaderMap;

use super::authorize::Access;
use super::conditions::{self, ReadConditions, Verdict};
use super::error::{Code, S3Error};
use super::reply::{self, Reply};
use super::request::{self, ObjectRef};
use super::{Call, headers, versioning};
use crate::engine::{Condition, ETag, EngineError, ObjectKey, Precondition, RenamePlan};

const SOURCE: &str = "x-amz-rename-source";

pub(super) async fn object(
    call: &Call<'_>,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let bucket = &access.bucket;
    let asked = &call.head.headers;
    headers::refuse_unsupported(asked)?;
    let source = source(asked, object)?;
    for action in ["s3:GetObject", "s3:DeleteObject"] {
        access.require(action, Some(&source.key)).await?;
    }
    if source.key == object.key {
        let message = "The source of a rename must be another key than its destination.";
        return Err(S3Error::invalid_argument(
            message,
            SOURCE,
            source.key.as_str(),
        ));
    }
    let plan = RenamePlan {
        source: of_source(access, &source, object, asked).await?,
        target: of_target(access, &object.key, asked).await?,
    };
    let renamed = bucket.rename(&source.key, &object.key, plan).await;
    renamed.map_err(|error| versioning::missing(error, &source, None))?;
    // What had the new key is gone.
    call.s3.quotas.has_shrunk(&object.bucket);
    Ok(reply::empty(StatusCode::OK))
}

/// A key of the same bucket, alone or as copy sources are written: `key`, `/bucket/key`.
fn source(headers: &HeaderMap, target: &ObjectRef) -> Result<ObjectRef, S3Error> {
    let raw = headers
        .get(SOURCE)
        .map(|value| value.to_str().unwrap_or(""));
    let raw = raw.unwrap_or("");
    let malformed =
        || S3Error::invalid_argument("The source must be a key, URL-encoded.", SOURCE, raw);
    let decoded = request::decode(raw).map_err(|_| malformed())?;
    let own = format!("/{}/", target.bucket);
    let key = decoded.strip_prefix(&own).unwrap_or(&decoded);
    if key.is_empty() {
        return Err(malformed());
    }
    Ok(ObjectRef {
        bucket: target.bucket.clone(),
        key: request::parse_key(key)?,
    })
}

/// The source as it is judged now; the engine makes sure that it is what gets renamed.
async fn of_source(
    access: &Access<'_>,
    source: &ObjectRef,
    target: &ObjectRef,
    headers: &HeaderMap,
) -> Result<Precondition, S3Error> {
    let found = access.bucket.head(&source.key).await;
    let found = found.map_err(|error| versioning::missing(error, source, None));
    let entry = access.hide_missing(&source.key, found).await?;
    // Policies decide by tags: they go to another key only with the permission that a copy needs.
    if !entry.metadata.tags.is_empty() {
        for (action, key) in [
            ("s3:GetObjectTagging", &source.key),
            ("s3:PutObjectTagging", &target.key),
        ] {
            access.require(action, Some(key)).await?;
        }
    }
    ReadConditions::of_rename_source(headers).check_source(&entry)?;
    Ok(matching(&entry.etag))
}

/// Likewise for what has the new key now.
async fn of_target(
    access: &Access<'_>,
    key: &ObjectKey,
    headers: &HeaderMap,
) -> Result<Precondition, S3Error> {
    let conditions = ReadConditions::of_read(headers);
    if conditions.is_empty() {
        return Ok(Precondition::default());
    }
    // All conditions but that nothing is there ask about what is.
    if !conditions.is_absence() {
        access.require("s3:GetObject", Some(key)).await?;
    }
    match access.bucket.head(key).await {
        Ok(entry) => match conditions.judge(&entry) {
            Verdict::Go => Ok(matching(&entry.etag)),
            Verdict::NotModified => Err(Code::PreconditionFailed.into()),
            Verdict::Failed(condition) => Err(conditions::failed(condition)),
        },
        Err(EngineError::NoSuchKey) if conditions.holds_for_nothing() => Ok(Precondition {
            if_none_match: Some(Condition::Any),
            ..Precondition::default()
        }),
        Err(EngineError::NoSuchKey) => Err(Code::PreconditionFailed.into()),
        Err(error) => Err(error.into()),
    }
}

fn matching(etag: &ETag) -> Precondition {
    Precondition {
        if_match: Some(Condition::OneOf(vec![etag.clone()])),
        ..Precondition::default()
    }
}
