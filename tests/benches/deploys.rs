//! Deploys under load, at length: `cargo bench -p blackbox --bench deploys`.
//!
//! 1,000,000 requests at 1,000 a second, 17 minutes, while 200 instances are replaced in every way: stopped
//! before the next is started, started before the last is stopped, scaled to 20 and back, killed; and the
//! agent is restarted. Printed are the requests that failed, with the event next to each. Only requests
//! that may not be repeated may fail, and only when the instance that has them is killed.
//!
//! `DEPLOYS_REQUESTS`, `DEPLOYS_PER_SECOND` and `DEPLOYS_ROUNDS` change that; `DEPLOYS_PROXY=haproxy` puts HAProxy
//! in runtime mode in the place of the built-in proxy.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[cfg(target_os = "linux")]
fn main() {
    use std::{path::Path, thread};

    use blackbox::{AgentBuilder, Deploys, Engine, Haproxy, Lab, Machine, POLL, Round};

    const ROUND: Round = Round {
        stop_first: 3,
        start_first: 3,
        scale: 20,
        kills: 2,
    };
    let number = |name: &str, usual: usize| {
        std::env::var(name).map_or(usual, |it| it.parse::<usize>().unwrap())
    };
    let requests = number("DEPLOYS_REQUESTS", 1_000_000);
    let rounds = number("DEPLOYS_ROUNDS", 8);
    let per_second = u32::try_from(number("DEPLOYS_PER_SECOND", 1000)).unwrap();

    let lab = Lab::new(Machine::Alone, &["solo"]);
    let engine = Engine::start(&lab, lab.host(0), "container\n");
    let haproxy = Haproxy::new(&lab, "run");
    let mut agent = AgentBuilder::new(&lab, 0);
    if std::env::var("DEPLOYS_PROXY").is_ok_and(|it| it == "haproxy") {
        agent = agent
            .env("SIDECAR_PROXY", "haproxy")
            .env("SIDECAR_HAPROXY_PORTS", "9500-9509")
            .env("SIDECAR_HAPROXY_POOLS", "4,4")
            .env("SIDECAR_HAPROXY_DIR", &haproxy.dir().display().to_string());
    }
    let backend = Path::new(env!("CARGO_BIN_EXE_lab-backend"));
    let mut deploys = Deploys::start(&lab, &engine, agent, backend);
    let traffic = deploys.traffic(per_second);
    for round in 1..=rounds {
        deploys.round(ROUND);
        println!(
            "round {round} of {rounds}: {} requests sent, {} instances ended",
            traffic.sent(),
            deploys.ended()
        );
        while traffic.sent() < requests / rounds * round {
            thread::sleep(POLL);
        }
    }
    let report = traffic.stop();
    let all: Vec<_> = report.failures.iter().collect();
    println!("\n{}\n{}", deploys.details(&all), deploys.summary(&report));
}

#[cfg(not(target_os = "linux"))]
fn main() {}
