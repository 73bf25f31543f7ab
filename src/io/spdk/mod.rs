//! A device through SPDK: one thick blob of a blobstore on a bdev, polled in user space.
//!
//! - [`process`]: SPDK itself, started once. [`store`]: a bdev's blobstore: found, made, opened,
//!   closed. [`lane`]: requests on their way. [`memory`]: buffers that devices reach. [`meters`]:
//!   what is counted.
//!
//! Only this room calls `lobos-spdk-sys`. Nothing of the blobstore's metadata changes once a
//! store is made, so that a kill leaves it clean.

mod lane;
mod memory;
mod meters;
mod process;
mod store;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lobos_spdk_sys as sys;

use super::device::DeviceError;
use super::dma::{BufferPool, DmaBuf};
use super::media::Media;
pub use meters::{Latencies, SpdkStats};
use process::Raw;
pub use process::{PciAccess, SpdkOptions, SpdkProcess};
pub use store::{Found, SpdkPlace, Unfinished, find};

use lane::{Outcome, Work};

/// Why SPDK or a store on it cannot be used. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum SpdkError {
    #[error("SPDK cannot be started: {why}")]
    Start { why: String },
    #[error("SPDK ended with code {code}")]
    Stop { code: i32 },
    #[error("a message to a thread of SPDK's could not be sent (code {code})")]
    Message { code: i32 },
    #[error(
        "SPDK needs {needed} huge pages of {page_mib} MiB and {free} are free: {missing} are \
         missing; reserve them with `sysctl vm.nr_hugepages=N`, lower `memory`, or set \
         `no_huge = true` where no NVMe drive is used"
    )]
    HugePages {
        needed: u64,
        free: u64,
        missing: u64,
        page_mib: u64,
    },
    #[error(
        "SPDK needs a mounted hugetlbfs, and there is none: mount one with `mkdir -p \
         /dev/hugepages && mount -t hugetlbfs nodev /dev/hugepages`, or set `no_huge = true` where \
         no NVMe drive is used"
    )]
    NoHugetlbfs,
    #[error("there is no bdev `{name}`: {source}")]
    NoBdev { name: Box<str>, source: io::Error },
    #[error("the bdev `{name}` has blocks of {block_bytes} bytes; at most 4096 are supported")]
    LargeBlocks { name: Box<str>, block_bytes: u32 },
    #[error("`{name}`: cannot {doing}: {source}")]
    Store {
        name: Box<str>,
        doing: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Owner(#[from] DeviceError),
}

/// An open store on SPDK: the device that the blob engine's format lies on.
///
/// # Invariants
/// The pointers are valid until `is_closed` is set and `in_flight` has reached 0; then
/// [`Spdk::close`] gives them back, once.
#[derive(Debug)]
pub struct Spdk {
    process: Arc<SpdkProcess>,
    name: Box<str>,
    /// What kind of bdev it is, in SPDK's words.
    product: Box<str>,
    desc: Raw<sys::spdk_bdev_desc>,
    store: Raw<sys::spdk_blob_store>,
    blob: Raw<sys::spdk_blob>,
    /// One for each reactor.
    queues: Vec<Raw<sys::lobos_spdk_queue>>,
    cluster_bytes: u64,
    io_unit_bytes: u64,
    clusters: u64,
    free_clusters: u64,
    size_bytes: u64,
    block_bytes: u32,
    can_flush: bool,
    can_unmap: bool,
    pub(super) buffers: BufferPool,
    meters: meters::Meters,
    in_flight: AtomicUsize,
    is_closed: AtomicBool,
    /// Holds the lock of the file or block device below, where there is one.
    _owner: Option<Media>,
}

impl Spdk {
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// What the device lacks, as sentences without a full stop.
    pub(super) fn missing(&self) -> Vec<Box<str>> {
        let mut missing = Vec::new();
        if !self.can_flush {
            missing.push(format!("the {} cannot flush", self.product).into());
        }
        if self.product.contains("Malloc") {
            missing.push("it is memory: everything is lost when the process ends".into());
        }
        missing
    }

    /// The bdev and what it is.
    pub fn describe(&self) -> (&str, &str) {
        (&self.name, &self.product)
    }

    /// A flush makes what was written durable, as far as the bdev says the truth.
    pub fn can_flush(&self) -> bool {
        self.can_flush
    }

    pub fn io_unit_bytes(&self) -> u64 {
        self.io_unit_bytes
    }

    pub(super) async fn read(
        self: &Arc<Self>,
        offset_bytes: u64,
        buffer: DmaBuf,
    ) -> (io::Result<()>, Option<DmaBuf>) {
        let size = buffer.capacity() as u64;
        self.run(Work::Read(buffer), offset_bytes, size).await
    }

    pub(super) async fn write(
        self: &Arc<Self>,
        offset_bytes: u64,
        buffer: DmaBuf,
    ) -> (io::Result<()>, Option<DmaBuf>) {
        let size = buffer.len() as u64;
        self.run(Work::Write(buffer), offset_bytes, size).await
    }

    /// Of the whole bdev. A bdev without the operation has nothing to flush, in the operator's
    /// words: `find` was told so.
    pub(super) async fn flush(self: &Arc<Self>) -> io::Result<()> {
        match self.can_flush {
            true => self.run(Work::Flush, 0, 0).await.0,
            false => Ok(()),
        }
    }

    pub(super) async fn discard(
        self: &Arc<Self>,
        offset_bytes: u64,
        size_bytes: u64,
    ) -> io::Result<()> {
        match self.can_unmap {
            true => self.run(Work::Discard, offset_bytes, size_bytes).await.0,
            false => Ok(()),
        }
    }

    pub(super) async fn zero(
        self: &Arc<Self>,
        offset_bytes: u64,
        size_bytes: u64,
    ) -> io::Result<()> {
        self.run(Work::Zero, offset_bytes, size_bytes).await.0
    }

    async fn run(self: &Arc<Self>, work: Work, offset_bytes: u64, size_bytes: u64) -> Outcome {
        match lane::start(self, work, offset_bytes, size_bytes) {
            Ok(transfer) => transfer.await,
            Err(refused) => refused,
        }
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// The queue of one reactor; only that reactor may use it.
    fn queue(&self, reactor: usize) -> *mut sys::lobos_spdk_queue {
        self.queues
            .get(reactor)
            .map_or(std::ptr::null_mut(), |queue| queue.get())
    }

    /// Closes the store and ends SPDK. Blocks.
    pub(super) fn close_all(&self) -> Result<(), SpdkError> {
        self.close()?;
        self.process.stop()
    }

    /// SPDK as it runs under this device.
    pub fn process(&self) -> &Arc<SpdkProcess> {
        &self.process
    }
}

/// How a store on a bdev is to be used.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Idle transfer buffers that are kept for the next use.
    pub idle_buffer_bytes: usize,
    /// The file or block device below, to be locked against other programs.
    pub lock: Option<PathBuf>,
}
