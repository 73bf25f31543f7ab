//! What becomes of a key's versions when it is written or deleted. All of it happens under the
//! key's lock.
//!
//! The current version is the file at the key's path. Before another takes its place it gets a
//! second name, in the key's [`history`], and that name is durable before the first is given
//! away; so at every instant each version has a name, and one that a crash left with two is one
//! version still. The other way round, a version that becomes current again is renamed out of the
//! history: there is no instant without it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::bucket::FsBucket;
use super::draft::Draft;
use super::faults::{Doing, fault};
use super::history::{self, Held, History, Stamp};
use super::lock::KeyLock;
use super::opened::Opened;
use super::put::{copy_attributes, copy_bytes};
use super::record::{Guard, Record};
use super::walk::{Patience, Pinned, Place, split};
use crate::engine::{BucketConfig, Bypass, EngineError, Entry, ObjectKey, VersionId, Versioning};
use crate::io::files;

/// The file that is a key's current version.
#[derive(Debug)]
pub(super) struct Top {
    pub(super) pinned: Pinned,
    pub(super) entry: Arc<Entry>,
}

/// How a new file follows the one that has its key's name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Succession {
    /// It takes its place: nothing is kept. The file carries this version id.
    Replace(Option<Stamp>),
    /// It is a new version with this id.
    Follow(Stamp),
    /// It is the null version, and takes the place of another only if that is the null version.
    FollowAsNull,
}

impl Succession {
    /// The id that the new file carries; `None`: it is the null version.
    pub(super) fn stamp(self) -> Option<Stamp> {
        match self {
            Self::Replace(stamp) => stamp,
            Self::Follow(stamp) => Some(stamp),
            Self::FollowAsNull => None,
        }
    }
}

impl FsBucket {
    /// The current version of a key, for whoever holds its lock.
    pub(super) fn top(&self, key: &ObjectKey) -> Result<Option<Top>, EngineError> {
        let looked_nanos = files::stamp_clock_nanos();
        let found = self
            .find(key, Patience::Blocking)
            .doing("looking for a key")?;
        let Some(pinned) = found else {
            return Ok(None);
        };
        let entry = match self.known_entry_of(key, &pinned.stat) {
            Some(entry) => entry,
            None => self.load_entry(key, &pinned, looked_nanos)?.0,
        };
        Ok(Some(Top { pinned, entry }))
    }

    /// How what is written to `key` now follows what is there.
    pub(super) fn succession(
        &self,
        key: &ObjectKey,
        config: &BucketConfig,
    ) -> Result<Succession, EngineError> {
        match config.kept_versions() {
            None => Ok(Succession::Replace(None)),
            Some(Versioning::Suspended) => Ok(Succession::FollowAsNull),
            Some(Versioning::Enabled) => {
                // The number between is for a null version on its way into the history.
                let sequence = self.newest_sequence(key)?.saturating_add(2);
                let stamp = Stamp::new(sequence, key, &self.shared.entropy);
                Ok(Succession::Follow(stamp))
            }
        }
    }

    /// The greatest sequence of the key's versions, 0 if no version has one.
    fn newest_sequence(&self, key: &ObjectKey) -> Result<u64, EngineError> {
        let top = self.top(key)?;
        let current = top.and_then(|top| Stamp::of(&top.entry.version));
        let history = self.history(key).doing("reading a key's history")?;
        Ok(history
            .newest_sequence()
            .max(current.map_or(0, Stamp::sequence)))
    }

