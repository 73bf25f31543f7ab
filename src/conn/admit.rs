//! Which requests are let in: pure functions of a head.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::{HeaderValue, Method, Version};

use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX};
use crate::s3::{Code, ForeignPage, Local, S3Error, without_port};

/// Who may talk to a server without authentication. A browser carries every page's requests to
/// loopback addresses, so the page's origin and the name that it used are checked.
#[derive(Debug)]
pub struct OpenRules {
    /// Names under which the server may be reached beside loopback ones; lower case.
    pub domains: Vec<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    Request,
    /// A GET or HEAD of `/-/healthz` or `/-/readyz`.
    Health,
}

/// Refuses heads that two readers could understand differently, heads that are too large, and
/// without authentication those that came by a name which a foreign page may have. What such a
/// page sent otherwise is marked as [`ForeignPage`]. After it the head has exactly
/// one Host header, for HTTP/2 too.
pub(super) fn admit(
    head: &mut Parts,
    open: Option<&OpenRules>,
    local: &Local,
) -> Result<Admitted, S3Error> {
    check_size(head)?;
    check_framing(head)?;
    one_host(head)?;
    if let "/-/healthz" | "/-/readyz" = head.uri.path() {
        return match head.method {
            Method::GET | Method::HEAD => Ok(Admitted::Health),
            _ => Err(S3Error::new(Code::MethodNotAllowed)),
        };
    }
    if let Some(rules) = open
        && check_open(rules, local, &head.method, &head.headers)? == Page::Foreign
    {
        head.extensions.insert(ForeignPage);
    }
    Ok(Admitted::Request)
}

impl OpenRules {
    /// Whether a request with these headers came by a name of this server and from no foreign page.
    pub(crate) fn is_from_here(&self, local: &Local, method: &Method, headers: &HeaderMap) -> bool {
        matches!(check_open(self, local, method, headers), Ok(Page::Local))
    }
}

fn check_size(head: &Parts) -> Result<(), S3Error> {
    let lines = head.headers.iter().map(|(name, value)| {
        // ": " and the line's end.
        name.as_str().len() + value.len() + 4
    });
    let uri = head.uri.path().len() + head.uri.query().map_or(0, str::len);
    if lines.sum::<usize>() + uri > HEAD_BYTES_MAX || head.headers.len() > HEADERS_MAX {
        return Err(S3Error::new(Code::RequestHeaderSectionTooLarge)
            .detail("MaxSizeAllowed", HEAD_BYTES_MAX.to_string()));
    }
    Ok(())
}

fn check_framing(head: &Parts) -> Result<(), S3Error> {
    if head.method == Method::CONNECT {
        return Err(S3Error::new(Code::MethodNotAllowed));
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
        _ => {
            return Err(refused(
                "The only transfer coding is 'chunked', given once.",
            ));
        }
    }
    let internal = |name: &HeaderName| name.as_str().starts_with("x-lobos-internal-");
    if head.headers.keys().any(internal) {
        return Err(refused(
            "Headers that start with 'x-lobos-internal-' are not for clients.",
        ));
    }
    Ok(())
}

/// One Host header that says what the URI says, if that names a host.
fn one_host(head: &mut Parts) -> Result<(), S3Error> {
    let named = head.uri.authority().map(http::uri::Authority::as_str);
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next(), named) {
        (Some(_), Some(_), _) => Err(refused("There is more than one Host header.")),
        (Some(host), None, named) => {
            let agrees = |named: &str| named.as_bytes().eq_ignore_ascii_case(host.as_bytes());
            if !named.is_none_or(agrees) {
                return Err(refused(
                    "The Host header and the request's URI name two hosts.",
                ));
            }
            if host.is_empty() || !host.as_bytes().iter().copied().all(is_host_byte) {
                return Err(refused(
                    "The Host header is no host name with an optional port.",
                ));
            }
            Ok(())
        }
        (None, _, Some(named)) if head.version == Version::HTTP_2 => {
            let host = HeaderValue::from_str(named)
                .ok()
                .filter(|host| host.as_bytes().iter().copied().all(is_host_byte))
                .ok_or_else(|| refused("The ':authority' is no host name."))?;
            head.headers.insert(header::HOST, host);
            Ok(())
        }
        (None, _, _) => Err(refused("There is no Host header.")),
    }
}

/// Letters, digits and what names and addresses hold besides; no user info, no path, no list.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'%')
}

/// Whose page caused a request, as its Origin says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    /// None, or one of this machine.
    Local,
    /// Another one, which a bucket's CORS rules must name.
    Foreign,
}

