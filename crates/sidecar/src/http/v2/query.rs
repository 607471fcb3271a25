//! The part of a URL behind the question mark. What nobody knows is refused: a filter that is
//! misspelt would otherwise let everything through.

use axum::{extract, http::request::Parts};

/// The parameters of a request.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

/// Why a query cannot be answered.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum BadQuery {
    /// It is not encoded as queries are.
    #[error("the query {0:?} cannot be read: expected name=value, joined by &")]
    Unreadable(String),
    /// A parameter that does not exist.
    #[error("unknown parameter {name:?}: expected {expected}")]
    Name {
        /// As it came.
        name: String,
        /// The names there are.
        expected: String,
    },
    /// A value that means nothing.
    #[error("{name}={value:?} means nothing: expected {expected}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// As it came.
        value: String,
        /// What would be understood.
        expected: &'static str,
    },
}

impl BadQuery {
    pub(super) fn value(name: &'static str, value: &str, expected: &'static str) -> Self {
        Self::Value {
            name,
            value: value.to_owned(),
            expected,
        }
    }
}

impl Query {
    /// Reads the query, in which only parameters of these names may be.
    pub(super) fn of(head: &Parts, names: &[&str]) -> Result<Self, BadQuery> {
        let Ok(extract::Query(pairs)) =
            extract::Query::<Vec<(String, String)>>::try_from_uri(&head.uri)
        else {
            let query = head.uri.query().unwrap_or_default();
            return Err(BadQuery::Unreadable(query.to_owned()));
        };
        match pairs
            .iter()
            .find(|(name, _)| !names.contains(&name.as_str()))
        {
            Some((name, _)) => Err(BadQuery::Name {
                name: name.clone(),
                expected: names.join(", "),
            }),
            None => Ok(Self(pairs)),
        }
    }

    /// The value of a parameter; `None` when it is not there or empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(it, _)| it == name)?;
        (!value.is_empty()).then_some(value)
    }
}
