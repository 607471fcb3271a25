//! The endless answer: a document at once and another after each change, one directly after another.
//!
//! Level-triggered: a document is made when the reader has taken the last, from what is newest then.
//! A slow reader skips documents in between, always gets the last, and holds nothing of anybody.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use catalog::Snapshot;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::{
    documents::{Kind, Library},
    endless::{self, Reader},
};

/// Which document is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Services by name.
    ByService,
    /// The whole state.
    State,
}

impl Form {
    /// From the query: `by_service=false` asks for the state, anything else for services.
    pub(super) fn of_query(query: &str) -> Self {
        let state = query.split('&').any(|pair| pair == "by_service=false");
        if state { Self::State } else { Self::ByService }
    }
}

/// The body of the answer; ends when the agent stops.
pub(super) fn stream(
    form: Form,
    library: Arc<Library>,
    shutdown: CancellationToken,
    slot: OwnedSemaphorePermit,
) -> Body {
    let snapshots = library.subscribe();
    endless::body(Watcher {
        form,
        library,
        snapshots,
        seen: None,
        shutdown,
        _slot: slot,
    })
}

struct Watcher {
    form: Form,
    library: Arc<Library>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The count of changes in the document sent last.
    seen: Option<u64>,
    shutdown: CancellationToken,
    /// The place among the watchers that this reader takes up.
    _slot: OwnedSemaphorePermit,
}

impl Reader for Watcher {
    /// Waits until there is something the reader has not seen. `None` when there never will be.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        loop {
            // Marked before looking, so that a publication after the look wakes us again.
            self.snapshots.mark_unchanged();
            if self.seen != Some(self.library.latest().snapshot.changes) {
                let kind = match self.form {
                    Form::ByService => Kind::ByName,
                    Form::State => Kind::State,
                };
                // Perhaps of a snapshot that is newer than the one looked at.
                let (documents, document, _) = self.library.get(kind, false).await;
                self.seen = Some(documents.snapshot.changes);
                return Some((document, self));
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                changed = self.snapshots.changed() => changed.ok()?,
            }
        }
    }
}
