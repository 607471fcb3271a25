//! One value in one directive's form: padding, numbers, strings. The second half of `printf`.
//!
//! The truth is Go's `fmt/format.go`.

use crate::output::Output;
use crate::value::Value;
use crate::{escape, float};

/// A directive without its argument: flags, width, precision and verb.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) verb: char,
    pub(crate) minus: bool,
    pub(crate) plus: bool,
    pub(crate) sharp: bool,
    pub(crate) space: bool,
    pub(crate) zero: bool,
    pub(crate) width: Option<usize>,
    pub(crate) precision: Option<usize>,
}

impl Spec {
    pub(crate) fn of(verb: char) -> Self {
        Self {
            verb,
            minus: false,
            plus: false,
            sharp: false,
            space: false,
            zero: false,
            width: None,
            precision: None,
        }
    }

    pub(crate) fn write(&self, value: &Value, output: &mut Output) {
        if output.overflowed() {
            return;
        }
        if self.verb == 'T' {
            let name = if matches!(value, Value::Nil) {
                "<nil>".into()
            } else {
                value.type_name()
            };
            self.string(&name, value, 's', output);
            return;
        }
        match value {
            Value::Nil if self.verb == 'v' => self.pad("<nil>", output),
            Value::Nil => self.bad_verb(value, output),
            Value::Bool(truth) if matches!(self.verb, 't' | 'v') => {
                self.pad(if *truth { "true" } else { "false" }, output);
            }
            Value::Bool(_) => self.bad_verb(value, output),
            Value::Int(number) | Value::Int64(number) => self.integer(*number, value, output),
            Value::Float(number) => self.float(*number, value, output),
            Value::String(text) => self.string(text, value, self.verb, output),
            Value::List(items) => self.list(items, output),
            Value::Map(map) => {
                output.push_str("map[");
                for (index, (key, value)) in map.entries.iter().enumerate() {
                    if index > 0 {
                        output.push(' ');
                    }
                    self.write(&key.as_str().into(), output);
                    output.push(':');
                    self.write(value, output);
                }
                output.push(']');
            }
            Value::Object(object) => self.string(&object.print(), value, self.verb, output),
            Value::Time(time) => self.string(&time.to_string(), value, self.verb, output),
            Value::Duration(duration) => {
                self.named(&duration.to_string(), duration.nanoseconds(), value, output);
            }
            Value::Named(named) => self.named(named.name, named.number, value, output),
        }
    }

    fn list(&self, items: &[Value], output: &mut Output) {
        output.push('[');
        for (index, item) in items.iter().enumerate() {
            if output.overflowed() {
                return;
            }
            if index > 0 {
                output.push(' ');
            }
            self.write(item, output);
        }
        output.push(']');
    }

    /// An integer that has a name: the name where text is asked for, else the number.
    fn named(&self, name: &str, number: i64, value: &Value, output: &mut Output) {
        if matches!(self.verb, 'v' | 's' | 'x' | 'X' | 'q') {
            self.string(name, value, self.verb, output);
        } else {
            self.integer(number, value, output);
        }
    }

    fn bad_verb(&self, value: &Value, output: &mut Output) {
        output.push_str(&format!("%!{}(", self.verb));
        if !matches!(value, Value::Nil) {
            output.push_str(&value.type_name());
            output.push('=');
        }
        Self::of('v').write(value, output);
        output.push(')');
    }

    fn pad(&self, text: &str, output: &mut Output) {
        self.pad_with(
            text,
            if self.zero && !self.minus { '0' } else { ' ' },
            output,
        );
    }

    fn pad_with(&self, text: &str, filler: char, output: &mut Output) {
        let missing = self
            .width
            .map_or(0, |width| width.saturating_sub(text.chars().count()));
        if !self.minus {
            output.repeat(filler, missing);
        }
        output.push_str(text);
        if self.minus {
            output.repeat(' ', missing);
        }
    }

