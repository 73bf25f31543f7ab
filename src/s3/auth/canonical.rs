//! The canonical form of a request, which signature version 4 signs.
//!
//! Everything is made from the bytes received: decoded and encoded again in one step where S3's
//! rule says so, never decoded for one reader and encoded for another.

use std::borrow::Cow;

use http::HeaderValue;
use http::header::HOST;
use http::request::Parts;
use sha2::{Digest as _, Sha256};

use crate::limits::HEADERS_MAX;

/// What a signature of version 4 covers.
#[derive(Debug)]
pub(super) struct CanonicalRequest<'a> {
    pub(super) head: &'a Parts,
    pub(super) signed: SignedHeaders<'a>,
    /// The value that stands for the body.
    pub(super) payload: &'a str,
}

impl CanonicalRequest<'_> {
    /// The SHA-256 of each canonical form that a client may have signed: the path as it came and,
    /// where that differs, the path as S3 encodes it. Some clients sign an `@` that they send
    /// as it is, others sign `%40` for it; both forms name the same key.
    pub(super) fn hashes(&self) -> impl Iterator<Item = [u8; 32]> {
        let path = self.head.uri.path();
        let second = (!is_encoded_path(path)).then_some(PathForm::Encoded);
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        std::iter::once(PathForm::AsSent)
            .chain(second)
            .map(move |form| {
                buffer.clear();
                self.write(form, &mut buffer);
                Sha256::digest(&buffer).into()
            })
    }

    fn write(&self, form: PathForm, out: &mut Vec<u8>) {
        out.extend_from_slice(self.head.method.as_str().as_bytes());
        out.push(b'\n');
        write_path(self.head.uri.path(), form, out);
        out.push(b'\n');
        Query::of(self.head).write_canonical(out);
        out.push(b'\n');
        for name in self.signed.names() {
            out.extend_from_slice(name.as_bytes());
            out.push(b':');
            write_header(self.head, name, out);
            out.push(b'\n');
        }
        out.push(b'\n');
        out.extend_from_slice(self.signed.raw.as_bytes());
        out.push(b'\n');
        out.extend_from_slice(self.payload.as_bytes());
    }
}

/// The names that a signature covers, as the client lists them.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignedHeaders<'a> {
    raw: &'a str,
}

impl<'a> SignedHeaders<'a> {
    /// `None` unless it is a list of distinct names in lower case, separated by `;`.
    pub(super) fn parse(raw: &'a str) -> Option<Self> {
        let legal = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
        let signed = Self { raw };
        let mut previous = "";
        let mut sorted = true;
        for (index, name) in signed.names().enumerate() {
            if name.is_empty() || !name.bytes().all(legal) || index >= HEADERS_MAX {
                return None;
            }
            sorted &= previous < name;
            previous = name;
        }
        (sorted || !signed.repeats()).then_some(signed)
    }

    pub(super) fn names(self) -> impl Iterator<Item = &'a str> {
        self.raw.split(';')
    }

    /// The headers that must be signed and are not: `host`, and every `x-amz-*` of the request.
    pub(super) fn missing(self, head: &Parts) -> Vec<&str> {
        let must = |name: &&str| name.starts_with("x-amz-");
        std::iter::once("host")
            .chain(
                head.headers
                    .keys()
                    .map(http::HeaderName::as_str)
                    .filter(must),
            )
            .filter(|name| !self.names().any(|signed| signed == *name))
            .collect()
    }

    fn repeats(self) -> bool {
        self.names()
            .enumerate()
            .any(|(index, name)| self.names().take(index).any(|earlier| earlier == name))
    }
}

/// Bytes of the request, or made from them.
pub(super) type Bytes<'a> = Cow<'a, [u8]>;

/// A query as it was received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a> {
    raw: &'a str,
}

impl<'a> Query<'a> {
    pub(super) fn of(head: &'a Parts) -> Self {
        Self {
            raw: head.uri.query().unwrap_or(""),
        }
    }

    pub(super) fn pairs(self) -> impl Iterator<Item = Pair<'a>> {
        self.raw
            .split('&')
            .filter(|piece| !piece.is_empty())
            .map(|piece| match piece.split_once('=') {
                Some((name, value)) => Pair {
                    name,
                    value: Some(value),
                },
                None => Pair {
                    name: piece,
                    value: None,
                },
            })
    }

    /// Names and values encoded as S3 encodes them, sorted, without the signature itself.
    fn write_canonical(self, out: &mut Vec<u8>) {
        if self.raw.is_empty() {
            return;
        }
        let mut pairs: Vec<(Bytes<'a>, Bytes<'a>)> = self
            .pairs()
            .filter(|pair| pair.name().as_ref() != b"X-Amz-Signature")
            .map(|pair| (encoded(pair.name), encoded(pair.value.unwrap_or(""))))
            .collect();
        pairs.sort_unstable();
        for (index, (name, value)) in pairs.iter().enumerate() {
            if index > 0 {
                out.push(b'&');
            }
            out.extend_from_slice(name);
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
}

/// One parameter of a query, not decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    name: &'a str,
    /// `None` without `=`.
    value: Option<&'a str>,
}

impl<'a> Pair<'a> {
    pub(super) fn name(self) -> Bytes<'a> {
        decoded(self.name)
    }

    pub(super) fn value(self) -> Option<Bytes<'a>> {
        self.value.map(decoded)
    }
}

/// A component of a query, decoded; `+` is a space, as in forms.
fn decoded(raw: &str) -> Bytes<'_> {
    if !raw.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(raw.as_bytes());
    }
    Cow::Owned(
        Decode {
            rest: raw.as_bytes(),
            plus_is_space: true,
        }
        .map(|(byte, _)| byte)
        .collect(),
    )
}

