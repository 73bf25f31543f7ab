//! Signature version 4 in the Authorization header, and what its query form shares with it.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use http::header::DATE;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::canonical::{CanonicalRequest, SignedHeaders};
use super::chunked::ChunkSigner;
use super::gate::{Check, ContentSha256, ContentValue, PayloadSpec, Verified, single};
use super::users::{Account, Secret};
use crate::clock::Timestamp;
use crate::limits::CLOCK_SKEW_SECONDS_MAX;
use crate::s3::checksum::unhex;
use crate::s3::error::{Code, S3Error};

pub(super) type HmacSha256 = Hmac<Sha256>;

/// Verifies a request whose Authorization header holds `credentials` after the scheme.
pub(super) fn verify<'a>(check: &Check<'a>, credentials: &'a str) -> Result<Verified, S3Error> {
    let headers = &check.head.headers;
    let fields = Fields::parse(credentials)?;
    let scope = Scope::parse(fields.credential, Place::Header, check.region)?;
    refuse_session_token(headers)?;
    let content = ContentSha256::of(headers)?.ok_or_else(|| {
        let message = "Missing required header for this request: x-amz-content-sha256";
        S3Error::with_message(Code::InvalidRequest, message)
    })?;
    let account = check.account(&scope)?;
    let stamp = Stamp::of_headers(headers)?;
    stamp.refuse_skew(check.now)?;
    scope.refuse_other_date(&stamp, Place::Header)?;
    let signed = check.signed_headers(fields.signed_headers, Place::Header)?;
    let request = CanonicalRequest {
        head: check.head,
        signed,
        payload: content.text,
    };
    let claim = Claim {
        account,
        scope,
        stamp,
        signature: fields.signature,
    };
    let key = claim.verify(&request)?;
    let signed_chunks = |trailer| {
        let signer = claim.chunk_signer(key);
        PayloadSpec::Chunks {
            signer: Some(Box::new(signer)),
            trailer,
        }
    };
    let payload = match content.value {
        ContentValue::Sha256(digest) => PayloadSpec::Sha256(digest),
        ContentValue::Unsigned => PayloadSpec::unsigned(headers),
        ContentValue::SignedChunks { trailer } => signed_chunks(trailer),
        ContentValue::UnsignedChunks => PayloadSpec::Chunks {
            signer: None,
            trailer: true,
        },
    };
    Ok((Arc::clone(&account.user), payload))
}

/// What somebody claims to have signed.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub(super) account: &'a Account,
    pub(super) scope: Scope<'a>,
    pub(super) stamp: Stamp,
    /// 64 lower-case hexadecimal digits if it is one.
    pub(super) signature: &'a str,
}

impl Claim<'_> {
    /// The signing key if the signature is the one of the request.
    pub(super) fn verify(&self, request: &CanonicalRequest<'_>) -> Result<HmacSha256, S3Error> {
        let keys = &self.account.signing_keys;
        let known = keys.find(&self.scope);
        let derive = || signing_key(&self.account.user.secret_key, &self.scope);
        let key = known.clone().unwrap_or_else(derive);
        let claimed: Option<[u8; 32]> = unhex(self.signature);
        let mut last = [0; 32];
        for hash in request.hashes() {
            let expected = self.sign(key.clone(), &hash);
            if claimed.is_some_and(|claimed| expected.ct_eq(&claimed).into()) {
                // Only whoever has the secret can fill the cache.
                if known.is_none() {
                    keys.remember(&self.scope, key.clone());
                }
                return Ok(key);
            }
            last = hash;
        }
        let text = format!(
            "{ALGORITHM}\n{}\n{}\n{}",
            self.stamp,
            self.scope.text,
            hex(&last)
        );
        Err(S3Error::new(Code::SignatureDoesNotMatch)
            .detail("AWSAccessKeyId", self.scope.access_key)
            .detail("StringToSign", text))
    }

    /// Verifies the chunks of a body whose head carries this signature.
    fn chunk_signer(&self, key: HmacSha256) -> ChunkSigner {
        ChunkSigner::new(key, self.stamp, self.scope.text, self.signature)
    }

    fn sign(&self, key: HmacSha256, request_hash: &[u8; 32]) -> [u8; 32] {
        key.chain_update(ALGORITHM)
            .chain_update(b"\n")
            .chain_update(self.stamp.text)
            .chain_update(b"\n")
            .chain_update(self.scope.text)
            .chain_update(b"\n")
            .chain_update(hex(request_hash))
            .finalize()
            .into_bytes()
            .into()
    }
}

