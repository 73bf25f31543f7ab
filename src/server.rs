//! Start and stop: listeners in, sockets out to the shards, signals, the end.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::rustls::ServerConfig;

use crate::banner::{Access, Address, Bucket, Facts, Store};
use crate::budget::Budget;
use crate::clock::{Clock, Entropy};
use crate::config::{self, Config, Endpoint, SecretText};
use crate::conn::App;
use crate::control::accounts::{Accounts, AccountsError};
use crate::control::users_file::UsersFile;
use crate::control::{self, Control, ControlError, Doors, Signal, Wiring};
use crate::credentials::{Places, StateDir, StateError};
use crate::engine::blob::BlobEngine;
use crate::engine::fs::{FsEngine, FsOpenError, FsSettings, Mount, Symlinks};
use crate::engine::{Engine, Engines, EnginesError};
use crate::listen::{ListenError, Listener};
use crate::log::LogLevel;
use crate::metrics::Metrics;
use crate::pace::PaceLimits;
use crate::s3::auth::{Gate, GateSettings, Secret, User, Users};
use crate::s3::lifecycle::Day;
use crate::s3::{Local, S3, S3Settings};
use crate::shard::{Accepted, Phase, Shard, ShardSettings, Socket};
use crate::store::{self, StoreError};
use crate::tls::{Certificates, TlsError};
use crate::trace::Trace;

/// What a process passes in: the outside world.
#[derive(Debug)]
pub struct Start {
    pub places: Places,
    pub clock: Clock,
    pub entropy: Entropy,
    pub log_level: LogLevel,
}

/// Why there is no server. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("{0}")]
    OpenBind(String),
    #[error(transparent)]
    Storage(#[from] FsOpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engines(#[from] EnginesError),
    #[error(transparent)]
    Users(#[from] AccountsError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the threads or event loops of the server cannot be started: {0}")]
    Threads(#[from] io::Error),
}

/// Serves what `config` says until a signal ends it. `announce` is told once it listens.
///
/// The order matters: what needs no clean-up fails first, the buckets are open before anything is
/// accepted, and readiness is told last.
pub fn run(
    config: Config,
    start: Start,
    announce: impl FnOnce(&Facts),
) -> Result<Ended, StartError> {
    forbid_core_dumps();
    let tls = config.tls.as_ref().map(Certificates::read).transpose()?;
    let listeners = listeners(&config.server)?;
    let doors = control_doors(&config)?;
    let files = control::Files::open(config.control.token_file.as_deref(), &config.log)?;
    let state = StateDir::open(config.server.state_dir.as_deref(), &start.places)?;
    let (configured, access) = users(&config, &state, &start.entropy)?;
    let accounts = Arc::new(Accounts::open(
        configured,
        UsersFile::new(state.path(), start.entropy.clone()),
        start.clock.clone(),
        start.entropy.clone(),
    )?);
    let installation = state.installation(&start.entropy)?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    let (engines, opened) = runtime.block_on(open_engines(&config, installation, &start))?;
    let facts = facts(&config, &listeners, &doors, &engines, access, opened);
    let (orders, signals) = mpsc::unbounded_channel();
    let (trace, events) = Trace::new();
    let wiring = Wiring {
        facts: about(&config, &listeners, &start),
        accounts: Arc::clone(&accounts),
        log_level: start.log_level.clone(),
        certificates: tls.clone(),
        token_file: config.control.token_file.clone(),
        lifecycle_day: Day::of(config.lifecycle_day),
        files,
        orders: orders.clone(),
        events,
    };
    let live = Arc::clone(accounts.live());
    let s3 = Arc::new(s3(&config, live, engines, start, trace));
    let metrics = Arc::clone(s3.metrics());
    let stop_max = config.server.timeouts.stop;
    let server = Server::start(&s3, settings(config, listeners, tls), metrics)?;
    let _control = Control::start(doors, Arc::clone(&s3), wiring)?;
    let ended = runtime.block_on(async {
        process_signals(&orders)?;
        announce(&facts);
        tell_manager(&NotifyState::Ready);
        let ended = server.run(signals).await;
        if ended == Ended::Clean {
            close_engines(s3.engines(), stop_max).await;
        }
        Ok(ended)
    });
    // After a second signal a thread still waits for the shards; a mere drop would wait for it.
    runtime.shutdown_background();
    ended
}

/// All that is served, and what was done to open it, in lines for the operator. The blob store is
/// first: it gets the buckets that clients make.
async fn open_engines(
    config: &Config,
    installation: [u8; 16],
    start: &Start,
) -> Result<(Engines, Vec<String>), StartError> {
    let (clock, entropy) = (&start.clock, &start.entropy);
    let mut engines = Vec::new();
    #[cfg_attr(
        not(feature = "spdk"),
        expect(unused_mut, reason = "only SPDK has something to say")
    )]
    let mut lines = Vec::new();
    #[cfg(feature = "spdk")]
    if let Some(spdk) = &config.spdk {
        let store = store::spdk::open(spdk, clock.clone(), entropy.clone()).await?;
        engines.push(Engine::Blob(store.engine));
        lines.extend(store.lines);
    }
    if let Some(blob) = &config.blob {
        let store = store::open(blob, clock.clone(), entropy.clone()).await?;
        engines.push(Engine::Blob(store));
    }
    if config.filesystem.has_buckets() {
        let settings = fs_settings(&config.filesystem, installation);
        let fs = FsEngine::open(settings, clock.clone(), entropy.clone())?;
        engines.push(Engine::Fs(fs));
    }
    Ok((Engines::new(engines).await?, lines))
}

