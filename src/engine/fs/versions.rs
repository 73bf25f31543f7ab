//! HEAD, GET and DELETE of one version by its id.

use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::bucket::FsBucket;
use super::faults::{Doing, off_shard};
use super::get::FsReader;
use super::history::{self, Held, History, Stamp};
use super::lock::KeyLock;
use super::record::Record;
use super::succession::Top;
use super::walk::{Patience, Pinned, Place, is_absent};
use crate::clock::Timestamp;
use crate::engine::{Bypass, Deleted, EngineError, Entry, ObjectKey, Precondition, VersionId};
use crate::io::files::{self, Kind};

impl FsBucket {
    /// See [`crate::engine::Bucket::head_version`].
    pub async fn head_version(
        self: &Arc<Self>,
        key: &ObjectKey,
        version: &VersionId,
    ) -> Result<Arc<Entry>, EngineError> {
        let (bucket, key, version) = (Arc::clone(self), key.clone(), version.clone());
        off_shard(move || Ok(bucket.pin_version(&key, &version)?.entry)).await
    }

    /// See [`crate::engine::Bucket::open_version`].
    pub async fn open_version(
        self: &Arc<Self>,
        key: &ObjectKey,
        version: &VersionId,
    ) -> Result<FsReader, EngineError> {
        let (bucket, key, version) = (Arc::clone(self), key.clone(), version.clone());
        off_shard(move || {
            let Top { pinned, entry } = bucket.pin_version(&key, &version)?;
            let file = files::reopen_for_read(&pinned.file).doing("opening a version")?;
            Ok(FsReader::of_file(&bucket, entry, file, pinned.stat))
        })
        .await
    }

    /// See [`crate::engine::Bucket::delete_version`].
    pub async fn delete_version(
        self: &Arc<Self>,
        key: &ObjectKey,
        version: &VersionId,
        precondition: &Precondition,
        bypass: Bypass,
    ) -> Result<Deleted, EngineError> {
        let lock = self.lock(key).await?;
        let (bucket, key, version) = (Arc::clone(self), key.clone(), version.clone());
        let precondition = precondition.clone();
        off_shard(move || {
            if !precondition.is_empty() {
                let entry = match bucket.pin_version(&key, &version) {
                    Ok(top) => Some(top.entry),
                    Err(EngineError::DeleteMarker { .. }) => None,
                    Err(EngineError::NoSuchVersion) => return Ok(Deleted::Absent),
                    Err(error) => return Err(error),
                };
                precondition.check(entry.as_deref())?;
            }
            bucket.delete_version_locked(&lock, &key, &version, bypass)
        })
        .await
    }

    fn pin_version(&self, key: &ObjectKey, version: &VersionId) -> Result<Top, EngineError> {
        // A version that becomes current again is in the history when the first look misses it at
        // the key's path, and no longer there at the second.
        for _ in 0..LOOKS {
            if let Some(top) = self.top(key)?
                && top.entry.version == *version
            {
                return Ok(top);
            }
            if let Some(top) = self.pin_in_history(key, version)? {
                return Ok(top);
            }
        }
        match self.no_such_key() {
            EngineError::NoSuchKey => Err(EngineError::NoSuchVersion),
            error => Err(error),
        }
    }

    pub(super) fn pin_in_history(
        &self,
        key: &ObjectKey,
        version: &VersionId,
    ) -> Result<Option<Top>, EngineError> {
        let path = history::path(key);
        let held = match (version, Stamp::of(version)) {
            (VersionId::Named(_), None) => return Ok(None),
            (VersionId::Named(_), Some(stamp)) => {
                let version = Held::version(stamp);
                if let Some(top) = self.pin_held(key, &path, &version)? {
                    return Ok(Some(top));
                }
                Some(version.into_marker())
            }
            (VersionId::Null, _) => self.history(key).doing(LOOKING)?.find(version).cloned(),
        };
        match held {
            Some(held) if held.is_marker => match self.marker_time(&path, &held)? {
                Some(modified) => Err(EngineError::DeleteMarker {
                    version: held.id,
                    modified,
                }),
                None => Ok(None),
            },
            Some(held) => self.pin_held(key, &path, &held),
            None => Ok(None),
        }
    }

    /// A version of the history at `path`; `None`: it is not there.
    pub(super) fn pin_held(
        &self,
        key: &ObjectKey,
        path: &str,
        held: &Held,
    ) -> Result<Option<Top>, EngineError> {
        let looked_nanos = files::stamp_clock_nanos();
        let path = format!("{path}/{}", held.name());
        let (file, stat) = match self.pin(&path, Patience::Blocking) {
            Ok((file, stat)) if stat.kind() == Kind::File => (file, stat),
            Ok(_) => return Ok(None),
            Err(errno) if is_absent(errno) => return Ok(None),
            Err(errno) => return Err(errno).doing(LOOKING),
        };
        let pinned = Pinned {
            file,
            stat,
            place: Place::Overlay,
            linked: false,
        };
        let mut entry = match self.known_entry_of(key, &stat) {
            Some(entry) => entry,
            None => self.load_entry(key, &pinned, looked_nanos)?.0,
        };
        // Its name says which version it is, also if somebody edited the file by another name.
        if entry.version != held.id {
            Arc::make_mut(&mut entry).version = held.id.clone();
        }
        Ok(Some(Top { pinned, entry }))
    }

