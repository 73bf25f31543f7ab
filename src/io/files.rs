//! Files of a directory tree: confined walks, attributes, locks and whole reads and writes.
//!
//! Every function is one system call or a short loop around one, answers the plain [`Errno`], and
//! may block unless it says otherwise.

#![expect(
    unsafe_code,
    reason = "open file description locks are not in rustix; see `ofd_lock`"
)]

use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, XattrFlags};
use rustix::io::{Errno, ReadWriteFlags};

/// A directory whose descendants are opened by relative path, and nothing else: no `..` above it,
/// no symbolic link, no magic link.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    /// Without `openat2` (old kernels, seccomp filters) the walk goes component by component.
    has_openat2: bool,
}

impl Tree {
    pub(crate) fn from_root(root: OwnedFd) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let probe = rustix::fs::openat2(&root, ".", flags, Mode::empty(), CONFINED);
        Self {
            has_openat2: !matches!(probe, Err(Errno::NOSYS | Errno::PERM)),
            root,
        }
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens `path` (relative, at least one component). A symbolic link on the way is `ELOOP`
    /// (or `ENOTDIR`); a final one is opened itself with `O_PATH | O_NOFOLLOW`, else `ELOOP`.
    pub(crate) fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        if !self.has_openat2 {
            return self.open_by_component(path, flags);
        }
        // EAGAIN: a rename elsewhere raced with the walk, which gives up rather than escape.
        let mut last = Errno::AGAIN;
        for _ in 0..OPEN_RACES_MAX {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), CONFINED) {
                Err(errno @ (Errno::AGAIN | Errno::INTR)) => last = errno,
                result => return result,
            }
        }
        Err(last)
    }

    /// As [`Tree::open`], but `EAGAIN` when it would have to read a directory or an inode from the
    /// device, or cannot tell. Does not block.
    pub(crate) fn open_cached(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        if !self.has_openat2 {
            return Err(Errno::AGAIN);
        }
        let resolve = CONFINED | ResolveFlags::CACHED;
        let flags = flags | OFlags::CLOEXEC;
        match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
            // EINVAL: kernels before 5.12 do not know the flag.
            Err(Errno::INVAL | Errno::INTR) => Err(Errno::AGAIN),
            result => result,
        }
    }

    fn open_by_component(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut above: Option<OwnedFd> = None;
        let mut rest = path;
        loop {
            let at = above.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            match rest.split_once('/') {
                Some((name, tail)) => {
                    let name = plain_component(name)?;
                    let next = retry(|| rustix::fs::openat(at, name, step, Mode::empty()))?;
                    above = Some(next);
                    rest = tail;
                }
                None => {
                    let name = if rest == "." {
                        rest
                    } else {
                        plain_component(rest)?
                    };
                    let flags = flags | OFlags::NOFOLLOW;
                    return retry(|| rustix::fs::openat(at, name, flags, Mode::empty()));
                }
            }
        }
    }
}

/// What a file system says about one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) identity: Identity,
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Nanoseconds since 1970; 0 where the file system does not record it.
    pub(crate) born_nanos: i64,
    pub(crate) mount_id: u64,
}

/// What tells one state of one file's bytes from another: any write changes it, as far as
/// timestamps can show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size_bytes: u64,
    /// Nanoseconds since 1970.
    pub(crate) modified_nanos: i64,
    pub(crate) changed_nanos: i64,
}

impl Stat {
    pub(crate) fn kind(&self) -> Kind {
        match self.mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::Link,
            _ => Kind::Special,
        }
    }

    /// The same file or directory, whatever is in it.
    pub(crate) fn node(&self) -> Node {
        Node {
            device: self.identity.device,
            inode: self.identity.inode,
        }
    }
}

/// Names a file or directory for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Link,
    /// FIFO, device or socket.
    Special,
}

/// The open file itself. Does not block on a local file system.
pub(crate) fn stat(file: impl AsFd) -> Result<Stat, Errno> {
    statx(file.as_fd(), "", AtFlags::EMPTY_PATH)
}

