//! Presigned requests: signatures of version 4 and version 2 in the query.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::{CONTENT_TYPE, HeaderName};
use http::request::Parts;
use sha1::Sha1;
use subtle::ConstantTimeEq as _;

use super::canonical::{
    Bytes, CanonicalRequest, Pair, PathForm, Query, is_encoded_path, write_path,
};
use super::gate::{
    CONTENT_SHA256, Check, ContentSha256, ContentValue, PayloadSpec, Verified, single,
};
use super::sigv4::{
    ALGORITHM, Claim, Place, Scope, Stamp, iso_time, refuse_session_token, session_token_refused,
    unknown_access_key,
};
use super::users::Account;
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

/// Verifies a request that was presigned with version 2, as S3's "REST authentication" page of
/// the developer guide has it. `virtual_bucket` is the bucket in the Host header: the signed
/// resource always starts with the bucket.
///
/// Version 2 signs only the parameters of [`SIGNED_V2`]. Of the others only those that cannot
/// change what is asked are let through, so that a link for one operation is good for no other.
pub(super) fn verify_v2(
    check: &Check<'_>,
    virtual_bucket: Option<&str>,
) -> Result<Verified, S3Error> {
    refuse_session_token(&check.head.headers)?;
    let params = ParamsV2::of(check.head)?;
    let account = check
        .users
        .account(&params.access_key)
        .ok_or_else(|| unknown_access_key(&params.access_key))?;
    let expires = params
        .expires
        .parse::<i64>()
        .ok()
        .filter(|_| is_digits(&params.expires));
    let expires = expires.ok_or_else(|| {
        let message = "Invalid date (should be seconds since epoch)";
        S3Error::with_message(Code::AccessDenied, message)
    })?;
    let now = check.now.unix_seconds();
    if now > expires {
        return Err(expired(expires, now));
    }
    if expires - now > signed_seconds(PRESIGN_SECONDS_MAX + CLOCK_SKEW_SECONDS_MAX) {
        let message = "The request expires more than 7 days from now; sign it for a shorter time.";
        return Err(S3Error::with_message(Code::AccessDenied, message)
            .detail("Expires", iso_time(expires))
            .detail("ServerTime", iso_time(now)));
    }
    params.verify(check.head, virtual_bucket, account)?;
    Ok((
        Arc::clone(&account.user),
        PayloadSpec::anonymous(&check.head.headers)?,
    ))
}

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

/// The parameters of a presigned request of version 2, decoded.
#[derive(Debug)]
struct ParamsV2<'a> {
    access_key: Cow<'a, str>,
    expires: Cow<'a, str>,
    signature: Cow<'a, str>,
    /// What is signed, as `name` or `name=value`, sorted by name.
    signed: Vec<(Bytes<'a>, Option<Bytes<'a>>)>,
}

