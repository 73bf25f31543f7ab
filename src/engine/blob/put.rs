//! Writers: bytes go to fresh extents while they come, and become an object or a part by one
//! record.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::codec::{crc32c, put_u32};
use super::commit::{Class, Turn, Writes};
use super::core::{BucketState, Core};
use super::describe::{Described, describe, plain_entry};
use super::entry::{Allocation, Crcs, INLINE_CRCS_MAX, Piece, Place, Stored};
use super::get::BlobReader;
use super::layout::{BLOCK, CHUNK_BYTES, Extent, blocks_of, count_of, join, spans};
use super::multipart::PartTarget;
use super::record::{ItemKey, Table};
use super::succession::NewObject;
use super::transfer;
use crate::engine::{Commit, EngineError, Entry, Precondition, Range};
use crate::io::dma::DmaBuf;
use crate::limits::REQUEST_WINDOW_BYTES;

/// An unfinished object or part.
#[derive(Debug)]
pub struct BlobWriter {
    pub(super) bucket: Arc<BucketState>,
    pub(super) item: ItemKey,
    pub(super) spool: Spool,
    /// All of another entry, to be shared; `spool` is empty then.
    pub(super) shared: Option<BlobReader>,
    /// Of [`super::BlobBucket::begin_part`].
    pub(super) part: Option<PartTarget>,
}

impl BlobWriter {
    /// See [`crate::engine::Writer::set_window`].
    pub fn set_window(&mut self, window_bytes: usize) {
        self.spool.set_window(window_bytes);
    }

    /// See [`crate::engine::Writer::append`].
    pub async fn append(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        self.unshare().await?;
        self.spool.append(&bytes).await
    }

    /// See [`crate::engine::Writer::append_from`]. The whole of an entry, if nothing else is
    /// appended, is shared; everything else is copied.
    pub async fn append_from(
        &mut self,
        mut source: BlobReader,
        range: Range,
    ) -> Result<(), EngineError> {
        self.unshare().await?;
        let is_whole = range.start_bytes == 0 && range.size_bytes == source.entry().size_bytes;
        let is_same = Arc::ptr_eq(&source.core, &self.spool.core);
        // Replaced meanwhile, it is copied from the bytes that it has.
        if is_whole && is_same && self.spool.is_empty() && source.pin() {
            self.shared = Some(source);
            return Ok(());
        }
        self.copy(source, range).await
    }

    async fn copy(&mut self, source: BlobReader, range: Range) -> Result<(), EngineError> {
        let mut stream = source.read(range);
        while let Some(piece) = std::future::poll_fn(|cx| stream.poll_next(cx)).await {
            self.spool.append(&piece?).await?;
        }
        Ok(())
    }

    pub(super) async fn unshare(&mut self) -> Result<(), EngineError> {
        let Some(source) = self.shared.take() else {
            return Ok(());
        };
        let size_bytes = source.entry().size_bytes;
        let start_bytes = 0;
        self.copy(
            source,
            Range {
                start_bytes,
                size_bytes,
            },
        )
        .await
    }

    /// See [`crate::engine::Writer::commit`].
    pub async fn commit(mut self, commit: Commit) -> Result<Arc<Entry>, EngineError> {
        let core = Arc::clone(&self.spool.core);
        let now = core.clock.now();
        loop {
            let (size_bytes, content) = match self.shared.take() {
                Some(source) => Content::shared(source),
                None => self.spool.finish()?,
            };
            let mut stored = Stored::new(size_bytes, commit.etag.clone(), now);
            stored.checksum.clone_from(&commit.checksum);
            stored.seal.clone_from(&commit.seal);
            let mut content = content;
            content.describe(&core, &mut stored, describe(&commit.metadata, &[])?)?;
            let mut entry = plain_entry(&stored);
            entry.metadata = commit.metadata.clone();
            let (bucket, item) = (Arc::clone(&self.bucket), self.item.clone());
            let precondition = commit.precondition.clone();
            let writes = content.writes();
            let source = content.source.take();
            let source_kept = source.clone();
            let (salt, lock) = (core.entropy.bytes(), commit.metadata.lock);
            let done = core.commit(Class::Write, writes, move |turn| {
                bucket.check()?;
                check(turn, &bucket, &item, &precondition)?;
                if !content.is_there(turn, source.as_deref()) {
                    return Ok(None);
                }
                let succession = turn.succeed(&bucket, &item, salt, (lock, now))?;
                let new = content.settle(turn, stored, source.as_deref())?;
                Ok(Some(turn.put_object(&bucket, item, succession, new)))
            });
            match (done.await?, source_kept) {
                (Some(stored), _) => {
                    entry.version = stored.version.id();
                    entry.metadata.lock = stored.lock;
                    return Ok(Arc::new(entry));
                }
                // The source was replaced meanwhile: its bytes are copied from the pinned reader.
                (None, Some(source)) => {
                    self.shared = Some(Arc::try_unwrap(source).map_err(|_| EngineError::Busy)?);
                    self.unshare().await?;
                }
                (None, None) => return Err(EngineError::Busy),
            }
        }
    }
}

