//! Readers: an entry pinned, its bytes verified chunk by chunk.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::codec::crc32c;
use super::core::{BucketState, Core};
use super::entry::{Crcs, Piece, Place, Stored};
use super::hot::{STEP_BYTES, is_kept};
use super::layout::{BLOCK, BLOCK_BYTES, CHUNK_BYTES};
use super::record::{ItemKey, Table};
use super::recover::read_table;
use super::transfer::{self, fault};
use super::versions::LOOKS;
use crate::engine::{EngineError, Entry, Range};
use crate::limits::REQUEST_WINDOW_BYTES;

/// A pinned entry.
#[derive(Clone, Debug)]
pub struct BlobReader {
    pub(super) core: Arc<Core>,
    entry: Arc<Entry>,
    pub(super) stored: Arc<Stored>,
    pub(super) item: ItemKey,
    pub(super) bucket: Arc<BucketState>,
    pub(super) pins: Arc<Pins>,
}

/// What keeps an entry's bytes readable while this lives: pinned allocations, or the bytes.
#[derive(Debug)]
pub(super) struct Pins {
    core: Arc<Core>,
    names: Vec<u64>,
    /// All bytes of the object; nothing is pinned then.
    pub(super) whole: Option<Bytes>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        for name in &self.names {
            self.core.space.unpin(*name);
        }
    }
}

impl Core {
    /// The published value of an item, and its bytes or all that it holds pinned.
    pub(super) fn pinned(
        self: &Arc<Self>,
        bucket: &BucketState,
        item: &ItemKey,
    ) -> Result<Option<(Stored, Pins)>, EngineError> {
        self.find(bucket, item, true)
    }

    fn find(
        self: &Arc<Self>,
        bucket: &BucketState,
        item: &ItemKey,
        takes_bytes: bool,
    ) -> Result<Option<(Stored, Pins)>, EngineError> {
        let Some(tree) = bucket.tree(item.table) else {
            return Ok(None);
        };
        // Pinned under the leaf's lock: the record that replaces the entry comes later (I3).
        let found = tree.get(&item.key, |value| {
            let stored = Stored::decode(value)?;
            if takes_bytes
                && stored.overflow.is_none()
                && let Some(whole) = self.space.hot.whole(&stored.pieces)
            {
                return Some((stored, Vec::new(), Some(whole)));
            }
            let allocations = stored.allocations();
            let names = allocations
                .iter()
                .filter_map(|allocation| allocation.first());
            let names: Vec<u64> = names.map(|first| first.first).collect();
            names.iter().for_each(|name| self.space.pin(*name));
            Some((stored, names, None))
        });
        match found {
            None => Ok(None),
            Some(None) => Err(EngineError::Corrupt {
                what: "an entry of the index cannot be decoded",
            }),
            Some(Some((stored, names, whole))) => {
                let core = Arc::clone(self);
                Ok(Some((stored, Pins { core, names, whole })))
            }
        }
    }

    pub(super) async fn open(
        self: &Arc<Self>,
        bucket: &Arc<BucketState>,
        key: &[u8],
    ) -> Result<BlobReader, EngineError> {
        bucket.check()?;
        let item = ItemKey {
            table: Table::Objects,
            bucket: bucket.id,
            key: key.into(),
        };
        for _ in 0..LOOKS {
            if let Some((stored, pins)) = self.pinned(bucket, &item)? {
                return self.reader(bucket, &item, stored, pins).await;
            }
            if let Some(answer) = self.absent(bucket, &item)? {
                return Err(answer);
            }
        }
        Err(EngineError::Busy)
    }

    /// A reader of what was found at `item`.
    pub(super) async fn reader(
        self: &Arc<Self>,
        bucket: &Arc<BucketState>,
        item: &ItemKey,
        stored: Stored,
        pins: Pins,
    ) -> Result<BlobReader, EngineError> {
        if stored.is_marker {
            return Err(EngineError::DeleteMarker {
                version: stored.version.id(),
                modified: stored.modified,
            });
        }
        Ok(BlobReader {
            entry: self.entry(&stored).await?,
            stored: Arc::new(stored),
            item: item.clone(),
            bucket: Arc::clone(bucket),
            pins: Arc::new(pins),
            core: Arc::clone(self),
        })
    }
}

