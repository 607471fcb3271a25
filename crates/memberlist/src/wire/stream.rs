//! One message on a connection, as its bytes arrive, and a whole one to send.
//!
//! The end of a message is never the end of the stream: a requester keeps its side open while it
//! waits for the reply, so completeness is known from the bytes alone. Every byte is looked at a
//! bounded number of times, however the stream is cut.
//!
//! ```text
//! [ label ] [ encryption ] [ compression ] message
//! ```
//!
//! No socket and no deadline: those are the driver's.

use bytes::Bytes;

use super::{
    ClusterFilter, body,
    envelope::{Envelope, STREAM_HEADER_BYTES, SealedHead, StreamSide},
    error::{LabelProblem, StreamProblem, WireError},
    limits::{DECOMPRESSED_STREAM_BYTES_MAX, PUSH_NODE_BYTES_MIN, STREAM_BYTES_MAX},
    lzw,
    message::{PushPull, StreamMessage},
    msgpack::{Scan, Scanner},
    packet, type_id,
};

/// What [`StreamDecoder::feed`] knows so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamProgress {
    /// The message is not complete.
    NeedMore,
    /// The message. Bytes after it were ignored.
    Complete(StreamMessage),
}

/// Reads the one message of a stream from pieces of any size.
///
/// After a message or an error it takes no more bytes.
#[derive(Debug)]
pub struct StreamDecoder {
    filter: ClusterFilter,
    envelope: Envelope,
    buffer: Vec<u8>,
    /// The buffer holds what was in an envelope: all of it.
    opened: bool,
    stage: Stage,
    /// Nothing can be decided before the buffer is this long.
    needed: usize,
    entries: SkippedEntries,
}

/// Which layer the buffer holds.
#[derive(Debug)]
enum Stage {
    /// The label, if there is one.
    Label,
    /// The head of an encryption envelope, if there is one.
    Envelope,
    /// An envelope of so many bytes.
    Sealed(usize),
    /// What is inside.
    Start,
    Compressed(Scanner),
    Message(Reader),
    Ended,
}

/// Entries of a push/pull table that were skipped.
#[derive(Debug, Default)]
struct SkippedEntries {
    count: usize,
    first: Option<WireError>,
}

impl StreamDecoder {
    /// A decoder of one stream with neither label nor encryption.
    pub fn new(filter: ClusterFilter) -> Self {
        Self::enveloped(filter, Envelope::default(), StreamSide::Dialling)
    }

    /// A decoder of one stream, which `side` writes.
    pub fn enveloped(filter: ClusterFilter, envelope: Envelope, side: StreamSide) -> Self {
        Self {
            filter,
            envelope,
            buffer: Vec::new(),
            opened: false,
            stage: match side {
                StreamSide::Dialling => Stage::Label,
                StreamSide::Accepting => Stage::Envelope,
            },
            needed: 1,
            entries: SkippedEntries::default(),
        }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    ///
    /// The stream is to be closed; what was read of it is lost. Never returned for bytes that
    /// could still become a message.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<StreamProgress, WireError> {
        if matches!(self.stage, Stage::Ended) {
            return Err(WireError::Stream(StreamProblem::Ended));
        }
        let progress = self.advance(bytes);
        if !matches!(progress, Ok(StreamProgress::NeedMore)) {
            self.stage = Stage::Ended;
            self.buffer = Vec::new();
        }
        progress
    }

