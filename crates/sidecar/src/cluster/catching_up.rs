//! Exchanges of states out of turn, for those who have noticed that they missed something. Pure.

use std::time::{Duration, Instant};

/// They are at least so far apart, so that noticing much costs no more than noticing a little.
const APART: Duration = Duration::from_secs(1);

/// Whom to ask, and when.
#[derive(Debug, Default)]
pub struct CatchingUp {
    /// When, and with whom if it matters.
    due: Option<(Instant, Option<String>)>,
    last: Option<Instant>,
}

impl CatchingUp {
    /// Something was missed, which the member of this name knows, or anybody.
    pub fn ask(&mut self, whom: Option<String>, now: Instant) {
        if self.due.is_none() {
            let at = self.last.map_or(now, |last| now.max(last + APART));
            self.due = Some((at, whom));
        }
    }

    /// When [`CatchingUp::take`] next has something to say.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.as_ref().map(|(at, _)| *at)
    }

    /// With whom to exchange states now: with one of a name, or with any.
    pub fn take(&mut self, now: Instant) -> Option<Option<String>> {
        let (_, whom) = self.due.take_if(|(at, _)| *at <= now)?;
        self.last = Some(now);
        Some(whom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_at_once_and_others_wait_their_second() {
        let mut now = Instant::now();
        let mut catching_up = CatchingUp::default();
        assert_eq!(catching_up.take(now), None);
        catching_up.ask(Some("a".to_owned()), now);
        catching_up.ask(None, now);
        assert_eq!(catching_up.next_deadline(), Some(now));
        assert_eq!(catching_up.take(now), Some(Some("a".to_owned())));
        assert_eq!(catching_up.take(now), None);
        catching_up.ask(None, now);
        assert_eq!(catching_up.take(now), None);
        now += APART;
        assert_eq!(catching_up.next_deadline(), Some(now));
        assert_eq!(catching_up.take(now), Some(None));
        assert_eq!(catching_up.next_deadline(), None);
    }
}
