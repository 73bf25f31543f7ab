//! Changing what is said about an object while its bytes stay.

use std::sync::Arc;

use super::bucket::FsBucket;
use super::content_type;
use super::draft::{Content, Draft};
use super::faults::{Doing, off_shard};
use super::history::Stamp;
use super::lock::KeyLock;
use super::opened::Opened;
use super::overlay;
use super::put::{copy_attributes, copy_bytes};
use super::record::{Record, part_sizes};
use super::succession::{Succession, Top};
use super::types::Description;
use super::walk::{Pinned, Place, is_absent, split, tree_path};
use crate::clock::Timestamp;
use crate::engine::{
    Bypass, Durability, EngineError, Entry, LockChange, Metadata, ObjectKey, Precondition, Tags,
    VersionId,
};
use crate::io::files;

/// What is to be different.
enum Change {
    /// All of the metadata, and with it the time.
    Metadata(Metadata),
    /// The tags alone.
    Tags(Tags),
    /// The ACL alone.
    Acl(Option<Box<str>>),
    /// The lock alone, if it lets itself be changed so.
    Lock {
        change: LockChange,
        bypass: Bypass,
        /// The bucket has locks.
        is_bucket_locked: bool,
    },
}

impl Change {
    /// The metadata as it will be, and the time if it changes.
    fn apply(
        self,
        now: Metadata,
        clock: Timestamp,
    ) -> Result<(Metadata, Option<Timestamp>), EngineError> {
        let lock = now.lock;
        Ok(match self {
            Self::Metadata(metadata) => (Metadata { lock, ..metadata }, Some(clock)),
            Self::Tags(tags) => (Metadata { tags, ..now }, None),
            Self::Acl(acl) => (Metadata { acl, ..now }, None),
            // A lock that came with the file counts, and can be taken off, elsewhere too.
            Self::Lock {
                is_bucket_locked: false,
                ..
            } if lock.is_empty() => return Err(EngineError::NoObjectLock),
            Self::Lock { change, bypass, .. } => {
                let lock = lock.changed(change, clock, bypass)?;
                (Metadata { lock, ..now }, None)
            }
        })
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

    /// Replaces the tags of an entry. See [`crate::engine::Bucket::set_tags`].
    pub async fn set_tags(
        self: &Arc<Self>,
        key: &ObjectKey,
        version: Option<&VersionId>,
        tags: Tags,
    ) -> Result<Arc<Entry>, EngineError> {
        self.describe_version(key, version, Change::Tags(tags))
            .await
    }

    /// Changes the lock of an entry. See [`crate::engine::Bucket::set_lock`].
    pub async fn set_lock(
        self: &Arc<Self>,
        key: &ObjectKey,
        version: Option<&VersionId>,
        change: LockChange,
        bypass: Bypass,
    ) -> Result<Arc<Entry>, EngineError> {
        let change = Change::Lock {
            change,
            bypass,
            // A bucket that has locks keeps them.
            is_bucket_locked: self.config().await?.lock.is_some(),
        };
        self.describe_version(key, version, change).await
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

    /// Of the version that is named, else of the current one.
    async fn describe_version(
        self: &Arc<Self>,
        key: &ObjectKey,
        version: Option<&VersionId>,
        change: Change,
    ) -> Result<Arc<Entry>, EngineError> {
        let Some(version) = version else {
            return self.describe(key, change, Precondition::default()).await;
        };
        let lock = self.lock(key).await?;
        let (bucket, key, version) = (Arc::clone(self), key.clone(), version.clone());
        off_shard(move || {
            let top = bucket.top(&key)?;
            match top.filter(|top| top.entry.version == version) {
                Some(top) => bucket.describe_locked(&lock, &key, &top, change),
                None => bucket.describe_held(&lock, &key, &version, change),
            }
        })
        .await
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
            let top = bucket.top(&key)?;
            precondition.check(top.as_ref().map(|top| &*top.entry))?;
            let top = top.ok_or_else(|| bucket.absent_key(&key))?;
            bucket.describe_locked(&lock, &key, &top, change)
        })
        .await
    }

