//! Object lock: what keeps a version from being removed, and how that may be changed. Pure
//! functions; engines call them in the one step that removes or changes the version.

use serde::{Deserialize, Serialize};

use super::types::EngineError;
use crate::clock::Timestamp;

/// What keeps one version from being removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// `None`: nobody ever said; S3 tells that from a hold that was taken off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub legal_hold: Option<bool>,
}

/// A version stays until this time. After it, it is as if there were none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    pub mode: RetentionMode,
    pub until: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RetentionMode {
    /// Whoever may bypass it can remove the version, and shorten or change the retention.
    Governance,
    /// Nobody can.
    Compliance,
}

/// Which retention a caller is allowed to pass over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bypass {
    #[default]
    Nothing,
    Governance,
}

/// What is to become of a version's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockChange {
    /// `None` takes it off.
    Retention(Option<Retention>),
    LegalHold(bool),
}

/// A bucket whose versions can be locked. It keeps versions, whatever else is said of it, and stays
/// such a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketLock {
    /// What a version gets that is committed without a retention of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<DefaultRetention>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRetention {
    pub mode: RetentionMode,
    pub period: RetentionPeriod,
}

/// At most [`RetentionPeriod::DAYS_MAX`] or [`RetentionPeriod::YEARS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RetentionPeriod {
    Days(u32),
    /// Of the calendar (UTC).
    Years(u32),
}

impl Lock {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// [`EngineError::Locked`] if the version may not be removed at `now`.
    pub fn check_removal(&self, now: Timestamp, bypass: Bypass) -> Result<(), EngineError> {
        let retained = match self.retention_at(now) {
            None => false,
            Some(retention) => !retention.yields_to(bypass),
        };
        match retained || self.legal_hold == Some(true) {
            true => Err(EngineError::Locked),
            false => Ok(()),
        }
    }

    /// The lock after a change. A retention that has not ended is made longer by everybody, made
    /// shorter or of another mode or taken off only by who may bypass it: [`EngineError::Locked`].
    pub fn changed(
        &self,
        change: LockChange,
        now: Timestamp,
        bypass: Bypass,
    ) -> Result<Self, EngineError> {
        let next = match change {
            LockChange::LegalHold(is_on) => {
                return Ok(Self {
                    legal_hold: Some(is_on),
                    ..*self
                });
            }
            LockChange::Retention(next) => next,
        };
        if let Some(held) = self.retention_at(now) {
            let is_kept =
                next.is_some_and(|next| next.mode == held.mode && next.until >= held.until);
            if !is_kept && !held.yields_to(bypass) {
                return Err(EngineError::Locked);
            }
        }
        Ok(Self {
            retention: next,
            ..*self
        })
    }

    /// The lock of a version that is committed now: with the bucket's default, where it has no
    /// retention of its own. [`EngineError::NoObjectLock`] where one is asked for and the bucket
    /// has no locks.
    pub(super) fn of_commit(
        self,
        bucket: Option<&BucketLock>,
        now: Timestamp,
    ) -> Result<Self, EngineError> {
        match bucket {
            None if self.is_empty() => Ok(self),
            None => Err(EngineError::NoObjectLock),
            Some(bucket) => Ok(Self {
                retention: self
                    .retention
                    .or_else(|| bucket.default.map(|default| default.from(now))),
                ..self
            }),
        }
    }

    fn retention_at(&self, now: Timestamp) -> Option<Retention> {
        self.retention.filter(|retention| retention.until > now)
    }
}

impl Retention {
    fn yields_to(&self, bypass: Bypass) -> bool {
        self.mode == RetentionMode::Governance && bypass == Bypass::Governance
    }
}

impl DefaultRetention {
    fn from(self, now: Timestamp) -> Retention {
        Retention {
            mode: self.mode,
            until: self.period.after(now),
        }
    }
}

impl RetentionPeriod {
    /// S3's user guide: at most 100 years.
    pub const YEARS_MAX: u32 = 100;
    pub const DAYS_MAX: u32 = 36_500;

