//! A host's clock: ahead by an offset and running fast or slow. Virtual time is exact; what a node
//! is told is this.

use std::time::{Duration, Instant};

/// Local time of one host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    origin: Instant,
    offset: Duration,
    /// Parts per million by which it runs fast; negative: slow.
    rate_ppm: i32,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    pub(super) fn new(origin: Instant, offset: Duration, rate_ppm: i32) -> Self {
        Self {
            origin,
            offset,
            rate_ppm,
        }
    }

    /// What it shows `elapsed` after the start.
    pub(super) fn at(&self, elapsed: Duration) -> Instant {
        let nanos = elapsed.as_nanos() as i128;
        let local = nanos * (MILLION + i128::from(self.rate_ppm)) / MILLION;
        self.origin + self.offset + Duration::from_nanos(local as u64)
    }

    /// The first virtual time at which it shows `local` or more.
    pub(super) fn when(&self, local: Instant) -> Duration {
        let nanos = local
            .saturating_duration_since(self.origin + self.offset)
            .as_nanos() as i128;
        let rate = MILLION + i128::from(self.rate_ppm);
        let elapsed = (nanos * MILLION + rate - 1) / rate;
        Duration::from_nanos(elapsed as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_has_come_when_the_clock_says_so_and_not_before() {
        let origin = Instant::now();
        for rate in [-10_000, -1, 0, 1, 9_999] {
            let clock = Clock::new(origin, Duration::from_secs(7), rate);
            for nanos in [0, 1, 999, 1_000_000_007, 86_400_000_000_001] {
                let local = origin + Duration::from_secs(7) + Duration::from_nanos(nanos);
                let when = clock.when(local);
                assert!(clock.at(when) >= local);
                if let Some(before) = when.checked_sub(Duration::from_nanos(2)) {
                    assert!(clock.at(before) < local, "{rate} {nanos}");
                }
            }
        }
    }
}
