//! The verbs about a bucket itself.

use http::{HeaderValue, StatusCode, header};

use super::authorize::{named, owner_id, user};
use super::error::{Code, S3Error};
use super::payload::Want;
use super::reply::{self, Reply};
use super::xml::{Element, Writer, malformed};
use super::{Call, headers};
use crate::engine::{Bucket, BucketConfig, BucketName, EngineError};
use crate::limits::XML_BYTES_MAX;

/// CreateBucket. Asking again for a bucket of one's own is 200 in us-east-1 and 409 elsewhere.
pub(super) async fn create(call: Call<'_>, name: &BucketName) -> Result<Reply, S3Error> {
    let user = user(call.identity())?.clone();
    let (s3, head) = (call.s3, call.head);
    headers::refuse_unsupported(&head.headers)?;
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
        }
        Err(EngineError::NoSuchBucket) => {
            let config = BucketConfig::new(Some(user.id.clone()), s3.clock.now());
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

/// GetBucketVersioning of a bucket that never had it: the empty element.
pub(super) async fn versioning() -> Result<Reply, S3Error> {
    Ok(reply::xml(
        Writer::document("VersioningConfiguration").finish("VersioningConfiguration"),
    ))
}

/// GetBucketAcl and GetObjectAcl: ACLs are off (BucketOwnerEnforced), so the bucket's owner has
/// full control, and nobody else anything by ACL.
pub(super) async fn acl(call: &Call<'_>, bucket: &Bucket) -> Result<Reply, S3Error> {
    let config = bucket.config().await?;
    let id = owner_id(call.s3, &config);
    let users = call.s3.users.load();
    let name = users
        .by_id(&id)
        .map_or_else(|| id.clone(), |user| user.name.clone());
    let mut page = Writer::document("AccessControlPolicy");
    page.person("Owner", &id, &name);
    page.open("AccessControlList");
    page.open("Grant");
    page.raw(
        "<Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
         xsi:type=\"CanonicalUser\">",
    );
    page.leaf("ID", &id);
    page.leaf("DisplayName", &name);
    page.close("Grantee");
    page.leaf("Permission", "FULL_CONTROL");
    page.close("Grant");
    page.close("AccessControlList");
    Ok(reply::xml(page.finish("AccessControlPolicy")))
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
