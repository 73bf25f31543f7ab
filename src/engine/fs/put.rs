//! PUT: bytes, record, sync of the file, name, sync of the directories, answer.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;

use super::bucket::FsBucket;
use super::draft::{Content, Draft, Spool};
use super::faults::{Doing, fault, off_shard};
use super::get::{self, FsReader};
use super::lock::KeyLock;
use super::multipart::PartSlot;
use super::overlay;
use super::record::{Guard, Record};
use super::scratch::Stage;
use super::succession::Succession;
use super::types::Description;
use super::walk::{Place, is_absent, split, tree_path};
use crate::clock::Timestamp;
use crate::engine::{
    Checksum, Commit, ETag, EngineError, Entry, ObjectKey, Part, Precondition, Range,
};
use crate::io::buf::BUFFER_BYTES;
use crate::io::files::{self, Kind, Stat};

impl FsBucket {
    /// Starts a write. Nothing is touched before the first megabyte or the commit.
    pub async fn begin(
        self: &Arc<Self>,
        key: &ObjectKey,
        size_bytes: Option<u64>,
    ) -> Result<FsWriter, EngineError> {
        self.check_writable()?;
        Ok(FsWriter {
            spool: Spool::new(self, key, size_bytes),
            bucket: Arc::clone(self),
            key: key.clone(),
            part: None,
        })
    }
}

/// An unfinished object or part. Dropping it undoes it without blocking.
#[derive(Debug)]
pub struct FsWriter {
    pub(super) bucket: Arc<FsBucket>,
    pub(super) key: ObjectKey,
    pub(super) spool: Spool,
    /// What it will be instead of the key's object.
    pub(super) part: Option<PartSlot>,
}

impl FsWriter {
    /// See [`crate::engine::Writer::set_window`].
    pub fn set_window(&mut self, window_bytes: usize) {
        self.spool.set_window(window_bytes);
    }

    pub async fn append(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        self.spool.append(bytes).await
    }

    /// Appends `range` of another entry: by reference or inside the kernel where possible.
    pub async fn append_from(&mut self, source: FsReader, range: Range) -> Result<(), EngineError> {
        let opened = match source.into_content() {
            get::Content::Memory(bytes) => {
                let start = usize::try_from(range.start_bytes).unwrap_or(usize::MAX);
                let size = usize::try_from(range.size_bytes).unwrap_or(usize::MAX);
                let end = start.saturating_add(size);
                if end > bytes.len() {
                    return Err(EngineError::Changed);
                }
                return self.spool.append(bytes.slice(start..end)).await;
            }
            get::Content::File(opened) => opened,
        };
        self.spool.admit(range.size_bytes)?;
        let is_fresh = self.spool.is_fresh();
        let (draft, written_bytes) = self.spool.pause().await?;
        let bucket = Arc::clone(&self.bucket);
        let draft = off_shard(move || {
            let file = &opened.file;
            let whole_bytes = opened.stat.identity.size_bytes;
            let is_whole = range.start_bytes == 0 && range.size_bytes == whole_bytes;
            let is_cloned = is_whole && is_fresh && files::clone_file(file, &draft.file).is_ok();
            if !is_cloned {
                let (start, size) = (range.start_bytes, range.size_bytes);
                copy_bytes(file, start, &draft.file, written_bytes, size)?;
            }
            opened.check(&bucket.touches)?;
            Ok(draft)
        })
        .await?;
        self.spool
            .resume(draft, written_bytes.saturating_add(range.size_bytes));
        Ok(())
    }

    /// Makes the bytes the current entry of the key.
    pub async fn commit(self, commit: Commit) -> Result<Arc<Entry>, EngineError> {
        let content = self.spool.finish().await?;
        let lock = self.bucket.lock(&self.key).await?;
        let (bucket, key) = (self.bucket, self.key);
        let description = Description {
            etag: Some(commit.etag),
            checksum: commit.checksum,
            metadata: commit.metadata,
            seal: commit.seal,
            ..Description::default()
        };
        let precondition = commit.precondition;
        off_shard(move || bucket.publish(&lock, &key, content, description, &precondition)).await
    }

    /// Makes the bytes the part that [`FsBucket::begin_part`] named.
    pub async fn commit_part(
        self,
        etag: ETag,
        checksum: Option<Checksum>,
    ) -> Result<Part, EngineError> {
        self.finish_part(etag, checksum).await
    }
}

