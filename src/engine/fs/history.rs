//! The history of a key: its versions that are not the file at its path.
//!
//! They lie in a directory of the key's own below `.lobos/versions/`, which is named as the
//! overlay names a file (see [`overlay`]). A name in it says everything that order and identity
//! need, so that a history is read without opening a file:
//!
//! - `v<id>` a version, `d<id>` a delete marker; the id is 40 hex digits ([`Stamp`]);
//! - `n<sequence>` the null version, `m<sequence>` a delete marker that is the null version; the
//!   sequence is 16 hex digits.
//!
//! Sequences order the versions of one key; no clock does. The file at the key's path is the newest
//! of all, whatever the history holds: what seems newer is the rest of an operation that did not
//! come to its end, or the same version twice.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::bucket::FsBucket;
use super::overlay;
use super::succession::Top;
use super::types::KeyHash;
use super::walk::{is_absent, split};
use crate::clock::Entropy;
use crate::engine::types::hex;
use crate::engine::{ObjectKey, VersionId};
use crate::io::files;

/// Where histories begin, relative to the bucket.
pub(super) const ROOT: &str = ".lobos/versions";

/// The directory of the key's history, relative to the bucket.
pub(super) fn path(key: &ObjectKey) -> String {
    overlay::path_below(ROOT, key)
}

/// A version id as this engine makes them: the sequence (8 bytes, big-endian), 8 random bytes, and
/// the first 4 of the key's hash. The hash tells a file that was copied or renamed together with
/// its record: under another key the id is not valid, and the file is the null version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(pub(super) [u8; 20]);

impl Stamp {
    pub(super) fn new(sequence: u64, key: &ObjectKey, entropy: &Entropy) -> Self {
        let mut bytes = [0; 20];
        let fields = sequence.to_be_bytes().into_iter();
        let fields = fields.chain(entropy.bytes::<8>()).chain(key_mark(key));
        for (byte, field) in bytes.iter_mut().zip(fields) {
            *byte = field;
        }
        Self(bytes)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 40 || !text.bytes().all(lower) {
            return None;
        }
        let mut bytes = [0; 20];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).ok()?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// The one in a version id; `None` for the null version and for what this engine never made.
    pub(super) fn of(version: &VersionId) -> Option<Self> {
        match version {
            VersionId::Null => None,
            VersionId::Named(text) => Self::parse(text),
        }
    }

    pub(super) fn sequence(self) -> u64 {
        let (sequence, _) = self.0.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        u64::from_be_bytes(*sequence)
    }

    pub(super) fn is_of(self, key: &ObjectKey) -> bool {
        self.0.ends_with(&key_mark(key))
    }

    pub(super) fn id(self) -> VersionId {
        VersionId::Named(hex(&self.0).into())
    }
}

fn key_mark(key: &ObjectKey) -> [u8; 4] {
    let KeyHash(hash) = KeyHash::of(key.as_str());
    let (mark, _) = hash.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
    *mark
}

/// One name in a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) sequence: u64,
    pub(super) id: VersionId,
    pub(super) is_marker: bool,
}

impl Held {
    pub(super) fn version(stamp: Stamp) -> Self {
        Self {
            sequence: stamp.sequence(),
            id: stamp.id(),
            is_marker: false,
        }
    }

    pub(super) fn null(sequence: u64) -> Self {
        Self {
            sequence,
            id: VersionId::Null,
            is_marker: false,
        }
    }

    pub(super) fn into_marker(self) -> Self {
        Self {
            is_marker: true,
            ..self
        }
    }

    pub(super) fn name(&self) -> String {
        match (&self.id, self.is_marker) {
            (VersionId::Named(id), false) => format!("v{id}"),
            (VersionId::Named(id), true) => format!("d{id}"),
            (VersionId::Null, false) => format!("n{:016x}", self.sequence),
            (VersionId::Null, true) => format!("m{:016x}", self.sequence),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let (letter, rest) = name.split_at_checked(1)?;
        let held = match letter {
            "v" | "d" => Self::version(Stamp::parse(rest)?),
            "n" | "m" if rest.len() == 16 => Self::null(u64::from_str_radix(rest, 16).ok()?),
            _ => return None,
        };
        Some(match letter {
            "d" | "m" => held.into_marker(),
            _ => held,
        })
    }

    /// Whether it is the rest of a change that did not come to its end: the file at the key's path
    /// has this sequence and is older.
    pub(super) fn is_void(&self, current: u64) -> bool {
        self.is_marker && current < self.sequence
    }
}

/// What a key's directory holds.
#[derive(Debug)]
pub(super) struct History {
    pub(super) path: String,
    /// `None`: there is none.
    pub(super) dir: Option<OwnedFd>,
    /// Newest first; of several null versions only the newest.
    pub(super) held: Vec<Held>,
    /// Older null versions: rests of operations that did not come to their end.
    pub(super) stale: Vec<Held>,
}

impl History {
    /// 0 if there is nothing.
    pub(super) fn newest_sequence(&self) -> u64 {
        self.held.first().map_or(0, |held| held.sequence)
    }

