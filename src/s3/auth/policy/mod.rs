//! Policies: who may do what, in AWS's IAM language.
//!
//! Reading order: `document` (a text becomes statements, or is refused), `pattern`, `principal`
//! and `condition` (what a statement is made of), [`decide`] (all statements and one request
//! become one answer), `names` (the actions and condition keys that S3 has), [`ready`] (policies
//! for everyday use).
//!
//! Everything here is a function of its arguments: no request, no clock, no engine.

mod condition;
mod decide;
mod document;
mod json;
mod names;
mod pattern;
mod principal;
mod ready;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub use decide::{BucketPolicy, Case, Decision, Relation, decide};
pub use document::{Policy, PolicyError};
pub use pattern::Lookup;
pub use principal::Caller;
pub use ready::{READY_MADE, ready_made};

/// One thing that somebody wants to do.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub caller: Caller<'a>,
    /// `s3:GetObject`.
    pub action: &'a str,
    /// `bucket`, `bucket/key`, or nothing for what belongs to no bucket.
    pub resource: &'a str,
    pub context: &'a Lookup<'a>,
}

impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("caller", &self.caller)
            .field("action", &self.action)
            .field("resource", &self.resource)
            .finish_non_exhaustive()
    }
}
