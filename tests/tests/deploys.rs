//! Deploys under load: what is replaced, scaled and stopped behind a proxy, clients of the host do not
//! notice. `cargo bench -p blackbox --bench deploys` does the same at length.

#![cfg(target_os = "linux")]

use std::path::Path;

use blackbox::{AgentBuilder, Deploys, Engine, Haproxy, Lab, Machine, Round};

const PER_SECOND: u32 = 1000;
const PLANNED: Round = Round {
    stop_first: 2,
    start_first: 2,
    scale: 8,
    kills: 0,
};

#[expect(clippy::print_stdout, reason = "the figures are what the test is for")]
fn nothing_inexcusable_fails(lab: &Lab, agent: AgentBuilder<'_>, round: Round) {
    let engine = Engine::start(lab, lab.host(0), "container\n");
    let backend = Path::new(env!("CARGO_BIN_EXE_lab-backend"));
    let mut deploys = Deploys::start(lab, &engine, agent, backend);
    let traffic = deploys.traffic(PER_SECOND);
    deploys.round(round);
    let report = traffic.stop();
    println!("{}", deploys.summary(&report));
    let failures = deploys.inexcusable(&report);
    assert!(failures.is_empty(), "{}", deploys.details(&failures));
    // Otherwise little was asked of it.
    assert!(report.requests > 5_000, "only {}", report.requests);
    let instances = round.stop_first + round.start_first + round.kills + round.scale / 2;
    assert!(report.answers.len() > instances, "{:?}", report.answers);
}

#[test]
fn by_the_built_in_proxy_deploys_fail_no_request_and_a_kill_none_that_can_be_sent_again() {
    let lab = Lab::new(Machine::Alone, &["solo"]);
    let round = Round {
        kills: 2,
        ..PLANNED
    };
    nothing_inexcusable_fails(&lab, AgentBuilder::new(&lab, 0), round);
}

#[test]
fn by_haproxy_over_its_socket_deploys_fail_no_request() {
    let lab = Lab::new(Machine::Alone, &["solo"]);
    let files = Haproxy::new(&lab, "run");
    let agent = AgentBuilder::new(&lab, 0)
        .env("SIDECAR_PROXY", "haproxy")
        .env("SIDECAR_HAPROXY_PORTS", "9500-9509")
        .env("SIDECAR_HAPROXY_POOLS", "4,4")
        .env("SIDECAR_HAPROXY_DIR", &files.dir().display().to_string());
    nothing_inexcusable_fails(&lab, agent, PLANNED);
}
