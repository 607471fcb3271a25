//! Messages in the readable form of the vectors' `decoded`. User bodies are opaque to the codec;
//! they are made readable here so that every byte of them is compared.

use memberlist::wire::{Message, NodeState, Ping, PushNode, RawIp, Source, StreamMessage};
use serde_json::{Map, Value, json};

/// A message of a datagram. `cluster` is the name alive, suspect and dead must have carried.
pub(crate) fn message(message: &Message, cluster: Option<&str>) -> Value {
    let (kind, mut fields, named) = match message {
        Message::Ping(ping) => ("ping", ping_fields(ping), false),
        Message::IndirectPing(ping) => {
            let mut fields = json!({
                "Nack": ping.nack,
                "Node": ping.node,
                "Port": ping.port,
                "SeqNo": ping.seq_no,
                "Target": addr(ping.target),
            });
            add_source(&mut fields, ping.source.as_ref());
            ("indirectPing", fields, false)
        }
        Message::Ack(ack) => {
            let fields = json!({ "Payload": text_or_null(&ack.payload), "SeqNo": ack.seq_no });
            ("ackResp", fields, false)
        }
        Message::Nack(nack) => ("nackResp", json!({ "SeqNo": nack.seq_no }), false),
        Message::Suspect(m) => ("suspect", accusation(m.incarnation, &m.node, &m.from), true),
        Message::Dead(m) => ("dead", accusation(m.incarnation, &m.node, &m.from), true),
        Message::Alive(alive) => {
            let fields = json!({
                "Addr": addr(alive.addr),
                "Incarnation": alive.incarnation,
                "Meta": text_or_null(&alive.meta),
                "Node": alive.node,
                "Port": alive.port,
                "Vsn": alive.versions.0,
            });
            ("alive", fields, true)
        }
        Message::User(content) => {
            return json!({ "message": "user", "body": body(content) });
        }
    };
    if let (true, Some(cluster)) = (named, cluster) {
        fields["ClusterName"] = cluster.into();
    }
    json!({ "message": kind, "fields": fields })
}

/// A message of a stream. `cluster` is the name the head of a push/pull must have carried.
pub(crate) fn stream_message(message: &StreamMessage, cluster: Option<&str>) -> Value {
    match message {
        StreamMessage::Ping(ping) => json!({ "message": "ping", "fields": ping_fields(ping) }),
        StreamMessage::Ack(ack) => {
            let fields = json!({ "Payload": text_or_null(&ack.payload), "SeqNo": ack.seq_no });
            json!({ "message": "ackResp", "fields": fields })
        }
        StreamMessage::User(content) => json!({
            "message": "user",
            "header": { "UserMsgLen": content.len() },
            "body": body(content),
        }),
        StreamMessage::PushPull(table) => {
            let mut header = json!({
                "Join": table.join,
                "Nodes": table.nodes.len(),
                "UserStateLen": table.user_state.len(),
            });
            if let Some(cluster) = cluster {
                header["ClusterName"] = cluster.into();
            }
            let nodes: Vec<_> = table.nodes.iter().map(node).collect();
            let empty = table.user_state.is_empty();
            let user_state = if empty {
                Value::Null
            } else {
                body(&table.user_state)
            };
            json!({
                "message": "pushPull",
                "header": header,
                "nodes": nodes,
                "user_state": user_state,
            })
        }
        StreamMessage::Error(text) => json!({ "message": "err", "fields": { "Error": text } }),
    }
}

fn ping_fields(ping: &Ping) -> Value {
    let mut fields = json!({ "Node": ping.node, "SeqNo": ping.seq_no });
    add_source(&mut fields, ping.source.as_ref());
    fields
}

fn add_source(fields: &mut Value, source: Option<&Source>) {
    if let Some(source) = source {
        fields["SourceAddr"] = addr(source.addr);
        fields["SourceNode"] = source.node.clone().into();
        fields["SourcePort"] = source.port.into();
    }
}

fn accusation(incarnation: u32, node: &str, from: &str) -> Value {
    json!({ "From": from, "Incarnation": incarnation, "Node": node })
}

fn node(node: &PushNode) -> Value {
    let (state, state_name) = match node.state {
        NodeState::Alive => (0, "alive"),
        NodeState::Suspect => (1, "suspect"),
        NodeState::Dead => (2, "dead"),
        NodeState::Left => (3, "left"),
    };
    json!({
        "Addr": addr(node.addr),
        "Incarnation": node.incarnation,
        "Meta": text_or_null(&node.meta),
        "Name": node.name,
        "Port": node.port,
        "State": state,
        "StateName": state_name,
        "Vsn": node.versions.0,
    })
}

fn addr(addr: RawIp) -> Value {
    match addr {
        RawIp::V4(_) => addr.ip().to_string().into(),
        RawIp::V16(bytes) => match std::net::Ipv6Addr::from(bytes).to_ipv4_mapped() {
            Some(v4) => format!("::ffff:{v4}").into(),
            None => json!({ "hex": hex(&bytes) }),
        },
    }
}

/// Sidecar sends JSON; Serf a type byte and msgpack.
fn body(content: &[u8]) -> Value {
    if matches!(content.first(), Some(b'{' | b'['))
        && let Ok(value) = serde_json::from_slice::<Value>(content)
    {
        return json!({ "format": "json", "json": value });
    }
    let kinds = [
        "leave",
        "join",
        "pushPull",
        "userEvent",
        "query",
        "queryResponse",
        "conflictResponse",
        "keyRequest",
        "keyResponse",
        "relay",
    ];
    if let Some((kind, mut rest)) = content.split_first()
        && let Some(kind) = kinds.get(usize::from(*kind))
        && let Some(value) = msgpack(&mut rest)
        && rest.is_empty()
    {
        return json!({ "format": "serf", "type": kind, "msgpack": value });
    }
    json!({ "format": "raw", "hex": hex(content) })
}

fn text_or_null(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        Value::Null
    } else {
        text(bytes)
    }
}

fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text)
            if text
                .chars()
                .all(|c| !c.is_control() || c == '\n' || c == '\t') =>
        {
            text.into()
        }
        _ => json!({ "hex": hex(bytes) }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One msgpack value off the front, in the forms Serf's messages have.
fn msgpack(rest: &mut &[u8]) -> Option<Value> {
    let marker = *rest.split_off_first()?;
    let mut take = |bytes: usize| rest.split_off(..bytes);
    let mut number =
        |bytes| take(bytes).map(|bytes| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)));
    let size = match marker {
        0x00..=0x7f => return Some(marker.into()),
        0xc0 => return Some(Value::Null),
        0xc2 | 0xc3 => return Some((marker == 0xc3).into()),
        0xcc..=0xcf => return Some(number(1 << (marker - 0xcc))?.into()),
        0x80..=0x9f => u64::from(marker & 0x0f),
        0xa0..=0xbf => u64::from(marker & 0x1f),
        0xda | 0xdc | 0xde => number(2)?,
        0xdb | 0xdd | 0xdf => number(4)?,
        _ => return None,
    };
    match marker {
        0x80..=0x8f | 0xde | 0xdf => {
            let mut map = Map::new();
            for _ in 0..size {
                let key = msgpack(rest)?;
                map.insert(key.as_str()?.to_owned(), msgpack(rest)?);
            }
            Some(map.into())
        }
        0x90..=0x9f | 0xdc | 0xdd => {
            let values: Option<Vec<_>> = (0..size).map(|_| msgpack(rest)).collect();
            Some(values?.into())
        }
        _ => Some(text(rest.split_off(..usize::try_from(size).ok()?)?)),
    }
}
