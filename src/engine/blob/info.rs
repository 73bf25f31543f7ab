//! What an operator is told about an open store.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::buckets::BlobEngine;
use super::core::Core;
use super::layout::{BLOCK, count_of};
use crate::engine::types::hex;

/// The state of a store. Sizes are bytes of the device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlobInfo {
    pub uuid: String,
    /// Raised whenever it is opened to be written; 1 before the first time.
    pub epoch: u64,
    pub size_bytes: u64,
    /// Not in use, those that wait for a commit (`held_bytes`) not counted.
    pub free_bytes: u64,
    /// Deleted, and free with the next commits.
    pub held_bytes: u64,
    /// Of the free bytes: kept for deletes and checkpoints. PUT answers 507 at this floor.
    pub reserve_bytes: u64,
    /// Runs of free blocks, and the longest one.
    pub free_runs: u64,
    pub longest_free_run_bytes: u64,
    /// The share of the free bytes that lies in runs of less than 1 MiB: 0 to 1.
    pub fragmentation: f64,
    pub buckets: u64,
    pub objects: u64,
    /// Versions that are not current, and delete markers.
    pub versions: u64,
    pub uploads: u64,
    pub parts: u64,
    /// Keys and entries in memory, and what they may take (absent: no bound).
    pub index_bytes: u64,
    pub index_limit_bytes: Option<u64>,
    /// What is kept in memory of the bytes of objects.
    pub cache_bytes: u64,
    pub journal: JournalInfo,
    pub checkpoint: CheckpointInfo,
    /// Flushes since it was opened, and the seconds they took together.
    pub flushes: u64,
    pub flush_seconds: f64,
    /// A write or flush failed: nothing is written until it is opened again.
    pub is_read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JournalInfo {
    pub size_bytes: u64,
    /// What a start would have to replay.
    pub used_bytes: u64,
    /// Of the next journal block.
    pub next_sequence: u64,
    /// Highest sequence number known to be on stable media.
    pub durable_sequence: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckpointInfo {
    /// Of both copies; 0: there is none yet.
    pub size_bytes: u64,
    /// The journal block at which a replay over it begins.
    pub start_sequence: u64,
    pub is_running: bool,
}

impl BlobEngine {
    pub fn info(&self) -> BlobInfo {
        self.core.info()
    }
}

impl Core {
    fn info(&self) -> BlobInfo {
        let superblock = self.superblock();
        let runs = self.space.runs();
        let free_blocks = self.space.free_blocks();
        let buckets = {
            let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
            buckets.all()
        };
        let (used, next_sequence) = {
            let sequencer = self.lock_sequencer();
            (sequencer.ring.used(), sequencer.next_sequence)
        };
        let segments = {
            let segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
            count_of(&segments)
        };
        let (flushes, flush_time) = self.flushes();
        BlobInfo {
            uuid: hex(&superblock.uuid),
            epoch: superblock.epoch,
            size_bytes: superblock.size_blocks * BLOCK,
            free_bytes: free_blocks * BLOCK,
            held_bytes: self.space.held_blocks() * BLOCK,
            reserve_bytes: self.reserve_blocks() * BLOCK,
            free_runs: runs.count,
            longest_free_run_bytes: runs.longest_blocks * BLOCK,
            fragmentation: runs.short_blocks as f64 / free_blocks.max(1) as f64,
            buckets: buckets.len() as u64,
            objects: buckets.iter().map(|bucket| bucket.objects.len()).sum(),
            versions: buckets.iter().map(|bucket| bucket.versions.len()).sum(),
            uploads: buckets.iter().map(|bucket| bucket.uploads.len()).sum(),
            parts: buckets.iter().map(|bucket| bucket.parts.len()).sum(),
            index_bytes: self.index_bytes(),
            index_limit_bytes: Some(self.index_bytes_max).filter(|most| *most < u64::MAX),
            cache_bytes: self.space.hot.used_bytes(),
            journal: JournalInfo {
                size_bytes: superblock.journal_blocks * BLOCK,
                used_bytes: used * BLOCK,
                next_sequence,
                durable_sequence: self.durable.load(Ordering::Acquire),
            },
            checkpoint: CheckpointInfo {
                size_bytes: segments * BLOCK,
                start_sequence: superblock.start.sequence,
                is_running: self.checkpoint_runs.load(Ordering::Acquire),
            },
            flushes,
            flush_seconds: flush_time.as_secs_f64(),
            is_read_only: self.check_whole().is_err(),
        }
    }
}
