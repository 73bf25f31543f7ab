//! What clients may make grow, and how long they may take.

use std::time::Duration;

use super::{ConfigError, Limits, Timeouts, invalid, raw, units};

pub(super) fn build_limits(raw: &raw::Limits) -> Result<Limits, ConfigError> {
    let connections = raw.connections.unwrap_or(4096);
    if !(1..=1_000_000).contains(&connections) {
        return Err(invalid("`server.limits.connections` must be 1 to 1000000"));
    }
    let in_flight = raw.in_flight.map_or(256 << 20, |size| size.bytes);
    let in_flight_bytes = usize::try_from(in_flight)
        .ok()
        .filter(|bytes| (crate::limits::REQUEST_WINDOW_BYTES..=IN_FLIGHT_MAX).contains(bytes))
        .ok_or_else(|| invalid("`server.limits.in_flight` must be 1 MiB to 1 TiB"))?;
    let http2_streams = raw.http2_streams.unwrap_or(64);
    if !(1..=1000).contains(&http2_streams) {
        return Err(invalid("`server.limits.http2_streams` must be 1 to 1000"));
    }
    Ok(Limits {
        connections,
        in_flight_bytes,
        in_flight_wait: seconds("limits.in_flight_wait", raw.in_flight_wait, 10)?,
        http2_streams,
    })
}

pub(super) fn build_timeouts(raw: &raw::Timeouts) -> Result<Timeouts, ConfigError> {
    let rate_bytes = raw.rate.map_or(1024, |rate| rate.bytes);
    if rate_bytes > 1 << 30 {
        return Err(invalid(
            "`server.timeouts.rate` must be at most 1 GiB (a second)",
        ));
    }
    Ok(Timeouts {
        head: seconds("timeouts.head", raw.head, 10)?,
        body: seconds("timeouts.body", raw.body, 30)?,
        reply: seconds("timeouts.reply", raw.reply, 60)?,
        idle: seconds("timeouts.idle", raw.idle, 60)?,
        stop: seconds("timeouts.stop", raw.stop, 30)?,
        rate_bytes,
    })
}

/// Shorter days than real ones are for tests.
pub(super) fn build_day(raw: &raw::Lifecycle) -> Result<Duration, ConfigError> {
    let day = raw.day.map_or(86_400, |day| day.seconds);
    if !(1..=86_400).contains(&day) {
        return Err(invalid("`lifecycle.day` must be 1 second to 1 day"));
    }
    Ok(Duration::from_secs(day))
}

fn seconds(key: &str, raw: Option<units::Span>, default: u64) -> Result<Duration, ConfigError> {
    let span = raw.unwrap_or(units::Span { seconds: default });
    if !(1..=86_400).contains(&span.seconds) {
        return Err(ConfigError::Invalid(format!(
            "`server.{key}` must be 1 second to 1 day, such as \"{default}s\""
        )));
    }
    Ok(span.duration())
}

const IN_FLIGHT_MAX: usize = 1 << 40;