/// The shards have ended: nothing more is asked of the engines. What does not end in `max` costs
/// the next start a longer replay, and no data.
async fn close_engines(engines: &Engines, max: Duration) {
    for engine in engines {
        match tokio::time::timeout(max, engine.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the storage was not closed; the next start has more to do");
            }
            Err(_) => tracing::error!("the storage was not closed in time"),
        }
        if let Engine::Blob(blob) = engine
            && let Err(error) = blob.device().close()
        {
            tracing::error!(%error, "the device of the blob store was not closed");
        }
    }
}

/// What the control plane tells of this process.
fn about(config: &Config, listeners: &[Listener], start: &Start) -> control::Facts {
    control::Facts {
        started: start.clock.now(),
        listen: listeners.iter().map(|it| it.name().to_owned()).collect(),
        auth: config.server.auth,
    }
}

/// The sockets that were handed in, or else the configured addresses.
fn listeners(server: &config::Server) -> Result<Vec<Listener>, StartError> {
    let mut listeners = Listener::handed_in()?;
    if listeners.is_empty() {
        for listen in &server.listen {
            listeners.push(Listener::bind(listen)?);
        }
    }
    let foreign = listeners.iter().find(|listener| !listener.is_loopback());
    match foreign {
        Some(foreign) if !server.auth => Err(StartError::OpenBind(config::open_bind_refused(
            foreign.name(),
        ))),
        _ => Ok(listeners),
    }
}

/// The sockets of the control plane.
fn control_doors(config: &Config) -> Result<Doors, ListenError> {
    Ok(Doors {
        metrics: door(&config.metrics, "are no metrics", "metrics")?,
        grpc: door(&config.control.endpoint, "is no control plane", "control")?,
    })
}

/// An address that nobody asked for may be taken: `there <lacks>` then.
fn door(endpoint: &Endpoint, lacks: &str, section: &str) -> Result<Option<Listener>, ListenError> {
    match endpoint {
        Endpoint::Off => Ok(None),
        Endpoint::At(listen) => Listener::bind(listen).map(Some),
        Endpoint::Usual(listen) => match Listener::bind(listen) {
            Ok(listener) => Ok(Some(listener)),
            Err(_) => {
                tracing::warn!(
                    "there {lacks}: {listen} is in use; choose an address with `listen`, \
                     or set `enabled = false`, in [{section}]"
                );
                Ok(None)
            }
        },
    }
}

