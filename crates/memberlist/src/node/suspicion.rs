//! How long a suspect has to refute. Starts long and shrinks with every further accuser, after
//! "Lifeguard" (Dadgar, Phillips, Currey) and `suspicion.go` of hashicorp/memberlist.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Shortest and longest wait and the confirmations that lead from one to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) min: Duration,
    pub(super) max: Duration,
    /// Confirmations after which the wait is `min`.
    pub(super) wanted: u32,
}

impl Span {
    /// For a table of `members` entries.
    pub(super) fn new(mult: u32, max_mult: u32, members: usize, probe_interval: Duration) -> Self {
        let scale = (members.max(1) as f64).log10().max(1.0);
        // Go truncates the scale to thousandths; the same here, so that mixed clusters agree.
        let thousandths = (1000.0 * scale) as u32;
        let min = probe_interval
            .saturating_mul(mult)
            .saturating_mul(thousandths)
            / 1000;
        let wanted = mult.saturating_sub(2);
        // With too few others to confirm there is no point in waiting for them.
        let enough = members.saturating_sub(2) >= wanted as usize;
        Self {
            min,
            max: min.saturating_mul(max_mult),
            wanted: if enough { wanted } else { 0 },
        }
    }

    /// The whole wait after `confirmations` of at most `wanted`.
    fn total(self, confirmations: u32) -> Duration {
        if self.wanted == 0 {
            return self.min;
        }
        let share = f64::from(confirmations + 1).ln() / f64::from(self.wanted + 1).ln();
        let seconds =
            self.max.as_secs_f64() - share * (self.max.as_secs_f64() - self.min.as_secs_f64());
        let millis = (1000.0 * seconds).floor().max(0.0) as u64;
        Duration::from_millis(millis).max(self.min)
    }
}

/// A running suspicion.
#[derive(Debug)]
pub(super) struct Suspicion {
    span: Span,
    started: Instant,
    deadline: Instant,
    /// The first accuser and those counted since; never more than `wanted + 1`.
    accusers: BTreeSet<String>,
    confirmations: u32,
}

impl Suspicion {
    pub(super) fn new(span: Span, accuser: &str, now: Instant) -> Self {
        let wait = if span.wanted == 0 { span.min } else { span.max };
        Self {
            span,
            started: now,
            deadline: now + wait,
            accusers: BTreeSet::from([accuser.to_owned()]),
            confirmations: 0,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether as many have confirmed it as were wanted.
    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmations >= self.span.wanted
    }

    /// Counts another accuser. True if it was new and still wanted, then the deadline has moved
    /// and the accusation is worth passing on. A shorter wait that is over already ends now: a
    /// deadline moved into the past would look as if we had been asleep.
    pub(super) fn confirm(&mut self, accuser: &str, now: Instant) -> bool {
        if !self.is_news(accuser) {
            return false;
        }
        self.accusers.insert(accuser.to_owned());
        self.confirmations += 1;
        let shorter = self.started + self.span.total(self.confirmations);
        self.deadline = shorter.max(now).min(self.deadline);
        true
    }

    /// Whether this accuser would be counted.
    pub(super) fn is_news(&self, accuser: &str) -> bool {
        self.confirmations < self.span.wanted && !self.accusers.contains(accuser)
    }

    /// Gives the suspect more time: we were asleep and cannot have heard a refutation.
    pub(super) fn postpone(&mut self, by: Duration) {
        self.started += by;
        self.deadline += by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seconds(values: &[f64]) -> Vec<u64> {
        values.iter().map(|s| (s * 1000.0).round() as u64).collect()
    }

    #[test]
    fn span_follows_the_table_of_both_generations() {
        // members, (min, max, confirmations) with multiplier 5, then with 4; seconds.
        let rows = [
            (1, (5, 30, 0), (4, 24, 0)),
            (3, (5, 30, 0), (4, 24, 0)),
            (4, (5, 30, 0), (4, 24, 2)),
            (5, (5, 30, 3), (4, 24, 2)),
            (10, (5, 30, 3), (4, 24, 2)),
            (100, (10, 60, 3), (8, 48, 2)),
            (1000, (15, 90, 3), (12, 72, 2)),
        ];
        for (members, fork, hashicorp) in rows {
            for (mult, (min, max, wanted)) in [(5, fork), (4, hashicorp)] {
                let expected = Span {
                    min: SECOND * min,
                    max: SECOND * max,
                    wanted,
                };
                assert_eq!(
                    Span::new(mult, 6, members, SECOND),
                    expected,
                    "{members} × {mult}"
                );
            }
        }
    }

    #[test]
    fn each_confirmation_shortens_the_wait() {
        let span = |min: u64, max: u64, wanted| Span {
            min: SECOND * min as u32,
            max: SECOND * max as u32,
            wanted,
        };
        let rows = [
            (span(2, 30, 3), seconds(&[30.0, 16.0, 7.810, 2.0])),
            (span(5, 30, 3), seconds(&[30.0, 17.5, 10.187, 5.0])),
            (span(4, 24, 2), seconds(&[24.0, 11.381, 4.0])),
        ];
        for (span, expected) in rows {
            let totals: Vec<u64> = (0..=span.wanted)
                .map(|count| span.total(count).as_millis() as u64)
                .collect();
            assert_eq!(totals, expected);
        }
    }

    #[test]
    fn only_new_accusers_count_and_only_as_many_as_wanted() {
        let now = Instant::now();
        let mut suspicion = Suspicion::new(Span::new(5, 6, 10, SECOND), "a", now);
        assert_eq!(suspicion.deadline(), now + SECOND * 30);
        assert!(
            !suspicion.confirm("a", now),
            "the first accuser does not confirm itself"
        );
        assert!(suspicion.confirm("b", now));
        assert!(!suspicion.confirm("b", now));
        assert_eq!(suspicion.deadline(), now + Duration::from_millis(17_500));
        assert!(suspicion.confirm("c", now));
        assert!(suspicion.confirm("d", now));
        assert_eq!(suspicion.deadline(), now + SECOND * 5);
        assert!(!suspicion.confirm("e", now), "three are enough");
        assert_eq!(suspicion.deadline(), now + SECOND * 5);
    }

    #[test]
    fn a_late_confirmation_ends_the_wait_now_and_never_lengthens_it() {
        let start = Instant::now();
        let mut suspicion = Suspicion::new(Span::new(5, 6, 10, SECOND), "a", start);
        let late = start + SECOND * 20;
        assert!(suspicion.confirm("b", late));
        assert_eq!(suspicion.deadline(), late, "17.5 s are over");
        assert!(suspicion.confirm("c", late + SECOND * 20));
        assert_eq!(suspicion.deadline(), late, "it was over before");
    }

    #[test]
    fn in_a_tiny_cluster_the_wait_is_the_shortest_at_once() {
        let now = Instant::now();
        let mut suspicion = Suspicion::new(Span::new(5, 6, 3, SECOND), "a", now);
        assert_eq!(suspicion.deadline(), now + SECOND * 5);
        assert!(!suspicion.confirm("b", now));
    }
}
