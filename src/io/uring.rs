//! A device through io_uring: one ring per event loop, made on its thread, driven by one task.
//!
//! An operation puts its entry into the ring and wakes the driver, which runs behind the other
//! ready tasks and enters the kernel once for all of them. The ring's own descriptor is never
//! readable with deferred task work, so completions announce themselves through an eventfd.

#![expect(
    unsafe_code,
    reason = "submits raw entries; a `Slot` owns every buffer until its completion"
)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;

use io_uring::{IoUring, Probe, opcode, squeue, types};
use rustix::event::EventfdFlags;
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, Id, RuntimeFlavor};

use super::dma::DmaBuf;
use super::media::Media;

/// A device that every event loop reaches through a ring of its own.
#[derive(Debug)]
pub struct Uring {
    pub(super) media: Media,
    pub(super) tuning: Tuning,
    /// The rings that have been made, to end their drivers.
    rings: Mutex<Vec<Weak<Ring>>>,
}

/// How rings are made and used; tests take other paths by it than this kernel would.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    /// Completions are worked off when the loop enters the kernel (Linux 6.1 and later).
    pub(super) is_deferred: bool,
    /// Bytes of one entry, at most; whole blocks.
    pub(super) step_bytes_max: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            is_deferred: true,
            step_bytes_max: STEP_BYTES_MAX,
        }
    }
}

/// One operation.
#[derive(Debug)]
pub(super) enum Operation {
    Read { offset_bytes: u64, buffer: DmaBuf },
    Write { offset_bytes: u64, buffer: DmaBuf },
    Flush,
}

/// What came of it, and the buffer of a read or write.
pub(super) type Outcome = (io::Result<()>, Option<DmaBuf>);

impl Uring {
    pub(super) fn new(media: Media) -> Self {
        Self {
            media,
            tuning: Tuning::default(),
            rings: Mutex::new(Vec::new()),
        }
    }

    /// Why this process cannot use io_uring; `None`: it can.
    pub(super) fn missing() -> Option<Box<str>> {
        let ring = match IoUring::new(2) {
            Ok(ring) => ring,
            Err(error) => return Some(format!("io_uring is not available: {error}").into()),
        };
        let mut probe = Probe::new();
        if let Err(error) = ring.submitter().register_probe(&mut probe) {
            return Some(format!("io_uring cannot be asked what it knows: {error}").into());
        }
        let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE];
        let is_whole = needed.iter().all(|&code| probe.is_supported(code));
        (!is_whole).then(|| "io_uring lacks plain reads and writes".into())
    }

    /// Starts `operation` on the ring of the event loop that runs this; gives it back where there
    /// is none.
    pub(super) fn start(self: &Arc<Self>, operation: Operation) -> Result<Transfer, Operation> {
        match self.ring_here() {
            Some(ring) => ring.push(operation, self),
            None => Err(operation),
        }
    }

    /// The ring of this thread's event loop, made if it has none yet. `None`: the loop runs on
    /// several threads, or the kernel gave no ring.
    fn ring_here(self: &Arc<Self>) -> Option<Arc<Ring>> {
        let runtime = Handle::try_current().ok()?;
        let id = runtime.id();
        RINGS.with_borrow_mut(|known| {
            let here = known
                .iter()
                .find(|known| known.runtime == id && known.device.as_ptr() == Arc::as_ptr(self));
            if let Some(here) = here {
                return here.ring.as_ref()?.upgrade();
            }
            known.retain(|known| known.device.strong_count() > 0);
            let ring = self.make_ring(&runtime);
            known.push(Known {
                device: Arc::downgrade(self),
                runtime: id,
                ring: ring.as_ref().map(Arc::downgrade),
            });
            ring
        })
    }

    fn make_ring(&self, runtime: &Handle) -> Option<Arc<Ring>> {
        if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return None;
        }
        match Ring::new(Arc::clone(&self.media.io), self.tuning.is_deferred) {
            Ok((ring, event)) => {
                let ring = Arc::new(ring);
                lock(&self.rings).push(Arc::downgrade(&ring));
                let driver = Driver {
                    ring: Arc::clone(&ring),
                    event,
                };
                runtime.spawn(driver);
                Some(ring)
            }
            Err(error) => {
                tracing::warn!(%error, "this event loop got no ring and uses threads instead");
                None
            }
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        for ring in lock(&self.rings).drain(..) {
            if let Some(ring) = ring.upgrade() {
                ring.close();
            }
        }
    }
}

/// A ring that this thread has made, or could not make (`None`).
struct Known {
    device: Weak<Uring>,
    runtime: Id,
    ring: Option<Weak<Ring>>,
}

thread_local! {
    /// Looked up instead of a shared map, so that an operation takes no lock that another core
    /// takes too.
    static RINGS: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
}

