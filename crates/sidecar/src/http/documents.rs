//! The large documents, encoded at most once per snapshot however many readers ask.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use catalog::{Snapshot, json};
use tokio::sync::watch;

/// A snapshot and what has been asked of it so far.
#[derive(Debug)]
pub(super) struct Documents {
    /// What the documents tell of.
    pub(super) snapshot: Arc<Snapshot>,
    services: OnceLock<Bytes>,
    state: OnceLock<Bytes>,
    by_name: OnceLock<Bytes>,
}

impl Documents {
    fn of(snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot,
            services: OnceLock::new(),
            state: OnceLock::new(),
            by_name: OnceLock::new(),
        }
    }

    /// Services by name with the members, indented.
    pub(super) fn services(&self) -> Bytes {
        self.services
            .get_or_init(|| json::encode_services(&self.snapshot).into())
            .clone()
    }

    /// The whole state.
    pub(super) fn state(&self) -> Bytes {
        self.state
            .get_or_init(|| json::encode_state(&self.snapshot).into())
            .clone()
    }

    /// Services by name, bare.
    pub(super) fn by_name(&self) -> Bytes {
        self.by_name
            .get_or_init(|| json::encode_by_name(&self.snapshot).into())
            .clone()
    }
}

/// Hands out the documents of the newest snapshot.
#[derive(Debug)]
pub(super) struct Library {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Held only to look at or replace the pointer, never while encoding or writing.
    latest: Mutex<Arc<Documents>>,
}

impl Library {
    pub(super) fn new(snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        let first = snapshots.borrow().clone();
        Self {
            snapshots,
            latest: Mutex::new(Arc::new(Documents::of(first))),
        }
    }

    /// A receiver of its own, for a reader that waits for news.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// The documents of the newest snapshot; never those of an older one than handed out before.
    pub(super) fn latest(&self) -> Arc<Documents> {
        let newest = self.snapshots.borrow().clone();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.version > latest.snapshot.version {
            *latest = Arc::new(Documents::of(newest));
        }
        latest.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_encoded_once_per_snapshot() {
        let mut snapshot = Snapshot::empty("web-01", "lab");
        let (sender, receiver) = watch::channel(Arc::new(snapshot.clone()));
        let library = Library::new(receiver);
        let first = library.latest().state();
        assert_eq!(first.as_ptr(), library.latest().state().as_ptr());
        snapshot.version += 1;
        snapshot.cluster_name = "other".into();
        sender.send_replace(Arc::new(snapshot));
        let second = library.latest().state();
        assert!(String::from_utf8_lossy(&second).contains("other"));
    }
}
