//! ListObjects, ListObjectsV2 and ListObjectVersions.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::authorize::owner_id;
use super::error::S3Error;
use super::reply::{self, Reply};
use super::xml::Writer;
use super::{Call, reserve_bytes};
use crate::budget::Permit;
use crate::engine::{
    Bucket, BucketName, Checksum, Entry, ObjectKey, Resume, ScanItem, ScanPage, ScanPlan,
    VersionId, VersionItem, VersionsPage, VersionsPlan, VersionsResume,
};
use crate::limits::{HEAD_BYTES_MAX, LIST_ITEM_MEMORY_BYTES, LIST_ITEMS_MAX, XML_COPIES_MAX};

/// ListObjects, the first version: pages go on at a key, `marker`.
pub(super) async fn objects_v1(
    call: &Call<'_>,
    bucket: &Bucket,
    name: &BucketName,
) -> Result<Reply, S3Error> {
    let asked = Asked::parse(call)?;
    let marker = call.query.get("marker").unwrap_or("");
    let room = asked.room(call).await?;
    let page = bucket.scan(&asked.plan(asked.resume_at(marker))).await?;
    let mut out = asked.start("ListBucketResult", name, page.items.len(), page.truncated);
    out.xml.leaf("Marker", &asked.shown(marker));
    out.xml.number("MaxKeys", asked.limit as u64);
    // Without a delimiter the last key is the next marker, and S3 leaves the element out.
    let names_next = page.truncated && asked.delimiter.is_some();
    if let Some(last) = page.items.last().filter(|_| names_next) {
        out.xml.leaf("NextMarker", &asked.shown(last.name()));
    }
    let owner = Owner::of(call, bucket).await?;
    out.items(&asked, &page, Some(&owner));
    Ok(reply::large_xml(out.xml.finish("ListBucketResult"), room))
}

/// ListObjectsV2: pages go on at an opaque token.
pub(super) async fn objects_v2(
    call: &Call<'_>,
    bucket: &Bucket,
    name: &BucketName,
) -> Result<Reply, S3Error> {
    let asked = Asked::parse(call)?;
    let start_after = call.query.get("start-after");
    let token = call.query.get("continuation-token");
    let resume = match token.filter(|token| !token.is_empty()) {
        Some(token) => Some(decode_token(token)?),
        None => start_after.and_then(|after| asked.resume_at(after)),
    };
    let room = asked.room(call).await?;
    let page = bucket.scan(&asked.plan(resume)).await?;
    let mut out = asked.start("ListBucketResult", name, page.items.len(), page.truncated);
    out.xml.number("MaxKeys", asked.limit as u64);
    out.xml.number("KeyCount", page.items.len() as u64);
    if let Some(start_after) = start_after {
        out.xml.leaf("StartAfter", &asked.shown(start_after));
    }
    if let Some(token) = token {
        out.xml.leaf("ContinuationToken", token);
    }
    if let Some(last) = page.items.last().filter(|_| page.truncated) {
        out.xml.leaf("NextContinuationToken", &encode_token(last));
    }
    let owner = match call.query.get("fetch-owner") {
        Some("true") => Some(Owner::of(call, bucket).await?),
        _ => None,
    };
    out.items(&asked, &page, owner.as_ref());
    Ok(reply::large_xml(out.xml.finish("ListBucketResult"), room))
}

