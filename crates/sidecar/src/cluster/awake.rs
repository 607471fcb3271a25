//! How long this machine has slept, and whether the writer has noticed. `Instant` stands still while a
//! machine is suspended; this reads the one clock that does not. What follows from it is decided in
//! `core`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use super::core::SLEEP_MAX;

/// Runs on through suspends.
#[cfg(target_os = "linux")]
const BOOT_TIME: ClockId = ClockId::Boottime;
/// Elsewhere it is this one that does.
#[cfg(not(target_os = "linux"))]
const BOOT_TIME: ClockId = ClockId::Monotonic;

/// Compares the clocks that stand still with the one that does not.
#[derive(Debug)]
pub struct Awake {
    boot: Duration,
    monotonic: Instant,
    /// Seconds of boot time at which the writer was seen last.
    seen: AtomicU64,
}

impl Awake {
    /// From now on.
    pub fn new() -> Self {
        let boot = boot_time();
        Self {
            boot,
            monotonic: Instant::now(),
            seen: AtomicU64::new(boot.as_secs()),
        }
    }

    /// The writer takes an input, at least once a minute; returns how long the machine has been
    /// suspended since the start, in all.
    pub fn seen(&self, now: Instant) -> Duration {
        let boot = boot_time();
        self.seen.store(boot.as_secs(), Ordering::Relaxed);
        let monotonic = now.saturating_duration_since(self.monotonic);
        boot.saturating_sub(self.boot).saturating_sub(monotonic)
    }

    /// Whether everything has slept for so long that what the writer has published last is no
    /// longer to be told to anybody; it will notice with its next input.
    pub fn has_overslept(&self) -> bool {
        let seen = Duration::from_secs(self.seen.load(Ordering::Relaxed));
        overslept(seen, boot_time())
    }
}

impl Default for Awake {
    fn default() -> Self {
        Self::new()
    }
}

fn overslept(seen: Duration, now: Duration) -> bool {
    now.saturating_sub(seen) >= SLEEP_MAX
}

fn boot_time() -> Duration {
    let time = clock_gettime(BOOT_TIME);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_awake_has_not_slept() {
        let awake = Awake::new();
        assert!(awake.seen(Instant::now()) < Duration::from_secs(1));
        assert!(!awake.has_overslept());
    }

    #[test]
    fn what_the_monotonic_clock_missed_was_sleep() {
        let now = Instant::now();
        let before = boot_time();
        // As if it had been started with the machine, and the monotonic clock had stood still since.
        let awake = Awake {
            boot: Duration::ZERO,
            monotonic: now,
            seen: AtomicU64::new(0),
        };
        let missed = awake.seen(now);
        assert!(missed >= before && missed <= boot_time());
        assert!(awake.seen(now + missed * 2).is_zero());
    }

    #[test]
    fn a_writer_that_was_not_seen_for_an_hour_has_overslept() {
        let seen = Duration::from_secs(500);
        let second = Duration::from_secs(1);
        assert!(!overslept(seen, seen + SLEEP_MAX - second));
        assert!(overslept(seen, seen + SLEEP_MAX));
    }
}