/// Copies bytes between files, by reference or inside the kernel where that works.
pub(super) fn copy_bytes(
    source: impl AsFd,
    source_offset_bytes: u64,
    target: impl AsFd,
    target_offset_bytes: u64,
    size_bytes: u64,
) -> Result<(), EngineError> {
    const DOING: &str = "copying the bytes of an object";
    let (source, target) = (source.as_fd(), target.as_fd());
    let copied = files::copy_range(
        source,
        source_offset_bytes,
        target,
        target_offset_bytes,
        size_bytes,
    );
    match copied {
        Ok(count) if count == size_bytes => return Ok(()),
        Ok(_) => return Err(EngineError::Changed),
        Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(errno) => return Err(fault(DOING, errno)),
    }
    let mut done_bytes = 0;
    let mut buffer = vec![0; BUFFER_BYTES];
    while done_bytes < size_bytes {
        let step = usize::try_from(size_bytes - done_bytes).unwrap_or(usize::MAX);
        let (window, _) = buffer.split_at_mut(step.min(BUFFER_BYTES));
        let count =
            files::read_at(source, window, source_offset_bytes + done_bytes).doing(DOING)?;
        if count == 0 {
            return Err(EngineError::Changed);
        }
        let piece = Bytes::copy_from_slice(window.split_at(count).0);
        files::write_all_at(target, &[piece], target_offset_bytes + done_bytes).doing(DOING)?;
        done_bytes += count as u64;
    }
    Ok(())
}

/// What people and other programs have written beside the bytes goes with them.
pub(super) fn copy_attributes(source: &OwnedFd, target: &OwnedFd) -> Result<(), EngineError> {
    let is_own = |name: &str| name.starts_with("user.lobos");
    files::copy_attributes(source, target, is_own).doing("copying the attributes of an object")
}

/// Where a key's file is to be.
#[derive(Debug)]
pub(super) struct Spot {
    place: Place,
    pub(super) path: String,
    /// `None`: the directory is missing.
    dir: Option<OwnedFd>,
    /// The file or link that has the name now.
    old: Option<Stat>,
}

impl FsBucket {
    /// Makes `content` the current object of `key`, whose lock is held: checks the precondition,
    /// writes the record, syncs the file, gives it its name, syncs the directories. What has the
    /// name now is kept or replaced as the bucket's versioning says.
    pub(super) fn publish(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        content: Content,
        description: Description,
        precondition: &Precondition,
    ) -> Result<Arc<Entry>, EngineError> {
        self.check_writable()?;
        if !precondition.is_empty() {
            precondition.check(self.current(key)?.as_deref())?;
        }
        let config = self.fresh_config()?;
        let succession = self.succession(key, &config)?;
        let mut description = description;
        let asked = description.metadata.lock;
        description.metadata.lock =
            asked.of_commit(config.lock.as_ref(), self.shared.clock.now())?;
        self.succeed(lock, key, content, description, succession)
    }

    /// The same, where it is decided what becomes of the current version.
    pub(super) fn succeed(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        content: Content,
        description: Description,
        succession: Succession,
    ) -> Result<Arc<Entry>, EngineError> {
        let description = Description {
            version: succession.stamp(),
            ..description
        };
        // What a person finds in the tree is what the object is.
        let mut place = match description.seal {
            None => Place::Tree,
            Some(_) => Place::Overlay,
        };
        let mut work = Work::Unwritten(content, description);
        for _ in 0..RACES_MAX {
            let (spot, dir) = self.claim(lock, key, &mut place)?;
            let sealed = match work.seal(self, lock, key, &dir, spot.old.as_ref())? {
                Some(sealed) => sealed,
                // The directory was pruned before the file could be made in it.
                None => continue,
            };
            let let_go = self.keep_current(lock, key, succession)?;
            match self.give_name(lock, &sealed.draft, &spot, &dir) {
                Ok(()) => {
                    let entry = self.settle(lock, key, &spot, &dir, sealed)?;
                    self.end_succession(lock, key, succession, let_go)?;
                    return Ok(entry);
                }
                // Pruned, or somebody else's file or directory appeared: look again.
                Err(Errno::NOENT | Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY) => {}
                // The draft was made in another mount than the one where it must go.
                Err(Errno::XDEV) => {
                    let moved = Draft::create(self, &lock.home, &dir).doing(PLACING)?;
                    let size_bytes = sealed.stat.identity.size_bytes;
                    copy_bytes(&sealed.draft.file, 0, &moved.file, 0, size_bytes)?;
                    work = Work::Unwritten(Content::Draft(moved), sealed.description);
                    continue;
                }
                Err(errno) => return Err(fault(PLACING, errno)),
            }
            work = Work::Sealed(sealed);
        }
        Err(EngineError::Busy)
    }

