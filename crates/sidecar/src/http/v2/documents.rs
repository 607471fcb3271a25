//! The documents about services and their instances. Pure: of a snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use catalog::{Service, Snapshot};
use serde::Serialize;

use super::forms::{ByStatus, InstanceForm, mode, text};

#[derive(Serialize)]
struct Services<'a> {
    version: u64,
    services: Vec<ServiceForm<'a>>,
}

#[derive(Serialize)]
struct ServiceForm<'a> {
    name: &'a str,
    instances: ByStatus,
    /// With an instance that is not gone.
    hosts: usize,
    service_ports: BTreeSet<u16>,
    /// That of the oldest instance, which decides for all.
    mode: &'a str,
}

/// `/api/v2/services`: what there is, in one line each.
pub(in crate::http) fn services(snapshot: &Snapshot) -> String {
    let mut by_name: BTreeMap<&str, Vec<&Arc<Service>>> = BTreeMap::new();
    for service in snapshot.services() {
        by_name.entry(&service.name).or_default().push(service);
    }
    let services = by_name.into_iter().map(|(name, instances)| {
        let there = || instances.iter().filter(|it| !it.is_tombstone());
        let hosts: BTreeSet<&str> = there().map(|it| it.hostname.as_str()).collect();
        let ports = there().flat_map(|it| it.port_list());
        let oldest = instances
            .iter()
            .min_by_key(|it| (it.is_tombstone(), it.created, &it.hostname, &it.id));
        ServiceForm {
            name,
            instances: ByStatus::of(instances.iter().copied()),
            hosts: hosts.len(),
            service_ports: ports
                .map(|port| port.service_port)
                .filter(|port| *port > 0)
                .collect(),
            mode: oldest.map_or("http", |it| mode(it)),
        }
    });
    text(&Services {
        version: snapshot.changes,
        services: services.collect(),
    })
}

#[derive(Serialize)]
struct Instances<'a> {
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    instances: Vec<InstanceForm<'a>>,
}

fn list<'a>(
    snapshot: &Snapshot,
    name: Option<&'a str>,
    instances: impl Iterator<Item = &'a Arc<Service>>,
) -> String {
    text(&Instances {
        version: snapshot.changes,
        name,
        instances: instances.map(|it| (&**it).into()).collect(),
    })
}

/// `/api/v2/services/NAME`: the instances of one.
pub(in crate::http) fn service(
    snapshot: &Snapshot,
    name: &str,
    instances: &[Arc<Service>],
) -> String {
    list(snapshot, Some(name), instances.iter())
}

/// `/api/v2/instances`: all instances, ordered by host and ID.
pub(in crate::http) fn instances(snapshot: &Snapshot) -> String {
    list(snapshot, None, snapshot.services())
}

/// The same, of those that satisfy `wanted`.
pub(super) fn some_instances(snapshot: &Snapshot, wanted: impl Fn(&Service) -> bool) -> String {
    list(snapshot, None, snapshot.services().filter(|it| wanted(it)))
}
