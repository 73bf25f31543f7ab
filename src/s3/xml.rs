//! XML as S3 speaks it: a small writer, and a strict, bounded reader of request bodies.

use std::fmt::Write as _;

use quick_xml::Reader;
use quick_xml::events::Event;

use super::error::{Code, S3Error};
use crate::clock::Timestamp;
use crate::limits::{XML_DEPTH_MAX, XML_ELEMENT_BYTES_MIN, XML_ELEMENTS_MAX};

const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Writes one document into one growing buffer.
#[derive(Debug)]
pub(super) struct Writer {
    text: String,
}

impl Writer {
    /// A document whose root carries S3's namespace.
    pub(super) fn document(root: &'static str) -> Self {
        let mut writer = Self::bare();
        let _ = write!(writer.text, "<{root} xmlns=\"{NAMESPACE}\">");
        writer
    }

    /// Only the declaration: the root of an error document has no namespace.
    pub(super) fn bare() -> Self {
        let mut text = String::with_capacity(512);
        text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        Self { text }
    }

    /// Makes room for what is known to come.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.text.reserve(bytes);
    }

    pub(super) fn open(&mut self, name: &str) {
        self.text.push('<');
        self.text.push_str(name);
        self.text.push('>');
    }

    pub(super) fn close(&mut self, name: &str) {
        self.text.push_str("</");
        self.text.push_str(name);
        self.text.push('>');
    }

    /// `<name>text</name>`, escaped.
    pub(super) fn leaf(&mut self, name: &str, text: &str) {
        self.open(name);
        escape_into(&mut self.text, text);
        self.close(name);
    }

    /// Text directly inside the element that is open.
    pub(super) fn text(&mut self, text: &str) {
        escape_into(&mut self.text, text);
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.open(name);
        let _ = write!(self.text, "{value}");
        self.close(name);
    }

    pub(super) fn boolean(&mut self, name: &str, value: bool) {
        self.leaf(name, if value { "true" } else { "false" });
    }

    /// `2006-02-03T16:45:09.000Z`, milliseconds always there: whole seconds would lie before the
    /// time of a file that was written and uploaded within one, and `aws s3 sync` would send it
    /// again.
    pub(super) fn time(&mut self, name: &str, value: Timestamp) {
        self.open(name);
        iso_into(&mut self.text, value);
        self.close(name);
    }

    /// `"etag"` with its quotes, which XML lets stand as `&quot;`.
    pub(super) fn etag(&mut self, value: &str) {
        self.text.push_str("<ETag>&quot;");
        escape_into(&mut self.text, value);
        self.text.push_str("&quot;</ETag>");
    }

    /// An owner, initiator or grantee: id and display name.
    pub(super) fn person(&mut self, element: &str, id: &str, name: &str) {
        self.open(element);
        self.leaf("ID", id);
        self.leaf("DisplayName", name);
        self.close(element);
    }

    /// Markup that is written by hand, such as an element with attributes.
    pub(super) fn raw(&mut self, markup: &'static str) {
        self.text.push_str(markup);
    }

    pub(super) fn finish(mut self, root: &str) -> String {
        self.close(root);
        self.text
    }
}

/// The same as a text of its own.
pub(super) fn iso(at: Timestamp) -> String {
    let mut text = String::new();
    iso_into(&mut text, at);
    text
}

/// `2006-02-03T16:45:09.000Z`. Times before 1970 are 1970, as in the headers of HTTP, which know no
/// others: HEAD and listings must agree.
fn iso_into(text: &mut String, at: Timestamp) {
    let millis = at.unix_nanos.max(0) / 1_000_000;
    let at = jiff::Timestamp::from_millisecond(millis).unwrap_or_default();
    let at = jiff::tz::Offset::UTC.to_datetime(at);
    let pair = |text: &mut String, before: char, value: i8| {
        let value = u8::try_from(value).unwrap_or(0);
        text.push(before);
        text.push(char::from(b'0' + value / 10));
        text.push(char::from(b'0' + value % 10));
    };
    // By hand: a listing writes a thousand of these, and `write!` takes four times as long.
    let _ = write!(text, "{:04}", at.year());
    pair(text, '-', at.month());
    pair(text, '-', at.day());
    pair(text, 'T', at.hour());
    pair(text, ':', at.minute());
    pair(text, ':', at.second());
    pair(text, '.', i8::try_from(at.millisecond() / 10).unwrap_or(0));
    text.push(char::from(
        b'0' + u8::try_from(at.millisecond() % 10).unwrap_or(0),
    ));
    text.push('Z');
}

