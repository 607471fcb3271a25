//! `print`, `println` and `printf`: Go's `fmt` for the values a template has.
//!
//! The truth is Go's `fmt/print.go`: also what it writes for a wrong verb or a missing argument. `%#v` prints as `%v`,
//! and `%x` does not take floating-point numbers.

use crate::format::Spec;
use crate::output::Output;
use crate::value::Value;

/// Go's limit on widths and precisions.
const NUMBER_MAX: usize = 1_000_000;

/// `value` as `fmt.Print` prints it, without a bound: for errors and for objects that print their fields.
pub(crate) fn display(value: &Value) -> String {
    let mut output = Output::new(isize::MAX as usize);
    print_value(value, &mut output);
    output.into_text()
}

/// `value` as `%v`.
pub(crate) fn print_value(value: &Value, output: &mut Output) {
    Spec::of('v').write(value, output);
}

/// `fmt.Sprint`: a space between two arguments of which neither is a string.
pub(crate) fn print(arguments: &[Value], output: &mut Output) {
    let mut after_string = true;
    for argument in arguments {
        let is_string = matches!(argument, Value::String(_));
        if !is_string && !after_string {
            output.push(' ');
        }
        print_value(argument, output);
        after_string = is_string;
    }
}

/// `fmt.Sprintln`: a space between all arguments, and a newline.
pub(crate) fn println(arguments: &[Value], output: &mut Output) {
    for (index, argument) in arguments.iter().enumerate() {
        if index > 0 {
            output.push(' ');
        }
        print_value(argument, output);
    }
    output.push('\n');
}

/// `fmt.Sprintf`.
pub(crate) fn printf(format: &str, arguments: &[Value], output: &mut Output) {
    let mut printer = Printer {
        format,
        position: 0,
        arguments,
        next: 0,
        reordered: false,
        good_index: true,
    };
    while let Some(percent) = format[printer.position..].find('%') {
        output.push_str(&format[printer.position..printer.position + percent]);
        printer.position += percent + 1;
        printer.directive(output);
        if output.overflowed() {
            return;
        }
    }
    output.push_str(&format[printer.position..]);
    printer.extra(output);
}

struct Printer<'a> {
    format: &'a str,
    position: usize,
    arguments: &'a [Value],
    /// Index of the next argument.
    next: usize,
    /// Some directive chose its argument, so that leftover ones are no mistake.
    reordered: bool,
    good_index: bool,
}

