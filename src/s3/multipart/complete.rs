//! CompleteMultipartUpload.

use crate::engine::{
    Bucket, Checksum, CompletePlan, ETag, EngineError, Entry, ObjectKey, Part, PartRef, Upload,
    UploadId,
};
use crate::limits::{COMPLETE_XML_BYTES_MAX, PART_BYTES_MIN, PART_NUMBER_MAX};
use crate::s3::checksum::PartDigest;
use crate::s3::error::{Code, S3Error};
use crate::s3::payload::Want;
use crate::s3::reply::{self, Reply};
use crate::s3::request::ObjectRef;
use crate::s3::sse::{self, CustomerKey};
use crate::s3::xml::{Element, Writer, malformed};
use crate::s3::{Call, checksum, conditions, put, versioning};

pub(crate) async fn complete(
    call: Call<'_>,
    bucket: &Bucket,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let (s3, head) = (call.s3, call.head);
    let id = super::upload_id(&call);
    let key = CustomerKey::of_object(&head.headers, call.local)?;
    let precondition = conditions::of_write(&head.headers)?;
    let host = crate::s3::host_of(head).unwrap_or("localhost").to_owned();
    let (payload, _room) = call
        .payload(Want {
            object_checksum: true,
            ..Want::default()
        })
        .await?;
    let body = payload.collect(COMPLETE_XML_BYTES_MAX).await?;
    let listed = parse(&body)?;
    put::check_early(bucket, object, &precondition).await?;
    let plan = match stored_parts(bucket, &object.key, &id).await {
        Ok((upload, mut stored)) => {
            check_key(&upload, key.as_ref())?;
            let is_sealed = upload.plan.seal.is_some();
            for part in &mut stored {
                part.size_bytes = sse::part_size(part, is_sealed);
            }
            let parts = match_parts(&listed, &stored)?;
            check_size_header(head, &parts)?;
            let sum = object_checksum(&upload, &parts)?;
            check_checksum_header(head, sum.as_ref(), parts.len())?;
            CompletePlan {
                etag: etag_of(parts.iter().map(|part| &part.etag))?,
                parts: parts.iter().map(|part| part_ref(part, is_sealed)).collect(),
                plain_bytes: parts.iter().map(|part| part.size_bytes).sum(),
                checksum: sum,
                precondition,
            }
        }
        // It may be a repetition of a request that succeeded: the engine knows. ETags that no part
        // can have name no such upload.
        Err(EngineError::NoSuchUpload) => CompletePlan {
            etag: etag_of(listed.iter().map(|part| &part.etag))
                .map_err(|_| super::missing(EngineError::NoSuchUpload, &id))?,
            parts: Vec::new(),
            checksum: None,
            precondition,
            plain_bytes: 0,
        },
        Err(error) => return Err(error.into()),
    };
    let etag = plan.etag.clone();
    let size_bytes = plan.parts.iter().map(|part| part.size_bytes).sum();
    let _within = s3.quotas.claim(&object.bucket, bucket, size_bytes).await?;
    let entry = bucket
        .complete(&object.key, &id, plan)
        .await
        .map_err(|error| match error {
            EngineError::NoSuchKey => versioning::missing(error, object, None),
            error => super::missing(error, &id),
        })?;
    if entry.etag != etag {
        return Err(super::missing(EngineError::NoSuchUpload, &id));
    }
    let mut reply = reply::xml(result(object, &entry, &host));
    sse::write_key(reply.headers_mut(), key.as_ref());
    versioning::write_new_id(reply.headers_mut(), &entry.version);
    Ok(reply)
}

fn result(object: &ObjectRef, entry: &Entry, host: &str) -> String {
    let mut page = Writer::document("CompleteMultipartUploadResult");
    page.leaf(
        "Location",
        &format!("http://{host}/{}/{}", object.bucket, object.key),
    );
    page.leaf("Bucket", object.bucket.as_str());
    page.leaf("Key", object.key.as_str());
    page.etag(entry.etag.as_str());
    if let Some(sum) = &entry.checksum {
        let name = checksum::element_name(sum.algorithm);
        page.leaf(name, &checksum::format(sum, entry.parts.len()));
        page.leaf("ChecksumType", checksum::kind_name(sum.kind));
    }
    page.finish("CompleteMultipartUploadResult")
}

/// The upload and all its parts.
async fn stored_parts(
    bucket: &Bucket,
    key: &ObjectKey,
    id: &UploadId,
) -> Result<(std::sync::Arc<Upload>, Vec<Part>), EngineError> {
    let most = usize::try_from(PART_NUMBER_MAX).unwrap_or(usize::MAX);
    let page = bucket.list_parts(key, id, 0, most).await?;
    Ok((page.upload, page.parts))
}

