//! What a verb answers, and how it becomes HTTP.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::RequestId;
use super::checksum::Verifier;
use super::error::{Code, S3Error};
use super::sse::ObjectBytes;
use super::xml::{Writer, xml_can_carry};
use crate::budget::Permit;
use crate::engine::EngineError;
use crate::metrics::Metrics;

/// A verb's answer.
pub(super) type Reply = Response<ReplyBody>;

/// The body of a reply: nothing, one piece, or an object's bytes as they are read.
#[derive(Debug, Default)]
pub struct ReplyBody {
    content: Content,
    /// What the body holds of the server's memory, given back when it is dropped.
    permit: Option<Permit>,
    /// Of the request that it answers, for the log.
    request_id: Option<RequestId>,
    flight: Option<Flight>,
}

/// One request from its head until its reply is sent or given up, as the metrics count it.
#[derive(Debug)]
pub(super) struct Flight {
    metrics: Arc<Metrics>,
    /// When the reply's head was there.
    answered: Option<Instant>,
}

impl Flight {
    pub(super) fn begin(metrics: Arc<Metrics>) -> Self {
        metrics.begun.add(1);
        Self {
            metrics,
            answered: None,
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(answered) = self.answered {
            self.metrics.stages.send.observe(answered.elapsed());
        }
        self.metrics.ended.add(1);
    }
}

#[derive(Debug, Default)]
enum Content {
    #[default]
    Empty,
    Piece(Bytes),
    Stream {
        stream: ObjectBytes,
        left_bytes: u64,
        /// Where the whole object is read and nobody else looks at its checksum.
        verifier: Option<Box<Verifier>>,
    },
}

impl From<Bytes> for ReplyBody {
    fn from(bytes: Bytes) -> Self {
        Self {
            content: Content::Piece(bytes),
            ..Self::default()
        }
    }
}

impl ReplyBody {
    /// `permit` says how much of the stream may be in memory at a time.
    pub(super) fn stream(mut stream: ObjectBytes, size_bytes: u64, permit: Permit) -> Self {
        stream.set_window(permit.bytes());
        Self {
            content: Content::Stream {
                stream,
                left_bytes: size_bytes,
                verifier: None,
            },
            permit: Some(permit),
            ..Self::default()
        }
    }

    /// The last piece is given only if all of them have the checksum.
    pub(super) fn verify(&mut self, with: Verifier) {
        if let Content::Stream { verifier, .. } = &mut self.content {
            *verifier = Some(Box::new(with));
        }
    }

    /// The request is answered, and its reply begins to be sent.
    pub(super) fn set_flight(&mut self, mut flight: Flight) {
        flight.answered = Some(Instant::now());
        self.flight = Some(flight);
    }

