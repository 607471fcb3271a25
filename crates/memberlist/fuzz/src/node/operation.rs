//! What can happen to a member. Values are drawn close to each other, so that names, clocks and
//! addresses meet: twelve names, a clock relative to the one held, few addresses.

use std::net::SocketAddr;

use arbitrary::Arbitrary;
use bytes::Bytes;
use memberlist::node::Node;
use memberlist::wire::{
    Ack, IndirectPing, Message, Nack, NodeState, PacketBuilder, Ping, PushNode, PushPull, RawIp,
    Source, Versions, encode_message,
};

use super::{super::CLUSTER, US};

/// Messages of one datagram and entries of one table; more is cut off.
const PARTS_MAX: usize = 64;

#[derive(Debug, Arbitrary)]
pub(super) enum Operation {
    /// Any bytes at all.
    Datagram {
        from: u8,
        bytes: Vec<u8>,
    },
    /// Messages, together in one datagram.
    Say {
        from: u8,
        said: Vec<Said>,
        wrap: Wrap,
    },
    /// The other side of a state exchange.
    Merge {
        join: bool,
        known: Vec<Known>,
        state: bool,
    },
    /// Time passes, deadline by deadline: up to half a minute.
    Pass {
        time: u8,
    },
    /// Time passes up to the next deadline.
    Step,
    /// The process stands still.
    Pause {
        seconds: u8,
    },
    /// To the last ping.
    Answer(Answer),
    /// Of the last state exchange.
    Exchanged {
        merged: bool,
    },
    Broadcast {
        key: Option<u8>,
        length: u16,
    },
    Seed {
        at: u8,
    },
    Leave,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub(super) enum Answer {
    Ack,
    Nack,
    Stream,
    Unsent,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) struct Wrap {
    compress: bool,
    crc: bool,
}

#[derive(Debug, Arbitrary)]
pub(super) enum Said {
    Ping {
        node: u8,
        seq_no: u8,
        source: Option<u8>,
    },
    IndirectPing {
        node: u8,
        at: u8,
        seq_no: u8,
        nack: bool,
    },
    Ack {
        seq_no: u32,
    },
    Nack {
        seq_no: u32,
    },
    Suspect {
        node: u8,
        clock: Clock,
        from: u8,
    },
    Dead {
        node: u8,
        clock: Clock,
        from: u8,
    },
    Alive {
        node: u8,
        clock: Clock,
        at: u8,
        meta: u8,
        versions: u8,
    },
    User {
        length: u8,
    },
}

#[derive(Debug, Arbitrary)]
pub(super) struct Known {
    node: u8,
    clock: Clock,
    state: u8,
    at: u8,
    meta: u8,
    versions: u8,
}

/// An incarnation.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) enum Clock {
    /// As the node holds it.
    Held,
    Next,
    Previous,
    Last,
    NextToLast,
    Any(u32),
}

impl Clock {
    fn read(self, name: &str, node: &Node) -> u32 {
        let held = node.member(name).map_or(1, |member| member.incarnation);
        match self {
            Self::Held => held,
            Self::Next => held.saturating_add(1),
            Self::Previous => held.saturating_sub(1),
            Self::Last => u32::MAX,
            Self::NextToLast => u32::MAX - 1,
            Self::Any(incarnation) => incarnation,
        }
    }
}

/// Twelve names: ours, none at all, the longest there can be, and some.
fn name(id: u8) -> String {
    match id % 12 {
        0 => US.to_owned(),
        10 => String::new(),
        11 => "x".repeat(255),
        other => format!("n{other}"),
    }
}

/// The address most likely for the node with this number.
pub(super) fn address(id: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, id % 16 + 1], 7946))
}

/// The address of a node: mostly its own, sometimes another's, in either form.
fn raw_address(id: u8, at: u8) -> RawIp {
    let ip = address(if at < 200 { id % 12 } else { at }).ip();
    match (ip, id % 2) {
        (std::net::IpAddr::V4(v4), 1) => RawIp::V16(v4.to_ipv6_mapped().octets()),
        (ip, _) => RawIp::from(ip),
    }
}

fn versions(choice: u8) -> Versions {
    match choice {
        250.. => Versions([3, 5, 4, 0, 0, 0]),
        240.. => Versions([1, 5, 2, 2, 5, 5]),
        220.. => Versions([1, 2, 2, 0, 0, 0]),
        _ => Versions::OURS,
    }
}

fn meta(choice: u8) -> Bytes {
    match choice {
        250.. => Bytes::from(vec![choice; 512]),
        other => Bytes::from(vec![other % 4; usize::from(other % 3)]),
    }
}