/// Everybody who may sign requests, and what the banner says of it.
fn users(
    config: &Config,
    state: &StateDir,
    entropy: &Entropy,
) -> Result<(Vec<User>, Access), StartError> {
    let (root, access) = match &config.auth.root {
        Some(root) => {
            let access_key = root.access_key.clone();
            (root.clone(), Access::Configured { access_key })
        }
        None if config.server.auth => {
            let keys = state.keys(entropy)?;
            let root = config::User::root(keys.access_key.clone(), keys.secret_key.clone());
            let file = state.credentials_path();
            (root, Access::Generated { keys, file })
        }
        // Nobody signs, so nobody needs a key.
        None => {
            let keyless = config::User::root("".into(), SecretText::new(String::new()));
            (keyless, Access::Open)
        }
    };
    let access = if config.server.auth {
        access
    } else {
        Access::Open
    };
    let user = |user: &config::User, root| User {
        name: user.name.clone(),
        id: user.id.clone(),
        access_key: user.access_key.clone(),
        secret_key: Secret::new(user.secret_key.reveal()),
        expires: None,
        root,
        policies: user.policy.iter().cloned().collect(),
    };
    let others = config.auth.users.iter().map(|other| user(other, false));
    let all = std::iter::once(user(&root, true)).chain(others);
    Ok((all.collect(), access))
}

fn fs_settings(filesystem: &config::Filesystem, installation: [u8; 16]) -> FsSettings {
    FsSettings {
        buckets: filesystem.buckets.clone(),
        root: filesystem.root.clone(),
        durability: filesystem.durability,
        symlinks: match filesystem.symlinks {
            config::Symlinks::Inside => Symlinks::Inside,
            config::Symlinks::Never => Symlinks::Never,
        },
        file_mode: filesystem.file_mode,
        dir_mode: filesystem.dir_mode,
        installation,
        cache_bytes: filesystem.cache_bytes,
        upload_expiry: filesystem.upload_expiry,
    }
}

fn s3(
    config: &Config,
    users: Arc<ArcSwap<Users>>,
    engines: Engines,
    start: Start,
    trace: Trace,
) -> S3 {
    let server = &config.server;
    let gate = GateSettings {
        users: Arc::clone(&users),
        region: server.region.clone(),
        sigv2: config.auth.sigv2,
        required: server.auth,
    };
    let limits = &server.limits;
    let budget = Budget::new(limits.in_flight_bytes, limits.in_flight_wait);
    S3::new(S3Settings {
        engines,
        gate: Gate::new(gate, start.clock.clone()),
        users,
        region: server.region.clone(),
        domains: server.domains.clone(),
        ownership: server.object_ownership,
        budget: Arc::new(budget),
        clock: start.clock,
        entropy: start.entropy,
        etags: server.etags.clone(),
        trace,
    })
}

fn facts(
    config: &Config,
    listeners: &[Listener],
    doors: &Doors,
    engines: &Engines,
    access: Access,
    opened: Vec<String>,
) -> Facts {
    let address = |listener: &Listener| Address {
        name: listener.name().to_owned(),
        tcp: listener.tcp_address(),
    };
    let bucket = |mount: Mount| Bucket {
        name: mount.bucket.to_string(),
        directory: mount.directory,
        free_bytes: mount.free_bytes,
        lacks: mount.lacks,
    };
    let (mut buckets, mut store) = (Vec::new(), None);
    for engine in engines {
        match engine {
            Engine::Fs(fs) => buckets.extend(fs.mounts().into_iter().map(bucket)),
            Engine::Blob(blob) => store = Some(store_facts(config.blob.as_ref(), blob)),
        }
    }
    Facts {
        listeners: listeners.iter().map(address).collect(),
        tls: config.tls.is_some(),
        metrics: doors.metrics.as_ref().map(address),
        control: doors.grpc.as_ref().map(address),
        buckets,
        root: config.filesystem.root.as_deref().map(resolved),
        store,
        opened,
        durability: config.filesystem.durability,
        region: config.server.region.clone(),
        access,
    }
}

/// The whole path, so that the banner says the same wherever it is read.
fn resolved(dir: &Path) -> PathBuf {
    dir.canonicalize().unwrap_or_else(|_| dir.into())
}

fn store_facts(said: Option<&config::Blob>, engine: &BlobEngine) -> Store {
    let device = engine.device().describe();
    Store {
        path: said.map_or("spdk".into(), |said| said.place.path.clone()),
        size_bytes: engine.size_bytes(),
        free_bytes: engine.free_bytes(),
        device: device.kind.name(),
        lacks: device.missing,
        durability: engine.durability(),
    }
}

