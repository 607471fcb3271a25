//! `Time.Format`: Go's layouts, written as the reference time `Mon Jan 2 15:04:05 MST 2006` would look.
//!
//! The truth is Go's `time/format.go`, `nextStdChunk` and `appendFormat`.

use std::fmt::Write;

use crate::time::Time;

/// One piece of a layout that stands for a part of the time.
#[derive(Clone, Copy, Debug)]
enum Part {
    LongMonth,
    Month,
    ZeroMonth,
    NumberMonth,
    LongWeekday,
    Weekday,
    Day,
    SpaceDay,
    ZeroDay,
    SpaceYearDay,
    ZeroYearDay,
    Hour,
    Hour12,
    ZeroHour12,
    Minute,
    ZeroMinute,
    Second,
    ZeroSecond,
    LongYear,
    Year,
    UpperHalf,
    LowerHalf,
    ZoneName,
    Zone(Zone),
    /// Digits of the fraction; `trims`: without trailing zeros.
    Fraction {
        separator: char,
        digits: usize,
        trims: bool,
    },
}

/// A numeric zone.
#[derive(Clone, Copy, Debug)]
struct Zone {
    /// `Z` for UTC.
    zulu: bool,
    colons: bool,
    minutes: bool,
    seconds: bool,
}

/// Longer pieces stand before their own beginnings.
const PARTS: [(&str, Part); 38] = [
    ("January", Part::LongMonth),
    ("Jan", Part::Month),
    ("Monday", Part::LongWeekday),
    ("Mon", Part::Weekday),
    ("MST", Part::ZoneName),
    ("002", Part::ZeroYearDay),
    ("01", Part::ZeroMonth),
    ("02", Part::ZeroDay),
    ("03", Part::ZeroHour12),
    ("04", Part::ZeroMinute),
    ("05", Part::ZeroSecond),
    ("06", Part::Year),
    ("15", Part::Hour),
    ("1", Part::NumberMonth),
    ("2006", Part::LongYear),
    ("2", Part::Day),
    ("__2", Part::SpaceYearDay),
    // The underscore is text here: the year follows it.
    ("_2006", Part::LongYear),
    ("_2", Part::SpaceDay),
    ("3", Part::Hour12),
    ("4", Part::Minute),
    ("5", Part::Second),
    ("PM", Part::UpperHalf),
    ("pm", Part::LowerHalf),
    ("-070000", zone(false, false, true, true)),
    ("-07:00:00", zone(false, true, true, true)),
    ("-0700", zone(false, false, true, false)),
    ("-07:00", zone(false, true, true, false)),
    ("-07", zone(false, false, false, false)),
    ("Z070000", zone(true, false, true, true)),
    ("Z07:00:00", zone(true, true, true, true)),
    ("Z0700", zone(true, false, true, false)),
    ("Z07:00", zone(true, true, true, false)),
    ("Z07", zone(true, false, false, false)),
    (".0", FRACTION),
    (".9", FRACTION),
    (",0", FRACTION),
    (",9", FRACTION),
];

/// Stands for any fraction; the layout's own digits are counted where it is met.
const FRACTION: Part = Part::Fraction {
    separator: '.',
    digits: 0,
    trims: false,
};

const fn zone(zulu: bool, colons: bool, minutes: bool, seconds: bool) -> Part {
    Part::Zone(Zone {
        zulu,
        colons,
        minutes,
        seconds,
    })
}