/// # Invariants
/// The kernel may touch a slot's buffer from the moment its entry is in the submission queue until
/// its completion was taken; until then the slot stays in `slots`. Only the thread `owner` enters
/// the kernel, because the ring has a single issuer.
struct Ring {
    state: Mutex<State>,
    owner: ThreadId,
}

struct State {
    ring: IoUring,
    /// The descriptor is entry 0 of the ring's table.
    is_fixed: bool,
    io: Arc<OwnedFd>,
    slots: Slab<Slot>,
    /// Slots whose entry is not in the ring.
    waiting: VecDeque<usize>,
    /// Slots whose entry is in the ring; at most [`IN_FLIGHT_MAX`], so that completions fit.
    in_flight: usize,
    driver: Option<Waker>,
    is_closing: bool,
    /// The driver has gone: nothing moves any more.
    is_closed: bool,
}

struct Slot {
    operation: Operation,
    done_bytes: usize,
    /// Keeps the device's lock until the kernel is through.
    device: Arc<Uring>,
    waker: Option<Waker>,
    result: Option<io::Result<()>>,
    is_abandoned: bool,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

impl Ring {
    fn new(io: Arc<OwnedFd>, is_deferred: bool) -> io::Result<(Self, AsyncFd<OwnedFd>)> {
        let ring = build_ring(is_deferred)?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let event = rustix::event::eventfd(0, flags)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let is_fixed = ring.submitter().register_files(&[io.as_raw_fd()]).is_ok();
        let state = State {
            ring,
            is_fixed,
            io,
            slots: Slab::new(),
            waiting: VecDeque::new(),
            in_flight: 0,
            driver: None,
            is_closing: false,
            is_closed: false,
        };
        let ring = Self {
            state: Mutex::new(state),
            owner: std::thread::current().id(),
        };
        // SAFETY: an `OwnedFd` is one descriptor that stays open, and the same, until it is
        // dropped.
        let event = unsafe { AsyncFd::register_with_interest(event, Interest::READABLE) }?;
        Ok((ring, event))
    }

    fn push(
        self: &Arc<Self>,
        operation: Operation,
        device: &Arc<Uring>,
    ) -> Result<Transfer, Operation> {
        let mut state = lock(&self.state);
        if state.is_closed {
            return Err(operation);
        }
        let key = state.slots.insert(Slot {
            operation,
            done_bytes: 0,
            device: Arc::clone(device),
            waker: None,
            result: None,
            is_abandoned: false,
        });
        state.waiting.push_back(key);
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(Transfer {
            ring: Arc::clone(self),
            key: Some(key),
        })
    }

    fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closing = true;
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

/// The best ring that this kernel makes.
fn build_ring(is_deferred: bool) -> io::Result<IoUring> {
    if is_deferred {
        let deferred = IoUring::builder()
            .setup_cqsize(COMPLETION_ENTRIES)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(SUBMIT_ENTRIES);
        // EINVAL: kernels before 6.1 do not know these.
        let Err(_too_old) = deferred else {
            return deferred;
        };
    }
    IoUring::builder()
        .setup_cqsize(COMPLETION_ENTRIES)
        .build(SUBMIT_ENTRIES)
}

/// A started operation. Dropping it leaves the operation to its completion, buffer and all.
pub(super) struct Transfer {
    ring: Arc<Ring>,
    /// `None`: the outcome was taken.
    key: Option<usize>,
}

impl Future for Transfer {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let Some(key) = self.key else {
            return Poll::Pending;
        };
        let mut state = lock(&self.ring.state);
        let Some(slot) = state.slots.get_mut(key) else {
            return Poll::Pending;
        };
        if slot.result.is_none() {
            match &mut slot.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        let slot = state.slots.remove(key);
        drop(state);
        self.key = None;
        Poll::Ready(slot.outcome())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut state = lock(&self.ring.state);
        let finished = match state.slots.get_mut(key) {
            Some(slot) if slot.result.is_none() => {
                slot.is_abandoned = true;
                None
            }
            found => found.is_some().then(|| state.slots.remove(key)),
        };
        // Its buffer and its hold on the device are let go outside the lock.
        drop(state);
        drop(finished);
    }
}

impl Slot {
    fn outcome(self) -> Outcome {
        let result = self.result.unwrap_or(Ok(()));
        match self.operation {
            Operation::Read { mut buffer, .. } => {
                if result.is_ok() {
                    buffer.set_filled(self.done_bytes);
                }
                (result, Some(buffer))
            }
            Operation::Write { buffer, .. } => (result, Some(buffer)),
            Operation::Flush => (result, None),
        }
    }

