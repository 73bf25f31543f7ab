//! CreateMultipartUpload.

use http::header::{HeaderMap, HeaderName};

use crate::engine::{ChecksumAlgorithm, ChecksumKind, UploadPlan};
use crate::s3::authorize::Access;
use crate::s3::error::{Code, S3Error};
use crate::s3::reply::{self, Reply};
use crate::s3::request::ObjectRef;
use crate::s3::sse::{self, CustomerKey};
use crate::s3::xml::Writer;
use crate::s3::{Call, acl, checksum, copy, headers, object_lock};

pub(crate) async fn create(
    call: &Call<'_>,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let asked = &call.head.headers;
    headers::refuse_unsupported(asked)?;
    let key = CustomerKey::of_object(asked, call.local)?;
    let checksum = wanted_checksum(asked)?;
    let mut metadata = headers::metadata(asked)?;
    metadata.acl = acl::of_write(access, object).await?;
    metadata.lock = object_lock::of_write(access).await?;
    let plan = UploadPlan {
        metadata,
        checksum,
        initiator: access.caller_id().unwrap_or(ANONYMOUS).into(),
        seal: key.as_ref().map(|key| key.seal(&call.s3.entropy)),
    };
    let id = access.bucket.create_upload(&object.key, plan).await?;
    let mut page = Writer::document("InitiateMultipartUploadResult");
    page.leaf("Bucket", object.bucket.as_str());
    page.leaf("Key", object.key.as_str());
    page.leaf("UploadId", id.as_str());
    let mut reply = reply::xml(page.finish("InitiateMultipartUploadResult"));
    sse::write_key(reply.headers_mut(), key.as_ref());
    if let Some((algorithm, kind)) = checksum {
        let out = reply.headers_mut();
        let name = HeaderName::from_static("x-amz-checksum-algorithm");
        reply::insert(out, name, checksum::algorithm_name(algorithm));
        let name = HeaderName::from_static("x-amz-checksum-type");
        reply::insert(out, name, checksum::kind_name(kind));
    }
    Ok(reply)
}

/// Who opened an upload without a name (S3's own id for it).
const ANONYMOUS: &str = "65a011a29cdf8ec533ec3d1ccaae921c";

/// Algorithm and type; the type defaults as S3's table of algorithms has it.
fn wanted_checksum(
    headers: &HeaderMap,
) -> Result<Option<(ChecksumAlgorithm, ChecksumKind)>, S3Error> {
    let algorithm = copy::wanted_algorithm(headers)?;
    let kind = headers
        .get("x-amz-checksum-type")
        .map(|value| value.to_str().unwrap_or(""));
    let invalid = |message: String| Err(S3Error::with_message(Code::InvalidRequest, message));
    let Some(algorithm) = algorithm else {
        return match kind {
            None => Ok(None),
            Some(_) => invalid(
                "The x-amz-checksum-type header can only be used with the \
                 x-amz-checksum-algorithm header."
                    .to_owned(),
            ),
        };
    };
    let kind = match kind {
        None => checksum::default_kind(algorithm),
        Some("COMPOSITE") => ChecksumKind::Composite,
        Some("FULL_OBJECT") => ChecksumKind::FullObject,
        Some(other) => {
            return invalid(format!("Value for x-amz-checksum-type is invalid: {other}"));
        }
    };
    if !checksum::upload_supports(algorithm, kind) {
        return invalid(format!(
            "The {} checksum type cannot be used with the {} checksum algorithm.",
            checksum::kind_name(kind),
            checksum::algorithm_name(algorithm).to_lowercase()
        ));
    }
    Ok(Some((algorithm, kind)))
}