/// The file `name` in `dir`, without following a final link.
pub(crate) fn stat_at(dir: impl AsFd, name: &str) -> Result<Stat, Errno> {
    statx(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
}

/// The file at `path`, final link followed.
pub(crate) fn stat_path(path: &Path) -> Result<Stat, Errno> {
    let flags = AtFlags::empty();
    retry(|| rustix::fs::statx(CWD, path, flags, STATX_MASK)).map(|raw| convert(&raw))
}

fn statx(dir: BorrowedFd<'_>, name: &str, flags: AtFlags) -> Result<Stat, Errno> {
    retry(|| rustix::fs::statx(dir, name, flags, STATX_MASK)).map(|raw| convert(&raw))
}

fn convert(raw: &rustix::fs::Statx) -> Stat {
    let nanos = |t: rustix::fs::StatxTimestamp| {
        t.tv_sec
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(t.tv_nsec))
    };
    Stat {
        identity: Identity {
            device: rustix::fs::makedev(raw.stx_dev_major, raw.stx_dev_minor),
            inode: raw.stx_ino,
            size_bytes: raw.stx_size,
            modified_nanos: nanos(raw.stx_mtime),
            changed_nanos: nanos(raw.stx_ctime),
        },
        mode: u32::from(raw.stx_mode),
        links: raw.stx_nlink,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        born_nanos: if StatxFlags::from_bits_retain(raw.stx_mask).contains(StatxFlags::BTIME) {
            nanos(raw.stx_btime)
        } else {
            0
        },
        mount_id: raw.stx_mnt_id,
    }
}

/// The clock that file systems stamp files with: a change that starts after this call carries a
/// time that is not earlier. Does not block.
pub(crate) fn stamp_clock_nanos() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    now.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec)
}

/// Opens for reading what an `O_PATH` descriptor names: the same file whatever happened to its
/// name since.
pub(crate) fn reopen_for_read(pinned: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = descriptor_path(pinned.as_fd());
    retry(|| rustix::fs::open(path.as_str(), flags, Mode::empty()))
}

/// Where the symbolic link held by an `O_PATH` descriptor points; `ENOENT` if that is not UTF-8.
pub(crate) fn read_link(link: impl AsFd) -> Result<String, Errno> {
    let target = retry(|| rustix::fs::readlinkat(link.as_fd(), "", Vec::new()))?;
    target.into_string().map_err(|_| Errno::NOENT)
}

/// The path that leads to an open file, as the kernel writes it: another one once it was renamed,
/// or its name given to another file.
pub(crate) fn path_of(file: impl AsFd) -> Result<CString, Errno> {
    let path = descriptor_path(file.as_fd());
    retry(|| rustix::fs::readlink(path.as_str(), Vec::new()))
}

/// An unnamed file in `dir`, with the group and access list that `dir` gives its files.
pub(crate) fn create_unnamed(dir: impl AsFd, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(mode);
    retry(|| rustix::fs::openat(dir.as_fd(), ".", flags, mode))
}

/// A new file `name` in `dir`; `EEXIST` if there is one.
pub(crate) fn create_new(dir: impl AsFd, name: &str, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(mode);
    retry(|| rustix::fs::openat(dir.as_fd(), name, flags, mode))
}

/// The file `name` in `dir` for reading and writing, made if it is missing.
pub(crate) fn open_or_create(dir: impl AsFd, name: &str, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(mode);
    retry(|| rustix::fs::openat(dir.as_fd(), name, flags, mode))
}

/// The file `name` in `dir` for reading and writing.
pub(crate) fn open_existing(dir: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    retry(|| rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty()))
}

/// The file `name` in `dir`; a link is `ELOOP`.
pub(crate) fn open_at(dir: impl AsFd, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry(|| rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty()))
}

/// The directory at `path`, which may be a link and whose parents may be links.
pub(crate) fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    retry(|| rustix::fs::open(path, flags, Mode::empty()))
}

