//! ACLs that a request gives in its headers: a canned one by name, or grants one by one.

use http::HeaderMap;

use super::{Acl, Grant, Grantee, Permission};
use crate::s3::S3;
use crate::s3::authorize::{Access, Block, Ownership};
use crate::s3::error::{Code, S3Error};
use crate::s3::request::ObjectRef;

/// What the headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Given {
    Nothing,
    Canned(Canned),
    Grants(Vec<Grant>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Canned {
    Private,
    PublicRead,
    PublicReadWrite,
    AuthenticatedRead,
    BucketOwnerRead,
    BucketOwnerFullControl,
    LogDeliveryWrite,
    AwsExecRead,
}

impl Given {
    pub(super) fn of(s3: &S3, headers: &HeaderMap) -> Result<Self, S3Error> {
        let canned = match headers.get(CANNED) {
            None => None,
            Some(value) => Some(Canned::parse(value.to_str().unwrap_or_default())?),
        };
        let mut grants = Vec::new();
        for (header, permission) in GRANTS {
            for value in headers.get_all(header) {
                let text = value.to_str().map_err(|_| bad_grant(header, ""))?;
                for grantee in text.split(',') {
                    let to = grantee_of(s3, header, grantee.trim())?;
                    grants.push(Grant { to, permission });
                }
            }
        }
        match (canned, grants.is_empty()) {
            (None, true) => Ok(Self::Nothing),
            (Some(canned), true) => Ok(Self::Canned(canned)),
            (None, false) => Ok(Self::Grants(grants)),
            (Some(_), false) => Err(S3Error::with_message(
                Code::InvalidRequest,
                "Specifying both Canned ACLs and Header Grants is not allowed",
            )),
        }
    }

    /// The ACL of something that `owner` owns in a bucket of `bucket_owner`.
    pub(super) fn into_acl(self, owner: &str, bucket_owner: &str) -> Acl {
        match self {
            Self::Nothing => Acl::private(owner),
            Self::Canned(canned) => canned.acl(owner, bucket_owner),
            Self::Grants(grants) => Acl {
                owner: owner.into(),
                grants,
            },
        }
    }
}

impl Canned {
    fn parse(text: &str) -> Result<Self, S3Error> {
        Ok(match text {
            "private" => Self::Private,
            "public-read" => Self::PublicRead,
            "public-read-write" => Self::PublicReadWrite,
            "authenticated-read" => Self::AuthenticatedRead,
            "bucket-owner-read" => Self::BucketOwnerRead,
            "bucket-owner-full-control" => Self::BucketOwnerFullControl,
            "log-delivery-write" => Self::LogDeliveryWrite,
            "aws-exec-read" => Self::AwsExecRead,
            other => return Err(S3Error::invalid_argument("Invalid Argument", CANNED, other)),
        })
    }

    fn acl(self, owner: &str, bucket_owner: &str) -> Acl {
        use Permission::{FullControl, Read, ReadAcp, Write};
        let mut acl = Acl::private(owner);
        let mut grant = |to: Grantee, permission| acl.grants.push(Grant { to, permission });
        match self {
            Self::Private | Self::AwsExecRead => {}
            Self::PublicRead => grant(Grantee::AllUsers, Read),
            Self::PublicReadWrite => {
                grant(Grantee::AllUsers, Read);
                grant(Grantee::AllUsers, Write);
            }
            Self::AuthenticatedRead => grant(Grantee::AuthenticatedUsers, Read),
            Self::BucketOwnerRead if owner != bucket_owner => {
                grant(Grantee::User(bucket_owner.into()), Read);
            }
            Self::BucketOwnerFullControl if owner != bucket_owner => {
                grant(Grantee::User(bucket_owner.into()), FullControl);
            }
            Self::BucketOwnerRead | Self::BucketOwnerFullControl => {}
            Self::LogDeliveryWrite => {
                grant(Grantee::LogDelivery, Write);
                grant(Grantee::LogDelivery, ReadAcp);
            }
        }
        acl
    }
}

/// What an object that this request writes keeps about access: nothing, if it is the bucket
/// owner's and nobody else is let in.
///
/// Errors: `AccessControlListNotSupported` where ACLs are off, `AccessDenied` for a public ACL
/// where those are blocked.
pub(in crate::s3) async fn of_write(
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Option<Box<str>>, S3Error> {
    let headers = &access.head().headers;
    let given = Given::of(access.s3(), headers)?;
    let standing = access.standing().await?;
    let (bucket_owner, rules) = (&*standing.owner, &standing.rules);
    if !rules.acls_are_on() {
        return match given {
            Given::Nothing | Given::Canned(Canned::BucketOwnerFullControl) => Ok(None),
            // Some clients always send it. It says what is so anyway, but who switched ACLs off
            // wants them refused as S3 refuses them.
            Given::Canned(Canned::Private) if !rules.is_ownership_chosen => Ok(None),
            Given::Canned(_) | Given::Grants(_) => Err(Code::AccessControlListNotSupported.into()),
        };
    }
    let hands_over = rules.ownership == Ownership::BucketOwnerPreferred
        && given == Given::Canned(Canned::BucketOwnerFullControl);
    let owner = match access.caller_id() {
        Some(caller) if !hands_over => caller,
        // What nobody with a name wrote is the bucket owner's.
        _ => bucket_owner,
    };
    if given != Given::Nothing {
        // Who writes an object says whom it lets in, unless a statement forbids it.
        access
            .refuse_denied("s3:PutObjectAcl", Some(&object.key))
            .await?;
    }
    let acl = given.into_acl(owner, bucket_owner);
    refuse_blocked(&acl, rules.block)?;
    Ok((acl != Acl::private(bucket_owner)).then(|| acl.encode()))
}

/// The ACL that CreateBucket gives, if it is not the owner's full control alone.
pub(in crate::s3) fn of_new_bucket(
    s3: &S3,
    headers: &HeaderMap,
    owner: &str,
    ownership: Ownership,
) -> Result<Option<Acl>, S3Error> {
    let given = Given::of(s3, headers)?;
    let is_given = given != Given::Nothing;
    let acl = given.into_acl(owner, owner);
    if acl == Acl::private(owner) {
        return Ok(None);
    }
    if is_given && ownership == Ownership::BucketOwnerEnforced {
        return Err(S3Error::with_message(
            Code::InvalidBucketAclWithObjectOwnership,
            "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
        ));
    }
    Ok(Some(acl))
}

/// `BlockPublicAcls`.
pub(super) fn refuse_blocked(acl: &Acl, block: Block) -> Result<(), S3Error> {
    if block.block_public_acls && acl.is_public() {
        return Err(S3Error::with_message(
            Code::AccessDenied,
            "Access Denied: public ACLs are blocked by the bucket's public access block.",
        ));
    }
    Ok(())
}

/// `id="..."`, `uri="..."` or `emailAddress="..."`.
fn grantee_of(s3: &S3, header: &'static str, text: &str) -> Result<Grantee, S3Error> {
    let bad = || bad_grant(header, text);
    let (kind, value) = text.split_once('=').ok_or_else(bad)?;
    let value = value.trim().trim_matches('"');
    match kind.trim().to_ascii_lowercase().as_str() {
        "id" => user(s3, value),
        "uri" => Grantee::group(value).ok_or_else(bad),
        "emailaddress" => Err(unresolvable(value)),
        _ => Err(bad()),
    }
}

/// A user that there is.
pub(super) fn user(s3: &S3, id: &str) -> Result<Grantee, S3Error> {
    match s3.users.load().by_id(id) {
        Some(user) => Ok(Grantee::User(user.id.clone())),
        None => Err(S3Error::invalid_argument(
            "Invalid id",
            "CanonicalUser/ID",
            id,
        )),
    }
}

/// Users have no mail addresses here.
pub(super) fn unresolvable(email: &str) -> S3Error {
    S3Error::new(Code::UnresolvableGrantByEmailAddress).detail("EmailAddress", email)
}

fn bad_grant(header: &'static str, value: &str) -> S3Error {
    S3Error::invalid_argument("Argument format not recognized", header, value)
}

const CANNED: &str = "x-amz-acl";
const GRANTS: [(&str, Permission); 5] = [
    ("x-amz-grant-read", Permission::Read),
    ("x-amz-grant-write", Permission::Write),
    ("x-amz-grant-read-acp", Permission::ReadAcp),
    ("x-amz-grant-write-acp", Permission::WriteAcp),
    ("x-amz-grant-full-control", Permission::FullControl),
];
