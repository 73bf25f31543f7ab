//! GetBucketVersioning and PutBucketVersioning, and what the verbs of objects say about versions.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::Call;
use super::error::{Code, S3Error};
use super::payload::Want;
use super::reply::{self, Reply};
use super::request::ObjectRef;
use super::xml::{Element, Writer, malformed};
use crate::engine::{Bucket, EngineError, VersionId, Versioning};
use crate::limits::XML_BYTES_MAX;

/// GetBucketVersioning: the empty element for a bucket that never kept versions.
pub(super) async fn get(bucket: &Bucket) -> Result<Reply, S3Error> {
    let mut page = Writer::document("VersioningConfiguration");
    match bucket.config().await?.versioning {
        None => {}
        Some(Versioning::Enabled) => page.leaf("Status", "Enabled"),
        Some(Versioning::Suspended) => page.leaf("Status", "Suspended"),
    }
    Ok(reply::xml(page.finish("VersioningConfiguration")))
}

/// PutBucketVersioning. There is no way back to a bucket that never kept versions.
pub(super) async fn put(call: Call<'_>, bucket: &Bucket) -> Result<Reply, S3Error> {
    let (payload, _room) = call.payload(Want::default()).await?;
    let body = payload.collect(XML_BYTES_MAX).await?;
    let versioning = parse(&body)?;
    bucket
        .change_config(move |config| {
            if config.lock.is_some() && versioning == Versioning::Suspended {
                return Err(S3Error::with_message(
                    Code::InvalidBucketState,
                    "An Object Lock configuration is present on this bucket, so the versioning \
                     state cannot be changed.",
                ));
            }
            config.versioning = Some(versioning);
            Ok(())
        })
        .await?;
    Ok(reply::empty(http::StatusCode::OK))
}

fn parse(body: &[u8]) -> Result<Versioning, S3Error> {
    let root = Element::parse(body, "VersioningConfiguration")?;
    root.only(&["Status", "MfaDelete"])?;
    match root.text_of("MfaDelete")? {
        None | Some("Disabled") => {}
        Some("Enabled") => return Err(super::route::not_implemented("MFA delete")),
        Some(_) => return Err(malformed("MfaDelete is neither Enabled nor Disabled")),
    }
    match root.text_of("Status")? {
        Some("Enabled") => Ok(Versioning::Enabled),
        Some("Suspended") => Ok(Versioning::Suspended),
        Some(_) => Err(malformed("Status is neither Enabled nor Suspended")),
        None => Err(S3Error::new(Code::IllegalVersioningConfigurationException)),
    }
}

/// The version that the query asks for.
pub(super) fn asked(call: &Call<'_>) -> Result<Option<VersionId>, S3Error> {
    match call.query.get("versionId") {
        None => Ok(None),
        Some("") => Err(S3Error::invalid_argument(
            "Version id cannot be the empty string",
            "versionId",
            "",
        )),
        Some(id) => Ok(Some(VersionId::parse(id))),
    }
}

/// The id of the version that was written. The null version, which a suspended bucket writes, is
/// not told, as on S3.
pub(super) fn write_new_id(headers: &mut HeaderMap, version: &VersionId) {
    if let VersionId::Named(id) = version {
        reply::insert(headers, VERSION_ID, id);
    }
}

/// The id of the version that was read, `null` too where the bucket keeps versions or once did.
/// `name`: [`VERSION_ID`], or [`SOURCE_VERSION_ID`] of a copy.
pub(super) async fn write_id(
    headers: &mut HeaderMap,
    name: HeaderName,
    bucket: &Bucket,
    version: &VersionId,
) -> Result<(), S3Error> {
    let is_told = match version {
        VersionId::Named(_) => true,
        VersionId::Null => bucket.config().await?.versioning.is_some(),
    };
    if is_told {
        reply::insert(headers, name, version.as_str());
    }
    Ok(())
}

/// What a verb answers that found no entry of `object`. `asked`: the version that it looked for.
pub(super) fn missing(
    error: EngineError,
    object: &ObjectRef,
    asked: Option<&VersionId>,
) -> S3Error {
    let mark = HeaderValue::from_static("true");
    match (error, asked) {
        (EngineError::DeleteMarker { version, .. }, None) => S3Error::new(Code::NoSuchKey)
            .detail("Key", object.key.as_str())
            .header(DELETE_MARKER, mark)
            .text_header(VERSION_ID, version.as_str()),
        (EngineError::DeleteMarker { version, modified }, Some(_)) => {
            let modified = httpdate::fmt_http_date(modified.to_system_time());
            S3Error::new(Code::MethodNotAllowed)
                .detail("Method", "GET")
                .detail("ResourceType", "DeleteMarker")
                .header(DELETE_MARKER, mark)
                .header(header::ALLOW, HeaderValue::from_static("DELETE"))
                .text_header(VERSION_ID, version.as_str())
                .text_header(header::LAST_MODIFIED, &modified)
        }
        (error @ EngineError::NoSuchVersion, Some(asked)) => S3Error::from(error)
            .detail("Key", object.key.as_str())
            .detail("VersionId", asked.as_str()),
        (error @ EngineError::NoSuchKey, _) => {
            S3Error::from(error).detail("Key", object.key.as_str())
        }
        (error, _) => error.into(),
    }
}

pub(super) const VERSION_ID: HeaderName = HeaderName::from_static("x-amz-version-id");
pub(super) const SOURCE_VERSION_ID: HeaderName =
    HeaderName::from_static("x-amz-copy-source-version-id");
pub(super) const DELETE_MARKER: HeaderName = HeaderName::from_static("x-amz-delete-marker");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_enabled_or_suspended() {
        let parse = |inner: &str| {
            let body = format!("<VersioningConfiguration>{inner}</VersioningConfiguration>");
            parse(body.as_bytes()).map_err(|error| error.code)
        };
        assert_eq!(parse("<Status>Enabled</Status>"), Ok(Versioning::Enabled));
        let both = "<MfaDelete>Disabled</MfaDelete><Status>Suspended</Status>";
        assert_eq!(parse(both), Ok(Versioning::Suspended));
        for (inner, code) in [
            ("", Code::IllegalVersioningConfigurationException),
            ("<Status>enabled</Status>", Code::MalformedXML),
            ("<Status></Status>", Code::MalformedXML),
            (
                "<Status>Enabled</Status><Status>Enabled</Status>",
                Code::MalformedXML,
            ),
            ("<Other/>", Code::MalformedXML),
            (
                "<MfaDelete>Enabled</MfaDelete><Status>Enabled</Status>",
                Code::NotImplemented,
            ),
        ] {
            assert_eq!(parse(inner), Err(code), "{inner}");
        }
    }
}
