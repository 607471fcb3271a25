//! Literals: numbers, characters and quoted strings, read as Go reads them (`strconv.ParseInt` with base 0,
//! `strconv.UnquoteChar`, `strconv.Unquote`).
//!
//! Imaginary numbers and hexadecimal floating-point numbers, which Go knows too, are refused by name.

/// A numeric constant. It has no type until it meets a parameter, so it keeps every reading that fits its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Number {
    /// The value as an integer, when it is integral and fits.
    pub(crate) integer: Option<i64>,
    pub(crate) float: f64,
    /// Written as a floating-point number, so a float where nothing asks for a type.
    pub(crate) written_as_float: bool,
}

/// Reads a number token.
pub(crate) fn number(text: &str) -> Result<Number, String> {
    if text.ends_with('i') {
        return Err(format!("imaginary numbers are not supported: {text:?}"));
    }
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    if lower.starts_with("0x") && lower.contains(['.', 'p']) {
        return Err(format!(
            "hexadecimal floating-point numbers are not supported: {text:?}"
        ));
    }
    if !underscores_separate_digits(&lower) {
        return Err(format!("illegal number syntax: {text:?}"));
    }
    let plain = lower.replace('_', "");
    if plain.contains(['.', 'e']) && !plain.starts_with("0x") {
        return float(text, negative, &plain);
    }
    let (radix, body) = match plain.as_bytes() {
        [b'0', b'x', ..] => (16, &plain[2..]),
        [b'0', b'o', ..] => (8, &plain[2..]),
        [b'0', b'b', ..] => (2, &plain[2..]),
        [b'0', _, ..] => (8, &plain[1..]),
        _ => (10, &plain[..]),
    };
    if body.is_empty() || !body.chars().all(|c| c.is_digit(radix)) {
        return Err(format!("illegal number syntax: {text:?}"));
    }
    let magnitude =
        i128::from_str_radix(body, radix).map_err(|_| format!("integer overflow: {text:?}"))?;
    let value = if negative { -magnitude } else { magnitude };
    let integer = i64::try_from(value).map_err(|_| format!("integer overflow: {text:?}"))?;
    Ok(Number {
        integer: Some(integer),
        float: integer as f64,
        written_as_float: false,
    })
}

fn float(text: &str, negative: bool, plain: &str) -> Result<Number, String> {
    let magnitude: f64 = plain
        .parse()
        .map_err(|_| format!("illegal number syntax: {text:?}"))?;
    if !magnitude.is_finite() {
        return Err(format!("number out of range: {text:?}"));
    }
    let float = if negative { -magnitude } else { magnitude };
    // The cast saturates; at and above 2^63 the comparison could be fooled by it.
    let integral = float.trunc() == float && float.abs() < 9_223_372_036_854_775_808.0;
    let integer = integral.then_some(float as i64);
    Ok(Number {
        integer,
        float,
        written_as_float: true,
    })
}

/// Underscores may stand between digits, and between a base prefix and a digit.
fn underscores_separate_digits(lower: &str) -> bool {
    let prefixed = matches!(lower.as_bytes(), [b'0', b'x' | b'o' | b'b', ..]);
    let hex = lower.starts_with("0x");
    let body = if prefixed { &lower[2..] } else { lower };
    let mut before_is_digit = prefixed;
    let mut pending = false;
    for c in body.chars() {
        let digit = c.is_ascii_digit() || (hex && c.is_ascii_hexdigit());
        if c == '_' {
            if !before_is_digit {
                return false;
            }
            pending = true;
        } else if pending && !digit {
            return false;
        } else {
            pending = false;
        }
        before_is_digit = digit;
    }
    !pending
}

/// Reads a character constant with its quotes: its code point is its value.
pub(crate) fn character(text: &str) -> Result<Number, String> {
    let malformed = || format!("malformed character constant: {text}");
    let body = text
        .get(1..text.len().saturating_sub(1))
        .ok_or_else(malformed)?;
    let (unit, rest) = unquote_char(body, '\'').ok_or_else(malformed)?;
    if !rest.is_empty() {
        return Err(malformed());
    }
    let code = match unit {
        Unit::Char(c) => i64::from(u32::from(c)),
        Unit::Byte(b) => i64::from(b),
    };
    Ok(Number {
        integer: Some(code),
        float: code as f64,
        written_as_float: false,
    })
}

