//! The set of buckets: named directories, or the first-level directories of a root.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::bucket::{Anchor, FsBucket, Shared};
use super::cache::Cache;
use super::faults::{Doing, fault, off_shard};
use super::named::Named;
use super::names::NameKind;
use super::overlay;
use super::scan::Listings;
use super::scratch::{Home, is_safe, remove_tree};
use super::walk::is_absent;
use super::{RESERVED, config};
use crate::clock::{Clock, Entropy};
use crate::engine::{BucketConfig, BucketInfo, BucketName, Durability, EngineError};
use crate::io::buf::Pool;
use crate::io::files::{self, ByteSpan, Kind, Node, Tree};
use crate::metrics::DeviceTimes;

/// What to serve, and how.
#[derive(Clone, Debug)]
pub struct FsSettings {
    /// Each directory is a bucket of that name; it is made if it is missing.
    pub buckets: Vec<(BucketName, PathBuf)>,
    /// Each first-level directory of it is a bucket; it is made if it is missing.
    pub root: Option<PathBuf>,
    pub durability: Durability,
    pub symlinks: Symlinks,
    /// Permission bits of new files and directories; `None`: 0666 and 0777 without the umask.
    pub file_mode: Option<u32>,
    pub dir_mode: Option<u32>,
    /// The id of the state directory, whose records about owners are believed.
    pub installation: [u8; 16],
    /// Memory for hot small objects and metadata; 0: none.
    pub cache_bytes: u64,
    /// Age at which a multipart upload is dropped; `None`: never.
    pub upload_expiry: Option<Duration>,
}

impl Default for FsSettings {
    fn default() -> Self {
        Self {
            buckets: Vec::new(),
            root: None,
            durability: Durability::Strict,
            symlinks: Symlinks::Inside,
            file_mode: None,
            dir_mode: None,
            installation: [0; 16],
            cache_bytes: 256 << 20,
            upload_expiry: Some(Duration::from_secs(7 * 24 * 3600)),
        }
    }
}

/// What becomes of symbolic links in a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Symlinks {
    /// Links to files in the same bucket are read.
    #[default]
    Inside,
    /// No link is there.
    Never,
}

/// Why the buckets cannot be served; for the operator at start.
#[derive(Debug, thiserror::Error)]
pub enum FsOpenError {
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    #[error(
        "two directories would be the bucket {name}: {} and {}; \
         give one of them another name with --bucket NAME=DIR",
        first.display(),
        second.display()
    )]
    SameName {
        name: BucketName,
        first: PathBuf,
        second: PathBuf,
    },
    #[error(
        "one bucket lies in another: {} holds {}; serve one of them",
        outer.display(),
        inner.display()
    )]
    Nested { outer: PathBuf, inner: PathBuf },
    #[error(
        "{} was not made by this server: it must be a directory that belongs to the server's \
         user and that nobody else can write to; move it away or correct it",
        path.display()
    )]
    UnsafeHome { path: PathBuf },
}

/// One line of the banner.
#[derive(Clone, Debug)]
pub struct Mount {
    pub bucket: BucketName,
    pub directory: PathBuf,
    pub free_bytes: u64,
    /// Of the file system.
    pub capacity_bytes: u64,
    pub durability: Durability,
    /// What the file system cannot do that the engine would make use of.
    pub lacks: Vec<&'static str>,
}

/// All buckets of the filesystem engine.
#[derive(Debug)]
pub struct FsEngine {
    shared: Arc<Shared>,
    named: HashMap<BucketName, Named>,
    root: Option<Root>,
}

#[derive(Debug)]
struct Root {
    directory: PathBuf,
    tree: Arc<Tree>,
    open: Mutex<HashMap<BucketName, Arc<FsBucket>>>,
}