/// The directory `name` (one component, or `.`) in `dir`; a link is `ENOTDIR`.
pub(crate) fn open_directory(dir: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry(|| rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty()))
}

pub(crate) fn make_directory(dir: impl AsFd, name: &str, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode);
    retry(|| rustix::fs::mkdirat(dir.as_fd(), name, mode))
}

/// Removes an empty directory.
pub(crate) fn remove_directory(dir: impl AsFd, name: &str) -> Result<(), Errno> {
    retry(|| rustix::fs::unlinkat(dir.as_fd(), name, AtFlags::REMOVEDIR))
}

/// Removes the name of anything but a directory.
pub(crate) fn unlink(dir: impl AsFd, name: &str) -> Result<(), Errno> {
    retry(|| rustix::fs::unlinkat(dir.as_fd(), name, AtFlags::empty()))
}

/// Renames, and replaces what has the new name.
pub(crate) fn rename(
    from: impl AsFd,
    name: &str,
    to: impl AsFd,
    new_name: &str,
) -> Result<(), Errno> {
    retry(|| rustix::fs::renameat(from.as_fd(), name, to.as_fd(), new_name))
}

/// Renames; `EEXIST` if the new name is taken. Where the file system cannot promise that, a look
/// before the renaming has to do.
pub(crate) fn rename_new(
    from: impl AsFd,
    name: &str,
    to: impl AsFd,
    new_name: &str,
) -> Result<(), Errno> {
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    match retry(|| rustix::fs::renameat_with(from.as_fd(), name, to.as_fd(), new_name, flags)) {
        Err(Errno::INVAL | Errno::NOSYS) => match stat_at(to.as_fd(), new_name) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => rename(from, name, to, new_name),
            Err(errno) => Err(errno),
        },
        result => result,
    }
}

/// Waits until the bytes, attributes and metadata of a file, or the names of a directory, are on
/// stable media.
pub(crate) fn sync_all(file: impl AsFd) -> Result<(), Errno> {
    retry(|| rustix::fs::fsync(file.as_fd()))
}

/// Waits until the bytes of a file are on stable media.
pub(crate) fn sync_bytes(file: impl AsFd) -> Result<(), Errno> {
    retry(|| rustix::fs::fdatasync(file.as_fd()))
}

/// Sets the permission bits.
pub(crate) fn set_mode(file: impl AsFd, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode & 0o7777);
    retry(|| rustix::fs::fchmod(file.as_fd(), mode))
}

/// Sets owner and group.
pub(crate) fn set_owner(file: impl AsFd, uid: u32, gid: u32) -> Result<(), Errno> {
    let uid = rustix::fs::Uid::from_raw(uid);
    let gid = rustix::fs::Gid::from_raw(gid);
    retry(|| rustix::fs::fchown(file.as_fd(), Some(uid), Some(gid)))
}

/// Bytes that this user may still write to the file system.
pub(crate) fn free_bytes(dir: impl AsFd) -> Result<u64, Errno> {
    let fs = retry(|| rustix::fs::fstatvfs(dir.as_fd()))?;
    Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
}

/// Bytes that the file system has.
pub(crate) fn capacity_bytes(dir: impl AsFd) -> Result<u64, Errno> {
    let fs = retry(|| rustix::fs::fstatvfs(dir.as_fd()))?;
    Ok(fs.f_blocks.saturating_mul(fs.f_frsize))
}

/// Cuts a file off, or extends it with zeros.
pub(crate) fn set_size(file: impl AsFd, size_bytes: u64) -> Result<(), Errno> {
    retry(|| rustix::fs::ftruncate(file.as_fd(), size_bytes))
}

/// Gives an unnamed file its first name; `EEXIST` if the name is taken.
pub(crate) fn link_unnamed(file: impl AsFd, dir: impl AsFd, name: &str) -> Result<(), Errno> {
    let path = descriptor_path(file.as_fd());
    let flags = AtFlags::SYMLINK_FOLLOW;
    retry(|| rustix::fs::linkat(CWD, path.as_str(), dir.as_fd(), name, flags))
}

