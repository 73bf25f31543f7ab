//! What conditions may ask about a request: the values of condition keys.
//!
//! Nothing that a client can say about itself stands for what the server knows: the source
//! address is the socket's, never a header's.

use std::borrow::Cow;

use http::request::Parts;

use crate::clock::Timestamp;
use crate::engine::Entry;
use crate::s3::auth::Identity;
use crate::s3::conditions;
use crate::s3::request::{self, Local, Query};

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) action: &'a str,
    pub(super) key: Option<&'a str>,
    /// Stands for the query's `prefix`.
    pub(super) prefix: Option<&'a str>,
    /// The object as it is, where somebody needed to know.
    pub(super) entry: Option<&'a Entry>,
}

/// Who wants it, how and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene<'a> {
    pub(super) who: &'a Identity,
    pub(super) head: &'a Parts,
    pub(super) local: &'a Local,
    pub(super) region: &'a str,
    pub(super) now: Timestamp,
    /// Owner id of the bucket.
    pub(super) owner: &'a str,
}

impl<'a> Scene<'a> {
    /// The values of a key in lower case; none if it has none.
    pub(super) fn values(&self, asked: &Asked<'_>, key: &str) -> Vec<Cow<'a, str>> {
        if let Some(tag) = key.strip_prefix("s3:requestobjecttag/") {
            return self.request_tags(|name| name.eq_ignore_ascii_case(tag), |(_, value)| value);
        }
        if key == "s3:requestobjecttagkeys" {
            return self.request_tags(|_| true, |(name, _)| name);
        }
        if let Some(tag) = key.strip_prefix("s3:existingobjecttag/") {
            return existing_tags(asked.entry, tag);
        }
        let value = match key.strip_prefix("aws:") {
            Some(key) => self.global(key),
            None => self.of_s3(asked, key.strip_prefix("s3:").unwrap_or_default()),
        };
        value.into_iter().collect()
    }

    fn global(&self, key: &str) -> Option<Cow<'a, str>> {
        let user = match self.who {
            Identity::User(user) => Some(user),
            Identity::Anonymous => None,
        };
        let owned = |text: String| Some(Cow::Owned(text));
        match key {
            "username" => user.map(|user| Cow::Borrowed(&*user.name)),
            "userid" | "principalaccount" => user.map(|user| Cow::Borrowed(&*user.id)),
            "principalarn" => {
                let user = user?;
                owned(format!("arn:aws:iam::{}:user/{}", user.id, user.name))
            }
            "principaltype" => Some(Cow::Borrowed(match user {
                Some(user) if user.root => "Account",
                Some(_) => "User",
                None => "Anonymous",
            })),
            "sourceip" => self
                .local
                .peer
                .and_then(|ip| owned(ip.to_canonical().to_string())),
            "securetransport" => owned(self.local.secure.to_string()),
            "currenttime" => {
                let now = jiff::Timestamp::from_second(self.now.unix_seconds()).ok()?;
                owned(now.to_string())
            }
            "epochtime" => owned(self.now.unix_seconds().to_string()),
            "referer" => self.header("referer"),
            "useragent" => self.header("user-agent"),
            "requestedregion" => Some(Cow::Borrowed(self.region)),
            "resourceaccount" => Some(Cow::Borrowed(self.owner)),
            _ => None,
        }
    }

