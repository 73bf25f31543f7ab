//! One page of a listing, made by a walk over levels of sorted names: the tree's and the
//! overlay's, side by side, entered as late and left as early as the page allows.
//!
//! Nothing here touches a file: a [`Source`] opens levels and looks at files.

use std::sync::Arc;

use super::names::{Name, NameKind, Names};
use crate::engine::{Entry, ObjectKey, Resume, ScanItem, ScanPage, ScanPlan};
use crate::limits::KEY_BYTES_MAX;

/// One of the two places in which keys live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Tree,
    Overlay,
}

/// In which trees a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Homes {
    pub(super) tree: bool,
    pub(super) overlay: bool,
    /// Versions that are not the file of their key.
    pub(super) history: bool,
}

/// The names directly below one prefix.
#[derive(Debug)]
pub(super) struct Level<D> {
    pub(super) prefix: Box<str>,
    pub(super) tree: Option<Arc<Names>>,
    pub(super) overlay: Option<Arc<Names>>,
    pub(super) history: Option<Arc<Names>>,
    pub(super) dir: D,
}

/// One step of a walk.
#[derive(Debug)]
pub(super) enum Step<T> {
    Object { key: ObjectKey, item: T },
    CommonPrefix(Box<str>),
}

/// What a walk asks of the place that it walks in.
pub(super) trait Source {
    /// An open level's means of looking at its files.
    type Dir;
    /// What is said of one key.
    type Item;
    type Error;

    /// The names directly below `prefix`, which is empty or ends in `/`, in the given homes.
    /// `above` is the level in which it was found, if it was.
    fn open(
        &mut self,
        prefix: &str,
        homes: Homes,
        above: Option<&mut Level<Self::Dir>>,
    ) -> Result<Level<Self::Dir>, Self::Error>;

    /// Whether there certainly is an object below `prefix`, found `above`: a quick look that
    /// spares reading all of a large directory. `false`: perhaps.
    fn holds_surely(
        &mut self,
        prefix: &str,
        homes: Homes,
        above: &mut Level<Self::Dir>,
    ) -> Result<bool, Self::Error>;

    /// Whether people made this level's directory, so that it shows even when it is empty.
    fn shows_empty(&mut self, level: &mut Level<Self::Dir>) -> Result<bool, Self::Error>;

    /// Whether the name that makes `key` stands for anything that is to be shown.
    fn is_object(
        &mut self,
        level: &mut Level<Self::Dir>,
        found: Found,
        key: &ObjectKey,
    ) -> Result<bool, Self::Error>;

    /// What is to be shown of it; `None`: nothing.
    fn item(
        &mut self,
        level: &mut Level<Self::Dir>,
        found: Found,
        key: &ObjectKey,
    ) -> Result<Option<Self::Item>, Self::Error>;
}

/// The page that `plan` asks for.
pub(super) fn page<S>(source: &mut S, plan: &ScanPlan) -> Result<ScanPage, S::Error>
where
    S: Source<Item = Arc<Entry>>,
{
    let mut page = ScanPage::default();
    let Some(from) = first_wanted(plan) else {
        return Ok(page);
    };
    if plan.limit == 0 {
        return Ok(page);
    }
    let homes = Homes {
        tree: true,
        overlay: true,
        history: false,
    };
    let mut walk = Walk::start(source, plan, homes, from)?;
    while let Some(step) = walk.next_step()? {
        if page.items.len() == plan.limit {
            page.truncated = true;
            break;
        }
        page.items.push(match step {
            Step::Object { key, item: entry } => ScanItem::Object { key, entry },
            Step::CommonPrefix(prefix) => ScanItem::CommonPrefix(prefix),
        });
    }
    Ok(page)
}

/// The least string of bytes that the page may begin at; `None`: nothing is left.
pub(super) fn first_wanted(plan: &ScanPlan) -> Option<Vec<u8>> {
    let resumed = match &plan.after {
        None => Vec::new(),
        // No key holds NUL: the least string after `key`.
        Some(Resume::Key(key)) => [key.as_bytes(), b"\0"].concat(),
        Some(Resume::Prefix(prefix)) => after_all(prefix)?,
    };
    Some(resumed.max(plan.prefix.as_bytes().to_vec()))
}