    /// The key's spot, with its directory, which is made if it is missing. `place` becomes the
    /// overlay where the tree will not do.
    pub(super) fn claim(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        place: &mut Place,
    ) -> Result<(Spot, OwnedFd), EngineError> {
        loop {
            let mut spot = self.spot(key, *place).doing(PLACING)?;
            *place = spot.place;
            if let Some(dir) = spot.dir.take() {
                return Ok((spot, dir));
            }
            match self.make_directory(&lock.home, split(&spot.path).0) {
                Ok(dir) => return Ok((spot, dir)),
                // What is missing cannot be made: a file is in the way, or a name too long.
                Err(errno) if *place == Place::Tree && is_absent(errno) => {
                    *place = Place::Overlay;
                }
                Err(errno) => return Err(fault(PLACING, errno)),
            }
        }
    }

    /// What remains when the name is given: the stale twin, durability, old side files.
    fn settle(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        spot: &Spot,
        dir: &OwnedFd,
        sealed: Sealed,
    ) -> Result<Arc<Entry>, EngineError> {
        if spot.place == Place::Tree {
            self.remove_overlaid(lock, key, false)?;
        }
        self.sync_directory(split(&spot.path).0, dir)?;
        if sealed.record.seal.is_some() {
            // The name in the overlay is durable; with this it is the key's.
            self.remove_from_tree(lock, key)?;
        }
        self.sweep_side(key, sealed.side.as_deref());
        Ok(Arc::new(sealed.record.into_entry(&sealed.stat)))
    }

    /// The key's spot: in the tree if it can be there and `place` allows it, else in the overlay.
    fn spot(&self, key: &ObjectKey, place: Place) -> Result<Spot, Errno> {
        if place == Place::Tree
            && let Some(path) = tree_path(key)
            && let Some(spot) = self.spot_in_tree(path)?
        {
            return Ok(spot);
        }
        let path = overlay::path(key);
        let (above, name) = split(&path);
        let dir = match self.open_directory(above) {
            Ok(dir) => Some(dir),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        let old = dir.as_ref().map(|dir| files::stat_at(dir, name));
        Ok(Spot {
            place: Place::Overlay,
            old: match old {
                None | Some(Err(Errno::NOENT)) => None,
                Some(result) => Some(result?),
            },
            path,
            dir,
        })
    }

    fn spot_in_tree(&self, path: &str) -> Result<Option<Spot>, Errno> {
        if self.traits.folds_names && self.has_folded_twin(path)? {
            return Ok(None);
        }
        let (above, name) = split(path);
        let dir = match self.open_directory(above) {
            Ok(dir) => Some(dir),
            Err(Errno::NOENT) => None,
            Err(errno) if is_absent(errno) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let old = match dir.as_ref().map(|dir| files::stat_at(dir, name)) {
            None | Some(Err(Errno::NOENT)) => None,
            Some(Ok(stat)) if matches!(stat.kind(), Kind::File | Kind::Link) => Some(stat),
            // A directory has the name, or something that is not ours to replace.
            Some(Ok(_)) => return Ok(None),
            Some(Err(errno)) if is_absent(errno) => return Ok(None),
            Some(Err(errno)) => return Err(errno),
        };
        Ok(Some(Spot {
            place: Place::Tree,
            path: path.to_owned(),
            dir,
            old,
        }))
    }

    fn give_name(
        &self,
        lock: &KeyLock,
        draft: &Draft,
        spot: &Spot,
        dir: &OwnedFd,
    ) -> Result<(), Errno> {
        let name = split(&spot.path).1;
        if let Some(waiting) = &draft.named {
            return files::rename(waiting.dir(), waiting.name(), dir, name);
        }
        if spot.old.is_none() {
            return files::link_unnamed(&draft.file, dir, name);
        }
        replace(lock, &draft.file, dir, name)
    }
}

/// Gives a file another name in `dir`, and replaces what has it. Linking never replaces, so that
/// the file gets a name in a stage first.
pub(super) fn replace(
    lock: &KeyLock,
    file: &OwnedFd,
    dir: &OwnedFd,
    name: &str,
) -> Result<(), Errno> {
    match replace_from(&Stage::in_bucket(&lock.home), file, dir, name) {
        // A border inside the bucket: another mount, subvolume or project.
        Err(Errno::XDEV) => replace_from(&Stage::local(dir, &lock.home)?, file, dir, name),
        result => result,
    }
}

fn replace_from(stage: &Stage, file: &OwnedFd, dir: &OwnedFd, name: &str) -> Result<(), Errno> {
    let waiting = stage.name();
    files::link_unnamed(file, stage.dir(), &waiting)?;
    let result = files::rename(stage.dir(), &waiting, dir, name);
    if result.is_err() {
        // Otherwise the sweep of the stage removes it.
        let _ = files::unlink(stage.dir(), &waiting);
    }
    result
}

/// An object before it has its name.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one lives on the stack of a PUT, never in a collection"
)]
enum Work {
    Unwritten(Content, Description),
    Sealed(Sealed),
}

