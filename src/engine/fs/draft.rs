//! Bytes on their way to become an object or a part: collected in memory, and beyond a piece in a
//! file that has no name yet.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::task::JoinHandle;

use super::bucket::FsBucket;
use super::faults::{Doing, fault, joined, off_shard};
use super::scratch::{Home, Stage};
use super::walk::{split, tree_path};
use crate::engine::{EngineError, ObjectKey};
use crate::io::files;
use crate::limits::REQUEST_WINDOW_BYTES;

/// A file that no key leads to. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) file: OwnedFd,
    /// On file systems without unnamed files, and where the file was something else before.
    pub(super) named: Option<Waiting>,
}

/// The name of a draft.
#[derive(Debug)]
pub(super) enum Waiting {
    /// Goes with the draft.
    Staged(Stage, String),
    /// Stays, unless the draft is given another name.
    Kept { dir: OwnedFd, name: &'static str },
}

impl Waiting {
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        match self {
            Self::Staged(stage, _) => stage.dir(),
            Self::Kept { dir, .. } => dir.as_fd(),
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Staged(_, name) => name,
            Self::Kept { name, .. } => name,
        }
    }
}

impl Draft {
    /// A new file with what `dir` gives to its files: group, access list, mount.
    pub(super) fn create(
        bucket: &FsBucket,
        home: &Arc<Home>,
        dir: &OwnedFd,
    ) -> Result<Self, Errno> {
        let mode = bucket.shared.file_mode;
        let draft = match Self::create_unnamed(bucket, dir, mode.unwrap_or(0o666)) {
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let stage = Stage::local(dir, home)?;
                let name = stage.name();
                let file = files::create_new(stage.dir(), &name, mode.unwrap_or(0o666))?;
                Self {
                    file,
                    named: Some(Waiting::Staged(stage, name)),
                }
            }
            result => result?,
        };
        if let Some(mode) = mode {
            files::set_mode(&draft.file, mode)?;
        }
        Ok(draft)
    }

    fn create_unnamed(bucket: &FsBucket, dir: &OwnedFd, mode: u32) -> Result<Self, Errno> {
        if !bucket.traits.unnamed_files {
            return Err(Errno::OPNOTSUPP);
        }
        let file = files::create_unnamed(dir, mode)?;
        Ok(Self { file, named: None })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(Waiting::Staged(stage, name)) = &self.named {
            // Otherwise the sweep of the stage removes it.
            let _ = files::unlink(stage.dir(), name);
        }
    }
}

impl FsBucket {
    /// A draft for `key`, made where the key's file will be or in the nearest directory above that
    /// is there: what is made in a new directory is as if made in the one above it.
    pub(super) fn draft_for(
        &self,
        home: &Arc<Home>,
        key: &ObjectKey,
    ) -> Result<Draft, EngineError> {
        const DOING: &str = "making a file for an object";
        let mut path = tree_path(key).map_or(".", |path| split(path).0);
        loop {
            let dir = match self.open_directory(path) {
                Ok(dir) => dir,
                Err(Errno::NOENT) if path != "." => {
                    path = split(path).0;
                    continue;
                }
                // The key will live in the overlay.
                Err(errno) if path != "." && super::walk::is_absent(errno) => {
                    path = ".";
                    continue;
                }
                Err(errno) => return Err(fault(DOING, errno)),
            };
            match Draft::create(self, home, &dir) {
                // Pruned since it was opened.
                Err(Errno::NOENT) if path != "." => path = split(path).0,
                result => return result.doing(DOING),
            }
        }
    }
}

/// Where the bytes of a finished spool are.
#[derive(Debug)]
pub(super) enum Content {
    Memory(Vec<Bytes>),
    Draft(Draft),
}

/// Receives the bytes of one write. What exceeds a piece is written while the next is received, so
/// that a spool never holds more than two pieces.
#[derive(Debug)]
pub(super) struct Spool {
    bucket: Arc<FsBucket>,
    key: ObjectKey,
    pieces: Vec<Bytes>,
    pieces_bytes: usize,
    /// Bytes in `pieces` that start a write.
    piece_bytes_max: usize,
    window_bytes: usize,
    /// How much will come.
    known_bytes: Option<u64>,
    /// Bytes given to the draft so far.
    written_bytes: u64,
    draft: Option<Draft>,
    writing: Option<JoinHandle<Result<Draft, EngineError>>>,
    /// It came with a draft, in which these bytes are its own: from the first to before the second.
    own: Option<(u64, u64)>,
}

impl Spool {
    /// `size_bytes`: how much will come, where it is known.
    pub(super) fn new(bucket: &Arc<FsBucket>, key: &ObjectKey, size_bytes: Option<u64>) -> Self {
        Self {
            bucket: Arc::clone(bucket),
            key: key.clone(),
            pieces: Vec::new(),
            pieces_bytes: 0,
            piece_bytes_max: piece_bytes_max(size_bytes, REQUEST_WINDOW_BYTES),
            window_bytes: REQUEST_WINDOW_BYTES,
            known_bytes: size_bytes,
            written_bytes: 0,
            draft: None,
            writing: None,
            own: None,
        }
    }