    /// What no calendar can say is the end of time: a lock that lasts too long loses nothing.
    fn after(self, now: Timestamp) -> Timestamp {
        let span = match self {
            Self::Days(days) => jiff::Span::new().try_days(days),
            Self::Years(years) => jiff::Span::new().try_years(years),
        };
        let at = |span| {
            let now = jiff::Timestamp::from_nanosecond(now.unix_nanos.into()).ok()?;
            let utc = jiff::tz::Offset::UTC;
            let until = utc.to_datetime(now).checked_add(span).ok()?;
            let until = utc.to_timestamp(until).ok()?.as_nanosecond();
            i64::try_from(until).ok()
        };
        Timestamp::from_unix_nanos(span.ok().and_then(at).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1000);

    fn until(mode: RetentionMode, seconds: i64) -> Option<Retention> {
        let until = Timestamp::from_unix_seconds(seconds);
        Some(Retention { mode, until })
    }

    #[test]
    fn a_version_is_removed_when_nothing_holds_it() {
        use Bypass::{Governance, Nothing};
        let rows = [
            (None, None, [true, true]),
            (None, Some(false), [true, true]),
            (None, Some(true), [false, false]),
            (until(RetentionMode::Governance, 1001), None, [false, true]),
            (
                until(RetentionMode::Governance, 1001),
                Some(true),
                [false, false],
            ),
            (until(RetentionMode::Governance, 1000), None, [true, true]),
            (until(RetentionMode::Compliance, 1001), None, [false, false]),
            (until(RetentionMode::Compliance, 1000), None, [true, true]),
        ];
        for (retention, legal_hold, expected) in rows {
            let lock = Lock {
                retention,
                legal_hold,
            };
            let got = [Nothing, Governance].map(|bypass| lock.check_removal(NOW, bypass).is_ok());
            assert_eq!(got, expected, "{lock:?}");
        }
    }

    #[test]
    fn a_retention_is_only_made_longer_but_by_who_may_bypass_it() {
        use RetentionMode::{Compliance, Governance};
        let rows = [
            (None, until(Compliance, 2000), [true, true]),
            (
                until(Governance, 2000),
                until(Governance, 2000),
                [true, true],
            ),
            (
                until(Governance, 2000),
                until(Governance, 3000),
                [true, true],
            ),
            (
                until(Governance, 2000),
                until(Governance, 1999),
                [false, true],
            ),
            (
                until(Governance, 2000),
                until(Compliance, 3000),
                [false, true],
            ),
            (until(Governance, 2000), None, [false, true]),
            (until(Governance, 1000), None, [true, true]),
            (
                until(Compliance, 2000),
                until(Compliance, 3000),
                [true, true],
            ),
            (
                until(Compliance, 2000),
                until(Compliance, 1999),
                [false, false],
            ),
            (
                until(Compliance, 2000),
                until(Governance, 3000),
                [false, false],
            ),
            (until(Compliance, 2000), None, [false, false]),
            (
                until(Compliance, 1000),
                until(Governance, 1001),
                [true, true],
            ),
        ];
        for (held, next, expected) in rows {
            let lock = Lock {
                retention: held,
                legal_hold: Some(true),
            };
            let got = [Bypass::Nothing, Bypass::Governance].map(|bypass| {
                let changed = lock.changed(LockChange::Retention(next), NOW, bypass);
                changed.is_ok_and(|changed| {
                    assert_eq!((changed.retention, changed.legal_hold), (next, Some(true)));
                    true
                })
            });
            assert_eq!(got, expected, "{held:?} to {next:?}");
        }
    }

    #[test]
    fn a_commit_gets_the_default_where_it_says_nothing() {
        let default = DefaultRetention {
            mode: RetentionMode::Compliance,
            period: RetentionPeriod::Days(1),
        };
        let bucket = BucketLock {
            default: Some(default),
        };
        let own = Lock {
            retention: until(RetentionMode::Governance, 2000),
            legal_hold: None,
        };
        let of = |lock: Lock, bucket| lock.of_commit(bucket, NOW).ok();
        assert_eq!(of(own, Some(&bucket)), Some(own));
        assert_eq!(of(own, None), None);
        assert_eq!(of(Lock::default(), None), Some(Lock::default()));
        let held = of(Lock::default(), Some(&bucket)).and_then(|lock| lock.retention);
        assert_eq!(held, until(RetentionMode::Compliance, 1000 + 86_400));
        let years = RetentionPeriod::Years(3).after(Timestamp::from_unix_seconds(0));
        assert_eq!(years.unix_seconds(), (3 * 365 + 1) * 86_400);
        assert_eq!(
            RetentionPeriod::Years(u32::MAX).after(NOW).unix_nanos,
            i64::MAX
        );
    }
}
