//! A structure being read field by field, each as the type the field has in Go. What a field of
//! the right type may not hold is `check`'s business.

use super::{
    super::{
        error::{MsgpackProblem, WireError, quote},
        msgpack::{Fields, Value},
    },
    Result,
};

/// A structure being read; its name is for the errors.
pub(super) struct Record<'a> {
    structure: &'static str,
    fields: Fields<'a>,
}

pub(super) struct Field<'a> {
    structure: &'static str,
    pub(super) key: &'a [u8],
    value: Value<'a>,
}

impl<'a> Record<'a> {
    pub(super) fn open(structure: &'static str, input: &'a [u8]) -> Result<Self> {
        match Fields::open(input) {
            Ok(fields) => Ok(Self { structure, fields }),
            Err(problem) => Err(WireError::Msgpack { structure, problem }),
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>> {
        let structure = self.structure;
        match self.fields.next() {
            Ok(found) => Ok(found.map(|(key, value)| Field {
                structure,
                key,
                value,
            })),
            Err(problem) => Err(WireError::Msgpack { structure, problem }),
        }
    }
}

impl<'a> Field<'a> {
    pub(super) fn bytes(&self) -> Result<&'a [u8]> {
        match self.value {
            Value::Nil => Ok(&[]),
            Value::Raw(bytes) => Ok(bytes),
            _ => Err(self.wrong("bytes")),
        }
    }

    pub(super) fn text(&self) -> Result<&'a str> {
        match self.value {
            Value::Nil => Ok(""),
            Value::Raw(bytes) => std::str::from_utf8(bytes).map_err(|_| self.wrong("UTF-8 text")),
            _ => Err(self.wrong("a string")),
        }
    }

    pub(super) fn bool(&self) -> Result<bool> {
        match self.value {
            Value::Nil => Ok(false),
            Value::Bool(value) => Ok(value),
            // Go reads these two numbers as well.
            Value::Unsigned(value @ (0 | 1)) => Ok(value == 1),
            _ => Err(self.wrong("a bool")),
        }
    }

    pub(super) fn u8(&self) -> Result<u8> {
        self.unsigned("an integer from 0 to 255")
    }

    pub(super) fn u16(&self) -> Result<u16> {
        self.unsigned("an integer from 0 to 65535")
    }

    pub(super) fn u32(&self) -> Result<u32> {
        self.unsigned("an integer from 0 to 4294967295")
    }

    pub(super) fn unsigned<T: TryFrom<u64> + Default>(&self, expected: &'static str) -> Result<T> {
        match self.value {
            Value::Nil => Ok(T::default()),
            Value::Unsigned(value) => T::try_from(value).map_err(|_| self.wrong(expected)),
            _ => Err(self.wrong(expected)),
        }
    }

    /// Go's `int`.
    pub(super) fn int(&self) -> Result<i64> {
        let expected = "a 64-bit signed integer";
        match self.value {
            Value::Nil => Ok(0),
            Value::Unsigned(value) => i64::try_from(value).map_err(|_| self.wrong(expected)),
            Value::Negative(value) => Ok(value),
            _ => Err(self.wrong(expected)),
        }
    }

    pub(super) fn wrong(&self, expected: &'static str) -> WireError {
        let found = match self.value {
            Value::Nil => "nil".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Unsigned(value) => value.to_string(),
            Value::Negative(value) => value.to_string(),
            Value::Raw(bytes) => quote(bytes),
            Value::Other(what) => what.to_owned(),
        };
        // Only fields we know are ever read, so the key is one of ours and short.
        let field = String::from_utf8_lossy(self.key).into_owned();
        let problem = MsgpackProblem::Type {
            field,
            found,
            expected,
        };
        WireError::Msgpack {
            structure: self.structure,
            problem,
        }
    }
}
