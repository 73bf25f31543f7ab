//! What the operator wants: a TOML file, the command line over it, checked once.
//!
//! `docs/configuration.md` documents every option; a test holds it, `lobos.cfg` and this file
//! together.

mod auth;
mod control;
#[cfg(test)]
mod documents;
mod explain;
mod limits;
mod raw;
mod spdk;
mod tls;
mod units;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::engine::{BucketName, Durability, ETagMode};
use crate::s3::auth::policy::Policy;
use crate::s3::{ETagModes, Ownership};

pub use control::CONTROL_PORT;
pub use spdk::{Spdk, SpdkBdev, VolatileCache};
pub use units::{BlobPlace, Listen, bytes, shell_quoted};

/// Everything that the server is told, checked.
#[derive(Debug)]
pub struct Config {
    pub server: Server,
    pub filesystem: Filesystem,
    /// `None`: there is no blob store.
    pub blob: Option<Blob>,
    /// `None`: there is none on SPDK.
    pub spdk: Option<Spdk>,
    pub auth: Auth,
    pub tls: Option<Tls>,
    pub metrics: Endpoint,
    pub control: Control,
    /// How long the days of lifecycle rules are.
    pub lifecycle_day: Duration,
    pub log: Log,
    /// What the operator should hear of, although it works.
    pub warnings: Vec<String>,
}

#[derive(Debug)]
pub struct Server {
    pub listen: Vec<Listen>,
    /// Shards: threads with an event loop each.
    pub threads: usize,
    /// Each shard stays on a core of its own.
    pub pin: bool,
    /// Requests must be signed.
    pub auth: bool,
    pub region: Box<str>,
    /// Lower case, without a trailing dot: `<bucket>.<domain>` names a bucket.
    pub domains: Vec<Box<str>>,
    /// Of buckets whose owner did not choose one.
    pub object_ownership: Ownership,
    /// `None`: the XDG state directory.
    pub state_dir: Option<PathBuf>,
    pub etags: ETagModes,
    pub limits: Limits,
    pub timeouts: Timeouts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections of all shards; further ones wait in the kernel.
    pub connections: usize,
    /// Body bytes that all requests together hold in memory.
    pub in_flight_bytes: usize,
    /// How long a request waits for its share of them before it is answered 503.
    pub in_flight_wait: Duration,
    /// Concurrent requests of one HTTP/2 connection.
    pub http2_streams: u32,
}

/// Times in whole seconds; 0 never occurs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of a head to its end, and for a TLS handshake.
    pub head: Duration,
    /// The window over which a body must come at `rate_bytes` a second.
    pub body: Duration,
    /// The window over which a reply must be taken at `rate_bytes` a second.
    pub reply: Duration,
    /// A connection without a request.
    pub idle: Duration,
    /// Between the signal to stop and the end of what is in flight.
    pub stop: Duration,
    /// Bytes a second below which a peer counts as stuck.
    pub rate_bytes: u64,
}

#[derive(Debug)]
pub struct Filesystem {
    pub buckets: Vec<(BucketName, PathBuf)>,
    pub root: Option<PathBuf>,
    pub durability: Durability,
    pub symlinks: Symlinks,
    pub file_mode: Option<u32>,
    pub dir_mode: Option<u32>,
    pub cache_bytes: u64,
    /// `None`: uploads never expire.
    pub upload_expiry: Option<Duration>,
}

impl Filesystem {
    /// A directory is served, or may be.
    pub fn has_buckets(&self) -> bool {
        !self.buckets.is_empty() || self.root.is_some()
    }
}

/// The blob store.
#[derive(Debug)]
pub struct Blob {
    pub place: BlobPlace,
    pub durability: Durability,
    /// Transfer buffers that are kept for the next use.
    pub buffers_bytes: usize,
    /// Objects and parts of them that are kept in memory; 0: none.
    pub cache_bytes: u64,
    /// Keys and entries that are in memory, at most.
    pub index_bytes_max: u64,
    /// A block device is told what is free.
    pub discards: bool,
}

/// Which symbolic links are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Symlinks {
    /// Those to regular files of the same bucket.
    #[default]
    Inside,
    Never,
}

