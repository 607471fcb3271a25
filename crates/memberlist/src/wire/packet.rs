//! One datagram: from bytes to messages and back.
//!
//! ```text
//! [ checksum ] [ compression ] [ compound ] message…
//! ```
//!
//! What may be around it, label and encryption, is taken off before ([`super::envelope`]).
//! Of a datagram we open at most three containers around a message, of which one may be a
//! compression; we write at most compress(compound(message)). What the messages say is decoded in
//! the crate's private `body` module, what they mean is not known here.

use super::{
    ClusterFilter, body,
    error::{FramingProblem, LabelProblem, WireError},
    limits::{
        COMPOUND_PART_BYTES_MAX, COMPOUND_PARTS_MAX, CONTAINER_DEPTH_MAX,
        DECOMPRESSED_PACKET_BYTES_MAX, MESSAGES_PER_PACKET_MAX,
    },
    lzw,
    message::{Message, MessageRef},
    type_id,
};

/// Bytes of a checksum and its type.
const CRC_HEADER_BYTES: usize = 5;

/// What was in a datagram.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecodedPacket {
    /// The good messages, in order.
    pub messages: Vec<Message>,
    /// Why the others were dropped, in order; at most a few hundred.
    pub errors: Vec<WireError>,
}

/// Opens a datagram, or what was in its envelope, and decodes each message in it.
///
/// A bad part loses only that part. Never panics, and holds no more than the datagram and
/// [`DECOMPRESSED_PACKET_BYTES_MAX`] of it inflated.
pub fn decode_packet(datagram: &[u8], filter: &ClusterFilter) -> DecodedPacket {
    let mut messages = Vec::new();
    let errors = read_packet(datagram, filter, |message| {
        messages.push(message.into_owned());
    });
    DecodedPacket { messages, errors }
}

/// As [`decode_packet`], but hands each good message on as soon as it is read, and copies nothing.
/// What remains is why the others were dropped.
pub fn read_packet(
    datagram: &[u8],
    filter: &ClusterFilter,
    take: impl FnMut(MessageRef<'_>),
) -> Vec<WireError> {
    let mut opener = Opener {
        filter,
        inflate_budget: DECOMPRESSED_PACKET_BYTES_MAX,
        taken: 0,
        take,
        errors: Vec::new(),
    };
    match unframe(datagram) {
        Ok(message) => opener.open(message, 0, false),
        Err(error) => opener.errors.push(error),
    }
    opener.errors
}

/// Takes the checksum off. It is optional, whatever the sender's version.
fn unframe(datagram: &[u8]) -> Result<&[u8], WireError> {
    match datagram {
        [] => Err(FramingProblem::Empty.into()),
        // Ours, if there is one, was taken off with the envelope.
        [type_id::LABEL, ..] => Err(LabelProblem::Second.into()),
        [type_id::CRC, a, b, c, d, message @ ..] => {
            let declared = u32::from_be_bytes([*a, *b, *c, *d]);
            let computed = crc32fast::hash(message);
            if message.is_empty() {
                Err(FramingProblem::CrcEmpty.into())
            } else if declared != computed {
                Err(FramingProblem::CrcMismatch { declared, computed }.into())
            } else {
                Ok(message)
            }
        }
        message => Ok(message),
    }
}

struct Opener<'a, Take> {
    filter: &'a ClusterFilter,
    /// Bytes all compressed parts may still inflate to.
    inflate_budget: usize,
    /// Messages and errors so far.
    taken: usize,
    take: Take,
    errors: Vec<WireError>,
}

