//! Tags of buckets and objects: the header, the document, their limits, and the verbs about them.

use http::StatusCode;
use http::header::HeaderMap;

use super::error::{Code, S3Error};
use super::get;
use super::payload::Want;
use super::reply::{self, Reply};
use super::request::{self, ObjectRef};
use super::versioning::{self, VERSION_ID};
use super::xml::{Element, Writer};
use super::{Call, document};
use crate::engine::{Bucket, Tags, VersionId};
use crate::limits::{
    BUCKET_TAGS_MAX, OBJECT_TAGS_MAX, TAG_KEY_CHARS_MAX, TAG_VALUE_CHARS_MAX, XML_BYTES_MAX,
};

const HEADER: &str = "x-amz-tagging";
/// The bucket's document.
const DOCUMENT: &str = "tagging";

/// The tags that `x-amz-tagging` gives an object: `key=value&key=value`, as in a URL's query.
pub(super) fn of_header(headers: &HeaderMap) -> Result<Tags, S3Error> {
    let Some(raw) = headers.get(HEADER) else {
        return Ok(Tags::new());
    };
    let malformed = || {
        S3Error::invalid_argument(
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query \
             parameters without tag name duplicates.",
            HEADER,
            String::from_utf8_lossy(raw.as_bytes()),
        )
    };
    let raw = raw.to_str().map_err(|_| malformed())?;
    let mut tags = Tags::new();
    for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text| request::decode_form(text).ok_or_else(malformed);
        tags.push((decode(key)?.into(), decode(value)?.into()));
    }
    checked(tags, OBJECT_TAGS_MAX)
}

/// The tags of an object in a `Tagging` document.
pub(super) fn of_document(body: &[u8]) -> Result<Tags, S3Error> {
    parse(body, OBJECT_TAGS_MAX)
}

fn parse(body: &[u8], most: usize) -> Result<Tags, S3Error> {
    let root = Element::parse(body, "Tagging")?;
    root.only(&["TagSet"])?;
    let set = root.one("TagSet")?;
    set.only(&["Tag"])?;
    let mut tags = Tags::new();
    for tag in &set.children {
        tag.only(&["Key", "Value"])?;
        let (key, value) = (tag.one("Key")?, tag.one("Value")?);
        tags.push((key.text.as_str().into(), value.text.as_str().into()));
    }
    checked(tags, most)
}

/// The tags that a filter names, as they stand there.
pub(super) fn of_filter(filter: &Element) -> Result<Tags, S3Error> {
    let mut tags = Tags::new();
    for tag in filter.children.iter().filter(|child| child.name == "Tag") {
        tag.only(&["Key", "Value"])?;
        let (key, value) = (tag.one("Key")?, tag.one("Value")?);
        if tags.iter().any(|(known, _)| **known == *key.text) {
            return Err(S3Error::with_message(
                Code::InvalidRequest,
                "Duplicate Tag Keys are not allowed.",
            ));
        }
        tags.push((key.text.as_str().into(), value.text.as_str().into()));
    }
    checked(tags.clone(), OBJECT_TAGS_MAX)?;
    Ok(tags)
}

/// The tags ordered by key, if they keep to the limits: S3's user guide, "Categorizing your objects
/// using tags".
fn checked(mut tags: Tags, most: usize) -> Result<Tags, S3Error> {
    let invalid = |message: String| S3Error::with_message(Code::InvalidTag, message);
    if tags.len() > most {
        return Err(invalid(format!("There may be at most {most} tags.")));
    }
    for (key, value) in &tags {
        let length = key.chars().count();
        if !(1..=TAG_KEY_CHARS_MAX).contains(&length) || !key.chars().all(is_tag_char) {
            return Err(
                invalid("The TagKey you have provided is invalid".into()).detail("TagKey", &**key)
            );
        }
        if value.chars().count() > TAG_VALUE_CHARS_MAX || !value.chars().all(is_tag_char) {
            return Err(invalid("The TagValue you have provided is invalid".into())
                .detail("TagKey", &**key)
                .detail("TagValue", &**value));
        }
        if key.starts_with("aws:") {
            return Err(invalid(
                "System tags cannot be added/updated by requester".into(),
            ));
        }
    }
    tags.sort_unstable();
    let twice = |pair: &[(Box<str>, Box<str>)]| matches!(pair, [(a, _), (b, _)] if a == b);
    if tags.windows(2).any(twice) {
        return Err(invalid(
            "Cannot provide multiple Tags with the same key".into(),
        ));
    }
    Ok(tags)
}

fn is_tag_char(c: char) -> bool {
    c.is_alphanumeric() || c.is_whitespace() || "+-=._:/@".contains(c)
}

fn page(tags: &Tags) -> Reply {
    let mut page = Writer::document("Tagging");
    page.open("TagSet");
    for (key, value) in tags {
        page.open("Tag");
        page.leaf("Key", key);
        page.leaf("Value", value);
        page.close("Tag");
    }
    page.close("TagSet");
    reply::xml(page.finish("Tagging"))
}

