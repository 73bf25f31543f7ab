//! Memory for device transfers: aligned, owned by the transfer while it is in flight, used again.

#![expect(
    unsafe_code,
    reason = "aligned memory comes from the allocator; `Block` owns it"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// 4 KiB: the grain of everything on the device.
pub const BLOCK_BYTES: usize = 4096;

/// A bounded stock of idle blocks of memory, one shelf per power of two from [`BLOCK_BYTES`] to
/// [`SHELF_BYTES_MAX`]. An empty shelf allocates, a full stock frees what comes back; what is in
/// use is bounded by whoever admits the work (`budget`). Cheap to clone.
#[derive(Clone, Debug)]
pub struct BufferPool {
    stock: Arc<Stock>,
}

impl BufferPool {
    /// A pool that keeps at most `idle_bytes_max` while nobody uses them.
    pub fn new(idle_bytes_max: usize) -> Self {
        Self {
            stock: Arc::new(Stock {
                shelves: Mutex::new(Shelves::default()),
                idle_bytes_max,
                source: None,
            }),
        }
    }

    /// The same of memory that a device prefers, as long as there is any.
    #[cfg(feature = "spdk")]
    pub(super) fn from_source(idle_bytes_max: usize, source: Source) -> Self {
        Self {
            stock: Arc::new(Stock {
                shelves: Mutex::new(Shelves::default()),
                idle_bytes_max,
                source: Some(source),
            }),
        }
    }

    /// `size_bytes` zeros, rounded up to whole blocks.
    pub fn take(&self, size_bytes: usize) -> DmaBuf {
        let mut buffer = self.take_empty(size_bytes);
        buffer.extend_zeros(buffer.capacity);
        buffer
    }

    /// Room for `capacity_bytes`, rounded up to whole blocks, of which nothing is visible until
    /// it is appended or read from a device.
    pub fn take_empty(&self, capacity_bytes: usize) -> DmaBuf {
        let capacity = capacity_bytes.max(1).next_multiple_of(BLOCK_BYTES);
        DmaBuf {
            block: Some(self.stock.take(capacity)),
            capacity,
            valid: 0,
            stock: Arc::clone(&self.stock),
        }
    }

    /// Bytes that lie idle.
    pub fn idle_bytes(&self) -> usize {
        self.stock.lock().idle_bytes
    }
}

#[derive(Debug)]
struct Stock {
    shelves: Mutex<Shelves>,
    idle_bytes_max: usize,
    /// `None`: the allocator of the process.
    source: Option<Source>,
}

/// Memory of a device's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    /// Initialised memory of that many bytes at a multiple of [`BLOCK_BYTES`]; `None`: no more.
    pub(super) allocate: fn(usize) -> Option<NonNull<u8>>,
    /// Takes back what `allocate` gave, once.
    pub(super) free: unsafe fn(NonNull<u8>),
}

#[derive(Debug, Default)]
struct Shelves {
    by_order: [Vec<Block>; SHELVES],
    idle_bytes: usize,
}

impl Stock {
    fn take(&self, capacity: usize) -> Block {
        let size = size_of_block(capacity);
        let idle = shelf_of(size).and_then(|shelf| {
            let mut shelves = self.lock();
            let block = shelves.by_order.get_mut(shelf)?.pop()?;
            shelves.idle_bytes -= size;
            Some(block)
        });
        idle.unwrap_or_else(|| Block::new(size, self.source))
    }

