//! The functions a template may call besides the built-in ones: a name, the types of its parameters, a closure.

use std::collections::BTreeMap;
use std::fmt;

use crate::value::Value;

/// The type of a parameter. Go checks arguments against it before the call, and reads literals by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Parameter {
    /// Any value, also none.
    Any,
    /// Go's `bool`.
    Bool,
    /// Go's `int`.
    Int,
    /// Go's `int64`: takes a literal, but no value that already is an `int`.
    Int64,
    /// Go's `float64`.
    Float,
    /// Go's `string`.
    String,
    /// Go's `time.Time`.
    Time,
    /// An object with this [`type_name`](crate::Object::type_name).
    Object(&'static str),
}

impl Parameter {
    pub(crate) fn type_name(self) -> &'static str {
        match self {
            Self::Any => "interface {}",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Int64 => "int64",
            Self::Float => "float64",
            Self::String => "string",
            Self::Time => "time.Time",
            Self::Object(name) => name,
        }
    }

    pub(crate) fn takes(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Any, _)
            | (Self::Bool, Value::Bool(_))
            | (Self::Int, Value::Int(_))
            | (Self::Int64, Value::Int64(_))
            | (Self::Float, Value::Float(_))
            | (Self::String, Value::String(_))
            | (Self::Time, Value::Time(_)) => true,
            (Self::Object(name), Value::Object(object)) => object.type_name() == name,
            _ => false,
        }
    }
}

type Closure<'a> = Box<dyn Fn(&[Value]) -> Result<Value, String> + 'a>;

pub(crate) struct Function<'a> {
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) closure: Closure<'a>,
}

/// Functions by name. One with the name of a built-in function takes its place.
#[derive(Default)]
pub struct Functions<'a> {
    by_name: BTreeMap<String, Function<'a>>,
}

impl<'a> Functions<'a> {
    /// No functions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function. It is called with exactly as many arguments as there are `parameters`, each of its type; what
    /// it fails with is reported with its place in the template.
    #[must_use]
    pub fn with(
        mut self,
        name: impl Into<String>,
        parameters: &[Parameter],
        closure: impl Fn(&[Value]) -> Result<Value, String> + 'a,
    ) -> Self {
        let function = Function {
            parameters: parameters.to_vec(),
            closure: Box::new(closure),
        };
        self.by_name.insert(name.into(), function);
        self
    }

    /// The names, for [`Template::parse`](crate::Template::parse).
    pub fn names(&self) -> Vec<&str> {
        self.by_name.keys().map(String::as_str).collect()
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Function<'a>> {
        self.by_name.get(name)
    }
}

impl fmt::Debug for Functions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}