    /// Whether the stream may end here: nothing came at all, or a whole message did.
    ///
    /// # Errors
    ///
    /// [`StreamProblem::Truncated`] when a message had begun.
    pub fn finish_at_eof(&self) -> Result<(), WireError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        Err(WireError::Stream(StreamProblem::Truncated {
            available: self.buffer.len(),
        }))
    }

    /// How many bytes are missing before the next step towards a compressed or encrypted message,
    /// which may be to open it and then takes long. `None` when nothing of that kind is being read.
    pub fn missing_to_open(&self) -> Option<usize> {
        match self.stage {
            Stage::Sealed(_) | Stage::Compressed(_) => {
                Some(self.needed.saturating_sub(self.buffer.len()))
            }
            Stage::Label | Stage::Envelope | Stage::Start | Stage::Message(_) | Stage::Ended => {
                None
            }
        }
    }

    /// How many entries of a push/pull table were skipped because they were invalid.
    pub fn skipped_entries(&self) -> usize {
        self.entries.count
    }

    /// Why the first of them was skipped.
    pub fn first_skipped_entry(&self) -> Option<&WireError> {
        self.entries.first.as_ref()
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<StreamProgress, WireError> {
        if bytes.len() > STREAM_BYTES_MAX - self.buffer.len() {
            return Err(too_large());
        }
        self.buffer.extend_from_slice(bytes);
        loop {
            if self.buffer.len() < self.needed {
                if self.opened {
                    let available = self.buffer.len();
                    return Err(WireError::Stream(StreamProblem::Truncated { available }));
                }
                return Ok(StreamProgress::NeedMore);
            }
            let needed = match &mut self.stage {
                Stage::Label => match self.take_label_off()? {
                    Some(needed) => needed,
                    None => {
                        self.stage = Stage::Envelope;
                        1
                    }
                },
                Stage::Envelope => match self.envelope.sealed_bytes(&self.buffer)? {
                    None => {
                        self.stage = Stage::Start;
                        continue;
                    }
                    Some(SealedHead::NeedMore) => STREAM_HEADER_BYTES,
                    Some(SealedHead::Bytes(bytes)) => {
                        self.stage = Stage::Sealed(bytes);
                        STREAM_HEADER_BYTES + bytes
                    }
                },
                Stage::Sealed(bytes) => {
                    let sealed = &self.buffer[STREAM_HEADER_BYTES..][..*bytes];
                    self.buffer = self.envelope.open_stream(sealed)?;
                    self.opened = true;
                    self.stage = Stage::Start;
                    1
                }
                Stage::Start => {
                    self.stage = match self.buffer[0] {
                        type_id::LABEL => return Err(LabelProblem::Second.into()),
                        type_id::COMPRESS => Stage::Compressed(Scanner::structure(1)),
                        type_id => Stage::Message(Reader::new(type_id)?),
                    };
                    continue;
                }
                Stage::Compressed(scanner) => match scan(scanner, &self.buffer, "compress")? {
                    Scan::Needs(needed) => needed,
                    Scan::End(end) => return self.inflated(end),
                },
                Stage::Message(reader) => {
                    match reader.read(&self.buffer, &self.filter, &mut self.entries)? {
                        Read::Message(message) => return Ok(StreamProgress::Complete(message)),
                        Read::Needs(needed) => needed,
                    }
                }
                Stage::Ended => return Err(WireError::Stream(StreamProblem::Ended)),
            };
            if needed > STREAM_BYTES_MAX {
                return Err(too_large());
            }
            self.needed = needed;
        }
    }

    /// Takes the label off the buffer, or tells how many bytes are needed for that.
    fn take_label_off(&mut self) -> Result<Option<usize>, LabelProblem> {
        let end = match self.buffer[..] {
            [type_id::LABEL] => return Ok(Some(2)),
            [type_id::LABEL, 0, ..] => return Err(LabelProblem::Malformed),
            [type_id::LABEL, length, ..] => 2 + usize::from(length),
            _ => return self.envelope.expect_label(&[]).map(|()| None),
        };
        if self.buffer.len() < end {
            return Ok(Some(end));
        }
        self.envelope.expect_label(&self.buffer[2..end])?;
        self.buffer.drain(..end);
        Ok(None)
    }

    /// Reads the message in the compressed one that ends at `end`. It must be there as a whole.
    fn inflated(&mut self, end: usize) -> Result<StreamProgress, WireError> {
        let data = body::decode_compress(&self.buffer[1..end])?;
        let mut budget = DECOMPRESSED_STREAM_BYTES_MAX;
        let message = lzw::decompress(data, &mut budget).map_err(WireError::Compression)?;
        self.buffer = Vec::new();
        let mut reader = match message.first() {
            None => return Err(WireError::EmptyMessage),
            Some(&type_id::COMPRESS) => return Err(WireError::Nesting),
            Some(&type_id) => Reader::new(type_id)?,
        };
        reader.bytes_total = Some(message.len());
        match reader.read(&message, &self.filter, &mut self.entries)? {
            Read::Message(message) => Ok(StreamProgress::Complete(message)),
            Read::Needs(_) => {
                let available = message.len();
                Err(WireError::Stream(StreamProblem::Truncated { available }))
            }
        }
    }
}

