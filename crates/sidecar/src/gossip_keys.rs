//! Gossip keys as people write them, and the file through which they change while the agent runs.
//!
//! The file is read as a whole or not at all: while it is missing or wrong, the keys stay. No error
//! and no log line ever repeats any part of a key. What keys do is `memberlist`'s business.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::BASE64;
use memberlist::{Handle, Key, Keyring, KeyringError};
use tokio::{
    fs::File,
    io::AsyncReadExt,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::file_stamp::FileStamp;

/// How often the file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Largest file that is read: some lines of comment for each key.
const FILE_BYTES_MAX: u64 = 64 << 10;

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
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        keys.push(parse_key(line).map_err(|problem| KeyFileError::Line {
            path: path.to_owned(),
            line: index + 1,
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
        GossipKeys::File(path) => read(path).await.map(Some),
    }
}

async fn read(path: &Path) -> Result<Keyring, KeyFileError> {
    let unreadable = |error| KeyFileError::Read {
        path: path.to_owned(),
        error,
    };
    let mut bytes = Zeroizing::new(Vec::new());
    let file = File::open(path).await.map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(KeyFileError::TooLarge {
            path: path.to_owned(),
        });
    }
    let text = str::from_utf8(&bytes)
        .map_err(|_| unreadable(io::Error::new(io::ErrorKind::InvalidData, "not UTF-8 text")))?;
    parse_file(path, text)
}

/// Keeps the keys of a running member as the file says, until `shutdown`.
pub async fn follow(path: PathBuf, gossip: Handle, shutdown: CancellationToken) {
    let mut follower = Follower {
        path,
        gossip,
        stamp: None,
        complaint: None,
    };
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => follower.look().await,
        }
    }
}

struct Follower {
    path: PathBuf,
    gossip: Handle,
    /// What the file looked like before it was last read.
    stamp: Option<FileStamp>,
    /// The error logged last, while it lasts.
    complaint: Option<String>,
}

impl Follower {
    async fn look(&mut self) {
        match self.read_if_changed().await {
            Ok(None) => {}
            Ok(Some(keyring)) => {
                self.complaint = None;
                self.apply(keyring);
            }
            Err(error) => {
                let complaint = error.to_string();
                if self.complaint.as_ref() != Some(&complaint) {
                    warn!("{complaint}; the gossip keys stay as they are");
                    self.complaint = Some(complaint);
                }
            }
        }
    }

    async fn read_if_changed(&mut self) -> Result<Option<Keyring>, KeyFileError> {
        // Taken before the reading: a change during it is seen at the next look.
        let previous = self.stamp.take();
        let metadata = tokio::fs::metadata(&self.path).await;
        let metadata = metadata.map_err(|error| KeyFileError::Read {
            path: self.path.clone(),
            error,
        })?;
        self.stamp = Some(FileStamp::from(&metadata));
        if previous == self.stamp {
            return Ok(None);
        }
        read(&self.path).await.map(Some)
    }

    fn apply(&self, keyring: Keyring) {
        let old = self.gossip.keys();
        if old == keyring.keys() {
            return;
        }
        let missing =
            |keys: &[Key], from: &[Key]| keys.iter().filter(|it| !from.contains(it)).count();
        let (installed, removed) = (missing(keyring.keys(), &old), missing(&old, keyring.keys()));
        let other_primary = old.first() != Some(keyring.primary());
        let unknown_primary = !old.contains(keyring.primary());
        let keys = keyring.keys().len();
        if let Err(error) = self.gossip.replace_keyring(keyring) {
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
}

#[cfg(test)]
mod tests;
