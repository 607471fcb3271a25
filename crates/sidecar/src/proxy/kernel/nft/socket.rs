//! The socket to the kernel's netfilter. nf_tables does what a message says before the call that sends it
//! returns, so all answers are there then: nothing here waits.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::{
    attributes::{Attributes, Parse},
    batch::{self, Batch, HEAD_BYTES, SUBHEAD_BYTES, kind},
};

/// What the send buffer is asked to be: all rules of 65,535 ports fit. Takes the privilege in the first user
/// namespace; without it batches are kept to [`BATCH_BYTES_MIN`].
const SEND_BUFFER_BYTES: usize = 64 * 1024 * 1024;
/// A batch that always fits: the usual buffer is 212,992 bytes, some of them for the kernel's own.
const BATCH_BYTES_MIN: usize = 64 * 1024;
/// A dump comes in pieces that are shorter.
const RECEIVE_BYTES: usize = 256 * 1024;
/// How often a dump is begun again because something changed meanwhile.
const DUMP_ATTEMPTS_MAX: usize = 16;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NEW_RULE: u16 = batch::SUBSYSTEM << 8 | kind::NEW_RULE as u16;
/// `NLM_F_DUMP_INTR`, `_CAPPED` and `_ACK_TLVS`.
const INTERRUPTED: u16 = 0x10;
const HAS_WORDS: u16 = 0x200;

/// Why the kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no socket to netfilter. Nothing was changed.
    #[error("no netlink socket to netfilter: {0}")]
    Socket(io::Error),
    /// The kernel says no. Nothing of the batch was done.
    #[error("the kernel refuses: {error}{words}")]
    Refused {
        /// The first error.
        error: io::Error,
        /// What it adds, if anything.
        words: String,
    },
    /// Its answer is none that is expected. What was done is not known.
    #[error("no usable answer from the kernel: {0}")]
    Answer(io::Error),
    /// Others change nf_tables all the time. Nothing was changed.
    #[error("nf_tables was changed by others during each of {DUMP_ATTEMPTS_MAX} readings")]
    Unsteady,
}

impl NftError {
    /// The kernel's error number, if it gave one.
    pub(crate) fn number(&self) -> Option<i32> {
        match self {
            Self::Refused { error, .. } | Self::Socket(error) | Self::Answer(error) => {
                error.raw_os_error()
            }
            Self::Unsteady => None,
        }
    }
}

/// A connection to nf_tables.
pub(crate) struct Nft {
    socket: Socket,
    sequence: u32,
    batch_bytes_max: usize,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Nft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nft")
            .field("batch_bytes_max", &self.batch_bytes_max)
            .finish_non_exhaustive()
    }
}

