//! DeleteObject and DeleteObjects.

use futures_util::{StreamExt, stream};
use http::{HeaderValue, StatusCode};

use super::authorize::Access;
use super::conditions;
use super::error::S3Error;
use super::payload::Want;
use super::reply::{self, Reply};
use super::request::{ObjectRef, parse_key};
use super::versioning::{self, DELETE_MARKER, VERSION_ID};
use super::xml::{Element, Writer, malformed};
use super::{Call, object_lock};
use crate::engine::{Condition, Deleted, EngineError, ObjectKey, Precondition, VersionId};
use crate::limits::{DELETE_KEYS_MAX, DELETE_XML_BYTES_MAX};

/// DeleteObject: 204, whether the key was there or not.
pub(super) async fn object(
    call: &Call<'_>,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let version = versioning::asked(call)?;
    let precondition = conditions::of_delete(&call.head.headers)?;
    let deleted = delete(access, &object.key, version.as_ref(), &precondition)
        .await?
        .map_err(|error| versioning::missing(error, object, version.as_ref()))?;
    if deleted == Deleted::Removed {
        call.s3.quotas.has_shrunk(&object.bucket);
    }
    let mut reply = reply::empty(StatusCode::NO_CONTENT);
    let headers = reply.headers_mut();
    if let Deleted::Marked(_) | Deleted::MarkerRemoved = deleted {
        headers.insert(DELETE_MARKER, HeaderValue::from_static("true"));
    }
    let told = match deleted {
        Deleted::Marked(marker) => Some(marker),
        _ => version,
    };
    if let Some(told) = told {
        reply::insert(headers, VERSION_ID, told.as_str());
    }
    Ok(reply)
}

/// The outer error: the caller may not bypass the retention that it wants to bypass.
async fn delete(
    access: &Access<'_>,
    key: &ObjectKey,
    version: Option<&VersionId>,
    precondition: &Precondition,
) -> Result<Result<Deleted, EngineError>, S3Error> {
    let bucket = &access.bucket;
    let Some(version) = version else {
        return Ok(bucket.delete(key, precondition).await);
    };
    let bypass = object_lock::bypass(access, key).await?;
    Ok(bucket
        .delete_version(key, version, precondition, bypass)
        .await)
}

/// DeleteObjects: up to 1,000 keys, each with an answer of its own.
pub(super) async fn objects(call: Call<'_>, access: &Access<'_>) -> Result<Reply, S3Error> {
    let s3 = call.s3;
    let (payload, room) = call.payload(Want::default()).await?;
    let body = payload.collect(DELETE_XML_BYTES_MAX).await?;
    let order = Order::parse(&body)?;
    drop(body);
    let mut page = Writer::document("DeleteResult");
    let mut outcomes = stream::iter(&order.lines)
        .map(|line| async move { (line, delete_line(access, line).await) })
        .buffered(DELETES_AT_ONCE);
    while let Some((line, outcome)) = outcomes.next().await {
        match outcome {
            Ok(_) if order.quiet => {}
            Ok(deleted) => write_deleted(&mut page, line, &deleted),
            Err(error) => {
                page.open("Error");
                page.leaf("Key", &line.key);
                if let Some(version) = &line.version {
                    page.leaf("VersionId", version.as_str());
                }
                page.leaf("Code", error.code.as_str());
                page.leaf("Message", &error.message);
                page.close("Error");
            }
        }
    }
    s3.quotas.has_shrunk(&access.name);
    Ok(reply::large_xml(page.finish("DeleteResult"), room))
}

fn write_deleted(page: &mut Writer, line: &Line, deleted: &Deleted) {
    page.open("Deleted");
    page.leaf("Key", &line.key);
    if let Some(version) = &line.version {
        page.leaf("VersionId", version.as_str());
    }
    let marker = match deleted {
        Deleted::Marked(marker) => Some(marker),
        Deleted::MarkerRemoved => line.version.as_ref(),
        Deleted::Removed | Deleted::Absent => None,
    };
    if let Some(marker) = marker {
        page.boolean("DeleteMarker", true);
        page.leaf("DeleteMarkerVersionId", marker.as_str());
    }
    page.close("Deleted");
}

