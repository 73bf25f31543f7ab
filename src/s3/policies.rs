//! The verbs about who may do what in a bucket: its policy, its public access block, its ownership
//! controls.

use http::StatusCode;

use super::Call;
use super::acl::Acl;
use super::authorize::{
    Access, Block, OWNERSHIP, Ownership, POLICY, PUBLIC_ACCESS, Standing, parse_policy,
};
use super::error::{Code, S3Error};
use super::payload::Want;
use super::reply::{self, Reply};
use super::xml::{Element, Writer, malformed};
use crate::limits::{POLICY_BYTES_MAX, XML_BYTES_MAX};

/// GetBucketPolicy: the text as it was put.
pub(super) async fn get_policy(access: &Access<'_>) -> Result<Reply, S3Error> {
    let config = access.bucket.config().await?;
    match config.documents.get(POLICY) {
        Some(text) => Ok(reply::json(text.to_string())),
        None => {
            Err(S3Error::new(Code::NoSuchBucketPolicy).detail("BucketName", access.name.as_str()))
        }
    }
}

/// PutBucketPolicy: understood as a whole, or refused.
pub(super) async fn put_policy(call: Call<'_>, access: &Access<'_>) -> Result<Reply, S3Error> {
    let (payload, _room) = call.payload(Want::default()).await?;
    // A little more, so that a policy that is too long is told from a body that is none.
    let body = payload.collect(2 * POLICY_BYTES_MAX).await?;
    let refused = |why: String| S3Error::with_message(Code::MalformedPolicy, why);
    let text = str::from_utf8(&body).map_err(|_| refused("the policy is not UTF-8".into()))?;
    let policy = parse_policy(text, &access.name).map_err(|why| refused(why.to_string()))?;
    let Standing { rules, .. } = access.standing().await?;
    if rules.block.block_public_policy && policy.is_public() {
        return Err(S3Error::with_message(
            Code::AccessDenied,
            "Access Denied: public policies are blocked by the bucket's public access block.",
        ));
    }
    set(access, POLICY, Some(text.into())).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(super) async fn delete_policy(access: &Access<'_>) -> Result<Reply, S3Error> {
    set(access, POLICY, None).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// GetBucketPolicyStatus: whether policy or ACL let everybody in.
pub(super) async fn policy_status(access: &Access<'_>) -> Result<Reply, S3Error> {
    let Standing { owner, rules } = access.standing().await?;
    let by_policy = matches!(&rules.policy, Some(Ok(policy)) if policy.is_public())
        && !rules.block.restrict_public_buckets;
    let by_acl = rules.acl(&owner).is_public() && !rules.block.ignore_public_acls;
    let mut page = Writer::document("PolicyStatus");
    page.boolean("IsPublic", by_policy || by_acl);
    Ok(reply::xml(page.finish("PolicyStatus")))
}

pub(super) async fn get_public_access(access: &Access<'_>) -> Result<Reply, S3Error> {
    let Standing { rules, .. } = access.standing().await?;
    let config = access.bucket.config().await?;
    if !config.documents.contains_key(PUBLIC_ACCESS) {
        return Err(S3Error::new(Code::NoSuchPublicAccessBlockConfiguration)
            .detail("BucketName", access.name.as_str()));
    }
    let mut page = Writer::document("PublicAccessBlockConfiguration");
    for (name, value) in SWITCHES.iter().zip(switches(rules.block)) {
        page.boolean(name, value);
    }
    Ok(reply::xml(page.finish("PublicAccessBlockConfiguration")))
}

pub(super) async fn put_public_access(
    call: Call<'_>,
    access: &Access<'_>,
) -> Result<Reply, S3Error> {
    let (payload, _room) = call.payload(Want::default()).await?;
    let body = payload.collect(XML_BYTES_MAX).await?;
    let root = Element::parse(&body, "PublicAccessBlockConfiguration")?;
    root.only(&SWITCHES)?;
    let switch = |name: &str| match root.text_of(name)?.map(str::trim) {
        None => Ok(false),
        Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(malformed(&format!("{name} is neither true nor false"))),
    };
    let [block_acls, ignore_acls, block_policy, restrict] = SWITCHES;
    let block = Block {
        block_public_acls: switch(block_acls)?,
        ignore_public_acls: switch(ignore_acls)?,
        block_public_policy: switch(block_policy)?,
        restrict_public_buckets: switch(restrict)?,
    };
    // Plain data always has a JSON form.
    let text = serde_json::to_string(&block).unwrap_or_default();
    set(access, PUBLIC_ACCESS, Some(text.into())).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(super) async fn delete_public_access(access: &Access<'_>) -> Result<Reply, S3Error> {
    set(access, PUBLIC_ACCESS, None).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// GetBucketOwnershipControls. A bucket has some, unless they were deleted, or it is new where
/// the server makes buckets as S3 did before it had them.
pub(super) async fn get_ownership(access: &Access<'_>) -> Result<Reply, S3Error> {
    let Standing { rules, .. } = access.standing().await?;
    let config = access.bucket.config().await?;
    let has_some = match config.documents.get(OWNERSHIP) {
        Some(text) => !text.is_empty(),
        None => rules.ownership == Ownership::BucketOwnerEnforced,
    };
    if !has_some {
        return Err(S3Error::new(Code::OwnershipControlsNotFoundError)
            .detail("BucketName", access.name.as_str()));
    }
    let mut page = Writer::document("OwnershipControls");
    page.open("Rule");
    page.leaf("ObjectOwnership", rules.ownership.as_str());
    page.close("Rule");
    Ok(reply::xml(page.finish("OwnershipControls")))
}

/// PutBucketOwnershipControls. ACLs cannot be switched off while the bucket's lets others in.
pub(super) async fn put_ownership(call: Call<'_>, access: &Access<'_>) -> Result<Reply, S3Error> {
    let (payload, _room) = call.payload(Want::default()).await?;
    let body = payload.collect(XML_BYTES_MAX).await?;
    let root = Element::parse(&body, "OwnershipControls")?;
    root.only(&["Rule"])?;
    let [rule] = root.children.as_slice() else {
        return Err(malformed("it must have one Rule"));
    };
    rule.only(&["ObjectOwnership"])?;
    let ownership = rule
        .text_of("ObjectOwnership")?
        .and_then(|text| Ownership::parse(text.trim()))
        .ok_or_else(|| malformed("ObjectOwnership is not one of S3's three"))?;
    let Standing { owner, rules } = access.standing().await?;
    if ownership == Ownership::BucketOwnerEnforced && rules.acl(&owner) != Acl::private(&owner) {
        return Err(S3Error::with_message(
            Code::InvalidBucketAclWithObjectOwnership,
            "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
        ));
    }
    set(access, OWNERSHIP, Some(ownership.as_str().into())).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(super) async fn delete_ownership(access: &Access<'_>) -> Result<Reply, S3Error> {
    set(access, OWNERSHIP, Some("".into())).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Replaces a document of the bucket, or removes it.
async fn set(
    access: &Access<'_>,
    name: &'static str,
    text: Option<Box<str>>,
) -> Result<(), S3Error> {
    access
        .bucket
        .change_config(move |config| {
            match text {
                Some(text) => config.documents.insert(name.into(), text),
                None => config.documents.remove(name),
            };
            Ok::<_, S3Error>(())
        })
        .await?;
    Ok(())
}

fn switches(block: Block) -> [bool; 4] {
    [
        block.block_public_acls,
        block.ignore_public_acls,
        block.block_public_policy,
        block.restrict_public_buckets,
    ]
}

const SWITCHES: [&str; 4] = [
    "BlockPublicAcls",
    "IgnorePublicAcls",
    "BlockPublicPolicy",
    "RestrictPublicBuckets",
];
