//! Changing what is said about an object while its bytes stay.

use std::sync::Arc;

use super::bucket::FsBucket;
use super::draft::{Content, Draft};
use super::faults::{Doing, off_shard};
use super::history::Stamp;
use super::lock::KeyLock;
use super::put::copy_bytes;
use super::succession::Succession;
use super::types::Description;
use super::walk::{Patience, Pinned};
use crate::engine::{EngineError, Entry, Metadata, ObjectKey, Precondition};
use crate::io::files;

impl FsBucket {
    /// Replaces the metadata of the current entry. See [`crate::engine::Bucket::set_metadata`].
    pub async fn set_metadata(
        self: &Arc<Self>,
        key: &ObjectKey,
        metadata: Metadata,
        precondition: &Precondition,
    ) -> Result<Arc<Entry>, EngineError> {
        let lock = self.lock(key).await?;
        let (bucket, key) = (Arc::clone(self), key.clone());
        let precondition = precondition.clone();
        off_shard(move || {
            let entry = bucket.current(&key)?;
            precondition.check(entry.as_deref())?;
            let entry = entry.ok_or_else(|| bucket.no_such_key())?;
            let pinned = bucket
                .find(&key, Patience::Blocking)
                .doing("looking for a key")?
                .ok_or_else(|| bucket.no_such_key())?;
            // XFS replaces an attribute by a larger one in two steps, and a loss of power between
            // them loses both. Where a copy shares the bytes, a rename makes the change one step.
            let is_shared = pinned.linked || pinned.stat.links > 1;
            if is_shared || bucket.traits.reflinks {
                return bucket.describe_copy(&lock, &key, &pinned, &entry, metadata);
            }
            bucket.describe_in_place(&lock, &key, &pinned, metadata)
        })
        .await
    }

    /// The record of a file that no other name leads to is changed where it is. The sync must be
    /// a whole one: on ext4 an attribute that changed is lost at power failure after `fdatasync`.
    fn describe_in_place(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        pinned: &Pinned,
        metadata: Metadata,
    ) -> Result<Arc<Entry>, EngineError> {
        let file = files::reopen_for_read(&pinned.file).doing("opening the key's file")?;
        let stat = files::stat(&file).doing("examining the key's file")?;
        let mut record = self.read_record(key, &file, &stat)?.unwrap_or_default();
        record.adapt(&stat);
        record.metadata = metadata;
        record.modified = Some(self.shared.clock.now());
        record.side = None;
        let kept = self.write_record(&lock.home, key, &file, &stat, &record)?;
        if kept.is_some() {
            // Where the attribute did not change the change time must: others go by it.
            files::set_mode(&file, stat.mode).doing("touching the key's file")?;
        }
        files::sync_all(&file).doing("syncing the key's file")?;
        self.sweep_side(key, kept.as_deref());
        Ok(Arc::new(record.into_entry(&stat)))
    }

    /// A file with other names, and the target of a link, are not the key's alone: it gets a copy,
    /// by reference where the file system can.
    fn describe_copy(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        pinned: &Pinned,
        entry: &Entry,
        metadata: Metadata,
    ) -> Result<Arc<Entry>, EngineError> {
        let file = files::reopen_for_read(&pinned.file).doing("opening the key's file")?;
        let draft: Draft = self.draft_for(&lock.home, key)?;
        copy_bytes(&file, 0, &draft.file, 0, entry.size_bytes)?;
        super::get::check_unchanged(&file, &pinned.stat)?;
        let description = Description {
            etag: Some(entry.etag.clone()),
            checksum: entry.checksum.clone(),
            metadata,
            parts: super::record::part_sizes(&entry.parts),
            upload: None,
            version: None,
        };
        // It stays the version that it is.
        let succession = Succession::Replace(Stamp::of(&entry.version));
        self.succeed(lock, key, Content::Draft(draft), description, succession)
    }
}
