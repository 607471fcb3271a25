//! Hosts that die, return and say goodbye, seen from the hosts that stay.

#![cfg(target_os = "linux")]

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use blackbox::{Agent, AgentBuilder, Exit, Lab, Machine, Responder, Route, Status, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
/// Three nodes suspect a silent one for five seconds, after a probe of at most two.
const SUSPICION: Duration = Duration::from_secs(15);
/// A goodbye needs no suspicion.
const GOODBYE: Duration = Duration::from_secs(1);
const CHECKED: Duration = Duration::from_secs(15);

/// A service that all hosts offer at 9600, and one that only `beta` does, at 9601.
fn targets(host: &str) -> Vec<Value> {
    let target = |name: &str, service_port: u16| {
        json!({
            "Service": {
                "Name": name,
                "Ports": [{ "Type": "tcp", "Port": 8300, "ServicePort": service_port }],
            },
            "Check": { "Type": "HttpGet", "Args": "http://127.0.0.1:8300/health" },
        })
    };
    let mut targets = vec![target("shared", 9600)];
    if host == "beta" {
        targets.push(target("only-beta", 9601));
    }
    targets
}

struct Cluster {
    /// The services answer on even without their agent: only the agents decide about routes.
    _services: Vec<Responder>,
    agents: Vec<Agent>,
}

impl Cluster {
    fn start(lab: &Lab) -> Self {
        let services = Responder::on_each(lab, 8300);
        let agents = NAMES
            .iter()
            .enumerate()
            .map(|(number, name)| {
                AgentBuilder::new(lab, number)
                    .services(&targets(name))
                    .start()
            })
            .collect();
        let cluster = Self {
            _services: services,
            agents,
        };
        eventually("every host serves everything", CHECKED, || cluster.whole());
        cluster
    }

    fn whole(&self) -> Result<(), String> {
        self.agents.iter().try_for_each(|agent| {
            agent.expect_members(&NAMES)?;
            expect_answers(agent, &NAMES)?;
            agent
                .host
                .expect_route(9601, &Route::Answer("beta".to_owned()))
        })
    }

    /// Whether the other two have nothing of `beta` any more.
    fn without_beta(&self) -> Result<(), String> {
        [&self.agents[0], &self.agents[2]]
            .into_iter()
            .try_for_each(|agent| {
                agent.expect_members(&["alpha", "gamma"])?;
                agent.expect_instances("only-beta", &[("beta", Status::Tombstone)])?;
                agent.host.expect_route(9601, &Route::Closed)?;
                expect_answers(agent, &["alpha", "gamma"])
            })
    }
}

fn expect_answers(agent: &Agent, wanted: &[&str]) -> Result<(), String> {
    let counts = agent.host.answers(9600, 9)?;
    if counts.keys().eq(wanted.iter()) {
        return Ok(());
    }
    Err(format!(
        "{} is served by {counts:?}, not by {wanted:?}",
        agent.host.name
    ))
}

#[test]
fn the_services_of_a_killed_agent_leave_all_routes_and_return_with_it() {
    let lab = Lab::new(Machine::Shared, &NAMES);
    let mut cluster = Cluster::start(&lab);
    cluster.agents[1].kill();
    let killed = Instant::now();
    eventually("the dead host's services are gone", SUSPICION, || {
        cluster.without_beta()
    });
    println!("noticed {:?} after kill -9", killed.elapsed());
    cluster.agents[1].restart();
    let restarted = Instant::now();
    eventually("the services return with the agent", CHECKED, || {
        cluster.whole()
    });
    println!("back {:?} after the restart", restarted.elapsed());
}

#[test]
fn a_host_that_is_cut_off_and_returns_is_served_again() {
    let lab = Lab::new(Machine::Shared, &NAMES);
    let cluster = Cluster::start(&lab);
    lab.cable(1, false);
    eventually("the lost host's services are gone", SUSPICION, || {
        cluster.without_beta()
    });
    eventually("the lost host serves itself", SUSPICION, || {
        expect_answers(&cluster.agents[1], &["beta"])
    });
    lab.cable(1, true);
    eventually(
        "the parts find each other again",
        Duration::from_secs(45),
        || cluster.whole(),
    );
}

#[test]
fn a_terminated_agent_says_goodbye() {
    let lab = Lab::new(Machine::Alone, &NAMES);
    let mut cluster = Cluster::start(&lab);
    cluster.agents[1].signal(Signal::TERM);
    let told = Instant::now();
    eventually("peers drop its services", 3 * GOODBYE, || {
        cluster.without_beta()
    });
    let dropped = told.elapsed();
    println!("dropped everywhere {dropped:?} after SIGTERM");
    assert!(
        dropped < GOODBYE,
        "peers dropped its services only {dropped:?} after SIGTERM"
    );
    let (exit, _) = cluster.agents[1].ends(Duration::from_secs(5));
    assert_eq!(exit, Exit::Code(0));
    let api = cluster.agents[1]
        .api("/api/state.json")
        .expect_err("its port is free again");
    assert_eq!(api.kind(), ErrorKind::ConnectionRefused);
    cluster.agents[1].restart();
    eventually("it comes back as if nothing had been", CHECKED, || {
        cluster.whole()
    });
}

#[test]
fn a_second_signal_ends_an_agent_at_once() {
    let lab = Lab::new(Machine::Alone, &NAMES);
    let mut cluster = Cluster::start(&lab);
    // Nobody hears the goodbye, so that it takes as long as it may.
    lab.cable(1, false);
    cluster.agents[1].signal(Signal::TERM);
    // Two signals at the same moment are one to the system.
    eventually("the agent says that it leaves", GOODBYE, || {
        let leaving = cluster.agents[1].mentions("second signal") > 0;
        leaving
            .then_some(())
            .ok_or_else(|| "it does not".to_owned())
    });
    cluster.agents[1].signal(Signal::TERM);
    let (_, after) = cluster.agents[1].ends(Duration::from_secs(5));
    assert!(
        after < Duration::from_millis(200),
        "it ended {after:?} after the second signal"
    );
}
