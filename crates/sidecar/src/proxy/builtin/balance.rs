//! Which endpoint gets the next connection: those with less than their share of the open ones take turns,
//! as often as their weights say. Pure: the caller passes the time.
//!
//! An endpoint that could not be reached is asked last for a while (see [`PENALTY_MIN`]). When the
//! while is over a single connection tries it; the others wait for its outcome, so a host that
//! swallows packets delays one client per trial and not all of them.
//!
//! This is passive and local: health is decided by the owner's checks, which take an endpoint out
//! of the routes. The penalty only bridges the time until they do.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// How long an endpoint is asked last after its first failure; doubles with each failed trial.
pub(super) const PENALTY_MIN: Duration = Duration::from_secs(1);
/// The longest an endpoint is asked last before it is tried again.
pub(super) const PENALTY_MAX: Duration = Duration::from_secs(10);

/// What a choice costs an endpoint of weight 1; larger than any weight, so that shares are exact.
const STRIDE: u64 = 1 << 20;

/// The endpoints of one route, with what is known of them.
#[derive(Debug, Default)]
pub(super) struct Pool {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Vec<Entry>,
    /// Where the search starts: behind the endpoint chosen last.
    next: usize,
    /// How far the endpoint chosen last had come; who is new or was away begins there.
    progress: u64,
}

#[derive(Debug)]
struct Entry {
    endpoint: Arc<Counters>,
    weight: u8,
    /// Grows by [`STRIDE`] over the weight with each choice: equal for endpoints that had their share.
    progress: u64,
    penalty: Option<Penalty>,
}

#[derive(Debug, Clone, Copy)]
struct Penalty {
    until: Instant,
    length: Duration,
}

/// What is counted of one endpoint; outlives its place in the pool while connections last.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) address: SocketAddr,
    pub(super) open: AtomicU64,
    pub(super) total: AtomicU64,
    pub(super) failures: AtomicU64,
}

/// What a pool tells of one endpoint.
#[derive(Debug)]
pub(super) struct View {
    pub(super) endpoint: Arc<Counters>,
    pub(super) avoided: bool,
}

