//! GetObject and HeadObject.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::authorize::Access;
use super::checksum::Verifier;
use super::conditions::{self, ReadConditions, Verdict};
use super::error::{Code, S3Error};
use super::range::{self, Asked};
use super::reply::{self, Reply, ReplyBody};
use super::request::ObjectRef;
use super::route::Operation;
use super::sse::{self, CustomerKey, Opened};
use super::versioning::{self, VERSION_ID};
use super::{Call, checksum, headers, reserve};
use crate::engine::{Bucket, Entry, Range};
use crate::limits::PART_NUMBER_MAX;

/// GetObject: the bytes of the entry that was current when it was opened.
pub(super) async fn object(
    call: &Call<'_>,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let bucket = &access.bucket;
    let version = versioning::asked(call)?;
    let key = customer_key(call)?;
    let opened = match &version {
        None => bucket.open(&object.key).await,
        Some(version) => bucket.open_version(&object.key, version).await,
    };
    let reader = opened.map_err(|error| versioning::missing(error, object, version.as_ref()))?;
    let operation = Operation::GetObject;
    access
        .confirm(operation, &object.key, reader.entry())
        .await?;
    let opened = Opened::new(reader, key.as_ref())?;
    let (mut reply, range) = head_of(call, opened.entry())?;
    let version = &opened.entry().version;
    versioning::write_id(reply.headers_mut(), VERSION_ID, bucket, version).await?;
    sse::write_key(reply.headers_mut(), key.as_ref());
    if range.size_bytes > 0 {
        let permit = reserve(call.s3, range.size_bytes).await?;
        let verifier = verifier(&opened, &range);
        let bytes = opened.read(range).await?;
        let body = reply.body_mut();
        *body = ReplyBody::stream(bytes, range.size_bytes, permit);
        if let Some(verifier) = verifier {
            body.verify(verifier);
        }
    } else {
        opened.check_empty().await?;
    }
    Ok(reply)
}

/// A read of the whole object is compared with its checksum, if nobody else verifies what is read.
fn verifier(opened: &Opened, range: &Range) -> Option<Verifier> {
    let entry = opened.entry();
    let is_wanted = range.size_bytes == entry.size_bytes && !opened.verifies();
    let checksum = entry.checksum.as_ref().filter(|_| is_wanted)?;
    Verifier::new(checksum)
}

/// HeadObject: GetObject's head.
pub(super) async fn head(
    call: &Call<'_>,
    bucket: &Bucket,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let key = customer_key(call)?;
    let entry = find_readable(call, bucket, object, key.as_ref()).await?;
    let (mut reply, range) = head_of(call, &entry)?;
    versioning::write_id(reply.headers_mut(), VERSION_ID, bucket, &entry.version).await?;
    sse::write_key(reply.headers_mut(), key.as_ref());
    reply
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(range.size_bytes));
    Ok(reply)
}

/// What [`find`] finds, as clients see it; if it is sealed, only to who has its key.
pub(super) async fn find_readable(
    call: &Call<'_>,
    bucket: &Bucket,
    object: &ObjectRef,
    key: Option<&CustomerKey>,
) -> Result<Arc<Entry>, S3Error> {
    let entry = find(call, bucket, object).await?;
    sse::check(entry.seal.as_deref(), key)?;
    Ok(sse::shown(&entry))
}

/// The entry that the request is about: the current one, or the version that it names.
pub(super) async fn find(
    call: &Call<'_>,
    bucket: &Bucket,
    object: &ObjectRef,
) -> Result<Arc<Entry>, S3Error> {
    let version = versioning::asked(call)?;
    let found = match &version {
        None => bucket.head(&object.key).await,
        Some(version) => bucket.head_version(&object.key, version).await,
    };
    found.map_err(|error| versioning::missing(error, object, version.as_ref()))
}

