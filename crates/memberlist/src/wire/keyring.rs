//! Gossip keys: what a cluster shares so that others can neither read nor write its traffic.
//!
//! No envelope is known here (see [`envelope`](super::envelope)), and no text form of a key: how
//! keys are written down is the application's business. AES-GCM with 16, 24 or 32 bytes of key is
//! what HashiCorp's memberlist does; the rules of the ring are those of its `keyring.go`.

use std::fmt;
use std::sync::Arc;

use aes_gcm::aead::consts::U12;
use aes_gcm::aes::Aes192;
use aes_gcm::{AeadInOut, Aes128Gcm, Aes256Gcm, AesGcm, KeyInit};
use zeroize::Zeroizing;

use super::limits::KEYS_MAX;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 12;

/// Bytes of a tag.
pub(super) const TAG_BYTES: usize = 16;

/// A number that must never be used twice with the same key. Draw it at random.
pub type Nonce = [u8; NONCE_BYTES];

/// Why a key or a change of the keyring was refused. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// A key of another length. Its bytes are not repeated here.
    #[error("gossip key of {0} bytes: expected 16, 24 or 32")]
    KeyLength(usize),
    /// A keyring without keys.
    #[error("no gossip key: expected 1 to {KEYS_MAX}")]
    NoKeys,
    /// A key too many.
    #[error("more than {KEYS_MAX} gossip keys")]
    TooManyKeys,
    /// A key that is to be used must be installed first.
    #[error("this gossip key is not installed")]
    NotInstalled,
    /// The primary key cannot be removed; use another one first.
    #[error("this gossip key is the one in use: use another one before removing it")]
    InUse,
    /// The member was started without keys, and so without room for envelopes.
    #[error("gossip is not encrypted here: the member was started without a keyring")]
    NotEncrypted,
}

/// A secret key of 16, 24 or 32 bytes. Wiped from memory with its last copy, never printed.
#[derive(Clone)]
pub struct Key(Arc<Secret>);

struct Secret {
    bytes: Zeroizing<Vec<u8>>,
    cipher: Cipher,
}

/// The key schedule, so that it is made once. Wipes itself.
enum Cipher {
    Aes128(Aes128Gcm),
    Aes192(AesGcm<Aes192, U12>),
    Aes256(Aes256Gcm),
}

impl Key {
    /// A key of these bytes. The caller's copy is the caller's to wipe.
    ///
    /// # Errors
    ///
    /// [`KeyringError::KeyLength`] unless there are 16, 24 or 32 bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyringError> {
        let length = |_| KeyringError::KeyLength(bytes.len());
        let cipher = match bytes.len() {
            16 => Cipher::Aes128(Aes128Gcm::new_from_slice(bytes).map_err(length)?),
            24 => Cipher::Aes192(AesGcm::new_from_slice(bytes).map_err(length)?),
            32 => Cipher::Aes256(Aes256Gcm::new_from_slice(bytes).map_err(length)?),
            other => return Err(KeyringError::KeyLength(other)),
        };
        let bytes = Zeroizing::new(bytes.to_vec());
        Ok(Self(Arc::new(Secret { bytes, cipher })))
    }

    /// Encrypts `buffer` in place; gives the tag that belongs behind it.
    pub(super) fn seal(&self, nonce: &Nonce, aad: &[u8], buffer: &mut [u8]) -> [u8; TAG_BYTES] {
        let nonce = &(*nonce).into();
        let buffer = buffer.into();
        let tag = match &self.0.cipher {
            Cipher::Aes128(cipher) => cipher.encrypt_inout_detached(nonce, aad, buffer),
            Cipher::Aes192(cipher) => cipher.encrypt_inout_detached(nonce, aad, buffer),
            Cipher::Aes256(cipher) => cipher.encrypt_inout_detached(nonce, aad, buffer),
        };
        tag.expect("invariant: messages are shorter than 64 GiB")
            .into()
    }

    /// Decrypts `buffer` in place if the tag is right; else it is as before.
    pub(super) fn open(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> bool {
        let (nonce, tag) = (&(*nonce).into(), &(*tag).into());
        let buffer = buffer.into();
        let opened = match &self.0.cipher {
            Cipher::Aes128(cipher) => cipher.decrypt_inout_detached(nonce, aad, buffer, tag),
            Cipher::Aes192(cipher) => cipher.decrypt_inout_detached(nonce, aad, buffer, tag),
            Cipher::Aes256(cipher) => cipher.decrypt_inout_detached(nonce, aad, buffer, tag),
        };
        opened.is_ok()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} bytes, hidden)", self.0.bytes.len())
    }
}

/// One to [`KEYS_MAX`] distinct keys. The first, the primary one, encrypts; all decrypt, tried in
/// order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyring {
    keys: Vec<Key>,
}

