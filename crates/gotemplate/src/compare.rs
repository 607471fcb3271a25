//! `eq ne lt le gt ge`: which values may be compared, and how.
//!
//! The truth is Go's `text/template/funcs.go`: integers of all types with each other, otherwise like with like.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::value::Value;

/// Whether the first argument equals any of the others.
pub(crate) fn equals_any(arguments: &[Value]) -> Result<bool, String> {
    let [first, others @ ..] = arguments else {
        return Err(MISSING.to_owned());
    };
    if others.is_empty() {
        return Err(MISSING.to_owned());
    }
    for other in others {
        if equal(first, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

const MISSING: &str = "missing argument for comparison";

/// Whether two arguments are equal.
pub(crate) fn equal(left: &Value, right: &Value) -> Result<bool, String> {
    if let (Some(left), Some(right)) = (left.as_int(), right.as_int()) {
        return Ok(left == right);
    }
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => Ok(left == right),
        (Value::Float(left), Value::Float(right)) => Ok(left == right),
        (Value::String(left), Value::String(right)) => Ok(left == right),
        (Value::Time(left), Value::Time(right)) => Ok(left == right),
        (Value::Object(left), Value::Object(right)) => Ok(Arc::ptr_eq(left, right)),
        (Value::Nil, Value::Nil) => Ok(true),
        // Only a list or map can be nil, and an empty one stands for it.
        (Value::Nil, other) | (other, Value::Nil) => Ok(match other {
            Value::List(items) => items.is_empty(),
            Value::Map(map) => map.entries.is_empty(),
            _ => false,
        }),
        (Value::List(_), Value::List(_)) | (Value::Map(_), Value::Map(_)) => {
            Err(format!("non-comparable type {}", left.type_name()))
        }
        _ => Err(incompatible(left, right)),
    }
}

/// The order of two arguments; `None` only for a float that is no number.
pub(crate) fn order(left: &Value, right: &Value) -> Result<Option<Ordering>, String> {
    if let (Some(left), Some(right)) = (left.as_int(), right.as_int()) {
        return Ok(Some(left.cmp(&right)));
    }
    match (left, right) {
        (Value::Float(left), Value::Float(right)) => Ok(left.partial_cmp(right)),
        (Value::String(left), Value::String(right)) => Ok(Some(left.cmp(right))),
        (Value::Bool(_), Value::Bool(_)) => Err("invalid type for comparison: bool".to_owned()),
        (Value::Int(_) | Value::Int64(_) | Value::Float(_) | Value::String(_), _)
        | (_, Value::Int(_) | Value::Int64(_) | Value::Float(_) | Value::String(_)) => {
            Err(incompatible(left, right))
        }
        _ => Err(format!("invalid type for comparison: {}", left.type_name())),
    }
}

fn incompatible(left: &Value, right: &Value) -> String {
    format!(
        "incompatible types for comparison: {} and {}",
        left.type_name(),
        right.type_name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_is_compared_with_like() {
        assert_eq!(equal(&Value::Int(1), &Value::Int64(1)), Ok(true));
        assert!(equal(&Value::Int(1), &Value::Float(1.0)).is_err());
        assert!(equal(&Value::Int(1), &"1".into()).is_err());
        assert!(equal(&Value::list([Value::Nil]), &Value::list([Value::Nil])).is_err());
        assert_eq!(equal(&Value::list([]), &Value::Nil), Ok(true));
        assert_eq!(equal(&"".into(), &Value::Nil), Ok(false));
        assert!(equals_any(&[Value::Int(1)]).is_err());
    }

    #[test]
    fn only_numbers_and_strings_have_an_order() {
        assert_eq!(
            order(&"10000".into(), &"9000".into()),
            Ok(Some(Ordering::Less))
        );
        assert_eq!(order(&Value::Float(f64::NAN), &Value::Float(1.0)), Ok(None));
        assert!(order(&true.into(), &false.into()).is_err());
        assert!(order(&Value::Nil, &Value::Nil).is_err());
        assert!(order(&Value::Int(1), &Value::Float(1.0)).is_err());
    }
}
