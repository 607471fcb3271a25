//! For simulations alone: replicas that run in one process and came to know the same keep it once.
//!
//! Clones share by themselves what they have in common, but two that hear the same record put it
//! into two equal copies of its host. A pool remembers a few versions of everything, by which equal
//! copies become one again. What readers see stays the same, except that a host's `last_changed`
//! becomes that of whoever came first: it depends on the order in which records came.

use std::{collections::BTreeMap, sync::Arc};

use rpds::RedBlackTreeMapSync;

use super::State;
use crate::{Digest, HostRecords, Upkeep};

/// Versions of one thing that a pool remembers: those of the replicas that are up to date and of
/// some that lag behind.
const VERSIONS_MAX: usize = 8;

/// See the module documentation. Remembers at most eight versions of each host, and of the cluster.
#[derive(Debug, Default)]
pub struct Pool {
    hosts: BTreeMap<Arc<str>, Vec<Arc<HostRecords>>>,
    clusters: Vec<RedBlackTreeMapSync<Arc<str>, Arc<HostRecords>>>,
    members: Vec<RedBlackTreeMapSync<Arc<str>, Upkeep>>,
    digests: Vec<Arc<Digest>>,
}

impl Pool {
    /// Drops what no state holds any more.
    pub fn prune(&mut self) {
        self.clusters.clear();
        self.members.clear();
        self.digests.clear();
        self.hosts.retain(|_, versions| {
            versions.retain(|version| Arc::strong_count(version) > 1);
            !versions.is_empty()
        });
    }

    /// The pooled copy of this host's records, which is `ours` when there was none.
    fn host(&mut self, ours: &Arc<HostRecords>) -> Arc<HostRecords> {
        let versions = self.hosts.entry(ours.name.clone()).or_default();
        pooled(versions, ours, says_the_same)
    }
}

impl State {
    /// Keeps what is known of one host in common with all states that shared the same with this
    /// pool.
    pub fn share(&mut self, hostname: &str, pool: &mut Pool) {
        let Some(ours) = self.view.hosts.get(hostname) else {
            return;
        };
        let shared = pool.host(ours);
        if !Arc::ptr_eq(ours, &shared) {
            self.view.hosts.insert_mut(shared.name.clone(), shared);
        }
    }

    /// The same for everything known. Walks over all hosts, unless all are shared already.
    pub fn share_all(&mut self, pool: &mut Pool) {
        let mut clusters = pool.clusters.iter();
        if !clusters.any(|cluster| cluster.ptr_eq(&self.view.hosts)) {
            for name in self.view.hosts.clone().keys() {
                self.share(name, pool);
            }
        }
        let view = &mut self.view;
        view.hosts = pooled(&mut pool.clusters, &view.hosts, |one, other| {
            let mut pairs = one.values().zip(other.values());
            // Equal hosts are one by now, and different ones are different.
            one.size() == other.size() && pairs.all(|(one, other)| Arc::ptr_eq(one, other))
        });
        view.members = pooled(&mut pool.members, &view.members, PartialEq::eq);
        view.digest = pooled(&mut pool.digests, &view.digest, PartialEq::eq);
    }
}

/// The version that says the same as `ours`, the newest first, or `ours`, which is remembered then.
fn pooled<T: Clone>(versions: &mut Vec<T>, ours: &T, same: impl Fn(&T, &T) -> bool) -> T {
    if let Some(shared) = versions.iter().rev().find(|version| same(version, ours)) {
        return shared.clone();
    }
    if versions.len() == VERSIONS_MAX {
        versions.remove(0);
    }
    versions.push(ours.clone());
    ours.clone()
}

fn says_the_same(one: &Arc<HostRecords>, other: &Arc<HostRecords>) -> bool {
    Arc::ptr_eq(one, other)
        || (one.name == other.name
            && one.last_updated == other.last_updated
            && one.held == other.held)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{Author, Now, Service, Status, Timestamp, service::tests::service};

    fn now() -> Now {
        Now {
            wall: Timestamp::EPOCH,
            monotonic: Instant::now(),
        }
    }

    fn record(host: &str, updated: i128) -> Service {
        service(host, "1", updated, Status::Alive)
    }

    /// A state that heard all by itself, in this order.
    fn knowing(records: &[Service]) -> State {
        let mut state = State::new("me", "c");
        for host in ["a", "b"] {
            state.member_up(host, Upkeep::Membership, now());
        }
        for record in records {
            state.apply(record.clone(), Author::Own, now()).unwrap();
        }
        state
    }

    fn host<'a>(state: &'a State, name: &str) -> &'a Arc<HostRecords> {
        state.view.hosts.get(name).unwrap()
    }

    #[test]
    fn what_replicas_learned_one_by_one_is_kept_once() {
        let mut pool = Pool::default();
        let mut one = knowing(&[record("a", 5), record("b", 6)]);
        let mut other = knowing(&[record("b", 6), record("a", 5)]);
        one.share("a", &mut pool);
        other.share("a", &mut pool);
        other.share("unheard of", &mut pool);
        assert!(Arc::ptr_eq(host(&one, "a"), host(&other, "a")));
        assert!(!Arc::ptr_eq(host(&one, "b"), host(&other, "b")));
        let mut behind = knowing(&[record("a", 5)]);
        behind.share_all(&mut pool);
        one.share_all(&mut pool);
        assert_eq!((behind.view.hosts.size(), one.view.hosts.size()), (1, 2));
        other.share_all(&mut pool);
        assert!(one.view.hosts.ptr_eq(&other.view.hosts));
        assert!(one.view.members.ptr_eq(&other.view.members));
        assert!(Arc::ptr_eq(&one.view.digest, &other.view.digest));
    }

    #[test]
    fn different_knowledge_stays_different() {
        let mut pool = Pool::default();
        let mut one = knowing(&[record("a", 5), record("b", 6)]);
        let mut other = knowing(&[record("a", 7), record("b", 6)]);
        let mut third = knowing(&[record("a", 5), record("b", 6)]);
        third.member_down("a", now());
        for state in [&mut one, &mut other, &mut third] {
            state.share_all(&mut pool);
        }
        assert!(Arc::ptr_eq(host(&one, "b"), host(&other, "b")));
        assert!(Arc::ptr_eq(host(&one, "b"), host(&third, "b")));
        assert_eq!(other.record("a", "1").unwrap().updated.as_unix_nanos(), 7);
        let status = |state: &State| state.snapshot().service("a", "1").unwrap().status;
        assert_eq!(status(&third), Status::Tombstone);
        assert_eq!(status(&one), Status::Alive);
        assert_ne!(one.view.digest, other.view.digest);
        assert_eq!(third.view.members.size(), 1);
        // What is shared is still changed by each for itself.
        one.apply(record("b", 8), Author::Own, now()).unwrap();
        assert_eq!(other.record("b", "1").unwrap().updated.as_unix_nanos(), 6);
    }

    #[test]
    fn a_pool_stays_small_and_lets_go() {
        let mut pool = Pool::default();
        let mut states: Vec<State> = (0..20)
            .map(|updated| knowing(&[record("a", updated)]))
            .collect();
        for state in &mut states {
            state.share_all(&mut pool);
        }
        assert_eq!(pool.hosts["a"].len(), VERSIONS_MAX);
        assert_eq!(pool.clusters.len(), VERSIONS_MAX);
        states.truncate(13);
        pool.prune();
        assert_eq!(pool.hosts["a"].len(), 1, "the one of the thirteenth");
        drop(states);
        pool.prune();
        assert!(pool.hosts.is_empty());
    }
}
