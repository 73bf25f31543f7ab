//! The door of the gRPC service: connections in, callers judged, calls handed to the services.
//! HTTP/2 only: a web page cannot speak it to this port.

use std::cell::Cell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service as GrpcService};
use tonic::server::NamedService;
use tonic_health::server::health_reporter;
use tonic_reflection::server::Builder as ReflectionBuilder;

use super::caller::{Caller, Ids, Token};
use super::proto;
use super::proto::control_plane_server::ControlPlaneServer;
use super::service::Service;
use crate::conn::LocalExecutor;
use crate::limits::{CONTROL_CONNECTIONS_MAX, CONTROL_MESSAGE_BYTES_MAX, CONTROL_STRANGERS_MAX};
use crate::listen::Listener;
use crate::shard::Socket;

/// Answers calls until it is dropped.
pub(super) async fn serve(
    listener: Listener,
    token: Arc<ArcSwap<Token>>,
    certificates: Option<Arc<ArcSwap<ServerConfig>>>,
    service: Service,
) {
    let name = listener.name().to_owned();
    // Who comes over loopback is known by the owner of its socket; afar, TLS protects the token.
    let tls = certificates.filter(|_| !listener.is_loopback());
    let (listener, services) = match (listener.watch(), services(service).await) {
        (Ok(listener), Ok(services)) => (listener, services),
        (Err(error), _) => {
            tracing::error!(%name, %error, "control plane: this address cannot be watched");
            return;
        }
        (_, Err(error)) => {
            tracing::error!(%error, "control plane: the descriptors cannot be read");
            return;
        }
    };
    let door = Rc::new(Door {
        ids: Ids::of_process(),
        token,
        services,
    });
    let trusted = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX));
    let strangers = Arc::new(Semaphore::new(CONTROL_STRANGERS_MAX));
    let mut refusals = Refusals::default();
    loop {
        let (socket, caller) = match listener.accept().await {
            Ok((socket, _)) => {
                let caller = door.judge(&socket);
                (socket, caller)
            }
            Err(error) => {
                tracing::debug!(%name, %error, "control plane: accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let places = match caller {
            Caller::Trusted { .. } => &trusted,
            Caller::Stranger { .. } => &strangers,
        };
        // One that finds no place is closed: waiting would keep the others out.
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            if let Some(closed) = refusals.count(Instant::now()) {
                tracing::warn!(%caller, closed, "control plane: too many connections");
            }
            continue;
        };
        let work = connection(Rc::clone(&door), socket, tls.clone(), caller, place);
        tokio::task::spawn_local(async move {
            if let Err(error) = work.await {
                tracing::debug!(%error, "control plane: a connection broke");
            }
        });
    }
}

/// Connections that were closed because there were too many: the log is not for them to fill.
#[derive(Default)]
struct Refusals {
    told: Option<Instant>,
    untold: u64,
}

impl Refusals {
    /// One more; how many to tell of, unless some were told of a moment ago.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.untold = self.untold.saturating_add(1);
        let is_early = |told| now.saturating_duration_since(told) < TELL_EVERY;
        if self.told.is_some_and(is_early) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// What all connections share.
struct Door {
    ids: Ids,
    token: Arc<ArcSwap<Token>>,
    services: Services,
}

impl Door {
    /// Before any byte is read: the kernel knows the peer of a fresh connection for sure.
    fn judge(&self, socket: &Socket) -> Caller {
        match socket {
            Socket::Tcp(socket) => self.ids.of_tcp(socket),
            Socket::Unix(socket) => self.ids.of_unix(socket),
        }
    }
}

/// Serves one connection: a caller's for as long as it lives, a stranger's for a short time.
async fn connection(
    door: Rc<Door>,
    socket: Socket,
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    caller: Caller,
    _place: OwnedSemaphorePermit,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let socket = match socket {
        Socket::Unix(socket) => {
            return http2(door, UnixStream::from_std(socket)?, caller).await;
        }
        Socket::Tcp(socket) => TcpStream::from_std(socket)?,
    };
    let Some(tls) = tls else {
        return http2(door, socket, caller).await;
    };
    let handshake = TlsAcceptor::from(tls.load_full()).accept(socket);
    let socket = tokio::time::timeout(HANDSHAKE_MAX, handshake).await??;
    http2(door, socket, caller).await
}

async fn http2<S>(
    door: Rc<Door>,
    socket: S,
    caller: Caller,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let is_stranger = matches!(caller, Caller::Stranger { .. });
    let calls = Rc::new(Calls::default());
    let seen = Rc::clone(&calls);
    let answer = service_fn(move |request| {
        answer(Rc::clone(&door), caller.clone(), Rc::clone(&seen), request)
    });
    let connection = hyper::server::conn::http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_MAX)
        .serve_connection(TokioIo::new(socket), answer);
    let mut connection = pin!(connection);
    if is_stranger {
        // Long enough to show the token, or to be told to. One that is silent, or has no token,
        // would keep a place from those who have.
        match tokio::time::timeout(STRANGER_MAX, connection.as_mut()).await {
            Ok(done) => return Ok(done?),
            Err(_) if calls.let_in.get() => {}
            Err(late) => return Err(late.into()),
        }
    }
    Ok(connection.await?)
}