fn too_large() -> WireError {
    WireError::Stream(StreamProblem::TooLarge {
        max: STREAM_BYTES_MAX,
    })
}

fn scan(scanner: &mut Scanner, input: &[u8], structure: &'static str) -> Result<Scan, WireError> {
    scanner
        .scan(input)
        .map_err(|problem| WireError::Msgpack { structure, problem })
}

/// Reads an uncompressed message, going on where it stopped.
#[derive(Debug)]
struct Reader {
    part: Part,
    scanner: Scanner,
    /// Where the part being read starts.
    at: usize,
    /// Length of the whole input, where it is known beforehand.
    bytes_total: Option<usize>,
}

#[derive(Debug)]
enum Part {
    /// The first, or only, structure of the message with this type.
    Head(u8),
    /// The entries of a push/pull, then `user_state_bytes`.
    Entries {
        left: usize,
        user_state_bytes: usize,
        table: PushPull,
    },
    /// The bytes that end a push/pull.
    UserState { bytes: usize, table: PushPull },
    /// The bytes that end a user message.
    UserMessage { bytes: usize },
}

enum Read {
    Message(StreamMessage),
    Needs(usize),
}

impl Reader {
    /// Refuses a type that has no place on a stream.
    fn new(type_id: u8) -> Result<Self, WireError> {
        match type_id {
            type_id::PING | type_id::ACK | type_id::PUSH_PULL | type_id::USER | type_id::ERROR => {
                Ok(Self {
                    part: Part::Head(type_id),
                    scanner: Scanner::structure(1),
                    at: 1,
                    bytes_total: None,
                })
            }
            _ => Err(WireError::UnknownType { type_id }),
        }
    }

    /// `input` is the message so far, from its type byte.
    fn read(
        &mut self,
        input: &[u8],
        filter: &ClusterFilter,
        skipped: &mut SkippedEntries,
    ) -> Result<Read, WireError> {
        loop {
            match &mut self.part {
                Part::Head(type_id) => {
                    let type_id = *type_id;
                    let end = match scan(&mut self.scanner, input, head_structure(type_id))? {
                        Scan::End(end) => end,
                        Scan::Needs(needed) => return Ok(Read::Needs(needed)),
                    };
                    let head = &input[self.at..end];
                    self.at = end;
                    if let Some(message) = self.read_head(type_id, head, filter)? {
                        return Ok(Read::Message(message));
                    }
                }
                Part::Entries {
                    left: 0,
                    user_state_bytes,
                    table,
                } => {
                    let table = std::mem::replace(table, no_table());
                    self.part = Part::UserState {
                        bytes: *user_state_bytes,
                        table,
                    };
                }
                Part::Entries { left, table, .. } => {
                    let end = match scan(&mut self.scanner, input, "pushNodeState")? {
                        Scan::End(end) => end,
                        Scan::Needs(needed) => return Ok(Read::Needs(needed)),
                    };
                    match body::decode_push_node(&input[self.at..end]) {
                        Ok(node) => table.nodes.push(node),
                        Err(error) => {
                            skipped.count += 1;
                            skipped.first.get_or_insert(error);
                        }
                    }
                    *left -= 1;
                    self.at = end;
                    self.scanner = Scanner::structure(end);
                }
                Part::UserState { bytes, table } => {
                    let Some(state) = input[self.at..].get(..*bytes) else {
                        return Ok(Read::Needs(self.at + *bytes));
                    };
                    let mut table = std::mem::replace(table, no_table());
                    table.user_state = Bytes::copy_from_slice(state);
                    return Ok(Read::Message(StreamMessage::PushPull(table)));
                }
                Part::UserMessage { bytes } => {
                    let Some(content) = input[self.at..].get(..*bytes) else {
                        return Ok(Read::Needs(self.at + *bytes));
                    };
                    let content = Bytes::copy_from_slice(content);
                    return Ok(Read::Message(StreamMessage::User(content)));
                }
            }
        }
    }