    fn put_back(&self, block: Block) {
        let size = block.layout.size();
        let Some(shelf) = shelf_of(size) else { return };
        let mut shelves = self.lock();
        if shelves.idle_bytes + size > self.idle_bytes_max {
            return;
        }
        if let Some(stack) = shelves.by_order.get_mut(shelf) {
            stack.push(block);
            shelves.idle_bytes += size;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        // A stock of plain memory is whole whatever happened to the thread that held the lock.
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes to allocate for `capacity`: a shelf's size where there is one.
fn size_of_block(capacity: usize) -> usize {
    if capacity <= SHELF_BYTES_MAX {
        capacity.next_power_of_two()
    } else {
        capacity
    }
}

fn shelf_of(size: usize) -> Option<usize> {
    (size <= SHELF_BYTES_MAX).then(|| (size.ilog2() - BLOCK_BYTES.ilog2()) as usize)
}

/// Owned memory of whole blocks for one transfer; it goes back to its pool when it is dropped.
///
/// # Invariants
/// `block` is `Some` until the drop and holds at least `capacity` bytes; `valid <= capacity`. Only
/// the first `valid` bytes are from this use; the rest may be from an earlier one and is never
/// shown.
pub struct DmaBuf {
    block: Option<Block>,
    capacity: usize,
    valid: usize,
    stock: Arc<Stock>,
}

impl DmaBuf {
    /// Bytes that fit, a multiple of [`BLOCK_BYTES`]: what a read fills.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends as much of `bytes` as fits and says how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.capacity - self.valid);
        let start = self.valid;
        self.valid += count;
        let target = self.get_mut(start..);
        if let (Some(target), Some(bytes)) = (target, bytes.get(..count)) {
            target.copy_from_slice(bytes);
        }
        count
    }

    /// Appends zeros up to a whole number of blocks.
    pub fn pad(&mut self) {
        self.extend_zeros(self.valid.next_multiple_of(BLOCK_BYTES));
    }

    /// Appends zeros up to `size_bytes`, or up to the capacity.
    pub fn extend_zeros(&mut self, size_bytes: usize) {
        let start = self.valid;
        self.valid = size_bytes.clamp(self.valid, self.capacity);
        if let Some(target) = self.get_mut(start..) {
            target.fill(0);
        }
    }

    /// Forgets all but the first `size_bytes`.
    pub fn truncate(&mut self, size_bytes: usize) {
        self.valid = self.valid.min(size_bytes);
    }

    /// The bytes of `range` without a copy; an empty `Bytes` where the range is not all valid.
    /// The memory goes back to its pool with the last `Bytes` over it.
    pub fn into_bytes(self, range: Range<usize>) -> Bytes {
        if range.start >= range.end || range.end > self.valid {
            return Bytes::new();
        }
        Bytes::from_owner(self).slice(range)
    }

    /// Where a device writes: `capacity` bytes, initialised, whose first `size_bytes` become
    /// visible through [`DmaBuf::set_filled`].
    pub(super) fn room(&mut self) -> *mut u8 {
        self.base().as_ptr()
    }

    /// The whole room as a slice, for transfers that fill it before anything is shown.
    pub(super) fn room_mut(&mut self) -> &mut [u8] {
        // SAFETY: the block is initialised memory of at least `capacity` bytes that this buffer
        // owns alone, and the borrow of `self` keeps it so.
        unsafe { std::slice::from_raw_parts_mut(self.base().as_ptr(), self.capacity) }
    }

    /// A device has filled the first `size_bytes`.
    pub(super) fn set_filled(&mut self, size_bytes: usize) {
        self.valid = size_bytes.min(self.capacity);
    }

    /// The memory is the device's own, so that it reaches it.
    #[cfg(feature = "spdk")]
    pub(super) fn is_of_device(&self) -> bool {
        let source = self.block.as_ref().map(|block| block.source);
        source.is_some_and(|source| source.is_some())
    }

    fn base(&self) -> NonNull<u8> {
        self.block
            .as_ref()
            .map_or(NonNull::dangling(), |block| block.memory)
    }
}

impl Deref for DmaBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the first `valid` bytes are initialised and inside the block, by the invariants.
        unsafe { std::slice::from_raw_parts(self.base().as_ptr(), self.valid) }
    }
}

impl DerefMut for DmaBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.base().as_ptr(), self.valid) }
    }
}

impl AsRef<[u8]> for DmaBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        self.valid = 0;
        if let Some(block) = self.block.take() {
            self.stock.put_back(block);
        }
    }
}

impl fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaBuf({} of {} bytes)", self.valid, self.capacity)
    }
}