impl<'a> Check<'a> {
    pub(super) fn account(&self, scope: &Scope<'_>) -> Result<&'a Account, S3Error> {
        self.users
            .account(scope.access_key, self.now)
            .ok_or_else(|| unknown_access_key(scope.access_key))
    }

    /// The list of signed headers, refused unless it holds the ones that it must.
    pub(super) fn signed_headers(
        &self,
        list: &'a str,
        place: Place,
    ) -> Result<SignedHeaders<'a>, S3Error> {
        let signed = SignedHeaders::parse(list).ok_or_else(|| {
            place.malformed("SignedHeaders must be distinct names in lower case, joined by ';'")
        })?;
        let missing = signed.missing(self.head);
        if missing.is_empty() {
            return Ok(signed);
        }
        let message = "There were headers present in the request which were not signed";
        Err(S3Error::with_message(Code::AccessDenied, message)
            .detail("HeadersNotSigned", missing.join(", ")))
    }
}

pub(super) fn unknown_access_key(access_key: &str) -> S3Error {
    S3Error::new(Code::InvalidAccessKeyId).detail("AWSAccessKeyId", access_key)
}

/// Temporary credentials come with a token that only whoever gave them out could check.
pub(super) fn refuse_session_token(headers: &HeaderMap) -> Result<(), S3Error> {
    if headers.contains_key("x-amz-security-token") {
        return Err(session_token_refused());
    }
    Ok(())
}

pub(super) fn session_token_refused() -> S3Error {
    let message = "The provided token is malformed or otherwise not valid. This server gives out \
                   no temporary credentials: sign without a session token.";
    S3Error::with_message(Code::InvalidToken, message)
}

/// Where a credential stands, which decides the code of what is wrong with it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Header,
    Query,
    Form,
}

impl Place {
    pub(super) fn malformed(self, what: impl fmt::Display) -> S3Error {
        match self {
            Self::Header => S3Error::with_message(
                Code::AuthorizationHeaderMalformed,
                format!("The authorization header is malformed; {what}."),
            ),
            Self::Query => S3Error::with_message(
                Code::AuthorizationQueryParametersError,
                format!("The authorization query parameters are malformed; {what}."),
            ),
            Self::Form => S3Error::with_message(
                Code::InvalidArgument,
                format!("The signature of the form is malformed; {what}."),
            ),
        }
    }
}

/// `<access key>/<date>/<region>/s3/aws4_request`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) access_key: &'a str,
    /// All but the access key.
    text: &'a str,
    /// `YYYYMMDD`.
    date: &'a str,
    region: &'a str,
}

impl<'a> Scope<'a> {
    /// Splits a credential from its end, since an access key may hold slashes. Any region is
    /// taken, as long as there is one: `expected_region` is only told to whoever gives none.
    pub(super) fn parse(
        credential: &'a str,
        place: Place,
        expected_region: &str,
    ) -> Result<Self, S3Error> {
        let mut parts = credential.rsplitn(5, '/');
        let (Some(terminator), Some(service), Some(region), Some(date), Some(access_key)) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(place.malformed(
                "the Credential is mal-formed; expecting \
                 \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\"",
            ));
        };
        if terminator != "aws4_request" {
            return Err(place.malformed("the Credential must end with \"aws4_request\""));
        }
        if service != "s3" {
            return Err(place.malformed("incorrect service; this endpoint belongs to \"s3\""));
        }
        if region.is_empty() {
            let what =
                format!("a non-empty region must be provided; expecting '{expected_region}'");
            return Err(place.malformed(what).detail("Region", expected_region));
        }
        if date.len() != 8 || !date.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(place.malformed("incorrect date format; expecting \"YYYYMMDD\""));
        }
        let text = credential.get(access_key.len() + 1..).unwrap_or_default();
        Ok(Self {
            access_key,
            text,
            date,
            region,
        })
    }

    pub(super) fn refuse_other_date(&self, stamp: &Stamp, place: Place) -> Result<(), S3Error> {
        if stamp.text.starts_with(self.date.as_bytes()) {
            return Ok(());
        }
        Err(place.malformed(format!(
            "Invalid credential date \"{}\". This date is not the same as X-Amz-Date: \"{stamp}\"",
            self.date
        )))
    }
}

