//! The outermost layers: label and encryption, of datagrams and of streams.
//!
//! ```text
//! datagram  [ f4 length label ]            version nonce ciphertext tag
//! stream    [ f4 length label ] 0a length  version nonce ciphertext tag
//! ```
//!
//! The label of a stream is written by the dialling side only; both sides authenticate it. What is
//! inside is no concern of this module, and it draws no random numbers: nonces are given to it.
//! Both follow `security.go`, `label.go` and `net.go` of HashiCorp's memberlist.

use std::borrow::Cow;
use std::sync::Arc;

use super::error::{EncryptionProblem, LabelProblem, WireError, quote};
use super::keyring::{Key, Keyring, NONCE_BYTES, Nonce, TAG_BYTES};
use super::limits::{LABEL_BYTES_MAX, SEALED_STREAM_BYTES_MAX};
use super::type_id;

/// Bytes an envelope adds to a datagram: version, nonce and tag.
pub const ENVELOPE_BYTES: usize = 1 + NONCE_BYTES + TAG_BYTES;

/// Bytes before the envelope of a stream: type and length.
pub(super) const STREAM_HEADER_BYTES: usize = 5;

/// Padding of version 0 fills blocks of this many bytes.
const BLOCK_BYTES: usize = 16;

/// Which layers stand around our messages, and which ones we expect.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Keeps clusters on one network apart by accident, not by force. Empty for none, which is all
    /// that Go Sidecar and HashiCorp before 0.3 understand. At most [`LABEL_BYTES_MAX`] bytes.
    pub label: Arc<str>,
    /// Keys; `None` sends and accepts plaintext only.
    pub keyring: Option<Arc<Keyring>>,
    /// With keys: refuse plaintext.
    pub verify_incoming: bool,
    /// With keys: encrypt what we send.
    pub verify_outgoing: bool,
}

/// Neither label nor encryption.
impl Default for Envelope {
    fn default() -> Self {
        Self {
            label: "".into(),
            keyring: None,
            verify_incoming: true,
            verify_outgoing: true,
        }
    }
}

/// Which side of a connection wrote the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamSide {
    /// The one that dialled: a label goes first.
    Dialling,
    /// The one that accepted: it answers without a label.
    Accepting,
}

/// Why nothing could be sealed. Nothing must be sent then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is no nonce.
    #[error("the system gives no random numbers")]
    NoNonce,
    /// Peers would refuse it.
    #[error("encrypted message of {bytes} bytes: peers accept at most {SEALED_STREAM_BYTES_MAX}")]
    TooLarge {
        /// What it would have been, in bytes.
        bytes: usize,
    },
}

/// What begins an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Plaintext padded to whole blocks. Read only.
    Padded = 0,
    /// Plaintext as it is.
    Bare = 1,
}

impl Envelope {
    /// Bytes of a datagram that are not the message's.
    pub fn packet_overhead(&self) -> usize {
        let sealed = if self.keyring.is_some() {
            ENVELOPE_BYTES
        } else {
            0
        };
        sealed + self.label_header().map_or(0, |header| header.len())
    }

    // === Datagrams ===

