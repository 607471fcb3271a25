//! What is counted, as Prometheus text. Read at each scrape; nothing is kept here.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
};

use catalog::{Snapshot, Status};
use tokio::sync::watch;

use crate::{
    cluster::registry::Counters,
    proxy::builtin::{ListenState, PlaneStatus},
};

/// Where the numbers come from.
#[derive(Debug)]
pub struct Metrics {
    /// The catalog.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Gossip.
    pub gossip: memberlist::Handle,
    /// The registry.
    pub counters: Arc<Counters>,
    /// The data plane.
    pub plane: watch::Receiver<Arc<PlaneStatus>>,
}

/// Collects metric families in text exposition format 0.0.4.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0
            .write_fmt(line)
            .expect("invariant: writing to a String cannot fail");
        self.0.push('\n');
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.line(format_args!("{name} {value}"));
    }
}

/// A label value, escaped.
fn label(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

impl Metrics {
    /// All metrics.
    pub fn render(&self) -> String {
        let mut text = Text::default();
        self.catalog(&mut text);
        self.registry(&mut text);
        self.gossip(&mut text);
        self.plane(&mut text);
        text.0
    }

    fn catalog(&self, text: &mut Text) {
        let snapshot = self.snapshot.borrow().clone();
        let mut by_status: BTreeMap<Status, u64> = BTreeMap::new();
        for service in snapshot.services() {
            *by_status.entry(service.status).or_default() += 1;
        }
        let name = "sidecar_catalog_instances";
        text.family(name, "gauge", "Instances known, by status.");
        for status in [
            Status::Alive,
            Status::Tombstone,
            Status::Unhealthy,
            Status::Unknown,
            Status::Draining,
        ] {
            let count = by_status.get(&status).copied().unwrap_or(0);
            text.line(format_args!("{name}{{status=\"{status}\"}} {count}"));
        }
        let members = u64::try_from(snapshot.members.len()).unwrap_or(u64::MAX);
        text.single(
            "sidecar_members",
            "gauge",
            "Members not known dead, self included.",
            members,
        );
        text.single(
            "sidecar_catalog_snapshots_total",
            "counter",
            "Snapshots published.",
            snapshot.version,
        );
    }

    fn registry(&self, text: &mut Text) {
        let counters = &self.counters;
        for (name, help, counter) in [
            (
                "received",
                "Records received from peers.",
                &counters.records_received,
            ),
            (
                "undecodable",
                "Records that could not be read.",
                &counters.records_undecodable,
            ),
            (
                "rejected",
                "Records refused for their stamp.",
                &counters.records_rejected,
            ),
            (
                "broadcast",
                "Records sent, own and passed on.",
                &counters.records_broadcast,
            ),
        ] {
            let name = format!("sidecar_records_{name}_total");
            text.single(&name, "counter", help, counter.load(Ordering::Relaxed));
        }
        text.single(
            "sidecar_changes_total",
            "counter",
            "Changes that readers saw.",
            counters.changes.load(Ordering::Relaxed),
        );
    }

    fn plane(&self, text: &mut Text) {
        let plane = self.plane.borrow().clone();
        type Read = fn(&crate::proxy::builtin::PortStatus) -> u64;
        let families: [(&str, &str, &str, Read); 7] = [
            (
                "listening",
                "gauge",
                "Whether the ServicePort is open here.",
                |port| u64::from(port.listen == ListenState::Listening),
            ),
            ("connections_open", "gauge", "Connections open.", |port| {
                port.connections_open
            }),
            (
                "connections_total",
                "counter",
                "Connections accepted.",
                |port| port.connections_total,
            ),
            (
                "connections_unserved_total",
                "counter",
                "Connections for which no endpoint answered.",
                |port| port.connections_unserved,
            ),
            (
                "connect_failures_total",
                "counter",
                "Failed connects to endpoints.",
                |port| port.connect_failures,
            ),
            (
                "to_endpoints_bytes_total",
                "counter",
                "Bytes from clients to endpoints.",
                |port| port.to_endpoints_bytes,
            ),
            (
                "to_clients_bytes_total",
                "counter",
                "Bytes from endpoints to clients.",
                |port| port.to_clients_bytes,
            ),
        ];
        for (name, kind, help, read) in families {
            let name = format!("sidecar_proxy_{name}");
            text.family(&name, kind, help);
            for (service_port, port) in &plane.ports {
                text.line(format_args!(
                    "{name}{{service_port=\"{service_port}\",service=\"{}\"}} {}",
                    label(&port.service),
                    read(port)
                ));
            }
        }
    }
}
