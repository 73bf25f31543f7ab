//! The metrics as text, in Prometheus' format and in OpenMetrics 1.0. Every name stands in
//! `docs/operations.md`; a test compares.

use std::fmt::{Display, Write as _};

use rustix::process::{Resource, getrlimit};

use crate::engine::Engine;
use crate::engine::blob::{BlobEngine, BlobInfo};
use crate::engine::fs::FsEngine;
use crate::metrics::{DeviceTimes, Histogram};
use crate::s3::S3;

/// The two formats that scrapers ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus' text format 0.0.4: what a browser and old scrapers get.
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// The format that an `Accept` header asks for.
    pub(super) fn wanted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Everything that is counted now.
pub(super) fn page(s3: &S3, format: Format) -> String {
    let mut page = Page::new(format);
    page.family("lobos_build_info", Kind::Gauge, "The running version.");
    page.sample("lobos_build_info", &[("version", VERSION)], 1);
    requests(&mut page, s3);
    stages(&mut page, s3);
    traffic(&mut page, s3);
    lifecycle(&mut page, s3);
    for engine in s3.engines() {
        match engine {
            Engine::Fs(fs) => directories(&mut page, fs),
            Engine::Blob(blob) => {
                store(&mut page, blob);
                #[cfg(feature = "spdk")]
                if let Some(device) = blob.device().spdk() {
                    super::spdk_lines::spdk(&mut page, device, blob.free_bytes());
                }
            }
        }
    }
    process(&mut page);
    page.finish()
}

fn requests(page: &mut Page, s3: &S3) {
    let rows = s3.metrics().rows();
    page.family(
        "lobos_s3_requests_total",
        Kind::Counter,
        "Answered requests by S3 operation and HTTP status.",
    );
    for row in rows {
        for (status, count) in row.statuses() {
            let status = status.map_or("other".to_owned(), |status| status.to_string());
            let labels = [("operation", row.operation), ("status", &status)];
            page.sample("lobos_s3_requests_total", &labels, count);
        }
    }
    let name = "lobos_s3_request_duration_seconds";
    let help = "Time from a request's head to its reply's head.";
    page.family(name, Kind::Histogram, help);
    for row in rows.iter().filter(|row| row.statuses().next().is_some()) {
        let times = [row.times()];
        page.histogram(name, &[("operation", row.operation)], &times);
    }
    page.family(
        "lobos_panics_total",
        Kind::Counter,
        "Panics that became a 500.",
    );
    page.sample("lobos_panics_total", &[], s3.metrics().panics.get());
}

fn lifecycle(page: &mut Page, s3: &S3) {
    let counts = &s3.metrics().lifecycle;
    page.family(
        "lobos_lifecycle_removed_total",
        Kind::Counter,
        "What lifecycle rules removed: current objects, versions behind others, delete markers, \
         uploads.",
    );
    for (kind, count) in [
        ("expired", &counts.expired),
        ("noncurrent", &counts.noncurrent),
        ("marker", &counts.markers),
        ("upload", &counts.uploads),
    ] {
        page.sample(
            "lobos_lifecycle_removed_total",
            &[("kind", kind)],
            count.get(),
        );
    }
    for (name, help, count) in [
        (
            "lobos_lifecycle_locked_total",
            "Looks at versions that an object lock kept from being removed.",
            &counts.locked,
        ),
        (
            "lobos_lifecycle_failures_total",
            "Keys and buckets that lifecycle rules could not be applied to.",
            &counts.failed,
        ),
    ] {
        page.family(name, Kind::Counter, help);
        page.sample(name, &[], count.get());
    }
}

