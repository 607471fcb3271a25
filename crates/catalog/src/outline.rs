//! What is held of each host, in one number a host: how two who differ in much find out which hosts'
//! records to exchange.
//!
//! Unlike the digest it does not depend on who is thought to be alive: hosts that were parted and
//! took each other for dead still hold each other's records, and need not send them.

use std::collections::HashMap;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::{HostRecords, Service, Snapshot, Upkeep, digest::Identity};

/// Bytes of a host in an encoded outline.
pub const OUTLINE_HOST_BYTES: usize = 16;

/// In the root of a host: whether its records count with their stamps.
const STAMPED: u64 = 1;
/// In the root of a host: whether it is thought to be dead.
const DOWN: u64 = 2;
const FLAGS: u64 = STAMPED | DOWN;

/// Summaries of a host's live records as it wrote them, whatever is thought of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Roots {
    stamped: u64,
    /// For hosts whose stamps change with every refresh.
    unstamped: u64,
}

impl Roots {
    /// Replaces what an instance said before by what it says now.
    pub(crate) fn replace(
        &mut self,
        identity: Identity,
        before: Option<&Service>,
        now: Option<&Service>,
    ) {
        for record in before.into_iter().chain(now) {
            if !record.is_tombstone() {
                self.stamped ^= identity.saying(record.status, Some(record.updated));
                self.unstamped ^= identity.saying(record.status, None);
            }
        }
    }

    fn of_kind(self, flags: u64) -> u64 {
        let root = if flags & STAMPED == 0 {
            self.unstamped
        } else {
            self.stamped
        };
        root & !FLAGS
    }
}

/// Identifies a host in an outline, the same in all versions and on all machines.
fn number(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

/// See the module documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// By number of the host: its root with flags.
    hosts: HashMap<u64, u64>,
}

impl Outline {
    /// Hosts in it.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Number and root of each host, little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut hosts: Vec<_> = self.hosts.iter().collect();
        hosts.sort_unstable();
        let hosts = hosts.into_iter();
        hosts
            .flat_map(|(host, root)| [host.to_le_bytes(), root.to_le_bytes()])
            .flatten()
            .collect()
    }

    /// `None` when the last host is cut off.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (hosts, rest) = bytes.as_chunks::<OUTLINE_HOST_BYTES>();
        let word = |bytes: &[u8]| {
            bytes
                .first_chunk()
                .map_or(0, |word| u64::from_le_bytes(*word))
        };
        let hosts = hosts.iter().map(|host| (word(host), word(&host[8..])));
        rest.is_empty().then(|| Self {
            hosts: hosts.collect(),
        })
    }
}

/// What follows from comparing an outline with what is held here.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Live records the other side lacks or has in another version.
    pub offered: Vec<Arc<Service>>,
    /// Hosts, by number, of which the other side holds something else or more.
    pub wanted: Vec<u64>,
}

impl Snapshot {
    /// What is held of each host.
    pub fn outline(&self) -> Outline {
        let hosts = self.hosts.values().filter_map(|host| {
            let root = host.roots.of_kind(0) | host.roots.of_kind(STAMPED);
            (root != 0).then(|| {
                let flags = self.flags(host);
                (number(&host.name), host.roots.of_kind(flags) | flags)
            })
        });
        Outline {
            hosts: hosts.collect(),
        }
    }

    fn flags(&self, host: &HostRecords) -> u64 {
        match self.members.get(&*host.name) {
            Some(Upkeep::Membership) => STAMPED,
            Some(Upkeep::Refresh) => 0,
            // Under a name that is no member's, or of a member that is gone.
            None if host.live().next().is_some() => 0,
            None => DOWN | STAMPED,
        }
    }

    /// What to send to whoever has this outline, and what to ask for. Of hosts that are thought to be
    /// dead nothing is sent and nothing is wanted.
    pub fn compare(&self, theirs: &Outline) -> Comparison {
        let mut comparison = Comparison::default();
        let mut unseen = theirs.hosts.clone();
        for host in self.hosts.values() {
            let number = number(&host.name);
            let their_root = unseen.remove(&number);
            if let Some(root) = their_root {
                if host.roots.of_kind(root) == root & !FLAGS {
                    continue;
                }
                if root & DOWN == 0 {
                    comparison.wanted.push(number);
                }
            }
            // Of a host that is thought to be dead there is none.
            comparison.offered.extend(host.live().cloned());
        }
        let missing = unseen.into_iter().filter(|(_, root)| root & DOWN == 0);
        comparison.wanted.extend(missing.map(|(host, _)| host));
        comparison.wanted.sort_unstable();
        comparison
    }

