//! A strict reader of datagrams, as the Go fork reads them: the length table of a compound is
//! measured in eight bits, and everything that crashes or misleads that program is an error here.
//! Written from the wire format alone, it shares no code with `wire`: what both accept is safe.

use std::collections::BTreeMap;

/// What a datagram says, as far as the checkers want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    Ping {
        seq_no: u32,
        node: String,
    },
    IndirectPing {
        seq_no: u32,
        nack: bool,
    },
    Ack {
        seq_no: u32,
    },
    Nack {
        seq_no: u32,
    },
    Suspect {
        node: String,
        incarnation: u32,
        from: String,
    },
    Alive {
        node: String,
        incarnation: u32,
    },
    Dead {
        node: String,
        incarnation: u32,
        from: String,
    },
    User {
        bytes: usize,
    },
}

impl Heard {
    /// Part of a probe round or its relaying, not of gossip.
    pub(super) fn is_probing(&self) -> bool {
        matches!(
            self,
            Self::Ping { .. } | Self::IndirectPing { .. } | Self::Ack { .. } | Self::Nack { .. }
        )
    }
}

/// Reads a whole datagram.
pub(super) fn read(datagram: &[u8], cluster: &str) -> Result<Vec<Heard>, String> {
    let mut message = datagram;
    if let [12, rest @ ..] = datagram {
        let (sum, body) = rest.split_at_checked(4).ok_or("checksum cut off")?;
        if body.is_empty() || crc32fast::hash(body).to_be_bytes() != sum {
            return Err("checksum wrong or of nothing".to_owned());
        }
        message = body;
    }
    let inflated;
    if let [9, rest @ ..] = message {
        inflated = inflate(rest)?;
        message = &inflated;
    }
    let mut heard = Vec::new();
    match message {
        [7, count, rest @ ..] => {
            // The fork multiplies in eight bits.
            let table_bytes = usize::from(count.wrapping_mul(2));
            if *count < 2 || table_bytes != 2 * usize::from(*count) {
                return Err(format!("compound of {count} parts"));
            }
            let (table, mut parts) = rest.split_at_checked(table_bytes).ok_or("table cut off")?;
            for length in table.chunks_exact(2) {
                let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                let (part, after) = parts.split_at_checked(length).ok_or("part cut off")?;
                heard.push(read_message(part, cluster)?);
                parts = after;
            }
            if !parts.is_empty() {
                return Err(format!("{} bytes after the last part", parts.len()));
            }
        }
        bare => heard.push(read_message(bare, cluster)?),
    }
    Ok(heard)
}

fn inflate(content: &[u8]) -> Result<Vec<u8>, String> {
    let fields = Fields::read(content)?;
    fields.has(&["Algo", "Buf"])?;
    if fields.number("Algo")? != 0 {
        return Err("unknown compression".to_owned());
    }
    let inflated = weezl::decode::Decoder::new(weezl::BitOrder::Lsb, 8)
        .decode(fields.bytes("Buf")?)
        .map_err(|error| format!("LZW: {error}"))?;
    if inflated.is_empty() {
        return Err("empty compressed message".to_owned());
    }
    Ok(inflated)
}

