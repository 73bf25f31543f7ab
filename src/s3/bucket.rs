//! The verbs about a bucket itself.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::authorize::{ACL, OWNERSHIP, Ownership, named, owner_id, permit_outside, user};
use super::error::{Code, S3Error};
use super::payload::Want;
use super::reply::{self, Reply};
use super::xml::{Element, Writer, malformed};
use super::{Call, S3, acl, headers, object_lock};
use crate::engine::{BucketConfig, BucketLock, BucketName, EngineError, Versioning};
use crate::limits::XML_BYTES_MAX;

/// CreateBucket. Asking again for a bucket of one's own is 200 in us-east-1 and 409 elsewhere.
pub(super) async fn create(call: Call<'_>, name: &BucketName) -> Result<Reply, S3Error> {
    let user = user(call.identity())?.clone();
    let (s3, head) = (call.s3, call.head);
    permit_outside(
        s3,
        &user,
        (head, call.local),
        "s3:CreateBucket",
        name.as_str(),
    )?;
    headers::refuse_unsupported(&head.headers)?;
    let documents = documents_of(s3, &head.headers, &user.id)?;
    let is_locked = object_lock::of_new_bucket(&head.headers)?;
    if is_locked {
        for action in [
            "s3:PutBucketObjectLockConfiguration",
            "s3:PutBucketVersioning",
        ] {
            permit_outside(s3, &user, (head, call.local), action, name.as_str())?;
        }
    }
    let (payload, _room) = call.payload(Want::default()).await?;
    let body = payload.collect(XML_BYTES_MAX).await?;
    check_location(&body, &s3.region)?;
    match s3.engines.bucket(name).await {
        Ok(bucket) => {
            let config = bucket.config().await?;
            if *owner_id(s3, &config) != *user.id {
                return Err(named(Code::BucketAlreadyExists.into(), name));
            }
            if *s3.region != *DEFAULT_REGION {
                return Err(named(Code::BucketAlreadyOwnedByYou.into(), name));
            }
            // Neither what is asked for nor what is there is passed over in silence.
            let now = &config.documents;
            let asked = documents.get(OWNERSHIP);
            let is_same_ownership = asked.is_none() || asked == now.get(OWNERSHIP);
            let lacks_lock = is_locked && config.lock.is_none();
            if documents.get(ACL) != now.get(ACL) || !is_same_ownership || lacks_lock {
                let error = S3Error::with_message(
                    Code::BucketAlreadyExists,
                    "You own this bucket already, with another ACL, other ownership controls or \
                     without object lock.",
                );
                return Err(named(error, name));
            }
        }
        Err(EngineError::NoSuchBucket) => {
            let mut config = BucketConfig::new(Some(user.id.clone()), s3.clock.now());
            config.documents = documents;
            if is_locked {
                config.versioning = Some(Versioning::Enabled);
                config.lock = Some(BucketLock::default());
            }
            s3.engines
                .create_bucket(name, config)
                .await
                .map_err(|error| named(error.into(), name))?;
        }
        Err(error) => return Err(error.into()),
    }
    let mut reply = reply::empty(StatusCode::OK);
    reply::insert(reply.headers_mut(), header::LOCATION, &format!("/{name}"));
    Ok(reply)
}

/// What the headers say about access to the new bucket.
fn documents_of(
    s3: &S3,
    headers: &HeaderMap,
    owner: &str,
) -> Result<BTreeMap<Box<str>, Box<str>>, S3Error> {
    const HEADER: &str = "x-amz-object-ownership";
    let mut documents = BTreeMap::new();
    let chosen = match headers
        .get(HEADER)
        .map(|value| value.to_str().unwrap_or_default())
    {
        None => None,
        Some(text) => Some(Ownership::parse(text).ok_or_else(|| {
            S3Error::invalid_argument("Invalid x-amz-object-ownership header", HEADER, text)
        })?),
    };
    if let Some(ownership) = chosen {
        documents.insert(OWNERSHIP.into(), ownership.as_str().into());
    }
    let ownership = chosen.unwrap_or(s3.rules.ownership());
    if let Some(acl) = acl::of_new_bucket(s3, headers, owner, ownership)? {
        documents.insert(ACL.into(), acl.encode());
    }
    Ok(documents)
}

/// An empty body, or a CreateBucketConfiguration whose region is this server's. `us-east-1` is
/// always accepted: clients send it although S3 refuses it there.
fn check_location(body: &[u8], region: &str) -> Result<(), S3Error> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    let root = Element::parse(body, "CreateBucketConfiguration")?;
    root.only(&["LocationConstraint", "Location", "Bucket", "Tags"])?;
    for element in ["Location", "Bucket", "Tags"] {
        if root.child(element).is_some() {
            return Err(super::route::not_implemented(&format!(
                "CreateBucket with {element}"
            )));
        }
    }
    match root.text_of("LocationConstraint")?.map(str::trim) {
        None | Some("") => Ok(()),
        Some(asked) if asked == region || asked == DEFAULT_REGION => Ok(()),
        Some(asked) if asked.len() > 64 => Err(malformed("LocationConstraint is too long")),
        Some(asked) => Err(S3Error::with_message(
            Code::InvalidLocationConstraint,
            format!("This server's region is {region}; it has no region of the name given."),
        )
        .detail("LocationConstraint", asked)),
    }
}

/// HeadBucket: that the bucket could be entered is the answer.
pub(super) async fn head(call: &Call<'_>) -> Result<Reply, S3Error> {
    let mut reply = reply::empty(StatusCode::OK);
    let region = HeaderValue::from_str(&call.s3.region);
    if let Ok(region) = region {
        reply.headers_mut().insert("x-amz-bucket-region", region);
    }
    Ok(reply)
}

pub(super) async fn delete(call: &Call<'_>, name: &BucketName) -> Result<Reply, S3Error> {
    call.s3
        .engines
        .delete_bucket(name)
        .await
        .map_err(|error| named(error.into(), name))?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// GetBucketLocation: us-east-1 is the empty element, for historical reasons of S3's.
pub(super) async fn location(call: &Call<'_>) -> Result<Reply, S3Error> {
    let region = if *call.s3.region == *DEFAULT_REGION {
        ""
    } else {
        &call.s3.region
    };
    let mut page = Writer::document("LocationConstraint");
    page.text(region);
    Ok(reply::xml(page.finish("LocationConstraint")))
}

const DEFAULT_REGION: &str = "us-east-1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_this_region_or_us_east_1() {
        let body = |region: &str| {
            format!(
                "<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            )
        };
        assert!(check_location(b"", "eu-1").is_ok());
        for (region, ok) in [
            ("eu-1", true),
            ("us-east-1", true),
            ("", true),
            ("mars", false),
        ] {
            assert_eq!(
                check_location(body(region).as_bytes(), "eu-1").is_ok(),
                ok,
                "{region}"
            );
        }
        assert_eq!(
            check_location(b"<x/>", "eu-1").unwrap_err().code,
            Code::MalformedXML
        );
    }
}
