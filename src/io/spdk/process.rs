//! SPDK itself: one instance on threads of its own, started once in a process.

#![expect(unsafe_code, reason = "runs SPDK and sends messages to its threads")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use lobos_spdk_sys as sys;

use super::SpdkError;
use super::lane::{Inbox, Poll, poll};

/// How SPDK is started.
#[derive(Clone, Debug)]
pub struct SpdkOptions {
    /// Each gets a reactor, which takes all of that core's time.
    pub cores: Vec<u32>,
    /// SPDK's configuration: which bdevs there are, and their settings.
    pub config_json: String,
    /// The Unix socket of SPDK's own control service. Whoever opens it can do anything.
    pub rpc: Option<PathBuf>,
    pub pci: PciAccess,
    /// Ordinary memory instead of huge pages.
    pub no_huge: bool,
    /// Memory that SPDK takes at its start: its pools, the buffers, and malloc bdevs.
    pub memory_mib: u32,
}

/// Which PCI devices SPDK may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PciAccess {
    None,
    One(Box<str>),
    Any,
}

/// SPDK as it runs.
///
/// # Invariants
/// Reactors and their pollers live until [`SpdkProcess::stop`], which nothing follows.
#[derive(Debug)]
pub struct SpdkProcess {
    pub(super) reactors: Vec<Reactor>,
    thread: Mutex<Option<JoinHandle<i32>>>,
}

/// One polling thread of SPDK's.
#[derive(Debug)]
pub(super) struct Reactor {
    raw: Raw<sys::lobos_spdk_reactor>,
    pub(super) inbox: Arc<Inbox>,
    poll: Raw<Poll>,
}

/// A pointer of SPDK's that goes with messages to the thread that may use it.
#[derive(Debug)]
pub(super) struct Raw<T>(*mut T);

impl<T> Raw<T> {
    pub(super) fn new(pointer: *mut T) -> Self {
        Self(pointer)
    }

    pub(super) fn get(self) -> *mut T {
        self.0
    }
}

impl<T> Clone for Raw<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Raw<T> {}

// SAFETY: it is only carried; who follows it must be on the right thread, and says so there.
unsafe impl<T> Send for Raw<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Raw<T> {}

impl SpdkProcess {
    /// Starts SPDK. Blocks until it runs. After an error the process can only end: SPDK cannot be
    /// started twice.
    pub fn start(options: SpdkOptions) -> Result<Arc<Self>, SpdkError> {
        super::memory::check(&options)?;
        if HAS_STARTED.swap(true, Ordering::AcqRel) {
            return Err(SpdkError::Start {
                why: "it was started before in this process".into(),
            });
        }
        let (sender, receiver) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("lobos-spdk".into())
            .spawn(move || run(&options, sender))
            .map_err(|error| SpdkError::Start {
                why: error.to_string(),
            })?;
        match receiver.recv() {
            Ok(reactors) if !reactors.is_empty() => {
                let raw = reactors.iter().map(|reactor| reactor.raw);
                lock(&POLLING).extend(raw);
                // SAFETY: the function may run at any exit.
                unsafe { libc::atexit(park_at_exit) };
                Ok(Arc::new(Self {
                    reactors,
                    thread: Mutex::new(Some(thread)),
                }))
            }
            // SPDK has ended before it was ready, or gave no reactor.
            _ => Err(SpdkError::Start { why: last_error() }),
        }
    }

    /// Ends SPDK, after all devices were closed. Blocks. Memory for transfers that is still in use
    /// stays readable until the process ends.
    pub fn stop(&self) -> Result<(), SpdkError> {
        let thread = lock(&self.thread).take();
        let Some(thread) = thread else { return Ok(()) };
        lock(&POLLING).clear();
        super::memory::freeze();
        for reactor in &self.reactors {
            let (raw, poll) = (reactor.raw, reactor.poll);
            reactor.call(move || {
                // SAFETY: this runs on the reactor, and `stop` ends each reactor once; its poller
                // does not run after this and was the only one that used `poll`.
                unsafe {
                    sys::lobos_spdk_reactor_end(raw.get());
                    drop(Box::from_raw(poll.get()));
                }
            })?;
        }
        // SAFETY: this runs on the app thread.
        send_app(|| unsafe { sys::lobos_spdk_stop() })?;
        match thread.join() {
            Ok(0) => Ok(()),
            Ok(code) => Err(SpdkError::Stop { code }),
            Err(_) => Err(SpdkError::Stop { code: -1 }),
        }
    }
}