/// The choice of an endpoint for one connection; it counts as open until this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    endpoint: Arc<Counters>,
    /// Whether this is the one connection that finds out if a penalty still holds.
    trial: bool,
    /// Whether the pool had no other endpoint left to offer.
    last: bool,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is a few assignments that cannot panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the endpoints; what is known of those that stay is kept.
    pub(super) fn replace(&self, weights: &BTreeMap<SocketAddr, u8>) {
        let mut inner = self.lock();
        let progress = inner.progress;
        let mut old = std::mem::take(&mut inner.entries);
        inner.entries = weights
            .iter()
            .map(|(&address, &weight)| {
                let known = old
                    .iter()
                    .position(|entry| entry.endpoint.address == address);
                let entry = known.map(|at| old.swap_remove(at));
                let mut entry = entry.unwrap_or_else(|| Entry::new(address, progress));
                if entry.weight != weight.max(1) {
                    entry.weight = weight.max(1);
                    // What it had by its former weight counts for nothing.
                    entry.progress = progress;
                }
                entry
            })
            .collect();
    }

    /// Chooses an endpoint that is not among `tried`; `None` when there is no other.
    pub(super) fn pick(&self, tried: &[SocketAddr], now: Instant) -> Option<Lease> {
        let mut inner = self.lock();
        let count = inner.entries.len();
        let start = inner.next;
        let candidates = (0..count).map(|step| (start + step) % count);
        let untried: Vec<usize> = candidates
            .filter(|&at| !tried.contains(&inner.entries[at].endpoint.address))
            .collect();
        let avoided = |entry: &Entry| {
            let until = entry.penalty.map(|penalty| penalty.until);
            until.filter(|until| *until > now)
        };
        // Counts change meanwhile: what is decided by is looked at once.
        let open: Vec<u64> = untried
            .iter()
            .map(|&at| inner.entries[at].endpoint.open.load(Relaxed))
            .collect();
        let (mut connections, mut weights) = (1, 0);
        for (&at, open) in untried.iter().zip(&open) {
            if avoided(&inner.entries[at]).is_none() {
                connections += open;
                weights += u64::from(inner.entries[at].weight);
            }
        }
        // The first of equals wins, so equals take turns.
        let (_, at) = open
            .iter()
            .zip(untried.iter().copied())
            .min_by_key(|&(&open, at)| {
                let entry = &inner.entries[at];
                // Of all connections, that to come included, rounded up: somebody always has less.
                let share = (connections * u64::from(entry.weight)).div_ceil(weights.max(1));
                (avoided(entry), open >= share, entry.progress)
            })?;
        inner.next = at + 1;
        let reached = inner.entries[at].progress.max(inner.progress);
        inner.progress = reached;
        let entry = &mut inner.entries[at];
        entry.progress = reached + STRIDE / u64::from(entry.weight);
        let mut trial = false;
        if let Some(penalty) = &mut entry.penalty
            && penalty.until <= now
        {
            penalty.until = now + penalty.length;
            trial = true;
        }
        entry.endpoint.open.fetch_add(1, Relaxed);
        Some(Lease {
            endpoint: entry.endpoint.clone(),
            trial,
            last: untried.len() == 1,
        })
    }

    /// The endpoint answered.
    pub(super) fn reached(&self, lease: &Lease) {
        lease.endpoint.total.fetch_add(1, Relaxed);
        if let Some(entry) = self.lock().entry(lease) {
            entry.penalty = None;
        }
    }

    /// The endpoint refused or did not answer in time.
    pub(super) fn failed(&self, lease: &Lease, now: Instant) {
        lease.endpoint.failures.fetch_add(1, Relaxed);
        let mut inner = self.lock();
        let Some(entry) = inner.entry(lease) else {
            return;
        };
        let length = match entry.penalty {
            None => PENALTY_MIN,
            Some(penalty) if lease.trial => (penalty.length * 2).min(PENALTY_MAX),
            // One of many that failed together, or one sent here because nothing else was left.
            Some(_) => return,
        };
        entry.penalty = Some(Penalty {
            until: now + length,
            length,
        });
    }

    /// All endpoints, ordered by address.
    pub(super) fn view(&self, now: Instant) -> Vec<View> {
        let view = |entry: &Entry| View {
            endpoint: entry.endpoint.clone(),
            avoided: entry.penalty.is_some_and(|penalty| penalty.until > now),
        };
        self.lock().entries.iter().map(view).collect()
    }
}

impl Inner {
    /// The entry of a lease, unless it was removed (and perhaps added anew) since.
    fn entry(&mut self, lease: &Lease) -> Option<&mut Entry> {
        self.entries
            .iter_mut()
            .find(|entry| Arc::ptr_eq(&entry.endpoint, &lease.endpoint))
    }
}

impl Entry {
    fn new(address: SocketAddr, progress: u64) -> Self {
        let endpoint = Counters {
            address,
            open: AtomicU64::new(0),
            total: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        };
        Self {
            endpoint: Arc::new(endpoint),
            weight: 1,
            progress,
            penalty: None,
        }
    }
}

