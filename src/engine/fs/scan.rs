//! LIST: the walk of [`pages`](super::pages) over the bucket's directories.
//!
//! The sorted names of a directory are kept in memory and believed while the directory's identity
//! (inode, modification and change time) is the same; what is said of a file comes from a look at
//! it, one system call, and its record from the cache of entries. A page holds no lock, and
//! nothing of it outlives it but what is in those caches.
//!
//! A small page whose directories, names and entries are all in memory is made on the shard; all
//! else, and every page of more than [`LOOKS_ON_SHARD_MAX`] files, goes to the pool of threads.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::RESERVED;
use super::bucket::FsBucket;
use super::content_type;
use super::faults::{Doing, fault, off_shard};
use super::history;
use super::names::{NameKind, Names, NamesBuilder};
use super::overlay;
use super::pages::{self, Found, Home, Homes, Level, Source};
use super::record::Record;
use super::walk::{Patience, Place, is_absent, split, tree_path};
use crate::engine::{EngineError, Entry, ObjectKey, ScanPage, ScanPlan};
use crate::io::files::{self, Identity, Kind, Node, Stat};

impl FsBucket {
    /// One page of the listing. See [`crate::engine::Bucket::scan`].
    pub async fn scan(self: &Arc<Self>, plan: &ScanPlan) -> Result<ScanPage, EngineError> {
        match self.scan_now(plan, Patience::Cached) {
            Err(Halt::Cold) => {}
            Err(Halt::Failed(error)) => return Err(error),
            Ok(page) => return Ok(page),
        }
        let (bucket, plan) = (Arc::clone(self), plan.clone());
        off_shard(move || match bucket.scan_now(&plan, Patience::Blocking) {
            Ok(page) => Ok(page),
            Err(Halt::Failed(error)) => Err(error),
            Err(Halt::Cold) => Err(EngineError::Busy),
        })
        .await
    }

    fn scan_now(&self, plan: &ScanPlan, patience: Patience) -> Result<ScanPage, Halt> {
        if patience == Patience::Cached && plan.limit > LOOKS_ON_SHARD_MAX {
            return Err(Halt::Cold);
        }
        let mut walk = Walk::new(self, patience);
        let page = pages::page(&mut walk, plan)?;
        if page.items.is_empty() && !self.is_in_place()? {
            return Err(Halt::Failed(self.gone()));
        }
        Ok(page)
    }
}

/// Why a walk ends before its page is full.
pub(super) enum Halt {
    /// It would have to wait for the device, or would keep the shard for too long.
    Cold,
    Failed(EngineError),
}

impl From<EngineError> for Halt {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

/// One page's look at the bucket.
pub(super) struct Walk<'a> {
    pub(super) bucket: &'a FsBucket,
    patience: Patience,
    /// Files and directories looked at so far.
    looks: usize,
}

/// A directory of the tree.
#[derive(Debug)]
pub(super) struct Dir {
    /// Relative to the bucket, `.` for the bucket itself; `None`: no tree has such a prefix.
    path: Option<String>,
    /// Opened again when it is needed, where too many would be open at once.
    file: Option<OwnedFd>,
    depth: usize,
}

impl Source for Walk<'_> {
    type Dir = Dir;
    type Item = Arc<Entry>;
    type Error = Halt;

    fn open(
        &mut self,
        prefix: &str,
        homes: Homes,
        above: Option<&mut Level<Dir>>,
    ) -> Result<Level<Dir>, Halt> {
        self.open_level(prefix, homes, above)
    }

    fn holds_surely(
        &mut self,
        prefix: &str,
        homes: Homes,
        above: &mut Level<Dir>,
    ) -> Result<bool, Halt> {
        self.holds_file(prefix, homes, above)
    }

    fn shows_empty(&mut self, level: &mut Level<Dir>) -> Result<bool, Halt> {
        self.is_peoples(level)
    }

    fn is_object(
        &mut self,
        level: &mut Level<Dir>,
        found: Found,
        key: &ObjectKey,
    ) -> Result<bool, Halt> {
        if found.homes.tree && found.kind == NameKind::File {
            return Ok(true);
        }
        Ok(self.current(level, found, key)?.is_some())
    }

    fn item(
        &mut self,
        level: &mut Level<Dir>,
        found: Found,
        key: &ObjectKey,
    ) -> Result<Option<Arc<Entry>>, Halt> {
        self.current(level, found, key)
    }
}

