//! ListParts.

use crate::engine::Bucket;
use crate::limits::{LIST_ITEMS_MAX, LIST_SHORT_ITEM_MEMORY_BYTES, PART_NUMBER_MAX};
use crate::s3::acl::Acl;
use crate::s3::error::S3Error;
use crate::s3::list::{Owner, display_name};
use crate::s3::reply::{self, Reply};
use crate::s3::request::ObjectRef;
use crate::s3::xml::Writer;
use crate::s3::{Call, checksum, reserve_bytes, sse};

pub(crate) async fn list_parts(
    call: &Call<'_>,
    bucket: &Bucket,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let id = super::upload_id(call);
    let most = u32::try_from(LIST_ITEMS_MAX).unwrap_or(u32::MAX);
    let limit = call.query.number("max-parts", most, most)?;
    let after = call
        .query
        .number("part-number-marker", 0, PART_NUMBER_MAX)?;
    let items = usize::try_from(limit).unwrap_or(LIST_ITEMS_MAX);
    let room = reserve_bytes(call.s3, items * LIST_SHORT_ITEM_MEMORY_BYTES).await?;
    let page = bucket
        .list_parts(&object.key, &id, after, items)
        .await
        .map_err(|error| super::missing(error, &id))?;
    let plan = &page.upload.plan;
    let mut owner = Owner::of(call, bucket).await?;
    if let Some(acl) = plan.metadata.acl.as_deref().and_then(Acl::decode) {
        owner.name = display_name(call, &acl.owner);
        owner.id = acl.owner;
    }
    let mut xml = Writer::document("ListPartsResult");
    xml.leaf("Bucket", object.bucket.as_str());
    xml.leaf("Key", object.key.as_str());
    xml.leaf("UploadId", id.as_str());
    xml.person(
        "Initiator",
        &plan.initiator,
        &display_name(call, &plan.initiator),
    );
    xml.person("Owner", &owner.id, &owner.name);
    xml.leaf("StorageClass", "STANDARD");
    if let Some((algorithm, kind)) = plan.checksum {
        xml.leaf("ChecksumAlgorithm", checksum::algorithm_name(algorithm));
        xml.leaf("ChecksumType", checksum::kind_name(kind));
    }
    xml.number("PartNumberMarker", u64::from(after));
    let next = page.parts.last().map_or(after, |part| part.number);
    xml.number("NextPartNumberMarker", u64::from(next));
    xml.number("MaxParts", u64::from(limit));
    xml.boolean("IsTruncated", page.truncated);
    for part in &page.parts {
        xml.open("Part");
        xml.number("PartNumber", u64::from(part.number));
        xml.time("LastModified", part.modified);
        xml.etag(part.etag.as_str());
        xml.number("Size", sse::part_size(part, plan.seal.is_some()));
        if let Some(sum) = &part.checksum {
            xml.leaf(
                checksum::element_name(sum.algorithm),
                &checksum::format(sum, 0),
            );
        }
        xml.close("Part");
    }
    Ok(reply::large_xml(xml.finish("ListPartsResult"), room))
}