fn settings(config: Config, listeners: Vec<Listener>, tls: Option<Certificates>) -> ServerSettings {
    let server = config.server;
    let reactors = config.spdk.map(|spdk| spdk.cores).unwrap_or_default();
    ServerSettings {
        reserved_cores: reactors.into_iter().map(|core| core as usize).collect(),
        listeners,
        threads: server.threads,
        pin: server.pin,
        open_domains: (!server.auth).then_some(server.domains),
        limits: server.limits,
        timeouts: server.timeouts,
        tls,
    }
}

/// SIGTERM and SIGINT stop, SIGHUP reloads, unless it says that the terminal is gone on which the
/// server was started: then it stops.
fn process_signals(sender: &mpsc::UnboundedSender<Signal>) -> io::Result<()> {
    for (kind, meaning) in [
        (SignalKind::terminate(), Signal::Stop),
        (SignalKind::interrupt(), Signal::Stop),
        (SignalKind::hangup(), Signal::Reload),
    ] {
        let mut stream = signal(kind)?;
        let sender = sender.clone();
        let has_terminal = io::stdin().is_terminal();
        tokio::task::spawn_local(async move {
            while stream.recv().await.is_some() {
                let meaning = match has_terminal && !io::stdin().is_terminal() {
                    true => Signal::Stop,
                    false => meaning,
                };
                if sender.send(meaning).is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

/// systemd's notification socket, where there is one.
fn tell_manager(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// What the server is started with, beside the application.
#[derive(Debug)]
pub struct ServerSettings {
    pub listeners: Vec<Listener>,
    pub threads: usize,
    pub pin: bool,
    /// Nothing is pinned to these.
    pub reserved_cores: Vec<usize>,
    /// `Some`: no authentication; the domains under which it may be reached all the same.
    pub open_domains: Option<Vec<Box<str>>>,
    pub limits: config::Limits,
    pub timeouts: config::Timeouts,
    pub tls: Option<Certificates>,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything in flight is finished, or was cut when its time was over.
    Clean,
    /// A second signal came.
    AtOnce,
}

/// A started server: its shards wait, nothing is accepted yet.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<Listener>,
    shards: Vec<Shard>,
    phase: watch::Sender<Phase>,
    connections: Arc<Semaphore>,
    stop_max: Duration,
    tls: Option<Certificates>,
}

impl Server {
    /// Starts the shards.
    pub fn start<A>(
        app: &Arc<A>,
        settings: ServerSettings,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError>
    where
        A: App + Send + Sync,
    {
        let (phase, phases) = watch::channel(Phase::Serving);
        let timeouts = &settings.timeouts;
        let pace = PaceLimits {
            head: timeouts.head,
            body: timeouts.body,
            reply: timeouts.reply,
            idle: timeouts.idle,
            rate_bytes: timeouts.rate_bytes,
        };
        let mut cores = settings
            .pin
            .then(core_affinity::get_core_ids)
            .flatten()
            .unwrap_or_default()
            .into_iter()
            .filter(|core| !settings.reserved_cores.contains(&core.id))
            .collect::<Vec<_>>()
            .into_iter()
            .cycle();
        let shards = (0..settings.threads)
            .map(|index| {
                let settings = ShardSettings {
                    app: Arc::clone(app),
                    open_domains: settings.open_domains.clone(),
                    http2_streams: settings.limits.http2_streams,
                    pace,
                    core: cores.next(),
                    blocking_threads: (BLOCKING_THREADS / settings.threads).max(8),
                    phase: phases.clone(),
                    metrics: Arc::clone(&metrics),
                };
                Shard::start(index, settings)
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            listeners: settings.listeners,
            shards,
            phase,
            connections: Arc::new(Semaphore::new(connections_max(settings.limits.connections))),
            stop_max: settings.timeouts.stop,
            tls: settings.tls,
        })
    }

    /// Accepts until it is told to stop. Runs on a local runtime; every signal that comes after
    /// the first [`Signal::Stop`] and is one ends it at once.
    pub async fn run(self, mut signals: mpsc::UnboundedReceiver<Signal>) -> Ended {
        let shards = Rc::new(self.shards);
        let doors: Vec<_> = self
            .listeners
            .into_iter()
            .map(|listener| {
                let door = Door {
                    shards: Rc::clone(&shards),
                    connections: Arc::clone(&self.connections),
                    tls: self.tls.as_ref().map(|tls| Arc::clone(tls.current())),
                };
                tokio::task::spawn_local(door.accept(listener))
            })
            .collect();
        while let Some(signal) = signals.recv().await {
            match signal {
                Signal::Stop | Signal::Drain => break,
                Signal::Reload => reload(self.tls.as_ref()),
            }
        }
        tell_manager(&NotifyState::Stopping);
        let until = Instant::now() + self.stop_max;
        self.phase.send_replace(Phase::Stopping { until });
        close(doors).await;
        let ended = tokio::task::spawn_blocking({
            let shards = Rc::into_inner(shards).unwrap_or_default();
            move || shards.into_iter().for_each(Shard::join)
        });
        tokio::select! {
            _ = ended => Ended::Clean,
            () = second_stop(&mut signals) => Ended::AtOnce,
        }
    }
}

/// Stops accepting: the listening sockets are closed with their tasks.
async fn close(doors: Vec<JoinHandle<()>>) {
    for door in doors {
        door.abort();
        let _ = door.await;
    }
}

async fn second_stop(signals: &mut mpsc::UnboundedReceiver<Signal>) {
    while let Some(signal) = signals.recv().await {
        if signal == Signal::Stop {
            return;
        }
    }
    // Nobody can signal any more.
    std::future::pending().await
}

fn reload(tls: Option<&Certificates>) {
    let Some(certificates) = tls else {
        tracing::warn!("there is nothing to reload: [tls] is not configured");
        return;
    };
    match certificates.reload() {
        Ok(()) => tracing::info!("the certificates were read again"),
        Err(error) => tracing::error!(%error, "the certificates stay as they were"),
    }
}

/// One listener's way to the shards.
struct Door {
    shards: Rc<Vec<Shard>>,
    connections: Arc<Semaphore>,
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
}

impl Door {
    async fn accept(self, listener: Listener) {
        let name = listener.name().to_owned();
        let listener = match listener.watch() {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%name, %error, "this address cannot be watched");
                return;
            }
        };
        let mut paused = false;
        loop {
            match listener.accept().await {
                Ok((socket, local)) => {
                    paused = false;
                    // At the limit this connection waits here and the others in the kernel.
                    let place = Arc::clone(&self.connections).acquire_owned().await;
                    let Ok(permit) = place else { return };
                    self.hand(socket, local, permit);
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    // Out of descriptors or memory: what ends some connection helps, haste not.
                    if !std::mem::replace(&mut paused, true) {
                        tracing::warn!(%name, %error, "accepting connections pauses");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The shard with the fewest connections gets it.
    fn hand(&self, socket: Socket, mut local: Local, permit: OwnedSemaphorePermit) {
        let tls = match socket {
            Socket::Tcp(_) => self.tls.clone(),
            Socket::Unix(_) => None,
        };
        local.secure = tls.is_some();
        if let Some(shard) = self
            .shards
            .iter()
            .min_by_key(|shard| shard.open_connections())
        {
            shard.hand(Accepted {
                socket,
                local: Arc::new(local),
                tls,
                permit,
            });
        }
    }
}

/// The peer's connection was gone before it was taken, or a signal came between.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::InvalidInput
    )
}

/// The memory of the process holds secret keys, which a file of it on disk would tell.
fn forbid_core_dumps() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(errno) = setrlimit(Resource::Core, none) {
        tracing::warn!(%errno, "core dumps stay possible: they would hold secret keys");
    }
}

/// Raises the limit of open files as far as allowed and keeps half of it for the engine.
fn connections_max(asked: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let Some(files) = files.and_then(|files| usize::try_from(files).ok()) else {
        return asked;
    };
    let room = (files / 2).saturating_sub(16).max(8);
    if room < asked {
        tracing::warn!(
            "{room} connections instead of {asked}: the limit of open files is {files}; \
             raise it (ulimit -n, LimitNOFILE=) or lower server.limits.connections"
        );
    }
    asked.min(room)
}

/// Threads for blocking calls of all shards together.
const BLOCKING_THREADS: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);
