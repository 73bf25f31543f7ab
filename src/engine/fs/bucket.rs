//! One bucket: its directory, and what this process knows about it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustix::io::Errno;

use super::buckets::Symlinks;
use super::cache::{Cache, Durable};
use super::config::ConfigCell;
use super::faults::Doing;
use super::lock::LocalLocks;
use super::opened::Touches;
use super::probe::Traits;
use super::scan::Listings;
use super::scratch::Home;
use super::sync::DirSyncs;
use super::uploads::Uploads;
use crate::clock::{Clock, Entropy};
use crate::engine::{BucketConfig, BucketName, Durability, EngineError};
use crate::io::buf::Pool;
use crate::io::files::{self, Kind, Node, Stat, Tree};
use crate::metrics::DeviceTimes;

/// A directory that is served as a bucket.
#[derive(Debug)]
pub struct FsBucket {
    pub(super) name: BucketName,
    pub(super) directory: PathBuf,
    pub(super) anchor: Anchor,
    pub(super) tree: Tree,
    node: Node,
    pub(super) traits: Traits,
    pub(super) shared: Arc<Shared>,
    /// Tells this bucket's entries in the shared cache from those of others, and of a bucket that
    /// had the name before.
    pub(super) number: u32,
    pub(super) locks: Arc<LocalLocks>,
    pub(super) home: ArcSwapOption<Home>,
    pub(super) making_home: Mutex<()>,
    pub(super) config: ConfigCell,
    pub(super) syncs: DirSyncs,
    pub(super) durable: Durable,
    pub(super) uploads: Uploads,
    pub(super) touches: Touches,
    /// A directory sync failed: what it should have written may be lost, and nothing more is
    /// acknowledged until the bucket is opened again.
    read_only: AtomicBool,
}

/// What all buckets of one engine share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) durability: Durability,
    pub(super) symlinks: Symlinks,
    pub(super) file_mode: Option<u32>,
    pub(super) dir_mode: Option<u32>,
    pub(super) installation: [u8; 16],
    pub(super) upload_expiry: Option<Duration>,
    pub(super) clock: Clock,
    pub(super) entropy: Entropy,
    pub(super) cache: Option<Cache>,
    pub(super) listings: Listings,
    pub(super) buffers: Pool,
    pub(super) times: DeviceTimes,
    pub(super) next_bucket: AtomicU32,
}

/// Where a bucket's directory is looked for.
#[derive(Debug)]
pub(super) enum Anchor {
    /// Named at start, by its resolved path.
    Path(PathBuf),
    /// A first-level directory of the root.
    Below { root: Arc<Tree>, name: BucketName },
}

impl Anchor {
    /// The bucket's directory as its path leads to it now; a link below a root is not followed.
    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        match self {
            Self::Path(path) => files::stat_path(path),
            Self::Below { root, name } => files::stat_at(root.root(), name.as_str()),
        }
    }

    /// The file `path` of ours below it.
    pub(super) fn stat_below(&self, path: &str) -> Result<Stat, Errno> {
        match self {
            Self::Path(directory) => files::stat_path(&directory.join(path)),
            Self::Below { root, name } => files::stat_at(root.root(), &format!("{name}/{path}")),
        }
    }

    fn open(&self) -> Result<OwnedFd, Errno> {
        match self {
            Self::Path(path) => files::open_path(path),
            Self::Below { root, name } => files::open_directory(root.root(), name.as_str()),
        }
    }
}

impl FsBucket {
    /// Opens the directory of a bucket. It is there already.
    pub(super) fn open_at(
        name: BucketName,
        directory: PathBuf,
        anchor: Anchor,
        shared: Arc<Shared>,
    ) -> Result<Self, Errno> {
        let tree = Tree::from_root(anchor.open()?);
        let node = files::stat(tree.root())?.node();
        Ok(Self {
            name,
            directory,
            anchor,
            node,
            traits: Traits::probe(&tree),
            tree,
            number: shared.next_bucket.fetch_add(1, Ordering::Relaxed),
            shared,
            locks: Arc::default(),
            home: ArcSwapOption::empty(),
            making_home: Mutex::default(),
            config: ConfigCell::default(),
            syncs: DirSyncs::default(),
            durable: Durable::default(),
            uploads: Uploads::default(),
            touches: Touches::default(),
            read_only: AtomicBool::new(false),
        })
    }

    pub fn name(&self) -> &BucketName {
        &self.name
    }

    /// The directory that the bucket is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Of buckets whose configuration does not say otherwise.
    pub fn durability(&self) -> Durability {
        self.shared.durability
    }

    /// Of this bucket, by its configuration as it was last read. Nobody comes here before that;
    /// if it is not known, nothing is left out.
    pub(super) fn durability_now(&self) -> Durability {
        match self.last_config().0 {
            None => Durability::Strict,
            Some(last) => last.config.durability.unwrap_or(self.shared.durability),
        }
    }

    /// The bucket's configuration as this installation trusts it.
    pub async fn config(self: &Arc<Self>) -> Result<Arc<BucketConfig>, EngineError> {
        self.config_now()
    }

    /// Makes a file's bytes, attributes and times durable.
    pub(super) fn sync_file(&self, file: impl AsFd) -> Result<(), Errno> {
        let _timing = self.shared.times.syncing();
        files::sync_all(file)
    }

    /// Whether the bucket's path still leads to the directory that was opened.
    pub(super) fn is_in_place(&self) -> Result<bool, EngineError> {
        match self.anchor.stat() {
            Ok(stat) => Ok(self.is_node(&stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(errno).doing("looking for the bucket's directory"),
        }
    }

    pub(super) fn is_node(&self, stat: &Stat) -> bool {
        stat.node() == self.node && stat.kind() == Kind::Directory
    }

    /// What to answer when it does not.
    pub(super) fn gone(&self) -> EngineError {
        match self.anchor {
            Anchor::Path(_) => EngineError::Unavailable {
                why: "the bucket's directory was moved, removed or replaced; put it back, or restart \
                      the server to serve what is there now",
            },
            Anchor::Below { .. } => EngineError::NoSuchBucket,
        }
    }

    /// For a key that was not found: `NoSuchKey`, unless the bucket itself is no longer there.
    pub(super) fn no_such_key(&self) -> EngineError {
        match self.is_in_place() {
            Ok(true) => EngineError::NoSuchKey,
            Ok(false) => self.gone(),
            Err(error) => error,
        }
    }

    /// Refuses writes after a failed directory sync.
    pub(super) fn check_writable(&self) -> Result<(), EngineError> {
        if self.read_only.load(Ordering::Acquire) {
            return Err(EngineError::ReadOnly {
                why: "a directory could not be synced; restart the server when the storage is sound",
            });
        }
        Ok(())
    }

    /// Remembers that a directory sync failed.
    pub(super) fn poison(&self, errno: Errno) -> EngineError {
        if !self.read_only.swap(true, Ordering::AcqRel) {
            tracing::error!(
                bucket = %self.name,
                error = %errno,
                "a directory sync failed; the bucket is read-only until the server restarts"
            );
        }
        super::faults::fault("syncing a directory", errno)
    }
}
