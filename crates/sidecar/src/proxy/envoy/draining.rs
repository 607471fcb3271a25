//! Instances that drain: routes do not have them, but Envoy is told of them, so that it lets their connections
//! end by themselves instead of taking them for gone. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use catalog::{Service, Snapshot, Status};

use super::resources::Key;
use crate::routes::{self, Endpoint};

/// The draining instances of the newest snapshot.
#[derive(Debug, Default)]
pub(super) struct Draining {
    seen: Option<Arc<Snapshot>>,
    by_key: BTreeMap<Key, BTreeSet<Endpoint>>,
}

static NONE: BTreeSet<Endpoint> = BTreeSet::new();

impl Draining {
    /// Follows to a newer snapshot; the services and ports whose draining instances are others now.
    pub(super) fn follow(&mut self, snapshot: &Arc<Snapshot>) -> BTreeSet<Key> {
        let older = self.seen.replace(snapshot.clone());
        let older = older.unwrap_or_else(|| Arc::new(Snapshot::empty("", "")));
        let mut touched = BTreeSet::new();
        for difference in snapshot.changes_since(&older) {
            let [before, after] = [difference.before, difference.after].map(|it| {
                let service = it.filter(|it| it.status == Status::Draining);
                service.map(endpoints).unwrap_or_default()
            });
            if before == after {
                continue;
            }
            for (key, endpoint) in before {
                if let Some(known) = self.by_key.get_mut(&key) {
                    known.remove(&endpoint);
                    if known.is_empty() {
                        self.by_key.remove(&key);
                    }
                }
                touched.insert(key);
            }
            for (key, endpoint) in after {
                self.by_key.entry(key.clone()).or_default().insert(endpoint);
                touched.insert(key);
            }
        }
        touched
    }

    /// Those of a service at a port.
    pub(super) fn of(&self, key: &Key) -> &BTreeSet<Endpoint> {
        self.by_key.get(key).unwrap_or(&NONE)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.by_key.keys()
    }

    /// All of them.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.by_key.values().flatten()
    }
}

fn endpoints(service: &Arc<Service>) -> Vec<(Key, Endpoint)> {
    let addresses = routes::addresses_of(service).into_iter();
    addresses
        .map(|(port, address)| {
            let endpoint = Endpoint {
                hostname: service.hostname.clone(),
                id: service.id.clone(),
                address,
                weight: service.weight(),
            };
            ((port, service.name.clone()), endpoint)
        })
        .collect()
}