/// A draft with its record, synced.
#[derive(Debug)]
struct Sealed {
    draft: Draft,
    stat: Stat,
    record: Record,
    side: Option<String>,
    description: Description,
}

impl Work {
    /// Writes what is not written yet. `None`: `dir` has been removed; `self` is as it was.
    fn seal(
        &mut self,
        bucket: &FsBucket,
        lock: &KeyLock,
        key: &ObjectKey,
        dir: &OwnedFd,
        old: Option<&Stat>,
    ) -> Result<Option<Sealed>, EngineError> {
        const DOING: &str = "writing the key's file";
        let empty = Self::Unwritten(Content::Memory(Vec::new()), Description::default());
        let (content, description) = match std::mem::replace(self, empty) {
            Self::Unwritten(content, description) => (content, description),
            Self::Sealed(sealed) => {
                if adopt(&sealed.draft.file, old).doing(DOING)? {
                    bucket.sync_file(&sealed.draft.file).doing(DOING)?;
                }
                return Ok(Some(sealed));
            }
        };
        let draft = match content {
            Content::Draft(draft) => draft,
            Content::Memory(pieces) => match Draft::create(bucket, &lock.home, dir) {
                Ok(draft) => {
                    let timing = bucket.shared.times.writing();
                    files::write_all_at(&draft.file, &pieces, 0).doing(DOING)?;
                    drop(timing);
                    draft
                }
                Err(Errno::NOENT) => {
                    *self = Self::Unwritten(Content::Memory(pieces), description);
                    return Ok(None);
                }
                Err(errno) => return Err(fault(DOING, errno)),
            },
        };
        adopt(&draft.file, old).doing(DOING)?;
        let stat = files::stat(&draft.file).doing(DOING)?;
        let record = Record {
            guard: Guard::of(&stat),
            etag: description.etag.clone(),
            modified: description
                .modified
                .or_else(|| modified(bucket.shared.clock.now(), &stat)),
            checksum: description.checksum.clone(),
            metadata: description.metadata.clone(),
            parts: description.parts.clone(),
            upload: description.upload.clone(),
            version: description.version,
            seal: description.seal.clone(),
            ..Record::default()
        };
        let side = bucket.write_record(&lock.home, key, &draft.file, &stat, &record)?;
        bucket.sync_file(&draft.file).doing(DOING)?;
        Ok(Some(Sealed {
            draft,
            stat,
            record,
            side,
            description,
        }))
    }
}

/// Keeps the mode and, where allowed, the owner of the file that is to be replaced. Whether
/// anything had to change.
fn adopt(file: &OwnedFd, old: Option<&Stat>) -> Result<bool, Errno> {
    let Some(old) = old.filter(|old| old.kind() == Kind::File) else {
        return Ok(false);
    };
    let new = files::stat(file)?;
    let has_other_owner = (new.uid, new.gid) != (old.uid, old.gid);
    // Not allowed without privileges, and then the writer owns what it wrote.
    let is_given = has_other_owner && files::set_owner(file, old.uid, old.gid).is_ok();
    // After the owner: giving a file away clears some of the bits.
    let has_other_mode = new.mode & PERMISSIONS != old.mode & PERMISSIONS;
    if has_other_mode || is_given {
        files::set_mode(file, old.mode & PERMISSIONS)?;
    }
    Ok(is_given || has_other_mode)
}

/// The time that S3 shows is the file's own, as `ls` shows it, unless the two are apart: the file
/// was assembled earlier, or the clocks differ.
fn modified(now: Timestamp, stat: &Stat) -> Option<Timestamp> {
    let apart = now.unix_nanos.abs_diff(stat.identity.modified_nanos);
    (apart >= 1_000_000_000).then_some(now)
}

const PERMISSIONS: u32 = 0o777;
/// Others who make, prune or replace the same names at the same time.
pub(super) const RACES_MAX: usize = 64;
const PLACING: &str = "placing the key's file";
