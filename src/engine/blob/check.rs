//! Whether all that a store names can be read and is what was written. Writes nothing.

use std::collections::BTreeMap;
use std::fmt;

use super::buckets::BlobEngine;
use super::checkpoint::SegmentHead;
use super::codec::crc32c;
use super::core::{BucketState, Core};
use super::entry::{Crcs, Piece, Place, Pointer, Stored};
use super::index::Tree;
use super::layout::{BLOCK, BLOCK_BYTES, CHUNK_BYTES, SUPERBLOCKS, spans};
use super::record::Table;
use super::recover::{item_batches, read_table};
use super::superblock::{Found, SegmentPlace, Superblock};
use super::transfer;
use crate::io::device::Device;

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    pub objects: u64,
    /// Versions that are not current, and delete markers.
    pub versions: u64,
    pub parts: u64,
    /// Of objects and parts, read and compared with their checksums.
    pub data_bytes: u64,
    /// Ordered by block.
    pub damages: Vec<Damage>,
}

/// One damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Counted in blocks of 4 KiB from the beginning of the device.
    pub block: u64,
    pub what: &'static str,
    /// What cannot be read because of it; empty where another copy is whole.
    pub keys: Vec<String>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}: {}", self.block, self.what)?;
        match self.keys.is_empty() {
            true => f.write_str("; another copy is whole, and no key is lost"),
            false => write!(f, ": {}", self.keys.join(", ")),
        }
    }
}

impl BlobEngine {
    /// Reads both superblocks, both copies of the checkpoint, and the metadata of every entry;
    /// `with_data`: all of its bytes too.
    pub async fn check(&self, with_data: bool) -> CheckReport {
        let mut check = Check {
            core: &self.core,
            with_data,
            report: CheckReport::default(),
            found: BTreeMap::new(),
        };
        check.superblocks().await;
        check.checkpoint().await;
        let buckets = {
            let buckets = self.core.buckets.read();
            buckets.map_or_else(|poisoned| poisoned.into_inner().all(), |open| open.all())
        };
        for bucket in buckets {
            check.items(&bucket, &bucket.objects, Table::Objects).await;
            let versions = &bucket.versions;
            check.items(&bucket, versions, Table::Versions).await;
            check.items(&bucket, &bucket.uploads, Table::Uploads).await;
            check.items(&bucket, &bucket.parts, Table::Parts).await;
        }
        check.report.damages = check.found.into_values().collect();
        check.report
    }
}

struct Check<'a> {
    core: &'a Core,
    with_data: bool,
    report: CheckReport,
    found: BTreeMap<u64, Damage>,
}

