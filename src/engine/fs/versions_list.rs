//! All versions of all keys, in order: the walk of a listing, with the histories beside the tree.

use std::sync::Arc;

use super::bucket::FsBucket;
use super::faults::{Doing, off_shard};
use super::history::{Held, History, Stamp};
use super::pages::{self, Found, Homes, Level, Source, Step};
use super::scan::{Dir, Halt, Walk};
use super::walk::Patience;
use crate::clock::Timestamp;
use crate::engine::{
    EngineError, Entry, ObjectKey, ScanPlan, VersionId, VersionItem, VersionsPage, VersionsPlan,
    VersionsResume,
};

impl FsBucket {
    /// See [`crate::engine::Bucket::scan_versions`].
    pub async fn scan_versions(
        self: &Arc<Self>,
        plan: &VersionsPlan,
    ) -> Result<VersionsPage, EngineError> {
        let (bucket, plan) = (Arc::clone(self), plan.clone());
        off_shard(move || match bucket.versions_page(&plan) {
            Ok(page) => Ok(page),
            Err(Halt::Failed(error)) => Err(error),
            Err(Halt::Cold) => Err(EngineError::Busy),
        })
        .await
    }

    fn versions_page(&self, plan: &VersionsPlan) -> Result<VersionsPage, Halt> {
        let mut page = VersionsPage::default();
        let (area, from) = area(plan);
        let Some(from) = from.filter(|_| plan.limit > 0) else {
            return Ok(page);
        };
        let everywhere = Homes {
            tree: true,
            overlay: true,
            history: true,
        };
        let mut source = VersionsWalk(Walk::new(self, Patience::Blocking));
        let mut walk = pages::Walk::start(&mut source, &area, everywhere, from)?;
        while let Some(step) = walk.next_step()? {
            let items = match step {
                Step::CommonPrefix(prefix) => vec![VersionItem::CommonPrefix(prefix)],
                Step::Object { key, item } => {
                    let start = match &plan.after {
                        Some(VersionsResume::Version(at, version)) if *at == key => {
                            item.behind(version)
                        }
                        _ => 0,
                    };
                    let versions = item.lines.into_iter().skip(start);
                    versions.map(|line| line.into_item(&key)).collect()
                }
            };
            for item in items {
                if page.items.len() == plan.limit {
                    page.truncated = true;
                    return Ok(page);
                }
                page.items.push(item);
            }
        }
        if page.items.is_empty() && !self.is_in_place()? {
            return Err(Halt::Failed(self.gone()));
        }
        Ok(page)
    }

    /// The versions of one key, whose file shows `current`.
    fn versions_of(
        &self,
        key: &ObjectKey,
        mut current: Option<Arc<Entry>>,
    ) -> Result<KeyVersions, EngineError> {
        const DOING: &str = "listing the versions of a key";
        for _ in 0..LOOKS {
            let history = self.history(key).doing(DOING)?;
            if is_in_step(current.as_deref(), &history) {
                return self.compose(key, current, u64::MAX, &history);
            }
            // It was written between the two looks, or it is as a crash left it.
            let again = self.top(key)?;
            let sequence = match &again {
                Some(top) => self.sequence_of(top, &history).doing(DOING)?,
                None => u64::MAX,
            };
            let again = again.map(|top| top.entry);
            if again == current {
                return self.compose(key, current, sequence, &history);
            }
            current = again;
        }
        let history = self.history(key).doing(DOING)?;
        self.compose(key, current, u64::MAX, &history)
    }

    /// `sequence`: that of the current version; markers above it are void.
    fn compose(
        &self,
        key: &ObjectKey,
        current: Option<Arc<Entry>>,
        sequence: u64,
        history: &History,
    ) -> Result<KeyVersions, EngineError> {
        let version = current.as_ref().map(|entry| entry.version.clone());
        let mut versions = KeyVersions::default();
        if let Some(entry) = current {
            versions.lines.push(Line {
                is_latest: true,
                sequence: u64::MAX,
                what: What::Entry(entry),
            });
        }
        for held in &history.held {
            let is_current = version.as_ref() == Some(&held.id);
            if is_current || (version.is_some() && held.is_void(sequence)) {
                continue;
            }
            // Removed since the names were read.
            let Some(what) = self.what(key, history, held)? else {
                continue;
            };
            versions.lines.push(Line {
                // Without a file only a marker says that it is the newest.
                is_latest: versions.lines.is_empty() && held.is_marker,
                sequence: held.sequence,
                what,
            });
        }
        Ok(versions)
    }

