//! One endpoint as the proxy knows it: what is counted of it, how fast it answers, and the connections to it
//! that are kept. Outlives its place in the pool while connections last.

use std::{
    net::SocketAddr,
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::{Duration, Instant},
};

use super::{
    figures::RequestFigures,
    http::{h1::link::WaitingLinks, h2::SharedLink, link::IdleLinks},
};

/// Latencies below this are taken for equal: a single answer that a busy machine delays must not move traffic.
const LATENCY_FLOOR_MICROS: u64 = 20_000;
/// One sample moves the average by an eighth of its distance.
const LATENCY_WEIGHT: u64 = 8;
/// What is known of a latency counts half after this time without a sample, so that who was slow is tried.
const LATENCY_HALF_LIFE: Duration = Duration::from_secs(2);

/// One endpoint.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    /// Connections in tcp mode, requests in flight in the others, those that look for it included.
    pub(super) open: AtomicU64,
    pub(super) total: AtomicU64,
    pub(super) failures: AtomicU64,
    /// How often it was put last because it could not be reached.
    pub(super) ejections: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    pub(super) received_bytes: AtomicU64,
    pub(super) requests: RequestFigures,
    /// Connections that wait for a request, of clients that speak HTTP/1.1 and of those that speak HTTP/2.
    pub(super) waiting: WaitingLinks,
    pub(super) idle: IdleLinks,
    pub(super) h2: SharedLink,
    latency: Latency,
    retired: AtomicBool,
}

impl Upstream {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            open: AtomicU64::new(0),
            total: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            requests: RequestFigures::default(),
            waiting: WaitingLinks::default(),
            idle: IdleLinks::default(),
            h2: SharedLink::default(),
            latency: Latency::new(Instant::now()),
            retired: AtomicBool::new(false),
        }
    }

    /// It gets no more requests: what waits for some is closed, what serves one ends with it.
    pub(super) fn retire(&self) {
        self.retired.store(true, Release);
        self.forget_idle();
        self.h2.close();
    }

    /// Closes what waits for a request.
    pub(super) fn forget_idle(&self) {
        self.waiting.clear();
        self.idle.clear();
    }

    /// Closes what waits and has been closed by the endpoint, or has waited long.
    pub(super) fn sweep_idle(&self, now: Instant) {
        self.waiting.sweep(now);
        self.idle.sweep(now);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Acquire)
    }

    /// An answer's head came.
    pub(super) fn answered(&self, status: u16, after: Duration, now: Instant) {
        self.requests.answered(status, after);
        self.latency.learn(after, now);
    }

    /// What the next request may expect here beside another with this weight relative to the heaviest: its
    /// latency, as often as there are requests before it.
    pub(super) fn cost(&self, relative_weight: f64, now: Instant) -> f64 {
        let waiting = self.open.load(Relaxed) as f64 / relative_weight;
        (waiting + 1.0) * self.latency.micros(now) as f64
    }
}

/// A moving average that fades.
#[derive(Debug)]
struct Latency {
    start: Instant,
    micros: AtomicU64,
    /// When the last sample came, in milliseconds after the start.
    learned_millis: AtomicU64,
}

impl Latency {
    fn new(start: Instant) -> Self {
        Self {
            start,
            micros: AtomicU64::new(LATENCY_FLOOR_MICROS),
            learned_millis: AtomicU64::new(0),
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Samples that come together may overwrite each other: an average does not mind.
    fn learn(&self, sample: Duration, now: Instant) {
        let sample = u64::try_from(sample.as_micros()).unwrap_or(u64::MAX);
        let known = self.micros.load(Relaxed);
        let average = known - known / LATENCY_WEIGHT + sample / LATENCY_WEIGHT;
        self.micros.store(average, Relaxed);
        self.learned_millis.store(self.millis(now), Relaxed);
    }

    fn micros(&self, now: Instant) -> u64 {
        let age = self
            .millis(now)
            .saturating_sub(self.learned_millis.load(Relaxed));
        let halvings = u128::from(age) / LATENCY_HALF_LIFE.as_millis();
        let faded = self.micros.load(Relaxed) >> halvings.min(63);
        faded.max(LATENCY_FLOOR_MICROS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_is_learned_and_fades() {
        let start = Instant::now();
        let latency = Latency::new(start);
        assert_eq!(latency.micros(start), LATENCY_FLOOR_MICROS);
        latency.learn(Duration::from_millis(160), start);
        assert_eq!(latency.micros(start), 37_500, "an eighth of the way");
        for _ in 0..100 {
            latency.learn(Duration::from_millis(160), start);
        }
        let learned = latency.micros(start);
        assert!((159_900..=160_000).contains(&learned), "{learned}");
        assert_eq!(latency.micros(start + LATENCY_HALF_LIFE), learned / 2);
        let later = start + Duration::from_secs(3600);
        assert_eq!(latency.micros(later), LATENCY_FLOOR_MICROS);
    }

    #[test]
    fn requests_in_flight_make_an_endpoint_dear_by_their_share_of_its_weight() {
        let now = Instant::now();
        let upstream = Upstream::new(([127, 0, 0, 1], 1).into());
        let idle = upstream.cost(1.0, now);
        upstream.open.store(4, Relaxed);
        assert_eq!(upstream.cost(1.0, now), idle * 5.0);
        assert_eq!(upstream.cost(0.5, now), idle * 9.0);
    }
}