    /// For a part, which is written to `draft` from the start: anywhere, or only to the bytes of
    /// `range` (start and length).
    pub(super) fn of_part(
        bucket: &Arc<FsBucket>,
        key: &ObjectKey,
        draft: Draft,
        range: Option<(u64, u64)>,
        size_bytes: Option<u64>,
    ) -> Self {
        let (start_bytes, length_bytes) = range.unwrap_or((0, u64::MAX));
        Self {
            draft: Some(draft),
            written_bytes: start_bytes,
            own: Some((start_bytes, start_bytes.saturating_add(length_bytes))),
            ..Self::new(bucket, key, size_bytes)
        }
    }

    /// See [`crate::engine::Writer::set_window`].
    pub(super) fn set_window(&mut self, window_bytes: usize) {
        self.window_bytes = window_bytes;
        self.piece_bytes_max = piece_bytes_max(self.known_bytes, window_bytes);
    }

    /// Bytes received so far.
    pub(super) fn size_bytes(&self) -> u64 {
        let start_bytes = self.own.map_or(0, |(start, _)| start);
        self.written_bytes - start_bytes + self.pieces_bytes as u64
    }

    /// Refuses bytes that would run into those of others.
    pub(super) fn admit(&self, more_bytes: u64) -> Result<(), EngineError> {
        let Some((start_bytes, end_bytes)) = self.own else {
            return Ok(());
        };
        if self.size_bytes().saturating_add(more_bytes) > end_bytes - start_bytes {
            return Err(EngineError::Corrupt {
                what: "a part is longer than it was begun with",
            });
        }
        Ok(())
    }

    /// Nothing is in its file yet, and nobody else's bytes will be.
    pub(super) fn is_fresh(&self) -> bool {
        self.size_bytes() == 0 && self.own.is_none_or(|(_, end)| end == u64::MAX)
    }

    pub(super) async fn append(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.admit(bytes.len() as u64)?;
        self.pieces_bytes += bytes.len();
        self.pieces.push(bytes);
        if self.pieces_bytes > self.piece_bytes_max {
            self.flush().await?;
            self.piece_bytes_max = piece_bytes_max(None, self.window_bytes);
        }
        Ok(())
    }

    /// Hands what is in memory to the pool, once it has written what it got before.
    async fn flush(&mut self) -> Result<(), EngineError> {
        let draft = self.take_draft().await?;
        if draft.is_none() && self.own.is_some() {
            // An earlier write failed, and the draft with it.
            return Err(EngineError::Busy);
        }
        let pieces = std::mem::take(&mut self.pieces);
        let offset_bytes = self.written_bytes;
        self.written_bytes += self.pieces_bytes as u64;
        self.pieces_bytes = 0;
        let (bucket, key) = (Arc::clone(&self.bucket), self.key.clone());
        let home = bucket.home().await?;
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let draft = match draft {
                Some(draft) => draft,
                None => bucket.draft_for(&home, &key)?,
            };
            let _timing = bucket.shared.times.writing();
            files::write_all_at(&draft.file, &pieces, offset_bytes)
                .doing("writing the bytes of an object")?;
            Ok(draft)
        }));
        Ok(())
    }

    async fn take_draft(&mut self) -> Result<Option<Draft>, EngineError> {
        match self.writing.as_mut() {
            Some(writing) => {
                let result = joined(writing.await);
                self.writing = None;
                result.map(Some)
            }
            None => Ok(self.draft.take()),
        }
    }

    /// The draft, holding everything so far, and how many bytes that is. What is done with it goes
    /// on by [`Spool::resume`].
    pub(super) async fn pause(&mut self) -> Result<(Draft, u64), EngineError> {
        self.flush().await?;
        let draft = self.take_draft().await?;
        let draft = draft.ok_or(EngineError::Busy)?;
        Ok((draft, self.written_bytes))
    }

    pub(super) fn resume(&mut self, draft: Draft, size_bytes: u64) {
        self.draft = Some(draft);
        self.written_bytes = size_bytes;
    }

    /// All bytes: in memory if they fit a piece, otherwise in a draft whose bytes are synced.
    pub(super) async fn finish(mut self) -> Result<Content, EngineError> {
        let draft = self.take_draft().await?;
        let pieces = std::mem::take(&mut self.pieces);
        let Some(draft) = draft else {
            return Ok(Content::Memory(pieces));
        };
        let offset_bytes = self.written_bytes;
        let bucket = Arc::clone(&self.bucket);
        off_shard(move || {
            let times = &bucket.shared.times;
            let written = {
                let _timing = times.writing();
                files::write_all_at(&draft.file, &pieces, offset_bytes)
            };
            let _timing = times.syncing();
            written
                .and_then(|()| files::sync_bytes(&draft.file))
                .doing("writing the bytes of an object")?;
            Ok(Content::Draft(draft))
        })
        .await
    }
}

/// A body that fits the window is written in one go with its commit; of a larger one, half a window
/// is written while the other half is received.
fn piece_bytes_max(known_bytes: Option<u64>, window_bytes: usize) -> usize {
    match known_bytes {
        Some(known_bytes) if known_bytes <= window_bytes as u64 => window_bytes,
        _ => window_bytes / 2,
    }
}
