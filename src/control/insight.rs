//! The methods that tell what the server is and does, and those about its life.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tonic::Status;

use super::Signal;
use super::buckets::on_engine;
use super::caller::Token;
use super::exposition::{self, Format};
use super::proto;
use super::service::{Service, proto_time};
use super::status::invalid;
use super::watch::{Filter, UNKNOWN};
use crate::engine::blob::BlobEngine;
use crate::engine::fs::Mount;
use crate::engine::{Engine, EngineError};
use crate::metrics::Row;
use crate::s3::S3;
use crate::trace::Event;

pub(super) fn server(service: &Service) -> proto::ServerInfoResponse {
    let (s3, facts) = (&service.s3, &service.facts);
    let metrics = s3.metrics();
    let answered = metrics.rows().iter().flat_map(Row::statuses);
    let (free, total) = s3.body_memory_bytes();
    proto::ServerInfoResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: Some(proto_time(facts.started)),
        region: s3.region().to_owned(),
        auth: facts.auth,
        listen: facts.listen.clone(),
        connections: metrics.connections_open(),
        requests: answered.map(|(_, count)| count).sum(),
        received_bytes: metrics.received_bytes.get(),
        sent_bytes: metrics.sent_bytes.get(),
        body_memory_used_bytes: total.saturating_sub(free) as u64,
        body_memory_limit_bytes: total as u64,
        log_level: service.log_level.get().into(),
    }
}

pub(super) fn engine(service: &Service) -> proto::EngineInfoResponse {
    let mut answer = proto::EngineInfoResponse::default();
    for engine in service.s3.engines() {
        match engine {
            Engine::Fs(fs) => answer.mounts = fs.mounts().into_iter().map(mount).collect(),
            Engine::Blob(blob) => answer.store = Some(store(blob)),
        }
    }
    answer
}

fn mount(mount: Mount) -> proto::Mount {
    proto::Mount {
        bucket: mount.bucket.to_string(),
        directory: mount.directory.display().to_string(),
        free_bytes: mount.free_bytes,
        capacity_bytes: mount.capacity_bytes,
        lacks: mount.lacks.iter().map(ToString::to_string).collect(),
    }
}

fn store(blob: &BlobEngine) -> proto::Store {
    let (device, info) = (blob.device().describe(), blob.info());
    proto::Store {
        size_bytes: info.size_bytes,
        free_bytes: info.free_bytes,
        held_bytes: info.held_bytes,
        reserve_bytes: info.reserve_bytes,
        fragmentation: info.fragmentation,
        longest_free_run_bytes: info.longest_free_run_bytes,
        buckets: info.buckets,
        objects: info.objects,
        uploads: info.uploads,
        index_bytes: info.index_bytes,
        journal_bytes: info.journal.size_bytes,
        journal_used_bytes: info.journal.used_bytes,
        checkpoint_bytes: info.checkpoint.size_bytes,
        checkpoint_running: info.checkpoint.is_running,
        read_only: info.is_read_only,
        device: device.kind.name().to_owned(),
        lacks: device.missing.iter().map(ToString::to_string).collect(),
        durability: blob.durability().as_str().to_owned(),
    }
}

/// On the blob store; there is one at most.
pub(super) async fn checkpoint(service: &Service) -> Result<proto::CheckpointResponse, Status> {
    fn store(s3: &S3) -> Option<&BlobEngine> {
        s3.engines().iter().find_map(|engine| match engine {
            Engine::Blob(blob) => Some(blob),
            Engine::Fs(_) => None,
        })
    }
    let used = |s3: &S3| store(s3).map(|blob| blob.info().journal.used_bytes);
    let Some(before) = used(&service.s3) else {
        return Err(Status::failed_precondition(
            "there is no blob store here; directories have no checkpoints",
        ));
    };
    on_engine(service, "the blob store", async move |s3| {
        let store = store(&s3).ok_or(EngineError::NoSuchBucket)?;
        store.checkpoint().await
    })
    .await?;
    Ok(proto::CheckpointResponse {
        journal_before_bytes: before,
        journal_after_bytes: used(&service.s3).unwrap_or(0),
    })
}

/// What a new user works in: the first bucket that is served, or the engine's usual one.
pub(super) fn backend(s3: &S3) -> String {
    let first = match s3.engines().iter().next() {
        Some(Engine::Fs(fs)) => fs.mounts().into_iter().map(|mount| mount.bucket).min(),
        Some(Engine::Blob(_)) | None => None,
    };
    first.map_or_else(|| "lobos".to_owned(), |bucket| bucket.to_string())
}

