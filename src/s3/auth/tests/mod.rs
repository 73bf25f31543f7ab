//! Tests of the gate and of chunked bodies, and a signer that shares no code with the verifier
//! but the hash functions.

mod chunks;
mod examples;
mod gate;
mod header;
mod properties;
mod query;

use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::{Authenticated, Gate, GateSettings, Identity, Secret, User, Users};
use crate::clock::{Clock, Timestamp};
use crate::s3::error::{Code, S3Error};

/// AWS's documentation uses this key pair and this moment.
const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const STAMP: &str = "20130524T000000Z";
const DAY: i64 = 24 * 3600;
const HOST: &str = "127.0.0.1:8080";
const NOW: i64 = 1_369_353_600;
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

fn gate() -> Gate {
    gate_with(NOW, true, true)
}

fn gate_with(now: i64, required: bool, sigv2: bool) -> Gate {
    let user = |name: &str, access_key: &str, secret: &str, root| User {
        name: name.into(),
        id: name.into(),
        access_key: access_key.into(),
        secret_key: Secret::new(secret),
        expires: None,
        root,
        policies: Vec::new(),
    };
    let users = Users::new(vec![
        user("boss", "BOSS", "boss secret", true),
        user("alice", ACCESS_KEY, SECRET, false),
    ]);
    let settings = GateSettings {
        users: Arc::new(ArcSwap::from_pointee(users.unwrap())),
        region: "home-1".into(),
        sigv2,
        required,
    };
    Gate::new(
        settings,
        Clock::from_fn(move || Timestamp::from_unix_seconds(now)),
    )
}

fn get() -> Sent {
    Sent::new("GET", "/bucket/key", HOST)
}

fn signed() -> Sent {
    Signer::default().in_header(get(), UNSIGNED)
}

fn presigned() -> Sent {
    Signer::default().in_query(get(), "3600")
}

fn presigned_v2() -> Sent {
    Signer::default().in_query_v2(get(), NOW + 3600, "/bucket/key")
}

fn with(change: impl FnOnce(&mut Signer)) -> Signer {
    let mut signer = Signer::default();
    change(&mut signer);
    signer
}

fn wrong_secret() -> Signer {
    with(|signer| signer.secret.push('x'))
}

fn wrong_key() -> Signer {
    with(|signer| signer.access_key = "NOBODY".into())
}

fn at(stamp: &str) -> Signer {
    with(|signer| signer.stamp = stamp.into())
}

fn passes(rows: impl IntoIterator<Item = (&'static str, Sent)>) {
    for (what, sent) in rows {
        assert_eq!(code(&gate(), &sent), Ok("alice".into()), "{what}: {sent:?}");
    }
}

fn refused(expected: Code, rows: impl IntoIterator<Item = (&'static str, Sent)>) {
    for (what, sent) in rows {
        assert_eq!(code(&gate(), &sent), Err(expected), "{what}: {sent:?}");
    }
}

/// A request as a client sends it.
#[derive(Clone, Debug)]
struct Sent {
    method: String,
    /// Path and query, escaped.
    target: String,
    headers: Vec<(String, Vec<u8>)>,
}

impl Sent {
    fn new(method: &str, target: &str, host: &str) -> Self {
        Self {
            method: method.into(),
            target: target.into(),
            headers: Vec::new(),
        }
        .header("host", host)
    }

    fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.into(), value.as_ref().to_vec()));
        self
    }

    fn param(mut self, name: &str, value: &str) -> Self {
        self.target
            .push(if self.target.contains('?') { '&' } else { '?' });
        self.target
            .push_str(&format!("{name}={}", encode(value.as_bytes())));
        self
    }

    fn parts(&self) -> Parts {
        let mut request = http::Request::builder()
            .method(self.method.as_str())
            .uri(self.target.as_str());
        for (name, value) in &self.headers {
            request = request.header(name.as_str(), value.as_slice());
        }
        request.body(()).unwrap().into_parts().0
    }

    /// Every header's name once, in order.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// Makes signatures by the letter of AWS's documentation, one string at a time.
#[derive(Clone, Debug)]
struct Signer {
    access_key: String,
    secret: String,
    region: String,
    stamp: String,
    /// Signs the path as it is sent, like aws-crt, and not as S3 encodes it.
    path_as_sent: bool,
    /// Leaves these out of the signed headers.
    leave_out: Vec<String>,
}