/// What a stranger's connection has come to.
#[derive(Default)]
struct Calls {
    let_in: Cell<bool>,
    refused: Cell<bool>,
}

/// One call. Who may not call learns that from the status, whatever it called.
async fn answer(
    door: Rc<Door>,
    caller: Caller,
    calls: Rc<Calls>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let token = door.token.load_full();
    let caller = match caller {
        Caller::Stranger { who } if token.is_in(request.headers()) => {
            calls.let_in.set(true);
            Caller::Trusted {
                who: format!("{who} with the token"),
            }
        }
        Caller::Stranger { who } => {
            // Once a connection: the log is not for strangers to fill.
            if !calls.refused.replace(true) {
                let call = request.uri().path();
                tracing::warn!(caller = %who, call, "a call of the control plane was refused");
            }
            let status = if token.is_set() {
                Status::unauthenticated(format!(
                    "{who} needs the token of this server: `authorization: Bearer TOKEN`"
                ))
            } else {
                Status::permission_denied(format!(
                    "{who} may not call: only root and the user that Lobos runs as may, or others \
                     with the token of control.token_file, which is not configured"
                ))
            };
            return Ok(status.into_http());
        }
        trusted @ Caller::Trusted { .. } => trusted,
    };
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(caller);
    let service = request.uri().path().split('/').nth(1).unwrap_or("");
    match door.services.get(service) {
        Some(service) => service(request).await,
        None => Ok(Status::unimplemented("there is no such service here").into_http()),
    }
}

/// Services by their full names.
type Services = HashMap<&'static str, Handler>;
type Handler = Box<dyn Fn(Request<Body>) -> BoxFuture<Response<Body>, Infallible>>;

/// The control plane, the health of it and of S3, and the description of all that.
async fn services(service: Service) -> Result<Services, tonic_reflection::server::Error> {
    let control =
        ControlPlaneServer::new(service).max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
    let (reporter, health) = health_reporter();
    reporter.set_serving::<ControlPlaneServer<Service>>().await;
    let reflection = || {
        ReflectionBuilder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(HashMap::from([
        handler(control),
        handler(health),
        handler(reflection().build_v1()?),
        handler(reflection().build_v1alpha()?),
    ]))
}

fn handler<S>(service: S) -> (&'static str, Handler)
where
    S: GrpcService<Request<Body>, Response = Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + 'static,
    S::Future: Send + 'static,
{
    let handler = move |request| -> BoxFuture<_, _> { Box::pin(service.clone().call(request)) };
    (S::NAME, Box::new(handler))
}

const STREAMS_MAX: u32 = 64;
const HEAD_BYTES_MAX: u32 = 16 << 10;
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// A stranger makes its first call with the token in this time.
const STRANGER_MAX: Duration = Duration::from_secs(5);
/// Least time between two lines of the log about too many connections.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A peer that is gone is noticed, and its watchers end.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_connections_are_told_of_once_a_second_and_none_is_forgotten() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let mut count = |millis| refusals.count(start + Duration::from_millis(millis));
        assert_eq!(count(0), Some(1));
        assert_eq!([count(1), count(500), count(999)], [None; 3]);
        assert_eq!(count(1000), Some(4));
        assert_eq!(count(1001), None);
        assert_eq!(count(9000), Some(2));
    }
}
