//! From a key to a file: which path a key has in the tree, whether it is expressible there, and
//! the walk that ends at a pinned regular file inside the bucket, or nowhere.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::bucket::FsBucket;
use super::{RESERVED, Symlinks, overlay};
use crate::engine::ObjectKey;
use crate::io::files::{self, Kind, Stat};

/// A regular file that a key stands for, held by an `O_PATH` descriptor.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) file: OwnedFd,
    pub(super) stat: Stat,
    pub(super) place: Place,
    /// The key's own name is a symbolic link; the file lies elsewhere in the bucket.
    pub(super) linked: bool,
}

/// Which of a key's two possible homes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tree,
    Overlay,
}

/// How far a walk may go to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// `EAGAIN` rather than wait for the device.
    Cached,
    Blocking,
}

impl FsBucket {
    /// The file that is the key's current object. `Ok(None)`: there is none.
    /// `EAGAIN`: only with [`Patience::Cached`].
    pub(super) fn find(
        &self,
        key: &ObjectKey,
        patience: Patience,
    ) -> Result<Option<Pinned>, Errno> {
        if let Some(pinned) = self.find_in_tree(key, patience)? {
            return Ok(Some(pinned));
        }
        let path = overlay::path(key);
        match self.pin(&path, patience) {
            Ok((file, stat)) if stat.kind() == Kind::File => Ok(Some(Pinned {
                file,
                stat,
                place: Place::Overlay,
                linked: false,
            })),
            Ok(_) => Ok(None),
            // It may have moved into the tree since that was looked at.
            Err(errno) if is_absent(errno) => self.find_in_tree(key, patience),
            Err(errno) => Err(errno),
        }
    }

    fn find_in_tree(&self, key: &ObjectKey, patience: Patience) -> Result<Option<Pinned>, Errno> {
        let Some(path) = tree_path(key) else {
            return Ok(None);
        };
        match self.pin_in_tree(path, patience) {
            Err(errno) if is_absent(errno) => Ok(None),
            result => result.map(Some),
        }
    }

    fn pin_in_tree(&self, path: &str, patience: Patience) -> Result<Pinned, Errno> {
        let (file, stat) = self.pin(path, patience)?;
        if self.traits.folds_names && !self.is_exact(path)? {
            return Err(Errno::NOENT);
        }
        match stat.kind() {
            Kind::File => Ok(Pinned {
                file,
                stat,
                place: Place::Tree,
                linked: false,
            }),
            Kind::Link => self.follow(path, file, patience),
            Kind::Directory => Err(Errno::ISDIR),
            Kind::Special => Err(Errno::NOENT),
        }
    }

    /// The file or link at `path`.
    pub(super) fn pin(&self, path: &str, patience: Patience) -> Result<(OwnedFd, Stat), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let file = match patience {
            Patience::Cached => self.tree.open_cached(path, flags)?,
            Patience::Blocking => self.tree.open(path, flags)?,
        };
        let stat = files::stat(&file)?;
        Ok((file, stat))
    }

    /// Resolves the link at `path` inside the bucket. Links to links are followed a few times, as
    /// people make them; whatever lies outside, in `.lobos`, or behind a linked directory is not
    /// there.
    pub(super) fn follow(
        &self,
        path: &str,
        link: OwnedFd,
        patience: Patience,
    ) -> Result<Pinned, Errno> {
        if self.shared.symlinks == Symlinks::Never {
            return Err(Errno::NOENT);
        }
        let mut link = link;
        let mut path = path.to_owned();
        for _ in 0..LINKS_MAX {
            let target = files::read_link(&link)?;
            path = self.resolve(&path, &target).ok_or(Errno::NOENT)?;
            let (file, stat) = self.pin(&path, patience)?;
            match stat.kind() {
                Kind::File => {
                    return Ok(Pinned {
                        file,
                        stat,
                        place: Place::Tree,
                        linked: true,
                    });
                }
                Kind::Link => link = file,
                Kind::Directory | Kind::Special => return Err(Errno::NOENT),
            }
        }
        Err(Errno::NOENT)
    }

    /// Where in the bucket the link at `path` points; `None`: outside, or nowhere that is served.
    fn resolve(&self, path: &str, target: &str) -> Option<String> {
        let (mut segments, target) = if target.starts_with('/') {
            let inside = std::path::Path::new(target)
                .strip_prefix(&self.directory)
                .ok()?;
            (Vec::new(), inside.to_str()?)
        } else {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            let above = parent.split('/').filter(|segment| !segment.is_empty());
            (above.collect(), target)
        };
        for segment in target.split('/') {
            match segment {
                "" | "." => {}
                ".." => {
                    segments.pop()?;
                }
                RESERVED => return None,
                segment => segments.push(segment),
            }
        }
        (!segments.is_empty()).then(|| segments.join("/"))
    }

    /// On a file system that folds names: whether some component of `path` finds a name that is
    /// spelled differently.
    pub(super) fn has_folded_twin(&self, path: &str) -> Result<bool, Errno> {
        match self.pin(path, Patience::Blocking) {
            Ok(_) => self.is_exact(path).map(|is_exact| !is_exact),
            // The twin may be one of the directories above.
            Err(_) => match split(path).0 {
                "." => Ok(false),
                above => self.has_folded_twin(above),
            },
        }
    }

    /// On a file system that folds names: whether every component is stored as it is spelled.
    pub(super) fn is_exact(&self, path: &str) -> Result<bool, Errno> {
        let mut parent = String::from(".");
        for segment in path.split('/') {
            let dir = self
                .tree
                .open(&parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let names = files::names(&dir)?;
            if !names.names.iter().any(|(name, _)| &**name == segment) {
                return Ok(false);
            }
            if parent == "." {
                parent.clear();
            } else {
                parent.push('/');
            }
            parent.push_str(segment);
        }
        Ok(true)
    }
}

/// The key's path in the tree, if a tree can express it: the key itself.
pub(super) fn tree_path(key: &ObjectKey) -> Option<&str> {
    let expressible = |segment: &str| {
        !matches!(segment, "" | "." | ".." | RESERVED) && segment.len() <= NAME_BYTES_MAX
    };
    let path = key.as_str();
    path.split('/').all(expressible).then_some(path)
}

/// The tree has no file there, whatever the reason; the overlay may.
///
/// `EINVAL` and `EILSEQ` come from file systems that cannot store some names.
pub(super) fn is_absent(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::NAMETOOLONG
            | Errno::LOOP
            | Errno::XDEV
            | Errno::INVAL
            | Errno::ILSEQ
    )
}

/// The directory part (`.` for the bucket itself) and the last component.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or((".", path))
}

/// NAME_MAX of Linux.
const NAME_BYTES_MAX: usize = 255;
/// Links to links that are followed; the kernel's own walks allow 40.
const LINKS_MAX: usize = 8;