fn check_open(
    rules: &OpenRules,
    local: &Local,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Page, S3Error> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let ours = |name: &str| is_ours(rules, local, name);
    if !host.is_some_and(|host| ours(without_port(host))) {
        return Err(S3Error::with_message(
            Code::AccessDenied,
            "This server has no authentication and answers only under loopback names and the \
             names given with --domain.",
        ));
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) if posts_across_sites(method, headers) => Ok(Page::Foreign),
        (None, _) => Ok(Page::Local),
        (Some(origin), None) if origin_host(origin).is_some_and(is_loopback) => Ok(Page::Local),
        (Some(_), None) => Ok(Page::Foreign),
        (Some(_), Some(_)) => Err(refused("There is more than one Origin header.")),
    }
}

/// A form needs no permission of the server it is sent to, and a browser may be told to leave the
/// Origin out; that the page is of another site it says nevertheless.
fn posts_across_sites(method: &Method, headers: &HeaderMap) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let site = headers.get("sec-fetch-site");
    !reads && site.is_some_and(|site| site == "cross-site")
}

/// A loopback name, one under it (`<bucket>.localhost`), or one under a configured domain.
fn is_ours(rules: &OpenRules, local: &Local, host: &str) -> bool {
    let known = |domain: &str| host.eq_ignore_ascii_case(domain) || under(host, domain).is_some();
    is_loopback(host)
        || under(host, "localhost").is_some()
        || under_loopback_address(host)
        || rules.domains.iter().any(|domain| known(domain))
        || local.ip.is_some_and(|ip| known(&ip.to_string()))
}

/// The host of a page that came from a server. `null` names none, and in an origin of another
/// scheme (a browser's extension) what stands for the host is a name that anybody may choose.
fn origin_host(origin: &HeaderValue) -> Option<&str> {
    let (scheme, host) = origin.to_str().ok()?.split_once("://")?;
    matches!(scheme, "http" | "https").then(|| without_port(host))
}

fn is_loopback(host: &str) -> bool {
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let ip = match bare {
        Some(v6) => v6.parse().map(IpAddr::V6),
        None => host.parse().map(IpAddr::V4),
    };
    ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// `<bucket>.127.0.0.1`: no DNS name ends in a number, so that no foreign page can have it.
fn under_loopback_address(host: &str) -> bool {
    let mut dots = host.rmatch_indices('.').map(|(at, _)| at);
    dots.nth(3)
        .is_some_and(|at| host.get(at + 1..).is_some_and(is_loopback))
}

/// What stands before `.domain`.
fn under<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let cut = host.len().checked_sub(domain.len())?;
    let (front, tail) = host.split_at_checked(cut)?;
    let bucket = front.strip_suffix('.')?;
    (!bucket.is_empty() && tail.eq_ignore_ascii_case(domain)).then_some(bucket)
}

