//! Signature version 2, as S3's "REST authentication" page of the developer guide has it: in the
//! Authorization header, and in the query, where boto3, s3fs and s3cmd still put it.
//!
//! Version 2 signs only the parameters of [`SIGNED_V2`]. Of the others only those that cannot
//! change what is asked are let through, so that a signature for one operation is good for no
//! other.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::{CONTENT_TYPE, DATE, HeaderName};
use http::request::Parts;
use sha1::Sha1;
use subtle::ConstantTimeEq as _;

use super::canonical::{Bytes, Pair, PathForm, Query, is_encoded_path, write_path};
use super::gate::{Check, PayloadSpec, Verified, single};
use super::presigned::{expired, is_digits, signed_seconds, text};
use super::sigv4::{
    Stamp, iso_time, refuse_session_token, session_token_refused, unknown_access_key,
};
use super::users::Account;
use crate::limits::{CLOCK_SKEW_SECONDS_MAX, PRESIGN_SECONDS_MAX};
use crate::s3::error::{Code, S3Error};

/// Verifies a request whose Authorization header holds `credentials` after the scheme `AWS`.
/// `virtual_bucket` is the bucket in the Host header: the signed resource always starts with the
/// bucket.
pub(super) fn verify_header(
    check: &Check<'_>,
    credentials: &str,
    virtual_bucket: Option<&str>,
) -> Result<Verified, S3Error> {
    let headers = &check.head.headers;
    refuse_session_token(headers)?;
    let params = ParamsV2::of_header(check.head, credentials)?;
    let account = check
        .users
        .account(&params.access_key, check.now)
        .ok_or_else(|| unknown_access_key(&params.access_key))?;
    Stamp::of_headers(headers)?.refuse_skew(check.now)?;
    params.verify(check.head, virtual_bucket, account)?;
    Ok((Arc::clone(&account.user), PayloadSpec::anonymous(headers)?))
}

/// Verifies a request that was presigned with version 2.
pub(super) fn verify_query(
    check: &Check<'_>,
    virtual_bucket: Option<&str>,
) -> Result<Verified, S3Error> {
    refuse_session_token(&check.head.headers)?;
    let params = ParamsV2::of_query(check.head)?;
    let account = check
        .users
        .account(&params.access_key, check.now)
        .ok_or_else(|| unknown_access_key(&params.access_key))?;
    let expires = params
        .date
        .parse::<i64>()
        .ok()
        .filter(|_| is_digits(&params.date));
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

/// What somebody claims to have signed, decoded.
#[derive(Debug)]
struct ParamsV2<'a> {
    access_key: Cow<'a, str>,
    /// The line of the signed text that says when: the seconds of `Expires`, or a date.
    date: Cow<'a, str>,
    signature: Cow<'a, str>,
    /// What is signed, as `name` or `name=value`, sorted by name.
    signed: Vec<(Bytes<'a>, Option<Bytes<'a>>)>,
}

impl<'a> ParamsV2<'a> {
    /// Of a header `AWS <access key>:<signature>`.
    fn of_header(head: &'a Parts, credentials: &'a str) -> Result<Self, S3Error> {
        let Some((access_key, signature)) = credentials.trim().rsplit_once(':') else {
            let message = "AWS authorization header is invalid.  Expected AwsAccessKeyId:signature";
            return Err(S3Error::invalid_argument(message, "Authorization", ""));
        };
        let mut signed = Vec::new();
        for pair in Query::of(head).pairs() {
            let name = pair.name();
            if is_among(&name, SIGNED_V2) {
                signed.push((name, pair.value()));
            } else {
                refuse_unsigned(head, &name, pair)?;
            }
        }
        signed.sort_by(|one, other| one.0.cmp(&other.0));
        let date = match head.headers.contains_key("x-amz-date") {
            true => "",
            false => single(&head.headers, DATE.as_str())?.unwrap_or(""),
        };
        Ok(Self {
            access_key: access_key.into(),
            date: date.into(),
            signature: signature.into(),
            signed,
        })
    }

    fn of_query(head: &'a Parts) -> Result<Self, S3Error> {
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
            date: expires,
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
        out.extend_from_slice(self.date.as_bytes());
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
            out.extend_from_slice(bucket.to_ascii_lowercase().as_bytes());
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

fn is_among(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|one| one.as_bytes() == name)
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
