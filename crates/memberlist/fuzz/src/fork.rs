//! A peer of the oldest kind, as strict as its weakest spot: what it would misread or crash on, what
//! would poison its tables, is an error here. Everything we write must pass.
//!
//! The rules are those a member must never break towards Go peers: no empty part, checksum or
//! compression; at most 127 parts; six version bytes; strings as the old msgpack has them; lengths
//! that are true; no label; no node alive at incarnation 0 and no accusation nobody could refute.
//! It shares no code with the decoder of the library, which is far more tolerant.

use Kind::{Address, Bool, Bytes, Name, Number, Text, Versions};

type Result<T> = std::result::Result<T, String>;

/// Compounds of more parts are misread.
const PARTS_MAX: usize = 127;

/// What a field must be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A string.
    Text,
    /// A string of 1 to 255 bytes.
    Name,
    /// A byte string of at most so many bytes, or nil.
    Bytes(usize),
    /// 4 or 16 bytes.
    Address,
    /// Six bytes, the first three in order.
    Versions,
    /// A number up to this.
    Number(u64),
    Bool,
}

const U16: Kind = Number(u16::MAX as u64);
const U32: Kind = Number(u32::MAX as u64);

/// Name of a field and what it is.
type Fields = &'static [(&'static str, Kind)];

const PING: Fields = &[("Node", Text), ("SeqNo", U32)];
const INDIRECT_PING: Fields = &[
    ("Nack", Bool),
    ("Node", Name),
    ("Port", U16),
    ("SeqNo", U32),
    ("Target", Address),
];
/// Left out when empty; older peers skip them.
const SOURCE: Fields = &[
    ("SourceAddr", Address),
    ("SourceNode", Name),
    ("SourcePort", U16),
];
const ACK: Fields = &[("Payload", Bytes(512)), ("SeqNo", U32)];
const NACK: Fields = &[("SeqNo", U32)];
const ACCUSATION: Fields = &[
    ("ClusterName", Text),
    ("From", Text),
    ("Incarnation", U32),
    ("Node", Name),
];
const ALIVE: Fields = &[
    ("Addr", Address),
    ("ClusterName", Text),
    ("Incarnation", U32),
    ("Meta", Bytes(512)),
    ("Node", Name),
    ("Port", U16),
    ("Vsn", Versions),
];
const COMPRESS: Fields = &[("Algo", Number(0)), ("Buf", Bytes(usize::MAX))];
const PUSH_PULL: Fields = &[
    ("ClusterName", Text),
    ("Join", Bool),
    ("Nodes", Number(65_536)),
    ("UserStateLen", Number(20 << 20)),
];
const PUSH_NODE: Fields = &[
    ("Addr", Address),
    ("Incarnation", U32),
    ("Meta", Bytes(512)),
    ("Name", Name),
    ("Port", U16),
    ("State", Number(2)),
    ("Vsn", Versions),
];
const USER: Fields = &[("UserMsgLen", Number(20 << 20))];
const ERROR: Fields = &[("Error", Text)];

/// Whether a datagram is one we may send to members of `cluster`.
///
/// # Errors
/// The rule it breaks.
pub fn check_datagram(datagram: &[u8], cluster: &str) -> Result<()> {
    let message = match datagram {
        [12, checksum @ ..] => {
            let (sum, message) = checksum.split_first_chunk().ok_or("checksum cut off")?;
            if message.is_empty() || crc32fast::hash(message) != u32::from_be_bytes(*sum) {
                return Err("wrong checksum".to_owned());
            }
            message
        }
        message => message,
    };
    match message {
        [9, compressed @ ..] => check_messages(&decompressed(compressed)?, cluster),
        _ => check_messages(message, cluster),
    }
}

/// A message, or a compound of such.
fn check_messages(message: &[u8], cluster: &str) -> Result<()> {
    let [7, count, table @ ..] = message else {
        return check_message(message, cluster);
    };
    let count = usize::from(*count);
    if !(2..=PARTS_MAX).contains(&count) {
        return Err(format!("compound of {count} parts"));
    }
    let (lengths, mut rest) = table.split_at_checked(2 * count).ok_or("table cut off")?;
    for length in lengths.chunks_exact(2) {
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let (part, after) = rest.split_at_checked(length).ok_or("part cut off")?;
        check_message(part, cluster)?;
        rest = after;
    }
    nothing_left(rest)
}

