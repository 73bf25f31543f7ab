//! What is whole on a device whose checkpoint, journal or superblocks are not: for
//! `lobos blob export --salvage`. Writes nothing.
//!
//! Checkpoint segments are found by their own heads, wherever they lie; behind a missing one the
//! stream is taken up again at the next item that makes sense. Then all whole journal blocks from
//! the checkpoint's start on are replayed, with gaps. What is found this way still has to match
//! its checksums before it is given to anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::checkpoint::SegmentHead;
use super::codec::{Cursor, put_varint};
use super::core::{Buckets, Core};
use super::entry::Stored;
use super::journal::Head;
use super::layout::{BLOCK, BLOCK_BYTES, JOURNAL_FIRST, SUPERBLOCKS, journal_blocks};
use super::record::{Change, ItemKey, Record, Table};
use super::recover::{
    BlobOpenError, BlobSettings, ChainBlock, Replayed, Window, assemble, read_block, take_item,
};
use super::space::Space;
use super::superblock::{Found, Start, Superblock};
use super::transfer;
use crate::clock::Timestamp;
use crate::engine::{BucketConfig, BucketName};
use crate::io::device::Device;

/// A store of what is left, and a sentence about each thing that is not.
pub(super) async fn salvage(
    device: Device,
    settings: BlobSettings,
) -> Result<(Arc<Core>, Vec<String>), BlobOpenError> {
    let mut losses = Vec::new();
    let known = newest_superblock(&device).await;
    if known.is_none() {
        losses.push("both superblocks are damaged".to_owned());
    }
    let mut segments = find_segments(&device, known.as_ref().map(|known| known.uuid)).await;
    let uuid = known.as_ref().map(|known| known.uuid);
    let uuid = uuid.or(segments
        .values()
        .next_back()
        .map(|segment| segment.head.uuid));
    let uuid = match uuid {
        Some(uuid) => uuid,
        None => find_uuid(&device)
            .await
            .ok_or(BlobOpenError::NotFormatted)?,
    };
    segments.retain(|_, segment| segment.head.uuid == uuid);
    let start = match &known {
        Some(known) => known.start.sequence,
        None => best_start(&segments),
    };
    segments.retain(|(of, _), _| *of == start);
    let mut buckets = Buckets::default();
    let stream: Vec<_> = segments.into_values().collect();
    let has_checkpoint = known
        .as_ref()
        .is_none_or(|known| known.checkpoint.is_some());
    if has_checkpoint {
        replay_segments(&stream, &mut buckets, &mut losses);
    }
    let superblock = known.unwrap_or_else(|| stand_in(&device, uuid, start));
    replay_journal(&device, &superblock, &mut buckets, &mut losses).await;
    let replayed = Replayed {
        space: Space::new(superblock.size_blocks, superblock.journal_blocks),
        segments: Vec::new(),
        end: superblock.start,
        superblock: superblock.clone(),
        buckets,
    };
    Ok((assemble(device, superblock, replayed, settings), losses))
}

async fn newest_superblock(device: &Device) -> Option<Superblock> {
    let mut newest: Option<Superblock> = None;
    for block in SUPERBLOCKS {
        let bytes = transfer::read(device, block * BLOCK, BLOCK_BYTES).await;
        if let Ok(Found::Valid(found)) = bytes.map(|bytes| Superblock::decode(&bytes))
            && newest
                .as_ref()
                .is_none_or(|known| known.generation < found.generation)
        {
            newest = Some(*found);
        }
    }
    newest
}

/// A superblock for a device that has none, as format would have chosen its places.
fn stand_in(device: &Device, uuid: [u8; 16], start: u64) -> Superblock {
    let size_blocks = device.size_bytes() / BLOCK;
    Superblock {
        uuid,
        generation: 0,
        size_blocks,
        journal_blocks: journal_blocks(size_blocks),
        epoch: 0,
        epoch_first: 0,
        start: Start {
            sequence: start,
            place: 0,
            hash: 0,
        },
        flushed: 0,
        checkpoint: None,
    }
}