/// Status and headers of a read, and the bytes it covers.
fn head_of(call: &Call<'_>, entry: &Entry) -> Result<(Reply, Range), S3Error> {
    let asked_headers = &call.head.headers;
    match ReadConditions::of_read(asked_headers).judge(entry) {
        Verdict::Go => {}
        Verdict::NotModified => return Err(not_modified(entry)),
        Verdict::Failed(condition) => return Err(conditions::failed(condition)),
    }
    let selection = select(call, entry)?;
    let mut reply = Response::new(ReplyBody::default());
    *reply.status_mut() = selection.status;
    let out = reply.headers_mut();
    out.reserve(12);
    headers::write_entry(out, entry);
    out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if selection.status == StatusCode::PARTIAL_CONTENT && entry.size_bytes > 0 {
        let Range {
            start_bytes,
            size_bytes,
        } = selection.range;
        let last = start_bytes + size_bytes - 1;
        let text = format!("bytes {start_bytes}-{last}/{}", entry.size_bytes);
        reply::insert(out, header::CONTENT_RANGE, &text);
    }
    if let Some(parts) = selection.parts_count {
        out.insert("x-amz-mp-parts-count", HeaderValue::from(parts));
    }
    write_checksum(call, out, entry, &selection);
    override_headers(call, out)?;
    Ok((reply, selection.range))
}

/// The key for a read. Encryption with keys of the server is nothing that a read could ask for.
pub(super) fn customer_key(call: &Call<'_>) -> Result<Option<CustomerKey>, S3Error> {
    let headers = &call.head.headers;
    if let Some(name) = sse::server_key_header(headers) {
        let message = "The header is not supported for this operation.";
        return Err(S3Error::invalid_argument(message, name, ""));
    }
    CustomerKey::of_object(headers, call.local)
}

/// What of the object is asked for.
struct Selection {
    range: Range,
    status: StatusCode,
    /// The index of the part that `partNumber` selected.
    part: Option<usize>,
    parts_count: Option<u64>,
}

fn select(call: &Call<'_>, entry: &Entry) -> Result<Selection, S3Error> {
    let all = Range {
        start_bytes: 0,
        size_bytes: entry.size_bytes,
    };
    let range_header = call.header("range").filter(|_| if_range_holds(call, entry));
    if let Some(number) = call.query.get("partNumber") {
        if range_header.is_some() {
            return Err(S3Error::with_message(
                Code::InvalidRequest,
                "Cannot specify both Range header and partNumber query parameter",
            ));
        }
        return select_part(number, entry, all);
    }
    let (range, status) = match range::parse(range_header, entry.size_bytes) {
        Asked::All => (all, StatusCode::OK),
        Asked::Part(range) => (range, StatusCode::PARTIAL_CONTENT),
        Asked::Outside => return Err(outside(entry, range_header.unwrap_or(""))),
    };
    Ok(Selection {
        range,
        status,
        part: None,
        parts_count: None,
    })
}

fn select_part(number: &str, entry: &Entry, all: Range) -> Result<Selection, S3Error> {
    let wanted = number
        .parse::<u32>()
        .ok()
        .filter(|n| (1..=PART_NUMBER_MAX).contains(n));
    let Some(wanted) = wanted else {
        return Err(S3Error::invalid_argument(
            "Part number must be an integer between 1 and 10000, inclusive",
            "partNumber",
            number,
        ));
    };
    let none = || {
        let count = entry.parts.len().max(1);
        Err(S3Error::new(Code::InvalidPartNumber)
            .detail("PartNumberRequested", number)
            .detail("ActualPartCount", count.to_string()))
    };
    let status = StatusCode::PARTIAL_CONTENT;
    if entry.parts.is_empty() {
        let whole = Selection {
            range: all,
            status,
            part: None,
            parts_count: None,
        };
        return if wanted == 1 { Ok(whole) } else { none() };
    }
    let mut start_bytes = 0;
    for (at, part) in entry.parts.iter().enumerate() {
        if part.number == wanted {
            let range = Range {
                start_bytes,
                size_bytes: part.size_bytes,
            };
            let parts_count = u64::try_from(entry.parts.len()).ok();
            return Ok(Selection {
                range,
                status,
                part: Some(at),
                parts_count,
            });
        }
        start_bytes += part.size_bytes;
    }
    none()
}

