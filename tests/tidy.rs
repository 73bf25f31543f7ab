//! Style is a test: what `ARCHITECTURE.md` and the reviewers ask for and a machine can see.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that fails may panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each has a reason in its own head (`expect(unsafe_code, reason = ...)`).
const UNSAFE_FILES: &[&str] = &[
    "src/io/dma.rs",
    "src/io/files.rs",
    "src/io/media.rs",
    "src/io/spdk/lane.rs",
    "src/io/spdk/memory.rs",
    "src/io/spdk/process.rs",
    "src/io/spdk/store.rs",
    "src/io/uring.rs",
];
const LINE_CHARS_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;

#[test]
fn lines_are_short() {
    let mut long = Vec::new();
    for file in rust_files() {
        for (number, line) in file.lines() {
            // Nothing breaks a text or a row of a table.
            let is_excused = line.contains('"') || line.trim_start().starts_with("//! |");
            if line.chars().count() > LINE_CHARS_MAX && !is_excused {
                long.push(format!("{}:{number}", file.path));
            }
        }
    }
    assert!(
        long.is_empty(),
        "over {LINE_CHARS_MAX} characters: {long:#?}"
    );
}

#[test]
fn functions_fit_a_screen() {
    let mut long = Vec::new();
    let mut seen = 0;
    for file in rust_files().filter(|file| !file.path.starts_with("tests/")) {
        for (name, lines) in functions(&file.without_tests()) {
            seen += 1;
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{}: {name} has {lines} lines", file.path));
            }
        }
    }
    assert!(seen > 500, "only {seen} functions were recognised");
    assert!(
        long.is_empty(),
        "over {FUNCTION_LINES_MAX} lines: {long:#?}"
    );
}

#[test]
fn imports_point_down() {
    let ranks = ranks();
    let mut wrong = Vec::new();
    let mut arrows = 0;
    for file in source_files() {
        let room = room(&file.path);
        if room == "lib" {
            continue;
        }
        let own = ranks.get(&*room).copied().unwrap_or_else(|| {
            panic!(
                "{} belongs to no room in ARCHITECTURE.md's table",
                file.path
            )
        });
        for (number, target) in file.crate_paths() {
            let rank = ranks.get(&*target).copied().unwrap_or_else(|| {
                panic!(
                    "{}:{number}: crate::{target} is in no row of the table",
                    file.path
                )
            });
            arrows += 1;
            if rank < own || (room == "s3" && target == "io") {
                wrong.push(format!(
                    "{}:{number}: {room} ({own}) -> {target} ({rank})",
                    file.path
                ));
            }
        }
    }
    assert!(arrows > 100, "only {arrows} imports were recognised");
    assert!(wrong.is_empty(), "imports that point up: {wrong:#?}");
}

