//! Reading: HEAD and GET.
//!
//! What memory has is read on the shard: a hot small object costs one look at its file, a cached
//! large one reads of the page cache that refuse to wait. All else goes to the runtime's pool of
//! threads, one piece ahead of the client.

use std::future::Future as _;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::task::JoinHandle;

use super::bucket::FsBucket;
use super::cache::Hot;
use super::faults::{Doing, fault, joined, off_shard};
use super::opened::Opened;
use super::walk::{Patience, Pinned, tree_path};
use crate::engine::{EngineError, Entry, ObjectKey, Range};
use crate::io::buf::{BUFFER_BYTES, Buffer};
use crate::io::files::{self, Stat};

impl FsBucket {
    /// The current entry of a key, without its bytes.
    pub async fn head(self: &Arc<Self>, key: &ObjectKey) -> Result<Arc<Entry>, EngineError> {
        if let Some(hot) = self.open_hot(key) {
            return Ok(Arc::clone(&hot.entry));
        }
        match self.head_now(key, Patience::Cached) {
            Attempt::Done(result) => result,
            Attempt::Cold => {
                let (bucket, key) = (Arc::clone(self), key.clone());
                off_shard(move || bucket.head_now(&key, Patience::Blocking).done()).await
            }
        }
    }

    /// Pins the current entry of a key for reading.
    pub async fn open(self: &Arc<Self>, key: &ObjectKey) -> Result<FsReader, EngineError> {
        if let Some(hot) = self.open_hot(key) {
            return Ok(FsReader::of_hot(self, &hot));
        }
        match self.open_now(key, Patience::Cached) {
            Attempt::Done(result) => result,
            Attempt::Cold => {
                let (bucket, key) = (Arc::clone(self), key.clone());
                off_shard(move || bucket.open_now(&key, Patience::Blocking).done()).await
            }
        }
    }

    /// The object from memory, if its file is as it was. The look cannot be fooled by a directory
    /// that became a link since: a key of one component is looked at in the bucket's directory
    /// itself, any other by a confined walk.
    fn open_hot(&self, key: &ObjectKey) -> Option<Arc<Hot>> {
        let hot = self.hot_object(key)?;
        let path = tree_path(key)?;
        let stat = if path.contains('/') {
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let pinned = self.tree.open_cached(path, flags).ok()?;
            files::stat(&pinned).ok()?
        } else {
            files::stat_at(self.tree.root(), path).ok()?
        };
        (stat.identity == hot.identity).then_some(hot)
    }

    fn head_now(self: &Arc<Self>, key: &ObjectKey, patience: Patience) -> Attempt<Arc<Entry>> {
        let looked_nanos = files::stamp_clock_nanos();
        let pinned = match self.find_or_tell(key, patience) {
            Attempt::Done(Ok(pinned)) => pinned,
            Attempt::Done(Err(error)) => return Attempt::Done(Err(error)),
            Attempt::Cold => return Attempt::Cold,
        };
        if let Some(entry) = self.known_entry_of(key, &pinned.stat) {
            return Attempt::Done(Ok(entry));
        }
        if patience == Patience::Cached {
            // The record may lie in a block of its own.
            return Attempt::Cold;
        }
        let loaded = self.load_entry(key, &pinned, looked_nanos);
        Attempt::Done(loaded.map(|(entry, _)| entry))
    }

    fn open_now(self: &Arc<Self>, key: &ObjectKey, patience: Patience) -> Attempt<FsReader> {
        for _ in 0..REWRITES_MAX {
            let looked_nanos = files::stamp_clock_nanos();
            let pinned = match self.find_or_tell(key, patience) {
                Attempt::Done(Ok(pinned)) => pinned,
                Attempt::Done(Err(error)) => return Attempt::Done(Err(error)),
                Attempt::Cold => return Attempt::Cold,
            };
            match self.open_pinned(key, &pinned, patience, looked_nanos) {
                // It is being rewritten in place: look again.
                Attempt::Done(Err(EngineError::Changed)) => {}
                attempt => return attempt,
            }
        }
        Attempt::Done(Err(EngineError::Changed))
    }

