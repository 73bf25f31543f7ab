//! UploadPart and UploadPartCopy.

use http::StatusCode;

use crate::engine::{Bucket, ChecksumAlgorithm, ETagMode, Part, Range, Upload};
use crate::limits::{PART_NUMBER_MAX, PUT_BYTES_MAX};
use crate::s3::authorize::Access;
use crate::s3::checksum;
use crate::s3::copy::{self, Source};
use crate::s3::error::{Code, S3Error};
use crate::s3::payload::{Digests, Want};
use crate::s3::range::{self, Asked};
use crate::s3::reply::{self, Reply};
use crate::s3::request::ObjectRef;
use crate::s3::sse::{self, CustomerKey, Sink};
use crate::s3::versioning::{self, SOURCE_VERSION_ID};
use crate::s3::xml::Writer as Xml;
use crate::s3::{Call, headers, put, reserve};

pub(crate) async fn upload_part(
    call: Call<'_>,
    bucket: &Bucket,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    headers::refuse_unsupported(&call.head.headers)?;
    let key = CustomerKey::of_object(&call.head.headers, call.local)?;
    let id = super::upload_id(&call);
    let number = part_number(&call)?;
    let upload = bucket
        .upload(&object.key, &id)
        .await
        .map_err(|error| super::missing(error, &id))?;
    sse::check_upload(&upload.plan, key.as_ref())?;
    let algorithm = upload.plan.checksum.map(|(algorithm, _)| algorithm);
    let s3 = call.s3;
    let (mut payload, room) = call
        .payload(Want {
            md5: s3.etags.of_bucket(&object.bucket, bucket).await? == ETagMode::Md5,
            is_data: true,
            algorithm,
            ..Want::default()
        })
        .await?;
    put::check_size(&payload)?;
    refuse_other_algorithm(&upload, payload.checksum_algorithm())?;
    let size = payload.size_bytes();
    let size = size.map(|size| sse::stored_size(size, key.is_some()));
    let quotas = &s3.quotas;
    let _within = quotas
        .claim(&object.bucket, bucket, size.unwrap_or(0))
        .await?;
    let mut writer = bucket
        .begin_part(&object.key, &id, number, size)
        .await
        .map_err(|error| super::missing(error, &id))?;
    writer.set_window(room.bytes());
    let lock = key.as_ref().zip(upload.plan.seal.as_deref());
    let mut sink = Sink::new(writer, lock, number, &s3.entropy);
    put::append_all(&mut payload, &mut sink).await?;
    let (writer, _) = sink.finish().await?;
    let Digests { md5, checksum, .. } = payload.digests();
    let part = writer
        .commit_part(sse::etag(lock, md5, &s3.entropy), checksum)
        .await
        .map_err(|error| super::missing(error, &id))?;
    let mut reply = reply::empty(StatusCode::OK);
    sse::write_key(reply.headers_mut(), key.as_ref());
    headers::write_etag(reply.headers_mut(), part.etag.as_str());
    if let Some(checksum) = &part.checksum {
        headers::write_checksum(reply.headers_mut(), checksum, 0);
    }
    Ok(reply)
}