impl BlobReader {
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Pins its allocations if it has the bytes instead. False: the entry is another one by now.
    pub(super) fn pin(&mut self) -> bool {
        if self.pins.whole.is_none() {
            return true;
        }
        match self.core.find(&self.bucket, &self.item, false) {
            Ok(Some((stored, pins))) if stored == *self.stored => {
                self.pins = Arc::new(pins);
                true
            }
            _ => false,
        }
    }

    /// See [`crate::engine::Reader::read`].
    pub fn read(self, range: Range) -> BlobByteStream {
        let mut wanted = VecDeque::new();
        let (mut before, end) = (0_u64, range.start_bytes.saturating_add(range.size_bytes));
        for (at, piece) in self.stored.pieces.iter().enumerate() {
            let start = range.start_bytes.max(before);
            let stop = end.min(before + piece.size_bytes);
            if start < stop {
                wanted.push_back((at, start - before, stop - before));
            }
            before += piece.size_bytes;
        }
        let mut ahead = VecDeque::new();
        if let Some(whole) = &self.pins.whole
            && let Some((_, start, stop)) = wanted.pop_front()
        {
            let place = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
            let bytes = whole.slice(place(start)..place(stop));
            ahead.push_back(Reading::Done(Ok(bytes)));
        }
        BlobByteStream {
            ahead,
            wanted,
            table: None,
            step_bytes: STEP_BYTES,
            ahead_max: AHEAD_MAX,
            has_failed: false,
            source: Arc::new(self),
        }
    }
}

/// Bytes of one reader.
pub struct BlobByteStream {
    source: Arc<BlobReader>,
    /// (piece, first byte, end) still to be read, in order.
    wanted: VecDeque<(usize, u64, u64)>,
    ahead: VecDeque<Reading>,
    /// The CRCs of the piece that is read, if they lie in a table.
    table: Option<(usize, Arc<Vec<u32>>)>,
    /// Bytes of one read, and reads at a time.
    step_bytes: u64,
    ahead_max: usize,
    has_failed: bool,
}

enum Reading {
    Bytes(Pin<Box<dyn Future<Output = Result<Bytes, EngineError>> + Send>>),
    Done(Result<Bytes, EngineError>),
    Table(
        usize,
        Pin<Box<dyn Future<Output = Result<Vec<u32>, EngineError>> + Send>>,
    ),
}

impl BlobByteStream {
    /// See [`crate::engine::ByteStream::set_window`].
    pub fn set_window(&mut self, window_bytes: usize) {
        let left_bytes: u64 = self.wanted.iter().map(|(_, start, end)| end - start).sum();
        let fits = left_bytes <= window_bytes as u64;
        if !fits && window_bytes < REQUEST_WINDOW_BYTES {
            // One chunk is sent while the next is read.
            (self.step_bytes, self.ahead_max) = (CHUNK_BYTES, 1);
        }
    }

