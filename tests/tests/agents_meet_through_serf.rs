//! Agents that know nothing but a Serf agent, which takes none of their records and passes none on:
//! they hear of each other by name alone and still list each other's services at once.

#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use blackbox::{Agent, AgentBuilder, Lab, Machine, Serf, Status, eventually};
use serde_json::json;

const ALL: [&str; 4] = ["alpha", "beta", "gamma", "serf"];
const SERF: usize = 3;
const JOINED: Duration = Duration::from_secs(15);
/// From being listed as a member to the records, at the latest.
const INTRODUCED: Duration = Duration::from_secs(2);

/// An agent with one service of its own name, whose only seed is Serf. Neither the periodic exchange
/// of states nor the refresh of records comes within the time of the test.
fn agent(lab: &Lab, number: usize) -> Agent {
    let target = json!({
        "Service": { "Name": ALL[number], "Ports": [{ "Type": "tcp", "Port": 8300 }] },
        "Check": { "Type": "AlwaysSuccessful" },
    });
    AgentBuilder::new(lab, number)
        .env("SIDECAR_CLUSTER_NAME", "")
        .env("SIDECAR_GOSSIP_DELEGATE_VERSIONS", "2,5,5")
        .env("SIDECAR_SEEDS", &lab.host(SERF).ip.to_string())
        .env("SIDECAR_PUSH_PULL_INTERVAL", "10m")
        .services(&[target])
        .start()
}

fn members(agents: &[Agent]) -> Result<(), String> {
    let mut names: Vec<&str> = agents.iter().map(|agent| &*agent.host.name).collect();
    names.push("serf");
    agents
        .iter()
        .try_for_each(|agent| agent.expect_members(&names))
}

/// Whether each lists the service of each.
fn services(agents: &[Agent]) -> Result<(), String> {
    agents.iter().try_for_each(|agent| {
        agents.iter().try_for_each(|other| {
            let name = &*other.host.name;
            agent.expect_instances(name, &[(name, Status::Alive)])
        })
    })
}

/// Waits until nothing that was announced is still on its way to somebody: who comes now has missed
/// it.
fn all_is_said(agents: &[Agent]) {
    eventually("every record has been transmitted", JOINED, || {
        services(agents)?;
        agents.iter().try_for_each(|agent| {
            let queue = agent.metrics("sidecar_gossip_record_queue")?;
            match queue.values().sum::<f64>() {
                0.0 => Ok(()),
                waiting => Err(format!("{waiting} wait on {}", agent.host.name)),
            }
        })
    });
}

/// How long after all are members everywhere they list each other's services.
fn introduced(what: &str, agents: &[Agent]) -> String {
    eventually(what, JOINED, || members(agents));
    let met = Instant::now();
    eventually(what, INTRODUCED, || services(agents));
    format!("{what}: records {:?} after the names", met.elapsed())
}

#[test]
fn agents_that_share_only_a_serf_agent_exchange_their_services_at_once() {
    let lab = Lab::new(Machine::Alone, &ALL);
    let serf = Serf::start(&lab, SERF, &[]);
    eventually("serf is up", JOINED, || serf.expect("serf", &["alive"]));
    let mut agents = vec![agent(&lab, 0)];
    eventually("the first has joined", JOINED, || members(&agents));
    all_is_said(&agents);
    agents.push(agent(&lab, 1));
    println!("{}", introduced("two meet", &agents));
    all_is_said(&agents);
    agents.push(agent(&lab, 2));
    println!("{}", introduced("a third comes", &agents));
    // What changes while one is away is not lost to it.
    agents[1].kill();
    eventually("a death is noticed", Duration::from_secs(30), || {
        agents[0].expect_members(&["alpha", "gamma", "serf"])?;
        agents[2].expect_members(&["alpha", "gamma", "serf"])
    });
    agents[1].restart();
    println!("{}", introduced("one returns", &agents));
}
