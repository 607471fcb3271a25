//! The parsed form of a template: what the parser makes and the executor walks.

use std::sync::Arc;

use crate::literal::Number;

/// Where in the source something stands, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// The nodes between two control words.
pub(crate) type List = Vec<Node>;

#[derive(Debug)]
pub(crate) enum Node {
    /// Literal text: this piece of the source.
    Text(Span),
    /// A pipeline whose value is printed, unless it declares or assigns.
    Action(Pipeline),
    Condition(Condition),
    Range(Range),
    Template(Call),
    Break,
    Continue,
}

/// `if` or `with`, with its `else if` or `else with` branches.
#[derive(Debug)]
pub(crate) struct Condition {
    pub(crate) branches: Vec<Branch>,
    pub(crate) otherwise: List,
}

#[derive(Debug)]
pub(crate) struct Branch {
    /// `with`: the value of the pipeline is the dot of the body.
    pub(crate) sets_dot: bool,
    pub(crate) pipeline: Pipeline,
    pub(crate) body: List,
}

#[derive(Debug)]
pub(crate) struct Range {
    pub(crate) pipeline: Pipeline,
    pub(crate) body: List,
    pub(crate) otherwise: List,
}

/// `template` and the call half of `block`.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) pipeline: Option<Pipeline>,
    pub(crate) span: Span,
}

#[derive(Debug)]
pub(crate) struct Pipeline {
    /// Variables before `:=` or `=`: one, or two in a `range`; names with their dollar.
    pub(crate) variables: Vec<String>,
    /// `=` and not `:=`.
    pub(crate) assigns: bool,
    /// Never empty.
    pub(crate) commands: Vec<Command>,
    pub(crate) span: Span,
}

#[derive(Debug)]
pub(crate) struct Command {
    /// Never empty; the first one is what is called, or the value itself.
    pub(crate) operands: Vec<Operand>,
    pub(crate) span: Span,
}

#[derive(Debug)]
pub(crate) struct Operand {
    pub(crate) expression: Expression,
    pub(crate) span: Span,
}

#[derive(Debug)]
pub(crate) enum Expression {
    Dot,
    Nil,
    Bool(bool),
    Number(Number),
    String(Arc<str>),
    /// `.A.B`: never empty.
    Field(Vec<String>),
    /// `$x.A.B`: the name with its dollar, and the fields.
    Variable(String, Vec<String>),
    Function(String),
    Pipeline(Box<Pipeline>),
    /// `(pipeline).A.B` or `function.A.B`: fields never empty.
    Chain(Box<Operand>, Vec<String>),
}
