//! One request's body: framing removed, lengths and digests checked while it streams.

use std::error::Error as StdError;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http_body::Body;
use http_body_util::BodyExt as _;
use md5::Md5;
use sha2::{Digest as _, Sha256};

use super::auth::{ChunkDecoder, ChunkFault, PayloadSpec, Step, TrailerLine};
use super::checksum::{self, Hasher};
use super::error::{Code, S3Error};
use crate::engine::{Checksum, ChecksumAlgorithm, ChecksumKind};
use crate::pace::BodyError;

/// One request's body.
///
/// # Invariants
/// `next` answers `None` only after everything that the head promised of the body was found true:
/// its length, its framing and its signatures, its digests. Until then nothing of it may count.
pub struct Payload<B = super::RequestBody> {
    body: B,
    framing: Framing,
    /// Received, not yet decoded.
    pending: Bytes,
    /// What the wire carries, where that is known.
    wire_bytes: Option<u64>,
    wire_received_bytes: u64,
    size_bytes: u64,
    received_bytes: u64,
    digests: Running,
    promised: Promised,
    finished: Option<Digests>,
    wants_md5: bool,
}

/// What shall be computed beside what the client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// The bytes become an object or a part: their length must have been given.
    pub is_data: bool,
    /// Their MD5, for an ETag.
    pub md5: bool,
    /// A checksum that the client did not send: a part of an upload that has an algorithm.
    pub algorithm: Option<ChecksumAlgorithm>,
    /// The `x-amz-checksum-*` headers speak of the object, not of this body
    /// (CompleteMultipartUpload).
    pub object_checksum: bool,
}

/// What was computed over a whole body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    pub size_bytes: u64,
    /// If [`Want::md5`] was set.
    pub md5: Option<[u8; 16]>,
    /// The one that the client sent, else the one that was wanted.
    pub checksum: Option<Checksum>,
}