impl<'a> Walk<'a> {
    pub(super) fn new(bucket: &'a FsBucket, patience: Patience) -> Self {
        Self {
            bucket,
            patience,
            looks: 0,
        }
    }
}

impl Walk<'_> {
    /// See [`Source::open`].
    pub(super) fn open_level(
        &mut self,
        prefix: &str,
        homes: Homes,
        above: Option<&mut Level<Dir>>,
    ) -> Result<Level<Dir>, Halt> {
        let mut dir = Dir {
            path: tree_directory(prefix),
            file: None,
            depth: above.as_ref().map_or(0, |above| above.dir.depth + 1),
        };
        let is_found = above.is_some();
        let tree = match &dir.path {
            Some(path) if homes.tree => self.open_tree(path, is_found, above)?,
            _ => None,
        };
        let (file, tree) = match tree {
            Some((file, names)) => (Some(file), Some(names)),
            None => (None, None),
        };
        dir.file = file;
        let overlay = match homes.overlay {
            true => self.escaped_names(overlay::ROOT, prefix)?,
            false => None,
        };
        let history = match homes.history {
            true => self.escaped_names(history::ROOT, prefix)?,
            false => None,
        };
        Ok(Level {
            prefix: prefix.into(),
            tree,
            overlay,
            history,
            dir,
        })
    }

    /// See [`Source::holds_surely`].
    pub(super) fn holds_file(
        &mut self,
        prefix: &str,
        homes: Homes,
        above: &mut Level<Dir>,
    ) -> Result<bool, Halt> {
        let Some(path) = tree_directory(prefix).filter(|_| homes.tree) else {
            return Ok(false);
        };
        let Some(dir) = self.open_directory(&path, Some(above))? else {
            return Ok(false);
        };
        let stat = files::stat(&dir).doing(DOING)?;
        if let Some(names) = self.bucket.shared.listings.get(&stat.identity) {
            return Ok(names.has_file());
        }
        if self.patience == Patience::Cached {
            return Err(Halt::Cold);
        }
        let is_file = |_: &str, kind| kind == Some(Kind::File);
        match files::some_name(&dir, is_file) {
            Ok(found) => Ok(found),
            Err(errno) if is_absent(errno) => Ok(false),
            Err(errno) => Err(fault(DOING, errno).into()),
        }
    }

    /// See [`Source::shows_empty`].
    pub(super) fn is_peoples(&mut self, level: &mut Level<Dir>) -> Result<bool, Halt> {
        if level.tree.is_none() {
            return Ok(false);
        }
        let (Some(path), Some(dir)) = (level.dir.path.clone(), self.directory(level)?) else {
            return Ok(false);
        };
        let by_s3 = self.bucket.is_made_by_s3(dir, &path).doing(DOING)?;
        Ok(!by_s3)
    }

    /// The entry of the key's file, if it has one.
    pub(super) fn current(
        &mut self,
        level: &mut Level<Dir>,
        found: Found,
        key: &ObjectKey,
    ) -> Result<Option<Arc<Entry>>, Halt> {
        for home in found.homes.in_turn() {
            if let Some(entry) = self.entry(level, home, found.kind, key)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn entry(
        &mut self,
        level: &mut Level<Dir>,
        home: Home,
        kind: NameKind,
        key: &ObjectKey,
    ) -> Result<Option<Arc<Entry>>, Halt> {
        self.look()?;
        if home == Home::Overlay || kind != NameKind::File {
            return self.entry_by_walk(home, key);
        }
        let name = split(key.as_str()).1;
        let looked_nanos = files::stamp_clock_nanos();
        let Some(stat) = self.stat(level, key, name)? else {
            return Ok(None);
        };
        if stat.kind() != Kind::File {
            // It was a file when the names were read.
            return self.entry_by_walk(home, key);
        }
        if let Some(entry) = self.bucket.known_entry_of(key, &stat) {
            return Ok(Some(entry));
        }
        if self.patience == Patience::Cached {
            return Err(Halt::Cold);
        }
        let bucket = self.bucket;
        let Some(dir) = self.directory(level)? else {
            return Ok(None);
        };
        readable(
            key,
            &stat,
            bucket.entry_at(key, dir, name, &stat, looked_nanos),
        )
    }

    /// Counts a look at a file or directory.
    fn look(&mut self) -> Result<(), Halt> {
        self.looks += 1;
        match self.patience {
            Patience::Cached if self.looks > LOOKS_ON_SHARD_MAX => Err(Halt::Cold),
            _ => Ok(()),
        }
    }

    /// The directory at `path` and its names. `is_found`: a listing named it, so that it is spelled
    /// as it is stored.
    fn open_tree(
        &mut self,
        path: &str,
        is_found: bool,
        above: Option<&mut Level<Dir>>,
    ) -> Result<Option<(OwnedFd, Arc<Names>)>, Halt> {
        if self.bucket.traits.folds_names && !is_found && path != "." {
            match self.bucket.is_exact(path) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(errno) if is_absent(errno) => return Ok(None),
                Err(errno) => return Err(fault(DOING, errno).into()),
            }
        }
        let Some(dir) = self.open_directory(path, above)? else {
            return Ok(None);
        };
        let looked_nanos = files::stamp_clock_nanos();
        let stat = files::stat(&dir).doing(DOING)?;
        let listings = &self.bucket.shared.listings;
        if let Some(names) = listings.get(&stat.identity) {
            return Ok(Some((dir, names)));
        }
        if self.patience == Patience::Cached {
            return Err(Halt::Cold);
        }
        let names = match read_names(&dir) {
            Ok(names) => Arc::new(names),
            // Removed since it was opened.
            Err(errno) if is_absent(errno) => return Ok(None),
            Err(errno) => return Err(fault(DOING, errno).into()),
        };
        if self.bucket.is_settled(&stat.identity, looked_nanos) {
            listings.keep(stat.identity, &names);
        }
        Ok(Some((dir, names)))
    }

    /// The names below `prefix` in the overlay, or in another tree with its names; `None`: there
    /// are none.
    fn escaped_names(&mut self, root: &str, prefix: &str) -> Result<Option<Arc<Names>>, Halt> {
        let path = overlay::directory(root, prefix);
        let Some(dir) = self.open_directory(&path, None)? else {
            return Ok(None);
        };
        let looked_nanos = files::stamp_clock_nanos();
        let stat = files::stat(&dir).doing(DOING)?;
        let listings = &self.bucket.shared.listings;
        if let Some(names) = listings.get(&stat.identity) {
            return Ok(Some(names));
        }
        if self.patience == Patience::Cached {
            return Err(Halt::Cold);
        }
        let level = self.bucket.overlay_level(root, prefix).doing(DOING)?;
        let names = Arc::new(level.names);
        // With chunks it has names in further directories, of which this one's times say nothing.
        if !level.has_chunks && self.bucket.is_settled(&stat.identity, looked_nanos) {
            listings.keep(stat.identity, &names);
        }
        Ok(Some(names))
    }

    /// The directory at `path`, entered from the one above it where that is open. `None`: it is
    /// gone, was never there, or is not ours to read, as `lost+found` is not.
    fn open_directory(
        &mut self,
        path: &str,
        above: Option<&mut Level<Dir>>,
    ) -> Result<Option<OwnedFd>, Halt> {
        self.look()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let result = match (self.patience, above) {
            (Patience::Cached, _) => self.bucket.tree.open_cached(path, flags),
            (Patience::Blocking, Some(above)) => match self.directory(above)? {
                Some(dir) => {
                    let opened = files::open_directory(dir, split(path).1);
                    if above.dir.depth >= OPEN_DEPTH_MAX {
                        above.dir.file = None;
                    }
                    opened
                }
                None => return Ok(None),
            },
            (Patience::Blocking, None) => self.bucket.tree.open(path, flags),
        };
        match result {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::AGAIN) if self.patience == Patience::Cached => Err(Halt::Cold),
            Err(Errno::ACCESS | Errno::PERM) if path != "." => {
                tracing::debug!(bucket = %self.bucket.name, path, "a directory cannot be read");
                Ok(None)
            }
            Err(errno) if is_absent(errno) => Ok(None),
            Err(errno) => Err(fault(DOING, errno).into()),
        }
    }

    /// The level's directory in the tree.
    fn directory<'l>(&mut self, level: &'l mut Level<Dir>) -> Result<Option<&'l OwnedFd>, Halt> {
        if level.dir.file.is_none()
            && let Some(path) = level.dir.path.clone()
        {
            level.dir.file = self.open_directory(&path, None)?;
        }
        Ok(level.dir.file.as_ref())
    }

    fn stat(
        &mut self,
        level: &mut Level<Dir>,
        key: &ObjectKey,
        name: &str,
    ) -> Result<Option<Stat>, Halt> {
        let stat = match self.patience {
            Patience::Cached => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW;
                let pinned = self.bucket.tree.open_cached(key.as_str(), flags);
                pinned.and_then(files::stat)
            }
            Patience::Blocking => match self.directory(level)? {
                Some(dir) => files::stat_at(dir, name),
                None => return Ok(None),
            },
        };
        match stat {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::AGAIN) if self.patience == Patience::Cached => Err(Halt::Cold),
            Err(errno) if is_absent(errno) => Ok(None),
            Err(errno) => Err(fault(DOING, errno).into()),
        }
    }

    /// The entry as HEAD finds it: for links, which lead anywhere, and for the overlay.
    fn entry_by_walk(&mut self, home: Home, key: &ObjectKey) -> Result<Option<Arc<Entry>>, Halt> {
        let looked_nanos = files::stamp_clock_nanos();
        let pinned = match self.bucket.find(key, self.patience) {
            Ok(Some(pinned)) => pinned,
            Ok(None) => return Ok(None),
            Err(Errno::AGAIN) if self.patience == Patience::Cached => return Err(Halt::Cold),
            Err(Errno::ACCESS | Errno::PERM) => return Ok(None),
            Err(errno) => return Err(fault(DOING, errno).into()),
        };
        if (pinned.place == Place::Tree) != (home == Home::Tree) {
            return Ok(None);
        }
        if let Some(entry) = self.bucket.known_entry_of(key, &pinned.stat) {
            return Ok(Some(entry));
        }
        if self.patience == Patience::Cached {
            return Err(Halt::Cold);
        }
        let loaded = self.bucket.load_entry(key, &pinned, looked_nanos);
        readable(key, &pinned.stat, loaded.map(|(entry, _)| Some(entry)))
    }
}

