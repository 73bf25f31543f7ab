//! How fast a peer moves, and who is cut for being too slow.
//!
//! There is no timer per request: the socket, the request bodies and the replies note what they
//! wait for in [`Pace`], and the shard asks each connection once a second. The rate clocks run
//! only while Lobos waits for the peer, never while the peer waits for Lobos.
//!
//! Everything here belongs to one connection and stays on its shard's thread.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::metrics::Metrics;

/// The limits of one connection, in ticks of a second.
#[derive(Clone, Copy, Debug)]
pub struct PaceLimits {
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// The window in which a request's body must move `rate_bytes` a second.
    pub body: Duration,
    /// The same for a reply.
    pub reply: Duration,
    /// Without a request.
    pub idle: Duration,
    /// Bytes a second.
    pub rate_bytes: u64,
}

/// The clocks of one connection.
///
/// # Invariants
/// `in_flight` counts the [`Exchange`]s that exist; `bodies` and `replies` hold the flows of
/// bodies that exist and are not at their end.
#[derive(Debug)]
pub struct Pace {
    limits: PaceLimits,
    http2: Cell<bool>,
    /// A request has come on this connection.
    begun: Cell<bool>,
    /// A stop has been ordered for long enough that what clients had sent is here.
    rested: Cell<bool>,
    in_flight: Cell<u32>,
    /// Bytes of a head have come, the head is not complete (or: the TLS handshake is not).
    head_open: Cell<bool>,
    head_ticks: Cell<u64>,
    idle_ticks: Cell<u64>,
    linger_ticks: Cell<u64>,
    lingering: Cell<bool>,
    /// A body of HTTP/1 was left unread, so that closing needs care.
    body_left: Cell<bool>,
    /// Bytes written since the last tick.
    written_bytes: Cell<u64>,
    /// Bytes of replies that HTTP/2 has taken from us and perhaps not yet written.
    unsent_bytes: Cell<u64>,
    writes: Flow,
    bodies: RefCell<Vec<Rc<BodyFlow>>>,
    replies: RefCell<Vec<Rc<Flow>>>,
    order: Cell<Order>,
    waker: RefCell<Option<Waker>>,
    metrics: Arc<Metrics>,
}

/// What the shard wants of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    GoOn,
    /// Finish what is in flight, then close.
    Stop,
    /// Close now.
    Cut(Cut),
}

/// Why a connection is closed from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    SlowHead,
    SlowReader,
    Idle,
    Lingered,
    /// The time for finishing requests at the end of the process is over.
    Stopped,
}

impl Pace {
    pub fn new(limits: PaceLimits, metrics: Arc<Metrics>) -> Rc<Self> {
        Rc::new(Self {
            limits,
            http2: Cell::new(false),
            begun: Cell::new(false),
            rested: Cell::new(false),
            in_flight: Cell::new(0),
            head_open: Cell::new(false),
            head_ticks: Cell::new(0),
            idle_ticks: Cell::new(0),
            linger_ticks: Cell::new(0),
            lingering: Cell::new(false),
            body_left: Cell::new(false),
            written_bytes: Cell::new(0),
            unsent_bytes: Cell::new(0),
            writes: Flow::default(),
            bodies: RefCell::default(),
            replies: RefCell::default(),
            order: Cell::new(Order::GoOn),
            waker: RefCell::default(),
            metrics,
        })
    }

    /// The peer has as long as for a head to end what it begins now (a TLS handshake).
    pub fn expect_handshake(&self) {
        self.head_open.set(true);
    }

    /// The handshake is over.
    pub fn handshake_done(&self) {
        self.head_open.set(false);
        self.head_ticks.set(0);
    }

    /// Frames of HTTP/2 that are no request do not count as a head.
    pub fn set_http2(&self) {
        self.http2.set(true);
        self.head_open.set(false);
    }

    /// A head is complete: its request is in flight until the guard is dropped.
    pub fn begin(self: &Rc<Self>) -> Exchange {
        self.begun.set(true);
        self.in_flight.set(self.in_flight.get() + 1);
        self.head_open.set(false);
        self.head_ticks.set(0);
        self.body_left.set(false);
        Exchange {
            pace: Rc::clone(self),
        }
    }

    /// The socket gave `bytes`.
    pub fn note_read(&self, bytes: usize) {
        let received = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.metrics.received_bytes.add(received);
        if bytes > 0 && self.in_flight.get() == 0 && !self.http2.get() {
            self.head_open.set(true);
        }
    }

