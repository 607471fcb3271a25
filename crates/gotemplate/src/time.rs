//! Go's `time.Time` and `time.Duration`: their methods and how they print.
//!
//! There is no clock and no time zone database here: a time has the UTC offset it was made with, and `.Local` is
//! `.UTC`, as in a container that sets no zone. Methods with more than one result cannot be called from a template.

use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use crate::time_format;
use crate::value::{Named, Value};

const SECOND: i64 = 1_000_000_000;
/// Go's zero time, the beginning of the year 1, in Unix seconds.
const YEAR_ONE_SECONDS: i128 = -62_135_596_800;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// A moment and the UTC offset it is told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    timestamp: Timestamp,
    offset: Offset,
}

impl Time {
    /// The moment `timestamp`, told in UTC.
    pub fn utc(timestamp: Timestamp) -> Self {
        Self {
            timestamp,
            offset: Offset::UTC,
        }
    }

    /// The moment `timestamp`, told with `offset`.
    pub fn with_offset(timestamp: Timestamp, offset: Offset) -> Self {
        Self { timestamp, offset }
    }

    /// The moment.
    pub fn timestamp(self) -> Timestamp {
        self.timestamp
    }

    pub(crate) fn offset_seconds(self) -> i32 {
        self.offset.seconds()
    }

    pub(crate) fn civil(self) -> DateTime {
        self.offset.to_datetime(self.timestamp)
    }

    pub(crate) fn month_name(self) -> &'static str {
        MONTHS
            .get(self.civil().month() as usize - 1)
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn weekday(self) -> i64 {
        i64::from(self.civil().weekday().to_sunday_zero_offset())
    }

    pub(crate) fn weekday_name(self) -> &'static str {
        WEEKDAYS
            .get(self.weekday() as usize)
            .copied()
            .unwrap_or_default()
    }

    /// Calls a method of `time.Time`; `None` if there is none of this name.
    pub(crate) fn call(self, method: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        let nullary = match self.nullary(method) {
            Some(value) if arguments.is_empty() => return Some(Ok(value)),
            Some(_) => true,
            None => false,
        };
        if nullary {
            return Some(Err(argument_count(method, 0, arguments.len())));
        }
        let result =
            match method {
                "Add" => one(method, arguments, duration).and_then(|by| self.add(by)),
                "After" => one(method, arguments, time)
                    .map(|other| (self.timestamp > other.timestamp).into()),
                "AddDate" => self.add_date(arguments),
                "Before" => one(method, arguments, time)
                    .map(|other| (self.timestamp < other.timestamp).into()),
                "Compare" => one(method, arguments, time)
                    .map(|other| Value::Int(self.timestamp.cmp(&other.timestamp) as i64)),
                "Equal" => one(method, arguments, time)
                    .map(|other| (self.timestamp == other.timestamp).into()),
                "Format" => one(method, arguments, |value| {
                    value.as_str().map(ToOwned::to_owned).ok_or("string")
                })
                .map(|layout| time_format::format(self, &layout).into()),
                "Sub" => one(method, arguments, time).map(|other| {
                    Value::Duration(Duration::saturating(
                        self.timestamp.as_nanosecond() - other.timestamp.as_nanosecond(),
                    ))
                }),
                _ => return None,
            };
        Some(result)
    }

    fn nullary(self, method: &str) -> Option<Value> {
        let civil = self.civil();
        let nanosecond = self.timestamp.as_nanosecond();
        let int = |number: i64| Some(Value::Int(number));
        match method {
            "Year" => int(civil.year().into()),
            "Month" => {
                let number = civil.month().into();
                let name = self.month_name();
                Some(Value::Named(Named {
                    type_name: "time.Month",
                    number,
                    name,
                }))
            }
            "Day" => int(civil.day().into()),
            "Hour" => int(civil.hour().into()),
            "Minute" => int(civil.minute().into()),
            "Second" => int(civil.second().into()),
            "Nanosecond" => int(civil.subsec_nanosecond().into()),
            "YearDay" => int(civil.date().day_of_year().into()),
            "Weekday" => {
                let number = self.weekday();
                let name = self.weekday_name();
                Some(Value::Named(Named {
                    type_name: "time.Weekday",
                    number,
                    name,
                }))
            }
            "Unix" => Some(Value::Int64(floor(nanosecond, SECOND))),
            "UnixMilli" => Some(Value::Int64(floor(nanosecond, 1_000_000))),
            "UnixMicro" => Some(Value::Int64(floor(nanosecond, 1_000))),
            // Go's result is undefined for years that do not fit; here it is the nearest that does.
            "UnixNano" => Some(Value::Int64(Duration::saturating(nanosecond).0)),
            "IsZero" => Some((nanosecond == YEAR_ONE_SECONDS * i128::from(SECOND)).into()),
            "Local" | "UTC" => Some(Self::utc(self.timestamp).into()),
            "String" => Some(self.to_string().into()),
            _ => None,
        }
    }

    fn add(self, by: Duration) -> Result<Value, String> {
        let timestamp = self
            .timestamp
            .checked_add(SignedDuration::from_nanos(by.0))
            .map_err(|_| format!("{self} plus {by} is out of range"))?;
        Ok(Self { timestamp, ..self }.into())
    }

    fn add_date(self, arguments: &[Value]) -> Result<Value, String> {
        let [years, months, days] = arguments else {
            return Err(argument_count("AddDate", 3, arguments.len()));
        };
        let out_of_range = || format!("{self} plus {years}, {months}, {days} is out of range");
        let number = |value: &Value| {
            let number = value
                .as_int()
                .ok_or_else(|| wrong_type("AddDate", "int", value))?;
            // Larger ones leave the calendar in any case; smaller ones cannot overflow below.
            (number.abs_diff(0) < 10_000_000)
                .then_some(number)
                .ok_or_else(out_of_range)
        };
        let civil = self.civil();
        // As Go does: a day past the end of its month runs on into the next.
        let month = i64::from(civil.month()) - 1 + number(months)?;
        let year = i64::from(civil.year()) + number(years)? + month.div_euclid(12);
        let month = month.rem_euclid(12) + 1;
        let days = i64::from(civil.day()) - 1 + number(days)?;
        let first = i16::try_from(year)
            .ok()
            .and_then(|year| jiff::civil::Date::new(year, month as i8, 1).ok())
            .ok_or_else(out_of_range)?;
        let date = first
            .checked_add(SignedDuration::from_hours(days * 24))
            .map_err(|_| out_of_range())?;
        let timestamp = self
            .offset
            .to_timestamp(date.to_datetime(civil.time()))
            .map_err(|_| out_of_range())?;
        Ok(Self { timestamp, ..self }.into())
    }
}