struct Segment {
    head: SegmentHead,
    bytes: Vec<u8>,
}

/// All whole segments, by start and number. `uuid`: of this store only.
async fn find_segments(device: &Device, uuid: Option<[u8; 16]>) -> BTreeMap<(u64, u32), Segment> {
    let mut found = BTreeMap::new();
    let size_blocks = device.size_bytes() / BLOCK;
    let mut at = 0;
    while at < size_blocks {
        let count = WINDOW_BLOCKS.min(size_blocks - at);
        let window = read_blocks(device, at, count).await;
        for (place, block) in (at..).zip(window.chunks(BLOCK_BYTES)) {
            if let Some(segment) = read_segment(device, place, size_blocks, block).await
                && uuid.is_none_or(|uuid| segment.head.uuid == uuid)
            {
                found.insert((segment.head.start, segment.head.number), segment);
            }
        }
        at += count;
    }
    found
}

/// The segment that begins at `place`, whose length is tried: the last one may be longer than
/// what is in it.
async fn read_segment(
    device: &Device,
    place: u64,
    size_blocks: u64,
    block: &[u8],
) -> Option<Segment> {
    let used = SegmentHead::peek_blocks(block)?;
    let longest = SegmentHead::BLOCKS_MAX.min(size_blocks - place);
    let bytes = read_blocks(device, place, longest).await;
    (used..=longest).find_map(|blocks| {
        let whole = bytes.get(..usize::try_from(blocks * BLOCK).ok()?)?;
        let (head, stream) = SegmentHead::open(whole)?;
        Some(Segment {
            head,
            bytes: stream.to_vec(),
        })
    })
}

/// Blocks that cannot be read are zeros, one by one.
async fn read_blocks(device: &Device, first: u64, count: u64) -> Vec<u8> {
    let bytes = usize::try_from(count * BLOCK).unwrap_or(0);
    if let Ok(bytes) = transfer::read(device, first * BLOCK, bytes).await {
        return bytes.to_vec();
    }
    let mut all = Vec::with_capacity(bytes);
    for block in first..first + count {
        match transfer::read(device, block * BLOCK, BLOCK_BYTES).await {
            Ok(bytes) => all.extend_from_slice(&bytes),
            Err(_) => all.resize(all.len() + BLOCK_BYTES, 0),
        }
    }
    all
}

/// Whose journal it is, where neither a superblock nor a checkpoint tells.
async fn find_uuid(device: &Device) -> Option<[u8; 16]> {
    let blocks = journal_blocks(device.size_bytes() / BLOCK);
    let ring = read_blocks(device, JOURNAL_FIRST, blocks).await;
    let heads = ring.chunks(BLOCK_BYTES).filter_map(Head::peek);
    heads.max_by_key(|head| head.sequence).map(|head| head.uuid)
}

/// The newest checkpoint that is there to its end, else the newest there is.
fn best_start(segments: &BTreeMap<(u64, u32), Segment>) -> u64 {
    let is_whole = |start: u64| {
        let of_it = segments.range((start, 0)..=(start, u32::MAX));
        let heads: Vec<_> = of_it.map(|(_, segment)| &segment.head).collect();
        let numbers = heads
            .iter()
            .zip(0..)
            .all(|(head, number)| head.number == number);
        numbers && heads.last().is_some_and(|last| last.next.is_none())
    };
    let starts = || segments.keys().rev().map(|(start, _)| *start);
    starts()
        .find(|start| is_whole(*start))
        .or(starts().next())
        .unwrap_or(0)
}

