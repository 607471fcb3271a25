//! What is counted, as Prometheus text. Read at each scrape; nothing is kept here.

mod plane;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
};

use catalog::{Snapshot, Status};
use tokio::sync::watch;

use crate::{
    cluster::core::Counters,
    local_view::{LocalView, SourceView},
    proxy::{
        builtin::PlaneStatus,
        haproxy::State,
        kernel::{KernelEndpoint, KernelState},
    },
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
    /// What this host sees of itself.
    pub view: Arc<LocalView>,
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
        self.membership(&mut text);
        plane::render(&self.plane.borrow().clone(), &mut text);
        self.haproxy(&mut text);
        self.kernel(&mut text);
        self.sources(&mut text);
        self.checks(&mut text);
        self.listeners(&mut text);
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
        let members = u64::try_from(snapshot.members.size()).unwrap_or(u64::MAX);
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

    fn sources(&self, text: &mut Text) {
        let sources = self.view.sources();
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        type Read = fn(&SourceView, usize) -> usize;
        let families: [(&str, &str, Read); 3] = [
            (
                "sidecar_source_up",
                "Whether a source of services can be seen.",
                |view, _| usize::from(view.state == "following"),
            ),
            (
                "sidecar_source_instances",
                "Instances a source names now, or named last.",
                |view, _| view.instances,
            ),
            (
                "sidecar_source_remarks",
                "Containers or files of a source with something odd about them.",
                |_, remarks| remarks,
            ),
        ];
        for (name, help, read) in families {
            text.family(name, "gauge", help);
            for (source, (view, remarks)) in &sources {
                let (source, value) = (source.as_str(), count(read(view, *remarks)));
                text.line(format_args!("{name}{{source=\"{source}\"}} {value}"));
            }
        }
    }

    fn listeners(&self, text: &mut Text) {
        let listeners = self.view.listeners();
        let name = "sidecar_listener_events_total";
        text.family(
            name,
            "counter",
            "Events for webhooks: delivered, failed requests, merged with later ones.",
        );
        for (listener, view) in &listeners {
            let listener = label(listener);
            for (result, count) in [
                ("delivered", view.delivered),
                ("failed", view.failed),
                ("merged", view.merged),
            ] {
                text.line(format_args!(
                    "{name}{{listener=\"{listener}\",result=\"{result}\"}} {count}"
                ));
            }
        }
    }

    fn checks(&self, text: &mut Text) {
        let name = "sidecar_checks";
        text.family(
            name,
            "gauge",
            "Checks of this host's instances, by kind and by what they say.",
        );
        for ((kind, status), count) in self.view.check_counts() {
            text.line(format_args!(
                "{name}{{kind=\"{kind}\",status=\"{status}\"}} {count}"
            ));
        }
        let results = self.view.check_results();
        let name = "sidecar_check_results_total";
        text.family(name, "counter", "Results of checks, by kind.");
        for (kind, results) in &results {
            for (result, count) in [("passed", results.passed), ("failed", results.failed)] {
                text.line(format_args!(
                    "{name}{{kind=\"{kind}\",result=\"{result}\"}} {count}"
                ));
            }
        }
        let name = "sidecar_check_duration_seconds_total";
        text.family(name, "counter", "The time all checks took, by kind.");
        for (kind, results) in &results {
            let seconds = results.duration.as_secs_f64();
            text.line(format_args!("{name}{{kind=\"{kind}\"}} {seconds}"));
        }
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
        let name = "sidecar_exchanges_total";
        text.family(
            name,
            "counter",
            "State exchanges begun with agents of our kind, by whether both knew the same.",
        );
        for (result, counter) in [
            ("same", &counters.exchanges_same),
            ("different", &counters.exchanges_different),
        ] {
            let count = counter.load(Ordering::Relaxed);
            text.line(format_args!("{name}{{result=\"{result}\"}} {count}"));
        }
        text.single(
            "sidecar_changes_total",
            "counter",
            "Changes that readers saw.",
            counters.changes.load(Ordering::Relaxed),
        );
        text.single(
            "sidecar_name_conflicts_total",
            "counter",
            "Reports that another live host claims this host's name.",
            counters.name_conflicts.load(Ordering::Relaxed),
        );
        let name = "sidecar_clock_correction_seconds";
        text.family(
            name,
            "gauge",
            "Added to this host's clock; 0 while it is near the cluster's time.",
        );
        let correction = counters.clock_correction_seconds.load(Ordering::Relaxed);
        text.line(format_args!("{name} {correction}"));
    }

    fn membership(&self, text: &mut Text) {
        let stats = self.gossip.stats();
        let node = &stats.node;
        for (name, help, value) in [
            (
                "packets_received_total",
                "Datagrams received.",
                stats.packets_in,
            ),
            (
                "bytes_received_total",
                "Bytes of datagrams received.",
                stats.bytes_in,
            ),
            ("packets_sent_total", "Datagrams sent.", stats.packets_out),
            (
                "bytes_sent_total",
                "Bytes of datagrams sent.",
                stats.bytes_out,
            ),
            (
                "packets_unsent_total",
                "Datagrams the system would not send.",
                stats.packets_unsent,
            ),
            (
                "streams_accepted_total",
                "Connections accepted.",
                stats.streams_in,
            ),
            (
                "streams_refused_total",
                "Connections over the limit.",
                stats.streams_refused,
            ),
            (
                "packets_not_allowed_total",
                "Datagrams from outside SIDECAR_GOSSIP_ALLOW.",
                stats.packets_not_allowed,
            ),
            (
                "streams_not_allowed_total",
                "Connections from outside SIDECAR_GOSSIP_ALLOW.",
                stats.streams_not_allowed,
            ),
            (
                "entries_skipped_total",
                "Invalid entries in peers' tables.",
                stats.entries_skipped,
            ),
            (
                "pings_for_others_total",
                "Pings meant for another host at this address.",
                node.pings_for_others + stats.stream_pings_for_others,
            ),
            (
                "streams_opened_total",
                "Connections opened.",
                stats.streams_out,
            ),
            (
                "streams_failed_total",
                "Connections that ended early.",
                stats.streams_failed,
            ),
            (
                "exchanges_begun_total",
                "State exchanges begun here.",
                stats.exchanges_out,
            ),
            (
                "exchanges_answered_total",
                "State exchanges begun by peers.",
                stats.exchanges_in,
            ),
            (
                "messages_dropped_total",
                "Messages dropped, queue full.",
                stats.messages_dropped,
            ),
            (
                "states_dropped_total",
                "Peers' states dropped, queue full.",
                stats.states_dropped,
            ),
            (
                "broadcasts_dropped_total",
                "Broadcasts dropped.",
                stats.broadcasts_dropped,
            ),
            (
                "probes_succeeded_total",
                "Probes answered.",
                node.probes_succeeded,
            ),
            (
                "probes_failed_total",
                "Probes not answered.",
                node.probes_failed,
            ),
            ("suspicions_total", "Members suspected.", node.suspicions),
            (
                "deaths_declared_total",
                "Members declared dead here.",
                node.deaths_declared,
            ),
            (
                "refutations_total",
                "Accusations of this host refuted.",
                node.refutations,
            ),
            (
                "conflicts_total",
                "Claims of a name from a second address.",
                node.conflicts,
            ),
            (
                "late_wakeups_total",
                "Pauses of this process noticed.",
                node.late_wakeups,
            ),
        ] {
            text.single(&format!("sidecar_gossip_{name}"), "counter", help, value);
        }
        let name = "sidecar_gossip_malformed_total";
        text.family(
            name,
            "counter",
            "Unreadable input from the network, by kind.",
        );
        for (kind, count) in &stats.malformed {
            text.line(format_args!("{name}{{kind=\"{}\"}} {count}", label(kind)));
        }
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        for (name, help, value) in [
            (
                "health_score",
                "Local health: 0 is healthy, 7 the worst.",
                stats.health_score.into(),
            ),
            (
                "membership_queue",
                "Announcements to transmit.",
                count(stats.membership_queue),
            ),
            (
                "record_queue",
                "Records to transmit.",
                count(stats.user_queue),
            ),
            (
                "keys",
                "Gossip keys installed; 0 is plain text.",
                count(self.gossip.keys().len()),
            ),
        ] {
            text.single(&format!("sidecar_gossip_{name}"), "gauge", help, value);
        }
    }

    fn haproxy(&self, text: &mut Text) {
        let Some(haproxy) = self.view.haproxy() else {
            return;
        };
        text.single(
            "sidecar_haproxy_applied",
            "gauge",
            "Whether HAProxy runs what it should.",
            u64::from(haproxy.state == State::Applied),
        );
        if let Some(is_running) = haproxy.is_running {
            text.single(
                "sidecar_haproxy_running",
                "gauge",
                "Whether a process of HAProxy runs.",
                is_running.into(),
            );
        }
        text.single(
            "sidecar_haproxy_reloads_total",
            "counter",
            "Reloads and starts of HAProxy.",
            haproxy.reloads,
        );
        text.single(
            "sidecar_haproxy_revivals_total",
            "counter",
            "How often HAProxy was found dead and started again.",
            haproxy.revivals,
        );
        text.single(
            "sidecar_haproxy_repairs_total",
            "counter",
            "Differences found in what HAProxy holds and set right; runtime mode.",
            haproxy.repairs,
        );
        let name = "sidecar_haproxy_failures_total";
        text.family(name, "counter", "What failed, by step.");
        for (step, count) in &haproxy.failures {
            text.line(format_args!("{name}{{step=\"{step}\"}} {count}"));
        }
    }

    fn kernel(&self, text: &mut Text) {
        let Some(kernel) = self.view.kernel() else {
            return;
        };
        text.single(
            "sidecar_kernel_applied",
            "gauge",
            "Whether the kernel holds the rules it should.",
            u64::from(kernel.state == KernelState::Applied),
        );
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        for (name, help, value) in [
            (
                "services",
                "Services that the kernel serves.",
                count(kernel.services),
            ),
            (
                "services_left_to_builtin",
                "Services in mode tcp that the built-in proxy serves.",
                count(kernel.left_to_builtin.len()),
            ),
            (
                "dead_endpoints",
                "Endpoints whose connections are cut.",
                count(kernel.dead_endpoints),
            ),
        ] {
            text.single(&format!("sidecar_kernel_{name}"), "gauge", help, value);
        }
        for (name, help, value) in [
            (
                "transactions",
                "Batches of changes that the kernel took.",
                kernel.transactions,
            ),
            (
                "failures",
                "Batches of changes that the kernel did not take.",
                kernel.failures,
            ),
            (
                "repairs",
                "Differences found in what the kernel holds and set right.",
                kernel.repairs,
            ),
        ] {
            text.single(
                &format!("sidecar_kernel_{name}_total"),
                "counter",
                help,
                value,
            );
        }
        for (name, kind, help, value) in [
            (
                "sidecar_kernel_apply_seconds_total",
                "counter",
                "The time all changes took, from the routes to the kernel's answer.",
                kernel.apply_total,
            ),
            (
                "sidecar_kernel_last_apply_seconds",
                "gauge",
                "The time the last change took.",
                kernel.last_apply,
            ),
        ] {
            text.family(name, kind, help);
            text.line(format_args!("{name} {}", value.as_secs_f64()));
        }
        type Read = fn(&KernelEndpoint) -> u64;
        let families: [(&str, &str, Read); 3] = [
            ("connections", "Connections sent to an endpoint.", |it| {
                it.connections
            }),
            (
                "packets",
                "Packets of an endpoint's connections, both ways.",
                |it| it.packets,
            ),
            ("bytes", "Bytes of these packets, headers included.", |it| {
                it.bytes
            }),
        ];
        for (name, help, read) in families {
            let name = format!("sidecar_kernel_{name}_total");
            text.family(&name, "counter", help);
            for (service_port, port) in kernel.ports.iter() {
                for endpoint in &port.endpoints {
                    text.line(format_args!(
                        "{name}{{service_port=\"{service_port}\",service=\"{}\",endpoint=\"{}\"}} {}",
                        label(&port.service),
                        endpoint.address,
                        read(endpoint)
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
