//! The rules of a bucket's lifecycle, and what is due by them: pure functions of a version, its
//! place among the versions of its key, and the time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::engine::Entry;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rules {
    pub(super) rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rule {
    pub(super) id: Box<str>,
    pub(super) is_enabled: bool,
    #[serde(default)]
    pub(super) filter: Filter,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expiration: Option<Expiration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) noncurrent: Option<Noncurrent>,
    /// Of uploads that were not completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) abort_days: Option<u32>,
}

/// What a rule is about: all of it must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Filter {
    #[serde(default)]
    pub(super) form: Form,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) prefix: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) tags: Vec<(Box<str>, Box<str>)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) larger_than_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) smaller_than_bytes: Option<u64>,
}

/// How the filter was written, so that it is read back so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    /// A Prefix of the rule itself, as in the first version of the API.
    Bare,
    #[default]
    One,
    And,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expiration {
    Days(u32),
    Date(Timestamp),
    /// Whether a delete marker goes when nothing is left behind it.
    Marker(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Noncurrent {
    pub(super) days: u32,
    /// The newest of them, that many, are kept however old they are.
    #[serde(default)]
    pub(super) newer_kept: u32,
}

/// How long the days of rules are. S3's days end at midnight UTC; shorter ones, which are for
/// tests, do not wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day {
    nanos: i64,
}

impl Day {
    pub const REAL: Self = Self {
        nanos: 86_400_000_000_000,
    };

    pub fn of(length: Duration) -> Self {
        let nanos = i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
        Self {
            nanos: nanos.clamp(1, Self::REAL.nanos),
        }
    }

    pub fn is_real(self) -> bool {
        self == Self::REAL
    }

    pub fn length(self) -> Duration {
        Duration::from_nanos(self.nanos.unsigned_abs())
    }

    /// The end of that many days from `from`: the midnight after it, as S3 has it.
    pub fn after(self, from: Timestamp, days: u32) -> Timestamp {
        let end = from
            .unix_nanos
            .saturating_add(self.nanos.saturating_mul(days.into()));
        Timestamp::from_unix_nanos(match self.is_real() {
            true => midnight_from(end),
            false => end,
        })
    }
}

/// The first midnight that is not before `nanos`.
fn midnight_from(nanos: i64) -> i64 {
    let day = Day::REAL.nanos;
    let into = nanos.rem_euclid(day);
    nanos.saturating_add(if into == 0 { 0 } else { day - into })
}

/// One version or delete marker, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub key: &'a str,
    pub what: What<'a>,
    pub place: Place,
}

#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    Object(&'a Entry),
    Marker { modified: Timestamp },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Current {
        /// Nothing is behind it.
        is_only: bool,
    },
    Noncurrent {
        /// When the version before it was written.
        since: Timestamp,
        /// How many noncurrent versions are newer; delete markers do not count.
        newer: u32,
    },
}

impl Rules {
    /// Whether a rule removes this now. Of a current object: it expires, which in a bucket that
    /// keeps versions puts a delete marker before it.
    pub fn is_due(&self, subject: &Subject<'_>, now: Timestamp, day: Day) -> bool {
        self.enabled().any(|rule| {
            rule.filter.fits(subject.key, subject.what) && rule.is_due(subject, now, day)
        })
    }

    /// Whether a rule drops an upload that was opened then.
    pub fn is_upload_due(&self, key: &str, opened: Timestamp, now: Timestamp, day: Day) -> bool {
        self.upload_end(key, opened, day)
            .is_some_and(|(end, _)| end <= now)
    }

    /// When an upload is dropped, and by which rule.
    pub fn upload_end(&self, key: &str, opened: Timestamp, day: Day) -> Option<(Timestamp, &str)> {
        let ends = self.enabled().filter_map(|rule| {
            let days = rule.abort_days.filter(|_| rule.filter.has_prefix_of(key))?;
            Some((day.after(opened, days), &*rule.id))
        });
        ends.min_by_key(|(end, _)| *end)
    }

    /// When a current object expires, and by which rule; the first, if there are several.
    pub fn expiry(&self, key: &str, entry: &Entry) -> Option<(Timestamp, &str)> {
        let fitting = self
            .enabled()
            .filter(|rule| rule.filter.fits(key, What::Object(entry)));
        let ends = fitting.filter_map(|rule| {
            let end = match rule.expiration? {
                Expiration::Days(days) => Day::REAL.after(entry.modified, days),
                Expiration::Date(date) => date,
                Expiration::Marker(_) => return None,
            };
            Some((end, &*rule.id))
        });
        ends.min_by_key(|(end, _)| *end)
    }

    /// What a walk has to look at: no prefix begins with another one.
    pub fn prefixes(&self) -> Vec<&str> {
        let prefix = |rule: &'_ Rule| rule.filter.prefix.as_deref().map(str::len);
        let mut all: Vec<&str> = Vec::new();
        let mut rules: Vec<&Rule> = self
            .enabled()
            .filter(|rule| rule.is_of_versions())
            .collect();
        rules.sort_by_key(|rule| prefix(rule));
        for rule in rules {
            let prefix = rule.filter.prefix.as_deref().unwrap_or_default();
            if !all.iter().any(|known| prefix.starts_with(known)) {
                all.push(prefix);
            }
        }
        all
    }