/// The precondition against the entry as it will be.
pub(super) fn check(
    turn: &mut Turn<'_>,
    bucket: &BucketState,
    item: &ItemKey,
    precondition: &Precondition,
) -> Result<(), EngineError> {
    if precondition.is_empty() {
        return Ok(());
    }
    let current = turn
        .get(Some(bucket), item)
        .and_then(|value| Stored::decode(&value));
    precondition.check(current.as_ref().map(plain_entry).as_ref())
}

/// Blocks that are nobody's yet: they go back when the last user drops this, unless a record took
/// them. Every write in flight is a user. Upholds I11.
#[derive(Debug)]
pub(super) struct Holding {
    core: Arc<Core>,
    extents: Mutex<Allocation>,
    is_kept: AtomicBool,
}

impl Holding {
    pub(super) fn new(core: &Arc<Core>, extents: Allocation) -> Arc<Self> {
        Arc::new(Self {
            core: Arc::clone(core),
            extents: Mutex::new(extents),
            is_kept: AtomicBool::new(false),
        })
    }

    pub(super) fn keep(&self) {
        self.is_kept.store(true, Ordering::Release);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Allocation> {
        self.extents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if !self.is_kept.load(Ordering::Acquire) {
            self.core.space.give_back(&self.lock());
        }
    }
}

/// Bytes on their way to extents.
#[derive(Debug)]
pub(super) struct Spool {
    pub(super) core: Arc<Core>,
    holding: Arc<Holding>,
    size_bytes: u64,
    /// How much will come.
    known_bytes: Option<u64>,
    /// Bytes of one write, and writes that nobody waits for.
    step_bytes: usize,
    in_flight_max: usize,
    /// Not yet written; at most `step_bytes`.
    buffer: Option<DmaBuf>,
    crcs: Vec<u32>,
    in_flight: VecDeque<JoinHandle<io::Result<()>>>,
}

impl Spool {
    /// Reserves the whole of a known length.
    pub(super) async fn begin(
        core: &Arc<Core>,
        size_bytes: Option<u64>,
    ) -> Result<Self, EngineError> {
        core.check_writable()?;
        let known = size_bytes.filter(|size| *size > PACKED_BYTES_MAX as u64);
        let extents = match known {
            Some(size) => match core.allocate(blocks_of(size)) {
                Err(EngineError::Full) if core.space.held_blocks() > 0 => {
                    core.prove_frees().await?;
                    core.allocate(blocks_of(size))?
                }
                result => result?,
            },
            None => Vec::new(),
        };
        Ok(Self {
            holding: Holding::new(core, extents),
            core: Arc::clone(core),
            size_bytes: 0,
            known_bytes: size_bytes,
            step_bytes: STEP_BYTES,
            in_flight_max: IN_FLIGHT_MAX,
            buffer: None,
            crcs: Vec::new(),
            in_flight: VecDeque::new(),
        })
    }

    fn set_window(&mut self, window_bytes: usize) {
        let fits = self
            .known_bytes
            .is_some_and(|known_bytes| known_bytes <= window_bytes as u64);
        if !fits && window_bytes < REQUEST_WINDOW_BYTES {
            // One chunk is gathered while the one before is written.
            self.step_bytes = usize::try_from(CHUNK_BYTES).unwrap_or(STEP_BYTES);
            self.in_flight_max = 0;
        }
    }

    fn is_empty(&self) -> bool {
        self.size_bytes == 0
    }

