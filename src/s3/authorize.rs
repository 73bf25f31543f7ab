//! Who may do what. Each request is asked about once, before its verb: the operation's action on
//! the bucket or the object, decided by `auth::policy` from the user's policies, the bucket's
//! policy and its owner, and then by the ACLs where the bucket has them.
//!
//! Reading order: [`enter`], [`Access::require`], `actions` (which action an operation is),
//! `rules` (what a bucket says), `context` (what conditions may ask about a request).

mod actions;
mod context;
mod rules;

use std::borrow::Cow;
use std::sync::Arc;

use http::request::Parts;

use super::S3;
use super::acl::{Acl, Permission};
use super::auth::policy::{self, BucketPolicy, Caller, Case, Decision, Relation};
use super::auth::{Identity, User};
use super::error::{Code, S3Error};
use super::quota::Room;
use super::request::{self, Local};
use super::route::Operation;
use crate::engine::{
    Bucket, BucketConfig, BucketName, EngineError, Entry, ObjectKey, UploadId, VersionId,
};

pub use rules::Ownership;
pub(super) use rules::{
    ACL, Block, OWNERSHIP, POLICY, PUBLIC_ACCESS, RuleBook, Rules, parse_policy,
};

/// One caller in one bucket.
#[derive(Debug)]
pub(super) struct Access<'a> {
    s3: &'a S3,
    who: Identity,
    head: &'a Parts,
    local: &'a Local,
    pub(super) name: BucketName,
    pub(super) bucket: Bucket,
    /// The version of an object that is meant: the query's, or that of a copy source. `None` too
    /// for the root user, whom nothing is asked about.
    version: Option<VersionId>,
    /// `None` until somebody needs it: the root user mostly does not.
    standing: Option<Standing>,
}

/// What the bucket says, and whose it is.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) owner: Box<str>,
    pub(super) rules: Arc<Rules>,
}

/// Finds the bucket. Nothing is permitted by that.
///
/// A bucket that does not exist is `NoSuchBucket` for everybody, as on S3.
pub(super) async fn enter<'a>(
    s3: &'a S3,
    who: &Identity,
    head: &'a Parts,
    local: &'a Local,
    name: &BucketName,
) -> Result<Access<'a>, S3Error> {
    enter_as(s3, who, (head, local), name, "x-amz-expected-bucket-owner").await
}

/// `expecting`: the header in which the client says whose bucket it takes this for.
async fn enter_as<'a>(
    s3: &'a S3,
    who: &Identity,
    (head, local): (&'a Parts, &'a Local),
    name: &BucketName,
    expecting: &str,
) -> Result<Access<'a>, S3Error> {
    let bucket = s3
        .engines
        .bucket(name)
        .await
        .map_err(|error| named(error.into(), name))?;
    let mut access = Access {
        s3,
        who: who.clone(),
        head,
        local,
        name: name.clone(),
        bucket,
        version: None,
        standing: None,
    };
    let expected = head.headers.get(expecting);
    if access.is_root() && expected.is_none() {
        return Ok(access);
    }
    access.version = request::Query::parse(head.uri.query())
        .ok()
        .and_then(|query| query.get("versionId").map(VersionId::parse));
    let standing = access.standing().await?;
    if expected.is_some_and(|expected| expected.as_bytes() != standing.owner.as_bytes()) {
        return Err(Code::AccessDenied.into());
    }
    access.standing = Some(standing);
    Ok(access)
}

impl<'a> Access<'a> {
    /// Room in the bucket for a write of so many bytes, where it has a quota.
    pub(super) async fn claim(&self, bytes: u64) -> Result<Option<Room>, S3Error> {
        self.s3.quotas.claim(&self.name, &self.bucket, bytes).await
    }

