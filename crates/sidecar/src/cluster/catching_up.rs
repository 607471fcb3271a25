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
    /// Not before a time: those asked of late may have known no more.
    wanted: BTreeMap<String, Instant>,
    /// Wanted as soon as they are members.
    strangers: BTreeSet<String>,
    /// Those asked by name of late, and when.
    asked: BTreeMap<String, Instant>,
    /// How many more are tried until an exchange comes about.
    tries: u8,
    /// Since when anybody is to be asked.
    since: Option<Instant>,
    last: Option<Instant>,
}

impl CatchingUp {
    /// The member of this name knows what is missed.
    pub fn want(&mut self, name: &str, now: Instant) {
        if self.wanted.contains_key(name) || self.wanted.len() >= WANTED_MAX {
            return;
        }
        let asked = self.asked.get(name);
        let soonest = asked.map_or(now, |at| now.max(*at + SAME_APART));
        self.wanted.insert(name.to_owned(), soonest);
    }

    /// Somebody of this name knows what is missed, and is no member yet.
    pub fn want_when_up(&mut self, name: &str) {
        if self.strangers.len() < WANTED_MAX {
            self.strangers.insert(name.to_owned());
        }
    }

    /// A member has appeared.
    pub fn joined(&mut self, name: &str, now: Instant) {
        if self.strangers.remove(name) {
            self.want(name, now);
        }
    }

    /// One more exchange with anybody may help.
    pub fn want_one(&mut self, now: Instant) {
        if self.tries == 0 {
            self.tries = 1;
            self.since = Some(now);
        }
    }

    /// Somebody has to be asked, until one answers.
    pub fn want_anybody(&mut self, now: Instant) {
        self.tries = TRIES;
        self.since.get_or_insert(now);
    }

    /// An exchange has come about.
    pub fn exchanged(&mut self) {
        self.tries = 0;
        self.since = None;
    }

    /// A member is gone.
    pub fn left(&mut self, name: &str) {
        self.wanted.remove(name);
    }

    /// When [`CatchingUp::take`] next has something to say.
    pub fn next_deadline(&self) -> Option<Instant> {
        let wanted = self.wanted.values().min().copied();
        let soonest = [self.since, wanted].into_iter().flatten().min()?;
        Some(self.last.map_or(soonest, |last| soonest.max(last + APART)))
    }

    /// With whom to exchange states now: with the one of a name, or with any.
    pub fn take(&mut self, now: Instant) -> Option<Option<String>> {
        self.next_deadline().filter(|at| *at <= now)?;
        let whom = if let Some(tries) = self.tries.checked_sub(1) {
            self.tries = tries;
            if tries == 0 {
                self.since = None;
            }
            None
        } else {
            let (name, _) = self.wanted.iter().min_by_key(|(_, soonest)| **soonest)?;
            let name = name.clone();
            self.wanted.remove(&name);
            self.asked.retain(|_, at| now < *at + SAME_APART);
            self.asked.insert(name.clone(), now);
            Some(name)
        };
        self.last = Some(now);
        Some(whom)
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
    fn who_was_asked_of_late_is_asked_again_later() {
        let start = Instant::now();
        let mut catching_up = CatchingUp::default();
        catching_up.want("a", start);
        assert!(catching_up.take(start).is_some());
        // What is missed now was not there when it was asked.
        catching_up.want("a", start + SECOND);
        let again = start + SAME_APART;
        assert_eq!(catching_up.next_deadline(), Some(again));
        assert_eq!(catching_up.take(again), Some(Some("a".to_owned())));
        assert_eq!(catching_up.next_deadline(), None);
    }

    #[test]
    fn who_is_no_member_yet_is_asked_when_it_is() {
        let now = Instant::now();
        let mut catching_up = CatchingUp::default();
        catching_up.want_when_up("a");
        catching_up.joined("b", now);
        assert_eq!(catching_up.next_deadline(), None);
        catching_up.joined("a", now);
        assert_eq!(catching_up.take(now), Some(Some("a".to_owned())));
        catching_up.joined("a", now);
        assert_eq!(catching_up.next_deadline(), None, "once");
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