impl Printer<'_> {
    fn peek(&self) -> Option<u8> {
        self.format.as_bytes().get(self.position).copied()
    }

    /// One directive, from behind its percent sign.
    fn directive(&mut self, output: &mut Output) {
        let mut spec = Spec::of('v');
        self.good_index = true;
        self.flags(&mut spec);
        let mut after_index = self.index();
        if self.peek() == Some(b'*') {
            self.position += 1;
            match self.star() {
                Some(width) => {
                    spec.minus |= width < 0;
                    spec.width = Some(width.unsigned_abs() as usize);
                }
                None => output.push_str("%!(BADWIDTH)"),
            }
            after_index = false;
        } else {
            spec.width = self.number();
            if after_index && spec.width.is_some() {
                self.good_index = false;
            }
        }
        if self.peek() == Some(b'.') {
            self.position += 1;
            if after_index {
                self.good_index = false;
            }
            after_index = self.index();
            if self.peek() == Some(b'*') {
                self.position += 1;
                spec.precision = self
                    .star()
                    .and_then(|precision| usize::try_from(precision).ok());
                if spec.precision.is_none() {
                    output.push_str("%!(BADPREC)");
                }
                after_index = false;
            } else {
                spec.precision = Some(self.number().unwrap_or(0));
            }
        }
        if !after_index {
            self.index();
        }
        self.verb(spec, output);
    }

    fn flags(&mut self, spec: &mut Spec) {
        loop {
            match self.peek() {
                Some(b'#') => spec.sharp = true,
                Some(b'0') => spec.zero = true,
                Some(b'+') => spec.plus = true,
                Some(b'-') => spec.minus = true,
                Some(b' ') => spec.space = true,
                _ => return,
            }
            self.position += 1;
        }
    }

    fn verb(&mut self, mut spec: Spec, output: &mut Output) {
        let Some(verb) = self.format[self.position..].chars().next() else {
            output.push_str("%!(NOVERB)");
            return;
        };
        self.position += verb.len_utf8();
        spec.verb = verb;
        if verb == '%' {
            output.push('%');
        } else if !self.good_index {
            output.push_str(&format!("%!{verb}(BADINDEX)"));
        } else if let Some(argument) = self.arguments.get(self.next) {
            self.next += 1;
            spec.write(argument, output);
        } else {
            output.push_str(&format!("%!{verb}(MISSING)"));
        }
    }

    /// A number that is too large ends the format, as in Go.
    fn number(&mut self) -> Option<usize> {
        let rest = &self.format[self.position..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        match rest[..digits].parse() {
            Ok(number) if number <= NUMBER_MAX => {
                self.position += digits;
                Some(number)
            }
            _ => {
                self.position = self.format.len();
                None
            }
        }
    }

    /// A width or precision taken from the arguments.
    fn star(&mut self) -> Option<i64> {
        let argument = self.arguments.get(self.next)?;
        self.next += 1;
        argument
            .as_int()
            .filter(|number| number.unsigned_abs() <= NUMBER_MAX as u64)
    }

    /// `[n]`, which chooses the next argument; whether there was one.
    fn index(&mut self) -> bool {
        if self.peek() != Some(b'[') {
            return false;
        }
        self.reordered = true;
        let Some(length) = self.format[self.position..].find(']') else {
            self.position += 1;
            self.good_index = false;
            return false;
        };
        let number = self.format[self.position + 1..self.position + length].parse::<usize>();
        self.position += length + 1;
        match number {
            Ok(number) if (1..=self.arguments.len()).contains(&number) => self.next = number - 1,
            _ => self.good_index = false,
        }
        true
    }

    fn extra(&self, output: &mut Output) {
        if self.reordered || self.next >= self.arguments.len() {
            return;
        }
        output.push_str("%!(EXTRA ");
        for (index, argument) in self.arguments[self.next..].iter().enumerate() {
            if index > 0 {
                output.push_str(", ");
            }
            if !matches!(argument, Value::Nil) {
                output.push_str(&argument.type_name());
                output.push('=');
            }
            print_value(argument, output);
        }
        output.push(')');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sprintf(format: &str, arguments: &[Value]) -> String {
        let mut output = Output::new(100_000);
        printf(format, arguments, &mut output);
        output.into_text()
    }

    #[test]
    fn verbs_flags_and_widths_are_gos() {
        let (text, number) = (&[Value::from("héy")][..], &[Value::Int(-42)][..]);
        for (format, arguments, expected) in [
            ("%s|%%", text, "héy|%"),
            ("%6s|%-6s|", &["a".into(), "b".into()], "     a|b     |"),
            ("%06s", text, "000héy"),
            ("%.2s", text, "hé"),
            (
                "%q %+q %#q",
                &["é".into(), "é".into(), "é".into()],
                "\"é\" \"\\u00e9\" `é`",
            ),
            (
                "%x % X %#x",
                &["az".into(), "az".into(), "az".into()],
                "617a 61 7A 0x617a",
            ),
            ("%d", number, "-42"),
            ("%6d|", number, "   -42|"),
            ("%-6d|", number, "-42   |"),
            ("%06d", number, "-00042"),
            ("%.5d", number, "-00042"),
            ("%+d % d", &[Value::Int(1), Value::Int64(2)], "+1  2"),
            (
                "%x %X %#x %o %#o %O %b",
                &[255, 255, 255, 8, 8, 8, 5].map(Value::Int),
                "ff FF 0xff 10 010 0o10 101",
            ),
            (
                "%c %q %U %#U",
                &[233, 233, 233, 233].map(Value::Int),
                "é 'é' U+00E9 U+00E9 'é'",
            ),
            (
                "%v %g %.2f %e",
                &[1.5, 1e6, 2.345, 1.0].map(Value::Float),
                "1.5 1e+06 2.35 1.000000e+00",
            ),
            (
                "%08.3f|%+.1f",
                &[-1.5, 1.5].map(Value::Float),
                "-001.500|+1.5",
            ),
            ("%t %v", &[true.into(), false.into()], "true false"),
            (
                "%T %T %T",
                &[Value::Int(1), "a".into(), Value::Nil],
                "int string <nil>",
            ),
            (
                "%v %s",
                &[
                    Value::list([Value::Int(1), "a".into()]),
                    Value::list(["x".into()]),
                ],
                "[1 a] [x]",
            ),
            (
                "%q",
                &[Value::list(["a".into(), "b".into()])],
                "[\"a\" \"b\"]",
            ),
            ("%5t|", &[true.into()], " true|"),
            (
                "%*d|%-*d|",
                &[Value::Int(4), Value::Int(1), Value::Int(3), Value::Int(2)],
                "   1|2  |",
            ),
            ("%.*f", &[Value::Int(1), Value::Float(2.55)], "2.5"),
            ("%[2]d %[1]d", &[Value::Int(1), Value::Int(2)], "2 1"),
        ] {
            assert_eq!(sprintf(format, arguments), expected, "{format}");
        }
    }

    #[test]
    fn mistakes_are_printed_and_do_not_fail() {
        for (format, arguments, expected) in [
            ("%d", &["hi".into()][..], "%!d(string=hi)"),
            ("%s", &[Value::Int(1)], "%!s(int=1)"),
            ("%z", &[Value::Int64(1)], "%!z(int64=1)"),
            ("%d", &[Value::Nil], "%!d(<nil>)"),
            ("%v", &[Value::Nil], "<nil>"),
            ("%d %d", &[Value::Int(1)], "1 %!d(MISSING)"),
            (
                "x",
                &[Value::Int(1), "a".into(), Value::Nil],
                "x%!(EXTRA int=1, string=a, <nil>)",
            ),
            ("100%", &[], "100%!(NOVERB)"),
            ("%[3]d", &[Value::Int(1)], "%!d(BADINDEX)"),
            ("%[x]d", &[Value::Int(1)], "%!d(BADINDEX)"),
            ("%*d", &["a".into(), Value::Int(1)], "%!(BADWIDTH)1"),
            ("%.*d", &[Value::Int(-1), Value::Int(1)], "%!(BADPREC)1"),
            ("%9999999d", &[Value::Int(1)], "%!(NOVERB)%!(EXTRA int=1)"),
        ] {
            assert_eq!(sprintf(format, arguments), expected, "{format}");
        }
    }

    #[test]
    fn a_wide_directive_stops_at_the_limit() {
        let mut output = Output::new(100);
        printf(
            "%1000000d%1000000d",
            &[Value::Int(1), Value::Int(2)],
            &mut output,
        );
        assert!(output.overflowed());
        assert!(output.into_text().len() <= 100);
    }
}
