//! Start and stop: listeners in, sockets out to the shards, signals, the end.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::rustls::ServerConfig;

use crate::config;
use crate::conn::App;
use crate::listen::Listener;
use crate::pace::PaceLimits;
use crate::s3::Local;
use crate::shard::{Accepted, Phase, Shard, ShardSettings, Socket};
use crate::tls;

/// What the server is started with, beside the application.
#[derive(Debug)]
pub struct ServerSettings {
    pub listeners: Vec<Listener>,
    pub threads: usize,
    pub pin: bool,
    /// `Some`: no authentication; the domains under which it may be reached all the same.
    pub open_domains: Option<Vec<Box<str>>>,
    pub limits: config::Limits,
    pub timeouts: config::Timeouts,
    pub tls: Option<config::Tls>,
}

/// What happens to a running server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Stop accepting, finish what is in flight; the second time: end at once.
    Stop,
    /// Read the certificates again.
    Reload,
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
    tls: Option<(config::Tls, Arc<ArcSwap<ServerConfig>>)>,
}

impl Server {
    /// Reads the certificates and starts the shards.
    pub fn start<A>(app: &Arc<A>, settings: ServerSettings) -> io::Result<Self>
    where
        A: App + Send + Sync,
    {
        let tls = match settings.tls {
            Some(files) => {
                let loaded = tls::load(&files)?;
                Some((files, Arc::new(ArcSwap::from(loaded))))
            }
            None => None,
        };
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
            tls,
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
                    tls: self.tls.as_ref().map(|(_, tls)| Arc::clone(tls)),
                };
                tokio::task::spawn_local(door.accept(listener))
            })
            .collect();
        while let Some(signal) = signals.recv().await {
            match signal {
                Signal::Stop => break,
                Signal::Reload => reload(self.tls.as_ref()),
            }
        }
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

fn reload(tls: Option<&(config::Tls, Arc<ArcSwap<ServerConfig>>)>) {
    let Some((files, current)) = tls else {
        tracing::warn!("there is nothing to reload: [tls] is not configured");
        return;
    };
    match tls::load(files) {
        Ok(fresh) => {
            current.store(fresh);
            tracing::info!("the certificates were read again");
        }
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
    fn hand(&self, socket: Socket, local: Arc<Local>, permit: OwnedSemaphorePermit) {
        let tls = match socket {
            Socket::Tcp(_) => self.tls.clone(),
            Socket::Unix(_) => None,
        };
        if let Some(shard) = self
            .shards
            .iter()
            .min_by_key(|shard| shard.open_connections())
        {
            shard.hand(Accepted {
                socket,
                local,
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
