//! What documents of `/api/v2` are put together from. Names are the contract with programs: they may
//! be added to, never changed.

use std::collections::BTreeSet;

use catalog::{Change, Port, Service, Snapshot, Status, Timestamp};
use serde::{Serialize, Serializer};

/// A time as RFC 3339 text in UTC.
pub(super) fn time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// A status as its word.
pub(super) fn word<S: Serializer>(status: &Status, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(status)
}

/// The text of a form. Forms have text keys and plain values alone, so that encoding cannot fail.
pub(super) fn text(form: &impl Serialize) -> String {
    serde_json::to_string(form).expect("invariant: forms of plain values can be encoded")
}

/// One instance.
#[derive(Debug, Serialize)]
pub(super) struct InstanceForm<'a> {
    id: &'a str,
    name: &'a str,
    image: &'a str,
    version: &'a str,
    hostname: &'a str,
    #[serde(serialize_with = "word")]
    status: Status,
    #[serde(serialize_with = "time")]
    created: Timestamp,
    #[serde(serialize_with = "time")]
    updated: Timestamp,
    mode: &'a str,
    weight: u8,
    ports: Vec<PortForm<'a>>,
}

#[derive(Debug, Serialize)]
struct PortForm<'a> {
    r#type: &'a str,
    port: u16,
    service_port: u16,
    ip: &'a str,
}

impl<'a> From<&'a Service> for InstanceForm<'a> {
    fn from(service: &'a Service) -> Self {
        let version = service.image.rsplit_once(':').map_or("", |(_, tag)| tag);
        Self {
            id: &service.id,
            name: &service.name,
            image: &service.image,
            version,
            hostname: &service.hostname,
            status: service.status,
            created: service.created,
            updated: service.updated,
            mode: mode(service),
            weight: service.weight(),
            ports: service.port_list().iter().map(PortForm::from).collect(),
        }
    }
}

/// The mode it is routed in; a word that nobody knows as it is.
pub(super) fn mode(service: &Service) -> &str {
    service
        .mode()
        .map_or(&service.proxy_mode, |mode| mode.as_str())
}

impl<'a> From<&'a Port> for PortForm<'a> {
    fn from(port: &'a Port) -> Self {
        Self {
            r#type: &port.kind,
            port: port.port,
            service_port: port.service_port,
            ip: &port.ip,
        }
    }
}

/// One change.
#[derive(Debug, Serialize)]
pub(super) struct ChangeForm<'a> {
    id: &'a str,
    #[serde(serialize_with = "time")]
    at: Timestamp,
    /// From the record's stamp to its arrival here, in milliseconds.
    latency_ms: Option<f64>,
    derived: bool,
    #[serde(serialize_with = "word")]
    previous: Status,
    instance: InstanceForm<'a>,
}

impl<'a> ChangeForm<'a> {
    /// `change` as it was seen here at `at`.
    pub(super) fn new(id: &'a str, change: &'a Change, at: Timestamp) -> Self {
        let latency = at.since(change.service.updated);
        let millis = (latency.as_secs_f64() * 1e6).round() / 1e3;
        Self {
            id,
            at,
            latency_ms: (!change.derived).then_some(millis),
            derived: change.derived,
            previous: change.previous,
            instance: (&*change.service).into(),
        }
    }
}

/// Instances by status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct ByStatus {
    pub(super) alive: usize,
    pub(super) unhealthy: usize,
    pub(super) unknown: usize,
    pub(super) draining: usize,
    pub(super) tombstone: usize,
}

impl ByStatus {
    pub(super) fn count(&mut self, status: Status) {
        *match status {
            Status::Alive => &mut self.alive,
            Status::Unhealthy => &mut self.unhealthy,
            Status::Unknown => &mut self.unknown,
            Status::Draining => &mut self.draining,
            Status::Tombstone => &mut self.tombstone,
        } += 1;
    }

    pub(super) fn of<'a>(services: impl Iterator<Item = &'a std::sync::Arc<Service>>) -> Self {
        let mut counts = Self::default();
        services.for_each(|service| counts.count(service.status));
        counts
    }
}

/// What a snapshot has, counted.
#[derive(Debug)]
pub(in crate::http) struct Counts {
    pub(super) instances: ByStatus,
    /// Services with an instance that is not gone.
    pub(super) services: usize,
}

impl Counts {
    /// Walks over all instances.
    pub(in crate::http) fn of_snapshot(snapshot: &Snapshot) -> Self {
        let there = snapshot.services().filter(|it| !it.is_tombstone());
        let names: BTreeSet<&str> = there.map(|service| service.name.as_str()).collect();
        Self {
            instances: ByStatus::of(snapshot.services()),
            services: names.len(),
        }
    }
}