    fn what(
        &self,
        key: &ObjectKey,
        history: &History,
        held: &Held,
    ) -> Result<Option<What>, EngineError> {
        if !held.is_marker {
            let top = self.pin_held(key, &history.path, held)?;
            return Ok(top.map(|top| What::Entry(top.entry)));
        }
        let modified = self.marker_time(&history.path, held)?;
        Ok(modified.map(|modified| What::Marker(held.id.clone(), modified)))
    }
}

/// What a walk looks for, and the least string that may come first; `None`: nothing is left.
fn area(plan: &VersionsPlan) -> (ScanPlan, Option<Vec<u8>>) {
    let area = |after| ScanPlan {
        prefix: plan.prefix.clone(),
        delimiter: plan.delimiter.clone(),
        after,
        limit: plan.limit,
    };
    match &plan.after {
        Some(VersionsResume::Version(key, _)) => {
            let first = plan.prefix.as_bytes().max(key.as_str().as_bytes());
            (area(None), Some(first.to_vec()))
        }
        Some(VersionsResume::Key(resume)) => {
            let area = area(Some(resume.clone()));
            let from = pages::first_wanted(&area);
            (area, from)
        }
        None => (area(None), Some(plan.prefix.as_bytes().to_vec())),
    }
}

/// Whether the two looks, at the file first, cannot have seen different times: nothing in the
/// history is as new as the file.
fn is_in_step(current: Option<&Entry>, history: &History) -> bool {
    let Some(newest) = history.held.first() else {
        return true;
    };
    match current.map(|entry| Stamp::of(&entry.version)) {
        Some(Some(stamp)) => newest.sequence < stamp.sequence(),
        Some(None) => history.find(&VersionId::Null).is_none(),
        None => newest.is_marker,
    }
}

/// The versions of one key, newest first.
#[derive(Debug, Default)]
struct KeyVersions {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    is_latest: bool,
    /// Its place among the versions of the key; that of the file is the greatest.
    sequence: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Entry(Arc<Entry>),
    Marker(VersionId, Timestamp),
}

impl KeyVersions {
    /// How many to pass over to go on behind `version`.
    fn behind(&self, version: &VersionId) -> usize {
        let is_it = |line: &Line| line.version() == version;
        match (self.lines.iter().position(is_it), Stamp::of(version)) {
            (Some(at), _) => at + 1,
            (None, Some(stamp)) => {
                let is_newer = |line: &&Line| line.sequence >= stamp.sequence();
                self.lines.iter().take_while(is_newer).count()
            }
            (None, None) => 0,
        }
    }
}

impl Line {
    fn version(&self) -> &VersionId {
        match &self.what {
            What::Entry(entry) => &entry.version,
            What::Marker(version, _) => version,
        }
    }

    fn into_item(self, key: &ObjectKey) -> VersionItem {
        let (key, is_latest) = (key.clone(), self.is_latest);
        match self.what {
            What::Entry(entry) => VersionItem::Object {
                key,
                entry,
                is_latest,
            },
            What::Marker(version, modified) => VersionItem::Marker {
                key,
                version,
                modified,
                is_latest,
            },
        }
    }
}

/// A walk that shows all versions of a key.
struct VersionsWalk<'a>(Walk<'a>);

impl Source for VersionsWalk<'_> {
    type Dir = Dir;
    type Item = KeyVersions;
    type Error = Halt;

    fn open(
        &mut self,
        prefix: &str,
        homes: Homes,
        above: Option<&mut Level<Dir>>,
    ) -> Result<Level<Dir>, Halt> {
        self.0.open_level(prefix, homes, above)
    }

    fn holds_surely(
        &mut self,
        prefix: &str,
        homes: Homes,
        above: &mut Level<Dir>,
    ) -> Result<bool, Halt> {
        self.0.holds_file(prefix, homes, above)
    }

    fn shows_empty(&mut self, level: &mut Level<Dir>) -> Result<bool, Halt> {
        self.0.is_peoples(level)
    }

    fn is_object(
        &mut self,
        level: &mut Level<Dir>,
        found: Found,
        key: &ObjectKey,
    ) -> Result<bool, Halt> {
        if found.homes.history {
            let history = self.0.bucket.history(key);
            if !history.doing("listing versions")?.held.is_empty() {
                return Ok(true);
            }
        }
        Ok(self.0.current(level, found, key)?.is_some())
    }

    fn item(
        &mut self,
        level: &mut Level<Dir>,
        found: Found,
        key: &ObjectKey,
    ) -> Result<Option<KeyVersions>, Halt> {
        let current = self.0.current(level, found, key)?;
        let versions = self.0.bucket.versions_of(key, current)?;
        Ok((!versions.lines.is_empty()).then_some(versions))
    }
}

/// Looks at a key that is being written.
const LOOKS: usize = 4;
