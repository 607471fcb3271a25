//! Tokens to trees: the grammar of actions, control structures and template definitions.
//!
//! The truth is Go's `text/template/parse/parse.go`. Unlike Go, `else if` makes one more branch of the same node and
//! not a nested node, so a long chain is not deep.

use std::collections::BTreeMap;

use crate::ast::{Branch, Call, Condition, List, Node, Pipeline, Range, Span};
use crate::error::ParseError;
use crate::lexer::{Token, TokenKind, Tokens, tokenize};
use crate::{DEPTH_MAX, SOURCE_BYTES_MAX, literal};

/// Variables in scope at one place. Each use of one searches them, so their number is a bound on time.
pub(crate) const VARIABLES_MAX: usize = 1_000;

/// Why parsing stopped: line and message, before the template's name is put to it.
pub(crate) struct Failure {
    pub(crate) line: u32,
    pub(crate) message: String,
}

pub(crate) type Parsed<T> = Result<T, Failure>;

/// Parses `source` into its templates: the one called `name` and every `define` and `block`.
pub(crate) fn parse(
    name: &str,
    source: &str,
    functions: &[&str],
) -> Result<BTreeMap<String, List>, ParseError> {
    if source.len() > SOURCE_BYTES_MAX {
        return Err(ParseError::TooLarge {
            template: name.to_owned(),
            size_bytes: source.len(),
            limit_bytes: SOURCE_BYTES_MAX,
        });
    }
    let tokens = tokenize(source);
    let mut parser = Parser {
        source,
        tokens: &tokens,
        position: 0,
        functions,
        variables: vec!["$".to_owned()],
        range_depth: 0,
        depth: 0,
        templates: BTreeMap::new(),
    };
    match parser.file(name) {
        Ok(()) => Ok(parser.templates),
        Err(Failure { line, message }) => Err(ParseError::Syntax {
            template: name.to_owned(),
            line,
            message,
        }),
    }
}

pub(crate) struct Parser<'s> {
    source: &'s str,
    tokens: &'s Tokens,
    position: usize,
    pub(crate) functions: &'s [&'s str],
    /// Names of the variables in scope, innermost last.
    pub(crate) variables: Vec<String>,
    range_depth: u32,
    depth: u32,
    templates: BTreeMap<String, List>,
}

/// How a list of nodes ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Terminator {
    End,
    /// `{{else}}`, or the `{{else` of `{{else if` and `{{else with`, whose word is the next token.
    Else,
}

impl Terminator {
    fn text(self) -> &'static str {
        match self {
            Self::End => "{{end}}",
            Self::Else => "{{else}}",
        }
    }
}

enum Item {
    Node(Node),
    Terminator(Terminator),
}

impl<'s> Parser<'s> {
    pub(crate) fn peek(&self) -> Token {
        let last = self.tokens.list.len() - 1;
        self.tokens.list[self.position.min(last)]
    }

    pub(crate) fn next(&mut self) -> Token {
        let token = self.peek();
        self.position += 1;
        token
    }

    pub(crate) fn skip_space(&mut self) {
        while self.peek().kind == TokenKind::Space {
            self.position += 1;
        }
    }

    pub(crate) fn next_non_space(&mut self) -> Token {
        self.skip_space();
        self.next()
    }

    pub(crate) fn peek_non_space(&mut self) -> Token {
        self.skip_space();
        self.peek()
    }

    /// Returns to the token at `position`.
    pub(crate) fn rewind(&mut self, position: usize) {
        self.position = position;
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn text(&self, token: Token) -> &'s str {
        &self.source[token.range()]
    }

    /// From `start` to the end of the last token taken, trailing white space left out.
    pub(crate) fn span_from(&self, start: u32) -> Span {
        let taken = &self.tokens.list[..self.position.min(self.tokens.list.len())];
        let last = taken
            .iter()
            .rev()
            .find(|token| token.kind != TokenKind::Space);
        Span {
            start,
            end: last.map_or(start, |token| token.end.max(start)),
        }
    }

    /// The error `message`, at the last token taken.
    pub(crate) fn failure(&self, message: impl Into<String>) -> Failure {
        let token = self.tokens.list[self
            .position
            .saturating_sub(1)
            .min(self.tokens.list.len() - 1)];
        Failure {
            line: line_of(self.source, token.start),
            message: message.into(),
        }
    }