/// How long the parts of requests take, whose fault errors are, and what waits for what.
fn stages(page: &mut Page, s3: &S3) {
    let (stages, faults) = (&s3.metrics().stages, &s3.metrics().faults);
    let devices: Vec<_> = s3.engines().iter().filter_map(device_times).collect();
    let all = devices
        .iter()
        .flat_map(|(_, times)| [&times.read, &times.write, &times.sync]);
    let name = "lobos_s3_stage_duration_seconds";
    let help = "Time that the stages of requests take.";
    page.family(name, Kind::Histogram, help);
    page.histogram(name, &[("stage", "auth")], &[&stages.auth]);
    page.histogram(name, &[("stage", "engine")], &[&stages.engine]);
    page.histogram(name, &[("stage", "device")], &all.collect::<Vec<_>>());
    page.histogram(name, &[("stage", "send")], &[&stages.send]);

    let name = "lobos_device_duration_seconds";
    let help = "Time that reads, writes and syncs of the storage take.";
    page.family(name, Kind::Histogram, help);
    for (engine, times) in &devices {
        for (operation, of) in [
            ("read", &times.read),
            ("write", &times.write),
            ("sync", &times.sync),
        ] {
            let labels = [("engine", *engine), ("operation", operation)];
            page.histogram(name, &labels, &[of]);
        }
    }
    let name = "lobos_device_in_flight";
    let help = "Reads, writes and syncs of the storage that go on.";
    page.family(name, Kind::Gauge, help);
    for (engine, times) in &devices {
        page.sample(name, &[("engine", engine)], times.in_flight());
    }

    let name = "lobos_s3_errors_total";
    let help = "Failed requests by whose fault it was: client, device, load or bug.";
    page.family(name, Kind::Counter, help);
    for (fault, count) in [
        ("client", &faults.client),
        ("device", &faults.device),
        ("load", &faults.load),
        ("bug", &faults.bug),
    ] {
        page.sample(name, &[("fault", fault)], count.get());
    }
}

/// Of an engine, and what it is called.
fn device_times(engine: &Engine) -> Option<(&'static str, &DeviceTimes)> {
    match engine {
        Engine::Fs(fs) => Some(("fs", fs.times())),
        Engine::Blob(blob) => Some(("blob", blob.device().times()?)),
    }
}

fn traffic(page: &mut Page, s3: &S3) {
    let metrics = s3.metrics();
    for (name, help, value) in [
        (
            "lobos_received_bytes_total",
            "Bytes that came over S3 connections.",
            metrics.received_bytes.get(),
        ),
        (
            "lobos_sent_bytes_total",
            "Bytes that went over S3 connections.",
            metrics.sent_bytes.get(),
        ),
        (
            "lobos_connections_accepted_total",
            "Accepted S3 connections.",
            metrics.connections_accepted.get(),
        ),
    ] {
        page.family(name, Kind::Counter, help);
        page.sample(name, &[], value);
    }
    let (free, total) = s3.body_memory_bytes();
    for (name, help, value) in [
        (
            "lobos_connections_open",
            "Open S3 connections.",
            metrics.connections_open(),
        ),
        (
            "lobos_body_memory_used_bytes",
            "Memory that request and reply bodies in flight hold.",
            total.saturating_sub(free) as u64,
        ),
        (
            "lobos_body_memory_limit_bytes",
            "Memory that they may hold (server.limits.in_flight).",
            total as u64,
        ),
        (
            "lobos_body_memory_waiting",
            "Requests that wait for memory for their bodies.",
            s3.waiting_for_memory() as u64,
        ),
        (
            "lobos_s3_requests_in_flight",
            "Requests whose head came and whose reply is not sent yet.",
            metrics.in_flight(),
        ),
        (
            "lobos_trace_queue_events",
            "Events that wait to be told to those who watch the trace.",
            s3.trace().queued() as u64,
        ),
    ] {
        page.family(name, Kind::Gauge, help);
        page.sample(name, &[], value);
    }
}

