//! PostObject: a browser's form becomes an object. Its fields come first and are held in memory,
//! bounded; its file is streamed into the engine as it comes.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, header};
use md5::{Digest as _, Md5};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::auth::{FormSignature, missing_field};
use super::authorize::Access;
use super::checksum::{self, Hasher};
use super::error::{Code, S3Error};
use super::form::Form;
use super::payload::Payload;
use super::post_policy::PostPolicy;
use super::reply::{self, Reply};
use super::request::{ObjectRef, parse_key};
use super::route::Operation;
use super::sse::{self, CustomerKey, Sink};
use super::xml::Writer as Xml;
use super::{Call, acl, authorize, headers, object_lock, put, tags, versioning};
use crate::clock::Entropy;
use crate::engine::{
    BucketName, Checksum, ChecksumKind, Commit, Entry, Metadata, Precondition, Writer,
};
use crate::limits::{POST_FIELDS_BYTES_MAX, PUT_BYTES_MAX};

/// PostObject. Nobody has been let in yet: who the form is from, its fields say.
pub(super) async fn object(call: Call<'_>, name: &BucketName) -> Result<Reply, S3Error> {
    let (s3, head, local) = (call.s3, call.head, call.local);
    let sender = call.identity().clone();
    let (payload, room) = call.form().await?;
    let mut form = Form::new(&head.headers, payload)?;
    let (fields, filename) = Fields::read(&mut form, name).await?;
    let who = s3.gate.authenticate_form(&fields.signature(), &sender)?;
    let key = fields
        .get("key")
        .filter(|key| !key.is_empty())
        .ok_or_else(|| missing_field("key"))?;
    let key = key.replace("${filename}", base_name(&filename));
    let policy = fields.get("policy").map(PostPolicy::parse).transpose()?;
    if let Some(policy) = &policy {
        let value = |name: &str| match name {
            "key" => Some(&*key),
            name => fields.get(name),
        };
        policy.check(s3.clock.now(), value, fields.names())?;
    }
    let object = ObjectRef {
        bucket: name.clone(),
        key: parse_key(&key)?,
    };
    // Fields are to a form what headers are to a PUT, for policies and ACLs too.
    let mut asked = head.clone();
    asked.headers.extend(fields.headers.clone());
    let access = authorize::enter(s3, &who, &asked, local, name).await?;
    access
        .permit(Operation::PostObject, Some(&object.key))
        .await?;
    if fields.get("tagging").is_some() {
        access
            .require("s3:PutObjectTagging", Some(&object.key))
            .await?;
    }
    let mut metadata = fields.metadata()?;
    metadata.acl = acl::of_write(&access, &object).await?;
    metadata.lock = object_lock::of_write(&access).await?;
    let mut writer = access.bucket.begin(&object.key, None).await?;
    writer.set_window(room.bytes());
    let key = CustomerKey::of_object(&fields.headers, local)?;
    let what = What {
        object: &object,
        metadata,
        key: key.as_ref(),
    };
    let (entropy, policy) = (&s3.entropy, policy.as_ref());
    let entry = store(&access, form, writer, entropy, &fields, policy, what).await?;
    let host = super::host_of(head).unwrap_or("localhost");
    let mut reply = fields.answer(&object, &entry, host)?;
    sse::write_key(reply.headers_mut(), key.as_ref());
    Ok(reply)
}

/// What a form is to become.
struct What<'a> {
    object: &'a ObjectRef,
    metadata: Metadata,
    key: Option<&'a CustomerKey>,
}

