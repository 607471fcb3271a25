//! Values as the original program reads them from variables: Go's syntax for durations, booleans
//! and integers; lists split on commas and blanks.

use std::time::Duration;

/// Go's duration syntax: `20s`, `1m30s`, `1.5h`, `200ms`, or a bare `0`. Negative ones are refused.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit_nanos: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled(number, unit_nanos)?)?;
        rest = tail;
    }
    Some(total)
}

/// `number`, with an optional fraction, times `unit_nanos` nanoseconds.
fn scaled(number: &str, unit_nanos: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut nanos = whole.checked_mul(unit_nanos)?;
    let mut scale = unit_nanos;
    for digit in fraction.chars() {
        scale /= 10;
        nanos = nanos.checked_add(scale * u64::from(digit.to_digit(10)?))?;
    }
    Some(Duration::from_nanos(nanos))
}

/// Go's words for booleans.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Go's integer syntax: `0x`, `0o` and `0b` prefixes, and octal after a leading zero.
pub fn parse_int(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (&lower[..], 10),
    };
    u64::from_str_radix(digits, radix).ok()
}

/// Items between commas or blanks; empty ones do not count.
pub fn parse_list(text: &str) -> Vec<String> {
    text.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Prints a duration as Go does: `20s`, `1m30s`, `200ms`.
pub fn print_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let trimmed = |value: f64, unit: &str| format!("{value}{unit}");
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000_000_000 {
        return trimmed(duration.as_secs_f64() * 1000.0, "ms");
    }
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let last = (duration - Duration::from_secs(seconds / 60 * 60)).as_secs_f64();
    match (hours, minutes) {
        (0, 0) => trimmed(last, "s"),
        (0, _) => format!("{minutes}m{last}s"),
        _ => format!("{hours}h{minutes}m{last}s"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, expected) in [
            ("20s", Some(20_000)),
            ("1m30s", Some(90_000)),
            ("1.5s", Some(1_500)),
            ("200ms", Some(200)),
            ("1h", Some(3_600_000)),
            (".5s", Some(500)),
            ("0", Some(0)),
            ("5", None),
            ("", None),
            ("-1s", None),
            ("1d", None),
            ("s", None),
            ("1.s", Some(1_000)),
            (".s", None),
            ("999999999999h", None),
        ] {
            assert_eq!(
                parse_duration(text),
                expected.map(Duration::from_millis),
                "{text}"
            );
        }
        assert_eq!(print_duration(Duration::from_millis(90_500)), "1m30.5s");
        assert_eq!(print_duration(Duration::from_millis(200)), "200ms");
        assert_eq!(print_duration(Duration::from_secs(20)), "20s");
    }

    #[test]
    fn integers_booleans_and_lists() {
        let cases = [
            ("7946", 7946),
            ("0x1f0a", 7946),
            ("0o17", 15),
            ("017", 15),
            ("0", 0),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_int(text), Some(expected), "{text}");
        }
        assert_eq!(
            (parse_int("08"), parse_int(""), parse_int("x")),
            (None, None, None)
        );
        assert_eq!((parse_bool("T"), parse_bool("yes")), (Some(true), None));
        assert_eq!(parse_list("static, docker  x,,"), ["static", "docker", "x"]);
        assert!(parse_list(" ,").is_empty());
    }

    proptest! {
        #[test]
        fn printed_durations_read_back(millis in 0..10_000_000_u64) {
            let duration = Duration::from_millis(millis);
            let back = parse_duration(&print_duration(duration)).unwrap();
            let error = back.as_nanos().abs_diff(duration.as_nanos());
            prop_assert!(error < 1000, "{duration:?} {back:?}");
        }

        #[test]
        fn nothing_panics(text in ".{0,40}") {
            let _ = (parse_duration(&text), parse_int(&text), parse_list(&text));
        }
    }
}
