//! What Envoy is told, as resources: one cluster, one set of endpoints and one listener for each service and
//! ServicePort, all three under the name `<service>:<ServicePort>`. Pure.
//!
//! A resource is encoded when what it is made of changes, and never again: all streams share it. Its version is
//! a hash of its bytes, so the same content has the same version on every host and after every restart.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use catalog::{ProxyMode, Snapshot};
use prost::Name as _;
use rpds::RedBlackTreeMapSync;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    draining::Draining,
    encode,
    knobs::{Knobs, ServiceKnobs},
};
use crate::{
    proxy::is_listener,
    routes::{Endpoint, Route, Routes, changed_ports},
};

/// Publications whose changes are remembered; who is further behind compares everything.
const STEPS_MAX: usize = 64;

/// A type of resource, in the order in which new ones are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `Cluster`: that there is a service.
    Cluster,
    /// `ClusterLoadAssignment`: where its instances are.
    Endpoints,
    /// `Listener`: the port it is reached at.
    Listener,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cluster, Self::Endpoints, Self::Listener];

    /// The one word for programs: `cluster`, `endpoints` or `listener`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
            Self::Listener => "listener",
        }
    }

    /// Its name on the wire.
    pub fn type_url(self) -> String {
        use envoy_types::pb::envoy::config::{
            cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
        };
        match self {
            Self::Cluster => Cluster::type_url(),
            Self::Endpoints => ClusterLoadAssignment::type_url(),
            Self::Listener => Listener::type_url(),
        }
    }

    /// The one with this name on the wire.
    pub fn of_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// One encoded resource.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// `<service>:<ServicePort>`.
    pub name: Arc<str>,
    /// Hash of `encoded`, 16 hexadecimal digits.
    pub version: String,
    /// The message, without its type.
    pub encoded: Vec<u8>,
}

impl Resource {
    pub(super) fn new(name: &Arc<str>, encoded: Vec<u8>) -> Self {
        Self {
            name: name.clone(),
            version: format!("{:016x}", xxh3_64(&encoded)),
            encoded,
        }
    }
}

/// The ServicePort in a resource's name.
pub(super) fn port_of(name: &str) -> Option<u16> {
    name.rsplit_once(':')?.1.parse().ok()
}

/// What one publication changed.
type Step = Arc<Vec<(Kind, Arc<str>)>>;

/// All resources at one time. Cloning is cheap; consecutive ones share what did not change.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// Grows by one with every publication.
    pub number: u64,
    by_kind: [RedBlackTreeMapSync<Arc<str>, Arc<Resource>>; 3],
    /// What the latest publications changed, the latest last.
    steps: VecDeque<Step>,
}

impl Resources {
    /// One resource.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Arc<Resource>> {
        self.by_kind[kind.index()].get(name)
    }

    /// All of a kind, by name.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_kind[kind.index()].values()
    }

    /// How many there are of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.by_kind[kind.index()].size()
    }

    /// What changed since the publication with that number; `None` when that is not remembered.
    pub(super) fn changed_since(
        &self,
        number: u64,
    ) -> Option<impl Iterator<Item = &(Kind, Arc<str>)>> {
        let behind = usize::try_from(self.number.checked_sub(number)?).ok()?;
        let first = self.steps.len().checked_sub(behind)?;
        Some(self.steps.range(first..).flat_map(|step| step.iter()))
    }

    /// Puts resources in place, or takes them away; whether anything is different then.
    pub(super) fn apply(
        &mut self,
        changes: impl IntoIterator<Item = (Kind, Arc<str>, Option<Resource>)>,
    ) -> bool {
        let mut step = Vec::new();
        for (kind, name, resource) in changes {
            let held = &mut self.by_kind[kind.index()];
            match resource {
                Some(resource) if held.get(&name).is_some_and(|it| **it == resource) => continue,
                Some(resource) => held.insert_mut(name.clone(), Arc::new(resource)),
                None if !held.remove_mut(&name) => continue,
                None => {}
            }
            step.push((kind, name));
        }
        if step.is_empty() {
            return false;
        }
        self.number += 1;
        self.steps.push_back(Arc::new(step));
        if self.steps.len() > STEPS_MAX {
            self.steps.pop_front();
        }
        true
    }
}

/// A service at a ServicePort.
pub(super) type Key = (u16, String);

/// Makes resources of routes, anew only what a change concerns.
#[derive(Debug)]
pub struct Composer {
    bind: IpAddr,
    routes: Arc<Routes>,
    draining: Draining,
    knobs: Arc<Knobs>,
    /// Addresses of hosts, in hostname mode.
    hosts: Arc<BTreeMap<String, IpAddr>>,
    resources: Resources,
}

impl Composer {
    /// One without any resources, whose listeners are at `bind`.
    pub fn new(bind: IpAddr) -> Self {
        Self {
            bind,
            routes: Arc::default(),
            draining: Draining::default(),
            knobs: Arc::default(),
            hosts: Arc::default(),
            resources: Resources::default(),
        }
    }