/// A file whose record cannot be read is listed as it lies there: one such file must not hide all
/// others, and a listing without it would make a mirror delete it. GET says what is wrong.
pub(super) fn readable(
    key: &ObjectKey,
    stat: &Stat,
    entry: Result<Option<Arc<Entry>>, EngineError>,
) -> Result<Option<Arc<Entry>>, Halt> {
    match entry {
        Err(EngineError::Denied | EngineError::Corrupt { .. }) => {
            let mut entry = Record::default().into_entry(stat);
            entry.metadata.content_type = Some(content_type::of_name(key.as_str()).into());
            Ok(Some(Arc::new(entry)))
        }
        entry => Ok(entry?),
    }
}

/// The names in a directory that can be keys or hold keys.
fn read_names(dir: &OwnedFd) -> Result<Names, Errno> {
    let mut names = NamesBuilder::default();
    let mut unknown: Vec<Box<str>> = Vec::new();
    let mut is_full = false;
    files::each_name(dir, |name, kind| {
        if name == RESERVED {
            return;
        }
        match kind {
            Some(kind) => is_full |= !push(&mut names, name, kind),
            None => unknown.push(name.into()),
        }
    })?;
    for name in unknown {
        match files::stat_at(dir, &name) {
            Ok(stat) => is_full |= !push(&mut names, &name, stat.kind()),
            Err(errno) if is_absent(errno) => {}
            Err(errno) => return Err(errno),
        }
    }
    if is_full {
        // More than 4 GiB of names in one directory.
        return Err(Errno::NOMEM);
    }
    Ok(names.build())
}