impl Nft {
    pub(crate) fn open() -> Result<Self, NftError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(NftError::Socket)?;
        socket.bind_auto().map_err(NftError::Socket)?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(NftError::Socket)?;
        // Errors come without the message they are about, and with words where the kernel has some.
        socket.set_cap_ack(true).map_err(NftError::Socket)?;
        socket.set_ext_ack(true).map_err(NftError::Socket)?;
        socket.set_non_blocking(true).map_err(NftError::Socket)?;
        let forced =
            rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER_BYTES);
        let batch_bytes_max = match forced {
            Ok(()) => SEND_BUFFER_BYTES / 4,
            Err(_) => BATCH_BYTES_MIN,
        };
        Ok(Self {
            socket,
            sequence: 1,
            batch_bytes_max,
            buffer: Vec::with_capacity(RECEIVE_BYTES),
        })
    }

    /// A new batch.
    pub(crate) fn batch(&self) -> Batch {
        Batch::new(self.sequence)
    }

    /// How long a batch may get.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        self.batch_bytes_max
    }

    /// Has all of a batch done, or nothing of it.
    pub(crate) fn commit(&mut self, batch: Batch) -> Result<(), NftError> {
        self.commit_and_hear(batch, |_| {})
    }

    /// The same, with all rules that the kernel was asked to tell again.
    pub(crate) fn commit_and_hear(
        &mut self,
        batch: Batch,
        mut hear: impl FnMut(Parse<'_>),
    ) -> Result<(), NftError> {
        if batch.is_empty() {
            return Ok(());
        }
        let (bytes, first, last) = batch.finish();
        self.sequence = last.wrapping_add(2);
        self.send(&bytes)?;
        let mut refusal = None;
        loop {
            self.receive()?;
            for message in Messages(&self.buffer) {
                let is_ours = message.sequence == first
                    || last.wrapping_sub(message.sequence) < last.wrapping_sub(first);
                if is_ours && message.kind == NEW_RULE {
                    hear(Parse::new(message.body.get(SUBHEAD_BYTES..).unwrap_or(&[])));
                }
                if message.kind != NLMSG_ERROR || !is_ours {
                    continue;
                }
                if let Some(error) = message.error() {
                    refusal.get_or_insert(error);
                }
                if message.sequence == last || message.sequence == first {
                    return refusal.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// The number that every change of nf_tables in this network namespace makes greater by one.
    pub(crate) fn generation(&mut self) -> Result<u32, NftError> {
        let mut generation = None;
        self.ask(
            kind::GET_GENERATION,
            0,
            |_| {},
            |_, answer| {
                generation = answer.number(1);
            },
        )?;
        generation.ok_or_else(|| NftError::Answer(io::ErrorKind::InvalidData.into()))
    }

    /// Asks for everything of a kind, again and again until nothing changes meanwhile; each attempt begins with
    /// an empty result.
    pub(crate) fn dump<T: Default>(
        &mut self,
        kind: u8,
        fill: impl Fn(&mut Attributes<'_>),
        mut take: impl FnMut(&mut T, Parse<'_>),
    ) -> Result<T, NftError> {
        for _ in 0..DUMP_ATTEMPTS_MAX {
            let mut found = T::default();
            let steady = self.ask(kind, batch::DUMP, &fill, |_, it| take(&mut found, it))?;
            if steady {
                return Ok(found);
            }
        }
        Err(NftError::Unsteady)
    }

    /// Sends one question and takes all answers; whether nothing changed meanwhile.
    fn ask(
        &mut self,
        kind: u8,
        flags: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
        mut take: impl FnMut(u16, Parse<'_>),
    ) -> Result<bool, NftError> {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        // The acknowledgement marks the end of the answer to what is no dump.
        let flags = if flags == 0 { batch::ACK } else { flags };
        let mut bytes = Vec::new();
        batch::message(&mut bytes, kind, flags, sequence, fill);
        self.send(&bytes)?;
        let mut steady = true;
        loop {
            self.receive()?;
            for message in Messages(&self.buffer) {
                if message.sequence != sequence {
                    continue;
                }
                steady &= message.flags & INTERRUPTED == 0;
                match message.kind {
                    NLMSG_DONE => return Ok(steady),
                    NLMSG_ERROR => return message.error().map_or(Ok(steady), Err),
                    kind => {
                        let body = message.body.get(SUBHEAD_BYTES..).unwrap_or(&[]);
                        take(kind, Parse::new(body));
                    }
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NftError> {
        match self.socket.send(bytes, 0) {
            Ok(_) => Ok(()),
            Err(error) => Err(NftError::Refused {
                error,
                words: String::new(),
            }),
        }
    }

    fn receive(&mut self) -> Result<(), NftError> {
        self.buffer.clear();
        self.socket
            .recv(&mut self.buffer, 0)
            .map_err(NftError::Answer)?;
        Ok(())
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Message<'_> {
    /// `None` for an acknowledgement.
    fn error(&self) -> Option<NftError> {
        let code = self
            .body
            .first_chunk::<4>()
            .map(|it| i32::from_ne_bytes(*it));
        let code = match code {
            Some(0) => return None,
            Some(code) => code,
            None => return Some(NftError::Answer(io::ErrorKind::InvalidData.into())),
        };
        // Behind the code stands the head of the message it is about.
        let words = (self.flags & HAS_WORDS != 0)
            .then(|| self.body.get(4 + HEAD_BYTES..))
            .flatten()
            .and_then(|it| Parse::new(it).text(1));
        Some(NftError::Refused {
            error: io::Error::from_raw_os_error(-code),
            words: words.map_or_else(String::new, |it| format!(" ({it})")),
        })
    }
}

/// The messages of what was received; ends at the first that is cut short.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.0.first_chunk::<HEAD_BYTES>()?;
        let number =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let word = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        let length = usize::try_from(number(0)).ok()?;
        let body = self.0.get(HEAD_BYTES..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Message {
            kind: word(4),
            flags: word(6),
            sequence: number(8),
            body,
        })
    }
}