fn read_message(message: &[u8], cluster: &str) -> Result<Heard, String> {
    let (kind, content) = message.split_first().ok_or("message without a byte")?;
    if *kind == 8 {
        let bytes = content.len();
        return Ok(Heard::User { bytes });
    }
    let fields = Fields::read(content)?;
    match kind {
        0 => {
            fields.has(&["Node", "SeqNo"])?;
            Ok(Heard::Ping {
                seq_no: fields.u32("SeqNo")?,
                node: fields.name("Node")?,
            })
        }
        1 => {
            fields.has(&["Nack", "Node", "Port", "SeqNo", "Target"])?;
            fields.name("Node")?;
            fields.address("Target", "Port")?;
            Ok(Heard::IndirectPing {
                seq_no: fields.u32("SeqNo")?,
                nack: fields.flag("Nack")?,
            })
        }
        2 => {
            fields.has(&["Payload", "SeqNo"])?;
            fields.bytes("Payload")?;
            Ok(Heard::Ack {
                seq_no: fields.u32("SeqNo")?,
            })
        }
        11 => {
            fields.has(&["SeqNo"])?;
            Ok(Heard::Nack {
                seq_no: fields.u32("SeqNo")?,
            })
        }
        3 | 5 => {
            fields.has(&["ClusterName", "From", "Incarnation", "Node"])?;
            fields.cluster(cluster)?;
            // The fork's own goodbye has no accuser.
            let from = fields.text("From")?;
            let node = fields.name("Node")?;
            let incarnation = fields.u32("Incarnation")?;
            if incarnation == u32::MAX {
                return Err(format!("irrefutable accusation of {node}"));
            }
            Ok(match kind {
                3 => Heard::Suspect {
                    node,
                    incarnation,
                    from,
                },
                _ => Heard::Dead {
                    node,
                    incarnation,
                    from,
                },
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
            fields.address("Addr", "Port")?;
            let incarnation = fields.u32("Incarnation")?;
            if incarnation == 0 || fields.bytes("Vsn")?.len() != 6 {
                return Err(
                    "alive with incarnation 0 or a version that is not six bytes".to_owned(),
                );
            }
            if fields.bytes("Meta")?.len() > 512 {
                return Err("metadata too long".to_owned());
            }
            Ok(Heard::Alive {
                node: fields.name("Node")?,
                incarnation,
            })
        }
        other => Err(format!("message type {other}")),
    }
}

/// A value of the old msgpack specification, as the fork's library writes and reads it.
#[derive(Debug)]
enum Value<'a> {
    Nil,
    Flag(bool),
    Number(u64),
    Raw(&'a [u8]),
}

struct Fields<'a>(BTreeMap<&'a str, Value<'a>>);

impl<'a> Fields<'a> {
    fn read(content: &'a [u8]) -> Result<Self, String> {
        let mut rest = content;
        let head = take(&mut rest, 1)?[0];
        if head & 0xf0 != 0x80 {
            return Err(format!("marker {head:02x}, expected a small map"));
        }
        let mut fields = BTreeMap::new();
        let mut last = "";
        for _ in 0..head & 0x0f {
            let Value::Raw(key) = value(&mut rest)? else {
                return Err("key that is no string".to_owned());
            };
            let key = std::str::from_utf8(key).map_err(|error| error.to_string())?;
            if key <= last {
                return Err(format!("key {key} after {last}"));
            }
            last = key;
            fields.insert(key, value(&mut rest)?);
        }
        if !rest.is_empty() {
            return Err(format!("{} bytes after the message", rest.len()));
        }
        Ok(Self(fields))
    }

    fn has(&self, keys: &[&str]) -> Result<(), String> {
        if self.0.keys().eq(keys.iter()) {
            return Ok(());
        }
        Err(format!("fields {:?}, expected {keys:?}", self.0.keys()))
    }

    fn number(&self, key: &str) -> Result<u64, String> {
        match self.0.get(key) {
            Some(Value::Number(number)) => Ok(*number),
            other => Err(format!("{key} is {other:?}, expected a number")),
        }
    }

    fn u32(&self, key: &str) -> Result<u32, String> {
        u32::try_from(self.number(key)?).map_err(|_| format!("{key} beyond 32 bits"))
    }

    fn flag(&self, key: &str) -> Result<bool, String> {
        match self.0.get(key) {
            Some(Value::Flag(flag)) => Ok(*flag),
            other => Err(format!("{key} is {other:?}, expected a flag")),
        }
    }

    fn bytes(&self, key: &str) -> Result<&'a [u8], String> {
        match self.0.get(key) {
            Some(Value::Raw(bytes)) => Ok(bytes),
            Some(Value::Nil) => Ok(&[]),
            other => Err(format!("{key} is {other:?}, expected bytes")),
        }
    }

    fn text(&self, key: &str) -> Result<String, String> {
        match self.0.get(key) {
            Some(Value::Raw(bytes)) if bytes.len() <= 255 => {
                String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())
            }
            other => Err(format!("{key} is {other:?}, expected a short text")),
        }
    }

    fn name(&self, key: &str) -> Result<String, String> {
        let text = self.text(key)?;
        if text.is_empty() {
            return Err(format!("{key} is empty"));
        }
        Ok(text)
    }

    fn address(&self, addr: &str, port: &str) -> Result<(), String> {
        let bytes = self.bytes(addr)?.len();
        if !matches!(bytes, 4 | 16) || !(1..=65_535).contains(&self.number(port)?) {
            return Err(format!("address of {bytes} bytes or port out of range"));
        }
        Ok(())
    }

    fn cluster(&self, cluster: &str) -> Result<(), String> {
        if self.bytes("ClusterName")? == cluster.as_bytes() {
            return Ok(());
        }
        Err("another cluster's name".to_owned())
    }
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], String> {
    let (head, tail) = rest.split_at_checked(bytes).ok_or("value cut off")?;
    *rest = tail;
    Ok(head)
}