    /// See [`crate::engine::ByteStream::poll_next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, EngineError>>> {
        loop {
            if self.has_failed {
                return Poll::Ready(None);
            }
            while self.ahead.len() < self.ahead_max && self.start_next() {}
            for reading in &mut self.ahead {
                if let Reading::Bytes(future) = reading
                    && let Poll::Ready(result) = future.as_mut().poll(cx)
                {
                    *reading = Reading::Done(result);
                }
            }
            match self.ahead.front_mut() {
                None => return Poll::Ready(None),
                Some(Reading::Bytes(_)) => return Poll::Pending,
                Some(Reading::Table(piece, future)) => {
                    let piece = *piece;
                    let Poll::Ready(result) = future.as_mut().poll(cx) else {
                        return Poll::Pending;
                    };
                    self.ahead.pop_front();
                    match result {
                        Ok(crcs) => self.table = Some((piece, Arc::new(crcs))),
                        Err(error) => {
                            self.has_failed = true;
                            return Poll::Ready(Some(Err(error)));
                        }
                    }
                }
                Some(Reading::Done(_)) => {
                    let Some(Reading::Done(result)) = self.ahead.pop_front() else {
                        continue;
                    };
                    self.has_failed = result.is_err();
                    return Poll::Ready(Some(result));
                }
            }
        }
    }

    /// Starts one more read; false: all are started, or a table must come first.
    fn start_next(&mut self) -> bool {
        if matches!(self.ahead.back(), Some(Reading::Table(..))) {
            return false;
        }
        let Some((at, start, end)) = self.wanted.pop_front() else {
            return false;
        };
        let Some(piece) = self.source.stored.pieces.get(at) else {
            return false;
        };
        if let Place::Extents {
            crcs: Crcs::Table(pointer),
            ..
        } = &piece.place
            && self.table.as_ref().is_none_or(|(piece, _)| *piece != at)
        {
            self.wanted.push_front((at, start, end));
            if !self.ahead.is_empty() {
                // What is ahead may still use the table before.
                return false;
            }
            let (source, pointer) = (Arc::clone(&self.source), pointer.clone());
            let future = async move { read_table(&source.core.device, &pointer).await };
            self.ahead.push_back(Reading::Table(at, Box::pin(future)));
            return false;
        }
        let boundary = start - start % self.step_bytes + self.step_bytes;
        let stop = end.min(boundary);
        if stop < end {
            self.wanted.push_front((at, stop, end));
        }
        let source = Arc::clone(&self.source);
        let table = self.table.as_ref().map(|(_, crcs)| Arc::clone(crcs));
        let future = async move {
            let piece = source.stored.pieces.get(at).ok_or(DAMAGED)?;
            read_piece(&source.core, piece, table.as_deref(), start, stop).await
        };
        self.ahead.push_back(Reading::Bytes(Box::pin(future)));
        true
    }
}

/// Bytes `start..stop` of a piece, after all chunks that they touch have been verified (I8).
async fn read_piece(
    core: &Core,
    piece: &Piece,
    table: Option<&Vec<u32>>,
    start: u64,
    stop: u64,
) -> Result<Bytes, EngineError> {
    let place = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    match &piece.place {
        Place::Nothing => Ok(Bytes::new()),
        Place::Page { block, offset, crc } => {
            let kept = core.space.hot.get(*block, 0);
            let page = match &kept {
                Some(page) => page.clone(),
                None => transfer::read(&core.device, block * BLOCK, BLOCK_BYTES)
                    .await
                    .map_err(|source| fault("reading a page", source))?,
            };
            // A page is kept when one member was whole; the others are verified by themselves.
            let member = page.slice(*offset..offset + place(piece.size_bytes));
            if crc32c(&member) != *crc {
                return Err(DAMAGED);
            }
            if kept.is_none() {
                core.space.hot.keep(*block, 0, &page);
            }
            Ok(member.slice(place(start)..place(stop)))
        }
        Place::Extents { extents, crcs } => {
            let crcs = match crcs {
                Crcs::Inline(crcs) => crcs,
                Crcs::Table(_) => table.ok_or(DAMAGED)?,
            };
            let name = extents.first().filter(|_| is_kept(piece.size_bytes));
            let (name, step) = (name.map(|first| first.first), start / STEP_BYTES);
            if let Some(kept) = name.and_then(|name| core.space.hot.get(name, step)) {
                let before = step * STEP_BYTES;
                return Ok(kept.slice(place(start - before)..place(stop - before)));
            }
            let from = start - start % CHUNK_BYTES;
            let to = stop.next_multiple_of(CHUNK_BYTES).min(piece.size_bytes);
            let bytes = transfer::read_extents(&core.device, extents, from, place(to - from))
                .await
                .map_err(|source| fault("reading an object", source))?;
            let first = place(from / CHUNK_BYTES);
            for (at, chunk) in bytes.chunks(place(CHUNK_BYTES)).enumerate() {
                if crcs.get(first + at) != Some(&crc32c(chunk)) {
                    return Err(DAMAGED);
                }
            }
            let is_whole =
                from == step * STEP_BYTES && to == piece.size_bytes.min(from + STEP_BYTES);
            if let Some(name) = name.filter(|_| is_whole) {
                core.space.hot.keep(name, step, &bytes);
            }
            Ok(bytes.slice(place(start - from)..place(stop - from)))
        }
    }
}

impl fmt::Debug for BlobByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobByteStream")
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}

const DAMAGED: EngineError = EngineError::Corrupt {
    what: "an object's bytes do not match their checksum",
};
const AHEAD_MAX: usize = 3;
