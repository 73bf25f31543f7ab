//! What the operator wants: a TOML file, the command line over it, checked once.
//!
//! `docs/configuration.md` documents every option; a test holds it, `lobos.cfg` and this file
//! together.

#[cfg(test)]
mod documents;
mod explain;
mod raw;
mod units;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::engine::{BucketName, Durability};
use crate::s3::auth::policy::{self, Policy};
use crate::s3::{ETagMode, ETagModes, Ownership};

pub use units::{BlobPlace, Listen, shell_quoted};

/// Everything that the server is told, checked.
#[derive(Debug)]
pub struct Config {
    pub server: Server,
    pub filesystem: Filesystem,
    /// `None`: there is no blob store.
    pub blob: Option<Blob>,
    pub auth: Auth,
    pub tls: Option<Tls>,
    pub metrics: Endpoint,
    pub control: Control,
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
        if !config.filesystem.has_buckets() && config.blob.is_none() {
            return Err(invalid(NOTHING_TO_SERVE));
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
        let secrets = secret_files(&raw.auth, path, base);
        let error = match build(raw, base, overrides) {
            Err(ConfigError::Invalid(text)) => text,
            Err(error) => return Err(error),
            Ok(mut config) => {
                config.warnings = secrets.iter().filter_map(|file| exposed(file)).collect();
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

/// The files that hold secrets of users: the configuration itself, or those that it names.
fn secret_files(auth: &raw::Auth, file: &Path, base: &Path) -> Vec<PathBuf> {
    let users = || auth.root.iter().chain(&auth.user);
    let itself = users().any(|user| user.secret_key.is_some());
    let named = users().filter_map(|user| user.secret_key_file.as_ref());
    let itself = itself.then(|| file.to_owned());
    itself
        .into_iter()
        .chain(named.map(|name| base.join(name)))
        .collect()
}

/// What to say of a file with secrets that every user of the machine can read.
fn exposed(file: &Path) -> Option<String> {
    let mode = fs::metadata(file).ok()?.mode() & 0o7777;
    (mode & 0o004 != 0).then(|| {
        format!(
            "{} holds secret keys and can be read by everybody (mode {mode:04o}); run chmod o-rwx on \
             it",
            file.display()
        )
    })
}

fn build(raw: raw::File, base: &Path, overrides: Overrides) -> Result<Config, ConfigError> {
    let auth = build_auth(raw.auth, base, overrides.root_user)?;
    let places = Places {
        directories: overrides.directories,
        buckets: overrides.buckets,
        root: overrides.root,
        blob: overrides.blob,
    };
    let blob = build_blob(raw.blob, base, &places, overrides.durability)?;
    let filesystem = build_filesystem(raw.filesystem, base, places, overrides.durability)?;
    let server = raw.server;
    let listen = Some(overrides.listen)
        .filter(|listen| !listen.is_empty())
        .or(server.listen.map(|listen| listen.0))
        .unwrap_or_else(|| vec![default_listen()]);
    let domains = if overrides.domains.is_empty() {
        server.domains
    } else {
        overrides.domains
    };
    let has_tls = raw.tls.is_some();
    let config = Config {
        server: Server {
            listen,
            threads: threads(overrides.threads.or(server.threads))?,
            pin: server.pin.unwrap_or(false),
            auth: overrides.auth.or(server.auth).unwrap_or(true),
            region: region(overrides.region.map(Into::into).or(server.region))?,
            domains: domains
                .iter()
                .map(|name| domain(name))
                .collect::<Result<_, _>>()?,
            object_ownership: server.object_ownership.unwrap_or_default(),
            state_dir: overrides
                .state_dir
                .or(server.state_dir.map(|dir| base.join(dir))),
            etags: build_etags(overrides.etag.or(server.etag), raw.bucket)?,
            limits: build_limits(&server.limits)?,
            timeouts: build_timeouts(&server.timeouts)?,
        },
        filesystem,
        blob,
        auth,
        tls: raw.tls.map(|tls| build_tls(tls, base)).transpose()?,
        metrics: build_endpoint(
            "metrics",
            raw.metrics.enabled,
            raw.metrics.listen,
            METRICS_PORT,
        )?,
        control: build_control(raw.control, base, has_tls)?,
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

fn threads(asked: Option<usize>) -> Result<usize, ConfigError> {
    match asked {
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
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

fn build_limits(raw: &raw::Limits) -> Result<Limits, ConfigError> {
    let connections = raw.connections.unwrap_or(4096);
    if !(1..=1_000_000).contains(&connections) {
        return Err(invalid("`server.limits.connections` must be 1 to 1000000"));
    }
    let in_flight = raw.in_flight.map_or(256 << 20, |size| size.bytes);
    let in_flight_bytes = usize::try_from(in_flight)
        .ok()
        .filter(|bytes| (crate::limits::REQUEST_WINDOW_BYTES..=IN_FLIGHT_MAX).contains(bytes))
        .ok_or_else(|| invalid("`server.limits.in_flight` must be 1 MiB to 1 TiB"))?;
    let http2_streams = raw.http2_streams.unwrap_or(64);
    if !(1..=1000).contains(&http2_streams) {
        return Err(invalid("`server.limits.http2_streams` must be 1 to 1000"));
    }
    Ok(Limits {
        connections,
        in_flight_bytes,
        in_flight_wait: seconds("limits.in_flight_wait", raw.in_flight_wait, 10)?,
        http2_streams,
    })
}

fn build_timeouts(raw: &raw::Timeouts) -> Result<Timeouts, ConfigError> {
    let rate_bytes = raw.rate.map_or(1024, |rate| rate.bytes);
    if rate_bytes > 1 << 30 {
        return Err(invalid(
            "`server.timeouts.rate` must be at most 1 GiB (a second)",
        ));
    }
    Ok(Timeouts {
        head: seconds("timeouts.head", raw.head, 10)?,
        body: seconds("timeouts.body", raw.body, 30)?,
        reply: seconds("timeouts.reply", raw.reply, 60)?,
        idle: seconds("timeouts.idle", raw.idle, 60)?,
        stop: seconds("timeouts.stop", raw.stop, 30)?,
        rate_bytes,
    })
}

fn seconds(key: &str, raw: Option<units::Span>, default: u64) -> Result<Duration, ConfigError> {
    let span = raw.unwrap_or(units::Span { seconds: default });
    if !(1..=86_400).contains(&span.seconds) {
        return Err(ConfigError::Invalid(format!(
            "`server.{key}` must be 1 second to 1 day, such as \"{default}s\""
        )));
    }
    Ok(span.duration())
}

/// Both files must be there; `tls::load` looks into them.
fn build_tls(raw: raw::Tls, base: &Path) -> Result<Tls, ConfigError> {
    let readable = |key: &str, path: PathBuf| match fs::File::open(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(ConfigError::Invalid(format!(
            "`tls.{key}` names {}, which cannot be read: {error}",
            path.display()
        ))),
    };
    Ok(Tls {
        cert: readable("cert", base.join(raw.cert))?,
        key: readable("key", base.join(raw.key))?,
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

fn build_endpoint(
    section: &str,
    enabled: Option<bool>,
    listen: Option<Listen>,
    usual_port: u16,
) -> Result<Endpoint, ConfigError> {
    match (enabled.unwrap_or(true), listen) {
        (true, Some(listen)) => Ok(Endpoint::At(listen)),
        (true, None) => Ok(Endpoint::Usual(Listen::Tcp {
            host: "127.0.0.1".into(),
            port: usual_port,
        })),
        (false, None) => Ok(Endpoint::Off),
        (false, Some(listen)) => Err(ConfigError::Invalid(format!(
            "`{section}.listen` is {listen} and `{section}.enabled` is false; keep one of them"
        ))),
    }
}

/// Who is off this machine cannot be known by a user id, and its token must not be overheard.
fn build_control(raw: raw::Control, base: &Path, has_tls: bool) -> Result<Control, ConfigError> {
    let endpoint = build_endpoint("control", raw.enabled, raw.listen, CONTROL_PORT)?;
    if let Endpoint::At(listen) = &endpoint
        && !is_loopback(listen)?
        && (raw.token_file.is_none() || !has_tls)
    {
        return Err(ConfigError::Invalid(format!(
            "`control.listen` is {listen}, which others can reach: that needs \
             `control.token_file` and [tls]; or listen on 127.0.0.1 or unix:/path"
        )));
    }
    Ok(Control {
        endpoint,
        token_file: raw.token_file.map(|file| base.join(file)),
    })
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

fn build_auth(
    raw: raw::Auth,
    base: &Path,
    root_user: Option<(String, SecretText)>,
) -> Result<Auth, ConfigError> {
    let root = match (root_user, raw.root) {
        (Some((access_key, secret_key)), raw) => {
            let raw = raw::User {
                access_key: Some(access_key.into()),
                secret_key: Some(secret_key),
                secret_key_file: None,
                ..raw.unwrap_or_default()
            };
            Some(build_user("auth.root", Some(ROOT), raw, base)?)
        }
        (None, Some(raw)) => Some(build_user("auth.root", Some(ROOT), raw, base)?),
        (None, None) => None,
    };
    let mut users = Vec::new();
    for (index, raw) in raw.user.into_iter().enumerate() {
        let key = format!("auth.user[{}]", index + 1);
        users.push(build_user(&key, None, raw, base)?);
    }
    let all = || users.iter().chain(&root);
    for (what, field) in [
        ("access_key", (|user| &user.access_key) as fn(&User) -> &str),
        ("name", |user| &user.name),
        ("id", |user| &user.id),
    ] {
        let mut seen = HashSet::new();
        if let Some(user) = all().find(|user| !seen.insert(field(user))) {
            return Err(ConfigError::Invalid(format!(
                "two users in [auth] have the same {what} `{}`; each needs its own",
                field(user)
            )));
        }
    }
    Ok(Auth {
        sigv2: raw.sigv2.unwrap_or(true),
        root,
        users,
    })
}

/// `key`: where the user stands, as messages name it.
fn build_user(
    key: &str,
    default_name: Option<&str>,
    raw: raw::User,
    base: &Path,
) -> Result<User, ConfigError> {
    let lacks = |what: &str| ConfigError::Invalid(format!("`{key}` lacks `{what}`"));
    let name = raw
        .name
        .or(default_name.map(Into::into))
        .ok_or_else(|| lacks("name"))?;
    let access_key = raw.access_key.ok_or_else(|| lacks("access_key"))?;
    let (secret_key, of_secret) = match (raw.secret_key, raw.secret_key_file) {
        (Some(secret), None) => (secret, "secret_key"),
        (None, Some(file)) => (secret_from_file(&base.join(file))?, "secret_key_file"),
        (None, None) => return Err(lacks("secret_key` or `secret_key_file")),
        (Some(_), Some(_)) => {
            return Err(ConfigError::Invalid(format!(
                "`{key}.secret_key` is given, and `{key}.secret_key_file` too; keep one"
            )));
        }
    };
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    if !(3..=128).contains(&access_key.len())
        || !visible(&access_key)
        || access_key.contains(['/', ',', '='])
    {
        return Err(ConfigError::Invalid(format!(
            "`{key}.access_key` (of {name}) must be 3 to 128 visible ASCII characters without '/', \
             ',' and '='"
        )));
    }
    if !(8..=128).contains(&secret_key.reveal().len()) || !visible(secret_key.reveal()) {
        return Err(ConfigError::Invalid(format!(
            "`{key}.{of_secret}` (of {name}) must hold 8 to 128 visible ASCII characters; \
             `lobos keygen` makes a pair"
        )));
    }
    let id = raw.id.unwrap_or_else(|| name.clone());
    if name.is_empty() || id.is_empty() {
        return Err(ConfigError::Invalid(format!(
            "`{key}` has an empty name or id"
        )));
    }
    let policy = match raw.policy {
        None => None,
        Some(_) if default_name.is_some() => {
            return Err(ConfigError::Invalid(format!(
                "`{key}.policy` is set; this user may do everything, so take the line away"
            )));
        }
        Some(named) => Some(Arc::new(user_policy(key, &named, base)?)),
    };
    Ok(User {
        name,
        id,
        access_key,
        secret_key,
        policy,
    })
}

/// A ready-made policy by its name, or the one in a file.
/// `key`: how the section of its user is called.
fn user_policy(key: &str, named: &str, base: &Path) -> Result<Policy, ConfigError> {
    let text = match policy::ready_made(named) {
        Some(text) => text.to_owned(),
        None => {
            let path = base.join(named);
            fs::read_to_string(&path).map_err(|source| {
                ConfigError::Invalid(format!(
                    "`{key}.policy` is '{named}', neither one of {} nor a file that can be read: \
                     {source}",
                    policy::READY_MADE.join(", ")
                ))
            })?
        }
    };
    Policy::of_user(&text).map_err(|error| {
        ConfigError::Invalid(format!(
            "`{key}.policy` is '{named}', which is refused: {error}"
        ))
    })
}

/// The secret in a file; white space around it does not count.
fn secret_from_file(path: &Path) -> Result<SecretText, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.into(),
        source,
    })?;
    let text = Zeroizing::new(text);
    Ok(SecretText::new(text.trim().to_owned()))
}

fn invalid(text: &str) -> ConfigError {
    ConfigError::Invalid(text.to_owned())
}

/// Name and id of the root user that is not named otherwise.
const ROOT: &str = "root";
const NOTHING_TO_SERVE: &str = "there is nothing to serve; name a directory (lobos serve DIR), \
     --root DIR or --blob PATH:SIZE, or `root` or `buckets` in [filesystem], or `path` in [blob]";
const METRICS_PORT: u16 = 9091;
/// Where the control plane is unless it is configured otherwise.
pub const CONTROL_PORT: u16 = 50051;
const IN_FLIGHT_MAX: usize = 1 << 40;
const BLOB_BUFFERS_MAX: usize = 64 << 30;