/// `If-Range` with another ETag or date than the object's makes the range void (RFC 9110 13.1.5).
fn if_range_holds(call: &Call<'_>, entry: &Entry) -> bool {
    let Some(raw) = call.header("if-range") else {
        return true;
    };
    match conditions::parse_time(raw) {
        Some(at) => at.unix_seconds() == entry.modified.unix_seconds(),
        None => conditions::parse_etag(raw) == entry.etag,
    }
}

/// 416. aws-crt learns from `ActualObjectSize` that an object is empty.
fn outside(entry: &Entry, asked: &str) -> S3Error {
    let total = format!("bytes */{}", entry.size_bytes);
    let error = S3Error::new(Code::InvalidRange)
        .detail("RangeRequested", asked)
        .detail("ActualObjectSize", entry.size_bytes.to_string());
    match HeaderValue::from_str(&total) {
        Ok(value) => error.header(header::CONTENT_RANGE, value),
        Err(_) => error,
    }
}

/// 304 carries the validators of what the client has.
fn not_modified(entry: &Entry) -> S3Error {
    let mut validators = HeaderMap::new();
    headers::write_validators(&mut validators, entry);
    if let Some(value) = &entry.metadata.cache_control {
        reply::insert(&mut validators, header::CACHE_CONTROL, value);
    }
    let mut error = S3Error::new(Code::NotModified);
    error.headers = validators
        .into_iter()
        .filter_map(|(name, value)| Some((name?, value)))
        .collect();
    error
}

/// Only who asks gets checksums, and only for bytes that they cover: all of the object, or the
/// part that was named.
fn write_checksum(call: &Call<'_>, out: &mut HeaderMap, entry: &Entry, selection: &Selection) {
    let enabled = call
        .header("x-amz-checksum-mode")
        .is_some_and(|mode| mode == "ENABLED");
    if !enabled {
        return;
    }
    let whole = selection.range.size_bytes == entry.size_bytes;
    if let Some(part) = selection.part.and_then(|at| entry.parts.get(at)) {
        if let Some(checksum) = &part.checksum {
            headers::write_checksum(out, checksum, 0);
            // The type says how the object's checksum is made of such ones.
            let of_object = entry
                .checksum
                .as_ref()
                .map_or(checksum.kind, |sum| sum.kind);
            let kind = HeaderValue::from_static(checksum::kind_name(of_object));
            out.insert("x-amz-checksum-type", kind);
        }
    } else if let Some(checksum) = entry.checksum.as_ref().filter(|_| whole) {
        headers::write_checksum(out, checksum, entry.parts.len());
    }
}

/// `response-*`: only in signed requests, since a link's maker vouches for what it shows.
fn override_headers(call: &Call<'_>, out: &mut HeaderMap) -> Result<(), S3Error> {
    let overrides: [(&str, HeaderName); 6] = [
        ("response-content-type", header::CONTENT_TYPE),
        ("response-content-language", header::CONTENT_LANGUAGE),
        ("response-expires", header::EXPIRES),
        ("response-cache-control", header::CACHE_CONTROL),
        ("response-content-disposition", header::CONTENT_DISPOSITION),
        ("response-content-encoding", header::CONTENT_ENCODING),
    ];
    for (name, header) in overrides {
        let Some(value) = call.query.get(name) else {
            continue;
        };
        if matches!(call.identity(), super::Identity::Anonymous) {
            return Err(S3Error::with_message(
                Code::InvalidRequest,
                "Request specific response headers cannot be used for anonymous GET requests.",
            ));
        }
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
            S3Error::invalid_argument("The value cannot stand in a header.", name, "")
        })?;
        out.insert(header, value);
    }
    Ok(())
}
