//! Object headers: what a PUT says about an object, what a GET gives back, and the headers that
//! ask for something this server does not do, which are refused rather than passed over.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::error::{Code, S3Error};
use super::reply::insert;
use super::{object_lock, sse, tags};
use crate::engine::{Checksum, Entry, Lock, Metadata, UserMetadata};
use crate::limits::USER_METADATA_BYTES_MAX;

const USER_PREFIX: &str = "x-amz-meta-";

/// The metadata that a PUT, CreateMultipartUpload or replacing copy gives.
pub(super) fn metadata(headers: &HeaderMap) -> Result<Metadata, S3Error> {
    let text = |name: HeaderName| -> Result<Option<Box<str>>, S3Error> {
        let Some(value) = headers.get(&name) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| not_utf8(name.as_str()))?;
        Ok((!text.is_empty()).then(|| text.into()))
    };
    let website_redirect = text(HeaderName::from_static("x-amz-website-redirect-location"))?;
    if website_redirect
        .as_deref()
        .is_some_and(|to| !is_redirect(to))
    {
        return Err(S3Error::with_message(
            Code::InvalidRequest,
            "The website redirect location must start with 'http://', 'https://' or '/'.",
        ));
    }
    Ok(Metadata {
        content_type: text(header::CONTENT_TYPE)?,
        content_encoding: text(header::CONTENT_ENCODING)?.and_then(|raw| without_framing(&raw)),
        content_language: text(header::CONTENT_LANGUAGE)?,
        content_disposition: text(header::CONTENT_DISPOSITION)?,
        cache_control: text(header::CACHE_CONTROL)?,
        expires: text(header::EXPIRES)?,
        website_redirect,
        user: user_metadata(headers)?,
        tags: tags::of_header(headers)?,
        acl: None,
        lock: Lock::default(),
    })
}

fn is_redirect(location: &str) -> bool {
    ["http://", "https://", "/"]
        .iter()
        .any(|start| location.starts_with(start))
}

/// `aws-chunked` is how the body travelled, not what the object is.
fn without_framing(raw: &str) -> Option<Box<str>> {
    let kept: Vec<&str> = raw
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!kept.is_empty()).then(|| kept.join(", ").into())
}

/// Repeated headers are joined by a comma, as S3 joins them.
fn user_metadata(headers: &HeaderMap) -> Result<UserMetadata, S3Error> {
    let mut user: UserMetadata = Vec::new();
    for name in headers.keys() {
        let Some(short) = name.as_str().strip_prefix(USER_PREFIX) else {
            continue;
        };
        let mut joined = String::new();
        for (at, value) in headers.get_all(name).iter().enumerate() {
            let value =
                std::str::from_utf8(value.as_bytes()).map_err(|_| not_utf8(name.as_str()))?;
            if at > 0 {
                joined.push(',');
            }
            joined.push_str(value.trim());
        }
        user.push((short.into(), joined.into()));
    }
    let bytes: usize = user
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > USER_METADATA_BYTES_MAX {
        return Err(S3Error::new(Code::MetadataTooLarge)
            .detail("Size", bytes.to_string())
            .detail("MaxSizeAllowed", USER_METADATA_BYTES_MAX.to_string()));
    }
    Ok(user)
}

fn not_utf8(name: &str) -> S3Error {
    S3Error::invalid_argument("The header's value is not UTF-8.", name, "")
}

/// Headers of the object itself, for GET and HEAD.
pub(super) fn write_entry(headers: &mut HeaderMap, entry: &Entry) {
    let meta = &entry.metadata;
    let kind = meta
        .content_type
        .as_deref()
        .unwrap_or("binary/octet-stream");
    insert(headers, header::CONTENT_TYPE, kind);
    for (name, value) in [
        (header::CONTENT_ENCODING, &meta.content_encoding),
        (header::CONTENT_LANGUAGE, &meta.content_language),
        (header::CONTENT_DISPOSITION, &meta.content_disposition),
        (header::CACHE_CONTROL, &meta.cache_control),
        (header::EXPIRES, &meta.expires),
        (
            HeaderName::from_static("x-amz-website-redirect-location"),
            &meta.website_redirect,
        ),
    ] {
        if let Some(value) = value {
            insert(headers, name, value);
        }
    }
    for (name, value) in &meta.user {
        if let Ok(name) = HeaderName::try_from(format!("{USER_PREFIX}{name}")) {
            insert(headers, name, value);
        }
    }
    if !meta.tags.is_empty() {
        headers.insert("x-amz-tagging-count", HeaderValue::from(meta.tags.len()));
    }
    object_lock::write(headers, &meta.lock);
    write_validators(headers, entry);
}

