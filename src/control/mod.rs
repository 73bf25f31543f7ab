//! The control plane: what an operator asks of a running server, on a thread of its own, so that
//! it may stall or die without delaying a request.
//!
//! Reading order: [`Control`]; [`users_file`] and [`accounts`] (who may sign requests); `grpc` (the
//! door, where `caller` says who may call), `service` (the methods), `users`, `buckets`, `insight`
//! (what they do), `check` (of all that is stored), `watch` (the live trace), `lifecycle` (removes
//! what rules end), `access`
//! and `lines` (logs in files), `status` (errors); `scrape` (the metrics endpoint),
//! `exposition` (the text it sends).

mod access;
pub mod accounts;
mod buckets;
pub mod caller;
mod check;
mod exposition;
mod grpc;
mod insight;
mod lifecycle;
mod lines;
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "most of it is generated"
)]
pub mod proto;
mod scrape;
mod service;
#[cfg(feature = "spdk")]
mod spdk_lines;
mod status;
mod users;
pub mod users_file;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

pub use service::Facts;

use access::AccessLog;
use accounts::Accounts;
use caller::{Token, TokenError};
use check::Checks;
use lines::LineFile;
use service::Service;
use watch::Watchers;

use crate::config;
use crate::listen::Listener;
use crate::log::LogLevel;
use crate::s3::S3;
use crate::s3::lifecycle::Day;
use crate::tls::Certificates;
use crate::trace::Event;

/// What happens to a running server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Stop accepting, finish what is in flight; the second time: end at once.
    Stop,
    /// The same, however often it comes.
    Drain,
    /// Read the certificates again.
    Reload,
}

/// Where the control plane listens.
#[derive(Debug)]
pub struct Doors {
    pub metrics: Option<Listener>,
    pub grpc: Option<Listener>,
}

/// Files that must be there before anything is served.
#[derive(Debug)]
pub struct Files {
    token: Token,
    access: Option<AccessLog>,
    audit: Option<LineFile>,
}

impl Files {
    pub fn open(token: Option<&Path>, log: &config::Log) -> Result<Self, ControlError> {
        let open = |path: &Option<PathBuf>| match path {
            None => Ok(None),
            Some(path) => match LineFile::open(path) {
                Ok(file) => Ok(Some(file)),
                Err(source) => Err(ControlError::Log {
                    path: path.clone(),
                    source,
                }),
            },
        };
        let access = open(&log.access_log)?;
        Ok(Self {
            token: Token::read(token)?,
            access: access.map(|file| AccessLog::new(file, log.access_format)),
            audit: open(&log.audit_log)?,
        })
    }
}

/// What the control plane works with, beside the S3 service.
#[derive(Debug)]
pub struct Wiring {
    pub accounts: Arc<Accounts>,
    pub facts: Facts,
    pub log_level: LogLevel,
    pub certificates: Option<Certificates>,
    pub token_file: Option<PathBuf>,
    /// How long the days of lifecycle rules are.
    pub lifecycle_day: Day,
    /// Told what shall happen to the server.
    pub orders: mpsc::UnboundedSender<Signal>,
    /// The other end of the S3 service's trace.
    pub events: mpsc::Receiver<Event>,
    pub files: Files,
}

/// Why there is no control plane.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the log {} cannot be written: {source}", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("the thread of the control plane cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// The running control plane; it ends when this is dropped.
#[derive(Debug)]
pub struct Control {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Starts the thread `lobos-control`: it answers scrapes and calls, and sees what other
    /// processes do to the users.
    pub fn start(doors: Doors, s3: Arc<S3>, wiring: Wiring) -> Result<Self, ControlError> {
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("lobos-control".into())
            .spawn(move || run(doors, s3, wiring, stopped))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) {
            tracing::error!("the control plane ended with a panic");
        }
    }
}

fn run(doors: Doors, s3: Arc<S3>, wiring: Wiring, stopped: oneshot::Receiver<()>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the control plane has no event loop");
            return;
        }
    };
    runtime.block_on(async {
        let ending = Rc::new(Notify::new());
        let (trace, tasks) = start(doors, s3, wiring, &ending);
        let _ = stopped.await;
        tasks.iter().for_each(|task| task.abort());
        ending.notify_one();
        let _ = tokio::time::timeout(BLOCKING_END_MAX, trace).await;
    });
    runtime.shutdown_timeout(BLOCKING_END_MAX);
}

type Task = tokio::task::JoinHandle<()>;

/// Every part in a task of its own: one that ends or panics takes no other with it.
fn start(doors: Doors, s3: Arc<S3>, wiring: Wiring, ending: &Rc<Notify>) -> (Task, Vec<Task>) {
    let watchers = Arc::new(Watchers::default());
    let accounts = Arc::clone(&wiring.accounts);
    let files = wiring.files;
    let trace = tokio::task::spawn_local({
        let (s3, watchers, ending) = (Arc::clone(&s3), Arc::clone(&watchers), Rc::clone(ending));
        async move { watch::fan_out(&s3, &watchers, wiring.events, files.access, &ending).await }
    });
    let mut tasks = vec![
        tokio::task::spawn_local(follow_users(accounts)),
        tokio::task::spawn_local(lifecycle::work(Arc::clone(&s3), wiring.lifecycle_day)),
    ];
    if let Some(listener) = doors.metrics {
        let work = scrape::serve(listener, Arc::clone(&s3));
        tasks.push(tokio::task::spawn_local(work));
    }
    if let Some(listener) = doors.grpc {
        let token = Arc::new(ArcSwap::from_pointee(files.token));
        let tls = wiring.certificates.as_ref();
        let tls = tls.map(|certificates| Arc::clone(certificates.current()));
        let service = Service {
            s3,
            accounts: wiring.accounts,
            watchers,
            checks: Checks::default(),
            facts: wiring.facts,
            log_level: wiring.log_level,
            certificates: wiring.certificates,
            token_file: wiring.token_file,
            token: Arc::clone(&token),
            orders: wiring.orders,
            audit: files.audit.map(Mutex::new),
        };
        let work = grpc::serve(listener, token, tls, service);
        tasks.push(tokio::task::spawn_local(work));
    }
    (trace, tasks)
}

/// Publishes what other processes write, within a second.
async fn follow_users(accounts: Arc<Accounts>) {
    let mut tick = tokio::time::interval(USERS_LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // It has told the log.
        let _ = accounts.refresh();
    }
}

const USERS_LOOK_EVERY: Duration = Duration::from_millis(500);
/// Edits of users wait for each other anyway.
const BLOCKING_THREADS: usize = 4;
const BLOCKING_END_MAX: Duration = Duration::from_secs(5);
