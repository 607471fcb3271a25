//! What can be wrong with a peer's bytes. Each variant is one reason to count; its doc says what
//! was dropped. None of them changed any state and none is worth a retry.
//!
//! Texts that came from the peer are escaped and cut to [`QUOTE_CHARS_MAX`] characters.

use std::fmt::Write as _;

use super::limits::{
    CONTAINER_DEPTH_MAX, MESSAGES_PER_PACKET_MAX, MSGPACK_DEPTH_MAX, SEALED_STREAM_BYTES_MAX,
};

/// Characters of a peer's text repeated in an error.
pub const QUOTE_CHARS_MAX: usize = 64;

/// Why bytes of a peer were dropped.
///
/// "Message" is the smallest enclosing one: in a compound the other parts live on. On a stream
/// every error ends the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Dropped: the whole datagram (on a stream, the stream). Its outermost layer is unusable.
    #[error("{0}")]
    Framing(#[from] FramingProblem),
    /// Dropped: the whole datagram (on a stream, the stream). It is labelled for somebody else.
    #[error("label: {0}")]
    Label(#[from] LabelProblem),
    /// Dropped: the whole datagram (on a stream, the stream). It is not encrypted as it must be.
    #[error("{0}")]
    Encryption(#[from] EncryptionProblem),
    /// Dropped: the message. Its type is unknown, or does not belong where it stood.
    #[error("message type {type_id} is unknown or out of place")]
    UnknownType {
        /// First byte of the message.
        type_id: u8,
    },
    /// Dropped: the message, which has no bytes (a compound part, a decompressed payload).
    #[error("message without any byte")]
    EmptyMessage,
    /// Dropped: the whole compound. Its count or its table of lengths is cut off.
    #[error("compound of {parts} parts has {actual} bytes, its length table needs {expected}")]
    CompoundTable {
        /// Declared count of parts; 0 when the count itself is missing.
        parts: usize,
        /// Bytes the count and the table take.
        expected: usize,
        /// Bytes present after the type.
        actual: usize,
    },
    /// Dropped: the last `lost` parts of a compound, the first of which is cut off. The parts
    /// before them were read.
    #[error("compound is cut off {missing} bytes short, {lost} parts lost")]
    CompoundTruncated {
        /// Parts dropped.
        lost: usize,
        /// Bytes the first lost part lacks.
        missing: usize,
    },
    /// Dropped: the compressed message and all in it.
    #[error("compressed message: {0}")]
    Compression(CompressionProblem),
    /// Dropped: the container that is one too deep, and all in it.
    #[error(
        "more than {CONTAINER_DEPTH_MAX} containers or a second compression around one message"
    )]
    Nesting,
    /// Dropped: the message, or the entry of a push/pull table. It is not msgpack as we read it.
    #[error("{structure}: {problem}")]
    Msgpack {
        /// Name of the Go structure expected.
        structure: &'static str,
        /// What is wrong.
        problem: MsgpackProblem,
    },
    /// Dropped: the message, or the entry of a push/pull table. A field holds what it must not.
    #[error("{structure}.{field} is {value}, expected {expected}")]
    FieldInvalid {
        /// Name of the Go structure.
        structure: &'static str,
        /// Name of the field.
        field: &'static str,
        /// The value, readable.
        value: String,
        /// What would have been accepted.
        expected: &'static str,
    },
    /// Dropped: the message; a push/pull is closed without a reply. It is of another cluster.
    #[error("{structure} of another cluster: {found}")]
    ClusterMismatch {
        /// Name of the Go structure.
        structure: &'static str,
        /// The name found, quoted, or that there is none.
        found: String,
    },
    /// Dropped: everything after the last message read of this datagram.
    #[error("more than {MESSAGES_PER_PACKET_MAX} messages in one datagram")]
    TooManyMessages,
    /// Dropped: the stream.
    #[error("{0}")]
    Stream(StreamProblem),
}

/// What is wrong with the outermost layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingProblem {
    /// No byte at all.
    #[error("empty datagram")]
    Empty,
    /// A checksum of nothing.
    #[error("checksum without a message")]
    CrcEmpty,
    /// The checksum is not that of the bytes that follow.
    #[error("checksum {declared:08x} but the message has {computed:08x}")]
    CrcMismatch {
        /// As the peer wrote it.
        declared: u32,
        /// As we compute it.
        computed: u32,
    },
}

/// What is wrong with a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelProblem {
    /// Cut off, or of no length.
    #[error("malformed")]
    Malformed,
    /// None, where one is configured.
    #[error("missing, expected ours")]
    Missing,
    /// Another than the one configured, which may be none.
    #[error("{found}, expected ours")]
    Other {
        /// The label found, quoted.
        found: String,
    },
    /// A label inside a label.
    #[error("a second one")]
    Second,
}

