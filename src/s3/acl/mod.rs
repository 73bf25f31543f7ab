//! Access control lists: who owns a bucket or an object, and whom its grants let in.
//!
//! They count only where the bucket's ownership setting has them on. Reading order: the types here,
//! `given` (canned ACLs and grants in headers), `document` (the XML), `verbs`.

mod document;
mod given;
mod verbs;

use serde::{Deserialize, Serialize};

use crate::engine::Entry;

pub(super) use given::{of_new_bucket, of_write};
pub(super) use verbs::{get_of_bucket, get_of_object, put_of_bucket, put_of_object};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Acl {
    /// Owner id.
    pub(super) owner: Box<str>,
    pub(super) grants: Vec<Grant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grant {
    pub(super) to: Grantee,
    pub(super) permission: Permission,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Grantee {
    /// Owner id.
    User(Box<str>),
    AllUsers,
    AuthenticatedUsers,
    /// Who writes access logs: nobody here.
    LogDelivery,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Permission {
    Read,
    Write,
    ReadAcp,
    WriteAcp,
    FullControl,
}

impl Acl {
    /// The owner's full control.
    pub(super) fn private(owner: &str) -> Self {
        let grant = Grant {
            to: Grantee::User(owner.into()),
            permission: Permission::FullControl,
        };
        Self {
            owner: owner.into(),
            grants: vec![grant],
        }
    }

    /// The ACL of an object; the bucket owner's full control if it has none. One that cannot be
    /// read lets in nobody.
    pub(super) fn of_object(entry: &Entry, bucket_owner: &str) -> Self {
        match &entry.metadata.acl {
            None => Self::private(bucket_owner),
            Some(text) => Self::decode(text).unwrap_or_default(),
        }
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// As it is kept.
    pub(super) fn encode(&self) -> Box<str> {
        // Plain data always has a JSON form.
        serde_json::to_string(self).unwrap_or_default().into()
    }

    /// Whether it lets the caller do the action. The owner may always read and change the ACL.
    pub(super) fn allows(&self, caller: Option<&str>, action: &str, ignore_public: bool) -> bool {
        let of_object = Permission::of_object_action(action);
        let Some(needed) = of_object.or_else(|| Permission::of_bucket_action(action)) else {
            return false;
        };
        let about_acl = matches!(needed, Permission::ReadAcp | Permission::WriteAcp);
        if about_acl && caller.is_some_and(|caller| *caller == *self.owner) {
            return true;
        }
        self.grants.iter().any(|grant| {
            let permission = grant.permission;
            let is_named = match &grant.to {
                Grantee::User(id) => caller.is_some_and(|caller| *caller == **id),
                Grantee::AllUsers => !ignore_public,
                Grantee::AuthenticatedUsers => !ignore_public && caller.is_some(),
                Grantee::LogDelivery => false,
            };
            is_named && (permission == needed || permission == Permission::FullControl)
        })
    }

    /// Whether it lets in everybody, or everybody with a key.
    pub(super) fn is_public(&self) -> bool {
        let is_group = |to: &Grantee| matches!(to, Grantee::AllUsers | Grantee::AuthenticatedUsers);
        self.grants.iter().any(|grant| is_group(&grant.to))
    }
}

impl Permission {
    pub(super) const ALL: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::ReadAcp,
        Self::WriteAcp,
        Self::FullControl,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "READ",
            Self::Write => "WRITE",
            Self::ReadAcp => "READ_ACP",
            Self::WriteAcp => "WRITE_ACP",
            Self::FullControl => "FULL_CONTROL",
        }
    }

    /// What the ACL of the object must give for this action, if it is the one that counts ("Mapping
    /// of ACL permissions and access policy permissions" in S3's guide).
    pub(super) fn of_object_action(action: &str) -> Option<Self> {
        Some(match action {
            "s3:GetObject" | "s3:GetObjectVersion" | "s3:GetObjectTorrent" => Self::Read,
            "s3:GetObjectAcl" | "s3:GetObjectVersionAcl" => Self::ReadAcp,
            "s3:PutObjectAcl" | "s3:PutObjectVersionAcl" => Self::WriteAcp,
            _ => return None,
        })
    }

    fn of_bucket_action(action: &str) -> Option<Self> {
        Some(match action {
            "s3:ListBucket" | "s3:ListBucketVersions" | "s3:ListBucketMultipartUploads" => {
                Self::Read
            }
            "s3:PutObject" | "s3:DeleteObject" => Self::Write,
            "s3:GetBucketAcl" => Self::ReadAcp,
            "s3:PutBucketAcl" => Self::WriteAcp,
            _ => return None,
        })
    }
}

impl Grantee {
    pub(super) fn group(uri: &str) -> Option<Self> {
        match uri {
            ALL_USERS => Some(Self::AllUsers),
            AUTHENTICATED_USERS => Some(Self::AuthenticatedUsers),
            LOG_DELIVERY => Some(Self::LogDelivery),
            _ => None,
        }
    }

    fn uri(&self) -> Option<&'static str> {
        match self {
            Self::User(_) => None,
            Self::AllUsers => Some(ALL_USERS),
            Self::AuthenticatedUsers => Some(AUTHENTICATED_USERS),
            Self::LogDelivery => Some(LOG_DELIVERY),
        }
    }
}

const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
const AUTHENTICATED_USERS: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";
const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(to: Grantee, permission: Permission) -> Acl {
        Acl {
            owner: "olga".into(),
            grants: vec![Grant { to, permission }],
        }
    }

    #[test]
    fn a_grant_lets_in_whom_it_names_for_what_it_says() {
        use Grantee::{AllUsers, AuthenticatedUsers, LogDelivery, User};
        use Permission::{FullControl, Read, ReadAcp, Write, WriteAcp};
        let ann = || User("ann".into());
        for (to, permission, caller, action, allowed) in [
            (ann(), Read, Some("ann"), "s3:GetObject", true),
            (ann(), Read, Some("ann"), "s3:ListBucket", true),
            (ann(), Read, Some("ann"), "s3:PutObject", false),
            (ann(), Read, Some("ann"), "s3:GetObjectAcl", false),
            (ann(), Read, Some("ann"), "s3:GetBucketPolicy", false),
            (ann(), Read, Some("bob"), "s3:GetObject", false),
            (ann(), Read, None, "s3:GetObject", false),
            (ann(), Write, Some("ann"), "s3:PutObject", true),
            (ann(), Write, Some("ann"), "s3:DeleteObject", true),
            (ann(), Write, Some("ann"), "s3:ListBucket", false),
            (ann(), ReadAcp, Some("ann"), "s3:GetBucketAcl", true),
            (ann(), ReadAcp, Some("ann"), "s3:PutBucketAcl", false),
            (ann(), WriteAcp, Some("ann"), "s3:PutObjectAcl", true),
            (ann(), WriteAcp, Some("ann"), "s3:GetObjectAcl", false),
            (ann(), FullControl, Some("ann"), "s3:PutObjectAcl", true),
            (ann(), FullControl, Some("ann"), "s3:GetObject", true),
            (ann(), FullControl, Some("ann"), "s3:DeleteBucket", false),
            (ann(), FullControl, Some("ann"), "s3:PutBucketPolicy", false),
            (AllUsers, Read, None, "s3:GetObject", true),
            (AllUsers, Read, Some("bob"), "s3:GetObject", true),
            (AuthenticatedUsers, Read, None, "s3:GetObject", false),
            (AuthenticatedUsers, Read, Some("bob"), "s3:GetObject", true),
            (LogDelivery, Write, None, "s3:PutObject", false),
            (LogDelivery, Write, Some("bob"), "s3:PutObject", false),
            (ann(), Read, Some("olga"), "s3:GetObjectAcl", true),
            (ann(), Read, Some("olga"), "s3:PutObjectAcl", true),
            (ann(), Read, Some("olga"), "s3:GetObject", false),
        ] {
            let acl = acl(to, permission);
            let is_public = acl.is_public();
            assert_eq!(
                acl.allows(caller, action, false),
                allowed,
                "{acl:?} {caller:?} {action}"
            );
            let ignoring = acl.allows(caller, action, true);
            assert_eq!(
                ignoring,
                allowed && !is_public,
                "{acl:?} {caller:?} {action}"
            );
        }
    }

    #[test]
    fn sec_acl_fail_open_what_cannot_be_read_lets_in_nobody() {
        let whole = acl(Grantee::AllUsers, Permission::Read);
        assert_eq!(Acl::decode(&whole.encode()), Some(whole.clone()));
        let text = whole.encode();
        for cut in 0..text.len() {
            assert_eq!(Acl::decode(&text[..cut]), None);
        }
        let unread = Acl::default();
        assert!(!unread.allows(None, "s3:GetObject", false));
        assert!(!unread.allows(Some("ann"), "s3:GetObjectAcl", false));
    }
}
