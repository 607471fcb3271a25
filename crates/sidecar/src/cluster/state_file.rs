//! What outlives an agent: the drains of its host, in a small file.
//!
//! The cluster knows them too, but whoever is alone has nobody to ask, and no record says when a drain
//! ends. The file is replaced as a whole, so it is always complete; one that cannot be read counts as
//! none.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use catalog::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::drains::Drain;

const FILE: &str = "drains.json";
/// Written first, and then renamed.
const NEW_FILE: &str = "drains.json.new";
/// Largest file that is read: some hundred bytes for each drain.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What is to be kept.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Grows with each change.
    pub revision: u64,
    /// All drains of this host.
    pub drains: Vec<Drain>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    drains: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    hostname: String,
    id: String,
    /// RFC 3339.
    until: Option<String>,
}

/// The directory, if there is one that can be used; says in the log if not.
///
/// `is_chosen` tells that somebody has asked for this one.
pub fn open(directory: Option<&Path>, is_chosen: bool) -> Option<PathBuf> {
    let directory = directory?;
    let probe = directory.join(NEW_FILE);
    let usable = fs::create_dir_all(directory)
        .and_then(|()| File::create(&probe))
        .and_then(|_| fs::remove_file(&probe));
    match usable {
        Ok(()) => return Some(directory.to_owned()),
        Err(error) if is_chosen => warn!(
            directory = %directory.display(), %error,
            "SIDECAR_STATE_DIR cannot be written: a drain ends with this agent unless the cluster \
             remembers it"
        ),
        Err(error) => info!(
            directory = %directory.display(), %error,
            "no directory for state: a drain ends with this agent unless the cluster remembers it; \
             SIDECAR_STATE_DIR names another one"
        ),
    }
    None
}

/// What the agent before has kept; `None` when it has kept nothing.
pub fn load(directory: &Path) -> Option<Vec<Drain>> {
    let path = directory.join(FILE);
    match read(&path) {
        Ok(drains) => drains,
        Err(error) => {
            warn!(
                file = %path.display(), %error,
                "the drains of the agent before cannot be read; the cluster's word counts"
            );
            None
        }
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<Drain>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    let document: Document = serde_json::from_str(&text)?;
    let drain = |entry: Entry| {
        let until = entry.until.map(|text| text.parse::<Timestamp>());
        Ok(Drain {
            hostname: entry.hostname,
            id: entry.id,
            until: until.transpose().map_err(io::Error::other)?,
        })
    };
    document
        .drains
        .into_iter()
        .map(drain)
        .collect::<io::Result<_>>()
        .map(Some)
}

fn write(directory: &Path, drains: &[Drain]) -> io::Result<()> {
    let entry = |drain: &Drain| Entry {
        hostname: drain.hostname.clone(),
        id: drain.id.clone(),
        until: drain.until.map(|until| until.to_string()),
    };
    let document = Document {
        drains: drains.iter().map(entry).collect(),
    };
    let new = directory.join(NEW_FILE);
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(&document)?)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(FILE))?;
    File::open(directory)?.sync_all()
}

/// Writes whatever is to be kept, until `shutdown`, and tells in `written` which revision was. Without a
/// directory, and while it cannot be written, that is told all the same: nobody waits for a disk.
pub async fn keep(
    directory: Option<PathBuf>,
    mut kept: watch::Receiver<Kept>,
    written: watch::Sender<u64>,
    shutdown: CancellationToken,
) {
    let mut complaint = None;
    loop {
        let changed = tokio::select! {
            biased;
            changed = kept.changed() => changed,
            () = shutdown.cancelled() => return,
        };
        if changed.is_err() {
            return;
        }
        let Kept { revision, drains } = kept.borrow_and_update().clone();
        if let Some(directory) = directory.clone() {
            let path = directory.join(FILE);
            let wrote = tokio::task::spawn_blocking(move || write(&directory, &drains)).await;
            let error = match wrote {
                Ok(wrote) => wrote.err().map(|error| error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = error.as_ref().filter(|_| complaint != error) {
                warn!(
                    file = %path.display(), %error,
                    "drains cannot be kept: they end with this agent unless the cluster remembers them"
                );
            }
            complaint = error;
        }
        written.send_replace(revision);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fixtures::now, *};

    fn drains() -> Vec<Drain> {
        let drain = |id: &str, until| Drain {
            hostname: "h\"1".into(),
            id: id.into(),
            until,
        };
        vec![drain("1", None), drain("2", Some(now(700).wall))]
    }

    #[test]
    fn what_is_written_is_read_again() {
        let parent = tempfile::tempdir().unwrap();
        let directory = open(Some(&parent.path().join("state")), true).unwrap();
        assert_eq!(load(&directory), None);
        write(&directory, &drains()).unwrap();
        assert_eq!(load(&directory), Some(drains()));
        write(&directory, &[]).unwrap();
        assert_eq!(load(&directory), Some(vec![]));
        let files = fs::read_dir(&directory).unwrap().count();
        assert_eq!(files, 1, "nothing else is left");
    }

    #[test]
    fn what_cannot_be_read_counts_as_none() {
        let directory = tempfile::tempdir().unwrap();
        for text in [
            "",
            "{}",
            "[]",
            r#"{"drains":[{"hostname":"h","id":"1","until":"noon"}]}"#,
        ] {
            fs::write(directory.path().join(FILE), text).unwrap();
            assert_eq!(load(directory.path()), None, "{text}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_is_none() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(open(Some(&file), true), None);
        assert_eq!(open(None, false), None);
    }

    #[tokio::test]
    async fn every_change_is_written_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let (kept, seen) = watch::channel(Kept::default());
        let (written, mut told) = watch::channel(0);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(keep(
            Some(directory.path().to_owned()),
            seen,
            written,
            shutdown.clone(),
        ));
        kept.send_replace(Kept {
            revision: 1,
            drains: drains(),
        });
        told.wait_for(|revision| *revision == 1).await.unwrap();
        assert_eq!(load(directory.path()), Some(drains()));
        // The last word is written even if it comes at the end.
        kept.send_replace(Kept {
            revision: 2,
            drains: Vec::new(),
        });
        shutdown.cancel();
        task.await.unwrap();
        assert_eq!(load(directory.path()), Some(vec![]));
    }
}
