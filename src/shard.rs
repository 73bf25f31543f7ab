//! One core: a thread with an event loop of its own and the connections that it was handed.

use std::cell::RefCell;
use std::io;
use std::net;
use std::os::unix;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::conn::{self, App, Service, Stream};
use crate::metrics::Metrics;
use crate::pace::{Cut, Order, Pace, PaceLimits};
use crate::s3::Local;

/// A socket on its way from the listener to a shard.
#[derive(Debug)]
pub struct Accepted {
    pub socket: Socket,
    pub local: Arc<Local>,
    /// The connection's TLS settings; `None`: plain.
    pub tls: Option<Arc<ArcSwap<ServerConfig>>>,
    /// Its share of the connections that may be open.
    pub permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub enum Socket {
    Tcp(net::TcpStream),
    Unix(unix::net::UnixStream),
}

/// What a shard is started with.
#[derive(Debug)]
pub struct ShardSettings<A> {
    pub app: Arc<A>,
    pub open_domains: Option<Vec<Box<str>>>,
    pub http2_streams: u32,
    pub pace: PaceLimits,
    pub core: Option<core_affinity::CoreId>,
    /// Threads for calls that block, at most.
    pub blocking_threads: usize,
    pub phase: watch::Receiver<Phase>,
    pub metrics: Arc<Metrics>,
}

/// How far the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// Finish what is in flight until this instant, then cut it.
    Stopping {
        until: Instant,
    },
}

/// A running shard, as the listeners see it.
#[derive(Debug)]
pub struct Shard {
    sockets: mpsc::UnboundedSender<Accepted>,
    open: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Shard {
    /// Starts the thread `lobos-shard-<index>`.
    pub fn start<A>(index: usize, settings: ShardSettings<A>) -> io::Result<Self>
    where
        A: App + Send + Sync,
    {
        let (sockets, inbox) = mpsc::unbounded_channel();
        let open = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&open);
        let thread = thread::Builder::new()
            .name(format!("lobos-shard-{index}"))
            .spawn(move || run(settings, inbox, &counter))?;
        Ok(Self {
            sockets,
            open,
            thread,
        })
    }

    /// Connections that are open or handed over.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Hands a socket over; it is closed if the shard has ended.
    pub fn hand(&self, accepted: Accepted) {
        self.open.fetch_add(1, Ordering::Relaxed);
        if self.sockets.send(accepted).is_err() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes no more sockets and waits until the shard has ended.
    pub fn join(self) {
        drop(self.sockets);
        if self.thread.join().is_err() {
            tracing::error!("a shard ended with a panic");
        }
    }
}

fn run<A: App>(
    settings: ShardSettings<A>,
    inbox: mpsc::UnboundedReceiver<Accepted>,
    open: &Arc<AtomicUsize>,
) {
    if let Some(core) = settings.core
        && !core_affinity::set_for_current(core)
    {
        tracing::warn!(core = core.id, "this shard could not be pinned to its core");
    }
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(settings.blocking_threads)
        .build_local(LocalOptions::default());
    match runtime {
        Ok(runtime) => {
            runtime.block_on(serve(settings, inbox, open));
            runtime.shutdown_timeout(BLOCKING_END_MAX);
        }
        Err(error) => tracing::error!(%error, "a shard has no event loop"),
    }
}

/// Serves until the process stops and the last connection is gone.
async fn serve<A: App>(
    settings: ShardSettings<A>,
    mut inbox: mpsc::UnboundedReceiver<Accepted>,
    open: &Arc<AtomicUsize>,
) {
    let service = Rc::new(Service {
        app: settings.app,
        open: settings
            .open_domains
            .map(|domains| conn::OpenRules { domains }),
        http2_streams: settings.http2_streams,
    });
    let connections = Rc::new(Connections::default());
    let mut phase = settings.phase;
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let stopping = *phase.borrow_and_update();
        if let Phase::Stopping { until } = stopping {
            connections.order(if Instant::now() >= until {
                Order::Cut(Cut::Stopped)
            } else {
                Order::Stop
            });
        }
        tokio::select! {
            accepted = inbox.recv() => match accepted {
                Some(accepted) => {
                    settings.metrics.connections_accepted.add(1);
                    let pace = connections.enter(settings.pace, &settings.metrics);
                    if let Phase::Stopping { .. } = stopping {
                        pace.order(Order::Stop);
                    }
                    let guard = OpenGuard {
                        open: Arc::clone(open),
                        metrics: Arc::clone(&settings.metrics),
                    };
                    start(&service, accepted, pace, guard);
                }
                None => break,
            },
            _ = second.tick(), if !connections.is_empty() => connections.tick(),
            _ = phase.changed() => {}
        }
    }
    finish(&connections, phase, second).await;
    // What a request began may go on after its connection, on this event loop.
    if timeout(SETTLE_MAX, service.app.settle()).await.is_err() {
        tracing::warn!("what requests began is cut off: it did not end in time");
    }
}