impl<Take: FnMut(MessageRef<'_>)> Opener<'_, Take> {
    /// `depth` is how many containers are around `message`.
    fn open(&mut self, message: &[u8], depth: usize, compressed: bool) {
        if self.taken == MESSAGES_PER_PACKET_MAX {
            // Said once: from here on `taken` is beyond the maximum.
            self.fail(WireError::TooManyMessages);
        }
        if self.taken > MESSAGES_PER_PACKET_MAX {
            return;
        }
        let Some((&type_id, content)) = message.split_first() else {
            return self.fail(WireError::EmptyMessage);
        };
        let container = matches!(type_id, type_id::COMPOUND | type_id::COMPRESS);
        if container && depth == CONTAINER_DEPTH_MAX || type_id == type_id::COMPRESS && compressed {
            return self.fail(WireError::Nesting);
        }
        match type_id {
            type_id::COMPOUND => self.open_compound(content, depth, compressed),
            type_id::COMPRESS => match self.inflate(content) {
                Ok(inner) => self.open(&inner, depth + 1, true),
                Err(error) => self.fail(error),
            },
            _ => match decode_message(type_id, content, self.filter) {
                Ok(message) => {
                    self.taken += 1;
                    (self.take)(message);
                }
                Err(error) => self.fail(error),
            },
        }
    }

    fn open_compound(&mut self, content: &[u8], depth: usize, compressed: bool) {
        let parts = content.first().map_or(0, |parts| usize::from(*parts));
        let expected = 1 + 2 * parts;
        let Some((table, mut rest)) = content.split_at_checked(expected) else {
            let actual = content.len();
            return self.fail(WireError::CompoundTable {
                parts,
                expected,
                actual,
            });
        };
        for (index, length) in table[1..].chunks_exact(2).enumerate() {
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            let Some((part, after)) = rest.split_at_checked(length) else {
                let (lost, missing) = (parts - index, length - rest.len());
                return self.fail(WireError::CompoundTruncated { lost, missing });
            };
            rest = after;
            self.open(part, depth + 1, compressed);
        }
    }

    fn inflate(&mut self, content: &[u8]) -> Result<Vec<u8>, WireError> {
        let data = body::decode_compress(content)?;
        lzw::decompress(data, &mut self.inflate_budget).map_err(WireError::Compression)
    }

    fn fail(&mut self, error: WireError) {
        self.taken += 1;
        self.errors.push(error);
    }
}

fn decode_message<'a>(
    type_id: u8,
    content: &'a [u8],
    filter: &ClusterFilter,
) -> Result<MessageRef<'a>, WireError> {
    match type_id {
        type_id::PING => body::decode_ping(content).map(Message::Ping),
        type_id::INDIRECT_PING => body::decode_indirect_ping(content).map(Message::IndirectPing),
        type_id::ACK => body::decode_ack(content).map(Message::Ack),
        type_id::SUSPECT => body::decode_suspect(content, filter).map(Message::Suspect),
        type_id::ALIVE => body::decode_alive(content, filter).map(Message::Alive),
        type_id::DEAD => body::decode_dead(content, filter).map(Message::Dead),
        type_id::USER => Ok(Message::User(content)),
        type_id::NACK => body::decode_nack(content).map(Message::Nack),
        _ => Err(WireError::UnknownType { type_id }),
    }
}

/// One bare message as it goes into a [`PacketBuilder`] or alone into a datagram.
///
/// Alive, suspect and dead carry `cluster_name`, also an empty one.
///
/// # Panics
///
/// In debug builds, when the message would harm Go peers: a node alive at incarnation 0, or
/// another node accused at incarnation `u32::MAX`, which it could not refute.
pub fn encode_message(message: &Message, cluster_name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    write_message(&mut out, &message.borrowed(), cluster_name);
    out
}

fn write_message(out: &mut Vec<u8>, message: &MessageRef<'_>, cluster_name: &str) {
    match message {
        Message::Ping(ping) => {
            out.push(type_id::PING);
            body::encode_ping(out, ping);
        }
        Message::IndirectPing(ping) => {
            out.push(type_id::INDIRECT_PING);
            body::encode_indirect_ping(out, ping);
        }
        Message::Ack(ack) => {
            out.push(type_id::ACK);
            body::encode_ack(out, ack);
        }
        Message::Suspect(suspect) => {
            let accusation = (suspect.incarnation, suspect.node, suspect.from);
            out.push(type_id::SUSPECT);
            body::encode_accusation(out, cluster_name, accusation);
        }
        Message::Alive(alive) => {
            out.push(type_id::ALIVE);
            body::encode_alive(out, cluster_name, alive);
        }
        Message::Dead(dead) => {
            let accusation = (dead.incarnation, dead.node, dead.from);
            out.push(type_id::DEAD);
            body::encode_accusation(out, cluster_name, accusation);
        }
        Message::User(content) => {
            out.push(type_id::USER);
            out.extend_from_slice(content);
        }
        Message::Nack(nack) => {
            out.push(type_id::NACK);
            body::encode_nack(out, nack);
        }
    }
}