    /// Says which request it answers.
    pub(super) fn set_request_id(&mut self, id: RequestId) {
        self.request_id = Some(id);
    }
}

/// Reading the object failed after its head was sent: the connection is closed, so that the
/// client sees a body that is too short and never takes it for the object.
#[derive(Debug, thiserror::Error)]
#[error("the object could not be read to its end: {0}")]
pub struct ReplyError(#[from] EngineError);

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = ReplyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        let this = self.get_mut();
        let (content, request_id) = (&mut this.content, this.request_id);
        match content {
            Content::Empty => Poll::Ready(None),
            Content::Piece(bytes) => {
                let bytes = std::mem::take(bytes);
                *content = Content::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Content::Stream {
                stream,
                left_bytes,
                verifier,
            } => {
                let Poll::Ready(polled) = stream.poll_next(cx) else {
                    return Poll::Pending;
                };
                let polled = polled.map(|piece| {
                    let piece = piece?;
                    *left_bytes = left_bytes.saturating_sub(piece.len() as u64);
                    verified(verifier, piece, *left_bytes == 0)
                });
                match polled {
                    Some(Ok(piece)) => {
                        if *left_bytes == 0 {
                            *content = Content::Empty;
                        }
                        Poll::Ready(Some(Ok(Frame::data(piece))))
                    }
                    Some(Err(error)) => {
                        let id = request_id.as_ref().map_or("", RequestId::as_str);
                        // What is damaged needs somebody; what another program changed does not.
                        match error {
                            EngineError::Corrupt { .. } => {
                                tracing::error!(request_id = id, %error, "a reply was cut short");
                            }
                            _ => tracing::warn!(request_id = id, %error, "a reply was cut short"),
                        }
                        if let Some(flight) = &this.flight {
                            flight.metrics.faults.device.add(1);
                        }
                        *content = Content::Empty;
                        Poll::Ready(Some(Err(ReplyError(error))))
                    }
                    None => {
                        *content = Content::Empty;
                        Poll::Ready(None)
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Piece(bytes) => bytes.is_empty(),
            Content::Stream { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.content {
            Content::Empty => 0,
            Content::Piece(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Content::Stream { left_bytes, .. } => *left_bytes,
        })
    }
}

/// The piece, if it is not the last one of bytes that do not have their checksum.
fn verified(
    verifier: &mut Option<Box<Verifier>>,
    piece: Bytes,
    is_last: bool,
) -> Result<Bytes, EngineError> {
    if let Some(verifier) = verifier {
        verifier.update(&piece);
    }
    let is_whole = match verifier.take_if(|_| is_last) {
        Some(verifier) => verifier.holds(),
        None => true,
    };
    is_whole.then_some(piece).ok_or(EngineError::Corrupt {
        what: "an object's bytes do not have the checksum that was stored with them",
    })
}

/// A reply without a body.
pub(super) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(ReplyBody::default());
    *reply.status_mut() = status;
    reply
}

/// 200 with an XML document.
pub(super) fn xml(document: String) -> Reply {
    let mut reply = Response::new(ReplyBody::from(Bytes::from(document)));
    reply.headers_mut().insert(header::CONTENT_TYPE, XML);
    reply
}

/// 200 with JSON, as it is.
pub(super) fn json(text: String) -> Reply {
    let mut reply = Response::new(ReplyBody::from(Bytes::from(text)));
    let json = HeaderValue::from_static("application/json");
    reply.headers_mut().insert(header::CONTENT_TYPE, json);
    reply
}

/// The same for a document that may be large: it keeps of `room` what it takes, until it was sent.
pub(super) fn large_xml(document: String, mut room: Permit) -> Reply {
    room.shrink(document.capacity());
    let mut reply = xml(document);
    reply.body_mut().permit = Some(room);
    reply
}

/// An error as S3 writes it; without a body for HEAD and for 304.
pub(super) fn error(error: &S3Error, head: &Parts, request_id: &str) -> Reply {
    let status = error.code.status();
    let bodiless = head.method == Method::HEAD || status == StatusCode::NOT_MODIFIED;
    let mut reply = if bodiless {
        empty(status)
    } else {
        let mut reply = xml(error_document(error, head.uri.path(), request_id));
        *reply.status_mut() = status;
        reply
    };
    let headers = reply.headers_mut();
    if status != StatusCode::NOT_MODIFIED {
        headers.insert(header::CONTENT_TYPE, XML);
    }
    if error.code == Code::MissingContentLength || error.code == Code::RequestTimeout {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if error.code == Code::SlowDown {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    for (name, value) in &error.headers {
        headers.insert(name.clone(), value.clone());
    }
    reply
}

fn error_document(error: &S3Error, resource: &str, request_id: &str) -> String {
    let mut writer = Writer::bare();
    writer.open("Error");
    writer.leaf("Code", error.code.as_str());
    writer.leaf("Message", &error.message);
    // `Resource` names the key anyway, percent-encoded; the code must be readable in any case.
    let details = error.details.iter();
    for (name, value) in details.filter(|(_, value)| xml_can_carry(value)) {
        writer.leaf(name, value);
    }
    writer.leaf("Resource", resource);
    writer.leaf("RequestId", request_id);
    writer.finish("Error")
}

/// Inserts a header whose value came from a client; bytes that no header can carry are left out.
pub(super) fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        headers.insert(name, value);
    }
}

const XML: HeaderValue = HeaderValue::from_static("application/xml");
