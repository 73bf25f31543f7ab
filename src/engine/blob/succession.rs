//! What a write or a delete does to the versions of its key, as one group of records. See
//! `docs/design-blob.md`, section 1.
//!
//! In each group a version is put to its new place before it leaves the old one: the index takes
//! the records one by one, and whoever looks at both places finds it. Upholds I13.

use std::sync::Arc;

use super::commit::Turn;
use super::core::BucketState;
use super::describe::plain_entry;
use super::entry::{Salt, Stored, Version};
use super::record::{Change, ItemKey, Table};
use crate::clock::Timestamp;
use crate::engine::{
    Bypass, Deleted, ETag, EngineError, Lock, Precondition, VersionId, Versioning,
};

/// A version that is not current, or a delete marker.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) item: ItemKey,
    pub(super) stored: Stored,
    value: Box<[u8]>,
}

impl Kept {
    pub(super) fn decode(item: ItemKey, value: Box<[u8]>) -> Result<Self, EngineError> {
        let stored = decode(&value)?;
        Ok(Self {
            item,
            stored,
            value,
        })
    }

    pub(super) fn sequence(&self) -> u64 {
        self.stored.version.sequence
    }

    fn is_marker(&self) -> bool {
        self.stored.is_marker
    }
}

/// Where a version of the object lies that is not current.
pub(super) fn kept_item(object: &ItemKey, version: &Version) -> ItemKey {
    let number = (!version.sequence).to_be_bytes();
    let number = version.salt.map_or(&[][..], |_| &number);
    ItemKey {
        table: Table::Versions,
        bucket: object.bucket,
        key: [&object.key, &[0][..], number].concat().into(),
    }
}

/// The place of a new version among those of its key.
#[derive(Debug, Default)]
pub(super) struct Succession {
    version: Version,
    lock: Lock,
    has_current: bool,
    /// The null version that it replaces, where that is not current.
    replaced: Option<ItemKey>,
}

