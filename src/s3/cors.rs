//! CORS: the rules of a bucket, the pre-flight, and what other replies say to a browser.
//!
//! A rule is found as S3's user guide has it: the first one that names the origin, the method and,
//! in a pre-flight, every header asked for.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::error::{Code, S3Error};
use super::payload::Want;
use super::reply::{self, Reply};
use super::request::{self, Local, ObjectRef, Target, virtual_bucket};
use super::xml::{Element, Writer, malformed};
use super::{Call, S3, document};
use crate::engine::{Bucket, BucketName};
use crate::limits::{CORS_RULES_MAX, CORS_XML_BYTES_MAX};

/// The bucket's document.
const DOCUMENT: &str = "cors";

/// The page that caused the request is of another origin than this machine, and there is no
/// authentication: only a bucket's rules can let it in.
#[derive(Clone, Copy, Debug)]
pub struct ForeignPage;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Rule {
    id: Option<String>,
    origins: Vec<String>,
    methods: Vec<String>,
    headers: Vec<String>,
    expose: Vec<String>,
    max_age_seconds: Option<u32>,
}

impl Rule {
    fn parse(element: &Element) -> Result<Self, S3Error> {
        element.only(&[
            "ID",
            "AllowedOrigin",
            "AllowedMethod",
            "AllowedHeader",
            "ExposeHeader",
            "MaxAgeSeconds",
        ])?;
        let all = |name: &str| -> Vec<String> {
            let named = element.children.iter().filter(|child| child.name == name);
            named.map(|child| child.text.trim().to_owned()).collect()
        };
        let max_age_seconds = match element.text_of("MaxAgeSeconds")? {
            None => None,
            Some(raw) => Some(
                raw.trim()
                    .parse()
                    .map_err(|_| malformed("MaxAgeSeconds is not a number"))?,
            ),
        };
        let rule = Self {
            id: element.text_of("ID")?.map(str::to_owned),
            origins: all("AllowedOrigin"),
            methods: all("AllowedMethod"),
            headers: all("AllowedHeader"),
            expose: all("ExposeHeader"),
            max_age_seconds,
        };
        rule.check()?;
        Ok(rule)
    }

    fn check(&self) -> Result<(), S3Error> {
        let invalid = |message: String| Err(S3Error::with_message(Code::InvalidRequest, message));
        if self.origins.is_empty() || self.methods.is_empty() {
            return Err(malformed(
                "a CORSRule needs an AllowedOrigin and an AllowedMethod",
            ));
        }
        if self.id.as_ref().is_some_and(|id| id.chars().count() > 255) {
            return Err(malformed("the ID of a CORSRule is longer than 255"));
        }
        let known = ["GET", "PUT", "POST", "DELETE", "HEAD"];
        if let Some(method) = self.methods.iter().find(|m| !known.contains(&m.as_str())) {
            return invalid(format!(
                "Found unsupported HTTP method in CORS config. Unsupported method is {method}"
            ));
        }
        let lists = [
            ("AllowedOrigin", &self.origins),
            ("AllowedHeader", &self.headers),
        ];
        for (name, patterns) in lists {
            let stars = |pattern: &String| pattern.matches('*').count() > 1;
            if let Some(pattern) = patterns.iter().find(|pattern| stars(pattern)) {
                return invalid(format!(
                    "{name} \"{pattern}\" can not have more than one wildcard."
                ));
            }
        }
        for name in self.headers.iter().chain(&self.expose) {
            // What is no header name could not stand in a reply either.
            if HeaderName::try_from(name.replace('*', "x")).is_err() {
                return invalid(format!("\"{name}\" is not the name of a header."));
            }
        }
        if let Some(name) = self.expose.iter().find(|name| name.contains('*')) {
            return invalid(format!(
                "ExposeHeader \"{name}\" contains wildcard. We currently do not support wildcard \
                 for ExposeHeader."
            ));
        }
        Ok(())
    }

    /// The pattern that names the origin.
    fn origin(&self, origin: &str) -> Option<&str> {
        let mut patterns = self.origins.iter().map(String::as_str);
        patterns.find(|pattern| fits(pattern, origin))
    }

    fn allows(&self, origin: &str, method: &str, headers: &[String]) -> bool {
        let named = |header: &String| {
            let mut patterns = self.headers.iter();
            patterns.any(|pattern| fits(&pattern.to_ascii_lowercase(), header))
        };
        self.origin(origin).is_some()
            && self.methods.iter().any(|allowed| allowed == method)
            && headers.iter().all(named)
    }
}

/// `*` stands for any text, once.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((front, back)) => text
            .strip_prefix(front)
            .is_some_and(|rest| rest.ends_with(back)),
    }
}

