//! What readers see: an immutable view of the whole cluster that shares structure with the last.

use std::{collections::BTreeMap, sync::Arc};

use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};

use crate::{Buckets, Digest, Service, Timestamp};

/// The records of one host as readers see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecords {
    /// Name of the host.
    pub name: Arc<str>,
    /// Instances by ID. Those of a dead host, and those not refreshed in time, read as tombstones.
    pub services: RedBlackTreeMapSync<Arc<str>, Arc<Service>>,
    /// IDs whose tombstone is derived (host dead, or record expired) and stands in no record.
    pub derived: RedBlackTreeSetSync<Arc<str>>,
    /// Stamp of the newest record accepted.
    pub last_updated: Timestamp,
    /// Time of the last change that matters to a reader.
    pub last_changed: Timestamp,
}

impl HostRecords {
    pub(crate) fn empty(name: Arc<str>) -> Self {
        Self {
            name,
            services: RedBlackTreeMapSync::new_sync(),
            derived: RedBlackTreeSetSync::new_sync(),
            last_updated: Timestamp::EPOCH,
            last_changed: Timestamp::EPOCH,
        }
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
    /// Hosts by name.
    pub hosts: RedBlackTreeMapSync<Arc<str>, Arc<HostRecords>>,
    /// Names of the gossip members not known dead, this host included.
    pub members: RedBlackTreeSetSync<Arc<str>>,
    /// Summary of all live records, as their origins wrote them.
    pub digest: Arc<Digest>,
    /// Never goes back, and grows with every change that matters.
    pub last_changed: Timestamp,
    /// Name of the cluster.
    pub cluster_name: Arc<str>,
    /// Name of the host that made the snapshot.
    pub hostname: Arc<str>,
}

impl Snapshot {
    /// A snapshot without records.
    pub fn empty(hostname: &str, cluster_name: &str) -> Self {
        Self {
            version: 0,
            changes: 0,
            hosts: RedBlackTreeMapSync::new_sync(),
            members: RedBlackTreeSetSync::new_sync(),
            digest: Arc::default(),
            last_changed: Timestamp::EPOCH,
            cluster_name: cluster_name.into(),
            hostname: hostname.into(),
        }
    }

    /// All instances of all hosts, ordered by host and ID, tombstones included.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.hosts.values().flat_map(|host| host.services.values())
    }

    /// All records in these buckets as their origins wrote them, ordered by host and ID; those that
    /// readers see as derived tombstones are left out.
    pub fn records_in(&self, buckets: &Buckets) -> impl Iterator<Item = &Arc<Service>> {
        self.hosts.values().flat_map(|host| {
            let records = host
                .services
                .iter()
                .filter(|(id, service)| buckets.contain(service) && !host.derived.contains(*id));
            records.map(|(_, service)| service)
        })
    }

    /// One instance.
    pub fn service(&self, hostname: &str, id: &str) -> Option<&Arc<Service>> {
        self.hosts.get(hostname)?.services.get(id)
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