/// `message` compressed, with its type byte.
pub(super) fn compress(message: &[u8]) -> Vec<u8> {
    debug_assert!(
        !message.is_empty(),
        "the fork crashes on an empty compressed message"
    );
    let mut out = vec![type_id::COMPRESS];
    body::encode_compress(&mut out, &lzw::compress(message));
    out
}

/// Packets up to this size cannot become shorter: what is left beside the header holds no more
/// codes of nine bits than for 21 bytes, even if all of them are equal.
const INCOMPRESSIBLE_BYTES: usize = 22;

/// Packs bare encoded messages into one datagram.
///
/// It refuses what Go peers would misread and knows no other limit: keeping a datagram small is
/// the caller's business, see [`bytes`](Self::bytes).
#[derive(Debug, Clone, Default)]
pub struct PacketBuilder {
    /// Length table of the compound, two bytes a part.
    lengths: Vec<u8>,
    /// The parts, one after the other.
    parts: Vec<u8>,
    compressor: lzw::Compressor,
}

impl PacketBuilder {
    /// An empty packet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a message. False, with nothing changed, when a compound cannot take it: it is empty,
    /// longer than [`COMPOUND_PART_BYTES_MAX`], or there are [`COMPOUND_PARTS_MAX`] already.
    pub fn push(&mut self, message: &[u8]) -> bool {
        self.add(|parts| parts.extend_from_slice(message))
    }

    /// Adds a message that is yet to be encoded, as [`encode_message`] does it. Result as of
    /// [`push`](Self::push).
    pub fn encode(&mut self, message: &MessageRef<'_>, cluster_name: &str) -> bool {
        self.add(|parts| write_message(parts, message, cluster_name))
    }

    fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let before = self.parts.len();
        write(&mut self.parts);
        match u16::try_from(self.parts.len() - before) {
            Ok(length @ 1..) if self.len() < COMPOUND_PARTS_MAX => {
                self.lengths.extend_from_slice(&length.to_be_bytes());
                true
            }
            _ => {
                self.parts.truncate(before);
                false
            }
        }
    }

    /// Messages so far.
    pub fn len(&self) -> usize {
        self.lengths.len() / 2
    }

    /// Whether there is no message yet.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Bytes of the datagram as it is now, without compression and checksum: 0 without a message,
    /// the message alone for one, else 2 and 2 more for each part.
    pub fn bytes(&self) -> usize {
        match self.len() {
            0 | 1 => self.parts.len(),
            _ => 2 + self.lengths.len() + self.parts.len(),
        }
    }

    /// The datagram: a single message bare, several as a compound; with `compress` compressed if
    /// that makes it shorter; with `crc` under a checksum, which only peers of protocol version 5
    /// understand. Empty, and not to be sent, when there is no message.
    pub fn finish(&mut self, compress: bool, crc: bool) -> Vec<u8> {
        if self.is_empty() {
            return Vec::new();
        }
        let crc_bytes = if crc { CRC_HEADER_BYTES } else { 0 };
        let mut packet = Vec::with_capacity(self.bytes() + crc_bytes);
        if crc {
            packet.extend_from_slice(&[type_id::CRC, 0, 0, 0, 0]);
        }
        let start = packet.len();
        if self.len() > 1 {
            // As many as fit a byte: there are COMPOUND_PARTS_MAX at most.
            packet.extend_from_slice(&[type_id::COMPOUND, self.len() as u8]);
            packet.extend_from_slice(&self.lengths);
        }
        packet.extend_from_slice(&self.parts);
        let plain = packet.len() - start;
        if compress && plain > INCOMPRESSIBLE_BYTES {
            let compressed = self.compressor.compress(&packet[start..]);
            if body::compress_header_bytes(compressed.len()) + compressed.len() < plain {
                packet.truncate(start);
                packet.push(type_id::COMPRESS);
                body::encode_compress(&mut packet, compressed);
                packet.shrink_to_fit();
            }
        }
        if crc {
            let sum = crc32fast::hash(&packet[start..]);
            packet[1..start].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    /// Without any message again. Keeps its memory for the next packet.
    pub fn clear(&mut self) {
        self.lengths.clear();
        self.parts.clear();
    }
}

const _: () = assert!(COMPOUND_PART_BYTES_MAX == u16::MAX as usize);

#[cfg(test)]
mod tests;
