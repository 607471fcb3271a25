//! Expressions: pipelines, fields, methods, functions and their arguments. The second half of the executor.

use crate::OUTPUT_BYTES_MAX;
use crate::ast::{Command, Expression, Operand, Pipeline, Span};
use crate::builtins::{self, Builtin, Failure};
use crate::error::Limit;
use crate::exec::{Executed, Executor};
use crate::function::{Function, Parameter};
use crate::literal::Number;
use crate::value::Value;

/// What a function, method or field is given: operands, and the value of the pipeline's previous command.
#[derive(Clone, Copy)]
struct Given<'t, 'v> {
    operands: &'t [Operand],
    last: Option<&'v Value>,
    /// The whole command, for errors.
    span: Span,
}

impl Given<'_, '_> {
    fn nothing(span: Span) -> Self {
        Self {
            operands: &[],
            last: None,
            span,
        }
    }

    fn count(&self) -> usize {
        self.operands.len() + usize::from(self.last.is_some())
    }
}

impl<'t> Executor<'t, '_> {
    /// The value of a pipeline; its variables are kept.
    pub(crate) fn pipeline(&mut self, dot: &Value, pipeline: &'t Pipeline) -> Executed<Value> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(dot, command, last.as_ref())?);
        }
        let value = last.unwrap_or_default();
        self.keep(pipeline, &value)?;
        Ok(value)
    }

    fn command(
        &mut self,
        dot: &Value,
        command: &'t Command,
        last: Option<&Value>,
    ) -> Executed<Value> {
        self.step(command.span, 0)?;
        let Some((first, operands)) = command.operands.split_first() else {
            return Ok(Value::Nil);
        };
        self.operand(
            dot,
            first,
            Given {
                operands,
                last,
                span: command.span,
            },
        )
    }

    /// The value of `operand`, called with `given` if it can be called.
    fn operand(
        &mut self,
        dot: &Value,
        operand: &'t Operand,
        given: Given<'t, '_>,
    ) -> Executed<Value> {
        let callable = match &operand.expression {
            Expression::Field(_) | Expression::Function(_) | Expression::Chain(..) => true,
            Expression::Variable(_, fields) => !fields.is_empty(),
            _ => false,
        };
        if !callable && given.count() > 0 {
            let message = format!(
                "can't give argument to non-function {}",
                self.source(operand.span)
            );
            return Err(self.failure(operand.span, message));
        }
        match &operand.expression {
            Expression::Dot => Ok(dot.clone()),
            Expression::Nil => Err(self.failure(operand.span, "nil is not a command")),
            Expression::Bool(truth) => Ok(Value::Bool(*truth)),
            Expression::Number(number) => Ok(untyped(*number)),
            Expression::String(text) => Ok(Value::String(text.clone())),
            Expression::Field(fields) => self.fields(dot, dot.clone(), fields, operand.span, given),
            Expression::Variable(name, fields) => {
                let Some(value) = self.variable(name).cloned() else {
                    let message = format!("undefined variable: {name}");
                    return Err(self.failure(operand.span, message));
                };
                self.fields(dot, value, fields, operand.span, given)
            }
            Expression::Function(name) => self.function(dot, name, operand.span, given),
            Expression::Pipeline(pipeline) => {
                self.nested(pipeline.span, |executor| executor.pipeline(dot, pipeline))
            }
            Expression::Chain(inner, fields) => {
                let value = self.operand(dot, inner, Given::nothing(inner.span))?;
                self.fields(dot, value, fields, operand.span, given)
            }
        }
    }

    /// `receiver.A.B`, the last one called with `given`.
    fn fields(
        &mut self,
        dot: &Value,
        receiver: Value,
        fields: &'t [String],
        span: Span,
        given: Given<'t, '_>,
    ) -> Executed<Value> {
        let mut value = receiver;
        for (index, name) in fields.iter().enumerate() {
            let is_last = index + 1 == fields.len();
            let given = if is_last { given } else { Given::nothing(span) };
            value = self.field(dot, &value, name, span, given)?;
        }
        Ok(value)
    }

    fn field(
        &mut self,
        dot: &Value,
        receiver: &Value,
        name: &str,
        span: Span,
        given: Given<'t, '_>,
    ) -> Executed<Value> {
        self.step(span, 0)?;
        if matches!(receiver, Value::Nil) {
            return Ok(Value::Nil);
        }
        let mut arguments = Vec::with_capacity(given.count());
        for operand in given.operands {
            arguments.push(self.argument(dot, operand, Parameter::Any)?);
        }
        arguments.extend(given.last.cloned());
        let called = match receiver {
            Value::Object(object) => object.call(name, &arguments),
            Value::Time(time) => time.call(name, &arguments),
            Value::Duration(duration) => duration.call(name, &arguments),
            Value::Named(named) if name == "String" && arguments.is_empty() => {
                Some(Ok(named.name.into()))
            }
            _ => None,
        };
        match called {
            Some(Ok(value)) => return self.made(value, given.span),
            Some(Err(message)) => {
                return Err(self.failure(span, format!("error calling {name}: {message}")));
            }
            None => {}
        }
        let found = match receiver {
            Value::Object(object) => object.field(name),
            // As in Go a missing key has no value here, whatever the type of the others.
            Value::Map(map) => Some(map.entries.get(name).cloned().unwrap_or_default()),
            _ => None,
        };
        match found {
            Some(value) if arguments.is_empty() => Ok(value),
            Some(_) => {
                let message = format!("{name} has arguments but cannot be invoked as function");
                Err(self.failure(span, message))
            }
            None => {
                let message = format!(
                    "can't evaluate field {name} in type {}",
                    receiver.type_name()
                );
                Err(self.failure(span, message))
            }
        }
    }

    fn function(
        &mut self,
        dot: &Value,
        name: &str,
        span: Span,
        given: Given<'t, '_>,
    ) -> Executed<Value> {
        let functions = self.functions;
        if let Some(function) = functions.find(name) {
            return self.own_function(dot, name, function, span, given);
        }
        match builtins::find(name) {
            Some(builtin) => self.builtin(dot, name, builtin, span, given),
            None => Err(self.failure(span, format!("{name:?} is not a defined function"))),
        }
    }

    fn own_function(
        &mut self,
        dot: &Value,
        name: &str,
        function: &Function<'_>,
        span: Span,
        given: Given<'t, '_>,
    ) -> Executed<Value> {
        let want = function.parameters.len();
        if given.count() != want {
            let found = given.count();
            let message = format!("wrong number of args for {name}: want {want} got {found}");
            return Err(self.failure(span, message));
        }
        let mut arguments = Vec::with_capacity(want);
        for (operand, parameter) in given.operands.iter().zip(&function.parameters) {
            arguments.push(self.argument(dot, operand, *parameter)?);
        }
        if let (Some(last), Some(parameter)) = (given.last, function.parameters.last()) {
            arguments.push(self.typed(last.clone(), *parameter, span)?);
        }
        match (function.closure)(&arguments) {
            Ok(value) => self.made(value, given.span),
            Err(message) => {
                Err(self.failure(given.span, format!("error calling {name}: {message}")))
            }
        }
    }

    fn builtin(
        &mut self,
        dot: &Value,
        name: &str,
        builtin: Builtin,
        span: Span,
        given: Given<'t, '_>,
    ) -> Executed<Value> {
        let (least, takes_more) = builtin.arity();
        let found = given.count();
        if found < least || (found > least && !takes_more) {
            let want = if takes_more {
                format!("at least {least}")
            } else {
                least.to_string()
            };
            let message = format!("wrong number of args for {name}: want {want} got {found}");
            return Err(self.failure(span, message));
        }
        if matches!(builtin, Builtin::And | Builtin::Or) {
            return self.and_or(dot, builtin == Builtin::Or, given);
        }
        let mut arguments = Vec::with_capacity(found);
        for operand in given.operands {
            let is_format = builtin == Builtin::Printf && arguments.is_empty();
            let parameter = if is_format {
                Parameter::String
            } else {
                Parameter::Any
            };
            arguments.push(self.argument(dot, operand, parameter)?);
        }
        if let Some(last) = given.last {
            let is_format = builtin == Builtin::Printf && arguments.is_empty();
            let parameter = if is_format {
                Parameter::String
            } else {
                Parameter::Any
            };
            arguments.push(self.typed(last.clone(), parameter, span)?);
        }
        if let (Builtin::Slice, Some(Value::List(items))) = (builtin, arguments.first()) {
            // A piece of a list is a copy.
            self.step(span, size_of_val::<[Value]>(items))?;
        }
        match builtin.call(&arguments) {
            Ok(value) => self.made(value, given.span),
            Err(Failure::Overflow) => Err(self.limit(given.span, Limit::Output)),
            Err(Failure::Message(message)) => {
                Err(self.failure(given.span, format!("error calling {name}: {message}")))
            }
        }
    }

    /// The first argument that decides, or the last one; what follows it is not evaluated.
    fn and_or(&mut self, dot: &Value, decides: bool, given: Given<'t, '_>) -> Executed<Value> {
        let mut value = Value::Nil;
        for operand in given.operands {
            value = self.argument(dot, operand, Parameter::Any)?;
            if value.is_true() == decides {
                return Ok(value);
            }
        }
        Ok(given.last.cloned().unwrap_or(value))
    }

    /// An operand as an argument for `parameter`, which decides how a literal is read.
    fn argument(
        &mut self,
        dot: &Value,
        operand: &'t Operand,
        parameter: Parameter,
    ) -> Executed<Value> {
        let span = operand.span;
        let literal_bytes = match &operand.expression {
            Expression::String(text) => text.len(),
            _ => 0,
        };
        self.step(span, literal_bytes)?;
        let value = match (&operand.expression, parameter) {
            (Expression::Nil, Parameter::Any) => Some(Value::Nil),
            (Expression::Nil, _) => {
                let message = format!("cannot assign nil to {}", parameter.type_name());
                return Err(self.failure(span, message));
            }
            (Expression::Bool(truth), Parameter::Any | Parameter::Bool) => {
                Some(Value::Bool(*truth))
            }
            (Expression::String(text), Parameter::Any | Parameter::String) => {
                Some(Value::String(text.clone()))
            }
            (Expression::Number(number), Parameter::Any) => Some(untyped(*number)),
            (Expression::Number(number), Parameter::Int) => number.integer.map(Value::Int),
            (Expression::Number(number), Parameter::Int64) => number.integer.map(Value::Int64),
            (Expression::Number(number), Parameter::Float) => Some(Value::Float(number.float)),
            (Expression::Bool(_) | Expression::String(_) | Expression::Number(_), _) => None,
            _ => {
                let value = self.operand(dot, operand, Given::nothing(span))?;
                return self.typed(value, parameter, span);
            }
        };
        value.ok_or_else(|| {
            let expected = match parameter {
                Parameter::Int | Parameter::Int64 => "integer",
                other => other.type_name(),
            };
            self.failure(
                span,
                format!("expected {expected}; found {}", self.source(span)),
            )
        })
    }

    /// `value`, if it is of the parameter's type. Its text counts as work: the function will read it.
    fn typed(&mut self, value: Value, parameter: Parameter, span: Span) -> Executed<Value> {
        self.step(span, text_bytes(&value))?;
        if parameter.takes(&value) {
            return Ok(value);
        }
        let expected = parameter.type_name();
        let message = match &value {
            Value::Nil => format!("invalid value; expected {expected}"),
            other => format!(
                "wrong type for value; expected {expected}; got {}",
                other.type_name()
            ),
        };
        Err(self.failure(span, message))
    }

    /// Counts what a call made, so that no loop can make text without end.
    fn made(&mut self, value: Value, span: Span) -> Executed<Value> {
        let bytes = text_bytes(&value);
        if bytes > OUTPUT_BYTES_MAX {
            return Err(self.limit(span, Limit::Output));
        }
        self.step(span, bytes)?;
        Ok(value)
    }
}

fn text_bytes(value: &Value) -> usize {
    value.as_str().map_or(0, str::len)
}

/// What a numeric literal is where nothing asks for a type.
fn untyped(number: Number) -> Value {
    match number.integer {
        Some(integer) if !number.written_as_float => Value::Int(integer),
        _ => Value::Float(number.float),
    }
}
