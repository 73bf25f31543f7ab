//! What is printed: JSON, or the same values as a table or as lines.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use prost_types::{Duration as ProtoDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::control::proto::{self, UserSource, user_policy};

/// Prints one value: JSON, or what `human` makes of it.
pub(super) fn print(json: bool, value: &Value, human: impl FnOnce(&Value) -> String) {
    let text = match json {
        true => format!("{value:#}\n"),
        false => human(value),
    };
    emit(&text);
}

/// Writes to standard output, or ends the program: well if the reader went away, since it has what
/// it wanted, and with an error otherwise, since what was asked for is lost.
pub(crate) fn emit(text: &str) {
    let mut out = io::stdout();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    let Err(error) = written else { return };
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    // Nobody is left to tell if that fails too.
    let _ = writeln!(
        io::stderr(),
        "Error: cannot write to standard output: {error}"
    );
    std::process::exit(1);
}

/// A row for each object of a list; `columns` names the fields in order.
pub(super) fn table(list: &Value, columns: &[&str]) -> String {
    let heads = columns
        .iter()
        .map(|column| column.to_uppercase().replace('_', " "));
    let mut rows = vec![heads.collect::<Vec<_>>()];
    for object in list.as_array().into_iter().flatten() {
        let cells = columns.iter().map(|column| words(object.get(*column)));
        rows.push(cells.collect());
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// A line for each field of an object.
pub(super) fn lines(object: &Value) -> String {
    let fields = object.as_object().cloned().unwrap_or_default();
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in &fields {
        let name = name.replace('_', " ");
        let _ = writeln!(text, "{name:<width$}  {}", words(Some(value)));
    }
    text
}

/// A value in a table. What came from afar has no power over the terminal.
fn words(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "no".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) if list.is_empty() => "-".to_owned(),
        Some(Value::Array(list)) => {
            let words = list.iter().map(|value| words(Some(value)));
            words.collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
    };
    harmless(&text)
}

pub(super) fn harmless(text: &str) -> String {
    let one = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(one).collect()
}

pub(super) fn user(user: &proto::User) -> Value {
    let source = match user.source() {
        UserSource::Root => "root",
        UserSource::Configured => "configured",
        UserSource::Stored => "stored",
        UserSource::Unspecified => "unknown",
    };
    let key = |key: &proto::Key| {
        json!({
            "key": key.key,
            "created": key.created.as_ref().map(time),
            "expires": key.expires.as_ref().map(time),
        })
    };
    json!({
        "name": user.name,
        "id": user.id,
        "enabled": user.enabled,
        "source": source,
        "policy": user.policy.as_ref().map(policy),
        "created": user.created.as_ref().map(time),
        "keys": user.keys.iter().map(key).collect::<Vec<_>>(),
    })
}

/// The policy's name, or its document.
pub(super) fn policy(policy: &proto::UserPolicy) -> Value {
    match &policy.policy {
        Some(user_policy::Policy::Name(name)) => Value::String(name.clone()),
        Some(user_policy::Policy::Document(text)) => {
            serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()))
        }
        None => Value::Null,
    }
}

pub(super) fn key_pair(pair: &proto::KeyPair) -> Value {
    json!({
        "name": pair.name,
        "access_key": pair.key,
        "secret_key": pair.secret,
        "expires": pair.expires.as_ref().map(time),
    })
}

pub(super) fn bucket(bucket: &proto::Bucket) -> Value {
    json!({
        "name": bucket.name,
        "owner": bucket.owner,
        "owner_id": bucket.owner_id,
        "created": bucket.created.as_ref().map(time),
        "durability": bucket.durability,
        "etag": bucket.etag,
        "quota_bytes": Some(bucket.quota_bytes).filter(|bytes| *bytes > 0),
        "quota_used_bytes": bucket.quota_used_bytes,
    })
}

