//! Each structure from its bytes. A `decode_` function takes input that starts with the structure
//! and ignores what follows it.

use bytes::Bytes;

use super::{
    super::{
        ClusterFilter,
        error::{CompressionProblem, WireError, quote},
        limits::{
            ACK_PAYLOAD_BYTES_MAX, ERROR_TEXT_BYTES_MAX, PUSH_NODES_MAX, USER_MESSAGE_BYTES_MAX,
            USER_STATE_BYTES_MAX,
        },
        message::{Ack, Alive, Dead, IndirectPing, Nack, NodeState, Ping, PushNode, Suspect},
    },
    PushPullHeader, Result,
    check::{
        alive_incarnation, bytes_up_to, check_cluster, invalid, length, meta, name, name_or_empty,
        node_addr, raw_ip, source, versions,
    },
    record::Record,
};

/// A probe may leave the name out: it is then for whoever gets it.
pub(in crate::wire) fn decode_ping(input: &[u8]) -> Result<Ping<&str>> {
    let structure = "ping";
    let (mut node, mut seq_no) = ("", 0);
    let (mut source_addr, mut source_port, mut source_node) = (&[][..], 0, "");
    let mut record = Record::open(structure, input)?;
    while let Some(field) = record.next()? {
        match field.key {
            b"Node" => node = field.text()?,
            b"SeqNo" => seq_no = field.u32()?,
            b"SourceAddr" => source_addr = field.bytes()?,
            b"SourceNode" => source_node = field.text()?,
            b"SourcePort" => source_port = field.u16()?,
            _ => {}
        }
    }
    Ok(Ping {
        seq_no,
        node: name_or_empty(structure, "Node", node)?,
        source: source(structure, source_addr, source_port, source_node)?,
    })
}

pub(in crate::wire) fn decode_indirect_ping(input: &[u8]) -> Result<IndirectPing<&str>> {
    let structure = "indirectPingReq";
    let (mut nack, mut node, mut port, mut seq_no, mut target) = (false, "", 0, 0, &[][..]);
    let (mut source_addr, mut source_port, mut source_node) = (&[][..], 0, "");
    let mut record = Record::open(structure, input)?;
    while let Some(field) = record.next()? {
        match field.key {
            b"Nack" => nack = field.bool()?,
            b"Node" => node = field.text()?,
            b"Port" => port = field.u16()?,
            b"SeqNo" => seq_no = field.u32()?,
            b"SourceAddr" => source_addr = field.bytes()?,
            b"SourceNode" => source_node = field.text()?,
            b"SourcePort" => source_port = field.u16()?,
            b"Target" => target = field.bytes()?,
            _ => {}
        }
    }
    Ok(IndirectPing {
        seq_no,
        target: raw_ip(structure, "Target", target)?,
        port,
        node: name(structure, "Node", node)?,
        nack,
        source: source(structure, source_addr, source_port, source_node)?,
    })
}

pub(in crate::wire) fn decode_ack(input: &[u8]) -> Result<Ack<&[u8]>> {
    let structure = "ackResp";
    let (mut payload, mut seq_no) = (&[][..], 0);
    let mut record = Record::open(structure, input)?;
    while let Some(field) = record.next()? {
        match field.key {
            b"Payload" => payload = field.bytes()?,
            b"SeqNo" => seq_no = field.u32()?,
            _ => {}
        }
    }
    let limit = (ACK_PAYLOAD_BYTES_MAX, "at most 512 bytes");
    Ok(Ack {
        seq_no,
        payload: bytes_up_to(structure, "Payload", payload, limit)?,
    })
}

pub(in crate::wire) fn decode_nack(input: &[u8]) -> Result<Nack> {
    let mut seq_no = 0;
    let mut record = Record::open("nackResp", input)?;
    while let Some(field) = record.next()? {
        if field.key == b"SeqNo" {
            seq_no = field.u32()?;
        }
    }
    Ok(Nack { seq_no })
}

pub(in crate::wire) fn decode_suspect<'a>(
    input: &'a [u8],
    filter: &ClusterFilter,
) -> Result<Suspect<&'a str>> {
    let (incarnation, node, from) = accusation("suspect", input, filter)?;
    Ok(Suspect {
        incarnation,
        node,
        from,
    })
}

pub(in crate::wire) fn decode_dead<'a>(
    input: &'a [u8],
    filter: &ClusterFilter,
) -> Result<Dead<&'a str>> {
    let (incarnation, node, from) = accusation("dead", input, filter)?;
    Ok(Dead {
        incarnation,
        node,
        from,
    })
}

/// Suspect and dead have the same fields: incarnation, node, from.
fn accusation<'a>(
    structure: &'static str,
    input: &'a [u8],
    filter: &ClusterFilter,
) -> Result<(u32, &'a str, &'a str)> {
    let (mut cluster, mut from, mut incarnation, mut node) = (None, "", 0, "");
    let mut record = Record::open(structure, input)?;
    while let Some(field) = record.next()? {
        match field.key {
            b"ClusterName" => cluster = Some(field.bytes()?),
            b"From" => from = field.text()?,
            b"Incarnation" => incarnation = field.u32()?,
            b"Node" => node = field.text()?,
            _ => {}
        }
    }
    check_cluster(structure, cluster, filter)?;
    let node = name(structure, "Node", node)?;
    Ok((incarnation, node, name_or_empty(structure, "From", from)?))
}

