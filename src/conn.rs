//! One connection: from an accepted socket to requests that the application answers.
//!
//! A request passes [`admit`] before anything else sees it: what HTTP libraries read leniently is
//! refused there, with an error document and a request id.

mod admit;
mod socket;

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use crate::limits::{CONN_BUFFER_BYTES_MAX, HEAD_BYTES_MAX};
use crate::pace::{Cut, Order, Pace, PacedReply, RequestBody};
use crate::s3::{self, Local, ReplyBody, S3, S3Error};

pub use admit::OpenRules;
pub use socket::Stream;

use admit::{Admitted, admit};
use socket::{Paced, Sniffed};

/// What answers requests: the S3 layer, or a test's.
pub trait App: 'static {
    type Body: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>>
        + From<Bytes>
        + Unpin
        + 'static;

    /// Answers one admitted request. Errors and panics become replies.
    fn handle(
        &self,
        local: &Local,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Response<Self::Body>>;

    /// The reply to a request that was not admitted.
    fn refuse(&self, error: &S3Error, head: &Parts) -> Response<Self::Body>;

    /// A new `x-amz-request-id`, for replies that come from here.
    fn request_id(&self) -> HeaderValue;

    /// Ready when nothing goes on that a request began.
    fn settle(&self) -> impl Future<Output = ()>;
}

impl App for S3 {
    type Body = ReplyBody;

    async fn handle(&self, local: &Local, request: Request<RequestBody>) -> Response<ReplyBody> {
        s3::handle(self, local, request).await
    }

    fn refuse(&self, error: &S3Error, head: &Parts) -> Response<ReplyBody> {
        s3::refuse(self, error, head)
    }

    fn request_id(&self) -> HeaderValue {
        self.request_id()
    }

    async fn settle(&self) {
        for engine in self.engines() {
            engine.settle().await;
        }
    }
}

/// What all connections of a process share.
#[derive(Debug)]
pub struct Service<A> {
    pub app: Arc<A>,
    /// `Some`: there is no authentication, and only these hosts and origins are let in.
    pub open: Option<OpenRules>,
    pub http2_streams: u32,
}

/// Serves one connection to its end. `Err`: why it was cut.
pub async fn serve<A: App>(
    service: &Rc<Service<A>>,
    stream: Stream,
    tls: Option<TlsAcceptor>,
    local: Arc<Local>,
    pace: &Rc<Pace>,
) -> Result<(), Cut> {
    let mut io = Paced::new(stream, Rc::clone(pace));
    let call = Call {
        service: Rc::clone(service),
        local,
        pace: Rc::clone(pace),
    };
    let Some(tls) = tls else {
        return match pace.unless_stopped(io.sniff()).await? {
            Some(Sniffed::Http1) => serve_http1(call, io).await,
            Some(Sniffed::Http2) => serve_http2(call, io).await,
            Some(Sniffed::Closed) | None => Ok(()),
        };
    };
    pace.expect_handshake();
    let io = match pace.unless_cut(tls.accept(io)).await? {
        Ok(io) => io,
        Err(error) => {
            tracing::debug!(%error, "a TLS handshake failed");
            return Ok(());
        }
    };
    pace.handshake_done();
    match io.get_ref().1.alpn_protocol() {
        Some(b"h2") => serve_http2(call, io).await,
        _ => serve_http1(call, io).await,
    }
}

/// What a connection's requests need.
struct Call<A> {
    service: Rc<Service<A>>,
    local: Arc<Local>,
    pace: Rc<Pace>,
}

impl<A> Clone for Call<A> {
    fn clone(&self) -> Self {
        Self {
            service: Rc::clone(&self.service),
            local: Arc::clone(&self.local),
            pace: Rc::clone(&self.pace),
        }
    }
}

async fn serve_http1<A: App, S>(call: Call<A>, io: S) -> Result<(), Cut>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let pace = Rc::clone(&call.pace);
    let answer = service_fn(move |request| answer(call.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(false)
        .keep_alive(true)
        .max_buf_size(CONN_BUFFER_BYTES_MAX)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), answer);
    let mut connection = pin!(connection);
    let mut stopping = false;
    std::future::poll_fn(|cx| {
        match pace.orders(cx) {
            Order::Cut(cut) => return Poll::Ready(Err(cut)),
            Order::Stop if !stopping && pace.may_stop() => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            Order::Stop | Order::GoOn => {}
        }
        connection.as_mut().poll(cx).map(ended)
    })
    .await
}