    fn of_s3(&self, asked: &Asked<'_>, key: &str) -> Option<Cow<'a, str>> {
        match key {
            "prefix" | "delimiter" | "max-keys" if !asked.action.starts_with("s3:ListBucket") => {
                None
            }
            "prefix" if asked.prefix.is_some() => {
                asked.prefix.map(|prefix| Cow::Owned(prefix.to_owned()))
            }
            "prefix" | "delimiter" | "max-keys" => self.parameter(key),
            "versionid" => self.parameter("versionId"),
            "resourceaccount" => Some(Cow::Borrowed(self.owner)),
            "authtype" => self.auth_type().map(Cow::Borrowed),
            "signatureversion" => self.signature_version().map(Cow::Borrowed),
            "signatureage" => self
                .signature_age_millis()
                .map(|age| Cow::Owned(age.to_string())),
            "tlsversion" if self.local.secure => Some(Cow::Borrowed("1.2")),
            // As the source is read, not as it is written: with a slash in front, with escapes.
            "x-amz-copy-source" => {
                let (source, _) = request::copy_source(&self.header(key)?).ok()?;
                Some(Cow::Owned(format!("{}/{}", source.bucket, source.key)))
            }
            "object-lock-mode" | "object-lock-legal-hold" | "object-lock-retain-until-date" => {
                self.header(&format!("x-amz-{key}"))
            }
            "object-lock-remaining-retention-days" => {
                let until = self.header("x-amz-object-lock-retain-until-date")?;
                let until = conditions::parse_time(&until)?;
                let left = until.unix_seconds() - self.now.unix_seconds();
                // A day that has begun counts.
                let days = left.max(0).unsigned_abs().div_ceil(86_400);
                Some(Cow::Owned(days.to_string()))
            }
            "if-match" | "if-none-match" => self.header(key),
            key if key.starts_with("x-amz-") => self.header(key),
            _ => None,
        }
    }

    /// A header that is there several times is what its values joined by commas are.
    fn header(&self, name: &str) -> Option<Cow<'a, str>> {
        let mut values = self.head.headers.get_all(name).iter();
        let first = String::from_utf8_lossy(values.next()?.as_bytes());
        let mut rest = values.peekable();
        if rest.peek().is_none() {
            return Some(first);
        }
        let mut joined = first.into_owned();
        for value in rest {
            joined.push(',');
            joined.push_str(&String::from_utf8_lossy(value.as_bytes()));
        }
        Some(Cow::Owned(joined))
    }

    fn parameter(&self, name: &str) -> Option<Cow<'a, str>> {
        let query = Query::parse(self.head.uri.query()).ok()?;
        query.get(name).map(|value| Cow::Owned(value.to_owned()))
    }

    fn auth_type(&self) -> Option<&'static str> {
        if self.head.headers.contains_key(http::header::AUTHORIZATION) {
            return Some("REST-HEADER");
        }
        let presigned = ["X-Amz-Signature", "Signature"];
        let is_there = |name: &&str| self.parameter(name).is_some();
        presigned
            .iter()
            .any(is_there)
            .then_some("REST-QUERY-STRING")
    }

    fn signature_version(&self) -> Option<&'static str> {
        let authorization = self.header("authorization").unwrap_or_default();
        if authorization.starts_with("AWS4-") || self.parameter("X-Amz-Algorithm").is_some() {
            return Some("AWS4-HMAC-SHA256");
        }
        self.auth_type().map(|_| "AWS")
    }

    /// Only signatures of version 4 say when they were made.
    fn signature_age_millis(&self) -> Option<i64> {
        let date = self
            .parameter("X-Amz-Date")
            .or_else(|| self.header("x-amz-date"))?;
        let made = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", &*date).ok()?;
        let made = jiff::tz::Offset::UTC.to_timestamp(made).ok()?;
        Some(self.now.unix_nanos / 1_000_000 - made.as_millisecond())
    }

    /// Tags that the request's header gives the object.
    fn request_tags(
        &self,
        wanted: impl Fn(&str) -> bool,
        part: impl Fn((String, String)) -> String,
    ) -> Vec<Cow<'a, str>> {
        let raw = self.header("x-amz-tagging").unwrap_or_default();
        let decode = |text: &str| {
            let spaced = text.replace('+', " ");
            percent_encoding::percent_decode_str(&spaced)
                .decode_utf8_lossy()
                .into_owned()
        };
        raw.split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decode(name), decode(value)))
            .filter(|(name, _)| wanted(name))
            .map(|pair| Cow::Owned(part(pair)))
            .collect()
    }
}

/// The values of a tag of the object; the names of condition keys have no case.
fn existing_tags<'a>(entry: Option<&Entry>, wanted: &str) -> Vec<Cow<'a, str>> {
    let tags = entry.map(|entry| entry.metadata.tags.as_slice());
    tags.unwrap_or_default()
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
        .map(|(_, value)| Cow::Owned(value.to_string()))
        .collect()
}
