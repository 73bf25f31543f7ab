//! `GET /metrics` over HTTP/1.1, without authentication: counters, no names of keys or users.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use super::exposition::{self, Format};
use crate::conn::OpenRules;
use crate::listen::Listener;
use crate::s3::{Local, S3};
use crate::shard::Socket;

/// What answers a scrape: the numbers, and the names under which they may be asked for. Nobody has
/// to sign here, so that a browser must not be able to ask for a foreign page.
struct Endpoint {
    s3: Arc<S3>,
    rules: OpenRules,
}

/// Answers scrapes until it is dropped.
pub(super) async fn serve(listener: Listener, s3: Arc<S3>) {
    let rules = OpenRules {
        domains: s3.domains().to_vec(),
    };
    let endpoint = Rc::new(Endpoint { s3, rules });
    let name = listener.name().to_owned();
    let listener = match listener.watch() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%name, %error, "metrics: this address cannot be watched");
            return;
        }
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (socket, local) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%name, %error, "metrics: accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let endpoint = Rc::clone(&endpoint);
        tokio::task::spawn_local(async move {
            let served = match socket {
                Socket::Tcp(socket) => match tokio::net::TcpStream::from_std(socket) {
                    Ok(stream) => connection(stream, endpoint, Arc::new(local)).await,
                    Err(_) => return,
                },
                Socket::Unix(socket) => match tokio::net::UnixStream::from_std(socket) {
                    Ok(stream) => connection(stream, endpoint, Arc::new(local)).await,
                    Err(_) => return,
                },
            };
            if served.is_err() {
                tracing::debug!("metrics: a connection was idle or broke");
            }
            drop(place);
        });
    }
}

/// Serves one connection, at most for [`CONNECTION_MAX`].
async fn connection<S>(stream: S, endpoint: Rc<Endpoint>, local: Arc<Local>) -> Result<(), ()>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let reply = answer(&endpoint, &local, &request);
        async move { Ok::<_, Infallible>(reply) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_MAX, served).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(()),
    }
}

fn answer(
    endpoint: &Endpoint,
    local: &Local,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    if !endpoint
        .rules
        .is_from_here(local, request.method(), request.headers())
    {
        return plain(StatusCode::FORBIDDEN, FOREIGN);
    }
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n");
    }
    if *request.method() != Method::GET && *request.method() != Method::HEAD {
        let mut reply = plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
        let allowed = HeaderValue::from_static("GET, HEAD");
        reply.headers_mut().insert(ALLOW, allowed);
        return reply;
    }
    let accept = request.headers().get(ACCEPT);
    let format = Format::wanted(accept.and_then(|accept| accept.to_str().ok()).unwrap_or(""));
    let mut reply = Response::new(Full::from(exposition::page(&endpoint.s3, format)));
    let headers = reply.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(format.content_type()),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::from(text));
    *reply.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    reply.headers_mut().insert(CONTENT_TYPE, kind);
    reply
}

const FOREIGN: &str = "the metrics are answered under loopback names, the address of the server \
                       and the names in server.domains, and not to pages of other origins\n";
/// A scraper and a few people who look.
const CONNECTIONS_MAX: usize = 16;
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Scrapers reconnect; one that keeps its connection and is silent holds a place no longer.
const CONNECTION_MAX: Duration = Duration::from_secs(300);
const HEAD_BYTES_MAX: usize = 16 << 10;
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);
