//! Source text to tokens: literal text outside `{{ }}`, and inside it words, literals and signs.
//!
//! Trim markers and comments are resolved here, so the parser never sees them. The truth is Go's
//! `text/template/parse/lex.go`. The whole source is read at once; the first lexical error ends the token list, and the
//! parser reports it when it gets there, so an earlier syntax error wins, as in Go.

use std::ops::Range;

/// What a token is. The text of a token is its range of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Text,
    LeftDelim,
    RightDelim,
    LeftParen,
    RightParen,
    Space,
    Pipe,
    Assign,
    Declare,
    Comma,
    /// A printable sign that has no meaning in the language.
    Sign,
    Dot,
    /// `.Name`, the dot included.
    Field,
    /// `$` or `$name`, the dollar included.
    Variable,
    Identifier,
    Bool,
    Nil,
    Number,
    Char,
    QuotedString,
    RawString,
    Block,
    Break,
    Continue,
    Define,
    Else,
    End,
    If,
    Range,
    Template,
    With,
    Error,
    Eof,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Token {
    pub(crate) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The tokens of one source; always ends with `Error` and `Eof`, or with `Eof` alone.
#[derive(Debug)]
pub(crate) struct Tokens {
    pub(crate) list: Vec<Token>,
    /// The text of the `Error` token, if there is one.
    pub(crate) error: String,
}

const LEFT: &[u8] = b"{{";
const RIGHT: &[u8] = b"}}";
const COMMENT_START: &[u8] = b"/*";
const COMMENT_END: &[u8] = b"*/";
/// A trim marker is a minus and the white space that sets it apart.
const TRIM_MARKER_BYTES: usize = 2;

/// Reads `source`, which must be shorter than 4 GiB (the caller's size limit is far below).
pub(crate) fn tokenize(source: &str) -> Tokens {
    let mut lexer = Lexer {
        source,
        bytes: source.as_bytes(),
        position: 0,
        start: 0,
        paren_depth: 0,
        list: Vec::new(),
    };
    let error = lexer.text().err().unwrap_or_default();
    if !error.is_empty() {
        lexer.emit(TokenKind::Error);
    }
    lexer.start = lexer.bytes.len();
    lexer.position = lexer.bytes.len();
    lexer.emit(TokenKind::Eof);
    Tokens {
        list: lexer.list,
        error,
    }
}

struct Lexer<'s> {
    source: &'s str,
    bytes: &'s [u8],
    position: usize,
    /// Where the token being read began.
    start: usize,
    paren_depth: u32,
    list: Vec<Token>,
}

type Lexed = Result<(), String>;

