//! What a blob store lies on: one interface over io_uring, threads and the simulator.
//!
//! Transfers take a buffer and give it back. Dropping a returned future never frees or reuses its
//! buffer before the device is through with it; whether the operation then took place is open.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::dma::{BLOCK_BYTES, BufferPool, DmaBuf};
use super::media::Media;
pub use super::media::{Access, DeviceError, create_file};
use super::sim::SimDevice;
#[cfg(feature = "spdk")]
use super::spdk::Spdk;
use super::uring::{Operation, Uring};
use crate::metrics::DeviceTimes;

/// One open device; cheap to clone, usable from every event loop. It is owned until the last
/// clone is dropped and the last transfer is over.
#[derive(Clone, Debug)]
pub enum Device {
    /// A ring per event loop.
    Uring(Arc<Uring>),
    /// pread, pwrite and fdatasync on the threads of the runtime for blocking calls.
    Pool(Arc<Pool>),
    Sim(SimDevice),
    /// A blob of a blobstore, polled in user space.
    #[cfg(feature = "spdk")]
    Spdk(Arc<Spdk>),
}

/// How to open a device.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    pub access: Access,
    /// Past the page cache where the file system can.
    pub direct: bool,
    pub prefer: Prefer,
    /// Idle transfer buffers that are kept for the next use.
    pub idle_buffer_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefer {
    /// Threads only where there is no io_uring.
    Uring,
    Pool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            access: Access::Exclusive,
            direct: true,
            prefer: Prefer::Uring,
            idle_buffer_bytes: 64 << 20,
        }
    }
}

/// What a banner says about an open device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    pub kind: DeviceKind,
    pub is_block_device: bool,
    pub is_writable: bool,
    /// Transfers go past the page cache.
    pub is_direct: bool,
    pub logical_block_bytes: u32,
    /// What the device lacks and why, as sentences without a full stop.
    pub missing: Vec<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    Uring,
    Pool,
    Sim,
    Spdk,
}

impl DeviceKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "io_uring",
            Self::Pool => "thread pool",
            Self::Sim => "simulator",
            Self::Spdk => "SPDK",
        }
    }
}