impl FsEngine {
    /// Opens every bucket; refuses equal names, buckets that contain one another (by path or by
    /// device and inode), and a `.lobos/` that others could have tampered with. Blocks; called
    /// once at start.
    pub fn open(settings: FsSettings, clock: Clock, entropy: Entropy) -> Result<Self, FsOpenError> {
        let listings_bytes = settings.cache_bytes / 4;
        let shared = Arc::new(Shared {
            durability: settings.durability,
            symlinks: settings.symlinks,
            file_mode: settings.file_mode,
            dir_mode: settings.dir_mode,
            installation: settings.installation,
            upload_expiry: settings.upload_expiry,
            clock,
            entropy,
            cache: Cache::new(settings.cache_bytes - listings_bytes),
            listings: Listings::new(listings_bytes),
            buffers: Pool::new(IDLE_BUFFERS_MAX),
            times: DeviceTimes::default(),
            next_bucket: std::sync::atomic::AtomicU32::new(0),
        });
        let mut named: HashMap<BucketName, Named> = HashMap::new();
        let mut directories = Vec::new();
        for (name, path) in settings.buckets {
            let directory = prepare(&path)?;
            if let Some(first) = named.get(&name) {
                return Err(FsOpenError::SameName {
                    name,
                    first: first.bucket().directory.clone(),
                    second: directory,
                });
            }
            let bucket = Named::open(name.clone(), directory.clone(), Arc::clone(&shared))
                .map_err(|errno| failed("open", &directory, errno))?;
            named.insert(name, bucket);
            directories.push(directory);
        }
        let root = match settings.root {
            Some(path) => {
                let directory = prepare(&path)?;
                let dir = files::open_path(&directory)
                    .map_err(|errno| failed("open", &directory, errno))?;
                directories.push(directory.clone());
                Some(Root {
                    directory,
                    tree: Arc::new(Tree::from_root(dir)),
                    open: Mutex::default(),
                })
            }
            None => None,
        };
        refuse_nested(&directories)?;
        Ok(Self {
            shared,
            named,
            root,
        })
    }

    /// For the banner: each bucket, in the order of their names; in root mode those there now.
    pub fn mounts(&self) -> Vec<Mount> {
        let named = self.named.values();
        let mut buckets: Vec<_> = named.map(|named| Arc::clone(named.bucket())).collect();
        if let Some(root) = &self.root {
            let names = root.names().unwrap_or_default();
            buckets.extend(
                names
                    .iter()
                    .filter_map(|name| self.in_root(root, name).ok()),
            );
        }
        buckets.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let durability = |bucket: &FsBucket| {
            let own = bucket
                .config_now()
                .ok()
                .and_then(|config| config.durability);
            own.unwrap_or(self.shared.durability)
        };
        let mount = |bucket: &Arc<FsBucket>| Mount {
            durability: durability(bucket),
            bucket: bucket.name.clone(),
            directory: bucket.directory.clone(),
            free_bytes: files::free_bytes(bucket.tree.root()).unwrap_or(0),
            capacity_bytes: files::capacity_bytes(bucket.tree.root()).unwrap_or(0),
            lacks: bucket.traits.lacks(),
        };
        buckets.iter().map(mount).collect()
    }

    /// How long reads that had to leave the shard, writes and syncs take.
    pub fn times(&self) -> &DeviceTimes {
        &self.shared.times
    }

    /// When the buckets answer a write.
    pub fn durability(&self) -> Durability {
        self.shared.durability
    }

    /// The bucket of that name. In root mode this looks whether its directory still is the one
    /// that is open: one system call. A directory that was named at start is looked at once a
    /// second.
    pub async fn bucket(&self, name: &BucketName) -> Result<Arc<FsBucket>, EngineError> {
        if let Some(named) = self.named.get(name) {
            return named.in_place();
        }
        match &self.root {
            Some(root) => self.in_root(root, name),
            None => Err(EngineError::NoSuchBucket),
        }
    }

