//! One message off a connection. Opening what is compressed or encrypted takes long and much
//! memory: it happens on few threads, away from those that answer pings, and only once the memory
//! it may take is set aside. How a message is read is the business of `wire`.

use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::budget::Reserved;
use super::{StreamError, Streams};
use crate::wire::message::{PushNode, StreamMessage};
use crate::wire::{DECOMPRESSED_STREAM_BYTES_MAX, StreamDecoder, StreamProgress, StreamSide};

/// Messages opened at the same time.
const DECODING_MAX: usize = 2;
/// Memory for messages while they are opened, in KiB: two copies, inflated and taken apart, of the
/// longest one.
pub(super) const DECODING_KIB: usize = 2 * DECOMPRESSED_STREAM_BYTES_MAX / 1024;
/// What a byte may inflate to: a code of twelve bits stands for fewer than 4096 bytes, and one of
/// fewer bits for fewer still.
const INFLATION_MAX: usize = 4096 * 8 / 12 + 1;
/// Bytes of a message that is opened at once, wherever it comes in: most pings are as short.
const SHORT_BYTES: usize = 512;
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// Most memory that opening a message of `bytes` may take for a moment.
fn decoding_bytes(bytes: usize) -> usize {
    let inflated = bytes.saturating_mul(INFLATION_MAX);
    2 * inflated.min(DECOMPRESSED_STREAM_BYTES_MAX)
}

/// Turns at opening messages.
#[derive(Debug)]
pub(super) struct Decoding {
    turns: Arc<Semaphore>,
    memory: Arc<Semaphore>,
}

impl Decoding {
    pub(super) fn new() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(DECODING_MAX)),
            memory: Arc::new(Semaphore::new(DECODING_KIB)),
        }
    }

    /// Waits for a turn to open a message of `bytes`, and for the memory that may take.
    async fn turn(&self, bytes: usize) -> Result<[OwnedSemaphorePermit; 2], StreamError> {
        let kib = u32::try_from(decoding_bytes(bytes).div_ceil(1024)).unwrap_or(u32::MAX);
        let turn = self.turns.clone().acquire_owned().await;
        let memory = self.memory.clone().acquire_many_owned(kib).await;
        match (turn, memory) {
            (Ok(turn), Ok(memory)) => Ok([turn, memory]),
            _ => Err(StreamError::Stopped),
        }
    }
}

/// A message as far as it has come.
struct Reading {
    decoder: StreamDecoder,
    reserved: Reserved,
    /// Bytes the decoder has been given.
    fed: usize,
}

impl Reading {
    /// How many of the next bytes, of which there are `available`, can be taken without much work.
    fn quick(&self, available: usize) -> usize {
        if self.fed < SHORT_BYTES {
            return available.min(SHORT_BYTES - self.fed);
        }
        match self.decoder.missing_to_open() {
            Some(missing) if missing <= available => 0,
            _ => available,
        }
    }

    /// Feeds the decoder. Afterwards what a whole message holds is charged, and no more than that.
    fn feed(&mut self, bytes: &[u8]) -> Result<Option<StreamMessage>, StreamError> {
        self.fed += bytes.len();
        match self.decoder.feed(bytes)? {
            StreamProgress::NeedMore => Ok(None),
            StreamProgress::Complete(message) => {
                self.reserved.resize(bytes_held(&message))?;
                Ok(Some(message))
            }
        }
    }
}