/// A request's time, as its signature has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    /// `YYYYMMDDTHHMMSSZ`.
    pub(super) text: [u8; 16],
    pub(super) unix_seconds: i64,
}

impl Stamp {
    /// ISO 8601's basic format, in UTC.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text: [u8; 16] = text.as_bytes().try_into().ok()?;
        let number = |from: usize, to: usize| {
            text.get(from..to)?.iter().try_fold(0_i16, |value, byte| {
                byte.is_ascii_digit()
                    .then(|| value * 10 + i16::from(byte - b'0'))
            })
        };
        let small = |from: usize| i8::try_from(number(from, from + 2)?).ok();
        if text.get(8) != Some(&b'T') || text.get(15) != Some(&b'Z') {
            return None;
        }
        let time = jiff::civil::DateTime::new(
            number(0, 4)?,
            small(4)?,
            small(6)?,
            small(9)?,
            small(11)?,
            small(13)?,
            0,
        );
        let unix_seconds = jiff::tz::TimeZone::UTC
            .to_timestamp(time.ok()?)
            .ok()?
            .as_second();
        Some(Self { text, unix_seconds })
    }

    /// The time of `x-amz-date`, else of `Date`; each in ISO 8601's basic format or HTTP's.
    pub(super) fn of_headers(headers: &HeaderMap) -> Result<Self, S3Error> {
        let text = match single(headers, "x-amz-date")? {
            Some(text) => Some(text),
            None => single(headers, DATE.as_str())?,
        };
        text.and_then(|text| Self::parse(text).or_else(|| Self::parse_http(text)))
            // Before 1970 is no time but a mistake.
            .filter(|stamp| stamp.unix_seconds >= 0)
            .ok_or_else(|| {
                let message = "AWS authentication requires a valid Date or x-amz-date header";
                S3Error::with_message(Code::AccessDenied, message)
            })
    }

    fn parse_http(text: &str) -> Option<Self> {
        let with_zone = || {
            // Not every client knows what day of the week it is.
            jiff::fmt::rfc2822::DateTimeParser::new()
                .relaxed_weekday(true)
                .parse_timestamp(text)
                .ok()
        };
        let in_gmt = || {
            let time = httpdate::parse_http_date(text).ok()?;
            let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
            jiff::Timestamp::from_second(i64::try_from(since.as_secs()).ok()?).ok()
        };
        // Signers of version 2 write the zone as `+0000`.
        let time = in_gmt().or_else(with_zone)?;
        let unix_seconds = time.as_second();
        let text = time.strftime("%Y%m%dT%H%M%SZ").to_string();
        Some(Self {
            text: text.as_bytes().try_into().ok()?,
            unix_seconds,
        })
    }

    pub(super) fn refuse_skew(&self, now: Timestamp) -> Result<(), S3Error> {
        if self.unix_seconds.abs_diff(now.unix_seconds()) <= CLOCK_SKEW_SECONDS_MAX {
            return Ok(());
        }
        Err(S3Error::new(Code::RequestTimeTooSkewed)
            .detail("RequestTime", self.to_string())
            .detail("ServerTime", iso_time(now.unix_seconds()))
            .detail(
                "MaxAllowedSkewMilliseconds",
                (CLOCK_SKEW_SECONDS_MAX * 1000).to_string(),
            ))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text).unwrap_or_default())
    }
}

/// `2024-02-29T12:00:00Z`, as errors tell times.
pub(super) fn iso_time(unix_seconds: i64) -> String {
    jiff::Timestamp::from_second(unix_seconds)
        .map(|time| time.to_string())
        .unwrap_or_default()
}

