//! Which endpoint gets the next connection or request. Pure: the caller passes the time.
//!
//! Turns are given as often as weights say. Connections go to those with less than their share of the open
//! ones. A request goes to the endpoint whose turn it is, or to the one after it when that has far less to do:
//! of two choices the better one, by requests in flight and latency.
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
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::upstream::Upstream;

/// How long an endpoint is asked last after its first failure; doubles with each failed trial.
pub(super) const PENALTY_MIN: Duration = Duration::from_secs(1);
/// The longest an endpoint is asked last before it is tried again.
pub(super) const PENALTY_MAX: Duration = Duration::from_secs(10);

/// How many times dearer the endpoint whose turn it is must be for the next to be preferred.
const MUCH_DEARER: f64 = 2.0;

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
    endpoint: Arc<Upstream>,
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

/// What a pool tells of one endpoint.
#[derive(Debug)]
pub(super) struct View {
    pub(super) endpoint: Arc<Upstream>,
    pub(super) avoided: bool,
}

/// The choice of an endpoint for one connection; it counts as open until this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    endpoint: Arc<Upstream>,
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
        drop(inner);
        for gone in old {
            gone.endpoint.retire();
        }
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
        // Counts change meanwhile: what is decided by is looked at once.
        let open: Vec<u64> = untried
            .iter()
            .map(|&at| inner.entries[at].endpoint.open.load(Relaxed))
            .collect();
        let (mut connections, mut weights) = (1, 0);
        for (&at, open) in untried.iter().zip(&open) {
            if inner.entries[at].avoided_until(now).is_none() {
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
                (entry.avoided_until(now), open >= share, entry.progress)
            })?;
        Some(inner.lease(at, untried.len() == 1, now))
    }

    /// Chooses an endpoint for a request that is not among `tried`; `None` when there is no other.
    pub(super) fn pick_for_request(&self, tried: &[SocketAddr], now: Instant) -> Option<Lease> {
        let mut inner = self.lock();
        let (mut first, mut second) = (None, None);
        let mut untried = 0;
        let count = inner.entries.len();
        let start = inner.next;
        for at in (0..count).map(|step| (start + step) % count) {
            let entry = &inner.entries[at];
            if tried.contains(&entry.endpoint.address) {
                continue;
            }
            untried += 1;
            let key = (entry.avoided_until(now), entry.progress);
            // The first of equals wins, so equals take turns.
            if first.is_none_or(|(_, best)| key < best) {
                second = first.replace((at, key));
            } else if second.is_none_or(|(_, best)| key < best) {
                second = Some((at, key));
            }
        }
        let (mut at, (avoided, _)) = first?;
        if let Some((next, (None, _))) = second
            && avoided.is_none()
            && inner.is_much_dearer(at, next, now)
        {
            at = next;
        }
        Some(inner.lease(at, untried == 1, now))
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
        entry.endpoint.ejections.fetch_add(1, Relaxed);
    }

    /// Closes kept connections that are of no more use.
    pub(super) fn sweep(&self, now: Instant) {
        let upstreams: Vec<Arc<Upstream>> = {
            let inner = self.lock();
            inner.entries.iter().map(|it| it.endpoint.clone()).collect()
        };
        for upstream in upstreams {
            upstream.sweep_idle(now);
        }
    }

    /// All endpoints, ordered by address.
    pub(super) fn view(&self, now: Instant) -> Vec<View> {
        let view = |entry: &Entry| View {
            endpoint: entry.endpoint.clone(),
            avoided: entry.avoided_until(now).is_some(),
        };
        self.lock().entries.iter().map(view).collect()
    }
}

impl Inner {
    /// Gives the turn to the entry at `at`.
    fn lease(&mut self, at: usize, last: bool, now: Instant) -> Lease {
        self.next = at + 1;
        let reached = self.entries[at].progress.max(self.progress);
        self.progress = reached;
        let entry = &mut self.entries[at];
        entry.progress = reached + STRIDE / u64::from(entry.weight);
        let mut trial = false;
        if let Some(penalty) = &mut entry.penalty
            && penalty.until <= now
        {
            penalty.until = now + penalty.length;
            trial = true;
        }
        entry.endpoint.open.fetch_add(1, Relaxed);
        Lease {
            endpoint: entry.endpoint.clone(),
            trial,
            last,
        }
    }