#[derive(Debug)]
pub struct Auth {
    /// SigV2 presigned URLs are accepted.
    pub sigv2: bool,
    /// `None`: a key pair is generated and kept in the state directory.
    pub root: Option<User>,
    pub users: Vec<User>,
}

/// One user of `[auth]`.
#[derive(Clone, Debug)]
pub struct User {
    pub name: Box<str>,
    pub id: Box<str>,
    pub access_key: Box<str>,
    pub secret_key: SecretText,
    /// What it may do beside working in the buckets that it owns.
    pub policy: Option<Arc<Policy>>,
}

impl User {
    /// The root user under its usual name.
    pub fn root(access_key: Box<str>, secret_key: SecretText) -> Self {
        Self {
            name: ROOT.into(),
            id: ROOT.into(),
            access_key,
            secret_key,
            policy: None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Where the gRPC service of the control plane is, and who may call it from afar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    pub endpoint: Endpoint,
    /// Holds the token of callers that are not known by their user id.
    pub token_file: Option<PathBuf>,
}

/// An endpoint beside S3: that of metrics, that of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Off,
    /// The usual address: if it is taken, the server goes on without.
    Usual(Listen),
    /// A configured address: if it is taken, the server does not start.
    At(Listen),
}

#[derive(Clone, Debug)]
pub struct Log {
    /// A filter as `tracing-subscriber` reads it: `warn`, `info`, `lobos=debug`.
    pub level: Box<str>,
    pub format: LogFormat,
    /// Where each request is a line; `None`: nowhere.
    pub access_log: Option<PathBuf>,
    pub access_format: AccessFormat,
    /// Where each change through the control plane is a line, beside the log.
    pub audit_log: Option<PathBuf>,
}

/// How a line of the access log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessFormat {
    #[default]
    Json,
    /// The combined format of web servers.
    Common,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// A secret key; wiped from memory when dropped, never printed by `Debug`.
#[derive(Clone)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself: for signatures, the key file and the operator's terminal only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(Self::new)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// What the command line and the environment say; each field given wins over the file.
#[derive(Debug, Default)]
pub struct Overrides {
    /// Directories that are buckets of the same name.
    pub directories: Vec<PathBuf>,
    /// `NAME=DIR` pairs.
    pub buckets: Vec<(String, PathBuf)>,
    pub root: Option<PathBuf>,
    pub blob: Option<BlobPlace>,
    pub listen: Vec<Listen>,
    pub domains: Vec<String>,
    pub auth: Option<bool>,
    pub region: Option<String>,
    pub durability: Option<Durability>,
    pub etag: Option<ETagMode>,
    pub threads: Option<usize>,
    pub state_dir: Option<PathBuf>,
    pub log_level: Option<String>,
    /// Access key and secret key of the root user.
    pub root_user: Option<(String, SecretText)>,
}

/// Why there is no configuration. The text is for the operator: file, line, key, remedy.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{text}")]
    Syntax { text: String },
    #[error("{0}")]
    Invalid(String),
}

impl Config {
    /// Reads the file, if there is one, puts the overrides over it and checks the result.
    /// Relative paths in the file start at the file's directory.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let config = Self::load_unserved(file, overrides)?;
        if !config.filesystem.has_buckets() && config.blob.is_none() && config.spdk.is_none() {
            return Err(invalid(NOTHING_TO_SERVE));
        }
        if config.spdk.is_some() && !cfg!(feature = "spdk") {
            return Err(invalid(NO_SPDK));
        }
        Ok(config)
    }

    /// The same for who will not serve: there may be nothing to be served.
    pub fn load_unserved(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let Some(path) = file else {
            return build(raw::File::default(), Path::new(""), overrides);
        };
        let source = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        let name = path.display().to_string();
        let base = path.parent().unwrap_or(Path::new(""));
        let raw = parse(&name, &source)?;
        let secrets = auth::secret_files(&raw.auth, path, base);
        let error = match build(raw, base, overrides) {
            Err(ConfigError::Invalid(text)) => text,
            Err(error) => return Err(error),
            Ok(mut config) => {
                config.warnings = secrets
                    .iter()
                    .filter_map(|file| auth::exposed(file))
                    .collect();
                return Ok(config);
            }
        };
        // The file's line is named only where the file is at fault, not the command line over it.
        let alone = build(parse(&name, &source)?, base, Overrides::default());
        Err(ConfigError::Invalid(match alone {
            Err(ConfigError::Invalid(text)) if text == error => {
                explain::locate(&name, &source, &text)
            }
            _ => error,
        }))
    }
}

