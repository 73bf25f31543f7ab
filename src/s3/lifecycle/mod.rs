//! A bucket's lifecycle: its configuration, and what replies tell of it. The control plane's worker
//! does what the rules say.
//!
//! Reading order: `rules` (what is due), `document` (the XML), the verbs, [`announce`].

mod document;
mod rules;

use http::StatusCode;
use http::header::HeaderName;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::authorize::Access;
use super::error::{Code, S3Error};
use super::payload::Want;
use super::reply::{self, Reply};
use super::request::ObjectRef;
use super::route::Operation;
use super::versioning::VERSION_ID;
use super::{Call, document as documents};
use crate::clock::Timestamp;
use crate::engine::{Bucket, BucketConfig, Entry, VersionId};
use crate::limits::XML_BYTES_MAX;

pub use rules::{Day, Place, Rules, Subject, What};

/// The bucket's rules; `None`: it has none. Those that cannot be read are an error: nothing may be
/// removed by them, and nobody may take them for none.
pub fn rules_of(config: &BucketConfig) -> Result<Option<Rules>, S3Error> {
    documents::read(config, DOCUMENT)
}

pub(super) async fn get(bucket: &Bucket) -> Result<Reply, S3Error> {
    match rules_of(&*bucket.config().await?)? {
        Some(rules) => Ok(reply::xml(document::write(&rules))),
        None => Err(Code::NoSuchLifecycleConfiguration.into()),
    }
}

/// PutBucketLifecycleConfiguration: all rules at once.
pub(super) async fn put(call: Call<'_>, bucket: &Bucket) -> Result<Reply, S3Error> {
    let s3 = call.s3;
    let (payload, _room) = call.payload(Want::default()).await?;
    let body = payload.collect(XML_BYTES_MAX).await?;
    let rules = document::parse(&body, &s3.entropy)?;
    documents::write(bucket, DOCUMENT, &rules).await?;
    s3.lifecycle_changes.notify_one();
    Ok(reply::empty(StatusCode::OK))
}

pub(super) async fn delete(bucket: &Bucket) -> Result<Reply, S3Error> {
    documents::remove(bucket, DOCUMENT).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Adds to a reply about an object when a rule ends it, where the bucket has rules. A look that
/// fails adds nothing: the reply is right without it.
pub(super) async fn announce(
    operation: Operation,
    outcome: Result<Reply, S3Error>,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let mut reply = outcome?;
    let is_told = matches!(
        operation,
        Operation::GetObject
            | Operation::HeadObject
            | Operation::PutObject
            | Operation::CopyObject
            | Operation::CompleteMultipartUpload
            | Operation::CreateMultipartUpload
    );
    if !is_told || !reply.status().is_success() {
        return Ok(reply);
    }
    let config = access.bucket.config().await;
    let Ok(Some(rules)) = config.map(|config| rules_of(&config).unwrap_or(None)) else {
        return Ok(reply);
    };
    let key = object.key.as_str();
    if operation == Operation::CreateMultipartUpload {
        if let Some((end, id)) = rules.upload_end(key, access.s3().clock.now(), Day::REAL) {
            let headers = reply.headers_mut();
            reply::insert(headers, ABORT_DATE, &http_date(end));
            reply::insert(headers, ABORT_RULE, id);
        }
    } else if let Ok(entry) = access.bucket.head(&object.key).await
        && is_of(&entry, &reply)
        && let Some((end, id)) = rules.expiry(key, &entry)
    {
        let id = utf8_percent_encode(id, NON_ALPHANUMERIC_OF_ID);
        let value = format!("expiry-date=\"{}\", rule-id=\"{id}\"", http_date(end));
        reply::insert(reply.headers_mut(), EXPIRATION, &value);
    }
    Ok(reply)
}

/// Whether a reply is about the version that is current.
fn is_of(entry: &Entry, reply: &Reply) -> bool {
    match reply.headers().get(&VERSION_ID) {
        Some(told) => told.as_bytes() == entry.version.as_str().as_bytes(),
        None => entry.version == VersionId::Null,
    }
}

fn http_date(at: Timestamp) -> String {
    httpdate::fmt_http_date(at.to_system_time())
}

/// The bucket's document.
const DOCUMENT: &str = "lifecycle";
const EXPIRATION: HeaderName = HeaderName::from_static("x-amz-expiration");
const ABORT_DATE: HeaderName = HeaderName::from_static("x-amz-abort-date");
const ABORT_RULE: HeaderName = HeaderName::from_static("x-amz-abort-rule-id");
/// What RFC 3986 leaves as it is.
const NON_ALPHANUMERIC_OF_ID: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