/// `time` in the form of `layout`.
pub(crate) fn format(time: Time, layout: &str) -> String {
    let mut text = String::with_capacity(layout.len() + 8);
    let mut rest = layout;
    while let Some(first) = rest.chars().next() {
        match part(rest) {
            Some((piece, part)) => {
                if piece.starts_with('_') && matches!(part, Part::LongYear) {
                    text.push('_');
                }
                write(&mut text, time, part);
                rest = &rest[piece.len()..];
            }
            None => {
                text.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    text
}

/// The part `rest` begins with.
fn part(rest: &str) -> Option<(&str, Part)> {
    let (piece, part) = PARTS.iter().find(|(piece, _)| rest.starts_with(piece))?;
    match part {
        // A word that only begins like the name of a month: "Janus".
        Part::Month | Part::Weekday
            if rest[piece.len()..].starts_with(|c: char| c.is_ascii_lowercase()) =>
        {
            None
        }
        Part::Fraction { .. } => fraction(rest),
        _ => Some((&rest[..piece.len()], *part)),
    }
}

/// A point or comma and only zeros or only nines, and no digit after them.
fn fraction(rest: &str) -> Option<(&str, Part)> {
    let separator = rest.chars().next()?;
    let digit = rest[1..].chars().next()?;
    let digits = rest[1..].chars().take_while(|&c| c == digit).count();
    if rest[1 + digits..].starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    Some((
        &rest[..=digits],
        Part::Fraction {
            separator,
            digits,
            trims: digit == '9',
        },
    ))
}

fn write(text: &mut String, time: Time, part: Part) {
    let civil = time.civil();
    let hour12 = (civil.hour() + 11) % 12 + 1;
    // Writing to a string cannot fail.
    let _ = match part {
        Part::LongMonth => write!(text, "{}", time.month_name()),
        Part::Month => write!(text, "{:.3}", time.month_name()),
        Part::ZeroMonth => write!(text, "{:02}", civil.month()),
        Part::NumberMonth => write!(text, "{}", civil.month()),
        Part::LongWeekday => write!(text, "{}", time.weekday_name()),
        Part::Weekday => write!(text, "{:.3}", time.weekday_name()),
        Part::Day => write!(text, "{}", civil.day()),
        Part::SpaceDay => write!(text, "{:2}", civil.day()),
        Part::ZeroDay => write!(text, "{:02}", civil.day()),
        Part::SpaceYearDay => write!(text, "{:3}", civil.date().day_of_year()),
        Part::ZeroYearDay => write!(text, "{:03}", civil.date().day_of_year()),
        Part::Hour => write!(text, "{:02}", civil.hour()),
        Part::Hour12 => write!(text, "{hour12}"),
        Part::ZeroHour12 => write!(text, "{hour12:02}"),
        Part::Minute => write!(text, "{}", civil.minute()),
        Part::ZeroMinute => write!(text, "{:02}", civil.minute()),
        Part::Second => write!(text, "{}", civil.second()),
        Part::ZeroSecond => write!(text, "{:02}", civil.second()),
        Part::LongYear if civil.year() < 0 => {
            write!(text, "-{:04}", civil.year().unsigned_abs())
        }
        Part::LongYear => write!(text, "{:04}", civil.year()),
        Part::Year => write!(text, "{:02}", civil.year().rem_euclid(100)),
        Part::UpperHalf => write!(text, "{}", if civil.hour() >= 12 { "PM" } else { "AM" }),
        Part::LowerHalf => write!(text, "{}", if civil.hour() >= 12 { "pm" } else { "am" }),
        Part::ZoneName => zone_name(text, time.offset_seconds()),
        Part::Zone(zone) => write_zone(text, time.offset_seconds(), zone),
        Part::Fraction {
            separator,
            digits,
            trims,
        } => write_fraction(
            text,
            civil.subsec_nanosecond().unsigned_abs(),
            separator,
            digits,
            trims,
        ),
    };
}

/// Without a name for its offset a zone is called by the offset.
fn zone_name(text: &mut String, offset_seconds: i32) -> std::fmt::Result {
    if offset_seconds == 0 {
        return text.write_str("UTC");
    }
    write_zone(
        text,
        offset_seconds,
        Zone {
            zulu: false,
            colons: false,
            minutes: true,
            seconds: false,
        },
    )
}

fn write_zone(text: &mut String, offset_seconds: i32, zone: Zone) -> std::fmt::Result {
    if zone.zulu && offset_seconds == 0 {
        return text.write_str("Z");
    }
    let offset = offset_seconds.unsigned_abs();
    let colon = if zone.colons { ":" } else { "" };
    write!(
        text,
        "{}{:02}",
        if offset_seconds < 0 { '-' } else { '+' },
        offset / 3600
    )?;
    if zone.minutes {
        write!(text, "{colon}{:02}", offset / 60 % 60)?;
    }
    if zone.seconds {
        write!(text, "{colon}{:02}", offset % 60)?;
    }
    Ok(())
}

fn write_fraction(
    text: &mut String,
    nanosecond: u32,
    separator: char,
    digits: usize,
    trims: bool,
) -> std::fmt::Result {
    // Go knows nine digits and cuts longer layouts short.
    let all = format!("{nanosecond:09}");
    let mut shown = &all[..digits.min(9)];
    if trims {
        shown = shown.trim_end_matches('0');
        if shown.is_empty() {
            return Ok(());
        }
    }
    write!(text, "{separator}{shown}")
}

#[cfg(test)]
mod tests {
    use jiff::tz::Offset;

    use super::*;

    fn time(text: &str, offset_seconds: i32) -> Time {
        Time::with_offset(
            text.parse().unwrap(),
            Offset::from_seconds(offset_seconds).unwrap(),
        )
    }

    #[test]
    fn layouts_give_what_go_gives() {
        let evening = time("2026-02-03T21:05:07.0123Z", 0);
        for (layout, text) in [
            ("2006-01-02T15:04:05Z07:00", "2026-02-03T21:05:07Z"),
            (
                "Mon, 02 Jan 2006 15:04:05 MST",
                "Tue, 03 Feb 2026 21:05:07 UTC",
            ),
            (
                "Monday, 02-Jan-06 15:04:05 -0700",
                "Tuesday, 03-Feb-26 21:05:07 +0000",
            ),
            ("Jan _2 03:04:05.000", "Feb  3 09:05:07.012"),
            ("January 2 3:4:5 PM pm", "February 3 9:5:7 PM pm"),
            ("15:04:05.999999", "21:05:07.0123"),
            ("05,000000000", "07,012300000"),
            ("1/2/06 002 __2", "2/3/26 034  34"),
            ("_2006 x Janus Month", "_2026 x Janus Month"),
            (".01", ".02"),
            ("é", "é"),
        ] {
            assert_eq!(format(evening, layout), text, "{layout}");
        }
    }

    #[test]
    fn zones_are_written_in_every_form() {
        let time = time("2026-02-03T21:05:07Z", -(5 * 3600 + 30 * 60));
        for (layout, text) in [
            ("-0700", "-0530"),
            ("-07:00", "-05:30"),
            ("-07", "-05"),
            ("Z0700", "-0530"),
            ("Z07:00:00", "-05:30:00"),
            ("-070000", "-053000"),
            ("MST", "-0530"),
            ("15:04", "15:35"),
        ] {
            assert_eq!(format(time, layout), text, "{layout}");
        }
        assert_eq!(
            format(self::time("2026-02-03T21:05:07Z", 3600), "MST"),
            "+0100"
        );
    }
}
