//! Files with secrets, read as a whole or not at all into memory that is wiped, and followed as they change.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    fs::File,
    io::AsyncReadExt as _,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use zeroize::Zeroizing;

use crate::file_stamp::FileStamp;

/// Largest file that is read: some lines of comment for each secret.
pub(crate) const FILE_BYTES_MAX: u64 = 64 << 10;
/// How often a file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why there is no text.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// What the operating system said, or that it is no text.
    Io(io::Error),
    /// It is larger than [`FILE_BYTES_MAX`].
    TooLarge,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The text of a file.
pub(crate) async fn read(path: &Path) -> Result<Zeroizing<String>, ReadError> {
    let mut bytes = Zeroizing::new(Vec::new());
    let file = File::open(path).await?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .await?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ReadError::TooLarge);
    }
    let text = str::from_utf8(&bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8 text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The lines of a text that count, with their numbers from 1: not those that are blank or begin with `#`.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    let lines = lines.map(|(index, line)| (index + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// A file that is followed.
#[derive(Debug)]
pub(crate) struct Follower {
    path: PathBuf,
    /// What the file looked like before it was last read.
    stamp: Option<FileStamp>,
    /// What was wrong with it, and logged, last; while it lasts.
    pub(crate) complaint: Option<String>,
}

impl Follower {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            stamp: None,
            complaint: None,
        }
    }

    /// Gives `take` what the file says, if that may have changed since the last look.
    pub(crate) async fn look(
        &mut self,
        take: impl FnOnce(Result<Zeroizing<String>, ReadError>) -> Result<(), String>,
    ) {
        let taken = match self.read_if_changed().await {
            Ok(None) => return,
            Ok(Some(text)) => take(Ok(text)),
            Err(error) => take(Err(error)),
        };
        let complaint = taken.err();
        if let Some(text) = complaint.as_ref().filter(|_| complaint != self.complaint) {
            warn!("{text}");
        }
        self.complaint = complaint;
    }

    async fn read_if_changed(&mut self) -> Result<Option<Zeroizing<String>>, ReadError> {
        // Taken before the reading: a change during it is seen at the next look.
        let previous = self.stamp.take();
        let metadata = tokio::fs::metadata(&self.path).await?;
        self.stamp = Some(FileStamp::from(&metadata));
        if previous == self.stamp {
            return Ok(None);
        }
        read(&self.path).await.map(Some)
    }
}

/// Gives `take` what the file says, at first and whenever that may have changed, until `shutdown`. What `take`
/// finds wrong is logged once, while it lasts.
pub(crate) async fn follow(
    path: PathBuf,
    shutdown: CancellationToken,
    mut take: impl FnMut(Result<Zeroizing<String>, ReadError>) -> Result<(), String>,
) {
    let mut follower = Follower::new(path);
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => follower.look(&mut take).await,
        }
    }
}