impl Turn<'_> {
    /// Sequences a new current entry, behind what [`Turn::succeed`] sequenced for it.
    pub(super) fn put_object(
        &mut self,
        bucket: &Arc<BucketState>,
        object: ItemKey,
        succession: Succession,
        new: NewObject,
    ) -> Stored {
        let NewObject {
            mut stored,
            is_fresh,
            retains,
        } = new;
        (stored.version, stored.lock) = (succession.version, succession.lock);
        let value = stored.encode();
        let change = Change::Put { is_fresh, value };
        self.change(Some(bucket), object, change, retains);
        if let Some(item) = succession.replaced {
            self.change(Some(bucket), item, Change::Gone, Vec::new());
        }
        stored
    }

    /// Sequences a delete without a version.
    pub(super) fn delete_object(
        &mut self,
        bucket: &Arc<BucketState>,
        object: ItemKey,
        salt: Salt,
        now: Timestamp,
    ) -> Result<Deleted, EngineError> {
        if bucket.config.load().kept_versions().is_none() {
            return Ok(match self.get(Some(bucket), &object) {
                None => Deleted::Absent,
                Some(_) => {
                    self.change(Some(bucket), object, Change::Gone, Vec::new());
                    Deleted::Removed
                }
            });
        }
        self.check_room_for_marker()?;
        let Succession {
            version,
            has_current,
            ..
        } = self.make_way(bucket, &object, salt)?;
        let marker = Stored {
            version,
            is_marker: true,
            ..Stored::new(0, ETag::new(""), now)
        };
        let change = Change::Put {
            is_fresh: false,
            value: marker.encode(),
        };
        // A null version in the table is replaced by this: it has the same place.
        let item = kept_item(&object, &version);
        self.change(Some(bucket), item, change, Vec::new());
        if has_current {
            self.change(Some(bucket), object, Change::Gone, Vec::new());
        }
        Ok(Deleted::Marked(version.id()))
    }

    /// Sequences the end of one version.
    pub(super) fn delete_version(
        &mut self,
        bucket: &Arc<BucketState>,
        object: ItemKey,
        removal: &Removal,
    ) -> Result<Deleted, EngineError> {
        let id = &removal.id;
        let current = self.stored(bucket, &object)?;
        if let Some(current) = current.as_ref().filter(|entry| entry.version.id() == *id) {
            removal.check(current)?;
            let older = self.newest_kept(bucket, &object, None)?;
            match older.filter(|older| !older.is_marker()) {
                Some(older) => self.promote(bucket, object, older),
                None => self.change(Some(bucket), object, Change::Gone, Vec::new()),
            }
            return Ok(Deleted::Removed);
        }
        let Some(kept) = self.kept(bucket, &object, id)? else {
            return Ok(Deleted::Absent);
        };
        removal.check(&kept.stored)?;
        let deleted = match kept.is_marker() {
            true => Deleted::MarkerRemoved,
            false => Deleted::Removed,
        };
        if current.is_none() && kept.is_marker() {
            let next = self.newest_kept(bucket, &object, Some(&kept.item))?;
            let next = next.filter(|next| next.sequence() < kept.sequence() && !next.is_marker());
            if let Some(next) = next {
                self.promote(bucket, object, next);
            }
        }
        self.change(Some(bucket), kept.item, Change::Gone, Vec::new());
        Ok(deleted)
    }

    /// Sequences what becomes of the versions before an entry that is to be committed with this
    /// lock, and says what that will be.
    pub(super) fn succeed(
        &mut self,
        bucket: &Arc<BucketState>,
        object: &ItemKey,
        salt: Salt,
        asked: (Lock, Timestamp),
    ) -> Result<Succession, EngineError> {
        let (lock, now) = asked;
        let lock = lock.of_commit(bucket.config.load().lock.as_ref(), now)?;
        let succession = self.make_way(bucket, object, salt)?;
        Ok(Succession { lock, ..succession })
    }

    /// Keeps the current entry, if it is to be kept, and says what the new version is.
    fn make_way(
        &mut self,
        bucket: &Arc<BucketState>,
        object: &ItemKey,
        salt: Salt,
    ) -> Result<Succession, EngineError> {
        let Some(versioning) = bucket.config.load().kept_versions() else {
            return Ok(Succession::default());
        };
        let current = self.get(Some(bucket), object);
        let known = match &current {
            Some(value) => Some(decode(value)?),
            None => None,
        };
        // The current entry is the newest version there is.
        let newest = match &known {
            Some(known) => known.version.sequence,
            None => {
                let kept = self.newest_kept(bucket, object, None)?;
                kept.map_or(0, |kept| kept.sequence())
            }
        };
        let version = Version {
            sequence: newest.saturating_add(1),
            salt: (versioning == Versioning::Enabled).then_some(salt),
        };
        let is_null = version.salt.is_none();
        if let (Some(value), Some(known)) = (current, &known)
            && !(is_null && known.version.salt.is_none())
        {
            let item = kept_item(object, &known.version);
            let is_fresh = false;
            let change = Change::Put { is_fresh, value };
            self.change(Some(bucket), item, change, known.allocations());
        }
        let null_item = kept_item(object, &Version::default());
        let replaces = is_null && self.get(Some(bucket), &null_item).is_some();
        Ok(Succession {
            version,
            lock: Lock::default(),
            has_current: known.is_some(),
            replaced: replaces.then_some(null_item),
        })
    }

    /// A version that was kept is current again.
    fn promote(&mut self, bucket: &Arc<BucketState>, object: ItemKey, kept: Kept) {
        let Kept {
            item,
            stored,
            value,
        } = kept;
        let is_fresh = false;
        let change = Change::Put { is_fresh, value };
        self.change(Some(bucket), object, change, stored.allocations());
        self.change(Some(bucket), item, Change::Gone, Vec::new());
    }

    pub(super) fn stored(
        &mut self,
        bucket: &BucketState,
        item: &ItemKey,
    ) -> Result<Option<Stored>, EngineError> {
        let value = self.get(Some(bucket), item);
        value.map(|value| decode(&value)).transpose()
    }

    fn kept(
        &mut self,
        bucket: &BucketState,
        object: &ItemKey,
        id: &VersionId,
    ) -> Result<Option<Kept>, EngineError> {
        let version = match id {
            VersionId::Null => Some(Version::default()),
            VersionId::Named(_) => Version::named(id),
        };
        let Some(version) = version else {
            return Ok(None);
        };
        let item = kept_item(object, &version);
        let Some(value) = self.get(Some(bucket), &item) else {
            return Ok(None);
        };
        let kept = Kept::decode(item, value)?;
        Ok(Some(kept).filter(|kept| kept.stored.version.id() == *id))
    }

    /// The newest version that is not current, and is not `but`.
    fn newest_kept(
        &mut self,
        bucket: &BucketState,
        object: &ItemKey,
        but: Option<&ItemKey>,
    ) -> Result<Option<Kept>, EngineError> {
        let null_item = kept_item(object, &Version::default());
        let null = match but == Some(&null_item) {
            true => None,
            false => self.get(Some(bucket), &null_item),
        };
        let mut from = behind(&null_item);
        let mut numbered = None;
        while let Some((item, value)) = self.next_version(bucket, from) {
            if !item.key.starts_with(&null_item.key) {
                break;
            }
            if but != Some(&item) {
                numbered = Some(Kept::decode(item, value)?);
                break;
            }
            from = behind(&item);
        }
        let null = null.map(|value| Kept::decode(null_item, value));
        let both = [numbered, null.transpose()?];
        Ok(both.into_iter().flatten().max_by_key(Kept::sequence))
    }
}

/// Which version is to go, and on what condition.
pub(super) struct Removal {
    pub(super) id: VersionId,
    pub(super) precondition: Precondition,
    pub(super) now: Timestamp,
    /// The retention that does not count.
    pub(super) bypass: Bypass,
}

impl Removal {
    fn check(&self, stored: &Stored) -> Result<(), EngineError> {
        let entry = (!stored.is_marker).then(|| plain_entry(stored));
        self.precondition.check(entry.as_ref())?;
        stored.lock.check_removal(self.now, self.bypass)
    }
}

/// A current entry that is to be.
pub(super) struct NewObject {
    pub(super) stored: Stored,
    /// Its data was written for it.
    pub(super) is_fresh: bool,
    /// Allocations with an owner already, of which it is a further one.
    pub(super) retains: Vec<super::entry::Allocation>,
}

/// The smallest place behind an item.
fn behind(item: &ItemKey) -> ItemKey {
    ItemKey {
        key: [&item.key, &[0][..]].concat().into(),
        ..*item
    }
}

fn decode(value: &[u8]) -> Result<Stored, EngineError> {
    Stored::decode(value).ok_or(EngineError::Corrupt {
        what: "an item of the index cannot be decoded",
    })
}
