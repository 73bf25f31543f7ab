//! Server-side encryption with keys that clients keep (SSE-C): the headers that bring a key, and
//! what is refused. The bytes are sealed and opened in [`object`], in the form of [`block`].

mod block;
mod object;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::{HeaderMap, HeaderName};
use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

pub(super) use object::{ObjectBytes, Opened, Sink, part_size, shown, stored_size};

use block::Key;

use super::error::{Code, S3Error};
use super::etag;
use super::request::Local;
use crate::clock::Entropy;
use crate::engine::{ETag, Seal, UploadPlan};

/// A key that came with a request.
#[derive(Clone, Debug)]
pub(super) struct CustomerKey {
    key: Key,
    /// As the client sent it; it gets it back.
    md5: HeaderValue,
}

impl CustomerKey {
    /// The key for the object that is written, or read.
    pub(super) fn of_object(headers: &HeaderMap, local: &Local) -> Result<Option<Self>, S3Error> {
        Self::parse(headers, OBJECT, local)
    }

    /// The key of the object that is copied.
    pub(super) fn of_source(headers: &HeaderMap, local: &Local) -> Result<Option<Self>, S3Error> {
        Self::parse(headers, SOURCE, local)
    }

    fn parse(
        headers: &HeaderMap,
        names: [&'static str; 3],
        local: &Local,
    ) -> Result<Option<Self>, S3Error> {
        if !names.iter().any(|name| headers.contains_key(*name)) {
            return Ok(None);
        }
        let [algorithm, key, md5] = names;
        let missing = |name: &str, what: &str| {
            let message = format!("{PROVIDED} must provide {what}.");
            S3Error::invalid_argument(message, name, "null")
        };
        let sent = headers
            .get(algorithm)
            .ok_or_else(|| missing(algorithm, "a valid encryption algorithm"))?;
        if sent != "AES256" {
            let message = "The encryption algorithm for a key of yours must be AES256.";
            let sent = String::from_utf8_lossy(sent.as_bytes());
            return Err(S3Error::invalid_argument(message, algorithm, sent));
        }
        let sent = headers
            .get(key)
            .ok_or_else(|| missing(key, "an appropriate secret key"))?;
        let sent_md5 = headers
            .get(md5)
            .ok_or_else(|| missing(md5, "the client calculated MD5 of the secret key"))?;
        let bytes = decode(sent).ok_or_else(|| {
            let message = "The secret key was invalid for the specified algorithm: it must be the \
                           base64 of 32 bytes.";
            S3Error::invalid_argument(message, key, "")
        })?;
        let own_md5 = STANDARD.encode(Md5::digest(*bytes));
        if !bool::from(own_md5.as_bytes().ct_eq(sent_md5.as_bytes())) {
            let message =
                "The calculated MD5 hash of the key did not match the hash that was provided.";
            return Err(S3Error::invalid_argument(message, md5, ""));
        }
        refuse_in_the_clear(local)?;
        Ok(Some(Self {
            key: Key::new(*bytes),
            md5: sent_md5.clone(),
        }))
    }

    /// A seal for something new.
    pub(super) fn seal(&self, entropy: &Entropy) -> Box<Seal> {
        Box::new(self.key.seal(entropy))
    }

    pub(super) fn is_of(&self, seal: &Seal) -> bool {
        self.key.is_of(seal)
    }
}

/// The ETag of bytes with this MD5, if it was computed. Of what is sealed it tells nobody without
/// the key what the bytes are; the same bytes have the same one in one upload, so that a part may
/// be sent again.
pub(super) fn etag(
    lock: Option<(&CustomerKey, &Seal)>,
    md5: Option<[u8; 16]>,
    entropy: &Entropy,
) -> ETag {
    match (lock, md5) {
        (Some((key, seal)), Some(md5)) => etag::opaque(key.key.tag(seal, &md5)),
        (Some(_), None) => etag::etag(None, entropy),
        (None, md5) => etag::etag(md5, entropy),
    }
}

/// The 32 bytes of a key.
fn decode(sent: &HeaderValue) -> Option<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(STANDARD.decode(sent.as_bytes()).ok()?);
    Some(Zeroizing::new(bytes.as_slice().try_into().ok()?))
}

/// A key that crosses a network unencrypted is no secret. On loopback and on Unix sockets there is
/// no network.
fn refuse_in_the_clear(local: &Local) -> Result<(), S3Error> {
    let is_here = local
        .peer
        .is_none_or(|peer| peer.to_canonical().is_loopback());
    if local.secure || is_here {
        return Ok(());
    }
    let message = format!(
        "{PROVIDED} must be made over a secure connection: use https, or a loopback address on the \
         server's own machine."
    );
    Err(S3Error::with_message(Code::InvalidRequest, message))
}

