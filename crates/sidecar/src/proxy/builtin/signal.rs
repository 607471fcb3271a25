//! Something that happens once and concerns every connection.

use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// A token of which every request may ask whether it is cancelled: the token itself has a lock, which all
/// threads would share.
#[derive(Debug, Default)]
pub(super) struct Signal {
    token: CancellationToken,
    is_cancelled: AtomicBool,
}

impl Signal {
    pub(super) fn cancel(&self) {
        // Before anybody is woken, who then looks.
        self.is_cancelled.store(true, Release);
        self.token.cancel();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Acquire)
    }

    pub(super) fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }
}