/// ListObjectVersions: every version and delete marker, the newest of each key first. Pages go on
/// behind a version of a key, or behind a key.
pub(super) async fn versions(
    call: &Call<'_>,
    bucket: &Bucket,
    name: &BucketName,
) -> Result<Reply, S3Error> {
    let asked = Asked::parse(call)?;
    let key_marker = call.query.get("key-marker").unwrap_or("");
    let version_marker = call.query.get("version-id-marker").unwrap_or("");
    if !version_marker.is_empty() && key_marker.is_empty() {
        return Err(S3Error::invalid_argument(
            "A version-id marker cannot be specified without a key marker.",
            "version-id-marker",
            version_marker,
        ));
    }
    let room = asked.room(call).await?;
    let after = match ObjectKey::parse(key_marker) {
        Ok(key) if !version_marker.is_empty() => Some(VersionsResume::Version(
            key,
            VersionId::parse(version_marker),
        )),
        _ => asked.resume_at(key_marker).map(VersionsResume::Key),
    };
    let plan = VersionsPlan {
        prefix: asked.prefix.into(),
        delimiter: asked.delimiter.map(Into::into),
        after,
        limit: asked.limit,
    };
    let page = bucket.scan_versions(&plan).await?;
    let mut out = asked.start("ListVersionsResult", name, page.items.len(), page.truncated);
    out.xml.leaf("KeyMarker", &asked.shown(key_marker));
    out.xml.leaf("VersionIdMarker", version_marker);
    out.xml.number("MaxKeys", asked.limit as u64);
    if let Some(last) = page.items.last().filter(|_| page.truncated) {
        let (name, version) = match last {
            VersionItem::Object { key, entry, .. } => (key.as_str(), Some(&entry.version)),
            VersionItem::Marker { key, version, .. } => (key.as_str(), Some(version)),
            VersionItem::CommonPrefix(prefix) => (&**prefix, None),
        };
        out.xml.leaf("NextKeyMarker", &asked.shown(name));
        if let Some(version) = version {
            out.xml.leaf("NextVersionIdMarker", version.as_str());
        }
    }
    let owner = Owner::of(call, bucket).await?;
    out.versions(&asked, &page, &owner);
    Ok(reply::large_xml(out.xml.finish("ListVersionsResult"), room))
}

/// The parameters that all listings share.
pub(super) struct Asked<'a> {
    pub(super) prefix: &'a str,
    pub(super) delimiter: Option<&'a str>,
    pub(super) limit: usize,
    encode: bool,
}

impl<'a> Asked<'a> {
    fn parse(call: &'a Call<'_>) -> Result<Self, S3Error> {
        Self::with_limit(call, "max-keys")
    }

    /// `limit`: the parameter that bounds the page.
    pub(super) fn with_limit(call: &'a Call<'_>, limit: &str) -> Result<Self, S3Error> {
        let most = u32::try_from(LIST_ITEMS_MAX).unwrap_or(u32::MAX);
        let limit = call.query.number(limit, most, most)?;
        let encode = match call.query.get("encoding-type") {
            None | Some("") => false,
            Some(kind) if kind.eq_ignore_ascii_case("url") => true,
            Some(other) => {
                return Err(S3Error::invalid_argument(
                    "Invalid Encoding Method specified in Request",
                    "encoding-type",
                    other,
                ));
            }
        };
        Ok(Self {
            prefix: call.query.get("prefix").unwrap_or(""),
            delimiter: call
                .query
                .get("delimiter")
                .filter(|delimiter| !delimiter.is_empty()),
            limit: usize::try_from(limit).unwrap_or(LIST_ITEMS_MAX),
            encode,
        })
    }

    /// Memory for a page of this listing, reserved before it is looked for. What the request says
    /// is repeated in it.
    pub(super) async fn room(&self, call: &Call<'_>) -> Result<Permit, S3Error> {
        let echoed = HEAD_BYTES_MAX * XML_COPIES_MAX;
        reserve_bytes(call.s3, echoed + self.limit * LIST_ITEM_MEMORY_BYTES).await
    }

    /// A marker that is itself a common prefix of this listing (as `NextMarker` may be) resumes
    /// behind all that it stands for.
    fn resume_at(&self, marker: &str) -> Option<Resume> {
        if marker.is_empty() {
            return None;
        }
        let rolled_up = self.delimiter.is_some_and(|delimiter| {
            let rest = marker.strip_prefix(self.prefix);
            let first = rest.and_then(|rest| Some((rest, rest.find(delimiter)?)));
            first.is_some_and(|(rest, at)| at + delimiter.len() == rest.len())
        });
        Some(if rolled_up {
            Resume::Prefix(marker.into())
        } else {
            Resume::Key(marker.into())
        })
    }