    /// The socket took bytes, or is full.
    pub fn note_write(&self, written: Poll<usize>) {
        match written {
            Poll::Ready(bytes) => {
                let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
                self.written_bytes
                    .set(self.written_bytes.get().saturating_add(bytes));
                self.unsent_bytes
                    .set(self.unsent_bytes.get().saturating_sub(bytes));
                self.writes.moved(bytes);
                self.metrics.sent_bytes.add(bytes);
            }
            Poll::Pending => self.writes.wait(),
        }
    }

    /// Whether a request's body was dropped before its end since the last head.
    pub fn body_left(&self) -> bool {
        self.body_left.get()
    }

    /// Whether closing must wait for what the peer still sends, because a reset would take away
    /// the reply that says why its body was not read. Called while the socket shuts down.
    pub fn lingers(&self) -> bool {
        self.lingering
            .set(self.body_left.get() && !self.http2.get());
        self.lingering.get()
    }

    /// One second has passed. `Some`: the connection is told to close.
    pub fn tick(&self) -> Option<Cut> {
        match self.order.get() {
            Order::Cut(_) => return None,
            // The first request of a new connection may be on its way; not for long, though.
            Order::Stop if !self.begun.get() && self.idle_ticks.get() > 0 => {
                self.begun.set(true);
                self.order(Order::Stop);
            }
            Order::Stop | Order::GoOn => {}
        }
        let cut = self.judge();
        if let Some(cut) = cut {
            self.order(Order::Cut(cut));
        }
        cut
    }

    fn judge(&self) -> Option<Cut> {
        let limits = &self.limits;
        let written = self.written_bytes.replace(0);
        for body in self.bodies.borrow().iter() {
            if body.flow.tick(limits.body, limits.rate_bytes) {
                body.give_up();
            }
        }
        let reply_ticks = |flow: &Flow| flow.tick(limits.reply, limits.rate_bytes);
        if reply_ticks(&self.writes) || self.replies.borrow().iter().any(|r| reply_ticks(r)) {
            return Some(Cut::SlowReader);
        }
        if self.lingering.get() {
            return count(&self.linger_ticks, LINGER_MAX).then_some(Cut::Lingered);
        }
        if self.in_flight.get() > 0 {
            self.idle_ticks.set(0);
            return None;
        }
        if self.head_open.get() {
            return count(&self.head_ticks, limits.head).then_some(Cut::SlowHead);
        }
        // What is left of the last reply may still be on its way; answers to pings are no reply.
        let may_be_reply = !self.http2.get() || self.unsent_bytes.get() > 0;
        if may_be_reply && (self.writes.waiting.get() || written > limits.rate_bytes) {
            self.idle_ticks.set(0);
            return None;
        }
        count(&self.idle_ticks, limits.idle).then_some(Cut::Idle)
    }

    /// Tells the connection what to do and wakes it. One that was told to close now stays told.
    pub fn order(&self, order: Order) {
        if !matches!(self.order.get(), Order::Cut(_)) {
            self.order.set(order);
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The order that holds now; the task is woken at the next one.
    pub fn orders(&self, cx: &Context<'_>) -> Order {
        let mut waker = self.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        self.order.get()
    }

    /// Whether a connection that is told to stop should begin to: one that was just accepted
    /// answers its first request before, and one of HTTP/1 what was on its way to it (HTTP/2 tells
    /// its peer first).
    pub fn may_stop(&self) -> bool {
        self.begun.get() && (self.rested.get() || self.http2.get())
    }

    /// Whether the connection ends with the reply that is made now.
    pub fn is_stopping(&self) -> bool {
        self.order.get() == Order::Stop
    }

    /// Nothing that was sent before the stop can still be on its way.
    pub fn rest(&self) {
        self.rested.set(true);
        self.order(self.order.get());
    }

    /// Waits for a peer's first bytes; `None`: it sent none, and the connection is to stop.
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<Option<T>, Cut> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| match self.orders(cx) {
            Order::Cut(cut) => Poll::Ready(Err(cut)),
            order => match work.as_mut().poll(cx) {
                Poll::Pending if order == Order::Stop && self.may_stop() => Poll::Ready(Ok(None)),
                polled => polled.map(|done| Ok(Some(done))),
            },
        })
        .await
    }

    /// Runs `work` to its end, or gives up when the connection is told to close.
    pub async fn unless_cut<T>(&self, work: impl Future<Output = T>) -> Result<T, Cut> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| match self.orders(cx) {
            Order::Cut(cut) => Poll::Ready(Err(cut)),
            Order::GoOn | Order::Stop => work.as_mut().poll(cx).map(Ok),
        })
        .await
    }
}

