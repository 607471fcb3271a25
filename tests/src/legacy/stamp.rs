//! Times as Go writes them into JSON: RFC 3339, up to nine digits of fraction, upper case letters.

const NANOS: i128 = 1_000_000_000;

/// Nanoseconds since 1970 of what Go's decoder takes.
pub(super) fn parse(text: &str) -> Result<i128, String> {
    try_parse(text).ok_or_else(|| format!("no time of Go's: {text:?}"))
}

fn try_parse(text: &str) -> Option<i128> {
    let (date, rest) = text.split_once('T')?;
    let number = |text: &str, digits: usize| {
        let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse::<i128>().ok()).flatten()
    };
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4)?;
    let month = number(parts.next()?, 2).filter(|month| (1..=12).contains(month))?;
    let day = number(parts.next()?, 2).filter(|day| (1..=31).contains(day))?;
    if parts.next().is_some() {
        return None;
    }
    let at = rest.find(['Z', '+', '-'])?;
    let (time, zone) = rest.split_at(at);
    let offset = match zone {
        "Z" => 0,
        _ => {
            let (hours, minutes) = zone[1..].split_once(':')?;
            let minutes = number(hours, 2)? * 60 + number(minutes, 2)?;
            if zone.starts_with('-') {
                -minutes
            } else {
                minutes
            }
        }
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    if fraction.len() > 9 {
        return None;
    }
    let nanos = number(fraction, fraction.len())? * 10_i128.pow(9 - fraction.len() as u32);
    let mut parts = time.split(':');
    let hour = number(parts.next()?, 2).filter(|hour| *hour < 24)?;
    let minute = number(parts.next()?, 2).filter(|minute| *minute < 60)?;
    let second = number(parts.next()?, 2).filter(|second| *second < 60)?;
    if parts.next().is_some() {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some((seconds - offset * 60) * NANOS + nanos)
}

/// Days from 1970 to a date of the Gregorian calendar, with years that begin in March.
fn days(year: i128, month: i128, day: i128) -> i128 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The reverse, in UTC, without zeros at the end of the fraction.
pub(super) fn format(nanos: i128) -> String {
    let (seconds, fraction) = (nanos.div_euclid(NANOS), nanos.rem_euclid(NANOS));
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let day = day + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year + era * 400 + i128::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if fraction > 0 {
        let digits = format!(".{fraction:09}");
        text.push_str(digits.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_go_are_read_and_written() {
        for (text, nanos) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-22T07:26:02.975847584Z", 1_795_332_362_975_847_584),
            ("2024-02-29T23:59:59.5Z", 1_709_251_199_500_000_000),
            ("1969-12-31T23:59:59Z", -NANOS),
        ] {
            assert_eq!(parse(text), Ok(nanos), "{text}");
            assert_eq!(format(nanos), text);
        }
        assert_eq!(parse("1970-01-01T01:00:00+01:00"), Ok(0));
        for text in [
            "",
            "2026-11-22 07:26:02Z",
            "2026-11-22T07:26:02",
            "2026-11-22t07:26:02z",
            "2026-13-22T07:26:02Z",
            "2026-11-22T07:26:02.0123456789Z",
            "2026-11-22T07:26:02.Z",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