impl<B> Payload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    /// Checks what the headers say of the body: Content-Length, x-amz-decoded-content-length,
    /// Content-MD5, x-amz-checksum-*, x-amz-sdk-checksum-algorithm, x-amz-trailer.
    pub fn new(body: B, spec: PayloadSpec, head: &Parts, want: Want) -> Result<Self, S3Error> {
        let headers = &head.headers;
        let wire_bytes = body.size_hint().exact();
        let unsigned_trailer = matches!(
            spec,
            PayloadSpec::Chunks {
                signer: None,
                trailer: true
            }
        );
        if unsigned_trailer && !want.is_data {
            let message =
                "STREAMING-UNSIGNED-PAYLOAD-TRAILER is for the data of objects and parts.";
            return Err(S3Error::with_message(Code::InvalidRequest, message));
        }
        let announced = Announced::parse(headers, &spec, want)?;
        let size_bytes = match &spec {
            PayloadSpec::Chunks { .. } => decoded_length(headers, wire_bytes)?,
            PayloadSpec::Sha256(_) | PayloadSpec::Unsigned => plain_length(head, wire_bytes, want)?,
        };
        let algorithm = announced.algorithm.or(want.algorithm);
        let mut promised = Promised {
            sha256: None,
            md5: content_md5(headers)?,
            checksum: announced.checksum,
            trailer: announced.trailer,
        };
        let framing = match spec {
            PayloadSpec::Sha256(digest) => {
                promised.sha256 = Some(digest);
                Framing::Plain
            }
            PayloadSpec::Unsigned => Framing::Plain,
            PayloadSpec::Chunks { signer, trailer } => {
                Framing::Chunks(Box::new(ChunkDecoder::new(signer, trailer, size_bytes)))
            }
        };
        let digests = Running {
            md5: (want.md5 || promised.md5.is_some()).then(Md5::new),
            sha256: promised.sha256.is_some().then(Sha256::new),
            checksum: algorithm.map(Hasher::new),
        };
        Ok(Self {
            body,
            framing,
            pending: Bytes::new(),
            wire_bytes,
            wire_received_bytes: 0,
            size_bytes,
            received_bytes: 0,
            digests,
            promised,
            finished: None,
            wants_md5: want.md5,
        })
    }

    /// The length without framing. It is always known: bodies without a length are refused.
    pub fn size_bytes(&self) -> Option<u64> {
        Some(self.size_bytes)
    }

    /// The algorithm of the checksum that [`Digests`] will hold.
    pub fn checksum_algorithm(&self) -> Option<ChecksumAlgorithm> {
        self.digests.checksum.as_ref().map(Hasher::algorithm)
    }

    /// The next piece of the data; `None` only after everything was verified.
    pub async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        loop {
            if self.finished.is_some() {
                return Ok(None);
            }
            if let Some(data) = self.decode()? {
                self.received_bytes += data.len() as u64;
                self.digests.update(&data);
                return Ok(Some(data));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    // Trailers of HTTP itself carry nothing that S3 looks at.
                    if let Ok(data) = frame.into_data() {
                        self.wire_received_bytes += data.len() as u64;
                        self.pending = data;
                    }
                }
                Some(Err(error)) => return Err(broken_body(error.into().as_ref())),
                None => self.finish()?,
            }
        }
    }

    /// What was computed over the body.
    ///
    /// # Panics
    /// If `next` has not answered `None`: nothing that is not verified may be used.
    pub fn digests(self) -> Digests {
        #[expect(
            clippy::expect_used,
            reason = "a caller that skips the checks must not go on"
        )]
        self.finished
            .expect("the digests of a body are asked for before its end")
    }

    /// The whole body, verified, at most `limit_bytes` of it.
    pub async fn collect(mut self, limit_bytes: usize) -> Result<Bytes, S3Error> {
        let too_long = || {
            let message =
                format!("The request's body must not be longer than {limit_bytes} bytes.");
            S3Error::with_message(Code::MalformedXML, message)
        };
        let size = usize::try_from(self.size_bytes).map_err(|_| too_long())?;
        if size > limit_bytes {
            return Err(too_long());
        }
        let Some(first) = self.next().await? else {
            return Ok(Bytes::new());
        };
        if first.len() == size {
            return self.next().await?.map_or(Ok(first), |_| Err(too_long()));
        }
        let mut all = BytesMut::with_capacity(size);
        all.extend_from_slice(&first);
        while let Some(data) = self.next().await? {
            if all.len() + data.len() > size {
                return Err(too_long());
            }
            all.extend_from_slice(&data);
        }
        Ok(all.freeze())
    }

    fn decode(&mut self) -> Result<Option<Bytes>, S3Error> {
        match &mut self.framing {
            Framing::Plain => {
                let data = std::mem::take(&mut self.pending);
                if self.received_bytes + data.len() as u64 > self.size_bytes {
                    return Err(fault(ChunkFault::TooLong));
                }
                Ok((!data.is_empty()).then_some(data))
            }
            Framing::Chunks(decoder) => match decoder.step(&mut self.pending).map_err(fault)? {
                Step::NeedMore => Ok(None),
                Step::Data(data) => Ok(Some(data)),
            },
            Framing::Ended => Ok(None),
        }
    }

    /// The wire carries no more: compares what came with what was promised.
    fn finish(&mut self) -> Result<(), S3Error> {
        let framing = std::mem::replace(&mut self.framing, Framing::Ended);
        let wire_short = self
            .wire_bytes
            .is_some_and(|bytes| bytes != self.wire_received_bytes);
        if wire_short || matches!(framing, Framing::Ended) {
            return Err(Code::IncompleteBody.into());
        }
        let trailer = match framing {
            Framing::Chunks(decoder) => decoder.finish().map_err(fault)?,
            Framing::Plain | Framing::Ended => Vec::new(),
        };
        if self.received_bytes != self.size_bytes {
            return Err(Code::IncompleteBody.into());
        }
        let running = std::mem::take(&mut self.digests);
        let digests = running.finish(self.received_bytes);
        self.promised.compare(&digests, &trailer)?;
        self.finished = Some(Digests {
            size_bytes: digests.size_bytes,
            md5: digests.md5.filter(|_| self.wants_md5),
            checksum: digests.checksum,
        });
        Ok(())
    }
}

impl<B> fmt::Debug for Payload<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("size_bytes", &self.size_bytes)
            .field("received_bytes", &self.received_bytes)
            .finish_non_exhaustive()
    }
}

enum Framing {
    Plain,
    Chunks(Box<ChunkDecoder>),
    /// The end of the body was seen.
    Ended,
}

/// Digests while they are computed; only those that somebody needs.
#[derive(Default)]
struct Running {
    md5: Option<Md5>,
    sha256: Option<Sha256>,
    checksum: Option<Hasher>,
}

