//! Presigned requests of version 4: the signature in the query, and headers that became parameters.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderValue;
use http::header::HeaderName;
use http::request::Parts;

use super::canonical::{CanonicalRequest, Pair, Query};
use super::gate::{
    CONTENT_SHA256, Check, ContentSha256, ContentValue, PayloadSpec, Verified, single,
};
use super::sigv4::{
    ALGORITHM, Claim, Place, Scope, Stamp, iso_time, refuse_session_token, session_token_refused,
};
use crate::limits::{CLOCK_SKEW_SECONDS_MAX, PRESIGN_SECONDS_MAX};
use crate::s3::error::{Code, S3Error};

/// Verifies a request that was presigned with version 4.
pub(super) fn verify_v4(check: &Check<'_>) -> Result<Verified, S3Error> {
    let headers = &check.head.headers;
    refuse_session_token(headers)?;
    let params = ParamsV4::of(check.head)?;
    if params.algorithm != ALGORITHM {
        return Err(query_error(format!(
            "X-Amz-Algorithm only supports \"{ALGORITHM}\""
        )));
    }
    let scope = Scope::parse(&params.credential, Place::Query, check.region)?;
    let account = check.account(&scope)?;
    let stamp = Stamp::parse(&params.date).ok_or_else(|| {
        query_error("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
    })?;
    scope.refuse_other_date(&stamp, Place::Query)?;
    let lifetime_seconds = lifetime(&params.expires)?;
    refuse_outside_lifetime(stamp, lifetime_seconds, check.now.unix_seconds())?;
    let signed = check.signed_headers(&params.signed_headers, Place::Query)?;
    let content = params.content_sha256(check.head)?;
    let payload = content
        .as_ref()
        .map_or("UNSIGNED-PAYLOAD", |content| content.text);
    let request = CanonicalRequest {
        head: check.head,
        signed,
        payload,
    };
    Claim {
        account,
        scope,
        stamp,
        signature: &params.signature,
    }
    .verify(&request)?;
    let payload = match content.map(|content| content.value) {
        Some(ContentValue::Sha256(digest)) => PayloadSpec::Sha256(digest),
        Some(ContentValue::UnsignedChunks) => PayloadSpec::Chunks {
            signer: None,
            trailer: true,
        },
        Some(ContentValue::SignedChunks { .. }) => return Err(signed_chunks_refused()),
        Some(ContentValue::Unsigned) | None => PayloadSpec::unsigned(headers),
    };
    Ok((Arc::clone(&account.user), payload))
}

/// The head of a presigned request of version 4 with the headers that its signer moved into the
/// query: S3 takes a parameter `x-amz-...` for the header of that name. `None` without such ones.
///
/// Only for a request that went through the gate: version 4 signs every parameter. What tells how
/// the body is framed is not taken from the query, since no signer puts it there.
pub(in crate::s3) fn hoisted(head: &Parts) -> Result<Option<Parts>, S3Error> {
    let query = Query::of(head);
    let is_v4 = |pair: Pair<'_>| pair.name().as_ref() == b"X-Amz-Algorithm";
    if !query.pairs().any(is_v4) {
        return Ok(None);
    }
    let mut changed: Option<Parts> = None;
    for pair in query.pairs() {
        let name = pair.name().to_ascii_lowercase();
        if !name.starts_with(b"x-amz-") || NOT_HOISTED.iter().any(|one| one.as_bytes() == name) {
            continue;
        }
        let invalid = || {
            let name = String::from_utf8_lossy(&name);
            let message = format!("The query parameter '{name}' cannot stand for a header.");
            S3Error::with_message(Code::InvalidRequest, message)
        };
        let header = HeaderName::from_bytes(&name).map_err(|_| invalid())?;
        let value = HeaderValue::from_bytes(&pair.value().unwrap_or_default());
        let value = value.map_err(|_| invalid())?;
        let head = changed.get_or_insert_with(|| head.clone());
        match head.headers.get(&header) {
            None => {
                head.headers.insert(header, value);
            }
            Some(sent) if *sent == value => {}
            Some(_) => {
                let message = format!("'{header}' differs between the header and the query.");
                return Err(S3Error::with_message(Code::InvalidRequest, message));
            }
        }
    }
    Ok(changed)
}

/// Parameters of the signature itself, and headers about the framing of the body.
const NOT_HOISTED: [&str; 10] = [
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-signedheaders",
    "x-amz-signature",
    "x-amz-security-token",
    "x-amz-content-sha256",
    "x-amz-decoded-content-length",
    "x-amz-trailer",
];

/// The parameters of a presigned request of version 4, decoded.
#[derive(Debug)]
struct ParamsV4<'a> {
    algorithm: Cow<'a, str>,
    credential: Cow<'a, str>,
    date: Cow<'a, str>,
    expires: Cow<'a, str>,
    signed_headers: Cow<'a, str>,
    signature: Cow<'a, str>,
    content_sha256: Option<Cow<'a, str>>,
}

