//! Exchanges of states out of turn, for those who have noticed that they miss something: news about
//! what they do not hold, much that was different, a clock that cannot be right, a long sleep. Pure.
//!
//! Whatever a peer sends, it makes this host begin one such exchange each second at most, and one with
//! the same peer in ten.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Exchanges are at least so far apart.
const APART: Duration = Duration::from_secs(1);
/// The same member is not asked by name again before this.
const SAME_APART: Duration = Duration::from_secs(10);
/// How many are tried until somebody answers; then the periodic exchange has to help.
const TRIES: u8 = 5;
/// Members that wait to be asked, at most.
const WANTED_MAX: usize = 64;

/// Whom to ask, and when.
#[derive(Debug, Default)]
pub struct CatchingUp {
    wanted: BTreeSet<String>,
    /// Those asked by name of late, and when.
    asked: BTreeMap<String, Instant>,
    /// How many more are tried until an exchange comes about.
    tries: u8,
    /// Since when somebody is to be asked.
    since: Option<Instant>,
    last: Option<Instant>,
}

impl CatchingUp {
    /// The member of this name knows what is missed.
    pub fn want(&mut self, name: &str, now: Instant) {
        let asked = self.asked.get(name);
        let of_late = asked.is_some_and(|at| now < *at + SAME_APART);
        if !of_late && self.wanted.len() < WANTED_MAX {
            self.wanted.insert(name.to_owned());
            self.since.get_or_insert(now);
        }
    }

    /// One more exchange with anybody may help.
    pub fn want_one(&mut self, now: Instant) {
        self.tries = self.tries.max(1);
        self.since.get_or_insert(now);
    }

    /// Somebody has to be asked, until one answers.
    pub fn want_anybody(&mut self, now: Instant) {
        self.tries = TRIES;
        self.since.get_or_insert(now);
    }

    /// An exchange has come about.
    pub fn exchanged(&mut self) {
        self.tries = 0;
        self.settle();
    }

    /// A member is gone.
    pub fn left(&mut self, name: &str) {
        self.wanted.remove(name);
        self.settle();
    }

    /// When [`CatchingUp::take`] next has something to say.
    pub fn next_deadline(&self) -> Option<Instant> {
        let since = self.since?;
        Some(self.last.map_or(since, |last| since.max(last + APART)))
    }

    /// With whom to exchange states now: with the one of a name, or with any.
    pub fn take(&mut self, now: Instant) -> Option<Option<String>> {
        self.next_deadline().filter(|at| *at <= now)?;
        let whom = if let Some(tries) = self.tries.checked_sub(1) {
            self.tries = tries;
            None
        } else {
            let name = self.wanted.pop_first()?;
            self.asked.retain(|_, at| now < *at + SAME_APART);
            self.asked.insert(name.clone(), now);
            Some(name)
        };
        self.last = Some(now);
        self.settle();
        Some(whom)
    }

    fn settle(&mut self) {
        if self.wanted.is_empty() && self.tries == 0 {
            self.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn whoever_is_asked_for_is_asked_once_in_ten_seconds_and_one_a_second() {
        let start = Instant::now();
        let mut catching_up = CatchingUp::default();
        let mut taken = Vec::new();
        for quarter in 0..120 {
            let now = start + SECOND / 4 * quarter;
            for name in ["a", "b"] {
                catching_up.want(name, now);
            }
            let whom = catching_up.take(now);
            taken.extend(whom.map(|whom| (now - start, whom)));
        }
        let expected = (0..3).flat_map(|round| {
            let first = 10 * SECOND * round;
            [(first, "a"), (first + SECOND, "b")]
        });
        let expected = expected.map(|(at, name)| (at, Some(name.to_owned())));
        assert!(taken.iter().cloned().eq(expected), "{taken:?}");
    }

    #[test]
    fn anybody_is_asked_until_somebody_answers() {
        for answered in [false, true] {
            let mut now = Instant::now();
            let mut catching_up = CatchingUp::default();
            catching_up.want_anybody(now);
            assert_eq!(catching_up.take(now), Some(None), "at once");
            assert_eq!(catching_up.take(now), None);
            if answered {
                catching_up.exchanged();
            }
            let mut more = 0;
            while let Some(next) = catching_up.next_deadline() {
                assert_eq!(next, now + APART);
                now = next;
                assert_eq!(catching_up.take(now), Some(None));
                more += 1;
            }
            assert_eq!(more, if answered { 0 } else { 4 });
        }
    }

    #[test]
    fn nobody_is_asked_any_more_who_is_gone() {
        let now = Instant::now();
        let mut catching_up = CatchingUp::default();
        catching_up.want("a", now);
        catching_up.left("a");
        assert_eq!(catching_up.next_deadline(), None);
        assert_eq!(catching_up.take(now), None);
        catching_up.want_one(now);
        assert_eq!(catching_up.take(now), Some(None));
        assert_eq!(catching_up.next_deadline(), None);
    }
}
