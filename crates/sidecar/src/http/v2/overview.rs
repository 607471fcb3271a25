//! `/api/v2/overview`: the agent and its cluster at a glance.

use std::{collections::BTreeMap, net::IpAddr, time::SystemTime};

use catalog::{Snapshot, Timestamp};
use serde::Serialize;

use super::{
    AGENT_VERSION, Counts,
    forms::{ByStatus, text, time},
    hosts::StateCounts,
};
use crate::{
    http::Api,
    local_view::SourceView,
    proxy::builtin::{ListenState, PlaneStatus},
};

#[derive(Serialize)]
struct Document<'a> {
    agent_version: &'static str,
    hostname: &'a str,
    cluster_name: &'a str,
    #[serde(serialize_with = "time")]
    started: Timestamp,
    #[serde(serialize_with = "time")]
    now: Timestamp,
    version: u64,
    ready: bool,
    awaited: Vec<&'static str>,
    /// Whether gossip is.
    encrypted: bool,
    proxy: ProxyForm,
    hosts: StateCounts,
    instances: ByStatus,
    services: usize,
    sources: BTreeMap<&'static str, SourceView>,
    trouble: Vec<String>,
}

#[derive(Serialize)]
struct ProxyForm {
    plane: &'static str,
    bind_ip: Option<IpAddr>,
}

/// The document.
pub(super) fn encode(api: &Api, snapshot: &Snapshot, counts: &Counts) -> String {
    let awaited = api.ready.borrow().clone();
    let sources = api.local.sources().into_iter();
    let sources: BTreeMap<_, _> = sources
        .map(|(name, (view, _))| (name.as_str(), view))
        .collect();
    text(&Document {
        agent_version: AGENT_VERSION,
        hostname: &snapshot.hostname,
        cluster_name: &snapshot.cluster_name,
        started: api.journal.started(),
        now: SystemTime::now().into(),
        version: snapshot.changes,
        ready: awaited.is_empty(),
        awaited,
        encrypted: (api.encrypted)(),
        proxy: ProxyForm {
            plane: api.proxy.plane,
            bind_ip: api.proxy.bind_ip,
        },
        hosts: api.hosts.document().counts,
        instances: counts.instances,
        services: counts.services,
        trouble: trouble(api, &sources),
        sources,
    })
}

/// What is wrong with this agent, a sentence each.
fn trouble(api: &Api, sources: &BTreeMap<&'static str, SourceView>) -> Vec<String> {
    let mut all = Vec::new();
    for (name, view) in sources {
        all.extend(view.trouble.iter().map(|it| format!("{name}: {it}")));
    }
    for (name, view) in api.local.listeners() {
        all.extend(view.trouble.map(|it| format!("listener {name}: {it}")));
    }
    let haproxy = api.local.haproxy();
    let haproxy = haproxy.and_then(|it| it.trouble.clone());
    all.extend(haproxy.map(|it| format!("haproxy: {it}")));
    let kernel = api.local.kernel();
    let kernel = kernel.and_then(|it| it.trouble.clone());
    all.extend(kernel.map(|it| format!("kernel: {it}")));
    all.extend(ports(&api.plane.borrow().clone()));
    all
}

/// Service ports that nobody can connect to.
fn ports(plane: &PlaneStatus) -> Vec<String> {
    let ports = plane.ports.iter();
    ports
        .filter_map(|(service_port, port)| match &port.listen {
            ListenState::Failed(error) => {
                Some(format!("port {service_port} ({}): {error}", port.service))
            }
            ListenState::Starting | ListenState::Listening => None,
        })
        .collect()
}