fn check_message(message: &[u8], cluster: &str) -> Result<()> {
    let (type_id, body) = message.split_first().ok_or("empty message")?;
    let fields = match type_id {
        0 => PING,
        1 => INDIRECT_PING,
        2 => ACK,
        3 | 5 => ACCUSATION,
        4 => ALIVE,
        8 => return Ok(()),
        11 => NACK,
        other => return Err(format!("message of type {other}")),
    };
    let (record, rest) = Record::read(body, fields)?;
    record.check(cluster, *type_id == 4)?;
    nothing_left(rest)
}

/// Whether a stream is one we may send to members of `cluster`.
///
/// # Errors
/// The rule it breaks.
pub fn check_stream(stream: &[u8], cluster: &str) -> Result<()> {
    let inflated;
    let message = match stream {
        [9, compressed @ ..] => {
            inflated = decompressed(compressed)?;
            &inflated
        }
        _ => stream,
    };
    let (type_id, body) = message.split_first().ok_or("empty stream")?;
    match type_id {
        0 => nothing_left(Record::read(body, PING)?.1),
        2 => nothing_left(Record::read(body, ACK)?.1),
        6 => check_push_pull(body, cluster),
        8 => {
            let (header, rest) = Record::read(body, USER)?;
            length_is_true(header.number("UserMsgLen"), rest)
        }
        13 => nothing_left(Record::read(body, ERROR)?.1),
        other => Err(format!("stream of type {other}")),
    }
}

fn check_push_pull(body: &[u8], cluster: &str) -> Result<()> {
    let (header, mut rest) = Record::read(body, PUSH_PULL)?;
    header.check(cluster, false)?;
    for _ in 0..header.number("Nodes").unwrap_or_default() {
        let (node, after) = Record::read(rest, PUSH_NODE)?;
        node.check(cluster, node.number("State") == Some(0))?;
        rest = after;
    }
    length_is_true(header.number("UserStateLen"), rest)
}

fn length_is_true(declared: Option<u64>, rest: &[u8]) -> Result<()> {
    if declared == Some(rest.len() as u64) {
        return Ok(());
    }
    Err(format!("{} bytes declared as {declared:?}", rest.len()))
}

fn nothing_left(rest: &[u8]) -> Result<()> {
    if rest.is_empty() {
        return Ok(());
    }
    Err(format!("{} bytes too many", rest.len()))
}

fn decompressed(body: &[u8]) -> Result<Vec<u8>> {
    let (record, rest) = Record::read(body, COMPRESS)?;
    nothing_left(rest)?;
    let output = inflate(record.raw("Buf").unwrap_or_default())?;
    if output.is_empty() {
        return Err("nothing, compressed".to_owned());
    }
    Ok(output)
}

/// The fields of a structure, as far as anything hangs on their values.
#[derive(Debug, Default)]
struct Record<'a> {
    numbers: Vec<(&'static str, u64)>,
    raws: Vec<(&'static str, &'a [u8])>,
}

impl<'a> Record<'a> {
    /// A map of exactly these fields in this order, those of [`SOURCE`] in between; and the rest.
    fn read(input: &'a [u8], fields: Fields) -> Result<(Self, &'a [u8])> {
        let (marker, mut rest) = input.split_first().ok_or("structure missing")?;
        if !(0x81..=0x8f).contains(marker) {
            return Err(format!("structure with marker {marker:02x}"));
        }
        let mut record = Self::default();
        let mut expected = fields.iter();
        let mut last = &[][..];
        for _ in 0..marker & 0x0f {
            let (key, after) = raw(rest)?;
            if key <= last {
                return Err("keys out of order".to_owned());
            }
            last = key;
            let is_key = |(name, _): &&(&'static str, Kind)| name.as_bytes() == key;
            let &(name, kind) = SOURCE
                .iter()
                .find(is_key)
                .or_else(|| expected.next().filter(is_key))
                .ok_or_else(|| format!("field {}", String::from_utf8_lossy(key)))?;
            rest = record.field(name, kind, after)?;
        }
        match expected.next() {
            Some((missing, _)) => Err(format!("field {missing} is missing")),
            None => Ok((record, rest)),
        }
    }

    fn field(&mut self, name: &'static str, kind: Kind, input: &'a [u8]) -> Result<&'a [u8]> {
        let (fits, rest) = match kind {
            Bool => match input {
                [0xc2 | 0xc3, rest @ ..] => (true, rest),
                _ => (false, input),
            },
            Number(max) => {
                let (number, rest) = unsigned(input)?;
                self.numbers.push((name, number));
                (number <= max, rest)
            }
            Bytes(_) if input.first() == Some(&0xc0) => (true, &input[1..]),
            _ => {
                let (value, rest) = raw(input)?;
                self.raws.push((name, value));
                let fits = match kind {
                    Text => std::str::from_utf8(value).is_ok(),
                    Name => (1..=255).contains(&value.len()),
                    Bytes(max) => value.len() <= max,
                    Address => matches!(value.len(), 4 | 16),
                    _ => matches!(value, [min, max, now, _, _, _]
                        if 1 <= *min && min <= now && now <= max),
                };
                (fits, rest)
            }
        };
        if fits {
            return Ok(rest);
        }
        Err(format!("field {name} is not {kind:?}"))
    }

