//! What an instance's results make of it: rise, fall, and the damping of what comes and goes. Pure.
//!
//! So many successes in a row make an instance alive, so many failures make it unhealthy. Becoming
//! unhealthy is never held back. Becoming alive again is, for an instance that keeps falling: the
//! penalty of route flap damping (RFC 2439) with one point per fall, because an instance that takes
//! traffic only to fail under it costs its users more than one that stays away for a minute.

use std::time::Duration;

use catalog::Status;
use tokio::time::Instant;

use super::pace::Pace;

/// Points halve in this time. An instance that falls once in it, for ever, is at the limit.
const HALF_LIFE: Duration = Duration::from_secs(30);
/// More points than this and the instance is held back: reached by three falls 20 s apart.
const POINTS_LIMIT: f64 = 2.0;
/// At so many points it is released.
const POINTS_RELEASE: f64 = 1.0;
/// Points do not grow beyond this, so that nobody is held longer than three half-lives.
const POINTS_MAX: f64 = 8.0;
/// The rule in a sentence.
pub(super) const RULE: &str = "every fall from alive is a point, points halve every 30 s; with more \
    than 2 points an instance is kept unhealthy until 1 is left, 90 s at most";

/// The results of one instance and what follows from them.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    /// What it counts as; `Unknown` until its results have decided.
    pub(super) status: Status,
    /// What the last result said.
    last: Option<bool>,
    /// Results in a row that say the same as the last.
    pub(super) in_a_row: u64,
    /// What it would be without damping.
    works: Option<bool>,
    points: f64,
    /// When there were so many points.
    counted: Option<Instant>,
    is_damped: bool,
}

impl Verdict {
    /// Of an instance that nothing is known about.
    pub(super) fn new() -> Self {
        Self {
            status: Status::Unknown,
            last: None,
            in_a_row: 0,
            works: None,
            points: 0.0,
            counted: None,
            is_damped: false,
        }
    }

    /// Whether the results have decided what it is.
    pub(super) fn is_decided(&self) -> bool {
        self.status != Status::Unknown
    }

    /// Another check is asked from now on: its results do not continue those of the old one. What
    /// the instance was, it remains until they have decided.
    pub(super) fn restart(&mut self) {
        (self.last, self.in_a_row) = (None, 0);
    }

    /// Takes a result; whether the status changed by it.
    pub(super) fn take(&mut self, healthy: bool, pace: &Pace, now: Instant) -> bool {
        self.in_a_row = if self.last == Some(healthy) {
            self.in_a_row.saturating_add(1)
        } else {
            1
        };
        self.last = Some(healthy);
        let wanted = if healthy { pace.rise } else { pace.fall };
        if self.in_a_row >= wanted.into() {
            if self.works == Some(true) && !healthy {
                self.fall(now);
            }
            self.works = Some(healthy);
        }
        self.settle(now)
    }

    /// Looks again at an instance that was held back; whether the status changed by it.
    pub(super) fn settle(&mut self, now: Instant) -> bool {
        self.is_damped = self.release().is_some_and(|release| release > now);
        let status = match self.works {
            None => self.status,
            Some(true) if !self.is_damped => Status::Alive,
            Some(_) => Status::Unhealthy,
        };
        std::mem::replace(&mut self.status, status) != status
    }

    /// Until when it is kept unhealthy although it works; `None` when it is not.
    pub(super) fn held_until(&self) -> Option<Instant> {
        let is_held = self.works == Some(true) && self.status != Status::Alive;
        self.release().filter(|_| is_held)
    }

    fn fall(&mut self, now: Instant) {
        let age = self.counted.map_or(Duration::ZERO, |then| now - then);
        let left = self.points * (-age.div_duration_f64(HALF_LIFE)).exp2();
        self.points = (left + 1.0).min(POINTS_MAX);
        self.counted = Some(now);
        self.is_damped |= self.points > POINTS_LIMIT;
    }

    /// When so few points are left that it is no longer damped; `None` when it is not.
    fn release(&self) -> Option<Instant> {
        let half_lives = (self.points / POINTS_RELEASE).log2().max(0.0);
        let counted = self.counted.filter(|_| self.is_damped)?;
        Some(counted + HALF_LIFE.mul_f64(half_lives))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rise: u32, fall: u32) -> Pace {
        Pace {
            interval: Duration::from_secs(3),
            timeout: Duration::from_secs(3),
            rise,
            fall,
        }
    }