impl Check<'_> {
    fn damaged(&mut self, block: u64, what: &'static str, key: Option<&str>) {
        let damage = self.found.entry(block).or_insert(Damage {
            block,
            what,
            keys: Vec::new(),
        });
        damage.keys.extend(key.map(str::to_owned));
    }

    async fn superblocks(&mut self) {
        for block in SUPERBLOCKS {
            let bytes = transfer::read(&self.core.device, block * BLOCK, BLOCK_BYTES).await;
            let found = bytes.map(|bytes| Superblock::decode(&bytes));
            if !matches!(found, Ok(Found::Valid(_))) {
                self.damaged(block, "a copy of the superblock", None);
            }
        }
    }

    async fn checkpoint(&mut self) {
        let superblock = self.core.superblock();
        let mut place = superblock.checkpoint.map(|checkpoint| checkpoint.first);
        let mut number = 0;
        while let Some(at) = place.take() {
            for block in at.copies {
                let head = segment_head(&self.core.device, &superblock, at, block, number).await;
                match head {
                    Some(head) => place = head.next,
                    None => self.damaged(block, "a copy of a checkpoint segment", None),
                }
            }
            number += 1;
        }
    }

    async fn items(&mut self, bucket: &BucketState, tree: &Tree, table: Table) {
        for batch in item_batches(tree) {
            for (key, value) in batch {
                let name = name_of(bucket, table, &key);
                match table {
                    Table::Objects => self.report.objects += 1,
                    Table::Versions => self.report.versions += 1,
                    Table::Parts => self.report.parts += 1,
                    Table::Buckets | Table::Uploads => {}
                }
                // What cannot be decoded was refused by the replay.
                if let Some(stored) = Stored::decode(&value) {
                    self.entry(&name, &stored).await;
                }
            }
        }
    }

    async fn entry(&mut self, name: &str, stored: &Stored) {
        if let Some(overflow) = &stored.overflow {
            self.pointer(name, overflow, "the metadata of").await;
        }
        for piece in &stored.pieces {
            self.piece(name, piece).await;
        }
    }

    async fn pointer(&mut self, name: &str, pointer: &Pointer, what: &'static str) {
        if transfer::read_pointer(&self.core.device, pointer)
            .await
            .is_err()
        {
            let block = pointer.extents.first().map_or(0, |extent| extent.first);
            self.damaged(block, what, Some(name));
        }
    }

    async fn piece(&mut self, name: &str, piece: &Piece) {
        match &piece.place {
            Place::Nothing => {}
            Place::Page { block, offset, crc } if self.with_data => {
                let end = offset + usize::try_from(piece.size_bytes).unwrap_or(usize::MAX);
                let page = transfer::read(&self.core.device, block * BLOCK, BLOCK_BYTES).await;
                let member = page
                    .ok()
                    .and_then(|page| page.get(*offset..end).map(crc32c));
                if member != Some(*crc) {
                    self.damaged(*block, "the bytes of", Some(name));
                }
                self.report.data_bytes += piece.size_bytes;
            }
            Place::Page { .. } => {}
            Place::Extents { extents, crcs } => {
                if let Crcs::Table(table) = crcs {
                    self.pointer(name, table, "the checksums of").await;
                }
                if !self.with_data {
                    return;
                }
                let crcs = match crcs {
                    Crcs::Inline(crcs) => crcs.clone(),
                    Crcs::Table(table) => read_table(&self.core.device, table)
                        .await
                        .unwrap_or_default(),
                };
                for (start, crc) in (0..).step_by(CHUNK_STEP).zip(crcs) {
                    let count = CHUNK_BYTES.min(piece.size_bytes.saturating_sub(start));
                    let count = usize::try_from(count).unwrap_or(0);
                    let bytes =
                        transfer::read_extents(&self.core.device, extents, start, count).await;
                    if bytes.map(|bytes| crc32c(&bytes)).ok() != Some(crc) {
                        let place = spans(extents, start, BLOCK);
                        let block = place.first().map_or(0, |(offset, _)| offset / BLOCK);
                        self.damaged(block, "the bytes of", Some(name));
                    }
                    self.report.data_bytes += count as u64;
                }
            }
        }
    }
}

async fn segment_head(
    device: &Device,
    superblock: &Superblock,
    place: SegmentPlace,
    block: u64,
    number: u32,
) -> Option<SegmentHead> {
    let bytes = place.blocks as usize * BLOCK_BYTES;
    let bytes = transfer::read(device, block * BLOCK, bytes).await.ok()?;
    let (head, _) = SegmentHead::open(&bytes)?;
    let start = superblock.start.sequence;
    (head.uuid == superblock.uuid && head.start == start && head.number == number).then_some(head)
}

/// How people know an item.
fn name_of(bucket: &BucketState, table: Table, key: &[u8]) -> String {
    // Versions and uploads have a number behind a NUL, which no key holds.
    let text = |key: &[u8]| {
        let key = key.split(|byte| *byte == 0).next().unwrap_or_default();
        format!("{}/{}", bucket.name, String::from_utf8_lossy(key))
    };
    match table {
        Table::Uploads => format!("an upload of {}", text(key)),
        Table::Parts => {
            let number = key
                .last_chunk()
                .map_or(0, |bytes| u32::from_be_bytes(*bytes));
            format!("part {number} of an upload in {}", bucket.name)
        }
        Table::Versions => format!("an older version of {}", text(key)),
        Table::Objects | Table::Buckets => text(key),
    }
}

const CHUNK_STEP: usize = 64 << 10;
const _: () = assert!(CHUNK_STEP as u64 == CHUNK_BYTES);
