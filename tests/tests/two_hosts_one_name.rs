//! Two hosts that were given the same name, and a third that sees both.

#![cfg(target_os = "linux")]

use std::{net::Ipv4Addr, time::Duration};

use blackbox::{
    Agent, AgentBuilder, Answer, Lab, Machine, Responder, Status, eventually, throughout,
};
use serde_json::{Value, json};

const HOSTS: [&str; 3] = ["first", "second", "third"];
/// The name of the first two.
const TWIN: &str = "twin";
/// The second twin hears what it does not ask for from nobody; so everybody asks often.
const EXCHANGE_EVERY: &str = "2s";
const TOLD: Duration = Duration::from_secs(30);
/// Several exchanges of everybody.
const AFTERWARDS: Duration = Duration::from_secs(15);

/// The service that runs on this host alone.
fn target(host: &str, service_port: u16) -> Value {
    json!({
        "Service": {
            "Name": format!("only-{host}"),
            "Ports": [{ "Type": "tcp", "Port": 8300, "ServicePort": service_port }],
        },
        "Check": { "Type": "HttpGet", "Args": "http://127.0.0.1:8300/health" },
    })
}

fn start(lab: &Lab, host: usize) -> Agent {
    let third = lab.host(2).ip.to_string();
    let agent = AgentBuilder::new(lab, host).env("SIDECAR_PUSH_PULL_INTERVAL", EXCHANGE_EVERY);
    match host {
        2 => agent.without("SIDECAR_SEEDS").start(),
        _ => agent
            .env("SIDECAR_NODE_NAME", TWIN)
            .env("SIDECAR_SEEDS", &third)
            .services(&[target(HOSTS[host], if host == 0 { 9600 } else { 9601 })])
            .start(),
    }
}

/// Whether the third host sees the services of both.
fn sees_both(third: &Agent) -> Result<(), String> {
    third.expect_members(&["third", TWIN])?;
    third.expect_instances("only-first", &[(TWIN, Status::Alive)])?;
    third.expect_instances("only-second", &[(TWIN, Status::Alive)])
}

/// Whether its log names both addresses and what to do.
fn warned(lab: &Lab, agent: &Agent) -> Result<(), String> {
    let addresses = [0, 1].map(|host| lab.host(host).ip.to_string());
    let log = agent.log();
    let mut warnings = log.lines().filter(|line| {
        line.contains("level=warning")
            && line.contains("have one name")
            && line.contains("SIDECAR_NODE_NAME")
            && addresses.iter().all(|address| line.contains(address))
    });
    warnings
        .next()
        .map(drop)
        .ok_or_else(|| format!("no warning:\n{log}"))
}

#[test]
fn both_are_warned_and_neither_loses_its_services() {
    let lab = Lab::new(Machine::Shared, &HOSTS);
    let _services: Vec<Responder> = (0..2)
        .map(|host| {
            let service = Responder::start(lab.host(host), (Ipv4Addr::UNSPECIFIED, 8300).into());
            service.set("/", Answer::ok(HOSTS[host]));
            service
        })
        .collect();
    let third = start(&lab, 2);
    let first = start(&lab, 0);
    eventually("the first is known", TOLD, || {
        third.expect_instances("only-first", &[(TWIN, Status::Alive)])
    });
    let second = start(&lab, 1);
    eventually("the third sees the services of both", TOLD, || {
        sees_both(&third)
    });
    eventually("both are warned, and the third is", TOLD, || {
        [&first, &second, &third]
            .into_iter()
            .try_for_each(|agent| warned(&lab, agent))
    });
    for agent in [&first, &second] {
        let counted = agent.metrics("sidecar_name_conflicts_total");
        assert!(counted.is_ok_and(|it| it.values().all(|count| *count >= 1.0) && it.len() == 1));
    }
    let sent = |agent: &Agent| {
        let metrics = agent.metrics("sidecar_records_broadcast_total");
        let metrics = metrics.expect("the agent answers");
        metrics.values().sum::<f64>()
    };
    let before = [&first, &second, &third].map(sent);
    throughout("both stay", AFTERWARDS, || sees_both(&third));
    let after = [&first, &second, &third].map(sent);
    let more = after.iter().sum::<f64>() - before.iter().sum::<f64>();
    assert!(more < 10.0, "a war: {before:?}, then {after:?}");
}
