//! The way of one instance from its container to its clients.

use std::time::Duration;

use super::{Part, world::World};
use crate::client::{
    documents::{Check, Exclusion, Instance},
    finding::{Finding, Mark},
    text::{age, millis, span},
};

pub(super) fn explain(instance: &Instance, world: &World) -> Part {
    let title = format!("{} {} at {}", instance.name, instance.id, instance.hostname);
    let mut steps = Vec::new();
    if world.is_own(instance) {
        steps.extend(sources(instance, world));
        steps.extend(remarks(instance, world));
    }
    steps.extend(check(instance, world));
    steps.push(record(instance, world));
    steps.push(host(instance, world));
    steps.extend(ports(instance));
    if steps.iter().all(|step| step.state != Mark::Failed) {
        steps.extend(routes(instance, world));
    }
    Part::of(title, steps)
}

/// Whether this host sees what runs on it.
fn sources(instance: &Instance, world: &World) -> Vec<Finding> {
    if instance.is_gone() {
        let container = world.containers.iter().find(|it| it.id == instance.id);
        if let Some(container) = container {
            return vec![super::unknown::container(container)];
        }
        let what = "no source of this host names it any more";
        return vec![
            Finding::failed("source", what)
                .because("its container stopped, or its entry was taken out of the static file")
                .fix("docker ps -a"),
        ];
    }
    let sources = world.local.sources.iter();
    let findings = sources.map(|(name, source)| match &source.trouble {
        None => Finding::ok("source", format!("{name} is {}", source.state)),
        Some(trouble) => Finding::warning("source", format!("{name} is {}", source.state))
            .because(trouble.clone())
            .fix("sidecar doctor"),
    });
    findings.collect()
}

fn remarks(instance: &Instance, world: &World) -> Vec<Finding> {
    let remarks = world.remarks(&[&instance.id, &instance.name]);
    let findings = remarks
        .iter()
        .take(8)
        .map(|(subject, remark)| Finding::warning("remark", format!("{subject}: {remark}")));
    findings.collect()
}

fn check(instance: &Instance, world: &World) -> Vec<Finding> {
    if instance.is_gone() {
        return Vec::new();
    }
    let Some(check) = world.check(instance) else {
        if world.is_own(instance) {
            return Vec::new();
        }
        let what = format!("it is checked at {}", instance.hostname);
        return vec![Finding::ok("check", what).fix(world.explain_there(instance))];
    };
    let mut findings = vec![evidence(instance, check)];
    let notices = check.notices.iter();
    findings.extend(notices.map(|notice| Finding::warning("check", notice.clone())));
    findings
}

/// What the last result says, and what became of it.
fn evidence(instance: &Instance, check: &Check) -> Finding {
    let name = format!("{} {}", check.kind, check.args);
    let name = name.trim_end();
    let Some(last) = &check.last else {
        return Finding::failed("check", format!("{name} has not come to a result yet"))
            .because("the instance is new, or its check takes long")
            .fix(format!(
                "sidecar watch --service {}",
                quoted(&instance.name)
            ));
    };
    let ago = span(Duration::from_secs_f64(
        (last.age_ms / 1000.0).clamp(0.0, 1e12),
    ));
    let took = millis(last.duration_ms);
    let mut found = last.summary.clone();
    if !last.output.is_empty() {
        found.push_str(&format!(" ({})", last.output));
    }
    if let Some(damped) = &check.damped {
        return Finding::failed("check", format!("{name} keeps changing"))
            .because(format!("{}; held back until {}", damped.rule, damped.until))
            .fix("look why it keeps failing: docker logs");
    }
    let times = check.in_a_row;
    if last.healthy {
        let passed = format!("{name} passed {times} times in a row, {ago} ago in {took}: {found}");
        if check.status == "Alive" {
            return Finding::ok("check", passed);
        }
        let rise = check.rise;
        return Finding::failed("check", passed)
            .because(format!("it has to pass {rise} times in a row"))
            .fix(format!(
                "sidecar watch --service {}",
                quoted(&instance.name)
            ));
    }
    let failed = format!("{name} failed {times} times in a row, {ago} ago after {took}");
    if check.status == "Alive" {
        return Finding::warning("check", failed).because(found);
    }
    Finding::failed("check", failed)
        .because(found)
        .fix(remedy(check))
}

/// The command that shows what the check sees.
fn remedy(check: &Check) -> String {
    match check.kind.as_str() {
        "HttpGet" => format!("curl -i {}", quoted(&check.args)),
        "Tcp" => {
            let address = check.args.rsplit_once(':');
            let (host, port) = address.unwrap_or((&check.args, ""));
            format!("nc -vz {} {}", quoted(host), quoted(port))
        }
        "External" => format!("run it by hand: {}", check.args),
        _ => "docker logs, docker inspect".to_owned(),
    }
}