fn refused(message: &'static str) -> S3Error {
    S3Error::with_message(Code::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    fn verdict(headers: &[(&str, &str)]) -> Result<Admitted, Code> {
        let mut request = http::Request::builder().uri("/demo/key");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        admit(&mut head(request), None, &Local::default()).map_err(|error| error.code)
    }

    #[test]
    fn sec_smuggling_ambiguous_heads_are_refused() {
        let refused = Err(Code::InvalidRequest);
        assert_eq!(verdict(&[("host", "a")]), Ok(Admitted::Request));
        assert_eq!(verdict(&[]), refused);
        assert_eq!(verdict(&[("host", "a"), ("host", "a")]), refused);
        assert_eq!(verdict(&[("host", "")]), refused);
        assert_eq!(verdict(&[("host", "a/b")]), refused);
        assert_eq!(verdict(&[("host", "user@a")]), refused);
        assert_eq!(verdict(&[("host", "a, b")]), refused);
        let te = |coding| verdict(&[("host", "a"), ("transfer-encoding", coding)]);
        assert_eq!(te("Chunked"), Ok(Admitted::Request));
        for coding in [
            "gzip",
            "chunked, chunked",
            "gzip, chunked",
            "xchunked",
            "chunked;q=1",
            "",
        ] {
            assert_eq!(te(coding), refused, "{coding}");
        }
        let twice = [
            ("transfer-encoding", "chunked"),
            ("transfer-encoding", "chunked"),
        ];
        assert_eq!(verdict(&[("host", "a"), twice[0], twice[1]]), refused);
        assert_eq!(
            verdict(&[("host", "a"), ("x-lobos-internal-user", "root")]),
            refused
        );
    }

    #[test]
    fn sec_smuggling_the_uri_and_the_host_header_must_agree() {
        let case = |uri: &str, host: Option<&str>, version| {
            let mut request = http::Request::builder().uri(uri).version(version);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let mut head = head(request);
            let verdict = admit(&mut head, None, &Local::default());
            let host = head
                .headers
                .get("host")
                .map(|host| host.to_str().unwrap().to_owned());
            verdict.ok().and(host)
        };
        let (h1, h2) = (Version::HTTP_11, Version::HTTP_2);
        assert_eq!(
            case("http://a:80/x", Some("A:80"), h1).as_deref(),
            Some("A:80")
        );
        assert_eq!(case("http://a/x", Some("b"), h1), None);
        assert_eq!(case("http://a/x", None, h1), None);
        assert_eq!(case("http://a:80/x", None, h2).as_deref(), Some("a:80"));
        assert_eq!(case("http://a/x", Some("b"), h2), None);
        assert_eq!(case("http://u@a/x", None, h2), None);
    }

    #[test]
    fn sec_resource_exhaustion_large_heads_are_refused() {
        let large = "x".repeat(HEAD_BYTES_MAX);
        let verdict_of = |value: &str| verdict(&[("host", "a"), ("x-filler", value)]);
        assert_eq!(verdict_of(&large), Err(Code::RequestHeaderSectionTooLarge));
        assert_eq!(verdict_of(&large[..15 << 10]), Ok(Admitted::Request));
        let many = vec![("x-many", "1"); HEADERS_MAX];
        let many = [&[("host", "a")], &many[..]].concat();
        assert_eq!(verdict(&many), Err(Code::RequestHeaderSectionTooLarge));
        assert_eq!(
            verdict(&many[1..]),
            Err(Code::InvalidRequest),
            "exactly the limit"
        );
    }

    #[test]
    fn sec_dns_rebinding_without_authentication_foreign_names_and_pages_are_refused() {
        let rules = OpenRules {
            domains: vec!["s3.example.org".into()],
        };
        let local = Local {
            ip: Some([127, 0, 0, 2].into()),
            ..Local::default()
        };
        // Whether the request comes in, and whether it is marked as a foreign page's.
        let verdict = |headers: &[(&str, &str)]| {
            let mut request = http::Request::builder().uri("/demo");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let mut head = head(request);
            let enters = admit(&mut head, Some(&rules), &local).is_ok();
            (enters, head.extensions.get::<ForeignPage>().is_some())
        };
        let enters = |headers: &[(&str, &str)]| verdict(headers) == (true, false);
        for host in [
            "localhost",
            "LocalHost:8080",
            "127.0.0.1:8080",
            "127.1.2.3",
            "[::1]:8080",
            "demo.localhost:8080",
            "a.b.localhost",
            "demo.127.0.0.1:8080",
            "demo.127.0.0.2",
            "s3.example.org",
            "demo.S3.example.org:80",
        ] {
            assert!(enters(&[("host", host)]), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "xlocalhost",
            "xs3.example.org",
            "10.0.0.1",
            "demo.10.0.0.1",
            "[::2]",
            "0.0.0.0",
            "localhost.",
            ".localhost",
        ] {
            assert!(!enters(&[("host", host)]), "{host}");
        }
        let origin = |origin| enters(&[("host", "localhost"), ("origin", origin)]);
        for page in [
            "http://localhost:3000",
            "https://127.0.0.1",
            "http://[::1]:5173",
        ] {
            assert!(origin(page), "{page}");
        }
        for page in [
            "null",
            "https://evil.example",
            "http://localhost.evil.example",
            "",
            "file://",
            "chrome-extension://localhost",
            "moz-extension://127.0.0.1",
        ] {
            let headers = [("host", "localhost"), ("origin", page)];
            assert_eq!(verdict(&headers), (true, true), "{page}");
        }
        let twice = [
            ("host", "localhost"),
            ("origin", "http://localhost"),
            ("origin", "null"),
        ];
        let across = [("host", "localhost"), ("sec-fetch-site", "cross-site")];
        assert_eq!(
            verdict(&across),
            (true, false),
            "a link in a page is followed"
        );
        let form = http::Request::post("/demo").header("host", "localhost");
        let mut form = head(form.header("sec-fetch-site", "cross-site"));
        assert!(admit(&mut form, Some(&rules), &local).is_ok());
        assert!(form.extensions.get::<ForeignPage>().is_some(), "a form");
        assert!(!verdict(&twice).0);
    }

    #[test]
    fn health_needs_no_name_and_only_get_and_head() {
        let rules = OpenRules { domains: vec![] };
        let ask = |method, path| {
            let request = http::Request::builder()
                .method(method)
                .uri(path)
                .header("host", "lb");
            admit(&mut head(request), Some(&rules), &Local::default()).map_err(|e| e.code)
        };
        assert_eq!(ask("GET", "/-/healthz"), Ok(Admitted::Health));
        assert_eq!(ask("HEAD", "/-/readyz"), Ok(Admitted::Health));
        assert_eq!(ask("PUT", "/-/healthz"), Err(Code::MethodNotAllowed));
        assert_eq!(ask("GET", "/-/other"), Err(Code::AccessDenied));
    }
}
