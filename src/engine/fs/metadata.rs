//! Changing what is said about an object while its bytes stay.

use std::sync::Arc;

use super::bucket::FsBucket;
use super::content_type;
use super::draft::{Content, Draft};
use super::faults::{Doing, off_shard};
use super::history::Stamp;
use super::lock::KeyLock;
use super::overlay;
use super::put::copy_bytes;
use super::record::{Record, part_sizes};
use super::succession::Succession;
use super::types::Description;
use super::walk::{Patience, Pinned, Place, is_absent, split, tree_path};
use crate::clock::Timestamp;
use crate::engine::{Durability, EngineError, Entry, Metadata, ObjectKey, Precondition, Tags};
use crate::io::files;

/// What is to be different.
enum Change {
    /// All of the metadata, and with it the time.
    Metadata(Metadata),
    /// The tags alone.
    Tags(Tags),
    /// The ACL alone.
    Acl(Option<Box<str>>),
}

impl Change {
    /// The metadata as it will be, and the time if it changes.
    fn apply(self, now: Metadata, clock: Timestamp) -> (Metadata, Option<Timestamp>) {
        match self {
            Self::Metadata(metadata) => (metadata, Some(clock)),
            Self::Tags(tags) => (Metadata { tags, ..now }, None),
            Self::Acl(acl) => (Metadata { acl, ..now }, None),
        }
    }
}

impl FsBucket {
    /// Replaces the metadata of the current entry. See [`crate::engine::Bucket::set_metadata`].
    pub async fn set_metadata(
        self: &Arc<Self>,
        key: &ObjectKey,
        metadata: Metadata,
        precondition: &Precondition,
    ) -> Result<Arc<Entry>, EngineError> {
        let change = Change::Metadata(metadata);
        self.describe(key, change, precondition.clone()).await
    }

    /// Replaces the tags of the current entry. See [`crate::engine::Bucket::set_tags`].
    pub async fn set_tags(
        self: &Arc<Self>,
        key: &ObjectKey,
        tags: Tags,
    ) -> Result<Arc<Entry>, EngineError> {
        let change = Change::Tags(tags);
        self.describe(key, change, Precondition::default()).await
    }

    /// Replaces the ACL of the current entry. See [`crate::engine::Bucket::set_acl`].
    pub async fn set_acl(
        self: &Arc<Self>,
        key: &ObjectKey,
        acl: Option<Box<str>>,
        precondition: &Precondition,
    ) -> Result<Arc<Entry>, EngineError> {
        let change = Change::Acl(acl);
        self.describe(key, change, precondition.clone()).await
    }

    async fn describe(
        self: &Arc<Self>,
        key: &ObjectKey,
        change: Change,
        precondition: Precondition,
    ) -> Result<Arc<Entry>, EngineError> {
        let lock = self.lock(key).await?;
        let (bucket, key) = (Arc::clone(self), key.clone());
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
                let entry = bucket.describe_copy(&lock, &key, &pinned, &entry, change)?;
                bucket.sync_name(&key, pinned.place)?;
                return Ok(entry);
            }
            bucket.describe_in_place(&lock, &key, &pinned, change)
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
        change: Change,
    ) -> Result<Arc<Entry>, EngineError> {
        let file = files::reopen_for_read(&pinned.file).doing("opening the key's file")?;
        let stat = files::stat(&file).doing("examining the key's file")?;
        let found = self.read_record(key, &file, &stat)?;
        let mut record = found.unwrap_or_else(|| Record {
            metadata: typed_by_name(key),
            ..Record::default()
        });
        record.adapt(&stat);
        let (metadata, modified) = change.apply(record.metadata, self.shared.clock.now());
        record.metadata = metadata;
        record.modified = modified.or(record.modified);
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
        change: Change,
    ) -> Result<Arc<Entry>, EngineError> {
        let file = files::reopen_for_read(&pinned.file).doing("opening the key's file")?;
        let record = self.read_record(key, &file, &pinned.stat)?;
        let draft: Draft = self.draft_for(&lock.home, key)?;
        copy_bytes(&file, 0, &draft.file, 0, entry.size_bytes)?;
        super::get::check_unchanged(&file, &pinned.stat)?;
        let (metadata, modified) = change.apply(entry.metadata.clone(), self.shared.clock.now());
        let description = Description {
            etag: Some(entry.etag.clone()),
            checksum: entry.checksum.clone(),
            metadata,
            parts: part_sizes(&entry.parts),
            // The repetition of a CompleteMultipartUpload is still one after its object was tagged.
            upload: record
                .and_then(|record| record.upload)
                .filter(|_| modified.is_none()),
            modified: Some(modified.unwrap_or(entry.modified)),
            version: None,
        };
        // It stays the version that it is.
        let succession = Succession::Replace(Stamp::of(&entry.version));
        self.succeed(lock, key, Content::Draft(draft), description, succession)
    }

    /// Makes the copy's name durable in relaxed mode too: a change of metadata alone that was
    /// answered survives loss of power in both modes, as it does where it is made in place.
    fn sync_name(&self, key: &ObjectKey, place: Place) -> Result<(), EngineError> {
        if self.shared.durability == Durability::Strict {
            return Ok(());
        }
        // What was in the overlay may have found room in the tree.
        let overlaid = (place == Place::Overlay).then(|| overlay::path(key));
        for path in [tree_path(key), overlaid.as_deref()].into_iter().flatten() {
            let above = split(path).0;
            match self.open_directory(above) {
                Ok(dir) => self.sync_names(above, &dir)?,
                Err(errno) if is_absent(errno) => {}
                Err(errno) => return Err(errno).doing("opening the directory of a key"),
            }
        }
        Ok(())
    }
}

/// What a file without a record says of itself: once it has one, its name says nothing more.
fn typed_by_name(key: &ObjectKey) -> Metadata {
    Metadata {
        content_type: Some(content_type::of_name(key.as_str()).into()),
        ..Metadata::default()
    }
}
