//! GetBucketAcl, PutBucketAcl, GetObjectAcl, PutObjectAcl.

use http::StatusCode;

use super::given::{Given, refuse_blocked};
use super::{Acl, document};
use crate::engine::{Condition, Precondition};
use crate::limits::XML_BYTES_MAX;
use crate::s3::authorize::{ACL, Access, Rules, Standing};
use crate::s3::error::{Code, S3Error};
use crate::s3::get::find;
use crate::s3::payload::Want;
use crate::s3::reply::{self, Reply};
use crate::s3::request::ObjectRef;
use crate::s3::route::not_implemented;
use crate::s3::versioning::missing;
use crate::s3::{Call, S3};

pub(in crate::s3) async fn get_of_bucket(access: &Access<'_>) -> Result<Reply, S3Error> {
    let Standing { owner, rules } = access.standing().await?;
    Ok(reply::xml(document::write(access.s3(), &rules.acl(&owner))))
}

pub(in crate::s3) async fn put_of_bucket(
    call: Call<'_>,
    access: &Access<'_>,
) -> Result<Reply, S3Error> {
    let Standing { owner, rules } = access.standing().await?;
    if !rules.acls_are_on() {
        return without_acls(call, &owner, &rules).await;
    }
    let acl = asked(call, &owner, &owner).await?;
    refuse_blocked(&acl, rules.block)?;
    let text = acl.encode();
    access
        .bucket
        .change_config(move |config| {
            config.documents.insert(ACL.into(), text);
            Ok::<_, S3Error>(())
        })
        .await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(in crate::s3) async fn get_of_object(
    call: &Call<'_>,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let entry = find(call, &access.bucket, object).await?;
    let Standing { owner, rules } = access.standing().await?;
    let acl = if rules.acls_are_on() {
        Acl::of_object(&entry, &owner)
    } else {
        Acl::private(&owner)
    };
    Ok(reply::xml(document::write(access.s3(), &acl)))
}

pub(in crate::s3) async fn put_of_object(
    call: Call<'_>,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let Standing { owner, rules } = access.standing().await?;
    let bucket = &access.bucket;
    let entry = find(&call, bucket, object).await?;
    let current = bucket.head(&object.key).await;
    if !current.is_ok_and(|current| current.version == entry.version) {
        return Err(not_implemented(
            "PutObjectAcl of a version that is not the current one",
        ));
    }
    if !rules.acls_are_on() {
        return without_acls(call, &owner, &rules).await;
    }
    let object_owner = Acl::of_object(&entry, &owner).owner;
    let acl = asked(call, &object_owner, &owner).await?;
    refuse_blocked(&acl, rules.block)?;
    let text = (acl != Acl::private(&owner)).then(|| acl.encode());
    // What was permitted is about the object that was looked at.
    let precondition = Precondition {
        if_match: Some(Condition::OneOf(vec![entry.etag.clone()])),
        ..Precondition::default()
    };
    bucket
        .set_acl(&object.key, text, &precondition)
        .await
        .map_err(|error| missing(error, object, None))?;
    Ok(reply::empty(StatusCode::OK))
}

/// Where ACLs are off, and nobody chose that for this bucket, the ACL that says what is so anyway
/// is taken: tools set it as a part of copying an object.
async fn without_acls(call: Call<'_>, owner: &str, rules: &Rules) -> Result<Reply, S3Error> {
    let is_chosen = rules.is_ownership_chosen;
    match asked(call, owner, owner).await {
        Ok(acl) if !is_chosen && acl == Acl::private(owner) => Ok(reply::empty(StatusCode::OK)),
        Ok(_) | Err(_) => Err(Code::AccessControlListNotSupported.into()),
    }
}

/// The ACL that a request gives: in its headers, or in its body.
async fn asked(call: Call<'_>, owner: &str, bucket_owner: &str) -> Result<Acl, S3Error> {
    let s3: &S3 = call.s3;
    let given = Given::of(s3, &call.head.headers)?;
    let (payload, _room) = call.payload(Want::default()).await?;
    let body = payload.collect(XML_BYTES_MAX).await?;
    let is_empty = body.iter().all(u8::is_ascii_whitespace);
    match (given, is_empty) {
        (Given::Nothing, true) => Err(Code::MissingSecurityHeader.into()),
        (Given::Nothing, false) => document::read(s3, &body, owner),
        (given, true) => Ok(given.into_acl(owner, bucket_owner)),
        (_, false) => Err(S3Error::with_message(
            Code::UnexpectedContent,
            "This request does not support content: the ACL stands in the headers already.",
        )),
    }
}