/// Streams the file, and commits it when the whole body was found true.
async fn store(
    access: &Access<'_>,
    mut form: Form<Payload>,
    writer: Writer,
    entropy: &Entropy,
    fields: &Fields,
    policy: Option<&PostPolicy>,
    what: What<'_>,
) -> Result<Entry, S3Error> {
    let given = checksum::from_headers(&fields.headers)?;
    let most = policy
        .and_then(PostPolicy::size_bytes_max)
        .unwrap_or(u64::MAX)
        .min(PUT_BYTES_MAX);
    let object = what.object;
    let seal = what.key.map(|key| key.seal(entropy));
    let lock = what.key.zip(seal.as_deref());
    let mut sink = Sink::new(writer, lock, 0, entropy);
    let mut md5 = Md5::new();
    let mut hasher = given.as_ref().map(|given| Hasher::new(given.algorithm));
    let mut size_bytes = 0_u64;
    while let Some(piece) = form.data().await? {
        size_bytes += piece.len() as u64;
        if size_bytes > most {
            return Err(S3Error::new(Code::EntityTooLarge)
                .detail("ProposedSize", size_bytes.to_string())
                .detail("MaxSizeAllowed", most.to_string()));
        }
        md5.update(&piece);
        if let Some(hasher) = &mut hasher {
            hasher.update(&piece);
        }
        sink.append(piece).await?;
    }
    if let Some(policy) = policy {
        policy.check_size(size_bytes)?;
    }
    form.finish().await?;
    // How long the file is, the form did not say before.
    let _within = access.claim(size_bytes).await?;
    let checksum = hasher.map(|hasher| Checksum {
        algorithm: hasher.algorithm(),
        kind: ChecksumKind::FullObject,
        digest: hasher.finalize(),
    });
    if let (Some(given), Some(computed)) = (given, &checksum)
        && given.digest != computed.digest
    {
        return Err(checksum::mismatch(given.algorithm));
    }
    let (writer, plain_bytes) = sink.finish().await?;
    let commit = Commit {
        etag: sse::etag(lock, Some(md5.finalize().into()), entropy),
        checksum,
        metadata: what.metadata,
        precondition: Precondition::default(),
        seal: put::sealed(seal, plain_bytes),
    };
    let entry = writer.commit(commit).await;
    let entry = entry.map_err(|error| versioning::missing(error, object, None))?;
    Ok(Entry::clone(&entry))
}

/// The fields before the file; names in lower case.
struct Fields {
    pairs: Vec<(String, String)>,
    /// Those that are headers of a PUT.
    headers: HeaderMap,
}

impl Fields {
    /// Reads up to the file, whose name comes with them.
    async fn read(
        form: &mut Form<Payload>,
        bucket: &BucketName,
    ) -> Result<(Self, String), S3Error> {
        let mut pairs = vec![("bucket".to_owned(), bucket.as_str().to_owned())];
        let mut left = POST_FIELDS_BYTES_MAX;
        let mut headers = HeaderMap::new();
        while let Some(part) = form.part().await? {
            let name = part.name.to_ascii_lowercase();
            if name == "file" {
                let filename = part.filename.unwrap_or_default();
                return Ok((Self { pairs, headers }, filename));
            }
            let mut value = Vec::new();
            left = left.saturating_sub(name.len());
            while let Some(piece) = form.data().await? {
                left = left.checked_sub(piece.len()).ok_or_else(too_large)?;
                value.extend_from_slice(&piece);
            }
            if left == 0 {
                return Err(too_large());
            }
            let not_utf8 = |_| S3Error::invalid_argument("The field is not UTF-8.", &name, "");
            let value = String::from_utf8(value).map_err(not_utf8)?;
            if pairs.iter().any(|(known, _)| *known == name) && name != "bucket" {
                let message = "A field may come once.";
                return Err(S3Error::invalid_argument(message, &name, value));
            }
            add_header(&mut headers, &name, &value)?;
            if name != "bucket" {
                pairs.push((name, value));
            }
        }
        Err(S3Error::invalid_argument(
            "POST requires exactly one file upload per request.",
            "file",
            "0",
        ))
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.pairs.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.pairs.iter().map(|(name, _)| name.as_str())
    }