fn directories(page: &mut Page, fs: &FsEngine) {
    let mounts = fs.mounts();
    page.family(
        "lobos_bucket_free_bytes",
        Kind::Gauge,
        "Space that the bucket's file system has left.",
    );
    for mount in &mounts {
        let labels = [("bucket", mount.bucket.as_str())];
        page.sample("lobos_bucket_free_bytes", &labels, mount.free_bytes);
    }
    page.family(
        "lobos_bucket_capacity_bytes",
        Kind::Gauge,
        "Space that the bucket's file system has.",
    );
    for mount in &mounts {
        let labels = [("bucket", mount.bucket.as_str())];
        page.sample("lobos_bucket_capacity_bytes", &labels, mount.capacity_bytes);
    }
    page.family(
        "lobos_bucket_durability_info",
        Kind::Gauge,
        "When a bucket answers a write: strict or relaxed.",
    );
    for mount in &mounts {
        let durability = mount.durability.as_str();
        let labels = [
            ("bucket", mount.bucket.as_str()),
            ("durability", durability),
        ];
        page.sample("lobos_bucket_durability_info", &labels, 1);
    }
}

fn store(page: &mut Page, blob: &BlobEngine) {
    let info = blob.info();
    let bytes: [(&str, &str, u64); 11] = [
        ("capacity", "Size of the blob store.", info.size_bytes),
        (
            "free",
            "Space of the blob store that is not in use.",
            info.free_bytes,
        ),
        (
            "held",
            "Deleted, and free with the next commits.",
            info.held_bytes,
        ),
        (
            "reserve",
            "Free space kept for deletes and checkpoints.",
            info.reserve_bytes,
        ),
        (
            "longest_free_run",
            "The longest run of free blocks.",
            info.longest_free_run_bytes,
        ),
        ("index", "Keys and entries in memory.", info.index_bytes),
        (
            "index_limit",
            "What keys and entries may take: then new keys are refused.",
            info.index_limit_bytes.unwrap_or(u64::MAX),
        ),
        (
            "cache",
            "Bytes of objects that are kept in memory.",
            info.cache_bytes,
        ),
        ("journal", "Size of the journal.", info.journal.size_bytes),
        (
            "journal_used",
            "What a start would have to replay.",
            info.journal.used_bytes,
        ),
        (
            "checkpoint",
            "Both copies of the checkpoint.",
            info.checkpoint.size_bytes,
        ),
    ];
    for (what, help, value) in bytes {
        page.gauge(&format!("lobos_storage_{what}_bytes"), help, value);
    }
    store_counts(page, &info);
    store_state(page, blob, &info);
}

fn store_counts(page: &mut Page, info: &BlobInfo) {
    for (what, help, value) in [
        ("buckets", "Buckets of the blob store.", info.buckets),
        ("objects", "Objects in it.", info.objects),
        (
            "versions",
            "Versions that are not current, and delete markers.",
            info.versions,
        ),
        ("uploads", "Multipart uploads that are open.", info.uploads),
        ("free_runs", "Runs of free blocks.", info.free_runs),
        (
            "checkpoint_running",
            "1 while a checkpoint is written.",
            info.checkpoint.is_running.into(),
        ),
        (
            "read_only",
            "1 once a write or flush of the device failed.",
            info.is_read_only.into(),
        ),
    ] {
        page.gauge(&format!("lobos_storage_{what}"), help, value);
    }
}

fn store_state(page: &mut Page, blob: &BlobEngine, info: &BlobInfo) {
    let help = "Share of the free space in runs of less than 1 MiB.";
    page.gauge(
        "lobos_storage_fragmentation_ratio",
        help,
        info.fragmentation,
    );
    page.family(
        "lobos_storage_durability_info",
        Kind::Gauge,
        "When a write is answered.",
    );
    let labels = [("durability", blob.durability().as_str())];
    page.sample("lobos_storage_durability_info", &labels, 1);
    page.family(
        "lobos_storage_flushes_total",
        Kind::Counter,
        "Flushes of the device.",
    );
    page.sample("lobos_storage_flushes_total", &[], info.flushes);
    let idle = blob.device().buffers().idle_bytes();
    let help = "Transfer buffers that are kept for the next use (blob.buffers).";
    page.gauge("lobos_storage_idle_buffers_bytes", help, idle);
    let name = "lobos_storage_flush_seconds_total";
    page.family(name, Kind::Counter, "The time that they took together.");
    page.sample(name, &[], info.flush_seconds);
}