impl Reactor {
    /// Has `work` done on the reactor and waits for it. Blocks.
    pub(super) fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, SpdkError> {
        let (sender, receiver) = sync_channel(1);
        let work = Work::boxed(move || {
            let _nobody_waits = sender.send(work());
        });
        // SAFETY: the reactor lives until `stop`; `run_work` takes the box back.
        let sent = unsafe {
            sys::lobos_spdk_reactor_send(self.raw.get(), run_work, work.cast::<c_void>())
        };
        Work::taken_back_if(sent, work)?;
        receiver.recv().map_err(|_| SpdkError::Message { code: 0 })
    }
}

/// Has `call` begin an operation on the app thread and waits for its end: gives its value or a
/// negative errno. Blocks; never on a thread of SPDK's.
pub(super) fn ask(call: impl FnOnce(sys::Done, *mut c_void) + Send + 'static) -> Result<u64, i32> {
    let (sender, receiver) = sync_channel(1);
    let sent = send_app(move || {
        let answer = Box::into_raw(Box::new(Answer(sender)));
        call(answered, answer.cast());
    });
    match (sent, receiver.recv()) {
        (Ok(()), Ok((value, 0))) => Ok(value),
        (Ok(()), Ok((_, error))) => Err(error),
        _ => Err(-libc::ENOMEM),
    }
}

/// Where the end of an operation is told.
struct Answer(SyncSender<(u64, i32)>);

unsafe extern "C" fn answered(context: *mut c_void, value: u64, error: i32) {
    // SAFETY: `ask` gave this box to the operation, which ends once.
    let answer = unsafe { Box::from_raw(context.cast::<Answer>()) };
    let _nobody_waits = answer.0.send((value, error));
}

/// A closure as a message of SPDK's.
struct Work(Box<dyn FnOnce() + Send>);

impl Work {
    fn boxed(work: impl FnOnce() + Send + 'static) -> *mut Self {
        Box::into_raw(Box::new(Self(Box::new(work))))
    }

    /// A message that was not sent is still ours.
    fn taken_back_if(sent: i32, work: *mut Self) -> Result<(), SpdkError> {
        if sent == 0 {
            return Ok(());
        }
        // SAFETY: nobody else was given it.
        drop(unsafe { Box::from_raw(work) });
        Err(SpdkError::Message { code: sent })
    }
}

unsafe extern "C" fn run_work(context: *mut c_void) {
    // SAFETY: the sender gave this box to the message, which arrives once.
    let work = unsafe { Box::from_raw(context.cast::<Work>()) };
    (work.0)();
}

fn send_app(work: impl FnOnce() + Send + 'static) -> Result<(), SpdkError> {
    let work = Work::boxed(work);
    // SAFETY: SPDK runs, for there is a `SpdkProcess`; `run_work` takes the box back.
    let sent = unsafe { sys::lobos_spdk_send(run_work, work.cast()) };
    Work::taken_back_if(sent, work)
}

/// What the thread of SPDK's hands to [`ready`].
struct Starting {
    cores: Vec<u32>,
    ready: SyncSender<Vec<Reactor>>,
}

