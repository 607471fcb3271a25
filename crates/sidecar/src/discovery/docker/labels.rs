//! From a listed container to an instance: names, ports and checks as its labels say. Pure.
//!
//! Not the reading of the listing (`wire`), nor the judgement of checks (`health`). The rules are
//! those of Go Sidecar's labels, with these differences: every spelling of a wildcard address is
//! one, ports that come twice are merged, a container can be announced by its own address, and labels
//! that cannot work, that nobody reads or that could harm a reader are complained about.

mod typos;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use catalog::{InvalidService, Port, Protocol, ProxyMode, Service, Status, Timestamp};

use super::{
    names::Naming,
    wire::{Container, PublishedPort, short_id},
};
use crate::{
    discovery::{CheckSpec, EngineHealth, Instance},
    listeners,
};

const SERVICE_PORT: &str = "ServicePort_";
const CHECK_KIND: &str = "HealthCheck";
const CHECK_ARGS: &str = "HealthCheckArgs";
const CHECK_INTERVAL: &str = "HealthCheckInterval";
const CHECK_TIMEOUT: &str = "HealthCheckTimeout";
const CHECK_RISE: &str = "HealthCheckRise";
const CHECK_FALL: &str = "HealthCheckFall";
const PROXY_MODE: &str = "ProxyMode";
const WEIGHT: &str = "Weight";
const DISCOVER: &str = "SidecarDiscover";
const LISTENER: &str = "SidecarListener";
const NETWORK: &str = "SidecarNetwork";

/// Labels with a meaning of their own, but for the one with the name and those of ports.
const LABELS: [&str; 11] = [
    CHECK_KIND,
    CHECK_ARGS,
    CHECK_INTERVAL,
    CHECK_TIMEOUT,
    CHECK_RISE,
    CHECK_FALL,
    PROXY_MODE,
    WEIGHT,
    DISCOVER,
    LISTENER,
    NETWORK,
];

/// The network of containers that share the host's.
const HOST_NETWORK: &str = "host";
/// Longest value of a label about checks, in bytes.
const CHECK_BYTES_MAX: usize = 8 * 1024;
/// Complaints about one container; a thousand labels deserve no more.
const COMPLAINTS_MAX: usize = 32;
/// Characters that quote or open something in pages, templates or configurations, and that no
/// service needs in its name.
const UNFIT: [char; 11] = ['<', '>', '"', '\'', '`', '{', '}', '\\', ';', '#', '$'];

/// What a container is announced with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host<'a> {
    /// Name of this host in records.
    pub(super) hostname: &'a str,
    /// Where ports answer that are bound to all addresses.
    pub(super) advertise_ip: IpAddr,
    /// How services get their names.
    pub(super) naming: &'a Naming,
}

/// What a container is to this host's account.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    /// `None` when its owner hid it, it is between two lives, it is frozen, or its description is
    /// refused.
    pub(super) instance: Option<Instance>,
    /// What its owner should know.
    pub(super) complaints: Vec<Complaint>,
}

