//! The versions of keys as a listing gives them, newest first, and which of them are due: the place
//! of each is known from those before it, and of a delete marker from what follows.

use crate::clock::Timestamp;
use crate::engine::{Condition, Entry, ObjectKey, Precondition, VersionId, VersionItem};
use crate::s3::lifecycle::{Day, Place, Rules, Subject, What};

/// One thing to remove, if it still is what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) key: ObjectKey,
    pub(super) act: Act,
    pub(super) precondition: Precondition,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// As a DELETE of the key.
    Expire,
    /// A version or a marker behind another one.
    RemoveOld(VersionId),
    /// A marker that hides nothing.
    RemoveMarker(VersionId),
}

impl Order {
    pub(super) fn expire(key: &ObjectKey, entry: &Entry) -> Self {
        Self {
            key: key.clone(),
            act: Act::Expire,
            precondition: precondition_of(entry),
        }
    }
}

/// The rules and the time by which a walk decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judge<'a> {
    pub(super) rules: &'a Rules,
    pub(super) now: Timestamp,
    pub(super) day: Day,
}

impl Judge<'_> {
    pub(super) fn is_due(&self, key: &ObjectKey, what: What<'_>, place: Place) -> bool {
        let key = key.as_str();
        let subject = Subject { key, what, place };
        self.rules.is_due(&subject, self.now, self.day)
    }
}

/// What is known of the key that a listing is at.
#[derive(Debug, Default)]
pub(super) struct Lineup {
    key: Option<ObjectKey>,
    /// When the version before was written; `None` at the newest.
    since: Option<Timestamp>,
    /// Noncurrent objects so far.
    newer: u32,
    /// A marker that is current, while nothing is seen behind it.
    lone: Option<(VersionId, Timestamp)>,
}

impl Lineup {
    /// Takes the next line of the listing.
    pub(super) fn next(&mut self, item: &VersionItem, judge: Judge<'_>, orders: &mut Vec<Order>) {
        let (key, version, what, is_latest) = match item {
            VersionItem::Object {
                key,
                entry,
                is_latest,
            } => (key, &entry.version, What::Object(entry), *is_latest),
            VersionItem::Marker {
                key,
                version,
                modified,
                is_latest,
            } => {
                let modified = *modified;
                (key, version, What::Marker { modified }, *is_latest)
            }
            VersionItem::CommonPrefix(_) => return,
        };
        if self.key.as_ref() != Some(key) {
            self.end(judge, orders);
            self.key = Some(key.clone());
        } else if is_latest {
            // The listing went on at the newest: nobody could tell any more where it was.
            (self.since, self.newer) = (None, 0);
        }
        self.lone = None;
        let modified = match what {
            What::Object(entry) => entry.modified,
            What::Marker { modified } => modified,
        };
        match (self.since, what) {
            (Some(since), what) => {
                // A file that another program put before it may be of any age.
                let since = since.max(modified);
                let newer = self.newer;
                let place = Place::Noncurrent { since, newer };
                if judge.is_due(key, what, place) {
                    orders.push(Order {
                        key: key.clone(),
                        act: Act::RemoveOld(version.clone()),
                        precondition: match what {
                            What::Object(entry) => precondition_of(entry),
                            What::Marker { .. } => no_object(),
                        },
                    });
                }
                self.newer += u32::from(matches!(what, What::Object(_)));
            }
            (None, What::Object(entry)) if is_latest => {
                if judge.is_due(key, what, Place::Current { is_only: false }) {
                    orders.push(Order::expire(key, entry));
                }
            }
            (None, What::Marker { modified }) if is_latest => {
                self.lone = Some((version.clone(), modified));
            }
            // Somebody removed the key's file by hand: since when this one is not the newest,
            // nobody knows.
            (None, _) => {}
        }
        self.since = Some(modified);
    }

    /// There are no more versions of the key.
    pub(super) fn end(&mut self, judge: Judge<'_>, orders: &mut Vec<Order>) {
        let done = std::mem::take(self);
        if let (Some(key), Some((version, modified))) = (done.key, done.lone)
            && judge.is_due(
                &key,
                What::Marker { modified },
                Place::Current { is_only: true },
            )
        {
            orders.push(Order {
                key,
                act: Act::RemoveMarker(version),
                precondition: no_object(),
            });
        }
    }
}

