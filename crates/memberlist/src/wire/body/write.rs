//! Each structure to its bytes, as the fork writes it: fields ascending by name, the cluster's name
//! wherever the fork has one.

use super::{
    super::{
        message::{Ack, Alive, IndirectPing, Nack, NodeState, Ping, PushNode, Source},
        msgpack::Writer,
    },
    PushPullHeader,
};

pub(in crate::wire) fn encode_ping(out: &mut Vec<u8>, ping: &Ping<&str>) {
    let mut writer = Writer(out);
    writer.map(2 + source_fields(ping.source.as_ref()));
    writer
        .text("Node", ping.node)
        .unsigned("SeqNo", ping.seq_no.into());
    encode_source(&mut writer, ping.source.as_ref());
}

pub(in crate::wire) fn encode_indirect_ping(out: &mut Vec<u8>, ping: &IndirectPing<&str>) {
    let mut writer = Writer(out);
    writer.map(5 + source_fields(ping.source.as_ref()));
    writer.bool("Nack", ping.nack).text("Node", ping.node);
    writer
        .unsigned("Port", ping.port.into())
        .unsigned("SeqNo", ping.seq_no.into());
    encode_source(&mut writer, ping.source.as_ref());
    writer.bytes("Target", ping.target.as_bytes());
}

/// The only fields Go leaves out when they are empty.
fn source_fields(source: Option<&Source<&str>>) -> u8 {
    source.map_or(0, |source| {
        1 + u8::from(!source.node.is_empty()) + u8::from(source.port != 0)
    })
}

fn encode_source(writer: &mut Writer<'_>, source: Option<&Source<&str>>) {
    let Some(source) = source else { return };
    writer.bytes("SourceAddr", source.addr.as_bytes());
    if !source.node.is_empty() {
        writer.text("SourceNode", source.node);
    }
    if source.port != 0 {
        writer.unsigned("SourcePort", source.port.into());
    }
}

pub(in crate::wire) fn encode_ack(out: &mut Vec<u8>, ack: &Ack<&[u8]>) {
    Writer(out)
        .map(2)
        .bytes("Payload", ack.payload)
        .unsigned("SeqNo", ack.seq_no.into());
}

pub(in crate::wire) fn encode_nack(out: &mut Vec<u8>, nack: &Nack) {
    Writer(out).map(1).unsigned("SeqNo", nack.seq_no.into());
}

pub(in crate::wire) fn encode_accusation(
    out: &mut Vec<u8>,
    cluster_name: &str,
    (incarnation, node, from): (u32, &str, &str),
) {
    // A node cannot refute what is said about its last incarnation; only its own leave may.
    debug_assert!(
        incarnation != u32::MAX || from == node,
        "{node} accused at {incarnation}"
    );
    let mut writer = Writer(out);
    writer
        .map(4)
        .text("ClusterName", cluster_name)
        .text("From", from);
    writer
        .unsigned("Incarnation", incarnation.into())
        .text("Node", node);
}

pub(in crate::wire) fn encode_alive(
    out: &mut Vec<u8>,
    cluster_name: &str,
    alive: &Alive<&str, &[u8]>,
) {
    debug_assert!(
        alive.incarnation > 0,
        "{} alive at incarnation 0",
        alive.node
    );
    let mut writer = Writer(out);
    writer
        .map(7)
        .bytes("Addr", alive.addr.as_bytes())
        .text("ClusterName", cluster_name);
    writer
        .unsigned("Incarnation", alive.incarnation.into())
        .bytes("Meta", alive.meta);
    writer
        .text("Node", alive.node)
        .unsigned("Port", alive.port.into());
    writer.bytes("Vsn", &alive.versions.0);
}

pub(in crate::wire) fn encode_push_pull_header(
    out: &mut Vec<u8>,
    cluster_name: &str,
    header: &PushPullHeader,
) {
    let mut writer = Writer(out);
    writer
        .map(4)
        .text("ClusterName", cluster_name)
        .bool("Join", header.join);
    writer.unsigned("Nodes", header.nodes as u64);
    writer.unsigned("UserStateLen", header.user_state_bytes as u64);
}

pub(in crate::wire) fn encode_push_node(out: &mut Vec<u8>, node: &PushNode) {
    debug_assert!(
        node.incarnation > 0 || node.state != NodeState::Alive,
        "{} alive at incarnation 0",
        node.name
    );
    let state = match node.state {
        NodeState::Alive => 0,
        NodeState::Suspect => 1,
        NodeState::Dead => 2,
        NodeState::Left => 3,
    };
    let mut writer = Writer(out);
    writer.map(7).bytes("Addr", node.addr.as_bytes());
    writer
        .unsigned("Incarnation", node.incarnation.into())
        .bytes("Meta", &node.meta);
    writer
        .text("Name", &node.name)
        .unsigned("Port", node.port.into())
        .unsigned("State", state);
    writer.bytes("Vsn", &node.versions.0);
}

pub(in crate::wire) fn encode_user_header(out: &mut Vec<u8>, bytes: usize) {
    Writer(out).map(1).unsigned("UserMsgLen", bytes as u64);
}

pub(in crate::wire) fn encode_error(out: &mut Vec<u8>, text: &str) {
    Writer(out).map(1).text("Error", text);
}

pub(in crate::wire) fn encode_compress(out: &mut Vec<u8>, data: &[u8]) {
    Writer(out).map(2).unsigned("Algo", 0).bytes("Buf", data);
}

/// Bytes of a message around `data` compressed bytes: its type and what [`encode_compress`] adds.
pub(in crate::wire) fn compress_header_bytes(data: usize) -> usize {
    match data {
        0..=31 => 13,
        32..=0xffff => 15,
        _ => 17,
    }
}
