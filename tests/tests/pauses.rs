//! Programs that are stopped for longer than anybody waits for them, and then go on, in clusters of
//! three agents and three foreign members: Serf, and scripted legacy peers.
//!
//! Everybody gives the stopped one up and takes it back, nobody else is thought dead by anybody, and
//! the stopped one does not blame the others for its own silence when it wakes.

#![cfg(target_os = "linux")]

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use blackbox::{
    Agent, AgentBuilder, GOSSIP_PORT, Lab, LegacyPeer, Machine, Network, Serf, Timing, eventually,
    throughout,
};
use rustix::process::Signal;

const AGENTS: [&str; 3] = ["agent-1", "agent-2", "agent-3"];
const PEERS: [&str; 3] = ["peer-1", "peer-2", "peer-3"];
const JOINED: Duration = Duration::from_secs(15);
/// The longest suspicion of six members is thirty seconds; a probe cycle comes before it.
const SUSPICION: Duration = Duration::from_secs(40);
/// A suspicion that the stopped one raised on waking would have ended in a death by then.
const AFTERWARDS: Duration = Duration::from_secs(10);

fn all() -> Vec<&'static str> {
    AGENTS.iter().chain(&PEERS).copied().collect()
}

/// A foreign member.
enum Peer {
    Serf(Serf),
    Legacy(LegacyPeer),
}

impl Peer {
    fn name(&self) -> &str {
        match self {
            Self::Serf(serf) => &serf.host.name,
            Self::Legacy(peer) => peer.name(),
        }
    }

    fn expect_members(&self, names: &[&str]) -> Result<(), String> {
        match self {
            Self::Serf(serf) => {
                serf.expect_all(names, &["alive"])?;
                let absent = all().into_iter().filter(|name| !names.contains(name));
                serf.expect_all(&absent.collect::<Vec<_>>(), &["failed"])
            }
            Self::Legacy(peer) => peer.expect_members(names),
        }
    }

    fn signal(&mut self, signal: Signal) {
        match self {
            Self::Serf(serf) => serf.process().signal(signal),
            Self::Legacy(peer) if signal == Signal::STOP => peer.pause(),
            Self::Legacy(peer) => peer.resume(),
        }
    }

    /// Whom it has ever thought dead, in order.
    fn mourned(&self) -> Vec<String> {
        match self {
            Self::Serf(serf) => {
                let log = serf.log();
                let failed = log
                    .lines()
                    .filter_map(|line| line.split_once("EventMemberFailed: "));
                failed
                    .filter_map(|(_, rest)| Some(rest.split_whitespace().next()?.to_owned()))
                    .collect()
            }
            Self::Legacy(peer) => peer.mourned(),
        }
    }
}

/// Whom an agent has ever thought gone, in order.
fn mourned(agent: &Agent) -> Vec<String> {
    let log = agent.log();
    let gone = log.lines().filter(|line| line.contains("member is gone"));
    let name = |line: &str| {
        let found = all().into_iter().find(|name| line.contains(name));
        found.unwrap_or_else(|| panic!("nobody in {line:?}"))
    };
    gone.map(|line| name(line).to_owned()).collect()
}

struct Cluster {
    agents: Vec<Agent>,
    peers: Vec<Peer>,
    lab: Lab,
}

impl Cluster {
    /// Each agent has another agent and a peer for seeds; the peers join the first of them, which
    /// joins the first agent.
    fn start(peer: impl Fn(&Lab, usize) -> Peer, settings: &[(&str, &str)]) -> Self {
        let lab = Lab::new(Machine::Alone, &all());
        let agents = (0..AGENTS.len()).map(|number| {
            let other = lab.host((number + 1) % AGENTS.len()).ip;
            let peer = lab.host(AGENTS.len() + number).ip;
            let mut builder =
                AgentBuilder::new(&lab, number).env("SIDECAR_SEEDS", &format!("{other},{peer}"));
            for (name, value) in settings {
                builder = builder.env(name, value);
            }
            builder.start()
        });
        let agents = agents.collect();
        let peers = (AGENTS.len()..all().len()).map(|host| peer(&lab, host));
        let peers = peers.collect();
        let cluster = Self { agents, peers, lab };
        eventually("all list all", JOINED, || cluster.lists(None));
        cluster
    }