    /// The live records of the hosts with these numbers, ordered by host and ID.
    pub fn records_of_hosts(&self, mut numbers: Vec<u64>) -> impl Iterator<Item = &Arc<Service>> {
        numbers.sort_unstable();
        let hosts = self.hosts.values();
        let chosen = hosts.filter(move |host| numbers.binary_search(&number(&host.name)).is_ok());
        chosen.flat_map(|host| host.live())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{Author, Now, State, Status, Timestamp, service::tests::service};

    fn now() -> Now {
        Now {
            wall: Timestamp::from_unix_nanos(1_000),
            monotonic: Instant::now(),
        }
    }

    /// Members `a`, `b` and `c` with a record each.
    fn state(hostname: &str) -> State {
        let mut state = State::new(hostname, "");
        for name in ["a", "b", "c"] {
            state.member_up(name, Upkeep::Membership, now());
            let record = service(name, "1", 500, Status::Alive);
            state.apply(record, Author::Peer, now()).unwrap();
        }
        state
    }

    fn offered(comparison: &Comparison) -> Vec<&str> {
        let offered = comparison.offered.iter();
        offered.map(|record| &*record.hostname).collect()
    }

    #[test]
    fn those_who_hold_the_same_exchange_nothing_whoever_is_dead() {
        let (mut one, mut other) = (state("a"), state("c"));
        for (state, down) in [(&mut one, "c"), (&mut other, "a")] {
            state.member_down(down, now());
            state.member_down("b", now());
        }
        assert_ne!(one.snapshot().digest, other.snapshot().digest);
        for (one, other) in [(&one, &other), (&other, &one)] {
            let comparison = one.snapshot().compare(&other.snapshot().outline());
            assert!(comparison.offered.is_empty() && comparison.wanted.is_empty());
        }
    }

    #[test]
    fn what_differs_is_offered_and_wanted_by_host() {
        let (mut one, mut other) = (state("a"), state("c"));
        let newer = service("a", "1", 600, Status::Unhealthy);
        one.apply(newer, Author::Own, now()).unwrap();
        let more = service("c", "2", 600, Status::Alive);
        other.apply(more, Author::Own, now()).unwrap();
        let comparison = one.snapshot().compare(&other.snapshot().outline());
        assert_eq!(offered(&comparison), ["a", "c"]);
        assert_eq!(comparison.wanted, {
            let mut both = vec![number("a"), number("c")];
            both.sort_unstable();
            both
        });
        let wanted = other.snapshot().records_of_hosts(comparison.wanted);
        let ids: Vec<&str> = wanted.map(|record| &*record.id).collect();
        assert_eq!(ids, ["1", "1", "2"]);
    }

    #[test]
    fn a_newcomer_wants_everything_but_the_dead() {
        let mut old = state("a");
        old.member_down("c", now());
        let mut new = State::new("d", "");
        new.member_up("d", Upkeep::Membership, now());
        let record = service("d", "1", 500, Status::Alive);
        new.apply(record, Author::Own, now()).unwrap();
        let comparison = new.snapshot().compare(&old.snapshot().outline());
        assert_eq!(offered(&comparison), ["d"]);
        assert_eq!(comparison.wanted.len(), 2);
        let comparison = old.snapshot().compare(&new.snapshot().outline());
        assert_eq!(offered(&comparison), ["a", "b"]);
        assert_eq!(comparison.wanted, [number("d")]);
    }

    #[test]
    fn stamps_of_hosts_that_refresh_do_not_count_and_what_is_taken_back_leaves_no_trace() {
        let (mut one, mut other) = (State::new("a", ""), State::new("b", ""));
        for (state, updated) in [(&mut one, 500), (&mut other, 600)] {
            state.member_up("go", Upkeep::Refresh, now());
            let record = service("go", "1", updated, Status::Alive);
            state.apply(record, Author::Peer, now()).unwrap();
        }
        let comparison = one.snapshot().compare(&other.snapshot().outline());
        assert!(comparison.offered.is_empty() && comparison.wanted.is_empty());
        let gone = service("go", "1", 700, Status::Tombstone);
        one.apply(gone, Author::Peer, now()).unwrap();
        assert!(one.snapshot().outline().is_empty());
        let comparison = one.snapshot().compare(&other.snapshot().outline());
        assert!(comparison.offered.is_empty());
        assert_eq!(comparison.wanted, [number("go")]);
    }

    #[test]
    fn bytes_there_and_back() {
        let outline = state("a").snapshot().outline();
        let bytes = outline.to_bytes();
        assert_eq!(bytes.len(), 3 * OUTLINE_HOST_BYTES);
        assert_eq!(Outline::from_bytes(&bytes), Some(outline));
        assert_eq!(Outline::from_bytes(&bytes[1..]), None);
    }
}