impl Default for Signer {
    fn default() -> Self {
        Self {
            access_key: ACCESS_KEY.into(),
            secret: SECRET.into(),
            region: "us-east-1".into(),
            stamp: STAMP.into(),
            path_as_sent: false,
            leave_out: Vec::new(),
        }
    }
}

impl Signer {
    /// Adds `x-amz-date`, `x-amz-content-sha256` and `authorization`.
    fn in_header(&self, sent: Sent, payload: &str) -> Sent {
        let sent = sent
            .header("x-amz-date", &self.stamp)
            .header("x-amz-content-sha256", payload);
        self.authorize(sent, payload)
    }

    /// Adds `authorization` alone.
    fn authorize(&self, sent: Sent, payload: &str) -> Sent {
        let names = self.signed_names(&sent).join(";");
        let signature = self.signature(&sent, payload);
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={names}, Signature={signature}",
            self.access_key,
            self.scope()
        );
        sent.header("authorization", value)
    }

    /// Adds the parameters of a presigned request of version 4.
    fn in_query(&self, sent: Sent, expires: &str) -> Sent {
        self.in_query_with(sent, expires, UNSIGNED)
    }

    fn in_query_with(&self, sent: Sent, expires: &str, payload: &str) -> Sent {
        let names = self.signed_names(&sent).join(";");
        let credential = format!("{}/{}", self.access_key, self.scope());
        let sent = sent
            .param("X-Amz-Algorithm", "AWS4-HMAC-SHA256")
            .param("X-Amz-Credential", &credential)
            .param("X-Amz-Date", &self.stamp)
            .param("X-Amz-Expires", expires)
            .param("X-Amz-SignedHeaders", &names);
        let signature = self.signature(&sent, payload);
        sent.param("X-Amz-Signature", &signature)
    }

    /// Adds the parameters of a presigned request of version 2. `resource` is the signed one.
    fn in_query_v2(&self, sent: Sent, expires: i64, resource: &str) -> Sent {
        let signature = self.signature_v2(&sent, &expires.to_string(), resource);
        sent.param("AWSAccessKeyId", &self.access_key)
            .param("Expires", &expires.to_string())
            .param("Signature", &signature)
    }

    /// `date`: the Date header; empty where `x-amz-date` is among the headers.
    fn in_header_v2(&self, sent: Sent, date: &str, resource: &str) -> Sent {
        let signature = self.signature_v2(&sent, date, resource);
        let sent = if date.is_empty() {
            sent
        } else {
            sent.header("date", date)
        };
        let credentials = format!("AWS {}:{signature}", self.access_key);
        sent.header("authorization", &credentials)
    }

    fn signature_v2(&self, sent: &Sent, date: &str, resource: &str) -> String {
        let value = |wanted: &str| {
            let found = sent.headers.iter().find(|(name, _)| name == wanted);
            found.map_or(String::new(), |(_, value)| {
                String::from_utf8(value.clone()).unwrap()
            })
        };
        let mut text = format!("{}\n", sent.method);
        text += &format!(
            "{}\n{}\n{date}\n",
            value("content-md5"),
            value("content-type")
        );
        for name in sent
            .names()
            .iter()
            .filter(|name| name.starts_with("x-amz-"))
        {
            text += &format!("{name}:{}\n", value(name));
        }
        text += resource;
        let mut mac = Hmac::<Sha1>::new_from_slice(self.secret.as_bytes()).unwrap();
        mac.update(text.as_bytes());
        base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
    }

    fn scope(&self) -> String {
        format!("{}/{}/s3/aws4_request", &self.stamp[..8], self.region)
    }

    fn signed_names<'a>(&self, sent: &'a Sent) -> Vec<&'a str> {
        let mut names = sent.names();
        names.retain(|name| !self.leave_out.iter().any(|left_out| left_out == name));
        names
    }

    fn signature(&self, sent: &Sent, payload: &str) -> String {
        let (path, query) = sent.target.split_once('?').unwrap_or((&sent.target, ""));
        let path = if self.path_as_sent {
            path.to_owned()
        } else {
            encode_path(path)
        };
        let mut pairs: Vec<(String, String)> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (recode(name), recode(value)))
            .collect();
        pairs.sort();
        let pairs: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let mut request = format!("{}\n{path}\n{}\n", sent.method, pairs.join("&")).into_bytes();
        let names = self.signed_names(sent);
        for name in &names {
            let values: Vec<Vec<u8>> = sent
                .headers
                .iter()
                .filter(|(other, _)| other == name)
                .map(|(_, value)| one_spaced(value))
                .collect();
            request.extend_from_slice(format!("{name}:").as_bytes());
            request.extend_from_slice(&values.join(&b','));
            request.push(b'\n');
        }
        request.extend_from_slice(format!("\n{}\n{payload}", names.join(";")).as_bytes());
        let hash = hex_of(&Sha256::digest(&request));
        self.sign(&format!(
            "AWS4-HMAC-SHA256\n{}\n{}\n{hash}",
            self.stamp,
            self.scope()
        ))
    }

    fn sign(&self, text: &str) -> String {
        let mut key = format!("AWS4{}", self.secret).into_bytes();
        for step in [&self.stamp[..8], &self.region, "s3", "aws4_request"] {
            key = hmac_sha256(&key, step.as_bytes());
        }
        hex_of(&hmac_sha256(&key, text.as_bytes()))
    }

    /// A body of chunks of these, with a trailer if there is one, as aws-chunked frames it.
    fn chunks(&self, seed: &str, chunks: &[&[u8]], trailer: Option<(&str, &str)>) -> Vec<u8> {
        let mut body = Vec::new();
        let mut previous = seed.to_owned();
        let ended: &[&[u8]] = &[b""];
        for chunk in chunks.iter().chain(ended) {
            previous = self.sign(&format!(
                "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{previous}\n{EMPTY}\n{}",
                self.stamp,
                self.scope(),
                hex_of(&Sha256::digest(chunk))
            ));
            let head = format!("{:x};chunk-signature={previous}\r\n", chunk.len());
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(chunk);
            if !chunk.is_empty() || trailer.is_none() {
                body.extend_from_slice(b"\r\n");
            }
        }
        if let Some((name, value)) = trailer {
            let hash = hex_of(&Sha256::digest(format!("{name}:{value}\n")));
            let (stamp, scope) = (&self.stamp, self.scope());
            let text = format!("AWS4-HMAC-SHA256-TRAILER\n{stamp}\n{scope}\n{previous}\n{hash}");
            let signature = self.sign(&text);
            body.extend_from_slice(
                format!("{name}:{value}\r\nx-amz-trailer-signature:{signature}\r\n\r\n").as_bytes(),
            );
        }
        body
    }
}

