//! Checkpoints: the whole index as a stream of segments, each written twice, while the index goes
//! on changing. See `docs/design-blob.md`, sections 1 and 2.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::codec::{Cursor, is_sealed, json, put_bytes, put_u32, put_u64, put_varint, seal};
use super::commit::abort_on_panic_of;
use super::core::{BucketState, Core};
use super::layout::{BLOCK, BLOCK_BYTES, Extent, SUPERBLOCKS};
use super::planted::is_planted;
use super::record::Table;
use super::superblock::{Checkpoint, SegmentPlace, Start, Superblock};
use super::transfer;
use crate::engine::EngineError;
use crate::io::device::Device;

impl Core {
    /// Starts a checkpoint when the journal's tail is half of what it may be.
    pub(super) fn consider_checkpoint(self: &Arc<Self>) {
        let (used, blocks) = {
            let sequencer = self.lock_sequencer();
            (sequencer.ring.used(), sequencer.ring.blocks())
        };
        let bound = (blocks / 2).min(TAIL_BYTES_MAX / 2 / BLOCK);
        if used >= bound {
            self.start_checkpoint();
        }
    }

    pub(super) fn start_checkpoint(self: &Arc<Self>) {
        if self.checkpoint_runs.load(Ordering::Acquire) {
            return;
        }
        let core = Arc::clone(self);
        self.tasks.spawn_at_home(async move {
            if let Err(error) = core.checkpoint().await {
                tracing::warn!(%error, "a checkpoint was not written");
            }
        });
    }

    /// Writes a checkpoint and releases the journal before it. Does nothing while one runs, and
    /// says so: `false`.
    pub(super) async fn checkpoint(self: &Arc<Self>) -> Result<bool, EngineError> {
        if self.checkpoint_runs.swap(true, Ordering::AcqRel) {
            return Ok(false);
        }
        let running = Running { core: self };
        let result = abort_on_panic_of(self.write_checkpoint()).await;
        drop(running);
        self.room.notify_waiters();
        result.map(|()| true)
    }

