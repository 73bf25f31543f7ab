//! Who may do what, until policies come: the root user everything, every user what is in the
//! buckets that it owns, nobody else anything.

use std::sync::Arc;

use http::request::Parts;

use super::S3;
use super::auth::{Identity, User};
use super::error::{Code, S3Error};
use crate::engine::{Bucket, BucketConfig, BucketName};

/// The bucket, if `who` may work in it.
///
/// A bucket that does not exist is `NoSuchBucket` for everybody, as on S3.
pub(super) async fn enter(
    s3: &S3,
    who: &Identity,
    head: &Parts,
    name: &BucketName,
) -> Result<Bucket, S3Error> {
    enter_as(s3, who, head, name, "x-amz-expected-bucket-owner").await
}

/// The same for the bucket of a copy source.
pub(super) async fn enter_source(
    s3: &S3,
    who: &Identity,
    head: &Parts,
    name: &BucketName,
) -> Result<Bucket, S3Error> {
    enter_as(s3, who, head, name, "x-amz-source-expected-bucket-owner").await
}

/// `expecting`: the header in which the client says whose bucket it takes this for.
async fn enter_as(
    s3: &S3,
    who: &Identity,
    head: &Parts,
    name: &BucketName,
    expecting: &str,
) -> Result<Bucket, S3Error> {
    let bucket = s3
        .engines
        .bucket(name)
        .await
        .map_err(|error| named(error.into(), name))?;
    let user = user(who)?;
    let expected = head.headers.get(expecting);
    if user.root && expected.is_none() {
        return Ok(bucket);
    }
    let config = bucket.config().await?;
    let owner = owner_id(s3, &config);
    if !user.root && *owner != *user.id {
        return Err(Code::AccessDenied.into());
    }
    if expected.is_some_and(|expected| expected.as_bytes() != owner.as_bytes()) {
        return Err(Code::AccessDenied.into());
    }
    Ok(bucket)
}

/// The user behind a request; an anonymous one is refused.
pub(super) fn user(who: &Identity) -> Result<&Arc<User>, S3Error> {
    match who {
        Identity::User(user) => Ok(user),
        Identity::Anonymous => Err(Code::AccessDenied.into()),
    }
}

/// The owner id of a bucket; a directory that nobody created through S3 is the root user's.
pub(super) fn owner_id(s3: &S3, config: &BucketConfig) -> Box<str> {
    match &config.owner {
        Some(owner) => owner.clone(),
        None => s3.users.load().root().id.clone(),
    }
}

/// Adds the bucket's name, as S3 does in errors about a bucket.
pub(super) fn named(error: S3Error, bucket: &BucketName) -> S3Error {
    error.detail("BucketName", bucket.as_str())
}
