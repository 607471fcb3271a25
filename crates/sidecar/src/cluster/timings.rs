//! How long the writer's steps take: how often each was taken, and the time of all of them together.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A kind of step.
#[derive(Debug, Default)]
pub struct Timing {
    count: AtomicU64,
    micros: AtomicU64,
}

impl Timing {
    /// A step of this kind took `time`.
    pub fn add(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were, and the time of all, in microseconds.
    pub fn read(&self) -> (u64, u64) {
        let count = self.count.load(Ordering::Relaxed);
        (count, self.micros.load(Ordering::Relaxed))
    }
}

/// The steps that are timed, each with all that follows from it but the sending.
#[derive(Debug, Default)]
pub struct Timings {
    /// Taking in a message of a peer.
    pub message: Timing,
    /// Taking in what a peer's state has.
    pub merge: Timing,
    /// Taking in news of this host's own instances that are there.
    pub announce: Timing,
    /// Taking in that own instances are gone.
    pub withdraw: Timing,
    /// Handing to gossip what is to be sent.
    pub send: Timing,
    /// Looking for what is over: expired records, forgotten tombstones.
    pub expire: Timing,
}
