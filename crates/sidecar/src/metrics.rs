//! What is counted, as Prometheus text. Read at each scrape; nothing is kept here.

mod envoy;
mod gossip;
mod haproxy;
mod kernel;
mod plane;
mod process;
pub(crate) mod statsd;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use catalog::{Snapshot, Status};
use tokio::sync::watch;

use crate::{
    cluster::core::Counters,
    local_view::{LocalView, SourceView},
    proxy::builtin::PlaneStatus,
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
    /// Names of the parts that are still awaited; empty means ready.
    pub ready: watch::Receiver<Vec<&'static str>>,
    /// When the agent started.
    pub started: SystemTime,
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
        self.process(&mut text);
        self.catalog(&mut text);
        self.registry(&mut text);
        self.steps(&mut text);
        self.membership(&mut text);
        plane::render(&self.plane.borrow().clone(), &mut text);
        self.haproxy(&mut text);
        self.kernel(&mut text);
        self.envoy(&mut text);
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

    fn steps(&self, text: &mut Text) {
        let timings = &self.counters.timings;
        let steps = [
            ("message", &timings.message),
            ("merge", &timings.merge),
            ("announce", &timings.announce),
            ("withdraw", &timings.withdraw),
            ("send", &timings.send),
            ("expire", &timings.expire),
        ];
        let name = "sidecar_writer_steps_total";
        text.family(name, "counter", "Steps of the catalog's writer, by kind.");
        for (step, timing) in steps {
            let (count, _) = timing.read();
            text.line(format_args!("{name}{{step=\"{step}\"}} {count}"));
        }
        let name = "sidecar_writer_seconds_total";
        text.family(name, "counter", "The time these steps took, by kind.");
        for (step, timing) in steps {
            let seconds = timing.read().1 as f64 / 1e6;
            text.line(format_args!("{name}{{step=\"{step}\"}} {seconds}"));
        }
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
}

#[cfg(test)]
mod tests;
