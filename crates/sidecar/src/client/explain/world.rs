//! What an agent knows, fetched once: the documents that an explanation is made of.

use crate::discovery::docker::Sighting;

use super::super::{
    Failure,
    api::Agent,
    documents::{Check, Host, Hosts, Instance, Instances, Local, Overview, Proxy, Routes},
};

/// All of it. The documents are fetched one after the other, so that they may be a moment apart.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) overview: Overview,
    pub(super) instances: Vec<Instance>,
    pub(super) hosts: Vec<Host>,
    pub(super) routes: Routes,
    pub(super) local: Local,
    pub(super) proxy: Proxy,
    /// The containers of this host; fetched only for what nobody announces.
    pub(super) containers: Vec<Sighting>,
    /// Port of the API of this agent, and most likely of others.
    pub(super) api_port: u16,
}

impl World {
    pub(super) async fn fetch(agent: &Agent) -> Result<Self, Failure> {
        let instances: Instances = agent.get("/api/v2/instances").await?.read()?;
        let hosts: Hosts = agent.get("/api/v2/hosts").await?.read()?;
        Ok(Self {
            overview: agent.get("/api/v2/overview").await?.read()?,
            instances: instances.instances,
            hosts: hosts.hosts,
            routes: agent.get("/api/v2/routes").await?.read()?,
            local: agent.get("/api/v2/local").await?.read()?,
            proxy: agent.get("/api/v2/proxy").await?.read()?,
            containers: Vec::new(),
            api_port: agent.place.address.port,
        })
    }

    /// Whether the agent itself announces the instance. A static file may name hosts that are none.
    pub(super) fn is_own(&self, instance: &Instance) -> bool {
        instance.hostname == self.overview.hostname || self.check(instance).is_some()
    }

    /// What the agent's check of it says, if it is the agent that checks it.
    pub(super) fn check(&self, instance: &Instance) -> Option<&Check> {
        self.local
            .checks
            .get(&instance.id)
            .filter(|check| !check.kind.is_empty() && !instance.is_gone())
    }

    pub(super) fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// The command that explains an instance where it runs.
    pub(super) fn explain_there(&self, instance: &Instance) -> String {
        let ip = self.host(&instance.hostname).and_then(|host| {
            let address = host.address.as_ref()?;
            // Only an address: this becomes part of a command that people paste.
            let ip = address.parse::<std::net::IpAddr>().ok();
            ip.or_else(|| Some(address.parse::<std::net::SocketAddr>().ok()?.ip()))
        });
        let id = &instance.id;
        match ip {
            Some(ip) => {
                let address = std::net::SocketAddr::new(ip, self.api_port);
                format!("sidecar explain {id} --addr {address}")
            }
            None => format!("on {}: sidecar explain {id}", instance.hostname),
        }
    }

    /// Remarks of this host that mention any of the words.
    pub(super) fn remarks(&self, words: &[&str]) -> Vec<(&str, &str)> {
        let mentions = |text: &str| words.iter().any(|word| mentions(text, word));
        let mut found = Vec::new();
        for remarked in &self.local.remarks {
            let by_subject = mentions(&remarked.subject);
            for remark in &remarked.remarks {
                if by_subject || mentions(remark) {
                    found.push((remarked.subject.as_str(), remark.as_str()));
                }
            }
        }
        found
    }
}

/// Whether a text holds the word, not as a part of a longer one.
pub(super) fn mentions(text: &str, word: &str) -> bool {
    let is_part = |char: char| char.is_alphanumeric() || matches!(char, '-' | '_' | '.');
    !word.is_empty()
        && text.match_indices(word).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + word.len()..].chars().next();
            !before.is_some_and(is_part) && !after.is_some_and(is_part)
        })
}