    fn plan(&self, after: Option<Resume>) -> ScanPlan {
        ScanPlan {
            prefix: self.prefix.into(),
            delimiter: self.delimiter.map(Into::into),
            after,
            limit: self.limit,
        }
    }

    /// Keys and prefixes as `encoding-type` wants them.
    pub(super) fn shown<'t>(&self, text: &'t str) -> std::borrow::Cow<'t, str> {
        if self.encode {
            utf8_percent_encode(text, URL_ENCODED).into()
        } else {
            text.into()
        }
    }

    /// The root and the elements that echo the request.
    fn start(&self, root: &'static str, name: &BucketName, items: usize, truncated: bool) -> Page {
        let mut xml = Writer::document(root);
        xml.reserve(items * LINE_BYTES_TYPICAL);
        xml.leaf("Name", name.as_str());
        xml.leaf("Prefix", &self.shown(self.prefix));
        self.echo(&mut xml);
        xml.boolean("IsTruncated", truncated);
        Page { xml }
    }

    pub(super) fn echo(&self, xml: &mut Writer) {
        if let Some(delimiter) = self.delimiter {
            xml.leaf("Delimiter", &self.shown(delimiter));
        }
        if self.encode {
            xml.leaf("EncodingType", "url");
        }
    }
}

/// What one line of a listing takes, with room.
const LINE_BYTES_TYPICAL: usize = 320;

/// What S3 leaves as it is with `encoding-type=url`.
const URL_ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/')
    .remove(b'*');

/// A listing that is being written.
struct Page {
    xml: Writer,
}

impl Page {
    fn items(&mut self, asked: &Asked<'_>, page: &ScanPage, owner: Option<&Owner>) {
        for item in &page.items {
            if let ScanItem::Object { key, entry } = item {
                self.xml.open("Contents");
                self.xml.leaf("Key", &asked.shown(key.as_str()));
                self.entry(entry);
                if let Some(owner) = owner {
                    self.xml.person("Owner", &owner.id, &owner.name);
                }
                self.xml.raw("<StorageClass>STANDARD</StorageClass>");
                self.xml.close("Contents");
            }
        }
        for item in &page.items {
            if let ScanItem::CommonPrefix(prefix) = item {
                self.common_prefix(asked, prefix);
            }
        }
    }

    fn versions(&mut self, asked: &Asked<'_>, page: &VersionsPage, owner: &Owner) {
        for item in &page.items {
            match item {
                VersionItem::Object {
                    key,
                    entry,
                    is_latest,
                } => {
                    self.xml.open("Version");
                    self.version(asked, key, &entry.version, *is_latest);
                    self.entry(entry);
                    self.xml.person("Owner", &owner.id, &owner.name);
                    self.xml.raw("<StorageClass>STANDARD</StorageClass>");
                    self.xml.close("Version");
                }
                VersionItem::Marker {
                    key,
                    version,
                    modified,
                    is_latest,
                } => {
                    self.xml.open("DeleteMarker");
                    self.version(asked, key, version, *is_latest);
                    self.xml.time("LastModified", *modified);
                    self.xml.person("Owner", &owner.id, &owner.name);
                    self.xml.close("DeleteMarker");
                }
                VersionItem::CommonPrefix(_) => {}
            }
        }
        for item in &page.items {
            if let VersionItem::CommonPrefix(prefix) = item {
                self.common_prefix(asked, prefix);
            }
        }
    }

    fn version(&mut self, asked: &Asked<'_>, key: &ObjectKey, version: &VersionId, latest: bool) {
        self.xml.leaf("Key", &asked.shown(key.as_str()));
        self.xml.leaf("VersionId", version.as_str());
        self.xml.boolean("IsLatest", latest);
    }