/// ETag and Last-Modified: what a 304 carries too.
pub(super) fn write_validators(headers: &mut HeaderMap, entry: &Entry) {
    write_etag(headers, entry.etag.as_str());
    let modified = httpdate::fmt_http_date(entry.modified.to_system_time());
    insert(headers, header::LAST_MODIFIED, &modified);
}

pub(super) fn write_etag(headers: &mut HeaderMap, etag: &str) {
    let mut quoted = String::with_capacity(etag.len() + 2);
    quoted.push('"');
    quoted.push_str(etag);
    quoted.push('"');
    insert(headers, header::ETAG, &quoted);
}

/// `x-amz-checksum-<algorithm>` and `x-amz-checksum-type`. `parts`: the number of parts, which a
/// composite value carries behind a dash.
pub(super) fn write_checksum(headers: &mut HeaderMap, checksum: &Checksum, parts: usize) {
    let name = HeaderName::from_static(super::checksum::header_name(checksum.algorithm));
    insert(headers, name, &super::checksum::format(checksum, parts));
    let kind = HeaderName::from_static("x-amz-checksum-type");
    headers.insert(
        kind,
        HeaderValue::from_static(super::checksum::kind_name(checksum.kind)),
    );
}

/// Refuses headers that ask for what this server does not do. Storing the object without it
/// would be a silent lie: plaintext where encryption was asked for.
pub(super) fn refuse_unsupported(headers: &HeaderMap) -> Result<(), S3Error> {
    sse::refuse_server_keys(headers)?;
    let class = headers.get("x-amz-storage-class");
    match class.map(|value| value.to_str().unwrap_or("")) {
        None | Some("STANDARD") => Ok(()),
        Some(other) => Err(S3Error::with_message(
            Code::InvalidStorageClass,
            "This server has one storage class, STANDARD.",
        )
        .detail("StorageClassRequested", other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    #[test]
    fn framing_is_never_stored_as_an_encoding() {
        for (sent, stored) in [
            ("aws-chunked", None),
            ("gzip, aws-chunked", Some("gzip")),
            ("deflate, aws-chunked, gzip", Some("deflate, gzip")),
            ("AWS-Chunked,gzip,br", Some("gzip, br")),
            ("gzip", Some("gzip")),
        ] {
            let metadata = metadata(&map(&[("content-encoding", sent)])).unwrap();
            assert_eq!(metadata.content_encoding.as_deref(), stored);
        }
    }

    #[test]
    fn user_metadata_is_joined_utf8_and_bounded() {
        let got = metadata(&map(&[("x-amz-meta-a", "é"), ("x-amz-meta-a", "b")])).unwrap();
        assert_eq!(got.user, vec![("a".into(), "é,b".into())]);
        let long = "v".repeat(2048);
        let error = metadata(&map(&[("x-amz-meta-a", &long)])).unwrap_err();
        assert_eq!(error.code, Code::MetadataTooLarge);
        assert!(metadata(&map(&[("x-amz-meta-a", &long[1..])])).is_ok());
    }

    #[test]
    fn sec_fail_open_what_is_not_done_is_refused() {
        let encryption = map(&[("x-amz-server-side-encryption", "AES256")]);
        let error = refuse_unsupported(&encryption).unwrap_err();
        assert_eq!(error.code, Code::NotImplemented);
        assert!(refuse_unsupported(&map(&[("x-amz-storage-class", "GLACIER")])).is_err());
    }
}