    async fn write_checkpoint(&self) -> Result<(), EngineError> {
        self.check_whole()?;
        let start = self.begin_checkpoint();
        let mut stream = Stream::new(self, start.sequence)?;
        let result = self.write_items(&mut stream).await;
        let result = match result {
            Ok(()) => stream.finish().await,
            Err(error) => Err(error),
        };
        let (written, error) = match result {
            Ok(checkpoint) => (Some(checkpoint), None),
            Err(error) => (None, Some(error)),
        };
        let Some(checkpoint) = written else {
            self.space.give_back(&stream.taken);
            return Err(error.unwrap_or(EngineError::Full));
        };
        let breaking = Breaking { core: self };
        let installed = self.install(start, checkpoint).await;
        std::mem::forget(breaking);
        if let Err(error) = &installed {
            self.poison(&io::Error::other(error.to_string()));
        }
        installed?;
        let old = {
            let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *segments, stream.taken)
        };
        self.space.give_back(&old);
        self.lock_sequencer().ring.release(start.place);
        Ok(())
    }

    /// Where a replay over this checkpoint must begin: everything before is in the index.
    fn begin_checkpoint(&self) -> Start {
        self.lock_sequencer().unpublished()
    }

    async fn write_items(&self, stream: &mut Stream<'_>) -> Result<(), EngineError> {
        let buckets = {
            let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
            buckets.all()
        };
        for bucket in buckets {
            stream
                .item(
                    Table::Buckets,
                    0,
                    bucket.name.as_str().as_bytes(),
                    &value_of(&bucket)?,
                )
                .await?;
            for table in Table::ALL {
                let Some(tree) = bucket.tree(table) else {
                    continue;
                };
                let mut from = Vec::new();
                loop {
                    let items = tree.items_from(&from, 512);
                    let Some((last, _)) = items.last() else {
                        break;
                    };
                    from = [last, &[0][..]].concat();
                    for (key, value) in &items {
                        stream.item(table, bucket.id, key, value).await?;
                    }
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(())
    }

    /// Upholds I6.
    async fn install(&self, start: Start, checkpoint: Checkpoint) -> Result<(), EngineError> {
        // What the checkpoint holds is in the index, hence written; this makes it durable.
        let written = self.lock_sequencer().unpublished().sequence - 1;
        self.device
            .flush()
            .await
            .map_err(|e| transfer::fault("flushing a checkpoint", e))?;
        self.durable.fetch_max(written, Ordering::AcqRel);
        let superblock = Superblock {
            start,
            flushed: written,
            checkpoint: Some(checkpoint),
            ..self.superblock()
        };
        self.write_superblocks(superblock).await
    }

    /// Both copies, one after the other, each flushed.
    pub(super) async fn write_superblocks(&self, new: Superblock) -> Result<(), EngineError> {
        let new = Superblock {
            generation: new.generation + 1,
            ..new
        };
        write_superblocks(&self.device, &new)
            .await
            .map_err(|source| transfer::fault("writing a superblock", source))?;
        *self
            .superblock
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

pub(super) async fn write_superblocks(device: &Device, new: &Superblock) -> io::Result<()> {
    let bytes = new.encode();
    for (copy, block) in SUPERBLOCKS.into_iter().enumerate() {
        if copy == 1 && is_planted("release_before_second_superblock") {
            break;
        }
        transfer::write(device, block * BLOCK, &bytes).await?;
        device.flush().await?;
    }
    Ok(())
}

/// A bucket's value in the table of buckets.
fn value_of(bucket: &BucketState) -> Result<Vec<u8>, EngineError> {
    let mut value = Vec::new();
    put_varint(&mut value, bucket.id);
    value.extend(json(&**bucket.config.load())?);
    Ok(value)
}

struct Running<'a> {
    core: &'a Core,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.core.checkpoint_runs.store(false, Ordering::Release);
    }
}

/// Dropped only where the superblocks are left in an unknown state: nobody may write them again.
struct Breaking<'a> {
    core: &'a Core,
}

impl Drop for Breaking<'_> {
    fn drop(&mut self) {
        self.core
            .poison(&io::Error::other("a checkpoint was broken off"));
    }
}

/// The stream on its way to the device. Broken off, it keeps its blocks until the next start: what
/// is in flight may still be written to them.
struct Stream<'a> {
    core: &'a Core,
    start: u64,
    bytes: Vec<u8>,
    total: u64,
    number: u32,
    first: SegmentPlace,
    place: SegmentPlace,
    taken: Vec<Extent>,
}

impl<'a> Stream<'a> {
    fn new(core: &'a Core, start: u64) -> Result<Self, EngineError> {
        let mut taken = Vec::new();
        let first = place_segment(core, &mut taken)?;
        Ok(Self {
            core,
            start,
            bytes: Vec::new(),
            total: 0,
            number: 0,
            first,
            place: first,
            taken,
        })
    }

    async fn item(
        &mut self,
        table: Table,
        bucket: u64,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), EngineError> {
        self.bytes.push(table.number());
        put_varint(&mut self.bytes, bucket);
        put_bytes(&mut self.bytes, key);
        put_bytes(&mut self.bytes, value);
        while self.bytes.len() > self.room() {
            let next = place_segment(self.core, &mut self.taken)?;
            self.write(Some(next)).await?;
            self.place = next;
        }
        Ok(())
    }

    fn room(&self) -> usize {
        self.place.blocks as usize * BLOCK_BYTES - SEGMENT_HEAD_BYTES
    }

    async fn write(&mut self, next: Option<SegmentPlace>) -> Result<(), EngineError> {
        let count = self.bytes.len().min(self.room());
        let rest = self.bytes.split_off(count);
        let head = SegmentHead {
            uuid: self.core.superblock().uuid,
            start: self.start,
            number: self.number,
            bytes: u32::try_from(count).unwrap_or(u32::MAX),
            next,
        };
        let sealed = head.seal(&self.bytes, self.place.blocks);
        for block in self.place.copies {
            transfer::write(&self.core.device, block * BLOCK, &sealed)
                .await
                .map_err(|source| transfer::fault("writing a checkpoint", source))
                .inspect_err(|error| self.core.poison(&io::Error::other(error.to_string())))?;
        }
        self.total += count as u64;
        self.number += 1;
        self.bytes = rest;
        Ok(())
    }