/// Whether a reader of XML 1.0 takes a document with this text in it.
pub(super) fn xml_can_carry(text: &str) -> bool {
    text.chars().all(|c| match c {
        '\t' | '\n' | '\r' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        c => c >= ' ',
    })
}

/// Escapes text for an element. Characters that XML 1.0 cannot carry at all (a key may hold
/// them) become character references, which S3 does too: lenient readers get the key back.
fn escape_into(out: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest
        .bytes()
        .position(|b| matches!(b, b'<' | b'>' | b'&' | b'"' | b'\'' | 0..=0x1f))
    {
        let (plain, tail) = rest.split_at(at);
        out.push_str(plain);
        let mut tail = tail.chars();
        match tail.next() {
            Some('<') => out.push_str("&lt;"),
            Some('>') => out.push_str("&gt;"),
            Some('&') => out.push_str("&amp;"),
            Some('"') => out.push_str("&quot;"),
            Some('\'') => out.push_str("&apos;"),
            Some(control) => {
                let _ = write!(out, "&#x{:x};", u32::from(control));
            }
            None => {}
        }
        rest = tail.as_str();
    }
    out.push_str(rest);
}

/// One element of a request body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    /// Without its namespace prefix.
    pub(super) name: String,
    /// All text directly inside, trimmed only by those who ask for it.
    pub(super) text: String,
    pub(super) children: Vec<Element>,
}

impl Element {
    /// Reads a whole document whose root is `root`. DTDs, processing instructions, unknown
    /// entities, more than [`XML_DEPTH_MAX`] levels, more than [`XML_ELEMENTS_MAX`] elements and
    /// more than one for [`XML_ELEMENT_BYTES_MIN`] bytes are `MalformedXML`.
    pub(super) fn parse(bytes: &[u8], root: &str) -> Result<Self, S3Error> {
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("it is not UTF-8"))?;
        let mut reader = Reader::from_str(text);
        reader.config_mut().check_end_names = true;
        let mut open: Vec<Self> = Vec::new();
        let mut done: Option<Self> = None;
        let mut elements = 0;
        let dense = bytes.len() / XML_ELEMENT_BYTES_MIN + XML_ELEMENTS_FREE;
        let elements_max = XML_ELEMENTS_MAX.min(dense);
        loop {
            let event = reader
                .read_event()
                .map_err(|error| malformed(&error.to_string()))?;
            elements += usize::from(matches!(event, Event::Start(_) | Event::Empty(_)));
            if elements > elements_max {
                return Err(malformed("it has too many elements"));
            }
            let closed = match event {
                Event::Start(tag) => {
                    let name = tag.local_name().as_ref().to_owned();
                    open.push(Self {
                        name,
                        ..Self::default()
                    });
                    if open.len() > XML_DEPTH_MAX || done.is_some() {
                        return Err(malformed("it is nested too deeply or has two roots"));
                    }
                    None
                }
                Event::Empty(tag) => Some(Self {
                    name: tag.local_name().as_ref().to_owned(),
                    ..Self::default()
                }),
                Event::End(_) => open.pop(),
                Event::Text(text) => {
                    append_text(&mut open, &text.xml10_content())?;
                    None
                }
                Event::CData(text) => {
                    append_text(&mut open, &text.xml10_content())?;
                    None
                }
                Event::GeneralRef(reference) => {
                    append_text(&mut open, &resolve(&reference)?)?;
                    None
                }
                Event::Decl(_) | Event::Comment(_) => None,
                Event::DocType(_) | Event::PI(_) => {
                    return Err(malformed("it holds a DTD or a processing instruction"));
                }
                Event::Eof => break,
            };
            if let Some(element) = closed {
                match open.last_mut() {
                    Some(parent) => parent.adopt(element),
                    None if done.is_none() => done = Some(element),
                    None => return Err(malformed("it has two roots")),
                }
            }
        }
        match done {
            Some(element) if open.is_empty() && element.name == root => Ok(element),
            _ => Err(malformed(&format!(
                "its root is not one whole {root} element"
            ))),
        }
    }

    /// Most elements have one child or none, for which a vector would make room for four.
    fn adopt(&mut self, child: Self) {
        if self.children.is_empty() {
            self.children.reserve_exact(1);
        }
        self.children.push(child);
    }

    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The child of that name, which must be there once.
    pub(super) fn one(&self, name: &str) -> Result<&Self, S3Error> {
        self.text_of(name)?;
        self.child(name)
            .ok_or_else(|| malformed(&format!("{} has no {name}", self.name)))
    }

    /// The text of a child, which must not be there twice.
    pub(super) fn text_of(&self, name: &str) -> Result<Option<&str>, S3Error> {
        let mut found = self.children.iter().filter(|child| child.name == name);
        let first = found.next().map(|child| child.text.as_str());
        if found.next().is_some() {
            return Err(malformed(&format!("{name} is there twice")));
        }
        Ok(first)
    }

    /// Refuses children with other names than these.
    pub(super) fn only(&self, names: &[&str]) -> Result<(), S3Error> {
        match self
            .children
            .iter()
            .find(|child| !names.contains(&child.name.as_str()))
        {
            None => Ok(()),
            Some(child) => Err(malformed(&format!(
                "{} must not hold an element {}",
                self.name, child.name
            ))),
        }
    }
}

