//! The decision itself, made anew only for what a snapshot changed: the services of the instances that
//! differ, and the ports these services claim or claimed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use catalog::{Port, Protocol, ProxyMode, Service, Snapshot, Timestamp};

use super::{Endpoint, Exclusion, ExclusionReason, Route, Routes};

/// Decides routes from one snapshot after the other.
#[derive(Debug, Default)]
pub struct Router {
    pub(super) routes: Routes,
    seen: Option<Snapshot>,
    /// Services with an alive instance that offers a ServicePort.
    services: BTreeMap<String, Instances>,
    /// The names that claim each ServicePort.
    claimants: BTreeMap<u16, BTreeSet<String>>,
    /// Instances whose ServicePort belongs to another service.
    outranked: BTreeMap<u16, Vec<Exclusion>>,
}

/// The alive instances of one service, and what was decided about them alone.
#[derive(Debug, Default)]
struct Instances {
    offers: Vec<Offer>,
    /// What those of the service's mode claim.
    claims: BTreeMap<u16, Vec<Claim>>,
    excluded: Vec<Exclusion>,
}

/// What one alive instance offers.
#[derive(Debug)]
struct Offer {
    service: Arc<Service>,
    mode: Option<ProxyMode>,
    addresses: Vec<(u16, SocketAddr)>,
    /// ServicePorts that none of its ports can serve.
    refused: Vec<Exclusion>,
}

/// One alive instance that offers one ServicePort at one address.
#[derive(Debug)]
struct Claim {
    service: Arc<Service>,
    address: SocketAddr,
}

/// What decides between instances: the oldest, then by host and ID.
type Seniority<'a> = (Timestamp, &'a str, &'a str);

fn seniority(service: &Service) -> Seniority<'_> {
    (service.created, &service.hostname, &service.id)
}

impl Router {
    /// The routes of `snapshot`: the same as [`Routes::of`] gives, whatever was followed before.
    pub fn follow(&mut self, snapshot: &Snapshot) -> &Routes {
        let nothing = Snapshot::empty("", "");
        let older = self.seen.take().unwrap_or(nothing);
        let mut names = BTreeSet::new();
        for difference in snapshot.changes_since(&older) {
            if let Some(before) = difference.before {
                names.extend(self.remove(before));
            }
            if let Some(after) = difference.after {
                names.extend(self.add(after));
            }
        }
        self.seen = Some(snapshot.clone());

        let mut ports = BTreeSet::new();
        let mut exclusions_change = false;
        for name in &names {
            exclusions_change |= self.settle_service(name, &mut ports);
        }
        for &port in &ports {
            exclusions_change |= self.settle_port(port);
        }
        if exclusions_change {
            self.gather_exclusions();
        }
        &self.routes
    }

    /// Forgets an instance; the name of its service when that concerns anybody.
    fn remove(&mut self, service: &Arc<Service>) -> Option<String> {
        let instances = self.services.get_mut(&service.name)?;
        let before = instances.offers.len();
        instances
            .offers
            .retain(|offer| !Arc::ptr_eq(&offer.service, service));
        (instances.offers.len() < before).then(|| service.name.clone())
    }

    /// Learns of an instance; the name of its service when that concerns anybody.
    fn add(&mut self, service: &Arc<Service>) -> Option<String> {
        let offer = service.is_alive().then(|| Offer::of(service))?;
        if offer.addresses.is_empty() && offer.refused.is_empty() {
            return None;
        }
        let instances = self.services.entry(service.name.clone()).or_default();
        instances.offers.push(offer);
        Some(service.name.clone())
    }

    /// Decides mode and claims of a service, and adds the ports this may concern. Whether there were or
    /// are exclusions.
    fn settle_service(&mut self, name: &str, ports: &mut BTreeSet<u16>) -> bool {
        let Some(instances) = self.services.get_mut(name) else {
            return false;
        };
        let old_claims = std::mem::take(&mut instances.claims);
        let had_exclusions = !instances.excluded.is_empty();
        instances.decide();
        let has_exclusions = !instances.excluded.is_empty();
        for port in old_claims.keys() {
            if !instances.claims.contains_key(port)
                && let Some(names) = self.claimants.get_mut(port)
            {
                names.remove(name);
            }
        }
        for port in instances.claims.keys() {
            let names = self.claimants.entry(*port).or_default();
            if !names.contains(name) {
                names.insert(name.to_owned());
            }
        }
        ports.extend(old_claims.keys().chain(instances.claims.keys()));
        if instances.offers.is_empty() {
            self.services.remove(name);
        }
        had_exclusions || has_exclusions
    }

