//! The inside of an action: pipelines, commands and operands. The second half of the parser.

use crate::ast::{Command, Expression, Operand, Pipeline};
use crate::builtins;
use crate::lexer::{Token, TokenKind};
use crate::literal;
use crate::parser::{Parsed, Parser, VARIABLES_MAX};

impl Parser<'_> {
    /// A pipeline through the token `end`. Variables it declares stay in scope.
    pub(crate) fn pipeline(&mut self, context: &str, end: TokenKind) -> Parsed<Pipeline> {
        let start = self.peek_non_space().start;
        let (variables, assigns) = self.variables_of_pipeline(context)?;
        let mut commands = Vec::new();
        loop {
            let before = self.position();
            let token = self.next_non_space();
            match token.kind {
                kind if kind == end => break,
                TokenKind::Bool
                | TokenKind::Char
                | TokenKind::Dot
                | TokenKind::Field
                | TokenKind::Identifier
                | TokenKind::LeftParen
                | TokenKind::Nil
                | TokenKind::Number
                | TokenKind::QuotedString
                | TokenKind::RawString
                | TokenKind::Variable => {
                    self.rewind(before);
                    commands.push(self.command()?);
                }
                _ => return Err(self.unexpected(token, context)),
            }
        }
        if commands.is_empty() {
            return Err(self.failure(format!("missing value for {context}")));
        }
        for (stage, command) in commands.iter().enumerate().skip(1) {
            if is_not_executable(command) {
                let stage = stage + 1;
                return Err(
                    self.failure(format!("non executable command in pipeline stage {stage}"))
                );
            }
        }
        let span = match (commands.first(), commands.last()) {
            (Some(_), Some(last)) => crate::ast::Span {
                start,
                end: last.span.end,
            },
            _ => self.span_from(start),
        };
        Ok(Pipeline {
            variables,
            assigns,
            commands,
            span,
        })
    }

    /// `$x :=`, `$x =` and, in a range, `$k, $v :=`.
    fn variables_of_pipeline(&mut self, context: &str) -> Parsed<(Vec<String>, bool)> {
        let mut variables = Vec::new();
        loop {
            let before = self.position();
            let token = self.next_non_space();
            if token.kind != TokenKind::Variable {
                self.rewind(before);
                return Ok((variables, false));
            }
            let next = self.next_non_space();
            match next.kind {
                TokenKind::Assign | TokenKind::Declare => {
                    self.declare(token, &mut variables)?;
                    return Ok((variables, next.kind == TokenKind::Assign));
                }
                TokenKind::Comma => {
                    self.declare(token, &mut variables)?;
                    if context != "range" || variables.len() > 1 {
                        return Err(self.failure(format!("too many declarations in {context}")));
                    }
                    if !matches!(
                        self.peek_non_space().kind,
                        TokenKind::Variable | TokenKind::RightDelim | TokenKind::RightParen
                    ) {
                        return Err(self.failure("range can only initialize variables"));
                    }
                }
                _ => {
                    self.rewind(before);
                    return Ok((variables, false));
                }
            }
        }
    }

    fn declare(&mut self, token: Token, variables: &mut Vec<String>) -> Parsed<()> {
        if self.variables.len() >= VARIABLES_MAX {
            return Err(self.failure(format!("more than {VARIABLES_MAX} variables in scope")));
        }
        let name = self.text(token).to_owned();
        variables.push(name.clone());
        self.variables.push(name);
        Ok(())
    }

    /// Operands set apart by white space, through a `|` or up to the end of the pipeline.
    fn command(&mut self) -> Parsed<Command> {
        let start = self.peek_non_space().start;
        let mut operands: Vec<Operand> = Vec::new();
        loop {
            self.skip_space();
            if let Some(operand) = self.operand()? {
                operands.push(operand);
            }
            let before = self.position();
            let token = self.next();
            match token.kind {
                TokenKind::Space => continue,
                TokenKind::RightDelim | TokenKind::RightParen => self.rewind(before),
                TokenKind::Pipe => {}
                _ => return Err(self.unexpected(token, "operand")),
            }
            break;
        }
        let Some(last) = operands.last() else {
            return Err(self.failure("empty command"));
        };
        let span = crate::ast::Span {
            start,
            end: last.span.end,
        };
        Ok(Command { operands, span })
    }

    /// A term and the fields that follow it.
    fn operand(&mut self) -> Parsed<Option<Operand>> {
        let start = self.peek_non_space().start;
        let Some(expression) = self.term()? else {
            return Ok(None);
        };
        let span = self.span_from(start);
        let mut fields = Vec::new();
        while self.peek().kind == TokenKind::Field {
            let token = self.next();
            fields.push(self.text(token)[1..].to_owned());
        }
        if fields.is_empty() {
            return Ok(Some(Operand { expression, span }));
        }
        let expression = match expression {
            Expression::Field(mut first) => {
                first.append(&mut fields);
                Expression::Field(first)
            }
            Expression::Variable(name, mut first) => {
                first.append(&mut fields);
                Expression::Variable(name, first)
            }
            Expression::Function(_) | Expression::Pipeline(_) => {
                Expression::Chain(Box::new(Operand { expression, span }), fields)
            }
            Expression::Bool(_)
            | Expression::Chain(..)
            | Expression::Dot
            | Expression::Nil
            | Expression::Number(_)
            | Expression::String(_) => return Err(self.failure("unexpected . after term")),
        };
        Ok(Some(Operand {
            expression,
            span: self.span_from(start),
        }))
    }

    fn term(&mut self) -> Parsed<Option<Expression>> {
        let before = self.position();
        let token = self.next_non_space();
        let text = self.text(token);
        let expression = match token.kind {
            TokenKind::Bool => Expression::Bool(text == "true"),
            TokenKind::Char => Expression::Number(
                literal::character(text).map_err(|message| self.failure(message))?,
            ),
            TokenKind::Dot => Expression::Dot,
            TokenKind::Field => Expression::Field(vec![text[1..].to_owned()]),
            TokenKind::Identifier => {
                if !self.functions.contains(&text) && !builtins::is_builtin(text) {
                    return Err(self.failure(format!("function {text:?} not defined")));
                }
                Expression::Function(text.to_owned())
            }
            TokenKind::LeftParen => {
                let pipeline = self.nested(|parser| {
                    parser.pipeline("parenthesized pipeline", TokenKind::RightParen)
                })?;
                Expression::Pipeline(Box::new(pipeline))
            }
            TokenKind::Nil => Expression::Nil,
            TokenKind::Number => {
                Expression::Number(literal::number(text).map_err(|message| self.failure(message))?)
            }
            TokenKind::QuotedString => Expression::String(
                literal::quoted(text)
                    .map_err(|message| self.failure(message))?
                    .into(),
            ),
            TokenKind::RawString => Expression::String(literal::raw(text).into()),
            TokenKind::Variable => {
                if !self.variables.iter().any(|known| known == text) {
                    return Err(self.failure(format!("undefined variable {text:?}")));
                }
                Expression::Variable(text.to_owned(), Vec::new())
            }
            _ => {
                self.rewind(before);
                return Ok(None);
            }
        };
        Ok(Some(expression))
    }
}

/// Only the first command of a pipeline may be a plain value.
fn is_not_executable(command: &Command) -> bool {
    command.operands.first().is_some_and(|operand| {
        matches!(
            operand.expression,
            Expression::Bool(_)
                | Expression::Dot
                | Expression::Nil
                | Expression::Number(_)
                | Expression::String(_)
        )
    })
}
