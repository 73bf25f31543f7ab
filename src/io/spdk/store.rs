//! A bdev's blobstore: found, made, opened, closed. Everything here blocks, and nothing of it is
//! on the path of a request.

#![expect(unsafe_code, reason = "calls SPDK's blobstore on SPDK's threads")]

use std::ffi::CString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lobos_spdk_sys as sys;

use super::lane::CHANNEL_OPERATIONS;
use super::process::{Raw, SpdkProcess, ask, os_error};
use super::{Spdk, SpdkError, StoreOptions, memory, meters};
use crate::io::dma::{BLOCK_BYTES, BufferPool};
use crate::io::media::{Access, Media};

/// A bdev that a store lies on, or shall.
#[derive(Debug)]
pub struct SpdkPlace {
    process: Arc<SpdkProcess>,
    name: Box<str>,
    desc: Raw<sys::spdk_bdev_desc>,
    about: sys::lobos_spdk_bdev,
    options: StoreOptions,
    owner: Option<Media>,
}

/// What is on a bdev.
#[derive(Debug)]
pub enum Found {
    /// A store of ours, open.
    Store(Arc<Spdk>),
    /// Zeros, or a store of ours whose making was interrupted.
    Nothing(SpdkPlace),
    /// Something else.
    Occupied(SpdkPlace),
}

/// A store that is being made: open, but not yet named as what is to be found next time.
#[derive(Debug)]
pub struct Unfinished {
    device: Arc<Spdk>,
    id: u64,
    options: StoreOptions,
}

/// Opens the bdev and looks what is on it. Blocks.
pub fn find(
    process: &Arc<SpdkProcess>,
    bdev: &str,
    options: &StoreOptions,
) -> Result<Found, SpdkError> {
    let owner = options.lock.as_deref().map(|path| {
        let buffers = BufferPool::new(0);
        Media::open(path, Access::Exclusive, false, buffers)
    });
    let owner = owner.transpose()?;
    let place = SpdkPlace::open(process, bdev, options, owner)?;
    let store = match place.load() {
        Ok(store) => store,
        Err(code) if code == -libc::EILSEQ => {
            return Ok(match place.is_zero()? {
                true => Found::Nothing(place),
                false => Found::Occupied(place),
            });
        }
        Err(code) if code == -libc::ENXIO => return Ok(Found::Occupied(place)),
        Err(code) => return Err(place.failed("load its blobstore", code)),
    };
    let asked = ask(move |done, context| {
        // SAFETY: the app thread, and an open store.
        unsafe { sys::lobos_spdk_store_super(store.get(), done, context) };
    });
    match asked {
        Ok(id) => Ok(Found::Store(place.open_blob(store, id)?)),
        Err(code) if code == -libc::ENOENT => {
            unload(store).map_err(|code| place.failed("unload its blobstore", code))?;
            Ok(Found::Nothing(place))
        }
        Err(code) => Err(place.failed("find its blob", code)),
    }
}

impl SpdkPlace {
    fn open(
        process: &Arc<SpdkProcess>,
        bdev: &str,
        options: &StoreOptions,
        owner: Option<Media>,
    ) -> Result<Self, SpdkError> {
        let name = CString::new(bdev).unwrap_or_default();
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let opened = ask(move |done, context| {
            let mut desc = std::ptr::null_mut();
            let mut about = sys::lobos_spdk_bdev {
                blocks: 0,
                block_bytes: 0,
                has_write_cache: true,
                can_flush: false,
                can_unmap: false,
                product: [0; 64],
            };
            // SAFETY: the app thread; all three outlive the call.
            let error =
                unsafe { sys::lobos_spdk_bdev_open(name.as_ptr(), &raw mut desc, &raw mut about) };
            let _nobody_waits = sender.send((Raw::new(desc), about));
            // SAFETY: an operation ends once.
            unsafe { done(context, 0, error) };
        });
        opened.map_err(|code| SpdkError::NoBdev {
            name: bdev.into(),
            source: os_error(code),
        })?;
        let Ok((desc, about)) = receiver.recv() else {
            return Err(SpdkError::Message { code: 0 });
        };
        let place = Self {
            process: Arc::clone(process),
            name: bdev.into(),
            desc,
            about,
            options: options.clone(),
            owner,
        };
        if place.about.block_bytes as usize > BLOCK_BYTES {
            let block_bytes = place.about.block_bytes;
            place.close();
            return Err(SpdkError::LargeBlocks {
                name: bdev.into(),
                block_bytes,
            });
        }
        Ok(place)
    }

