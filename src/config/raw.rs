//! The configuration file as it is written: every field optional, unknown keys refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::engine::{Durability, ETagMode};
use crate::s3::Ownership;

use super::units::{Listen, Mode, OneOrMany, Size, Span};
use super::{AccessFormat, LogFormat, SecretText, Symlinks, VolatileCache};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub server: Server,
    pub filesystem: Filesystem,
    pub blob: Blob,
    pub spdk_blobstore: SpdkBlobstore,
    pub bucket: BTreeMap<String, Bucket>,
    pub auth: Auth,
    pub tls: Option<Tls>,
    pub metrics: Metrics,
    pub control: Control,
    pub lifecycle: Lifecycle,
    pub log: Log,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Server {
    pub listen: Option<OneOrMany<Listen>>,
    pub threads: Option<usize>,
    pub pin: Option<bool>,
    pub auth: Option<bool>,
    pub region: Option<Box<str>>,
    pub domains: Vec<String>,
    pub object_ownership: Option<Ownership>,
    pub state_dir: Option<PathBuf>,
    pub etag: Option<ETagMode>,
    pub limits: Limits,
    pub timeouts: Timeouts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    pub connections: Option<usize>,
    pub in_flight: Option<Size>,
    pub in_flight_wait: Option<Span>,
    pub http2_streams: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Timeouts {
    pub head: Option<Span>,
    pub body: Option<Span>,
    pub reply: Option<Span>,
    pub idle: Option<Span>,
    pub stop: Option<Span>,
    pub rate: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Filesystem {
    pub buckets: BTreeMap<String, PathBuf>,
    pub root: Option<PathBuf>,
    pub durability: Option<Durability>,
    pub symlinks: Option<Symlinks>,
    pub file_mode: Option<Mode>,
    pub dir_mode: Option<Mode>,
    pub cache: Option<Size>,
    pub upload_expiry: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Blob {
    pub path: Option<PathBuf>,
    pub size: Option<Size>,
    pub durability: Option<Durability>,
    pub buffers: Option<Size>,
    pub cache: Option<Size>,
    pub index_memory: Option<Size>,
    pub discard: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SpdkBlobstore {
    pub pci: Option<Box<str>>,
    pub malloc: Option<Size>,
    pub aio: Option<PathBuf>,
    pub uring: Option<PathBuf>,
    pub size: Option<Size>,
    pub json: Option<PathBuf>,
    pub bdev: Option<Box<str>>,
    pub cluster_sz: Option<Size>,
    pub reactor_mask: Option<Box<str>>,
    pub memory: Option<Size>,
    pub no_huge: Option<bool>,
    pub durability: Option<Durability>,
    pub volatile_cache: Option<VolatileCache>,
    pub force: Option<bool>,
    pub rpc: Option<PathBuf>,
    pub buffers: Option<Size>,
}

/// What is particular to one bucket.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Bucket {
    pub etag: Option<ETagMode>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Auth {
    pub sigv2: Option<bool>,
    pub root: Option<User>,
    pub user: Vec<User>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct User {
    pub name: Option<Box<str>>,
    pub id: Option<Box<str>>,
    pub access_key: Option<Box<str>>,
    pub secret_key: Option<SecretText>,
    pub secret_key_file: Option<PathBuf>,
    pub policy: Option<Box<str>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Metrics {
    pub enabled: Option<bool>,
    pub listen: Option<Listen>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Control {
    pub enabled: Option<bool>,
    pub listen: Option<Listen>,
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Lifecycle {
    pub day: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub level: Option<Box<str>>,
    pub format: Option<LogFormat>,
    pub access_log: Option<PathBuf>,
    pub access_format: Option<AccessFormat>,
    pub audit_log: Option<PathBuf>,
}