    pub fn drops_uploads(&self) -> bool {
        self.enabled().any(|rule| rule.abort_days.is_some())
    }

    /// Nothing is ever due.
    pub fn is_idle(&self) -> bool {
        self.enabled().next().is_none()
    }

    fn enabled(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(|rule| rule.is_enabled)
    }
}

impl Rule {
    fn is_of_versions(&self) -> bool {
        self.expiration.is_some() || self.noncurrent.is_some()
    }

    fn is_due(&self, subject: &Subject<'_>, now: Timestamp, day: Day) -> bool {
        match (subject.place, subject.what) {
            (Place::Current { .. }, What::Object(entry)) => match self.expiration {
                Some(Expiration::Days(days)) => day.after(entry.modified, days) <= now,
                Some(Expiration::Date(date)) => date <= now,
                Some(Expiration::Marker(_)) | None => false,
            },
            // S3 cleans up after itself: days are for markers too that hide nothing any more.
            (Place::Current { is_only: true }, What::Marker { modified }) => {
                match self.expiration {
                    Some(Expiration::Marker(is_removed)) => is_removed,
                    Some(Expiration::Days(days)) => day.after(modified, days) <= now,
                    Some(Expiration::Date(_)) | None => false,
                }
            }
            (Place::Current { is_only: false }, What::Marker { .. }) => false,
            (Place::Noncurrent { since, newer }, _) => self
                .noncurrent
                .is_some_and(|rule| newer >= rule.newer_kept && day.after(since, rule.days) <= now),
        }
    }
}

impl Filter {
    fn fits(&self, key: &str, what: What<'_>) -> bool {
        if !self.has_prefix_of(key) {
            return false;
        }
        let is_plain = self.tags.is_empty()
            && self.larger_than_bytes.is_none()
            && self.smaller_than_bytes.is_none();
        match what {
            What::Marker { .. } => is_plain,
            What::Object(entry) => {
                let size = entry.plain_bytes();
                let has = |tag| entry.metadata.tags.contains(tag);
                self.tags.iter().all(has)
                    && self.larger_than_bytes.is_none_or(|bound| size > bound)
                    && self.smaller_than_bytes.is_none_or(|bound| size < bound)
            }
        }
    }