    fn number(&self, name: &str) -> Option<u64> {
        let found = self.numbers.iter().find(|(key, _)| *key == name);
        found.map(|(_, number)| *number)
    }

    fn raw(&self, name: &str) -> Option<&'a [u8]> {
        let found = self.raws.iter().find(|(key, _)| *key == name);
        found.map(|(_, raw)| *raw)
    }

    /// What hangs on more than one field.
    fn check(&self, cluster: &str, alive: bool) -> Result<()> {
        if self
            .raw("ClusterName")
            .is_some_and(|name| name != cluster.as_bytes())
        {
            return Err("of another cluster".to_owned());
        }
        let incarnation = self.number("Incarnation");
        if alive && incarnation == Some(0) {
            return Err("alive at incarnation 0".to_owned());
        }
        if let Some(from) = self.raw("From")
            && incarnation == Some(u64::from(u32::MAX))
            && Some(from) != self.raw("Node")
        {
            return Err("accused beyond refutation".to_owned());
        }
        Ok(())
    }
}

/// A string in one of the forms of the old specification, and the rest.
fn raw(input: &[u8]) -> Result<(&[u8], &[u8])> {
    let (length, rest) = match input {
        [marker @ 0xa0..=0xbf, rest @ ..] => (usize::from(marker & 0x1f), rest),
        [0xda, a, b, rest @ ..] => (usize::from(u16::from_be_bytes([*a, *b])), rest),
        [0xdb, a, b, c, d, rest @ ..] => (u32::from_be_bytes([*a, *b, *c, *d]) as usize, rest),
        _ => return Err(format!("string with marker {:02x?}", input.first())),
    };
    rest.split_at_checked(length)
        .ok_or_else(|| "string cut off".to_owned())
}

fn unsigned(input: &[u8]) -> Result<(u64, &[u8])> {
    let (width, rest) = match input {
        [number @ 0..=0x7f, rest @ ..] => return Ok((u64::from(*number), rest)),
        [marker @ 0xcc..=0xcf, rest @ ..] => (1 << (marker - 0xcc), rest),
        _ => return Err(format!("number with marker {:02x?}", input.first())),
    };
    let (bytes, rest) = rest.split_at_checked(width).ok_or("number cut off")?;
    let number = bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    Ok((number, rest))
}

/// LZW as Go reads it: least significant bit first, literals of 8 bits, codes up to 12.
fn inflate(data: &[u8]) -> Result<Vec<u8>> {
    let mut output = Vec::new();
    // Where in the output the string of each code after 257 lies.
    let mut table: Vec<(usize, usize)> = Vec::new();
    let mut previous: Option<(usize, usize)> = None;
    let (mut bits, mut held, mut width) = (0_u32, 0, 9);
    let mut bytes = data.iter();
    loop {
        while held < width {
            let byte = bytes.next().ok_or("compression without an end")?;
            bits |= u32::from(*byte) << held;
            held += 8;
        }
        let code = (bits & ((1 << width) - 1)) as usize;
        bits >>= width;
        held -= width;
        match code {
            256 => {
                table.clear();
                previous = None;
                width = 9;
                continue;
            }
            257 => return Ok(output),
            _ => {}
        }
        if let Some((start, length)) = previous
            && table.len() + 258 < 4096
        {
            // The previous string and one byte more, which this code is about to write.
            table.push((start, length + 1));
        }
        let start = output.len();
        if code < 256 {
            output.push(code as u8);
        } else {
            let &(from, length) = table.get(code - 258).ok_or("code of nothing")?;
            for at in from..from + length {
                output.push(output[at]);
            }
        }
        previous = Some((start, output.len() - start));
        if table.len() + 258 >= (1 << width) && width < 12 {
            width += 1;
        }
    }
}
