//! What the file system under a bucket can do, asked once, without leaving anything behind.

use rustix::io::Errno;

use crate::io::files::{self, Tree};

/// The features that the engine makes use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traits {
    /// Files without a name (`O_TMPFILE`).
    pub(super) unnamed_files: bool,
    /// Extended attributes of the `user` kind.
    pub(super) attributes: bool,
    /// A record of a few KiB fits an attribute.
    pub(super) large_attributes: bool,
    /// Reads that say what is in memory (`RWF_NOWAIT`).
    pub(super) nowait_reads: bool,
    /// Copies by reference.
    pub(super) reflinks: bool,
    /// Locks of open file descriptions.
    pub(super) locks: bool,
    /// `readme` finds `README`.
    pub(super) folds_names: bool,
    /// Timestamps tick with the kernel's clock, not in steps of seconds or by a server's clock.
    pub(super) fine_timestamps: bool,
}

impl Traits {
    /// Asks by means of an unnamed file, so that serving a directory creates nothing in it. Where
    /// unnamed files, or the right to write, are missing, what cannot be asked is taken as there:
    /// every user of a feature also handles its absence.
    pub(super) fn probe(tree: &Tree) -> Self {
        let kind = rustix::fs::fstatfs(tree.root()).map_or(0, |fs| fs.f_type);
        let mut traits = Self {
            unnamed_files: true,
            attributes: true,
            large_attributes: true,
            nowait_reads: true,
            reflinks: false,
            locks: true,
            folds_names: FOLDING.contains(&kind) || files::folds_names(tree.root()),
            fine_timestamps: TICKING.contains(&kind),
        };
        let file = match files::create_unnamed(tree.root(), 0o600) {
            Ok(file) => file,
            Err(errno) => {
                let unsupported = [Errno::OPNOTSUPP, Errno::ISDIR, Errno::NOENT, Errno::INVAL];
                traits.unnamed_files = !unsupported.contains(&errno);
                return traits;
            }
        };
        traits.attributes = !matches!(
            files::write_attribute(&file, "user.lobos", b"?"),
            Err(Errno::OPNOTSUPP)
        );
        traits.large_attributes = traits.attributes
            && files::write_attribute(&file, "user.lobos", &[0; LARGE_ATTRIBUTE_BYTES]).is_ok();
        traits.locks = files::ofd_lock(&file, files::ByteSpan::All).is_ok();
        // Nothing was written yet: an empty file says "end", one that cannot tell says EAGAIN.
        traits.nowait_reads = files::read_cached(&file, &mut [0], 0).is_ok();
        if let Ok(other) = files::create_unnamed(tree.root(), 0o600) {
            traits.reflinks = files::clone_file(&file, &other).is_ok();
        }
        traits
    }

    /// What the banner and the documentation call missing.
    pub(super) fn lacks(&self) -> Vec<&'static str> {
        let table = [
            (self.unnamed_files, "unnamed files"),
            (self.attributes, "extended attributes"),
            (
                self.large_attributes || !self.attributes,
                "large extended attributes",
            ),
            (self.nowait_reads, "non-blocking reads"),
            (self.reflinks, "copies by reference"),
            (self.locks, "locks"),
            (!self.folds_names, "case-sensitive names"),
            (self.fine_timestamps, "fine timestamps"),
        ];
        let missing = table.into_iter().filter(|(has, _)| !has);
        missing.map(|(_, what)| what).collect()
    }
}

/// Local file systems that stamp files with the kernel's clock: ext2 to ext4, XFS, btrfs, tmpfs,
/// F2FS, overlayfs, bcachefs, ZFS.
const TICKING: [rustix::fs::FsWord; 8] = [
    0xEF53,
    0x5846_5342,
    0x9123_683E,
    0x0102_1994,
    0xF2F5_2010,
    0x794C_7630,
    0xCA45_1A4E,
    0x2FC1_2FC1,
];
/// FAT, exFAT, NTFS (both drivers), HFS+, CIFS and SMB2, which fold unless told otherwise.
const FOLDING: [rustix::fs::FsWord; 7] = [
    0x4D44,
    0x2011_BAB0,
    0x5346_544E,
    0x7366_746E,
    0x482B,
    0xFF53_4D42,
    0xFE53_4D42,
];
/// More than ext4 with 1 KiB blocks takes, less than with 4 KiB blocks.
const LARGE_ATTRIBUTE_BYTES: usize = 3072;