    /// What is inside a datagram: its own bytes, or decrypted ones.
    ///
    /// Without the duty to verify, what cannot be decrypted is taken as plaintext.
    ///
    /// # Errors
    ///
    /// Another label, or an envelope that does not open; the datagram is lost.
    pub fn open_packet<'a>(&self, datagram: &'a [u8]) -> Result<Cow<'a, [u8]>, WireError> {
        if datagram.is_empty() {
            return Ok(Cow::Borrowed(datagram));
        }
        let sealed = self.take_label_off(datagram)?;
        let Some(keyring) = &self.keyring else {
            if is_surely_sealed(sealed) {
                return Err(EncryptionProblem::NotConfigured.into());
            }
            return Ok(Cow::Borrowed(sealed));
        };
        match open(sealed, keyring, self.label.as_bytes()) {
            Ok(message) => Ok(Cow::Owned(message)),
            // Authenticated, so no plaintext.
            Err(problem @ (EncryptionProblem::Padding | EncryptionProblem::Empty)) => {
                Err(problem.into())
            }
            Err(_) if !self.verify_incoming => Ok(Cow::Borrowed(sealed)),
            Err(_) if looks_plain(sealed) => Err(EncryptionProblem::Plaintext.into()),
            Err(problem) => Err(problem.into()),
        }
    }

    /// The datagram around `message`, which must not be empty.
    ///
    /// # Errors
    ///
    /// [`SealError::NoNonce`] when one is needed and `nonce` gives none.
    pub fn seal_packet<'a>(
        &self,
        message: &'a [u8],
        nonce: impl FnOnce() -> Option<Nonce>,
    ) -> Result<Cow<'a, [u8]>, SealError> {
        let label = self.label_header();
        if label.is_none() && self.sealing().is_none() {
            return Ok(Cow::Borrowed(message));
        }
        let mut out = Vec::with_capacity(message.len() + self.packet_overhead());
        out.extend_from_slice(&label.unwrap_or_default());
        match self.sealing() {
            None => out.extend_from_slice(message),
            Some(key) => {
                let nonce = nonce().ok_or(SealError::NoNonce)?;
                let aad = self.label.as_bytes();
                seal(&mut out, key, Version::Bare, &nonce, aad, message);
            }
        }
        Ok(Cow::Owned(out))
    }

    // === Streams ===

    /// All bytes of a stream that carries `message`, which must not be empty.
    ///
    /// # Errors
    ///
    /// The message is too long to be encrypted, or there is no nonce where one is needed.
    pub fn seal_stream(
        &self,
        message: Vec<u8>,
        side: StreamSide,
        nonce: impl FnOnce() -> Option<Nonce>,
    ) -> Result<Vec<u8>, SealError> {
        let label = match side {
            StreamSide::Dialling => self.label_header(),
            StreamSide::Accepting => None,
        };
        let Some(key) = self.sealing() else {
            return Ok(match label {
                None => message,
                Some(label) => [label, message].concat(),
            });
        };
        let bytes = ENVELOPE_BYTES + message.len();
        let length = u32::try_from(bytes)
            .ok()
            .filter(|_| bytes <= SEALED_STREAM_BYTES_MAX)
            .ok_or(SealError::TooLarge { bytes })?;
        let nonce = nonce().ok_or(SealError::NoNonce)?;
        let mut out = label.unwrap_or_default();
        let header = stream_header(length);
        out.reserve(header.len() + bytes);
        out.extend_from_slice(&header);
        let aad = self.stream_aad(length);
        seal(&mut out, key, Version::Bare, &nonce, &aad, &message);
        Ok(out)
    }

    /// What is inside the envelope of a stream, which declared to be `sealed.len()` bytes.
    pub(super) fn open_stream(&self, sealed: &[u8]) -> Result<Vec<u8>, WireError> {
        let Some(keyring) = &self.keyring else {
            return Err(EncryptionProblem::NotConfigured.into());
        };
        let length = u32::try_from(sealed.len()).unwrap_or(u32::MAX);
        Ok(open(sealed, keyring, &self.stream_aad(length))?)
    }

    /// How many bytes the envelope has that a stream begins with, after the label. `None` when the
    /// stream begins with a message that is good as it is. Needs [`STREAM_HEADER_BYTES`] only when
    /// the first is that of an envelope.
    pub(super) fn sealed_bytes(&self, head: &[u8]) -> Result<Option<SealedHead>, WireError> {
        match (head, &self.keyring) {
            ([type_id::ENCRYPT, ..], None) => Err(EncryptionProblem::NotConfigured.into()),
            ([type_id::ENCRYPT, a, b, c, d, ..], Some(_)) => {
                let declared = u32::from_be_bytes([*a, *b, *c, *d]);
                let bytes = usize::try_from(declared).unwrap_or(usize::MAX);
                if bytes > SEALED_STREAM_BYTES_MAX {
                    return Err(EncryptionProblem::TooLarge { bytes }.into());
                }
                if bytes < ENVELOPE_BYTES {
                    return Err(too_short(bytes, Version::Bare).into());
                }
                Ok(Some(SealedHead::Bytes(bytes)))
            }
            ([type_id::ENCRYPT, ..], Some(_)) => Ok(Some(SealedHead::NeedMore)),
            (_, Some(_)) if self.verify_incoming => Err(EncryptionProblem::Plaintext.into()),
            _ => Ok(None),
        }
    }

    // === Pieces ===

    /// The key to encrypt with, if we encrypt.
    fn sealing(&self) -> Option<&Key> {
        let keyring = self.keyring.as_ref().filter(|_| self.verify_outgoing)?;
        Some(keyring.primary())
    }

    fn label_header(&self) -> Option<Vec<u8>> {
        debug_assert!(self.label.len() <= LABEL_BYTES_MAX, "labels are validated");
        let length = u8::try_from(self.label.len()).ok().filter(|it| *it > 0)?;
        Some([&[type_id::LABEL, length], self.label.as_bytes()].concat())
    }

    fn take_label_off<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], LabelProblem> {
        let (found, rest) = match bytes {
            [type_id::LABEL, 0, ..] | [type_id::LABEL] => return Err(LabelProblem::Malformed),
            [type_id::LABEL, length, rest @ ..] => rest
                .split_at_checked(usize::from(*length))
                .ok_or(LabelProblem::Malformed)?,
            rest => (&[][..], rest),
        };
        self.expect_label(found)?;
        Ok(rest)
    }

    /// Compares a label that was found, empty for none, with ours.
    pub(super) fn expect_label(&self, found: &[u8]) -> Result<(), LabelProblem> {
        if found == self.label.as_bytes() {
            Ok(())
        } else if found.is_empty() {
            Err(LabelProblem::Missing)
        } else {
            let found = quote(found);
            Err(LabelProblem::Other { found })
        }
    }

    fn stream_aad(&self, length: u32) -> Vec<u8> {
        [&stream_header(length), self.label.as_bytes()].concat()
    }
}

