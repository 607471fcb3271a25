//! How far the body of a request has come: who waits for the answer waits from its last byte on.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Of one body.
#[derive(Debug)]
pub(super) struct Progress {
    start: Instant,
    /// When something of it was taken last, in milliseconds after the start.
    moved_millis: AtomicU64,
    ended: AtomicBool,
}

impl Progress {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            moved_millis: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    /// Something of it was taken.
    pub(super) fn moved(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_millis.store(millis, Relaxed);
    }

    /// All of it was, or nobody wants more.
    pub(super) fn end(&self) {
        self.ended.store(true, Relaxed);
    }

    /// When something of it was taken last.
    pub(super) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.moved_millis.load(Relaxed))
    }

    /// Whether the client has sent all of it.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }
}
