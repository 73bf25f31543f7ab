//! All that was said about one request becomes one answer.

use std::sync::Arc;

use super::Request;
use super::document::{Effect, Policy};

/// What the caller is to the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// May do everything; no policy binds the root user.
    Root,
    Owner,
    Other,
}

/// The policy of the bucket.
#[derive(Clone, Copy, Debug)]
pub enum BucketPolicy<'a> {
    None,
    Is(&'a Policy),
    /// There is one that cannot be understood: it may deny anything, so it denies everything.
    Unreadable,
}

/// Everything that the answer depends on.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    pub relation: Relation,
    pub user_policies: &'a [Arc<Policy>],
    pub bucket_policy: BucketPolicy<'a>,
    /// `RestrictPublicBuckets`: a public policy gives nothing to those who do not own the bucket.
    pub restrict_public: bool,
    pub request: Request<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allowed,
    /// A statement says no; nothing can overrule it.
    Denied,
    /// Nobody said yes. An ACL still may.
    NotAllowed,
}

/// The root user may do everything. Then an explicit denial wins, of a user's policy or of the
/// bucket's; then the owner of the bucket may do everything, and others what any policy allows.
///
/// The owner may always read, replace and delete the bucket's policy, so that nobody locks
/// himself out.
pub fn decide(case: &Case<'_>) -> Decision {
    let request = &case.request;
    if case.relation == Relation::Root {
        return Decision::Allowed;
    }
    let mut allowed = false;
    for policy in case.user_policies {
        match policy.judge(request) {
            Some(Effect::Deny) => return Decision::Denied,
            Some(Effect::Allow) => allowed = true,
            None => {}
        }
    }
    let is_owner = case.relation == Relation::Owner;
    if is_owner && KEYS_TO_THE_HOUSE.contains(&request.action) {
        return Decision::Allowed;
    }
    match case.bucket_policy {
        BucketPolicy::None => {}
        BucketPolicy::Unreadable => return Decision::Denied,
        BucketPolicy::Is(policy) => match policy.judge(request) {
            Some(Effect::Deny) => return Decision::Denied,
            Some(Effect::Allow) => allowed |= !(case.restrict_public && policy.is_public()),
            None => {}
        },
    }
    if is_owner || allowed {
        Decision::Allowed
    } else {
        Decision::NotAllowed
    }
}

const KEYS_TO_THE_HOUSE: [&str; 3] = [
    "s3:GetBucketPolicy",
    "s3:PutBucketPolicy",
    "s3:DeleteBucketPolicy",
];
