//! A request's head becomes a typed target, once: what is authorised is what is stored.

use std::borrow::Cow;
use std::net::IpAddr;

use http::request::Parts;
use percent_encoding::percent_decode_str;

use super::error::{Code, S3Error};
use crate::engine::{BucketName, ObjectKey, VersionId};

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Service,
    Bucket(BucketName),
    Object(ObjectRef),
}

impl Target {
    #[cfg(test)]
    fn bucket(&self) -> Option<&BucketName> {
        match self {
            Self::Service => None,
            Self::Bucket(bucket) | Self::Object(ObjectRef { bucket, .. }) => Some(bucket),
        }
    }
}

/// One key in one bucket, decoded once from the URI (or from a copy source).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectRef {
    pub bucket: BucketName,
    pub key: ObjectKey,
}

/// A connection's ends. `<bucket>.<address of the accepted socket>` is virtual-host style.
#[derive(Clone, Debug, Default)]
pub struct Local {
    pub ip: Option<IpAddr>,
    /// The host name that the listener was configured with, if it was a name.
    pub host: Option<Box<str>>,
    /// The other end; none on a Unix socket.
    pub peer: Option<IpAddr>,
    /// The connection is TLS.
    pub secure: bool,
}

/// The bucket that the Host header names (virtual-host style), as it was written.
///
/// Virtual-host style is `<bucket>.<domain>` for the configured domains, `<bucket>.localhost`,
/// and `<bucket>.<host>` of the listening address. Any other Host means path style.
pub fn virtual_bucket<'a>(head: &'a Parts, domains: &[Box<str>], local: &Local) -> Option<&'a str> {
    let host = without_port(host_of(head)?);
    if host.parse::<IpAddr>().is_ok() {
        // The usual case, and an address is under no name.
        return None;
    }
    let under = |domain: &str| {
        let cut = host.len().checked_sub(domain.len())?;
        let (front, tail) = (host.get(..cut)?, host.get(cut..)?);
        front
            .strip_suffix('.')
            .filter(|_| tail.eq_ignore_ascii_case(domain))
    };
    let ip = local.ip.map(|ip| match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => ip
            .to_ipv4_mapped()
            .map_or_else(|| format!("[{ip}]"), |v4| v4.to_string()),
    });
    let mut candidates = domains.iter().map(Box::as_ref).chain(["localhost"]);
    candidates
        .find_map(&under)
        .or_else(|| ip.as_deref().and_then(&under))
        .or_else(|| local.host.as_deref().and_then(&under))
        .filter(|bucket| !bucket.is_empty())
}

/// The target of a request. `virtual_bucket`: what [`virtual_bucket`] found.
pub(super) fn target(head: &Parts, virtual_bucket: Option<&str>) -> Result<Target, S3Error> {
    let path = head.uri.path();
    let rest = path.strip_prefix('/').unwrap_or(path);
    let (bucket, key) = match virtual_bucket {
        // Names of hosts have no case, names of buckets are in lower case.
        Some(bucket) => (decode_bucket(&bucket.to_ascii_lowercase())?, rest),
        None if rest.is_empty() => return Ok(Target::Service),
        None => {
            let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
            (decode_bucket(bucket)?, key)
        }
    };
    if key.is_empty() {
        return Ok(Target::Bucket(bucket));
    }
    Ok(Target::Object(ObjectRef {
        bucket,
        key: decode_key(key)?,
    }))
}

/// The source that `x-amz-copy-source` names: `[/]bucket/key[?versionId=id]`, percent-encoded.
pub(super) fn copy_source(header: &str) -> Result<(ObjectRef, Option<VersionId>), S3Error> {
    let malformed = || {
        S3Error::invalid_argument(
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
            "x-amz-copy-source",
            header,
        )
    };
    let (path, version) = match header.split_once("?versionId=") {
        Some((_, "")) => return Err(malformed()),
        Some((path, version)) => {
            let version = decode(version).map_err(|_| malformed())?;
            (path, Some(VersionId::parse(&version)))
        }
        None => (header, None),
    };
    // Some clients escape the slash between bucket and key too, so decode before the split.
    let decoded = decode(path).map_err(|_| malformed())?;
    let rest = decoded.strip_prefix('/').unwrap_or(&decoded);
    let (bucket, key) = rest.split_once('/').ok_or_else(malformed)?;
    if key.is_empty() {
        return Err(malformed());
    }
    let bucket = decode_bucket(bucket)?;
    let key = parse_key(key)?;
    Ok((ObjectRef { bucket, key }, version))
}