    fn failed(&self, doing: &'static str, code: i32) -> SpdkError {
        SpdkError::Store {
            name: self.name.clone(),
            doing,
            source: os_error(code),
        }
    }

    /// The bdev's name and kind.
    pub fn describe(&self) -> (&str, String) {
        (&self.name, product(&self.about))
    }

    /// Gives the bdev back.
    pub fn close(self) {
        close_bdev(self.desc);
    }

    fn load(&self) -> Result<Raw<sys::spdk_blob_store>, i32> {
        let name = CString::new(&*self.name).unwrap_or_default();
        let loaded = ask(move |done, context| {
            let depth = CHANNEL_OPERATIONS;
            // SAFETY: the app thread; the texts are copied before the call returns.
            unsafe {
                sys::lobos_spdk_store_load(name.as_ptr(), TYPE.as_ptr(), depth, done, context);
            }
        });
        Ok(pointer(loaded?))
    }

    /// Whether the first and the last MiB are zeros.
    fn is_zero(&self) -> Result<bool, SpdkError> {
        let block = u64::from(self.about.block_bytes.max(1));
        let count = (LOOK_BYTES / block).min(self.about.blocks);
        for first in [0, self.about.blocks - count] {
            if !self.reads_zeros(first, count)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn reads_zeros(&self, first: u64, count: u64) -> Result<bool, SpdkError> {
        let buffers = BufferPool::from_source(0, memory::SOURCE);
        let mut buffer = buffers.take(usize::try_from(LOOK_BYTES).unwrap_or(BLOCK_BYTES));
        let (desc, room) = (self.desc, Raw::new(buffer.room()));
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let read = ask(move |done, context| {
            let none = std::ptr::null_mut();
            // SAFETY: the app thread; it uses this queue alone, and closes it below.
            let queue = unsafe { sys::lobos_spdk_queue_open(desc.get(), none, none.cast()) };
            let _nobody_waits = sender.send(Raw::new(queue));
            let error = match queue.is_null() {
                true => -libc::ENOMEM,
                // SAFETY: the buffer holds `count` blocks and lives until the answer.
                false => unsafe {
                    sys::lobos_spdk_submit(
                        queue,
                        sys::LOBOS_SPDK_READ_BDEV,
                        room.get().cast(),
                        first,
                        count,
                        done,
                        context,
                    )
                },
            };
            if error != 0 {
                // SAFETY: nothing was submitted.
                unsafe { done(context, 0, error) };
            }
        });
        if let Ok(queue) = receiver.recv() {
            let _closed = ask(move |done, context| {
                if !queue.get().is_null() {
                    // SAFETY: its one operation is over.
                    unsafe { sys::lobos_spdk_queue_close(queue.get()) };
                }
                // SAFETY: an operation ends once.
                unsafe { done(context, 0, 0) };
            });
        }
        read.map_err(|code| self.failed("read what is on it", code))?;
        Ok(buffer.room_mut().iter().all(|byte| *byte == 0))
    }

    /// Makes a blobstore of the whole bdev, whatever is on it, with one thick blob. The blob's
    /// content is what lay there before. Blocks.
    pub fn create(self, cluster_bytes: u32) -> Result<Unfinished, SpdkError> {
        let bytes = self.about.blocks * u64::from(self.about.block_bytes);
        let clusters = bytes / u64::from(cluster_bytes.max(1));
        // A page for each 512 clusters of the blob, twice, and some for the rest.
        let pages = u32::try_from(clusters / 512 * 2 + 64).unwrap_or(u32::MAX);
        let name = CString::new(&*self.name).unwrap_or_default();
        let store = pointer(
            ask(move |done, context| {
                let depth = CHANNEL_OPERATIONS;
                // SAFETY: the app thread; the texts are copied before the call returns.
                unsafe {
                    sys::lobos_spdk_store_create(
                        name.as_ptr(),
                        TYPE.as_ptr(),
                        depth,
                        cluster_bytes,
                        pages,
                        done,
                        context,
                    );
                }
            })
            .map_err(|code| self.failed("make a blobstore of it", code))?,
        );
        let free = describe(store).free_clusters;
        let id = ask(move |done, context| {
            // SAFETY: the app thread, and an open store.
            unsafe { sys::lobos_spdk_blob_create(store.get(), free, done, context) };
        })
        .map_err(|code| self.failed("make the blob", code))?;
        let options = self.options.clone();
        let device = self.open_blob(store, id)?;
        Ok(Unfinished {
            device,
            id,
            options,
        })
    }

    fn open_blob(self, store: Raw<sys::spdk_blob_store>, id: u64) -> Result<Arc<Spdk>, SpdkError> {
        let blob: Raw<sys::spdk_blob> = pointer(
            ask(move |done, context| {
                // SAFETY: the app thread, and an open store.
                unsafe { sys::lobos_spdk_blob_open(store.get(), id, done, context) };
            })
            .map_err(|code| self.failed("open its blob", code))?,
        );
        let desc = self.desc;
        let mut queues = Vec::new();
        for reactor in &self.process.reactors {
            let queue = reactor.call(move || {
                // SAFETY: this is the reactor that will use the queue.
                let queue =
                    unsafe { sys::lobos_spdk_queue_open(desc.get(), store.get(), blob.get()) };
                Raw::new(queue)
            })?;
            if queue.get().is_null() {
                return Err(self.failed("open a queue to it", -libc::ENOMEM));
            }
            queues.push(queue);
        }
        let about = describe(store);
        let blob_clusters = ask(move |done, context| {
            // SAFETY: the app thread, and an open blob; an operation ends once.
            unsafe { done(context, sys::lobos_spdk_blob_clusters(blob.get()), 0) };
        })
        .map_err(|code| self.failed("measure its blob", code))?;
        let size_bytes = blob_clusters * about.cluster_bytes;
        Ok(Arc::new(Spdk {
            product: product(&self.about).into(),
            process: self.process,
            name: self.name,
            desc,
            store,
            blob,
            queues,
            cluster_bytes: about.cluster_bytes,
            io_unit_bytes: about.io_unit_bytes,
            clusters: about.clusters,
            free_clusters: about.free_clusters,
            size_bytes: size_bytes - size_bytes % BLOCK_BYTES as u64,
            block_bytes: self.about.block_bytes,
            can_flush: self.about.can_flush,
            can_unmap: self.about.can_unmap,
            buffers: BufferPool::from_source(self.options.idle_buffer_bytes, memory::SOURCE),
            meters: meters::Meters::default(),
            in_flight: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
            _owner: self.owner,
        }))
    }
}

impl Unfinished {
    /// The blob, to be formatted.
    pub fn device(&self) -> &Arc<Spdk> {
        &self.device
    }

    /// Names the blob as the one to be found, and loads the store anew: it lies clean from then
    /// on, since nothing changes its metadata any more. Blocks.
    pub fn finish(self) -> Result<Arc<Spdk>, SpdkError> {
        let (store, id) = (self.device.store, self.id);
        ask(move |done, context| {
            // SAFETY: the app thread, and an open store.
            unsafe { sys::lobos_spdk_store_set_super(store.get(), id, done, context) };
        })
        .map_err(|code| self.device.failed("name its blob", code))?;
        let process = Arc::clone(&self.device.process);
        let name = self.device.name.clone();
        self.device.close()?;
        let mut options = self.options;
        // The lock was let go with the device.
        let lock = options.lock.take();
        drop(self.device);
        options.lock = lock;
        match find(&process, &name, &options)? {
            Found::Store(device) => Ok(device),
            Found::Nothing(place) | Found::Occupied(place) => {
                Err(place.failed("find the blobstore that was just made", -libc::EIO))
            }
        }
    }
}

impl Spdk {
    fn failed(&self, doing: &'static str, code: i32) -> SpdkError {
        SpdkError::Store {
            name: self.name.clone(),
            doing,
            source: os_error(code),
        }
    }

    /// Takes no more operations, waits for those under way, and unloads the blobstore. Blocks.
    #[expect(clippy::disallowed_methods, reason = "it is no shard that waits here")]
    pub fn close(&self) -> Result<(), SpdkError> {
        if self.is_closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        for _ in 0..CLOSE_LOOKS_MAX {
            if self.in_flight.load(Ordering::Acquire) == 0 {
                break;
            }
            std::thread::sleep(CLOSE_LOOK);
        }
        if self.in_flight.load(Ordering::Acquire) > 0 {
            return Err(self.failed("wait for its operations", -libc::ETIMEDOUT));
        }
        for (reactor, queue) in self.process.reactors.iter().zip(&self.queues) {
            let queue = *queue;
            // SAFETY: this is the queue's reactor, and nothing of it is in flight.
            reactor.call(move || unsafe { sys::lobos_spdk_queue_close(queue.get()) })?;
        }
        let blob = self.blob;
        ask(move |done, context| {
            // SAFETY: the app thread; no queue uses the blob any more.
            unsafe { sys::lobos_spdk_blob_close(blob.get(), done, context) };
        })
        .map_err(|code| self.failed("close its blob", code))?;
        unload(self.store).map_err(|code| self.failed("unload its blobstore", code))?;
        close_bdev(self.desc);
        Ok(())
    }

    /// What the bdev counts. Blocks briefly.
    pub(super) fn bdev_stats(&self) -> io::Result<sys::lobos_spdk_stats> {
        let desc = self.desc;
        let stats = Raw::new(Box::into_raw(Box::new(sys::lobos_spdk_stats::default())));
        if self.is_closed() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let asked = ask(move |done, context| {
            // SAFETY: the app thread; `stats` lives until the answer was waited for.
            unsafe { sys::lobos_spdk_bdev_stats(desc.get(), stats.get(), done, context) };
        });
        // SAFETY: the answer has come: nobody else has it.
        let stats = unsafe { Box::from_raw(stats.get()) };
        asked.map(|_| *stats).map_err(os_error)
    }
}

fn close_bdev(desc: Raw<sys::spdk_bdev_desc>) {
    let _closed = ask(move |done, context| {
        // SAFETY: the app thread opened it; nothing uses it any more; an operation ends once.
        unsafe {
            sys::lobos_spdk_bdev_close(desc.get());
            done(context, 0, 0);
        }
    });
}

fn unload(store: Raw<sys::spdk_blob_store>) -> Result<(), i32> {
    ask(move |done, context| {
        // SAFETY: the app thread; all its blobs are closed.
        unsafe { sys::lobos_spdk_store_unload(store.get(), done, context) };
    })
    .map(|_| ())
}

fn describe(store: Raw<sys::spdk_blob_store>) -> sys::lobos_spdk_store {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let _asked = ask(move |done, context| {
        let mut about = sys::lobos_spdk_store::default();
        // SAFETY: the app thread, and an open store; an operation ends once.
        unsafe {
            sys::lobos_spdk_store_describe(store.get(), &raw mut about);
            let _nobody_waits = sender.send(about);
            done(context, 0, 0);
        }
    });
    receiver.recv().unwrap_or_default()
}

fn product(about: &sys::lobos_spdk_bdev) -> String {
    let bytes = about.product.iter().take_while(|byte| **byte != 0);
    bytes.map(|byte| char::from(byte.cast_unsigned())).collect()
}

/// A value that the shim gives is a pointer.
fn pointer<T>(value: u64) -> Raw<T> {
    let address = usize::try_from(value).unwrap_or(0);
    Raw::new(std::ptr::with_exposed_provenance_mut(address))
}

/// Says in a blobstore's superblock whose it is.
const TYPE: &std::ffi::CStr = c"LOBOS";
/// How much of both ends has to be zeros for a bdev to be free.
const LOOK_BYTES: u64 = 1 << 20;
const CLOSE_LOOK: Duration = Duration::from_millis(1);
const CLOSE_LOOKS_MAX: u32 = 10_000;