/// A word of a command that people paste.
fn quoted(word: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_./:@%+,".contains(char);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What its origin told the cluster.
fn record(instance: &Instance, world: &World) -> Finding {
    let updated = age(&instance.updated, &world.overview.now);
    let what = format!("it is {}, as of {updated} ago", instance.status);
    let own = world.is_own(instance);
    let there = || world.explain_there(instance);
    let failed = Finding::failed("record", what.clone());
    match instance.status.as_str() {
        "Alive" => Finding::ok("record", what),
        "Unhealthy" if own => failed.because("its check fails"),
        "Unhealthy" => failed
            .because(format!("its check at {} fails", instance.hostname))
            .fix(there()),
        "Draining" => failed.because("somebody drained it").fix(match own {
            true => format!("sidecar undrain {}", quoted(&instance.id)),
            false => format!(
                "on {}: sidecar undrain {}",
                instance.hostname,
                quoted(&instance.id)
            ),
        }),
        "Tombstone" => match world.host(&instance.hostname) {
            Some(host) if host.state != "alive" => {
                failed.because(format!("its host is {}", host.state))
            }
            None => failed.because("its host is not a member of the cluster"),
            Some(_) => failed
                .because("it was stopped or removed; this is remembered for 3 h")
                .fix("start it again: docker start"),
        },
        _ if own => failed.because("its check has not decided yet"),
        _ => failed
            .because(format!(
                "its check at {} has not decided yet",
                instance.hostname
            ))
            .fix(there()),
    }
}

fn host(instance: &Instance, world: &World) -> Finding {
    let name = &instance.hostname;
    let Some(host) = world.host(name) else {
        let finding = format!("{name} is not a member of the cluster");
        // Services that a static file names at addresses without an agent.
        return if world.is_own(instance) {
            Finding::ok("host", format!("{finding}; this host speaks for it"))
        } else {
            Finding::failed("host", finding)
                .because("its agent left, or died long ago")
                .fix(format!("on {name}: sidecar doctor"))
        };
    };
    let heard = match &host.last_updated {
        Some(time) if !host.own => format!(", last heard {} ago", age(time, &world.overview.now)),
        _ => String::new(),
    };
    let address = host.address.as_deref().unwrap_or("an unknown address");
    let what = format!("{name} at {address} is {}{heard}", host.state);
    match host.state.as_str() {
        "alive" => Finding::ok("host", what),
        "suspect" => Finding::warning("host", what)
            .because("it did not answer the last probes")
            .fix(format!("on {name}: sidecar doctor")),
        _ => Finding::failed("host", what)
            .because("it said goodbye, or it has not answered for the suspicion time")
            .fix(format!("is the machine up? on {name}: sidecar doctor")),
    }
}

/// Whether clients could ask for it at all.
fn ports(instance: &Instance) -> Vec<Finding> {
    if instance.is_gone() {
        return Vec::new();
    }
    let claims = instance.service_ports();
    if claims.is_empty() {
        let real: Vec<String> = instance
            .ports
            .iter()
            .map(|it| it.port.to_string())
            .collect();
        let cause = match real.as_slice() {
            [] => "it publishes no port".to_owned(),
            ports => format!("it publishes {} without a service port", ports.join(", ")),
        };
        let number = real.first().map_or("80", String::as_str);
        return vec![
            Finding::failed("ports", "it asks for no service port")
                .because(cause)
                .fix(format!(
                    "docker run -p {number} --label ServicePort_{number}=10080 …"
                )),
        ];
    }
    let claims = instance.ports.iter().filter(|it| it.service_port != 0);
    let claims = claims.map(|it| {
        let (service_port, ip, port, kind) = (it.service_port, &it.ip, it.port, &it.kind);
        if kind == "tcp" || kind.is_empty() {
            let what = format!("service port {service_port} leads to {ip}:{port}");
            return Finding::ok("ports", what);
        }
        Finding::warning(
            "ports",
            format!("service port {service_port} is of type {kind}"),
        )
        .because("only tcp is routed")
    });
    claims.collect()
}

/// What this host makes of it.
fn routes(instance: &Instance, world: &World) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service_port in instance.service_ports() {
        let route = world
            .routes
            .routes
            .iter()
            .find(|it| it.service_port == service_port);
        let endpoint = route.and_then(|route| {
            let mine = |it: &&crate::client::documents::Endpoint| {
                it.hostname == instance.hostname && it.id == instance.id
            };
            Some((route, route.endpoints.iter().find(mine)?))
        });
        let excluded = world.routes.excluded.iter().find(|it| {
            it.service_port == service_port
                && it.hostname == instance.hostname
                && it.id == instance.id
        });
        match (endpoint, excluded) {
            (Some((route, endpoint)), _) => {
                let (total, mode) = (route.endpoints.len(), &route.mode);
                let address = &endpoint.address;
                findings.push(Finding::ok(
                    "route",
                    format!(
                        "{service_port} leads to {address}, 1 of {total} endpoints, mode {mode}"
                    ),
                ));
                findings.push(super::port::plane(service_port, world));
                findings.extend(super::port::avoided(service_port, address, world));
            }
            (None, Some(exclusion)) => findings.push(excluded_here(exclusion)),
            (None, None) => findings.push(unrouted(service_port, world)),
        }
    }
    findings
}

fn excluded_here(exclusion: &Exclusion) -> Finding {
    let port = exclusion.service_port;
    let fix = match exclusion.reason.as_str() {
        "port-owned" => format!("give it another service port; who has it: sidecar explain {port}"),
        "unknown-mode" => "set its label ProxyMode to http, tcp or ws".to_owned(),
        "mode-differs" => format!(
            "give all instances of {} the same label ProxyMode",
            exclusion.service
        ),
        "no-address" => format!(
            "publish the port, or set SIDECAR_ADVERTISE_IP on {}",
            exclusion.hostname
        ),
        "no-port" => "publish the port: docker run -p …".to_owned(),
        _ => "sidecar explain with the version of the agent".to_owned(),
    };
    Finding::failed("route", format!("{port} does not lead to it"))
        .because(exclusion.explanation.clone())
        .fix(fix)
}

fn unrouted(service_port: u16, world: &World) -> Finding {
    let finding = Finding::failed("route", format!("{service_port} does not lead to it"));
    if !world.overview.ready {
        return finding
            .because(format!(
                "the agent has just started and waits for: {}",
                world.overview.awaited.join(", ")
            ))
            .fix("curl http://127.0.0.1:7777/ready");
    }
    finding
        .because("the routes were asked for a moment apart from the instances")
        .fix("ask again")
}
