//! The one place that decides who sent a request.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use super::canonical::{Query, has_token};
use super::chunked::ChunkSigner;
use super::users::{Identity, User, Users};
use super::{presigned, sigv2, sigv4};
use crate::clock::{Clock, Timestamp};
use crate::s3::checksum::unhex;
use crate::s3::error::{Code, S3Error};

/// What the gate needs to know of the configuration.
#[derive(Debug)]
pub struct GateSettings {
    pub users: Arc<ArcSwap<Users>>,
    /// Named in errors; signatures may be made for any region.
    pub region: Box<str>,
    /// Whether requests of signature version 2 are taken, in the header and presigned.
    pub sigv2: bool,
    /// `false`: everybody is the root user and signatures are ignored.
    pub required: bool,
}

/// Lets requests in, or not.
#[derive(Debug)]
pub struct Gate {
    settings: GateSettings,
    clock: Clock,
}

impl Gate {
    pub fn new(settings: GateSettings, clock: Clock) -> Self {
        Self { settings, clock }
    }

    /// Whether requests must be signed to be somebody's.
    pub(super) fn is_required(&self) -> bool {
        self.settings.required
    }

    pub(super) fn takes_v2(&self) -> bool {
        self.settings.sigv2
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn region(&self) -> &str {
        &self.settings.region
    }

    pub(super) fn users(&self) -> arc_swap::Guard<Arc<Users>> {
        self.settings.users.load()
    }

    /// Finds out who sent `head` and how its body has to be verified. `virtual_bucket` is the
    /// bucket that the Host header names, if it does.
    ///
    /// Every way to authenticate is one arm; a request that uses several is refused, and one that
    /// uses an unknown one is too. Only a request that carries no trace of a signature is
    /// anonymous.
    pub fn authenticate(
        &self,
        head: &Parts,
        virtual_bucket: Option<&str>,
    ) -> Result<Authenticated, S3Error> {
        let users = self.settings.users.load();
        if !self.settings.required {
            let payload = PayloadSpec::unverified(&head.headers)?;
            return Ok(Authenticated {
                identity: Identity::User(users.root()),
                payload,
            });
        }
        let check = Check {
            head,
            users: &users,
            region: &self.settings.region,
            now: self.clock.now(),
        };
        let (identity, payload) = match Kind::of(head)? {
            Kind::HeaderV4(credentials) => {
                let (user, payload) = sigv4::verify(&check, credentials)?;
                (Identity::User(user), payload)
            }
            Kind::QueryV4 => {
                let (user, payload) = presigned::verify_v4(&check)?;
                (Identity::User(user), payload)
            }
            Kind::QueryV2 if self.settings.sigv2 => {
                let (user, payload) = sigv2::verify_query(&check, virtual_bucket)?;
                (Identity::User(user), payload)
            }
            Kind::HeaderV2(credentials) if self.settings.sigv2 => {
                let (user, payload) = sigv2::verify_header(&check, credentials, virtual_bucket)?;
                (Identity::User(user), payload)
            }
            Kind::HeaderV2(_) | Kind::QueryV2 => return Err(v2_refused()),
            Kind::Anonymous => (Identity::Anonymous, PayloadSpec::anonymous(&head.headers)?),
        };
        Ok(Authenticated { identity, payload })
    }
}

/// A request that went through the gate. Only [`Gate::authenticate`] makes one.
#[derive(Debug)]
pub struct Authenticated {
    identity: Identity,
    payload: PayloadSpec,
}

impl Authenticated {
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn payload(&self) -> &PayloadSpec {
        &self.payload
    }

    pub fn into_payload(self) -> PayloadSpec {
        self.payload
    }
}

/// How the bytes of a body are framed and what of them was signed.
pub enum PayloadSpec {
    /// The plain body has this SHA-256.
    Sha256([u8; 32]),
    /// The plain body; nothing of it was signed.
    Unsigned,
    /// `aws-chunked`. With a signer each chunk's signature is verified, and the trailer's.
    Chunks {
        signer: Option<Box<ChunkSigner>>,
        trailer: bool,
    },
}

impl PayloadSpec {
    /// Whether the body comes as `aws-chunked`.
    pub fn is_chunked(&self) -> bool {
        matches!(self, Self::Chunks { .. })
    }

    /// The framing that the headers tell, when signatures are not looked at.
    fn unverified(headers: &HeaderMap) -> Result<Self, S3Error> {
        Ok(match ContentSha256::of(headers)? {
            Some(declared) => match declared.value {
                ContentValue::Sha256(digest) => Self::Sha256(digest),
                ContentValue::Unsigned => Self::unsigned(headers),
                ContentValue::SignedChunks { trailer } => Self::Chunks {
                    signer: None,
                    trailer,
                },
                ContentValue::UnsignedChunks => Self::Chunks {
                    signer: None,
                    trailer: true,
                },
            },
            None => Self::unsigned(headers),
        })
    }

    /// As [`PayloadSpec::unverified`], without signed chunks: there is no key to verify them with.
    pub(super) fn anonymous(headers: &HeaderMap) -> Result<Self, S3Error> {
        let declared = ContentSha256::of(headers)?;
        if declared.is_some_and(|it| matches!(it.value, ContentValue::SignedChunks { .. })) {
            let message = "A body of signed chunks needs an Authorization header of \
                           AWS4-HMAC-SHA256.";
            return Err(S3Error::with_message(Code::InvalidRequest, message));
        }
        Self::unverified(headers)
    }

