//! From a device to an open engine. See `docs/design-blob.md`, section 4.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::checkpoint::{SegmentHead, write_superblocks};
use super::codec::{Cursor, crc32c};
use super::commit::{Sequencer, abort_on_panic_of};
use super::core::{Buckets, Core, Parts};
use super::entry::{Crcs, Piece, Place, Stored};
use super::journal::{self, Head, Ring};
use super::layout::{
    BLOCK, BLOCK_BYTES, CHUNK_BYTES, Extent, JOURNAL_FIRST, SIZE_BLOCKS_MIN, SUPERBLOCKS,
};
use super::planted::is_planted;
use super::record::{Change, ItemKey, Record, Table, decode_all};
use super::space::Space;
use super::superblock::{Found, SegmentPlace, Start, Superblock};
use super::{layout, transfer};
use crate::clock::{Clock, Entropy};
use crate::engine::{Durability, EngineError};
use crate::io::device::Device;

/// Why a device is not opened.
#[derive(Debug, thiserror::Error)]
pub enum BlobOpenError {
    #[error("the device is not formatted; run `lobos blob format` on it")]
    NotFormatted,
    #[error("the device holds something else; `lobos blob format --force` would destroy it")]
    Occupied,
    #[error("the device has {size_bytes} bytes; at least {min_bytes} are needed")]
    TooSmall { size_bytes: u64, min_bytes: u64 },
    #[error("the device has format version {version}, which this program does not know")]
    Version { version: u32 },
    #[error("both superblocks are damaged; `lobos blob export --salvage` reads what is whole")]
    SuperblocksDamaged,
    /// Acknowledged data cannot be read.
    #[error("{what} at block {block}; nothing was changed")]
    Damaged { what: String, block: u64 },
    #[error("{doing}: {source}")]
    Io {
        doing: &'static str,
        source: io::Error,
    },
}

/// What the engine is opened with.
#[derive(Clone, Debug)]
pub struct BlobSettings {
    pub durability: Durability,
    pub clock: Clock,
    pub entropy: Entropy,
    pub memory: BlobMemory,
    /// The device is told what is free.
    pub discards: bool,
}

/// Memory that a store may take beside its buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobMemory {
    /// Of what is read often; 0: nothing is kept.
    pub cache_bytes: u64,
    /// Of keys and entries: what would need more is refused, deletes go on.
    pub index_bytes_max: u64,
}

impl Default for BlobMemory {
    /// What is not configured.
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            index_bytes_max: 4 << 30,
        }
    }
}

impl BlobMemory {
    /// No cache, and as large an index as it comes.
    pub const ANY: Self = Self {
        cache_bytes: 0,
        index_bytes_max: u64::MAX,
    };
}

/// Makes an empty store of the whole device.
pub(super) async fn format(
    device: &Device,
    entropy: &Entropy,
    force: bool,
) -> Result<(), BlobOpenError> {
    let size_blocks = device.size_bytes() / BLOCK;
    if size_blocks < SIZE_BLOCKS_MIN {
        return Err(BlobOpenError::TooSmall {
            size_bytes: device.size_bytes(),
            min_bytes: SIZE_BLOCKS_MIN * BLOCK,
        });
    }
    if !force {
        refuse_occupied(device, size_blocks).await?;
    }
    let journal_blocks = layout::journal_blocks(size_blocks);
    // Journal blocks of an earlier store have another UUID; zeros make the first lap as fast as
    // the others.
    let zeros = vec![0; ZERO_STEP_BYTES];
    let step = ZERO_STEP_BYTES as u64 / BLOCK;
    let mut at = 0;
    while at < journal_blocks {
        let count = step.min(journal_blocks - at);
        let bytes = zeros
            .get(..usize::try_from(count * BLOCK).unwrap_or(0))
            .unwrap_or_default();
        transfer::write(device, (JOURNAL_FIRST + at) * BLOCK, bytes)
            .await
            .map_err(failed("formatting"))?;
        at += count;
    }
    let superblock = Superblock {
        uuid: entropy.bytes(),
        generation: 1,
        size_blocks,
        journal_blocks,
        epoch: 1,
        epoch_first: 1,
        start: Start {
            sequence: 1,
            place: 0,
            hash: 0,
        },
        flushed: 0,
        checkpoint: None,
    };
    write_superblocks(device, &superblock)
        .await
        .map_err(failed("formatting"))
}