pub(super) fn metrics(service: &Service) -> proto::MetricsResponse {
    let rows = service.s3.metrics().rows().iter();
    proto::MetricsResponse {
        operations: rows.map(row).filter(|row| row.requests > 0).collect(),
        text: exposition::page(&service.s3, Format::Prometheus),
    }
}

fn row(row: &Row) -> proto::OperationMetrics {
    let of_class = |class: u16| {
        let statuses = row.statuses();
        let counted = statuses.filter(|(status, _)| status.is_some_and(|s| s / 100 == class));
        counted.map(|(_, count)| count).sum()
    };
    let times = row.times();
    let latencies = times
        .buckets()
        .map(|(seconds, requests)| proto::LatencyBucket { seconds, requests });
    proto::OperationMetrics {
        operation: row.operation.to_owned(),
        requests: row.statuses().map(|(_, count)| count).sum(),
        client_errors: of_class(4),
        server_errors: of_class(5),
        time: Duration::try_from_secs_f64(times.seconds())
            .ok()
            .and_then(|time| time.try_into().ok()),
        latencies: latencies.collect(),
    }
}

type TraceStream = Pin<Box<dyn Stream<Item = Result<proto::TraceEvent, Status>> + Send>>;

pub(super) fn watch(
    service: &Service,
    asked: proto::WatchTraceRequest,
) -> Result<TraceStream, Status> {
    let status = u16::try_from(asked.status).ok();
    let status = status.filter(|status| matches!(status, 0..=5 | 100..=599));
    let status = status.ok_or_else(|| {
        invalid(
            "status",
            "it is an HTTP status, or its first digit for all of those",
        )
    })?;
    let latency = asked
        .latency
        .map(Duration::try_from)
        .transpose()
        .map_err(|_| invalid("latency", "it must not be negative"))?;
    let text = |text: String| Some(text.into_boxed_str()).filter(|text| !text.is_empty());
    let filter = Filter {
        bucket: text(asked.bucket),
        operation: text(asked.operation),
        status: Some(status).filter(|status| *status > 0),
        latency,
    };
    let Some(watching) = service.watchers.watch(&service.s3, filter) else {
        return Err(Status::resource_exhausted(
            "as many watch the trace already as may at once; try again later",
        ));
    };
    let events = stream::unfold(watching, async |mut watching| {
        let (event, lost) = watching.next().await?;
        Some((Ok(told(&event, lost)), watching))
    });
    Ok(Box::pin(events))
}

fn told(event: &Event, lost: u64) -> proto::TraceEvent {
    let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or_default().to_owned();
    proto::TraceEvent {
        time: Some(proto_time(event.time)),
        request_id: event.request_id.to_string(),
        user: text(&event.user),
        operation: event.operation.unwrap_or(UNKNOWN).to_owned(),
        bucket: text(&event.bucket),
        key: text(&event.key),
        method: event.method.to_string(),
        status: event.status.into(),
        latency: event.elapsed.try_into().ok(),
        request_bytes: event.request_bytes.unwrap_or(0),
        reply_bytes: event.reply_bytes.unwrap_or(0),
        user_agent: text(&event.user_agent),
        lost,
    }
}

pub(super) fn set_log_level(
    service: &Service,
    level: &str,
) -> Result<proto::SetLogLevelResponse, Status> {
    let previous = service.log_level.set(level);
    let previous = previous.map_err(|why| invalid("level", why))?;
    Ok(proto::SetLogLevelResponse {
        previous: previous.into(),
    })
}

/// Each part that cannot be read again stays as it was, and the answer is an error.
pub(super) fn reload(service: &Service) -> Result<proto::ReloadConfigResponse, Status> {
    let mut reloaded = Vec::new();
    if let Some(certificates) = &service.certificates {
        let read = certificates.reload();
        read.map_err(|error| Status::failed_precondition(error.to_string()))?;
        reloaded.push("the certificates".to_owned());
    }
    if let Some(file) = &service.token_file {
        let token = Token::read(Some(file));
        let token = token.map_err(|error| Status::failed_precondition(error.to_string()))?;
        service.token.store(Arc::new(token));
        reloaded.push("the token".to_owned());
    }
    let users = service.accounts.refresh();
    users.map_err(|why| {
        Status::failed_precondition(format!("the stored users are locked out: {why}"))
    })?;
    reloaded.push("the users".to_owned());
    Ok(proto::ReloadConfigResponse { reloaded })
}

pub(super) fn drain(service: &Service) -> Result<proto::DrainResponse, Status> {
    let connections = service.s3.metrics().connections_open();
    let told = service.orders.send(Signal::Drain);
    told.map_err(|_| Status::unavailable("the server is ending already"))?;
    Ok(proto::DrainResponse { connections })
}
