//! The filesystem engine: a real directory is a bucket, a file in it is an object.
//!
//! # On disk
//! Everything of ours lies in `.lobos/` at the top of the bucket (mode 0700; the name is reserved
//! as a path segment at every depth):
//!
//! ```text
//! .lobos/lock                 lock file: byte n is the lock of the keys whose hash is n (lock)
//! .lobos/config               the bucket's configuration, and whose installation's it is (config)
//! .lobos/tmp/<id>/            temporary names of one process; it holds `lock` in it (scratch)
//! .lobos/overlay/...          keys that the tree cannot express (overlay)
//! .lobos/versions/...         versions that are not the file of their key (history)
//! .lobos/side/<hh>/<hash>/    metadata records that do not fit an attribute (side)
//! .lobos/dirs/<hash>          only without extended attributes: directories made by S3 (dirs)
//! .lobos/uploads/...          multipart uploads (multipart)
//! <dir>/.lobos/<id>/          deeper in the tree, for moments: as tmp, where a file or directory
//!                             must be born in its own mount, group or quota (scratch)
//! ```
//! An object's record is the attribute `user.lobos` of its file ([`record`]); directories that S3
//! made carry `user.lobos.dir`.
//!
//! # Reading order and what the rooms offer each other
//! Functions that touch files are plain blocking functions that answer [`rustix::io::Errno`] or
//! `EngineError`; the async ones choose between calling them inline (page cache) and
//! [`faults::off_shard`].
//!
//! - [`walk`]: `bucket.find(key)` -> `Pinned` file; `bucket.tree.open(path, flags)` opens any path
//!   of the bucket, confined; `tree_path(key)`, `is_absent(errno)`.
//! - [`overlay`]: `path(key)`, `directory(root, prefix)`, `bucket.overlay_level(root, prefix)`: the
//!   sorted names directly below one prefix, to be merged with the directory of the same prefix.
//! - [`entries`]: `bucket.entry_at(dir, name, path, key, stat)`: the entry of a file in an open
//!   directory, cached by identity; `bucket.current(key)`.
//! - [`lock`]: `bucket.lock(key).await` -> `KeyLock`, held from check to rename; its `home` has the
//!   scratch directory.
//! - [`draft`]: `bucket.draft(..)` an unnamed file; [`put`]: `bucket.publish(lock, key, draft,
//!   description, precondition)` checks, writes the record, syncs, names, syncs the directories.
//! - [`history`]: a key's older versions and delete markers; [`succession`]: what becomes of the
//!   versions when a key is written or deleted.
//! - [`dirs`]: `make_directory(path)`, `sync_directory(path)`, `prune(path)`, `is_made_by_s3(dir)`.

mod bucket;
mod buckets;
mod cache;
mod config;
mod content_type;
mod delete;
mod dirs;
mod draft;
mod entries;
mod faults;
mod get;
mod history;
mod ledger;
mod lock;
mod metadata;
mod multipart;
mod named;
mod names;
mod opened;
mod overlay;
mod pages;
mod probe;
mod put;
mod record;
mod rename;
mod scan;
mod scratch;
mod side;
mod succession;
mod sync;
#[cfg(test)]
mod tests;
mod types;
mod uploads;
mod uploads_list;
mod versions;
mod versions_list;
mod walk;

pub use bucket::FsBucket;
pub use buckets::{FsEngine, FsOpenError, FsSettings, Mount, Symlinks};
pub use get::{FsByteStream, FsReader};
pub use put::FsWriter;

/// The one path segment that is ours, at every depth.
const RESERVED: &str = ".lobos";