    /// What was made last.
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// Follows to newer routes and a snapshot that is at least as new; whether resources differ.
    pub fn follow(&mut self, routes: &Arc<Routes>, snapshot: &Arc<Snapshot>) -> bool {
        let mut touched = self.draining.follow(snapshot);
        for (port, _) in changed_ports(&self.routes.by_port, &routes.by_port) {
            for routes in [&self.routes, routes] {
                let route = routes.by_port.get(&port);
                touched.extend(route.map(|route| (port, route.service.clone())));
            }
        }
        self.routes = routes.clone();
        self.compose(touched)
    }

    /// From now on services have these settings; whether resources differ.
    pub fn set_knobs_if_others(&mut self, knobs: &Arc<Knobs>) -> bool {
        if self.knobs == *knobs {
            return false;
        }
        self.knobs = knobs.clone();
        self.compose(self.all_keys())
    }

    /// From now on the endpoints on these hosts are at these addresses; whether resources differ.
    pub fn set_hosts(&mut self, hosts: Arc<BTreeMap<String, IpAddr>>) -> bool {
        let differs = |it: &Endpoint| self.hosts.get(&it.hostname) != hosts.get(&it.hostname);
        let routed = self.routes.by_port.iter();
        let routed = routed.filter(|(_, route)| route.endpoints.iter().any(differs));
        let mut touched: BTreeSet<Key> = routed
            .map(|(port, route)| (*port, route.service.clone()))
            .collect();
        touched.extend(self.draining.keys().cloned());
        self.hosts = hosts;
        self.compose(touched)
    }

    /// The hosts of all endpoints.
    pub(super) fn hostnames(&self) -> BTreeSet<&str> {
        let routed = self.routes.by_port.values();
        let routed = routed.flat_map(|route| &route.endpoints);
        let all = routed.chain(self.draining.endpoints());
        all.map(|it| it.hostname.as_str()).collect()
    }

    fn all_keys(&self) -> BTreeSet<Key> {
        let routed = self.routes.by_port.iter();
        let routed = routed.map(|(port, route)| (*port, route.service.clone()));
        routed.chain(self.draining.keys().cloned()).collect()
    }

    fn compose(&mut self, keys: BTreeSet<Key>) -> bool {
        let changes: Vec<_> = keys.iter().flat_map(|key| self.of_service(key)).collect();
        self.resources.apply(changes)
    }

    /// The three resources of a service at a port; those it does not have are `None`.
    fn of_service(&self, key: &Key) -> [(Kind, Arc<str>, Option<Resource>); 3] {
        let (port, service) = key;
        let name: Arc<str> = format!("{service}:{port}").into();
        let route = self.routes.by_port.get(port);
        let route = route.filter(|it| it.service == *service);
        let knobs = self.knobs.of(service);
        let endpoints = self.endpoints(*port, route, self.draining.of(key));
        let serves = endpoints.values().any(|it| !it.drains);
        let listener = route.filter(|_| serves).map(|it| it.mode);
        let [cluster, assignment, listener] = if endpoints.is_empty() {
            [None, None, None]
        } else {
            self.encoded(&name, key, &endpoints, listener, &knobs)
        };
        [
            (Kind::Cluster, name.clone(), cluster),
            (Kind::Endpoints, name.clone(), assignment),
            (Kind::Listener, name, listener),
        ]
    }

    fn encoded(
        &self,
        name: &Arc<str>,
        (port, service): &Key,
        endpoints: &BTreeMap<SocketAddr, Share>,
        mode: Option<ProxyMode>,
        knobs: &ServiceKnobs,
    ) -> [Option<Resource>; 3] {
        let address = SocketAddr::new(self.bind, *port);
        let listener = mode.map(|mode| encode::listener(name, service, address, mode, knobs));
        [
            Some(encode::cluster(name, knobs)),
            Some(encode::assignment(name, endpoints)),
            listener,
        ]
        .map(|encoded| encoded.map(|encoded| Resource::new(name, encoded)))
    }

    /// By address, since Envoy knows endpoints by nothing else. Instances that share one are one endpoint with
    /// the largest of their weights; one that announces the listener itself is left out, as in all planes.
    fn endpoints(
        &self,
        port: u16,
        route: Option<&Arc<Route>>,
        draining: &BTreeSet<Endpoint>,
    ) -> BTreeMap<SocketAddr, Share> {
        let listener = SocketAddr::new(self.bind, port);
        let mut shares = BTreeMap::<SocketAddr, Share>::new();
        let alive = route.into_iter().flat_map(|route| &route.endpoints);
        let alive = alive.filter(|it| !draining.contains(it));
        let all = alive
            .map(|it| (it, false))
            .chain(draining.iter().map(|it| (it, true)));
        for (endpoint, drains) in all {
            let mut address = endpoint.address;
            if is_listener(listener, address) {
                continue;
            }
            if let Some(ip) = self.hosts.get(&endpoint.hostname) {
                address.set_ip(*ip);
            }
            let weight = u32::from(endpoint.weight);
            let share = shares.entry(address).or_insert(Share { weight: 0, drains });
            if share.drains == drains {
                share.weight = share.weight.max(weight);
            }
        }
        shares
    }
}

/// What one address gets of a service's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) weight: u32,
    /// Nothing new, and what it has goes on.
    pub(super) drains: bool,
}

#[cfg(test)]
mod tests;
