//! One bucket: HEAD, DELETE and metadata. The other verbs have rooms of their own.

use std::sync::Arc;

use super::buckets::bucket_item;
use super::codec::{Cursor, put_varint};
use super::commit::Class;
use super::core::{BucketState, Core};
use super::describe::describe;
use super::entry::{Piece, Stored};
use super::get::BlobReader;
use super::put::{BlobWriter, Content, check};
use super::record::{Change, ItemKey, Table};
use crate::engine::{
    BucketConfig, Bypass, Deleted, Durability, EngineError, Entry, LockChange, Metadata, ObjectKey,
    Precondition, Tags, VersionId,
};

/// A bucket of the blob engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BlobBucket {
    pub(super) core: Arc<Core>,
    pub(super) state: Arc<BucketState>,
}

impl BlobBucket {
    pub fn durability(&self) -> Durability {
        self.core.durability
    }

    /// See [`crate::engine::Bucket::config`].
    pub async fn config(&self) -> Result<Arc<BucketConfig>, EngineError> {
        self.state.check()?;
        Ok(self.state.config.load_full())
    }

    /// See [`crate::engine::Bucket::change_config`]. A change that waits for its flush is seen too.
    pub async fn change_config<E>(
        &self,
        change: impl FnOnce(&mut BucketConfig) -> Result<(), E> + Send + 'static,
    ) -> Result<Arc<BucketConfig>, E>
    where
        E: From<EngineError> + Send + 'static,
    {
        let state = Arc::clone(&self.state);
        let item = bucket_item(&state.name);
        self.core
            .commit(Class::Write, None, move |turn| {
                state.check()?;
                let now = match turn.get(None, &item) {
                    Some(value) => decode_config(&value)?,
                    None => BucketConfig::clone(&state.config.load()),
                };
                let mut next = now.clone();
                if let Err(refusal) = change(&mut next) {
                    return Ok(Err(refusal));
                }
                if next != now {
                    let mut value = Vec::new();
                    put_varint(&mut value, state.id);
                    value.extend(next.encode()?);
                    let change = Change::Put {
                        is_fresh: false,
                        value: value.into(),
                    };
                    turn.change(None, item, change, Vec::new());
                }
                Ok(Ok(Arc::new(next)))
            })
            .await?
    }

    /// See [`crate::engine::Bucket::head`].
    pub async fn head(&self, key: &ObjectKey) -> Result<Arc<Entry>, EngineError> {
        let reader = self.open(key).await?;
        Ok(Arc::clone(reader.entry()))
    }

    /// See [`crate::engine::Bucket::open`].
    pub async fn open(&self, key: &ObjectKey) -> Result<BlobReader, EngineError> {
        self.core.open(&self.state, key.as_str().as_bytes()).await
    }

    /// See [`crate::engine::Bucket::begin`].
    pub async fn begin(
        &self,
        key: &ObjectKey,
        size_bytes: Option<u64>,
    ) -> Result<BlobWriter, EngineError> {
        self.core
            .begin(&self.state, key.as_str().as_bytes(), size_bytes)
            .await
    }

    /// See [`crate::engine::Bucket::delete`].
    pub async fn delete(
        &self,
        key: &ObjectKey,
        precondition: &Precondition,
    ) -> Result<Deleted, EngineError> {
        let (bucket, item) = (Arc::clone(&self.state), self.object_item(key));
        let precondition = precondition.clone();
        let (salt, now) = (self.core.entropy.bytes(), self.core.clock.now());
        self.core
            .commit(Class::Delete, None, move |turn| {
                bucket.check()?;
                check(turn, &bucket, &item, &precondition)?;
                turn.delete_object(&bucket, item, salt, now)
            })
            .await
    }

    /// See [`crate::engine::Bucket::set_metadata`].
    pub async fn set_metadata(
        &self,
        key: &ObjectKey,
        metadata: Metadata,
        precondition: &Precondition,
    ) -> Result<Arc<Entry>, EngineError> {
        self.describe(key, None, precondition, |entry| {
            let lock = entry.metadata.lock;
            entry.metadata = Metadata {
                lock,
                ..metadata.clone()
            };
            entry.modified = self.core.clock.now();
            Ok(())
        })
        .await
    }

