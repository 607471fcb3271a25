//! msgpack as memberlist uses it: the old specification, whose strings and byte strings are both
//! "raw", written as Go's `codec` does with its defaults and read as leniently as it reads.
//!
//! Not a general codec: it reads structures (maps from field name to scalar) and skips whatever
//! else it meets. Nothing is allocated from a declared length.

use super::{error::MsgpackProblem, limits::MSGPACK_DEPTH_MAX};

type Result<T> = std::result::Result<T, MsgpackProblem>;

/// What the first bytes of a value say. `Raw` and `Ext` tell how many bytes follow, `Array` and
/// `Map` how many values.
#[derive(Debug, Clone, Copy)]
enum Head {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Float,
    Raw(usize),
    Ext(usize),
    Array(u64),
    Map(u64),
}

/// Big-endian number of `width` bytes at `at`.
fn number(input: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = input.get(at..)?.get(..width)?;
    Some(
        bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)),
    )
}

/// Head of the value at `at` and where it ends. `Err` in the option: more input is needed, up to
/// that position at least.
fn head(input: &[u8], at: usize) -> Result<std::result::Result<(Head, usize), usize>> {
    let Some(&marker) = input.get(at) else {
        return Ok(Err(at + 1));
    };
    let (width, make): (usize, fn(u64) -> Head) = match marker {
        0x00..=0x7f => return Ok(Ok((Head::Unsigned(u64::from(marker)), at + 1))),
        0x80..=0x8f => return Ok(Ok((Head::Map(u64::from(marker & 0x0f)), at + 1))),
        0x90..=0x9f => return Ok(Ok((Head::Array(u64::from(marker & 0x0f)), at + 1))),
        0xa0..=0xbf => return Ok(Ok((Head::Raw(usize::from(marker & 0x1f)), at + 1))),
        0xe0..=0xff => {
            return Ok(Ok((
                Head::Negative(i64::from(marker.cast_signed())),
                at + 1,
            )));
        }
        0xc0 => return Ok(Ok((Head::Nil, at + 1))),
        0xc1 => return Err(MsgpackProblem::Reserved),
        0xc2 | 0xc3 => return Ok(Ok((Head::Bool(marker == 0xc3), at + 1))),
        // The type byte of an extension counts as part of its body.
        0xd4..=0xd8 => return Ok(Ok((Head::Ext(1 + (1 << (marker - 0xd4))), at + 1))),
        0xc4 | 0xd9 => (1, |n| Head::Raw(size(n))),
        0xc5 | 0xda => (2, |n| Head::Raw(size(n))),
        0xc6 | 0xdb => (4, |n| Head::Raw(size(n))),
        0xc7 => (1, |n| Head::Ext(size(n + 1))),
        0xc8 => (2, |n| Head::Ext(size(n + 1))),
        0xc9 => (4, |n| Head::Ext(size(n + 1))),
        0xca => (4, |_| Head::Float),
        0xcb => (8, |_| Head::Float),
        0xcc => (1, Head::Unsigned),
        0xcd => (2, Head::Unsigned),
        0xce => (4, Head::Unsigned),
        0xcf => (8, Head::Unsigned),
        0xd0 => (1, |n| signed(i64::from((n as u8).cast_signed()))),
        0xd1 => (2, |n| signed(i64::from((n as u16).cast_signed()))),
        0xd2 => (4, |n| signed(i64::from((n as u32).cast_signed()))),
        0xd3 => (8, |n| signed(n.cast_signed())),
        0xdc => (2, Head::Array),
        0xdd => (4, Head::Array),
        0xde => (2, Head::Map),
        0xdf => (4, Head::Map),
    };
    let end = at + 1 + width;
    Ok(number(input, at + 1, width).map_or(Err(end), |n| Ok((make(n), end))))
}

fn size(declared: u64) -> usize {
    usize::try_from(declared).unwrap_or(usize::MAX)
}

fn signed(number: i64) -> Head {
    u64::try_from(number).map_or(Head::Negative(number), Head::Unsigned)
}

/// Whether a value is complete, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scan {
    /// The value ends before this position.
    End(usize),
    /// The input must reach this position at least.
    Needs(usize),
}

/// Finds the end of one value without building it, and goes on where it stopped when more of the
/// same input has arrived.
#[derive(Debug)]
pub(super) struct Scanner {
    at: usize,
    /// For every container entered, how many of its values are still to come.
    open: Vec<u64>,
    depth_max: usize,
    /// The value must be a map.
    structure: bool,
}

impl Scanner {
    /// Scans any value that starts at `at`.
    fn value(at: usize) -> Self {
        Self {
            at,
            open: Vec::new(),
            depth_max: MSGPACK_DEPTH_MAX,
            structure: false,
        }
    }

    /// Scans a structure that starts at `at`; the depth is that of its fields.
    pub(super) fn structure(at: usize) -> Self {
        Self {
            at,
            open: Vec::new(),
            depth_max: MSGPACK_DEPTH_MAX + 1,
            structure: true,
        }
    }

