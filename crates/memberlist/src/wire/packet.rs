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

use bytes::Bytes;

use super::{
    ClusterFilter, body,
    error::{FramingProblem, LabelProblem, WireError},
    limits::{
        COMPOUND_PART_BYTES_MAX, COMPOUND_PARTS_MAX, CONTAINER_DEPTH_MAX,
        DECOMPRESSED_PACKET_BYTES_MAX, MESSAGES_PER_PACKET_MAX,
    },
    lzw,
    message::Message,
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
    let mut opener = Opener {
        filter,
        inflate_budget: DECOMPRESSED_PACKET_BYTES_MAX,
        taken: 0,
        packet: DecodedPacket::default(),
    };
    match unframe(datagram) {
        Ok(message) => opener.open(message, 0, false),
        Err(error) => opener.packet.errors.push(error),
    }
    opener.packet
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

struct Opener<'a> {
    filter: &'a ClusterFilter,
    /// Bytes all compressed parts may still inflate to.
    inflate_budget: usize,
    /// Messages and errors so far.
    taken: usize,
    packet: DecodedPacket,
}

impl Opener<'_> {
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
                    self.packet.messages.push(message);
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
        self.packet.errors.push(error);
    }
}

fn decode_message(
    type_id: u8,
    content: &[u8],
    filter: &ClusterFilter,
) -> Result<Message, WireError> {
    match type_id {
        type_id::PING => body::decode_ping(content).map(Message::Ping),
        type_id::INDIRECT_PING => body::decode_indirect_ping(content).map(Message::IndirectPing),
        type_id::ACK => body::decode_ack(content).map(Message::Ack),
        type_id::SUSPECT => body::decode_suspect(content, filter).map(Message::Suspect),
        type_id::ALIVE => body::decode_alive(content, filter).map(Message::Alive),
        type_id::DEAD => body::decode_dead(content, filter).map(Message::Dead),
        type_id::USER => Ok(Message::User(Bytes::copy_from_slice(content))),
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
    match message {
        Message::Ping(ping) => {
            out.push(type_id::PING);
            body::encode_ping(&mut out, ping);
        }
        Message::IndirectPing(ping) => {
            out.push(type_id::INDIRECT_PING);
            body::encode_indirect_ping(&mut out, ping);
        }
        Message::Ack(ack) => {
            out.push(type_id::ACK);
            body::encode_ack(&mut out, ack);
        }
        Message::Suspect(suspect) => {
            let accusation = (suspect.incarnation, &*suspect.node, &*suspect.from);
            out.push(type_id::SUSPECT);
            body::encode_accusation(&mut out, cluster_name, accusation);
        }
        Message::Alive(alive) => {
            out.push(type_id::ALIVE);
            body::encode_alive(&mut out, cluster_name, alive);
        }
        Message::Dead(dead) => {
            let accusation = (dead.incarnation, &*dead.node, &*dead.from);
            out.push(type_id::DEAD);
            body::encode_accusation(&mut out, cluster_name, accusation);
        }
        Message::User(content) => {
            out.push(type_id::USER);
            out.extend_from_slice(content);
        }
        Message::Nack(nack) => {
            out.push(type_id::NACK);
            body::encode_nack(&mut out, nack);
        }
    }
    out
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
}

impl PacketBuilder {
    /// An empty packet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a message. False, with nothing changed, when a compound cannot take it: it is empty,
    /// longer than [`COMPOUND_PART_BYTES_MAX`], or there are [`COMPOUND_PARTS_MAX`] already.
    pub fn push(&mut self, message: &[u8]) -> bool {
        let Ok(length) = u16::try_from(message.len()) else {
            return false;
        };
        if length == 0 || self.len() == COMPOUND_PARTS_MAX {
            return false;
        }
        self.lengths.extend_from_slice(&length.to_be_bytes());
        self.parts.extend_from_slice(message);
        true
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
    pub fn finish(self, compress: bool, crc: bool) -> Vec<u8> {
        let mut packet = match u8::try_from(self.len()) {
            Ok(0) => return Vec::new(),
            Ok(1) => self.parts,
            Ok(parts) => {
                let mut packet = Vec::with_capacity(self.bytes() + CRC_HEADER_BYTES);
                packet.extend_from_slice(&[type_id::COMPOUND, parts]);
                packet.extend_from_slice(&self.lengths);
                packet.extend_from_slice(&self.parts);
                packet
            }
            Err(_) => unreachable!("invariant: push takes {COMPOUND_PARTS_MAX} parts at most"),
        };
        if compress {
            let compressed = self::compress(&packet);
            if compressed.len() < packet.len() {
                packet = compressed;
            }
        }
        if crc {
            let mut header = [type_id::CRC, 0, 0, 0, 0];
            header[1..].copy_from_slice(&crc32fast::hash(&packet).to_be_bytes());
            packet.splice(..0, header);
        }
        packet
    }
}

const _: () = assert!(COMPOUND_PART_BYTES_MAX == u16::MAX as usize);

#[cfg(test)]
mod tests;
