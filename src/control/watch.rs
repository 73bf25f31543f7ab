//! The live trace: events from the shards, to each watcher those that it asked for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::access::AccessLog;
use crate::limits::{TRACE_EVENTS_MAX, TRACE_WATCHERS_MAX};
use crate::s3::S3;
use crate::trace::Event;

/// What a watcher wants to see; what is `None` is not filtered by.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) bucket: Option<Box<str>>,
    pub(super) operation: Option<Box<str>>,
    /// A status, or its first digit for all of that class.
    pub(super) status: Option<u16>,
    pub(super) latency: Option<Duration>,
}

impl Filter {
    fn takes(&self, event: &Event) -> bool {
        let text = |wanted: &Option<Box<str>>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        let status = |wanted: u16| wanted == event.status || wanted == event.status / 100;
        text(&self.bucket, event.bucket.as_deref())
            && text(&self.operation, Some(event.operation.unwrap_or(UNKNOWN)))
            && self.status.is_none_or(status)
            && self.latency.is_none_or(|least| event.elapsed >= least)
    }
}

/// All who watch now.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    list: Mutex<Vec<Watcher>>,
}

#[derive(Debug)]
struct Watcher {
    filter: Filter,
    events: mpsc::Sender<(Arc<Event>, u64)>,
    /// Events lost since the last one that found room.
    lost: u64,
}

/// A watcher's end: each event with the number of those lost before it.
#[derive(Debug)]
pub(super) struct Watching {
    events: mpsc::Receiver<(Arc<Event>, u64)>,
}

impl Watching {
    /// The next event and the number of those lost before it.
    pub(super) async fn next(&mut self) -> Option<(Arc<Event>, u64)> {
        self.events.recv().await
    }
}

impl Watchers {
    /// A new watcher; `None` if there are as many as there may be. It ends when it is dropped.
    pub(super) fn watch(&self, s3: &S3, filter: Filter) -> Option<Watching> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|watcher| !watcher.events.is_closed());
        if list.len() >= TRACE_WATCHERS_MAX {
            return None;
        }
        let (sender, events) = mpsc::channel(TRACE_EVENTS_MAX);
        list.push(Watcher {
            filter,
            events: sender,
            lost: 0,
        });
        s3.trace().set_watched(true);
        Some(Watching { events })
    }

    /// Gives one event, and the number of those lost before it, to everybody who wants it.
    fn give(&self, event: &Arc<Event>, lost: u64) {
        for watcher in &mut *self.list.lock().unwrap_or_else(PoisonError::into_inner) {
            watcher.lost = watcher.lost.saturating_add(lost);
            if !watcher.filter.takes(event) {
                continue;
            }
            match watcher.events.try_send((Arc::clone(event), watcher.lost)) {
                Ok(()) => watcher.lost = 0,
                Err(_) => watcher.lost = watcher.lost.saturating_add(1),
            }
        }
    }

    /// Forgets those who left; `false`: nobody is left.
    fn sweep(&self) -> bool {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|watcher| !watcher.events.is_closed());
        !list.is_empty()
    }
}

/// Hands events on until `ending` is told; then what waits is still written to the access log.
pub(super) async fn fan_out(
    s3: &S3,
    watchers: &Watchers,
    mut events: mpsc::Receiver<Event>,
    mut log: Option<AccessLog>,
    ending: &Notify,
) {
    s3.trace().set_watched(log.is_some());
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { return };
                hand_on(s3, watchers, log.as_mut(), event);
                while let Ok(event) = events.try_recv() {
                    hand_on(s3, watchers, log.as_mut(), event);
                }
                if let Some(log) = &mut log {
                    log.flush();
                }
            }
            _ = sweep.tick(), if s3.trace().is_watched() => {
                if !watchers.sweep() && log.is_none() {
                    s3.trace().set_watched(false);
                }
            }
            () = ending.notified() => break,
        }
    }
    while let Ok(event) = events.try_recv() {
        hand_on(s3, watchers, log.as_mut(), event);
    }
    if let Some(log) = &mut log {
        log.flush();
    }
}

fn hand_on(s3: &S3, watchers: &Watchers, log: Option<&mut AccessLog>, event: Event) {
    let lost = s3.trace().take_lost();
    if let Some(log) = log {
        log.add(&event, lost);
    }
    watchers.give(&Arc::new(event), lost);
}

/// The operation of a request that was refused before it was known.
pub(super) const UNKNOWN: &str = crate::metrics::UNKNOWN;
const SWEEP_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn event(bucket: &str, operation: Option<&'static str>, status: u16, millis: u64) -> Event {
        Event {
            time: Timestamp::default(),
            request_id: "1".into(),
            peer: None,
            user: None,
            operation,
            bucket: Some(bucket.into()),
            key: None,
            method: http::Method::GET,
            status,
            elapsed: Duration::from_millis(millis),
            request_bytes: None,
            reply_bytes: None,
            user_agent: None,
        }
    }

    #[test]
    fn a_filter_takes_what_all_of_its_parts_take() {
        let get = event("photos", Some("GetObject"), 404, 7);
        let refused = event("photos", None, 403, 0);
        let filter = |change: &dyn Fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            (filter.takes(&get), filter.takes(&refused))
        };
        assert_eq!(filter(&|_| ()), (true, true));
        assert_eq!(filter(&|f| f.bucket = Some("photos".into())), (true, true));
        assert_eq!(filter(&|f| f.bucket = Some("photo".into())), (false, false));
        let operation = |name: &str| filter(&|f| f.operation = Some(name.into()));
        assert_eq!(operation("GetObject"), (true, false));
        assert_eq!(operation("Unknown"), (false, true));
        assert_eq!(filter(&|f| f.status = Some(404)), (true, false));
        assert_eq!(filter(&|f| f.status = Some(4)), (true, true));
        assert_eq!(filter(&|f| f.status = Some(5)), (false, false));
        let latency = |millis| filter(&|f| f.latency = Some(Duration::from_millis(millis)));
        assert_eq!((latency(7), latency(8)), ((true, false), (false, false)));
    }

    #[test]
    fn a_slow_watcher_loses_events_and_is_told_how_many() {
        let watchers = Watchers::default();
        let (sender, events) = mpsc::channel(2);
        let filter = Filter {
            status: Some(200),
            ..Filter::default()
        };
        watchers.list.lock().unwrap().push(Watcher {
            filter,
            events: sender,
            lost: 0,
        });
        for status in [200, 404, 200, 200, 404, 200] {
            watchers.give(&Arc::new(event("b", None, status, 1)), 0);
        }
        watchers.give(&Arc::new(event("b", None, 404, 1)), 5);
        let mut watching = Watching { events };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut next_lost = || runtime.block_on(watching.next()).unwrap().1;
        assert_eq!(
            [next_lost(), next_lost()],
            [0, 0],
            "nothing was lost before"
        );
        watchers.give(&Arc::new(event("b", None, 200, 1)), 0);
        watchers.give(&Arc::new(event("b", None, 200, 1)), 0);
        assert_eq!([next_lost(), next_lost()], [2 + 5, 0]);
        assert!(watchers.sweep());
        drop(watching);
        assert!(!watchers.sweep());
    }
}