    /// Makes room for what is about to get the key's name: what has it now gets a durable name in
    /// the history, if it is to be kept. If it is not: the side file that goes with it.
    pub(super) fn keep_current(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        succession: Succession,
    ) -> Result<Option<String>, EngineError> {
        let keeps_null = match succession {
            Succession::Replace(_) => return Ok(None),
            Succession::Follow(_) => true,
            Succession::FollowAsNull => false,
        };
        let Some(top) = self.top(key)? else {
            return Ok(None);
        };
        let history = self.history(key).doing(KEEPING)?;
        let sequence = self.sequence_of(&top, &history).doing(KEEPING)?;
        if let Some(dir) = &history.dir {
            for rest in history.held.iter().filter(|held| held.is_void(sequence)) {
                self.drop_name(key, dir, &rest.name())?;
            }
        }
        let held = match Stamp::of(&top.entry.version) {
            Some(stamp) => Held::version(stamp),
            None if !keeps_null => return Ok(self.side_of_pinned(key, &top.pinned)),
            None => {
                // What another program wrote may not be durable yet.
                let file = files::reopen_for_read(&top.pinned.file).doing(KEEPING)?;
                self.sync_file(&file).doing(KEEPING)?;
                match sequence {
                    u64::MAX => {
                        let sequence = history.newest_sequence().saturating_add(1);
                        // Another program put it there, and the null version from before is locked:
                        // it becomes a version of its own.
                        match self.has_locked_null(key, &history)? {
                            true => Held::version(Stamp::new(sequence, key, &self.shared.entropy)),
                            false => Held::null(sequence),
                        }
                    }
                    sequence => Held::null(sequence),
                }
            }
        };
        self.hold(lock, key, &top, &held)?;
        Ok(None)
    }

    fn has_locked_null(&self, key: &ObjectKey, history: &History) -> Result<bool, EngineError> {
        let checked = self.check_held_locks(key, history, &VersionId::Null, Bypass::Nothing);
        match checked {
            Err(EngineError::Locked) => Ok(true),
            checked => checked.map(|()| false),
        }
    }

    pub(super) fn side_of_pinned(&self, key: &ObjectKey, pinned: &Pinned) -> Option<String> {
        let file = files::reopen_for_read(&pinned.file).ok()?;
        self.side_name(key, file)
    }