/// Non-zero bytes in the first or last MiB are somebody's.
async fn refuse_occupied(device: &Device, size_blocks: u64) -> Result<(), BlobOpenError> {
    for offset_bytes in [0, size_blocks * BLOCK - ZERO_STEP_BYTES as u64] {
        let bytes = transfer::read(device, offset_bytes, ZERO_STEP_BYTES)
            .await
            .map_err(failed("reading the device"))?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Err(BlobOpenError::Occupied);
        }
    }
    Ok(())
}

/// Opens for reading and writing.
pub(super) async fn open(
    device: Device,
    settings: BlobSettings,
) -> Result<Arc<Core>, BlobOpenError> {
    let replayed = abort_on_panic_of(replay(&device)).await?;
    let superblock = raise_epoch(&device, &replayed).await?;
    Ok(assemble(device, superblock, replayed, settings))
}

/// Opens for reading alone: what is replayed stays in memory.
pub(super) async fn inspect(
    device: Device,
    settings: BlobSettings,
) -> Result<Arc<Core>, BlobOpenError> {
    let replayed = replay(&device).await?;
    let superblock = replayed.superblock.clone();
    let core = assemble(device, superblock, replayed, settings);
    core.refuse_writes();
    Ok(core)
}

pub(super) fn assemble(
    device: Device,
    superblock: Superblock,
    replayed: Replayed,
    settings: BlobSettings,
) -> Arc<Core> {
    let next_number = replayed
        .buckets
        .all()
        .iter()
        .map(|bucket| bucket.id)
        .max()
        .unwrap_or(0)
        + 1;
    let now = u64::try_from(settings.clock.now().unix_nanos).unwrap_or(0);
    let newest_upload = replayed.newest_upload();
    let ring = Ring::new(
        superblock.journal_blocks,
        superblock.start.place,
        replayed.end.place,
    );
    let parts = Parts {
        space: replayed
            .space
            .serving(settings.memory.cache_bytes, settings.discards),
        index_bytes_max: settings.memory.index_bytes_max,
        clock: settings.clock,
        entropy: settings.entropy,
        durability: settings.durability,
        sequencer: Sequencer::new(ring, replayed.end.sequence, replayed.end.hash),
        buckets: replayed.buckets,
        next_number: next_number.max(now).max(newest_upload + 1),
        segments: replayed.segments,
    };
    let core = Core::new(device, superblock, parts);
    core.durable
        .store(replayed.end.sequence.saturating_sub(1), Ordering::Release);
    Arc::new(core)
}

/// Upholds I5.
async fn raise_epoch(device: &Device, replayed: &Replayed) -> Result<Superblock, BlobOpenError> {
    let old = &replayed.superblock;
    let mut new = Superblock {
        generation: old.generation + 1,
        epoch: old.epoch + 1,
        epoch_first: replayed.end.sequence,
        flushed: replayed.end.sequence - 1,
        ..old.clone()
    };
    if is_planted("epoch_not_raised") {
        new.epoch = old.epoch;
        new.epoch_first = old.epoch_first;
    }
    if !is_planted("no_flush_after_recovery") {
        // What was replayed may have been read from a volatile cache after a crash of the process.
        device
            .flush()
            .await
            .map_err(failed("flushing what was replayed"))?;
    }
    write_superblocks(device, &new)
        .await
        .map_err(failed("writing the superblock"))?;
    Ok(new)
}

/// The state of a device, in memory.
pub(super) struct Replayed {
    pub(super) superblock: Superblock,
    pub(super) buckets: Buckets,
    pub(super) space: Space,
    pub(super) segments: Vec<Extent>,
    /// Where the next journal block goes.
    pub(super) end: Start,
}

impl Replayed {
    fn newest_upload(&self) -> u64 {
        let mut newest = 0;
        for bucket in self.buckets.all() {
            for (key, _) in all_items(&bucket.uploads) {
                let number = key
                    .last_chunk()
                    .map_or(0, |bytes| u64::from_be_bytes(*bytes));
                newest = newest.max(number);
            }
        }
        newest
    }
}

