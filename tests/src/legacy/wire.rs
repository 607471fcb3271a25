//! The wire format of the Go fork: what it writes, byte for byte, and what it can read.
//!
//! Written from the wire format alone. Reading is stricter than the fork, which skips what it does
//! not know: whatever a member of ours sends that the fork would drop, misread or crash at is an
//! error here, and so is what the fork itself never writes.

use std::{collections::BTreeMap, net::Ipv4Addr};

use weezl::{BitOrder, decode::Decoder, encode::Encoder};

/// Longest datagram that a member with the default packing budget of 1400 bytes sends: lengths of
/// compound parts and checksums are not budgeted.
const DATAGRAM_BYTES_MAX: usize = 1407;
/// More would be fragments of memory for the fork, which has no limit of its own.
const INFLATED_BYTES_MAX: usize = 16 << 20;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    /// They end too early; on a stream more may come.
    Short,
    /// What the fork could not digest.
    Bad(String),
}

impl Problem {
    fn bad<T>(text: impl Into<String>) -> Result<T, Self> {
        Err(Self::Bad(text.into()))
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short => f.write_str("cut off"),
            Self::Bad(text) => f.write_str(text),
        }
    }
}

/// What a member says of itself, or another of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Announcement {
    pub(super) name: String,
    pub(super) ip: Ipv4Addr,
    pub(super) port: u16,
    pub(super) meta: Vec<u8>,
    pub(super) incarnation: u32,
    pub(super) versions: [u8; 6],
}

/// A message of its own or a part of a compound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Ping {
        seq_no: u32,
        node: String,
    },
    IndirectPing {
        seq_no: u32,
        ip: Ipv4Addr,
        port: u16,
        node: String,
        nack: bool,
    },
    Ack {
        seq_no: u32,
    },
    Nack {
        seq_no: u32,
    },
    Suspect {
        incarnation: u32,
        node: String,
        from: String,
    },
    Alive(Announcement),
    Dead {
        incarnation: u32,
        node: String,
        from: String,
    },
    User(Vec<u8>),
}

/// One side of a state exchange. States are 0 alive, 1 suspect, 2 dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) join: bool,
    pub(super) entries: Vec<(Announcement, u8)>,
    pub(super) user_state: Vec<u8>,
}

/// What a stream carries in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StreamMessage {
    Ping { seq_no: u32, node: String },
    Ack { seq_no: u32 },
    Exchange(Exchange),
    User(Vec<u8>),
}

// === Writing ===

#[derive(Clone, Copy)]
enum Put<'a> {
    Nil,
    Flag(bool),
    Number(u64),
    Bytes(&'a [u8]),
}