    fn signature(&self) -> FormSignature<'_> {
        FormSignature {
            policy: self.get("policy"),
            algorithm: self.get("x-amz-algorithm"),
            credential: self.get("x-amz-credential"),
            date: self.get("x-amz-date"),
            signature_v4: self.get("x-amz-signature"),
            access_key: self.get("awsaccesskeyid"),
            signature_v2: self.get("signature"),
            session_token: self.get("x-amz-security-token"),
        }
    }

    fn metadata(&self) -> Result<Metadata, S3Error> {
        headers::refuse_unsupported(&self.headers)?;
        let metadata = headers::metadata(&self.headers)?;
        let tags = match self.get("tagging") {
            Some(document) => tags::of_document(document.as_bytes())?,
            None => metadata.tags,
        };
        Ok(Metadata { tags, ..metadata })
    }

    /// Where the browser is sent, else the status asked for.
    fn answer(&self, object: &ObjectRef, entry: &Entry, host: &str) -> Result<Reply, S3Error> {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC_OF_QUERY).to_string();
        let asked = self.get("success_action_redirect").or(self.get("redirect"));
        let etag = entry.etag.as_str();
        let location = format!("http://{host}/{}/{}", object.bucket, encode_path(object));
        let mut reply = match (asked.and_then(redirect), self.get("success_action_status")) {
            (Some(to), _) => {
                let join = if to.contains('?') { '&' } else { '?' };
                let to = format!(
                    "{to}{join}bucket={}&key={}&etag=%22{}%22",
                    encode(object.bucket.as_str()),
                    encode(object.key.as_str()),
                    encode(etag)
                );
                let mut reply = reply::empty(StatusCode::SEE_OTHER);
                reply::insert(reply.headers_mut(), header::LOCATION, &to);
                reply
            }
            (None, Some("201")) => {
                let mut page = Xml::bare();
                page.open("PostResponse");
                page.leaf("Location", &location);
                page.leaf("Bucket", object.bucket.as_str());
                page.leaf("Key", object.key.as_str());
                page.etag(etag);
                let mut reply = reply::xml(page.finish("PostResponse"));
                *reply.status_mut() = StatusCode::CREATED;
                reply
            }
            (None, Some("200")) => reply::empty(StatusCode::OK),
            (None, _) => reply::empty(StatusCode::NO_CONTENT),
        };
        let out = reply.headers_mut();
        headers::write_etag(out, etag);
        if !out.contains_key(header::LOCATION) {
            reply::insert(out, header::LOCATION, &location);
        }
        if let Some(checksum) = &entry.checksum {
            headers::write_checksum(out, checksum, 0);
        }
        versioning::write_new_id(out, &entry.version);
        Ok(reply)
    }
}

/// Where a browser may be sent: a web page.
fn redirect(to: &str) -> Option<&str> {
    let uri: http::Uri = to.parse().ok()?;
    let scheme = uri.scheme_str()?;
    (matches!(scheme, "http" | "https") && uri.host().is_some()).then_some(to)
}

fn encode_path(object: &ObjectRef) -> String {
    utf8_percent_encode(object.key.as_str(), PATH).to_string()
}

/// A field that would be a header of a PUT becomes one; others are only for the policy.
fn add_header(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), S3Error> {
    let name = match name {
        "acl" => "x-amz-acl",
        "cache-control"
        | "content-type"
        | "content-disposition"
        | "content-encoding"
        | "content-language"
        | "expires" => name,
        name if SIGNATURE.contains(&name) => return Ok(()),
        name if name.starts_with("x-amz-") => name,
        _ => return Ok(()),
    };
    let refuse = || S3Error::invalid_argument("The field cannot be a header.", name, value);
    let header = HeaderName::try_from(name).map_err(|_| refuse())?;
    let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| refuse())?;
    headers.insert(header, value);
    Ok(())
}

/// Browsers of old times gave the whole path.
fn base_name(filename: &str) -> &str {
    filename.rsplit(['/', '\\']).next().unwrap_or(filename)
}

fn too_large() -> S3Error {
    S3Error::new(Code::MaxPostPreDataLengthExceededError)
        .detail("MaxSizeAllowed", POST_FIELDS_BYTES_MAX.to_string())
}

const SIGNATURE: [&str; 5] = [
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-signature",
    "x-amz-security-token",
];
/// What RFC 3986 leaves as it is.
const NON_ALPHANUMERIC_OF_QUERY: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const PATH: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC_OF_QUERY.remove(b'/');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_sent_to_web_pages_only() {
        for (to, is_taken) in [
            ("http://page.example/x?y", true),
            ("https://page.example", true),
            ("javascript:alert(1)", false),
            ("//page.example", false),
            ("/path", false),
            ("http://", false),
            ("", false),
        ] {
            assert_eq!(redirect(to).is_some(), is_taken, "{to}");
        }
    }

    #[test]
    fn a_path_of_the_browsers_is_no_key() {
        assert_eq!(base_name("C:\\dir\\a.txt"), "a.txt");
        assert_eq!(base_name("dir/a.txt"), "a.txt");
        assert_eq!(base_name("a.txt"), "a.txt");
    }
}