/// A part as the client lists it.
#[derive(Debug)]
struct Listed {
    number: u32,
    etag: ETag,
    checksums: Vec<(String, String)>,
}

fn parse(body: &[u8]) -> Result<Vec<Listed>, S3Error> {
    let root = Element::parse(body, "CompleteMultipartUpload")?;
    root.only(&["Part"])?;
    if root.children.is_empty() {
        return Err(malformed("it names no parts"));
    }
    let listed = root
        .children
        .iter()
        .map(parse_part)
        .collect::<Result<Vec<_>, _>>()?;
    let ascending = listed.windows(2).all(|pair| match pair {
        [one, two] => one.number < two.number,
        _ => true,
    });
    if ascending {
        Ok(listed)
    } else {
        Err(Code::InvalidPartOrder.into())
    }
}

fn parse_part(element: &Element) -> Result<Listed, S3Error> {
    let number = element
        .text_of("PartNumber")?
        .and_then(|raw| raw.trim().parse::<u32>().ok());
    let number = number.ok_or_else(|| malformed("a Part has no PartNumber"))?;
    if !(1..=PART_NUMBER_MAX).contains(&number) {
        return Err(S3Error::invalid_argument(
            "PartNumber must be between 1 and 10000, inclusive",
            "partNumber",
            number.to_string(),
        ));
    }
    let etag = element
        .text_of("ETag")?
        .ok_or_else(|| malformed("a Part has no ETag"))?;
    let mut checksums = Vec::new();
    for child in &element.children {
        match child.name.as_str() {
            "PartNumber" | "ETag" => {}
            name if name.starts_with("Checksum") => {
                checksums.push((name.to_owned(), child.text.trim().to_owned()));
            }
            name => return Err(malformed(&format!("Part must not hold an element {name}"))),
        }
    }
    Ok(Listed {
        number,
        etag: conditions::parse_etag(etag),
        checksums,
    })
}

/// The stored parts that the client lists, in order; each must be what it says and, but for the
/// last, at least 5 MiB.
fn match_parts(listed: &[Listed], stored: &[Part]) -> Result<Vec<Part>, S3Error> {
    let mut parts = Vec::with_capacity(listed.len());
    for (at, line) in listed.iter().enumerate() {
        let found = stored
            .binary_search_by_key(&line.number, |part| part.number)
            .ok();
        let part = found
            .and_then(|at| stored.get(at))
            .filter(|part| part.etag == line.etag);
        let Some(part) = part else {
            return Err(S3Error::new(Code::InvalidPart)
                .detail("PartNumber", line.number.to_string())
                .detail("ETag", line.etag.as_str()));
        };
        check_part_checksums(line, part)?;
        if at + 1 < listed.len() && part.size_bytes < PART_BYTES_MIN {
            return Err(S3Error::new(Code::EntityTooSmall)
                .detail("ETag", part.etag.as_str())
                .detail("MinSizeAllowed", PART_BYTES_MIN.to_string())
                .detail("PartNumber", part.number.to_string())
                .detail("ProposedSize", part.size_bytes.to_string()));
        }
        parts.push(part.clone());
    }
    Ok(parts)
}

fn check_part_checksums(line: &Listed, part: &Part) -> Result<(), S3Error> {
    for (name, value) in &line.checksums {
        let fits = part.checksum.as_ref().is_some_and(|sum| {
            *name == checksum::element_name(sum.algorithm) && *value == checksum::format(sum, 0)
        });
        if !fits {
            return Err(S3Error::new(Code::InvalidPart)
                .detail("PartNumber", line.number.to_string())
                .detail(
                    "Reason",
                    format!("the part's {name} is not the one that was stored with it"),
                ));
        }
    }
    Ok(())
}

/// `x-amz-mp-object-size`: what the client believes to have uploaded.
fn check_size_header(head: &http::request::Parts, parts: &[Part]) -> Result<(), S3Error> {
    let Some(raw) = head.headers.get("x-amz-mp-object-size") else {
        return Ok(());
    };
    let raw = raw.to_str().unwrap_or("");
    let size: u64 = parts.iter().map(|part| part.size_bytes).sum();
    match raw.parse::<u64>() {
        Ok(said) if said == size => Ok(()),
        Ok(_) => Err(S3Error::with_message(
            Code::InvalidRequest,
            format!(
                "The provided 'x-amz-mp-object-size' header value {raw} does not match what was \
                 computed: {size}"
            ),
        )),
        Err(_) => Err(S3Error::invalid_argument(
            "Value for x-amz-mp-object-size header is invalid.",
            "x-amz-mp-object-size",
            raw,
        )),
    }
}

