//! The way between event loops and reactors: a lane per event loop, batches both ways.
//!
//! An event loop puts requests into its lane, where its reactor finds them at its next turn. The
//! reactor puts what is done back and rings the loop's eventfd, but only if the loop's driver has
//! gone to sleep since: one system call for all that completes meanwhile.

#![expect(
    unsafe_code,
    reason = "hands requests to SPDK's C callbacks and takes them back"
)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll as Ready, Waker};
use std::time::Instant;

use lobos_spdk_sys as sys;
use rustix::event::EventfdFlags;
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, Id};

use super::Spdk;
use super::process::os_error;
use crate::io::dma::{BLOCK_BYTES, DmaBuf};

/// What a request asks of the device.
#[derive(Debug)]
pub(super) enum Work {
    Read(DmaBuf),
    Write(DmaBuf),
    Flush,
    Zero,
    Discard,
}

/// One operation on its way. It owns its buffer until it comes back.
///
/// # Invariants
/// `pieces` of it are with SPDK, whose callbacks lead back here: while there are any, it stays
/// where it is and only its reactor touches it.
#[derive(Debug)]
pub(super) struct Request {
    work: Work,
    offset_bytes: u64,
    size_bytes: u64,
    device: Arc<Spdk>,
    lane: Arc<Lane>,
    key: usize,
    began: Instant,
    /// What has been given to SPDK.
    issued_bytes: u64,
    is_issued: bool,
    pieces: u32,
    error: i32,
}

/// What came of it, and the buffer of a read or write.
pub(super) type Outcome = (io::Result<()>, Option<DmaBuf>);

/// # Invariants
/// A request's slot stays until its outcome was taken, or until it came back after nobody waited.
#[derive(Debug)]
pub(super) struct Lane {
    state: Mutex<State>,
    has_work: AtomicBool,
    event: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    work: Vec<Request>,
    slots: Slab<Slot>,
    /// Those whose requests are back.
    ready: Vec<Waker>,
    /// The driver sleeps until the eventfd is rung.
    is_armed: bool,
    /// The event loop has ended: who still waits is woken by the reactor.
    is_orphaned: bool,
}

#[derive(Debug, Default)]
struct Slot {
    waker: Option<Waker>,
    outcome: Option<Outcome>,
    is_abandoned: bool,
}

/// The lanes of one reactor, and how busy it is.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    lanes: Mutex<Vec<Arc<Lane>>>,
    has_new: AtomicBool,
    pub(super) in_flight: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) busy_ticks: AtomicU64,
    pub(super) idle_ticks: AtomicU64,
}

/// Starts an operation on the lane of the event loop that runs this.
pub(super) fn start(
    device: &Arc<Spdk>,
    work: Work,
    offset_bytes: u64,
    size_bytes: u64,
) -> Result<Transfer, Outcome> {
    let lane = match lane_here(device) {
        Ok(lane) if !device.is_closed() => lane,
        refused => {
            let closed = || io::Error::new(io::ErrorKind::NotConnected, "the device is closed");
            let error = refused.err().unwrap_or_else(closed);
            let buffer = match work {
                Work::Read(buffer) | Work::Write(buffer) => Some(buffer),
                Work::Flush | Work::Zero | Work::Discard => None,
            };
            return Err((Err(error), buffer));
        }
    };
    device.in_flight.fetch_add(1, Ordering::AcqRel);
    let mut state = lane.lock();
    let key = state.slots.insert(Slot::default());
    state.work.push(Request {
        work,
        offset_bytes,
        size_bytes,
        device: Arc::clone(device),
        lane: Arc::clone(&lane),
        key,
        began: Instant::now(),
        issued_bytes: 0,
        is_issued: false,
        pieces: 0,
        error: 0,
    });
    drop(state);
    lane.has_work.store(true, Ordering::Release);
    Ok(Transfer {
        lane,
        key: Some(key),
    })
}

/// The lane of this thread's event loop, made if it has none.
fn lane_here(device: &Spdk) -> io::Result<Arc<Lane>> {
    let runtime = Handle::try_current().map_err(io::Error::other)?;
    let id = runtime.id();
    LANES.with_borrow_mut(|known| {
        let here = known.iter().find(|(known, _)| *known == id);
        if let Some(lane) = here.and_then(|(_, lane)| lane.upgrade()) {
            return Ok(lane);
        }
        known.retain(|(_, lane)| lane.strong_count() > 0);
        let lane = make_lane(device, &runtime)?;
        known.push((id, Arc::downgrade(&lane)));
        Ok(lane)
    })
}