fn parse(body: &[u8]) -> Result<Vec<Rule>, S3Error> {
    let root = Element::parse(body, "CORSConfiguration")?;
    root.only(&["CORSRule"])?;
    if root.children.is_empty() {
        return Err(malformed("it holds no CORSRule"));
    }
    if root.children.len() > CORS_RULES_MAX {
        return Err(S3Error::with_message(
            Code::InvalidRequest,
            "The number of CORS rules should not exceed allowed limit of 100 rules.",
        ));
    }
    root.children.iter().map(Rule::parse).collect()
}

pub(super) async fn get(bucket: &Bucket) -> Result<Reply, S3Error> {
    let config = bucket.config().await?;
    let rules: Vec<Rule> =
        document::read(&config, DOCUMENT)?.ok_or(S3Error::new(Code::NoSuchCORSConfiguration))?;
    let mut page = Writer::document("CORSConfiguration");
    for rule in &rules {
        page.open("CORSRule");
        if let Some(id) = &rule.id {
            page.leaf("ID", id);
        }
        for (name, values) in [
            ("AllowedOrigin", &rule.origins),
            ("AllowedMethod", &rule.methods),
            ("AllowedHeader", &rule.headers),
            ("ExposeHeader", &rule.expose),
        ] {
            values.iter().for_each(|value| page.leaf(name, value));
        }
        if let Some(seconds) = rule.max_age_seconds {
            page.number("MaxAgeSeconds", u64::from(seconds));
        }
        page.close("CORSRule");
    }
    Ok(reply::xml(page.finish("CORSConfiguration")))
}