fn push(names: &mut NamesBuilder, name: &str, kind: Kind) -> bool {
    match kind {
        Kind::File => names.push(name, NameKind::File),
        Kind::Link => names.push(name, NameKind::Link),
        Kind::Directory => names.push(name, NameKind::Directory),
        Kind::Special => true,
    }
}

/// The directory of the tree in which keys with this prefix (empty, or ending in `/`) lie.
fn tree_directory(prefix: &str) -> Option<String> {
    let Some(path) = prefix.strip_suffix('/') else {
        return prefix.is_empty().then(|| String::from("."));
    };
    let key = ObjectKey::parse(path).ok()?;
    tree_path(&key).map(str::to_owned)
}

/// Sorted names of directories, bounded by bytes.
#[derive(Debug)]
pub(super) struct Listings {
    kept: Option<quick_cache::sync::Cache<Node, Listing, ListingWeight>>,
    /// The last directory that is too large for the others' room: a listing of it asks for its
    /// names again for every page.
    large: Mutex<Option<Listing>>,
    small_bytes_max: u64,
}

#[derive(Clone, Debug)]
struct Listing {
    identity: Identity,
    names: Arc<Names>,
}

impl Listings {
    /// 0 bytes: nothing is kept but one large directory.
    pub(super) fn new(size_bytes: u64) -> Self {
        let items = usize::try_from(size_bytes / LISTING_BYTES_TYPICAL).unwrap_or(usize::MAX);
        let kept = quick_cache::sync::Cache::with_weighter(items, size_bytes, ListingWeight);
        Self {
            kept: (size_bytes > 0).then_some(kept),
            large: Mutex::default(),
            small_bytes_max: size_bytes / 8,
        }
    }

