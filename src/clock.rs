//! Time and randomness, passed in so that tests can choose them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: nanoseconds since 1970-01-01 UTC.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp {
    pub unix_nanos: i64,
}

impl Timestamp {
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self {
            unix_nanos: seconds.saturating_mul(1_000_000_000),
        }
    }

    pub const fn from_unix_nanos(unix_nanos: i64) -> Self {
        Self { unix_nanos }
    }

    /// Whole seconds, rounded down.
    pub const fn unix_seconds(self) -> i64 {
        self.unix_nanos.div_euclid(1_000_000_000)
    }

    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self {
            unix_nanos: self
                .unix_nanos
                .saturating_add(seconds.saturating_mul(1_000_000_000)),
        }
    }

    /// The same instant for the standard library; times before 1970 become 1970.
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(u64::try_from(self.unix_nanos).unwrap_or(0))
    }
}

/// The wall clock: the system's, or one that a test moves by hand.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Clock {
    pub fn system() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one place that reads the clock"
        )]
        let now = || {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            Timestamp {
                unix_nanos: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            }
        };
        Self { now: Arc::new(now) }
    }

    /// A clock that answers what `now` answers.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { now: Arc::new(now) }
    }

    pub fn now(&self) -> Timestamp {
        (self.now)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Random bytes: the kernel's, or a test's.
#[derive(Clone)]
pub struct Entropy {
    fill: Arc<Fill>,
}

type Fill = dyn Fn(&mut [u8]) + Send + Sync;

impl Entropy {
    /// The kernel's generator. A kernel that cannot give random bytes ends the process: every
    /// key pair, upload id and temporary name depends on them.
    pub fn system() -> Self {
        Self {
            fill: Arc::new(|bytes| {
                #[expect(clippy::disallowed_methods, reason = "this is the one place that asks")]
                if let Err(error) = getrandom::fill(bytes) {
                    panic!("the kernel gave no random bytes: {error}");
                }
            }),
        }
    }

    /// A source that fills as `fill` does.
    pub fn from_fn(fill: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Self {
        Self {
            fill: Arc::new(fill),
        }
    }

    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.fill)(&mut bytes);
        bytes
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}