/// The least string of bytes greater than all that start with `prefix`.
fn after_all(prefix: &str) -> Option<Vec<u8>> {
    let (last, head) = prefix.as_bytes().split_last()?;
    // No byte of UTF-8 is 0xFF.
    Some([head, &[last.saturating_add(1)]].concat())
}

/// A walk over the keys from a string of bytes on, in their order.
pub(super) struct Walk<'a, S: Source> {
    source: &'a mut S,
    plan: &'a ScanPlan,
    /// Nothing below this is wanted.
    from: Vec<u8>,
    /// The levels from that of the plan's prefix down to the current one.
    stack: Vec<Frame<S::Dir>>,
    /// The current name with its prefix, and `/` if it is a directory.
    name: String,
}

struct Frame<D> {
    level: Level<D>,
    at_tree: usize,
    at_overlay: usize,
    at_history: usize,
}

/// The next name of a level, in one home or several.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) homes: Homes,
    pub(super) kind: NameKind,
}

impl<'a, S: Source> Walk<'a, S> {
    /// `plan` says prefix and delimiter; what is less than `from` is passed over.
    pub(super) fn start(
        source: &'a mut S,
        plan: &'a ScanPlan,
        homes: Homes,
        from: Vec<u8>,
    ) -> Result<Self, S::Error> {
        let top = plan.prefix.rfind('/').map_or(0, |slash| slash + 1);
        let top = plan.prefix.get(..top).unwrap_or_default();
        let level = source.open(top, homes, None)?;
        let mut walk = Self {
            source,
            plan,
            from,
            stack: Vec::new(),
            name: String::new(),
        };
        walk.push(level);
        Ok(walk)
    }

    pub(super) fn next_step(&mut self) -> Result<Option<Step<S::Item>>, S::Error> {
        loop {
            let Some(found) = self.next_name() else {
                if self.stack.pop().is_none() {
                    return Ok(None);
                }
                continue;
            };
            if !self.name.starts_with(&*self.plan.prefix) {
                return Ok(None);
            }
            let step = match (self.rolled_up(), found.kind) {
                (Some(common), NameKind::Directory) => {
                    let shows = self.holds_any(found)?;
                    self.roll_up(common, shows)
                }
                (Some(common), _) => {
                    let shows = self.is_object(found)?;
                    self.roll_up(common, shows)
                }
                (None, NameKind::Directory) => {
                    self.enter(found.homes)?;
                    None
                }
                (None, _) => self.object(found)?,
            };
            if step.is_some() {
                return Ok(step);
            }
        }
    }

    /// The common prefix under which the current name is shown, if it is under one.
    fn rolled_up(&self) -> Option<Box<str>> {
        let delimiter = self.plan.delimiter.as_deref()?;
        let start = self.plan.prefix.len();
        let at = self.name.get(start..)?.find(delimiter)?;
        self.name.get(..start + at + delimiter.len()).map(Box::from)
    }

    fn roll_up(&mut self, common: Box<str>, shows: bool) -> Option<Step<S::Item>> {
        if !shows {
            return None;
        }
        if let Some(next) = after_all(&common) {
            self.seek(next);
        }
        Some(Step::CommonPrefix(common))
    }

    /// Whether there is anything to show in the directory that is the current name.
    fn holds_any(&mut self, found: Found) -> Result<bool, S::Error> {
        let is_whole = self.from.as_slice() <= self.name.as_bytes();
        if let Some(frame) = self.stack.last_mut()
            && is_whole
            && self
                .source
                .holds_surely(&self.name, found.homes, &mut frame.level)?
        {
            return Ok(true);
        }
        let depth = self.stack.len();
        let name = self.name.clone();
        self.enter(found.homes)?;
        let holds = self.finds_any_below(depth);
        self.stack.truncate(depth);
        self.name = name;
        holds
    }