    fn entry(&mut self, entry: &Entry) {
        self.xml.time("LastModified", entry.modified);
        self.xml.etag(entry.etag.as_str());
        if let Some(Checksum {
            algorithm, kind, ..
        }) = &entry.checksum
        {
            let name = super::checksum::algorithm_name(*algorithm);
            self.xml.leaf("ChecksumAlgorithm", name);
            let kind = super::checksum::kind_name(*kind);
            self.xml.leaf("ChecksumType", kind);
        }
        self.xml.number("Size", entry.plain_bytes());
    }

    fn common_prefix(&mut self, asked: &Asked<'_>, prefix: &str) {
        self.xml.open("CommonPrefixes");
        self.xml.leaf("Prefix", &asked.shown(prefix));
        self.xml.close("CommonPrefixes");
    }
}

/// Objects belong to their bucket's owner.
pub(super) struct Owner {
    pub(super) id: Box<str>,
    pub(super) name: Box<str>,
}

impl Owner {
    pub(super) async fn of(call: &Call<'_>, bucket: &Bucket) -> Result<Self, S3Error> {
        let id = owner_id(call.s3, &*bucket.config().await?);
        Ok(Self {
            name: display_name(call, &id),
            id,
        })
    }
}

/// The name of the user with that id; of one that is gone, the id.
pub(super) fn display_name(call: &Call<'_>, id: &str) -> Box<str> {
    call.s3
        .users
        .load()
        .by_id(id)
        .map_or_else(|| id.into(), |user| user.name.clone())
}

/// Tokens are the last item of the page before, so they stay good whatever changes.
fn encode_token(last: &ScanItem) -> String {
    let kind = match last {
        ScanItem::Object { .. } => 'k',
        ScanItem::CommonPrefix(_) => 'p',
    };
    URL_SAFE_NO_PAD.encode(format!("{kind}{}", last.name()))
}

fn decode_token(token: &str) -> Result<Resume, S3Error> {
    let decoded = URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|raw| String::from_utf8(raw).ok());
    match decoded.as_deref().and_then(|text| text.split_at_checked(1)) {
        Some(("k", name)) => Ok(Resume::Key(name.into())),
        Some(("p", name)) => Ok(Resume::Prefix(name.into())),
        _ => Err(S3Error::invalid_argument(
            "The continuation token provided is incorrect",
            "continuation-token",
            token,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_what_they_were() {
        let key = ObjectKey::parse("a/ü").unwrap();
        let entry = std::sync::Arc::new(Entry {
            size_bytes: 0,
            etag: crate::engine::ETag::new("e"),
            modified: Default::default(),
            checksum: None,
            metadata: Default::default(),
            parts: [].into(),
            version: Default::default(),
            seal: None,
        });
        let token = encode_token(&ScanItem::Object { key, entry });
        assert_eq!(decode_token(&token).unwrap(), Resume::Key("a/ü".into()));
        let token = encode_token(&ScanItem::CommonPrefix("a/".into()));
        assert_eq!(decode_token(&token).unwrap(), Resume::Prefix("a/".into()));
        for bad in ["", "!", "eA", "%%%"] {
            assert!(decode_token(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_marker_that_is_a_common_prefix_is_passed_whole() {
        let asked = Asked {
            prefix: "p/",
            delimiter: Some("/"),
            limit: 1,
            encode: false,
        };
        assert_eq!(asked.resume_at("p/a/"), Some(Resume::Prefix("p/a/".into())));
        assert_eq!(asked.resume_at("p/a/b"), Some(Resume::Key("p/a/b".into())));
        assert_eq!(
            asked.resume_at("p/a/b/"),
            Some(Resume::Key("p/a/b/".into()))
        );
        assert_eq!(asked.resume_at("o/"), Some(Resume::Key("o/".into())));
        assert_eq!(asked.resume_at(""), None);
    }
}