    fn get(&self, identity: &Identity) -> Option<Arc<Names>> {
        let node = Node {
            device: identity.device,
            inode: identity.inode,
        };
        let found = self.kept.as_ref().and_then(|kept| kept.get(&node));
        let found = found.or_else(|| self.large().clone());
        let listing = found.filter(|listing| listing.identity == *identity)?;
        Some(listing.names)
    }

    fn keep(&self, identity: Identity, names: &Arc<Names>) {
        let listing = Listing {
            identity,
            names: Arc::clone(names),
        };
        let size_bytes = names.size_bytes();
        if size_bytes > LARGE_BYTES_MAX {
            return;
        }
        if size_bytes > self.small_bytes_max {
            *self.large() = Some(listing);
        } else if let Some(kept) = &self.kept {
            let node = Node {
                device: identity.device,
                inode: identity.inode,
            };
            kept.insert(node, listing);
        }
    }

    fn large(&self) -> std::sync::MutexGuard<'_, Option<Listing>> {
        // The slot is whole after every statement.
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Debug)]
struct ListingWeight;

impl quick_cache::Weighter<Node, Listing> for ListingWeight {
    fn weight(&self, _: &Node, listing: &Listing) -> u64 {
        listing.names.size_bytes() + LISTING_BYTES
    }
}

const DOING: &str = "listing the bucket";
/// Looks at files and directories, each of about 2 us, that a page may take on the shard.
const LOOKS_ON_SHARD_MAX: usize = 64;
/// Directories of one path that a page keeps open at once.
const OPEN_DEPTH_MAX: usize = 16;
/// A listing without its names.
const LISTING_BYTES: u64 = 200;
const LISTING_BYTES_TYPICAL: u64 = 1024;
/// About six million names of 30 bytes.
const LARGE_BYTES_MAX: u64 = 256 << 20;
