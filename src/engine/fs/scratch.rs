//! `.lobos/` itself, and the places in it (and, where it must be, elsewhere in the tree) in which
//! this process keeps names for a moment.
//!
//! `.lobos/tmp/<id>/` belongs to one process, which holds the lock on the file `lock` in it for as
//! long as it lives. A sweep removes only directories whose lock it can take: the kernel gives the
//! lock back when a process ends in whatever way, and neither a process id nor an age could tell
//! as much.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::RESERVED;
use super::bucket::FsBucket;
use super::faults::{Doing, off_shard};
use crate::clock::Entropy;
use crate::engine::EngineError;
use crate::engine::types::hex;
use crate::io::files::{self, ByteSpan, Kind, Node, Stat, Tree};

/// The open `.lobos/` of one bucket.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) dir: OwnedFd,
    pub(super) lock: OwnedFd,
    lock_node: Node,
    pub(super) scratch: Scratch,
}

impl FsBucket {
    /// The bucket's `.lobos/`, made at the first operation that needs it.
    pub(super) async fn home(self: &Arc<Self>) -> Result<Arc<Home>, EngineError> {
        if let Some(home) = self.home.load_full() {
            return Ok(home);
        }
        let bucket = Arc::clone(self);
        off_shard(move || bucket.home_blocking()).await
    }

    pub(super) fn home_blocking(&self) -> Result<Arc<Home>, EngineError> {
        let _one = self
            .making_home
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(home) = self.home.load_full() {
            return Ok(home);
        }
        if !self.is_in_place()? {
            return Err(self.gone());
        }
        let home = Home::make(&self.tree, &self.shared.entropy)?;
        // Whoever made the bucket's directory may not have made its own name durable.
        self.sync_own_name();
        let home = Arc::new(home);
        self.home.store(Some(Arc::clone(&home)));
        Ok(home)
    }

    /// Whether `home` still is what the bucket's path leads to. One system call.
    pub(super) fn is_home(&self, home: &Home) -> Result<bool, EngineError> {
        match self.anchor.stat_below(".lobos/lock") {
            Ok(stat) => Ok(stat.node() == home.lock_node),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(errno).doing("looking for the bucket's lock file"),
        }
    }

    /// The next [`FsBucket::home`] opens or makes it anew.
    pub(super) fn forget_home(&self, home: &Arc<Home>) {
        let _one = self
            .making_home
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let current = self.home.load_full();
        if current.is_some_and(|current| Arc::ptr_eq(&current, home)) {
            self.home.store(None);
        }
    }
}

impl Home {
    /// Opens `.lobos/` of the tree, or makes it. Errors: [`EngineError::Unavailable`] when it is
    /// one that others could have tampered with.
    pub(super) fn make(tree: &Tree, entropy: &Entropy) -> Result<Self, EngineError> {
        match files::make_directory(tree.root(), RESERVED, 0o700) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).doing("making the bucket's .lobos directory"),
        }
        let dir = tree
            .open(RESERVED, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|_| UNSAFE_HOME)?;
        if !is_safe(&files::stat(&dir).doing("examining the bucket's .lobos directory")?) {
            return Err(UNSAFE_HOME);
        }
        let lock = files::open_or_create(&dir, "lock", 0o600).doing("opening the lock file")?;
        let lock_node = files::stat(&lock).doing("examining the lock file")?.node();
        match files::make_directory(&dir, "tmp", 0o700) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).doing("making the directory of temporary files"),
        }
        let tmp = files::open_directory(&dir, "tmp").doing("opening .lobos/tmp")?;
        let scratch =
            Scratch::make(&tmp, entropy).doing("making a directory of temporary files")?;
        // What a sweep cannot remove now, another will.
        let _ = sweep(&tmp, &scratch);
        Ok(Self {
            dir,
            lock,
            lock_node,
            scratch,
        })
    }
}

/// Whether nobody but this user can have put anything into a directory or file.
pub(super) fn is_safe(stat: &Stat) -> bool {
    stat.uid == rustix::process::geteuid().as_raw() && stat.mode & 0o022 == 0
}