pub(super) fn all_items(tree: &super::index::Tree) -> Vec<super::index::Item> {
    item_batches(tree).flatten().collect()
}

/// All items, some at a time.
pub(super) fn item_batches(
    tree: &super::index::Tree,
) -> impl Iterator<Item = Vec<super::index::Item>> + '_ {
    let mut from = Vec::new();
    std::iter::from_fn(move || {
        let items = tree.items_from(&from, usize::MAX);
        let (last, _) = items.last()?;
        from = [last, &[0][..]].concat();
        Some(items)
    })
}

/// Reads superblock, checkpoint and journal; writes nothing.
pub(super) async fn replay(device: &Device) -> Result<Replayed, BlobOpenError> {
    let superblock = read_superblocks(device).await?;
    let mut buckets = Buckets::default();
    let segments = read_checkpoint(device, &superblock, &mut buckets).await?;
    let mut chain = read_chain(device, &superblock).await?;
    cut_torn(device, &mut chain, superblock.flushed).await?;
    refuse_damage(device, &superblock, &chain).await?;
    for block in &chain.blocks {
        for record in &block.records {
            let known = buckets.apply(record);
            known.ok_or_else(|| damaged("a record makes no sense", block.place + JOURNAL_FIRST))?;
        }
    }
    let space = Space::new(superblock.size_blocks, superblock.journal_blocks);
    claim_all(&space, &buckets, &segments)?;
    let end = chain.end();
    Ok(Replayed {
        superblock,
        buckets,
        space,
        segments,
        end,
    })
}

async fn read_superblocks(device: &Device) -> Result<Superblock, BlobOpenError> {
    let mut newest: Option<Superblock> = None;
    let (mut is_ours, mut version) = (false, None);
    for block in SUPERBLOCKS {
        if device.size_bytes() < (block + 1) * BLOCK {
            continue;
        }
        let Ok(bytes) = transfer::read(device, block * BLOCK, BLOCK_BYTES).await else {
            continue;
        };
        match Superblock::decode(&bytes) {
            Found::Valid(found) => {
                let is_newer = newest.as_ref().is_none_or(|n| {
                    (n.generation < found.generation) != is_planted("older_superblock")
                });
                if is_newer {
                    newest = Some(*found);
                }
            }
            Found::Version(other) => version = Some(other),
            Found::Damaged => is_ours = true,
            Found::Foreign => {}
        }
    }
    if let Some(version) = version {
        return Err(BlobOpenError::Version { version });
    }
    let superblock = newest.ok_or(match is_ours {
        true => BlobOpenError::SuperblocksDamaged,
        false => BlobOpenError::NotFormatted,
    })?;
    if device.size_bytes() < superblock.size_blocks * BLOCK {
        return Err(BlobOpenError::TooSmall {
            size_bytes: device.size_bytes(),
            min_bytes: superblock.size_blocks * BLOCK,
        });
    }
    Ok(superblock)
}

async fn read_checkpoint(
    device: &Device,
    superblock: &Superblock,
    buckets: &mut Buckets,
) -> Result<Vec<Extent>, BlobOpenError> {
    let Some(checkpoint) = superblock.checkpoint else {
        return Ok(Vec::new());
    };
    let mut segments = Vec::new();
    let mut place = Some(checkpoint.first);
    let mut stream: Vec<u8> = Vec::new();
    let (mut number, mut total) = (0, 0);
    while let Some(at) = place {
        let bytes = read_segment(device, superblock, at, number).await?;
        let (head, piece) = SegmentHead::open(&bytes)
            .ok_or_else(|| damaged("a checkpoint segment is damaged", at.copies[0]))?;
        for first in at.copies {
            segments.push(Extent {
                first,
                count: u64::from(at.blocks),
            });
        }
        stream.extend_from_slice(piece);
        total += piece.len() as u64;
        let used = take_items(&stream, buckets)
            .ok_or_else(|| damaged("a checkpoint item makes no sense", at.copies[0]))?;
        stream.drain(..used);
        number += 1;
        place = head.next;
    }
    if total != checkpoint.bytes || !stream.is_empty() {
        return Err(damaged(
            "the checkpoint ends too early",
            checkpoint.first.copies[0],
        ));
    }
    Ok(segments)
}

