//! The file or block device below a blob store: who owns it, how large it is, how it is reached,
//! and the calls on it that block.

#![expect(
    unsafe_code,
    reason = "discard and zero-out of block devices are ioctls that rustix does not have"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FlockOperation, IFlags, Mode, OFlags, SeekFrom, StatxFlags,
};
use rustix::io::Errno;

use super::dma::{BLOCK_BYTES, BufferPool};
use super::files::retry;
use crate::metrics::DeviceTimes;

/// Who may have the device open beside us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and write, nobody else.
    Exclusive,
    /// Read only, beside other readers; refused while a writer has it.
    Shared,
}

/// Why a device could not be opened, created or grown.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("{path}: another process has it open; stop that process, or ask its metrics")]
    InUse { path: PathBuf },
    #[error("{path}: it is neither a file nor a block device")]
    WrongKind { path: PathBuf },
    #[error("{path}: its blocks are {block_bytes} bytes; at most {BLOCK_BYTES} are supported")]
    LargeBlocks { path: PathBuf, block_bytes: u32 },
    #[error("{path}: it exists already; name another path, or open it")]
    Exists { path: PathBuf },
    #[error("{path}: there is no room for {size_bytes} bytes on its file system")]
    NoRoom { path: PathBuf, size_bytes: u64 },
    #[error(
        "{path}: this file system copies on write and did not let that be turned off for the \
         file ({source}); place it on another file system"
    )]
    CopyOnWrite { path: PathBuf, source: io::Error },
    #[error("{path}: it cannot become smaller: it has {size_bytes} bytes")]
    Shrink { path: PathBuf, size_bytes: u64 },
    #[error("{path}: cannot {action}: {source}")]
    Io {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
}

/// An open file or block device.
///
/// # Invariants
/// `owner` holds the lock and is referenced by nothing else, so that closing it frees the device
/// at once; transfers in flight keep the `Media` alive.
#[derive(Debug)]
pub(super) struct Media {
    pub(super) io: Arc<OwnedFd>,
    owner: OwnedFd,
    path: PathBuf,
    size_bytes: AtomicU64,
    pub(super) is_block: bool,
    pub(super) is_writable: bool,
    /// `None`: direct; otherwise why not.
    pub(super) buffered_because: Option<Box<str>>,
    pub(super) logical_block_bytes: u32,
    pub(super) buffers: BufferPool,
    pub(super) times: DeviceTimes,
}

impl Media {
    pub(super) fn open(
        path: &Path,
        access: Access,
        wants_direct: bool,
        buffers: BufferPool,
    ) -> Result<Self, DeviceError> {
        let failed = |action| move |errno: Errno| io_error(path, action, errno);
        let is_writable = access == Access::Exclusive;
        let is_block = is_block_device(path)?;
        let mode = if is_writable {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        };
        let mode = mode | OFlags::CLOEXEC;
        let claim = if is_block && is_writable {
            OFlags::EXCL
        } else {
            OFlags::empty()
        };
        let owner = match retry(|| rustix::fs::openat(CWD, path, mode | claim, Mode::empty())) {
            Err(Errno::BUSY) => Err(DeviceError::InUse { path: path.into() }),
            result => result.map_err(failed("open it")),
        }?;
        lock(&owner, access, path)?;
        let logical_block_bytes = logical_block(&owner, is_block, path)?;
        let (io, buffered_because) = open_for_io(&owner, mode, wants_direct, &buffers)
            .map_err(failed("open it a second time through /proc/self/fd"))?;
        let media = Self {
            io: Arc::new(io),
            owner,
            path: path.into(),
            size_bytes: AtomicU64::new(0),
            is_block,
            is_writable,
            buffered_because,
            logical_block_bytes,
            buffers,
            times: DeviceTimes::default(),
        };
        media.refresh_size().map_err(|source| DeviceError::Io {
            path: path.into(),
            action: "find its size",
            source,
        })?;
        Ok(media)
    }

    /// Whole blocks only.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    /// Looks up the size again.
    pub(super) fn refresh_size(&self) -> io::Result<u64> {
        let size = retry(|| rustix::fs::seek(&self.owner, SeekFrom::End(0)))?;
        let size = size - size % BLOCK_BYTES as u64;
        self.size_bytes.store(size, Ordering::Release);
        Ok(size)
    }

    /// Makes a file larger; a block device only notices what it has become.
    pub(super) fn grow(&self, size_bytes: u64) -> Result<u64, DeviceError> {
        let path = &self.path;
        let before = self.refresh_size().map_err(|source| DeviceError::Io {
            path: path.clone(),
            action: "find its size",
            source,
        })?;
        if size_bytes < before {
            return Err(DeviceError::Shrink {
                path: path.clone(),
                size_bytes: before,
            });
        }
        if !self.is_block {
            reserve(&self.owner, size_bytes, path)?;
            retry(|| rustix::fs::fsync(&self.owner))
                .map_err(|errno| io_error(path, "make its new size durable", errno))?;
        } else if size_bytes > before {
            return Err(DeviceError::NoRoom {
                path: path.clone(),
                size_bytes,
            });
        }
        self.refresh_size().map_err(|source| DeviceError::Io {
            path: path.clone(),
            action: "find its size",
            source,
        })
    }