/// The signing keys of one user that were used last. A key is good for one date and region.
#[derive(Default)]
pub(super) struct SigningKeys {
    recent: ArcSwap<Vec<Arc<CachedKey>>>,
}

impl SigningKeys {
    fn find(&self, scope: &Scope<'_>) -> Option<HmacSha256> {
        let recent = self.recent.load();
        let fits = |key: &&Arc<CachedKey>| *key.date == *scope.date && *key.region == *scope.region;
        recent.iter().find(fits).map(|key| key.key.clone())
    }

    /// Two threads that do this at once may lose one of the two, which costs a derivation later.
    fn remember(&self, scope: &Scope<'_>, key: HmacSha256) {
        let recent = self.recent.load();
        let fresh = CachedKey {
            date: scope.date.into(),
            region: scope.region.into(),
            key,
        };
        let older = recent.iter().take(CACHED_KEYS_MAX - 1).cloned();
        self.recent.store(Arc::new(
            std::iter::once(Arc::new(fresh)).chain(older).collect(),
        ));
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKeys(..)")
    }
}

struct CachedKey {
    date: Box<str>,
    region: Box<str>,
    key: HmacSha256,
}

impl Account {
    /// The key that signs in this scope, remembered or derived.
    pub(super) fn signing_key(&self, scope: &Scope<'_>) -> HmacSha256 {
        let derive = || signing_key(&self.user.secret_key, scope);
        self.signing_keys.find(scope).unwrap_or_else(derive)
    }
}

/// The HMAC state that is keyed for one date, region and service.
fn signing_key(secret: &Secret, scope: &Scope<'_>) -> HmacSha256 {
    let text = secret.reveal();
    let mut first = Zeroizing::new(Vec::with_capacity(4 + text.len()));
    first.extend_from_slice(b"AWS4");
    first.extend_from_slice(text.as_bytes());
    let mut key = keyed(&first);
    for step in [scope.date, scope.region, "s3", "aws4_request"] {
        let next: Zeroizing<[u8; 32]> =
            Zeroizing::new(key.chain_update(step).finalize().into_bytes().into());
        key = keyed(next.as_slice());
    }
    key
}

fn keyed(key: &[u8]) -> HmacSha256 {
    // HMAC takes keys of any length; its interface is shared with ciphers that do not.
    HmacSha256::new_from_slice(key).unwrap_or_else(|_| unreachable!("a key of any length"))
}

/// Lower-case digits without an allocation.
pub(super) fn hex(digest: &[u8; 32]) -> HexDigits {
    let digit = |nibble: u8| {
        if nibble < 10 {
            b'0' + nibble
        } else {
            b'a' + nibble - 10
        }
    };
    let mut digits = [0; 64];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(digest) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
    HexDigits(digits)
}

/// 64 lower-case hexadecimal digits.
#[derive(Clone, Copy)]
pub(super) struct HexDigits([u8; 64]);

impl AsRef<[u8]> for HexDigits {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for HexDigits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|digit| f.write_char(char::from(*digit)))
    }
}

/// The three fields of an Authorization header of version 4.
#[derive(Debug)]
struct Fields<'a> {
    credential: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Fields<'a> {
    fn parse(text: &'a str) -> Result<Self, S3Error> {
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for part in text.split(',') {
            let Some((name, value)) = part.trim().split_once('=') else {
                return Err(Place::Header.malformed("a field is not of the form Name=Value"));
            };
            let field = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => return Err(Place::Header.malformed("it holds an unknown field")),
            };
            if field.replace(value).is_some() {
                return Err(Place::Header.malformed(format!("{name} is there more than once")));
            }
        }
        let missing = |name| Place::Header.malformed(format!("it is missing {name}"));
        Ok(Self {
            credential: credential.ok_or_else(|| missing("Credential"))?,
            signed_headers: signed_headers.ok_or_else(|| missing("SignedHeaders"))?,
            signature: signature.ok_or_else(|| missing("Signature"))?,
        })
    }
}

pub(super) const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Two dates around midnight, a few regions.
const CACHED_KEYS_MAX: usize = 8;