/// One allocation.
///
/// # Invariants
/// `memory` came from `source`, or without one from the allocator with `layout` (of non-zero
/// size), is initialised, and is freed once, in `drop`.
#[derive(Debug)]
struct Block {
    memory: NonNull<u8>,
    layout: Layout,
    source: Option<Source>,
}

// SAFETY: a block is plain memory with one owner.
unsafe impl Send for Block {}
// SAFETY: a shared block is only read.
unsafe impl Sync for Block {}

impl Block {
    fn new(size_bytes: usize, source: Option<Source>) -> Self {
        let Ok(layout) = Layout::from_size_align(size_bytes.max(BLOCK_BYTES), BLOCK_BYTES) else {
            handle_alloc_error(Layout::new::<[u8; BLOCK_BYTES]>());
        };
        let own = source.and_then(|source| (source.allocate)(layout.size()));
        if let Some(memory) = own {
            return Self {
                memory,
                layout,
                source,
            };
        }
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        match NonNull::new(memory) {
            Some(memory) => Self {
                memory,
                layout,
                source: None,
            },
            None => handle_alloc_error(layout),
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        match self.source {
            // SAFETY: by the invariants it came from this source and is freed only here.
            Some(source) => unsafe { (source.free)(self.memory) },
            // SAFETY: by the invariants, `memory` was allocated with this layout and is freed
            // only here.
            None => unsafe { dealloc(self.memory.as_ptr(), self.layout) },
        }
    }
}

/// Larger blocks are freed when they come back.
const SHELF_BYTES_MAX: usize = 4 << 20;
const SHELVES: usize = (SHELF_BYTES_MAX.ilog2() - BLOCK_BYTES.ilog2()) as usize + 1;

const _: () = assert!(SHELF_BYTES_MAX.is_power_of_two() && BLOCK_BYTES.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_whole_blocks_and_comes_back_without_its_past() {
        let pool = BufferPool::new(1 << 20);
        let mut first = pool.take(5000);
        assert_eq!(first.len(), 8192);
        assert_eq!(first.as_ptr() as usize % BLOCK_BYTES, 0);
        first.fill(0xee);
        let place = first.as_ptr();
        drop(first);
        assert_eq!(pool.idle_bytes(), 8192);

        let second = pool.take_empty(8192);
        assert_eq!((second.len(), second.capacity()), (0, 8192));
        drop(second);
        let third = pool.take(8192);
        assert_eq!(third.as_ptr(), place);
        assert!(third.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn appending_stops_at_the_capacity_and_padding_at_the_block() {
        let pool = BufferPool::new(0);
        let mut buffer = pool.take_empty(4096);
        assert_eq!(buffer.append(&[1; 100]), 100);
        buffer.pad();
        assert_eq!(buffer.len(), 4096);
        assert_eq!((buffer[99], buffer[100]), (1, 0));
        assert_eq!(buffer.append(&[2; 10]), 0);
        buffer.truncate(10);
        assert_eq!(buffer.append(&[3; 5000]), 4086);
    }

    #[test]
    fn bytes_share_the_memory_and_give_it_back() {
        let pool = BufferPool::new(1 << 20);
        let mut buffer = pool.take(4096);
        buffer[5] = 7;
        let bytes = buffer.into_bytes(5..6);
        let copy = bytes.clone();
        drop(bytes);
        assert_eq!((&copy[..], pool.idle_bytes()), (&[7][..], 0));
        drop(copy);
        assert_eq!(pool.idle_bytes(), 4096);
        assert!(pool.take(4096).into_bytes(0..4097).is_empty());
    }

    #[test]
    fn the_stock_is_bounded() {
        let pool = BufferPool::new(8192);
        let taken: Vec<_> = (0..4).map(|_| pool.take(4096)).collect();
        drop(taken);
        assert_eq!(pool.idle_bytes(), 8192);
        drop(pool.take(SHELF_BYTES_MAX + 1));
        assert_eq!(pool.idle_bytes(), 8192);
    }
}