/// As Go's `Time.String` without a monotonic clock reading: `2026-02-03 09:15:27.123456789 +0000 UTC`.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&time_format::format(
            *self,
            "2006-01-02 15:04:05.999999999 -0700 MST",
        ))
    }
}

/// A length of time, up to about 292 years either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(i64);

impl Duration {
    /// The duration of so many nanoseconds.
    pub fn from_nanoseconds(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    /// The length in nanoseconds.
    pub fn nanoseconds(self) -> i64 {
        self.0
    }

    fn saturating(nanoseconds: i128) -> Self {
        Self(nanoseconds.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
    }

    /// Calls a method of `time.Duration`; `None` if there is none of this name.
    pub(crate) fn call(self, method: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        let value = match method {
            "Hours" => Value::Float(self.in_units(3600 * SECOND)),
            "Minutes" => Value::Float(self.in_units(60 * SECOND)),
            "Seconds" => Value::Float(self.in_units(SECOND)),
            "Milliseconds" => Value::Int64(self.0 / 1_000_000),
            "Microseconds" => Value::Int64(self.0 / 1_000),
            "Nanoseconds" => Value::Int64(self.0),
            "Abs" => Value::Duration(Self(self.0.saturating_abs())),
            "String" => self.to_string().into(),
            "Round" => {
                return Some(
                    one(method, arguments, duration).map(|to| Value::Duration(self.round(to))),
                );
            }
            "Truncate" => {
                return Some(one(method, arguments, duration).map(|to| {
                    let rest = if to.0 > 0 { self.0 % to.0 } else { 0 };
                    Value::Duration(Self(self.0 - rest))
                }));
            }
            _ => return None,
        };
        if !arguments.is_empty() {
            return Some(Err(argument_count(method, 0, arguments.len())));
        }
        Some(Ok(value))
    }

    /// Whole units and the rest apart, as Go does, so that no precision is lost to a large count of nanoseconds.
    fn in_units(self, unit: i64) -> f64 {
        (self.0 / unit) as f64 + (self.0 % unit) as f64 / unit as f64
    }

    /// To the nearest multiple of `to`, halves away from zero.
    fn round(self, to: Self) -> Self {
        if to.0 <= 0 {
            return self;
        }
        let (value, to) = (i128::from(self.0), i128::from(to.0));
        let rest = value % to;
        let down = value - rest;
        Self::saturating(if rest.abs() * 2 < to {
            down
        } else {
            down + to * rest.signum()
        })
    }
}

/// As Go's `Duration.String`: `1h2m3.5s`, `1.5ms`, `0s`.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanoseconds = self.0.unsigned_abs();
        let second = SECOND.unsigned_abs();
        if nanoseconds < second {
            return match nanoseconds {
                0 => f.write_str("0s"),
                1..1_000 => write!(f, "{sign}{nanoseconds}ns"),
                1_000..1_000_000 => write!(f, "{sign}{}µs", decimal(nanoseconds, 3)),
                _ => write!(f, "{sign}{}ms", decimal(nanoseconds, 6)),
            };
        }
        let seconds = decimal(nanoseconds % (60 * second), 9);
        let minutes = nanoseconds / (60 * second);
        match (minutes / 60, minutes % 60) {
            (0, 0) => write!(f, "{sign}{seconds}s"),
            (0, minutes) => write!(f, "{sign}{minutes}m{seconds}s"),
            (hours, minutes) => write!(f, "{sign}{hours}h{minutes}m{seconds}s"),
        }
    }
}

