//! Execution: walks the nodes of a template, with its dot, variables and limits.
//!
//! The truth is Go's `text/template/exec.go`. Expressions are in `eval`.

use crate::ast::{Call, Condition, List, Node, Pipeline, Range, Span};
use crate::builtins::NO_VALUE;
use crate::error::{ExecError, Limit, Location};
use crate::function::Functions;
use crate::output::Output;
use crate::parser::{line_of, shorten};
use crate::printf;
use crate::value::Value;
use crate::{DEPTH_MAX, OUTPUT_BYTES_MAX, STEPS_MAX, Template};

/// Bytes of text that count as one step.
const STEP_BYTES: usize = 16;

pub(crate) type Executed<T> = Result<T, ExecError>;

/// Executes the template of the source's own name.
pub(crate) fn execute(
    template: &Template,
    data: &Value,
    functions: &Functions<'_>,
) -> Executed<String> {
    let mut executor = Executor {
        template,
        functions,
        executing: &template.name,
        variables: vec![("$", data.clone())],
        output: Output::new(OUTPUT_BYTES_MAX),
        steps: 0,
        depth: 0,
    };
    if let Some(list) = template.templates.get(&template.name) {
        executor.list(data, list)?;
    }
    Ok(executor.output.into_text())
}

pub(crate) struct Executor<'t, 'f> {
    template: &'t Template,
    pub(crate) functions: &'f Functions<'f>,
    /// Name of the template being executed, for errors.
    executing: &'t str,
    /// Variables in scope with their dollar, innermost last.
    variables: Vec<(&'t str, Value)>,
    output: Output,
    steps: u64,
    depth: u32,
}

/// How a list of nodes was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

impl<'t> Executor<'t, '_> {
    pub(crate) fn failure(&self, span: Span, message: impl Into<String>) -> ExecError {
        ExecError::Evaluation {
            location: Box::new(self.location(span)),
            message: message.into(),
        }
    }

    pub(crate) fn limit(&self, span: Span, limit: Limit) -> ExecError {
        ExecError::Limit {
            location: Box::new(self.location(span)),
            limit,
        }
    }

    fn location(&self, span: Span) -> Location {
        let source = &self.template.source;
        let start = span.start as usize;
        let line_start = source[..start].rfind('\n').map_or(0, |newline| newline + 1);
        Location {
            source: self.template.name.clone(),
            template: self.executing.to_owned(),
            line: line_of(source, span.start),
            column: (start - line_start) as u32,
            context: shorten(self.source(span)),
        }
    }

