//! Floating-point numbers as Go's `strconv.FormatFloat` writes them: `%e`, `%f` and `%g`.

/// The digits after the point that an `f64` can have; more are zeros.
const EXACT_DIGITS_MAX: usize = 1_100;

/// `number` with the verb `e`, `f` or `g`; without a precision, as few digits as tell it from its neighbours.
pub(crate) fn format(number: f64, verb: char, precision: Option<usize>) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    match (verb, precision) {
        ('e', _) => scientific(number, precision),
        ('f', None) => format!("{number}"),
        ('f', Some(precision)) => {
            let exact = precision.min(EXACT_DIGITS_MAX);
            let mut text = format!("{number:.exact$}");
            text.extend(std::iter::repeat_n('0', precision - exact));
            text
        }
        _ => general(number, precision),
    }
}

/// `d.ddde±dd`, with at least two digits of exponent.
fn scientific(number: f64, precision: Option<usize>) -> String {
    let (mut mantissa, exponent) = split(number, precision);
    if let Some(precision) = precision
        && precision > EXACT_DIGITS_MAX
    {
        mantissa.extend(std::iter::repeat_n('0', precision - EXACT_DIGITS_MAX));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

fn split(number: f64, precision: Option<usize>) -> (String, i32) {
    let text = match precision {
        None => format!("{number:e}"),
        Some(precision) => format!("{number:.*e}", precision.min(EXACT_DIGITS_MAX)),
    };
    match text.split_once('e') {
        Some((mantissa, exponent)) => (mantissa.to_owned(), exponent.parse().unwrap_or(0)),
        None => (text, 0),
    }
}

/// `%e` for large and small exponents, `%f` for the rest, without trailing zeros.
fn general(number: f64, precision: Option<usize>) -> String {
    let precision = precision.map(|precision| precision.max(1));
    let (mantissa, exponent) = split(number, precision.map(|precision| precision - 1));
    let mut digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    digits.truncate(digits.trim_end_matches('0').len().max(1));
    let count = digits.len() as i32;
    let threshold = match precision {
        None => 6,
        Some(precision) => {
            let precision = i32::try_from(precision).unwrap_or(i32::MAX);
            if precision > count && count > exponent {
                count
            } else {
                precision
            }
        }
    };
    if exponent < -4 || exponent >= threshold {
        return scientific(number, Some(digits.len() - 1));
    }
    format(number, 'f', Some((count - 1 - exponent).max(0) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_form_takes_an_exponent_from_a_million_on() {
        for (number, text) in [
            (0.0, "0"),
            (1.5, "1.5"),
            (-2.0, "-2"),
            (100_000.0, "100000"),
            (1_000_000.0, "1e+06"),
            (123_456_789.0, "1.23456789e+08"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (1e100, "1e+100"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(format(number, 'g', None), text);
        }
    }

    #[test]
    fn a_precision_counts_significant_digits_for_g_and_decimals_for_e_and_f() {
        assert_eq!(format(1234.5678, 'g', Some(3)), "1.23e+03");
        assert_eq!(format(100.0, 'g', Some(3)), "100");
        assert_eq!(format(0.5, 'g', Some(3)), "0.5");
        assert_eq!(format(1234.5678, 'e', Some(2)), "1.23e+03");
        assert_eq!(format(1234.5678, 'f', Some(2)), "1234.57");
        assert_eq!(format(1234.5678, 'f', Some(0)), "1235");
        assert_eq!(format(0.5, 'f', Some(2_000)).len(), 2_002);
        assert_eq!(format(0.5, 'e', Some(2_000)).len(), 2_006);
    }
}
