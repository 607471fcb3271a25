//! The deadlines of a node: a small ordered table, not tasks. The shell needs only the earliest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// What happens at a deadline. The order decides between deadlines of the same instant: a round
/// ends before the next one starts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// No direct ack yet: ping once more.
    ProbeAgain,
    /// Still no direct ack: ask others and try TCP.
    ProbeTimeout,
    /// The probe round ends.
    ProbeDeadline,
    /// The next probe round is due.
    ProbeTick,
    /// A relayed ping has had no ack so far: tell the requester.
    RelayNack(u32),
    /// A relayed ping is forgotten.
    RelayExpiry(u32),
    /// Nobody refuted in time: the member of this name is dead.
    Suspicion(String),
    /// Tell the member of this name once more that we doubt it.
    Reminder(String),
    /// Accused that were asked whether they live should have answered.
    Hearsay,
    /// The next gossip round is due. Armed only while there is something to say.
    Gossip,
    /// Messages were asked for a while ago: ask for those that have not come.
    AskAgain,
    /// The next state exchange is due.
    PushPull,
    /// Time to try seeds and forgotten members again.
    Rejoin,
}

/// Armed timers, at most one deadline each.
#[derive(Debug, Default)]
pub(super) struct Timers {
    order: BTreeSet<(Instant, Timer)>,
    at: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Sets or moves the deadline.
    pub(super) fn arm(&mut self, timer: Timer, at: Instant) {
        if let Some(old) = self.at.insert(timer.clone(), at) {
            self.order.remove(&(old, timer.clone()));
        }
        self.order.insert((at, timer));
    }

    pub(super) fn cancel(&mut self, timer: &Timer) {
        if let Some(old) = self.at.remove(timer) {
            self.order.remove(&(old, timer.clone()));
        }
    }

    pub(super) fn is_armed(&self, timer: &Timer) -> bool {
        self.at.contains_key(timer)
    }

    /// The earliest deadline of any other timer.
    pub(super) fn next_but(&self, but: &Timer) -> Option<Instant> {
        let mut others = self.order.iter().filter(|(_, timer)| timer != but);
        others.next().map(|(at, _)| *at)
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer if its deadline is not after `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Timer, Instant)> {
        if self.next()? > now {
            return None;
        }
        let (at, timer) = self.order.pop_first()?;
        self.at.remove(&timer);
        Some((timer, at))
    }

    /// What is armed, earliest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Instant, &Timer)> {
        self.order.iter().map(|(at, timer)| (*at, timer))
    }

    /// Timers armed.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}