fn replay_segments(segments: &[Segment], buckets: &mut Buckets, losses: &mut Vec<String>) {
    let (mut rest, mut expected) = (Vec::new(), 0);
    for segment in segments {
        let number = segment.head.number;
        if number != expected {
            losses.push(format!(
                "checkpoint segments {expected} to {} are damaged",
                number - 1
            ));
            rest.clear();
            let skip = (0..segment.bytes.len())
                .find(|at| makes_sense(segment.bytes.get(*at..).unwrap_or_default()));
            let Some(skip) = skip else { continue };
            rest.extend_from_slice(segment.bytes.get(skip..).unwrap_or_default());
        } else {
            rest.extend_from_slice(&segment.bytes);
        }
        expected = number + 1;
        let used = take_sensible(&rest, buckets);
        rest.drain(..used);
    }
    match segments.last() {
        None => losses.push("no checkpoint segment is whole".to_owned()),
        Some(last) if last.head.next.is_some() => {
            losses.push(format!(
                "the checkpoint is damaged behind segment {}",
                last.head.number
            ));
        }
        Some(_) => {}
    }
}

/// Two items in a row that are what they should be.
fn makes_sense(bytes: &[u8]) -> bool {
    let mut from = Cursor::new(bytes);
    (0..2).all(|_| matches!(take_item(&mut from), Some(Some(record)) if is_sensible(&record)))
}

fn is_sensible(record: &Record) -> bool {
    let Change::Put { value, .. } = &record.change else {
        return false;
    };
    match record.item.table {
        Table::Buckets => {
            std::str::from_utf8(&record.item.key).is_ok_and(|name| BucketName::parse(name).is_ok())
        }
        _ => !record.item.key.is_empty() && Stored::decode(value).is_some(),
    }
}

/// Bytes of the items that were taken.
fn take_sensible(bytes: &[u8], buckets: &mut Buckets) -> usize {
    let mut from = Cursor::new(bytes);
    let mut used = 0;
    while let Some(item) = take_item(&mut from) {
        used = bytes.len() - from.rest().len();
        if let Some(record) = item {
            apply(buckets, &record);
        }
    }
    used
}

/// An item of a bucket whose name was lost goes to one that is named after its number.
fn apply(buckets: &mut Buckets, record: &Record) {
    let is_item = record.item.table != Table::Buckets;
    if is_item && !buckets.has_id(record.item.bucket) {
        let mut value = Vec::new();
        put_varint(&mut value, record.item.bucket);
        let config = BucketConfig::new(None, Timestamp::default());
        value.extend(serde_json::to_vec(&config).unwrap_or_default());
        let name = format!("lost-name-{}", record.item.bucket);
        buckets.apply(&Record {
            item: ItemKey {
                table: Table::Buckets,
                bucket: 0,
                key: name.into_bytes().into(),
            },
            change: Change::Put {
                is_fresh: false,
                value: value.into(),
            },
        });
    }
    buckets.apply(record);
}

/// Every whole journal block from the start on, in the order of their numbers; of two with one
/// number the later epoch's.
async fn replay_journal(
    device: &Device,
    superblock: &Superblock,
    buckets: &mut Buckets,
    losses: &mut Vec<String>,
) {
    let mut blocks: BTreeMap<u64, ChainBlock> = BTreeMap::new();
    let mut window = Window::default();
    for place in 0..superblock.journal_blocks {
        let Ok(Some(block)) = read_block(&mut window, device, superblock, place).await else {
            continue;
        };
        let sequence = block.head.sequence;
        let is_newer = blocks
            .get(&sequence)
            .is_none_or(|known| known.head.epoch < block.head.epoch);
        if sequence >= superblock.start.sequence && is_newer {
            blocks.insert(sequence, block);
        }
    }
    let mut expected = superblock.start.sequence;
    for (sequence, block) in blocks {
        if sequence != expected && superblock.generation > 0 {
            losses.push(format!(
                "journal blocks {expected} to {} are damaged",
                sequence - 1
            ));
        }
        expected = sequence + 1;
        for record in &block.records {
            match record.change {
                Change::Put { .. } => apply(buckets, record),
                // Of a bucket that is not known there is nothing to remove.
                Change::Gone | Change::PartsGone => {
                    buckets.apply(record);
                }
            }
        }
    }
    if expected <= superblock.flushed {
        let flushed = superblock.flushed;
        losses.push(format!(
            "journal blocks {expected} to {flushed} are damaged"
        ));
    }
}

const WINDOW_BLOCKS: u64 = 256;
