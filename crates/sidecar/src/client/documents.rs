//! The API's documents as far as commands read them. What an older or newer agent leaves out or adds does not
//! matter where there is a sensible default.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Numbers of instances by status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    pub(super) alive: u64,
    pub(super) unhealthy: u64,
    pub(super) unknown: u64,
    pub(super) draining: u64,
    pub(super) tombstone: u64,
}

impl Counts {
    /// Headings of [`Counts::cells`].
    pub(super) const HEADINGS: [&str; 5] = ["ALIVE", "UNHEALTHY", "UNKNOWN", "DRAINING", "GONE"];

    pub(super) fn cells(self) -> [String; 5] {
        [
            self.alive,
            self.unhealthy,
            self.unknown,
            self.draining,
            self.tombstone,
        ]
        .map(|count| count.to_string())
    }
}

/// `/api/v2/overview`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Overview {
    #[serde(default)]
    pub(super) agent_version: String,
    pub(super) hostname: String,
    /// The agent's clock.
    pub(super) now: String,
    pub(super) ready: bool,
    #[serde(default)]
    pub(super) awaited: Vec<String>,
    #[serde(default)]
    pub(super) proxy: Plane,
    #[serde(default)]
    pub(super) trouble: Vec<String>,
}

/// The data plane of a host.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Plane {
    pub(super) plane: String,
    pub(super) bind_ip: String,
}

/// `/api/v2/services`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Services {
    pub(super) services: Vec<ServiceSummary>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct ServiceSummary {
    pub(super) name: String,
    #[serde(default)]
    pub(super) instances: Counts,
    #[serde(default)]
    pub(super) hosts: u64,
    #[serde(default)]
    pub(super) service_ports: Vec<u16>,
    #[serde(default)]
    pub(super) mode: String,
}

/// `/api/v2/instances` and `/api/v2/services/NAME`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Instances {
    pub(super) instances: Vec<Instance>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Instance {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) version: String,
    pub(super) hostname: String,
    pub(super) status: String,
    #[serde(default)]
    pub(super) created: String,
    #[serde(default)]
    pub(super) updated: String,
    #[serde(default)]
    pub(super) mode: String,
    #[serde(default)]
    pub(super) ports: Vec<Port>,
}

impl Instance {
    /// Whether it is only remembered.
    pub(super) fn is_gone(&self) -> bool {
        self.status == "Tombstone"
    }

    /// The service ports it claims, each once.
    pub(super) fn service_ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self
            .ports
            .iter()
            .map(|port| port.service_port)
            .filter(|port| *port != 0)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Port {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) port: u16,
    pub(super) service_port: u16,
    pub(super) ip: String,
}

/// `/api/v2/hosts`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Hosts {
    pub(super) hosts: Vec<Host>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) address: Option<String>,
    #[serde(default)]
    pub(super) own: bool,
    pub(super) state: String,
    #[serde(default)]
    pub(super) kind: String,
    pub(super) last_updated: Option<String>,
    #[serde(default)]
    pub(super) instances: Counts,
}

/// `/api/v2/routes`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Routes {
    pub(super) routes: Vec<Route>,
    #[serde(default)]
    pub(super) excluded: Vec<Exclusion>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Route {
    pub(super) service_port: u16,
    pub(super) service: String,
    pub(super) mode: String,
    pub(super) endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Endpoint {
    pub(super) hostname: String,
    pub(super) id: String,
    pub(super) address: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Exclusion {
    pub(super) service_port: u16,
    pub(super) service: String,
    pub(super) hostname: String,
    pub(super) id: String,
    pub(super) reason: String,
    pub(super) explanation: String,
}

/// `/api/v2/local`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Local {
    pub(super) sources: BTreeMap<String, Source>,
    pub(super) remarks: Vec<Remarked>,
    pub(super) checks: BTreeMap<String, Check>,
    pub(super) haproxy: Option<Driven>,
    pub(super) kernel: Option<Driven>,
    pub(super) envoy: Option<Fed>,
}

/// Envoys that are told what to serve.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fed {
    pub(super) trouble: Option<String>,
    /// One for each Envoy.
    pub(super) streams: Vec<serde_json::Value>,
    /// What they do not take.
    pub(super) rejected: Vec<Rejected>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Rejected {
    pub(super) kind: String,
    pub(super) name: String,
}

/// A data plane that is not the built-in one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Driven {
    pub(super) state: String,
    pub(super) trouble: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Source {
    pub(super) state: String,
    pub(super) trouble: Option<String>,
    pub(super) instances: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Remarked {
    pub(super) source: String,
    pub(super) subject: String,
    pub(super) remarks: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Check {
    pub(super) kind: String,
    pub(super) args: String,
    pub(super) notices: Vec<String>,
    pub(super) status: String,
    pub(super) in_a_row: u64,
    pub(super) rise: u32,
    pub(super) last: Option<Evidence>,
    pub(super) damped: Option<Damped>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Evidence {
    pub(super) healthy: bool,
    pub(super) age_ms: f64,
    pub(super) duration_ms: f64,
    pub(super) summary: String,
    pub(super) output: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Damped {
    pub(super) rule: String,
    pub(super) until: String,
}

/// `/api/v2/proxy`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Proxy {
    pub(super) ports: Vec<ProxyPort>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ProxyPort {
    pub(super) service_port: u16,
    pub(super) service: String,
    pub(super) listening: bool,
    pub(super) trouble: Option<String>,
    pub(super) endpoints: Vec<ProxyEndpoint>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ProxyEndpoint {
    pub(super) address: String,
    pub(super) avoided: bool,
    pub(super) connect_failures: u64,
}

/// One change, of `/api/v2/events`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Change {
    pub(super) at: String,
    pub(super) latency_ms: Option<f64>,
    #[serde(default)]
    pub(super) derived: bool,
    pub(super) previous: Option<String>,
    pub(super) instance: Instance,
}

/// The answer to a drain or undrain.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Commanded {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) hostname: String,
    pub(super) status: String,
    pub(super) until: Option<String>,
    pub(super) applied: Option<Applied>,
}

/// Which hosts say that they act on it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Applied {
    pub(super) confirmed: Vec<String>,
    pub(super) unconfirmed: Vec<String>,
    pub(super) not_asked: Vec<String>,
}