/// One request in flight, until the last byte of its reply is taken.
#[derive(Debug)]
pub struct Exchange {
    pace: Rc<Pace>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.pace.in_flight.set(self.pace.in_flight.get() - 1);
        self.pace.idle_ticks.set(0);
        self.pace.head_ticks.set(0);
    }
}

/// A request's body: the bytes as the connection brings them, given up when they come too slowly.
pub struct RequestBody {
    inner: Incoming,
    pace: Rc<Pace>,
    /// `None` once there is nothing to wait for.
    clock: Option<Rc<BodyFlow>>,
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the request's body came too slowly")]
    TooSlow,
    #[error("the request's body broke off: {0}")]
    Broken(#[from] hyper::Error),
}

impl RequestBody {
    pub fn new(inner: Incoming, pace: &Rc<Pace>) -> Self {
        let clock = (!inner.is_end_stream()).then(|| {
            let clock = Rc::new(BodyFlow::default());
            pace.bodies.borrow_mut().push(Rc::clone(&clock));
            clock
        });
        Self {
            inner,
            pace: Rc::clone(pace),
            clock,
        }
    }

    fn finish(&mut self) {
        if let Some(clock) = self.clock.take() {
            let mut bodies = self.pace.bodies.borrow_mut();
            bodies.retain(|other| !Rc::ptr_eq(other, &clock));
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(clock) = &this.clock
            && clock.too_slow.get()
        {
            return Poll::Ready(Some(Err(BodyError::TooSlow)));
        }
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        match (&polled, &this.clock) {
            (Poll::Pending, Some(clock)) => clock.wait(cx),
            (Poll::Ready(Some(Ok(frame))), Some(clock)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                clock.flow.moved(u64::try_from(bytes).unwrap_or(u64::MAX));
                if this.inner.is_end_stream() {
                    this.finish();
                }
            }
            (Poll::Ready(None), _) => this.finish(),
            _ => {}
        }
        polled.map_err(BodyError::Broken)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.clock.is_some() {
            self.pace.body_left.set(true);
            self.finish();
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestBody")
    }
}

/// A reply's body on its way: keeps its request in flight and, on HTTP/2, notices a peer that
/// takes nothing (there a full window stops the polls, not the socket).
#[derive(Debug)]
pub struct PacedReply<B> {
    inner: B,
    exchange: Exchange,
    clock: Option<Rc<Flow>>,
}

impl<B: Body<Data = Bytes>> PacedReply<B> {
    pub fn new(inner: B, exchange: Exchange) -> Self {
        let clock = (exchange.pace.http2.get() && !inner.is_end_stream()).then(|| {
            let clock = Rc::new(Flow::default());
            clock.wait();
            exchange.pace.replies.borrow_mut().push(Rc::clone(&clock));
            clock
        });
        Self {
            inner,
            exchange,
            clock,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for PacedReply<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        if let Some(clock) = &this.clock {
            match &polled {
                // The engine is asked; the peer waits.
                Poll::Pending => clock.waiting.set(false),
                Poll::Ready(Some(Ok(frame))) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
                    let unsent = &this.exchange.pace.unsent_bytes;
                    unsent.set(unsent.get().saturating_add(bytes));
                    clock.moved(bytes);
                    clock.wait();
                }
                Poll::Ready(_) => {}
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> Drop for PacedReply<B> {
    fn drop(&mut self) {
        if let Some(clock) = self.clock.take() {
            let mut replies = self.exchange.pace.replies.borrow_mut();
            replies.retain(|other| !Rc::ptr_eq(other, &clock));
        }
    }
}

/// Bytes that move one way, and how long Lobos has waited for them.
#[derive(Debug, Default)]
struct Flow {
    waiting: Cell<bool>,
    /// Since the window began.
    moved_bytes: Cell<u64>,
    /// Ticks of waiting since the window began.
    waited_ticks: Cell<u64>,
}

impl Flow {
    /// The peer must do something before more can move.
    fn wait(&self) {
        if !self.waiting.replace(true) && self.waited_ticks.get() == 0 {
            // What went into empty buffers says nothing about the peer.
            self.moved_bytes.set(0);
        }
    }

    fn moved(&self, bytes: u64) {
        self.waiting.set(false);
        self.moved_bytes
            .set(self.moved_bytes.get().saturating_add(bytes));
    }

    /// A second has passed; whether a whole window of waiting moved too little.
    fn tick(&self, window: Duration, rate_bytes: u64) -> bool {
        if !self.waiting.get() || !count(&self.waited_ticks, window) {
            return false;
        }
        self.waited_ticks.set(0);
        self.moved_bytes.replace(0) < rate_bytes.saturating_mul(window.as_secs())
    }
}

#[derive(Debug, Default)]
struct BodyFlow {
    flow: Flow,
    too_slow: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl BodyFlow {
    fn wait(&self, cx: &Context<'_>) {
        self.flow.wait();
        *self.waker.borrow_mut() = Some(cx.waker().clone());
    }

    fn give_up(&self) {
        self.too_slow.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Adds a tick; whether more than `limit` have passed. The first tick comes at once or after a
/// second, so that nobody is cut early.
fn count(ticks: &Cell<u64>, limit: Duration) -> bool {
    ticks.set(ticks.get() + 1);
    ticks.get() > limit.as_secs()
}

/// How long a connection whose request was refused early is read from before it is closed.
const LINGER_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Rc<Pace> {
        let limits = PaceLimits {
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            reply: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            rate_bytes: 1024,
        };
        Pace::new(limits, Arc::new(Metrics::new(&[])))
    }

    /// The tick at which the connection is cut, counted from 1, and why; `each` runs before it.
    fn cut_at(pace: &Pace, ticks_max: u32, each: impl Fn()) -> Option<(u32, Cut)> {
        (1..=ticks_max).find_map(|tick| {
            each();
            pace.tick().map(|cut| (tick, cut))
        })
    }

    #[test]
    fn p13_a_silent_connection_is_cut_after_the_idle_time() {
        assert_eq!(cut_at(&pace(), 100, || ()), Some((61, Cut::Idle)));
    }

    #[test]
    fn p13_a_head_that_trickles_is_cut_however_often_a_byte_comes() {
        let pace = pace();
        let cut = cut_at(&pace, 100, || pace.note_read(1));
        assert_eq!(cut, Some((11, Cut::SlowHead)));
    }

    #[test]
    fn p13_while_the_engine_works_no_clock_runs() {
        let pace = pace();
        let exchange = pace.begin();
        assert_eq!(cut_at(&pace, 10_000, || ()), None);
        drop(exchange);
        assert_eq!(cut_at(&pace, 100, || ()), Some((61, Cut::Idle)));
    }

    #[test]
    fn p13_a_connection_that_lingers_is_cut_although_the_process_stops() {
        let pace = pace();
        drop(pace.begin());
        pace.body_left.set(true);
        assert!(pace.lingers());
        let stopping = || pace.order(Order::Stop);
        assert_eq!(cut_at(&pace, 100, stopping), Some((6, Cut::Lingered)));
        pace.order(Order::Stop);
        assert_eq!(pace.order.get(), Order::Cut(Cut::Lingered));
    }

    #[test]
    fn p13_a_reader_below_the_rate_is_cut_and_one_above_it_is_not() {
        for (bytes, cut) in [
            (0, Some((61, Cut::SlowReader))),
            (1000, Some((61, Cut::SlowReader))),
        ] {
            let pace = pace();
            let _exchange = pace.begin();
            pace.note_write(Poll::Ready(4 << 20));
            pace.note_write(Poll::Pending);
            let step = || {
                pace.note_write(Poll::Ready(bytes));
                pace.note_write(Poll::Pending);
            };
            assert_eq!(cut_at(&pace, 200, step), cut, "{bytes} bytes a second");
        }
        let pace = pace();
        let _exchange = pace.begin();
        let step = || {
            pace.note_write(Poll::Ready(1100));
            pace.note_write(Poll::Pending);
        };
        assert_eq!(cut_at(&pace, 1000, step), None);
    }

    #[test]
    fn p13_answers_to_pings_do_not_keep_an_idle_connection() {
        let pace = pace();
        pace.set_http2();
        drop(pace.begin());
        let pings = || {
            pace.note_read(4096);
            pace.note_write(Poll::Ready(4096));
        };
        assert_eq!(cut_at(&pace, 200, pings), Some((61, Cut::Idle)));
    }

    #[test]
    fn p13_the_rest_of_a_reply_of_http2_does_not_count_as_idle() {
        let pace = pace();
        pace.set_http2();
        drop(pace.begin());
        pace.unsent_bytes.set(1100 * 100);
        let rest = || {
            pace.note_write(Poll::Ready(1100));
            pace.note_write(Poll::Pending);
        };
        assert_eq!(cut_at(&pace, 99, rest), None);
    }

    #[test]
    fn p13_the_end_of_a_large_reply_does_not_count_as_idle() {
        let pace = pace();
        let step = || {
            pace.note_write(Poll::Ready(1100));
            pace.note_write(Poll::Pending);
        };
        assert_eq!(cut_at(&pace, 1000, step), None);
    }
}
