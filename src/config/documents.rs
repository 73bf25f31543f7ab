//! Holds the code, the sample `lobos.cfg` and `docs/configuration.md` together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;

const SAMPLE: &str = include_str!("../../lobos.cfg");
const DOCUMENT: &str = include_str!("../../docs/configuration.md");

#[test]
fn the_sample_has_every_option() {
    let text = uncommented(|_| true);
    parse("lobos.cfg", &text).unwrap_or_else(|error| panic!("{error}"));
    // Both are users, and each shows one of the two ways to give a secret.
    let as_users = |keys: BTreeSet<String>| -> BTreeSet<String> {
        let one = |key: String| key.replace("auth.root.", "auth.user.");
        keys.into_iter().map(one).collect()
    };
    assert_eq!(as_users(keys_in_toml(&text)), as_users(keys_in_code()));
}

#[test]
fn the_sample_shows_the_defaults() {
    let with_defaults = uncommented(|line| !line.contains("# an example"));
    let alone = "[filesystem.buckets]\ndemo = \"demo\"\n";
    assert!(with_defaults.lines().count() > alone.lines().count() + 15);
    assert_eq!(built(&with_defaults), built(alone));
}

#[test]
fn the_document_has_every_option_with_its_default() {
    let mut documented = BTreeSet::new();
    let defaults = defaults_in_sample();
    let mut section = "";
    for line in DOCUMENT.lines() {
        if let Some(heading) = line.strip_prefix("### [") {
            section = heading.strip_suffix(']').expect("a heading ends in ]");
        }
        let cells: Vec<_> = line.split(" | ").collect();
        let Some(key) = cells[0]
            .strip_prefix("| `")
            .and_then(|cell| cell.strip_suffix('`'))
            .filter(|_| !section.is_empty())
        else {
            continue;
        };
        let path = format!("{section}.{key}");
        if let Some(default) = defaults.get(&path) {
            assert_eq!(cells[1], format!("`{default}`"), "the default of {path}");
        }
        documented.insert(path);
    }
    assert_eq!(documented, keys_in_code());
}

/// The sample with the options taken in that `is_wanted`.
fn uncommented(is_wanted: impl Fn(&str) -> bool) -> String {
    let lines = SAMPLE.lines().map(|line| match line.strip_prefix('#') {
        Some(option) if !option.starts_with(' ') && is_wanted(line) => option,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Dotted keys and values, as they are written, of the options that show a default.
fn defaults_in_sample() -> BTreeMap<String, String> {
    let mut section = String::new();
    let mut defaults = BTreeMap::new();
    for line in uncommented(|line| !line.contains("# an example")).lines() {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').to_owned();
        } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#'))
        {
            defaults.insert(format!("{section}.{key}"), value.to_owned());
        }
    }
    defaults
}

fn built(source: &str) -> String {
    let raw = parse("lobos.cfg", source).unwrap();
    format!(
        "{:?}",
        build(raw, Path::new("/etc"), Overrides::default()).unwrap()
    )
}

fn keys_in_toml(text: &str) -> BTreeSet<String> {
    fn walk(path: &str, table: &toml::Table, keys: &mut BTreeSet<String>) {
        for (key, value) in table {
            let path = match path {
                "" => key.clone(),
                "bucket" => "bucket.NAME".to_owned(),
                path => format!("{path}.{key}"),
            };
            // A path may hold any character, so that the names of buckets are no options.
            let is_section = path != "filesystem.buckets";
            if path.contains('.')
                && value
                    .as_table()
                    .is_none_or(|_| !path.starts_with("server.") && path != "bucket.NAME")
            {
                keys.insert(path.clone());
            }
            match value {
                toml::Value::Table(table) if is_section => walk(&path, table, keys),
                toml::Value::Array(items) => {
                    let tables = items.iter().filter_map(toml::Value::as_table);
                    tables.for_each(|table| walk(&path, table, keys));
                }
                _ => {}
            }
        }
    }
    let mut keys = BTreeSet::new();
    walk("", &text.parse().unwrap(), &mut keys);
    keys
}

/// What the parser knows, from its own words about a key that nobody knows.
fn keys_in_code() -> BTreeSet<String> {
    let known = |header: &str| {
        let error = parse("x", &format!("{header}\nno-such-key = 1\n"))
            .unwrap_err()
            .to_string();
        let (_, keys) = error.split_once("Known keys: ")?;
        let (keys, _) = keys.split_once(".\n")?;
        Some(keys.split(", ").map(str::to_owned).collect::<Vec<_>>())
    };
    let mut keys = BTreeSet::new();
    let mut sections: Vec<_> = known("").unwrap();
    while let Some(mut section) = sections.pop() {
        if section == "bucket" {
            // Its sections are named after buckets.
            section.push_str(".NAME");
        }
        let below = known(&format!("[{section}]")).or_else(|| known(&format!("[[{section}]]")));
        for key in below.unwrap_or_else(|| panic!("[{section}] has no keys")) {
            let path = format!("{section}.{key}");
            let headers = [format!("[{path}]"), format!("[[{path}]]")];
            let is_section = headers.iter().any(|header| known(header).is_some());
            // `limits` and `timeouts` are sections alone, without a row of their own.
            if !(is_section && section == "server") {
                keys.insert(path.clone());
            }
            if is_section {
                sections.push(path);
            }
        }
    }
    keys
}