    fn open_pinned(
        self: &Arc<Self>,
        key: &ObjectKey,
        pinned: &Pinned,
        patience: Patience,
        looked_nanos: i64,
    ) -> Attempt<FsReader> {
        if let Some(hot) = self.hot_object(key)
            && hot.identity == pinned.stat.identity
        {
            return Attempt::Done(Ok(FsReader::of_hot(self, &hot)));
        }
        let opened = match self.known_entry_of(key, &pinned.stat) {
            Some(entry) => files::reopen_for_read(&pinned.file)
                .doing("opening the key's file")
                .map(|file| (entry, file)),
            None if patience == Patience::Cached => return Attempt::Cold,
            None => self.load_entry(key, pinned, looked_nanos),
        };
        let (entry, file) = match opened {
            Ok(opened) => opened,
            Err(error) => return Attempt::Done(Err(error)),
        };
        if entry.size_bytes > HOT_BYTES_MAX {
            return Attempt::Done(Ok(FsReader::of_file(self, entry, file, pinned.stat)));
        }
        let waits = patience == Patience::Blocking;
        let timing = waits.then(|| self.shared.times.reading());
        let small = read_small(&file, &pinned.stat, patience);
        drop(timing);
        let bytes = match small {
            Err(Errno::AGAIN) => return Attempt::Cold,
            Err(errno) => return Attempt::Done(Err(fault("reading the key's file", errno))),
            Ok(None) => return Attempt::Done(Err(EngineError::Changed)),
            Ok(Some(bytes)) => bytes,
        };
        let hot = Hot {
            identity: pinned.stat.identity,
            entry,
            bytes,
        };
        let reader = FsReader::of_hot(self, &hot);
        self.keep_object(key, hot, looked_nanos);
        Attempt::Done(Ok(reader))
    }

    fn find_or_tell(&self, key: &ObjectKey, patience: Patience) -> Attempt<Pinned> {
        match self.find(key, patience) {
            Ok(Some(pinned)) => Attempt::Done(Ok(pinned)),
            Ok(None) if patience == Patience::Cached && self.may_have_marker() => Attempt::Cold,
            Ok(None) => Attempt::Done(Err(self.absent_key(key))),
            Err(Errno::AGAIN) if patience == Patience::Cached => Attempt::Cold,
            Err(errno) => Attempt::Done(Err(fault("looking for a key", errno))),
        }
    }
}

/// All bytes of a small file; `None` if it changed meanwhile. `EAGAIN`: they are not in memory.
fn read_small(file: &OwnedFd, stat: &Stat, patience: Patience) -> Result<Option<Bytes>, Errno> {
    let size = usize::try_from(stat.identity.size_bytes).unwrap_or(usize::MAX);
    let mut bytes = vec![0; size];
    let count = match patience {
        _ if size == 0 => 0,
        Patience::Blocking => files::read_at(file, &mut bytes, 0)?,
        Patience::Cached => files::read_cached(file, &mut bytes, 0)?,
    };
    if count < size && patience == Patience::Cached {
        return Err(Errno::AGAIN);
    }
    let is_same = count == size && files::stat(file)?.identity == stat.identity;
    Ok(is_same.then(|| bytes.into()))
}

/// What came of an attempt that may have been forbidden to wait.
#[derive(Debug)]
enum Attempt<T> {
    Done(Result<T, EngineError>),
    /// The device has to be asked.
    Cold,
}

impl<T> Attempt<T> {
    /// For attempts that may wait: they are never cold.
    fn done(self) -> Result<T, EngineError> {
        match self {
            Self::Done(result) => result,
            Self::Cold => Err(EngineError::Busy),
        }
    }
}

/// A pinned entry: reads the bytes of the file that was the key's when it was opened.
#[derive(Clone, Debug)]
pub struct FsReader {
    bucket: Arc<FsBucket>,
    entry: Arc<Entry>,
    content: Content,
}

/// Where a reader's bytes are.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Memory(Bytes),
    File(Arc<Opened>),
}

impl FsReader {
    pub(super) fn of_file(
        bucket: &Arc<FsBucket>,
        entry: Arc<Entry>,
        file: OwnedFd,
        stat: Stat,
    ) -> Self {
        Self {
            bucket: Arc::clone(bucket),
            entry,
            content: Content::File(Arc::new(Opened::new(file, stat))),
        }
    }

    fn of_hot(bucket: &Arc<FsBucket>, hot: &Hot) -> Self {
        Self {
            bucket: Arc::clone(bucket),
            entry: Arc::clone(&hot.entry),
            content: Content::Memory(hot.bytes.clone()),
        }
    }

    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// See [`crate::engine::Reader::read`].
    pub fn read(self, range: Range) -> FsByteStream {
        FsByteStream {
            bucket: self.bucket,
            content: self.content,
            offset_bytes: range.start_bytes,
            left_bytes: range.size_bytes,
            piece_bytes: BUFFER_BYTES,
            reading: None,
        }
    }

    pub(super) fn into_content(self) -> Content {
        self.content
    }
}

/// Bytes of one reader, piece by piece.
#[derive(Debug)]
pub struct FsByteStream {
    bucket: Arc<FsBucket>,
    content: Content,
    offset_bytes: u64,
    /// 0: everything was given, or an error was.
    left_bytes: u64,
    piece_bytes: usize,
    /// The read of the piece at `offset_bytes`, where it had to leave the shard.
    reading: Option<JoinHandle<Result<Buffer, EngineError>>>,
}

impl FsByteStream {
    /// See [`crate::engine::ByteStream::set_window`].
    pub fn set_window(&mut self, window_bytes: usize) {
        if self.left_bytes > window_bytes as u64 {
            // One piece is sent while the next is read.
            self.piece_bytes = (window_bytes / 2).clamp(PIECE_BYTES_MIN, BUFFER_BYTES);
        }
    }

