//! `lobos ctl trace`: one line a request, until it is stopped.

use serde_json::{Value, json};

use super::client::Client;
use super::show::{self, emit};
use super::{CtlError, Trace};
use crate::control::proto;

pub(super) async fn run(client: &mut Client, asked: Trace, json: bool) -> Result<(), CtlError> {
    let filter = proto::WatchTraceRequest {
        bucket: asked.bucket.unwrap_or_default(),
        operation: asked.operation.unwrap_or_default(),
        status: asked.status.unwrap_or(0),
        latency: asked.latency.and_then(|latency| latency.try_into().ok()),
    };
    let mut events = client.watch_trace(filter).await?.into_inner();
    let mut left = asked.count;
    while left != Some(0) {
        let Some(event) = events.message().await? else {
            return Ok(());
        };
        emit(&match json {
            true => format!("{}\n", value(&event)),
            false => line(&event),
        });
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn value(event: &proto::TraceEvent) -> Value {
    json!({
        "time": event.time.as_ref().map(show::time),
        "request_id": event.request_id,
        "user": event.user,
        "operation": event.operation,
        "bucket": event.bucket,
        "key": event.key,
        "method": event.method,
        "status": event.status,
        "latency_seconds": show::seconds(event.latency.as_ref()),
        "request_bytes": event.request_bytes,
        "reply_bytes": event.reply_bytes,
        "user_agent": event.user_agent,
        "lost": event.lost,
    })
}

fn line(event: &proto::TraceEvent) -> String {
    let time = event.time.as_ref().map(show::time).unwrap_or_default();
    let lost = match event.lost {
        0 => String::new(),
        lost => format!("({lost} events were lost: this watcher is too slow)\n"),
    };
    let place = match (&*event.bucket, &*event.key) {
        ("", _) => "/".to_owned(),
        (bucket, "") => bucket.to_owned(),
        (bucket, key) => format!("{bucket}/{key}"),
    };
    let user = if event.user.is_empty() {
        "-"
    } else {
        &event.user
    };
    let text = format!(
        "{time}  {}  {:>7}  {:<24} {place}  {user}  in {} out {}  {}",
        event.status,
        show::span(show::seconds(event.latency.as_ref())),
        event.operation,
        show::size(event.request_bytes as f64),
        show::size(event.reply_bytes as f64),
        event.request_id,
    );
    format!("{lost}{}\n", show::harmless(&text))
}