    async fn finish(&mut self) -> Result<Checkpoint, EngineError> {
        self.write(None).await?;
        Ok(Checkpoint {
            bytes: self.total,
            first: self.first,
        })
    }
}

fn place_segment(core: &Core, taken: &mut Vec<Extent>) -> Result<SegmentPlace, EngineError> {
    let first = core
        .space
        .allocate_run(SEGMENT_BLOCKS_MAX)
        .ok_or(EngineError::Full)?;
    taken.push(first);
    let second = core
        .space
        .allocate_run(first.count)
        .ok_or(EngineError::Full)?;
    taken.push(second);
    Ok(SegmentPlace {
        copies: [first.first, second.first],
        blocks: u32::try_from(first.count.min(second.count)).unwrap_or(1),
    })
}

/// See `docs/design-blob.md`, section 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentHead {
    pub(super) uuid: [u8; 16],
    pub(super) start: u64,
    pub(super) number: u32,
    pub(super) bytes: u32,
    pub(super) next: Option<SegmentPlace>,
}

impl SegmentHead {
    fn seal(&self, bytes: &[u8], blocks: u32) -> Vec<u8> {
        let next = self.next.unwrap_or(SegmentPlace {
            copies: [0, 0],
            blocks: 0,
        });
        let mut out = Vec::with_capacity(blocks as usize * BLOCK_BYTES);
        out.extend_from_slice(SEGMENT_MAGIC);
        put_u32(&mut out, 0);
        out.extend_from_slice(&self.uuid);
        put_u64(&mut out, self.start);
        put_u32(&mut out, self.number);
        put_u32(&mut out, self.bytes);
        put_u64(&mut out, next.copies[0]);
        put_u64(&mut out, next.copies[1]);
        put_u32(&mut out, next.blocks);
        put_u32(&mut out, 0);
        out.extend_from_slice(bytes);
        out.resize(blocks as usize * BLOCK_BYTES, 0);
        seal(&mut out, 4);
        out
    }

    pub(super) const BLOCKS_MAX: u64 = SEGMENT_BLOCKS_MAX;

    /// Blocks that a segment takes at least which begins with this block; `None`: none does.
    pub(super) fn peek_blocks(block: &[u8]) -> Option<u64> {
        let mut from = Cursor::new(block);
        if from.take(4)? != SEGMENT_MAGIC {
            return None;
        }
        from.take(32)?;
        let bytes = u64::from(from.u32()?) + SEGMENT_HEAD_BYTES as u64;
        Some(bytes.div_ceil(BLOCK)).filter(|blocks| *blocks <= SEGMENT_BLOCKS_MAX)
    }

    /// Head and stream bytes of a whole segment.
    pub(super) fn open(segment: &[u8]) -> Option<(Self, &[u8])> {
        let mut from = Cursor::new(segment);
        if from.take(4)? != SEGMENT_MAGIC || !is_sealed(segment, 4) {
            return None;
        }
        from.u32()?;
        let head = Self {
            uuid: from.array()?,
            start: from.u64()?,
            number: from.u32()?,
            bytes: from.u32()?,
            next: Some(SegmentPlace {
                copies: [from.u64()?, from.u64()?],
                blocks: from.u32()?,
            })
            .filter(|next| next.blocks > 0),
        };
        from.u32()?;
        let bytes = from.take(head.bytes as usize)?;
        Some((head, bytes))
    }
}

const SEGMENT_MAGIC: &[u8] = b"LBC1";
const SEGMENT_HEAD_BYTES: usize = 64;
const SEGMENT_BLOCKS_MAX: u64 = 32;
/// The most of the journal that a start has to replay.
const TAIL_BYTES_MAX: u64 = 256 << 20;
