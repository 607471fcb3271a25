//! The functions every template has: Go's `text/template/funcs.go`.
//!
//! `and` and `or` are named here but evaluated where expressions are, because they leave arguments unevaluated.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::OUTPUT_BYTES_MAX;
use crate::compare::{equal, equals_any, order};
use crate::output::Output;
use crate::value::Value;
use crate::{escape, printf};

/// A built-in function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builtin {
    And,
    Call,
    Eq,
    Ge,
    Gt,
    Html,
    Index,
    Js,
    Le,
    Len,
    Lt,
    Ne,
    Not,
    Or,
    Print,
    Printf,
    Println,
    Slice,
    UrlQuery,
}

/// Why a built-in function gave no value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Message(String),
    /// The text it makes is longer than a string may be.
    Overflow,
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Message(message)
    }
}

pub(crate) fn is_builtin(name: &str) -> bool {
    find(name).is_some()
}

pub(crate) fn find(name: &str) -> Option<Builtin> {
    Some(match name {
        "and" => Builtin::And,
        "call" => Builtin::Call,
        "eq" => Builtin::Eq,
        "ge" => Builtin::Ge,
        "gt" => Builtin::Gt,
        "html" => Builtin::Html,
        "index" => Builtin::Index,
        "js" => Builtin::Js,
        "le" => Builtin::Le,
        "len" => Builtin::Len,
        "lt" => Builtin::Lt,
        "ne" => Builtin::Ne,
        "not" => Builtin::Not,
        "or" => Builtin::Or,
        "print" => Builtin::Print,
        "printf" => Builtin::Printf,
        "println" => Builtin::Println,
        "slice" => Builtin::Slice,
        "urlquery" => Builtin::UrlQuery,
        _ => return None,
    })
}

impl Builtin {
    /// The least number of arguments, and whether more are taken.
    pub(crate) fn arity(self) -> (usize, bool) {
        match self {
            Self::Html | Self::Js | Self::Print | Self::Println | Self::UrlQuery => (0, true),
            Self::And
            | Self::Call
            | Self::Eq
            | Self::Index
            | Self::Or
            | Self::Printf
            | Self::Slice => (1, true),
            Self::Len | Self::Not => (1, false),
            Self::Ge | Self::Gt | Self::Le | Self::Lt | Self::Ne => (2, false),
        }
    }

    /// Calls the function with as many arguments as its arity says.
    pub(crate) fn call(self, arguments: &[Value]) -> Result<Value, Failure> {
        let (first, others) = match arguments {
            [first, others @ ..] => (first, others),
            [] => (&Value::Nil, arguments),
        };
        let second = others.first().unwrap_or(&Value::Nil);
        Ok(match self {
            // Decided by their arguments' truth before they get here.
            Self::And | Self::Or => first.clone(),
            Self::Call => {
                return Err(format!("non-function of type {}", first.type_name()).into());
            }
            Self::Eq => equals_any(arguments)?.into(),
            Self::Ne => (!equal(first, second)?).into(),
            Self::Lt => (order(first, second)? == Some(Ordering::Less)).into(),
            Self::Le => order(first, second)?.is_some_and(Ordering::is_le).into(),
            // As in Go the negations of the two above, also for what is no number.
            Self::Gt => (!order(first, second)?.is_some_and(Ordering::is_le)).into(),
            Self::Ge => (order(first, second)? != Some(Ordering::Less)).into(),
            Self::Html => text_of(arguments, escape::html)?,
            Self::Js => text_of(arguments, escape::js)?,
            Self::UrlQuery => text_of(arguments, escape::url_query)?,
            Self::Index => index(first, others)?,
            Self::Len => length(first)?,
            Self::Not => (!first.is_true()).into(),
            Self::Print => made(|output| printf::print(arguments, output))?,
            Self::Println => made(|output| printf::println(arguments, output))?,
            Self::Printf => {
                let format = first.as_str().unwrap_or_default();
                made(|output| printf::printf(format, others, output))?
            }
            Self::Slice => slice(first, others)?,
        })
    }
}

/// The text that `write` makes.
fn made(write: impl FnOnce(&mut Output)) -> Result<Value, Failure> {
    let mut output = Output::new(OUTPUT_BYTES_MAX);
    write(&mut output);
    if output.overflowed() {
        Err(Failure::Overflow)
    } else {
        Ok(output.into_text().into())
    }
}

fn text_of(arguments: &[Value], escape: fn(&str, &mut Output)) -> Result<Value, Failure> {
    if let [Value::String(text)] = arguments {
        return made(|output| escape(text, output));
    }
    let no_value = Value::from(NO_VALUE);
    let shown: Vec<_> = arguments
        .iter()
        .map(|value| {
            if matches!(value, Value::Nil) {
                no_value.clone()
            } else {
                value.clone()
            }
        })
        .collect();
    let plain = made(|output| printf::print(&shown, output))?;
    made(|output| escape(plain.as_str().unwrap_or_default(), output))
}

/// What an action prints that has no value.
pub(crate) const NO_VALUE: &str = "<no value>";

