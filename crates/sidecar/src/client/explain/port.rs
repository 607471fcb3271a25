//! What becomes of clients of a service port.

use super::{Part, world::World};
use crate::client::{documents::Instance, finding::Finding};

pub(super) fn explain(port: u16, world: &World) -> Vec<Part> {
    let mut steps = Vec::new();
    let route = world
        .routes
        .routes
        .iter()
        .find(|it| it.service_port == port);
    let mut title = format!("service port {port}");
    if let Some(route) = route {
        title.push_str(&format!(" of {}", route.service));
        let list = route.endpoints.iter().take(8);
        let list: Vec<String> = list
            .map(|it| format!("{} ({} at {})", it.address, it.id, it.hostname))
            .collect();
        let more = match route.endpoints.len() {
            count if count > list.len() => format!(" and {} more", count - list.len()),
            _ => String::new(),
        };
        let list = list.join(", ");
        let (service, mode) = (&route.service, &route.mode);
        let what = format!("{port} leads to {service} in mode {mode}: {list}{more}");
        steps.push(Finding::ok("route", what));
    }
    let excluded = world.routes.excluded.iter();
    for it in excluded.filter(|it| it.service_port == port) {
        let what = format!("{} {} at {} is left out", it.service, it.id, it.hostname);
        steps.push(
            Finding::warning("excluded", what)
                .because(it.explanation.clone())
                .fix(format!("sidecar explain {}", it.id)),
        );
    }
    let claims: Vec<&Instance> = world
        .instances
        .iter()
        .filter(|it| it.service_ports().contains(&port) && it.status != "Alive")
        .filter(|it| !it.is_gone() || route.is_none())
        .collect();
    for it in claims.iter().take(8) {
        let what = format!("{} {} at {} is {}", it.name, it.id, it.hostname, it.status);
        let fix = format!("sidecar explain {}", it.id);
        steps.push(Finding::warning("claim", what).fix(fix));
    }
    match route {
        Some(_) => steps.push(plane(port, world)),
        None => steps.extend(nobody(port, claims.is_empty(), world)),
    }
    vec![Part::of(title, steps)]
}

/// Why the port leads nowhere.
fn nobody(port: u16, is_unclaimed: bool, world: &World) -> Vec<Finding> {
    let finding = Finding::failed("route", format!("{port} leads nowhere"));
    if !world.overview.ready && world.routes.routes.is_empty() {
        let awaited = world.overview.awaited.join(", ");
        return vec![finding.because(format!(
            "the agent has just started and waits for: {awaited}"
        ))];
    }
    if !is_unclaimed {
        return vec![finding.because("no instance that asks for it is alive")];
    }
    let mut steps = Vec::new();
    let real: Vec<&Instance> = world
        .instances
        .iter()
        .filter(|it| !it.is_gone() && it.ports.iter().any(|real| real.port == port))
        .collect();
    if let Some(it) = real.first() {
        let ports: Vec<String> = it.service_ports().iter().map(u16::to_string).collect();
        let what = format!(
            "{port} is the real port of {} {} at {}",
            it.name, it.id, it.hostname
        );
        let known_as = match ports.as_slice() {
            [] => "it asks for no service port".to_owned(),
            ports => format!("its service port is {}", ports.join(", ")),
        };
        steps.push(Finding::warning("port", what).because(known_as));
    }
    steps.push(
        finding
            .because("no instance in the cluster asks for it")
            .fix(format!(
                "label a container ServicePort_<its port>={port}; what there is: sidecar services"
            )),
    );
    steps
}

/// Whether the data plane of this host serves a port that has a route.
pub(super) fn plane(port: u16, world: &World) -> Finding {
    let (name, bind_ip) = (&world.overview.proxy.plane, &world.overview.proxy.bind_ip);
    let at = if bind_ip.contains(':') {
        format!("[{bind_ip}]:{port}")
    } else {
        format!("{bind_ip}:{port}")
    };
    let driven = match name.as_str() {
        "none" => {
            return Finding::warning("proxy", "this host has no data plane")
                .because("SIDECAR_PROXY is none")
                .fix("clients on other hosts, or another data plane, serve it");
        }
        "haproxy" => world.local.haproxy.as_ref(),
        "kernel" => world
            .local
            .kernel
            .as_ref()
            .filter(|it| it.state != "unusable"),
        _ => None,
    };
    let listening = world.proxy.ports.iter().find(|it| it.service_port == port);
    match (driven, listening) {
        // What the kernel does not serve, the built-in proxy does.
        (Some(driven), None) => match &driven.trouble {
            None => Finding::ok("proxy", format!("{name} serves {at}")),
            Some(trouble) => {
                Finding::failed("proxy", format!("{name} does not serve {at} as it should"))
                    .because(trouble.clone())
                    .fix("sidecar doctor")
            }
        },
        (_, Some(port)) if port.listening => {
            Finding::ok("proxy", format!("the built-in proxy listens at {at}"))
        }
        (_, Some(port)) => {
            let number = port.service_port;
            let trouble = port.trouble.clone();
            Finding::failed("proxy", format!("nobody listens at {at}"))
                .because(trouble.unwrap_or_else(|| "it is about to".to_owned()))
                .fix(format!("who has it: ss -ltnp 'sport = :{number}'"))
        }
        (None, None) => Finding::failed("proxy", format!("nobody listens at {at}"))
            .because("the data plane has not taken up the route yet")
            .fix("ask again; then: sidecar doctor"),
    }
}

/// Whether the built-in proxy asks an endpoint last because it could not be reached.
pub(super) fn avoided(port: u16, address: &str, world: &World) -> Option<Finding> {
    let port = world
        .proxy
        .ports
        .iter()
        .find(|it| it.service_port == port)?;
    let endpoint = port.endpoints.iter().find(|it| it.address == address)?;
    if !endpoint.avoided {
        return None;
    }
    let failures = endpoint.connect_failures;
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    Some(
        Finding::warning("proxy", format!("{address} is asked last"))
            .because(format!("{failures} connections to it failed"))
            .fix(format!("from this host: nc -vz {host} {port}")),
    )
}
