//! Which instances a template is shown, and as what: the catalog and the routes made one.
//!
//! Routes decide which ServicePort leads where; this decides nothing again. What templates add is that
//! they walk the instances of a service once for all its ports, so an instance can be listed only if it
//! serves the very ports its service has.
//!
//! Templates print fields as they are, and fields come from the network. Here is the last place where
//! they are text and not yet part of a configuration file: whatever HAProxy would take for more than a
//! part of a word becomes a hyphen, which is also what `sanitizeName` makes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::Arc,
};

use catalog::{ProxyMode, Service, Snapshot};

use crate::routes::Routes;

/// What templates are shown of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Shown {
    /// Services by name, none without an instance.
    pub(super) services: BTreeMap<String, ShownService>,
    /// Alive instances with ports that are not shown.
    pub(super) omitted: Vec<Omitted>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShownService {
    /// How its traffic is treated.
    pub(super) mode: ProxyMode,
    /// Real port of the first instance by ServicePort; empty for a service that is not proxied.
    pub(super) ports: BTreeMap<u16, u16>,
    /// Ordered by host and ID, never empty.
    pub(super) instances: Vec<ShownInstance>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShownInstance {
    /// The record, with harmless text.
    pub(super) record: Service,
    /// Where it answers, by ServicePort.
    pub(super) routed: BTreeMap<u16, SocketAddr>,
}

/// An instance that is not shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Omitted {
    /// Its service.
    pub(super) service: String,
    /// Its host.
    pub(super) hostname: String,
    /// Its ID.
    pub(super) id: String,
    /// Why it is not.
    pub(super) reason: Reason,
}

/// Why an instance is not shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// It serves these ServicePorts, its service those.
    PortsDiffer {
        /// Its own.
        has: Vec<u16>,
        /// Those of the oldest instance.
        service_has: Vec<u16>,
    },
    /// Its ProxyMode is no word we know.
    UnknownMode(String),
    /// Its server would have the name of another.
    SameName(String),
    /// Its service would have the name of another.
    SameService(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortsDiffer { has, service_has } => write!(
                f,
                "it serves the ServicePorts {has:?}, the oldest instance of its service {service_has:?}"
            ),
            Self::UnknownMode(mode) => {
                write!(f, "its ProxyMode {mode:?} is none of http, tcp, ws")
            }
            Self::SameName(name) => write!(f, "another instance is the server {name} already"),
            Self::SameService(name) => write!(f, "another service is shown as {name} already"),
        }
    }
}

type Routed<'a> = BTreeMap<(&'a str, &'a str), BTreeMap<u16, SocketAddr>>;

impl Shown {
    /// What templates are shown of a snapshot and the routes of the same snapshot.
    pub(super) fn of(snapshot: &Snapshot, routes: &Routes) -> Self {
        let routed = routed(routes);
        let mut shown = Self::default();
        let mut names: BTreeMap<&str, Vec<&Arc<Service>>> = BTreeMap::new();
        for service in snapshot.services() {
            if service.is_alive() && !service.port_list().is_empty() {
                names.entry(&service.name).or_default().push(service);
            }
        }
        for (name, records) in names {
            let harmless = harmless(name);
            if shown.services.contains_key(&harmless) {
                for record in records {
                    shown.omit(record, Reason::SameService(harmless.clone()));
                }
            } else if let Some(service) = shown.service(&records, &routed) {
                shown.services.insert(harmless, service);
            }
        }
        shown.omitted.sort();
        shown
    }

    fn service(&mut self, records: &[&Arc<Service>], routed: &Routed<'_>) -> Option<ShownService> {
        // An instance that is not routed speaks for its service only where none is.
        let seniority = |record: &Arc<Service>| {
            let key = (record.hostname.clone(), record.id.clone());
            (ports_of(routed, record).is_empty(), record.created, key)
        };
        let reference = records.iter().min_by_key(|record| seniority(record))?;
        let wanted: Vec<u16> = ports_of(routed, reference).keys().copied().collect();
        let mut instances = Vec::new();
        let mut names = BTreeSet::new();
        for record in records {
            let routed = ports_of(routed, record);
            if record.mode().is_none() {
                self.omit(record, Reason::UnknownMode(record.proxy_mode.clone()));
                continue;
            }
            if !routed.keys().eq(&wanted) {
                let reason = Reason::PortsDiffer {
                    has: routed.keys().copied().collect(),
                    service_has: wanted.clone(),
                };
                self.omit(record, reason);
                continue;
            }
            let instance = ShownInstance {
                record: disarmed(record),
                routed: routed.clone(),
            };
            let name = format!("{}-{}", instance.record.hostname, instance.record.id);
            if names.contains(&name) {
                self.omit(record, Reason::SameName(name));
                continue;
            }
            names.insert(name);
            instances.push(instance);
        }
        let first = instances.first()?;
        let ports = first.routed.iter().map(|(port, at)| (*port, at.port()));
        Some(ShownService {
            mode: reference.mode().unwrap_or_default(),
            ports: ports.collect(),
            instances,
        })
    }

    fn omit(&mut self, record: &Service, reason: Reason) {
        self.omitted.push(Omitted {
            service: record.name.clone(),
            hostname: record.hostname.clone(),
            id: record.id.clone(),
            reason,
        });
    }
}

/// Where each instance answers: the first of its addresses for each ServicePort.
fn routed(routes: &Routes) -> Routed<'_> {
    let mut routed = Routed::new();
    for (port, route) in &routes.by_port {
        for endpoint in &route.endpoints {
            let instance = (endpoint.hostname.as_str(), endpoint.id.as_str());
            let ports = routed.entry(instance).or_default();
            ports.entry(*port).or_insert(endpoint.address);
        }
    }
    routed
}

fn ports_of<'r>(routed: &'r Routed<'r>, record: &'r Service) -> &'r BTreeMap<u16, SocketAddr> {
    static NONE: BTreeMap<u16, SocketAddr> = BTreeMap::new();
    let instance = (record.hostname.as_str(), record.id.as_str());
    routed.get(&instance).unwrap_or(&NONE)
}

/// The record with text that stays one word wherever a template puts it.
fn disarmed(record: &Service) -> Service {
    let mut record = record.clone();
    record.name = harmless(&record.name);
    record.image = harmless(&record.image);
    record.hostname = word(&record.hostname);
    record.id = word(&record.id);
    for port in record.ports.iter_mut().flatten() {
        port.kind = word(&port.kind);
        if Service::address_of(port).is_none() {
            port.ip.clear();
        }
    }
    record
}

/// Without blanks, and without what quotes, ends, or expands text in HAProxy's configuration.
fn harmless(text: &str) -> String {
    let is_harmful = |c: char| c.is_whitespace() || c.is_control() || r##""'\#$"##.contains(c);
    text.replace(is_harmful, "-")
}

/// Only what HAProxy takes in a server's name.
fn word(text: &str) -> String {
    text.replace(
        |c: char| !c.is_ascii_alphanumeric() && !"-_.:".contains(c),
        "-",
    )
}
