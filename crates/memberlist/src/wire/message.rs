//! The messages of the memberlist protocol as values. No encoding lives here; see
//! [`packet`](super::packet) and [`stream`](super::stream).
//!
//! Names and byte strings are owned by default; [`MessageRef`] borrows them from a datagram.
//!
//! Field names and meanings follow the Go structures of hashicorp/memberlist and of the fork that
//! Go Sidecar links (which adds a cluster name to alive, suspect, dead and the push/pull header).

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

mod borrowed;

pub use borrowed::MessageRef;

/// Raw IP address bytes exactly as a peer wrote them: 4 bytes, or 16 bytes (IPv6 or v4-mapped).
///
/// Go compares these bytes, not the address they mean, so a re-gossiped message must carry the
/// very bytes that were received. Compare with [`RawIp::ip`], store and re-send the raw form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RawIp {
    /// Four bytes, network order.
    V4([u8; 4]),
    /// Sixteen bytes, network order; may be a v4-mapped IPv4 address.
    V16([u8; 16]),
}

impl RawIp {
    /// The address meant; a v4-mapped address becomes IPv4.
    pub fn ip(self) -> IpAddr {
        match self {
            Self::V4(bytes) => IpAddr::from(bytes),
            Self::V16(bytes) => IpAddr::from(bytes).to_canonical(),
        }
    }

    /// The bytes as they stand on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::V4(bytes) => bytes,
            Self::V16(bytes) => bytes,
        }
    }

    /// `None` unless `bytes` is 4 or 16 long.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
            return Some(Self::V4(v4));
        }
        <[u8; 16]>::try_from(bytes).ok().map(Self::V16)
    }
}

impl From<IpAddr> for RawIp {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => Self::V16(v6.octets()),
        }
    }
}

/// Protocol version bytes of a node: `PMin PMax PCur DMin DMax DCur`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Versions(pub [u8; 6]);

impl Versions {
    /// What we speak: understand protocol 1 to 5, speak 2, delegate version 0.
    pub const OURS: Self = Self([1, 5, 2, 0, 0, 0]);

    /// Highest protocol version the node understands; features hang on this one.
    pub fn protocol_max(self) -> u8 {
        self.0[1]
    }
}

/// Where a HashiCorp requester (0.2 and later) wants its ack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source<Name = String> {
    /// Advertised address of the requester.
    pub addr: RawIp,
    /// Advertised port of the requester.
    pub port: u16,
    /// Name of the requester; may be empty.
    pub node: Name,
}

/// Probe (type 0).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping<Name = String> {
    /// Chosen by the prober, returned in the ack.
    pub seq_no: u32,
    /// Name of the node probed; empty matches any.
    pub node: Name,
    /// Sender, when it said so.
    pub source: Option<Source<Name>>,
}

/// Request to probe another node on the sender's behalf (type 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndirectPing<Name = String> {
    /// The requester's sequence number.
    pub seq_no: u32,
    /// Address of the node to probe.
    pub target: RawIp,
    /// Port of the node to probe; 0 means the relay's own bind port.
    pub port: u16,
    /// Name of the node to probe.
    pub node: Name,
    /// Whether the requester wants a nack when the target does not answer.
    pub nack: bool,
    /// Sender, when it said so.
    pub source: Option<Source<Name>>,
}

/// Answer to a probe (type 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack<Octets = Bytes> {
    /// Sequence number of the request answered.
    pub seq_no: u32,
    /// Opaque; empty when the peer sent nil (Serf puts a network coordinate here).
    pub payload: Octets,
}

/// A relay says its target did not answer (type 11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nack {
    /// Sequence number of the indirect ping answered.
    pub seq_no: u32,
}

/// Accusation: `node` may be dead (type 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect<Name = String> {
    /// Incarnation of the accused that is suspected.
    pub incarnation: u32,
    /// The accused.
    pub node: Name,
    /// The accuser.
    pub from: Name,
}

/// Announcement of a node (type 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alive<Name = String, Octets = Bytes> {
    /// The node's logical clock, at least 1.
    pub incarnation: u32,
    /// Name of the node.
    pub node: Name,
    /// Advertised address, as the node wrote it.
    pub addr: RawIp,
    /// Advertised port; 0 means our own bind port.
    pub port: u16,
    /// Opaque metadata, at most 512 bytes.
    pub meta: Octets,
    /// Protocol versions.
    pub versions: Versions,
}

/// Verdict: `node` is dead, or left when `from == node` (type 5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead<Name = String> {
    /// Incarnation of the node declared dead.
    pub incarnation: u32,
    /// The node declared dead.
    pub node: Name,
    /// Who says so; empty in a leave of the Go fork.
    pub from: Name,
}

/// One message of a datagram, containers already opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<Name = String, Octets = Bytes> {
    /// Type 0.
    Ping(Ping<Name>),
    /// Type 1.
    IndirectPing(IndirectPing<Name>),
    /// Type 2.
    Ack(Ack<Octets>),
    /// Type 3.
    Suspect(Suspect<Name>),
    /// Type 4.
    Alive(Alive<Name, Octets>),
    /// Type 5.
    Dead(Dead<Name>),
    /// Type 8: opaque bytes for the application.
    User(Octets),
    /// Type 11.
    Nack(Nack),
}

/// State of a node in a push/pull table. The numbers are the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// 0
    Alive,
    /// 1
    Suspect,
    /// 2
    Dead,
    /// 3, HashiCorp 0.1.6 and later.
    Left,
}

/// One entry of a push/pull table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushNode {
    /// Name of the node.
    pub name: String,
    /// Advertised address, as the node wrote it.
    pub addr: RawIp,
    /// Advertised port; 0 means our own bind port.
    pub port: u16,
    /// Opaque metadata, at most 512 bytes.
    pub meta: Bytes,
    /// Incarnation the sender holds.
    pub incarnation: u32,
    /// State the sender holds.
    pub state: NodeState,
    /// Protocol versions.
    pub versions: Versions,
}

/// One side of a push/pull: the sender's whole table and its application state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushPull {
    /// True for an explicit join; the responder echoes it.
    pub join: bool,
    /// Every entry of the sender's table that passed validation.
    pub nodes: Vec<PushNode>,
    /// Opaque application state; empty means none.
    pub user_state: Bytes,
}

/// A complete message on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamMessage {
    /// Type 0: fallback probe.
    Ping(Ping),
    /// Type 2: its answer.
    Ack(Ack),
    /// Type 6: state exchange.
    PushPull(PushPull),
    /// Type 8: reliable application message.
    User(Bytes),
    /// Type 13: a HashiCorp peer says why it refuses.
    Error(String),
}

/// Socket address of a node entry.
pub fn socket_addr(addr: RawIp, port: u16) -> SocketAddr {
    SocketAddr::new(addr.ip(), port)
}
