//! What can go wrong with a template: while it is read, and while it is executed.

use std::fmt;

/// Why a template could not be parsed. Nothing was executed; the same source fails again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The source does not follow the language, or names a function that does not exist.
    #[error("template: {template}:{line}: {message}")]
    Syntax {
        /// Name given to the template.
        template: String,
        /// Line of the source, from 1.
        line: u32,
        /// What was wrong there.
        message: String,
    },
    /// The source is longer than [`SOURCE_BYTES_MAX`](crate::SOURCE_BYTES_MAX).
    #[error("template: {template}: source has {size_bytes} bytes; at most {limit_bytes} are read")]
    TooLarge {
        /// Name given to the template.
        template: String,
        /// Size of the source.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
}

/// Where in a template something went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Name given to the parsed source.
    pub source: String,
    /// Name of the executed template: the source's, or that of a `define` or `block` in it.
    pub template: String,
    /// Line of the source, from 1.
    pub line: u32,
    /// Column in bytes, from 0, as Go counts it.
    pub column: u32,
    /// The piece of the source, shortened.
    pub context: String,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            template,
            line,
            column,
            context,
        } = self;
        write!(
            f,
            "{source}:{line}:{column}: executing {template:?} at <{context}>"
        )
    }
}

/// Why the execution of a template stopped. What it had written until then is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// An expression has no value: an unknown field, an argument of the wrong type, a function that failed.
    #[error("template: {location}: {message}")]
    Evaluation {
        /// Which expression.
        location: Box<Location>,
        /// What was wrong with it.
        message: String,
    },
    /// The template asked for more than an execution may use. Other data may need less.
    #[error("template: {location}: {limit}")]
    Limit {
        /// What was being evaluated.
        location: Box<Location>,
        /// Which limit was met.
        limit: Limit,
    },
}

/// A bound on the execution of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`OUTPUT_BYTES_MAX`](crate::OUTPUT_BYTES_MAX), of the whole output or of one string made on the way.
    Output,
    /// [`STEPS_MAX`](crate::STEPS_MAX).
    Steps,
    /// [`DEPTH_MAX`](crate::DEPTH_MAX).
    Depth,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output => write!(f, "output exceeds {} bytes", crate::OUTPUT_BYTES_MAX),
            Self::Steps => write!(f, "execution exceeds {} steps", crate::STEPS_MAX),
            Self::Depth => write!(f, "nesting exceeds {} levels", crate::DEPTH_MAX),
        }
    }
}