/// The first whole copy.
async fn read_segment(
    device: &Device,
    superblock: &Superblock,
    place: SegmentPlace,
    number: u32,
) -> Result<bytes::Bytes, BlobOpenError> {
    for block in place.copies {
        let bytes = place.blocks as usize * BLOCK_BYTES;
        let Ok(bytes) = transfer::read(device, block * BLOCK, bytes).await else {
            continue;
        };
        let fits = SegmentHead::open(&bytes).is_some_and(|(head, _)| {
            head.uuid == superblock.uuid
                && head.start == superblock.start.sequence
                && head.number == number
        });
        if fits {
            return Ok(bytes);
        }
        tracing::warn!(block, "a copy of a checkpoint segment is damaged");
    }
    let what = format!("both copies of checkpoint segment {number} are damaged");
    Err(damaged(&what, place.copies[0]))
}

/// Puts all whole items into the index; gives the bytes they took.
fn take_items(stream: &[u8], buckets: &mut Buckets) -> Option<usize> {
    let mut from = Cursor::new(stream);
    let mut used = 0;
    while let Some(record) = take_item(&mut from) {
        buckets.apply(&record?)?;
        used = stream.len() - from.rest().len();
    }
    Some(used)
}

/// `None`: the rest of the item is in the next segment.
pub(super) fn take_item(from: &mut Cursor<'_>) -> Option<Option<Record>> {
    let table = from.u8()?;
    let (bucket, key, value) = (from.varint()?, from.bytes()?, from.bytes()?);
    let Some(table) = Table::from_number(table) else {
        return Some(None);
    };
    Some(Some(Record {
        item: ItemKey {
            table,
            bucket,
            key: key.into(),
        },
        change: Change::Put {
            is_fresh: false,
            value: value.into(),
        },
    }))
}

/// The journal from its start, as far as it belongs together.
struct Chain {
    start: Start,
    blocks: Vec<ChainBlock>,
}

pub(super) struct ChainBlock {
    pub(super) head: Head,
    /// In the ring.
    place: u64,
    hash: u64,
    /// Behind it.
    end: u64,
    pub(super) records: Vec<Record>,
}

impl Chain {
    fn end(&self) -> Start {
        self.blocks.last().map_or(self.start, |last| Start {
            sequence: last.head.sequence + 1,
            place: last.end,
            hash: last.hash,
        })
    }
}

async fn read_chain(device: &Device, superblock: &Superblock) -> Result<Chain, BlobOpenError> {
    let mut chain = Chain {
        start: superblock.start,
        blocks: Vec::new(),
    };
    let mut window = Window::default();
    loop {
        let end = chain.end();
        let mut found = None;
        for place in [end.place, 0] {
            if found.is_none() {
                // What cannot be read may have been acknowledged: the chain does not end there.
                found = read_block(&mut window, device, superblock, place)
                    .await
                    .map_err(failed("reading the journal"))?;
                found = found.filter(|block| belongs(superblock, &end, block));
            }
        }
        match found {
            Some(block) => chain.blocks.push(block),
            None => return Ok(chain),
        }
    }
}

fn belongs(superblock: &Superblock, end: &Start, block: &ChainBlock) -> bool {
    let head = &block.head;
    let is_new = head.sequence >= superblock.epoch_first;
    let epoch_fits = if is_planted("epoch_not_raised") {
        true
    } else if is_new {
        head.epoch == superblock.epoch
    } else {
        head.epoch < superblock.epoch
    };
    head.sequence == end.sequence && head.previous == end.hash && epoch_fits
}

/// Blocks of the ring, read many at a time.
#[derive(Default)]
pub(super) struct Window {
    first: u64,
    bytes: bytes::Bytes,
}