fn length(value: &Value) -> Result<Value, String> {
    let length = match value {
        Value::String(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Map(map) => map.entries.len(),
        Value::Nil => return Err("len of nil pointer".to_owned()),
        other => return Err(format!("len of type {}", other.type_name())),
    };
    Ok(Value::Int(length as i64))
}

fn index(value: &Value, indexes: &[Value]) -> Result<Value, String> {
    let mut value = value.clone();
    if matches!(value, Value::Nil) {
        return Err("index of untyped nil".to_owned());
    }
    for index in indexes {
        value = match &value {
            Value::List(items) => items[position(index, items.len(), false)?].clone(),
            Value::String(text) => {
                Value::Int(text.as_bytes()[position(index, text.len(), false)?].into())
            }
            Value::Map(map) => {
                let key = index.as_str().ok_or_else(|| {
                    format!("value has type {}; should be string", index.type_name())
                })?;
                map.entries.get(key).unwrap_or(&map.missing).clone()
            }
            Value::Nil => return Err("index of nil pointer".to_owned()),
            other => return Err(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(value)
}

/// `index` as a position in something of `length`, also the one at its end if that is allowed.
fn position(index: &Value, length: usize, end_allowed: bool) -> Result<usize, String> {
    let number = match index {
        Value::Nil => return Err("cannot index slice/array with nil".to_owned()),
        other => other
            .as_int()
            .ok_or_else(|| format!("cannot index slice/array with type {}", other.type_name()))?,
    };
    match usize::try_from(number) {
        Ok(position) if position < length || (end_allowed && position == length) => Ok(position),
        _ => Err(format!("index out of range: {number}")),
    }
}

fn slice(value: &Value, indexes: &[Value]) -> Result<Value, String> {
    if indexes.len() > 3 {
        return Err(format!("too many slice indexes: {}", indexes.len()));
    }
    let length = match value {
        Value::String(_) if indexes.len() == 3 => {
            return Err("cannot 3-index slice a string".to_owned());
        }
        Value::String(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Nil => return Err("slice of untyped nil".to_owned()),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    let mut bounds = [0, length, length];
    for (bound, index) in bounds.iter_mut().zip(indexes) {
        *bound = position(index, length, true)?;
    }
    let [start, end, capacity] = bounds;
    if start > end || end > capacity {
        return Err(format!("invalid slice index: {start} > {end}"));
    }
    Ok(match value {
        Value::List(items) => Value::List(Arc::from(&items[start..end])),
        Value::String(text) => String::from_utf8_lossy(&text.as_bytes()[start..end])
            .into_owned()
            .into(),
        _ => Value::Nil,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(numbers: &[i64]) -> Vec<Value> {
        numbers.iter().copied().map(Value::Int).collect()
    }

    fn call(builtin: Builtin, arguments: &[Value]) -> Result<String, Failure> {
        builtin.call(arguments).map(|value| value.to_string())
    }

    #[test]
    fn index_goes_through_lists_maps_and_strings() {
        let list = Value::list(ints(&[7, 8]));
        let map = Value::map([("a", list.clone())], Value::list([]));
        assert_eq!(
            call(Builtin::Index, &[map.clone(), "a".into(), Value::Int64(1)]).unwrap(),
            "8"
        );
        assert_eq!(
            call(Builtin::Index, &[map.clone(), "b".into()]).unwrap(),
            "[]"
        );
        assert_eq!(
            call(Builtin::Index, &["abc".into(), Value::Int(1)]).unwrap(),
            "98"
        );
        for bad in [
            [list.clone(), Value::Int(2)],
            [list.clone(), Value::Int(-1)],
            [list, "a".into()],
            [map.clone(), Value::Int(1)],
            [map, Value::Nil],
            [Value::Nil, Value::Int(0)],
            [Value::Int(1), Value::Int(0)],
        ] {
            assert!(call(Builtin::Index, &bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn slice_cuts_lists_and_strings() {
        let list = Value::list(ints(&[1, 2, 3]));
        let with = |value: &Value, numbers: &[i64]| {
            let mut arguments = vec![value.clone()];
            arguments.extend(ints(numbers));
            call(Builtin::Slice, &arguments)
        };
        assert_eq!(with(&list, &[]).unwrap(), "[1 2 3]");
        assert_eq!(with(&list, &[1]).unwrap(), "[2 3]");
        assert_eq!(with(&list, &[1, 2, 3]).unwrap(), "[2]");
        assert_eq!(with(&"aéb".into(), &[0, 2]).unwrap(), "a\u{fffd}");
        assert_eq!(with(&"ab".into(), &[2]).unwrap(), "");
        for bad in [&[4][..], &[2, 1], &[0, 3, 2], &[0, 1, 2, 3], &[-1]] {
            assert!(with(&list, bad).is_err(), "{bad:?}");
        }
        assert!(with(&"abc".into(), &[0, 1, 2]).is_err());
    }

    #[test]
    fn what_is_no_number_is_neither_less_nor_equal() {
        let arguments = [Value::Float(f64::NAN), Value::Float(1.0)];
        assert_eq!(call(Builtin::Lt, &arguments).unwrap(), "false");
        assert_eq!(call(Builtin::Le, &arguments).unwrap(), "false");
    }

    #[test]
    fn print_sets_spaces_between_what_is_no_text() {
        let arguments = [
            Value::Int(1),
            Value::Int(2),
            "a".into(),
            Value::Nil,
            Value::Nil,
        ];
        assert_eq!(call(Builtin::Print, &arguments).unwrap(), "1 2a<nil> <nil>");
        assert_eq!(
            call(Builtin::Html, &[Value::Nil]).unwrap(),
            "&lt;no value&gt;"
        );
    }
}
