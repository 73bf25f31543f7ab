//! Memory that devices reach, and whether this machine has enough of it.

#![expect(unsafe_code, reason = "memory for transfers comes from SPDK")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use lobos_spdk_sys as sys;

use super::{SpdkError, SpdkOptions};
use crate::io::dma::Source;

/// Where transfer buffers come from.
pub(super) const SOURCE: Source = Source {
    allocate,
    free: free_unless_frozen,
};

fn allocate(bytes: usize) -> Option<NonNull<u8>> {
    if IS_FROZEN.load(Ordering::Acquire) {
        return None;
    }
    // SAFETY: any thread may call it while SPDK runs.
    let memory = NonNull::new(unsafe { sys::lobos_spdk_memory(bytes) })?.cast::<u8>();
    // SAFETY: the memory is `bytes` long and ours alone. It becomes initialised here.
    unsafe { memory.write_bytes(0, bytes) };
    Some(memory)
}

/// # Safety
/// `memory` came from [`allocate`] and is freed once.
unsafe fn free_unless_frozen(memory: NonNull<u8>) {
    if !IS_FROZEN.load(Ordering::Acquire) {
        // SAFETY: by this function's contract; SPDK runs until `freeze`.
        unsafe { sys::lobos_spdk_memory_free(memory.as_ptr().cast()) };
    }
}

/// SPDK ends: its memory goes with the process.
pub(super) fn freeze() {
    IS_FROZEN.store(true, Ordering::Release);
}

/// Refuses to start where there are fewer huge pages than asked for, before SPDK does so in words
/// that do not help.
pub(super) fn check(options: &SpdkOptions) -> Result<(), SpdkError> {
    if options.no_huge {
        return Ok(());
    }
    let Ok(memory) = procfs_meminfo() else {
        return Ok(());
    };
    let (free, page_bytes) = memory;
    let page_mib = (page_bytes >> 20).max(1);
    let needed = u64::from(options.memory_mib).div_ceil(page_mib);
    if free >= needed {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        return match mounts.is_empty() || mounts.contains(" hugetlbfs ") {
            true => Ok(()),
            false => Err(SpdkError::NoHugetlbfs),
        };
    }
    Err(SpdkError::HugePages {
        needed,
        free,
        missing: needed - free,
        page_mib,
    })
}

/// Free huge pages and their size in bytes.
fn procfs_meminfo() -> Result<(u64, u64), procfs::ProcError> {
    use procfs::Current as _;
    let memory = procfs::Meminfo::current()?;
    let free = memory.hugepages_free.unwrap_or(0);
    Ok((free, memory.hugepagesize.unwrap_or(2 << 20)))
}

static IS_FROZEN: AtomicBool = AtomicBool::new(false);