/// What the head of a stream tells about its envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SealedHead {
    NeedMore,
    /// Length of the envelope behind the header.
    Bytes(usize),
}

fn stream_header(length: u32) -> [u8; STREAM_HEADER_BYTES] {
    let [a, b, c, d] = length.to_be_bytes();
    [type_id::ENCRYPT, a, b, c, d]
}

fn seal(out: &mut Vec<u8>, key: &Key, version: Version, nonce: &Nonce, aad: &[u8], message: &[u8]) {
    debug_assert!(!message.is_empty(), "Go peers crash on an empty plaintext");
    out.push(version as u8);
    out.extend_from_slice(nonce);
    let begin = out.len();
    out.extend_from_slice(message);
    if version == Version::Padded {
        let padding = BLOCK_BYTES - message.len() % BLOCK_BYTES;
        out.resize(out.len() + padding, padding as u8);
    }
    let tag = key.seal(nonce, aad, &mut out[begin..]);
    out.extend_from_slice(&tag);
}

fn open(sealed: &[u8], keyring: &Keyring, aad: &[u8]) -> Result<Vec<u8>, EncryptionProblem> {
    let version = match sealed.first() {
        None => return Err(too_short(0, Version::Bare)),
        Some(0) => Version::Padded,
        Some(1) => Version::Bare,
        Some(&other) => return Err(EncryptionProblem::Version(other)),
    };
    let parts = sealed[1..]
        .split_first_chunk::<NONCE_BYTES>()
        .and_then(|(nonce, rest)| Some((nonce, rest.split_last_chunk::<TAG_BYTES>()?)));
    let Some((nonce, (ciphertext, tag))) = parts else {
        return Err(too_short(sealed.len(), version));
    };
    if version == Version::Padded && ciphertext.len() < BLOCK_BYTES {
        return Err(too_short(sealed.len(), version));
    }
    let mut message = ciphertext.to_vec();
    let keys = keyring.keys();
    if !keys
        .iter()
        .any(|key| key.open(nonce, aad, &mut message, tag))
    {
        return Err(EncryptionProblem::NoKey { keys: keys.len() });
    }
    if version == Version::Padded {
        take_padding_off(&mut message)?;
    }
    if message.is_empty() {
        return Err(EncryptionProblem::Empty);
    }
    Ok(message)
}

/// Go trusts the last byte; a peer with a key must not be able to crash us all the same.
fn take_padding_off(message: &mut Vec<u8>) -> Result<(), EncryptionProblem> {
    let padding = usize::from(*message.last().ok_or(EncryptionProblem::Padding)?);
    let kept = message
        .len()
        .checked_sub(padding)
        .filter(|_| (1..=BLOCK_BYTES).contains(&padding))
        .ok_or(EncryptionProblem::Padding)?;
    if message[kept..].iter().any(|it| usize::from(*it) != padding) {
        return Err(EncryptionProblem::Padding);
    }
    message.truncate(kept);
    Ok(())
}

fn too_short(actual: usize, version: Version) -> EncryptionProblem {
    let expected = match version {
        Version::Bare => ENVELOPE_BYTES,
        Version::Padded => ENVELOPE_BYTES + BLOCK_BYTES,
    };
    EncryptionProblem::TooShort { actual, expected }
}

/// Whether this cannot be a plaintext message although it begins like a ping: those are maps.
fn is_surely_sealed(datagram: &[u8]) -> bool {
    let is_map = |marker| matches!(marker, 0x80..=0x8f | 0xde | 0xdf);
    datagram.len() >= ENVELOPE_BYTES && matches!(datagram, [0 | 1, marker, ..] if !is_map(*marker))
}

/// Whether something that does not open is rather a message nobody encrypted. It only decides what
/// is counted and logged.
fn looks_plain(datagram: &[u8]) -> bool {
    match datagram {
        // A ping: a map whose first key is a name of Go's.
        [0 | 1, 0x80..=0x8f, 0xa1..=0xbf, b'A'..=b'Z', ..] => true,
        [type_id, ..] => (type_id::ACK..=type_id::CRC).contains(type_id),
        [] => false,
    }
}

#[cfg(test)]
mod tests;