/// Both answers about a server as one object.
pub(super) fn info(
    server: &proto::ServerInfoResponse,
    engine: &proto::EngineInfoResponse,
) -> Value {
    let mount = |mount: &proto::Mount| {
        json!({
            "bucket": mount.bucket,
            "directory": mount.directory,
            "free_bytes": mount.free_bytes,
            "capacity_bytes": mount.capacity_bytes,
            "lacks": mount.lacks,
        })
    };
    let store = |store: &proto::Store| {
        json!({
            "size_bytes": store.size_bytes,
            "free_bytes": store.free_bytes,
            "device": store.device,
            "lacks": store.lacks,
            "durability": store.durability,
            "held_bytes": store.held_bytes,
            "reserve_bytes": store.reserve_bytes,
            "fragmentation": store.fragmentation,
            "longest_free_run_bytes": store.longest_free_run_bytes,
            "buckets": store.buckets,
            "objects": store.objects,
            "uploads": store.uploads,
            "index_bytes": store.index_bytes,
            "journal_bytes": store.journal_bytes,
            "journal_used_bytes": store.journal_used_bytes,
            "checkpoint_bytes": store.checkpoint_bytes,
            "checkpoint_running": store.checkpoint_running,
            "read_only": store.read_only,
        })
    };
    json!({
        "version": server.version,
        "pid": server.pid,
        "started": server.started.as_ref().map(time),
        "region": server.region,
        "auth": server.auth,
        "listen": server.listen,
        "log_level": server.log_level,
        "connections": server.connections,
        "requests": server.requests,
        "received_bytes": server.received_bytes,
        "sent_bytes": server.sent_bytes,
        "body_memory_used_bytes": server.body_memory_used_bytes,
        "body_memory_limit_bytes": server.body_memory_limit_bytes,
        "mounts": engine.mounts.iter().map(mount).collect::<Vec<_>>(),
        "store": engine.store.as_ref().map(store),
    })
}

/// For people: sizes with units, the mounts as a table.
pub(super) fn info_text(info: &Value) -> String {
    let mut plain = info.clone();
    if let Some(fields) = plain.as_object_mut() {
        fields.retain(|name, _| name != "mounts" && name != "store");
    }
    let mut mounts = info.get("mounts").cloned().unwrap_or_default();
    for mount in mounts.as_array_mut().into_iter().flatten() {
        if let Some(fields) = mount.as_object_mut() {
            let free = fields
                .get("free_bytes")
                .and_then(Value::as_u64)
                .unwrap_or(0);
            fields.insert("free".to_owned(), Value::String(size(free as f64)));
        }
    }
    let mut text = lines(&with_units(&plain));
    if mounts.as_array().is_some_and(|mounts| !mounts.is_empty()) {
        let mounts = table(&mounts, &["bucket", "directory", "free", "lacks"]);
        let _ = write!(text, "\n{mounts}");
    }
    if let Some(store) = info.get("store").filter(|store| store.is_object()) {
        let _ = write!(text, "\nblob store\n{}", lines(&with_units(store)));
    }
    text
}

/// The same fields, sizes as words.
fn with_units(object: &Value) -> Value {
    let mut plain = Map::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        match (name.strip_suffix("_bytes"), value.as_u64()) {
            (Some(bare), Some(bytes)) => {
                plain.insert(bare.to_owned(), Value::String(size(bytes as f64)));
            }
            _ => {
                plain.insert(name.clone(), value.clone());
            }
        }
    }
    Value::Object(plain)
}

/// As RFC 3339 has it.
pub(super) fn time(time: &Timestamp) -> String {
    let at = jiff::Timestamp::new(time.seconds, time.nanos).unwrap_or_default();
    let at = at.round(jiff::Unit::Millisecond).unwrap_or(at);
    at.to_string()
}

pub(super) fn seconds(span: Option<&ProtoDuration>) -> f64 {
    span.map_or(0.0, |span| {
        span.seconds as f64 + f64::from(span.nanos) / 1e9
    })
}

/// Seconds with a unit that fits.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() => "long".to_owned(),
        s if s < 1e-3 => format!("{:.0}us", s * 1e6),
        s if s < 1.0 => format!("{:.1}ms", s * 1e3),
        s => format!("{s:.2}s"),
    }
}

/// Bytes with a unit that fits.
pub(super) fn size(bytes: f64) -> String {
    let mut rest = bytes;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if rest < 1024.0 {
            let digits = if unit == "B" { 0 } else { 1 };
            return format!("{rest:.digits$} {unit}");
        }
        rest /= 1024.0;
    }
    format!("{rest:.1} PiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_cannot_move_the_cursor() {
        let list = json!([
            {"name": "ann", "keys": ["a", "b"], "on": true},
            {"name": "b\u{1b}[2Job", "on": false},
        ]);
        let text = table(&list, &["name", "keys", "on"]);
        let expected = "NAME     KEYS  ON\nann      a, b  yes\nb\u{fffd}[2Job  -     no\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn sizes_and_times_have_the_unit_that_fits() {
        assert_eq!(
            [size(0.0), size(1536.0), size(3e12)],
            ["0 B", "1.5 KiB", "2.7 TiB"]
        );
        assert_eq!(
            [span(25e-6), span(0.0125), span(2.5)],
            ["25us", "12.5ms", "2.50s"]
        );
        let at = Timestamp {
            seconds: 1_369_353_600,
            nanos: 5_000_000,
        };
        assert_eq!(time(&at), "2013-05-24T00:00:00.005Z");
    }
}