    /// Gives the current version a durable name in the history.
    fn hold(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        top: &Top,
        held: &Held,
    ) -> Result<(), EngineError> {
        let path = history::path(key);
        let name = held.name();
        let dir = self.make_directory(&lock.home, &path).doing(KEEPING)?;
        let linked = match top.pinned.linked {
            // The file is another key's.
            true => Err(Errno::XDEV),
            false => files::link_unnamed(&top.pinned.file, &dir, &name),
        };
        match linked {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = files::stat_at(&dir, &name).doing(KEEPING)?;
                if there.node() != top.pinned.stat.node() {
                    // It was put back by hand, or its metadata changed since a crash left it here.
                    super::put::replace(lock, &top.pinned.file, &dir, &name).doing(KEEPING)?;
                }
            }
            // Another mount or project, a file that is not ours to link, no links at all.
            Err(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::ACCESS) => {
                let draft = self.copy_version(lock, key, &top.pinned, &top.entry, &dir)?;
                self.name_draft(lock, &draft, &dir, &name).doing(KEEPING)?;
            }
            Err(errno) => return Err(fault(KEEPING, errno)),
        }
        if held.id == VersionId::Null {
            self.drop_nulls(key, Some(held))?;
        }
        self.sync_directory(&path, &dir)
    }

    /// Gives a draft a name, and replaces what has it.
    pub(super) fn name_draft(
        &self,
        lock: &KeyLock,
        draft: &Draft,
        dir: &OwnedFd,
        name: &str,
    ) -> Result<(), Errno> {
        match &draft.named {
            Some(waiting) => files::rename(waiting.dir(), waiting.name(), dir, name),
            None => super::put::replace(lock, &draft.file, dir, name),
        }
    }

    /// A copy of a version's file with its record, like those in `dir`, synced: by reference where
    /// the file system can.
    pub(super) fn copy_version(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        pinned: &Pinned,
        entry: &Entry,
        dir: &OwnedFd,
    ) -> Result<Draft, EngineError> {
        let file = files::reopen_for_read(&pinned.file).doing(KEEPING)?;
        let source = Opened::new(file, pinned.stat);
        let draft = Draft::create(self, &lock.home, dir).doing(KEEPING)?;
        copy_bytes(&source.file, 0, &draft.file, 0, entry.size_bytes)?;
        copy_attributes(&source.file, &draft.file)?;
        source.check(&self.touches)?;
        files::set_mode(&draft.file, pinned.stat.mode & 0o777).doing(KEEPING)?;
        let stat = files::stat(&draft.file).doing(KEEPING)?;
        let record = Record {
            guard: Guard::of(&stat),
            etag: Some(entry.etag.clone()),
            modified: Some(entry.modified),
            metadata: entry.metadata.clone(),
            side: None,
            version: Stamp::of(&entry.version),
            ..self
                .read_record(key, &source.file, &pinned.stat)?
                .unwrap_or_default()
        };
        self.write_record(&lock.home, key, &draft.file, &stat, &record)?;
        self.sync_file(&draft.file).doing(KEEPING)?;
        Ok(draft)
    }

    /// Removes the null versions of the history but `keep`. Where there are none it costs a look.
    /// The caller syncs the history's directory, which is answered.
    pub(super) fn drop_nulls(
        &self,
        key: &ObjectKey,
        keep: Option<&Held>,
    ) -> Result<Option<History>, EngineError> {
        let history = self.history(key).doing(DROPPING)?;
        let Some(dir) = &history.dir else {
            return Ok(None);
        };
        let mut has_dropped = false;
        for held in history.held.iter().chain(&history.stale) {
            if held.id == VersionId::Null && Some(held) != keep {
                self.drop_name(key, dir, &held.name())?;
                has_dropped = true;
            }
        }
        Ok(has_dropped.then_some(history))
    }

    /// After a null version got the key's name: older ones are gone for good. `let_go` is what
    /// [`FsBucket::keep_current`] gave.
    pub(super) fn end_succession(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        succession: Succession,
        let_go: Option<String>,
    ) -> Result<(), EngineError> {
        if let Some(side) = let_go {
            self.drop_side(key, &side);
        }
        if !matches!(succession, Succession::FollowAsNull) {
            return Ok(());
        }
        match self.drop_nulls(key, None)? {
            Some(history) => self.settle_history(lock, &history),
            None => Ok(()),
        }
    }

    /// Makes the names of a history durable, and removes its directory if none is left.
    pub(super) fn settle_history(
        &self,
        lock: &KeyLock,
        history: &History,
    ) -> Result<(), EngineError> {
        if let Some(dir) = &history.dir {
            self.sync_directory(&history.path, dir)?;
        }
        // Who made the directories above it may have died before it made its own.
        self.prune(&lock.home, &format!("{}/name", history.path));
        Ok(())
    }

    /// Removes one name of a history, and the side file that only it led to.
    pub(super) fn drop_name(
        &self,
        key: &ObjectKey,
        dir: &OwnedFd,
        name: &str,
    ) -> Result<(), EngineError> {
        // With another name it is a version still.
        let side = files::open_at(dir, name, OFlags::RDONLY | OFlags::NONBLOCK)
            .ok()
            .filter(|file| files::stat(file).is_ok_and(|stat| stat.links == 1))
            .and_then(|file| self.side_name(key, file));
        match files::unlink(dir, name) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(fault(DROPPING, errno)),
        }
        if let Some(side) = side {
            self.drop_side(key, &side);
        }
        Ok(())
    }

    /// Writes a delete marker, durably.
    pub(super) fn write_marker(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        marker: &Held,
    ) -> Result<(), EngineError> {
        const DOING: &str = "writing a delete marker";
        let record = Record {
            modified: Some(self.shared.clock.now()),
            version: Stamp::of(&marker.id),
            key: Some(key.as_str().into()),
            ..Record::default()
        };
        let path = history::path(key);
        let dir = self.make_directory(&lock.home, &path).doing(DOING)?;
        let scratch = &lock.home.scratch;
        let fresh = scratch.name();
        let file = files::create_new(&scratch.dir, &fresh, 0o600).doing(DOING)?;
        let written = files::write_all_at(&file, &[record.encode().into()], 0)
            .and_then(|()| self.sync_file(&file))
            .and_then(|()| files::rename(&scratch.dir, &fresh, &dir, &marker.name()));
        if let Err(errno) = written {
            let _ = files::unlink(&scratch.dir, &fresh);
            return Err(fault(DOING, errno));
        }
        self.sync_directory(&path, &dir)
    }

    /// The marker that a delete writes now, if the bucket keeps versions.
    pub(super) fn next_marker(
        &self,
        key: &ObjectKey,
        succession: Succession,
    ) -> Result<Option<Held>, EngineError> {
        Ok(match succession {
            Succession::Replace(_) => None,
            Succession::Follow(stamp) => Some(Held::version(stamp).into_marker()),
            Succession::FollowAsNull => {
                let newest = self.newest_sequence(key)?;
                Some(Held::null(newest.saturating_add(1)).into_marker())
            }
        })
    }

    /// Makes a version of the history the key's file, in place of what is there, by one rename; or
    /// by a link, where nothing is there and the name in the history is still needed.
    pub(super) fn promote(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        history: &History,
        held: &Held,
        is_linked: bool,
    ) -> Result<(), EngineError> {
        const DOING: &str = "making an older version the current one";
        let Some(from) = &history.dir else {
            return Ok(());
        };
        let name = held.name();
        // What cannot be told to be an object's own bytes does not go where people look for them.
        let is_plain = match self.pin_held(key, &history.path, held) {
            Ok(version) => version.is_none_or(|version| version.entry.seal.is_none()),
            Err(_) => false,
        };
        let mut place = match is_plain {
            true => Place::Tree,
            false => Place::Overlay,
        };
        for _ in 0..super::put::RACES_MAX {
            let (spot, dir) = self.claim(lock, key, &mut place)?;
            let own = split(&spot.path).1;
            let renamed = match is_linked {
                true => self
                    .pin(&format!("{}/{name}", history.path), Patience::Blocking)
                    .and_then(|(file, _)| files::link_unnamed(file, &dir, own)),
                false => files::rename(from, &name, &dir, own),
            };
            let moved = match renamed {
                Err(Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) => {
                    self.promote_copy(lock, key, history, held, &dir, own)
                }
                result => result.doing(DOING),
            };
            match moved {
                Ok(()) => {
                    if place == Place::Tree {
                        self.remove_overlaid(lock, key, true)?;
                    }
                    self.sync_directory(split(&spot.path).0, &dir)?;
                    if !is_plain {
                        self.remove_from_tree(lock, key)?;
                    }
                    return self.settle_history(lock, history);
                }
                // Pruned since it was opened, or somebody made a directory of that name.
                Err(EngineError::Io { source, .. })
                    if matches!(
                        Errno::from_io_error(&source),
                        Some(Errno::NOENT | Errno::ISDIR | Errno::NOTEMPTY)
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Err(EngineError::Busy)
    }

    /// Where a rename cannot do it: the key's directory is in another mount.
    fn promote_copy(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        history: &History,
        held: &Held,
        dir: &OwnedFd,
        own: &str,
    ) -> Result<(), EngineError> {
        let Some(version) = self.pin_held(key, &history.path, held)? else {
            return Ok(());
        };
        let draft = self.copy_version(lock, key, &version.pinned, &version.entry, dir)?;
        self.name_draft(lock, &draft, dir, own).doing(KEEPING)?;
        match &history.dir {
            Some(from) => files::unlink(from, &held.name()).doing(DROPPING),
            None => Ok(()),
        }
    }
}

const KEEPING: &str = "keeping a version of a key";
const DROPPING: &str = "removing a version of a key";