    /// The entry for what is left to do.
    fn entry(&mut self, key: usize, fd: Target) -> squeue::Entry {
        let done = self.done_bytes;
        let most = self.device.tuning.step_bytes_max;
        let entry = match &mut self.operation {
            Operation::Read {
                offset_bytes,
                buffer,
            } => {
                let size = step_bytes(buffer.capacity() - done, most);
                let at = buffer.room().wrapping_add(done);
                let offset = *offset_bytes + done as u64;
                match fd {
                    Target::Fixed(fd) => opcode::Read::new(fd, at, size).offset(offset).build(),
                    Target::Plain(fd) => opcode::Read::new(fd, at, size).offset(offset).build(),
                }
            }
            Operation::Write {
                offset_bytes,
                buffer,
            } => {
                let size = step_bytes(buffer.len() - done, most);
                let at = buffer.as_ptr().wrapping_add(done);
                let offset = *offset_bytes + done as u64;
                match fd {
                    Target::Fixed(fd) => opcode::Write::new(fd, at, size).offset(offset).build(),
                    Target::Plain(fd) => opcode::Write::new(fd, at, size).offset(offset).build(),
                }
            }
            Operation::Flush => {
                let flags = types::FsyncFlags::DATASYNC;
                match fd {
                    Target::Fixed(fd) => opcode::Fsync::new(fd).flags(flags).build(),
                    Target::Plain(fd) => opcode::Fsync::new(fd).flags(flags).build(),
                }
            }
        };
        entry.user_data(key as u64)
    }

