//! Deploys under load: what is replaced, scaled, stopped and killed behind the built-in proxy, clients of
//! the host do not notice. `cargo bench -p blackbox --bench deploys` does the same at length.

#![cfg(target_os = "linux")]

use std::path::Path;

use blackbox::{AgentBuilder, Deploys, Engine, Lab, Machine, Round};

const PER_SECOND: u32 = 1000;
const ROUND: Round = Round {
    stop_first: 1,
    start_first: 1,
    scale: 5,
    kills: 1,
};

#[test]
fn deploys_and_restarts_fail_no_request_and_a_killed_instance_none_that_can_be_repeated() {
    let lab = Lab::new(Machine::Alone, &["solo"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let backend = Path::new(env!("CARGO_BIN_EXE_lab-backend"));
    let mut deploys = Deploys::start(&lab, &engine, AgentBuilder::new(&lab, 0), backend);
    let traffic = deploys.traffic(PER_SECOND);
    deploys.round(ROUND);
    let report = traffic.stop();
    println!("{}", deploys.summary(&report));
    let failures = deploys.inexcusable(&report);
    assert!(failures.is_empty(), "{}", deploys.details(&failures));
    // Otherwise little was asked of it.
    assert!(report.requests > 5_000, "only {}", report.requests);
    let rounds = ROUND.stop_first + ROUND.start_first + ROUND.kills;
    assert!(
        report.answers.len() > rounds + ROUND.scale,
        "{:?}",
        report.answers
    );
}
