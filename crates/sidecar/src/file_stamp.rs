//! Whether a file may have changed since it was last looked at. Looking works where notifications do
//! not: bind mounts, symlink swaps, overlays.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

/// What changes when a file does: contents, replacement by rename, and a copy that keeps its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for FileStamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