/// Reads a quoted string with its quotes. Bytes that make no UTF-8 become U+FFFD.
pub(crate) fn quoted(text: &str) -> Result<String, String> {
    let invalid = || format!("invalid string literal: {text}");
    let mut rest = text
        .get(1..text.len().saturating_sub(1))
        .ok_or_else(invalid)?;
    let mut bytes = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let (unit, after) = unquote_char(rest, '"').ok_or_else(invalid)?;
        match unit {
            Unit::Char(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Unit::Byte(b) => bytes.push(b),
        }
        rest = after;
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// Reads a raw string with its back quotes; carriage returns are dropped, as in Go.
pub(crate) fn raw(text: &str) -> String {
    text.trim_matches('`').replace('\r', "")
}

enum Unit {
    Char(char),
    /// From `\x` or an octal escape: one byte of a string, not a character.
    Byte(u8),
}

fn unquote_char(text: &str, quote: char) -> Option<(Unit, &str)> {
    let mut chars = text.chars();
    let first = chars.next()?;
    if first == quote {
        return None;
    }
    if first != '\\' {
        return Some((Unit::Char(first), chars.as_str()));
    }
    let escape = chars.next()?;
    let rest = chars.as_str();
    let simple = |c| Some((Unit::Char(c), rest));
    match escape {
        'a' => simple('\u{7}'),
        'b' => simple('\u{8}'),
        'f' => simple('\u{c}'),
        'n' => simple('\n'),
        'r' => simple('\r'),
        't' => simple('\t'),
        'v' => simple('\u{b}'),
        '\\' => simple('\\'),
        '\'' | '"' if escape == quote => simple(quote),
        'x' => {
            let (code, rest) = digits(rest, 2, 16)?;
            Some((Unit::Byte(u8::try_from(code).ok()?), rest))
        }
        'u' | 'U' => {
            let (code, rest) = digits(rest, if escape == 'u' { 4 } else { 8 }, 16)?;
            Some((Unit::Char(char::from_u32(code)?), rest))
        }
        '0'..='7' => {
            let (code, rest) = digits(&text[1..], 3, 8)?;
            Some((Unit::Byte(u8::try_from(code).ok()?), rest))
        }
        _ => None,
    }
}

fn digits(text: &str, count: usize, radix: u32) -> Option<(u32, &str)> {
    let body = text.get(..count)?;
    if !body.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    Some((u32::from_str_radix(body, radix).ok()?, &text[count..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_in_every_base() {
        for (text, value) in [
            ("0", 0),
            ("-3", -3),
            ("+7", 7),
            ("017", 15),
            ("0o17", 15),
            ("0x1F", 31),
            ("0b101", 5),
            ("1_000", 1000),
            ("0x_ff", 255),
            ("-9223372036854775808", i64::MIN),
        ] {
            let number = number(text).unwrap();
            assert_eq!(
                (number.integer, number.written_as_float),
                (Some(value), false),
                "{text}"
            );
        }
    }

    #[test]
    fn a_float_with_an_integral_value_is_an_integer_too() {
        let thousand = number("1e3").unwrap();
        assert_eq!(
            thousand,
            Number {
                integer: Some(1000),
                float: 1000.0,
                written_as_float: true
            }
        );
        assert_eq!(number("1.5").unwrap().integer, None);
        assert_eq!(number("1e40").unwrap().integer, None);
        assert_eq!(number("9223372036854775808.0").unwrap().integer, None);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "08",
            "0x",
            "1__0",
            "_",
            "1_",
            "1_.5",
            "9223372036854775808",
            "1e999",
            "2i",
            "0x1p4",
        ] {
            assert!(number(text).is_err(), "{text}");
        }
    }

    #[test]
    fn escapes_are_resolved() {
        assert_eq!(
            quoted(r#""a\tb\n\"\\\x41\101\u00e9\U0001F600""#).unwrap(),
            "a\tb\n\"\\AAé😀"
        );
        assert_eq!(quoted(r#""\xc3\xa9 \xff""#).unwrap(), "é \u{fffd}");
        for bad in [r#""\z""#, r#""\'""#, r#""\x1""#, r#""\ud800""#, r#""\400""#] {
            assert!(quoted(bad).is_err(), "{bad}");
        }
        assert_eq!(raw("`a\\n\r`"), "a\\n");
    }

    #[test]
    fn a_character_is_its_code_point() {
        assert_eq!(character("'a'").unwrap().integer, Some(97));
        assert_eq!(character(r"'\''").unwrap().integer, Some(39));
        assert_eq!(character("'é'").unwrap().integer, Some(233));
        for bad in ["''", "'ab'", r"'\''x'"] {
            assert!(character(bad).is_err(), "{bad}");
        }
    }
}
