//! The metrics of a store on SPDK. The first six have the names that people's dashboards know.

use super::exposition::{Kind, Page};
use crate::io::spdk::{Latencies, Spdk};

/// `free_bytes`: free space of the format inside the blobstore's blob.
pub(super) fn spdk(page: &mut Page, device: &Spdk, free_bytes: u64) {
    let stats = match device.stats() {
        Ok(stats) => stats,
        Err(error) => {
            tracing::warn!(%error, "SPDK did not say what it counts");
            return;
        }
    };
    for (name, help, value) in [
        (
            "spdk_bdev_read_ops_total",
            "Reads that the bdev has done.",
            stats.reads,
        ),
        (
            "spdk_bdev_write_ops_total",
            "Writes that the bdev has done.",
            stats.writes,
        ),
        (
            "spdk_bdev_bytes_read_total",
            "Bytes read from the bdev.",
            stats.bytes_read,
        ),
        (
            "spdk_bdev_bytes_written_total",
            "Bytes written to the bdev.",
            stats.bytes_written,
        ),
    ] {
        page.family(name, Kind::Counter, help);
        page.sample(name, &[], value);
    }
    let free_clusters = stats.free_clusters + free_bytes / stats.cluster_bytes.max(1);
    for (name, help, value) in [
        (
            "spdk_bs_clusters_total",
            "Clusters of the blobstore.",
            stats.clusters,
        ),
        (
            "spdk_bs_clusters_available",
            "Clusters that no blob has, and the free space of the store in clusters.",
            free_clusters,
        ),
        (
            "lobos_spdk_in_flight",
            "Operations that SPDK has.",
            stats.in_flight,
        ),
        (
            "lobos_spdk_waiting",
            "Operations that wait for room in SPDK's queue.",
            stats.waiting,
        ),
    ] {
        page.gauge(name, help, value);
    }
    let help = "Share of the reactors' time in which there was something to do.";
    page.gauge("lobos_spdk_busy_ratio", help, stats.busy_ratio);
    latencies(page, &stats.latencies);
}

fn latencies(page: &mut Page, latencies: &[Latencies]) {
    let name = "lobos_spdk_operation_duration_seconds";
    let help = "Time of an operation from the thread that asks to the answer.";
    page.family(name, Kind::Histogram, help);
    for kind in latencies {
        let operation = ("operation", kind.operation);
        let mut count = 0;
        for (bound, total) in &kind.buckets {
            count = *total;
            let bound = match bound.is_finite() {
                true => bound.to_string(),
                false => "+Inf".to_owned(),
            };
            let labels = [operation, ("le", &bound)];
            page.sample(&format!("{name}_bucket"), &labels, total);
        }
        page.sample(&format!("{name}_sum"), &[operation], kind.seconds);
        page.sample(&format!("{name}_count"), &[operation], count);
    }
}