/// The process metrics that every Prometheus client library exports, under their usual names.
fn process(page: &mut Page) {
    let Ok(process) = procfs::process::Process::myself() else {
        return;
    };
    if let Ok(stat) = process.stat() {
        let ticks = procfs::ticks_per_second();
        let seconds = (stat.utime + stat.stime) as f64 / ticks as f64;
        page.family(
            "process_cpu_seconds_total",
            Kind::Counter,
            "User and system time of the process.",
        );
        page.sample("process_cpu_seconds_total", &[], seconds);
        page.family(
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Resident memory.",
        );
        let resident = stat.rss.saturating_mul(procfs::page_size());
        page.sample("process_resident_memory_bytes", &[], resident);
        if let Ok(boot) = procfs::boot_time_secs() {
            let start = boot as f64 + stat.starttime as f64 / ticks as f64;
            page.family(
                "process_start_time_seconds",
                Kind::Gauge,
                "Start of the process since 1970-01-01 UTC.",
            );
            page.sample("process_start_time_seconds", &[], start);
        }
    }
    if let Ok(open) = process.fd_count() {
        page.family("process_open_fds", Kind::Gauge, "Open file descriptors.");
        page.sample("process_open_fds", &[], open);
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        let help = "File descriptors that may be open.";
        page.family("process_max_fds", Kind::Gauge, help);
        page.sample("process_max_fds", &[], most);
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Its name ends in `_total`.
    Counter,
    Gauge,
    Histogram,
}

/// The text as it grows.
#[derive(Debug)]
pub(super) struct Page {
    text: String,
    format: Format,
}

impl Page {
    fn new(format: Format) -> Self {
        Self {
            text: String::with_capacity(16 << 10),
            format,
        }
    }

    /// Starts a family; its samples follow.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        // OpenMetrics names a counter's family without the suffix of its samples.
        let family = match (self.format, kind) {
            (Format::OpenMetrics, Kind::Counter) => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {family} {help}\n# TYPE {family} {kind}");
    }

    /// A family of one sample.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, Kind::Gauge, help);
        self.sample(name, &[], value);
    }

    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        let mut opening = '{';
        for (label, value) in labels {
            let _ = write!(self.text, "{opening}{label}=\"{}\"", escaped(value));
            opening = ',';
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// The samples of one histogram, which is the sum of these.
    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], of: &[&Histogram]) {
        let mut steps: Vec<(f64, u64)> = Vec::new();
        for histogram in of {
            for (at, (bound, count)) in histogram.buckets().enumerate() {
                match steps.get_mut(at) {
                    Some((_, sum)) => *sum += count,
                    None => steps.push((bound, count)),
                }
            }
        }
        for (bound, count) in &steps {
            let bound = match bound.is_finite() {
                true => bound.to_string(),
                false => "+Inf".to_owned(),
            };
            let labels = [labels, &[("le", &bound)]].concat();
            self.sample(&format!("{name}_bucket"), &labels, count);
        }
        let seconds: f64 = of.iter().map(|histogram| histogram.seconds()).sum();
        let count = steps.last().map_or(0, |(_, count)| *count);
        self.sample(&format!("{name}_sum"), labels, seconds);
        self.sample(&format!("{name}_count"), labels, count);
    }

    fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// A label's value as both formats write it.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_write_labels_and_counters_as_they_must() {
        let page = |format| {
            let mut page = Page::new(format);
            page.family("x_total", Kind::Counter, "Some.");
            page.sample("x_total", &[("a", "q\"\\\n"), ("b", "")], 7);
            page.finish()
        };
        let sample = "x_total{a=\"q\\\"\\\\\\n\",b=\"\"} 7\n";
        assert_eq!(
            page(Format::Prometheus),
            format!("# HELP x_total Some.\n# TYPE x_total counter\n{sample}")
        );
        assert_eq!(
            page(Format::OpenMetrics),
            format!("# HELP x Some.\n# TYPE x counter\n{sample}# EOF\n")
        );
    }

    #[test]
    fn the_format_is_the_one_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1";
        assert_eq!(Format::wanted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::wanted("*/*"), Format::Prometheus);
        assert_eq!(Format::wanted(""), Format::Prometheus);
    }
}