/// Concurrent deletes share directory syncs.
const DELETES_AT_ONCE: usize = 16;

async fn delete_line(access: &Access<'_>, line: &Line) -> Result<Deleted, S3Error> {
    let key = parse_key(&line.key)?;
    let version = line.version.as_ref();
    let action = match version {
        None => "s3:DeleteObject",
        Some(_) => "s3:DeleteObjectVersion",
    };
    access.require(action, Some(&key)).await?;
    delete(access, &key, version, &line.precondition)
        .await?
        .map_err(S3Error::from)
}

#[derive(Debug)]
struct Order {
    lines: Vec<Line>,
    quiet: bool,
}

#[derive(Debug)]
struct Line {
    key: String,
    version: Option<VersionId>,
    precondition: Precondition,
}

impl Order {
    fn parse(body: &[u8]) -> Result<Self, S3Error> {
        let root = Element::parse(body, "Delete")?;
        root.only(&["Object", "Quiet"])?;
        let quiet = match root.text_of("Quiet")?.map(str::trim) {
            None | Some("false" | "") => false,
            Some("true") => true,
            Some(_) => return Err(malformed("Quiet is neither true nor false")),
        };
        let objects = root.children.iter().filter(|child| child.name == "Object");
        let lines = objects.map(Line::parse).collect::<Result<Vec<_>, _>>()?;
        if lines.is_empty() || lines.len() > DELETE_KEYS_MAX {
            return Err(malformed("it must name 1 to 1000 objects"));
        }
        Ok(Self { lines, quiet })
    }
}

impl Line {
    fn parse(element: &Element) -> Result<Self, S3Error> {
        element.only(&["Key", "VersionId", "ETag", "LastModifiedTime", "Size"])?;
        let key = element
            .text_of("Key")?
            .ok_or_else(|| malformed("an Object has no Key"))?;
        let etag = element.text_of("ETag")?.map(|raw| match raw.trim() {
            "*" => Condition::Any,
            raw => Condition::OneOf(vec![conditions::parse_etag(raw)]),
        });
        let if_modified_at = match element.text_of("LastModifiedTime")? {
            None => None,
            Some(raw) => Some(
                conditions::parse_time(raw.trim())
                    .ok_or_else(|| malformed("LastModifiedTime is not a date"))?,
            ),
        };
        let if_size_bytes = match element.text_of("Size")? {
            None => None,
            Some(raw) => Some(
                raw.trim()
                    .parse()
                    .map_err(|_| malformed("Size is not a number"))?,
            ),
        };
        Ok(Self {
            key: key.to_owned(),
            version: element.text_of("VersionId")?.map(VersionId::parse),
            precondition: Precondition {
                if_match: etag,
                if_none_match: None,
                if_modified_at,
                if_size_bytes,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::error::Code;

    #[test]
    fn an_order_names_keys_as_they_are() {
        let body = "<Delete xmlns=\"x\"><Quiet>true</Quiet><Object><Key> a&amp;b </Key></Object>\
                    <Object><Key>c</Key><VersionId>null</VersionId><ETag>\"e\"</ETag></Object></Delete>";
        let order = Order::parse(body.as_bytes()).unwrap();
        assert!(order.quiet);
        assert_eq!(order.lines[0].key, " a&b ");
        let wanted = Condition::OneOf(vec![crate::engine::ETag::new("e")]);
        assert_eq!(order.lines[1].precondition.if_match, Some(wanted));
    }

    #[test]
    fn an_order_without_keys_or_with_too_many_is_malformed() {
        let many = "<Object><Key>k</Key></Object>".repeat(1001);
        for inner in [
            "",
            "<Object/>",
            "<Object><Key>a</Key><Key>b</Key></Object>",
            "<x/>",
            &many,
        ] {
            let body = format!("<Delete>{inner}</Delete>");
            assert_eq!(
                Order::parse(body.as_bytes()).unwrap_err().code,
                Code::MalformedXML
            );
        }
    }
}
