//! When the checks of one instance are due. Pure: time comes in as values.
//!
//! A new instance is checked often until it works, because the time until its first success is the
//! time its users wait; once it works, or when it has failed for long, at a steady interval.

use std::time::Duration;

use tokio::time::Instant;

/// Pause after the first failed check of a new instance. It doubles with every failure, up to the
/// interval: an instance that needs 300 ms to start is found at 350 ms, for three requests more than
/// at a steady pace.
const RETRY_FIRST: Duration = Duration::from_millis(50);

/// The clockwork of one instance. Its first check is due at once.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    /// The first steady wait, so that what was found together is not checked together for ever.
    first_wait: Option<Duration>,
    /// The next pause while the instance is new.
    retry: Option<Duration>,
}

impl Schedule {
    /// `id` decides where in the interval the steady checks lie: always at the same place, so that a
    /// run can be repeated.
    pub(super) fn new(interval: Duration, id: &str) -> Self {
        // FNV-1a, over the few bytes of an id. Ids that differ little differ only in its low bits.
        let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let phase = u32::try_from((hash ^ (hash >> 32)) & 0xffff).unwrap_or_default();
        let first_wait = interval / 2 + (interval / 2 / (1 << 16)) * phase;
        Self {
            interval,
            first_wait: Some(first_wait),
            retry: Some(RETRY_FIRST),
        }
    }

    /// When the next check is due after one that began at `started` and ended at `ended`.
    ///
    /// Pauses of a new instance count from the end, so that checks that time out do not follow each
    /// other without a break; steady checks from the beginning, so that slow ones are not rarer.
    pub(super) fn due(&mut self, started: Instant, ended: Instant, healthy: bool) -> Instant {
        if let Some(retry) = self
            .retry
            .filter(|retry| !healthy && *retry < self.interval)
        {
            self.retry = Some(retry * 2);
            return ended + retry;
        }
        self.retry = None;
        let wait = self.first_wait.take().unwrap_or(self.interval);
        ended.max(started + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(3);

    /// Milliseconds between the end of each check, which takes no time, and the next.
    fn waits(id: &str, outcomes: impl IntoIterator<Item = bool>) -> Vec<u128> {
        let mut schedule = Schedule::new(INTERVAL, id);
        let now = Instant::now();
        outcomes
            .into_iter()
            .map(|healthy| (schedule.due(now, now, healthy) - now).as_millis())
            .collect()
    }

    #[test]
    fn a_new_instance_is_checked_often_until_it_works() {
        let waits = waits("a", [false, false, false, true, false, true]);
        assert_eq!(waits[..3], [50, 100, 200]);
        assert!((1500..3000).contains(&waits[3]), "{waits:?}");
        assert_eq!(waits[4..], [3000, 3000]);
    }

    #[test]
    fn an_instance_that_never_works_is_not_new_for_ever() {
        let waits = waits("a", [false; 9]);
        assert_eq!(waits[..6], [50, 100, 200, 400, 800, 1600]);
        assert!((1500..3000).contains(&waits[6]), "{waits:?}");
        assert_eq!(waits[7..], [3000, 3000]);
    }

    #[test]
    fn steady_checks_of_many_instances_are_spread() {
        let firsts: std::collections::BTreeSet<u128> = (0..100)
            .flat_map(|number| waits(&format!("{number:012x}"), [true]))
            .collect();
        assert!(
            firsts.iter().all(|wait| (1500..=3000).contains(wait)),
            "{firsts:?}"
        );
        assert!(firsts.len() > 50, "{firsts:?}");
    }

    #[test]
    fn slow_checks_keep_the_pace_and_leave_a_break() {
        let start = Instant::now();
        let slow = Duration::from_millis(2999);
        let mut schedule = Schedule::new(INTERVAL, "a");
        assert_eq!(
            schedule.due(start, start + slow, false),
            start + slow + RETRY_FIRST
        );
        assert_eq!(schedule.due(start, start + slow, true), start + slow);
        assert_eq!(schedule.due(start, start + slow, true), start + INTERVAL);
    }

    #[test]
    fn a_short_interval_has_no_longer_pauses() {
        let interval = Duration::from_millis(20);
        let mut schedule = Schedule::new(interval, "a");
        let now = Instant::now();
        assert!(schedule.due(now, now, false) <= now + interval);
        assert_eq!(schedule.due(now, now, false), now + interval);
    }
}