    fn is_much_dearer(&self, one: usize, other: usize, now: Instant) -> bool {
        let (one, other) = (&self.entries[one], &self.entries[other]);
        let heaviest = f64::from(one.weight.max(other.weight));
        let cost = |it: &Entry| it.endpoint.cost(f64::from(it.weight) / heaviest, now);
        cost(one) > MUCH_DEARER * cost(other)
    }

    /// The entry of a lease, unless it was removed (and perhaps added anew) since.
    fn entry(&mut self, lease: &Lease) -> Option<&mut Entry> {
        self.entries
            .iter_mut()
            .find(|entry| Arc::ptr_eq(&entry.endpoint, &lease.endpoint))
    }
}

impl Entry {
    fn new(address: SocketAddr, progress: u64) -> Self {
        Self {
            endpoint: Arc::new(Upstream::new(address)),
            weight: 1,
            progress,
            penalty: None,
        }
    }

    /// Until when it is asked last, if it is.
    fn avoided_until(&self, now: Instant) -> Option<Instant> {
        let until = self.penalty.map(|penalty| penalty.until);
        until.filter(|until| *until > now)
    }
}

impl Lease {
    pub(super) fn upstream(&self) -> &Arc<Upstream> {
        &self.endpoint
    }

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

    fn answered(pool: &Pool, times: usize, now: Instant) -> Vec<u16> {
        let pick = |_| pool.pick_for_request(&[], now).unwrap().address().port();
        (0..times).map(pick).collect()
    }

    #[test]
    fn requests_take_turns_as_weights_say_while_all_are_alike() {
        let pool = Pool::default();
        pool.replace(&[(address(1), 10), (address(2), 30)].into());
        let now = Instant::now();
        let chosen = answered(&pool, 80, now);
        assert_eq!(chosen.iter().filter(|port| **port == 1).count(), 20);
    }

    #[test]
    fn of_two_choices_the_far_less_loaded_gets_the_request() {
        let pool = pool(&[1, 2, 3]);
        let now = Instant::now();
        let held = pool.pick_for_request(&[], now).unwrap();
        assert_eq!(held.address().port(), 1);
        let also = pool
            .pick_for_request(&[address(2), address(3)], now)
            .unwrap();
        // Two in flight make it three times as dear as an idle one.
        assert_eq!(answered(&pool, 4, now), [2, 3, 2, 3]);
        drop((held, also));
        let again = answered(&pool, 3, now);
        assert!(again.contains(&1), "{again:?}");
    }

    #[test]
    fn a_slow_endpoint_gets_little_until_its_slowness_is_old() {
        let pool = pool(&[1, 2]);
        let start = Instant::now();
        let slow = pool.pick_for_request(&[], start).unwrap();
        slow.upstream()
            .answered(200, Duration::from_millis(500), start);
        drop(slow);
        assert_eq!(answered(&pool, 4, start), [2; 4]);
        let later = start + Duration::from_secs(60);
        assert!(answered(&pool, 2, later).contains(&1));
    }

    #[test]
    fn a_failed_endpoint_gets_no_request_while_there_is_another() {
        let pool = pool(&[1, 2]);
        let now = Instant::now();
        let lease = pool.pick_for_request(&[], now).unwrap();
        pool.failed(&lease, now);
        assert_eq!(lease.upstream().ejections.load(Relaxed), 1);
        assert_eq!(answered(&pool, 3, now), [2; 3]);
        assert_eq!(answered(&pool, 2, now + PENALTY_MIN).len(), 2);
        let last = pool.pick_for_request(&[address(2)], now).unwrap();
        assert!(last.is_last() && last.address().port() == 1);
        assert!(
            pool.pick_for_request(&[address(1), address(2)], now)
                .is_none()
        );
    }

    #[test]
    fn who_leaves_the_pool_is_retired() {
        let pool = pool(&[1, 2]);
        let now = Instant::now();
        let lease = pool.pick_for_request(&[], now).unwrap();
        pool.replace(&equal(&[2]));
        assert!(lease.upstream().is_retired());
        assert!(pool.view(now).iter().all(|it| !it.endpoint.is_retired()));
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