    async fn append(&mut self, mut bytes: &[u8]) -> Result<(), EngineError> {
        while !bytes.is_empty() {
            let pool = self.core.device.buffers();
            let left = self
                .known_bytes
                .map_or(u64::MAX, |size| size.saturating_sub(self.size_bytes));
            let room =
                usize::try_from(left).map_or(self.step_bytes, |left| left.min(self.step_bytes));
            let buffer = self.buffer.get_or_insert_with(|| pool.take_empty(room));
            if buffer.len() == buffer.capacity() {
                // More comes than was announced.
                let mut larger = pool.take_empty(self.step_bytes);
                larger.append(buffer);
                *buffer = larger;
            }
            let count = buffer.append(bytes);
            self.size_bytes += count as u64;
            bytes = bytes.split_at(count).1;
            if buffer.len() == self.step_bytes {
                self.write_buffer()?;
                while self.in_flight.len() > self.in_flight_max {
                    if let Some(oldest) = self.in_flight.pop_front() {
                        joined(oldest).await.map_err(|e| self.broken(e))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn broken(&self, error: io::Error) -> EngineError {
        self.core.poison(&error);
        transfer::fault("writing an object", error)
    }

    /// Sends what is gathered to its blocks.
    fn write_buffer(&mut self) -> Result<(), EngineError> {
        self.core.check_writable()?;
        let Some(mut buffer) = self.buffer.take() else {
            return Ok(());
        };
        let chunk = usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX);
        self.crcs.extend(buffer.chunks(chunk).map(crc32c));
        let start_bytes = self.size_bytes - buffer.len() as u64;
        buffer.pad();
        let wanted = blocks_of(self.size_bytes);
        let spans = {
            let mut extents = self.holding.lock();
            let missing = wanted.saturating_sub(count_of(&extents));
            if missing > 0 {
                for extent in self.core.allocate(missing)? {
                    join(&mut extents, extent);
                }
            }
            spans(&extents, start_bytes, buffer.len() as u64)
        };
        let (device, holding) = (self.core.device.clone(), Arc::clone(&self.holding));
        self.in_flight.push_back(self.core.tasks.spawn(async move {
            let result = match spans.as_slice() {
                [(offset_bytes, _)] => device.write(*offset_bytes, buffer).await.0,
                spans => {
                    let mut rest: &[u8] = &buffer;
                    let pieces = spans.iter().map(|(offset_bytes, count)| {
                        let count = usize::try_from(*count).unwrap_or(usize::MAX);
                        let (piece, tail) = rest.split_at(count.min(rest.len()));
                        rest = tail;
                        transfer::write(&device, *offset_bytes, piece)
                    });
                    let written = futures_util::future::join_all(pieces).await;
                    written.into_iter().collect()
                }
            };
            drop(holding);
            result
        }));
        Ok(())
    }

    /// Size and content; the last writes are in flight.
    pub(super) fn finish(&mut self) -> Result<(u64, Content), EngineError> {
        let mut content = Content::default();
        content.holdings.push(Arc::clone(&self.holding));
        let is_small = self.crcs.is_empty() && self.size_bytes <= PACKED_BYTES_MAX as u64;
        if is_small {
            content.packed = self.buffer.take().map(|buffer| buffer.to_vec());
            self.trim(0);
            return Ok((self.size_bytes, content));
        }
        self.write_buffer()?;
        self.trim(blocks_of(self.size_bytes));
        content.in_flight = std::mem::take(&mut self.in_flight).into();
        let crcs = if self.crcs.len() <= INLINE_CRCS_MAX {
            Crcs::Inline(std::mem::take(&mut self.crcs))
        } else {
            let mut table = Vec::with_capacity(self.crcs.len() * 4);
            self.crcs.iter().for_each(|crc| put_u32(&mut table, *crc));
            Crcs::Table(content.beside(&self.core, table)?)
        };
        let extents = self.holding.lock().clone();
        content.pieces.push(Piece {
            size_bytes: self.size_bytes,
            place: Place::Extents { extents, crcs },
        });
        Ok((self.size_bytes, content))
    }

    /// Gives back all blocks but the first `count`.
    fn trim(&mut self, count: u64) {
        let mut extents = self.holding.lock();
        let mut left = count;
        let mut rest = Vec::new();
        for extent in extents.iter_mut() {
            let kept = extent.count.min(left);
            left -= kept;
            if kept < extent.count {
                rest.push(Extent {
                    first: extent.first + kept,
                    count: extent.count - kept,
                });
            }
            extent.count = kept;
        }
        extents.retain(|extent| extent.count > 0);
        self.core.space.give_back(&rest);
    }
}

/// What an object or part is made of, before its record.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) pieces: Vec<Piece>,
    /// Small enough for a shared page.
    packed: Option<Vec<u8>>,
    holdings: Vec<Arc<Holding>>,
    in_flight: Vec<JoinHandle<io::Result<()>>>,
    /// The pieces are another entry's.
    pub(super) source: Option<Arc<BlobReader>>,
}

impl Content {
    pub(super) fn shared(source: BlobReader) -> (u64, Self) {
        let content = Self {
            pieces: source.stored.pieces.clone(),
            source: Some(Arc::new(source)),
            ..Self::default()
        };
        let size_bytes = content.pieces.iter().map(|piece| piece.size_bytes).sum();
        (size_bytes, content)
    }

    /// Takes blocks for a table or overflow and starts to write it.
    fn beside(
        &mut self,
        core: &Arc<Core>,
        bytes: Vec<u8>,
    ) -> Result<super::entry::Pointer, EngineError> {
        let pointer = core.point(&bytes)?;
        let holding = Holding::new(core, pointer.extents.clone());
        self.holdings.push(Arc::clone(&holding));
        let (device, extents) = (core.device.clone(), pointer.extents.clone());
        self.in_flight.push(core.tasks.spawn(async move {
            let result = transfer::write_extents(&device, &extents, &bytes).await;
            drop(holding);
            result
        }));
        Ok(pointer)
    }

    pub(super) fn describe(
        &mut self,
        core: &Arc<Core>,
        stored: &mut Stored,
        described: Described,
    ) -> Result<(), EngineError> {
        match described {
            Described::Inline(content_type) => stored.content_type = content_type,
            Described::Overflow(bytes) => stored.overflow = Some(self.beside(core, bytes)?),
        }
        Ok(())
    }

    /// The records of this turn name the blocks.
    pub(super) fn keep(&self, turn: &mut Turn<'_>) {
        turn.kept.extend(self.holdings.iter().cloned());
    }

    /// What the commit waits for.
    pub(super) fn writes(&mut self) -> Option<Writes> {
        let handles = std::mem::take(&mut self.in_flight);
        if handles.is_empty() {
            return None;
        }
        Some(Box::pin(async move {
            let mut result = Ok(());
            for handle in handles {
                result = result.and(joined(handle).await);
            }
            result
        }))
    }

    /// Whether the source is still what it was.
    pub(super) fn is_there(&self, turn: &mut Turn<'_>, source: Option<&BlobReader>) -> bool {
        let Some(source) = source else {
            return true;
        };
        let now = turn.get(Some(&source.bucket), &source.item);
        let now = now.and_then(|value| Stored::decode(&value));
        now.is_some_and(|now| now.pieces == self.pieces)
    }

    /// The whole entry, whose blocks this turn's records name. Nothing may fail behind this: a page
    /// of the batch holds its bytes.
    pub(super) fn settle(
        self,
        turn: &mut Turn<'_>,
        mut stored: Stored,
        source: Option<&BlobReader>,
    ) -> Result<NewObject, EngineError> {
        let is_fresh = source.is_none();
        let mut retains: Vec<Allocation> = match is_fresh {
            true => Vec::new(),
            false => self.pieces.iter().flat_map(Piece::allocations).collect(),
        };
        self.keep(turn);
        stored.pieces = self.pieces;
        if let Some(packed) = self.packed.filter(|packed| !packed.is_empty()) {
            let (piece, shared_page) = turn.pack(&packed)?;
            stored.pieces.push(piece);
            retains.extend(shared_page);
        }
        Ok(NewObject {
            stored,
            is_fresh,
            retains,
        })
    }
}

async fn joined(handle: JoinHandle<io::Result<()>>) -> io::Result<()> {
    handle
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl Core {
    /// Commits an empty journal block, so that what was freed becomes free (I3).
    pub(super) async fn prove_frees(self: &Arc<Self>) -> Result<(), EngineError> {
        self.commit(Class::Delete, None, |turn| {
            turn.is_forced = true;
            Ok(())
        })
        .await?;
        self.discard_freed().await;
        Ok(())
    }

    /// Tells the device of what has been freed, if it wants to know; a task of its own.
    pub(super) fn start_discards(self: &Arc<Self>) {
        if self.space.has_discards() && !self.discard_runs.swap(true, Ordering::AcqRel) {
            let core = Arc::clone(self);
            self.tasks.spawn_at_home(async move {
                core.discard_freed().await;
                core.discard_runs.store(false, Ordering::Release);
            });
        }
    }

    /// Upholds I3: an extent is free only after its discard has completed.
    async fn discard_freed(&self) {
        loop {
            let extents = self.space.take_discards();
            if extents.is_empty() {
                return;
            }
            for extent in &extents {
                let range = (extent.first * BLOCK, extent.count * BLOCK);
                if let Err(error) = self.device.discard(range.0, range.1).await {
                    tracing::warn!(%error, "the device was not told of freed space");
                }
            }
            self.space.discarded(&extents);
        }
    }

    pub(super) async fn begin(
        self: &Arc<Self>,
        bucket: &Arc<BucketState>,
        key: &[u8],
        size_bytes: Option<u64>,
    ) -> Result<BlobWriter, EngineError> {
        bucket.check()?;
        self.check_index_room(bucket, Table::Objects, key)?;
        Ok(BlobWriter {
            bucket: Arc::clone(bucket),
            item: ItemKey {
                table: Table::Objects,
                bucket: bucket.id,
                key: key.into(),
            },
            spool: Spool::begin(self, size_bytes).await?,
            shared: None,
            part: None,
        })
    }
}

/// Objects of up to this size go to shared pages.
pub(super) const PACKED_BYTES_MAX: usize = 2048;
const STEP_BYTES: usize = 256 << 10;
const IN_FLIGHT_MAX: usize = 4;
