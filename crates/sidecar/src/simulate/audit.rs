//! What hosts believe held against what is true.

use std::collections::BTreeMap;

use catalog::{Snapshot, Status};

use super::cluster::Cluster;

/// Wrong beliefs, summed over all hosts that are up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Audit {
    /// Instances that run on a host that is up, and that somebody does not show, or not as they are.
    pub(super) lost: usize,
    /// Instances that somebody shows and that do not run.
    pub(super) zombies: usize,
}

impl Cluster {
    /// Looks at everybody.
    pub(super) fn audit(&self) -> Audit {
        let truth: BTreeMap<(&str, &str), Status> = self
            .running()
            .flat_map(|(_, host)| host.own())
            .map(|service| ((&*service.hostname, &*service.id), service.status))
            .collect();
        // Equal digests stand for equal live records: one of each is looked at.
        let mut kinds: BTreeMap<u64, (&Snapshot, usize)> = BTreeMap::new();
        for (_, host) in self.running() {
            let snapshot = host.snapshot();
            let kind = kinds.entry(snapshot.digest.root());
            kind.or_insert((snapshot, 0)).1 += 1;
        }
        let mut audit = Audit::default();
        for (snapshot, hosts) in kinds.into_values() {
            let mut right = 0;
            for service in snapshot.services().filter(|shown| !shown.is_tombstone()) {
                match truth.get(&(&*service.hostname, &*service.id)) {
                    Some(status) => right += usize::from(*status == service.status),
                    None => audit.zombies += hosts,
                }
            }
            audit.lost += hosts * (truth.len() - right);
        }
        audit
    }
}
