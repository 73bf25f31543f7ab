//! What the process counts: requests, their times, bytes, connections. Plain atomic counters that
//! the shards add to and a scrape reads; nothing here allocates or locks after the start.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The counters of one process, shared by all shards.
#[derive(Debug)]
pub struct Metrics {
    /// One row an operation, and a last one for requests that were refused before it was known.
    rows: Box<[Row]>,
    /// Bytes that sockets gave and took: bodies, heads, and TLS records where there is TLS.
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    pub connections_accepted: Counter,
    pub connections_closed: Counter,
    /// Panics that became a 500.
    pub panics: Counter,
    pub lifecycle: Lifecycle,
    /// Requests whose head came, and those of them whose reply was sent or given up.
    pub begun: Counter,
    pub ended: Counter,
    pub stages: Stages,
    pub faults: Faults,
}

/// How long the stages of requests took, all operations together.
#[derive(Debug, Default)]
pub struct Stages {
    /// From the head to the answer to who asks and whether they may.
    pub auth: Histogram,
    /// From there to the reply's head.
    pub engine: Histogram,
    /// From there until the connection has taken the last byte of the body, or was given up.
    pub send: Histogram,
}

/// Requests that failed, by whose fault it was.
#[derive(Debug, Default)]
pub struct Faults {
    /// The request is wrong, not allowed, or for what is not there.
    pub client: Counter,
    /// The storage: full, broken, gone, or damaged.
    pub device: Counter,
    /// Too much at once.
    pub load: Counter,
    /// Lobos itself.
    pub bug: Counter,
}

/// What lifecycle rules did.
#[derive(Debug, Default)]
pub struct Lifecycle {
    /// Current objects that expired.
    pub expired: Counter,
    /// Versions and markers behind others.
    pub noncurrent: Counter,
    /// Delete markers that hid nothing any more.
    pub markers: Counter,
    /// Uploads that were not completed.
    pub uploads: Counter,
    /// Looks at what would have been removed but for its object lock.
    pub locked: Counter,
    /// Keys and buckets that could not be dealt with.
    pub failed: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often something took how long.
#[derive(Debug)]
pub struct Histogram {
    nanos: Counter,
    buckets: [Counter; BUCKETS_SECONDS.len() + 1],
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            nanos: Counter::default(),
            buckets: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl Histogram {
    pub fn observe(&self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let bucket = BUCKETS_SECONDS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.add(1);
        }
        self.nanos
            .add(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Upper bound in seconds and how many took at most that; the last bound is infinity, and its
    /// number is that of all.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = BUCKETS_SECONDS.iter().copied().chain([f64::INFINITY]);
        bounds
            .zip(&self.buckets)
            .scan(0, |total, (bound, counter)| {
                *total += counter.get();
                Some((bound, *total))
            })
    }

    /// The time of all of them together.
    pub fn seconds(&self) -> f64 {
        Duration::from_nanos(self.nanos.get()).as_secs_f64()
    }
}

/// How long the place where bytes lie took for what it was asked.
#[derive(Debug, Default)]
pub struct DeviceTimes {
    pub read: Histogram,
    pub write: Histogram,
    /// Flushes of a device, fsyncs of files and directories.
    pub sync: Histogram,
    begun: Counter,
    ended: Counter,
}

impl DeviceTimes {
    /// A read goes on until the value is dropped.
    pub fn reading(&self) -> Timing<'_> {
        self.timing(&self.read)
    }

    pub fn writing(&self) -> Timing<'_> {
        self.timing(&self.write)
    }

    pub fn syncing(&self) -> Timing<'_> {
        self.timing(&self.sync)
    }

    fn timing<'a>(&'a self, of: &'a Histogram) -> Timing<'a> {
        self.begun.add(1);
        Timing {
            times: self,
            of,
            began: Instant::now(),
        }
    }

    /// What goes on now.
    pub fn in_flight(&self) -> u64 {
        let ended = self.ended.get();
        self.begun.get().saturating_sub(ended)
    }
}

/// Something that a device is asked for.
#[derive(Debug)]
pub struct Timing<'a> {
    times: &'a DeviceTimes,
    of: &'a Histogram,
    began: Instant,
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        self.of.observe(self.began.elapsed());
        self.times.ended.add(1);
    }
}

/// What is counted of one operation.
#[derive(Debug)]
pub struct Row {
    /// As the S3 model names it, or [`UNKNOWN`].
    pub operation: &'static str,
    statuses: [Counter; STATUSES.len() + 1],
    times: Histogram,
}