async fn serve_http2<A: App, S>(call: Call<A>, io: S) -> Result<(), Cut>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let pace = Rc::clone(&call.pace);
    pace.set_http2();
    let streams = call.service.http2_streams;
    let answer = service_fn(move |request| answer(call.clone(), request));
    let connection = hyper::server::conn::http2::Builder::new(LocalExecutor)
        .max_concurrent_streams(streams)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .initial_stream_window_size(HTTP2_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .max_send_buf_size(CONN_BUFFER_BYTES_MAX)
        .max_pending_accept_reset_streams(HTTP2_RESETS_MAX)
        .max_local_error_reset_streams(HTTP2_RESETS_MAX)
        .serve_connection(TokioIo::new(io), answer);
    let mut connection = pin!(connection);
    let mut stopping = false;
    std::future::poll_fn(|cx| {
        match pace.orders(cx) {
            Order::Cut(cut) => return Poll::Ready(Err(cut)),
            Order::Stop if !stopping && pace.may_stop() => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            Order::Stop | Order::GoOn => {}
        }
        connection.as_mut().poll(cx).map(ended)
    })
    .await
}

/// A connection that breaks is the peer's doing and no error of the server.
fn ended(result: hyper::Result<()>) -> Result<(), Cut> {
    if let Err(error) = result {
        tracing::debug!(%error, "a connection broke");
    }
    Ok(())
}

/// One request: admitted, then answered by the application or from here.
async fn answer<A: App>(
    call: Call<A>,
    request: Request<Incoming>,
) -> Result<Response<PacedReply<A::Body>>, Infallible> {
    let exchange = call.pace.begin();
    let (mut head, body) = request.into_parts();
    let http2 = head.version == Version::HTTP_2;
    // 100 Continue is only sent to get a body.
    let never_continued = body.is_end_stream() && head.headers.contains_key(header::EXPECT);
    let body = RequestBody::new(body, &call.pace);
    let service = &call.service;
    let (mut reply, refused) = match admit(&mut head, service.open.as_ref(), &call.local) {
        Ok(Admitted::Request) => {
            let request = Request::from_parts(head, body);
            (service.app.handle(&call.local, request).await, false)
        }
        Ok(Admitted::Health) => (health(&head, service.app.request_id()), false),
        Err(error) => (service.app.refuse(&error, &head), true),
    };
    // A client whose body was not wanted must not take the next reply for the answer to it, and
    // botocore mixes up replies on a connection that gave it a final one instead of 100. And no
    // further request may be sent to a server that stops: nobody would answer it.
    let ends = refused || never_continued || call.pace.body_left() || call.pace.is_stopping();
    if !http2 && ends {
        let close = HeaderValue::from_static("close");
        reply.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(reply.map(|body| PacedReply::new(body, exchange)))
}

/// `/-/healthz` and `/-/readyz`: a process that answers is alive, and it listens only once its
/// buckets are open.
fn health<B: From<Bytes>>(head: &Parts, request_id: HeaderValue) -> Response<B> {
    let body = match head.method {
        http::Method::HEAD => Bytes::new(),
        _ => Bytes::from_static(b"ok\n"),
    };
    let mut reply = Response::new(B::from(body));
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    reply.headers_mut().insert(header::CONTENT_TYPE, text);
    let never = HeaderValue::from_static("no-store");
    reply.headers_mut().insert(header::CACHE_CONTROL, never);
    let nosniff = HeaderValue::from_static("nosniff");
    reply
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    tracing::debug!(
        request_id = request_id.to_str().unwrap_or_default(),
        path = head.uri.path(),
        status = 200,
        "request"
    );
    reply.headers_mut().insert("x-amz-request-id", request_id);
    reply
}

/// Runs the streams of an HTTP/2 connection on the thread that the connection is on.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, work: F) {
        tokio::task::spawn_local(work);
    }
}

/// What a peer may send ahead on one HTTP/2 connection, all streams together.
const HTTP2_WINDOW_BYTES: u32 = 256 << 10;
/// Streams that a peer may open and reset before they are accepted (CVE-2023-44487 and its kin).
const HTTP2_RESETS_MAX: usize = 20;