impl Device {
    /// Opens a file or block device and takes the ownership that `options.access` names. Blocks.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, DeviceError> {
        let buffers = BufferPool::new(options.idle_buffer_bytes);
        let media = Media::open(path, options.access, options.direct, buffers)?;
        let missing = match options.prefer {
            Prefer::Uring => Uring::missing(),
            Prefer::Pool => Some("io_uring is not asked for".into()),
        };
        Ok(match missing {
            None => Self::Uring(Arc::new(Uring::new(media))),
            Some(without_ring) => Self::Pool(Arc::new(Pool {
                media,
                without_ring,
            })),
        })
    }

    /// Bytes on the device, whole blocks.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Uring(uring) => uring.media.size_bytes(),
            Self::Pool(pool) => pool.media.size_bytes(),
            Self::Sim(sim) => sim.size_bytes(),
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => spdk.size_bytes(),
        }
    }

    /// Looks up the size again: a file or device may have become larger. Blocks briefly.
    pub fn refresh_size(&self) -> io::Result<u64> {
        match self {
            Self::Uring(uring) => uring.media.refresh_size(),
            Self::Pool(pool) => pool.media.refresh_size(),
            Self::Sim(sim) => Ok(sim.size_bytes()),
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => Ok(spdk.size_bytes()),
        }
    }

    /// Makes a file `size_bytes` large, its space reserved and the new size durable; of a block
    /// device it only checks that it is that large. Gives the new size. Blocks.
    pub fn grow(&self, size_bytes: u64) -> Result<u64, DeviceError> {
        match self {
            Self::Uring(uring) => uring.media.grow(size_bytes),
            Self::Pool(pool) => pool.media.grow(size_bytes),
            Self::Sim(sim) => Ok(sim.grow(size_bytes)),
            #[cfg(feature = "spdk")]
            Self::Spdk(_) => Ok(self.size_bytes()),
        }
    }

    /// Takes no more transfers and gives back what outlives this process otherwise. Only a device
    /// on SPDK has such a thing. Blocks.
    pub fn close(&self) -> io::Result<()> {
        match self {
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => spdk.close_all().map_err(io::Error::other),
            Self::Uring(_) | Self::Pool(_) | Self::Sim(_) => Ok(()),
        }
    }

    /// What lies below on SPDK, if it does.
    #[cfg(feature = "spdk")]
    pub fn spdk(&self) -> Option<&Arc<Spdk>> {
        match self {
            Self::Spdk(spdk) => Some(spdk),
            _ => None,
        }
    }

    pub fn describe(&self) -> DeviceInfo {
        match self {
            Self::Uring(uring) => describe(&uring.media, DeviceKind::Uring, None),
            Self::Pool(pool) => describe(&pool.media, DeviceKind::Pool, Some(&pool.without_ring)),
            Self::Sim(_) => DeviceInfo {
                kind: DeviceKind::Sim,
                is_block_device: false,
                is_writable: true,
                is_direct: true,
                logical_block_bytes: 512,
                missing: Vec::new(),
            },
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => DeviceInfo {
                kind: DeviceKind::Spdk,
                is_block_device: true,
                is_writable: true,
                is_direct: true,
                logical_block_bytes: spdk.block_bytes(),
                missing: spdk.missing(),
            },
        }
    }

    /// How long its transfers and flushes take; of the simulator and of SPDK it is not known.
    pub fn times(&self) -> Option<&DeviceTimes> {
        match self {
            Self::Uring(uring) => Some(&uring.media.times),
            Self::Pool(pool) => Some(&pool.media.times),
            Self::Sim(_) => None,
            #[cfg(feature = "spdk")]
            Self::Spdk(_) => None,
        }
    }

    pub fn buffers(&self) -> &BufferPool {
        match self {
            Self::Uring(uring) => &uring.media.buffers,
            Self::Pool(pool) => &pool.media.buffers,
            Self::Sim(sim) => sim.buffers(),
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => &spdk.buffers,
        }
    }

    /// Fills the whole capacity of `buffer` from `offset_bytes` on, or fails; a short read is
    /// continued. `InvalidInput`: not aligned, or not all on the device.
    pub async fn read(&self, offset_bytes: u64, buffer: DmaBuf) -> (io::Result<()>, DmaBuf) {
        if let Err(error) = self.check(offset_bytes, buffer.capacity() as u64) {
            return (Err(error), buffer);
        }
        self.transfer(Operation::Read {
            offset_bytes,
            buffer,
        })
        .await
    }

    /// Writes all of `buffer`, whole blocks, to `offset_bytes`. When it answers, the bytes are
    /// with the device, which may still lose them until a flush. Errors as with [`Device::read`].
    pub async fn write(&self, offset_bytes: u64, buffer: DmaBuf) -> (io::Result<()>, DmaBuf) {
        if let Err(error) = self.check(offset_bytes, buffer.len() as u64) {
            return (Err(error), buffer);
        }
        if buffer.is_empty() {
            return (Ok(()), buffer);
        }
        self.transfer(Operation::Write {
            offset_bytes,
            buffer,
        })
        .await
    }

    /// Makes every write that was answered before this call durable. After an error nothing is
    /// known of any of them, and a second flush would not tell.
    pub async fn flush(&self) -> io::Result<()> {
        let _timing = self.times().map(DeviceTimes::syncing);
        match self {
            Self::Uring(uring) => match uring.start(Operation::Flush) {
                Ok(transfer) => transfer.await.0,
                Err(_no_ring) => {
                    let uring = Arc::clone(uring);
                    blocking(move || uring.media.sync()).await
                }
            },
            Self::Pool(pool) => {
                let pool = Arc::clone(pool);
                blocking(move || pool.media.sync()).await
            }
            Self::Sim(sim) => sim.flush().await,
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => spdk.flush().await,
        }
    }

    /// Tells the device that a range is not needed. It reads as zeros or as before; a device that
    /// cannot discard does nothing.
    pub async fn discard(&self, offset_bytes: u64, size_bytes: u64) -> io::Result<()> {
        self.check(offset_bytes, size_bytes)?;
        match self.clone() {
            Self::Uring(uring) => {
                blocking(move || uring.media.discard(offset_bytes, size_bytes)).await
            }
            Self::Pool(pool) => {
                blocking(move || pool.media.discard(offset_bytes, size_bytes)).await
            }
            Self::Sim(sim) => sim.discard(offset_bytes, size_bytes).await,
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => spdk.discard(offset_bytes, size_bytes).await,
        }
    }

    /// Writes zeros: by the device itself where it can, otherwise as bytes. Durable after a flush.
    /// On a file, later writes to the range no longer change its metadata.
    pub async fn zero(&self, offset_bytes: u64, size_bytes: u64) -> io::Result<()> {
        self.check(offset_bytes, size_bytes)?;
        let quickly = match self.clone() {
            Self::Uring(uring) => {
                blocking(move || uring.media.zero_quickly(offset_bytes, size_bytes)).await
            }
            Self::Pool(pool) => {
                blocking(move || pool.media.zero_quickly(offset_bytes, size_bytes)).await
            }
            Self::Sim(_) => Ok(false),
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => spdk.zero(offset_bytes, size_bytes).await.map(|()| true),
        };
        if quickly? {
            return Ok(());
        }
        let mut at = offset_bytes;
        let end = offset_bytes + size_bytes;
        let mut zeros = self.buffers().take(ZERO_STEP_BYTES);
        while at < end {
            let step =
                usize::try_from(end - at).map_or(ZERO_STEP_BYTES, |left| left.min(ZERO_STEP_BYTES));
            zeros.truncate(step);
            let (result, buffer) = self.write(at, zeros).await;
            result?;
            zeros = buffer;
            at += step as u64;
        }
        Ok(())
    }

    async fn transfer(&self, operation: Operation) -> (io::Result<()>, DmaBuf) {
        let _timing = self.times().map(|times| match operation {
            Operation::Read { .. } => times.reading(),
            Operation::Write { .. } => times.writing(),
            Operation::Flush => times.syncing(),
        });
        let outcome = match self {
            Self::Uring(uring) => match uring.start(operation) {
                Ok(transfer) => transfer.await,
                Err(operation) => {
                    let uring = Arc::clone(uring);
                    on_a_thread(move || run(&uring.media, operation)).await
                }
            },
            Self::Pool(pool) => {
                let pool = Arc::clone(pool);
                on_a_thread(move || run(&pool.media, operation)).await
            }
            Self::Sim(sim) => sim.transfer(operation).await,
            #[cfg(feature = "spdk")]
            Self::Spdk(spdk) => match operation {
                Operation::Read {
                    offset_bytes,
                    buffer,
                } => spdk.read(offset_bytes, buffer).await,
                Operation::Write {
                    offset_bytes,
                    buffer,
                } => spdk.write(offset_bytes, buffer).await,
                Operation::Flush => (spdk.flush().await, None),
            },
        };
        match outcome {
            (result, Some(buffer)) => (result, buffer),
            // The thread took the buffer down with it.
            (result, None) => (result, self.buffers().take_empty(BLOCK_BYTES)),
        }
    }

    fn check(&self, offset_bytes: u64, size_bytes: u64) -> io::Result<()> {
        let block = BLOCK_BYTES as u64;
        let wrong = if !offset_bytes.is_multiple_of(block) || !size_bytes.is_multiple_of(block) {
            "is not made of whole blocks"
        } else if offset_bytes
            .checked_add(size_bytes)
            .is_none_or(|end| end > self.size_bytes())
        {
            "is not all on the device"
        } else {
            return Ok(());
        };
        let text = format!("the range of {size_bytes} bytes at {offset_bytes} {wrong}");
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }
}

