//! A foreign member of the cluster: Serf, which speaks the same membership protocol.

#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use blackbox::{Agent, AgentBuilder, Lab, Machine, Serf, eventually};
use rustix::process::Signal;

const AGENTS: [&str; 2] = ["alpha", "beta"];
const ALL: [&str; 3] = ["alpha", "beta", "serf"];
const JOINED: Duration = Duration::from_secs(10);
const SUSPICION: Duration = Duration::from_secs(20);
/// A goodbye travels by gossip, a fifth of a second a round.
const GOODBYE: Duration = Duration::from_secs(2);

/// An agent that admits members without a cluster name, in the range of versions that Serf accepts.
fn agent(lab: &Lab, number: usize) -> Agent {
    AgentBuilder::new(lab, number)
        .env("SIDECAR_CLUSTER_NAME", "")
        .env("SIDECAR_GOSSIP_DELEGATE_VERSIONS", "2,5,5")
        .env("SIDECAR_SEEDS", &lab.host(1 - number).ip.to_string())
        .start()
}

fn all_alive(peer: &Serf, agents: &[Agent]) -> Result<(), String> {
    agents
        .iter()
        .try_for_each(|agent| agent.expect_members(&ALL))?;
    peer.expect_all(&ALL, &["alive"])
}

fn agents_list(agents: &[Agent], members: &[&str]) -> Result<(), String> {
    agents
        .iter()
        .try_for_each(|agent| agent.expect_members(members))
}

#[test]
fn serf_and_agents_are_members_of_one_cluster() {
    let lab = Lab::new(Machine::Shared, &ALL);
    let mut agents = [agent(&lab, 0), agent(&lab, 1)];
    let mut peer = Serf::start(&lab, 2, &[0]);
    eventually("each lists the others alive", JOINED, || {
        all_alive(&peer, &agents)
    });

    let left = Instant::now();
    let output = peer.command(&["leave"]);
    assert!(output.status.success(), "serf leave: {output:?}");
    eventually("agents drop a member that leaves", GOODBYE, || {
        agents_list(&agents, &AGENTS)
    });
    println!(
        "agents dropped serf {:?} after `serf leave` began",
        left.elapsed()
    );
    peer.process().ends(Duration::from_secs(10));

    peer.restart(&lab);
    eventually("serf is back", JOINED, || all_alive(&peer, &agents));
    peer.kill();
    let killed = Instant::now();
    eventually("agents notice a dead member", SUSPICION, || {
        agents_list(&agents, &AGENTS)
    });
    println!("agents noticed serf's death after {:?}", killed.elapsed());

    peer.restart(&lab);
    eventually("serf is back again", JOINED, || all_alive(&peer, &agents));
    agents[1].kill();
    let killed = Instant::now();
    eventually("serf notices a dead agent", SUSPICION, || {
        peer.expect("beta", &["failed"])
    });
    println!("serf noticed an agent's death after {:?}", killed.elapsed());

    agents[1].restart();
    eventually("the agent is back", JOINED, || all_alive(&peer, &agents));
    agents[1].signal(Signal::TERM);
    let told = Instant::now();
    eventually("serf drops an agent that leaves", GOODBYE, || {
        peer.expect("beta", &["failed", "left"])
    });
    println!("serf dropped an agent {:?} after SIGTERM", told.elapsed());

    // Neither side complains of the other's words beyond what is known to be harmless.
    assert_eq!(agents[0].mentions("panicked"), 0);
    assert!(!peer.log().contains("panic"), "serf survives our traffic");
}
