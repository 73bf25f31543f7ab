//! RENAME: the entry moves to another key by one record; its bytes stay where they are.

use std::sync::Arc;

use super::bucket::BlobBucket;
use super::commit::Class;
use super::describe::plain_entry;
use super::entry::Stored;
use super::record::Change;
use crate::engine::{EngineError, ObjectKey, RenamePlan};

impl BlobBucket {
    /// See [`crate::engine::Bucket::rename`].
    pub async fn rename(
        &self,
        from: &ObjectKey,
        to: &ObjectKey,
        plan: RenamePlan,
    ) -> Result<(), EngineError> {
        let (core, bucket) = (Arc::clone(&self.core), Arc::clone(&self.state));
        let (source, target) = (self.object_item(from), self.object_item(to));
        self.core
            .commit(Class::Write, None, move |turn| {
                bucket.check()?;
                if bucket.config.load().versioning.is_some() {
                    let why = "its bucket keeps versions";
                    return Err(EngineError::CannotRename { why });
                }
                let value = turn
                    .get(Some(&bucket), &source)
                    .ok_or(EngineError::NoSuchKey)?;
                let stored = Stored::decode(&value).ok_or(UNREADABLE)?;
                let there = turn.get(Some(&bucket), &target);
                let there = there.and_then(|value| Stored::decode(&value));
                plan.check(
                    &plain_entry(&stored),
                    there.as_ref().map(plain_entry).as_ref(),
                )?;
                // A shorter key than before adds nothing to the index.
                if target.key.len() > source.key.len() {
                    core.check_index_room(&bucket, target.table, &target.key)?;
                }
                let is_fresh = false;
                let change = Change::Put { is_fresh, value };
                turn.change(Some(&bucket), target, change, stored.allocations());
                turn.change(Some(&bucket), source, Change::Gone, Vec::new());
                Ok(())
            })
            .await
    }
}

const UNREADABLE: EngineError = EngineError::Corrupt {
    what: "an item of the index cannot be decoded",
};