impl Metrics {
    /// `operations`: the names, in the order of the indices that [`Metrics::observe`] is given.
    pub fn new(operations: &[&'static str]) -> Self {
        let names = operations.iter().copied().chain([UNKNOWN]);
        Self {
            rows: names.map(Row::new).collect(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            connections_accepted: Counter::default(),
            connections_closed: Counter::default(),
            panics: Counter::default(),
            lifecycle: Lifecycle::default(),
            begun: Counter::default(),
            ended: Counter::default(),
            stages: Stages::default(),
            faults: Faults::default(),
        }
    }

    /// Requests whose head came and whose reply is not sent yet.
    pub fn in_flight(&self) -> u64 {
        let ended = self.ended.get();
        self.begun.get().saturating_sub(ended)
    }

    /// Counts one answered request. `operation`: its index; `None`: refused before it was known.
    /// `elapsed`: from the request's head to the reply's head.
    pub fn observe(&self, operation: Option<usize>, status: u16, elapsed: Duration) {
        let row = operation.and_then(|index| self.rows.get(index));
        if let Some(row) = row.or(self.rows.last()) {
            row.observe(status, elapsed);
        }
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Connections that are open now.
    pub fn connections_open(&self) -> u64 {
        // Closed first: a connection that ends between the two must not make this negative.
        let closed = self.connections_closed.get();
        self.connections_accepted.get().saturating_sub(closed)
    }
}

impl Row {
    fn new(operation: &'static str) -> Self {
        Self {
            operation,
            statuses: std::array::from_fn(|_| Counter::default()),
            times: Histogram::default(),
        }
    }

    fn observe(&self, status: u16, elapsed: Duration) {
        let place = STATUSES.iter().position(|known| *known == status);
        if let Some(status) = self.statuses.get(place.unwrap_or(STATUSES.len())) {
            status.add(1);
        }
        self.times.observe(elapsed);
    }

    /// Status and count of every status that was answered; `None`: one that is not in the table.
    pub fn statuses(&self) -> impl Iterator<Item = (Option<u16>, u64)> {
        let names = STATUSES.iter().copied().map(Some).chain([None]);
        names
            .zip(&self.statuses)
            .map(|(status, counter)| (status, counter.get()))
            .filter(|(_, count)| *count > 0)
    }

    /// How long its requests took.
    pub fn times(&self) -> &Histogram {
        &self.times
    }
}

/// The operation of a request that was refused before it was known.
pub const UNKNOWN: &str = "Unknown";

/// Statuses that Lobos answers; any other is counted together.
const STATUSES: [u16; 23] = [
    200, 204, 206, 301, 303, 304, 307, 400, 401, 403, 404, 405, 408, 409, 411, 412, 413, 416, 429,
    500, 501, 503, 507,
];

/// A factor of about 2.5 apart, from a cached HEAD to a large body on a slow disk.
const BUCKETS_SECONDS: [f64; 16] = [
    25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.5, 1.0,
    5.0, 30.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_counted_once_by_status_and_once_by_time() {
        let metrics = Metrics::new(&["GetObject", "PutObject"]);
        metrics.observe(Some(0), 200, Duration::from_micros(25));
        metrics.observe(Some(0), 206, Duration::from_micros(26));
        metrics.observe(Some(0), 418, Duration::from_secs(31));
        metrics.observe(None, 403, Duration::ZERO);
        metrics.observe(Some(99), 400, Duration::ZERO);
        let [get, put, unknown] = metrics.rows() else {
            panic!("two operations and the unknown one")
        };
        assert_eq!(
            get.statuses().collect::<Vec<_>>(),
            [(Some(200), 1), (Some(206), 1), (None, 1)]
        );
        let buckets: Vec<_> = get.times().buckets().collect();
        assert_eq!(buckets[0], (25e-6, 1), "a bound belongs to its bucket");
        assert_eq!(buckets[1], (50e-6, 2));
        assert_eq!(buckets[15], (30.0, 2));
        assert_eq!(buckets[16], (f64::INFINITY, 3));
        assert!((get.times().seconds() - 31.000_051).abs() < 1e-9);
        assert_eq!(put.statuses().count(), 0);
        assert_eq!(unknown.operation, UNKNOWN);
        assert_eq!(unknown.statuses().map(|(_, n)| n).sum::<u64>(), 2);
    }

    #[test]
    fn what_goes_on_is_counted_until_it_ends() {
        let times = DeviceTimes::default();
        let (read, sync) = (times.reading(), times.syncing());
        assert_eq!(times.in_flight(), 2);
        drop(read);
        assert_eq!(times.in_flight(), 1);
        drop(sync);
        assert_eq!(times.in_flight(), 0);
        let count = |of: &Histogram| of.buckets().last().map_or(0, |(_, count)| count);
        assert_eq!(
            [count(&times.read), count(&times.write), count(&times.sync)],
            [1, 0, 1]
        );
    }

    #[test]
    fn tables_are_in_order() {
        assert!(STATUSES.is_sorted());
        assert!(BUCKETS_SECONDS.is_sorted());
    }
}