/// A body of chunks without signatures.
fn plain_chunks(chunks: &[&[u8]], trailer: Option<(&str, &str)>) -> Vec<u8> {
    let mut body = Vec::new();
    for chunk in chunks {
        body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n");
    if let Some((name, value)) = trailer {
        body.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
    }
    body.extend_from_slice(b"\r\n");
    body
}

fn signature_of(sent: &Sent) -> String {
    let (_, value) = sent
        .headers
        .iter()
        .find(|(name, _)| name == "authorization")
        .unwrap();
    let value = String::from_utf8(value.clone()).unwrap();
    value.rsplit_once("Signature=").unwrap().1.to_owned()
}

fn authenticate(gate: &Gate, sent: &Sent) -> Result<Authenticated, S3Error> {
    gate.authenticate(&sent.parts(), None)
}

fn code(gate: &Gate, sent: &Sent) -> Result<String, Code> {
    match authenticate(gate, sent) {
        Ok(authenticated) => Ok(match authenticated.identity() {
            Identity::User(user) => user.name.to_string(),
            Identity::Anonymous => "anonymous".to_owned(),
        }),
        Err(error) => Err(error.code),
    }
}

fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, RESERVED).to_string()
}

fn encode_path(path: &str) -> String {
    let encode_piece = |piece| encode(&percent_decode_str(piece).collect::<Vec<u8>>());
    path.split('/')
        .map(encode_piece)
        .collect::<Vec<_>>()
        .join("/")
}

fn recode(component: &str) -> String {
    encode(&percent_decode_str(&component.replace('+', " ")).collect::<Vec<u8>>())
}

fn one_spaced(value: &[u8]) -> Vec<u8> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let words: Vec<&[u8]> = value.split(blank).filter(|word| !word.is_empty()).collect();
    words.join(&b' ')
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