pub(super) const UNSAFE_HOME: EngineError = EngineError::Unavailable {
    why: "the bucket's .lobos is not a directory that only the server's user can write to",
};

/// This process's directory in `.lobos/tmp/`.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) dir: OwnedFd,
    tmp: OwnedFd,
    pub(super) id: Box<str>,
    next: AtomicU64,
    // Held for as long as the process uses the directory.
    _lock: OwnedFd,
}

impl Scratch {
    fn make(tmp: &OwnedFd, entropy: &Entropy) -> Result<Self, Errno> {
        for _ in 0..ATTEMPTS_MAX {
            let id = hex(&entropy.bytes::<16>());
            match Self::claim(tmp, &id) {
                Ok(Some((dir, lock))) => {
                    return Ok(Self {
                        dir,
                        tmp: tmp.try_clone().map_err(|_| Errno::MFILE)?,
                        id: id.into(),
                        next: AtomicU64::new(0),
                        _lock: lock,
                    });
                }
                // A sweep was faster than the lock.
                Ok(None) | Err(Errno::NOENT | Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::BUSY)
    }

    fn claim(tmp: &OwnedFd, id: &str) -> Result<Option<(OwnedFd, OwnedFd)>, Errno> {
        files::make_directory(tmp, id, 0o700)?;
        let dir = files::open_directory(tmp, id)?;
        let lock = files::open_or_create(&dir, "lock", 0o600)?;
        let node = files::stat(&lock)?.node();
        let is_ours =
            files::ofd_lock(&lock, ByteSpan::All)? && files::stat_at(&dir, "lock")?.node() == node;
        Ok(is_ours.then_some((dir, lock)))
    }

    /// A name in [`Scratch::dir`] that was not used before.
    pub(super) fn name(&self) -> String {
        format!("{:x}", self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // An orderly end leaves nothing behind; otherwise the next process sweeps.
        let _ = remove_tree(&self.tmp, &self.id, &self.dir, self);
    }
}

/// Removes what processes that are no longer there have left in `tmp`.
fn sweep(tmp: &OwnedFd, own: &Scratch) -> Result<(), Errno> {
    for (name, _) in files::names(tmp)?.names {
        if *name == *own.id {
            continue;
        }
        let dir = match files::open_directory(tmp, &name) {
            Ok(dir) => dir,
            Err(_) => continue,
        };
        let lock = files::open_or_create(&dir, "lock", 0o600)?;
        if files::ofd_lock(&lock, ByteSpan::All)? {
            remove_tree(tmp, &name, &dir, own)?;
        }
    }
    Ok(())
}

/// Removes the directory `name` of `above`, open as `dir`, and all that is in it. Directories
/// below are first moved into `scratch`, so that depth costs neither stack nor descriptors.
pub(super) fn remove_tree(
    above: impl AsFd,
    name: &str,
    dir: impl AsFd,
    scratch: &Scratch,
) -> Result<(), Errno> {
    let mut moved = Vec::new();
    empty(dir.as_fd(), scratch, &mut moved)?;
    while let Some(name) = moved.pop() {
        let dir = files::open_directory(&scratch.dir, &name)?;
        empty(dir.as_fd(), scratch, &mut moved)?;
        files::remove_directory(&scratch.dir, &name)?;
    }
    files::remove_directory(above, name)
}

fn empty(dir: BorrowedFd<'_>, scratch: &Scratch, moved: &mut Vec<String>) -> Result<(), Errno> {
    for (name, kind) in files::names(dir)?.names {
        let kind = match kind {
            Some(kind) => kind,
            None => files::stat_at(dir, &name)?.kind(),
        };
        if kind != Kind::Directory {
            files::unlink(dir, &name)?;
            continue;
        }
        match files::remove_directory(dir, &name) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let fresh = scratch.name();
                files::rename(dir, &name, &scratch.dir, &fresh)?;
                moved.push(fresh);
            }
            result => result?,
        }
    }
    Ok(())
}

/// A directory in which a file or directory can wait for its place in some directory of the tree:
/// same mount, same group, same default access list.
#[derive(Debug)]
pub(super) struct Stage {
    home: Arc<Home>,
    /// `None`: this process's directory in the bucket's `.lobos/tmp/`.
    local: Option<Local>,
}

/// `<above>/.lobos/<id>/`, removed when it is no longer used.
#[derive(Debug)]
struct Local {
    dir: OwnedFd,
    reserved: OwnedFd,
    above: OwnedFd,
}

impl Stage {
    pub(super) fn in_bucket(home: &Arc<Home>) -> Self {
        Self {
            home: Arc::clone(home),
            local: None,
        }
    }