/// Whether a request with this key, or none, may read what has this seal, or none.
pub(super) fn check(seal: Option<&Seal>, key: Option<&CustomerKey>) -> Result<(), S3Error> {
    match (seal, key) {
        (None, None) => Ok(()),
        (Some(seal), Some(key)) if key.is_of(seal) => Ok(()),
        (Some(_), Some(_)) => Err(S3Error::with_message(
            Code::AccessDenied,
            "The object was stored with another key than the one that you provided.",
        )),
        (Some(_), None) => Err(S3Error::with_message(
            Code::InvalidRequest,
            "The object was stored using a form of Server Side Encryption. The correct parameters \
             must be provided to retrieve the object.",
        )),
        (None, Some(_)) => Err(S3Error::with_message(
            Code::InvalidRequest,
            "The encryption parameters are not applicable to this object.",
        )),
    }
}

/// The same for a request that adds to an upload.
pub(super) fn check_upload(plan: &UploadPlan, key: Option<&CustomerKey>) -> Result<(), S3Error> {
    let message = match (plan.seal.as_deref(), key) {
        (None, None) => return Ok(()),
        (Some(seal), Some(key)) if key.is_of(seal) => return Ok(()),
        (Some(_), Some(_)) => {
            "The provided encryption parameters did not match the ones used originally."
        }
        (Some(_), None) => {
            "The multipart upload initiate requested encryption. Subsequent part requests must \
             include the appropriate encryption parameters."
        }
        (None, Some(_)) => {
            "The multipart upload initiate did not request encryption. Please resend the request \
             without sending encryption parameters."
        }
    };
    Err(S3Error::with_message(Code::InvalidRequest, message))
}

/// Says which key was used.
pub(super) fn write_key(headers: &mut HeaderMap, key: Option<&CustomerKey>) {
    let Some(key) = key else { return };
    let [algorithm, _, md5] = OBJECT;
    headers.insert(algorithm, HeaderValue::from_static("AES256"));
    headers.insert(md5, key.md5.clone());
}

/// Refuses encryption with keys of the server, which it does not have: it must not look as if the
/// object were encrypted. What no server could do is told first, as S3 does.
pub(super) fn refuse_server_keys(headers: &HeaderMap) -> Result<(), S3Error> {
    let Some(name) = server_key_header(headers) else {
        return Ok(());
    };
    let method = headers
        .get(METHOD)
        .map(|value| value.to_str().unwrap_or(""));
    let wrong = |message: &'static str| {
        Err(S3Error::invalid_argument(
            message,
            METHOD,
            method.unwrap_or("null"),
        ))
    };
    if OBJECT.iter().any(|name| headers.contains_key(*name)) {
        return wrong(
            "Server Side Encryption with Customer provided key is incompatible with the encryption \
             method specified",
        );
    }
    match method {
        Some("aws:kms" | "aws:kms:dsse") => {}
        Some("AES256") | None if name != METHOD || headers.contains_key(KMS_KEY) => {
            return wrong(
                "Server Side Encryption with AWS KMS managed key requires HTTP header \
                 x-amz-server-side-encryption : aws:kms",
            );
        }
        Some("AES256") => {}
        _ => return wrong("The encryption method specified is not supported"),
    }
    let message = format!(
        "This server does not implement what the header {name} asks for: it has no keys of its own \
         (SSE-S3, SSE-KMS). Encrypt with a key of yours (SSE-C), or store the data on an encrypted \
         disk."
    );
    Err(S3Error::with_message(Code::NotImplemented, message).detail("Header", name))
}

/// A header that speaks of encryption with keys of the server.
pub(super) fn server_key_header(headers: &HeaderMap) -> Option<&str> {
    let mut names = headers.keys().map(HeaderName::as_str);
    names.find(|name| name.starts_with(METHOD) && !name.starts_with(CUSTOMER))
}

const METHOD: &str = "x-amz-server-side-encryption";
const CUSTOMER: &str = "x-amz-server-side-encryption-customer-";
const KMS_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const PROVIDED: &str = "Requests specifying Server Side Encryption with Customer provided keys";
/// Algorithm, key, MD5 of the key.
const OBJECT: [&str; 3] = [
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-server-side-encryption-customer-key",
    "x-amz-server-side-encryption-customer-key-md5",
];
const SOURCE: [&str; 3] = [
    "x-amz-copy-source-server-side-encryption-customer-algorithm",
    "x-amz-copy-source-server-side-encryption-customer-key",
    "x-amz-copy-source-server-side-encryption-customer-key-md5",
];

#[cfg(test)]
mod tests;
