//! Go's `text/template`, as the users of sidecar wrote their templates: check arguments in container labels and
//! HAProxy configuration files.
//!
//! Source text and values in, text out; no I/O, no clock, no threads. Every part of the language is here (see
//! [`Template::parse`]) except imaginary numbers, hexadecimal floating-point literals and calling function values,
//! of which there are none. The truth is Go's packages `text/template`, `text/template/parse`, `fmt` and `time`;
//! `tests/vectors` holds what they print.
//!
//! ```
//! use gotemplate::{Functions, Parameter, Record, Template, Value};
//!
//! let functions = Functions::new()
//!     .with("host", &[], |_| Ok("10.20.0.11".into()))
//!     .with("tcp", &[Parameter::Int64], |arguments| {
//!         Ok(Value::Int64(if arguments[0].as_int() == Some(10110) { 32781 } else { -1 }))
//!     });
//! let template =
//!     Template::parse("args", "http://{{ host }}:{{ tcp 10110 }}/{{ .Name }}", &functions.names())?;
//! let service = Value::object(Record::new("Service", [("Name", Value::from("web"))]));
//! assert_eq!(template.execute(&service, &functions)?, "http://10.20.0.11:32781/web");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(missing_docs)]

mod ast;
mod builtins;
mod compare;
mod error;
mod escape;
mod eval;
mod exec;
mod float;
mod format;
mod function;
mod lexer;
mod literal;
mod output;
mod parser;
mod pipeline;
mod printf;
mod time;
mod time_format;
mod value;

use std::collections::BTreeMap;

pub use error::{ExecError, Limit, Location, ParseError};
pub use function::{Functions, Parameter};
pub use time::{Duration, Time};
pub use value::{Map, Named, Object, Record, Value};

/// Longest source that is parsed, in bytes. Far above any HAProxy template written by hand.
pub const SOURCE_BYTES_MAX: usize = 1024 * 1024;

/// Longest output of a template, and longest string made while one is executed, in bytes.
pub const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most steps of one execution: nodes walked and expressions evaluated, and one for every
/// 16 bytes of text made. A server line of an HAProxy file takes some twenty.
pub const STEPS_MAX: u64 = 10_000_000;

/// Deepest nesting of parentheses and control structures in a source, and of these and of `template` calls
/// in an execution. Each level costs stack.
pub const DEPTH_MAX: u32 = 100;

/// A parsed template, with the templates it defines. It can be executed any number of times, also at once.
#[derive(Debug)]
pub struct Template {
    name: String,
    source: String,
    /// The one called `name`, and every `define` and `block`.
    templates: BTreeMap<String, ast::List>,
}

impl Template {
    /// Parses `source`. `functions` are the names of the functions it may call besides the built-in ones; a call of
    /// any other is an error here, as in Go. `name` stands in errors, and `{{template}}` can call by it.
    ///
    /// # Errors
    /// When the source is too large, too deep, or not a template.
    pub fn parse(name: &str, source: &str, functions: &[&str]) -> Result<Self, ParseError> {
        let templates = parser::parse(name, source, functions)?;
        Ok(Self {
            name: name.to_owned(),
            source: source.to_owned(),
            templates,
        })
    }

    /// Executes the template with `data` as its dot.
    ///
    /// # Errors
    /// When an expression has no value or a limit is met; what was written until then is dropped.
    pub fn execute(&self, data: &Value, functions: &Functions<'_>) -> Result<String, ExecError> {
        exec::execute(self, data, functions)
    }
}