pub(super) async fn put(call: Call<'_>, bucket: &Bucket) -> Result<Reply, S3Error> {
    let (payload, _room) = call.payload(Want::default()).await?;
    let rules = parse(&payload.collect(CORS_XML_BYTES_MAX).await?)?;
    document::write(bucket, DOCUMENT, &rules).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(super) async fn delete(bucket: &Bucket) -> Result<Reply, S3Error> {
    document::remove(bucket, DOCUMENT).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// OPTIONS: a browser asks, without credentials, whether a page may send a request.
pub(super) async fn preflight(s3: &S3, head: &Parts, target: &Target) -> Result<Reply, S3Error> {
    let bad = |message: &'static str| S3Error::with_message(Code::BadRequest, message);
    let origin = text(&head.headers, &header::ORIGIN)
        .ok_or_else(|| bad("Insufficient information. Origin request header needed."))?;
    let method = text(&head.headers, &header::ACCESS_CONTROL_REQUEST_METHOD)
        .ok_or_else(|| bad("Invalid Access-Control-Request-Method: null"))?;
    let asked = text(&head.headers, &header::ACCESS_CONTROL_REQUEST_HEADERS).unwrap_or_default();
    let asked: Vec<String> = asked
        .split(',')
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect();
    let forbidden = |why: &str| {
        S3Error::with_message(Code::AccessForbidden, format!("CORSResponse: {why}"))
            .detail("Method", method)
    };
    let Some(name) = bucket_of(target) else {
        return Err(forbidden("This is not a request about a bucket."));
    };
    let Some(rules) = rules(s3, name).await? else {
        return Err(forbidden("CORS is not enabled for this bucket."));
    };
    let mut rules = rules.iter();
    let Some(rule) = rules.find(|rule| rule.allows(origin, method, &asked)) else {
        return Err(forbidden(
            "This CORS request is not allowed. This is usually because the evalution of Origin, \
             request method / Access-Control-Request-Method or Access-Control-Request-Headers are \
             not whitelisted by the resource's CORS spec.",
        ));
    };
    let mut reply = reply::empty(StatusCode::OK);
    describe(reply.headers_mut(), rule, origin);
    if !asked.is_empty() {
        let name = header::ACCESS_CONTROL_ALLOW_HEADERS;
        reply::insert(reply.headers_mut(), name, &asked.join(", "));
    }
    Ok(reply)
}

/// Without authentication, a request of a foreign page is let in where the bucket's rules name the
/// page's origin for the request's method.
pub(super) async fn admit_page(s3: &S3, head: &Parts, target: &Target) -> Result<(), S3Error> {
    let origin = text(&head.headers, &header::ORIGIN).unwrap_or_default();
    let method = head.method.as_str();
    if let Some(name) = bucket_of(target)
        && let Ok(Some(rules)) = rules(s3, name).await
        && rules.iter().any(|rule| rule.allows(origin, method, &[]))
    {
        return Ok(());
    }
    Err(S3Error::with_message(
        Code::AccessDenied,
        "This server has no authentication and refuses requests of foreign web pages, unless the \
         CORS rules of the bucket name their origin.",
    ))
}

/// Tells a browser whether the page may see the reply to its request.
pub(super) async fn label(s3: &S3, local: &Local, head: &Parts, out: &mut HeaderMap) {
    let Some(origin) = text(&head.headers, &header::ORIGIN) else {
        return;
    };
    let virtual_bucket = virtual_bucket(head, &s3.domains, local);
    let Ok(target) = request::target(head, virtual_bucket) else {
        return;
    };
    let asked = text(&head.headers, &header::ACCESS_CONTROL_REQUEST_METHOD);
    let method = asked.unwrap_or(head.method.as_str());
    if head.method != Method::OPTIONS
        && let Some(name) = bucket_of(&target)
        && let Ok(Some(rules)) = rules(s3, name).await
        && let Some(rule) = rules.iter().find(|rule| rule.allows(origin, method, &[]))
    {
        describe(out, rule, origin);
    }
}

fn bucket_of(target: &Target) -> Option<&BucketName> {
    match target {
        Target::Service => None,
        Target::Bucket(bucket) | Target::Object(ObjectRef { bucket, .. }) => Some(bucket),
    }
}

async fn rules(s3: &S3, name: &BucketName) -> Result<Option<Vec<Rule>>, S3Error> {
    let config = s3.engines.bucket(name).await?.config().await?;
    document::read(&config, DOCUMENT)
}

fn describe(out: &mut HeaderMap, rule: &Rule, origin: &str) {
    let anybody = rule.origin(origin) == Some("*");
    let origin = if anybody { "*" } else { origin };
    reply::insert(out, header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let methods = rule.methods.join(", ");
    reply::insert(out, header::ACCESS_CONTROL_ALLOW_METHODS, &methods);
    if !rule.expose.is_empty() {
        let expose = rule.expose.join(", ");
        reply::insert(out, header::ACCESS_CONTROL_EXPOSE_HEADERS, &expose);
    }
    if let Some(seconds) = rule.max_age_seconds {
        out.insert(header::ACCESS_CONTROL_MAX_AGE, seconds.into());
    }
    if !anybody {
        let yes = HeaderValue::from_static("true");
        out.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    }
    let vary = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method";
    out.insert(header::VARY, HeaderValue::from_static(vary));
}

/// The one value of a header, as text.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document_of(rule: &str) -> Result<Vec<Rule>, Code> {
        let body = format!("<CORSConfiguration><CORSRule>{rule}</CORSRule></CORSConfiguration>");
        parse(body.as_bytes()).map_err(|error| error.code)
    }

    const PLAIN: &str = "<AllowedOrigin>http://a</AllowedOrigin><AllowedMethod>GET</AllowedMethod>";

    #[test]
    fn an_origin_fits_a_pattern_with_one_star() {
        for (pattern, origin, is_named) in [
            ("*", "http://a", true),
            ("*", "", true),
            ("*suffix", "foo.suffix", true),
            ("*suffix", "foo.suffix.get", false),
            ("start*end", "startend", true),
            ("start*end", "start12end", true),
            ("start*end", "0start12end", false),
            ("ab*ba", "aba", false),
            ("http://a", "http://a", true),
            ("http://a", "http://A", false),
        ] {
            assert_eq!(fits(pattern, origin), is_named, "{pattern} {origin}");
        }
    }

    #[test]
    fn headers_asked_for_must_all_be_named() {
        let rule = format!("{PLAIN}<AllowedHeader>x-amz-*</AllowedHeader>");
        let rules = document_of(&rule).unwrap();
        let allows = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            rules[0].allows("http://a", "GET", &names)
        };
        assert!(allows(&[]) && allows(&["x-amz-date", "x-amz-meta-a"]));
        assert!(!allows(&["x-amz-date", "range"]));
        assert!(!rules[0].allows("http://a", "PUT", &[]));
        assert!(!rules[0].allows("http://b", "GET", &[]));
    }

    #[test]
    fn rules_are_read_strictly() {
        assert!(document_of(PLAIN).is_ok());
        for (more, code) in [
            ("<AllowedMethod>PATCH</AllowedMethod>", Code::InvalidRequest),
            ("<AllowedMethod>get</AllowedMethod>", Code::InvalidRequest),
            ("<AllowedOrigin>*a*</AllowedOrigin>", Code::InvalidRequest),
            ("<AllowedHeader>*a*</AllowedHeader>", Code::InvalidRequest),
            ("<ExposeHeader>x-*</ExposeHeader>", Code::InvalidRequest),
            ("<ExposeHeader>a\nb</ExposeHeader>", Code::InvalidRequest),
            ("<MaxAgeSeconds>-1</MaxAgeSeconds>", Code::MalformedXML),
            ("<ID>a</ID><ID>b</ID>", Code::MalformedXML),
            ("<Allowed>a</Allowed>", Code::MalformedXML),
        ] {
            assert_eq!(document_of(&format!("{PLAIN}{more}")), Err(code), "{more}");
        }
        assert_eq!(document_of(""), Err(Code::MalformedXML));
        let many = format!("<CORSRule>{PLAIN}</CORSRule>").repeat(101);
        let body = format!("<CORSConfiguration>{many}</CORSConfiguration>");
        assert_eq!(
            parse(body.as_bytes()).unwrap_err().code,
            Code::InvalidRequest
        );
    }
}
