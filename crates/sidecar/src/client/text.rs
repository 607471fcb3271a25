//! Text of the network, made fit for a terminal; ages and durations for people. Pure.

use std::time::Duration;

use jiff::Timestamp;

/// Longest text shown in one place, in characters: a name may be as long as a record.
const CHARS_MAX: usize = 400;

/// The text with everything that could move a cursor, change colours, hide or reorder text written as an
/// escape such as `\u{1b}`, on one line and of bounded length.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for (index, char) in text.chars().enumerate() {
        if index == CHARS_MAX {
            shown.push('…');
            break;
        }
        if is_harmful(char) {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    shown
}

/// Control characters of either set, and format characters that hide or reorder others.
fn is_harmful(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// A JSON document with the control characters that JSON allows in strings (DEL and the second set) as
/// escapes. They occur nowhere else, so the document stays the same.
pub(super) fn printable_json(document: &str) -> String {
    let mut shown = String::with_capacity(document.len());
    for char in document.chars() {
        if char.is_control() && !matches!(char, '\n' | '\t' | '\r') {
            shown.push_str(&format!("\\u{:04x}", u32::from(char)));
        } else {
            shown.push(char);
        }
    }
    shown
}

/// How long ago `then` was at `now`: `3 s`, `5 min`, `2 h`, `8 d`; `-` when one of them is no time. What lies
/// ahead, as it may with clocks that differ, was now.
pub(super) fn age(then: &str, now: &str) -> String {
    let (Ok(then), Ok(now)) = (then.parse::<Timestamp>(), now.parse::<Timestamp>()) else {
        return "-".to_owned();
    };
    // A Go agent's zero time is not an age of two thousand years.
    if then.as_second() <= 0 {
        return "-".to_owned();
    }
    let seconds = now.duration_since(then).as_secs().max(0);
    span(Duration::from_secs(seconds.unsigned_abs()))
}

/// A time span in its largest unit, rounded down.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Milliseconds for people.
pub(super) fn millis(millis: f64) -> String {
    if millis < 10_000.0 {
        format!("{millis:.0} ms")
    } else {
        span(Duration::from_secs_f64((millis / 1000.0).min(1e15)))
    }
}

/// A time to the millisecond, in UTC; the text itself when it is none.
pub(super) fn to_millis(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => format!("{time:.3}"),
        Err(_) => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_terminal_gets_through() {
        for (text, shown) in [
            ("web", "web"),
            ("grün 網路", "grün 網路"),
            ("\u{1b}]0;pwned\u{7}", r"\u{1b}]0;pwned\u{7}"),
            ("a\nb\rc\td", r"a\nb\rc\td"),
            ("\u{9b}31m", r"\u{9b}31m"),
            ("\u{7f}", r"\u{7f}"),
            ("ab\u{202e}cd", r"ab\u{202e}cd"),
            ("a\u{200b}b", r"a\u{200b}b"),
        ] {
            assert_eq!(printable(text), shown);
        }
        assert_eq!(printable(&"x".repeat(1000)).chars().count(), CHARS_MAX + 1);
    }

    #[test]
    fn json_stays_the_same_document() {
        let document = "{\n  \"a\": \"\u{9b}31m \u{7f} \\u001b ü\"\n}";
        let shown = printable_json(document);
        assert!(!shown.contains(['\u{9b}', '\u{7f}']));
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(document));
    }

    #[test]
    fn ages_are_in_their_largest_unit() {
        let now = "2026-02-03T12:00:00Z";
        for (then, shown) in [
            ("2026-02-03T11:59:58.5Z", "1 s"),
            ("2026-02-03T12:00:09Z", "0 s"),
            ("2026-02-03T11:59:00Z", "60 s"),
            ("2026-02-03T11:50:00Z", "10 min"),
            ("2026-02-03T05:00:00Z", "7 h"),
            ("2025-02-03T12:00:00Z", "365 d"),
            ("0001-01-01T00:00:00Z", "-"),
            ("soon", "-"),
        ] {
            assert_eq!(age(then, now), shown, "{then}");
        }
        assert_eq!(millis(3.7), "4 ms");
        assert_eq!(millis(86_400_000.0), "24 h");
        assert_eq!(
            to_millis("2026-02-03T12:00:00.123456789Z"),
            "2026-02-03T12:00:00.123Z"
        );
        assert_eq!(to_millis("soon"), "soon");
    }

    proptest::proptest! {
        #[test]
        fn no_text_has_a_control_character_left(text in "\\PC{0,20}|.{0,20}|[\\x00-\\xff]{0,20}") {
            proptest::prop_assert!(!printable(&text).chars().any(is_harmful));
        }
    }
}