    fn integer(&self, number: i64, value: &Value, output: &mut Output) {
        let magnitude = number.unsigned_abs();
        let (digits, prefix) = match self.verb {
            'v' | 'd' => (magnitude.to_string(), ""),
            'b' => (format!("{magnitude:b}"), if self.sharp { "0b" } else { "" }),
            'o' => (
                format!("{magnitude:o}"),
                if self.sharp && magnitude != 0 {
                    "0"
                } else {
                    ""
                },
            ),
            'O' => (format!("{magnitude:o}"), "0o"),
            'x' => (format!("{magnitude:x}"), if self.sharp { "0x" } else { "" }),
            'X' => (format!("{magnitude:X}"), if self.sharp { "0X" } else { "" }),
            'c' => return self.pad(character(number).encode_utf8(&mut [0; 4]), output),
            'q' => {
                let character = String::from(character(number));
                return self.pad(&escape::quote(&character, '\'', self.plus), output);
            }
            'U' => return self.unicode(number, output),
            _ => return self.bad_verb(value, output),
        };
        let sign = self.sign(number < 0);
        let digits_min = match (self.precision, self.width) {
            (Some(0), _) if number == 0 => return self.pad_with("", ' ', output),
            (Some(precision), _) => precision,
            (None, Some(width)) if self.zero && !self.minus => width.saturating_sub(sign.len()),
            _ => 0,
        };
        let zeros = digits_min.saturating_sub(digits.len());
        // A number of zeros is never more than the largest width or precision.
        let text = format!("{sign}{prefix}{}{digits}", "0".repeat(zeros));
        self.pad_with(&text, ' ', output);
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        }
    }

    fn unicode(&self, number: i64, output: &mut Output) {
        let digits = self.precision.map_or(4, |precision| precision.max(4));
        let mut text = format!("{number:X}");
        text = format!("U+{}{text}", "0".repeat(digits.saturating_sub(text.len())));
        let c = character(number);
        if self.sharp && escape::is_printable(c) {
            text.push_str(&format!(" '{c}'"));
        }
        self.pad_with(&text, ' ', output);
    }

    fn float(&self, number: f64, value: &Value, output: &mut Output) {
        let (verb, precision) = match self.verb {
            'v' | 'g' | 'G' => ('g', self.precision),
            'e' | 'E' => ('e', Some(self.precision.unwrap_or(6))),
            'f' | 'F' => ('f', Some(self.precision.unwrap_or(6))),
            _ => return self.bad_verb(value, output),
        };
        let text = float::format(number.abs(), verb, precision);
        let text = text.trim_start_matches('+');
        let text = if matches!(self.verb, 'E' | 'G') && number.is_finite() {
            text.to_ascii_uppercase()
        } else {
            text.to_owned()
        };
        // Go writes the sign of infinity even when nobody asked for it.
        let plain = self.sign(number.is_sign_negative() && !number.is_nan());
        let sign = if number.is_infinite() && plain.is_empty() {
            "+"
        } else {
            plain
        };
        match self.width {
            Some(width) if self.zero && !self.minus && number.is_finite() => {
                output.push_str(sign);
                output.repeat('0', width.saturating_sub(sign.len() + text.len()));
                output.push_str(&text);
            }
            _ => self.pad_with(&format!("{sign}{text}"), ' ', output),
        }
    }

    fn string(&self, text: &str, value: &Value, verb: char, output: &mut Output) {
        let cut = match self
            .precision
            .and_then(|count| text.char_indices().nth(count))
        {
            Some((end, _)) => &text[..end],
            None => text,
        };
        match verb {
            'v' | 's' => self.pad(cut, output),
            'q' if self.sharp
                && !cut
                    .chars()
                    .any(|c| c == '`' || (c.is_control() && c != '\t')) =>
            {
                self.pad(&format!("`{cut}`"), output);
            }
            'q' => self.pad(&escape::quote(cut, '"', self.plus), output),
            'x' | 'X' => self.pad(&self.hex(text), output),
            _ => self.bad_verb(value, output),
        }
    }

    /// The bytes in hexadecimal; here the precision counts bytes.
    fn hex(&self, text: &str) -> String {
        let upper = self.verb == 'X';
        let prefix = match (self.sharp, upper) {
            (true, true) => "0X",
            (true, false) => "0x",
            _ => "",
        };
        let bytes = &text.as_bytes()[..self.precision.unwrap_or(text.len()).min(text.len())];
        let mut hex = String::with_capacity(bytes.len() * 2 + 2);
        for (index, byte) in bytes.iter().enumerate() {
            if index > 0 && self.space {
                hex.push(' ');
            }
            if index == 0 || self.space {
                hex.push_str(prefix);
            }
            hex.push_str(&if upper {
                format!("{byte:02X}")
            } else {
                format!("{byte:02x}")
            });
        }
        hex
    }
}

fn character(number: i64) -> char {
    u32::try_from(number)
        .ok()
        .and_then(char::from_u32)
        .unwrap_or('\u{fffd}')
}