impl Running {
    fn update(&mut self, data: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(data);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(data);
        }
        if let Some(checksum) = &mut self.checksum {
            checksum.update(data);
        }
    }

    fn finish(self, size_bytes: u64) -> Computed {
        Computed {
            size_bytes,
            md5: self.md5.map(|md5| md5.finalize().into()),
            sha256: self.sha256.map(|sha256| sha256.finalize().into()),
            checksum: self.checksum.map(|hasher| Checksum {
                algorithm: hasher.algorithm(),
                kind: ChecksumKind::FullObject,
                digest: hasher.finalize(),
            }),
        }
    }
}

struct Computed {
    size_bytes: u64,
    md5: Option<[u8; 16]>,
    sha256: Option<[u8; 32]>,
    checksum: Option<Checksum>,
}

/// What the head says that the digests will be.
struct Promised {
    sha256: Option<[u8; 32]>,
    md5: Option<[u8; 16]>,
    checksum: Option<Box<[u8]>>,
    /// The algorithm of the checksum that the trailer must carry.
    trailer: Option<ChecksumAlgorithm>,
}

impl Promised {
    fn compare(&self, computed: &Computed, trailer: &[TrailerLine]) -> Result<(), S3Error> {
        let in_trailer = self.trailer_digest(trailer)?;
        if self.sha256.is_some() && self.sha256 != computed.sha256 {
            return Err(Code::XAmzContentSHA256Mismatch.into());
        }
        if self.md5.is_some() && self.md5 != computed.md5 {
            let message = "The Content-MD5 you specified did not match what we received.";
            return Err(S3Error::with_message(Code::BadDigest, message));
        }
        for promised in self.checksum.iter().chain(&in_trailer) {
            if let Some(checksum) = &computed.checksum
                && checksum.digest != *promised
            {
                return Err(checksum::mismatch(checksum.algorithm));
            }
        }
        Ok(())
    }

    /// The digest that the trailer carries; it must hold exactly what `x-amz-trailer` names.
    fn trailer_digest(&self, trailer: &[TrailerLine]) -> Result<Option<Box<[u8]>>, S3Error> {
        let Some(algorithm) = self.trailer else {
            return if trailer.is_empty() {
                Ok(None)
            } else {
                Err(fault(ChunkFault::Trailer(
                    "x-amz-trailer does not name what it holds",
                )))
            };
        };
        let header = checksum::header_name(algorithm);
        let [(name, value)] = trailer else {
            return Err(fault(ChunkFault::Trailer(
                "it must hold what x-amz-trailer names",
            )));
        };
        if **name != *header {
            return Err(fault(ChunkFault::Trailer(
                "it must hold what x-amz-trailer names",
            )));
        }
        let digest = checksum::parse(algorithm, value);
        digest
            .map(Some)
            .ok_or_else(|| checksum::malformed_value(header))
    }
}

/// The checksum that the headers announce.
struct Announced {
    algorithm: Option<ChecksumAlgorithm>,
    /// Its value, unless the trailer will bring it.
    checksum: Option<Box<[u8]>>,
    trailer: Option<ChecksumAlgorithm>,
}

impl Announced {
    fn parse(headers: &HeaderMap, spec: &PayloadSpec, want: Want) -> Result<Self, S3Error> {
        if want.object_checksum {
            return Ok(Self {
                algorithm: None,
                checksum: None,
                trailer: None,
            });
        }
        let given = checksum::from_headers(headers)?;
        let trailer = announced_trailer(headers, spec)?;
        if let (Some(_), Some(_)) = (&given, trailer) {
            return Err(checksum::more_than_one());
        }
        if given.as_ref().is_some_and(|given| given.parts.is_some()) {
            let message = "A checksum of a body must not end with a number of parts.";
            return Err(S3Error::with_message(Code::InvalidRequest, message));
        }
        let algorithm = given.as_ref().map(|given| given.algorithm).or(trailer);
        check_sdk_algorithm(headers, algorithm)?;
        Ok(Self {
            algorithm,
            checksum: given.map(|given| given.digest),
            trailer,
        })
    }
}

/// The algorithm of the one checksum that `x-amz-trailer` names.
fn announced_trailer(
    headers: &HeaderMap,
    spec: &PayloadSpec,
) -> Result<Option<ChecksumAlgorithm>, S3Error> {
    let mut names = headers
        .get_all("x-amz-trailer")
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|name| name.trim_ascii().to_ascii_lowercase());
    let (Some(name), None) = (names.next(), names.next()) else {
        return match headers.contains_key("x-amz-trailer") {
            true => Err(checksum::more_than_one()),
            false => Ok(None),
        };
    };
    if !matches!(spec, PayloadSpec::Chunks { trailer: true, .. }) {
        let message = "x-amz-trailer needs an x-amz-content-sha256 that ends with -TRAILER.";
        return Err(S3Error::with_message(Code::InvalidRequest, message));
    }
    let name = String::from_utf8_lossy(&name);
    checksum::algorithm_by_header(&name)
        .map(Some)
        .ok_or_else(|| {
            let message = format!(
                "The value '{name}' specified in the x-amz-trailer header is not supported."
            );
            S3Error::with_message(Code::InvalidRequest, message)
        })
}