    /// Whether everybody but `absent` lists everybody but `absent`.
    fn lists(&self, absent: Option<&str>) -> Result<(), String> {
        let mut names = all();
        names.retain(|name| Some(*name) != absent);
        let there = |name: &str| Some(name) != absent;
        // To ask Serf takes a process: all at the same time.
        thread::scope(|scope| {
            let names = &names;
            let agents = self.agents.iter().filter(|agent| there(&agent.host.name));
            let agents = agents.map(|agent| scope.spawn(|| agent.expect_members(names)));
            let peers = self.peers.iter().filter(|peer| there(peer.name()));
            let peers = peers.map(|peer| scope.spawn(|| peer.expect_members(names)));
            let asked: Vec<_> = agents.chain(peers).collect();
            asked.into_iter().try_for_each(|answer| {
                answer
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }

    /// `name` falls silent, is given up, is woken, and is back.
    fn away_and_back(
        &mut self,
        name: &str,
        silence: impl FnOnce(&mut Self),
        wake: impl FnOnce(&mut Self),
    ) -> String {
        silence(self);
        let silent = Instant::now();
        eventually("who is silent is given up", SUSPICION, || {
            self.lists(Some(name))
        });
        let gone = silent.elapsed();
        wake(self);
        let woken = Instant::now();
        eventually("it is back everywhere", JOINED, || self.lists(None));
        let back = woken.elapsed();
        throughout("nobody is lost afterwards", AFTERWARDS, || self.lists(None));
        format!("{name} given up after {gone:?}, back everywhere after {back:?}")
    }

    /// What they took, in words.
    fn an_agent_and_a_peer_are_stopped(&mut self) -> [String; 2] {
        let agent = self.away_and_back(
            "agent-3",
            |cluster| cluster.agents[2].signal(Signal::STOP),
            |cluster| cluster.agents[2].signal(Signal::CONT),
        );
        let peer = self.away_and_back(
            "peer-3",
            |cluster| cluster.peers[2].signal(Signal::STOP),
            |cluster| cluster.peers[2].signal(Signal::CONT),
        );
        [agent, peer]
    }

    /// Whether everybody has thought just these dead, in this order, and none of them itself.
    fn expect_mourned(&self, expected: &[&str]) {
        let by = |name: &str| {
            let others = expected.iter().filter(|other| **other != name);
            others.map(|other| (*other).to_owned()).collect::<Vec<_>>()
        };
        for agent in &self.agents {
            let name = &*agent.host.name;
            assert_eq!(mourned(agent), by(name), "by {name}");
        }
        for peer in &self.peers {
            assert_eq!(peer.mourned(), by(peer.name()), "by {}", peer.name());
        }
    }
}

#[test]
fn agents_and_serf_agents_survive_being_stopped() {
    let serf = |lab: &Lab, host: usize| {
        let seed = if host == AGENTS.len() {
            0
        } else {
            AGENTS.len()
        };
        Peer::Serf(Serf::start(lab, host, &[seed]))
    };
    let settings = [
        ("SIDECAR_CLUSTER_NAME", ""),
        ("SIDECAR_GOSSIP_DELEGATE_VERSIONS", "2,5,5"),
    ];
    let mut cluster = Cluster::start(serf, &settings);
    println!("{:?}", cluster.an_agent_and_a_peer_are_stopped());
    cluster.expect_mourned(&["agent-3", "peer-3"]);
}

#[test]
fn agents_and_legacy_peers_survive_being_stopped_killed_and_restarted() {
    let legacy = |lab: &Lab, host: usize| {
        let network = Network::Host(Arc::clone(lab.host(host)));
        let peer = LegacyPeer::start(network, "lab", Timing::GO);
        let seed = if host == AGENTS.len() {
            0
        } else {
            AGENTS.len()
        };
        let seed = (lab.host(seed).ip, GOSSIP_PORT).into();
        peer.join(seed).expect("the seed is up");
        Peer::Legacy(peer)
    };
    let mut cluster = Cluster::start(legacy, &[]);
    println!("{:?}", cluster.an_agent_and_a_peer_are_stopped());
    cluster.expect_mourned(&["agent-3", "peer-3"]);

    let agent = cluster.away_and_back(
        "agent-2",
        |cluster| cluster.agents[1].kill(),
        |cluster| cluster.agents[1].restart(),
    );
    let peer = cluster.away_and_back(
        "peer-2",
        |cluster| match &mut cluster.peers[1] {
            Peer::Legacy(peer) => peer.kill(),
            Peer::Serf(_) => unreachable!("there is no Serf here"),
        },
        |cluster| match &mut cluster.peers[1] {
            Peer::Legacy(peer) => {
                peer.restart();
                let seed = (cluster.lab.host(1).ip, GOSSIP_PORT).into();
                peer.join(seed).expect("the seed is up");
            }
            Peer::Serf(_) => unreachable!("there is no Serf here"),
        },
    );
    println!("{agent}\n{peer}");
    for agent in [0, 2] {
        let mourned = mourned(&cluster.agents[agent]);
        assert_eq!(mourned[mourned.len() - 2..], ["agent-2", "peer-2"]);
    }
    for peer in [0, 2] {
        let mourned = cluster.peers[peer].mourned();
        assert_eq!(mourned[mourned.len() - 2..], ["agent-2", "peer-2"]);
    }
}