fn parse(name: &str, source: &str) -> Result<raw::File, ConfigError> {
    toml::from_str(source).map_err(|error| ConfigError::Syntax {
        text: explain::explain(name, source, &error),
    })
}

fn build(raw: raw::File, base: &Path, overrides: Overrides) -> Result<Config, ConfigError> {
    let auth = auth::build_auth(raw.auth, base, overrides.root_user)?;
    let places = Places {
        directories: overrides.directories,
        buckets: overrides.buckets,
        root: overrides.root,
        blob: overrides.blob,
    };
    let durability = overrides.durability;
    let blob = build_blob(raw.blob, base, &places, durability)?;
    let spdk = match places.are_told() {
        true => None,
        false => spdk::build(raw.spdk_blobstore, base, durability, blob.is_some())?,
    };
    let filesystem = build_filesystem(raw.filesystem, base, places, durability)?;
    let server = raw.server;
    let listen = Some(overrides.listen)
        .filter(|listen| !listen.is_empty())
        .or(server.listen.map(|listen| listen.0))
        .unwrap_or_else(|| vec![default_listen()]);
    let has_tls = raw.tls.is_some();
    let config = Config {
        server: Server {
            listen,
            threads: threads(overrides.threads.or(server.threads), spdk.as_ref())?,
            pin: server.pin.unwrap_or(spdk.is_some()),
            auth: overrides.auth.or(server.auth).unwrap_or(true),
            region: region(overrides.region.map(Into::into).or(server.region))?,
            domains: domains(overrides.domains, server.domains)?,
            object_ownership: server.object_ownership.unwrap_or_default(),
            state_dir: overrides
                .state_dir
                .or(server.state_dir.map(|dir| base.join(dir))),
            etags: build_etags(overrides.etag.or(server.etag), raw.bucket)?,
            limits: limits::build_limits(&server.limits)?,
            timeouts: limits::build_timeouts(&server.timeouts)?,
        },
        filesystem,
        blob,
        spdk,
        auth,
        tls: raw.tls.map(|tls| tls::build_tls(tls, base)).transpose()?,
        metrics: control::build_endpoint(
            "metrics",
            raw.metrics.enabled,
            raw.metrics.listen,
            control::METRICS_PORT,
        )?,
        control: control::build_control(raw.control, base, has_tls)?,
        lifecycle_day: limits::build_day(&raw.lifecycle)?,
        log: build_log(raw.log, overrides.log_level, base),
        warnings: Vec::new(),
    };
    if config.server.listen.is_empty() {
        return Err(invalid(
            "`server.listen` is empty; name at least one address",
        ));
    }
    for listen in &config.server.listen {
        if !config.server.auth && !is_loopback(listen)? {
            let why = open_bind_refused(&listen.to_string());
            return Err(ConfigError::Invalid(format!(
                "`server.auth` is false: {why}"
            )));
        }
    }
    Ok(config)
}

/// Why an address is refused without authentication.
pub fn open_bind_refused(address: &str) -> String {
    format!(
        "without authentication Lobos listens on loopback addresses and Unix sockets only, \
         because whoever reaches {address} could read and change everything; \
         remove --no-auth (`auth = false`), or listen on 127.0.0.1"
    )
}

fn is_loopback(listen: &Listen) -> Result<bool, ConfigError> {
    let Listen::Tcp { host, port } = listen else {
        return Ok(true);
    };
    let addresses = (&**host, *port).to_socket_addrs().map_err(|error| {
        ConfigError::Invalid(format!("cannot look up the address {listen}: {error}"))
    })?;
    let mut all = addresses.map(|address| address.ip());
    Ok(all.all(|ip: IpAddr| ip.to_canonical().is_loopback()))
}

fn default_listen() -> Listen {
    Listen::Tcp {
        host: "127.0.0.1".into(),
        port: 8080,
    }
}

