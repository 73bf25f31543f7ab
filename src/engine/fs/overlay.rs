//! The overlay: a second tree below `.lobos/overlay/` for the keys that the first cannot express.
//!
//! # Names
//! It has the shape of the keys: one directory per segment, so that a listing descends both trees
//! side by side. A segment's name on disk is a letter and the escaped segment:
//!
//! - `f` file: the last segment of a key;
//! - `d` directory: any other segment;
//! - `c` chunk: the first [`CHUNK_BYTES`] bytes of a longer segment, a directory in which the rest
//!   of the segment is named in the same way.
//!
//! The letter keeps `a` and `a/b` apart and gives the empty segment, `.`, `..` and `.lobos` a
//! legal name. Every byte but `a-z 0-9 - _ . = , + @ ~` is escaped as `%` and two upper-case hex
//! digits: upper-case letters too, so that twins stay apart where the file system folds names.
//! Names are not in key order; [`FsBucket::overlay_level`] sorts what it has decoded.

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::bucket::FsBucket;
use super::names::{NameKind, Names, NamesBuilder};
use super::walk::is_absent;
use crate::engine::ObjectKey;
use crate::io::files;

/// Where the overlay begins, relative to the bucket.
pub(super) const ROOT: &str = ".lobos/overlay";

/// The file of `key` in the overlay, relative to the bucket.
pub(super) fn path(key: &ObjectKey) -> String {
    path_below(ROOT, key)
}

/// The place of `key` in a tree with these names that begins at `root`.
pub(super) fn path_below(root: &str, key: &ObjectKey) -> String {
    let mut path = String::from(root);
    let (directories, name) = match key.as_str().rsplit_once('/') {
        Some((directories, name)) => (Some(directories), name),
        None => (None, key.as_str()),
    };
    if let Some(directories) = directories {
        directories
            .split('/')
            .for_each(|segment| push_segment(&mut path, 'd', segment));
    }
    push_segment(&mut path, 'f', name);
    path
}

/// The directory, relative to the bucket, that holds the keys which start with `prefix` (empty, or
/// a string that ends in `/`) in the tree that begins at `root`.
pub(super) fn directory(root: &str, prefix: &str) -> String {
    let mut path = String::from(root);
    if let Some(segments) = prefix.strip_suffix('/') {
        segments
            .split('/')
            .for_each(|segment| push_segment(&mut path, 'd', segment));
    }
    path
}

/// What is directly below one prefix in the overlay.
#[derive(Debug)]
pub(super) struct OverlayLevel {
    pub(super) names: Names,
    /// There are chunks: some of the names lie in directories below that of the prefix.
    pub(super) has_chunks: bool,
}

impl FsBucket {
    /// The names directly below `prefix` (empty, or ending in `/`) in the overlay, or in another
    /// tree with its names. Empty where there is none.
    pub(super) fn overlay_level(&self, root: &str, prefix: &str) -> Result<OverlayLevel, Errno> {
        let mut names = NamesBuilder::default();
        let mut has_chunks = false;
        let top = directory(root, prefix);
        let mut pending = vec![(String::new(), Vec::new())];
        while let Some((below, head)) = pending.pop() {
            let whole = join(&top, &below);
            let dir = match self.tree.open(&whole, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(dir) => dir,
                Err(errno) if is_absent(errno) => continue,
                Err(errno) => return Err(errno),
            };
            let mut is_full = false;
            let read = files::each_name(&dir, |name, _| {
                let Some((letter, bytes)) = decode_name(name) else {
                    return;
                };
                let mut raw = head.clone();
                raw.extend_from_slice(&bytes);
                let kind = match letter {
                    'c' => return pending.push((join(&below, name), raw)),
                    'd' => NameKind::Directory,
                    _ => NameKind::File,
                };
                // What is not UTF-8 was not written by this encoding.
                if let Ok(segment) = String::from_utf8(raw) {
                    is_full |= !names.push(&segment, kind);
                }
            });
            match read {
                Ok(_) => {}
                // Pruned since it was opened.
                Err(errno) if is_absent(errno) => {}
                Err(errno) => return Err(errno),
            }
            has_chunks |= !pending.is_empty();
            if is_full {
                return Err(Errno::NOMEM);
            }
        }
        Ok(OverlayLevel {
            names: names.build(),
            has_chunks,
        })
    }
}

fn join(above: &str, name: &str) -> String {
    match (above, name) {
        ("", name) => name.to_owned(),
        (above, "") => above.to_owned(),
        (above, name) => format!("{above}/{name}"),
    }
}

fn push_segment(path: &mut String, letter: char, segment: &str) {
    let mut bytes = segment.as_bytes();
    while let Some((chunk, rest)) = bytes
        .split_at_checked(CHUNK_BYTES)
        .filter(|(_, rest)| !rest.is_empty())
    {
        path.push_str("/c");
        push_escaped(path, chunk);
        bytes = rest;
    }
    path.push('/');
    path.push(letter);
    push_escaped(path, bytes);
}

fn push_escaped(path: &mut String, bytes: &[u8]) {
    use std::fmt::Write as _;
    for &byte in bytes {
        if is_plain(byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.=,+@~".contains(&byte)
}

/// The letter and the bytes of a name on disk; `None` for what this encoding never makes.
fn decode_name(name: &str) -> Option<(char, Vec<u8>)> {
    let letter = name
        .chars()
        .next()
        .filter(|l| matches!(l, 'c' | 'd' | 'f'))?;
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes().split_first()?.1;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let (digits, tail) = tail.split_first_chunk::<2>()?;
            let digits = std::str::from_utf8(digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail;
        } else if is_plain(byte) {
            bytes.push(byte);
            rest = tail;
        } else {
            return None;
        }
    }
    Some((letter, bytes))
}

/// Bytes of a segment in one name. Escaped they are at most 139 characters with the letter, which
/// the shortest NAME_MAX in use (143, eCryptfs) allows; no segment is cut that need not be.
const CHUNK_BYTES: usize = 46;