impl Lease {
    pub(super) fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// Whether there is nothing else to turn to when this fails.
    pub(super) fn is_last(&self) -> bool {
        self.last
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn equal(ports: &[u16]) -> BTreeMap<SocketAddr, u8> {
        ports.iter().map(|&port| (address(port), 100)).collect()
    }

    fn pool(ports: &[u16]) -> Pool {
        let pool = Pool::default();
        pool.replace(&equal(ports));
        pool
    }

    fn picked(pool: &Pool, now: Instant) -> u16 {
        pool.pick(&[], now).unwrap().address().port()
    }

    #[test]
    fn connections_one_after_the_other_take_turns() {
        let pool = pool(&[1, 2, 3]);
        let now = Instant::now();
        let order: Vec<u16> = (0..7).map(|_| picked(&pool, now)).collect();
        assert_eq!(order, [1, 2, 3, 1, 2, 3, 1]);
    }

    #[test]
    fn fewest_open_connections_come_first() {
        let pool = pool(&[1, 2]);
        let now = Instant::now();
        let first = pool.pick(&[], now).unwrap();
        let order: Vec<u16> = (0..3).map(|_| picked(&pool, now)).collect();
        assert_eq!(order, [2, 2, 2], "while {first:?} lasts");
        drop(first);
        assert_eq!(picked(&pool, now), 1);
    }

    #[test]
    fn weights_are_shares_of_connections_one_by_one_and_of_those_that_stay() {
        let pool = Pool::default();
        pool.replace(&[(address(1), 10), (address(2), 30)].into());
        let now = Instant::now();
        let chosen: Vec<u16> = (0..80).map(|_| picked(&pool, now)).collect();
        assert_eq!(chosen.iter().filter(|port| **port == 1).count(), 20);
        let held: Vec<Lease> = (0..80).map(|_| pool.pick(&[], now).unwrap()).collect();
        let first = |lease: &&Lease| lease.address().port() == 1;
        assert_eq!(held.iter().filter(first).count(), 20);
        drop(held);
        // Another weight counts at once, and nobody has to catch up.
        pool.replace(&[(address(1), 100), (address(2), 100), (address(3), 100)].into());
        let order: Vec<u16> = (0..30).map(|_| picked(&pool, now)).collect();
        for port in 1..=3 {
            let times = order.iter().filter(|it| **it == port).count();
            assert!((9..=11).contains(&times), "{port}: {order:?}");
        }
    }

    #[test]
    fn every_endpoint_is_offered_once_to_one_connection() {
        let pool = pool(&[1, 2]);
        let now = Instant::now();
        assert!(pool.pick(&[address(1), address(2)], now).is_none());
        assert!(!pool.pick(&[], now).unwrap().is_last());
        let last = pool.pick(&[address(1)], now).unwrap();
        assert!(last.is_last() && last.address().port() == 2);
    }

    #[test]
    fn failed_endpoint_comes_last_but_still_comes() {
        let pool = pool(&[1, 2]);
        let now = Instant::now();
        pool.failed(&pool.pick(&[], now).unwrap(), now);
        let order: Vec<u16> = (0..3).map(|_| picked(&pool, now)).collect();
        assert_eq!(order, [2, 2, 2]);
        assert_eq!(pool.pick(&[address(2)], now).unwrap().address().port(), 1);
    }

    #[test]
    fn one_connection_tries_whether_a_failure_is_over() {
        let pool = pool(&[1, 2]);
        let start = Instant::now();
        pool.failed(&pool.pick(&[], start).unwrap(), start);
        let busy = pool.pick(&[], start).unwrap();

        let later = start + PENALTY_MIN;
        let trial = pool.pick(&[], later).unwrap();
        assert_eq!((trial.address().port(), busy.address().port()), (1, 2));
        assert_eq!(picked(&pool, later), 2, "the trial is out");
        pool.reached(&trial);
        assert_eq!(
            picked(&pool, later),
            1,
            "it succeeded; equally loaded, it is its turn"
        );
    }

    #[test]
    fn failed_trials_double_the_penalty_up_to_its_limit() {
        let pool = pool(&[1]);
        let mut now = Instant::now();
        pool.failed(&pool.pick(&[], now).unwrap(), now);
        for seconds in [1, 2, 4, 8, 10, 10] {
            let length = Duration::from_secs(seconds);
            assert!(
                pool.view(now + length - Duration::from_millis(1))[0].avoided,
                "{seconds}"
            );
            now += length;
            assert!(!pool.view(now)[0].avoided, "{seconds}");
            pool.failed(&pool.pick(&[], now).unwrap(), now);
        }
    }

    #[test]
    fn connections_that_fail_together_count_as_one_failure() {
        let pool = pool(&[1]);
        let now = Instant::now();
        let leases: Vec<Lease> = (0..9).map(|_| pool.pick(&[], now).unwrap()).collect();
        for lease in &leases {
            pool.failed(lease, now);
        }
        assert!(!pool.view(now + PENALTY_MIN)[0].avoided);
    }

    #[test]
    fn what_stays_keeps_its_counts_and_what_goes_is_never_chosen() {
        let pool = pool(&[1, 2]);
        let now = Instant::now();
        let (first, second) = (pool.pick(&[], now).unwrap(), pool.pick(&[], now).unwrap());
        pool.replace(&equal(&[2, 3]));
        assert_eq!(picked(&pool, now), 3, "2 has a connection");
        drop(second);
        pool.failed(&first, now);
        let seen: std::collections::BTreeSet<u16> = (0..4).map(|_| picked(&pool, now)).collect();
        assert_eq!(seen, [2, 3].into());
        pool.replace(&BTreeMap::new());
        assert!(pool.pick(&[], now).is_none());
    }
}