/// Something about a container's labels that its owner surely did not mean.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Complaint {
    /// The label counts as absent.
    #[error("label {label}={value:?} is not a port from 0 to 65535 and is ignored")]
    ServicePortValue { label: String, value: String },
    /// The label is without effect.
    #[error("label {label} matches nothing: {suffix:?} is not a container port from 1 to 65535")]
    ServicePortName { label: String, suffix: String },
    /// The label is without effect.
    #[error("label {label} matches nothing: container port {port} is not published; {remedy}")]
    ServicePortUnpublished {
        label: String,
        port: u16,
        remedy: String,
    },
    /// The record keeps the word; proxies leave the service out.
    #[error("label ProxyMode={value:?} is not one of http, tcp, ws; proxies leave it out")]
    ProxyMode { value: String },
    /// The label counts as absent.
    #[error("label Weight={value:?} is not a number from 1 to 255 and is ignored")]
    Weight { value: String },
    /// The record has an empty name; nothing can route to it.
    #[error("label {label} is empty, so the service has no name")]
    EmptyName { label: String },
    /// The container is announced.
    #[error("label SidecarDiscover={value:?} hides nothing; only the word false does")]
    Discover { value: String },
    /// The label counts as absent.
    #[error(
        "label {label} is {bytes} bytes long and is ignored; at most {CHECK_BYTES_MAX} are read"
    )]
    TooLong { label: &'static str, bytes: usize },
    /// The label counts as absent.
    #[error("label {label} holds a NUL and is ignored")]
    Nul { label: &'static str },
    /// The label is without effect.
    #[error("label {label} means nothing; did you mean {meant}?")]
    Typo { label: String, meant: String },
    /// The label is without effect.
    #[error("label SidecarListener={value:?} is without effect: {reason}")]
    Listener { value: String, reason: &'static str },
    /// The container is announced as if the label were absent.
    #[error(
        "label SidecarNetwork={value:?} matches nothing: the container has no address in a network \
         of that name; it is in {networks}"
    )]
    Network { value: String, networks: String },
    /// The container is left out.
    #[error("it is left out: its name {name:?} holds {unfit:?}, which no name needs")]
    UnfitName { name: String, unfit: char },
    /// The container is left out.
    #[error("it is left out: {0}")]
    Refused(#[from] InvalidService),
}

/// Whether a container is announced by its own address, which changes with its networks.
pub(super) fn follows_networks(container: &Container) -> bool {
    container.label(NETWORK).is_some()
}

/// Whether its owner wants it not to be announced.
pub(super) fn is_hidden(container: &Container) -> bool {
    container.label(DISCOVER) == Some("false")
}

/// Maps one container as `host` announces it.
pub(super) fn map(container: &Container, host: Host<'_>) -> Mapped {
    let mut complaints = Vec::new();
    if is_hidden(container) || container.is_restarting() || container.is_paused() {
        return Mapped {
            instance: None,
            complaints,
        };
    }
    let name = host.naming.name(container);
    let service = Service {
        id: short_id(&container.id).to_owned(),
        name: name.to_owned(),
        image: container.image().to_owned(),
        created: created(container),
        hostname: host.hostname.to_owned(),
        ports: Some(ports(container, host.advertise_ip, &mut complaints)),
        updated: Timestamp::EPOCH,
        proxy_mode: proxy_mode(container, &mut complaints),
        status: Status::Unknown,
        weight: weight(container, &mut complaints),
    };
    if let Some(label) = host.naming.label().filter(|_| name.is_empty()) {
        let label = label.to_owned();
        complaints.extend(
            container
                .label(&label)
                .map(|_| Complaint::EmptyName { label }),
        );
    }
    if let Some(value) = container.label(DISCOVER).filter(|it| *it != "true") {
        let value = value.to_owned();
        complaints.push(Complaint::Discover { value });
    }
    let check = check(container, &mut complaints);
    let listener = listener(container, &service, &mut complaints);
    unmatched_labels(container, host.naming, &mut complaints);
    let refused = refusal(&service);
    let instance = refused.is_none().then(|| Instance {
        service,
        check,
        engine_health: container.health().map(|healthy| EngineHealth {
            healthy,
            output: String::new(),
        }),
        listener,
    });
    // What is worst comes first, in case there is more than fits.
    complaints.splice(0..0, refused);
    complaints.truncate(COMPLAINTS_MAX);
    Mapped {
        instance,
        complaints,
    }
}

/// Why nobody shall read this record.
fn refusal(service: &Service) -> Option<Complaint> {
    if let Err(error) = service.validate() {
        return Some(error.into());
    }
    let unfit = |text: &str| text.chars().find(|it| UNFIT.contains(it));
    let texts = [&service.name, &service.proxy_mode, &service.image];
    texts.into_iter().find_map(|text| {
        let name = text.clone();
        unfit(text).map(|unfit| Complaint::UnfitName { name, unfit })
    })
}

fn created(container: &Container) -> Timestamp {
    Timestamp::from_unix_nanos(i128::from(container.created.unwrap_or_default()) * 1_000_000_000)
}

fn proxy_mode(container: &Container, complaints: &mut Vec<Complaint>) -> String {
    let value = container.label(PROXY_MODE).unwrap_or_default();
    if let Some(mode) = ProxyMode::parse(value) {
        return mode.as_str().to_owned();
    }
    complaints.push(Complaint::ProxyMode {
        value: value.to_owned(),
    });
    value.to_owned()
}

fn weight(container: &Container, complaints: &mut Vec<Complaint>) -> Option<u8> {
    let value = container.label(WEIGHT).filter(|it| !it.is_empty())?;
    let weight = value.parse().ok().filter(|weight| *weight > 0);
    if weight.is_none() {
        // As much as tells what it is.
        let value = value.chars().take(32).collect();
        complaints.push(Complaint::Weight { value });
    }
    weight
}

fn check(container: &Container, complaints: &mut Vec<Complaint>) -> CheckSpec {
    let mut word = |label| {
        let value = container.label(label).filter(|it| !it.is_empty())?;
        let bytes = value.len();
        if bytes > CHECK_BYTES_MAX {
            complaints.push(Complaint::TooLong { label, bytes });
            return None;
        }
        if value.contains('\0') {
            complaints.push(Complaint::Nul { label });
            return None;
        }
        Some(value.to_owned())
    };
    CheckSpec {
        kind: word(CHECK_KIND),
        args: word(CHECK_ARGS),
        interval: word(CHECK_INTERVAL),
        timeout: word(CHECK_TIMEOUT),
        rise: word(CHECK_RISE),
        fall: word(CHECK_FALL),
    }
}

/// Published TCP and UDP ports in the engine's order, each once; those of the container itself when
/// it is announced by its own address.
fn ports(
    container: &Container,
    advertise_ip: IpAddr,
    complaints: &mut Vec<Complaint>,
) -> Vec<Port> {
    if let Some(network) = container.label(NETWORK) {
        match own_address(container, network, advertise_ip) {
            Some(ip) => return own_ports(container, &ip, complaints),
            None => complaints.push(no_network(container, network)),
        }
    }
    let mut ports: Vec<Port> = Vec::new();
    for listed in container.ports() {
        let (Some(port), Some(protocol)) = (listed.public(), Protocol::parse(listed.kind())) else {
            continue;
        };
        let port = Port {
            kind: protocol.as_str().to_owned(),
            port,
            service_port: service_port(container, listed.private(), complaints),
            ip: bind_ip(listed.ip(), advertise_ip),
        };
        // Engines list one publication once for IPv4 and once for IPv6.
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

/// Where a container answers by itself in a network: with the host's, at the host's address.
fn own_address(container: &Container, network: &str, advertise_ip: IpAddr) -> Option<String> {
    let mut networks = container.networks();
    let (_, address) = networks.find(|(name, _)| *name == network)?;
    match address {
        None if network == HOST_NETWORK => Some(advertise_ip.to_string()),
        address => address.map(str::to_owned),
    }
}

/// The ports its image exposes, and those its labels name.
fn own_ports(container: &Container, ip: &str, complaints: &mut Vec<Complaint>) -> Vec<Port> {
    let exposed = container.ports().iter().filter_map(|listed| {
        let protocol = Protocol::parse(listed.kind())?;
        (listed.private() != 0).then(|| (protocol.as_str().to_owned(), listed.private()))
    });
    let mut own: Vec<(String, u16)> = exposed.collect();
    for (label, _) in container.labels() {
        let named = label.strip_prefix(SERVICE_PORT).and_then(container_port);
        let Some(port) = named.filter(|port| own.iter().all(|(_, known)| known != port)) else {
            continue;
        };
        own.push((Protocol::Tcp.as_str().to_owned(), port));
    }
    let mut ports: Vec<Port> = Vec::new();
    for (kind, port) in own {
        let service_port = service_port(container, port, complaints);
        let ip = ip.to_owned();
        let port = Port {
            kind,
            port,
            service_port,
            ip,
        };
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

fn no_network(container: &Container, wanted: &str) -> Complaint {
    let names: Vec<_> = container.networks().map(|(name, _)| name).collect();
    Complaint::Network {
        value: wanted.to_owned(),
        networks: if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        },
    }
}

/// The port clients use, by the label of the container port; 0 when there is none.
fn service_port(container: &Container, private: u16, complaints: &mut Vec<Complaint>) -> u16 {
    let label = format!("{SERVICE_PORT}{private}");
    let Some(value) = container.label(&label) else {
        return 0;
    };
    value.parse().unwrap_or_else(|_| {
        let complaint = Complaint::ServicePortValue {
            label,
            value: value.to_owned(),
        };
        if !complaints.contains(&complaint) {
            complaints.push(complaint);
        }
        0
    })
}

/// Where a published port answers: a wildcard of any spelling is the advertise address.
fn bind_ip(listed: &str, advertise_ip: IpAddr) -> String {
    let bare = listed
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'))
        .unwrap_or(listed);
    let wildcard = bare.is_empty()
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_unspecified());
    if wildcard {
        advertise_ip.to_string()
    } else {
        bare.to_owned()
    }
}

/// The port a label's end names. It is compared as text with a printed port, so `080` or `+80`
/// never match.
fn container_port(suffix: &str) -> Option<u16> {
    let port: u16 = suffix.parse().ok()?;
    (port != 0 && port.to_string() == suffix).then_some(port)
}

/// Where the container takes events: behind the TCP port of that ServicePort.
fn listener(
    container: &Container,
    service: &Service,
    complaints: &mut Vec<Complaint>,
) -> Option<String> {
    let value = container.label(LISTENER)?;
    let mut ports = service.port_list().iter();
    let reason = match value.parse::<u16>() {
        Err(_) => "it is not a port from 1 to 65535",
        Ok(port) => {
            let wanted = |it: &&Port| it.service_port == port && it.kind == "tcp" && port != 0;
            if let Some(port) = ports.find(wanted) {
                return Some(listeners::url(&port.ip, port.port));
            }
            "no ServicePort label of this container leads a TCP port to it"
        }
    };
    let value = value.to_owned();
    complaints.push(Complaint::Listener { value, reason });
    None
}

fn unmatched_labels(container: &Container, naming: &Naming, complaints: &mut Vec<Complaint>) {
    let own_address = follows_networks(container);
    for (label, _) in container.labels() {
        if complaints.len() > COMPLAINTS_MAX {
            return;
        }
        let Some(suffix) = label.strip_prefix(SERVICE_PORT) else {
            let meant = typos::meant(label, naming.label(), &LABELS);
            let label = label.to_owned();
            complaints.extend(meant.map(|meant| Complaint::Typo { label, meant }));
            continue;
        };
        let label = label.to_owned();
        match container_port(suffix) {
            None => complaints.push(Complaint::ServicePortName {
                label,
                suffix: suffix.to_owned(),
            }),
            Some(port) => {
                let published = |it: &PublishedPort| {
                    it.private() == port
                        && it.public().is_some()
                        && Protocol::parse(it.kind()).is_some()
                };
                if !own_address && !container.ports().iter().any(published) {
                    let remedy = remedy(container, port);
                    complaints.push(Complaint::ServicePortUnpublished {
                        label,
                        port,
                        remedy,
                    });
                }
            }
        }
    }
}

/// What would make a port that is not published reachable.
fn remedy(container: &Container, port: u16) -> String {
    if container.networks().any(|(name, _)| name == HOST_NETWORK) {
        return "the container shares the host's network; add the label SidecarNetwork=host".into();
    }
    let mut published: Vec<_> = container.ports().iter().collect();
    published.retain(|it| it.public().is_some());
    let mut others: Vec<String> = published
        .iter()
        .map(|it| it.private().to_string())
        .collect();
    others.dedup();
    if others.is_empty() {
        return format!(
            "publish it with -p {port} or -P, or announce the container's own address with the \
             label SidecarNetwork"
        );
    }
    let others = others.join(", ");
    format!("publish it with -p {port}; published are {others}")
}