    /// All buckets, ordered by name.
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>, EngineError> {
        let mut names: Vec<_> = self.named.keys().cloned().collect();
        if let Some(root) = &self.root {
            names.extend(root.names().doing("listing the root directory")?);
        }
        names.sort_unstable();
        let mut buckets = Vec::with_capacity(names.len());
        for name in names {
            let bucket = match self.named.get(&name) {
                // It is one of the buckets also while its directory is gone.
                Some(named) => Ok(Arc::clone(named.bucket())),
                None => self.bucket(&name).await,
            };
            let config = match bucket {
                Ok(bucket) => bucket.config().await,
                Err(error) => Err(error),
            };
            match config {
                Ok(config) => buckets.push(BucketInfo { name, config }),
                // Removed since the names were read, or not ours to enter.
                Err(EngineError::NoSuchBucket | EngineError::Denied) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(buckets)
    }

    /// Makes an empty bucket: a directory of the root.
    pub async fn create_bucket(
        &self,
        name: &BucketName,
        config: BucketConfig,
    ) -> Result<(), EngineError> {
        if self.named.contains_key(name) {
            return Err(EngineError::BucketExists);
        }
        let root = self.root.as_ref().ok_or(EngineError::BucketsAreFixed)?;
        let (tree, shared, name) = (
            Arc::clone(&root.tree),
            Arc::clone(&self.shared),
            name.clone(),
        );
        off_shard(move || make_bucket(&tree, &shared, &name, &config)).await
    }

    /// Removes an empty bucket with its directory.
    pub async fn delete_bucket(&self, name: &BucketName) -> Result<(), EngineError> {
        if self.named.contains_key(name) {
            return Err(EngineError::BucketsAreFixed);
        }
        let root = self.root.as_ref().ok_or(match self.named.is_empty() {
            true => EngineError::NoSuchBucket,
            false => EngineError::BucketsAreFixed,
        })?;
        let bucket = self.in_root(root, name)?;
        let (tree, shared) = (Arc::clone(&root.tree), Arc::clone(&self.shared));
        off_shard(move || remove_bucket(&tree, &shared, &bucket)).await?;
        root.opened().remove(name);
        Ok(())
    }

    fn in_root(&self, root: &Root, name: &BucketName) -> Result<Arc<FsBucket>, EngineError> {
        let stat = match files::stat_at(root.tree.root(), name.as_str()) {
            Ok(stat) if stat.kind() == Kind::Directory => stat,
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => return Err(EngineError::NoSuchBucket),
            Err(errno) => return Err(fault("looking for a bucket", errno)),
        };
        let known = root.opened().get(name).cloned();
        if let Some(bucket) = known.filter(|bucket| bucket.is_node(&stat)) {
            return Ok(bucket);
        }
        let anchor = Anchor::Below {
            root: Arc::clone(&root.tree),
            name: name.clone(),
        };
        let directory = root.directory.join(name.as_str());
        let opened = FsBucket::open_at(name.clone(), directory, anchor, Arc::clone(&self.shared));
        let bucket = match opened {
            Ok(bucket) => Arc::new(bucket),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return Err(EngineError::NoSuchBucket);
            }
            Err(errno) => return Err(fault("opening a bucket", errno)),
        };
        let mut open = root.opened();
        let kept = open
            .entry(name.clone())
            .or_insert_with(|| Arc::clone(&bucket));
        if !kept.is_node(&stat) {
            *kept = bucket;
        }
        Ok(Arc::clone(kept))
    }
}

impl Root {
    /// The buckets there now, in no order.
    fn names(&self) -> Result<Vec<BucketName>, Errno> {
        let mut names = Vec::new();
        for (name, kind) in files::names(self.tree.root())?.names {
            let Ok(bucket) = BucketName::parse(&name) else {
                continue;
            };
            let kind = match kind {
                Some(kind) => Ok(kind),
                None => files::stat_at(self.tree.root(), &name).map(|stat| stat.kind()),
            };
            if kind == Ok(Kind::Directory) {
                names.push(bucket);
            }
        }
        Ok(names)
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<BucketName, Arc<FsBucket>>> {
        // The map is whole after every statement.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The directory, made if it is missing, by its resolved path; its `.lobos`, if any, is sound.
fn prepare(path: &Path) -> Result<PathBuf, FsOpenError> {
    let io = |doing| {
        let path = path.to_owned();
        move |source| FsOpenError::Io {
            doing,
            path,
            source,
        }
    };
    if path.exists() && !path.is_dir() {
        return Err(FsOpenError::NotADirectory {
            path: path.to_owned(),
        });
    }
    std::fs::create_dir_all(path).map_err(io("create"))?;
    let directory = path.canonicalize().map_err(io("resolve"))?;
    let home = directory.join(RESERVED);
    let dir = files::open_path(&directory).map_err(|errno| failed("open", &directory, errno))?;
    match files::stat_at(&dir, RESERVED) {
        Err(Errno::NOENT) => {}
        Ok(stat) if stat.kind() == Kind::Directory && is_safe(&stat) => {
            refuse_links(&dir, &home)?;
        }
        Ok(_) => return Err(FsOpenError::UnsafeHome { path: home }),
        Err(errno) => return Err(failed("examine", &home, errno)),
    }
    Ok(directory)
}

/// What the server makes in `.lobos` is never a link.
fn refuse_links(dir: impl AsFd, home: &Path) -> Result<(), FsOpenError> {
    let io = |errno| failed("examine", home, errno);
    let dir = files::open_directory(dir, RESERVED).map_err(io)?;
    for (name, _) in files::names(&dir).map_err(io)?.names {
        match files::stat_at(&dir, &name).map(|stat| stat.kind()) {
            Ok(Kind::Link) => {
                return Err(FsOpenError::UnsafeHome {
                    path: home.join(&*name),
                });
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(io(errno)),
        }
    }
    Ok(())
}

/// A bucket in another would show the other's objects, and its `.lobos` would be two.
fn refuse_nested(directories: &[PathBuf]) -> Result<(), FsOpenError> {
    let node = |path: &Path| files::stat_path(path).map(|stat| stat.node());
    let mut nodes: Vec<(Node, &PathBuf)> = Vec::new();
    for directory in directories {
        let own = node(directory).map_err(|errno| failed("examine", directory, errno))?;
        if let Some((_, twin)) = nodes.iter().find(|(known, _)| *known == own) {
            return Err(FsOpenError::Nested {
                outer: (*twin).clone(),
                inner: directory.clone(),
            });
        }
        nodes.push((own, directory));
    }
    for inner in directories {
        for above in inner.ancestors().skip(1) {
            let Ok(above) = node(above) else {
                continue;
            };
            if let Some((_, outer)) = nodes.iter().find(|(known, _)| *known == above) {
                return Err(FsOpenError::Nested {
                    outer: (*outer).clone(),
                    inner: inner.clone(),
                });
            }
        }
    }
    Ok(())
}

/// The new bucket is made complete in the root's own `.lobos/tmp/` and appears by one rename.
fn make_bucket(
    tree: &Tree,
    shared: &Shared,
    name: &BucketName,
    config: &BucketConfig,
) -> Result<(), EngineError> {
    const DOING: &str = "making a bucket";
    match files::stat_at(tree.root(), name.as_str()) {
        Ok(_) => return Err(EngineError::BucketExists),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(fault(DOING, errno)),
    }
    let home = Home::make(tree, &shared.entropy)?;
    let scratch = &home.scratch;
    let fresh = scratch.name();
    files::make_directory(&scratch.dir, &fresh, shared.dir_mode.unwrap_or(0o777)).doing(DOING)?;
    let dir = files::open_directory(&scratch.dir, &fresh).doing(DOING)?;
    if let Some(mode) = shared.dir_mode {
        files::set_mode(&dir, mode).doing(DOING)?;
    }
    files::make_directory(&dir, RESERVED, 0o700).doing(DOING)?;
    let bucket = Tree::from_root(dir);
    config::write_first(&bucket, shared.installation, config)?;
    files::sync_all(bucket.root()).doing(DOING)?;
    match files::rename_new(&scratch.dir, &fresh, tree.root(), name.as_str()) {
        Ok(()) => files::sync_all(tree.root()).doing(DOING),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Err(EngineError::BucketExists),
        Err(errno) => Err(fault(DOING, errno)),
    }
}

/// Takes all locks of the bucket, looks that it is empty, moves it out of sight by one rename, and
/// looks again: other programs take no lock, and nothing of theirs may be lost.
fn remove_bucket(tree: &Tree, shared: &Shared, bucket: &Arc<FsBucket>) -> Result<(), EngineError> {
    const DOING: &str = "deleting a bucket";
    if !is_empty(bucket)? {
        return Err(EngineError::BucketNotEmpty);
    }
    let own = bucket.home_blocking()?;
    // A description of its own: the locks of this process's writers are held by the other.
    let all = files::open_existing(&own.dir, "lock").doing(DOING)?;
    if !files::ofd_lock(&all, ByteSpan::All).doing(DOING)? {
        return Err(EngineError::Busy);
    }
    if !bucket.is_home(&own)? {
        return Err(bucket.gone());
    }
    if !is_empty(bucket)? {
        return Err(EngineError::BucketNotEmpty);
    }
    let home = Home::make(tree, &shared.entropy)?;
    let (scratch, name) = (&home.scratch, bucket.name.as_str());
    let fresh = scratch.name();
    files::rename(tree.root(), name, &scratch.dir, &fresh).doing(DOING)?;
    if !is_empty(bucket)? {
        files::rename_new(&scratch.dir, &fresh, tree.root(), name).doing(DOING)?;
        return Err(EngineError::BucketNotEmpty);
    }
    files::sync_all(tree.root()).doing(DOING)?;
    // It is gone. What is left of it in the scratch directory goes now or with the next sweep.
    let dir = files::open_directory(&scratch.dir, &fresh).doing(DOING)?;
    let _ = remove_tree(&scratch.dir, &fresh, &dir, scratch);
    Ok(())
}

/// Whether there is nothing in the bucket but `.lobos/` without overlaid keys and versions, and
/// directories that S3 made.
fn is_empty(bucket: &FsBucket) -> Result<bool, EngineError> {
    const DOING: &str = "looking whether a bucket is empty";
    let mut pending = vec![String::from(".")];
    while let Some(path) = pending.pop() {
        let dir = match bucket.open_directory(&path) {
            Ok(dir) => dir,
            Err(errno) if is_absent(errno) => continue,
            Err(errno) => return Err(fault(DOING, errno)),
        };
        if path != "." && !bucket.is_made_by_s3(&dir, &path).doing(DOING)? {
            return Ok(false);
        }
        let names = files::names(&dir).doing(DOING)?;
        if names.unreadable > 0 {
            return Ok(false);
        }
        for (name, _) in names.names {
            if *name == *RESERVED {
                continue;
            }
            match files::stat_at(&dir, &name).map(|stat| stat.kind()) {
                Ok(Kind::Directory) if path == "." => pending.push(name.into()),
                Ok(Kind::Directory) => pending.push(format!("{path}/{name}")),
                Ok(_) => return Ok(false),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(fault(DOING, errno)),
            }
        }
    }
    let mut pending = vec![String::new()];
    while let Some(prefix) = pending.pop() {
        for name in bucket
            .overlay_level(overlay::ROOT, &prefix)
            .doing(DOING)?
            .names
            .iter()
        {
            match name.kind {
                NameKind::File | NameKind::Link => return Ok(false),
                NameKind::Directory => pending.push(format!("{prefix}{}/", name.text)),
            }
        }
    }
    Ok(!bucket.has_histories().doing(DOING)?)
}

fn failed(doing: &'static str, path: &Path, errno: Errno) -> FsOpenError {
    FsOpenError::Io {
        doing,
        path: path.to_owned(),
        source: errno.into(),
    }
}

/// Idle read buffers kept for the next large GET: 16 MiB.
const IDLE_BUFFERS_MAX: usize = 64;