/// UploadPartCopy: a part from bytes that are here already.
pub(crate) async fn upload_part_copy(
    call: &Call<'_>,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let bucket = &access.bucket;
    headers::refuse_unsupported(&call.head.headers)?;
    let key = CustomerKey::of_object(&call.head.headers, call.local)?;
    let id = super::upload_id(call);
    let number = part_number(call)?;
    let upload = bucket
        .upload(&object.key, &id)
        .await
        .map_err(|error| super::missing(error, &id))?;
    sse::check_upload(&upload.plan, key.as_ref())?;
    let mut source = copy::source(call, access).await?;
    let source_version = source.reader.entry().version.clone();
    let source_bucket = source.bucket.clone();
    if let Some(asked) = call.header("x-amz-copy-source-range") {
        source.range = source_range(asked, source.size_bytes)?;
    }
    if source.range.size_bytes > PUT_BYTES_MAX {
        return Err(Code::EntityTooLarge.into());
    }
    let size = sse::stored_size(source.range.size_bytes, key.is_some());
    let quotas = &call.s3.quotas;
    let _within = quotas.claim(&object.bucket, bucket, size).await?;
    let mut writer = bucket
        .begin_part(&object.key, &id, number, Some(size))
        .await
        .map_err(|error| super::missing(error, &id))?;
    let algorithm = upload.plan.checksum.map(|(algorithm, _)| algorithm);
    let etags = call.s3.etags.of_bucket(&object.bucket, bucket).await?;
    let is_fast = etags == ETagMode::Fast;
    let is_plain = key.is_none() && !source.is_sealed();
    let (etag, checksum) = if is_fast && algorithm.is_none() && is_plain {
        let Source { reader, range, .. } = source;
        writer.append_from(reader.into_stored(), range).await?;
        (sse::etag(None, None, &call.s3.entropy), None)
    } else {
        let room = reserve(call.s3, source.range.size_bytes).await?;
        writer.set_window(room.bytes());
        let lock = key.as_ref().zip(upload.plan.seal.as_deref());
        let mut sink = Sink::new(writer, lock, number, &call.s3.entropy);
        let digests = copy::stream(source, &mut sink, room.bytes(), !is_fast, algorithm).await?;
        (writer, _) = sink.finish().await?;
        let etag = sse::etag(lock, digests.md5, &call.s3.entropy);
        (etag, digests.checksum)
    };
    let part = writer
        .commit_part(etag, checksum)
        .await
        .map_err(|error| super::missing(error, &id))?;
    let mut reply = reply::xml(copy_result(&part));
    sse::write_key(reply.headers_mut(), key.as_ref());
    let headers = reply.headers_mut();
    versioning::write_id(headers, SOURCE_VERSION_ID, &source_bucket, &source_version).await?;
    Ok(reply)
}

fn copy_result(part: &Part) -> String {
    let mut page = Xml::document("CopyPartResult");
    page.time("LastModified", part.modified);
    page.etag(part.etag.as_str());
    if let Some(checksum) = &part.checksum {
        page.leaf(
            checksum::element_name(checksum.algorithm),
            &checksum::format(checksum, 0),
        );
    }
    page.finish("CopyPartResult")
}

/// Both ends must be given and lie within the source.
fn source_range(asked: &str, size_bytes: u64) -> Result<Range, S3Error> {
    let invalid = || {
        S3Error::invalid_argument(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first \
             and last are the zero-based offsets of the first and last bytes to copy",
            "x-amz-copy-source-range",
            asked,
        )
    };
    let ends = asked
        .strip_prefix("bytes=")
        .and_then(|spec| spec.split_once('-'));
    let Some((first, last)) = ends else {
        return Err(invalid());
    };
    if first.is_empty() || last.is_empty() {
        return Err(invalid());
    }
    let beyond = last.parse::<u64>().map_or(true, |last| last >= size_bytes);
    match range::parse(Some(asked), size_bytes) {
        Asked::All => Err(invalid()),
        Asked::Part(range) if !beyond => Ok(range),
        _ => Err(S3Error::invalid_argument(
            format!("Range specified is not valid for source object of size: {size_bytes}"),
            "x-amz-copy-source-range",
            asked,
        )),
    }
}

fn part_number(call: &Call<'_>) -> Result<u32, S3Error> {
    let raw = call.query.get("partNumber").unwrap_or("");
    match raw.parse::<u32>() {
        Ok(number) if (1..=PART_NUMBER_MAX).contains(&number) => Ok(number),
        _ => Err(S3Error::invalid_argument(
            "Part number must be an integer between 1 and 10000, inclusive",
            "partNumber",
            raw,
        )),
    }
}

/// Parts carry the checksum that the upload was opened with, if any.
fn refuse_other_algorithm(upload: &Upload, sent: Option<ChecksumAlgorithm>) -> Result<(), S3Error> {
    let (Some((wanted, _)), Some(sent)) = (upload.plan.checksum, sent) else {
        return Ok(());
    };
    if wanted == sent {
        return Ok(());
    }
    Err(S3Error::with_message(
        Code::InvalidRequest,
        format!(
            "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
            checksum::algorithm_name(wanted).to_lowercase(),
            checksum::algorithm_name(sent).to_lowercase()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_range_has_both_ends_within_the_source() {
        let range = source_range("bytes=2-4", 5).unwrap();
        assert_eq!((range.start_bytes, range.size_bytes), (2, 3));
        for bad in [
            "bytes=2-5",
            "bytes=2-",
            "bytes=-2",
            "2-4",
            "bytes=4-2",
            "bytes=0-0,2-2",
        ] {
            assert_eq!(
                source_range(bad, 5).unwrap_err().code,
                Code::InvalidArgument,
                "{bad}"
            );
        }
    }
}