/// The object's checksum from its parts', as the upload was opened for.
fn object_checksum(upload: &Upload, parts: &[Part]) -> Result<Option<Checksum>, S3Error> {
    let Some((algorithm, kind)) = upload.plan.checksum else {
        return Ok(None);
    };
    let digests = parts.iter().map(|part| PartDigest {
        // A part without a digest makes the combination fail: no digest is of length 0.
        digest: part.checksum.as_ref().map_or(&[], |sum| &*sum.digest),
        size_bytes: part.size_bytes,
    });
    checksum::of_parts(algorithm, kind, digests)
        .map(Some)
        .ok_or_else(|| {
            S3Error::with_message(
                Code::InvalidRequest,
                "The upload was created using a checksum, but a part has none of that kind.",
            )
        })
}

/// `x-amz-checksum-*` of the whole object, and `x-amz-checksum-type`.
fn check_checksum_header(
    head: &http::request::Parts,
    computed: Option<&Checksum>,
    parts: usize,
) -> Result<(), S3Error> {
    let headers = &head.headers;
    if let (Some(kind), Some(computed)) = (headers.get("x-amz-checksum-type"), computed)
        && kind.as_bytes() != checksum::kind_name(computed.kind).as_bytes()
    {
        return Err(S3Error::with_message(
            Code::InvalidRequest,
            format!(
                "The upload was created using the {} checksum type. The complete request must use \
                 the same checksum type.",
                checksum::kind_name(computed.kind)
            ),
        ));
    }
    let Some(computed) = computed else {
        return Ok(());
    };
    let Some(said) = checksum::from_headers(headers)? else {
        return Ok(());
    };
    let counts = said
        .parts
        .is_none_or(|said| usize::try_from(said).is_ok_and(|n| n == parts));
    if said.algorithm == computed.algorithm && said.digest == computed.digest && counts {
        return Ok(());
    }
    Err(S3Error::with_message(
        Code::BadDigest,
        format!(
            "The {} you specified did not match the calculated checksum.",
            checksum::algorithm_name(computed.algorithm)
        ),
    ))
}

fn etag_of<'a>(etags: impl IntoIterator<Item = &'a ETag>) -> Result<ETag, S3Error> {
    checksum::etag_of_parts(etags).ok_or_else(|| Code::InvalidPart.into())
}

fn part_ref(part: &Part, is_sealed: bool) -> PartRef {
    PartRef {
        number: part.number,
        etag: part.etag.clone(),
        size_bytes: sse::stored_size(part.size_bytes, is_sealed),
    }
}

/// The key of a sealed upload is needed only where checksums are (S3's API reference); one that is
/// given must be the upload's.
fn check_key(upload: &Upload, key: Option<&CustomerKey>) -> Result<(), S3Error> {
    match key {
        None if upload.plan.checksum.is_none() => Ok(()),
        key => sse::check_upload(&upload.plan, key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(parts: &[(u32, &str)]) -> Vec<u8> {
        let lines = parts.iter().map(|(number, etag)| {
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
        });
        let inner: String = lines.collect();
        format!("<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>").into_bytes()
    }

    fn stored(number: u32, size_bytes: u64) -> Part {
        Part {
            number,
            size_bytes,
            etag: ETag::new(format!("e{number}")),
            modified: Default::default(),
            checksum: None,
        }
    }

    #[test]
    fn parts_are_listed_once_each_in_order() {
        assert_eq!(parse(&body(&[(1, "\"e1\""), (7, "e7")])).unwrap().len(), 2);
        for (parts, code) in [
            (vec![], Code::MalformedXML),
            (vec![(2, "a"), (1, "b")], Code::InvalidPartOrder),
            (vec![(1, "a"), (1, "b")], Code::InvalidPartOrder),
            (vec![(0, "a")], Code::InvalidArgument),
            (vec![(10_001, "a")], Code::InvalidArgument),
        ] {
            assert_eq!(parse(&body(&parts)).unwrap_err().code, code, "{parts:?}");
        }
    }

    #[test]
    fn listed_parts_must_be_the_stored_ones_and_large_enough() {
        let stored = [stored(1, PART_BYTES_MIN), stored(2, 1), stored(3, 1)];
        let pick = |parts: &[(u32, &str)]| {
            let listed = parse(&body(parts)).unwrap();
            match_parts(&listed, &stored)
                .map(|parts| parts.len())
                .map_err(|error| error.code)
        };
        assert_eq!(pick(&[(1, "e1"), (3, "e3")]), Ok(2));
        assert_eq!(pick(&[(1, "e2")]), Err(Code::InvalidPart));
        assert_eq!(pick(&[(4, "e4")]), Err(Code::InvalidPart));
        assert_eq!(pick(&[(2, "e2"), (3, "e3")]), Err(Code::EntityTooSmall));
    }
}
