//! What a client's HTTP/1.1 connection is doing, as far as it decides whether it can be put aside.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    time::Instant,
};

/// Shared by the connection, the request it serves, and both bodies of it.
#[derive(Debug)]
pub(super) struct Activity {
    /// A request came and its answer is not handed over to its end.
    is_answering: AtomicBool,
    /// The request has a body that has not been read to its end.
    is_reading: AtomicBool,
    /// The client does not take what it is sent.
    is_blocked: AtomicBool,
    quiet_since: Mutex<Instant>,
}

/// An answer on its way; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct Answering(Arc<Activity>);

/// A request's body on its way.
#[derive(Debug)]
pub(super) struct Reading(Arc<Activity>);

impl Activity {
    /// Of a connection that has been quiet `since` then.
    pub(super) fn new(since: Instant) -> Self {
        Self {
            is_answering: AtomicBool::new(false),
            is_reading: AtomicBool::new(false),
            is_blocked: AtomicBool::new(false),
            quiet_since: Mutex::new(since),
        }
    }

    pub(super) fn answering(self: &Arc<Self>) -> Answering {
        self.is_answering.store(true, Release);
        Answering(self.clone())
    }

    pub(super) fn reading(self: &Arc<Self>) -> Reading {
        self.is_reading.store(true, Release);
        Reading(self.clone())
    }

    pub(super) fn blocked(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked, Release);
    }

    /// Since when nothing has been going on; `None` while something is. Then all that was sent was a whole
    /// number of requests, and perhaps the beginning of another, and every answer has been sent whole.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        let busy = [&self.is_answering, &self.is_reading, &self.is_blocked];
        if busy.iter().any(|it| it.load(Acquire)) {
            return None;
        }
        Some(
            *self
                .quiet_since
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut since = self
            .0
            .quiet_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *since = Instant::now();
        drop(since);
        self.0.is_answering.store(false, Release);
    }
}

impl Reading {
    /// It was read to its end. One that is given up half-way stays open: nobody knows where the next request
    /// begins.
    pub(super) fn end(self) {
        self.0.is_reading.store(false, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_quiet_when_answer_and_body_are_over_and_everything_was_taken() {
        let start = Instant::now();
        let activity = Arc::new(Activity::new(start));
        assert_eq!(activity.quiet_since(), Some(start));
        let (answering, reading) = (activity.answering(), activity.reading());
        drop(answering);
        assert_eq!(activity.quiet_since(), None, "its body is still coming");
        reading.end();
        assert!(activity.quiet_since().unwrap() >= start);
        activity.blocked(true);
        assert_eq!(activity.quiet_since(), None);
        activity.blocked(false);
        assert!(activity.quiet_since().is_some());
    }

    #[test]
    fn a_body_that_is_given_up_leaves_the_connection_busy_for_ever() {
        let activity = Arc::new(Activity::new(Instant::now()));
        drop(activity.answering());
        drop(activity.reading());
        assert_eq!(activity.quiet_since(), None);
    }
}