impl Lexer<'_> {
    fn emit(&mut self, kind: TokenKind) {
        self.list.push(Token {
            kind,
            start: self.start as u32,
            end: self.position as u32,
        });
        self.start = self.position;
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.position..]
    }

    fn peek(&self) -> Option<char> {
        self.source[self.position..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.position += next.len_utf8();
        Some(next)
    }

    fn accept(&mut self, signs: &str) -> bool {
        let found = self.peek().is_some_and(|c| signs.contains(c));
        if found {
            self.position += 1;
        }
        found
    }

    fn accept_run(&mut self, signs: &str) {
        while self.accept(signs) {}
    }

    /// Literal text and, one after another, the actions between.
    fn text(&mut self) -> Lexed {
        loop {
            let Some(found) = find(self.rest(), LEFT) else {
                self.position = self.bytes.len();
                if self.position > self.start {
                    self.emit(TokenKind::Text);
                }
                return Ok(());
            };
            let delim = self.position + found;
            let mut text_end = delim;
            if has_left_trim(&self.bytes[delim + LEFT.len()..]) {
                while text_end > self.start && is_space(self.bytes[text_end - 1]) {
                    text_end -= 1;
                }
            }
            self.position = text_end;
            if text_end > self.start {
                self.emit(TokenKind::Text);
            }
            self.position = delim;
            self.start = delim;
            self.left_delim()?;
        }
    }

    fn left_delim(&mut self) -> Lexed {
        self.position += LEFT.len();
        let marker = if has_left_trim(self.rest()) {
            TRIM_MARKER_BYTES
        } else {
            0
        };
        if self.bytes[self.position + marker..].starts_with(COMMENT_START) {
            self.position += marker;
            return self.comment();
        }
        self.emit(TokenKind::LeftDelim);
        self.position += marker;
        self.start = self.position;
        self.paren_depth = 0;
        self.action()
    }

    fn comment(&mut self) -> Lexed {
        self.position += COMMENT_START.len();
        let Some(end) = find(self.rest(), COMMENT_END) else {
            return Err("unclosed comment".to_owned());
        };
        self.position += end + COMMENT_END.len();
        let Some(trim) = right_delim(self.rest()) else {
            return Err("comment ends before closing delimiter".to_owned());
        };
        self.skip_right_delim(trim);
        self.start = self.position;
        Ok(())
    }

    /// Passes the closing delimiter and, if it has a trim marker, the white space after it.
    fn skip_right_delim(&mut self, trim: bool) {
        if trim {
            self.position += TRIM_MARKER_BYTES;
        }
        self.position += RIGHT.len();
        if trim {
            while self.bytes.get(self.position).is_some_and(|&b| is_space(b)) {
                self.position += 1;
            }
        }
    }

    /// The inside of an action, through its closing delimiter.
    fn action(&mut self) -> Lexed {
        loop {
            if let Some(trim) = right_delim(self.rest()) {
                if self.paren_depth > 0 {
                    return Err("unclosed left paren".to_owned());
                }
                if trim {
                    self.position += TRIM_MARKER_BYTES;
                    self.start = self.position;
                }
                self.position += RIGHT.len();
                self.emit(TokenKind::RightDelim);
                self.position -= RIGHT.len() + if trim { TRIM_MARKER_BYTES } else { 0 };
                self.skip_right_delim(trim);
                self.start = self.position;
                return Ok(());
            }
            self.inside_action()?;
        }
    }

    fn inside_action(&mut self) -> Lexed {
        let Some(first) = self.next() else {
            return Err("unclosed action".to_owned());
        };
        match first {
            ' ' | '\t' | '\r' | '\n' => self.space(),
            '=' => self.emit(TokenKind::Assign),
            ':' => {
                if self.next() != Some('=') {
                    return Err("expected :=".to_owned());
                }
                self.emit(TokenKind::Declare);
            }
            '|' => self.emit(TokenKind::Pipe),
            ',' => self.emit(TokenKind::Comma),
            '"' => self.quoted('"', TokenKind::QuotedString, "unterminated quoted string")?,
            '\'' => self.quoted('\'', TokenKind::Char, "unterminated character constant")?,
            '`' => {
                let Some(end) = find(self.rest(), b"`") else {
                    return Err("unterminated raw quoted string".to_owned());
                };
                self.position += end + 1;
                self.emit(TokenKind::RawString);
            }
            '$' => self.field_or_variable(TokenKind::Variable)?,
            '.' if !self.peek().is_some_and(|c| c.is_ascii_digit()) => {
                self.field_or_variable(TokenKind::Field)?;
            }
            '.' | '+' | '-' | '0'..='9' => self.number()?,
            '(' => {
                self.paren_depth += 1;
                self.emit(TokenKind::LeftParen);
            }
            ')' => {
                if self.paren_depth == 0 {
                    return Err("unexpected right paren".to_owned());
                }
                self.paren_depth -= 1;
                self.emit(TokenKind::RightParen);
            }
            c if is_alphanumeric(c) => self.identifier()?,
            ' '..='~' => self.emit(TokenKind::Sign),
            c => return Err(format!("unrecognized character in action: {c:?}")),
        }
        Ok(())
    }

    /// A run of white space, of which the last one may belong to a trim marker.
    fn space(&mut self) {
        while self.bytes.get(self.position).is_some_and(|&b| is_space(b)) {
            self.position += 1;
        }
        if right_delim(&self.bytes[self.position - 1..]) == Some(true) {
            self.position -= 1;
        }
        if self.position > self.start {
            self.emit(TokenKind::Space);
        }
    }

    fn quoted(&mut self, quote: char, kind: TokenKind, unterminated: &str) -> Lexed {
        loop {
            match self.next() {
                Some('\\') => match self.next() {
                    None | Some('\n') => return Err(unterminated.to_owned()),
                    Some(_) => {}
                },
                None | Some('\n') => return Err(unterminated.to_owned()),
                Some(c) if c == quote => break,
                Some(_) => {}
            }
        }
        self.emit(kind);
        Ok(())
    }

    fn field_or_variable(&mut self, kind: TokenKind) -> Lexed {
        if self.at_terminator() {
            self.emit(if kind == TokenKind::Field {
                TokenKind::Dot
            } else {
                kind
            });
            return Ok(());
        }
        self.word()?;
        self.emit(kind);
        Ok(())
    }

    fn word(&mut self) -> Lexed {
        while self.peek().is_some_and(is_alphanumeric) {
            self.next();
        }
        match self.peek() {
            Some(bad) if !self.at_terminator() => Err(format!("bad character {bad:?}")),
            _ => Ok(()),
        }
    }

    fn identifier(&mut self) -> Lexed {
        self.word()?;
        self.emit(match &self.source[self.start..self.position] {
            "block" => TokenKind::Block,
            "break" => TokenKind::Break,
            "continue" => TokenKind::Continue,
            "define" => TokenKind::Define,
            "else" => TokenKind::Else,
            "end" => TokenKind::End,
            "false" | "true" => TokenKind::Bool,
            "if" => TokenKind::If,
            "nil" => TokenKind::Nil,
            "range" => TokenKind::Range,
            "template" => TokenKind::Template,
            "with" => TokenKind::With,
            _ => TokenKind::Identifier,
        });
        Ok(())
    }

    /// The shape of a number; whether it is one is decided where its value is read.
    fn number(&mut self) -> Lexed {
        self.position = self.start;
        self.accept("+-");
        let mut digits = "0123456789_";
        if self.accept("0") {
            if self.accept("xX") {
                digits = "0123456789abcdefABCDEF_";
            } else if self.accept("oO") {
                digits = "01234567_";
            } else if self.accept("bB") {
                digits = "01_";
            }
        }
        self.accept_run(digits);
        if self.accept(".") {
            self.accept_run(digits);
        }
        let exponent = match digits.len() {
            11 => "eE",
            23 => "pP",
            _ => "",
        };
        if self.accept(exponent) {
            self.accept("+-");
            self.accept_run("0123456789_");
        }
        self.accept("i");
        if self.peek().is_some_and(is_alphanumeric) {
            self.next();
            let text = &self.source[self.start..self.position];
            return Err(format!("bad number syntax: {text:?}"));
        }
        self.emit(TokenKind::Number);
        Ok(())
    }

    fn at_terminator(&self) -> bool {
        match self.rest().first() {
            None | Some(b' ' | b'\t' | b'\r' | b'\n' | b'.' | b',' | b'|' | b':' | b')' | b'(') => {
                true
            }
            Some(_) => self.rest().starts_with(RIGHT),
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn is_alphanumeric(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn has_left_trim(rest: &[u8]) -> bool {
    matches!(rest, [b'-', space, ..] if is_space(*space))
}

/// Whether a closing delimiter begins here, and if so whether it has a trim marker.
fn right_delim(rest: &[u8]) -> Option<bool> {
    if let [space, b'-', after @ ..] = rest
        && is_space(*space)
        && after.starts_with(RIGHT)
    {
        return Some(true);
    }
    rest.starts_with(RIGHT).then_some(false)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(source: &str) -> Vec<(TokenKind, &str)> {
        let tokens = tokenize(source);
        tokens
            .list
            .iter()
            .map(|t| (t.kind, &source[t.range()]))
            .collect()
    }

    #[test]
    fn trim_markers_eat_the_white_space_around_them() {
        use TokenKind::{Eof, Identifier, LeftDelim, RightDelim, Space, Text};
        assert_eq!(
            kinds("a \n{{-  x\t-}} \r\n b"),
            [
                (Text, "a"),
                (LeftDelim, "{{"),
                (Space, " "),
                (Identifier, "x"),
                (RightDelim, "}}"),
                (Text, "b"),
                (Eof, ""),
            ]
        );
    }

    #[test]
    fn a_minus_without_space_is_a_sign_of_a_number() {
        assert_eq!(kinds("{{-3}}")[1], (TokenKind::Number, "-3"));
        assert_eq!(kinds("{{3 -}} x")[3], (TokenKind::Text, "x"));
    }

    #[test]
    fn comments_leave_nothing() {
        assert_eq!(
            kinds("a {{- /* }} */ -}} b")[..2],
            [(TokenKind::Text, "a"), (TokenKind::Text, "b")]
        );
    }

    #[test]
    fn delimiters_inside_strings_are_text() {
        assert_eq!(kinds("{{\"}}\"}}")[1], (TokenKind::QuotedString, "\"}}\""));
        assert_eq!(kinds("{{`}}`}}")[1], (TokenKind::RawString, "`}}`"));
    }

    #[test]
    fn lexical_errors_are_told() {
        for (source, error) in [
            ("{{ x", "unclosed action"),
            ("{{ (x }}", "unclosed left paren"),
            ("{{ x) }}", "unexpected right paren"),
            ("{{ \"x }}", "unterminated quoted string"),
            ("{{ `x }}", "unterminated raw quoted string"),
            ("{{ 'x }}", "unterminated character constant"),
            ("{{/* x }}", "unclosed comment"),
            ("{{/* x */ y }}", "comment ends before closing delimiter"),
            ("{{ x : y }}", "expected :="),
            ("{{ 1x }}", "bad number syntax: \"1x\""),
            ("{{ .x# }}", "bad character '#'"),
            ("{{ \u{1} }}", "unrecognized character in action: '\\u{1}'"),
        ] {
            assert_eq!(tokenize(source).error, error, "{source}");
        }
    }
}