/// Fills `target` from `offset_bytes` on; short only at the end of the file.
pub(crate) fn read_at(
    file: impl AsFd,
    target: &mut [u8],
    offset_bytes: u64,
) -> Result<usize, Errno> {
    let mut filled = 0;
    while let Some(rest) = target.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let offset_bytes = offset_bytes.saturating_add(filled as u64);
        match retry(|| rustix::io::pread(file.as_fd(), &mut *rest, offset_bytes))? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// Reads what memory has of `target`, from `offset_bytes` on: `EAGAIN` when that is nothing.
/// Does not block.
pub(crate) fn read_cached(
    file: impl AsFd,
    target: &mut [u8],
    offset_bytes: u64,
) -> Result<usize, Errno> {
    let mut slices = [IoSliceMut::new(target)];
    match rustix::io::preadv2(
        file.as_fd(),
        &mut slices,
        offset_bytes,
        ReadWriteFlags::NOWAIT,
    ) {
        // EOPNOTSUPP and ENOSYS: this file system or kernel cannot say what it has in memory.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Err(Errno::AGAIN),
        result => result,
    }
}

/// Writes all pieces, one after the other, from `offset_bytes` on.
pub(crate) fn write_all_at(
    file: impl AsFd,
    pieces: &[Bytes],
    mut offset_bytes: u64,
) -> Result<(), Errno> {
    let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let batch = rest.get(..SLICES_MAX).unwrap_or(rest);
        let count = retry(|| rustix::io::pwritev(file.as_fd(), batch, offset_bytes))?;
        if count == 0 {
            return Err(Errno::IO);
        }
        offset_bytes = offset_bytes.saturating_add(count as u64);
        IoSlice::advance_slices(&mut rest, count);
    }
    Ok(())
}

/// What [`read_attribute`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    Found,
    Absent,
    /// This file system has no attributes.
    Unsupported,
}

