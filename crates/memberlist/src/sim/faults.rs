//! What the network does to datagrams and streams, as named knobs, and what is wrong with single
//! links. Pure: chance comes in as a random number generator, time as a value.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use super::HostId;

/// What the network does everywhere. Shares are probabilities, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Shortest one-way delay.
    pub latency_min: Duration,
    /// Mean one-way delay; what exceeds the shortest is distributed exponentially.
    pub latency_mean: Duration,
    /// End of the tail: no delay is longer.
    pub latency_max: Duration,
    /// Share of datagrams lost, each for itself.
    pub loss: f64,
    /// Share of datagrams with which a burst of losses begins on their link.
    pub burst: f64,
    /// Length of such a burst.
    pub burst_time: Duration,
    /// Share of datagrams delivered twice.
    pub duplication: f64,
    /// Share of datagrams that take `reordering_delay` longer, so that later ones overtake them.
    pub reordering: f64,
    /// How long an overtaken datagram is late.
    pub reordering_delay: Duration,
    /// Share of datagrams damaged on their way, unnoticed by the checksum of UDP.
    pub corruption: f64,
    /// Share of connections refused.
    pub stream_refused: f64,
    /// Share of connections that break in the middle of either message.
    pub stream_cut: f64,
    /// Share of connections that take `stream_slow_delay` longer each way.
    pub stream_slow: f64,
    /// How long a slow connection takes.
    pub stream_slow_delay: Duration,
}

impl Default for Faults {
    /// A quiet local network.
    fn default() -> Self {
        Self {
            latency_min: Duration::from_micros(200),
            latency_mean: Duration::from_micros(800),
            latency_max: Duration::from_millis(2),
            loss: 0.0,
            burst: 0.0,
            burst_time: Duration::from_millis(500),
            duplication: 0.0,
            reordering: 0.0,
            reordering_delay: Duration::from_millis(100),
            corruption: 0.0,
            stream_refused: 0.0,
            stream_cut: 0.0,
            stream_slow: 0.0,
            stream_slow_delay: Duration::from_secs(2),
        }
    }
}

impl Faults {
    /// A one-way delay.
    pub(super) fn delay(&self, rng: &mut Pcg64Mcg) -> Duration {
        let above = self.latency_mean.saturating_sub(self.latency_min);
        // The open end of the unit interval is kept away from the logarithm.
        let share = -(1.0 - rng.random::<f64>()).ln();
        (self.latency_min + above.mul_f64(share)).min(self.latency_max)
    }

    /// `bytes` with a few of them changed, or with its end cut off.
    pub(super) fn damage(bytes: &Bytes, rng: &mut Pcg64Mcg) -> Bytes {
        let mut damaged = bytes.to_vec();
        if damaged.is_empty() {
            return bytes.clone();
        }
        if rng.random_bool(0.3) {
            damaged.truncate(rng.random_range(0..damaged.len()));
        } else {
            for _ in 0..rng.random_range(1..=4) {
                let at = rng.random_range(0..damaged.len());
                damaged[at] ^= rng.random_range(1..=u8::MAX);
            }
        }
        damaged.into()
    }
}

/// What is wrong with one direction between two hosts. Times are since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Link {
    /// Nothing passes before.
    pub(super) cut_until: Duration,
    /// No datagram passes before; streams do.
    pub(super) datagrams_cut_until: Duration,
    /// Losses come in a burst until then.
    pub(super) burst_until: Duration,
    /// Longer datagrams vanish, if set.
    pub(super) mtu: Option<usize>,
}

/// All links that are not simply good, by direction, and the sides of a partition.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<(HostId, HostId), Link>,
    /// Side of each host; hosts beyond the end are on side 0.
    sides: Vec<u32>,
    /// Pairs of sides, from and to, that pass although they differ: an asymmetric partition.
    open: Vec<(u32, u32)>,
}

impl Links {
    pub(super) fn link_mut(&mut self, from: HostId, to: HostId) -> &mut Link {
        self.links.entry((from, to)).or_default()
    }

    pub(super) fn link(&self, from: HostId, to: HostId) -> Link {
        self.links.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Only hosts of one side reach each other, and those of the sides in `open` in that direction.
    pub(super) fn split(&mut self, sides: Vec<u32>, open: Vec<(u32, u32)>) {
        (self.sides, self.open) = (sides, open);
    }

    /// The partition is over. Links keep their troubles.
    pub(super) fn join(&mut self) {
        self.split(Vec::new(), Vec::new());
    }

    /// No link has any trouble left, and there is no partition.
    pub(super) fn repair(&mut self) {
        *self = Self::default();
    }

    /// Whether anything passes in this direction.
    pub(super) fn passes(&self, from: HostId, to: HostId, now: Duration) -> bool {
        let side = |host: HostId| self.sides.get(host).copied().unwrap_or(0);
        let (a, b) = (side(from), side(to));
        (a == b || self.open.contains(&(a, b))) && self.link(from, to).cut_until <= now
    }

    /// Whether a connection can be opened: both directions are needed.
    pub(super) fn connects(&self, from: HostId, to: HostId, now: Duration) -> bool {
        self.passes(from, to, now) && self.passes(to, from, now)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn delays_keep_their_bounds_and_their_mean() {
        let faults = Faults {
            latency_min: Duration::from_millis(10),
            latency_mean: Duration::from_millis(30),
            latency_max: Duration::from_secs(1),
            ..Faults::default()
        };
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let delays: Vec<Duration> = (0..10_000).map(|_| faults.delay(&mut rng)).collect();
        let mean = delays.iter().sum::<Duration>() / 10_000;
        assert!(delays.iter().all(|delay| *delay >= faults.latency_min));
        assert!(delays.iter().all(|delay| *delay <= faults.latency_max));
        let expected = Duration::from_millis(29)..Duration::from_millis(31);
        assert!(expected.contains(&mean), "{mean:?}");
    }

    #[test]
    fn an_asymmetric_partition_passes_one_way() {
        let mut links = Links::default();
        links.split(vec![0, 1, 1], vec![(0, 1)]);
        let now = Duration::ZERO;
        assert!(links.passes(0, 1, now) && !links.passes(1, 0, now));
        assert!(!links.connects(0, 1, now) && links.connects(1, 2, now));
        links.join();
        links.link_mut(0, 1).cut_until = Duration::from_secs(1);
        assert!(!links.passes(0, 1, now) && links.passes(1, 0, now));
        assert!(links.passes(0, 1, Duration::from_secs(1)));
    }
}
