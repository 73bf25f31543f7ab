//! The access log: one line a request, as JSON or in the common format of web servers.

use std::fmt::Write as _;

use super::lines::LineFile;
use super::watch::UNKNOWN;
use crate::clock::Timestamp;
use crate::config::AccessFormat;
use crate::trace::Event;

/// Lines that wait to be written together.
#[derive(Debug)]
pub(super) struct AccessLog {
    file: LineFile,
    format: AccessFormat,
    lines: String,
}

impl AccessLog {
    pub(super) fn new(file: LineFile, format: AccessFormat) -> Self {
        Self {
            file,
            format,
            lines: String::new(),
        }
    }

    /// Adds one request, and the number of those lost before it.
    pub(super) fn add(&mut self, event: &Event, lost: u64) {
        if lost > 0 {
            tracing::warn!(
                lost,
                "requests are missing in the access log: they came too fast"
            );
        }
        match self.format {
            AccessFormat::Json => json_line(&mut self.lines, event),
            AccessFormat::Common => common_line(&mut self.lines, event),
        }
        if self.lines.len() > LINES_BYTES_MAX {
            self.flush();
        }
    }

    pub(super) fn flush(&mut self) {
        if !self.lines.is_empty() {
            self.file.write(&self.lines);
            self.lines.clear();
        }
    }
}

fn json_line(lines: &mut String, event: &Event) {
    let line = serde_json::json!({
        "time": rfc3339(event.time),
        "request_id": event.request_id,
        "peer": event.peer.map(|ip| ip.to_string()),
        "user": event.user,
        "operation": event.operation.unwrap_or(UNKNOWN),
        "bucket": event.bucket,
        "key": event.key,
        "method": event.method.as_str(),
        "status": event.status,
        "seconds": event.elapsed.as_secs_f64(),
        "request_bytes": event.request_bytes,
        "reply_bytes": event.reply_bytes,
        "user_agent": event.user_agent,
    });
    // Writing to a String cannot fail.
    let _ = writeln!(lines, "{line}");
}

/// The combined format of NCSA: host, identity, user, time, request, status, bytes, referrer and
/// agent. The request is `METHOD /bucket/key`.
fn common_line(lines: &mut String, event: &Event) {
    let word = |text: Option<&str>| match text {
        None | Some("") => "-".to_owned(),
        Some(text) => escaped(text),
    };
    let peer = event.peer.map(|ip| ip.to_string());
    let at = jiff::Timestamp::from_nanosecond(i128::from(event.time.unix_nanos));
    let at = at
        .unwrap_or_default()
        .strftime("%d/%b/%Y:%H:%M:%S +0000")
        .to_string();
    let mut path = String::from("/");
    path.push_str(event.bucket.as_deref().unwrap_or_default());
    if let Some(key) = &event.key {
        path.push('/');
        path.push_str(key);
    }
    let bytes = event.reply_bytes.map(|bytes| bytes.to_string());
    let _ = writeln!(
        lines,
        "{} - {} [{at}] \"{} {} HTTP\" {} {} \"-\" \"{}\"",
        word(peer.as_deref()),
        word(event.user.as_deref()).replace(' ', "\\x20"),
        event.method,
        escaped(&path).replace(' ', "%20"),
        event.status,
        word(bytes.as_deref()),
        word(event.user_agent.as_deref()),
    );
}

/// Text that cannot end its field or its line.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                let _ = write!(safe, "\\{c}");
            }
            c if c.is_control() => {
                let _ = write!(safe, "\\x{:02x}", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    safe
}

pub(super) fn rfc3339(time: Timestamp) -> String {
    let at = jiff::Timestamp::from_nanosecond(i128::from(time.unix_nanos)).unwrap_or_default();
    at.round(jiff::Unit::Microsecond).unwrap_or(at).to_string()
}

const LINES_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn event() -> Event {
        Event {
            time: Timestamp::from_unix_nanos(1_369_353_600_000_005_000),
            request_id: "0123".into(),
            peer: Some([192, 0, 2, 7].into()),
            user: Some("ann".into()),
            operation: Some("GetObject"),
            bucket: Some("photos".into()),
            key: Some("a \"b\"\n\u{1b}c".into()),
            method: http::Method::GET,
            status: 206,
            elapsed: Duration::from_micros(1500),
            request_bytes: None,
            reply_bytes: Some(7),
            user_agent: Some("curl \"8\"".into()),
        }
    }

    #[test]
    fn a_line_holds_one_request_whatever_its_key_is() {
        let mut lines = String::new();
        common_line(&mut lines, &event());
        assert_eq!(
            lines,
            "192.0.2.7 - ann [24/May/2013:00:00:00 +0000] \
             \"GET /photos/a%20\\\"b\\\"\\x0a\\x1bc HTTP\" 206 7 \"-\" \"curl \\\"8\\\"\"\n"
        );
        lines.clear();
        json_line(&mut lines, &event());
        assert_eq!(lines.matches('\n').count(), 1);
        let read: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(read["key"], "a \"b\"\n\u{1b}c");
        assert_eq!(read["time"], "2013-05-24T00:00:00.000005Z");
        assert_eq!(read["seconds"], 0.0015);
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let mut lines = String::new();
        let unknown = Event {
            peer: None,
            user: None,
            operation: None,
            bucket: None,
            key: None,
            reply_bytes: None,
            user_agent: None,
            ..event()
        };
        common_line(&mut lines, &unknown);
        assert!(lines.starts_with("- - - [24/May"), "{lines}");
        assert!(
            lines.ends_with("\"GET / HTTP\" 206 - \"-\" \"-\"\n"),
            "{lines}"
        );
    }
}
