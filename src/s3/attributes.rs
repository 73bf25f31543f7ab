//! GetObjectAttributes.

use http::header;

use super::checksum;
use super::error::S3Error;
use super::get;
use super::reply::{self, Reply};
use super::request::ObjectRef;
use super::versioning::{self, VERSION_ID};
use super::xml::Writer;
use super::{Call, reserve_bytes};
use crate::engine::{Bucket, Checksum, Entry};
use crate::limits::{LIST_ITEMS_MAX, LIST_SHORT_ITEM_MEMORY_BYTES};

const HEADER: &str = "x-amz-object-attributes";
const NAMES: [&str; 5] = [
    "ETag",
    "Checksum",
    "ObjectParts",
    "StorageClass",
    "ObjectSize",
];

pub(super) async fn object(
    call: &Call<'_>,
    bucket: &Bucket,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let asked = asked(call)?;
    let wants = |name: &str| asked.contains(&name);
    let paging = Paging::of(call)?;
    let key = get::customer_key(call)?;
    let entry = get::find_readable(call, bucket, object, key.as_ref()).await?;
    let room = reserve_bytes(call.s3, LIST_ITEMS_MAX * LIST_SHORT_ITEM_MEMORY_BYTES).await?;
    let mut page = Writer::document("GetObjectAttributesResponse");
    if wants("ETag") {
        page.leaf("ETag", entry.etag.as_str());
    }
    if wants("Checksum")
        && let Some(sum) = &entry.checksum
    {
        page.open("Checksum");
        write_checksum(&mut page, sum, entry.parts.len());
        page.leaf("ChecksumType", checksum::kind_name(sum.kind));
        page.close("Checksum");
    }
    if wants("ObjectParts") && !entry.parts.is_empty() {
        write_parts(&mut page, &entry, &paging);
    }
    if wants("StorageClass") {
        page.leaf("StorageClass", "STANDARD");
    }
    if wants("ObjectSize") {
        page.number("ObjectSize", entry.size_bytes);
    }
    let mut reply = reply::large_xml(page.finish("GetObjectAttributesResponse"), room);
    let modified = httpdate::fmt_http_date(entry.modified.to_system_time());
    reply::insert(reply.headers_mut(), header::LAST_MODIFIED, &modified);
    versioning::write_id(reply.headers_mut(), VERSION_ID, bucket, &entry.version).await?;
    Ok(reply)
}

/// The attributes named: in one header with commas, in several, or both.
fn asked<'a>(call: &'a Call<'_>) -> Result<Vec<&'a str>, S3Error> {
    let lines = call.head.headers.get_all(HEADER).iter();
    let names: Vec<&str> = lines
        .flat_map(|line| line.to_str().unwrap_or("?").split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    if names.is_empty() {
        return Err(S3Error::invalid_argument(
            "The x-amz-object-attributes header specifying the attributes to be retrieved is \
             either missing or empty",
            HEADER,
            "",
        ));
    }
    match names.iter().find(|name| !NAMES.contains(name)) {
        None => Ok(names),
        Some(name) => Err(S3Error::invalid_argument(
            "Invalid attribute name specified.",
            HEADER,
            *name,
        )),
    }
}

/// Which parts.
struct Paging {
    after: u32,
    limit: usize,
}

impl Paging {
    fn of(call: &Call<'_>) -> Result<Self, S3Error> {
        let number = |name: &'static str| match call.header(name) {
            None => Ok(None),
            Some(raw) => raw.parse::<u32>().map(Some).map_err(|_| {
                S3Error::invalid_argument("The value is not a number of parts.", name, raw)
            }),
        };
        let limit = number("x-amz-max-parts")?.and_then(|limit| usize::try_from(limit).ok());
        Ok(Self {
            after: number("x-amz-part-number-marker")?.unwrap_or(0),
            limit: limit.unwrap_or(LIST_ITEMS_MAX).min(LIST_ITEMS_MAX),
        })
    }
}

fn write_parts(page: &mut Writer, entry: &Entry, paging: &Paging) {
    let parts = entry.parts.iter();
    let mut later = parts.filter(|part| part.number > paging.after);
    let shown: Vec<_> = later.by_ref().take(paging.limit).collect();
    let is_truncated = later.next().is_some();
    let last = shown.last().map_or(paging.after, |part| part.number);
    page.open("ObjectParts");
    page.number("PartsCount", entry.parts.len() as u64);
    page.number("PartNumberMarker", u64::from(paging.after));
    page.number("NextPartNumberMarker", u64::from(last));
    page.number("MaxParts", paging.limit as u64);
    page.boolean("IsTruncated", is_truncated);
    for part in shown {
        page.open("Part");
        page.number("PartNumber", u64::from(part.number));
        page.number("Size", part.size_bytes);
        if let Some(sum) = &part.checksum {
            write_checksum(page, sum, 0);
        }
        page.close("Part");
    }
    page.close("ObjectParts");
}

fn write_checksum(page: &mut Writer, sum: &Checksum, parts: usize) {
    let name = checksum::element_name(sum.algorithm);
    page.leaf(name, &checksum::format(sum, parts));
}