    pub(super) fn find(&self, id: &VersionId) -> Option<&Held> {
        self.held.iter().find(|held| held.id == *id)
    }
}

impl FsBucket {
    pub(super) fn history(&self, key: &ObjectKey) -> Result<History, Errno> {
        let mut history = History {
            path: path(key),
            dir: None,
            held: Vec::new(),
            stale: Vec::new(),
        };
        let dir = match self.open_directory(&history.path) {
            Ok(dir) => dir,
            Err(errno) if is_absent(errno) => return Ok(history),
            Err(errno) => return Err(errno),
        };
        let read = files::each_name(&dir, |name, _| history.held.extend(Held::parse(name)));
        match read {
            Ok(_) => {}
            // Removed since it was opened.
            Err(errno) if is_absent(errno) => return Ok(history),
            Err(errno) => return Err(errno),
        }
        history.dir = Some(dir);
        // Equal sequences: the null version was found at the key's path while the other was on its
        // way there.
        let age = |held: &Held| (held.sequence, held.id != VersionId::Null);
        history
            .held
            .sort_unstable_by_key(|held| std::cmp::Reverse(age(held)));
        let mut has_null = false;
        let mut stale = Vec::new();
        history.held.retain(|held| {
            let is_stale = held.id == VersionId::Null && has_null;
            has_null |= held.id == VersionId::Null;
            if is_stale {
                stale.push(held.clone());
            }
            !is_stale
        });
        history.stale = stale;
        Ok(history)
    }

    /// The sequence of the current version. The null version has one if a crash left it in the
    /// history too; otherwise it is newer than all of it.
    pub(super) fn sequence_of(&self, top: &Top, history: &History) -> Result<u64, Errno> {
        if let Some(stamp) = Stamp::of(&top.entry.version) {
            return Ok(stamp.sequence());
        }
        let (Some(twin), Some(dir)) = (history.find(&VersionId::Null), &history.dir) else {
            return Ok(u64::MAX);
        };
        match files::stat_at(dir, &twin.name()) {
            Ok(stat) if stat.node() == top.pinned.stat.node() => Ok(twin.sequence),
            Ok(_) | Err(Errno::NOENT) => Ok(u64::MAX),
            Err(errno) => Err(errno),
        }
    }

    /// Whether the bucket holds any version that is not the file at a key's path.
    pub(super) fn has_histories(&self) -> Result<bool, Errno> {
        let mut pending = vec![String::from(ROOT)];
        while let Some(path) = pending.pop() {
            let dir = match self.open_directory(&path) {
                Ok(dir) => dir,
                Err(errno) if is_absent(errno) => continue,
                Err(errno) => return Err(errno),
            };
            let is_keys = split(&path).1.starts_with('f');
            for (name, _) in files::names(&dir)?.names {
                if !is_keys {
                    pending.push(format!("{path}/{name}"));
                } else if Held::parse(&name).is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_it_holds() {
        let key = ObjectKey::parse("a/b").unwrap();
        let stamp = Stamp::new(7, &key, &Entropy::from_fn(|bytes| bytes.fill(0xab)));
        for held in [
            Held::version(stamp),
            Held::version(stamp).into_marker(),
            Held::null(u64::MAX),
            Held::null(0).into_marker(),
        ] {
            assert_eq!(Held::parse(&held.name()), Some(held));
        }
        assert!(stamp.is_of(&key) && !stamp.is_of(&ObjectKey::parse("a/c").unwrap()));
        assert_eq!((stamp.sequence(), Stamp::of(&stamp.id())), (7, Some(stamp)));
        for name in ["", "v", "v7", "n7", "x0000000000000007", "é", "lock"] {
            assert_eq!(Held::parse(name), None, "{name:?}");
        }
    }
}
