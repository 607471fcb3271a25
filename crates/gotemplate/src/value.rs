//! The values a template works on: Go's types as far as a template can tell them apart.
//!
//! Strings are text: where Go would make bytes that are no UTF-8 (`slice` through a character, `"\xff"`), U+FFFD stands.
//! An empty list or map is Go's nil one too. A list of objects prints the objects, where Go prints addresses.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::printf;
use crate::time::{Duration, Time};

/// A value; cheap to clone.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Value {
    /// No value: Go's nil, and what a missing key of an untyped map gives. Prints `<no value>`.
    #[default]
    Nil,
    /// Go's `bool`.
    Bool(bool),
    /// Go's `int`: what an integer literal is where nothing asks for another type.
    Int(i64),
    /// Go's `int64`. It differs from `int` only where a function asks for one of them.
    Int64(i64),
    /// Go's `float64`.
    Float(f64),
    /// Go's `string`.
    String(Arc<str>),
    /// A slice or an array.
    List(Arc<[Self]>),
    /// A map with string keys.
    Map(Arc<Map>),
    /// A struct, or a pointer to one: fields and methods.
    Object(Arc<dyn Object>),
    /// Go's `time.Time`.
    Time(Time),
    /// Go's `time.Duration`.
    Duration(Duration),
    /// An integer that prints as a name, such as Go's `time.Month`.
    Named(Named),
}

/// A map with string keys, in bytewise key order, and what a key it has not gives.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// The entries.
    pub entries: BTreeMap<String, Value>,
    /// What `index` gives for a missing key: the zero value of Go's element type (an empty list for a map of lists).
    /// `.key` gives no value all the same, as in Go. Default [`Value::Nil`].
    pub missing: Value,
}

/// An integer that prints as a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Go's name of the type.
    pub type_name: &'static str,
    /// The number, for comparisons and `%d`.
    pub number: i64,
    /// The name, for printing.
    pub name: &'static str,
}

/// Something with fields and methods.
///
/// [`Record`] is one made of fields alone.
pub trait Object: Any + fmt::Debug + Send + Sync {
    /// The name Go would print for the type; errors quote it, and [`Parameter::Object`](crate::Parameter) compares it.
    fn type_name(&self) -> &str;

    /// The value of a field, or `None` if there is no such field.
    fn field(&self, name: &str) -> Option<Value>;

    /// Calls a method, or is `None` if there is no such method. Methods come before fields.
    ///
    /// # Errors
    /// What the method says of its arguments or of itself; the engine adds the place in the template.
    fn call(&self, method: &str, arguments: &[Value]) -> Option<Result<Value, String>>;

    /// The object as Go prints it: the fields in braces, `{a b 1}`.
    fn print(&self) -> String;
}

/// An object that is only its fields, in their order.
#[derive(Clone, Debug)]
pub struct Record {
    type_name: String,
    fields: Vec<(String, Value)>,
}

impl Record {
    /// A record of `fields`, printed in this order.
    pub fn new<N: Into<String>>(
        type_name: impl Into<String>,
        fields: impl IntoIterator<Item = (N, Value)>,
    ) -> Self {
        Self {
            type_name: type_name.into(),
            fields: fields
                .into_iter()
                .map(|(name, value)| (name.into(), value))
                .collect(),
        }
    }
}

impl Object for Record {
    fn type_name(&self) -> &str {
        &self.type_name
    }

    fn field(&self, name: &str) -> Option<Value> {
        self.fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.clone())
    }

    fn call(&self, _method: &str, _arguments: &[Value]) -> Option<Result<Value, String>> {
        None
    }

    fn print(&self) -> String {
        let fields: Vec<_> = self
            .fields
            .iter()
            .map(|(_, value)| value.to_string())
            .collect();
        format!("{{{}}}", fields.join(" "))
    }
}

impl Value {
    /// A list.
    pub fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::List(items.into_iter().collect())
    }

    /// A map of which `index` gives `missing` for keys it has not.
    pub fn map<K: Into<String>>(
        entries: impl IntoIterator<Item = (K, Self)>,
        missing: Self,
    ) -> Self {
        let entries = entries
            .into_iter()
            .map(|(key, value)| (key.into(), value))
            .collect();
        Self::Map(Arc::new(Map { entries, missing }))
    }

    /// An object.
    pub fn object(object: impl Object) -> Self {
        Self::Object(Arc::new(object))
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is an integer of any of Go's types.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) | Self::Int64(number) => Some(*number),
            Self::Duration(duration) => Some(duration.nanoseconds()),
            Self::Named(named) => Some(named.number),
            _ => None,
        }
    }

    /// The object, if this is an object made from a `T`.
    pub fn downcast<T: Object>(&self) -> Option<&T> {
        match self {
            Self::Object(object) => {
                let any: &dyn Any = object.as_ref();
                any.downcast_ref()
            }
            _ => None,
        }
    }

    /// Go's name of the type.
    pub fn type_name(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            Self::Nil => "nil",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Int64(_) => "int64",
            Self::Float(_) => "float64",
            Self::String(_) => "string",
            Self::List(items) => return list_type("[]", items.first()),
            Self::Map(map) => return list_type("map[string]", map.entries.values().next()),
            Self::Object(object) => object.type_name(),
            Self::Time(_) => "time.Time",
            Self::Duration(_) => "time.Duration",
            Self::Named(named) => named.type_name,
        })
    }

    /// Whether a condition holds: Go's rule, by which zero and what is empty are false.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(truth) => *truth,
            Self::Int(number) | Self::Int64(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::String(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Map(map) => !map.entries.is_empty(),
            Self::Duration(duration) => duration.nanoseconds() != 0,
            Self::Named(named) => named.number != 0,
            Self::Object(_) | Self::Time(_) => true,
        }
    }
}

/// Elements have no static type here; the first one speaks for all.
fn list_type<'v>(prefix: &str, first: Option<&'v Value>) -> Cow<'v, str> {
    let element = first.map_or(Cow::Borrowed("interface {}"), Value::type_name);
    Cow::Owned(format!("{prefix}{element}"))
}

/// The value as Go's `fmt.Print` prints it; nil is `<nil>`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printf::display(self))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text.into())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<Time> for Value {
    fn from(time: Time) -> Self {
        Self::Time(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_empty_are_false() {
        let missing = Value::Nil;
        for value in [
            Value::Nil,
            false.into(),
            Value::Int(0),
            Value::Int64(0),
            Value::Float(0.0),
            "".into(),
            Value::list([]),
            Value::map::<String>([], missing),
        ] {
            assert!(!value.is_true(), "{value:?}");
        }
        for value in [
            true.into(),
            Value::Int(-1),
            "0".into(),
            Value::list([Value::Nil]),
        ] {
            assert!(value.is_true(), "{value:?}");
        }
    }

    #[test]
    fn values_print_as_go_prints_them() {
        let record = Record::new("T", [("A", Value::from("x")), ("B", Value::Nil)]);
        assert_eq!(Value::object(record).to_string(), "{x <nil>}");
        let map = Value::map(
            [("b", Value::Int(2)), ("a", Value::list(["x".into()]))],
            Value::Nil,
        );
        assert_eq!(map.to_string(), "map[a:[x] b:2]");
        assert_eq!(map.type_name(), "map[string][]string");
    }

    #[test]
    fn an_object_is_found_again_by_its_type() {
        let value = Value::object(Record::new("T", [("A", Value::Int(1))]));
        assert!(value.downcast::<Record>().is_some());
        assert!(Value::Nil.downcast::<Record>().is_none());
    }
}
