//! What hosts believe held against what is true.

use std::collections::BTreeMap;

#[cfg(test)]
use catalog::Service;
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
    /// How everything is that runs on a host that is up, by host and instance.
    fn truth(&self) -> BTreeMap<(&str, &str), Status> {
        let own = self.running().flat_map(|(_, host)| host.own());
        own.map(|service| ((&*service.hostname, &*service.id), service.status))
            .collect()
    }

    /// Looks at everybody.
    pub(super) fn audit(&self) -> Audit {
        let truth = self.truth();
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

    /// What everybody knows, and each wrong belief, for whoever has to find out why.
    #[cfg(test)]
    pub(super) fn errors(&self) -> String {
        let truth = self.truth();
        let mut lines = Vec::new();
        for (id, host) in self.running() {
            let snapshot = host.snapshot();
            lines.push(format!(
                "host {id}: digest {:016x}, {} members, {:?}",
                snapshot.digest.root(),
                snapshot.members.size(),
                host.core().counters(),
            ));
            for shown in snapshot.services() {
                let is = truth.get(&(&*shown.hostname, &*shown.id)).copied();
                if is.unwrap_or(Status::Tombstone) != shown.status {
                    let Service {
                        hostname,
                        id: instance,
                        status,
                        updated,
                        ..
                    } = &**shown;
                    lines.push(format!(
                        "host {id}: {hostname}/{instance} of {updated} is shown as {status:?} and \
                         is {is:?}"
                    ));
                }
            }
            for ((name, instance), status) in &truth {
                if snapshot.service(name, instance).is_none() {
                    lines.push(format!(
                        "host {id}: {name}/{instance} is {status:?} and unknown"
                    ));
                }
            }
        }
        lines.join("\n")
    }
}
