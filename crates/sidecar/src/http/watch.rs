//! The endless answer: a document at once and another after each change, one directly after another.
//!
//! Level-triggered: a document is made when the reader has taken the last, from what is newest then.
//! A slow reader skips documents in between, always gets the last, and holds nothing of anybody.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use catalog::Snapshot;
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::documents::{Kind, Library};

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
    let watcher = Watcher {
        form,
        library,
        snapshots,
        seen: None,
        shutdown,
        _slot: slot,
    };
    Body::new(Stream {
        next: Some(Box::pin(watcher.next())),
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

impl Watcher {
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

type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Watcher)>> + Send>>;

struct Stream {
    /// `None` at the end.
    next: Option<Next>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(next) = &mut self.next else {
            return Poll::Ready(None);
        };
        let Some((document, watcher)) = ready!(next.as_mut().poll(cx)) else {
            self.next = None;
            return Poll::Ready(None);
        };
        self.next = Some(Box::pin(watcher.next()));
        Poll::Ready(Some(Ok(Frame::data(document))))
    }
}