impl Window {
    /// `count` blocks from `place` on, which are all in the ring.
    async fn blocks(
        &mut self,
        device: &Device,
        superblock: &Superblock,
        place: u64,
        count: u64,
    ) -> io::Result<bytes::Bytes> {
        let bytes = usize::try_from(count * BLOCK).unwrap_or(usize::MAX);
        let skipped = place.checked_sub(self.first).map(|blocks| blocks * BLOCK);
        let start = skipped.and_then(|skipped| usize::try_from(skipped).ok());
        if let Some(start) = start
            && start.saturating_add(bytes) <= self.bytes.len()
        {
            return Ok(self.bytes.slice(start..start + bytes));
        }
        let most = (SCAN_BYTES as u64 / BLOCK).min(superblock.journal_blocks - place);
        let offset_bytes = (JOURNAL_FIRST + place) * BLOCK;
        let ahead = usize::try_from(most.max(count) * BLOCK).unwrap_or(usize::MAX);
        let read = match transfer::read(device, offset_bytes, ahead).await {
            Ok(read) => read,
            // One of the blocks behind may be what cannot be read.
            Err(_) => transfer::read(device, offset_bytes, bytes).await?,
        };
        (self.first, self.bytes) = (place, read);
        Ok(self.bytes.slice(..bytes))
    }
}

/// A whole journal block of this device at a place of the ring.
pub(super) async fn read_block(
    window: &mut Window,
    device: &Device,
    superblock: &Superblock,
    place: u64,
) -> io::Result<Option<ChainBlock>> {
    if place >= superblock.journal_blocks {
        return Ok(None);
    }
    let first = window.blocks(device, superblock, place, 1).await?;
    let fits = |head: &Head| {
        head.uuid == superblock.uuid && place + head.blocks() <= superblock.journal_blocks
    };
    let Some(head) = Head::peek(&first).filter(fits) else {
        return Ok(None);
    };
    let bytes = window
        .blocks(device, superblock, place, head.blocks())
        .await?;
    Ok(chain_block(&bytes, place, superblock.journal_blocks))
}

fn chain_block(bytes: &[u8], place: u64, journal_blocks: u64) -> Option<ChainBlock> {
    let (head, body) = journal::open(bytes)?;
    let end = place + head.blocks();
    Some(ChainBlock {
        head,
        place,
        hash: journal::hash(bytes),
        end: if end == journal_blocks { 0 } else { end },
        records: decode_all(body, head.records)?,
    })
}

/// Drops the first batch above the last `durable` whose data is not whole, and all behind it. Up
/// to `flushed` nothing is looked at: since then the blocks of what was replaced may be in use
/// again.
async fn cut_torn(device: &Device, chain: &mut Chain, flushed: u64) -> Result<(), BlobOpenError> {
    let said = chain.blocks.last().map_or(0, |last| last.head.durable);
    let durable = said.max(flushed);
    let mut whole = 0;
    for block in &chain.blocks {
        if block.head.sequence > durable {
            let is_whole = is_whole(device, block).await;
            if !is_whole.map_err(failed("reading what the journal names"))? {
                break;
            }
        }
        whole += 1;
    }
    chain.blocks.truncate(whole);
    Ok(())
}