    /// See [`crate::engine::ByteStream::poll_next`]. One call reads at most one buffer.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, EngineError>>> {
        if self.left_bytes == 0 {
            return Poll::Ready(None);
        }
        let opened = match &self.content {
            Content::Memory(bytes) => {
                let bytes = slice(bytes, self.offset_bytes, self.left_bytes);
                self.left_bytes = 0;
                return Poll::Ready(Some(bytes));
            }
            Content::File(opened) => Arc::clone(opened),
        };
        let piece = match self.poll_piece(cx, &opened) {
            Poll::Ready(piece) => piece,
            Poll::Pending => return Poll::Pending,
        };
        let result = piece.and_then(|piece| self.account(&opened, piece));
        if result.is_err() {
            self.left_bytes = 0;
        }
        Poll::Ready(Some(result))
    }

    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        opened: &Arc<Opened>,
    ) -> Poll<Result<Buffer, EngineError>> {
        if self.reading.is_none() {
            let mut buffer = self.bucket.shared.buffers.take(self.piece_bytes);
            let read =
                |target: &mut [u8]| files::read_cached(&opened.file, target, self.offset_bytes);
            match buffer.fill(bound(self.left_bytes), read) {
                Ok(_) => return Poll::Ready(Ok(buffer)),
                Err(Errno::AGAIN) => {
                    let (at, left) = (self.offset_bytes, self.left_bytes);
                    self.reading = Some(start_reading(&self.bucket, opened, buffer, at, left));
                }
                Err(errno) => {
                    return Poll::Ready(Err(fault("reading the key's file", errno)));
                }
            }
        }
        let Some(reading) = self.reading.as_mut() else {
            return Poll::Ready(Err(EngineError::Busy));
        };
        match Pin::new(reading).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => {
                self.reading = None;
                let piece = joined(result);
                if let Ok(piece) = &piece {
                    self.read_ahead(opened, piece.as_ref().len() as u64);
                }
                Poll::Ready(piece)
            }
        }
    }

    /// What had to be read from the device is followed by more of it.
    fn read_ahead(&mut self, opened: &Arc<Opened>, given_bytes: u64) {
        let left_bytes = self.left_bytes.saturating_sub(given_bytes);
        if left_bytes > 0 && given_bytes > 0 {
            let buffer = self.bucket.shared.buffers.take(self.piece_bytes);
            let offset_bytes = self.offset_bytes.saturating_add(given_bytes);
            self.reading = Some(start_reading(
                &self.bucket,
                opened,
                buffer,
                offset_bytes,
                left_bytes,
            ));
        }
    }

    /// Moves on by a piece; the last one is given only if the file still has the bytes with which
    /// it was opened.
    fn account(&mut self, opened: &Opened, piece: Buffer) -> Result<Bytes, EngineError> {
        let size_bytes = piece.as_ref().len() as u64;
        if size_bytes == 0 {
            return Err(EngineError::Changed);
        }
        self.offset_bytes = self.offset_bytes.saturating_add(size_bytes);
        self.left_bytes = self.left_bytes.saturating_sub(size_bytes);
        if self.left_bytes == 0 {
            opened.check(&self.bucket.touches)?;
        }
        Ok(piece.freeze())
    }
}

fn start_reading(
    bucket: &Arc<FsBucket>,
    opened: &Arc<Opened>,
    mut buffer: Buffer,
    offset_bytes: u64,
    left_bytes: u64,
) -> JoinHandle<Result<Buffer, EngineError>> {
    let (bucket, opened) = (Arc::clone(bucket), Arc::clone(opened));
    tokio::task::spawn_blocking(move || {
        let _timing = bucket.shared.times.reading();
        buffer
            .fill(bound(left_bytes), |target| {
                files::read_at(&opened.file, target, offset_bytes)
            })
            .doing("reading the key's file")?;
        Ok(buffer)
    })
}

fn slice(bytes: &Bytes, offset_bytes: u64, size_bytes: u64) -> Result<Bytes, EngineError> {
    let start = usize::try_from(offset_bytes).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(size_bytes).unwrap_or(usize::MAX));
    if end > bytes.len() {
        return Err(EngineError::Changed);
    }
    Ok(bytes.slice(start..end))
}

fn bound(left_bytes: u64) -> usize {
    usize::try_from(left_bytes).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES))
}

/// Objects up to this are read whole when they are opened, and kept.
const HOT_BYTES_MAX: u64 = 64 << 10;
/// Less in one read would cost more in system calls than it spares in memory.
const PIECE_BYTES_MIN: usize = 32 << 10;
/// Looks at a file that another program is rewriting or renaming.
const REWRITES_MAX: usize = 16;

const _: () = assert!(HOT_BYTES_MAX <= BUFFER_BYTES as u64);
