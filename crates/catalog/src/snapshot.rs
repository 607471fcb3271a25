//! What is known of the cluster: an immutable view that shares structure with the last one.
//!
//! There is one copy of it. The writer changes its own handle of these persistent maps, readers hold
//! older ones, and what a change did not touch belongs to all of them. What only the writer needs
//! (the record under a tombstone that is merely derived) is here too, private to the crate.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use rpds::RedBlackTreeMapSync;

use crate::{Buckets, Digest, Service, Timestamp, Upkeep, held::Held, outline::Roots};

/// The records of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecords {
    /// Name of the host.
    pub name: Arc<str>,
    /// Stamp of the newest record accepted.
    pub last_updated: Timestamp,
    /// Time of the last change that matters to a reader.
    pub last_changed: Timestamp,
    pub(crate) held: RedBlackTreeMapSync<Arc<str>, Held>,
    pub(crate) roots: Roots,
}

impl HostRecords {
    pub(crate) fn empty(name: Arc<str>) -> Self {
        Self {
            name,
            last_updated: Timestamp::EPOCH,
            last_changed: Timestamp::EPOCH,
            held: RedBlackTreeMapSync::new_sync(),
            roots: Roots::default(),
        }
    }

    /// Instances by ID. Those of a dead host, and those not refreshed in time, read as tombstones.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.held.values().map(Held::shown)
    }

    /// One instance, as [`HostRecords::services`] shows it.
    pub fn service(&self, id: &str) -> Option<&Arc<Service>> {
        self.held.get(id).map(Held::shown)
    }

    /// Instances by ID as their origin wrote them, without those that read as tombstones only
    /// because the host is dead or the record expired.
    pub fn written(&self) -> impl Iterator<Item = &Arc<Service>> {
        let written = self.held.values().filter(|held| !held.is_derived());
        written.map(|held| &held.record)
    }

    /// Those of [`HostRecords::written`] that are no tombstones.
    pub fn live(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.written().filter(|record| !record.is_tombstone())
    }
}

/// An immutable view of the cluster. Cloning is cheap; consecutive snapshots share what did not
/// change.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Grows with every publication, also of mere refreshes.
    pub version: u64,
    /// Grows with every change that matters to a reader: consumers that reconcile compare this.
    pub changes: u64,
    /// Hosts by name; none without a record.
    pub hosts: RedBlackTreeMapSync<Arc<str>, Arc<HostRecords>>,
    /// The gossip members not known dead, this host included, and what keeps their records
    /// believable.
    pub members: RedBlackTreeMapSync<Arc<str>, Upkeep>,
    /// Summary of all live records, as their origins wrote them.
    pub digest: Arc<Digest>,
    /// Never goes back, and grows with every change that matters.
    pub last_changed: Timestamp,
    /// Name of the cluster.
    pub cluster_name: Arc<str>,
    /// Name of the host that made the snapshot.
    pub hostname: Arc<str>,
}

/// One instance in two snapshots; one of both has it.
#[derive(Debug, Clone, Copy)]
pub struct Difference<'a> {
    /// In the older one.
    pub before: Option<&'a Arc<Service>>,
    /// In the newer one.
    pub after: Option<&'a Arc<Service>>,
}

/// What stands under the same key in two sequences, side by side; both have to be ordered by `order`, which
/// looks at the key alone.
pub fn paired<T>(
    left: impl Iterator<Item = T>,
    right: impl Iterator<Item = T>,
    order: impl Fn(&T, &T) -> Ordering,
) -> impl Iterator<Item = (Option<T>, Option<T>)> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || {
        let order = match (left.peek(), right.peek()) {
            (Some(left), Some(right)) => order(left, right),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        Some((
            left.next_if(|_| order.is_le()),
            right.next_if(|_| order.is_ge()),
        ))
    })
}

impl Snapshot {
    /// A snapshot without records.
    pub fn empty(hostname: &str, cluster_name: &str) -> Self {
        Self {
            version: 0,
            changes: 0,
            hosts: RedBlackTreeMapSync::new_sync(),
            members: RedBlackTreeMapSync::new_sync(),
            digest: Arc::default(),
            last_changed: Timestamp::EPOCH,
            cluster_name: cluster_name.into(),
            hostname: hostname.into(),
        }
    }

    /// All instances of all hosts, ordered by host and ID, tombstones included.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.hosts.values().flat_map(|host| host.services())
    }

    /// All records in these buckets as their origins wrote them, ordered by host and ID; those that
    /// readers see as derived tombstones are left out.
    pub fn records_in(&self, buckets: &Buckets) -> impl Iterator<Item = &Arc<Service>> {
        let records = self.hosts.values().flat_map(|host| host.written());
        records.filter(|record| buckets.contain(record))
    }

    /// One instance.
    pub fn service(&self, hostname: &str, id: &str) -> Option<&Arc<Service>> {
        self.hosts.get(hostname)?.service(id)
    }

    /// The instances that differ from an older snapshot, as they were and as they are, ordered by host and
    /// ID. Costs a look at every host and at every instance of those that differ: what both share is known
    /// by its place.
    pub fn changes_since<'a>(&'a self, older: &'a Self) -> Vec<Difference<'a>> {
        let mut differences = Vec::new();
        let by_name = |a: &&Arc<HostRecords>, b: &&Arc<HostRecords>| a.name.cmp(&b.name);
        let by_id = |a: &&Arc<Service>, b: &&Arc<Service>| a.id.cmp(&b.id);
        for (before, after) in paired(older.hosts.values(), self.hosts.values(), by_name) {
            if let (Some(before), Some(after)) = (before, after)
                && Arc::ptr_eq(before, after)
            {
                continue;
            }
            let before = before.into_iter().flat_map(|host| host.services());
            let after = after.into_iter().flat_map(|host| host.services());
            for (before, after) in paired(before, after, by_id) {
                if let (Some(before), Some(after)) = (before, after)
                    && Arc::ptr_eq(before, after)
                {
                    continue;
                }
                differences.push(Difference { before, after });
            }
        }
        differences
    }

    /// Instances by service name, each list by stamp ascending (ties by host and ID).
    pub fn by_name(&self) -> BTreeMap<&str, Vec<&Arc<Service>>> {
        let mut names: BTreeMap<&str, Vec<&Arc<Service>>> = BTreeMap::new();
        for service in self.services() {
            names.entry(&service.name).or_default().push(service);
        }
        for list in names.values_mut() {
            list.sort_by(|a, b| {
                (a.updated, &a.hostname, &a.id).cmp(&(b.updated, &b.hostname, &b.id))
            });
        }
        names
    }
}
