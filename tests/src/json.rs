//! JSON that remembers the order of its keys, because the order is part of what clients rely on.

use std::{fmt, fmt::Write as _};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

/// A JSON value; `Display` prints it indented by two blanks, as the original indents.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// Null, boolean, number or string.
    Scalar(Value),
    /// An array.
    Array(Vec<Self>),
    /// An object in the order of its text.
    Object(Vec<(String, Self)>),
}

impl Json {
    /// # Panics
    /// When `text` is not one JSON document.
    pub fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON: {error}: {text}"))
    }

    /// A member of an object.
    pub fn member(&self, key: &str) -> Option<&Self> {
        self.members()
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }

    /// All members of an object, none of anything else.
    pub fn members(&self) -> &[(String, Self)] {
        match self {
            Self::Object(members) => members,
            Self::Scalar(_) | Self::Array(_) => &[],
        }
    }

    /// All elements of an array, none of anything else.
    pub fn elements(&self) -> &[Self] {
        match self {
            Self::Array(elements) => elements,
            Self::Scalar(_) | Self::Object(_) => &[],
        }
    }

    /// The text of a string, empty for anything else.
    pub fn text(&self) -> &str {
        match self {
            Self::Scalar(value) => value.as_str().unwrap_or_default(),
            Self::Array(_) | Self::Object(_) => "",
        }
    }

    /// A whole number.
    pub fn number(&self) -> Option<i64> {
        match self {
            Self::Scalar(value) => value.as_i64(),
            Self::Array(_) | Self::Object(_) => None,
        }
    }

    /// The document without any blank.
    pub fn compact(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, None);
        text
    }

    fn write(&self, out: &mut String, depth: Option<usize>) {
        let (open, close, length) = match self {
            Self::Scalar(value) => {
                let _ = write!(out, "{value}");
                return;
            }
            Self::Array(elements) => ('[', ']', elements.len()),
            Self::Object(members) => ('{', '}', members.len()),
        };
        let inner = depth.map(|depth| depth + 1);
        out.push(open);
        for i in 0..length {
            if i > 0 {
                out.push(',');
            }
            indent(out, inner);
            match self {
                Self::Array(elements) => elements[i].write(out, inner),
                Self::Object(members) => {
                    let colon = if depth.is_some() { ": " } else { ":" };
                    let _ = write!(out, "{}{colon}", Value::String(members[i].0.clone()));
                    members[i].1.write(out, inner);
                }
                Self::Scalar(_) => {}
            }
        }
        if length > 0 {
            indent(out, depth);
        }
        out.push(close);
    }
}

fn indent(out: &mut String, depth: Option<usize>) {
    if let Some(depth) = depth {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text, Some(0));
        f.write_str(&text)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Ordered)
    }
}

struct Ordered;

impl<'de> Visitor<'de> for Ordered {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = access.next_element()? {
            elements.push(element);
        }
        Ok(Json::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = access.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::Json;

    #[test]
    fn keeps_the_order_of_keys_and_the_two_forms_of_text() {
        let compact = r#"{"b":1,"a":[true,null,"x"],"empty":{},"none":[]}"#;
        let json = Json::parse(compact);
        assert_eq!(json.compact(), compact);
        assert_eq!(
            json.to_string(),
            "{\n  \"b\": 1,\n  \"a\": [\n    true,\n    null,\n    \"x\"\n  ],\n  \"empty\": {},\n  \"none\": []\n}"
        );
    }
}