    /// Decides the owner and the route of a port. Whether there were or are exclusions.
    fn settle_port(&mut self, port: u16) -> bool {
        let had_exclusions = self.outranked.remove(&port).is_some();
        let claimants = self.claimants.get(&port).into_iter().flatten();
        let claims: Vec<(&str, &Vec<Claim>)> = claimants
            .filter_map(|name| Some((name.as_str(), self.services.get(name)?.claims.get(&port)?)))
            .collect();
        // The service of the oldest instance that claims it, then by name.
        let rank = |(name, claims): &&(&str, &Vec<Claim>)| {
            let oldest = claims.iter().map(|claim| claim.service.created).min();
            (oldest, (*name).to_owned())
        };
        let Some(&(owner, endpoints)) = claims.iter().min_by_key(rank) else {
            self.claimants.remove(&port);
            self.routes.by_port.remove(&port);
            return had_exclusions;
        };
        let outranked: Vec<Exclusion> = claims
            .iter()
            .filter(|(name, _)| *name != owner)
            .flat_map(|(_, claims)| claims.iter())
            .map(|claim| {
                let reason = ExclusionReason::PortOwnedBy(owner.to_owned());
                exclusion(&claim.service, port, reason)
            })
            .collect();
        let route = route(owner, endpoints);
        let current = self.routes.by_port.get(&port);
        if current.is_none_or(|it| **it != route) {
            self.routes.by_port.insert(port, Arc::new(route));
        }
        let has_exclusions = !outranked.is_empty();
        if has_exclusions {
            self.outranked.insert(port, outranked);
        }
        had_exclusions || has_exclusions
    }

    fn gather_exclusions(&mut self) {
        let alone = self.services.values().flat_map(|it| &it.excluded);
        let outranked = self.outranked.values().flatten();
        let mut excluded: Vec<_> = alone.chain(outranked).cloned().collect();
        excluded.sort();
        excluded.dedup();
        self.routes.excluded = excluded;
    }
}

impl Instances {
    /// The mode of the service is that of its oldest instance that claims anything; others with another
    /// mode are left out.
    fn decide(&mut self) {
        let claiming = self.offers.iter().filter(|it| !it.addresses.is_empty());
        let reference = claiming.min_by_key(|offer| seniority(&offer.service));
        let mode = reference.and_then(|offer| offer.mode);
        self.excluded = self
            .offers
            .iter()
            .flat_map(|it| it.refused.clone())
            .collect();
        self.claims = BTreeMap::new();
        for offer in &self.offers {
            for &(port, address) in &offer.addresses {
                if offer.mode == mode {
                    let service = offer.service.clone();
                    let claims = self.claims.entry(port).or_default();
                    claims.push(Claim { service, address });
                } else if let Some(mode) = offer.mode {
                    let reason = ExclusionReason::ModeDiffers(mode);
                    self.excluded.push(exclusion(&offer.service, port, reason));
                }
            }
        }
    }
}

impl Offer {
    /// All claims traffic could follow. An instance is reported as excluded from a ServicePort only
    /// when none of its ports can serve it.
    fn of(service: &Arc<Service>) -> Self {
        let mut addresses = Vec::new();
        let mut refused = Vec::new();
        for port in service.port_list() {
            if port.service_port == 0 || port.protocol() != Some(Protocol::Tcp) {
                continue;
            }
            match destination(service, port) {
                Ok(address) => addresses.push((port.service_port, address)),
                Err(reason) => refused.push(exclusion(service, port.service_port, reason)),
            }
        }
        let is_served = |port| addresses.iter().any(|(served, _)| *served == port);
        refused.retain(|it| !is_served(it.service_port));
        Self {
            service: service.clone(),
            mode: service.mode(),
            addresses,
            refused,
        }
    }
}

/// Where an instance could be reached, by ServicePort, were it alive and did the ports belong to its service.
pub fn addresses_of(service: &Arc<Service>) -> Vec<(u16, SocketAddr)> {
    Offer::of(service).addresses
}

fn route(service: &str, claims: &[Claim]) -> Route {
    let endpoints = claims.iter().map(|claim| Endpoint {
        hostname: claim.service.hostname.clone(),
        id: claim.service.id.clone(),
        address: claim.address,
        weight: claim.service.weight(),
    });
    let mut endpoints: Vec<_> = endpoints.collect();
    endpoints.sort();
    endpoints.dedup();
    let mode = claims.first().and_then(|claim| claim.service.mode());
    Route {
        service: service.to_owned(),
        mode: mode.unwrap_or_default(),
        endpoints,
    }
}

fn destination(service: &Service, port: &Port) -> Result<SocketAddr, ExclusionReason> {
    if service.mode().is_none() {
        return Err(ExclusionReason::UnknownMode(service.proxy_mode.clone()));
    }
    let no_address = || ExclusionReason::NoAddress(port.ip.clone());
    let ip = Service::address_of(port)
        .filter(names_one_host)
        .ok_or_else(no_address)?;
    if port.port == 0 {
        return Err(ExclusionReason::NoPort);
    }
    Ok(SocketAddr::new(ip, port.port))
}

/// `0.0.0.0` and `::` in somebody's record would mean *this* host to a connecting socket; nobody
/// accepts TCP connections on a group address.
fn names_one_host(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || broadcast)
}

fn exclusion(service: &Service, service_port: u16, reason: ExclusionReason) -> Exclusion {
    Exclusion {
        service_port,
        service: service.name.clone(),
        hostname: service.hostname.clone(),
        id: service.id.clone(),
        reason,
    }
}
