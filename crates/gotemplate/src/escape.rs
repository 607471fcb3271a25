//! Text made safe to stand inside something else: HTML, JavaScript, URLs, and Go's quoted strings.
//!
//! The truth is Go's `text/template/funcs.go`, `net/url.QueryEscape` and `strconv.Quote`.

use std::fmt::Write;

use crate::output::Output;

pub(crate) fn html(text: &str, output: &mut Output) {
    for c in text.chars() {
        match c {
            '\0' => output.push('\u{fffd}'),
            '"' => output.push_str("&#34;"),
            '\'' => output.push_str("&#39;"),
            '&' => output.push_str("&amp;"),
            '<' => output.push_str("&lt;"),
            '>' => output.push_str("&gt;"),
            c => output.push(c),
        }
    }
}

pub(crate) fn js(text: &str, output: &mut Output) {
    for c in text.chars() {
        match c {
            '\\' | '\'' | '"' => {
                output.push('\\');
                output.push(c);
            }
            '<' | '>' | '&' | '=' | '\0'..='\x1f' => code_point(c, output),
            c if c.is_ascii() || is_printable(c) => output.push(c),
            c => code_point(c, output),
        }
    }
}

fn code_point(c: char, output: &mut Output) {
    output.push_str(&format!("\\u{:04X}", u32::from(c)));
}

pub(crate) fn url_query(text: &str, output: &mut Output) {
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'.' | b'~' => {
                output.push(char::from(byte));
            }
            b' ' => output.push('+'),
            byte => output.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// `text` as a Go literal between `quote`s; `ascii`: with escapes for everything beyond.
pub(crate) fn quote(text: &str, quote: char, ascii: bool) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(quote);
    for c in text.chars() {
        let escape = match c {
            '\x07' => "\\a",
            '\x08' => "\\b",
            '\x0c' => "\\f",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            '\x0b' => "\\v",
            '\\' => "\\\\",
            c if c == quote => {
                quoted.push('\\');
                quoted.push(c);
                continue;
            }
            c if (c.is_ascii() || !ascii) && is_printable(c) => {
                quoted.push(c);
                continue;
            }
            c => {
                let code = u32::from(c);
                // Writing to a string cannot fail.
                let _ = match code {
                    0..0x80 => write!(quoted, "\\x{code:02x}"),
                    0x80..0x1_0000 => write!(quoted, "\\u{code:04x}"),
                    _ => write!(quoted, "\\U{code:08x}"),
                };
                continue;
            }
        };
        quoted.push_str(escape);
    }
    quoted.push(quote);
    quoted
}

/// Whether Go would print the character as it is: letters, marks, numbers, punctuation, symbols and the ASCII space.
pub(crate) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, ' '..='~');
    }
    // A string's first character is escaped when it is a combining mark, later ones only when they do not print.
    let mut probe = String::from("a");
    probe.push(c);
    probe.escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(escape: fn(&str, &mut Output), text: &str) -> String {
        let mut output = Output::new(1_000);
        escape(text, &mut output);
        output.into_text()
    }

    #[test]
    fn each_place_has_its_own_escapes() {
        assert_eq!(
            escaped(html, "<a b='\"&\0é>"),
            "&lt;a b=&#39;&#34;&amp;\u{fffd}é&gt;"
        );
        assert_eq!(
            escaped(js, "<'\"\\=\n\u{7f}é\u{2028}"),
            "\\u003C\\'\\\"\\\\\\u003D\\u000A\u{7f}é\\u2028"
        );
        assert_eq!(escaped(url_query, "a b&c/ü~"), "a+b%26c%2F%C3%BC~");
    }

    #[test]
    fn quoted_text_is_a_go_literal() {
        assert_eq!(
            quote("a\"b\\\n\x01é\u{200b}😀", '"', false),
            r#""a\"b\\\n\x01é\u200b😀""#
        );
        assert_eq!(quote("é😀", '"', true), r#""\u00e9\U0001f600""#);
        assert_eq!(quote("'", '\'', false), r"'\''");
    }
}