    /// When a marker of the history at `path` was written; `None`: it is not there.
    pub(super) fn marker_time(
        &self,
        path: &str,
        held: &Held,
    ) -> Result<Option<Timestamp>, EngineError> {
        const DOING: &str = "reading a delete marker";
        let file = match self
            .tree
            .open(&format!("{path}/{}", held.name()), OFlags::RDONLY)
        {
            Ok(file) => file,
            Err(errno) if is_absent(errno) => return Ok(None),
            Err(errno) => return Err(errno).doing(DOING),
        };
        let mut bytes = [0; MARKER_BYTES_MAX];
        let count = files::read_at(&file, &mut bytes, 0).doing(DOING)?;
        let (bytes, _) = bytes.split_at(count);
        match Record::decode(bytes) {
            Ok(record) => Ok(Some(record.modified.unwrap_or_default())),
            Err(_) => Err(EngineError::Corrupt {
                what: "a delete marker below .lobos/versions",
            }),
        }
    }

    /// What a key without a file answers: its delete marker, if that is the newest of its versions.
    pub(super) fn absent_key(&self, key: &ObjectKey) -> EngineError {
        match self.current_marker(key) {
            Ok(Some((held, modified))) => EngineError::DeleteMarker {
                version: held.id,
                modified,
            },
            Ok(None) => self.no_such_key(),
            Err(error) => error,
        }
    }

    /// Whether a key without a file may have a delete marker.
    pub(super) fn may_have_marker(&self) -> bool {
        self.config_now()
            .is_ok_and(|config| config.kept_versions().is_some())
    }

    fn current_marker(&self, key: &ObjectKey) -> Result<Option<(Held, Timestamp)>, EngineError> {
        if !self.may_have_marker() {
            return Ok(None);
        }
        let history = self.history(key).doing(LOOKING)?;
        let Some(newest) = history.held.first().filter(|held| held.is_marker) else {
            return Ok(None);
        };
        let modified = self.marker_time(&history.path, newest)?;
        Ok(modified.map(|modified| (newest.clone(), modified)))
    }

    fn delete_version_locked(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        version: &VersionId,
        bypass: Bypass,
    ) -> Result<Deleted, EngineError> {
        let top = self.top(key)?;
        let history = self.history(key).doing(LOOKING)?;
        self.check_held_locks(key, &history, version, bypass)?;
        if let Some(top) = top.as_ref().filter(|top| top.entry.version == *version) {
            let now = self.shared.clock.now();
            top.entry.metadata.lock.check_removal(now, bypass)?;
            self.delete_current(lock, key, top, &history)?;
            return Ok(Deleted::Removed);
        }
        let (Some(held), Some(dir)) = (history.find(version), &history.dir) else {
            // Who removed it may have died before that was durable.
            self.sync_nearest(&format!("{}/name", history.path))?;
            return Ok(Deleted::Absent);
        };
        let is_current_marker =
            held.is_marker && top.is_none() && history.held.first() == Some(held);
        if is_current_marker && let Some(next) = history.held.get(1).filter(|next| !next.is_marker)
        {
            // First the version is back, then the marker goes: a file makes it void. The null
            // version is older than the marker only by its name in the history.
            let is_null = next.id == VersionId::Null;
            self.promote(lock, key, &history, next, is_null)?;
            self.drop_name(key, dir, &held.name())?;
            if is_null {
                self.sync_directory(&history.path, dir)?;
                self.drop_name(key, dir, &next.name())?;
            }
        } else {
            self.drop_name(key, dir, &held.name())?;
        }
        if *version == VersionId::Null {
            for stale in &history.stale {
                self.drop_name(key, dir, &stale.name())?;
            }
        }
        self.settle_history(lock, &history)?;
        Ok(match held.is_marker {
            true => Deleted::MarkerRemoved,
            false => Deleted::Removed,
        })
    }

    /// Whether the locks of what the history has under this id let it be removed. The null version
    /// may be there and at the key's path, where another program put a file: both count.
    pub(super) fn check_held_locks(
        &self,
        key: &ObjectKey,
        history: &History,
        version: &VersionId,
        bypass: Bypass,
    ) -> Result<(), EngineError> {
        let now = self.shared.clock.now();
        let all = history.held.iter().chain(&history.stale);
        for held in all.filter(|held| held.id == *version && !held.is_marker) {
            let lock = match self.pin_held(key, &history.path, held) {
                Ok(Some(top)) => top.entry.metadata.lock,
                Ok(None) => continue,
                // Nothing of that bucket can be locked: what is damaged may go.
                Err(EngineError::Corrupt { .. }) if self.fresh_config()?.lock.is_none() => continue,
                Err(error) => return Err(error),
            };
            lock.check_removal(now, bypass)?;
        }
        Ok(())
    }

    /// Removes the current version for good; the newest older one takes its place.
    fn delete_current(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        top: &Top,
        history: &History,
    ) -> Result<(), EngineError> {
        let version = &top.entry.version;
        let sequence = self.sequence_of(top, history).doing(LOOKING)?;
        let is_rest = |held: &Held| held.id == *version || held.is_void(sequence);
        if let Some(dir) = &history.dir {
            let all = history.held.iter().chain(&history.stale);
            let rests: Vec<_> = all.filter(|held| is_rest(held)).collect();
            for held in &rests {
                match files::unlink(dir, &held.name()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno).doing("removing a version of a key"),
                }
            }
            if !rests.is_empty() {
                self.sync_directory(&history.path, dir)?;
            }
        }
        let side = self.side_of_pinned(key, &top.pinned);
        let older = history.held.iter().find(|held| !is_rest(held));
        match older.filter(|older| !older.is_marker) {
            Some(older) => self.promote(lock, key, history, older, false)?,
            None => self.remove_current(lock, key)?,
        }
        if let Some(side) = side {
            self.drop_side(key, &side);
        }
        self.settle_history(lock, history)
    }
}

const LOOKING: &str = "looking for a version of a key";
/// Looks for a version that moves between the key's path and its history.
const LOOKS: usize = 3;
/// A marker's record holds its time, its id, and a key of at most 1,024 bytes.
const MARKER_BYTES_MAX: usize = 2048;