    /// Fills all of `target`. Blocks.
    pub(super) fn read_exact(&self, offset_bytes: u64, target: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = target.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset_bytes + done as u64;
            match retry(|| rustix::io::pread(&self.io, &mut *rest, at))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done = self.progress(done, count, target.len())?,
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`. Blocks.
    pub(super) fn write_exact(&self, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let at = offset_bytes + done as u64;
            match retry(|| rustix::io::pwrite(&self.io, rest, at))? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => done = self.progress(done, count, bytes.len())?,
            }
        }
        Ok(())
    }

    /// Bytes done of `size` after a transfer moved `count` more. What follows a short direct
    /// transfer must start at a block: the broken block is moved again.
    pub(super) fn progress(&self, done: usize, count: usize, size: usize) -> io::Result<usize> {
        let reached = done + count;
        if reached >= size || self.buffered_because.is_some() {
            return Ok(reached.min(size));
        }
        match reached - reached % BLOCK_BYTES {
            whole if whole > done => Ok(whole),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Waits until the device says that what was written is on stable media. Blocks.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(retry(|| rustix::fs::fdatasync(&self.io))?)
    }

    /// Tells the device that the bytes are not needed; they read as zeros or as they were. Blocks.
    pub(super) fn discard(&self, offset_bytes: u64, size_bytes: u64) -> io::Result<()> {
        let result = if self.is_block {
            self.block_range(BLKDISCARD, offset_bytes, size_bytes)
        } else {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            retry(|| rustix::fs::fallocate(&self.io, flags, offset_bytes, size_bytes))
        };
        match result {
            // A device that cannot discard keeps the bytes, which is allowed.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Zeros the range without sending the bytes; `false`: this device cannot. Blocks.
    pub(super) fn zero_quickly(&self, offset_bytes: u64, size_bytes: u64) -> io::Result<bool> {
        let result = if self.is_block {
            self.block_range(BLKZEROOUT, offset_bytes, size_bytes)
        } else {
            let flags = FallocateFlags::from_bits_retain(FALLOC_FL_WRITE_ZEROES)
                | FallocateFlags::KEEP_SIZE;
            retry(|| rustix::fs::fallocate(&self.io, flags, offset_bytes, size_bytes))
        };
        match result {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NOTTY) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn block_range(
        &self,
        request: libc::Ioctl,
        offset_bytes: u64,
        size_bytes: u64,
    ) -> Result<(), Errno> {
        let range = [offset_bytes, size_bytes];
        retry(|| {
            // SAFETY: the descriptor is open, and both requests only read two u64 from `range`.
            let result = unsafe {
                libc::ioctl(
                    self.io.as_raw_fd(),
                    request,
                    (&raw const range).cast::<u8>(),
                )
            };
            match result {
                -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
                _ => Ok(()),
            }
        })
    }
}

/// Creates a file of `size_bytes` (rounded down to whole blocks) with its space reserved, and
/// makes its name durable. Its bytes read as zeros; writing them once
/// ([`super::device::Device::zero`])
/// is what makes later writes fast. Undone if it fails.
pub fn create_file(path: &Path, size_bytes: u64) -> Result<(), DeviceError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = match retry(|| rustix::fs::openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)) {
        Err(Errno::EXIST) => return Err(DeviceError::Exists { path: path.into() }),
        result => result.map_err(|errno| io_error(path, "create it", errno))?,
    };
    let made = prepare_file(&file, path, size_bytes - size_bytes % BLOCK_BYTES as u64);
    if made.is_err() {
        let _already_failing = rustix::fs::unlinkat(CWD, path, AtFlags::empty());
    }
    made
}

fn prepare_file(file: &OwnedFd, path: &Path, size_bytes: u64) -> Result<(), DeviceError> {
    let is_btrfs =
        retry(|| rustix::fs::fstatfs(file)).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(BTRFS));
    if is_btrfs {
        // Must come before the first byte: the flag has no effect on a file with content.
        let flags = rustix::fs::ioctl_getflags(file).unwrap_or(IFlags::empty());
        rustix::fs::ioctl_setflags(file, flags | IFlags::NOCOW).map_err(|errno| {
            DeviceError::CopyOnWrite {
                path: path.into(),
                source: errno.into(),
            }
        })?;
    }
    reserve(file, size_bytes, path)?;
    retry(|| rustix::fs::fsync(file)).map_err(|errno| io_error(path, "sync it", errno))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    retry(|| rustix::fs::openat(CWD, parent, flags, Mode::empty()))
        .and_then(|parent| retry(|| rustix::fs::fsync(&parent)))
        .map_err(|errno| io_error(path, "sync the directory it is in", errno))
}

/// Gives the file at least `size_bytes` of reserved space where its file system can reserve.
fn reserve(file: &OwnedFd, size_bytes: u64, path: &Path) -> Result<(), DeviceError> {
    if size_bytes == 0 {
        return Ok(());
    }
    let reserved = retry(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size_bytes));
    let sized = match reserved {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => retry(|| rustix::fs::ftruncate(file, size_bytes)),
        result => result,
    };
    match sized {
        Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Err(DeviceError::NoRoom {
            path: path.into(),
            size_bytes,
        }),
        result => result.map_err(|errno| io_error(path, "reserve its space", errno)),
    }
}

fn is_block_device(path: &Path) -> Result<bool, DeviceError> {
    let stat =
        retry(|| rustix::fs::stat(path)).map_err(|errno| io_error(path, "open it", errno))?;
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::RegularFile => Ok(false),
        rustix::fs::FileType::BlockDevice => Ok(true),
        _ => Err(DeviceError::WrongKind { path: path.into() }),
    }
}

fn lock(owner: &OwnedFd, access: Access, path: &Path) -> Result<(), DeviceError> {
    let operation = match access {
        Access::Exclusive => FlockOperation::NonBlockingLockExclusive,
        Access::Shared => FlockOperation::NonBlockingLockShared,
    };
    match retry(|| rustix::fs::flock(owner, operation)) {
        Err(Errno::AGAIN) => Err(DeviceError::InUse { path: path.into() }),
        result => result.map_err(|errno| io_error(path, "lock it", errno)),
    }
}

/// The unit of direct transfers in bytes; 512 where nobody says.
fn logical_block(owner: &OwnedFd, is_block: bool, path: &Path) -> Result<u32, DeviceError> {
    let block_bytes = if is_block {
        rustix::fs::ioctl_blksszget(owner)
            .map_err(|errno| io_error(path, "ask its block size", errno))?
    } else {
        direct_alignment(owner).unwrap_or(0).max(512)
    };
    if block_bytes as usize > BLOCK_BYTES {
        return Err(DeviceError::LargeBlocks {
            path: path.into(),
            block_bytes,
        });
    }
    Ok(block_bytes)
}

/// What statx says about direct transfers: `Some(0)`: not possible; `None`: it does not say.
fn direct_alignment(file: &OwnedFd) -> Option<u32> {
    let found = retry(|| rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN));
    let found = found.ok()?;
    let says = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::DIOALIGN);
    says.then_some(found.stx_dio_offset_align)
}

/// A description of its own for transfers, direct if possible, and why not otherwise.
fn open_for_io(
    owner: &OwnedFd,
    mode: OFlags,
    wants_direct: bool,
    buffers: &BufferPool,
) -> Result<(OwnedFd, Option<Box<str>>), Errno> {
    let path = format!("/proc/self/fd/{}", owner.as_raw_fd());
    let open = |flags| retry(|| rustix::fs::openat(CWD, path.as_str(), flags, Mode::empty()));
    let reason = match wants_direct {
        false => "the configuration asks for it".into(),
        true => match direct_alignment(owner) {
            Some(0) => "the file system cannot transfer directly".into(),
            _ => match open(mode | OFlags::DIRECT).and_then(|file| try_direct(file, buffers)) {
                Ok(file) => return Ok((file, None)),
                Err(errno) => format!("a direct read was refused: {errno}").into_boxed_str(),
            },
        },
    };
    Ok((open(mode)?, Some(reason)))
}

/// Some file systems accept the flag and refuse the transfer.
fn try_direct(file: OwnedFd, buffers: &BufferPool) -> Result<OwnedFd, Errno> {
    let mut probe = buffers.take(BLOCK_BYTES);
    match retry(|| rustix::io::pread(&file, &mut *probe, 0)) {
        Err(errno @ (Errno::INVAL | Errno::OPNOTSUPP)) => Err(errno),
        // Anything else says nothing against direct transfers, and will be met again.
        _ => Ok(file),
    }
}

fn io_error(path: &Path, action: &'static str, errno: Errno) -> DeviceError {
    DeviceError::Io {
        path: path.into(),
        action,
        source: errno.into(),
    }
}

/// Linux uapi `BLKDISCARD`: _IO(0x12, 119).
const BLKDISCARD: libc::Ioctl = 0x1277;
/// Linux uapi `BLKZEROOUT`: _IO(0x12, 127).
const BLKZEROOUT: libc::Ioctl = 0x127f;
/// Linux 6.17 uapi.
const FALLOC_FL_WRITE_ZEROES: u32 = 0x80;
/// BTRFS_SUPER_MAGIC.
const BTRFS: u64 = 0x9123_683e;
