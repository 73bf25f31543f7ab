//! The names directly below one prefix, packed and in the order of the keys' bytes.

use std::cmp::Ordering;

/// Sorted names of one directory: of the tree or of the overlay.
///
/// A directory sorts as its name and `/`, for that is how all keys in it start: `a.txt` comes
/// before what is in `a`, and `a0` after it. No name holds a `/`, so the order of the names is the
/// order of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    text: Box<str>,
    items: Box<[Item]>,
    has_file: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Item {
    start: u32,
    length: u16,
    kind: NameKind,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameKind {
    /// A file: the key `<prefix><name>`.
    File,
    /// A symbolic link: that key, if it leads to a file of the bucket.
    Link,
    /// Keys that start with `<prefix><name>/`.
    Directory,
}

/// One name of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    pub(super) text: &'a str,
    pub(super) kind: NameKind,
}

impl Names {
    /// Memory that it takes.
    pub(super) fn size_bytes(&self) -> u64 {
        (self.text.len() + size_of_val(&*self.items)) as u64
    }

    pub(super) fn get(&self, index: usize) -> Option<Name<'_>> {
        self.items.get(index).map(|item| item.name(&self.text))
    }

    /// Index of the first name that stands for any key at or after `target`, a string of bytes
    /// that is compared with keys without the level's prefix.
    pub(super) fn lower_bound(&self, target: &[u8]) -> usize {
        self.items
            .partition_point(|item| item.name(&self.text).is_below(target))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Name<'_>> {
        self.items.iter().map(|item| item.name(&self.text))
    }

    /// Whether any of them is a file.
    pub(super) fn has_file(&self) -> bool {
        self.has_file
    }
}

impl Item {
    fn name(self, text: &str) -> Name<'_> {
        let start = usize::try_from(self.start).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::from(self.length));
        Name {
            // The builder cut the text where the names end.
            text: text.get(start..end).unwrap_or_default(),
            kind: self.kind,
        }
    }
}

impl Name<'_> {
    /// The order of the keys that two names stand for.
    pub(super) fn order(self, other: Self) -> Ordering {
        let (a, b) = (self.text.as_bytes(), other.text.as_bytes());
        let common = a.len().min(b.len());
        let (a_head, a_tail) = a.split_at(common);
        let (b_head, b_tail) = b.split_at(common);
        // Of two different names at most one goes on after the common part; the other one ends
        // there, or goes on with the '/' that no name holds.
        let next = |tail: &[u8], kind| match tail.first() {
            Some(byte) => Some(*byte),
            None => (kind == NameKind::Directory).then_some(b'/'),
        };
        let tails = || next(a_tail, self.kind).cmp(&next(b_tail, other.kind));
        a_head.cmp(b_head).then_with(tails)
    }

    /// Whether all keys that the name stands for are less than `target`.
    fn is_below(self, target: &[u8]) -> bool {
        let name = self.text.as_bytes();
        if self.kind != NameKind::Directory {
            return name < target;
        }
        match target.strip_prefix(name) {
            // The name goes on with '/'; from there on only a greater byte is above all of it.
            Some(rest) => rest.first().is_some_and(|byte| *byte > b'/'),
            None => name < target,
        }
    }
}

/// Collects names in any order.
#[derive(Debug, Default)]
pub(super) struct NamesBuilder {
    text: String,
    items: Vec<Item>,
}

impl NamesBuilder {
    /// `false`: there are more names than a level can hold.
    #[must_use]
    pub(super) fn push(&mut self, name: &str, kind: NameKind) -> bool {
        let (Ok(start), Ok(length)) = (u32::try_from(self.text.len()), u16::try_from(name.len()))
        else {
            return false;
        };
        self.text.push_str(name);
        self.items.push(Item {
            start,
            length,
            kind,
        });
        true
    }

    pub(super) fn build(self) -> Names {
        let text = self.text.into_boxed_str();
        let mut items = self.items;
        items.sort_unstable_by(|a, b| a.name(&text).order(b.name(&text)));
        Names {
            text,
            has_file: items.iter().any(|item| item.kind == NameKind::File),
            items: items.into_boxed_slice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_sort_as_the_keys_in_them() {
        let names = names(&["a/", "a.txt", "a0", "a-", "a", "ab/", "é", "Z/"]);
        let sorted: Vec<_> = names.iter().map(|name| name.text).collect();
        assert_eq!(sorted, ["Z", "a", "a-", "a.txt", "a", "a0", "ab", "é"]);
        assert_eq!(names.get(1).unwrap().kind, NameKind::File);
        assert_eq!(names.get(4).unwrap().kind, NameKind::Directory);
        assert_eq!(names.get(8), None);
    }

    #[test]
    fn a_lower_bound_enters_the_directory_that_may_hold_the_target() {
        let names = names(&["a", "a.txt", "a/", "a0", "b/"]);
        let at = |target: &str| names.lower_bound(target.as_bytes());
        assert_eq!(at(""), 0);
        assert_eq!(at("a"), 0);
        assert_eq!(at("a\0"), 1);
        assert_eq!(at("a."), 1);
        assert_eq!(at("a.txt"), 1);
        assert_eq!(at("a.txt\0"), 2);
        assert_eq!(at("a/"), 2);
        assert_eq!(at("a/zzz"), 2);
        assert_eq!(at("a0"), 3);
        assert_eq!(at("a0\0"), 4);
        assert_eq!(at("b"), 4);
        assert_eq!(at("b/\u{10ffff}"), 4);
        assert_eq!(at("b0"), 5);
    }

    /// Names that end in `/` are directories.
    fn names(raw: &[&str]) -> Names {
        let mut builder = NamesBuilder::default();
        for name in raw {
            let pushed = match name.strip_suffix('/') {
                Some(name) => builder.push(name, NameKind::Directory),
                None => builder.push(name, NameKind::File),
            };
            assert!(pushed);
        }
        builder.build()
    }
}