/// The Host header, or the authority of an HTTP/2 request.
pub fn host_of(head: &Parts) -> Option<&str> {
    match head.headers.get(http::header::HOST) {
        Some(host) => host.to_str().ok(),
        None => head.uri.authority().map(http::uri::Authority::as_str),
    }
}

/// `host` without `:port`; an IPv6 address keeps its brackets.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => {
            name
        }
        _ => host,
    }
}

/// A key from outside the path (XML, copy source): already decoded.
pub(super) fn parse_key(raw: &str) -> Result<ObjectKey, S3Error> {
    ObjectKey::parse(raw).map_err(|why| {
        let code = if raw.len() > crate::limits::KEY_BYTES_MAX {
            Code::KeyTooLongError
        } else {
            Code::InvalidURI
        };
        S3Error::with_message(code, format!("{why}."))
            .detail("Size", raw.len().to_string())
            .detail("MaxSizeAllowed", crate::limits::KEY_BYTES_MAX.to_string())
    })
}

fn decode_key(raw: &str) -> Result<ObjectKey, S3Error> {
    parse_key(&decode(raw)?)
}

fn decode_bucket(raw: &str) -> Result<BucketName, S3Error> {
    let name = decode(raw)?;
    BucketName::parse(&name).map_err(|why| {
        S3Error::with_message(Code::InvalidBucketName, format!("{why}."))
            .detail("BucketName", name.into_owned())
    })
}

pub(super) fn decode(raw: &str) -> Result<Cow<'_, str>, S3Error> {
    percent_decode_str(raw).decode_utf8().map_err(|_| {
        S3Error::with_message(
            Code::InvalidURI,
            "The URI is not UTF-8 after percent-decoding.",
        )
    })
}

/// The query of a request, percent-decoded once, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    /// A name that comes twice is refused: two readers might pick different values.
    pub(super) fn parse(raw: Option<&'a str>) -> Result<Self, S3Error> {
        let mut pairs: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
        for piece in raw
            .unwrap_or("")
            .split('&')
            .filter(|piece| !piece.is_empty())
        {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            let name = decode_query(name)?;
            if pairs.iter().any(|(seen, _)| *seen == name) {
                let message = format!("The query parameter '{name}' is there more than once.");
                return Err(S3Error::invalid_argument(message, &name, value));
            }
            pairs.push((name, decode_query(value)?));
        }
        Ok(Self { pairs })
    }

    /// The value of a parameter; empty when it has none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(is, _)| is == name)
            .map(|(_, value)| value.as_ref())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// A number in `0..=max_value`; larger ones are cut to it, as S3 cuts `max-keys`.
    pub(super) fn number(&self, name: &str, default: u32, max_value: u32) -> Result<u32, S3Error> {
        let Some(raw) = self.get(name).filter(|raw| !raw.is_empty()) else {
            return Ok(default);
        };
        let refuse = |message: String| Err(S3Error::invalid_argument(message, name, raw));
        match raw.parse::<i64>() {
            Ok(value) if value < 0 || value > i64::from(i32::MAX) => refuse(format!(
                "Argument {name} must be an integer between 0 and 2147483647"
            )),
            Ok(value) => Ok(u32::try_from(value).unwrap_or(max_value).min(max_value)),
            Err(_) => refuse(format!(
                "Provided {name} not an integer or within integer range"
            )),
        }
    }
}

/// A name or value of a form or query, `+` for a space; `None` if it is not UTF-8.
pub(super) fn decode_form(raw: &str) -> Option<String> {
    decode_query(raw).ok().map(Cow::into_owned)
}

