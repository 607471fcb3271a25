//! Points in time with nanosecond precision, printed and read as Go prints and reads them.

use std::{fmt, str::FromStr, time::Duration};

/// Nanosecond wall-clock time, from year 1 (Go's zero time) far into the future.
///
/// Prints as Go's `time.RFC3339Nano` in UTC: up to nine fraction digits, trailing zeros trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

/// A text that is not an RFC 3339 time.
#[derive(Debug, thiserror::Error)]
#[error("{value:?} is not an RFC 3339 time such as 2026-02-03T09:15:27.5Z")]
pub struct InvalidTimestamp {
    /// The text as it came.
    pub value: String,
}

impl Timestamp {
    /// 1970-01-01T00:00:00Z, which Go Sidecar prints for "never".
    pub const EPOCH: Self = Self(jiff::Timestamp::UNIX_EPOCH);

    /// Go's zero time, which an absent JSON field decodes to.
    pub fn go_zero() -> Self {
        Self(jiff::Timestamp::from_second(-62_135_596_800).unwrap_or(jiff::Timestamp::MIN))
    }

    /// From nanoseconds since the epoch, clamped to the representable range (years -9999 to 9999).
    pub fn from_unix_nanos(nanos: i128) -> Self {
        Self(
            jiff::Timestamp::from_nanosecond(nanos).unwrap_or(if nanos < 0 {
                jiff::Timestamp::MIN
            } else {
                jiff::Timestamp::MAX
            }),
        )
    }

    /// Nanoseconds since the epoch; negative before 1970.
    pub fn as_unix_nanos(self) -> i128 {
        self.0.as_nanosecond()
    }

    /// Later by `duration`, clamped.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self::from_unix_nanos(self.as_unix_nanos() + nanos(duration))
    }

    /// Earlier by `duration`, clamped.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self::from_unix_nanos(self.as_unix_nanos() - nanos(duration))
    }

    /// The next representable instant: one nanosecond later.
    #[must_use]
    pub fn next(self) -> Self {
        self.plus(Duration::from_nanos(1))
    }

    /// How long after `earlier` this is; zero when it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        let nanos = self.as_unix_nanos() - earlier.as_unix_nanos();
        u64::try_from(nanos.max(0)).map_or(Duration::MAX, Duration::from_nanos)
    }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX / 4)
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => Self::EPOCH.plus(after),
            Err(before) => Self::EPOCH.minus(before.duration()),
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| InvalidTimestamp {
            value: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_like_go() {
        for (text, printed) in [
            ("2026-02-03T09:15:27Z", "2026-02-03T09:15:27Z"),
            ("2026-02-03T09:15:27.100000000Z", "2026-02-03T09:15:27.1Z"),
            (
                "2026-02-03T09:15:27.000000001Z",
                "2026-02-03T09:15:27.000000001Z",
            ),
            ("1970-01-01T01:00:00+01:00", "1970-01-01T00:00:00Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), printed);
        }
        assert_eq!(Timestamp::go_zero().to_string(), "0001-01-01T00:00:00Z");
        assert_eq!(Timestamp::EPOCH.to_string(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn refuses_what_is_not_a_time() {
        let error = "yesterday".parse::<Timestamp>().unwrap_err();
        assert!(error.to_string().contains("yesterday"));
    }

    #[test]
    fn arithmetic_clamps() {
        let far = Timestamp::from_unix_nanos(i128::MAX);
        assert_eq!(far.plus(Duration::MAX), far);
        assert_eq!(Timestamp::EPOCH.since(far), Duration::ZERO);
        assert_eq!(
            Timestamp::EPOCH.next().since(Timestamp::EPOCH),
            Duration::from_nanos(1)
        );
    }
}