    /// What it counts as after each result: `+` and `-`, one every `step`; `A`, `U` or `?`.
    fn play(pace: Pace, step: Duration, results: &str) -> (String, Verdict, Instant) {
        let mut verdict = Verdict::new();
        let mut now = Instant::now();
        let mut told = String::new();
        for result in results.chars() {
            now += step;
            let before = verdict.status;
            let news = verdict.take(result == '+', &pace, now);
            assert_eq!(news, before != verdict.status);
            told.push(match verdict.status {
                Status::Alive => 'A',
                Status::Unhealthy => 'U',
                _ => '?',
            });
        }
        (told, verdict, now)
    }

    #[test]
    fn so_many_results_in_a_row_make_a_change() {
        let slowly = Duration::from_secs(60);
        for (rise, fall, results, told) in [
            (1, 1, "+-+-", "AUAU"),
            (1, 1, "-+", "UA"),
            (2, 1, "++-+++", "?AUUAA"),
            (1, 3, "+--+---+", "AAAAAAUA"),
            (3, 2, "++-+++-+--+", "?????AAAAUU"),
            (2, 2, "+-+-+-", "??????"),
            (2, 3, "---++", "??UUA"),
        ] {
            let (are, ..) = play(pace(rise, fall), slowly, results);
            assert_eq!(are, told, "rise {rise}, fall {fall}, {results}");
        }
    }

    #[test]
    fn what_falls_seldom_is_never_held_back() {
        let (told, ..) = play(pace(1, 1), Duration::from_secs(16), &"+-".repeat(200));
        assert_eq!(told, "AU".repeat(200));
    }

    #[test]
    fn the_third_fall_in_short_order_holds_the_return_back() {
        let (told, verdict, now) = play(pace(1, 1), Duration::from_secs(3), "+-+-+-++");
        assert_eq!(told, "AUAUAUUU");
        // 1, then 1 + 2^-0.2, then 1 + 2^-0.2 + 2^-0.4 points at the third fall, 6 s ago.
        let points: f64 = 1.0 + 2.0_f64.powf(-0.2) + 2.0_f64.powf(-0.4);
        let until = now - Duration::from_secs(6) + HALF_LIFE.mul_f64(points.log2());
        let held = verdict.held_until().unwrap();
        assert!(held.max(until) - held.min(until) < Duration::from_millis(1));
    }

    #[test]
    fn it_is_released_when_its_time_is_over_and_not_before() {
        let (_, mut verdict, _) = play(pace(1, 1), Duration::from_secs(3), "+-+-+-+");
        let until = verdict.held_until().unwrap();
        assert!(!verdict.settle(until - Duration::from_millis(1)));
        assert!(verdict.settle(until));
        assert_eq!(
            (verdict.status, verdict.held_until()),
            (Status::Alive, None)
        );
        // What holds nobody back: a fall.
        assert!(verdict.take(false, &pace(1, 1), until));
        assert_eq!(verdict.status, Status::Unhealthy);
    }

    #[test]
    fn an_instance_that_fails_is_held_by_its_failures_alone() {
        let (told, mut verdict, now) = play(pace(1, 1), Duration::from_secs(3), "+-+-+--");
        assert_eq!((told.as_str(), verdict.held_until()), ("AUAUAUU", None));
        let later = now + Duration::from_secs(600);
        assert!(!verdict.settle(later));
        assert!(verdict.take(true, &pace(1, 1), later));
        assert_eq!(verdict.status, Status::Alive);
    }

    #[test]
    fn nobody_is_held_longer_than_ninety_seconds() {
        let (told, verdict, now) = play(pace(1, 1), Duration::from_millis(10), &"+-".repeat(500));
        assert_eq!(told[..6], *"AUAUAU");
        assert!(!told[6..].contains('A'));
        let mut verdict = verdict;
        verdict.take(true, &pace(1, 1), now);
        let held = verdict.held_until().unwrap() - now;
        assert!(held > Duration::from_secs(89) && held <= Duration::from_secs(90));
    }

    #[test]
    fn a_new_check_counts_from_the_beginning() {
        let (_, mut verdict, now) = play(pace(1, 2), Duration::from_secs(3), "+-");
        verdict.restart();
        assert!(!verdict.take(false, &pace(1, 2), now));
        assert!(verdict.take(false, &pace(1, 2), now));
    }
}
