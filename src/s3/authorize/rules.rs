//! What a bucket says about who may do what: its documents, understood once for each change.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::{BucketConfig, BucketName};
use crate::s3::acl::Acl;
use crate::s3::auth::policy::{Policy, PolicyError};

/// Names of documents of a bucket.
pub(in crate::s3) const POLICY: &str = "policy";
pub(in crate::s3) const PUBLIC_ACCESS: &str = "publicAccessBlock";
pub(in crate::s3) const OWNERSHIP: &str = "ownershipControls";
pub(in crate::s3) const ACL: &str = "acl";

/// A bucket's documents about access. What cannot be read allows nothing.
#[derive(Debug)]
pub(in crate::s3) struct Rules {
    /// `Err`: there is one that cannot be understood.
    pub(in crate::s3) policy: Option<Result<Policy, ()>>,
    pub(in crate::s3) block: Block,
    pub(in crate::s3) ownership: Ownership,
    /// Somebody chose it for this bucket.
    pub(in crate::s3) is_ownership_chosen: bool,
    acl: Option<Acl>,
}

/// Who owns new objects, and whether there are ACLs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ownership {
    /// The bucket's owner owns everything; ACLs are off.
    #[default]
    BucketOwnerEnforced,
    /// As `ObjectWriter`, but who hands full control to the bucket's owner hands over the object.
    BucketOwnerPreferred,
    /// Whoever wrote an object owns it; ACLs count.
    ObjectWriter,
}

impl Ownership {
    pub(in crate::s3) fn as_str(self) -> &'static str {
        match self {
            Self::BucketOwnerEnforced => "BucketOwnerEnforced",
            Self::BucketOwnerPreferred => "BucketOwnerPreferred",
            Self::ObjectWriter => "ObjectWriter",
        }
    }

    pub(in crate::s3) fn parse(text: &str) -> Option<Self> {
        [
            Self::BucketOwnerEnforced,
            Self::BucketOwnerPreferred,
            Self::ObjectWriter,
        ]
        .into_iter()
        .find(|one| one.as_str() == text)
    }
}

/// The four switches of Block Public Access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::s3) struct Block {
    /// ACLs that let everybody in are refused.
    pub(in crate::s3) block_public_acls: bool,
    /// They count for nothing.
    pub(in crate::s3) ignore_public_acls: bool,
    /// Policies that let everybody in are refused.
    pub(in crate::s3) block_public_policy: bool,
    /// They let in the bucket's owner alone.
    pub(in crate::s3) restrict_public_buckets: bool,
}

impl Block {
    pub(in crate::s3) const ALL: Self = Self {
        block_public_acls: true,
        ignore_public_acls: true,
        block_public_policy: true,
        restrict_public_buckets: true,
    };
}

impl Rules {
    fn plain(ownership: Ownership) -> Self {
        Self {
            policy: None,
            block: Block::default(),
            ownership,
            is_ownership_chosen: false,
            acl: None,
        }
    }

    fn read(name: &BucketName, config: &BucketConfig, ownership: Ownership) -> Self {
        let get = |document: &str| config.documents.get(document).map(|text| &**text);
        let policy = get(POLICY).map(|text| {
            parse_policy(text, name).map_err(|error| {
                tracing::error!(bucket = %name, %error,
                    "the bucket's policy cannot be understood; it denies everything");
            })
        });
        let block = get(PUBLIC_ACCESS).map_or(Block::default(), |text| {
            serde_json::from_str(text).unwrap_or(Block::ALL)
        });
        let ownership = match get(OWNERSHIP) {
            None => ownership,
            // After DeleteBucketOwnershipControls.
            Some("") => Ownership::ObjectWriter,
            Some(text) => Ownership::parse(text).unwrap_or(Ownership::BucketOwnerEnforced),
        };
        Self {
            policy,
            block,
            ownership,
            is_ownership_chosen: get(OWNERSHIP).is_some(),
            acl: get(ACL).map(|text| Acl::decode(text).unwrap_or_default()),
        }
    }

    /// The bucket's owner, and nobody else, may do everything.
    pub(super) fn is_plain(&self) -> bool {
        self.policy.is_none() && !self.acls_are_on()
    }

    pub(in crate::s3) fn acls_are_on(&self) -> bool {
        self.ownership != Ownership::BucketOwnerEnforced
    }

    /// The bucket's ACL; its owner's full control if nobody set one.
    pub(in crate::s3) fn acl(&self, owner: &str) -> Acl {
        match &self.acl {
            Some(acl) if self.acls_are_on() => Acl {
                owner: owner.into(),
                grants: acl.grants.clone(),
            },
            _ => Acl::private(owner),
        }
    }
}

pub(in crate::s3) fn parse_policy(text: &str, bucket: &BucketName) -> Result<Policy, PolicyError> {
    Policy::of_bucket(text, bucket.as_str())
}

/// The rules of all buckets, each understood when it is first asked about.
pub(in crate::s3) struct RuleBook {
    /// Of a bucket without documents about access.
    plain: Arc<Rules>,
    known: quick_cache::sync::Cache<BucketName, Known>,
}

/// The configuration that the rules were read from.
type Known = (Arc<BucketConfig>, Arc<Rules>);

impl RuleBook {
    /// `ownership`: of buckets whose owner did not choose one.
    pub(in crate::s3) fn new(ownership: Ownership) -> Self {
        Self {
            plain: Arc::new(Rules::plain(ownership)),
            known: quick_cache::sync::Cache::new(BUCKETS_MAX),
        }
    }

    /// Of buckets whose owner did not choose one.
    pub(in crate::s3) fn ownership(&self) -> Ownership {
        self.plain.ownership
    }

    pub(in crate::s3) fn of(&self, name: &BucketName, config: &Arc<BucketConfig>) -> Arc<Rules> {
        let has = |document: &str| config.documents.contains_key(document);
        if config.documents.is_empty()
            || ![POLICY, PUBLIC_ACCESS, OWNERSHIP, ACL]
                .iter()
                .any(|it| has(it))
        {
            return Arc::clone(&self.plain);
        }
        if let Some((read_from, rules)) = self.known.get(name)
            && Arc::ptr_eq(&read_from, config)
        {
            return rules;
        }
        let rules = Arc::new(Rules::read(name, config, self.plain.ownership));
        let known = (Arc::clone(config), Arc::clone(&rules));
        self.known.insert(name.clone(), known);
        rules
    }
}

impl fmt::Debug for RuleBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleBook")
            .field("plain", &self.plain)
            .finish_non_exhaustive()
    }
}

/// Buckets whose rules are kept; those of others are read again.
const BUCKETS_MAX: usize = 1024;
