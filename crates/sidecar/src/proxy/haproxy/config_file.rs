//! The configuration file on disk: replaced as a whole, and given back when its successor fails.
//!
//! A text goes into a fresh file of the same directory first. Put in place, it displaces one that
//! worked, which is kept beside it until it is known that HAProxy runs the new one. Whatever happens
//! between, also to this process, the file's name leads to a text that HAProxy took, or will again.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
};

/// A step that the file system refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}: {cause}", path.display())]
pub(super) struct FileError {
    step: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

/// Where the configuration lies, and its successors and predecessors.
#[derive(Debug, Clone)]
pub(super) struct ConfigFile {
    path: PathBuf,
    fresh: PathBuf,
    kept: PathBuf,
}

impl ConfigFile {
    /// The file at `path`; where that is a symbolic link, the one it leads to.
    pub(super) fn new(path: &Path) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let beside = |suffix: &str| {
            let mut name = OsString::from(".");
            name.push(path.file_name().unwrap_or_default());
            name.push(suffix);
            path.with_file_name(name)
        };
        Self {
            fresh: beside(".sidecar-new"),
            kept: beside(".sidecar-kept"),
            path,
        }
    }

    /// Where [`ConfigFile::write`] writes.
    pub(super) fn fresh(&self) -> &Path {
        &self.fresh
    }

    /// What is in place; empty when nothing is.
    pub(super) fn text(&self) -> String {
        let bytes = fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Writes a successor beside the file, with the file's owner and permissions, down to the disk.
    ///
    /// # Errors
    /// When the file system refuses; nothing is left behind then.
    pub(super) fn write(&self, text: &str) -> Result<(), FileError> {
        let written = (|| {
            let mut file = File::create(&self.fresh)?;
            if let Ok(metadata) = fs::metadata(&self.path) {
                file.set_permissions(metadata.permissions())?;
                // Only root may give files away; another's file stays ours then.
                let _ = chown(&self.fresh, Some(metadata.uid()), Some(metadata.gid()));
            }
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })();
        written.map_err(|cause| {
            self.discard();
            self.error("write", &self.fresh, cause)
        })
    }

    /// Takes the successor away again.
    pub(super) fn discard(&self) {
        // There may be none, or nobody may be allowed to remove it: the next one replaces it.
        let _ = fs::remove_file(&self.fresh);
    }

    /// Puts the successor in place and keeps what it displaces.
    ///
    /// # Errors
    /// When the file system refuses; the file is as it was then.
    pub(super) fn install(&self) -> Result<(), FileError> {
        if self.path.exists() {
            let kept = self.fresh.with_extension("sidecar-copy");
            // By way of another name: what is kept is whole or not there.
            let copied = fs::copy(&self.path, &kept).and_then(|_| fs::rename(&kept, &self.kept));
            copied.map_err(|cause| {
                let _ = fs::remove_file(&kept);
                self.error("keep a copy of", &self.path, cause)
            })?;
        }
        replace(&self.fresh, &self.path).map_err(|cause| {
            self.restore();
            self.error("replace", &self.path, cause)
        })
    }

    /// The text in place works: what it displaced is not needed any more.
    pub(super) fn confirm(&self) {
        let _ = fs::remove_file(&self.kept);
    }

    /// Puts back what the text in place displaced, if that is kept. Whether it was.
    pub(super) fn restore(&self) -> bool {
        if !self.kept.exists() {
            return false;
        }
        let restored = replace(&self.kept, &self.path);
        if let Err(error) = &restored {
            tracing::warn!(file = %self.path.display(), %error, "cannot put the last good file back");
        }
        restored.is_ok()
    }

    fn error(&self, step: &'static str, path: &Path, cause: io::Error) -> FileError {
        let path = path.to_owned();
        FileError { step, path, cause }
    }
}

/// Gives the content of `from` the name `to`. A name that is a mount of its own, as container engines
/// make for single files, cannot be given away; its content can be exchanged.
fn replace(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            fs::copy(from, to)?;
            File::open(to)?.sync_all()?;
            fs::remove_file(from)
        }
        Err(error) => Err(error),
        // The name is on the disk only with its directory; without it there is the old name still.
        Ok(()) => match to.parent().map(File::open) {
            Some(Ok(directory)) => directory.sync_all(),
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        reason = "outside of test functions clippy does not see that this is a test"
    )]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(|it| it.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|it| it.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_successor_takes_the_place_or_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("haproxy.cfg");
        let file = ConfigFile::new(&path);
        file.write("one").unwrap();
        file.install().unwrap();
        assert!(!file.restore(), "there was nothing before");
        file.confirm();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();

        file.write("two").unwrap();
        assert_eq!(file.text(), "one");
        file.install().unwrap();
        assert_eq!(file.text(), "two");
        assert!(file.restore());
        assert_eq!(file.text(), "one");

        file.write("three").unwrap();
        file.install().unwrap();
        file.confirm();
        assert!(!file.restore());
        assert_eq!(file.text(), "three");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(names(dir.path()), ["haproxy.cfg"]);
    }

    #[test]
    fn a_link_leads_to_the_file_that_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("real.cfg"), dir.path().join("link.cfg"));
        fs::write(&path, "one").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let file = ConfigFile::new(&link);
        file.write("two").unwrap();
        file.install().unwrap();
        file.confirm();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let file = ConfigFile::new(Path::new("/nonexistent/haproxy.cfg"));
        let error = file.write("x").unwrap_err().to_string();
        assert!(
            error.contains("cannot write /nonexistent/.haproxy.cfg.sidecar-new"),
            "{error}"
        );
    }
}
