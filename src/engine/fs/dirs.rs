//! Directories of the tree: made for keys, marked as made by S3, synced, and pruned when the last
//! key below them goes.
//!
//! A directory that S3 made carries the attribute `user.lobos.dir`; where there are no attributes,
//! `.lobos/dirs/<hash of its path>` marks it. Directories that people made are never removed. The
//! mark must not be lost to a crash, so new directories are made and marked in a stage and then
//! renamed into place, a whole chain at once.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::RESERVED;
use super::bucket::{Anchor, FsBucket};
use super::faults::Doing;
use super::history;
use super::overlay;
use super::scratch::{Home, Stage, remove_tree};
use super::types::KeyHash;
use super::walk::{is_absent, split};
use crate::engine::types::hex;
use crate::engine::{Durability, EngineError};
use crate::io::files::{self, Attribute, Stat};

impl FsBucket {
    /// The directory at `path`, `.` for the bucket's own.
    pub(super) fn open_directory(&self, path: &str) -> Result<OwnedFd, Errno> {
        self.tree.open(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The directory at `path`, made with all that is missing above it. Below `.lobos` they are
    /// ours alone, elsewhere they are as the directory they are made in has it.
    pub(super) fn make_directory(&self, home: &Arc<Home>, path: &str) -> Result<OwnedFd, Errno> {
        for _ in 0..RACES_MAX {
            match self.open_directory(path) {
                Err(Errno::NOENT) => {}
                result => return result,
            }
            let made = if path.starts_with(RESERVED) {
                self.make_reserved(path)
            } else {
                self.make_missing(home, path)
            };
            match made {
                // Somebody else made some of them, or pruned what was there.
                Ok(()) | Err(Errno::EXIST | Errno::NOENT | Errno::NOTEMPTY) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::BUSY)
    }

    fn make_reserved(&self, path: &str) -> Result<(), Errno> {
        let mut dir = self.open_directory(".")?;
        for segment in path.split('/') {
            match files::make_directory(&dir, segment, 0o700) {
                Ok(()) | Err(Errno::EXIST) => dir = files::open_directory(&dir, segment)?,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Makes the missing part of `path` in a stage and moves it into place.
    fn make_missing(&self, home: &Arc<Home>, path: &str) -> Result<(), Errno> {
        let (mut have, mut dir) = (split(path).0, Err(Errno::NOENT));
        while dir.is_err() {
            dir = self.open_directory(have);
            match dir {
                Err(Errno::NOENT) if have != "." => have = split(have).0,
                Err(errno) => return Err(errno),
                Ok(_) => {}
            }
        }
        let dir = dir?;
        let missing = match have {
            "." => path,
            have => path.get(have.len() + 1..).ok_or(Errno::NOENT)?,
        };
        if is_alike(&dir, &home.scratch.dir)? {
            match self.move_chain(home, &Stage::in_bucket(home), &dir, have, missing) {
                // A quota's or subvolume's border that looks like the same mount.
                Err(Errno::XDEV) => {}
                result => return result,
            }
        }
        if have == "." {
            // The bucket's `.lobos` was made when its directory had another group or list.
            let (first, _) = missing.split_once('/').unwrap_or((missing, ""));
            return self.make_marked(home, &dir, first, first).map(|_| ());
        }
        let stage = Stage::local(&dir, home)?;
        self.move_chain(home, &stage, &dir, have, missing)
    }

    fn move_chain(
        &self,
        home: &Arc<Home>,
        stage: &Stage,
        into: &OwnedFd,
        have: &str,
        missing: &str,
    ) -> Result<(), Errno> {
        let top_name = stage.name();
        let mut segments = missing.split('/');
        let first = segments.next().unwrap_or(missing);
        let mut path = match have {
            "." => first.to_owned(),
            have => format!("{have}/{first}"),
        };
        let top = self.make_marked(home, stage.dir(), &top_name, &path)?;
        let mut result = Ok(());
        let mut above = None;
        for segment in segments {
            path = format!("{path}/{segment}");
            let at = above.as_ref().unwrap_or(&top).as_fd();
            match self.make_marked(home, at, segment, &path) {
                Ok(dir) => above = Some(dir),
                Err(errno) => {
                    result = Err(errno);
                    break;
                }
            }
        }
        let result = result.and_then(|()| files::rename_new(stage.dir(), &top_name, into, first));
        if result.is_err() {
            // What cannot be removed now, a sweep will remove.
            let _ = remove_tree(stage.dir(), &top_name, &top, &home.scratch);
        }
        result
    }

    fn make_marked(
        &self,
        home: &Arc<Home>,
        above: impl AsFd,
        name: &str,
        path: &str,
    ) -> Result<OwnedFd, Errno> {
        let mode = self.shared.dir_mode;
        files::make_directory(above.as_fd(), name, mode.unwrap_or(0o777))?;
        let dir = files::open_directory(above, name)?;
        if let Some(mode) = mode {
            files::set_mode(&dir, mode)?;
        }
        match files::write_attribute(&dir, MARK, b"1") {
            Err(Errno::OPNOTSUPP) => {
                let marks = self.make_directory(home, MARKS)?;
                files::open_or_create(&marks, &mark_name(path), 0o600)?;
            }
            result => result?,
        }
        Ok(dir)
    }

    /// Whether S3 made the directory that is open as `dir` and lies at `path`.
    pub(super) fn is_made_by_s3(&self, dir: impl AsFd, path: &str) -> Result<bool, Errno> {
        match files::read_attribute(dir, MARK, &mut Vec::new())? {
            Attribute::Found => Ok(true),
            Attribute::Absent => Ok(false),
            Attribute::Unsupported => match self.open_directory(MARKS) {
                Ok(marks) => Ok(files::stat_at(&marks, &mark_name(path)).is_ok()),
                Err(Errno::NOENT) => Ok(false),
                Err(errno) => Err(errno),
            },
        }
    }

    /// After the file at `path` was removed: removes the directories above it that S3 made and
    /// that are now empty. Nothing depends on it, so what fails is left.
    pub(super) fn prune(&self, home: &Home, path: &str) {
        let mut path = split(path).0;
        while !matches!(path, "." | overlay::ROOT | history::ROOT) {
            let Ok(true) = self.prune_one(home, path) else {
                return;
            };
            path = split(path).0;
        }
    }

    /// `false`: it stays.
    fn prune_one(&self, home: &Home, path: &str) -> Result<bool, Errno> {
        let dir = match self.open_directory(path) {
            // Who removed it may have died before it could go on.
            Err(Errno::NOENT) => return Ok(true),
            dir => dir?,
        };
        let is_ours = path.starts_with(RESERVED);
        if !is_ours && !self.is_made_by_s3(&dir, path)? {
            return Ok(false);
        }
        let (above, name) = split(path);
        let above = self.open_directory(above)?;
        match files::remove_directory(&above, name) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if !is_ours => {
                // The rest of a process that was killed may be all that is in it.
                self.sweep_local(home, &dir)?;
                files::remove_directory(&above, name)?;
            }
            result => result?,
        }
        if !self.traits.attributes
            && let Ok(marks) = self.open_directory(MARKS)
        {
            let _ = files::unlink(marks, &mark_name(path));
        }
        Ok(true)
    }

    /// Makes the names in `dir`, which lies at `path`, durable, and with them every directory
    /// above it that this process does not know to be durable, whoever made it. Does nothing in
    /// relaxed mode. A failure makes the bucket read-only.
    pub(super) fn sync_directory(&self, path: &str, dir: impl AsFd) -> Result<(), EngineError> {
        if self.durability_now() == Durability::Relaxed {
            return Ok(());
        }
        self.sync_names(path, dir)
    }

    /// The same in both modes.
    pub(super) fn sync_names(&self, path: &str, dir: impl AsFd) -> Result<(), EngineError> {
        self.sync_chain(path, dir)
            .map_err(|errno| self.poison(errno))
    }

    /// Makes durable whether there is a file at `path`, which is answered for but was not changed
    /// here: by a sync of its directory, or of the nearest one above it that is there.
    pub(super) fn sync_nearest(&self, path: &str) -> Result<(), EngineError> {
        let mut above = split(path).0;
        loop {
            match self.open_directory(above) {
                Ok(dir) => return self.sync_directory(above, &dir),
                Err(errno) if is_absent(errno) && above != "." => above = split(above).0,
                Err(errno) => return Err(errno).doing("opening the directory of a key"),
            }
        }
    }

    fn sync_chain(&self, path: &str, dir: impl AsFd) -> Result<(), Errno> {
        let mut stat = files::stat(&dir)?;
        self.sync_names_of(dir)?;
        let mut path = path;
        let mut synced: Vec<(&str, Stat)> = Vec::new();
        while path != "." && !self.durable.contains(path, &stat) {
            synced.push((path, stat));
            path = split(path).0;
            let dir = match self.open_directory(path) {
                Ok(dir) => dir,
                // The path no longer leads here: somebody moved a directory, and its new name is
                // not ours to make durable.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                Err(errno) => return Err(errno),
            };
            stat = files::stat(&dir)?;
            self.sync_names_of(&dir)?;
        }
        for (path, stat) in synced {
            self.durable.insert(path, &stat);
        }
        Ok(())
    }

    /// With the time that it takes until somebody has done it.
    fn sync_names_of(&self, dir: impl AsFd) -> Result<(), Errno> {
        let _timing = self.shared.times.syncing();
        self.syncs.sync(dir)
    }

    /// Makes the name of the bucket's own directory durable, as far as this user may.
    pub(super) fn sync_own_name(&self) {
        let above = match &self.anchor {
            Anchor::Path(path) => path
                .parent()
                .and_then(|parent| files::open_path(parent).ok()),
            Anchor::Below { root, .. } => files::open_directory(root.root(), ".").ok(),
        };
        if let Some(above) = above {
            // The bucket was there before us; it is a courtesy to what is written into it.
            let _ = files::sync_all(above);
        }
    }
}

/// Whether what is born in `scratch` is like what is born in `dir`: mount, group, access list.
pub(super) fn is_alike(dir: &OwnedFd, scratch: &OwnedFd) -> Result<bool, Errno> {
    let (there, here) = (files::stat(dir)?, files::stat(scratch)?);
    let gives_group = |stat: &Stat| (stat.mode & SET_GROUP != 0).then_some(stat.gid);
    let has_list = |dir: &OwnedFd| files::has_default_list(dir);
    Ok(there.mount_id == here.mount_id
        && there.identity.device == here.identity.device
        && gives_group(&there) == gives_group(&here)
        && !has_list(dir)
        && !has_list(scratch))
}

fn mark_name(path: &str) -> String {
    hex(&KeyHash::of(path).0)
}

/// The bit by which a directory gives its group to what is made in it.
const SET_GROUP: u32 = 0o2000;
/// The attribute of directories that S3 made.
const MARK: &str = "user.lobos.dir";
const MARKS: &str = ".lobos/dirs";
/// Others who make or prune the same directories at the same time.
const RACES_MAX: usize = 64;
