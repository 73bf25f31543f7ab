//! ListMultipartUploads.

use crate::engine::{Bucket, BucketName, UploadId, UploadsPage, UploadsPlan};
use crate::s3::acl::Acl;
use crate::s3::error::S3Error;
use crate::s3::list::{Asked, Owner, display_name};
use crate::s3::reply::{self, Reply};
use crate::s3::xml::Writer;
use crate::s3::{Call, checksum};

pub(crate) async fn list_uploads(
    call: &Call<'_>,
    bucket: &Bucket,
    name: &BucketName,
) -> Result<Reply, S3Error> {
    let asked = Asked::with_limit(call, "max-uploads")?;
    let key_marker = call.query.get("key-marker").unwrap_or("");
    // Without a key marker S3 passes over the upload id marker.
    let id_marker = call
        .query
        .get("upload-id-marker")
        .filter(|_| !key_marker.is_empty());
    let plan = UploadsPlan {
        prefix: asked.prefix.into(),
        delimiter: asked.delimiter.map(Into::into),
        after_key: key_marker.into(),
        after_id: id_marker.filter(|id| !id.is_empty()).map(UploadId::new),
        limit: asked.limit,
    };
    let room = asked.room(call).await?;
    let page = bucket.list_uploads(&plan).await?;
    let owner = Owner::of(call, bucket).await?;
    let mut xml = Writer::document("ListMultipartUploadsResult");
    xml.leaf("Bucket", name.as_str());
    xml.leaf("KeyMarker", &asked.shown(key_marker));
    xml.leaf("UploadIdMarker", id_marker.unwrap_or(""));
    write_next(&mut xml, &asked, &page);
    xml.leaf("Prefix", &asked.shown(asked.prefix));
    asked.echo(&mut xml);
    xml.number("MaxUploads", asked.limit as u64);
    xml.boolean("IsTruncated", page.truncated);
    for upload in &page.uploads {
        xml.open("Upload");
        xml.leaf("Key", &asked.shown(upload.key.as_str()));
        xml.leaf("UploadId", upload.id.as_str());
        let initiator = &upload.plan.initiator;
        xml.person("Initiator", initiator, &display_name(call, initiator));
        // With ACLs an upload has the owner that its object will have.
        match upload.plan.metadata.acl.as_deref().and_then(Acl::decode) {
            Some(acl) => xml.person("Owner", &acl.owner, &display_name(call, &acl.owner)),
            None => xml.person("Owner", &owner.id, &owner.name),
        }
        xml.leaf("StorageClass", "STANDARD");
        xml.time("Initiated", upload.opened);
        if let Some((algorithm, kind)) = upload.plan.checksum {
            xml.leaf("ChecksumAlgorithm", checksum::algorithm_name(algorithm));
            xml.leaf("ChecksumType", checksum::kind_name(kind));
        }
        xml.close("Upload");
    }
    for prefix in &page.common_prefixes {
        xml.open("CommonPrefixes");
        xml.leaf("Prefix", &asked.shown(prefix));
        xml.close("CommonPrefixes");
    }
    Ok(reply::large_xml(
        xml.finish("ListMultipartUploadsResult"),
        room,
    ))
}

/// The markers of the next page: the greater of the last upload's key and the last common prefix.
fn write_next(xml: &mut Writer, asked: &Asked<'_>, page: &UploadsPage) {
    if !page.truncated {
        return;
    }
    let last = page.uploads.last();
    let prefix = page.common_prefixes.last().map(|prefix| &**prefix);
    let key = last.map(|upload| upload.key.as_str());
    if key >= prefix {
        xml.leaf("NextKeyMarker", &asked.shown(key.unwrap_or("")));
        xml.leaf(
            "NextUploadIdMarker",
            last.map_or("", |upload| upload.id.as_str()),
        );
    } else {
        xml.leaf("NextKeyMarker", &asked.shown(prefix.unwrap_or("")));
        xml.leaf("NextUploadIdMarker", "");
    }
}