/// The extended attribute `name` of an open file into `target`, which is emptied first.
pub(crate) fn read_attribute(
    file: impl AsFd,
    name: &str,
    target: &mut Vec<u8>,
) -> Result<Attribute, Errno> {
    target.clear();
    let mut capacity = ATTRIBUTE_FIRST_BYTES;
    loop {
        target.reserve(capacity);
        let spare = rustix::buffer::spare_capacity(target);
        match rustix::fs::fgetxattr(file.as_fd(), name, spare) {
            Ok(_) => return Ok(Attribute::Found),
            Err(Errno::NODATA) => return Ok(Attribute::Absent),
            Err(Errno::OPNOTSUPP) => return Ok(Attribute::Unsupported),
            Err(Errno::RANGE) if capacity < ATTRIBUTE_BYTES_MAX => capacity = ATTRIBUTE_BYTES_MAX,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether what is made in the directory gets an access list from it.
pub(crate) fn has_default_list(dir: impl AsFd) -> bool {
    let name = "system.posix_acl_default";
    rustix::fs::fgetxattr(dir.as_fd(), name, &mut [0u8; 0]).is_ok()
}

/// Sets the extended attribute `name` of an open file.
pub(crate) fn write_attribute(file: impl AsFd, name: &str, value: &[u8]) -> Result<(), Errno> {
    let flags = XattrFlags::empty();
    retry(|| rustix::fs::fsetxattr(file.as_fd(), name, value, flags))
}

/// Gives `to` the attributes and the access list of `from`, but for those whose name `is_own`.
pub(crate) fn copy_attributes(
    from: impl AsFd,
    to: impl AsFd,
    is_own: impl Fn(&str) -> bool,
) -> Result<(), Errno> {
    let mut names = Vec::with_capacity(ATTRIBUTE_BYTES_MAX);
    match rustix::fs::flistxattr(from.as_fd(), rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    let mut value = Vec::new();
    for name in names.split(|byte| *byte == 0) {
        // Labels of security modules are for the system to give.
        let name = match std::str::from_utf8(name) {
            Ok(name) if name.starts_with("user.") || name == ACCESS_LIST => name,
            _ => continue,
        };
        if !is_own(name) && read_attribute(from.as_fd(), name, &mut value)? == Attribute::Found {
            write_attribute(to.as_fd(), name, &value)?;
        }
    }
    Ok(())
}

/// Takes the lock on `bytes` of the file for its open file description, without waiting. `false`:
/// another description holds one of them. Does not block on a local file system.
///
/// Such a lock excludes every other *description*, in this process and in others, and ends when
/// the last descriptor of this one is closed. Classic record locks belong to the process: closing
/// any descriptor of the file would drop them.
pub(crate) fn ofd_lock(file: impl AsFd, bytes: ByteSpan) -> Result<bool, Errno> {
    match ofd_set(file.as_fd(), bytes, libc::F_WRLCK) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Gives the lock on `bytes` back.
pub(crate) fn ofd_unlock(file: impl AsFd, bytes: ByteSpan) -> Result<(), Errno> {
    ofd_set(file.as_fd(), bytes, libc::F_UNLCK)
}

/// Bytes of a lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteSpan {
    One(u64),
    All,
}

fn ofd_set(file: BorrowedFd<'_>, bytes: ByteSpan, kind: libc::c_int) -> Result<(), Errno> {
    let (start, length) = match bytes {
        // Offsets are signed: the highest bit is left out.
        ByteSpan::One(at) => (i64::try_from(at & (u64::MAX >> 2)).unwrap_or(0), 1),
        ByteSpan::All => (0, 0),
    };
    let span = libc::flock {
        // The constants are 0 to 2 and the fields are short on every target.
        l_type: libc::c_short::try_from(kind).unwrap_or(0),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or(0),
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    loop {
        // SAFETY: the descriptor is open while `file` is borrowed, and the kernel only reads
        // `span`, which is initialised and lives across the call.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const span) };
        if result != -1 {
            return Ok(());
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EINTR) => {}
            code => return Err(Errno::from_raw_os_error(code.unwrap_or(libc::EIO))),
        }
    }
}

/// Copies `size_bytes` from one file to another inside the kernel, by reference where both lie on
/// a file system that can. Gives the bytes copied: fewer at the end of `source`.
/// Errors besides the usual ones: `EXDEV`, `EINVAL`, `EOPNOTSUPP`, `ENOSYS` where the kernel
/// cannot copy between the two.
pub(crate) fn copy_range(
    source: impl AsFd,
    source_offset_bytes: u64,
    target: impl AsFd,
    target_offset_bytes: u64,
    size_bytes: u64,
) -> Result<u64, Errno> {
    let (mut from, mut to) = (source_offset_bytes, target_offset_bytes);
    let mut left = size_bytes;
    while left > 0 {
        let step = usize::try_from(left.min(COPY_STEP_BYTES)).unwrap_or(usize::MAX);
        let (source, target) = (source.as_fd(), target.as_fd());
        let result =
            rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), step);
        match result {
            Ok(0) => break,
            Ok(count) => left = left.saturating_sub(count as u64),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(size_bytes - left)
}

/// Makes `target` share all bytes of `source`; fails where the file system cannot.
pub(crate) fn clone_file(source: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    retry(|| rustix::fs::ioctl_ficlone(target.as_fd(), source.as_fd()))
}

/// Whether the directory is marked as one that folds names (ext4, F2FS, tmpfs).
pub(crate) fn folds_names(dir: impl AsFd) -> bool {
    rustix::fs::ioctl_getflags(dir.as_fd()).is_ok_and(|flags| flags.bits() & CASEFOLD_FLAG != 0)
}

/// The names in a directory, `.` and `..` left out, in no order; those that are not UTF-8 are
/// counted.
pub(crate) fn names(dir: impl AsFd) -> Result<Names, Errno> {
    let mut names = Vec::new();
    let unreadable = each_name(dir, |name, kind| names.push((name.into(), kind)))?;
    Ok(Names { names, unreadable })
}

/// Calls `each` with every name in a directory, `.` and `..` left out, in no order, and its kind
/// where the file system says it. Gives the number of names that are not UTF-8.
pub(crate) fn each_name(
    dir: impl AsFd,
    mut each: impl FnMut(&str, Option<Kind>),
) -> Result<usize, Errno> {
    let mut unreadable = 0;
    find_name(dir, usize::MAX, |name, kind| {
        match name {
            Some(name) => each(name, kind),
            None => unreadable += 1,
        }
        false
    })?;
    Ok(unreadable)
}

/// Whether `is_wanted` holds of any of the first few hundred names in a directory.
pub(crate) fn some_name(
    dir: impl AsFd,
    mut is_wanted: impl FnMut(&str, Option<Kind>) -> bool,
) -> Result<bool, Errno> {
    find_name(dir, SOME_NAMES, |name, kind| {
        name.is_some_and(|name| is_wanted(name, kind))
    })
}

/// Calls `is_wanted` with up to `names_max` names (`None`: not UTF-8) until it says so.
fn find_name(
    dir: impl AsFd,
    names_max: usize,
    mut is_wanted: impl FnMut(Option<&str>, Option<Kind>) -> bool,
) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // A descriptor of its own: the position belongs to the open file description.
    let own = retry(|| rustix::fs::openat(dir.as_fd(), ".", flags, Mode::empty()))?;
    let mut buffer = Vec::with_capacity(DIRECTORY_BUFFER_BYTES);
    let mut reader = rustix::fs::RawDir::new(own, buffer.spare_capacity_mut());
    let mut left = names_max;
    while let Some(entry) = reader.next() {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        if matches!(name, Some("." | "..")) {
            continue;
        }
        if is_wanted(name, kind_of(entry.file_type())) {
            return Ok(true);
        }
        left -= 1;
        if left == 0 {
            break;
        }
    }
    Ok(false)
}

/// What [`names`] found.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// The kind is `None` where the file system does not say.
    pub(crate) names: Vec<(Box<str>, Option<Kind>)>,
    /// Names that are not UTF-8.
    pub(crate) unreadable: usize,
}

fn kind_of(kind: rustix::fs::FileType) -> Option<Kind> {
    use rustix::fs::FileType;
    match kind {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Directory),
        FileType::Symlink => Some(Kind::Link),
        FileType::Unknown => None,
        _ => Some(Kind::Special),
    }
}

/// Repeats a call that a signal interrupted.
pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Refuses what [`CONFINED`] would refuse or what has no meaning as one component.
fn plain_component(name: &str) -> Result<&str, Errno> {
    match name {
        "" | "." => Err(Errno::NOENT),
        ".." => Err(Errno::XDEV),
        name => Ok(name),
    }
}

fn descriptor_path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_SYMLINKS);
const STATX_MASK: StatxFlags = StatxFlags::BASIC_STATS
    .union(StatxFlags::BTIME)
    .union(StatxFlags::MNT_ID);
/// Walks that a rename elsewhere may spoil before the call gives up.
const OPEN_RACES_MAX: usize = 64;
/// IOV_MAX of Linux.
const SLICES_MAX: usize = 1024;
/// Records of most objects fit, so that one call reads them.
const ATTRIBUTE_FIRST_BYTES: usize = 512;
const ACCESS_LIST: &str = "system.posix_acl_access";
/// XATTR_SIZE_MAX of Linux, and XATTR_LIST_MAX.
const ATTRIBUTE_BYTES_MAX: usize = 64 << 10;
/// One call of `copy_file_range`: interruptible at least this often.
const COPY_STEP_BYTES: u64 = 256 << 20;
/// FS_CASEFOLD_FL of Linux.
const CASEFOLD_FLAG: u32 = 0x4000_0000;
/// Names that fill about one buffer.
const SOME_NAMES: usize = 1000;
const DIRECTORY_BUFFER_BYTES: usize = 32 << 10;
