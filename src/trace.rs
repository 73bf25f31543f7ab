//! Answered requests, for those who watch. While nobody does, a request pays for one look at a
//! flag; while somebody does, for one event in a bounded queue, however many they are: the control
//! plane takes them out and gives each watcher its own. A full queue loses events and counts them.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use tokio::sync::mpsc;

use crate::clock::Timestamp;
use crate::limits::TRACE_QUEUE_MAX;

/// One answered request.
#[derive(Clone, Debug)]
pub struct Event {
    pub time: Timestamp,
    pub request_id: Box<str>,
    /// The client's address; none on a Unix socket.
    pub peer: Option<IpAddr>,
    /// The user's name; `None`: nobody signed, or nobody could be found.
    pub user: Option<Box<str>>,
    /// As S3 names it; `None`: refused before that was clear.
    pub operation: Option<&'static str>,
    pub bucket: Option<Box<str>>,
    pub key: Option<Box<str>>,
    pub method: Method,
    pub status: u16,
    /// From the request's head to the reply's head.
    pub elapsed: Duration,
    /// Lengths of the bodies, where they were told.
    pub request_bytes: Option<u64>,
    pub reply_bytes: Option<u64>,
    pub user_agent: Option<Box<str>>,
}

/// Where the shards put events.
#[derive(Debug)]
pub struct Trace {
    watched: AtomicBool,
    lost: AtomicU64,
    queue: mpsc::Sender<Event>,
}

impl Trace {
    /// The trace and its other end.
    pub fn new() -> (Self, mpsc::Receiver<Event>) {
        let (queue, events) = mpsc::channel(TRACE_QUEUE_MAX);
        let trace = Self {
            watched: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            queue,
        };
        (trace, events)
    }

    /// Whether an event is worth making.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    pub fn set_watched(&self, watched: bool) {
        self.watched.store(watched, Ordering::Relaxed);
    }

    /// Hands an event over, or counts it as lost.
    pub fn tell(&self, event: Event) {
        if self.queue.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events that wait for the control plane.
    pub fn queued(&self) -> usize {
        TRACE_QUEUE_MAX.saturating_sub(self.queue.capacity())
    }

    /// Events lost since the last time that this was asked.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_loses_events_and_counts_them() {
        let (trace, mut events) = Trace::new();
        let event = || Event {
            time: Timestamp::default(),
            request_id: "1".into(),
            peer: None,
            user: None,
            operation: None,
            bucket: None,
            key: None,
            method: Method::GET,
            status: 200,
            elapsed: Duration::ZERO,
            request_bytes: None,
            reply_bytes: None,
            user_agent: None,
        };
        assert_eq!(trace.queued(), 0);
        for _ in 0..TRACE_QUEUE_MAX + 3 {
            trace.tell(event());
        }
        assert_eq!(trace.queued(), TRACE_QUEUE_MAX);
        assert_eq!((trace.take_lost(), trace.take_lost()), (3, 0));
        events.try_recv().unwrap();
        trace.tell(event());
        assert_eq!(trace.take_lost(), 0);
    }
}