    /// See [`crate::engine::Bucket::set_tags`].
    pub async fn set_tags(
        &self,
        key: &ObjectKey,
        version: Option<&VersionId>,
        tags: Tags,
    ) -> Result<Arc<Entry>, EngineError> {
        self.describe(key, version, &Precondition::default(), |entry| {
            entry.metadata.tags.clone_from(&tags);
            Ok(())
        })
        .await
    }

    /// See [`crate::engine::Bucket::set_acl`].
    pub async fn set_acl(
        &self,
        key: &ObjectKey,
        acl: Option<Box<str>>,
        precondition: &Precondition,
    ) -> Result<Arc<Entry>, EngineError> {
        self.describe(key, None, precondition, |entry| {
            entry.metadata.acl.clone_from(&acl);
            Ok(())
        })
        .await
    }

    /// See [`crate::engine::Bucket::set_lock`].
    pub async fn set_lock(
        &self,
        key: &ObjectKey,
        version: Option<&VersionId>,
        change: LockChange,
        bypass: Bypass,
    ) -> Result<Arc<Entry>, EngineError> {
        // A bucket that has locks keeps them.
        let has_locks = self.state.config.load().lock.is_some();
        self.describe(key, version, &Precondition::default(), |entry| {
            let lock = entry.metadata.lock;
            if !has_locks && lock.is_empty() {
                return Err(EngineError::NoObjectLock);
            }
            entry.metadata.lock = lock.changed(change, self.core.clock.now(), bypass)?;
            Ok(())
        })
        .await
    }

    /// Replaces what is said about the current entry, or about the version that is named, while its
    /// bytes stay. `change` touches the metadata and the time, and runs again when the entry
    /// changed meanwhile.
    async fn describe(
        &self,
        key: &ObjectKey,
        version: Option<&VersionId>,
        precondition: &Precondition,
        change: impl Fn(&mut Entry) -> Result<(), EngineError>,
    ) -> Result<Arc<Entry>, EngineError> {
        for _ in 0..RACES_MAX {
            let reader = match version {
                None => self.open(key).await?,
                Some(version) => self.open_version(key, version).await?,
            };
            precondition.check(Some(reader.entry()))?;
            let mut entry = Entry::clone(reader.entry());
            change(&mut entry)?;
            let seen = Arc::clone(&reader.stored);
            let mut stored = Stored::clone(&seen);
            (stored.modified, stored.overflow) = (entry.modified, None);
            (stored.content_type, stored.lock) = (None, entry.metadata.lock);
            let mut content = Content::default();
            let described = describe(&entry.metadata, &entry.parts)?;
            content.describe(&self.core, &mut stored, described)?;
            let (bucket, item) = (Arc::clone(&self.state), reader.item.clone());
            let writes = content.writes();
            let done = self.core.commit(Class::Write, writes, move |turn| {
                bucket.check()?;
                let now = turn
                    .get(Some(&bucket), &item)
                    .and_then(|value| Stored::decode(&value));
                if now.as_ref() != Some(&*seen) {
                    return Ok(false);
                }
                let retains = stored.pieces.iter().flat_map(Piece::allocations).collect();
                content.keep(turn);
                let change = Change::Put {
                    is_fresh: false,
                    value: stored.encode(),
                };
                turn.change(Some(&bucket), item, change, retains);
                Ok(true)
            });
            if done.await? {
                return Ok(Arc::new(entry));
            }
        }
        Err(EngineError::Busy)
    }

    pub(super) fn object_item(&self, key: &ObjectKey) -> ItemKey {
        ItemKey {
            table: Table::Objects,
            bucket: self.state.id,
            key: key.as_str().as_bytes().into(),
        }
    }
}

/// The configuration in a bucket's value.
fn decode_config(value: &[u8]) -> Result<BucketConfig, EngineError> {
    let mut from = Cursor::new(value);
    from.varint()
        .and_then(|_| serde_json::from_slice(from.rest()).ok())
        .ok_or(EngineError::Corrupt {
            what: "a bucket's configuration cannot be decoded",
        })
}

/// Rounds in which an entry may change while its metadata is replaced.
const RACES_MAX: usize = 16;
