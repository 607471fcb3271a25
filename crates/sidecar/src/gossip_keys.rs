//! Gossip keys as people write them, and the file through which they change while the agent runs.
//!
//! The file is read as a whole or not at all: while it is missing or wrong, the keys stay. No error
//! and no log line ever repeats any part of a key. What keys do is `memberlist`'s business.

use std::{
    io,
    path::{Path, PathBuf},
};

use data_encoding::BASE64;
use memberlist::{Handle, Key, Keyring, KeyringError};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::secret_file::{self, FILE_BYTES_MAX, ReadError};

/// Where gossip keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GossipKeys {
    /// Nowhere: gossip is not encrypted.
    None,
    /// The configuration itself; they never change.
    Given(Keyring),
    /// A file that is followed.
    File(PathBuf),
}

/// Why a text is no key. The text is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// Not base64.
    #[error("not base64 with padding")]
    NotBase64,
    /// Base64 of too few or too many bytes.
    #[error("of {0} bytes")]
    Length(usize),
}

/// Why the file gives no keys. What it last gave stays; it is read again when it changes.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It could not be read.
    #[error("cannot read gossip key file {path:?}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        error: io::Error,
    },
    /// It is too large to be what it should be.
    #[error("gossip key file {path:?} is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line is no key.
    #[error(
        "gossip key file {path:?}, line {line}: {problem}, expected 16, 24 or 32 bytes in base64 \
         (`sidecar keygen` makes a key)"
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: KeyTextError,
    },
    /// No key, or too many.
    #[error("gossip key file {path:?}: {problem}")]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: KeyringError,
    },
}

/// A key in standard base64, as `sidecar keygen` and `serf keygen` print it.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_key(text: &str) -> Result<Key, KeyTextError> {
    let bytes = BASE64.decode(text.as_bytes());
    let bytes = Zeroizing::new(bytes.map_err(|_| KeyTextError::NotBase64)?);
    Key::new(&bytes).map_err(|_| KeyTextError::Length(bytes.len()))
}

/// What a key file says: one key a line, the one to encrypt with first; lines that are blank or
/// begin with `#` do not count.
///
/// # Errors
/// The first line that is no key, or that there are none or too many.
pub fn parse_file(path: &Path, text: &str) -> Result<Keyring, KeyFileError> {
    let mut keys = Vec::new();
    for (number, line) in secret_file::lines(text) {
        keys.push(parse_key(line).map_err(|problem| KeyFileError::Line {
            path: path.to_owned(),
            line: number,
            problem,
        })?);
    }
    Keyring::from_keys(keys).map_err(|problem| KeyFileError::Keys {
        path: path.to_owned(),
        problem,
    })
}

/// The keys to start with.
///
/// # Errors
/// The file gives none: to start without the protection somebody asked for would be worse than not
/// to start.
pub async fn load(keys: &GossipKeys) -> Result<Option<Keyring>, KeyFileError> {
    match keys {
        GossipKeys::None => Ok(None),
        GossipKeys::Given(keyring) => Ok(Some(keyring.clone())),
        GossipKeys::File(path) => read(path, secret_file::read(path).await).map(Some),
    }
}

fn read(path: &Path, read: Result<Zeroizing<String>, ReadError>) -> Result<Keyring, KeyFileError> {
    let path_of = || path.to_owned();
    let text = read.map_err(|error| match error {
        ReadError::Io(error) => KeyFileError::Read {
            path: path_of(),
            error,
        },
        ReadError::TooLarge => KeyFileError::TooLarge { path: path_of() },
    })?;
    parse_file(path, &text)
}

/// Keeps the keys of a running member as the file says, until `shutdown`.
pub async fn follow(path: PathBuf, gossip: Handle, shutdown: CancellationToken) {
    secret_file::follow(path.clone(), shutdown, |text| take(&path, &gossip, text)).await;
}

/// Takes over what the file says; otherwise what is wrong, and what follows from it.
fn take(
    path: &Path,
    gossip: &Handle,
    text: Result<Zeroizing<String>, ReadError>,
) -> Result<(), String> {
    let keyring =
        read(path, text).map_err(|error| format!("{error}; the gossip keys stay as they are"))?;
    apply(gossip, keyring);
    Ok(())
}

/// Installs other keys than there are.
fn apply(gossip: &Handle, keyring: Keyring) {
    let old = gossip.keys();
    if old == keyring.keys() {
        return;
    }
    let missing = |keys: &[Key], from: &[Key]| keys.iter().filter(|it| !from.contains(it)).count();
    let (installed, removed) = (missing(keyring.keys(), &old), missing(&old, keyring.keys()));
    let other_primary = old.first() != Some(keyring.primary());
    let unknown_primary = !old.contains(keyring.primary());
    let keys = keyring.keys().len();
    if let Err(error) = gossip.replace_keyring(keyring) {
        warn!(%error, "gossip keys cannot be changed");
        return;
    }
    let encrypting = if other_primary {
        "with another key"
    } else {
        "as before"
    };
    info!(keys, installed, removed, encrypting, "gossip keys changed");
    if unknown_primary {
        warn!(
            "the gossip key now used was not installed here before: hosts that do not have it \
             yet lose this one; add a new key as the last line everywhere first"
        );
    }
}

#[cfg(test)]
mod tests;