pub(in crate::wire) fn decode_alive<'a>(
    input: &'a [u8],
    filter: &ClusterFilter,
) -> Result<Alive<&'a str, &'a [u8]>> {
    let structure = "alive";
    let (mut addr, mut cluster, mut incarnation) = (&[][..], None, 0);
    let (mut meta_bytes, mut node, mut port, mut vsn) = (&[][..], "", 0, &[][..]);
    let mut record = Record::open(structure, input)?;
    while let Some(field) = record.next()? {
        match field.key {
            b"Addr" => addr = field.bytes()?,
            b"ClusterName" => cluster = Some(field.bytes()?),
            b"Incarnation" => incarnation = field.u32()?,
            b"Meta" => meta_bytes = field.bytes()?,
            b"Node" => node = field.text()?,
            b"Port" => port = field.u16()?,
            b"Vsn" => vsn = field.bytes()?,
            _ => {}
        }
    }
    check_cluster(structure, cluster, filter)?;
    Ok(Alive {
        incarnation: alive_incarnation(structure, incarnation)?,
        node: name(structure, "Node", node)?,
        addr: node_addr(structure, addr)?,
        port,
        meta: meta(structure, meta_bytes)?,
        versions: versions(structure, vsn)?,
    })
}

pub(in crate::wire) fn decode_push_pull_header(
    input: &[u8],
    filter: &ClusterFilter,
) -> Result<PushPullHeader> {
    let structure = "pushPullHeader";
    let (mut cluster, mut join, mut nodes, mut user_state_bytes) = (None, false, 0, 0);
    let mut record = Record::open(structure, input)?;
    while let Some(field) = record.next()? {
        match field.key {
            b"ClusterName" => cluster = Some(field.bytes()?),
            b"Join" => join = field.bool()?,
            b"Nodes" => nodes = field.int()?,
            b"UserStateLen" => user_state_bytes = field.int()?,
            _ => {}
        }
    }
    check_cluster(structure, cluster, filter)?;
    Ok(PushPullHeader {
        join,
        nodes: length("Nodes", nodes, PUSH_NODES_MAX)?,
        user_state_bytes: length("UserStateLen", user_state_bytes, USER_STATE_BYTES_MAX)?,
    })
}

pub(in crate::wire) fn decode_push_node(input: &[u8]) -> Result<PushNode> {
    let structure = "pushNodeState";
    let (mut addr, mut incarnation, mut meta_bytes) = (&[][..], 0, &[][..]);
    let (mut node, mut port, mut state, mut vsn) = ("", 0, 0, &[][..]);
    let mut record = Record::open(structure, input)?;
    while let Some(field) = record.next()? {
        match field.key {
            b"Addr" => addr = field.bytes()?,
            b"Incarnation" => incarnation = field.u32()?,
            b"Meta" => meta_bytes = field.bytes()?,
            b"Name" => node = field.text()?,
            b"Port" => port = field.u16()?,
            b"State" => state = field.int()?,
            b"Vsn" => vsn = field.bytes()?,
            _ => {}
        }
    }
    let state = match state {
        0 => NodeState::Alive,
        1 => NodeState::Suspect,
        2 => NodeState::Dead,
        3 => NodeState::Left,
        other => return Err(invalid(structure, "State", other.to_string(), "0 to 3")),
    };
    if state == NodeState::Alive {
        alive_incarnation(structure, incarnation)?;
    }
    Ok(PushNode {
        name: name(structure, "Name", node)?.to_owned(),
        addr: node_addr(structure, addr)?,
        port,
        meta: Bytes::copy_from_slice(meta(structure, meta_bytes)?),
        incarnation,
        state,
        versions: versions(structure, vsn)?,
    })
}

/// Length of the application message that follows on the stream, in bytes.
pub(in crate::wire) fn decode_user_header(input: &[u8]) -> Result<usize> {
    let mut bytes = 0;
    let mut record = Record::open("userMsgHeader", input)?;
    while let Some(field) = record.next()? {
        if field.key == b"UserMsgLen" {
            bytes = field.int()?;
        }
    }
    length("UserMsgLen", bytes, USER_MESSAGE_BYTES_MAX)
}

/// Text of an error reply, without control characters.
pub(in crate::wire) fn decode_error(input: &[u8]) -> Result<String> {
    let structure = "errResp";
    let mut text = "";
    let mut record = Record::open(structure, input)?;
    while let Some(field) = record.next()? {
        if field.key == b"Error" {
            text = field.text()?;
        }
    }
    if text.len() > ERROR_TEXT_BYTES_MAX {
        return Err(invalid(
            structure,
            "Error",
            quote(text.as_bytes()),
            "at most 4096 bytes",
        ));
    }
    Ok(text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect())
}

/// The compressed bytes.
pub(in crate::wire) fn decode_compress(input: &[u8]) -> Result<&[u8]> {
    let (mut algorithm, mut data) = (0, &[][..]);
    let mut record = Record::open("compress", input)?;
    while let Some(field) = record.next()? {
        match field.key {
            b"Algo" => algorithm = field.u8()?,
            b"Buf" => data = field.bytes()?,
            _ => {}
        }
    }
    if algorithm != 0 {
        return Err(WireError::Compression(CompressionProblem::Algorithm(
            algorithm,
        )));
    }
    Ok(data)
}