/// A component of a query as S3 encodes it.
fn encoded(raw: &str) -> Bytes<'_> {
    if is_encoded(raw.as_bytes()) {
        return Cow::Borrowed(raw.as_bytes());
    }
    let mut out = Vec::with_capacity(raw.len() + 16);
    for (byte, _) in (Decode {
        rest: raw.as_bytes(),
        plus_is_space: true,
    }) {
        write_encoded(byte, &mut out);
    }
    Cow::Owned(out)
}

/// Whether encoding would change nothing: most clients send what they signed.
fn is_encoded(mut raw: &[u8]) -> bool {
    let upper = |digit: u8| hex_value(digit).filter(|_| !digit.is_ascii_lowercase());
    loop {
        raw = match raw {
            [] => return true,
            [b'%', high, low, rest @ ..] => match (upper(*high), upper(*low)) {
                (Some(high), Some(low)) if !is_unreserved(high << 4 | low) => rest,
                _ => return false,
            },
            [byte, rest @ ..] if is_unreserved(*byte) => rest,
            _ => return false,
        };
    }
}

/// Which form of a path was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathForm {
    AsSent,
    /// Every byte but the unreserved ones and the slashes that separate, as `%XX`.
    Encoded,
}

pub(super) fn write_path(path: &str, form: PathForm, out: &mut Vec<u8>) {
    match form {
        PathForm::AsSent => out.extend_from_slice(path.as_bytes()),
        PathForm::Encoded => {
            for (byte, escaped) in (Decode {
                rest: path.as_bytes(),
                plus_is_space: false,
            }) {
                // An escaped slash stays escaped: it does not separate.
                if byte == b'/' && !escaped {
                    out.push(byte);
                } else {
                    write_encoded(byte, out);
                }
            }
        }
    }
}

/// Whether both forms of a path are the same.
pub(super) fn is_encoded_path(path: &str) -> bool {
    if path.bytes().all(|byte| is_unreserved(byte) || byte == b'/') {
        return true;
    }
    let mut other = Vec::with_capacity(path.len() + 16);
    write_path(path, PathForm::Encoded, &mut other);
    other == path.as_bytes()
}

/// Whether a header's comma-separated list holds `token`, in any case.
pub(super) fn has_token(value: &HeaderValue, token: &str) -> bool {
    let mut items = value.as_bytes().split(|byte| *byte == b',');
    items.any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The values of a header, trimmed, runs of blanks as one space, joined by commas.
fn write_header(head: &Parts, name: &str, out: &mut Vec<u8>) {
    let mut values = head.headers.get_all(name).iter().peekable();
    if name == HOST.as_str() && values.peek().is_none() {
        // HTTP/2 carries the host as the authority.
        let authority = head
            .uri
            .authority()
            .map_or("", http::uri::Authority::as_str);
        out.extend_from_slice(authority.as_bytes());
    }
    let mut first = true;
    for value in values {
        if !first {
            out.push(b',');
        }
        first = false;
        write_trimmed(value.as_bytes(), out);
    }
}

fn write_trimmed(value: &[u8], out: &mut Vec<u8>) {
    let value = value.trim_ascii();
    let blank = |byte: u8| matches!(byte, b' ' | b'\t');
    if !value.iter().copied().any(blank) {
        out.extend_from_slice(value);
        return;
    }
    let mut in_blanks = false;
    for byte in value.iter().copied() {
        if !blank(byte) {
            out.push(byte);
        } else if !in_blanks {
            out.push(b' ');
        }
        in_blanks = blank(byte);
    }
}

/// The bytes that a percent-encoded text stands for, each with whether it was escaped. A `%`
/// without two digits stands for itself; requests with one are refused before they are used.
struct Decode<'a> {
    rest: &'a [u8],
    plus_is_space: bool,
}

impl Iterator for Decode<'_> {
    type Item = (u8, bool);

    fn next(&mut self) -> Option<(u8, bool)> {
        if let [b'%', high, low, rest @ ..] = self.rest
            && let (Some(high), Some(low)) = (hex_value(*high), hex_value(*low))
        {
            self.rest = rest;
            return Some((high << 4 | low, true));
        }
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        let byte = if *first == b'+' && self.plus_is_space {
            b' '
        } else {
            *first
        };
        Some((byte, false))
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn write_encoded(byte: u8, out: &mut Vec<u8>) {
    if is_unreserved(byte) {
        out.push(byte);
        return;
    }
    let digit = |nibble: u8| {
        if nibble < 10 {
            b'0' + nibble
        } else {
            b'A' + nibble - 10
        }
    };
    out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 0xf)]);
}

/// RFC 3986's unreserved characters, the only ones that S3 leaves as they are.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Room for a usual request, so that the buffer does not grow.
const BUFFER_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_as_encoded_is_what_encoding_gives() {
        for raw in [
            "", "a-b._~9", "a%2Fb", "%2f", "%41", "%7E", "%", "%4", "%zz", "a+b", "a b", "a%20b",
            "\u{e9}", "%C3%A9", "%2", "x%2F%", "/", "=",
        ] {
            let mut slow = Vec::new();
            for (byte, _) in (Decode {
                rest: raw.as_bytes(),
                plus_is_space: true,
            }) {
                write_encoded(byte, &mut slow);
            }
            assert_eq!(encoded(raw).as_ref(), slow, "{raw}");
            assert_eq!(is_encoded(raw.as_bytes()), slow == raw.as_bytes(), "{raw}");
        }
    }
}
