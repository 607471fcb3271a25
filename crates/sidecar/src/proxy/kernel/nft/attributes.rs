//! Attributes: a length, a kind, a value, padded to four bytes; values may be attributes again.

/// Bytes before the value.
const HEAD_BYTES: usize = 4;
/// Says that the value is attributes.
const NESTED: u16 = 1 << 15;
/// The bits of a kind that are no flags.
const KIND_MASK: u16 = 0x3fff;

/// Writes attributes at the end of a message.
#[derive(Debug)]
pub(crate) struct Attributes<'a>(&'a mut Vec<u8>);

impl<'a> Attributes<'a> {
    pub(crate) fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |it| it.0.extend_from_slice(value));
    }

    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn long(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A text, ended by a zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |it| {
            it.0.extend_from_slice(value.as_bytes());
            it.0.push(0);
        });
    }

    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.attribute(kind | NESTED, fill);
    }

    fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; HEAD_BYTES]);
        fill(&mut Attributes(self.0));
        let length = u16::try_from(self.0.len() - start)
            .expect("invariant: callers bound what they put into one attribute");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        pad(self.0);
    }
}

/// Fills up to a multiple of four.
pub(super) fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Reads attributes; ends at the first that is cut short.
#[derive(Debug, Clone)]
pub(crate) struct Parse<'a>(&'a [u8]);

impl<'a> Parse<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The value of the first attribute of this kind.
    pub(crate) fn value(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(it, _)| *it == kind).map(|(_, v)| v)
    }

    pub(crate) fn within(&self, kind: u16) -> Option<Self> {
        self.value(kind).map(Self)
    }

    pub(crate) fn number(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.value(kind)?.try_into().ok()?))
    }

    pub(crate) fn long(&self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(self.value(kind)?.try_into().ok()?))
    }

    pub(crate) fn text(&self, kind: u16) -> Option<&'a str> {
        let bytes = self.value(kind)?;
        let text = std::str::from_utf8(bytes).ok()?;
        Some(text.trim_end_matches('\0'))
    }
}

impl<'a> Iterator for Parse<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.0.first_chunk::<HEAD_BYTES>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & KIND_MASK;
        let value = self.0.get(HEAD_BYTES..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut bytes = Vec::new();
        let mut attributes = Attributes::new(&mut bytes);
        attributes.text(1, "inet");
        attributes.number(2, 0x0102_0304);
        attributes.nested(3, |it| {
            it.long(1, 7);
            it.bytes(2, &[9]);
        });
        assert_eq!(bytes.len() % 4, 0);
        // "inet" with its zero is five bytes, and three fill it up.
        assert_eq!(bytes[..12], *b"\x09\0\x01\0inet\0\0\0\0");
        let parse = Parse::new(&bytes);
        assert_eq!(parse.text(1), Some("inet"));
        assert_eq!(parse.number(2), Some(0x0102_0304));
        let inner = parse.within(3).unwrap();
        assert_eq!((inner.long(1), inner.value(2)), (Some(7), Some(&[9][..])));
        assert_eq!(parse.value(4), None);
    }

    #[test]
    fn what_is_cut_short_is_not_read() {
        let mut bytes = Vec::new();
        Attributes::new(&mut bytes).number(1, 5);
        for length in 0..bytes.len() {
            assert_eq!(Parse::new(&bytes[..length]).count(), 0);
        }
        // A length below that of the head.
        assert_eq!(Parse::new(&[1, 0, 1, 0, 0, 0, 0, 0]).count(), 0);
    }
}
