//! The blob engine: objects in a format of its own on a file or a block device.
//! `docs/design-blob.md` has every byte, the commit order, the invariants and recovery.
//!
//! # Reading order and what the rooms offer each other
//! - [`layout`], [`codec`]: places and numbers. [`superblock`], [`journal`], [`record`], [`entry`]:
//!   the format, functions of bytes.
//! - [`space`]: which blocks are free, shared, read. [`hot`]: bytes in memory. [`index`], [`leaf`]:
//!   ordered items.
//! - [`core`]: what all share. [`transfer`]: checked bytes to and from extents.
//! - [`commit`]: `core.commit(class, writes, |turn| ..)` is the only way that anything changes;
//!   [`pending`]: what waits to be in the index.
//! - [`checkpoint`], [`recover`]: bounded replay; from a device to an open engine.
//! - [`info`], [`check`], [`salvage`]: for operators; a device is read, never written.
//! - [`describe`]: between stored entries and the contract's. [`put`], [`get`], [`bucket`],
//!   [`scan`], [`versions`], [`versions_list`], [`multipart`], [`buckets`]: the verbs.
//! - [`succession`]: what a write or delete does to a key's other versions.
//! - [`planted`]: bugs for the test of the tests.

mod bucket;
mod buckets;
mod check;
mod checkpoint;
mod codec;
mod commit;
mod core;
mod describe;
mod entry;
mod get;
mod hot;
mod index;
mod info;
mod journal;
mod layout;
mod leaf;
mod multipart;
mod pending;
mod planted;
mod put;
mod record;
mod recover;
mod rename;
mod salvage;
mod scan;
mod space;
mod succession;
mod superblock;
mod transfer;
mod versions;
mod versions_list;

pub use bucket::BlobBucket;
pub use buckets::{BlobEngine, FIRST_BUCKET};
pub use check::{CheckReport, Damage};
pub use get::{BlobByteStream, BlobReader};
pub use info::{BlobInfo, CheckpointInfo, JournalInfo};
pub use put::BlobWriter;
pub use recover::{BlobMemory, BlobOpenError, BlobSettings};