/// One a core, but for those that reactors take.
fn threads(asked: Option<usize>, spdk: Option<&Spdk>) -> Result<usize, ConfigError> {
    let reactors = spdk.map_or(0, |spdk| spdk.cores.len());
    match asked {
        None => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            Ok(cores.saturating_sub(reactors).max(1))
        }
        Some(n) if (1..=1024).contains(&n) => Ok(n),
        Some(n) => Err(ConfigError::Invalid(format!(
            "`server.threads` is {n}; it must be 1 to 1024, or left out for one a core"
        ))),
    }
}

fn region(asked: Option<Box<str>>) -> Result<Box<str>, ConfigError> {
    let region = asked.unwrap_or_else(|| "us-east-1".into());
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if region.is_empty() || region.len() > 64 || !region.bytes().all(legal) {
        return Err(ConfigError::Invalid(format!(
            "`server.region` is `{region}`; it must be 1 to 64 letters, digits, '-' or '_', \
             such as us-east-1"
        )));
    }
    Ok(region)
}

/// Those of the command line, or else those of the file.
fn domains(told: Vec<String>, in_file: Vec<String>) -> Result<Vec<Box<str>>, ConfigError> {
    let names = if told.is_empty() { in_file } else { told };
    names.iter().map(|name| domain(name)).collect()
}

/// A host name in lower case without its trailing dot.
fn domain(name: &str) -> Result<Box<str>, ConfigError> {
    let bare = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if bare.len() > 253 || !bare.split('.').all(label) {
        return Err(ConfigError::Invalid(format!(
            "the domain `{name}` is no host name; write it without a scheme and a port, \
             such as s3.example.org"
        )));
    }
    Ok(bare.into())
}

/// With the sections `[bucket.NAME]`. The buckets need not be there yet.
fn build_etags(
    default: Option<ETagMode>,
    sections: BTreeMap<String, raw::Bucket>,
) -> Result<ETagModes, ConfigError> {
    let mut modes = HashMap::new();
    for (name, section) in sections {
        let bucket = bucket_name(&name, &format!("bucket.{name}"))?;
        modes.extend(section.etag.map(|mode| (bucket, mode)));
    }
    Ok(ETagModes {
        default: default.unwrap_or_default(),
        buckets: modes,
    })
}

/// `shown`: how the place that names it is called.
fn bucket_name(name: &str, shown: &str) -> Result<BucketName, ConfigError> {
    BucketName::parse(name).map_err(|error| {
        ConfigError::Invalid(format!(
            "`{shown}` is no legal bucket name: it {}",
            error.reason
        ))
    })
}

fn build_log(raw: raw::Log, level: Option<String>, base: &Path) -> Log {
    Log {
        level: level
            .map(Into::into)
            .or(raw.level)
            .unwrap_or_else(|| "warn".into()),
        format: raw.format.unwrap_or_default(),
        access_log: raw.access_log.map(|file| base.join(file)),
        access_format: raw.access_format.unwrap_or_default(),
        audit_log: raw.audit_log.map(|file| base.join(file)),
    }
}

/// What shall be served, as the command line has it.
struct Places {
    directories: Vec<PathBuf>,
    buckets: Vec<(String, PathBuf)>,
    root: Option<PathBuf>,
    blob: Option<BlobPlace>,
}

impl Places {
    /// The command line says what to serve; the file does not.
    fn are_told(&self) -> bool {
        !self.directories.is_empty()
            || !self.buckets.is_empty()
            || self.root.is_some()
            || self.blob.is_some()
    }
}

fn build_blob(
    raw: raw::Blob,
    base: &Path,
    places: &Places,
    durability: Option<Durability>,
) -> Result<Option<Blob>, ConfigError> {
    let in_file = match (raw.path, raw.size) {
        (None, Some(_)) => return Err(invalid("`blob.size` is given and `blob.path` is not")),
        (None, None) => None,
        (Some(path), size) => Some(BlobPlace {
            path: base.join(path),
            size_bytes: size.map(|size| size.bytes),
        }),
    };
    let buffers = raw.buffers.map_or(64 << 20, |size| size.bytes);
    let buffers_bytes = usize::try_from(buffers)
        .ok()
        .filter(|bytes| *bytes <= BLOB_BUFFERS_MAX)
        .ok_or_else(|| invalid("`blob.buffers` must be at most 64 GiB"))?;
    let place = match places.are_told() {
        true => places.blob.clone(),
        false => in_file,
    };
    Ok(place.map(|place| Blob {
        place,
        durability: durability.or(raw.durability).unwrap_or_default(),
        buffers_bytes,
        cache_bytes: raw.cache.map_or(256 << 20, |size| size.bytes),
        index_bytes_max: raw.index_memory.map_or(4 << 30, |size| size.bytes),
        discards: raw.discard.unwrap_or(false),
    }))
}