/// An error: it could not be read, and may be whole.
async fn is_whole(device: &Device, block: &ChainBlock) -> io::Result<bool> {
    for record in &block.records {
        let Change::Put { is_fresh, value } = &record.change else {
            continue;
        };
        if record.item.table == Table::Buckets {
            continue;
        }
        let Some(stored) = Stored::decode(value) else {
            return Ok(false);
        };
        if let Some(overflow) = &stored.overflow
            && if_whole(transfer::read_pointer(device, overflow).await)?.is_none()
        {
            return Ok(false);
        }
        for piece in stored.pieces.iter().filter(|_| *is_fresh) {
            if !piece_is_whole(device, piece).await? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn if_whole<T>(read: Result<T, EngineError>) -> io::Result<Option<T>> {
    match read {
        Ok(whole) => Ok(Some(whole)),
        Err(EngineError::Io { source, .. }) => Err(source),
        Err(_) => Ok(None),
    }
}

/// Reads and verifies all of a piece.
async fn piece_is_whole(device: &Device, piece: &Piece) -> io::Result<bool> {
    let size = usize::try_from(piece.size_bytes).unwrap_or(usize::MAX);
    match &piece.place {
        Place::Nothing => Ok(true),
        Place::Page { block, offset, crc } => {
            let page = transfer::read(device, block * BLOCK, BLOCK_BYTES).await?;
            let member = page.get(*offset..offset + size).map(crc32c);
            Ok(member == Some(*crc))
        }
        Place::Extents { extents, crcs } => {
            let crcs = match crcs {
                Crcs::Inline(crcs) => Some(crcs.clone()),
                Crcs::Table(table) => if_whole(read_table(device, table).await)?,
            };
            let Some(crcs) = crcs else {
                return Ok(false);
            };
            let mut at = 0;
            for crc in crcs {
                let count = CHUNK_BYTES.min(piece.size_bytes.saturating_sub(at));
                let count = usize::try_from(count).unwrap_or(0);
                let bytes = transfer::read_extents(device, extents, at, count).await?;
                if crc32c(&bytes) != crc {
                    return Ok(false);
                }
                at += CHUNK_BYTES;
            }
            Ok(at >= piece.size_bytes)
        }
    }
}

/// The CRCs of a large piece.
pub(super) async fn read_table(
    device: &Device,
    table: &super::entry::Pointer,
) -> Result<Vec<u32>, EngineError> {
    let bytes = transfer::read_pointer(device, table).await?;
    let numbers = bytes.as_chunks::<4>().0.iter();
    Ok(numbers.map(|bytes| u32::from_le_bytes(*bytes)).collect())
}

/// Tells a torn tail from damaged acknowledged records.
async fn refuse_damage(
    device: &Device,
    superblock: &Superblock,
    chain: &Chain,
) -> Result<(), BlobOpenError> {
    let end = chain.end();
    if end.sequence <= superblock.flushed {
        let what = format!(
            "journal blocks {} to {} were acknowledged and are damaged",
            end.sequence, superblock.flushed
        );
        return Err(damaged(&what, JOURNAL_FIRST + end.place));
    }
    let window = SCAN_BYTES as u64 / BLOCK;
    let mut at = 0;
    while at < superblock.journal_blocks {
        let count = window.min(superblock.journal_blocks - at);
        let bytes = usize::try_from(count * BLOCK).unwrap_or(0);
        let bytes = transfer::read(device, (JOURNAL_FIRST + at) * BLOCK, bytes).await;
        // What cannot be read cannot prove anything.
        for (place, block) in (at..).zip(bytes.unwrap_or_default().chunks(BLOCK_BYTES)) {
            let is_later = Head::peek(block).is_some_and(|head| {
                head.uuid == superblock.uuid
                    && head.sequence > end.sequence
                    && head.durable >= end.sequence
            });
            let mut window = Window::default();
            if is_later
                && let Ok(Some(later)) = read_block(&mut window, device, superblock, place).await
            {
                let what = format!(
                    "journal block {} was acknowledged and is damaged, as block {} says",
                    end.sequence, later.head.sequence
                );
                return Err(damaged(&what, JOURNAL_FIRST + end.place));
            }
        }
        at += count;
    }
    Ok(())
}

fn claim_all(space: &Space, buckets: &Buckets, segments: &[Extent]) -> Result<(), BlobOpenError> {
    let claim = |allocation: &Vec<Extent>| {
        space
            .claim(allocation)
            .map_err(|overlap| damaged("two owners claim one block", overlap.block))
    };
    for segment in segments {
        claim(&vec![*segment])?;
    }
    for bucket in buckets.all() {
        for tree in bucket.trees() {
            for (_, value) in item_batches(tree).flatten() {
                let stored = Stored::decode(&value)
                    .ok_or_else(|| damaged("an entry of the index makes no sense", 0))?;
                for allocation in stored.allocations() {
                    claim(&allocation)?;
                }
            }
        }
        bucket.expected.store(
            bucket.objects.len() + bucket.versions.len(),
            Ordering::Release,
        );
    }
    space.claimed();
    Ok(())
}

fn damaged(what: &str, block: u64) -> BlobOpenError {
    BlobOpenError::Damaged {
        what: what.to_owned(),
        block,
    }
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> BlobOpenError {
    move |source| BlobOpenError::Io { doing, source }
}

const ZERO_STEP_BYTES: usize = 1 << 20;
const SCAN_BYTES: usize = 1 << 20;