    pub(crate) fn source(&self, span: Span) -> &'t str {
        &self.template.source[span.start as usize..span.end as usize]
    }

    /// Counts one step and one more for every few bytes of text made.
    pub(crate) fn step(&mut self, span: Span, bytes: usize) -> Executed<()> {
        self.steps += 1 + (bytes / STEP_BYTES) as u64;
        if self.steps > STEPS_MAX {
            Err(self.limit(span, Limit::Steps))
        } else {
            Ok(())
        }
    }

    /// Runs `body` one level deeper, unless that is too deep.
    pub(crate) fn nested<T>(
        &mut self,
        span: Span,
        body: impl FnOnce(&mut Self) -> Executed<T>,
    ) -> Executed<T> {
        if self.depth >= DEPTH_MAX {
            return Err(self.limit(span, Limit::Depth));
        }
        self.depth += 1;
        let result = body(self);
        self.depth -= 1;
        result
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&Value> {
        self.variables
            .iter()
            .rev()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// Declares or assigns the variables of a pipeline.
    pub(crate) fn keep(&mut self, pipeline: &'t Pipeline, value: &Value) -> Executed<()> {
        for name in &pipeline.variables {
            if pipeline.assigns {
                self.assign(name, value.clone(), pipeline.span)?;
            } else {
                self.variables.push((name, value.clone()));
            }
        }
        Ok(())
    }

    fn assign(&mut self, name: &str, value: Value, span: Span) -> Executed<()> {
        match self
            .variables
            .iter_mut()
            .rev()
            .find(|(known, _)| *known == name)
        {
            Some((_, kept)) => {
                *kept = value;
                Ok(())
            }
            None => Err(self.failure(span, format!("undefined variable: {name}"))),
        }
    }

    fn list(&mut self, dot: &Value, list: &'t List) -> Executed<Flow> {
        for node in list {
            let flow = match node {
                Node::Text(span) => {
                    self.text(*span)?;
                    Flow::Next
                }
                Node::Action(pipeline) => {
                    self.action(dot, pipeline)?;
                    Flow::Next
                }
                Node::Condition(condition) => self.condition(dot, condition)?,
                Node::Range(range) => self.range(dot, range)?,
                Node::Template(call) => {
                    self.template(dot, call)?;
                    Flow::Next
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn text(&mut self, span: Span) -> Executed<()> {
        self.step(span, 0)?;
        self.output.push_str(self.source(span));
        self.written(span)
    }

    fn written(&self, span: Span) -> Executed<()> {
        if self.output.overflowed() {
            Err(self.limit(span, Limit::Output))
        } else {
            Ok(())
        }
    }

    fn action(&mut self, dot: &Value, pipeline: &'t Pipeline) -> Executed<()> {
        let value = self.pipeline(dot, pipeline)?;
        if !pipeline.variables.is_empty() {
            return Ok(());
        }
        match value {
            Value::Nil => self.output.push_str(NO_VALUE),
            value => printf::print_value(&value, &mut self.output),
        }
        self.written(pipeline.span)
    }

    fn condition(&mut self, dot: &Value, condition: &'t Condition) -> Executed<Flow> {
        let scope = self.variables.len();
        let mut chosen = (&condition.otherwise, dot.clone());
        let mut span = Span::default();
        for branch in &condition.branches {
            span = branch.pipeline.span;
            let value = self.pipeline(dot, &branch.pipeline)?;
            if value.is_true() {
                let dot = if branch.sets_dot { value } else { dot.clone() };
                chosen = (&branch.body, dot);
                break;
            }
        }
        let (list, dot) = chosen;
        let flow = self.nested(span, |executor| executor.list(&dot, list))?;
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn range(&mut self, dot: &Value, range: &'t Range) -> Executed<Flow> {
        let scope = self.variables.len();
        let value = self.pipeline(dot, &range.pipeline)?;
        let inner = self.variables.len();
        let span = range.pipeline.span;
        let mut ran = false;
        let mut each = |executor: &mut Self, key: Option<Value>, element: Value| {
            ran = true;
            executor.iteration(range, inner, key, &element)
        };
        match &value {
            Value::Nil => {}
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    if each(self, Some(Value::Int(index as i64)), item.clone())? == Flow::Break {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for (key, item) in &map.entries {
                    if each(self, Some(key.as_str().into()), item.clone())? == Flow::Break {
                        break;
                    }
                }
            }
            Value::Int(count) | Value::Int64(count) => {
                if range.pipeline.variables.len() > 1 {
                    let message =
                        format!("can't use {count} to iterate over with more than one variable");
                    return Err(self.failure(span, message));
                }
                let typed = if matches!(value, Value::Int(_)) {
                    Value::Int
                } else {
                    Value::Int64
                };
                for number in 0..*count {
                    if each(self, None, typed(number))? == Flow::Break {
                        break;
                    }
                }
            }
            other => {
                let message = format!(
                    "range can't iterate over a value of type {}",
                    other.type_name()
                );
                return Err(self.failure(span, message));
            }
        }
        let mut flow = Flow::Next;
        if !ran {
            flow = self.nested(span, |executor| executor.list(dot, &range.otherwise))?;
        }
        self.variables.truncate(scope);
        Ok(flow)
    }

    /// One turn of a loop, whose own variables are those below `inner`.
    fn iteration(
        &mut self,
        range: &'t Range,
        inner: usize,
        key: Option<Value>,
        element: &Value,
    ) -> Executed<Flow> {
        let pipeline = &range.pipeline;
        self.step(pipeline.span, 0)?;
        let turn = match pipeline.variables.as_slice() {
            [] => [None, None],
            [only] => [Some((only, element.clone())), None],
            [first, second, ..] => [key.map(|key| (first, key)), Some((second, element.clone()))],
        };
        for (name, value) in turn.into_iter().flatten() {
            self.assign(name, value, pipeline.span)?;
        }
        let flow = self.nested(pipeline.span, |executor| {
            executor.list(element, &range.body)
        })?;
        self.variables.truncate(inner);
        Ok(flow)
    }

    fn template(&mut self, dot: &Value, call: &'t Call) -> Executed<()> {
        let Some((name, list)) = self.template.templates.get_key_value(&call.name) else {
            let message = format!("template {:?} not defined", call.name);
            return Err(self.failure(call.span, message));
        };
        let dot = match &call.pipeline {
            Some(pipeline) => self.pipeline(dot, pipeline)?,
            None => Value::Nil,
        };
        self.step(call.span, 0)?;
        let variables = std::mem::replace(&mut self.variables, vec![("$", dot.clone())]);
        let caller = std::mem::replace(&mut self.executing, name);
        let flow = self.nested(call.span, |executor| executor.list(&dot, list));
        self.variables = variables;
        self.executing = caller;
        flow.map(|_| ())
    }
}