/// It is the very object that was seen.
fn precondition_of(entry: &Entry) -> Precondition {
    Precondition {
        if_match: Some(Condition::OneOf(vec![entry.etag.clone()])),
        if_modified_at: Some(entry.modified),
        // Conditions are about what clients see, also of what is encrypted.
        if_size_bytes: Some(entry.plain_bytes()),
        ..Precondition::default()
    }
}

/// It is a marker still: an object may take the place of one that is the null version.
fn no_object() -> Precondition {
    Precondition {
        if_none_match: Some(Condition::Any),
        ..Precondition::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::{BucketConfig, ETag, Metadata};

    const NOW: Timestamp = Timestamp::from_unix_seconds(100 * 86_400);

    fn object(key: &str, version: &str, age_days: i64, is_latest: bool) -> VersionItem {
        VersionItem::Object {
            key: ObjectKey::parse(key).unwrap(),
            entry: Arc::new(Entry {
                size_bytes: 1,
                etag: ETag::new(version),
                modified: NOW.plus_seconds(-age_days * 86_400),
                checksum: None,
                metadata: Metadata::default(),
                parts: Arc::from([].as_slice()),
                version: VersionId::parse(version),
                seal: None,
            }),
            is_latest,
        }
    }

    fn marker(key: &str, version: &str, age_days: i64, is_latest: bool) -> VersionItem {
        VersionItem::Marker {
            key: ObjectKey::parse(key).unwrap(),
            version: VersionId::parse(version),
            modified: NOW.plus_seconds(-age_days * 86_400),
            is_latest,
        }
    }

    /// What two rules order of this listing: objects go after 10 days, versions 5 days after
    /// they were followed, but for the newest of them.
    fn ordered(items: &[VersionItem]) -> String {
        let text = r#"[{"id":"a","is_enabled":true,"expiration":{"days":10}},
            {"id":"b","is_enabled":true,"noncurrent":{"days":5,"newer_kept":1}}]"#;
        let mut config = BucketConfig::new(None, NOW);
        config.documents.insert("lifecycle".into(), text.into());
        let rules = crate::s3::lifecycle::rules_of(&config).unwrap().unwrap();
        let judge = Judge {
            rules: &rules,
            now: NOW,
            day: Day::REAL,
        };
        let (mut lineup, mut orders) = (Lineup::default(), Vec::new());
        for item in items {
            lineup.next(item, judge, &mut orders);
        }
        lineup.end(judge, &mut orders);
        let word = |order: &Order| match &order.act {
            Act::Expire => format!("{} expires", order.key),
            Act::RemoveOld(version) => format!("{} {version}", order.key),
            Act::RemoveMarker(version) => format!("{} marker {version}", order.key),
        };
        orders.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn each_version_is_judged_by_its_place() {
        let rows: [(&[VersionItem], &str); 7] = [
            (
                &[object("a", "1", 11, true), object("b", "1", 9, true)],
                "a expires",
            ),
            (
                &[
                    object("a", "4", 1, true),
                    object("a", "3", 8, false),
                    object("a", "2", 30, false),
                    object("a", "1", 60, false),
                    object("b", "1", 60, true),
                ],
                "a 2, a 1, b expires",
            ),
            // A marker that hides nothing goes when it is old enough, one that hides something
            // stays.
            (
                &[marker("a", "2", 20, true), marker("b", "2", 5, true)],
                "a marker 2",
            ),
            (
                &[marker("a", "2", 20, true), object("a", "1", 30, false)],
                "",
            ),
            // Markers behind others go, and are not counted as versions that are kept.
            (
                &[
                    object("a", "4", 1, true),
                    object("a", "3", 8, false),
                    marker("a", "2", 9, false),
                ],
                "a 2",
            ),
            // Its file was removed by hand: the newest that is left stays.
            (
                &[object("a", "2", 50, false), object("a", "1", 60, false)],
                "",
            ),
            // The file that another program put there is older than what was there before.
            (
                &[
                    object("a", "null", 9, true),
                    object("a", "2", 3, false),
                    object("a", "1", 4, false),
                ],
                "",
            ),
        ];
        for (items, expected) in rows {
            assert_eq!(ordered(items), expected, "{items:?}");
        }
    }

    #[test]
    fn a_listing_that_went_on_at_the_newest_judges_it_as_current() {
        let items = [
            object("a", "2", 8, true),
            object("a", "1", 60, false),
            object("a", "3", 7, true),
            object("a", "2", 8, false),
        ];
        assert_eq!(ordered(&items), "");
    }
}