impl<'a> ParamsV2<'a> {
    fn of(head: &'a Parts) -> Result<Self, S3Error> {
        let mut found: [Option<Cow<'a, str>>; 3] = Default::default();
        let [access_key, expires, signature] = &mut found;
        let mut signed = Vec::new();
        for pair in Query::of(head).pairs() {
            let name = pair.name();
            let field = match name.as_ref() {
                b"AWSAccessKeyId" => &mut *access_key,
                b"Expires" => &mut *expires,
                b"Signature" => &mut *signature,
                _ if is_among(&name, SIGNED_V2) => {
                    signed.push((name, pair.value()));
                    continue;
                }
                _ => {
                    refuse_unsigned(head, &name, pair)?;
                    continue;
                }
            };
            if field.replace(text(pair)?).is_some() {
                let message = "A parameter of the signature is there more than once";
                return Err(S3Error::with_message(Code::AccessDenied, message));
            }
        }
        let [Some(access_key), Some(expires), Some(signature)] = found else {
            let message = "Query-string authentication requires the Signature, Expires and \
                           AWSAccessKeyId parameters";
            return Err(S3Error::with_message(Code::AccessDenied, message));
        };
        signed.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(Self {
            access_key,
            expires,
            signature,
            signed,
        })
    }

    /// Compares the signature with those of every form of the path that names what this one does:
    /// as it came, encoded, and a bucket with the slash that boto3 signs and does not send.
    fn verify(
        &self,
        head: &Parts,
        virtual_bucket: Option<&str>,
        account: &Account,
    ) -> Result<(), S3Error> {
        // A '+' of base64 that the sender did not escape reads as a space.
        let claimed = STANDARD
            .decode(self.signature.replace(' ', "+"))
            .unwrap_or_default();
        let path = head.uri.path();
        let is_bucket = virtual_bucket.is_none() && path.rfind('/') == Some(0) && path.len() > 1;
        let encoded = (!is_encoded_path(path)).then_some((PathForm::Encoded, ""));
        let with_slash = is_bucket.then_some((PathForm::AsSent, "/"));
        let forms = std::iter::once((PathForm::AsSent, ""))
            .chain(encoded)
            .chain(with_slash);
        for (form, slash) in forms {
            let text = self.string_to_sign(head, virtual_bucket, form, slash);
            let key = account.user.secret_key.reveal().as_bytes();
            let Ok(mac) = Hmac::<Sha1>::new_from_slice(key) else {
                break;
            };
            let expected = mac.chain_update(&text).finalize().into_bytes();
            if expected.as_slice().ct_eq(&claimed).into() {
                return Ok(());
            }
        }
        Err(S3Error::new(Code::SignatureDoesNotMatch)
            .detail("AWSAccessKeyId", self.access_key.as_ref()))
    }

    fn string_to_sign(
        &self,
        head: &Parts,
        virtual_bucket: Option<&str>,
        form: PathForm,
        slash: &str,
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(head.method.as_str().as_bytes());
        out.push(b'\n');
        for name in [&CONTENT_MD5, &CONTENT_TYPE] {
            write_values(head, name, &mut out);
            out.push(b'\n');
        }
        out.extend_from_slice(self.expires.as_bytes());
        out.push(b'\n');
        let is_amz = |name: &&HeaderName| name.as_str().starts_with("x-amz-");
        let mut names: Vec<&HeaderName> = head.headers.keys().filter(is_amz).collect();
        names.sort_unstable_by_key(|name| name.as_str());
        for name in names {
            out.extend_from_slice(name.as_str().as_bytes());
            out.push(b':');
            write_values(head, name, &mut out);
            out.push(b'\n');
        }
        if let Some(bucket) = virtual_bucket {
            out.push(b'/');
            out.extend_from_slice(bucket.as_bytes());
        }
        write_path(head.uri.path(), form, &mut out);
        out.extend_from_slice(slash.as_bytes());
        for (index, (name, value)) in self.signed.iter().enumerate() {
            out.push(if index == 0 { b'?' } else { b'&' });
            out.extend_from_slice(name);
            if let Some(value) = value {
                out.push(b'=');
                out.extend_from_slice(value);
            }
        }
        out
    }
}

/// Lets a parameter pass that version 2 does not sign if it cannot change what is asked. boto3
/// repeats signed headers as parameters; such a one passes if the header is there and the same.
fn refuse_unsigned(head: &Parts, name: &[u8], pair: Pair<'_>) -> Result<(), S3Error> {
    let lower = name.to_ascii_lowercase();
    if lower == b"x-amz-security-token" {
        return Err(session_token_refused());
    }
    let repeated = || {
        let header = HeaderName::from_bytes(&lower).ok()?;
        let mut values = head.headers.get_all(header).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return None;
        };
        Some(value.as_bytes() == pair.value()?.as_ref())
    };
    if is_among(name, HARMLESS_V2) || (lower.starts_with(b"x-amz-") && repeated() == Some(true)) {
        return Ok(());
    }
    let name = String::from_utf8_lossy(name);
    let message = format!(
        "The query parameter '{name}' is not covered by a signature of version 2. \
         Sign the request with version 4."
    );
    Err(S3Error::with_message(Code::AccessDenied, message))
}

fn write_values(head: &Parts, name: &HeaderName, out: &mut Vec<u8>) {
    for (index, value) in head.headers.get_all(name).iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(value.as_bytes().trim_ascii());
    }
}

/// The decoded value of a parameter that must be text.
fn text<'a>(pair: Pair<'a>) -> Result<Cow<'a, str>, S3Error> {
    let text = match pair.value().unwrap_or_default() {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    };
    text.ok_or_else(|| query_error("A parameter of the signature is not UTF-8"))
}

fn query_error(message: impl Into<Cow<'static, str>>) -> S3Error {
    S3Error::with_message(Code::AuthorizationQueryParametersError, message)
}

fn expired(expires: i64, now: i64) -> S3Error {
    S3Error::with_message(Code::AccessDenied, "Request has expired")
        .detail("Expires", iso_time(expires))
        .detail("ServerTime", iso_time(now))
}

fn signed_chunks_refused() -> S3Error {
    let message = "A presigned request cannot carry signed chunks.";
    S3Error::with_message(Code::InvalidRequest, message)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_among(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|one| one.as_bytes() == name)
}

/// Limits are small numbers of seconds.
fn signed_seconds(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// The sub-resources and overrides that version 2 signs: S3's documentation, and the list of the
/// signer in botocore, which makes most of these links.
const SIGNED_V2: &[&str] = &[
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "defaultObjectAcl",
    "delete",
    "inventory",
    "lifecycle",
    "location",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "partNumber",
    "policy",
    "replication",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "select",
    "select-type",
    "storageClass",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

/// Parameters that version 2 does not sign and that only choose a page of the listing that the
/// link is for anyway, or that nobody reads.
const HARMLESS_V2: &[&str] = &[
    "content-md5",
    "content-type",
    "continuation-token",
    "delimiter",
    "encoding-type",
    "fetch-owner",
    "key-marker",
    "list-type",
    "marker",
    "max-keys",
    "max-parts",
    "max-uploads",
    "part-number-marker",
    "prefix",
    "start-after",
    "upload-id-marker",
    "version-id-marker",
    "x-id",
];