    pub(crate) fn unexpected(&self, token: Token, context: &str) -> Failure {
        let message = match token.kind {
            TokenKind::Error => self.tokens.error.clone(),
            TokenKind::Eof => "unexpected EOF".to_owned(),
            _ => format!("unexpected {:?} in {context}", shorten(self.text(token))),
        };
        Failure {
            line: line_of(self.source, token.start),
            message,
        }
    }

    pub(crate) fn expect(&mut self, kind: TokenKind, context: &str) -> Parsed<()> {
        let token = self.next_non_space();
        if token.kind == kind {
            Ok(())
        } else {
            Err(self.unexpected(token, context))
        }
    }

    /// Runs `parse` one level deeper, unless that is too deep.
    pub(crate) fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= DEPTH_MAX {
            return Err(self.failure(format!("nesting exceeds {DEPTH_MAX} levels")));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn file(&mut self, name: &str) -> Parsed<()> {
        let mut list = List::new();
        while self.peek().kind != TokenKind::Eof {
            if self.definition()? {
                continue;
            }
            match self.item()? {
                Item::Node(node) => list.push(node),
                Item::Terminator(terminator) => {
                    return Err(self.failure(format!("unexpected {}", terminator.text())));
                }
            }
        }
        self.add(name, list)
    }

    /// `{{define "name"}}…{{end}}`, which stands only outside of every other structure.
    fn definition(&mut self) -> Parsed<bool> {
        let start = self.position;
        if self.next().kind != TokenKind::LeftDelim
            || self.next_non_space().kind != TokenKind::Define
        {
            self.rewind(start);
            return Ok(false);
        }
        let name = self.template_name("define clause")?;
        self.expect(TokenKind::RightDelim, "define clause")?;
        let list = self.separate_body("define clause")?;
        self.add(&name, list)?;
        Ok(true)
    }

    /// The body of a `define` or `block`, which sees no variable but `$` and no loop around it.
    fn separate_body(&mut self, context: &str) -> Parsed<List> {
        let variables = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let range_depth = std::mem::take(&mut self.range_depth);
        let (list, terminator) = self.list()?;
        if terminator != Terminator::End {
            return Err(self.failure(format!("unexpected {} in {context}", terminator.text())));
        }
        self.variables = variables;
        self.range_depth = range_depth;
        Ok(list)
    }

    /// Keeps a template. One that says nothing neither replaces another nor stands in its way.
    fn add(&mut self, name: &str, list: List) -> Parsed<()> {
        match self.templates.get(name) {
            Some(existing) if !self.is_blank(existing) => {
                if !self.is_blank(&list) {
                    return Err(self.failure(format!("multiple definition of template {name:?}")));
                }
            }
            _ => {
                self.templates.insert(name.to_owned(), list);
            }
        }
        Ok(())
    }

    /// Nothing but white space.
    fn is_blank(&self, list: &List) -> bool {
        list.iter().all(|node| match node {
            Node::Text(span) => self.source[span.start as usize..span.end as usize]
                .trim()
                .is_empty(),
            _ => false,
        })
    }

    fn template_name(&mut self, context: &str) -> Parsed<String> {
        let token = self.next_non_space();
        match token.kind {
            TokenKind::QuotedString => {
                literal::quoted(self.text(token)).map_err(|message| self.failure(message))
            }
            TokenKind::RawString => Ok(literal::raw(self.text(token))),
            _ => Err(self.unexpected(token, context)),
        }
    }

    /// Nodes through the `{{end}}` or `{{else` that ends them.
    fn list(&mut self) -> Parsed<(List, Terminator)> {
        self.nested(|parser| {
            let mut list = List::new();
            while parser.peek_non_space().kind != TokenKind::Eof {
                match parser.item()? {
                    Item::Node(node) => list.push(node),
                    Item::Terminator(terminator) => return Ok((list, terminator)),
                }
            }
            Err(parser.unexpected(parser.peek(), "template"))
        })
    }

    fn item(&mut self) -> Parsed<Item> {
        let token = self.next_non_space();
        match token.kind {
            TokenKind::Text => Ok(Item::Node(Node::Text(Span {
                start: token.start,
                end: token.end,
            }))),
            TokenKind::LeftDelim => self.action(),
            _ => Err(self.unexpected(token, "input")),
        }
    }

    fn action(&mut self) -> Parsed<Item> {
        let before = self.position;
        let token = self.next_non_space();
        let node = match token.kind {
            TokenKind::Block => self.block()?,
            TokenKind::Break => self.loop_word("{{break}}", Node::Break)?,
            TokenKind::Continue => self.loop_word("{{continue}}", Node::Continue)?,
            TokenKind::Else => {
                if !matches!(self.peek_non_space().kind, TokenKind::If | TokenKind::With) {
                    self.expect(TokenKind::RightDelim, "else")?;
                }
                return Ok(Item::Terminator(Terminator::Else));
            }
            TokenKind::End => {
                self.expect(TokenKind::RightDelim, "end")?;
                return Ok(Item::Terminator(Terminator::End));
            }
            TokenKind::If | TokenKind::With => self.condition(token.kind)?,
            TokenKind::Range => self.range()?,
            TokenKind::Template => self.template()?,
            _ => {
                self.rewind(before);
                Node::Action(self.pipeline("command", TokenKind::RightDelim)?)
            }
        };
        Ok(Item::Node(node))
    }

    fn loop_word(&mut self, word: &str, node: Node) -> Parsed<Node> {
        self.expect(TokenKind::RightDelim, word)?;
        if self.range_depth == 0 {
            return Err(self.failure(format!("{word} outside {{{{range}}}}")));
        }
        Ok(node)
    }

    fn condition(&mut self, word: TokenKind) -> Parsed<Node> {
        let scope = self.variables.len();
        let sets_dot = word == TokenKind::With;
        let context = if sets_dot { "with" } else { "if" };
        let mut branches = Vec::new();
        let mut otherwise = List::new();
        loop {
            let pipeline = self.pipeline(context, TokenKind::RightDelim)?;
            let (body, terminator) = self.list()?;
            branches.push(Branch {
                sets_dot,
                pipeline,
                body,
            });
            if terminator == Terminator::End {
                break;
            }
            if self.peek().kind == word {
                self.next();
                continue;
            }
            otherwise = self.last_else()?;
            break;
        }
        self.variables.truncate(scope);
        Ok(Node::Condition(Condition {
            branches,
            otherwise,
        }))
    }

    fn last_else(&mut self) -> Parsed<List> {
        let (list, terminator) = self.list()?;
        if terminator != Terminator::End {
            return Err(self.failure(format!("expected end; found {}", terminator.text())));
        }
        Ok(list)
    }

    fn range(&mut self) -> Parsed<Node> {
        let scope = self.variables.len();
        let pipeline = self.pipeline("range", TokenKind::RightDelim)?;
        self.range_depth += 1;
        let (body, terminator) = self.list()?;
        self.range_depth -= 1;
        let otherwise = if terminator == Terminator::Else {
            self.last_else()?
        } else {
            List::new()
        };
        self.variables.truncate(scope);
        Ok(Node::Range(Range {
            pipeline,
            body,
            otherwise,
        }))
    }

    fn template(&mut self) -> Parsed<Node> {
        let start = self.peek_non_space().start;
        let name = self.template_name("template clause")?;
        let pipeline = if self.peek_non_space().kind == TokenKind::RightDelim {
            self.next();
            None
        } else {
            Some(self.pipeline("template clause", TokenKind::RightDelim)?)
        };
        Ok(Node::Template(Call {
            name,
            pipeline,
            span: self.span_from(start),
        }))
    }

    fn block(&mut self) -> Parsed<Node> {
        let start = self.peek_non_space().start;
        let name = self.template_name("block clause")?;
        let pipeline: Pipeline = self.pipeline("block clause", TokenKind::RightDelim)?;
        let span = self.span_from(start);
        let list = self.separate_body("block clause")?;
        self.add(&name, list)?;
        Ok(Node::Template(Call {
            name,
            pipeline: Some(pipeline),
            span,
        }))
    }
}

/// The line of the byte at `offset`, from 1.
pub(crate) fn line_of(source: &str, offset: u32) -> u32 {
    let before = &source.as_bytes()[..offset as usize];
    1 + before.iter().filter(|&&byte| byte == b'\n').count() as u32
}

/// The first 20 characters, as Go shortens what it quotes.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(20) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
