//! ListBuckets.

use super::authorize::{owner_id, permit_outside, user};
use super::error::S3Error;
use super::reply::{self, Reply};
use super::xml::Writer;
use super::{Call, reserve_bytes};
use crate::limits::LIST_SHORT_ITEM_MEMORY_BYTES;

const PAGE_MAX: u32 = 10_000;

/// The caller's buckets and those that its policies let it list; all of them for the root user.
pub(super) async fn list_buckets(call: &Call<'_>) -> Result<Reply, S3Error> {
    let user = user(call.identity())?;
    let way = (call.head, call.local);
    permit_outside(call.s3, user, way, "s3:ListAllMyBuckets", "")?;
    let limit = call.query.number("max-buckets", PAGE_MAX, PAGE_MAX)?;
    if limit == 0 {
        return Err(S3Error::invalid_argument(
            "Argument max-buckets must be an integer between 1 and 10000",
            "max-buckets",
            "0",
        ));
    }
    let prefix = call.query.get("prefix").unwrap_or("");
    let after = call.query.get("continuation-token").unwrap_or("");
    let region = call.query.get("bucket-region").unwrap_or(&call.s3.region);
    let mut buckets = call.s3.engines.list_buckets().await?;
    buckets.retain(|bucket| {
        let name = bucket.name.as_str();
        let mine = user.root || *owner_id(call.s3, &bucket.config) == *user.id;
        let may_list = || {
            !user.policies.is_empty()
                && permit_outside(call.s3, user, way, "s3:ListBucket", name).is_ok()
        };
        (mine || may_list())
            && name.starts_with(prefix)
            && name > after
            && *region == *call.s3.region
    });
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let next = (buckets.len() > limit)
        .then(|| buckets.get(limit - 1))
        .flatten();
    let lines = buckets.len().min(limit);
    let room = reserve_bytes(call.s3, lines * LIST_SHORT_ITEM_MEMORY_BYTES).await?;
    let mut page = Writer::document("ListAllMyBucketsResult");
    page.person("Owner", &user.id, &user.name);
    page.open("Buckets");
    for bucket in buckets.iter().take(limit) {
        page.open("Bucket");
        page.leaf("Name", bucket.name.as_str());
        page.time("CreationDate", bucket.config.created);
        page.leaf("BucketRegion", &call.s3.region);
        page.close("Bucket");
    }
    page.close("Buckets");
    if let Some(bucket) = next {
        page.leaf("ContinuationToken", bucket.name.as_str());
    }
    if !prefix.is_empty() {
        page.leaf("Prefix", prefix);
    }
    Ok(reply::large_xml(
        page.finish("ListAllMyBucketsResult"),
        room,
    ))
}