pub(super) async fn get_of_object(
    call: &Call<'_>,
    bucket: &Bucket,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let entry = get::find(call, bucket, object).await?;
    let mut reply = page(&entry.metadata.tags);
    versioning::write_id(reply.headers_mut(), VERSION_ID, bucket, &entry.version).await?;
    Ok(reply)
}

pub(super) async fn put_of_object(
    call: Call<'_>,
    bucket: &Bucket,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let version = versioning::asked(&call)?;
    let (payload, _room) = call.payload(Want::default()).await?;
    let tags = of_document(&payload.collect(XML_BYTES_MAX).await?)?;
    set(bucket, object, version, tags, StatusCode::OK).await
}

pub(super) async fn delete_of_object(
    call: &Call<'_>,
    bucket: &Bucket,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let version = versioning::asked(call)?;
    set(bucket, object, version, Tags::new(), StatusCode::NO_CONTENT).await
}

/// Sets the tags of the current version, or of the one that the request names.
async fn set(
    bucket: &Bucket,
    object: &ObjectRef,
    version: Option<VersionId>,
    tags: Tags,
    status: StatusCode,
) -> Result<Reply, S3Error> {
    let entry = bucket
        .set_tags(&object.key, version.as_ref(), tags)
        .await
        .map_err(|error| versioning::missing(error, object, version.as_ref()))?;
    let mut reply = reply::empty(status);
    versioning::write_id(reply.headers_mut(), VERSION_ID, bucket, &entry.version).await?;
    Ok(reply)
}

pub(super) async fn get_of_bucket(bucket: &Bucket) -> Result<Reply, S3Error> {
    let config = bucket.config().await?;
    let tags: Option<Tags> = document::read(&config, DOCUMENT)?;
    tags.map(|tags| page(&tags))
        .ok_or_else(|| Code::NoSuchTagSet.into())
}

pub(super) async fn put_of_bucket(call: Call<'_>, bucket: &Bucket) -> Result<Reply, S3Error> {
    let (payload, _room) = call.payload(Want::default()).await?;
    let tags = parse(&payload.collect(XML_BYTES_MAX).await?, BUCKET_TAGS_MAX)?;
    document::write(bucket, DOCUMENT, &tags).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(super) async fn delete_of_bucket(bucket: &Bucket) -> Result<Reply, S3Error> {
    document::remove(bucket, DOCUMENT).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Result<Tags, Code> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, http::HeaderValue::from_str(text).unwrap());
        of_header(&headers).map_err(|error| error.code)
    }

    fn document_of(tags: &[(&str, &str)]) -> Result<Tags, Code> {
        let tags = tags
            .iter()
            .map(|(key, value)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>"));
        let inner: String = tags.collect();
        let body = format!("<Tagging><TagSet>{inner}</TagSet></Tagging>");
        of_document(body.as_bytes()).map_err(|error| error.code)
    }

    #[test]
    fn a_header_is_a_query() {
        let tags = header("b=x%20y+z&d=&c&a=1").unwrap();
        let text: Vec<_> = tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(text, ["a=1", "b=x y z", "c=", "d="]);
        assert_eq!(header("%C3%A9=%ff"), Err(Code::InvalidArgument));
        assert_eq!(header("a=1&a=2"), Err(Code::InvalidTag));
        assert_eq!(header("=1"), Err(Code::InvalidTag));
        assert_eq!(header("").unwrap(), Tags::new());
    }

    #[test]
    fn tags_have_limits() {
        let (key, value) = ("k".repeat(128), "é".repeat(256));
        assert!(document_of(&[(&key, &value)]).is_ok());
        for (key, value) in [
            (format!("{key}k"), "v".to_owned()),
            ("k".to_owned(), format!("{value}v")),
            (String::new(), String::new()),
            ("aws:k".to_owned(), String::new()),
            ("a,b".to_owned(), String::new()),
        ] {
            let answer = document_of(&[(&key, &value)]);
            assert_eq!(answer, Err(Code::InvalidTag), "{key} {value}");
        }
        let names: Vec<String> = (0..11).map(|n| n.to_string()).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert!(document_of(&many[..10]).is_ok());
        assert_eq!(document_of(&many), Err(Code::InvalidTag));
    }

    #[test]
    fn a_document_is_read_strictly() {
        for body in [
            "<Tagging/>",
            "<Tagging><TagSet/><TagSet/></Tagging>",
            "<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>",
            "<Tagging><TagSet><Tag><Value>a</Value></Tag></TagSet></Tagging>",
            "<Tagging><TagSet><x/></TagSet></Tagging>",
            "<TagSet/>",
        ] {
            let error = of_document(body.as_bytes()).unwrap_err();
            assert_eq!(error.code, Code::MalformedXML, "{body}");
        }
    }
}