    /// One in `above` itself.
    pub(super) fn local(above: impl AsFd, home: &Arc<Home>) -> Result<Self, Errno> {
        let above = files::open_directory(above, ".")?;
        for _ in 0..ATTEMPTS_MAX {
            match Self::open_local(&above, &home.scratch) {
                Ok((reserved, dir)) => {
                    return Ok(Self {
                        home: Arc::clone(home),
                        local: Some(Local {
                            dir,
                            reserved,
                            above,
                        }),
                    });
                }
                // Another user of the place has just removed it.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::BUSY)
    }

    fn open_local(above: &OwnedFd, scratch: &Scratch) -> Result<(OwnedFd, OwnedFd), Errno> {
        files::make_directory(above, RESERVED, 0o700).or_else(unless_there)?;
        let reserved = files::open_directory(above, RESERVED)?;
        if !is_safe(&files::stat(&reserved)?) {
            return Err(Errno::ACCESS);
        }
        files::make_directory(&reserved, &scratch.id, 0o700).or_else(unless_there)?;
        let dir = files::open_directory(&reserved, &scratch.id)?;
        Ok((reserved, dir))
    }

    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        match &self.local {
            None => self.home.scratch.dir.as_fd(),
            Some(local) => local.dir.as_fd(),
        }
    }

    /// A name in [`Stage::dir`] that was not used before.
    pub(super) fn name(&self) -> String {
        self.home.scratch.name()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(local) = &self.local {
            // Not empty: others are using the place, and the last one removes it.
            if files::remove_directory(&local.reserved, &self.home.scratch.id).is_ok() {
                let _ = files::remove_directory(&local.above, RESERVED);
            }
        }
    }
}

impl FsBucket {
    /// Removes what processes that are gone have left in `<dir>/.lobos/`, and `.lobos/` itself if
    /// nobody uses it. `dir` is not the bucket's own directory.
    pub(super) fn sweep_local(&self, home: &Home, dir: impl AsFd) -> Result<(), Errno> {
        let reserved = files::open_directory(dir.as_fd(), RESERVED)?;
        let tmp = files::open_directory(&home.dir, "tmp")?;
        for (id, _) in files::names(&reserved)?.names {
            if *id != *home.scratch.id && !is_alive(&tmp, &id)? {
                let left = files::open_directory(&reserved, &id)?;
                remove_tree(&reserved, &id, &left, &home.scratch)?;
            }
        }
        files::remove_directory(dir, RESERVED)
    }
}

fn is_alive(tmp: &OwnedFd, id: &str) -> Result<bool, Errno> {
    let dir = match files::open_directory(tmp, id) {
        Err(Errno::NOENT) => return Ok(false),
        dir => dir?,
    };
    let lock = match files::open_existing(&dir, "lock") {
        Err(Errno::NOENT) => return Ok(false),
        lock => lock?,
    };
    let is_free = files::ofd_lock(&lock, ByteSpan::All)?;
    Ok(!is_free)
}

fn unless_there(errno: Errno) -> Result<(), Errno> {
    if errno == Errno::EXIST {
        Ok(())
    } else {
        Err(errno)
    }
}

const ATTEMPTS_MAX: usize = 64;