    /// Takes the kernel's answer: `Some` when the operation is over.
    fn settle(&mut self, answer: i32) -> Option<io::Result<()>> {
        let size = match &self.operation {
            Operation::Read { buffer, .. } => buffer.capacity(),
            Operation::Write { buffer, .. } => buffer.len(),
            Operation::Flush => 0,
        };
        let Ok(count) = usize::try_from(answer) else {
            return match answer.saturating_neg() {
                libc::EINTR | libc::EAGAIN => None,
                code => Some(Err(io::Error::from_raw_os_error(code))),
            };
        };
        if count == 0 && size > self.done_bytes {
            let kind = match &self.operation {
                Operation::Read { .. } => io::ErrorKind::UnexpectedEof,
                _ => io::ErrorKind::WriteZero,
            };
            return Some(Err(kind.into()));
        }
        match self.device.media.progress(self.done_bytes, count, size) {
            Ok(done) => {
                self.done_bytes = done;
                (done >= size).then_some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

#[derive(Clone, Copy)]
enum Target {
    Fixed(types::Fixed),
    Plain(types::Fd),
}

fn step_bytes(left: usize, most: usize) -> u32 {
    u32::try_from(left.min(most)).unwrap_or(u32::MAX)
}

/// The task that enters the kernel for one ring.
struct Driver {
    ring: Arc<Ring>,
    event: AsyncFd<OwnedFd>,
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::thread::current().id() != self.ring.owner {
            tracing::error!("an event loop with a ring was moved to another thread");
            return Poll::Ready(());
        }
        // Edge-triggered: the count is never read, every signal is an edge. Registered before
        // the ring is looked at, so that no completion falls between.
        loop {
            match self.event.poll_read_ready(context) {
                Poll::Ready(Ok(mut ready)) => ready.clear_ready(),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        for _ in 0..TURNS_MAX {
            let mut state = lock(&self.ring.state);
            let mut settled = Vec::new();
            let more = state.turn(&mut settled);
            if !more && state.is_closing && state.slots.is_empty() {
                return Poll::Ready(());
            }
            state.driver = Some(context.waker().clone());
            drop(state);
            let woke = !settled.is_empty();
            for waker in settled {
                waker.finish();
            }
            if !more {
                return Poll::Pending;
            }
            if woke {
                break;
            }
        }
        // There is more to do, but those that have their answers come first.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Driver {
    /// The event loop ends: what the kernel has is waited for, what it has not is failed.
    fn drop(&mut self) {
        let is_owner = std::thread::current().id() == self.ring.owner;
        let mut state = lock(&self.ring.state);
        state.is_closed = true;
        let mut settled = Vec::new();
        while is_owner && state.in_flight > 0 {
            state.waiting.clear();
            if let Err(error) = state.ring.submitter().submit_and_wait(1)
                && !matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
                )
            {
                break;
            }
            state.reap(&mut settled);
        }
        let can_free = state.in_flight == 0;
        let keys: Vec<usize> = state.slots.iter().map(|(key, _)| key).collect();
        for key in keys {
            let stopped = io::Error::new(io::ErrorKind::Interrupted, "the event loop has ended");
            match state.slots.get_mut(key) {
                Some(slot) if slot.result.is_none() && can_free => {
                    let settled_slot = state.finish(key, Err(stopped));
                    settled.extend(settled_slot);
                }
                Some(slot) if slot.result.is_none() => {
                    // The kernel may still write into its buffer: it is never used again.
                    let empty = slot.device.media.buffers.take_empty(1);
                    let lost = match &mut slot.operation {
                        Operation::Read { buffer, .. } | Operation::Write { buffer, .. } => {
                            Some(std::mem::replace(buffer, empty))
                        }
                        Operation::Flush => None,
                    };
                    std::mem::forget(lost);
                    let settled_slot = state.finish(key, Err(stopped));
                    settled.extend(settled_slot);
                }
                _ => {}
            }
        }
        drop(state);
        for waker in settled {
            waker.finish();
        }
    }
}

/// What is left to do for a finished operation once the lock is released.
enum Settled {
    Wake(Option<Waker>),
    /// Nobody waits: the buffer and the hold on the device go.
    Free(Box<Slot>),
}

impl Settled {
    fn finish(self) {
        match self {
            Self::Wake(waker) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Self::Free(slot) => drop(slot),
        }
    }
}

impl State {
    /// Submits what waits and takes what is complete; `true`: there is more to do at once.
    fn turn(&mut self, settled: &mut Vec<Settled>) -> bool {
        self.fill_queue();
        self.ring.completion().disable_eventfd();
        let entered = self.enter();
        self.reap(settled);
        self.ring.completion().enable_eventfd();
        // A completion between the last look and the line above signalled nothing.
        let has_completions = !self.ring.completion().is_empty();
        let submission = self.ring.submission();
        let has_work = submission.taskrun() || !submission.is_empty();
        drop(submission);
        let can_submit = !self.waiting.is_empty() && self.in_flight < IN_FLIGHT_MAX;
        if let Err(error) = entered {
            self.fail_unsent(&error, settled);
        }
        has_completions || has_work || can_submit
    }

    fn fill_queue(&mut self) {
        let target = if self.is_fixed {
            Target::Fixed(types::Fixed(0))
        } else {
            Target::Plain(types::Fd(self.io.as_raw_fd()))
        };
        while self.in_flight < IN_FLIGHT_MAX {
            let Some(&key) = self.waiting.front() else {
                return;
            };
            if let Some(slot) = self.slots.get_mut(key) {
                let entry = slot.entry(key, target);
                // SAFETY: the entry's memory belongs to the slot, which stays until the
                // completion was taken (invariant of `Ring`); the descriptor is open while
                // `self.io` is.
                if unsafe { self.ring.submission().push(&entry) }.is_err() {
                    return;
                }
                self.in_flight += 1;
            }
            self.waiting.pop_front();
        }
    }

    /// Enters the kernel if there is a reason to.
    fn enter(&mut self) -> io::Result<()> {
        let submission = self.ring.submission();
        let is_idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        if is_idle {
            return Ok(());
        }
        match self.ring.submit() {
            Ok(_) => Ok(()),
            // The kernel is short of memory or completions wait: the next turn tries again.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn reap(&mut self, settled: &mut Vec<Settled>) {
        loop {
            let Some(completion) = self.ring.completion().next() else {
                return;
            };
            self.in_flight = self.in_flight.saturating_sub(1);
            let Ok(key) = usize::try_from(completion.user_data()) else {
                continue;
            };
            let answer = completion.result();
            let over = self.slots.get_mut(key).map(|slot| slot.settle(answer));
            match over {
                Some(Some(result)) => settled.extend(self.finish(key, result)),
                // Short, or interrupted: the rest goes in again.
                Some(None) => self.waiting.push_back(key),
                None => {}
            }
        }
    }

    /// The ring cannot be entered: what never got into it fails; what the kernel has stays.
    fn fail_unsent(&mut self, error: &io::Error, settled: &mut Vec<Settled>) {
        tracing::error!(%error, "the ring of an event loop cannot be entered");
        while let Some(key) = self.waiting.pop_front() {
            let kind = io::Error::new(error.kind(), error.to_string());
            settled.extend(self.finish(key, Err(kind)));
        }
    }

    fn finish(&mut self, key: usize, result: io::Result<()>) -> Option<Settled> {
        let slot = self.slots.get_mut(key)?;
        if slot.is_abandoned {
            return Some(Settled::Free(Box::new(self.slots.remove(key))));
        }
        slot.result = Some(result);
        Some(Settled::Wake(slot.waker.take()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Slots are changed one field at a time; a panic elsewhere leaves them whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Entries that one entering of the kernel hands over, at most.
const SUBMIT_ENTRIES: u32 = 256;
/// Operations that one ring has in the kernel, at most; the rest waits in the process.
const IN_FLIGHT_MAX: usize = COMPLETION_ENTRIES as usize;
const COMPLETION_ENTRIES: u32 = 1024;
/// Bytes of one entry, at most: below the kernel's limit for a transfer, whole blocks.
const STEP_BYTES_MAX: usize = 1 << 30;
/// Turns of the driver before the other tasks of the loop get theirs.
const TURNS_MAX: usize = 4;