    fn has_prefix_of(&self, key: &str) -> bool {
        self.prefix
            .as_deref()
            .is_none_or(|prefix| key.starts_with(prefix))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::{ETag, Metadata, VersionId};

    const DAY: i64 = 86_400;
    /// Ten days and an hour after the epoch.
    const NOW: Timestamp = Timestamp::from_unix_seconds(10 * DAY + 3600);

    fn object(age_seconds: i64, size_bytes: u64, tags: &[(&str, &str)]) -> Entry {
        Entry {
            size_bytes,
            etag: ETag::new("e"),
            modified: NOW.plus_seconds(-age_seconds),
            checksum: None,
            metadata: Metadata {
                tags: tags
                    .iter()
                    .map(|(k, v)| ((*k).into(), (*v).into()))
                    .collect(),
                ..Metadata::default()
            },
            parts: Arc::from([].as_slice()),
            version: VersionId::Null,
            seal: None,
        }
    }

    fn rule(expiration: Expiration) -> Rule {
        Rule {
            id: "rule".into(),
            is_enabled: true,
            expiration: Some(expiration),
            ..Rule::default()
        }
    }

    fn noncurrent(days: u32, newer_kept: u32) -> Rule {
        Rule {
            is_enabled: true,
            noncurrent: Some(Noncurrent { days, newer_kept }),
            ..Rule::default()
        }
    }

    fn filtered(filter: Filter) -> Rule {
        Rule {
            filter,
            ..rule(Expiration::Days(1))
        }
    }

    const CURRENT: Place = Place::Current { is_only: false };

    fn former(age_seconds: i64, newer: u32) -> Place {
        Place::Noncurrent {
            since: NOW.plus_seconds(-age_seconds),
            newer,
        }
    }

    #[test]
    fn what_is_due_is_due_by_a_rule() {
        let old = object(3 * DAY, 100, &[("a", "1"), ("b", "2")]);
        let marker = |age: i64| What::Marker {
            modified: NOW.plus_seconds(-age),
        };
        let prefix = |text: &str| Filter {
            prefix: Some(text.into()),
            ..Filter::default()
        };
        let tags = |pairs: &[(&str, &str)]| Filter {
            tags: pairs
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            ..Filter::default()
        };
        let sizes = |larger, smaller| Filter {
            larger_than_bytes: larger,
            smaller_than_bytes: smaller,
            ..Filter::default()
        };
        let only = Place::Current { is_only: true };
        let past = Expiration::Date(NOW.plus_seconds(-1));
        let future = Expiration::Date(NOW.plus_seconds(1));
        let is = What::Object(&old);
        let rows = [
            (rule(Expiration::Days(1)), is, CURRENT, true),
            (rule(Expiration::Days(1)), is, only, true),
            (rule(Expiration::Days(3)), is, CURRENT, false),
            (rule(past), is, CURRENT, true),
            (rule(future), is, CURRENT, false),
            (rule(Expiration::Marker(true)), is, only, false),
            (rule(Expiration::Days(1)), is, former(9 * DAY, 9), false),
            (filtered(prefix("di")), is, CURRENT, true),
            (filtered(prefix("do")), is, CURRENT, false),
            (filtered(tags(&[("a", "1")])), is, CURRENT, true),
            (
                filtered(tags(&[("a", "1"), ("b", "1")])),
                is,
                CURRENT,
                false,
            ),
            (filtered(sizes(Some(99), Some(101))), is, CURRENT, true),
            (filtered(sizes(Some(100), None)), is, CURRENT, false),
            (filtered(sizes(None, Some(100))), is, CURRENT, false),
            (rule(Expiration::Marker(true)), marker(0), only, true),
            (rule(Expiration::Marker(true)), marker(0), CURRENT, false),
            (rule(Expiration::Marker(false)), marker(0), only, false),
            (rule(Expiration::Days(1)), marker(3 * DAY), only, true),
            (rule(Expiration::Days(1)), marker(DAY / 2), only, false),
            (rule(Expiration::Days(1)), marker(3 * DAY), CURRENT, false),
            (rule(past), marker(3 * DAY), only, false),
            (filtered(tags(&[("a", "1")])), marker(3 * DAY), only, false),
            (noncurrent(1, 0), is, former(3 * DAY, 0), true),
            (noncurrent(1, 0), is, former(DAY / 2, 0), false),
            (noncurrent(1, 0), is, CURRENT, false),
            (noncurrent(1, 2), is, former(3 * DAY, 1), false),
            (noncurrent(1, 2), is, former(3 * DAY, 2), true),
            (noncurrent(1, 0), marker(0), former(3 * DAY, 0), true),
        ];
        for (rule, what, place, expected) in rows {
            let subject = Subject {
                key: "dir/key",
                what,
                place,
            };
            let mut rules = Rules { rules: vec![rule] };
            let due = rules.is_due(&subject, NOW, Day::REAL);
            assert_eq!(due, expected, "{rules:?} of {subject:?}");
            rules.rules[0].is_enabled = false;
            assert!(!rules.is_due(&subject, NOW, Day::REAL));
        }
    }

    #[test]
    fn a_day_ends_at_midnight_and_a_short_one_when_it_is_over() {
        let at = Timestamp::from_unix_seconds;
        assert_eq!(Day::REAL.after(at(5), 1), at(2 * DAY));
        assert_eq!(Day::REAL.after(at(DAY), 1), at(2 * DAY));
        assert_eq!(Day::REAL.after(at(-5), 1), at(DAY));
        let short = Day::of(Duration::from_secs(10));
        assert_eq!(short.after(at(5), 3), at(35));
        assert_eq!(Day::of(Duration::from_secs(1 << 40)), Day::REAL);
        assert_eq!(short.after(at(i64::MAX), u32::MAX).unix_nanos, i64::MAX);
    }

    #[test]
    fn the_rule_that_is_first_to_end_an_object_is_told() {
        let mut later = rule(Expiration::Days(20));
        later.id = "later".into();
        let mut off = rule(Expiration::Days(1));
        off.is_enabled = false;
        let rules = Rules {
            rules: vec![later, rule(Expiration::Days(2)), off, noncurrent(1, 0)],
        };
        let entry = object(0, 1, &[]);
        let expected = Timestamp::from_unix_seconds(13 * DAY);
        assert_eq!(rules.expiry("k", &entry), Some((expected, "rule")));
    }

    #[test]
    fn uploads_are_dropped_by_prefix_and_age() {
        let mut rule = noncurrent(1, 0);
        rule.noncurrent = None;
        rule.abort_days = Some(2);
        rule.filter.prefix = Some("in/".into());
        let rules = Rules { rules: vec![rule] };
        let due = |key, age: i64| rules.is_upload_due(key, NOW.plus_seconds(-age), NOW, Day::REAL);
        assert!(due("in/k", 3 * DAY) && !due("in/k", 2 * DAY) && !due("out", 9 * DAY));
        assert!(rules.drops_uploads() && rules.prefixes().is_empty());
    }

    #[test]
    fn a_walk_looks_at_each_key_once() {
        let of = |prefixes: &[&str]| {
            let rules = prefixes.iter().map(|prefix| {
                filtered(Filter {
                    prefix: Some((*prefix).into()),
                    ..Filter::default()
                })
            });
            let rules = Rules {
                rules: rules.collect(),
            };
            rules.prefixes().join(",")
        };
        assert_eq!(of(&["b/c", "a", "b", "a"]), "a,b");
        assert_eq!(of(&["b/c", "", "b"]), "");
    }
}