impl<'a> ParamsV4<'a> {
    fn of(head: &'a Parts) -> Result<Self, S3Error> {
        let mut found: [Option<Cow<'a, str>>; 7] = Default::default();
        let [
            algorithm,
            credential,
            date,
            expires,
            signed_headers,
            signature,
            content,
        ] = &mut found;
        for pair in Query::of(head).pairs() {
            let field = match pair.name().as_ref() {
                b"X-Amz-Algorithm" => &mut *algorithm,
                b"X-Amz-Credential" => &mut *credential,
                b"X-Amz-Date" => &mut *date,
                b"X-Amz-Expires" => &mut *expires,
                b"X-Amz-SignedHeaders" => &mut *signed_headers,
                b"X-Amz-Signature" => &mut *signature,
                name if name.eq_ignore_ascii_case(b"x-amz-content-sha256") => &mut *content,
                name if name.eq_ignore_ascii_case(b"x-amz-security-token") => {
                    return Err(session_token_refused());
                }
                _ => continue,
            };
            if field.replace(text(pair)?).is_some() {
                return Err(query_error(
                    "A parameter of the signature is there more than once",
                ));
            }
        }
        let [
            algorithm,
            credential,
            date,
            expires,
            signed_headers,
            signature,
            content,
        ] = found;
        let need = |value: Option<Cow<'a, str>>| {
            value.ok_or_else(|| {
                query_error(
                    "Query-string authentication version 4 requires the X-Amz-Algorithm, \
                     X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and \
                     X-Amz-Expires parameters.",
                )
            })
        };
        Ok(Self {
            algorithm: need(algorithm)?,
            credential: need(credential)?,
            date: need(date)?,
            expires: need(expires)?,
            signed_headers: need(signed_headers)?,
            signature: need(signature)?,
            content_sha256: content,
        })
    }

    /// What stands for the body: the parameter, else the header, which is signed as all others
    /// of its kind. Two that differ are refused.
    fn content_sha256<'b>(&'b self, head: &'b Parts) -> Result<Option<ContentSha256<'b>>, S3Error> {
        let in_header = single(&head.headers, CONTENT_SHA256)?;
        let in_query = self.content_sha256.as_deref();
        if in_header.is_some() && in_query.is_some() && in_header != in_query {
            let message = "x-amz-content-sha256 differs between the header and the query.";
            return Err(S3Error::with_message(Code::InvalidRequest, message));
        }
        in_query.or(in_header).map(ContentSha256::parse).transpose()
    }
}

/// `X-Amz-Expires` in seconds: 1 to 604,800.
fn lifetime(text: &str) -> Result<i64, S3Error> {
    if !is_digits(text) {
        return Err(query_error("X-Amz-Expires should be a number"));
    }
    match text.parse::<u64>() {
        Ok(0) => Err(query_error("X-Amz-Expires must be at least one second")),
        Ok(seconds) if seconds <= PRESIGN_SECONDS_MAX => Ok(signed_seconds(seconds)),
        _ => Err(query_error(format!(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given \
             X-Amz-Expires must be less than {PRESIGN_SECONDS_MAX} seconds"
        ))),
    }
}

fn refuse_outside_lifetime(stamp: Stamp, lifetime_seconds: i64, now: i64) -> Result<(), S3Error> {
    let early = stamp
        .unix_seconds
        .saturating_sub(signed_seconds(CLOCK_SKEW_SECONDS_MAX));
    let expires = stamp.unix_seconds.saturating_add(lifetime_seconds);
    if now < early {
        return Err(
            S3Error::with_message(Code::AccessDenied, "Request is not valid yet")
                .detail("RequestTime", stamp.to_string())
                .detail("ServerTime", iso_time(now)),
        );
    }
    if now > expires {
        return Err(expired(expires, now).detail("X-Amz-Expires", lifetime_seconds.to_string()));
    }
    Ok(())
}

/// The decoded value of a parameter that must be text.
pub(super) fn text<'a>(pair: Pair<'a>) -> Result<Cow<'a, str>, S3Error> {
    let text = match pair.value().unwrap_or_default() {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    };
    text.ok_or_else(|| query_error("A parameter of the signature is not UTF-8"))
}

fn query_error(message: impl Into<Cow<'static, str>>) -> S3Error {
    S3Error::with_message(Code::AuthorizationQueryParametersError, message)
}

pub(super) fn expired(expires: i64, now: i64) -> S3Error {
    S3Error::with_message(Code::AccessDenied, "Request has expired")
        .detail("Expires", iso_time(expires))
        .detail("ServerTime", iso_time(now))
}

fn signed_chunks_refused() -> S3Error {
    let message = "A presigned request cannot carry signed chunks.";
    S3Error::with_message(Code::InvalidRequest, message)
}

pub(super) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Limits are small numbers of seconds.
pub(super) fn signed_seconds(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