    /// Call with the input so far, from its very start.
    pub(super) fn scan(&mut self, input: &[u8]) -> Result<Scan> {
        loop {
            let (head, head_end) = match head(input, self.at)? {
                Ok(found) => found,
                Err(needed) => return Ok(Scan::Needs(needed)),
            };
            if std::mem::take(&mut self.structure) && !matches!(head, Head::Map(_)) {
                return Err(MsgpackProblem::NotAMap(input[self.at]));
            }
            let end = match head {
                Head::Raw(bytes) | Head::Ext(bytes) => head_end.saturating_add(bytes),
                _ => head_end,
            };
            if end > input.len() {
                return Ok(Scan::Needs(end));
            }
            self.at = end;
            let values = match head {
                Head::Array(values) => Some(values),
                Head::Map(pairs) => Some(2 * pairs),
                _ => None,
            };
            if let Some(values) = values {
                if self.open.len() == self.depth_max {
                    return Err(MsgpackProblem::TooDeep);
                }
                if values > 0 {
                    self.open.push(values);
                    continue;
                }
            }
            while let Some(left) = self.open.last_mut() {
                *left -= 1;
                if *left > 0 {
                    break;
                }
                self.open.pop();
            }
            if self.open.is_empty() {
                return Ok(Scan::End(self.at));
            }
        }
    }
}

/// The value of a field, as far as we ever need one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    /// String or byte string: the old specification does not tell them apart.
    Raw(&'a [u8]),
    /// Float, array, map or extension; skipped.
    Other(&'static str),
}

/// The fields of one structure, in the order they stand.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    input: &'a [u8],
    at: usize,
    left: u64,
}

impl<'a> Fields<'a> {
    /// `input` starts with the structure; bytes after it are not looked at.
    pub(super) fn open(input: &'a [u8]) -> Result<Self> {
        match head(input, 0)? {
            Ok((Head::Map(0), _)) => Err(MsgpackProblem::EmptyMap),
            Ok((Head::Map(left), at)) => Ok(Self { input, at, left }),
            Ok(_) => Err(MsgpackProblem::NotAMap(input[0])),
            Err(needed) => Err(truncated(input, needed)),
        }
    }

    /// The next key and value; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<(&'a [u8], Value<'a>)>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let key_at = self.at;
        let Value::Raw(key) = self.value()? else {
            return Err(MsgpackProblem::Key(self.input[key_at]));
        };
        Ok(Some((key, self.value()?)))
    }

    fn value(&mut self) -> Result<Value<'a>> {
        let start = self.at;
        let (head, end) =
            head(self.input, start)?.map_err(|needed| truncated(self.input, needed))?;
        self.at = end;
        Ok(match head {
            Head::Nil => Value::Nil,
            Head::Bool(value) => Value::Bool(value),
            Head::Unsigned(value) => Value::Unsigned(value),
            Head::Negative(value) => Value::Negative(value),
            Head::Float => Value::Other("a float"),
            Head::Raw(bytes) => {
                let raw = self.input[end..]
                    .get(..bytes)
                    .ok_or_else(|| truncated(self.input, end.saturating_add(bytes)))?;
                self.at = end + bytes;
                Value::Raw(raw)
            }
            Head::Ext(_) => self.skip(start, "an extension")?,
            Head::Array(_) => self.skip(start, "an array")?,
            Head::Map(_) => self.skip(start, "a map")?,
        })
    }

    fn skip(&mut self, start: usize, what: &'static str) -> Result<Value<'a>> {
        match Scanner::value(start).scan(self.input)? {
            Scan::End(end) => self.at = end,
            Scan::Needs(needed) => return Err(truncated(self.input, needed)),
        }
        Ok(Value::Other(what))
    }
}

fn truncated(input: &[u8], needed: usize) -> MsgpackProblem {
    MsgpackProblem::Truncated {
        needed,
        available: input.len(),
    }
}

/// Appends values to a message.
///
/// Lengths are cut to what a `u32` holds, so that no call can write a length that is not that of
/// the bytes after it; nothing in the protocol comes near.
#[derive(Debug)]
pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

impl Writer<'_> {
    /// Opens a structure of `fields` fields; all of ours have fewer than sixteen.
    pub(super) fn map(&mut self, fields: u8) -> &mut Self {
        debug_assert!((1..16).contains(&fields), "structure with {fields} fields");
        self.0.push(0x80 | fields);
        self
    }

    pub(super) fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.raw(key.as_bytes());
        self.raw(value.as_bytes());
        self
    }

    /// Empty becomes nil, which is what Go writes for a slice that was never made.
    pub(super) fn bytes(&mut self, key: &str, value: &[u8]) -> &mut Self {
        self.raw(key.as_bytes());
        if value.is_empty() {
            self.0.push(0xc0);
        } else {
            self.raw(value);
        }
        self
    }

    pub(super) fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.raw(key.as_bytes());
        self.0.push(if value { 0xc3 } else { 0xc2 });
        self
    }

    /// The shortest form. Also for Go's signed fields: every generation reads it.
    pub(super) fn unsigned(&mut self, key: &str, value: u64) -> &mut Self {
        self.raw(key.as_bytes());
        let bytes = value.to_be_bytes();
        let (marker, width) = match value {
            0..=0x7f => (bytes[7], 0),
            0x80..=0xff => (0xcc, 1),
            0x100..=0xffff => (0xcd, 2),
            0x1_0000..=0xffff_ffff => (0xce, 4),
            0x1_0000_0000.. => (0xcf, 8),
        };
        self.0.push(marker);
        self.0.extend_from_slice(&bytes[8 - width..]);
        self
    }

    fn raw(&mut self, value: &[u8]) {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        let bytes = length.to_be_bytes();
        match length {
            0..=31 => self.0.push(0xa0 | bytes[3]),
            32..=0xffff => self.0.extend_from_slice(&[0xda, bytes[2], bytes[3]]),
            0x1_0000.. => {
                self.0.push(0xdb);
                self.0.extend_from_slice(&bytes);
            }
        }
        self.0
            .extend_from_slice(&value[..value.len().min(size(u64::from(length)))]);
    }
}

#[cfg(test)]
mod tests;