/// The listeners are gone: waits for the connections, and cuts them when time is over.
async fn finish(
    connections: &Connections,
    mut phase: watch::Receiver<Phase>,
    mut second: tokio::time::Interval,
) {
    let rested = tokio::time::sleep(REST);
    let mut rested = std::pin::pin!(rested);
    let mut has_rested = false;
    loop {
        let until = match *phase.borrow_and_update() {
            Phase::Serving => None,
            Phase::Stopping { until } => Some(until),
        };
        connections.forget_ended();
        if connections.is_empty() {
            return;
        }
        connections.order(if until.is_some_and(|until| Instant::now() >= until) {
            Order::Cut(Cut::Stopped)
        } else {
            Order::Stop
        });
        tokio::select! {
            () = connections.ended.notified() => {}
            _ = second.tick() => connections.tick(),
            () = &mut rested, if !has_rested => {
                has_rested = true;
                connections.rest();
            }
            _ = sleep_until(until), if until.is_some() => {}
        }
    }
}

async fn sleep_until(until: Option<Instant>) {
    if let Some(until) = until {
        tokio::time::sleep_until(until).await;
    }
}

fn start<A: App>(service: &Rc<Service<A>>, accepted: Accepted, pace: Entered, guard: OpenGuard) {
    let stream = match accepted.socket {
        Socket::Tcp(socket) => TcpStream::from_std(socket).map(Stream::Tcp),
        Socket::Unix(socket) => UnixStream::from_std(socket).map(Stream::Unix),
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "an accepted socket could not be watched");
            return;
        }
    };
    let tls = accepted.tls.map(|tls| TlsAcceptor::from(tls.load_full()));
    let service = Rc::clone(service);
    tokio::task::spawn_local(async move {
        if let Err(cut) = conn::serve(&service, stream, tls, accepted.local, &pace.pace).await {
            tracing::debug!(?cut, "a connection was closed from this side");
        }
        drop((pace, guard, accepted.permit));
    });
}

/// The connections of one shard, for the tick and for orders to all.
#[derive(Debug, Default)]
struct Connections {
    paces: RefCell<Vec<Rc<Pace>>>,
    ended: Rc<tokio::sync::Notify>,
}

impl Connections {
    fn enter(&self, limits: PaceLimits, metrics: &Arc<Metrics>) -> Entered {
        let pace = Pace::new(limits, Arc::clone(metrics));
        self.paces.borrow_mut().push(Rc::clone(&pace));
        Entered {
            pace,
            ended: Rc::clone(&self.ended),
        }
    }

    fn is_empty(&self) -> bool {
        self.paces.borrow().is_empty()
    }

    /// A connection that ended is known by this list being the only one that holds its clocks.
    fn forget_ended(&self) {
        self.paces
            .borrow_mut()
            .retain(|pace| Rc::strong_count(pace) > 1);
    }

    fn tick(&self) {
        self.forget_ended();
        for pace in self.paces.borrow().iter() {
            pace.tick();
        }
    }

    fn order(&self, order: Order) {
        for pace in self.paces.borrow().iter() {
            pace.order(order);
        }
    }

    fn rest(&self) {
        for pace in self.paces.borrow().iter() {
            pace.rest();
        }
    }
}

/// One connection's entry in the list; its end is announced.
#[derive(Debug)]
struct Entered {
    pace: Rc<Pace>,
    ended: Rc<tokio::sync::Notify>,
}

impl Entered {
    fn order(&self, order: Order) {
        self.pace.order(order);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.ended.notify_one();
    }
}

/// Counts a connection of the shard until it ends.
#[derive(Debug)]
struct OpenGuard {
    open: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections_closed.add(1);
    }
}

/// How long idle connections stay open at a stop, for requests that were sent before their clients
/// could know of it.
const REST: Duration = Duration::from_millis(200);
/// How long a shard waits for what goes on after its connections.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// How long the end of the process waits for calls that block.
const BLOCKING_END_MAX: Duration = Duration::from_secs(5);
