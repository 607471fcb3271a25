//! Messages, and batches of them, each of which nf_tables takes whole or not at all.

use super::attributes::{Attributes, pad};

/// Kinds of messages about tables, chains, rules, sets and their elements.
pub(crate) mod kind {
    pub(crate) const NEW_TABLE: u8 = 0;
    pub(crate) const GET_TABLE: u8 = 1;
    pub(crate) const DELETE_TABLE: u8 = 2;
    pub(crate) const NEW_CHAIN: u8 = 3;
    pub(crate) const GET_CHAIN: u8 = 4;
    pub(crate) const DELETE_CHAIN: u8 = 5;
    pub(crate) const NEW_RULE: u8 = 6;
    pub(crate) const GET_RULE: u8 = 7;
    pub(crate) const DELETE_RULE: u8 = 8;
    pub(crate) const NEW_SET: u8 = 9;
    pub(crate) const NEW_ELEMENTS: u8 = 12;
    pub(crate) const GET_ELEMENTS: u8 = 13;
    pub(crate) const DELETE_ELEMENTS: u8 = 14;
    pub(crate) const GET_GENERATION: u8 = 16;
}

/// `NLM_F_REQUEST`, `_ACK`, `_ECHO`, `_REPLACE`, `_DUMP`, `_CREATE` and `_APPEND`.
pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const ECHO: u16 = 0x8;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;

/// The family of our table: IPv4 and IPv6.
pub(crate) const INET: u8 = 1;
const UNSPECIFIED: u8 = 0;

/// Length of a message's head, and where in it kind, flags and sequence number are.
pub(crate) const HEAD_BYTES: usize = 16;
/// Behind it: family, version, and a number that only the ends of batches use.
pub(crate) const SUBHEAD_BYTES: usize = 4;
/// nf_tables among the subsystems of netfilter's netlink.
pub(crate) const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// Writes one message about nf_tables at the end of `bytes`.
pub(crate) fn message(
    bytes: &mut Vec<u8>,
    kind: u8,
    flags: u16,
    sequence: u32,
    fill: impl FnOnce(&mut Attributes<'_>),
) {
    let kind = SUBSYSTEM << 8 | u16::from(kind);
    raw(bytes, kind, flags, sequence, [INET, 0, 0, 0], fill);
}

fn raw(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    subhead: [u8; SUBHEAD_BYTES],
    fill: impl FnOnce(&mut Attributes<'_>),
) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&subhead);
    fill(&mut Attributes::new(bytes));
    pad(bytes);
    let length = u32::try_from(bytes.len() - start).expect("invariant: messages are bounded");
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Messages that take effect together.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Sequence number of the beginning; the messages count up from there.
    first: u32,
    next: u32,
    /// Where the last message begins.
    last: Option<usize>,
}

impl Batch {
    /// An empty one whose beginning has this number.
    pub(crate) fn new(first: u32) -> Self {
        let mut bytes = Vec::with_capacity(4096);
        edge(&mut bytes, BATCH_BEGIN, first);
        Self {
            bytes,
            first,
            next: first.wrapping_add(1),
            last: None,
        }
    }

    pub(crate) fn add(&mut self, kind: u8, flags: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.last = Some(self.bytes.len());
        message(&mut self.bytes, kind, flags, self.next, fill);
        self.next = self.next.wrapping_add(1);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes to send, the number of the beginning, by which the whole is refused, and that of the last
    /// message, the one that is acknowledged.
    pub(crate) fn finish(mut self) -> (Vec<u8>, u32, u32) {
        if let Some(last) = self.last {
            let flags = last + 6;
            self.bytes[flags] |= ACK.to_ne_bytes()[0];
            self.bytes[flags + 1] |= ACK.to_ne_bytes()[1];
        }
        edge(&mut self.bytes, BATCH_END, self.next);
        (self.bytes, self.first, self.next.wrapping_sub(1))
    }
}

fn edge(bytes: &mut Vec<u8>, kind: u16, sequence: u32) {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    raw(
        bytes,
        kind,
        0,
        sequence,
        [UNSPECIFIED, 0, high, low],
        |_| {},
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_has_its_edges_and_asks_for_one_acknowledgement() {
        let mut batch = Batch::new(7);
        assert!(batch.is_empty());
        batch.add(kind::NEW_TABLE, CREATE, |it| it.text(1, "t"));
        batch.add(kind::DELETE_TABLE, 0, |it| it.text(1, "t"));
        let (bytes, first, last) = batch.finish();
        assert_eq!((first, last), (7, 9));
        let mut rest = &bytes[..];
        let mut seen = Vec::new();
        while let Some(head) = rest.first_chunk::<HEAD_BYTES>() {
            let length = u32::from_ne_bytes(head[..4].try_into().unwrap());
            let word = |at| u16::from_ne_bytes([head[at], head[at + 1]]);
            let number = u32::from_ne_bytes(head[8..12].try_into().unwrap());
            seen.push((word(4), word(6), number));
            rest = &rest[usize::try_from(length).unwrap()..];
        }
        let new = SUBSYSTEM << 8 | u16::from(kind::NEW_TABLE);
        let delete = SUBSYSTEM << 8 | u16::from(kind::DELETE_TABLE);
        assert_eq!(
            seen,
            [
                (BATCH_BEGIN, REQUEST, 7),
                (new, REQUEST | CREATE, 8),
                (delete, REQUEST | ACK, 9),
                (BATCH_END, REQUEST, 10),
            ]
        );
        assert_eq!(bytes[16..20], [0, 0, 0, 10]);
    }
}