    fn describe_locked(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        top: &Top,
        change: Change,
    ) -> Result<Arc<Entry>, EngineError> {
        if self.is_changed_in_place(&top.pinned) {
            return self.describe_in_place(lock, key, &top.pinned, change);
        }
        let entry = self.describe_copy(lock, key, &top.pinned, &top.entry, change)?;
        self.sync_name(key, top.pinned.place)?;
        Ok(entry)
    }

    /// XFS replaces an attribute by a larger one in two steps, and a loss of power between them
    /// loses both. Where a copy shares the bytes, a rename makes the change one step.
    fn is_changed_in_place(&self, pinned: &Pinned) -> bool {
        let is_shared = pinned.linked || pinned.stat.links > 1;
        !is_shared && !self.traits.reflinks
    }

    /// The same for a version of the history.
    fn describe_held(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        version: &VersionId,
        change: Change,
    ) -> Result<Arc<Entry>, EngineError> {
        const DOING: &str = "changing a version's metadata";
        let Some(Top { pinned, mut entry }) = self.pin_in_history(key, version)? else {
            return Err(EngineError::NoSuchVersion);
        };
        if self.is_changed_in_place(&pinned) {
            return self.describe_in_place(lock, key, &pinned, change);
        }
        let history = self.history(key).doing(DOING)?;
        let (Some(held), Some(dir)) = (history.find(version), &history.dir) else {
            return Err(EngineError::NoSuchVersion);
        };
        let changed = Arc::make_mut(&mut entry);
        let (metadata, modified) = change.apply(
            std::mem::take(&mut changed.metadata),
            self.shared.clock.now(),
        )?;
        changed.metadata = metadata;
        changed.modified = modified.unwrap_or(changed.modified);
        let side = self.side_of_pinned(key, &pinned);
        let draft = self.copy_version(lock, key, &pinned, &entry, dir)?;
        self.name_draft(lock, &draft, dir, &held.name())
            .doing(DOING)?;
        self.sync_names(&history.path, dir)?;
        if let Some(side) = side {
            self.drop_side(key, &side);
        }
        Ok(entry)
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
        let (metadata, modified) = change.apply(record.metadata, self.shared.clock.now())?;
        record.metadata = metadata;
        record.modified = modified.or(record.modified);
        record.side = None;
        let old_side = self.side_name(key, &file);
        let kept = self.touches.around(&file, &stat, || {
            let kept = self.write_record(&lock.home, key, &file, &stat, &record)?;
            if kept.is_some() {
                // Where the attribute did not change the change time must: others go by it.
                files::set_mode(&file, stat.mode).doing("touching the key's file")?;
            }
            self.sync_file(&file).doing("syncing the key's file")?;
            Ok(kept)
        })?;
        if let Some(old_side) = old_side.filter(|old| Some(old) != kept.as_ref()) {
            self.drop_side(key, &old_side);
        }
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
        let source = Opened::new(file, pinned.stat);
        let draft: Draft = self.draft_for(&lock.home, key)?;
        copy_bytes(&source.file, 0, &draft.file, 0, entry.size_bytes)?;
        copy_attributes(&source.file, &draft.file)?;
        source.check(&self.touches)?;
        let (metadata, modified) = change.apply(entry.metadata.clone(), self.shared.clock.now())?;
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
            seal: entry.seal.clone(),
        };
        // It stays the version that it is.
        let succession = Succession::Replace(Stamp::of(&entry.version));
        self.succeed(lock, key, Content::Draft(draft), description, succession)
    }

    /// Makes the copy's name durable in relaxed mode too: a change of metadata alone that was
    /// answered survives loss of power in both modes, as it does where it is made in place.
    fn sync_name(&self, key: &ObjectKey, place: Place) -> Result<(), EngineError> {
        if self.durability_now() == Durability::Strict {
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