/// `x-amz-sdk-checksum-algorithm` names the algorithm of the checksum that comes along.
fn check_sdk_algorithm(
    headers: &HeaderMap,
    algorithm: Option<ChecksumAlgorithm>,
) -> Result<(), S3Error> {
    const HEADER: &str = "x-amz-sdk-checksum-algorithm";
    let Some(value) = headers.get(HEADER) else {
        return Ok(());
    };
    let named = value.to_str().ok().and_then(checksum::algorithm_by_name);
    match (named, algorithm) {
        (None, _) => Err(checksum::unknown(&String::from_utf8_lossy(
            value.as_bytes(),
        ))),
        (Some(_), None) => Err(S3Error::with_message(
            Code::InvalidRequest,
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or \
             x-amz-trailer headers were found.",
        )),
        (Some(named), Some(algorithm)) if named != algorithm => {
            Err(checksum::malformed_value(HEADER))
        }
        (Some(_), Some(_)) => Ok(()),
    }
}

/// The MD5 that Content-MD5 gives.
fn content_md5(headers: &HeaderMap) -> Result<Option<[u8; 16]>, S3Error> {
    let mut values = headers.get_all("content-md5").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let digest = STANDARD
        .decode(value.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok());
    match (digest, values.next()) {
        (Some(digest), None) => Ok(Some(digest)),
        _ => {
            let message = "The Content-MD5 you specified is not valid.";
            Err(S3Error::with_message(Code::InvalidDigest, message))
        }
    }
}

/// The length of what `aws-chunked` framing carries.
fn decoded_length(headers: &HeaderMap, wire_bytes: Option<u64>) -> Result<u64, S3Error> {
    const HEADER: &str = "x-amz-decoded-content-length";
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else {
        let message = format!("You must provide the {HEADER} HTTP header.");
        return Err(S3Error::with_message(Code::MissingContentLength, message));
    };
    let length = value
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let length = length.and_then(|text| text.parse::<u64>().ok());
    let (Some(length), None) = (length, values.next()) else {
        let message = format!("The header {HEADER} must come once and be a number of bytes.");
        return Err(S3Error::with_message(Code::InvalidArgument, message));
    };
    if wire_bytes.is_some_and(|bytes| bytes < length) {
        return Err(Code::IncompleteBody.into());
    }
    Ok(length)
}

/// The length of a body without framing. Data of an object needs a Content-Length even when
/// there is none of it; a document that is not there is empty.
fn plain_length(head: &Parts, wire_bytes: Option<u64>, want: Want) -> Result<u64, S3Error> {
    let told = head.headers.contains_key(CONTENT_LENGTH) || head.version > http::Version::HTTP_11;
    match wire_bytes {
        Some(bytes) if told || bytes > 0 || !want.is_data => Ok(bytes),
        _ => Err(Code::MissingContentLength.into()),
    }
}

/// What is wrong with the framing, as S3 answers it.
fn fault(fault: ChunkFault) -> S3Error {
    let code = match fault {
        ChunkFault::Incomplete | ChunkFault::TooLong => Code::IncompleteBody,
        ChunkFault::Framing(_) => Code::InvalidRequest,
        ChunkFault::Trailer(_) => Code::MalformedTrailerError,
        ChunkFault::Signature => Code::SignatureDoesNotMatch,
    };
    match fault {
        ChunkFault::Incomplete => code.into(),
        fault => S3Error::with_message(code, format!("The request's body was refused: {fault}.")),
    }
}

/// The connection failed, or the sender did, before the body was whole.
fn broken_body(error: &(dyn StdError + 'static)) -> S3Error {
    let timed_out = error
        .downcast_ref::<BodyError>()
        .is_some_and(|error| matches!(error, BodyError::TooSlow));
    if timed_out {
        Code::RequestTimeout.into()
    } else {
        Code::IncompleteBody.into()
    }
}

#[cfg(test)]
mod tests;