/// `number` divided by ten to the power of `digits`, without trailing zeros.
fn decimal(number: u64, digits: usize) -> String {
    let scale = 10_u64.pow(digits as u32);
    let text = format!("{}.{:0digits$}", number / scale, number % scale);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn floor(nanosecond: i128, unit: i64) -> i64 {
    Duration::saturating(nanosecond.div_euclid(unit.into())).0
}

/// The only argument of `method`, read by `read`, which names the type it expected instead.
fn one<T>(
    method: &str,
    arguments: &[Value],
    read: impl Fn(&Value) -> Result<T, &'static str>,
) -> Result<T, String> {
    let [argument] = arguments else {
        return Err(argument_count(method, 1, arguments.len()));
    };
    read(argument).map_err(|expected| wrong_type(method, expected, argument))
}

fn time(value: &Value) -> Result<Time, &'static str> {
    match value {
        Value::Time(time) => Ok(*time),
        _ => Err("time.Time"),
    }
}

/// A literal reaches a method as a plain integer, so that counts as a duration too.
fn duration(value: &Value) -> Result<Duration, &'static str> {
    match value {
        Value::Duration(duration) => Ok(*duration),
        Value::Int(nanoseconds) => Ok(Duration(*nanoseconds)),
        _ => Err("time.Duration"),
    }
}

fn argument_count(method: &str, want: usize, found: usize) -> String {
    format!("wrong number of args for {method}: want {want} got {found}")
}

fn wrong_type(method: &str, expected: &str, found: &Value) -> String {
    format!(
        "wrong type for value of {method}; expected {expected}; got {}",
        found.type_name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Time {
        Time::utc(text.parse().unwrap())
    }

    fn call(value: Time, method: &str, arguments: &[Value]) -> String {
        value.call(method, arguments).unwrap().unwrap().to_string()
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245 * SECOND, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (-3_605 * SECOND, "-1h0m5s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(Duration(nanoseconds).to_string(), text);
        }
    }

    #[test]
    fn the_parts_of_a_time_are_told_in_its_offset() {
        let offset = Offset::constant(2);
        let time = Time::with_offset("2026-02-03T23:15:27.5Z".parse().unwrap(), offset);
        assert_eq!(time.to_string(), "2026-02-04 01:15:27.5 +0200 +0200");
        assert_eq!(call(time, "Day", &[]), "4");
        assert_eq!(call(time, "Month", &[]), "February");
        assert_eq!(call(time, "Weekday", &[]), "Wednesday");
        assert_eq!(call(time, "YearDay", &[]), "35");
        assert_eq!(call(time, "UTC", &[]), "2026-02-03 23:15:27.5 +0000 UTC");
        assert_eq!(call(at("1969-12-31T23:59:59.5Z"), "Unix", &[]), "-1");
    }

    #[test]
    fn times_are_compared_and_reckoned_with() {
        let (early, late) = (at("2026-01-31T00:00:00Z"), at("2026-02-01T01:00:00Z"));
        assert_eq!(call(late, "Sub", &[early.into()]), "25h0m0s");
        assert_eq!(call(early, "Before", &[late.into()]), "true");
        assert_eq!(call(early, "Compare", &[late.into()]), "-1");
        assert_eq!(
            call(early, "Add", &[Value::Int(SECOND)]),
            "2026-01-31 00:00:01 +0000 UTC"
        );
        let month = [Value::Int(0), Value::Int(1), Value::Int(0)];
        assert_eq!(
            call(early, "AddDate", &month),
            "2026-03-03 00:00:00 +0000 UTC"
        );
        assert!(early.call("Add", &[Value::Int(i64::MAX)]).unwrap().is_ok());
        assert!(
            early
                .call(
                    "AddDate",
                    &[Value::Int(9_000), Value::Int(0), Value::Int(0)]
                )
                .unwrap()
                .is_err()
        );
        assert!(early.call("Sub", &["x".into()]).unwrap().is_err());
        assert!(early.call("Unix", &["x".into()]).unwrap().is_err());
        assert!(early.call("Nope", &[]).is_none());
    }

    #[test]
    fn durations_are_rounded_half_away_from_zero() {
        let half = Duration(-1_500_000_000);
        assert_eq!(half.round(Duration(SECOND)).to_string(), "-2s");
        let call = |method: &str| half.call(method, &[Value::Int(SECOND)]).unwrap().unwrap();
        assert_eq!(call("Truncate").to_string(), "-1s");
        assert_eq!(
            half.call("Seconds", &[]).unwrap().unwrap().to_string(),
            "-1.5"
        );
    }
}