/// What is wrong with an encryption envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionProblem {
    /// An envelope where no key is configured.
    #[error("encrypted, but no gossip key is configured here")]
    NotConfigured,
    /// No envelope where one is required.
    #[error("not encrypted, but only encrypted gossip is accepted here")]
    Plaintext,
    /// An unknown kind of envelope.
    #[error("encryption version {0}, expected 0 or 1")]
    Version(u8),
    /// Shorter than an envelope of nothing.
    #[error("encrypted message of {actual} bytes, expected at least {expected}")]
    TooShort {
        /// Bytes present.
        actual: usize,
        /// Bytes of the shortest envelope of this version.
        expected: usize,
    },
    /// Longer than an envelope on a stream may be.
    #[error("encrypted message of {bytes} bytes, expected at most {SEALED_STREAM_BYTES_MAX}")]
    TooLarge {
        /// Bytes declared.
        bytes: usize,
    },
    /// None of our keys authenticates it: it was encrypted with another key, for another label, or
    /// changed on its way.
    #[error("encrypted, but none of our gossip keys opens it ({keys} tried)")]
    NoKey {
        /// Keys tried.
        keys: usize,
    },
    /// Authentic, but the padding of version 0 is not what it must be.
    #[error("encrypted message with invalid padding")]
    Padding,
    /// Authentic, but of nothing.
    #[error("encrypted message of no bytes")]
    Empty,
}

impl WireError {
    /// What to tell a peer on whose stream we found this, if it is worth telling: its envelope
    /// could not be read. HashiCorp's memberlist answers in just these cases, later errors it
    /// leaves unanswered. The text never repeats anything of the peer's.
    pub fn reply(&self) -> Option<&'static str> {
        match self {
            Self::Encryption(EncryptionProblem::NotConfigured) => {
                Some("remote state is encrypted and encryption is not configured")
            }
            Self::Encryption(EncryptionProblem::Plaintext) => {
                Some("encryption is configured but remote state is not encrypted")
            }
            Self::Encryption(_) => Some("failed to decrypt remote state"),
            Self::Compression(_) | Self::EmptyMessage => Some("failed to decompress remote state"),
            _ => None,
        }
    }
}

/// What is wrong with a compressed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompressionProblem {
    /// Not LZW, the only algorithm there is.
    #[error("algorithm {0}, expected 0 (LZW)")]
    Algorithm(u8),
    /// A code that stands for nothing yet.
    #[error("invalid LZW code")]
    InvalidCode,
    /// The end code is missing.
    #[error("LZW data ends without an end code")]
    NoEnd,
    /// Inflates beyond the cap.
    #[error("inflates beyond {max} bytes")]
    TooLarge {
        /// The cap, in bytes.
        max: usize,
    },
}

/// What is wrong with msgpack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MsgpackProblem {
    /// A value runs past the end of the input.
    #[error("value ends at byte {needed} of {available}")]
    Truncated {
        /// Bytes that would have been needed, at least.
        needed: usize,
        /// Bytes present.
        available: usize,
    },
    /// The one marker msgpack leaves undefined.
    #[error("marker c1")]
    Reserved,
    /// Containers inside containers.
    #[error("nested deeper than {MSGPACK_DEPTH_MAX}")]
    TooDeep,
    /// A structure must be a map.
    #[error("marker {0:02x}, expected a map")]
    NotAMap(u8),
    /// A structure without any field.
    #[error("map without fields")]
    EmptyMap,
    /// A key must be a string.
    #[error("key with marker {0:02x}, expected a string")]
    Key(u8),
    /// A field of the wrong type, or a number out of its range.
    #[error("field {field} is {found}, expected {expected}")]
    Type {
        /// Name of the field.
        field: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// What is wrong with a stream as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamProblem {
    /// More bytes than one message may have.
    #[error("stream message is longer than {max} bytes")]
    TooLarge {
        /// The cap, in bytes.
        max: usize,
    },
    /// A declared count or length outside its range.
    #[error("{field} is {value}, expected 0 to {max}")]
    Length {
        /// Name of the field.
        field: &'static str,
        /// As declared.
        value: i64,
        /// Largest accepted.
        max: usize,
    },
    /// The stream, or the compressed message in it, ends inside the message.
    #[error("stream ends inside a message, after {available} bytes")]
    Truncated {
        /// Bytes present.
        available: usize,
    },
    /// Bytes fed after the message was complete or an error was returned.
    #[error("stream already ended")]
    Ended,
}

/// A peer's bytes made fit for a log line.
pub(super) fn quote(bytes: &[u8]) -> String {
    // Four bytes hold any character: the head is enough, whatever follows.
    let head = &bytes[..bytes.len().min(4 * QUOTE_CHARS_MAX)];
    let text = String::from_utf8_lossy(head);
    let mut quoted = String::from('"');
    for character in text.chars().take(QUOTE_CHARS_MAX) {
        quoted.extend(character.escape_debug());
    }
    quoted.push('"');
    if bytes.len() > head.len() || text.chars().nth(QUOTE_CHARS_MAX).is_some() {
        // Writing to a string cannot fail.
        let _ = write!(quoted, "… ({} bytes)", bytes.len());
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_escaped_and_short() {
        assert_eq!(quote(b"node-a"), "\"node-a\"");
        assert_eq!(quote(b"a\x1b[2J\n\xff"), "\"a\\u{1b}[2J\\n\u{fffd}\"");
        let long = quote(&[b'x'; 100_000]);
        assert!(
            long.len() < 100 && long.ends_with("(100000 bytes)"),
            "{long}"
        );
        assert!(quote(&[b'x'; 65]).contains("65 bytes"));
    }
}