fn decode_query(raw: &str) -> Result<Cow<'_, str>, S3Error> {
    if !raw.contains('+') {
        return decode(raw);
    }
    // In a query S3 reads '+' as a space, as forms do.
    let spaced = raw.replace('+', " ");
    Ok(Cow::Owned(decode(&spaced)?.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(host: &str, path: &str) -> Parts {
        let request = http::Request::builder()
            .uri(path)
            .header("host", host)
            .body(())
            .unwrap();
        request.into_parts().0
    }

    fn find(host: &str, path: &str) -> Result<Target, Code> {
        let head = head(host, path);
        let local = Local {
            ip: Some([127, 0, 0, 1].into()),
            ..Local::default()
        };
        let bucket = virtual_bucket(&head, &["s3.example.org".into()], &local);
        target(&head, bucket).map_err(|error| error.code)
    }

    fn object(bucket: &str, key: &str) -> Result<Target, Code> {
        Ok(Target::Object(ObjectRef {
            bucket: BucketName::parse(bucket).unwrap(),
            key: ObjectKey::parse(key).unwrap(),
        }))
    }

    #[test]
    fn both_styles_of_addressing_find_the_same_object() {
        for (host, path) in [
            ("127.0.0.1:8080", "/demo/a%20b/c"),
            ("anything.example.net", "/demo/a%20b/c"),
            ("[::1]:8080", "/demo/a%20b/c"),
            ("demo.localhost:8080", "/a%20b/c"),
            ("demo.127.0.0.1:8080", "/a%20b/c"),
            ("demo.S3.example.org", "/a%20b/c"),
            ("DEMO.S3.example.org", "/a%20b/c"),
        ] {
            assert_eq!(find(host, path), object("demo", "a b/c"), "{host}{path}");
        }
        assert_eq!(find("a.b.localhost", "/k"), object("a.b", "k"));
        assert_eq!(find("localhost", "/"), Ok(Target::Service));
        assert_eq!(
            find("demo.localhost", "/")
                .unwrap()
                .bucket()
                .unwrap()
                .as_str(),
            "demo"
        );
    }

    #[test]
    fn a_key_is_decoded_exactly_once() {
        assert_eq!(find("h", "/demo/a%2540b"), object("demo", "a%40b"));
        assert_eq!(find("h", "/demo/a%40b+c"), object("demo", "a@b+c"));
        assert_eq!(find("h", "/demo//a"), object("demo", "/a"));
        assert_eq!(find("h", "/demo/../x"), object("demo", "../x"));
        assert_eq!(find("h", "/demo/a%2F%2Fb"), object("demo", "a//b"));
    }

    #[test]
    fn sec_path_escape_illegal_names_are_refused_before_anything_else() {
        assert_eq!(find("h", "/de%2Fmo"), Err(Code::InvalidBucketName));
        assert_eq!(find("h", "/../etc/passwd"), Err(Code::InvalidBucketName));
        assert_eq!(find("h", "/demo/%ff"), Err(Code::InvalidURI));
        assert_eq!(find("h", "/demo/a%00b"), Err(Code::InvalidURI));
        assert_eq!(
            find("h", &format!("/demo/{}", "k".repeat(1025))),
            Err(Code::KeyTooLongError)
        );
        assert_eq!(find("h", "/-/other"), Err(Code::InvalidBucketName));
    }

    #[test]
    fn copy_sources_come_with_and_without_slash_and_escapes() {
        for raw in [
            "demo/a%20b",
            "/demo/a b",
            "demo%2Fa%20b",
            "/demo/a%20b?versionId=null",
        ] {
            let (source, _) = copy_source(raw).unwrap();
            assert_eq!(
                (source.bucket.as_str(), source.key.as_str()),
                ("demo", "a b"),
                "{raw}"
            );
        }
        assert_eq!(copy_source("demo").unwrap_err().code, Code::InvalidArgument);
        assert_eq!(
            copy_source("demo/").unwrap_err().code,
            Code::InvalidArgument
        );
        let (_, version) = copy_source("demo/k?versionId=7").unwrap();
        assert_eq!(version, Some(VersionId::parse("7")));
        let (source, version) = copy_source("demo/k%3FversionId=7").unwrap();
        assert_eq!((source.key.as_str(), version), ("k?versionId=7", None));
        assert!(copy_source("demo/k?versionId=").is_err());
    }

    #[test]
    fn numbers_in_the_query_are_bounded_and_named() {
        let query = Query::parse(Some("a=5&b=5000&c=-1&d=x&e=")).unwrap();
        assert_eq!(query.number("a", 9, 1000).unwrap(), 5);
        assert_eq!(query.number("b", 9, 1000).unwrap(), 1000);
        assert_eq!(query.number("e", 9, 1000).unwrap(), 9);
        for name in ["c", "d"] {
            assert_eq!(
                query.number(name, 9, 1000).unwrap_err().code,
                Code::InvalidArgument
            );
        }
    }
}