    fn finds_any_below(&mut self, depth: usize) -> Result<bool, S::Error> {
        let shows_directories = self.plan.delimiter.as_deref() == Some("/");
        while self.stack.len() > depth {
            match self.next_name() {
                Some(found) if found.kind == NameKind::Directory => self.enter(found.homes)?,
                Some(found) => {
                    if self.is_object(found)? {
                        return Ok(true);
                    }
                }
                None => {
                    let Some(mut frame) = self.stack.pop() else {
                        break;
                    };
                    let is_wanted = frame.level.prefix.as_bytes() >= self.from.as_slice();
                    if shows_directories
                        && is_wanted
                        && self.source.shows_empty(&mut frame.level)?
                    {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Makes the next name of the current level the current name and steps over it.
    fn next_name(&mut self) -> Option<Found> {
        let frame = self.stack.last_mut()?;
        let Level {
            tree,
            overlay,
            history,
            ..
        } = &frame.level;
        let name_at = |names, at| Option::<&Arc<Names>>::and_then(names, |names| names.get(at));
        let tree = name_at(tree.as_ref(), frame.at_tree);
        let overlay = name_at(overlay.as_ref(), frame.at_overlay);
        let history = name_at(history.as_ref(), frame.at_history);
        let names = [tree, overlay, history];
        // Of equal ones the first: the tree's.
        let first = names.into_iter().flatten().min_by(|a, b| a.order(*b))?;
        let is_here = |name: Option<Name<'_>>| name.is_some_and(|name| name.order(first).is_eq());
        let homes = Homes {
            tree: is_here(tree),
            overlay: is_here(overlay),
            history: is_here(history),
        };
        let Name { text, kind } = first;
        self.name.clear();
        self.name.push_str(&frame.level.prefix);
        self.name.push_str(text);
        if kind == NameKind::Directory {
            self.name.push('/');
        }
        frame.at_tree += usize::from(homes.tree);
        frame.at_overlay += usize::from(homes.overlay);
        frame.at_history += usize::from(homes.history);
        Some(Found { homes, kind })
    }

    /// Goes down into the directory that is the current name.
    fn enter(&mut self, homes: Homes) -> Result<(), S::Error> {
        if self.name.len() > KEY_BYTES_MAX {
            return Ok(());
        }
        let above = self.stack.last_mut().map(|frame| &mut frame.level);
        let level = self.source.open(&self.name, homes, above)?;
        self.push(level);
        Ok(())
    }

    fn push(&mut self, level: Level<S::Dir>) {
        let mut frame = Frame {
            level,
            at_tree: 0,
            at_overlay: 0,
            at_history: 0,
        };
        frame.seek(&self.from);
        self.stack.push(frame);
    }

    /// Passes over everything below `from`.
    fn seek(&mut self, from: Vec<u8>) {
        self.from = from;
        if let Some(frame) = self.stack.last_mut() {
            frame.seek(&self.from);
        }
    }

    fn is_object(&mut self, found: Found) -> Result<bool, S::Error> {
        let (Some(frame), Ok(key)) = (self.stack.last_mut(), ObjectKey::parse(&self.name)) else {
            return Ok(false);
        };
        self.source.is_object(&mut frame.level, found, &key)
    }

    fn object(&mut self, found: Found) -> Result<Option<Step<S::Item>>, S::Error> {
        let (Some(frame), Ok(key)) = (self.stack.last_mut(), ObjectKey::parse(&self.name)) else {
            return Ok(None);
        };
        let item = self.source.item(&mut frame.level, found, &key)?;
        Ok(item.map(|item| Step::Object { key, item }))
    }
}

impl<D> Frame<D> {
    fn seek(&mut self, from: &[u8]) {
        let prefix = self.level.prefix.as_bytes();
        let bound = |names: &Option<Arc<Names>>| {
            let Some(names) = names else {
                return 0;
            };
            match from.strip_prefix(prefix) {
                Some(rest) => names.lower_bound(rest),
                None if from < prefix => 0,
                None => usize::MAX,
            }
        };
        self.at_tree = self.at_tree.max(bound(&self.level.tree));
        self.at_overlay = self.at_overlay.max(bound(&self.level.overlay));
        self.at_history = self.at_history.max(bound(&self.level.history));
    }
}

impl Homes {
    /// Where the current object may be. A file of the tree wins over the overlay's.
    pub(super) fn in_turn(self) -> impl Iterator<Item = Home> {
        let tree = self.tree.then_some(Home::Tree);
        let overlay = self.overlay.then_some(Home::Overlay);
        tree.into_iter().chain(overlay)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};
    use std::convert::Infallible;

    use super::super::names::NamesBuilder;
    use super::*;
    use crate::clock::Timestamp;
    use crate::engine::{ETag, Metadata, VersionId};

    #[test]
    fn every_plan_gives_what_a_sorted_list_would() {
        let place = Place::sample();
        let prefixes = [
            "", "a", "a/", "a/b", "a/b/", "a//", "m", "m/", "x-", "none/", "s/", "z",
        ];
        let delimiters = [
            None,
            Some("/"),
            Some("-"),
            Some("//"),
            Some("b/"),
            Some("/b"),
            Some("\u{e9}"),
        ];
        let mut resumes = vec![None];
        for (name, _) in place.visible() {
            resumes.push(Some(Resume::Key(name.as_str().into())));
            resumes.push(Some(Resume::Prefix(name.into())));
        }
        for prefix in prefixes {
            for delimiter in delimiters {
                for after in &resumes {
                    let plan = ScanPlan {
                        prefix: prefix.into(),
                        delimiter: delimiter.map(Into::into),
                        after: after.clone(),
                        limit: 3,
                    };
                    let Ok(page) = page(&mut &place, &plan);
                    let mut want = place.expected(&plan);
                    assert_eq!(page.truncated, want.len() > 3, "{plan:?}");
                    want.truncate(3);
                    let got: Vec<_> = page.items.iter().map(ScanItem::name).collect();
                    assert_eq!(got, want, "{plan:?}");
                }
            }
        }
    }

    #[test]
    fn a_delimiter_opens_no_more_than_it_must() {
        let place = Place {
            looks_first: true,
            ..Place::sample()
        };
        let plan = ScanPlan {
            delimiter: Some("/".into()),
            limit: 1000,
            ..ScanPlan::default()
        };
        let Ok(page) = page(&mut &place, &plan);
        assert_eq!(page.items.len(), place.expected(&plan).len());
        // The top level, `e/` and what is in it, which hold no object, `p/` and `q/`, which
        // people's directories show.
        let opened = place.opened.take();
        assert_eq!(opened, ["", "e/", "e/e/", "p/", "q/", "q/people/"]);
    }

    /// Keys and directories in memory.
    #[derive(Default)]
    struct Place {
        tree: BTreeMap<&'static str, Node>,
        overlay: BTreeSet<&'static str>,
        /// Answers whether there surely is an object.
        looks_first: bool,
        opened: RefCell<Vec<String>>,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Node {
        File,
        BrokenLink,
        MadeByS3,
        MadeByPeople,
    }

    impl Place {
        fn sample() -> Self {
            let files = [
                "a-",
                "a.txt",
                "a/b/c",
                "a/b/d/e",
                "a/c",
                "a0",
                "m/b-c/1",
                "m/b-d",
                "s/t/u/v",
                "x-1",
                "x-2/y",
                "x/\u{e9}/1",
                "\u{e9}",
                "z/a/b/c/d/e",
            ];
            let mut tree: BTreeMap<_, _> = files.map(|file| (file, Node::File)).into();
            for file in files {
                for (slash, _) in file.match_indices('/') {
                    tree.insert(&file[..slash], Node::MadeByS3);
                }
            }
            tree.extend([
                ("a/link", Node::BrokenLink),
                ("e", Node::MadeByS3),
                ("e/e", Node::MadeByS3),
                ("l", Node::BrokenLink),
                ("p", Node::MadeByPeople),
                ("q", Node::MadeByS3),
                ("q/people", Node::MadeByPeople),
                ("a/b/people", Node::MadeByPeople),
                ("z", Node::MadeByPeople),
            ]);
            let overlay = [
                ".",
                "..",
                "/",
                "//b",
                "a",
                "a/",
                "a//b",
                "a/b",
                "a/b/c",
                "a/b/c/under",
                "l",
                "m//",
                "m/b-c",
                "o/nly/here",
                "x-1/under",
            ];
            Self {
                tree,
                overlay: overlay.into(),
                ..Self::default()
            }
        }

        /// What a listing may show, and whether it is a key rather than a directory of people's.
        fn visible(&self) -> BTreeSet<(String, bool)> {
            let keys = self.overlay.iter().map(|key| ((*key).to_owned(), true));
            let tree = self.tree.iter().filter_map(|(path, node)| match node {
                Node::File => Some(((*path).to_owned(), true)),
                Node::MadeByPeople => Some((format!("{path}/"), false)),
                Node::BrokenLink | Node::MadeByS3 => None,
            });
            keys.chain(tree).collect()
        }

        fn expected(&self, plan: &ScanPlan) -> Vec<String> {
            let mut names: Vec<String> = Vec::new();
            for (name, is_key) in self.visible() {
                let resumed = match &plan.after {
                    None => true,
                    Some(Resume::Key(key)) => *name > **key,
                    Some(Resume::Prefix(p)) => *name > **p && !name.starts_with(&**p),
                };
                let Some(rest) = name.strip_prefix(&*plan.prefix).filter(|_| resumed) else {
                    continue;
                };
                let delimiter = plan.delimiter.as_deref();
                let at = delimiter.and_then(|d| Some(rest.find(d)? + d.len()));
                let shown = match at {
                    Some(at) if is_key || delimiter == Some("/") => {
                        name[..plan.prefix.len() + at].to_owned()
                    }
                    None if is_key => name,
                    _ => continue,
                };
                if names.last() != Some(&shown) {
                    names.push(shown);
                }
            }
            names
        }

        fn names<'a>(prefix: &str, keys: impl Iterator<Item = (&'a str, NameKind)>) -> Arc<Names> {
            let below: BTreeSet<_> = keys
                .filter_map(|(key, kind)| {
                    let rest = key.strip_prefix(prefix)?;
                    let (name, kind) = match rest.split_once('/') {
                        Some((name, _)) => (name, NameKind::Directory),
                        None => (rest, kind),
                    };
                    Some((name, kind as u8))
                })
                .collect();
            let mut builder = NamesBuilder::default();
            for (name, kind) in below.into_iter().rev() {
                let kinds = [NameKind::File, NameKind::Link, NameKind::Directory];
                assert!(builder.push(name, kinds[usize::from(kind)]));
            }
            builder.build().into()
        }
    }

    impl Source for &Place {
        type Dir = ();
        type Item = Arc<Entry>;
        type Error = Infallible;

        fn open(
            &mut self,
            prefix: &str,
            homes: Homes,
            _: Option<&mut Level<()>>,
        ) -> Result<Level<()>, Infallible> {
            self.opened.borrow_mut().push(prefix.into());
            let tree = self.tree.iter().map(|(path, node)| {
                let kind = match node {
                    Node::File => NameKind::File,
                    Node::BrokenLink => NameKind::Link,
                    Node::MadeByS3 | Node::MadeByPeople => NameKind::Directory,
                };
                (*path, kind)
            });
            let overlay = self.overlay.iter().map(|key| (*key, NameKind::File));
            Ok(Level {
                prefix: prefix.into(),
                tree: homes.tree.then(|| Place::names(prefix, tree)),
                overlay: homes.overlay.then(|| Place::names(prefix, overlay)),
                history: None,
                dir: (),
            })
        }

        fn holds_surely(
            &mut self,
            prefix: &str,
            _: Homes,
            _: &mut Level<()>,
        ) -> Result<bool, Infallible> {
            let below = |(name, is_key): &(String, bool)| *is_key && name.starts_with(prefix);
            Ok(self.looks_first && self.visible().iter().any(below))
        }

        fn shows_empty(&mut self, level: &mut Level<()>) -> Result<bool, Infallible> {
            let path = level.prefix.trim_end_matches('/');
            Ok(self.tree.get(path) == Some(&Node::MadeByPeople))
        }

        fn is_object(
            &mut self,
            level: &mut Level<()>,
            found: Found,
            key: &ObjectKey,
        ) -> Result<bool, Infallible> {
            Ok(self.item(level, found, key)?.is_some())
        }

        fn item(
            &mut self,
            level: &mut Level<()>,
            found: Found,
            key: &ObjectKey,
        ) -> Result<Option<Arc<Entry>>, Infallible> {
            assert!(key.as_str().starts_with(&*level.prefix));
            let exists = |home| match home {
                Home::Tree => {
                    let node = self.tree.get(key.as_str());
                    let is_link = found.kind == NameKind::Link;
                    assert_eq!(is_link, node == Some(&Node::BrokenLink));
                    node == Some(&Node::File)
                }
                Home::Overlay => self.overlay.contains(key.as_str()),
            };
            let entry = || Entry {
                size_bytes: 0,
                etag: ETag::new(""),
                modified: Timestamp::default(),
                checksum: None,
                metadata: Metadata::default(),
                parts: [].into(),
                version: VersionId::Null,
                seal: None,
            };
            Ok(found.homes.in_turn().any(exists).then(|| Arc::new(entry())))
        }
    }
}