    /// A body whose digest nobody gave. Senders that frame it without saying so in
    /// x-amz-content-sha256 say so in Content-Encoding, and give the length of what is inside.
    pub(super) fn unsigned(headers: &HeaderMap) -> Self {
        let framed = headers.contains_key("x-amz-decoded-content-length")
            && headers
                .get_all("content-encoding")
                .iter()
                .any(|value| has_token(value, "aws-chunked"));
        if framed {
            let trailer = headers.contains_key("x-amz-trailer");
            Self::Chunks {
                signer: None,
                trailer,
            }
        } else {
            Self::Unsigned
        }
    }
}

impl fmt::Debug for PayloadSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(_) => f.write_str("Sha256"),
            Self::Unsigned => f.write_str("Unsigned"),
            Self::Chunks { signer, trailer } => f
                .debug_struct("Chunks")
                .field("signed", &signer.is_some())
                .field("trailer", trailer)
                .finish(),
        }
    }
}

/// What the verification of one request looks at.
#[derive(Debug)]
pub(super) struct Check<'a> {
    pub(super) head: &'a Parts,
    pub(super) users: &'a Users,
    pub(super) region: &'a str,
    pub(super) now: Timestamp,
}

/// A user and how the body has to be verified.
pub(super) type Verified = (Arc<User>, PayloadSpec);

/// The value of `x-amz-content-sha256`, as text for the signature and as what it means.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContentSha256<'a> {
    pub(super) text: &'a str,
    pub(super) value: ContentValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentValue {
    Sha256([u8; 32]),
    Unsigned,
    SignedChunks { trailer: bool },
    UnsignedChunks,
}

impl<'a> ContentSha256<'a> {
    /// The header of that name, if there is one.
    pub(super) fn of(headers: &'a HeaderMap) -> Result<Option<Self>, S3Error> {
        single(headers, CONTENT_SHA256)?
            .map(Self::parse)
            .transpose()
    }

    pub(super) fn parse(text: &'a str) -> Result<Self, S3Error> {
        let value = match text {
            "UNSIGNED-PAYLOAD" => ContentValue::Unsigned,
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => ContentValue::SignedChunks { trailer: false },
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => {
                ContentValue::SignedChunks { trailer: true }
            }
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => ContentValue::UnsignedChunks,
            "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"
            | "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER" => return Err(v4a_refused()),
            digest => match unhex(digest) {
                Some(digest) => ContentValue::Sha256(digest),
                None => {
                    let message = "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, \
                        STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, \
                        STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.";
                    return Err(S3Error::invalid_argument(message, CONTENT_SHA256, text));
                }
            },
        };
        Ok(Self { text, value })
    }
}

/// The value of a header that may come once at most, as text.
pub(super) fn single<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<&'a str>, S3Error> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(Some(text)),
        _ => {
            let message = format!("The header '{name}' must come once, as ASCII text.");
            Err(S3Error::with_message(Code::InvalidRequest, message))
        }
    }
}

pub(super) const CONTENT_SHA256: &str = "x-amz-content-sha256";

/// The ways to authenticate.
#[derive(Debug)]
enum Kind<'a> {
    /// What follows the scheme in the Authorization header.
    HeaderV4(&'a str),
    /// The same for version 2.
    HeaderV2(&'a str),
    QueryV4,
    QueryV2,
    Anonymous,
}

impl<'a> Kind<'a> {
    fn of(head: &'a Parts) -> Result<Self, S3Error> {
        let mut in_header = head.headers.get_all(AUTHORIZATION).iter();
        let (v4, v2) = query_traces(head);
        match (in_header.next(), in_header.next(), v4, v2) {
            (None, _, false, false) => Ok(Self::Anonymous),
            (Some(value), None, false, false) => Self::of_header(value),
            (None, _, true, false) => Ok(Self::QueryV4),
            (None, _, false, true) => Ok(Self::QueryV2),
            _ => {
                let message = "Only one auth mechanism allowed; only the X-Amz-Algorithm query \
                    parameter, Signature query string parameter or the Authorization header \
                    should be specified";
                Err(S3Error::with_message(Code::InvalidArgument, message)
                    .detail("ArgumentName", "Authorization"))
            }
        }
    }

    /// The scheme is told in errors, never what follows it.
    fn of_header(value: &'a HeaderValue) -> Result<Self, S3Error> {
        let text = value.to_str().unwrap_or_default();
        if text.is_empty() {
            return Err(Code::AccessDenied.into());
        }
        let (scheme, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
        match scheme {
            "AWS4-HMAC-SHA256" => Ok(Self::HeaderV4(rest)),
            "AWS4-ECDSA-P256-SHA256" => Err(v4a_refused()),
            "AWS" => Ok(Self::HeaderV2(rest)),
            _ => Err(S3Error::with_message(
                Code::InvalidArgument,
                "Unsupported Authorization Type; sign with AWS4-HMAC-SHA256.",
            )
            .detail("ArgumentName", "Authorization")),
        }
    }
}

/// Whether the query holds a parameter that belongs to a signature of version 4, of version 2.
fn query_traces(head: &Parts) -> (bool, bool) {
    let (mut v4, mut v2) = (false, false);
    for pair in Query::of(head).pairs() {
        match pair.name().as_ref() {
            b"X-Amz-Algorithm" | b"X-Amz-Credential" | b"X-Amz-Signature" => v4 = true,
            b"AWSAccessKeyId" | b"Signature" => v2 = true,
            _ => {}
        }
    }
    (v4, v2)
}

pub(super) fn v2_refused() -> S3Error {
    S3Error::with_message(
        Code::InvalidRequest,
        "The authorization mechanism you have provided is not supported. \
         Please use AWS4-HMAC-SHA256.",
    )
}

fn v4a_refused() -> S3Error {
    S3Error::with_message(
        Code::NotImplemented,
        "Signatures of AWS4-ECDSA-P256-SHA256 (SigV4A) are not supported. \
         Please use AWS4-HMAC-SHA256.",
    )
}
