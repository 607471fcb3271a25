//! Label and keys of a running member, and where nonces come from. The keys change while it runs;
//! every datagram and stream takes the ones of its moment.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::TryRng;
use rand::rngs::SysRng;

use crate::wire::{Envelope, Key, Keyring, KeyringError, NONCE_BYTES, Nonce};

/// The layers around all traffic.
#[derive(Debug)]
pub(super) struct Security {
    envelope: Mutex<Envelope>,
}

impl Security {
    pub(super) fn new(envelope: Envelope) -> Self {
        Self {
            envelope: Mutex::new(envelope),
        }
    }

    /// The layers of this moment.
    pub(super) fn envelope(&self) -> Envelope {
        self.lock().clone()
    }

    /// All keys, the primary one first; none when nothing is encrypted.
    pub(super) fn keys(&self) -> Vec<Key> {
        let keyring = self.lock().keyring.clone();
        keyring.map_or_else(Vec::new, |keyring| keyring.keys().to_vec())
    }

    /// Changes the keyring as a whole or not at all.
    pub(super) fn change(
        &self,
        change: impl FnOnce(&mut Keyring) -> Result<(), KeyringError>,
    ) -> Result<(), KeyringError> {
        let mut envelope = self.lock();
        let keyring = envelope.keyring.as_ref();
        let mut changed = Keyring::clone(keyring.ok_or(KeyringError::NotEncrypted)?);
        change(&mut changed)?;
        envelope.keyring = Some(Arc::new(changed));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Envelope> {
        self.envelope.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Twelve random bytes of the operating system: with 2³² messages a key the odds of using one
/// twice are 2⁻³³.
pub(super) fn nonce() -> Option<Nonce> {
    let mut nonce = [0; NONCE_BYTES];
    SysRng.try_fill_bytes(&mut nonce).ok()?;
    Some(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(fill: u8) -> Key {
        Key::new(&[fill; 32]).unwrap()
    }

    #[test]
    fn a_refused_change_changes_nothing() {
        let security = Security::new(Envelope {
            keyring: Some(Arc::new(Keyring::new(key(1)))),
            ..Envelope::default()
        });
        let refused = security.change(|keyring| {
            keyring.add(key(2))?;
            keyring.remove(&key(1))
        });
        assert_eq!(refused, Err(KeyringError::InUse));
        assert_eq!(security.keys(), [key(1)]);
        security.change(|keyring| keyring.add(key(2))).unwrap();
        assert_eq!(security.keys(), [key(1), key(2)]);
    }

    #[test]
    fn without_a_keyring_there_is_nothing_to_change() {
        let security = Security::new(Envelope::default());
        let refused = security.change(|keyring| keyring.add(key(1)));
        assert_eq!(refused, Err(KeyringError::NotEncrypted));
        assert!(security.keys().is_empty());
    }

    #[test]
    fn nonces_differ() {
        let drawn: std::collections::HashSet<_> = (0..1000).map(|_| nonce().unwrap()).collect();
        assert_eq!(drawn.len(), 1000);
    }
}
