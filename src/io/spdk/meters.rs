//! What is counted of a device on SPDK.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Spdk;
use super::lane::Work;

/// What is known of a device now.
#[derive(Clone, Debug, Default)]
pub struct SpdkStats {
    /// As the bdev counts them: reads, writes, bytes read, bytes written.
    pub reads: u64,
    pub writes: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub cluster_bytes: u64,
    /// Clusters for data in the blobstore, and those that no blob has.
    pub clusters: u64,
    pub free_clusters: u64,
    /// Operations that SPDK has, and those that wait for room.
    pub in_flight: u64,
    pub waiting: u64,
    /// Of the reactors' time since they began, the share in which there was something to do.
    pub busy_ratio: f64,
    pub latencies: Vec<Latencies>,
}

/// How long the operations of one kind took, from the event loop to the end.
#[derive(Clone, Debug)]
pub struct Latencies {
    pub operation: &'static str,
    /// Upper bound in seconds and the operations at or below it; the last bound is infinity.
    pub buckets: Vec<(f64, u64)>,
    pub seconds: f64,
}

#[derive(Debug, Default)]
pub(super) struct Meters {
    kinds: [Meter; 3],
}

#[derive(Debug, Default)]
struct Meter {
    buckets: [AtomicU64; BOUNDS_SECONDS.len() + 1],
    nanos: AtomicU64,
}

impl Meters {
    pub(super) fn observe(&self, work: &Work, elapsed: Duration) {
        let kind = match work {
            Work::Read(_) => 0,
            Work::Write(_) | Work::Zero | Work::Discard => 1,
            Work::Flush => 2,
        };
        let seconds = elapsed.as_secs_f64();
        let bucket = BOUNDS_SECONDS.partition_point(|bound| *bound < seconds);
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        if let Some(meter) = self.kinds.get(kind) {
            meter.nanos.fetch_add(nanos, Ordering::Relaxed);
            if let Some(bucket) = meter.buckets.get(bucket) {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn latencies(&self) -> Vec<Latencies> {
        let names = ["read", "write", "flush"];
        let latencies = |(operation, meter): (&'static str, &Meter)| {
            let bounds = BOUNDS_SECONDS.iter().copied().chain([f64::INFINITY]);
            let mut total = 0;
            let sum = |(bound, bucket): (f64, &AtomicU64)| {
                total += bucket.load(Ordering::Relaxed);
                (bound, total)
            };
            Latencies {
                operation,
                buckets: bounds.zip(&meter.buckets).map(sum).collect(),
                seconds: Duration::from_nanos(meter.nanos.load(Ordering::Relaxed)).as_secs_f64(),
            }
        };
        names.into_iter().zip(&self.kinds).map(latencies).collect()
    }
}

impl Spdk {
    /// Asks the bdev what it counts; blocks briefly.
    pub fn stats(&self) -> io::Result<SpdkStats> {
        let bdev = self.bdev_stats()?;
        let inboxes = || self.process.reactors.iter().map(|reactor| &reactor.inbox);
        let sum = |of: fn(&super::lane::Inbox) -> &AtomicU64| -> u64 {
            inboxes()
                .map(|inbox| of(inbox).load(Ordering::Relaxed))
                .sum()
        };
        let (busy, idle) = (
            sum(|inbox| &inbox.busy_ticks),
            sum(|inbox| &inbox.idle_ticks),
        );
        Ok(SpdkStats {
            reads: bdev.reads,
            writes: bdev.writes,
            bytes_read: bdev.bytes_read,
            bytes_written: bdev.bytes_written,
            cluster_bytes: self.cluster_bytes,
            clusters: self.clusters,
            free_clusters: self.free_clusters,
            in_flight: sum(|inbox| &inbox.in_flight),
            waiting: sum(|inbox| &inbox.waiting),
            busy_ratio: match busy + idle {
                0 => 0.0,
                all => busy as f64 / all as f64,
            },
            latencies: self.meters.latencies(),
        })
    }
}

/// From a polled NVMe read to a flush of a slow disk.
const BOUNDS_SECONDS: [f64; 13] = [
    5e-6, 10e-6, 20e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 10e-3, 50e-3, 0.25, 1.0,
];