fn build_filesystem(
    raw: raw::Filesystem,
    base: &Path,
    places: Places,
    durability: Option<Durability>,
) -> Result<Filesystem, ConfigError> {
    let is_told = places.are_told();
    let (named, root) = if is_told {
        (places.buckets, places.root)
    } else {
        let named = raw
            .buckets
            .into_iter()
            .map(|(name, dir)| (name, base.join(dir)));
        (named.collect(), raw.root.map(|dir| base.join(dir)))
    };
    let mut buckets = Vec::new();
    for (name, dir) in named {
        let shown = match is_told {
            true => name.clone(),
            false => format!("filesystem.buckets.{name}"),
        };
        buckets.push((bucket_name(&name, &shown)?, dir));
    }
    for dir in places.directories {
        buckets.push((bucket_of_directory(&dir)?, dir));
    }
    let mut seen = HashSet::new();
    for (name, dir) in &buckets {
        if !seen.insert(name.clone()) {
            return Err(ConfigError::Invalid(format!(
                "two directories would be the bucket `{name}`; give {} another name with \
                 --bucket NAME=DIR",
                dir.display()
            )));
        }
    }
    let expiry = raw.upload_expiry.unwrap_or(units::Span {
        seconds: 7 * 86_400,
    });
    Ok(Filesystem {
        buckets,
        root,
        durability: durability.or(raw.durability).unwrap_or_default(),
        symlinks: raw.symlinks.unwrap_or_default(),
        file_mode: raw.file_mode.map(|mode| mode.bits),
        dir_mode: raw.dir_mode.map(|mode| mode.bits),
        cache_bytes: raw.cache.map_or(256 << 20, |size| size.bytes),
        upload_expiry: Some(expiry.duration()).filter(|span| !span.is_zero()),
    })
}

/// The bucket that `lobos serve DIR` makes of DIR: its resolved path's last component.
fn bucket_of_directory(dir: &Path) -> Result<BucketName, ConfigError> {
    let resolved = resolve(dir);
    let name = resolved.file_name().unwrap_or_default().to_string_lossy();
    BucketName::parse(&name).map_err(|error| {
        ConfigError::Invalid(format!(
            "the directory {} cannot be a bucket of its own name: `{name}` {}; name the bucket: \
             lobos serve --bucket NAME={}",
            dir.display(),
            error.reason,
            shell_quoted(&dir.display().to_string())
        ))
    })
}

/// The path without links, as far as it exists; the rest as it is written.
fn resolve(dir: &Path) -> PathBuf {
    if let Ok(resolved) = dir.canonicalize() {
        return resolved;
    }
    let mut resolved = PathBuf::new();
    for component in std::path::absolute(dir)
        .unwrap_or_else(|_| dir.into())
        .components()
    {
        match component {
            Component::ParentDir => {
                resolved.pop();
            }
            other => resolved.push(other),
        }
    }
    resolved
}

fn invalid(text: &str) -> ConfigError {
    ConfigError::Invalid(text.to_owned())
}

/// Name and id of the root user that is not named otherwise.
const ROOT: &str = "root";
const NOTHING_TO_SERVE: &str = "there is nothing to serve; name a directory (lobos serve DIR), \
     --root DIR or --blob PATH:SIZE, or `root` or `buckets` in [filesystem], `path` in [blob], \
     or a device in [spdk_blobstore]";
const NO_SPDK: &str = "[spdk_blobstore] needs SPDK, which this program was built without; build \
     it with `cargo build --release --features spdk` (docs/spdk.md), or use [blob]";
const BLOB_BUFFERS_MAX: usize = 64 << 30;