/// A datagram of messages. Also of those that our own encoder refuses to write.
pub(super) fn datagram(said: &[Said], wrap: Wrap, node: &Node) -> Vec<u8> {
    let mut builder = PacketBuilder::new();
    for said in said.iter().take(PARTS_MAX) {
        builder.push(&message(said, node));
    }
    builder.finish(wrap.compress, wrap.crc)
}

fn message(said: &Said, held: &Node) -> Vec<u8> {
    let message = match *said {
        Said::Ping {
            node,
            seq_no,
            source,
        } => Message::Ping(Ping {
            seq_no: seq_no.into(),
            node: name(node),
            source: source.map(|at| Source {
                addr: raw_address(at, at),
                port: 7946,
                node: name(at),
            }),
        }),
        Said::IndirectPing {
            node,
            at,
            seq_no,
            nack,
        } => Message::IndirectPing(IndirectPing {
            seq_no: seq_no.into(),
            target: raw_address(node, at),
            port: if at % 4 == 0 { 0 } else { 7946 },
            node: name(node),
            nack,
            source: None,
        }),
        Said::Ack { seq_no } => return reply(true, seq_no),
        Said::Nack { seq_no } => return reply(false, seq_no),
        Said::Suspect { node, clock, from } => return accusation(3, node, clock, from, held),
        Said::Dead { node, clock, from } => return accusation(5, node, clock, from, held),
        Said::Alive {
            node,
            clock,
            at,
            meta: choice,
            versions: spoken,
        } => {
            let (addr, name) = (raw_address(node, at), name(node));
            let mut out = vec![4, 0x87];
            raw(
                &mut out,
                &[b"Addr", addr.as_bytes(), b"ClusterName", CLUSTER.as_bytes()],
            );
            raw(&mut out, &[b"Incarnation"]);
            number(&mut out, clock.read(&name, held));
            raw(
                &mut out,
                &[b"Meta", &meta(choice), b"Node", name.as_bytes(), b"Port"],
            );
            number(&mut out, if at == 255 { 0 } else { 7946 });
            raw(&mut out, &[b"Vsn", &versions(spoken).0]);
            return out;
        }
        Said::User { length } => Message::User(Bytes::from(vec![b'u'; length.into()])),
    };
    encode_message(&message, CLUSTER)
}

pub(super) fn reply(ack: bool, seq_no: u32) -> Vec<u8> {
    let message = if ack {
        Message::Ack(Ack {
            seq_no,
            payload: Bytes::new(),
        })
    } else {
        Message::Nack(Nack { seq_no })
    };
    encode_message(&message, CLUSTER)
}

fn accusation(type_id: u8, node: u8, clock: Clock, from: u8, held: &Node) -> Vec<u8> {
    let node = name(node);
    let mut out = vec![type_id, 0x84];
    raw(
        &mut out,
        &[
            b"ClusterName",
            CLUSTER.as_bytes(),
            b"From",
            name(from).as_bytes(),
        ],
    );
    raw(&mut out, &[b"Incarnation"]);
    number(&mut out, clock.read(&node, held));
    raw(&mut out, &[b"Node", node.as_bytes()]);
    out
}

fn raw(out: &mut Vec<u8>, values: &[&[u8]]) {
    for value in values {
        // Nothing here is longer than 512 bytes.
        let [high, low] = (value.len() as u16).to_be_bytes();
        out.extend_from_slice(&[0xda, high, low]);
        out.extend_from_slice(value);
    }
}

fn number(out: &mut Vec<u8>, value: u32) {
    out.push(0xce);
    out.extend_from_slice(&value.to_be_bytes());
}

/// The table of another member, as it comes out of the decoder: of the live, none at incarnation 0.
pub(super) fn table(join: bool, known: &[Known], state: bool, node: &Node) -> PushPull {
    let entry = |known: &Known| PushNode {
        name: name(known.node),
        addr: raw_address(known.node, known.at),
        port: 7946,
        meta: meta(known.meta),
        incarnation: known.clock.read(&name(known.node), node),
        state: match known.state % 4 {
            0 => NodeState::Alive,
            1 => NodeState::Suspect,
            2 => NodeState::Dead,
            _ => NodeState::Left,
        },
        versions: versions(known.versions),
    };
    let readable = |node: &PushNode| {
        !node.name.is_empty() && (node.incarnation > 0 || node.state != NodeState::Alive)
    };
    let nodes = known.iter().take(PARTS_MAX).map(entry).filter(readable);
    PushPull {
        join,
        nodes: nodes.collect(),
        user_state: if state {
            Bytes::from_static(b"state")
        } else {
            Bytes::new()
        },
    }
}