fn put_map(out: &mut Vec<u8>, fields: &[(&str, Put<'_>)]) {
    out.push(0x80 | u8::try_from(fields.len()).expect("few fields"));
    for (key, value) in fields {
        put(out, Put::Bytes(key.as_bytes()));
        put(out, *value);
    }
}

fn put(out: &mut Vec<u8>, value: Put<'_>) {
    match value {
        Put::Nil => out.push(0xc0),
        Put::Flag(flag) => out.push(if flag { 0xc3 } else { 0xc2 }),
        Put::Number(number) => {
            let bytes = number.to_be_bytes();
            match number {
                0..=0x7f => out.push(bytes[7]),
                0x80..=0xff => out.extend([0xcc, bytes[7]]),
                0x100..=0xffff => {
                    out.push(0xcd);
                    out.extend(&bytes[6..]);
                }
                0x1_0000..=0xffff_ffff => {
                    out.push(0xce);
                    out.extend(&bytes[4..]);
                }
                _ => {
                    out.push(0xcf);
                    out.extend(bytes);
                }
            }
        }
        Put::Bytes(bytes) => {
            let length = u32::try_from(bytes.len()).expect("short values");
            match length {
                0..=31 => out.push(0xa0 | bytes.len() as u8),
                32..=0xffff => {
                    out.push(0xda);
                    out.extend(&length.to_be_bytes()[2..]);
                }
                _ => {
                    out.push(0xdb);
                    out.extend(length.to_be_bytes());
                }
            }
            out.extend(bytes);
        }
    }
}

/// A message as the fork writes it, type byte first.
pub(super) fn encode(message: &Message, cluster: &str) -> Vec<u8> {
    let cluster = Put::Bytes(cluster.as_bytes());
    let number = |number: u32| Put::Number(number.into());
    let mut out = Vec::new();
    match message {
        Message::Ping { seq_no, node } => {
            out.push(0);
            let node = Put::Bytes(node.as_bytes());
            put_map(&mut out, &[("Node", node), ("SeqNo", number(*seq_no))]);
        }
        Message::IndirectPing {
            seq_no,
            ip,
            port,
            node,
            nack,
        } => {
            out.push(1);
            let fields = [
                ("Nack", Put::Flag(*nack)),
                ("Node", Put::Bytes(node.as_bytes())),
                ("Port", number((*port).into())),
                ("SeqNo", number(*seq_no)),
                ("Target", Put::Bytes(&ip.octets())),
            ];
            put_map(&mut out, &fields);
        }
        Message::Ack { seq_no } => {
            out.push(2);
            put_map(
                &mut out,
                &[("Payload", Put::Nil), ("SeqNo", number(*seq_no))],
            );
        }
        Message::Nack { seq_no } => {
            out.push(11);
            put_map(&mut out, &[("SeqNo", number(*seq_no))]);
        }
        Message::Suspect {
            incarnation,
            node,
            from,
        }
        | Message::Dead {
            incarnation,
            node,
            from,
        } => {
            let suspect = matches!(message, Message::Suspect { .. });
            out.push(if suspect { 3 } else { 5 });
            let fields = [
                ("ClusterName", cluster),
                ("From", Put::Bytes(from.as_bytes())),
                ("Incarnation", number(*incarnation)),
                ("Node", Put::Bytes(node.as_bytes())),
            ];
            put_map(&mut out, &fields);
        }
        Message::Alive(said) => {
            out.push(4);
            let fields = [
                ("Addr", Put::Bytes(&said.ip.octets())),
                ("ClusterName", cluster),
                ("Incarnation", number(said.incarnation)),
                ("Meta", Put::Bytes(&said.meta)),
                ("Node", Put::Bytes(said.name.as_bytes())),
                ("Port", number(said.port.into())),
                ("Vsn", Put::Bytes(&said.versions)),
            ];
            put_map(&mut out, &fields);
        }
        Message::User(payload) => {
            out.push(8);
            out.extend(payload);
        }
    }
    out
}

fn compressed(message: &[u8]) -> Vec<u8> {
    let buffer = Encoder::new(BitOrder::Lsb, 8)
        .encode(message)
        .expect("memory has room for it");
    let mut out = vec![9];
    put_map(
        &mut out,
        &[("Algo", Put::Number(0)), ("Buf", Put::Bytes(&buffer))],
    );
    out
}

/// A datagram: one message bare, more as a compound, compressed if that makes it shorter.
pub(super) fn datagram(messages: &[Vec<u8>], checksum: bool) -> Vec<u8> {
    let mut packet = match messages {
        [single] => single.clone(),
        many => {
            let count = u8::try_from(many.len()).expect("few parts");
            let mut out = vec![7, count];
            for part in many {
                let length = u16::try_from(part.len()).expect("short parts");
                out.extend(length.to_be_bytes());
            }
            many.iter().for_each(|part| out.extend(part));
            out
        }
    };
    let shorter = compressed(&packet);
    if shorter.len() < packet.len() {
        packet = shorter;
    }
    if checksum {
        let sum = crc32fast::hash(&packet).to_be_bytes();
        packet = [&[12], &sum[..], &packet].concat();
    }
    packet
}

/// A stream in one direction; always compressed.
pub(super) fn stream(message: &StreamMessage, cluster: &str) -> Vec<u8> {
    let number = |number: usize| Put::Number(number as u64);
    let plain = match message {
        StreamMessage::Ping { seq_no, node } => encode(
            &Message::Ping {
                seq_no: *seq_no,
                node: node.clone(),
            },
            cluster,
        ),
        StreamMessage::Ack { seq_no } => encode(&Message::Ack { seq_no: *seq_no }, cluster),
        StreamMessage::User(payload) => {
            let mut out = vec![8];
            put_map(&mut out, &[("UserMsgLen", number(payload.len()))]);
            out.extend(payload);
            out
        }
        StreamMessage::Exchange(exchange) => {
            let mut out = vec![6];
            let header = [
                ("ClusterName", Put::Bytes(cluster.as_bytes())),
                ("Join", Put::Flag(exchange.join)),
                ("Nodes", number(exchange.entries.len())),
                ("UserStateLen", number(exchange.user_state.len())),
            ];
            put_map(&mut out, &header);
            for (said, state) in &exchange.entries {
                let fields = [
                    ("Addr", Put::Bytes(&said.ip.octets())),
                    ("Incarnation", Put::Number(said.incarnation.into())),
                    ("Meta", Put::Bytes(&said.meta)),
                    ("Name", Put::Bytes(said.name.as_bytes())),
                    ("Port", Put::Number(said.port.into())),
                    ("State", Put::Number((*state).into())),
                    ("Vsn", Put::Bytes(&said.versions)),
                ];
                put_map(&mut out, &fields);
            }
            out.extend(&exchange.user_state);
            out
        }
    };
    compressed(&plain)
}

// === Reading ===

/// The messages of a datagram.
pub(super) fn read_datagram(datagram: &[u8], cluster: &str) -> Result<Vec<Message>, Problem> {
    if datagram.len() > DATAGRAM_BYTES_MAX {
        return Problem::bad(format!("{} bytes in a datagram", datagram.len()));
    }
    let mut packet = datagram;
    if let [12, rest @ ..] = datagram {
        let (sum, body) = rest.split_at_checked(4).ok_or(Problem::Short)?;
        if body.is_empty() {
            return Problem::bad("checksum of nothing, at which the fork crashes");
        }
        if crc32fast::hash(body).to_be_bytes() != sum {
            return Problem::bad("wrong checksum");
        }
        packet = body;
    }
    let inflated;
    if let [9, rest @ ..] = packet {
        let mut rest = rest;
        inflated = inflate(&mut rest)?;
        end(rest)?;
        packet = &inflated;
    }
    let [7, count, rest @ ..] = packet else {
        return Ok(vec![read_message(packet, cluster)?]);
    };
    // The fork multiplies in eight bits.
    let table_bytes = usize::from(count.wrapping_mul(2));
    if table_bytes != 2 * usize::from(*count) {
        return Problem::bad(format!(
            "compound of {count} parts, which the fork misreads"
        ));
    }
    let (table, mut parts) = rest.split_at_checked(table_bytes).ok_or(Problem::Short)?;
    let mut messages = Vec::new();
    for length in table.chunks_exact(2) {
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let part = take(&mut parts, length)?;
        messages.push(read_message(part, cluster)?);
    }
    end(parts)?;
    Ok(messages)
}

fn read_message(message: &[u8], cluster: &str) -> Result<Message, Problem> {
    let Some((kind, mut rest)) = message.split_first() else {
        return Problem::bad("message without a byte, at which the fork crashes");
    };
    if *kind == 8 {
        return Ok(Message::User(rest.to_vec()));
    }
    if !matches!(kind, 0..=5 | 11) {
        return Problem::bad(format!("type {kind}, which has no place in a datagram"));
    }
    let fields = Fields::read(&mut rest)?;
    end(rest)?;
    match kind {
        0 => fields.ping(),
        1 => {
            fields.has(&["Nack", "Node", "Port", "SeqNo", "Target"])?;
            Ok(Message::IndirectPing {
                seq_no: fields.u32("SeqNo")?,
                ip: fields.ip("Target")?,
                port: fields.port()?,
                node: fields.name("Node")?,
                nack: fields.flag("Nack")?,
            })
        }
        2 => fields.ack(),
        11 => {
            fields.has(&["SeqNo"])?;
            Ok(Message::Nack {
                seq_no: fields.u32("SeqNo")?,
            })
        }
        4 => {
            let keys = [
                "Addr",
                "ClusterName",
                "Incarnation",
                "Meta",
                "Node",
                "Port",
                "Vsn",
            ];
            fields.has(&keys)?;
            fields.cluster(cluster)?;
            let said = fields.announcement("Node")?;
            if said.incarnation == 0 {
                return Problem::bad("alive with incarnation 0, a ghost in the fork's table");
            }
            Ok(Message::Alive(said))
        }
        _ => {
            fields.has(&["ClusterName", "From", "Incarnation", "Node"])?;
            fields.cluster(cluster)?;
            let (node, from) = (fields.name("Node")?, fields.text("From")?);
            let incarnation = fields.u32("Incarnation")?;
            if incarnation == u32::MAX {
                return Problem::bad(format!("accusation of {node} that it cannot refute"));
            }
            Ok(match kind {
                3 => Message::Suspect {
                    incarnation,
                    node,
                    from,
                },
                _ => Message::Dead {
                    incarnation,
                    node,
                    from,
                },
            })
        }
    }
}

/// One direction of a stream; [`Problem::Short`] until all of it is there.
pub(super) fn read_stream(bytes: &[u8], cluster: &str) -> Result<StreamMessage, Problem> {
    let (kind, mut rest) = bytes.split_first().ok_or(Problem::Short)?;
    if *kind != 9 {
        return read_plain_stream(bytes, cluster);
    }
    let inflated = inflate(&mut rest)?;
    end(rest)?;
    match read_plain_stream(&inflated, cluster) {
        // What is whole outside is whole inside.
        Err(Problem::Short) => Problem::bad("compressed message that is cut off inside"),
        read => read,
    }
}

fn read_plain_stream(bytes: &[u8], cluster: &str) -> Result<StreamMessage, Problem> {
    let (kind, mut rest) = bytes.split_first().ok_or(Problem::Short)?;
    let message = match kind {
        0 => match Fields::read(&mut rest)?.ping()? {
            Message::Ping { seq_no, node } => StreamMessage::Ping { seq_no, node },
            other => return Problem::bad(format!("{other:?} on a stream")),
        },
        2 => match Fields::read(&mut rest)?.ack()? {
            Message::Ack { seq_no } => StreamMessage::Ack { seq_no },
            other => return Problem::bad(format!("{other:?} on a stream")),
        },
        8 => {
            let header = Fields::read(&mut rest)?;
            header.has(&["UserMsgLen"])?;
            let length = header.length("UserMsgLen")?;
            StreamMessage::User(take(&mut rest, length)?.to_vec())
        }
        6 => {
            let header = Fields::read(&mut rest)?;
            header.has(&["ClusterName", "Join", "Nodes", "UserStateLen"])?;
            header.cluster(cluster)?;
            let mut entries = Vec::new();
            for _ in 0..header.length("Nodes")? {
                let entry = Fields::read(&mut rest)?;
                let keys = [
                    "Addr",
                    "Incarnation",
                    "Meta",
                    "Name",
                    "Port",
                    "State",
                    "Vsn",
                ];
                entry.has(&keys)?;
                let state = entry.number("State")?;
                let Some(state) = u8::try_from(state).ok().filter(|state| *state <= 2) else {
                    return Problem::bad(format!("state {state}, which the fork ignores"));
                };
                entries.push((entry.announcement("Name")?, state));
            }
            let length = header.length("UserStateLen")?;
            StreamMessage::Exchange(Exchange {
                join: header.flag("Join")?,
                entries,
                user_state: take(&mut rest, length)?.to_vec(),
            })
        }
        other => return Problem::bad(format!("type {other}, which has no place on a stream")),
    };
    end(rest)?;
    Ok(message)
}

fn inflate(rest: &mut &[u8]) -> Result<Vec<u8>, Problem> {
    let fields = Fields::read(rest)?;
    fields.has(&["Algo", "Buf"])?;
    if fields.number("Algo")? != 0 {
        return Problem::bad("unknown compression");
    }
    let inflated = Decoder::new(BitOrder::Lsb, 8)
        .decode(fields.bytes("Buf")?)
        .map_err(|error| Problem::Bad(format!("LZW: {error}")))?;
    if inflated.is_empty() || inflated.len() > INFLATED_BYTES_MAX {
        return Problem::bad(format!("{} bytes in a compressed message", inflated.len()));
    }
    Ok(inflated)
}

#[derive(Debug)]
enum Value<'a> {
    Nil,
    Flag(bool),
    Number(u64),
    Bytes(&'a [u8]),
}

/// A structure: a small map, keys in ascending order as the fork writes them.
struct Fields<'a>(BTreeMap<&'a str, Value<'a>>);

impl<'a> Fields<'a> {
    fn read(rest: &mut &'a [u8]) -> Result<Self, Problem> {
        let head = take(rest, 1)?[0];
        if head & 0xf0 != 0x80 {
            return Problem::bad(format!("marker {head:02x} where a map should be"));
        }
        let mut fields = BTreeMap::new();
        let mut last = "";
        for _ in 0..head & 0x0f {
            let Value::Bytes(key) = value(rest)? else {
                return Problem::bad("key that is no string");
            };
            let key = std::str::from_utf8(key).map_err(|error| Problem::Bad(error.to_string()))?;
            if key <= last {
                return Problem::bad(format!("key {key} after {last}"));
            }
            last = key;
            fields.insert(key, value(rest)?);
        }
        Ok(Self(fields))
    }

    fn has(&self, keys: &[&str]) -> Result<(), Problem> {
        if self.0.keys().eq(keys.iter()) {
            return Ok(());
        }
        Problem::bad(format!("fields {:?}, not {keys:?}", self.0.keys()))
    }

    fn ping(&self) -> Result<Message, Problem> {
        self.has(&["Node", "SeqNo"])?;
        Ok(Message::Ping {
            seq_no: self.u32("SeqNo")?,
            node: self.name("Node")?,
        })
    }

    fn ack(&self) -> Result<Message, Problem> {
        self.has(&["Payload", "SeqNo"])?;
        self.bytes("Payload")?;
        Ok(Message::Ack {
            seq_no: self.u32("SeqNo")?,
        })
    }

    fn announcement(&self, name: &str) -> Result<Announcement, Problem> {
        let (meta, versions) = (self.bytes("Meta")?, self.bytes("Vsn")?);
        if meta.len() > 512 {
            return Problem::bad(format!("{} bytes of metadata", meta.len()));
        }
        let Ok(versions) = versions.try_into() else {
            return Problem::bad(format!("versions {versions:?}, at which the fork crashes"));
        };
        Ok(Announcement {
            name: self.name(name)?,
            ip: self.ip("Addr")?,
            port: self.port()?,
            meta: meta.to_vec(),
            incarnation: self.u32("Incarnation")?,
            versions,
        })
    }

    fn number(&self, key: &str) -> Result<u64, Problem> {
        match self.0.get(key) {
            Some(Value::Number(number)) => Ok(*number),
            other => Problem::bad(format!("{key} is {other:?}, not a number")),
        }
    }

    fn u32(&self, key: &str) -> Result<u32, Problem> {
        let number = self.number(key)?;
        u32::try_from(number).map_err(|_| Problem::Bad(format!("{key} is {number}")))
    }

    /// A count or length, which the fork takes at its word.
    fn length(&self, key: &str) -> Result<usize, Problem> {
        let number = self.number(key)?;
        match usize::try_from(number) {
            Ok(length) if length <= INFLATED_BYTES_MAX => Ok(length),
            _ => Problem::bad(format!("{key} is {number}")),
        }
    }

    fn flag(&self, key: &str) -> Result<bool, Problem> {
        match self.0.get(key) {
            Some(Value::Flag(flag)) => Ok(*flag),
            other => Problem::bad(format!("{key} is {other:?}, not a flag")),
        }
    }

    fn bytes(&self, key: &str) -> Result<&'a [u8], Problem> {
        match self.0.get(key) {
            Some(Value::Bytes(bytes)) => Ok(bytes),
            Some(Value::Nil) => Ok(&[]),
            other => Problem::bad(format!("{key} is {other:?}, not bytes")),
        }
    }

    fn text(&self, key: &str) -> Result<String, Problem> {
        let bytes = self.bytes(key)?;
        if bytes.len() > 255 {
            return Problem::bad(format!("{key} has {} bytes", bytes.len()));
        }
        String::from_utf8(bytes.to_vec()).map_err(|error| Problem::Bad(format!("{key}: {error}")))
    }

    fn name(&self, key: &str) -> Result<String, Problem> {
        let text = self.text(key)?;
        if text.is_empty() {
            return Problem::bad(format!("{key} is empty"));
        }
        Ok(text)
    }

    /// Members of Go Sidecar have addresses of version 4 and compare their bytes.
    fn ip(&self, key: &str) -> Result<Ipv4Addr, Problem> {
        let bytes = self.bytes(key)?;
        match <[u8; 4]>::try_from(bytes) {
            Ok(octets) => Ok(octets.into()),
            Err(_) => Problem::bad(format!("{key} is {bytes:?}, not four bytes")),
        }
    }

    fn port(&self) -> Result<u16, Problem> {
        let number = self.number("Port")?;
        match u16::try_from(number) {
            Ok(port) if port != 0 => Ok(port),
            _ => Problem::bad(format!("Port is {number}")),
        }
    }

    fn cluster(&self, cluster: &str) -> Result<(), Problem> {
        let name = self.bytes("ClusterName")?;
        if name == cluster.as_bytes() {
            return Ok(());
        }
        Problem::bad(format!(
            "cluster {:?}, which the fork drops",
            String::from_utf8_lossy(name)
        ))
    }
}

fn end(rest: &[u8]) -> Result<(), Problem> {
    match rest {
        [] => Ok(()),
        rest => Problem::bad(format!("{} bytes after the end", rest.len())),
    }
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], Problem> {
    let (head, tail) = rest.split_at_checked(bytes).ok_or(Problem::Short)?;
    *rest = tail;
    Ok(head)
}

fn big_endian(rest: &mut &[u8], bytes: usize) -> Result<u64, Problem> {
    let read = take(rest, bytes)?;
    Ok(read.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// A value in one of the forms that the fork's library writes.
fn value<'a>(rest: &mut &'a [u8]) -> Result<Value<'a>, Problem> {
    let marker = take(rest, 1)?[0];
    let bytes = |rest: &mut &'a [u8], length: u64| {
        let length = usize::try_from(length).map_err(|_| Problem::Short)?;
        take(rest, length).map(Value::Bytes)
    };
    match marker {
        0xc0 => Ok(Value::Nil),
        0xc2 | 0xc3 => Ok(Value::Flag(marker == 0xc3)),
        0x00..=0x7f => Ok(Value::Number(marker.into())),
        0xcc..=0xcf => big_endian(rest, 1 << (marker - 0xcc)).map(Value::Number),
        0xa0..=0xbf => bytes(rest, (marker & 0x1f).into()),
        0xda | 0xdb => {
            let length = big_endian(rest, 2 << (marker - 0xda))?;
            bytes(rest, length)
        }
        other => Problem::bad(format!("marker {other:02x}, which the fork does not write")),
    }
}