impl Keyring {
    /// A ring of one key.
    pub fn new(primary: Key) -> Self {
        Self {
            keys: vec![primary],
        }
    }

    /// A ring of these keys, the primary one first. A key that comes twice counts once.
    ///
    /// # Errors
    ///
    /// No key at all, or more than [`KEYS_MAX`].
    pub fn from_keys(keys: impl IntoIterator<Item = Key>) -> Result<Self, KeyringError> {
        let mut keys = keys.into_iter();
        let mut ring = Self::new(keys.next().ok_or(KeyringError::NoKeys)?);
        for key in keys {
            ring.add(key)?;
        }
        Ok(ring)
    }

    /// Adds a key that decrypts from now on. Nothing happens if it is there already.
    ///
    /// # Errors
    ///
    /// [`KeyringError::TooManyKeys`] when the ring is full.
    pub fn add(&mut self, key: Key) -> Result<(), KeyringError> {
        if self.keys.contains(&key) {
            return Ok(());
        }
        if self.keys.len() == KEYS_MAX {
            return Err(KeyringError::TooManyKeys);
        }
        self.keys.push(key);
        Ok(())
    }

    /// Makes a key the primary one.
    ///
    /// # Errors
    ///
    /// [`KeyringError::NotInstalled`] when it was not added before.
    pub fn make_primary(&mut self, key: &Key) -> Result<(), KeyringError> {
        let at = self.keys.iter().position(|known| known == key);
        let at = at.ok_or(KeyringError::NotInstalled)?;
        self.keys[..=at].rotate_right(1);
        Ok(())
    }

    /// Removes a key. Nothing happens if it is not there.
    ///
    /// # Errors
    ///
    /// [`KeyringError::InUse`] for the primary key.
    pub fn remove(&mut self, key: &Key) -> Result<(), KeyringError> {
        if self.primary() == key {
            return Err(KeyringError::InUse);
        }
        self.keys.retain(|known| known != key);
        Ok(())
    }

    /// All keys, the primary one first.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The key that encrypts.
    pub fn primary(&self) -> &Key {
        self.keys
            .first()
            .expect("invariant: a keyring is never empty")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(fill: u8) -> Key {
        Key::new(&[fill; 16]).unwrap()
    }

    fn fills(ring: &Keyring) -> Vec<u8> {
        ring.keys().iter().map(|key| key.0.bytes[0]).collect()
    }

    #[test]
    fn keys_have_one_of_three_lengths() {
        for length in 0..70 {
            let made = Key::new(&vec![7; length]);
            match length {
                16 | 24 | 32 => assert_eq!(made.unwrap().0.bytes.len(), length),
                _ => assert_eq!(made.unwrap_err(), KeyringError::KeyLength(length)),
            }
        }
    }

    #[test]
    fn the_ring_adds_uses_and_removes() {
        let mut ring = Keyring::new(key(1));
        ring.add(key(2)).unwrap();
        ring.add(key(3)).unwrap();
        ring.add(key(2)).unwrap();
        assert_eq!(fills(&ring), [1, 2, 3]);
        ring.make_primary(&key(3)).unwrap();
        assert_eq!(fills(&ring), [3, 1, 2]);
        ring.make_primary(&key(3)).unwrap();
        assert_eq!(fills(&ring), [3, 1, 2]);
        assert_eq!(ring.make_primary(&key(9)), Err(KeyringError::NotInstalled));
        assert_eq!(ring.remove(&key(3)), Err(KeyringError::InUse));
        ring.remove(&key(1)).unwrap();
        ring.remove(&key(1)).unwrap();
        assert_eq!(fills(&ring), [3, 2]);
    }

    #[test]
    fn the_ring_is_bounded_and_never_empty() {
        assert_eq!(Keyring::from_keys([]), Err(KeyringError::NoKeys));
        let sixteen = Keyring::from_keys((0..16).map(key)).unwrap();
        assert_eq!(sixteen.keys().len(), KEYS_MAX);
        assert_eq!(
            Keyring::from_keys((0..17).map(key)),
            Err(KeyringError::TooManyKeys)
        );
        let twice = Keyring::from_keys([key(1), key(1)]).unwrap();
        assert_eq!(fills(&twice), [1]);
        let mut only = twice;
        assert_eq!(only.remove(&key(1)), Err(KeyringError::InUse));
    }

    #[test]
    fn keys_are_never_printed() {
        let ring = Keyring::new(Key::new(b"sixteen letters!").unwrap());
        let printed = format!("{ring:?} {ring:#?}");
        assert!(printed.contains("hidden"), "{printed}");
        for trace in ["sixteen", "115", "0x73", "73"] {
            assert!(!printed.contains(trace), "{printed}");
        }
    }
}