/// So few elements are never too many for a body's length.
const XML_ELEMENTS_FREE: usize = 16;

/// `MalformedXML` with what is wrong behind S3's own sentence.
pub(super) fn malformed(why: &str) -> S3Error {
    S3Error::with_message(
        Code::MalformedXML,
        format!(
            "The XML that you provided was not well formed or did not validate against our \
             published schema: {why}."
        ),
    )
}

fn append_text(open: &mut [Element], text: &str) -> Result<(), S3Error> {
    match open.last_mut() {
        Some(element) => {
            element.text.push_str(text);
            Ok(())
        }
        None if text.trim().is_empty() => Ok(()),
        None => Err(malformed("there is text outside of the root")),
    }
}

/// Character references and the five entities that every document has; no others.
fn resolve(reference: &quick_xml::events::BytesRef<'_>) -> Result<String, S3Error> {
    let bad = || malformed("it holds an unknown entity");
    if let Some(character) = reference.resolve_char_ref().map_err(|_| bad())? {
        return Ok(character.to_string());
    }
    quick_xml::escape::resolve_xml_entity(reference)
        .map(str::to_owned)
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_survives_writing_and_reading() {
        let mut writer = Writer::document("Root");
        writer.leaf("Key", "a<b>&\"c\"'d'\u{1}\n é");
        writer.number("Size", 7);
        writer.time("At", Timestamp::from_unix_nanos(1_139_000_709_012_000_000));
        let text = writer.finish("Root");
        assert!(text.contains("<At>2006-02-03T21:05:09.012Z</At>"), "{text}");
        assert!(!xml_can_carry("\u{1}") && xml_can_carry("<\t\n é"));
        let text = text.replace("&#x1;", "");
        let root = Element::parse(text.as_bytes(), "Root").unwrap();
        assert_eq!(root.text_of("Key").unwrap(), Some("a<b>&\"c\"'d'\n é"));
    }

    #[test]
    fn a_time_before_1970_is_the_one_that_headers_show() {
        let at = Timestamp::from_unix_nanos(-86_400_000_000_001);
        let mut writer = Writer::document("Root");
        writer.time("At", at);
        let text = writer.finish("Root");
        assert!(text.contains("<At>1970-01-01T00:00:00.000Z</At>"), "{text}");
        assert_eq!(
            httpdate::fmt_http_date(at.to_system_time()),
            "Thu, 01 Jan 1970 00:00:00 GMT"
        );
    }

    #[test]
    fn sec_xml_bombs_and_foreign_documents_are_malformed() {
        let deep = format!("<Root>{}{}</Root>", "<a>".repeat(40), "</a>".repeat(40));
        let dense = format!("<Root>{}</Root>", "<a/>".repeat(40));
        for body in [
            "",
            "text",
            "<Other/>",
            "<Root>",
            "<Root></Root><Root/>",
            "<Root/><x/>",
            "<Root/>tail",
            "<Root>&lol;</Root>",
            "<!DOCTYPE Root [<!ENTITY lol \"lol\">]><Root>&lol;</Root>",
            "<?php x ?><Root/>",
            "<Root><a></Root></a>",
            &deep,
            &dense,
        ] {
            let error = Element::parse(body.as_bytes(), "Root").unwrap_err();
            assert_eq!(error.code, Code::MalformedXML, "{body}");
        }
        assert!(Element::parse(b"\xff<Root/>", "Root").is_err());
    }

    #[test]
    fn namespaces_and_declarations_are_understood() {
        let body = "<?xml version=\"1.0\"?><x:Root xmlns:x=\"u\"> <x:A>1</x:A>&#65;</x:Root>\n";
        let root = Element::parse(body.as_bytes(), "Root").unwrap();
        assert_eq!(root.text_of("A").unwrap(), Some("1"));
        assert_eq!(root.text, " A");
    }
}