/// The thread that SPDK takes for itself: its first core.
fn run(options: &SpdkOptions, ready_sender: SyncSender<Vec<Reactor>>) -> i32 {
    let mask = options.cores.iter().fold(0_u64, |mask, core| {
        mask | 1_u64.checked_shl(*core).unwrap_or(0)
    });
    let text = |text: String| CString::new(text).unwrap_or_default();
    let mask = text(format!("{mask:#x}"));
    let config = text(options.config_json.clone());
    let rpc = options.rpc.as_ref();
    let rpc = rpc.map(|path| text(path.display().to_string()));
    let pci = match &options.pci {
        PciAccess::One(address) => Some(text(address.to_string())),
        PciAccess::None | PciAccess::Any => None,
    };
    let starting = Starting {
        cores: options.cores.clone(),
        ready: ready_sender,
    };
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |it| it.as_ptr());
    let start = sys::lobos_spdk_start {
        reactor_mask: mask.as_ptr(),
        config: config.as_ptr(),
        config_bytes: config.as_bytes().len(),
        rpc: pointer(&rpc),
        pci: pointer(&pci),
        any_pci: options.pci == PciAccess::Any,
        no_huge: options.no_huge,
        memory_mib: i32::try_from(options.memory_mib).unwrap_or(i32::MAX),
        log,
        ready,
        context: (&raw const starting).cast_mut().cast(),
    };
    // SAFETY: all that `start` points to outlives the call; `HAS_STARTED` lets it happen once.
    unsafe { sys::lobos_spdk_run(&raw const start) }
}

unsafe extern "C" fn ready(context: *mut c_void) {
    // SAFETY: `run` has it on its stack until SPDK ends, and only this call looks at it.
    let starting = unsafe { &*context.cast::<Starting>() };
    let mut reactors = Vec::new();
    for (index, core) in starting.cores.iter().enumerate() {
        let inbox = Arc::new(Inbox::default());
        let Some(context) = Poll::new(index, Arc::clone(&inbox)) else {
            break;
        };
        let context = Box::into_raw(Box::new(context));
        // SAFETY: this is the app thread; the context lives until `stop` has ended the reactor.
        let raw = unsafe { sys::lobos_spdk_reactor_start(*core, poll, context.cast()) };
        if raw.is_null() {
            break;
        }
        reactors.push(Reactor {
            raw: Raw::new(raw),
            inbox,
            poll: Raw::new(context),
        });
    }
    if reactors.len() < starting.cores.len() {
        note_error("there is not enough memory for the buffers of the reactors; raise `memory`");
        reactors.clear();
    }
    let _nobody_waits = starting.ready.send(reactors);
}

unsafe extern "C" fn log(level: i32, text: *const c_char) {
    // SAFETY: the shim gives a text that ends, for as long as this call lasts.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    match level {
        ..=0 => {
            note_error(&text);
            tracing::error!(target: "spdk", "{text}");
        }
        1 => tracing::warn!(target: "spdk", "{text}"),
        2 => tracing::info!(target: "spdk", "{text}"),
        _ => tracing::debug!(target: "spdk", "{text}"),
    }
}

fn note_error(text: &str) {
    let mut last = lock(&LAST_ERROR);
    // The first says why; those after it follow from it.
    if last.is_empty() {
        text.clone_into(&mut last);
    }
}

fn last_error() -> String {
    let last = lock(&LAST_ERROR);
    match last.as_str() {
        "" => "it gave no reason in the log; its environment layer prints to standard error".into(),
        why => why.to_owned(),
    }
}

/// An exit that did not end SPDK first takes its libraries down while its threads poll: they sleep
/// meanwhile.
extern "C" fn park_at_exit() {
    let (sender, receiver) = sync_channel(64);
    let mut parked = 0;
    for reactor in lock(&POLLING).drain(..) {
        let sender = sender.clone();
        let work = Work::boxed(move || {
            let _nobody_waits = sender.send(());
            loop {
                std::thread::park();
            }
        });
        // SAFETY: it polls: `stop` would have taken it out of the list.
        let sent = unsafe { sys::lobos_spdk_reactor_send(reactor.get(), run_work, work.cast()) };
        parked += usize::from(Work::taken_back_if(sent, work).is_ok());
    }
    for _ in 0..parked {
        let _waited = receiver.recv_timeout(std::time::Duration::from_secs(1));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error of the operating system behind a code of SPDK's.
pub(super) fn os_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_abs())
}

static HAS_STARTED: AtomicBool = AtomicBool::new(false);
/// Reactors that were not ended.
static POLLING: Mutex<Vec<Raw<sys::lobos_spdk_reactor>>> = Mutex::new(Vec::new());
static LAST_ERROR: Mutex<String> = Mutex::new(String::new());