fn make_lane(device: &Spdk, runtime: &Handle) -> io::Result<Arc<Lane>> {
    let reactors = &device.process.reactors;
    let index = NEXT_REACTOR.fetch_add(1, Ordering::Relaxed) % reactors.len().max(1);
    let reactor = reactors
        .get(index)
        .ok_or_else(|| io::Error::other("there is no reactor"))?;
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let event = rustix::event::eventfd(0, flags)?;
    let lane = Arc::new(Lane {
        state: Mutex::default(),
        has_work: AtomicBool::new(false),
        event: event.try_clone()?,
    });
    // SAFETY: an `OwnedFd` is one descriptor that stays open, and the same, until it is dropped.
    let event = unsafe { AsyncFd::register_with_interest(event, Interest::READABLE) }?;
    runtime.spawn(Driver {
        lane: Arc::clone(&lane),
        event,
    });
    let mut lanes = reactor.inbox.lock();
    lanes.push(Arc::clone(&lane));
    drop(lanes);
    reactor.inbox.has_new.store(true, Ordering::Release);
    Ok(lane)
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one field's; a panic elsewhere leaves them whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a finished request back. `true`: the eventfd has to be rung.
    fn put_back(&self, request: Request) -> bool {
        let key = request.key;
        let outcome = request.outcome();
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(key) else {
            return false;
        };
        if slot.is_abandoned {
            state.slots.remove(key);
            // The buffer goes outside the lock.
            drop(state);
            drop(outcome);
            return false;
        }
        slot.outcome = Some(outcome);
        let waker = slot.waker.take();
        if state.is_orphaned {
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
            return false;
        }
        state.ready.extend(waker);
        std::mem::take(&mut state.is_armed)
    }

    fn ring(&self) {
        // It cannot be full: nobody rings 2^64 times. A loop that has ended hears nothing.
        let _nobody_listens = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    fn is_over(&self) -> bool {
        let state = self.lock();
        state.is_orphaned && state.slots.is_empty() && state.work.is_empty()
    }
}

/// A started operation. Dropping it leaves the operation to its end, buffer and all.
#[derive(Debug)]
pub(super) struct Transfer {
    lane: Arc<Lane>,
    /// `None`: the outcome was taken.
    key: Option<usize>,
}

impl Future for Transfer {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Ready<Outcome> {
        let Some(key) = self.key else {
            return Ready::Pending;
        };
        let mut state = self.lane.lock();
        let Some(slot) = state.slots.get_mut(key) else {
            return Ready::Pending;
        };
        let Some(outcome) = slot.outcome.take() else {
            match &mut slot.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            return Ready::Pending;
        };
        state.slots.remove(key);
        drop(state);
        self.key = None;
        Ready::Ready(outcome)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut state = self.lane.lock();
        let finished = match state.slots.get_mut(key) {
            Some(slot) if slot.outcome.is_none() => {
                slot.is_abandoned = true;
                None
            }
            found => found.is_some().then(|| state.slots.remove(key)),
        };
        drop(state);
        drop(finished);
    }
}

/// The task of an event loop that wakes those whose requests are back.
struct Driver {
    lane: Arc<Lane>,
    event: AsyncFd<OwnedFd>,
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Ready<()> {
        // Edge-triggered: the count is never read, every ring is an edge.
        loop {
            match self.event.poll_read_ready(context) {
                Ready::Ready(Ok(mut ready)) => ready.clear_ready(),
                Ready::Ready(Err(_)) => return Ready::Ready(()),
                Ready::Pending => break,
            }
        }
        let mut state = self.lane.lock();
        if state.ready.is_empty() {
            state.is_armed = true;
            return Ready::Pending;
        }
        let ready = std::mem::take(&mut state.ready);
        drop(state);
        for waker in ready {
            waker.wake();
        }
        // Behind those that have their answers now.
        context.waker().wake_by_ref();
        Ready::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut state = self.lane.lock();
        state.is_orphaned = true;
        let ready = std::mem::take(&mut state.ready);
        drop(state);
        for waker in ready {
            waker.wake();
        }
    }
}

impl Request {
    fn outcome(self) -> Outcome {
        let Self {
            work,
            device,
            error,
            began,
            ..
        } = self;
        let result = match error {
            0 => Ok(()),
            code => Err(os_error(code)),
        };
        device.meters.observe(&work, began.elapsed());
        let buffer = match work {
            Work::Read(mut buffer) => {
                if result.is_ok() {
                    buffer.set_filled(buffer.capacity());
                }
                Some(buffer)
            }
            Work::Write(buffer) => Some(buffer),
            Work::Flush | Work::Zero | Work::Discard => None,
        };
        device.in_flight.fetch_sub(1, Ordering::AcqRel);
        (result, buffer)
    }

    fn operation(&self) -> u32 {
        match self.work {
            Work::Read(_) => sys::LOBOS_SPDK_READ,
            Work::Write(_) => sys::LOBOS_SPDK_WRITE,
            Work::Flush => sys::LOBOS_SPDK_FLUSH,
            Work::Zero => sys::LOBOS_SPDK_ZERO,
            Work::Discard => sys::LOBOS_SPDK_UNMAP,
        }
    }

    /// Bytes of the next piece: up to the end of its cluster.
    fn next_bytes(&self) -> u64 {
        let cluster = self.device.cluster_bytes;
        let at = self.offset_bytes + self.issued_bytes;
        let left = self.size_bytes - self.issued_bytes;
        left.min(cluster - at % cluster).min(PIECE_BYTES_MAX as u64)
    }

    /// The buffer's memory from `done` on, and whether devices reach it.
    fn memory(&mut self, done: u64) -> Option<(*mut u8, bool)> {
        let done = usize::try_from(done).ok()?;
        match &mut self.work {
            Work::Read(buffer) => Some((buffer.room().wrapping_add(done), buffer.is_of_device())),
            Work::Write(buffer) => {
                let memory = buffer.as_ptr().cast_mut().wrapping_add(done);
                Some((memory, buffer.is_of_device()))
            }
            Work::Flush | Work::Zero | Work::Discard => None,
        }
    }
}

/// A reactor's side: requests that wait and requests that are done. One is the context of each
/// reactor's poller.
///
/// # Invariants
/// Only its reactor touches it. No borrow of a cell is held across a call of SPDK's, which may
/// call [`piece_done`] at once.
pub(super) struct Poll {
    index: usize,
    inbox: Arc<Inbox>,
    lanes: RefCell<Vec<Arc<Lane>>>,
    /// Each is one `Box<Request>`.
    waiting: RefCell<VecDeque<NonNull<Request>>>,
    in_flight: Cell<u32>,
    done: RefCell<Vec<Request>>,
    /// For buffers that devices do not reach.
    bounces: RefCell<Vec<NonNull<u8>>>,
    turns: Cell<u32>,
}

/// One part of a request that SPDK has.
struct Piece {
    request: NonNull<Request>,
    poll: NonNull<Poll>,
    /// What stands in for this part of the buffer, and where and how large that is.
    bounce: Option<(NonNull<u8>, *mut u8, usize)>,
}

/// What became of the attempt to issue a piece.
#[derive(PartialEq, Eq)]
enum Issued {
    Yes,
    /// SPDK has no room now.
    Later,
}

/// The poller of a reactor.
///
/// # Safety
/// `context` is the reactor's [`Poll`].
pub(super) unsafe extern "C" fn poll(context: *mut c_void) -> i32 {
    // SAFETY: by this function's contract; it lives until the reactor has ended.
    let poll = unsafe { &*context.cast::<Poll>() };
    i32::from(poll.turn())
}

impl Poll {
    /// `None`: there is no memory for its bounce buffers. On the app thread.
    pub(super) fn new(index: usize, inbox: Arc<Inbox>) -> Option<Self> {
        let bounces = (0..BOUNCES).map(|_| {
            // SAFETY: SPDK runs. The memory is written before anything reads it.
            NonNull::new(unsafe { sys::lobos_spdk_memory(PIECE_BYTES_MAX) }.cast())
        });
        Some(Self {
            index,
            inbox,
            lanes: RefCell::default(),
            waiting: RefCell::default(),
            in_flight: Cell::new(0),
            done: RefCell::default(),
            bounces: RefCell::new(bounces.collect::<Option<_>>()?),
            turns: Cell::new(0),
        })
    }

    /// One turn. `true`: something was done.
    fn turn(&self) -> bool {
        let turns = self.turns.get().wrapping_add(1);
        self.turns.set(turns);
        if turns.is_multiple_of(TURNS_PER_COUNT) {
            self.count();
        }
        if self.inbox.has_new.swap(false, Ordering::AcqRel) || turns.is_multiple_of(TURNS_PER_TIDY)
        {
            let mut lanes = self.inbox.lock();
            lanes.retain(|lane| !lane.is_over());
            self.lanes.borrow_mut().clone_from(&lanes);
        }
        let took = self.take();
        let issued = self.issue();
        self.deliver() || took || issued
    }

    fn count(&self) {
        let (mut busy, mut idle) = (0, 0);
        // SAFETY: this is a thread of SPDK's, and both are ours.
        if unsafe { sys::lobos_spdk_ticks(&raw mut busy, &raw mut idle) } == 0 {
            self.inbox.busy_ticks.store(busy, Ordering::Relaxed);
            self.inbox.idle_ticks.store(idle, Ordering::Relaxed);
        }
    }

    /// Takes what the lanes have.
    fn take(&self) -> bool {
        let mut took = false;
        let mut waiting = self.waiting.borrow_mut();
        for lane in self.lanes.borrow().iter() {
            if !lane.has_work.swap(false, Ordering::AcqRel) {
                continue;
            }
            let work = std::mem::take(&mut lane.lock().work);
            let boxed = |request| NonNull::from(Box::leak(Box::new(request)));
            waiting.extend(work.into_iter().map(boxed));
            took = true;
        }
        took
    }

    /// Gives SPDK as much as its queue takes.
    fn issue(&self) -> bool {
        let mut issued = false;
        while self.in_flight.get() < QUEUE_DEPTH {
            let Some(request) = self.waiting.borrow_mut().pop_front() else {
                break;
            };
            // SAFETY: it waits here, so that only this reactor has it; `issue_piece` says when it
            // may be gone.
            if unsafe { self.issue_piece(request) } == Issued::Later {
                self.waiting.borrow_mut().push_front(request);
                break;
            }
            issued = true;
        }
        let in_flight = u64::from(self.in_flight.get());
        self.inbox.in_flight.store(in_flight, Ordering::Relaxed);
        let waiting = self.waiting.borrow().len() as u64;
        self.inbox.waiting.store(waiting, Ordering::Relaxed);
        issued
    }

    /// Issues the next piece; puts the request back in front if it has more. After `Yes` it may be
    /// done and gone.
    ///
    /// # Safety
    /// `pointer` is a request of this reactor that is not done.
    unsafe fn issue_piece(&self, pointer: NonNull<Request>) -> Issued {
        // SAFETY: by the contract. The borrow ends before SPDK is called.
        let request = unsafe { &mut *pointer.as_ptr() };
        let (begin, size) = (request.issued_bytes, request.next_bytes());
        let mut piece = Box::new(Piece {
            request: pointer,
            poll: NonNull::from(self),
            bounce: None,
        });
        let memory = match request.memory(begin) {
            Some((memory, false)) => {
                let Some(bounce) = self.bounces.borrow_mut().pop() else {
                    return Issued::Later;
                };
                let count = usize::try_from(size).unwrap_or(0);
                if matches!(request.work, Work::Write(_)) {
                    // SAFETY: both are at least a piece long, and the bounce buffer is nobody's.
                    unsafe { bounce.as_ptr().copy_from_nonoverlapping(memory, count) };
                }
                piece.bounce = Some((bounce, memory, count));
                bounce.as_ptr()
            }
            Some((memory, true)) => memory,
            None => std::ptr::null_mut(),
        };
        let unit = request.device.io_unit_bytes;
        let at = (request.offset_bytes + begin) / unit;
        let (operation, queue) = (request.operation(), request.device.queue(self.index));
        request.issued_bytes += size;
        request.pieces += 1;
        request.is_issued = request.issued_bytes >= request.size_bytes;
        if !request.is_issued {
            self.waiting.borrow_mut().push_front(pointer);
        }
        self.in_flight.set(self.in_flight.get() + 1);
        let piece = Box::into_raw(piece);
        // SAFETY: this is the queue's reactor; the buffer belongs to the request, which stays until
        // all its pieces are done.
        let error = unsafe {
            sys::lobos_spdk_submit(
                queue,
                operation,
                memory.cast(),
                at,
                size / unit,
                piece_done,
                piece.cast(),
            )
        };
        if error == 0 {
            return Issued::Yes;
        }
        // SAFETY: SPDK did not take it.
        unsafe { self.not_taken(piece, begin, error) }
    }

    /// # Safety
    /// SPDK refused this piece, which begins at `begin`.
    unsafe fn not_taken(&self, piece: *mut Piece, begin: u64, error: i32) -> Issued {
        // SAFETY: by the contract the piece and its request are still ours.
        let piece_ref = unsafe { &mut *piece };
        // SAFETY: as above.
        let request = unsafe { piece_ref.request.as_mut() };
        if !request.is_issued {
            self.waiting.borrow_mut().pop_front();
        }
        if error != -libc::ENOMEM {
            // It is told like an error of the device, and no more pieces follow.
            request.is_issued = true;
            // SAFETY: the piece is given back once, as a callback would.
            unsafe { piece_done(piece.cast(), 0, error) };
            return Issued::Yes;
        }
        request.issued_bytes = begin;
        request.is_issued = false;
        request.pieces -= 1;
        self.in_flight.set(self.in_flight.get() - 1);
        // SAFETY: it was made by `issue_piece` and given to nobody.
        let piece = unsafe { Box::from_raw(piece) };
        self.bounces
            .borrow_mut()
            .extend(piece.bounce.map(|(bounce, ..)| bounce));
        Issued::Later
    }

    /// Gives back what is done, with one ring for each event loop that sleeps.
    fn deliver(&self) -> bool {
        let done = std::mem::take(&mut *self.done.borrow_mut());
        let mut sleepers = Vec::new();
        let delivered = !done.is_empty();
        for request in done {
            let lane = Arc::clone(&request.lane);
            if lane.put_back(request) {
                sleepers.push(lane);
            }
        }
        for lane in sleepers {
            lane.ring();
        }
        delivered
    }
}

impl std::fmt::Debug for Poll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poll")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        for bounce in self.bounces.borrow_mut().drain(..) {
            // SAFETY: it came from `Poll::new`, and no piece has it.
            unsafe { sys::lobos_spdk_memory_free(bounce.as_ptr().cast()) };
        }
    }
}

