//! Numbers as people read them: three significant digits and a unit.
//!
//! Not for machines: those read the report as JSON, with plain numbers. Bytes are decimal (1 kB is
//! 1,000 bytes), as network rates are.

/// Shown where there is no number.
pub(super) const NONE: &str = "-";

/// `1,234,567`.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `count` and the noun in its number: `1 host`, `2 hosts`.
pub(super) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// A length of time given in seconds: `0.3 ms`, `212 ms`, `1.21 s`, `3 min 20 s`, `2 h 05 min`.
pub(super) fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() {
        return NONE.to_owned();
    }
    let millis = seconds * 1e3;
    match seconds {
        _ if millis == 0.0 => "0 ms".to_owned(),
        _ if millis < 9.95 => format!("{millis:.1} ms"),
        _ if millis < 999.5 => format!("{millis:.0} ms"),
        _ if seconds < 9.995 => format!("{seconds:.2} s"),
        _ if seconds < 119.95 => format!("{seconds:.1} s"),
        _ => long(seconds.round()),
    }
}

fn long(seconds: f64) -> String {
    let minutes = (seconds / 60.0).floor();
    if minutes < 120.0 {
        return format!("{minutes:.0} min {:02.0} s", seconds - minutes * 60.0);
    }
    let hours = (minutes / 60.0).floor();
    format!("{hours:.0} h {:02.0} min", minutes - hours * 60.0)
}

/// As `seconds`, without decimals that are zero: for limits and guesses, which are round.
pub(super) fn whole_seconds(length: f64) -> String {
    let text = seconds(length);
    text.replace(".00 s", " s").replace(".0 s", " s")
}

/// A length of time given in milliseconds.
pub(super) fn millis(millis: f64) -> String {
    seconds(millis / 1e3)
}

/// `812 B`, `1.23 kB`, `45.6 MB`.
pub(super) fn bytes(bytes: f64) -> String {
    if !bytes.is_finite() {
        return NONE.to_owned();
    }
    let (scale, unit) = byte_unit(bytes);
    if unit == "B" {
        return format!("{bytes:.0} B");
    }
    let value = bytes / scale;
    match value {
        _ if value < 9.995 => format!("{value:.2} {unit}"),
        _ if value < 99.95 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// `1.23 kB/s`.
pub(super) fn rate(bytes_per_s: f64) -> String {
    format!("{}/s", bytes(bytes_per_s))
}

/// The unit in which `bytes` has one to three digits, and its size in bytes.
pub(super) fn byte_unit(bytes: f64) -> (f64, &'static str) {
    let mut scale = 1.0;
    for unit in ["B", "kB", "MB", "GB"] {
        if bytes < 999.5 * scale {
            return (scale, unit);
        }
        scale *= 1e3;
    }
    (scale, "TB")
}

/// `value` with at most three decimals and no zeros at its end.
pub(super) fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".to_owned()
    } else {
        text.to_owned()
    }
}

/// `text` on one line of at most `chars_max` characters: what is cut off shows as `…`, a control
/// character, which could move a terminal's cursor, as `?`.
pub(super) fn printable(text: &str, chars_max: usize) -> String {
    let clean = |letter: char| if letter.is_control() { '?' } else { letter };
    if text.chars().count() <= chars_max {
        return text.chars().map(clean).collect();
    }
    let mut cut: String = text
        .chars()
        .take(chars_max.saturating_sub(1))
        .map(clean)
        .collect();
    if chars_max > 0 {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_thousands() {
        let counts = [0, 999, 1_000, 12_345, 1_234_567].map(count);
        assert_eq!(counts, ["0", "999", "1,000", "12,345", "1,234,567"]);
        assert_eq!(counted(1, "host"), "1 host");
        assert_eq!(counted(0, "host"), "0 hosts");
    }

    #[test]
    fn lengths_of_time_have_a_fitting_unit() {
        for (value, text) in [
            (0.0, "0 ms"),
            (0.000_34, "0.3 ms"),
            (0.2123, "212 ms"),
            (0.9994, "999 ms"),
            (0.9996, "1.00 s"),
            (1.2149, "1.21 s"),
            (75.26, "75.3 s"),
            (119.97, "2 min 00 s"),
            (200.4, "3 min 20 s"),
            (7500.0, "2 h 05 min"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(seconds(value), text);
        }
    }

    #[test]
    fn round_lengths_of_time_have_no_decimals() {
        let texts = [0.0, 1.0, 5.5, 10.0, 100.04, 600.0].map(whole_seconds);
        assert_eq!(
            texts,
            ["0 ms", "1 s", "5.50 s", "10 s", "100 s", "10 min 00 s"]
        );
    }

    #[test]
    fn bytes_have_a_fitting_unit() {
        for (value, text) in [
            (0.0, "0 B"),
            (812.4, "812 B"),
            (999.6, "1.00 kB"),
            (1_234.0, "1.23 kB"),
            (45_600_000.0, "45.6 MB"),
            (999_600.0, "1.00 MB"),
            (7.0e15, "7000 TB"),
            (f64::INFINITY, "-"),
        ] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn zeros_at_the_end_go() {
        let texts = [0.0, -0.0, 20.0, 2.5, 0.125].map(trimmed);
        assert_eq!(texts, ["0", "0", "20", "2.5", "0.125"]);
    }

    #[test]
    fn a_long_or_hostile_text_stays_on_its_line() {
        assert_eq!(printable("a\u{1b}[2J\nb", 20), "a?[2J?b");
        assert_eq!(printable("abcdef", 4), "abc…");
        assert_eq!(printable("abcd", 4), "abcd");
        assert_eq!(printable("abcd", 0), "");
    }
}
