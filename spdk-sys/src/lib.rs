//! The declarations of `c/shim.h`, which says what each does and on which thread it may be called.
//! `tests/header.rs` holds the two together. Without the feature `link` nothing stands behind them.
#![no_std]
#![allow(
    non_camel_case_types,
    reason = "types are called as in the header, so that a search finds both"
)]
#![expect(
    unsafe_code,
    reason = "declares functions of C; io/spdk of `lobos` is their one caller"
)]

use core::ffi::{c_char, c_void};

/// A call to a thread of SPDK's.
pub type Call = unsafe extern "C" fn(context: *mut c_void);
/// The end of an operation.
pub type Done = unsafe extern "C" fn(context: *mut c_void, value: u64, error: i32);
/// One turn of a reactor.
pub type Poll = unsafe extern "C" fn(context: *mut c_void) -> i32;
/// One line of SPDK's log.
pub type Log = unsafe extern "C" fn(level: i32, text: *const c_char);

macro_rules! opaque {
    ($($name:ident)+) => {
        $(
            #[doc = "Known to the other side alone."]
            #[repr(C)]
            #[derive(Debug)]
            pub struct $name {
                _private: [u8; 0],
            }
        )+
    };
}

opaque! { spdk_bdev_desc spdk_blob spdk_blob_store lobos_spdk_reactor lobos_spdk_queue }

#[repr(C)]
#[derive(Debug)]
pub struct lobos_spdk_start {
    pub reactor_mask: *const c_char,
    pub config: *const c_char,
    pub config_bytes: usize,
    pub rpc: *const c_char,
    pub pci: *const c_char,
    pub any_pci: bool,
    pub no_huge: bool,
    pub memory_mib: i32,
    pub log: Log,
    pub ready: Call,
    pub context: *mut c_void,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lobos_spdk_bdev {
    pub blocks: u64,
    pub block_bytes: u32,
    pub has_write_cache: bool,
    pub can_flush: bool,
    pub can_unmap: bool,
    pub product: [c_char; 64],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct lobos_spdk_store {
    pub cluster_bytes: u64,
    pub io_unit_bytes: u64,
    pub clusters: u64,
    pub free_clusters: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct lobos_spdk_stats {
    pub reads: u64,
    pub writes: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
}

pub const LOBOS_SPDK_READ: u32 = 0;
pub const LOBOS_SPDK_WRITE: u32 = 1;
pub const LOBOS_SPDK_ZERO: u32 = 2;
pub const LOBOS_SPDK_UNMAP: u32 = 3;
pub const LOBOS_SPDK_FLUSH: u32 = 4;
pub const LOBOS_SPDK_READ_BDEV: u32 = 5;

unsafe extern "C" {
    pub fn lobos_spdk_version() -> *const c_char;
    pub fn lobos_spdk_run(start: *const lobos_spdk_start) -> i32;
    pub fn lobos_spdk_stop();
    pub fn lobos_spdk_send(call: Call, context: *mut c_void) -> i32;

    pub fn lobos_spdk_reactor_start(
        core: u32,
        poll: Poll,
        context: *mut c_void,
    ) -> *mut lobos_spdk_reactor;
    pub fn lobos_spdk_reactor_send(
        reactor: *mut lobos_spdk_reactor,
        call: Call,
        context: *mut c_void,
    ) -> i32;
    pub fn lobos_spdk_reactor_end(reactor: *mut lobos_spdk_reactor);
    pub fn lobos_spdk_ticks(busy: *mut u64, idle: *mut u64) -> i32;

    pub fn lobos_spdk_bdev_open(
        name: *const c_char,
        desc: *mut *mut spdk_bdev_desc,
        about: *mut lobos_spdk_bdev,
    ) -> i32;
    pub fn lobos_spdk_bdev_close(desc: *mut spdk_bdev_desc);
    pub fn lobos_spdk_bdev_stats(
        desc: *mut spdk_bdev_desc,
        stats: *mut lobos_spdk_stats,
        done: Done,
        context: *mut c_void,
    );
    pub fn lobos_spdk_store_load(
        name: *const c_char,
        r#type: *const c_char,
        queue_depth: u32,
        done: Done,
        context: *mut c_void,
    );
    pub fn lobos_spdk_store_create(
        name: *const c_char,
        r#type: *const c_char,
        queue_depth: u32,
        cluster_bytes: u32,
        metadata_pages: u32,
        done: Done,
        context: *mut c_void,
    );
    pub fn lobos_spdk_store_unload(store: *mut spdk_blob_store, done: Done, context: *mut c_void);
    pub fn lobos_spdk_store_describe(store: *mut spdk_blob_store, about: *mut lobos_spdk_store);
    pub fn lobos_spdk_store_super(store: *mut spdk_blob_store, done: Done, context: *mut c_void);
    pub fn lobos_spdk_store_set_super(
        store: *mut spdk_blob_store,
        id: u64,
        done: Done,
        context: *mut c_void,
    );
    pub fn lobos_spdk_blob_create(
        store: *mut spdk_blob_store,
        clusters: u64,
        done: Done,
        context: *mut c_void,
    );
    pub fn lobos_spdk_blob_open(
        store: *mut spdk_blob_store,
        id: u64,
        done: Done,
        context: *mut c_void,
    );
    pub fn lobos_spdk_blob_close(blob: *mut spdk_blob, done: Done, context: *mut c_void);
    pub fn lobos_spdk_blob_clusters(blob: *mut spdk_blob) -> u64;

    pub fn lobos_spdk_queue_open(
        desc: *mut spdk_bdev_desc,
        store: *mut spdk_blob_store,
        blob: *mut spdk_blob,
    ) -> *mut lobos_spdk_queue;
    pub fn lobos_spdk_queue_close(queue: *mut lobos_spdk_queue);
    pub fn lobos_spdk_submit(
        queue: *mut lobos_spdk_queue,
        operation: u32,
        buffer: *mut c_void,
        offset: u64,
        size: u64,
        done: Done,
        context: *mut c_void,
    ) -> i32;

    pub fn lobos_spdk_memory(bytes: usize) -> *mut c_void;
    pub fn lobos_spdk_memory_free(memory: *mut c_void);
}