fn number(rest: &mut &[u8], bytes: usize) -> Result<u64, String> {
    let read = take(rest, bytes)?;
    Ok(read.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn value<'a>(rest: &mut &'a [u8]) -> Result<Value<'a>, String> {
    let marker = take(rest, 1)?[0];
    let raw = |rest: &mut &'a [u8], bytes: u64| take(rest, bytes as usize).map(Value::Raw);
    match marker {
        0xc0 => Ok(Value::Nil),
        0xc2 | 0xc3 => Ok(Value::Flag(marker == 0xc3)),
        0x00..=0x7f => Ok(Value::Number(u64::from(marker))),
        0xcc..=0xce => number(rest, 1 << (marker - 0xcc)).map(Value::Number),
        0xa0..=0xbf => raw(rest, u64::from(marker & 0x1f)),
        0xda | 0xdb => {
            let bytes = number(rest, 2 << (marker - 0xda))?;
            raw(rest, bytes)
        }
        other => Err(format!("marker {other:02x}, which the fork does not write")),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::message::{Message, Ping};
    use crate::wire::{PacketBuilder, encode_message};

    fn ping() -> Vec<u8> {
        let ping = Ping {
            seq_no: 7,
            node: "b".to_owned(),
            source: None,
        };
        encode_message(&Message::Ping(ping), "default")
    }

    #[test]
    fn reads_what_the_encoder_writes_in_every_wrapping() {
        let expected = Heard::Ping {
            seq_no: 7,
            node: "b".to_owned(),
        };
        for (compress, crc) in [(false, false), (true, true)] {
            let mut packet = PacketBuilder::new();
            for _ in 0..127 {
                assert!(packet.push(&ping()));
            }
            let heard = read(&packet.finish(compress, crc), "default").expect("safe");
            assert_eq!(heard, vec![expected.clone(); 127]);
        }
    }

    #[test]
    fn what_hurts_the_fork_is_an_error() {
        let mut compound = vec![7, 128];
        compound.extend([0, 1].repeat(128));
        compound.extend([8; 128]);
        let user = encode_message(&Message::User(Bytes::from_static(b"x")), "default");
        let with_bin = [&[0x00, 0x82][..], b"\xa4Node\xc4\x01b\xa5SeqNo\x07"].concat();
        let rows: [&[u8]; 6] = [
            b"",
            &compound,
            &[7, 2, 0, 2, 0, 0, user[0], user[1]],
            &[12, 0, 0, 0, 0],
            &with_bin,
            b"\x04\x81\xa4Addr\xa0",
        ];
        for datagram in rows {
            assert!(read(datagram, "default").is_err(), "{datagram:02x?}");
        }
    }
}
