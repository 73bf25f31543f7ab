//! `lobos ctl top`: what happened between two looks.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Instant;

use serde_json::{Value, json};

use super::client::Client;
use super::show::{self, emit};
use super::{CtlError, Top};
use crate::control::proto;

pub(super) async fn run(client: &mut Client, asked: Top, json: bool) -> Result<(), CtlError> {
    let mut before = look(client).await?;
    let mut left = asked.count;
    while left != Some(0) {
        tokio::time::sleep(asked.interval).await;
        let now = look(client).await?;
        let value = between(&before, &now);
        emit(&match json {
            true => format!("{value}\n"),
            false => screen(&value),
        });
        before = now;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// What the server has counted at one moment.
struct Look {
    at: Instant,
    server: proto::ServerInfoResponse,
    operations: BTreeMap<String, proto::OperationMetrics>,
}

async fn look(client: &mut Client) -> Result<Look, CtlError> {
    let server = client.server_info(proto::ServerInfoRequest {}).await?;
    let metrics = client.metrics(proto::MetricsRequest {}).await?.into_inner();
    let rows = metrics.operations.into_iter();
    Ok(Look {
        at: Instant::now(),
        server: server.into_inner(),
        operations: rows.map(|row| (row.operation.clone(), row)).collect(),
    })
}

fn between(before: &Look, now: &Look) -> Value {
    let seconds = (now.at - before.at).as_secs_f64().max(1e-3);
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    let nothing = proto::OperationMetrics::default();
    let mut operations = Vec::new();
    for (name, row) in &now.operations {
        let old = before.operations.get(name).unwrap_or(&nothing);
        if row.requests == old.requests {
            continue;
        }
        let errors = |row: &proto::OperationMetrics| row.client_errors + row.server_errors;
        operations.push(json!({
            "operation": name,
            "requests_per_second": rate(row.requests, old.requests),
            "errors_per_second": rate(errors(row), errors(old)),
            "p50_seconds": quantile(row, old, 0.5),
            "p99_seconds": quantile(row, old, 0.99),
        }));
    }
    json!({
        "connections": now.server.connections,
        "requests_per_second": rate(now.server.requests, before.server.requests),
        "received_bytes_per_second":
            rate(now.server.received_bytes, before.server.received_bytes),
        "sent_bytes_per_second": rate(now.server.sent_bytes, before.server.sent_bytes),
        "body_memory_used_bytes": now.server.body_memory_used_bytes,
        "operations": operations,
    })
}

/// The bound of the first step that holds this part of the requests between two looks; `None`
/// where it lies above the last bound.
fn quantile(
    now: &proto::OperationMetrics,
    before: &proto::OperationMetrics,
    part: f64,
) -> Option<f64> {
    let wanted = now.requests.saturating_sub(before.requests) as f64 * part;
    let steps = now.latencies.iter().enumerate().map(|(at, step)| {
        let old = before.latencies.get(at).map_or(0, |old| old.requests);
        (step.seconds, step.requests.saturating_sub(old))
    });
    let found = steps.into_iter().find(|(_, count)| *count as f64 >= wanted);
    found
        .map(|(seconds, _)| seconds)
        .filter(|seconds| seconds.is_finite())
}

fn screen(value: &Value) -> String {
    let number = |name: &str| value.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let mut rows = value.get("operations").cloned().unwrap_or_default();
    for row in rows.as_array_mut().into_iter().flatten() {
        let Some(fields) = row.as_object_mut() else {
            continue;
        };
        for (from, to) in [("p50_seconds", "p50"), ("p99_seconds", "p99")] {
            let bound = fields.get(from).and_then(Value::as_f64);
            let text = bound.map_or("over 30s".to_owned(), |bound| {
                format!("<= {}", show::span(bound))
            });
            fields.insert(to.to_owned(), text.into());
        }
        for (from, to) in [
            ("requests_per_second", "per_second"),
            ("errors_per_second", "errors"),
        ] {
            let rate = fields.get(from).and_then(Value::as_f64).unwrap_or(0.0);
            fields.insert(to.to_owned(), format!("{rate:.1}").into());
        }
    }
    let clear = if std::io::stdout().is_terminal() {
        "\x1b[H\x1b[2J"
    } else {
        ""
    };
    format!(
        "{clear}{:.1} requests/s  in {}/s  out {}/s  {} connections  bodies {}\n\n{}\n",
        number("requests_per_second"),
        show::size(number("received_bytes_per_second")),
        show::size(number("sent_bytes_per_second")),
        number("connections"),
        show::size(number("body_memory_used_bytes")),
        show::table(&rows, &["operation", "per_second", "errors", "p50", "p99"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(requests: &[u64]) -> proto::OperationMetrics {
        let bounds = [0.001, 0.01, f64::INFINITY];
        let steps = bounds.iter().zip(requests);
        proto::OperationMetrics {
            requests: requests.last().copied().unwrap_or(0),
            latencies: steps
                .map(|(seconds, requests)| proto::LatencyBucket {
                    seconds: *seconds,
                    requests: *requests,
                })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn quantiles_are_of_what_happened_between_the_looks() {
        let (before, now) = (row(&[100, 100, 100]), row(&[100, 198, 200]));
        assert_eq!(quantile(&now, &before, 0.5), Some(0.01));
        assert_eq!(quantile(&now, &before, 0.98), Some(0.01));
        assert_eq!(quantile(&now, &before, 0.99), None, "above the last bound");
        assert_eq!(quantile(&now, &row(&[]), 0.5), Some(0.001));
    }
}