/// A device that threads reach.
#[derive(Debug)]
pub struct Pool {
    media: Media,
    /// Why not through a ring.
    without_ring: Box<str>,
}

fn run(media: &Media, operation: Operation) -> (io::Result<()>, Option<DmaBuf>) {
    match operation {
        Operation::Read {
            offset_bytes,
            mut buffer,
        } => {
            let result = media.read_exact(offset_bytes, buffer.room_mut());
            if result.is_ok() {
                buffer.set_filled(buffer.capacity());
            }
            (result, Some(buffer))
        }
        Operation::Write {
            offset_bytes,
            buffer,
        } => (media.write_exact(offset_bytes, &buffer), Some(buffer)),
        Operation::Flush => (media.sync(), None),
    }
}

async fn on_a_thread(
    call: impl FnOnce() -> (io::Result<()>, Option<DmaBuf>) + Send + 'static,
) -> (io::Result<()>, Option<DmaBuf>) {
    match tokio::task::spawn_blocking(call).await {
        Ok(outcome) => outcome,
        Err(error) => (Err(io::Error::other(error)), None),
    }
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(call)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn describe(media: &Media, kind: DeviceKind, without_ring: Option<&str>) -> DeviceInfo {
    let mut missing: Vec<Box<str>> = without_ring.into_iter().map(Box::from).collect();
    if let Some(reason) = &media.buffered_because {
        missing.push(format!("transfers go through the page cache: {reason}").into());
    }
    DeviceInfo {
        kind,
        is_block_device: media.is_block,
        is_writable: media.is_writable,
        is_direct: media.buffered_because.is_none(),
        logical_block_bytes: media.logical_block_bytes,
        missing,
    }
}

/// Zeros of one write: long enough to run at the speed of the device.
const ZERO_STEP_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests;