impl Streams {
    /// Reads the one message that `side` sends, and the memory it holds with it.
    /// [`StreamError::NoAnswer`] if there is none.
    pub(super) async fn read(
        &self,
        stream: &mut TcpStream,
        side: StreamSide,
    ) -> Result<(StreamMessage, Reserved), StreamError> {
        self.within("reading", async {
            let (filter, envelope) = (self.config.cluster_filter(), self.security.envelope());
            let mut reading = Reading {
                decoder: StreamDecoder::enveloped(filter, envelope, side),
                reserved: self.reserve(),
                fed: 0,
            };
            let mut buffer = vec![0; READ_BYTES];
            loop {
                let length = stream.read(&mut buffer).await?;
                if length == 0 {
                    reading.decoder.finish_at_eof()?;
                    return Err(StreamError::NoAnswer);
                }
                let mut bytes = &buffer[..length];
                while !bytes.is_empty() {
                    let message;
                    (reading, message, bytes) = self.feed(reading, bytes).await?;
                    if let Some(message) = message {
                        self.note_skipped(&reading.decoder);
                        return Ok((message, reading.reserved));
                    }
                }
            }
        })
        .await?
    }

    /// Feeds as many of these bytes as go together, here or on a thread for it, and gives back the
    /// others.
    async fn feed<'a>(
        &self,
        mut reading: Reading,
        bytes: &'a [u8],
    ) -> Result<(Reading, Option<StreamMessage>, &'a [u8]), StreamError> {
        let total = reading.fed + bytes.len();
        // As they came, and once more for what is made of them.
        reading.reserved.grow_to(2 * total)?;
        let quick = reading.quick(bytes.len());
        if quick > 0 {
            if reading.fed < SHORT_BYTES {
                let short = decoding_bytes(reading.fed + quick);
                reading.reserved.grow_to(2 * total + short)?;
            }
            let (now, later) = bytes.split_at(quick);
            let message = reading.feed(now)?;
            if message.is_none() {
                reading.reserved.resize(2 * total)?;
            }
            return Ok((reading, message, later));
        }
        let turn = self.decoding.turn(total).await?;
        let bytes = bytes.to_vec();
        let opened = tokio::task::spawn_blocking(move || {
            let message = reading.feed(&bytes);
            // Here and not in the stream: it may have been given up meanwhile.
            drop(turn);
            message.map(|message| (reading, message, &[][..]))
        });
        opened.await.map_err(|_| StreamError::Stopped)?
    }

    fn note_skipped(&self, decoder: &StreamDecoder) {
        if let Some(error) = decoder.first_skipped_entry() {
            let skipped = decoder.skipped_entries();
            tracing::debug!(skipped, first = %error, "entries of a state exchange");
            self.shared.meters.entries_skipped.add(skipped as u64);
        }
    }
}

/// Bytes of memory a message takes, roughly.
fn bytes_held(message: &StreamMessage) -> usize {
    match message {
        StreamMessage::PushPull(table) => {
            let entry = |node: &PushNode| size_of::<PushNode>() + node.name.len() + node.meta.len();
            table.user_state.len() + table.nodes.iter().map(entry).sum::<usize>()
        }
        StreamMessage::User(payload) => payload.len(),
        StreamMessage::Error(text) => text.len(),
        StreamMessage::Ping(_) | StreamMessage::Ack(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve-bit codes of a table that is full and never cleared, each for its longest string.
    #[test]
    fn nothing_inflates_by_more() {
        let mut codes = vec![(256_u32, 9_u32)];
        let (mut next, mut width) = (258_u32, 9);
        codes.push((0, width));
        // Each code is the one just being made: the last string and its first byte once more.
        while next < 4096 {
            codes.push((next, width));
            next += 1;
            if next == 1 << width && width < 12 {
                width += 1;
            }
        }
        codes.extend([(4095, 12)].repeat(5000));
        let mut bits = Vec::new();
        for (code, width) in codes {
            bits.extend((0..width).map(|bit| (code >> bit & 1) as u8));
        }
        let bytes: Vec<u8> = bits
            .chunks(8)
            .map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | bit))
            .collect();
        let mut inflated = Vec::new();
        // There is no end code: what came before it counts.
        let _ = weezl::decode::Decoder::new(weezl::BitOrder::Lsb, 8)
            .into_stream(&mut inflated)
            .decode_all(&bytes[..]);
        let ratio = inflated.len() / bytes.len();
        assert!((2000..INFLATION_MAX).contains(&ratio), "{ratio}");
    }
}