#[test]
fn no_engine_file_knows_http() {
    let foreign = ["http::", "hyper::", "http_body", "crate::s3", "crate::conn"];
    let mut wrong = Vec::new();
    for file in source_files().filter(|file| room(&file.path) == "engine") {
        for (number, line) in file.lines().filter(|(_, line)| !is_comment(line)) {
            if foreign.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{number}: {line}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_code_is_where_it_is_known_to_be() {
    let keyword = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        ["unsafe {", "unsafe fn ", "unsafe impl ", "unsafe extern "]
            .iter()
            .any(|form| code.contains(form))
    };
    let holders: BTreeSet<String> = source_files()
        .filter(|file| file.lines().any(|(_, line)| keyword(line)))
        .map(|file| file.path)
        .collect();
    let listed: BTreeSet<String> = UNSAFE_FILES.iter().map(|path| (*path).into()).collect();
    assert_eq!(
        holders, listed,
        "left: files with unsafe code; right: the list in this test"
    );
    assert!(listed.iter().all(|path| path.starts_with("src/io/")));
}

#[test]
fn nothing_is_left_for_later() {
    // Written so that this file does not hold them.
    let marks = [
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("XX", "X:"),
        concat!("HA", "CK:"),
    ];
    let mut left = Vec::new();
    for file in rust_files().chain(documents()) {
        for (number, line) in file.lines() {
            if marks.iter().any(|mark| line.contains(mark)) {
                left.push(format!("{}:{number}: {line}", file.path));
            }
        }
    }
    assert!(left.is_empty(), "{left:#?}");
}

/// A text file of the repository; the path is relative to its root.
struct File {
    path: String,
    text: String,
}

impl File {
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// What stands before the file's module of tests: those may hold long tables.
    fn without_tests(&self) -> String {
        let end = self
            .text
            .find("#[cfg(test)]\nmod tests {")
            .unwrap_or(self.text.len());
        self.text[..end].to_owned()
    }

    /// Line and first segment of each path that starts with `crate::`.
    fn crate_paths(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (at, _) in self.text.match_indices("crate::") {
            let line_start = self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let before = &self.text[line_start..at];
            if before.contains("//") || before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
            {
                continue;
            }
            let number = self.text[..at].matches('\n').count() + 1;
            let rest = &self.text[at + "crate::".len()..];
            assert!(
                !rest.starts_with('{'),
                "{}:{number}: one `use` a room, so that the arrows can be seen",
                self.path
            );
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            found.push((number, rest[..end].to_owned()));
        }
        found
    }
}

/// Rooms and their ranks, from the table in ARCHITECTURE.md.
fn ranks() -> BTreeMap<String, u32> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut ranks = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<_> = line.split(" | ").collect();
        let Some(rank) = cells[0]
            .strip_prefix("| ")
            .and_then(|rank| rank.parse().ok())
        else {
            continue;
        };
        for name in cells[1].split('`').skip(1).step_by(2) {
            let room = name.trim_end_matches(".rs").trim_end_matches('/');
            assert_eq!(
                ranks.insert(room.to_owned(), rank),
                None,
                "{room} has two rows"
            );
        }
    }
    assert!(
        ranks.len() > 10,
        "the table of ranks was not recognised: {ranks:?}"
    );
    ranks
}

/// `src/engine/fs/put.rs` is in `engine`, `src/conn.rs` in `conn`.
fn room(path: &str) -> String {
    let inside = path.strip_prefix("src/").unwrap();
    inside
        .split('/')
        .next()
        .unwrap()
        .trim_end_matches(".rs")
        .to_owned()
}

/// Names and lengths of the functions of a file as rustfmt leaves it: a function ends at the first
/// line that is its indentation and a brace.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        let is_end = |line: &str| line == end;
        let length = lines[start..]
            .iter()
            .position(|line| is_end(line))
            .unwrap_or(0)
            + 1;
        let is_one_line = line.trim_end().ends_with('}');
        found.push((name, if is_one_line { 1 } else { length }));
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().peekable();
    while words.next_if(|word| is_qualifier(word)).is_some() {}
    if words.next()? != "fn" {
        return None;
    }
    let name = words.next()?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    Some(name[..end].to_owned())
}

fn is_qualifier(word: &str) -> bool {
    matches!(
        word,
        "pub" | "const" | "async" | "unsafe" | "extern" | "\"C\""
    ) || word.starts_with("pub(")
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn source_files() -> impl Iterator<Item = File> {
    files(&["src"], "rs")
}

fn rust_files() -> impl Iterator<Item = File> {
    files(&["src", "tests", "benches"], "rs")
}

fn documents() -> impl Iterator<Item = File> {
    let top = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let top: Vec<_> = top
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    top.into_iter().map(read).chain(files(&["docs"], "md"))
}

fn files(folders: &[&str], extension: &'static str) -> impl Iterator<Item = File> {
    let mut pending: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut found = Vec::new();
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|is| is == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{folders:?} hold no .{extension}");
    found.into_iter().map(read)
}

fn read(path: PathBuf) -> File {
    let text = fs::read_to_string(&path).unwrap();
    let path = path
        .strip_prefix(root())
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    File { path, text }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
