//! Bytes to messages and back. Pure; every limit on untrusted input lives here.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`message`] | the messages as values |
//! | [`envelope`] | label and encryption, around datagrams and streams |
//! | [`keyring`] | the keys |
//! | [`packet`] | one datagram: checksum, compression, compound, message |
//! | [`stream`] | one message on a connection, fed as its bytes arrive |
//! | [`limits`] | the named caps |
//! | [`error`] | what can be wrong with a peer's bytes |
//!
//! What it is not: no socket, no clock, no member table. A name is checked for its form here,
//! whether such a node exists is the state machine's question.
//!
//! The truth is what the Go programs write: hashicorp/memberlist and the fork Go Sidecar links.
//! Recordings of both stand in `tests/vectors`.

pub mod envelope;
pub mod error;
pub mod keyring;
pub mod limits;
pub mod message;
pub mod packet;
pub mod stream;

mod body;
#[cfg(test)]
mod golden;
mod lzw;
mod msgpack;

pub use envelope::{ENVELOPE_BYTES, Envelope, SealError, StreamSide};
pub use error::WireError;
pub use keyring::{Key, Keyring, KeyringError, NONCE_BYTES, Nonce};
pub use limits::*;
pub use message::*;
pub use packet::{DecodedPacket, PacketBuilder, decode_packet, encode_message, read_packet};
pub use stream::{StreamDecoder, StreamProgress, encode_stream};

/// Which cluster we accept.
///
/// The fork writes its cluster's name into alive, suspect, dead and the head of a push/pull;
/// HashiCorp's memberlist does not know the field. Pings, acks and user messages carry no name and
/// pass in every case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFilter {
    /// Our cluster. Names are compared byte for byte; an absent name counts as the empty one.
    pub name: String,
    /// Accept messages without the field, as HashiCorp peers write them. A name that is present
    /// and differs is refused all the same.
    pub accept_missing: bool,
}

impl ClusterFilter {
    /// `found` is the field as it stood in the message, `None` when there was no such key.
    fn accepts(&self, found: Option<&[u8]>) -> bool {
        match found {
            None => self.accept_missing || self.name.is_empty(),
            Some(found) => found == self.name.as_bytes(),
        }
    }
}

/// The first byte of a message.
mod type_id {
    pub(super) const PING: u8 = 0;
    pub(super) const INDIRECT_PING: u8 = 1;
    pub(super) const ACK: u8 = 2;
    pub(super) const SUSPECT: u8 = 3;
    pub(super) const ALIVE: u8 = 4;
    pub(super) const DEAD: u8 = 5;
    pub(super) const PUSH_PULL: u8 = 6;
    pub(super) const COMPOUND: u8 = 7;
    pub(super) const USER: u8 = 8;
    pub(super) const COMPRESS: u8 = 9;
    pub(super) const ENCRYPT: u8 = 10;
    pub(super) const NACK: u8 = 11;
    pub(super) const CRC: u8 = 12;
    pub(super) const ERROR: u8 = 13;
    pub(super) const LABEL: u8 = 244;
}
