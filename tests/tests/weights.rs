//! Instances get the share of the traffic that their weights say, by every data plane.

#![cfg(target_os = "linux")]

use std::{net::Ipv4Addr, time::Duration};

use blackbox::{
    Agent, AgentBuilder, Answer, Haproxy, Lab, Machine, Responder, eventually, haproxy_target,
};
use rustix::process::Signal;
use serde_json::Value;

const PORT: u16 = 10_000;
const SETTLED: Duration = Duration::from_secs(15);
/// Requests, one after the other.
const REQUESTS: usize = 400;

/// The same service twice, with these weights.
fn services(light: u8, heavy: u8) -> Vec<Value> {
    [(8300, light), (8301, heavy)]
        .into_iter()
        .map(|(port, weight)| {
            let mut target = haproxy_target("web", "http", port, PORT);
            target["Service"]["Weight"] = weight.into();
            target
        })
        .collect()
}

/// How many of the requests the light instance answers.
fn light(agent: &Agent) -> usize {
    let answers = agent.host.answers(PORT, REQUESTS);
    let answers = answers.expect("all requests are answered");
    answers.get("light").copied().unwrap_or_default()
}

fn shares_are_as_weights_say(lab: &Lab, agent: AgentBuilder<'_>) {
    let responders = [(8300, "light"), (8301, "heavy")].map(|(port, name)| {
        let responder = Responder::start(lab.host(0), (Ipv4Addr::UNSPECIFIED, port).into());
        responder.set("/", Answer::ok(name));
        responder
    });
    let mut agent = agent.services(&services(10, 30)).start();
    eventually("both are there", SETTLED, || {
        let both = agent.host.answers(PORT, 8)?;
        (both.len() == 2)
            .then_some(())
            .ok_or_else(|| format!("{both:?}"))
    });
    let count = light(&agent);
    assert!(
        (90..=110).contains(&count),
        "{count} of {REQUESTS}, not 100"
    );

    lab.write(
        "static-solo.json",
        &Value::from(services(30, 10)).to_string(),
    );
    agent.signal(Signal::HUP);
    eventually("other weights count", SETTLED, || {
        let count = light(&agent);
        (290..=310)
            .contains(&count)
            .then_some(())
            .ok_or_else(|| format!("{count} of {REQUESTS}, not 300"))
    });
    drop(responders);
}

#[test]
fn the_built_in_proxy_follows_weights() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    shares_are_as_weights_say(&lab, AgentBuilder::new(&lab, 0));
}

#[test]
fn haproxy_over_its_socket_follows_weights() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let files = Haproxy::new(&lab, "run");
    let agent = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_PROXY", "haproxy")
        .env("SIDECAR_HAPROXY_PORTS", "10000-10009")
        .env("SIDECAR_HAPROXY_POOLS", "4,4")
        .env("SIDECAR_HAPROXY_DIR", &files.dir().display().to_string());
    shares_are_as_weights_say(&lab, agent);
}

#[test]
fn haproxy_by_its_file_follows_weights() {
    let lab = Lab::new(Machine::Shared, &["solo"]);
    let files = Haproxy::new(&lab, "classic");
    let agent = files
        .driven_by(AgentBuilder::new(&lab, 0))
        .env("SIDECAR_HAPROXY_HOLD_DOWN", "0s");
    shares_are_as_weights_say(&lab, agent);
}