/// SPDK is through with a piece.
///
/// # Safety
/// `context` is a [`Piece`] that was submitted once; this is its reactor.
unsafe extern "C" fn piece_done(context: *mut c_void, _value: u64, error: i32) {
    // SAFETY: by the contract.
    let mut piece = unsafe { Box::from_raw(context.cast::<Piece>()) };
    // SAFETY: the reactor's state outlives its pieces.
    let poll = unsafe { piece.poll.as_ref() };
    // SAFETY: a request stays until its last piece is done, and this reactor alone touches it.
    let request = unsafe { piece.request.as_mut() };
    if let Some((bounce, memory, count)) = piece.bounce.take() {
        if error == 0 && matches!(request.work, Work::Read(_)) {
            // SAFETY: SPDK has filled the bounce buffer; the request's buffer has this room.
            unsafe { memory.copy_from_nonoverlapping(bounce.as_ptr(), count) };
        }
        poll.bounces.borrow_mut().push(bounce);
    }
    if request.error == 0 {
        request.error = error;
    }
    request.pieces -= 1;
    poll.in_flight.set(poll.in_flight.get() - 1);
    if request.is_issued && request.pieces == 0 {
        // SAFETY: `take` leaked this box, and it is in no queue any more.
        let request = unsafe { Box::from_raw(piece.request.as_ptr()) };
        poll.done.borrow_mut().push(*request);
    }
}

thread_local! {
    /// Looked up instead of a shared map, so that an operation takes no lock that all cores take.
    static LANES: RefCell<Vec<(Id, Weak<Lane>)>> = const { RefCell::new(Vec::new()) };
}

static NEXT_REACTOR: AtomicUsize = AtomicUsize::new(0);

/// Pieces that one reactor has with SPDK, at most; the rest waits here.
const QUEUE_DEPTH: u32 = 256;
/// Operations that a channel of the blobstore takes: never reached, since one piece is one.
pub(super) const CHANNEL_OPERATIONS: u32 = 2 * QUEUE_DEPTH;
/// Bytes of one piece, at most: what a bounce buffer holds.
const PIECE_BYTES_MAX: usize = 1 << 20;
const BOUNCES: usize = 4;
/// Turns of the poller between two looks at the clock and at lanes that have ended.
const TURNS_PER_COUNT: u32 = 1 << 14;
const TURNS_PER_TIDY: u32 = 1 << 20;

const _: () = assert!(PIECE_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