    /// The same caller in the bucket of a copy source, of which a version may be named.
    pub(super) async fn enter_source(
        &self,
        name: &BucketName,
        version: Option<&VersionId>,
    ) -> Result<Access<'a>, S3Error> {
        let expecting = "x-amz-source-expected-bucket-owner";
        let place = (self.head, self.local);
        let mut access = enter_as(self.s3, &self.who, place, name, expecting).await?;
        access.version = version.cloned();
        Ok(access)
    }

    /// Refuses an operation that the caller may not do here, on the key if it is about one.
    pub(super) async fn permit(
        &self,
        operation: Operation,
        key: Option<&ObjectKey>,
    ) -> Result<(), S3Error> {
        if self.is_free() {
            return Ok(());
        }
        self.require(&self.action(operation), key).await?;
        for action in actions::further(operation, &self.head.headers) {
            self.require(action, key).await?;
        }
        Ok(())
    }

    /// The same for an operation on an open upload. Who opened it may list its parts and abort it,
    /// unless a statement denies that (S3's user guide).
    pub(super) async fn permit_on_upload(
        &self,
        operation: Operation,
        key: &ObjectKey,
        id: &UploadId,
    ) -> Result<(), S3Error> {
        let refusal = match self.permit(operation, Some(key)).await {
            Err(error) if error.code == Code::AccessDenied => error,
            outcome => return outcome,
        };
        let upload = self.bucket.upload(key, id).await.ok();
        match (upload, self.caller_id()) {
            (Some(upload), Some(caller)) if *upload.plan.initiator == *caller => {
                self.refuse_denied(&actions::of(operation, false), Some(key))
                    .await
            }
            _ => Err(refusal),
        }
    }

    /// Refuses an action (`s3:GetObject`) that the caller may not do here.
    pub(super) async fn require(
        &self,
        action: &str,
        key: Option<&ObjectKey>,
    ) -> Result<(), S3Error> {
        if self.is_free() {
            return Ok(());
        }
        let standing = self.standing().await?;
        let entry = match key {
            Some(key) if self.asks_for_entry(action, &standing.rules) => self.entry(key).await?,
            _ => None,
        };
        self.judge(action, key, entry.as_deref(), standing).await
    }

    /// Refuses what was permitted, now that the object is in hand: another one may have been there
    /// when the question was asked.
    pub(super) async fn confirm(
        &self,
        operation: Operation,
        key: &ObjectKey,
        entry: &Entry,
    ) -> Result<(), S3Error> {
        if self.is_free() {
            return Ok(());
        }
        let (action, standing) = (self.action(operation), self.standing().await?);
        if !self.asks_for_entry(&action, &standing.rules) {
            return Ok(());
        }
        self.judge(&action, Some(key), Some(entry), standing).await
    }

    fn action(&self, operation: Operation) -> Cow<'static, str> {
        actions::of(operation, self.version.is_some())
    }

    /// Whether a decision depends on what the object is.
    fn asks_for_entry(&self, action: &str, rules: &Rules) -> bool {
        let has_acl = rules.acls_are_on() && Permission::of_object_action(action).is_some();
        has_acl || self.asks_for_tags(rules)
    }

    /// `entry`: the object, where the decision depends on it and it is there.
    async fn judge(
        &self,
        action: &str,
        key: Option<&ObjectKey>,
        entry: Option<&Entry>,
        Standing { owner, rules }: Standing,
    ) -> Result<(), S3Error> {
        let by_object = rules.acls_are_on() && Permission::of_object_action(action).is_some();
        let object = match (entry, by_object) {
            (Some(entry), true) => Some(Acl::of_object(entry, &owner)),
            _ => None,
        };
        let mut relation = self.relation(&owner);
        if object.as_ref().is_some_and(|acl| acl.owner != owner) && relation == Relation::Owner {
            // Owning the bucket is not owning what others wrote into it.
            relation = Relation::Other;
        }
        let asked = context::Asked {
            action,
            key: key.map(ObjectKey::as_str),
            prefix: None,
            entry,
        };
        match self.decide(&asked, relation, &rules, &owner) {
            Decision::Allowed => Ok(()),
            Decision::Denied => Err(Code::AccessDenied.into()),
            Decision::NotAllowed => {
                // Where the object's ACL counts, the bucket's says nothing about objects to come.
                let acl = if by_object {
                    object
                } else {
                    rules.acls_are_on().then(|| rules.acl(&owner))
                };
                let ignore_public = rules.block.ignore_public_acls;
                if acl.is_some_and(|acl| acl.allows(self.caller_id(), action, ignore_public)) {
                    return Ok(());
                }
                Err(self.refusal(action, key, &asked).await)
            }
        }
    }

    /// Refuses a caller whom nothing can let do anything here, before its body is read.
    pub(super) async fn refuse_hopeless(&self) -> Result<(), S3Error> {
        if self.is_free() {
            return Ok(());
        }
        let Standing { owner, rules } = self.standing().await?;
        let is_strange = self.relation(&owner) == Relation::Other;
        if is_strange && rules.is_plain() && self.user_policies().is_empty() {
            return Err(Code::AccessDenied.into());
        }
        Ok(())
    }

    /// Whether a statement denies what nobody needs to allow.
    pub(super) async fn refuse_denied(
        &self,
        action: &str,
        key: Option<&ObjectKey>,
    ) -> Result<(), S3Error> {
        let Standing { owner, rules } = self.standing().await?;
        let asked = context::Asked {
            action,
            key: key.map(ObjectKey::as_str),
            prefix: None,
            entry: None,
        };
        match self.decide(&asked, self.relation(&owner), &rules, &owner) {
            Decision::Denied => Err(Code::AccessDenied.into()),
            Decision::Allowed | Decision::NotAllowed => Ok(()),
        }
    }

    /// That a key does not exist is told only to those who may list it.
    pub(super) async fn hide_missing<T>(
        &self,
        key: &ObjectKey,
        outcome: Result<T, S3Error>,
    ) -> Result<T, S3Error> {
        match outcome {
            Err(error) if error.code == Code::NoSuchKey && !self.may_list(key).await? => {
                Err(Code::AccessDenied.into())
            }
            outcome => outcome,
        }
    }

    /// What the bucket says and whose it is.
    pub(super) async fn standing(&self) -> Result<Standing, S3Error> {
        if let Some(standing) = &self.standing {
            return Ok(standing.clone());
        }
        let config = self.bucket.config().await?;
        Ok(Standing {
            owner: owner_id(self.s3, &config),
            rules: self.s3.rules.of(&self.name, &config),
        })
    }

    /// Owner id of the caller; `None` for an anonymous one.
    pub(super) fn caller_id(&self) -> Option<&str> {
        match &self.who {
            Identity::User(user) => Some(&user.id),
            Identity::Anonymous => None,
        }
    }

    pub(super) fn s3(&self) -> &'a S3 {
        self.s3
    }

    pub(super) fn head(&self) -> &'a Parts {
        self.head
    }

    fn decide(
        &self,
        asked: &context::Asked<'_>,
        relation: Relation,
        rules: &Rules,
        owner: &str,
    ) -> Decision {
        let resource = match asked.key {
            Some(key) => format!("{}/{key}", self.name),
            None => self.name.as_str().to_owned(),
        };
        let scene = context::Scene {
            who: &self.who,
            head: self.head,
            local: self.local,
            region: &self.s3.region,
            now: self.s3.clock.now(),
            owner,
        };
        policy::decide(&Case {
            relation,
            user_policies: self.user_policies(),
            bucket_policy: match &rules.policy {
                None => BucketPolicy::None,
                Some(Ok(policy)) => BucketPolicy::Is(policy),
                Some(Err(())) => BucketPolicy::Unreadable,
            },
            restrict_public: rules.block.restrict_public_buckets,
            request: policy::Request {
                caller: caller(&self.who),
                action: asked.action,
                resource: &resource,
                context: &|key| scene.values(asked, key),
            },
        })
    }

    /// 404 instead of 403 for a key that does not exist, to those who may list it.
    async fn refusal(
        &self,
        action: &str,
        key: Option<&ObjectKey>,
        asked: &context::Asked<'_>,
    ) -> S3Error {
        if let Some(key) = key
            && matches!(action, "s3:GetObject" | "s3:GetObjectVersion")
            && matches!(self.may_list(key).await, Ok(true))
            && (asked.entry.is_none() && matches!(self.entry(key).await, Ok(None)))
        {
            return S3Error::new(Code::NoSuchKey).detail("Key", key.as_str());
        }
        Code::AccessDenied.into()
    }

    /// Whether the caller may see in a listing whether the key exists.
    async fn may_list(&self, key: &ObjectKey) -> Result<bool, S3Error> {
        if self.is_free() {
            return Ok(true);
        }
        let Standing { owner, rules } = self.standing().await?;
        let asked = context::Asked {
            action: LIST,
            key: None,
            prefix: Some(key.as_str()),
            entry: None,
        };
        Ok(
            match self.decide(&asked, self.relation(&owner), &rules, &owner) {
                Decision::Allowed => true,
                Decision::Denied => false,
                Decision::NotAllowed => {
                    rules.acls_are_on()
                        && rules.acl(&owner).allows(
                            self.caller_id(),
                            LIST,
                            rules.block.ignore_public_acls,
                        )
                }
            },
        )
    }

    /// Nothing can forbid the caller anything here, and nothing needs to be looked at to know it.
    fn is_free(&self) -> bool {
        let is_plain = |standing: &Standing| {
            standing.rules.is_plain()
                && self.user_policies().is_empty()
                && self.relation(&standing.owner) == Relation::Owner
        };
        self.is_root() || self.standing.as_ref().is_some_and(is_plain)
    }

    fn is_root(&self) -> bool {
        matches!(&self.who, Identity::User(user) if user.root)
    }

    fn relation(&self, owner: &str) -> Relation {
        match &self.who {
            Identity::User(user) if user.root => Relation::Root,
            Identity::User(user) if *user.id == *owner => Relation::Owner,
            Identity::User(_) | Identity::Anonymous => Relation::Other,
        }
    }

    fn user_policies(&self) -> &[Arc<policy::Policy>] {
        match &self.who {
            Identity::User(user) => &user.policies,
            Identity::Anonymous => &[],
        }
    }

    fn asks_for_tags(&self, rules: &Rules) -> bool {
        let by_bucket = matches!(&rules.policy, Some(Ok(policy)) if policy.asks_for_tags());
        by_bucket || self.user_policies().iter().any(|it| it.asks_for_tags())
    }

    async fn entry(&self, key: &ObjectKey) -> Result<Option<Arc<Entry>>, S3Error> {
        let found = match &self.version {
            Some(version) => self.bucket.head_version(key, version).await,
            None => self.bucket.head(key).await,
        };
        match found {
            Ok(entry) => Ok(Some(entry)),
            Err(
                EngineError::NoSuchKey
                | EngineError::NoSuchVersion
                | EngineError::DeleteMarker { .. },
            ) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether `user` may do what belongs to no bucket that is there: make one, list them all.
///
/// A user whose policies nobody wrote may have buckets of its own.
pub(super) fn permit_outside(
    s3: &S3,
    user: &User,
    (head, local): (&Parts, &Local),
    action: &str,
    resource: &str,
) -> Result<(), S3Error> {
    let who = Identity::User(Arc::new(user.clone()));
    let scene = context::Scene {
        who: &who,
        head,
        local,
        region: &s3.region,
        now: s3.clock.now(),
        owner: &user.id,
    };
    let asked = context::Asked {
        action,
        key: None,
        prefix: None,
        entry: None,
    };
    let decision = policy::decide(&Case {
        relation: if user.root {
            Relation::Root
        } else {
            Relation::Other
        },
        user_policies: &user.policies,
        bucket_policy: BucketPolicy::None,
        restrict_public: false,
        request: policy::Request {
            caller: caller(&who),
            action,
            resource,
            context: &|key| scene.values(&asked, key),
        },
    });
    match decision {
        Decision::Allowed => Ok(()),
        Decision::NotAllowed if user.policies.is_empty() => Ok(()),
        Decision::NotAllowed | Decision::Denied => Err(Code::AccessDenied.into()),
    }
}

fn caller(who: &Identity) -> Caller<'_> {
    match who {
        Identity::User(user) => Caller::User {
            id: &user.id,
            name: &user.name,
        },
        Identity::Anonymous => Caller::Anonymous,
    }
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

const LIST: &str = "s3:ListBucket";