    /// The message, when its head is all of it; else sets the part that follows.
    fn read_head(
        &mut self,
        type_id: u8,
        head: &[u8],
        filter: &ClusterFilter,
    ) -> Result<Option<StreamMessage>, WireError> {
        self.part = match type_id {
            type_id::PING => {
                return body::decode_ping(head).map(|m| Some(StreamMessage::Ping(m.into_owned())));
            }
            type_id::ACK => {
                return body::decode_ack(head).map(|m| Some(StreamMessage::Ack(m.into_owned())));
            }
            type_id::USER => Part::UserMessage {
                bytes: body::decode_user_header(head)?,
            },
            type_id::PUSH_PULL => {
                let header = body::decode_push_pull_header(head, filter)?;
                if let Some(total) = self.bytes_total {
                    let max = (total - self.at) / PUSH_NODE_BYTES_MIN;
                    body::length("Nodes", header.nodes as i64, max)?;
                }
                self.scanner = Scanner::structure(self.at);
                Part::Entries {
                    left: header.nodes,
                    user_state_bytes: header.user_state_bytes,
                    table: PushPull {
                        join: header.join,
                        ..no_table()
                    },
                }
            }
            _ => return body::decode_error(head).map(|text| Some(StreamMessage::Error(text))),
        };
        Ok(None)
    }
}

fn no_table() -> PushPull {
    PushPull {
        join: false,
        nodes: Vec::new(),
        user_state: Bytes::new(),
    }
}

/// Name of the structure that follows the type byte, for errors.
fn head_structure(type_id: u8) -> &'static str {
    match type_id {
        type_id::PING => "ping",
        type_id::ACK => "ackResp",
        type_id::PUSH_PULL => "pushPullHeader",
        type_id::USER => "userMsgHeader",
        _ => "errResp",
    }
}

/// A whole stream message. With `compress` it is compressed even where that makes it longer: on
/// streams Go does not compare.
///
/// The head of a push/pull carries `cluster_name`, also an empty one. The states of its entries are
/// written as they are; that the fork does not know *left* is the concern of whoever fills the table.
///
/// # Panics
///
/// In debug builds, when a table entry is alive at incarnation 0, which would harm Go peers.
pub fn encode_stream(message: &StreamMessage, cluster_name: &str, compress: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    match message {
        StreamMessage::Ping(ping) => {
            out.push(type_id::PING);
            body::encode_ping(&mut out, &ping.borrowed());
        }
        StreamMessage::Ack(ack) => {
            out.push(type_id::ACK);
            body::encode_ack(&mut out, &ack.borrowed());
        }
        StreamMessage::PushPull(table) => {
            let header = body::PushPullHeader {
                join: table.join,
                nodes: table.nodes.len(),
                user_state_bytes: table.user_state.len(),
            };
            out.push(type_id::PUSH_PULL);
            body::encode_push_pull_header(&mut out, cluster_name, &header);
            for node in &table.nodes {
                body::encode_push_node(&mut out, node);
            }
            out.extend_from_slice(&table.user_state);
        }
        StreamMessage::User(content) => {
            out.push(type_id::USER);
            body::encode_user_header(&mut out, content.len());
            out.extend_from_slice(content);
        }
        StreamMessage::Error(text) => {
            out.push(type_id::ERROR);
            body::encode_error(&mut out, text);
        }
    }
    if compress {
        packet::compress(&out)
    } else {
        out
    }
}

#[cfg(test)]
mod tests;
