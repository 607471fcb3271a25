//! A mixed cluster: two agents and a scripted peer that behaves as Go Sidecar does. Records flow both
//! ways, deaths are noticed by both kinds, nothing is lost and nothing comes back from the dead.
//!
//! The peer panics at anything that a Go node could not digest, so that every test here is also a
//! test of that.

#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use blackbox::{
    Agent, AgentBuilder, Answer, GOSSIP_PORT, Lab, LegacyPeer, Machine, Network, Responder, Status,
    Timing, eventually, throughout,
};
use rustix::process::Signal;
use serde_json::json;

const AGENTS: [&str; 2] = ["alpha", "beta"];
const ALL: [&str; 3] = ["alpha", "beta", "legacy"];
const LEGACY: usize = 2;
/// The instance of the legacy peer, as Docker names it.
const CONTAINER: &str = "3f2a9c0d77e1";

const JOINED: Duration = Duration::from_secs(10);
/// Three nodes suspect a silent one for five seconds, after a probe of at most two.
const SUSPICION: Duration = Duration::from_secs(15);
/// Go Sidecar first announces a change a second after it looked, which it does every second.
const TOLD: Duration = Duration::from_secs(4);
/// A check of ours takes three seconds to look again.
const CHECKED: Duration = Duration::from_secs(15);
const GOODBYE: Duration = Duration::from_secs(3);
/// Both kinds look for who was lost, or are found, within this.
const FOUND: Duration = Duration::from_secs(45);
/// Agents keep the dead for half a minute and a probe cycle, then look for them every half minute.
const FORGOTTEN: Duration = Duration::from_secs(90);
/// Long enough for several exchanges of states and all copies of a tombstone.
const AFTERWARDS: Duration = Duration::from_secs(12);

struct Cluster {
    lab: Lab,
    services: Vec<Responder>,
    agents: Vec<Agent>,
    legacy: LegacyPeer,
}

impl Cluster {
    fn start(timing: Timing) -> Self {
        let lab = Lab::new(Machine::Shared, &ALL);
        let services = (0..AGENTS.len()).map(|number| {
            let service = Responder::start(lab.host(number), (Ipv4Addr::UNSPECIFIED, 8300).into());
            service.set("/health", Answer::ok("fine"));
            service
        });
        let services = services.collect();
        let agents = (0..AGENTS.len())
            .map(|number| {
                let target = json!({
                    "Service": {
                        "Name": "web",
                        "Image": "lab/<web> & more:1.0.0",
                        "Ports": [{ "Type": "tcp", "Port": 8300 }],
                    },
                    "Check": { "Type": "HttpGet", "Args": "http://127.0.0.1:8300/health" },
                });
                AgentBuilder::new(&lab, number)
                    // The legacy peer is nobody's seed: who loses it must find it by itself.
                    .env("SIDECAR_SEEDS", &lab.host(1 - number).ip.to_string())
                    .env("SIDECAR_PUSH_PULL_INTERVAL", "3s")
                    .services(&[target])
                    .start()
            })
            .collect();
        let network = Network::Host(Arc::clone(lab.host(LEGACY)));
        let mut legacy = LegacyPeer::start(network, "lab", timing);
        legacy.offer(CONTAINER, "web", Status::Alive);
        let cluster = Self {
            lab,
            services,
            agents,
            legacy,
        };
        cluster.joins(0);
        eventually("all know all", CHECKED, || cluster.whole());
        cluster
    }

    fn joins(&self, agent: usize) {
        let seed = (self.lab.host(agent).ip, GOSSIP_PORT).into();
        eventually("the legacy peer joins", JOINED, || self.legacy.join(seed));
    }

    /// Whether everybody who is not in `silent` lists all members but those, and the instances like
    /// this.
    fn agrees(
        &self,
        silent: &[&str],
        alpha: Status,
        beta: Status,
        legacy: Status,
    ) -> Result<(), String> {
        let web = [("alpha", alpha), ("beta", beta), ("legacy", legacy)];
        let mut members = ALL.to_vec();
        members.retain(|name| !silent.contains(name));
        for agent in &self.agents {
            if members.contains(&&*agent.host.name) {
                agent.expect_members(&members)?;
                agent.expect_instances("web", &web)?;
            }
        }
        if members.contains(&"legacy") {
            self.legacy.expect_members(&members)?;
            self.legacy.expect_instances("web", &web)?;
        }
        Ok(())
    }

    fn whole(&self) -> Result<(), String> {
        self.agrees(&[], Status::Alive, Status::Alive, Status::Alive)
    }

    fn nobody_complains(&self) {
        for agent in &self.agents {
            let malformed = agent
                .metrics("sidecar_gossip_malformed_total")
                .expect("the agent answers");
            assert!(
                malformed.values().all(|count| *count == 0.0),
                "{}: {malformed:?}",
                agent.host.name
            );
            assert_eq!(agent.mentions("panicked"), 0);
            assert_eq!(agent.mentions("cannot be read"), 0);
        }
    }
}

/// The original's pace, but for what the tests would only wait for.
fn timing() -> Timing {
    Timing {
        push_pull: Duration::from_secs(3),
        refresh: Duration::from_secs(4),
        ..Timing::GO
    }
}

#[test]
fn changes_flow_both_ways() {
    let mut cluster = Cluster::start(timing());
    for status in [Status::Unhealthy, Status::Alive, Status::Draining] {
        cluster.legacy.offer(CONTAINER, "web", status);
        let began = Instant::now();
        eventually("a change there is seen here", TOLD, || {
            cluster.agrees(&[], Status::Alive, Status::Alive, status)
        });
        println!("{status:?} at the legacy peer seen {:?}", began.elapsed());
    }
    cluster.legacy.withdraw(CONTAINER);
    eventually("a container gone there is gone here", TOLD, || {
        cluster.agrees(&[], Status::Alive, Status::Alive, Status::Tombstone)
    });
    cluster.legacy.offer(CONTAINER, "web", Status::Alive);
    eventually("and returns here too", TOLD, || cluster.whole());

    for (answer, status) in [
        (Answer::status(500), Status::Unhealthy),
        (Answer::ok("fine"), Status::Alive),
    ] {
        cluster.services[0].set("/health", answer);
        eventually("a change here is seen there", CHECKED, || {
            cluster.agrees(&[], status, Status::Alive, Status::Alive)
        });
    }
    let alpha = &cluster.agents[0];
    let told = cluster.legacy.instances("web");
    assert_eq!(alpha.instances("web"), Ok(told), "identities are the same");
    let record = |host: &str, id: &str| cluster.legacy.record(host, id).expect("held");
    let own = alpha.instances("web").expect("the agent answers");
    assert_eq!(record("alpha", &own[0].id).image, "lab/<web> & more:1.0.0");

    // What is refreshed stays what it is: the legacy peer does it every few seconds here.
    let refreshed = |seen: &mut BTreeSet<String>| {
        seen.insert(record("legacy", CONTAINER).updated);
        cluster.whole()
    };
    let mut seen = BTreeSet::new();
    throughout("refreshing changes nothing", AFTERWARDS, || {
        refreshed(&mut seen)
    });
    assert!(seen.len() > 2, "refreshed: {seen:?}");
    cluster.nobody_complains();
}

#[test]
fn the_legacy_peer_s_death_hides_its_services_until_it_returns() {
    let mut cluster = Cluster::start(timing());
    cluster.legacy.kill();
    let killed = Instant::now();
    let without = |cluster: &Cluster| {
        cluster.agrees(&["legacy"], Status::Alive, Status::Alive, Status::Tombstone)
    };
    eventually("agents notice its death", SUSPICION, || without(&cluster));
    println!("noticed {:?} after the silence began", killed.elapsed());
    throughout("it stays gone", AFTERWARDS, || without(&cluster));

    cluster.legacy.restart();
    let restarted = Instant::now();
    cluster.joins(1);
    eventually("it is back with its services", CHECKED, || cluster.whole());
    println!("back {:?} after the restart", restarted.elapsed());
    throughout("it stays", AFTERWARDS, || cluster.whole());
    cluster.nobody_complains();
}

#[test]
fn an_agent_s_death_is_mourned_by_both_kinds_until_it_returns() {
    let mut cluster = Cluster::start(timing());
    cluster.agents[1].kill();
    let killed = Instant::now();
    let without = |cluster: &Cluster| {
        cluster.agrees(&["beta"], Status::Alive, Status::Tombstone, Status::Alive)
    };
    eventually("its death is noticed", SUSPICION, || without(&cluster));
    println!("noticed {:?} after kill -9", killed.elapsed());
    throughout("it stays gone", AFTERWARDS, || without(&cluster));

    cluster.agents[1].restart();
    let restarted = Instant::now();
    eventually("it is back with its services", CHECKED, || cluster.whole());
    println!("back {:?} after the restart", restarted.elapsed());
    throughout("it stays", AFTERWARDS, || cluster.whole());

    cluster.agents[1].signal(Signal::TERM);
    let told = Instant::now();
    eventually("its goodbye is heard", GOODBYE, || without(&cluster));
    println!("gone {:?} after SIGTERM", told.elapsed());
    throughout("it stays gone", AFTERWARDS, || without(&cluster));
    cluster.agents[1].restart();
    eventually("it is back once more", CHECKED, || cluster.whole());
    cluster.nobody_complains();
}

/// The legacy peer buries the records of an agent that it cannot hear; the agent lives and says so.
#[test]
fn an_agent_that_was_cut_off_takes_its_services_back() {
    let cluster = Cluster::start(timing());
    cluster.lab.cable(0, false);
    eventually("the others give it up", SUSPICION, || {
        cluster.agrees(&["alpha"], Status::Tombstone, Status::Alive, Status::Alive)
    });
    eventually("it gives them up", SUSPICION, || {
        cluster.agents[0].expect_members(&["alpha"])
    });
    cluster.lab.cable(0, true);
    let mended = Instant::now();
    eventually("all are together again", FOUND, || cluster.whole());
    println!("together {:?} after the cable was mended", mended.elapsed());
    throughout("they stay", AFTERWARDS, || cluster.whole());
    cluster.nobody_complains();
}

/// The legacy peer forgets the dead and never looks for anybody; agents look for who was lost.
#[test]
fn a_partition_that_outlasts_the_peer_s_memory_heals() {
    let cluster = Cluster::start(Timing {
        gossip_to_the_dead: Duration::from_secs(3),
        ..timing()
    });
    cluster.lab.cable(LEGACY, false);
    eventually("the peer has forgotten everybody", SUSPICION, || {
        let members = cluster.legacy.members();
        let alone = members.len() == 1;
        alone.then_some(()).ok_or_else(|| format!("{members:?}"))
    });
    eventually("agents have given it up", SUSPICION, || {
        let agents = &cluster.agents;
        agents
            .iter()
            .try_for_each(|agent| agent.expect_members(&AGENTS))
    });
    cluster.lab.cable(LEGACY, true);
    let mended = Instant::now();
    eventually("agents find it", FORGOTTEN, || cluster.whole());
    println!("together {:?} after the cable was mended", mended.elapsed());
    throughout("they stay", AFTERWARDS, || cluster.whole());
    cluster.nobody_complains();
}

/// With every pace as it is in Go: its members forget what they have not heard of for eighty seconds.
#[test]
fn nothing_expires_among_quiet_members() {
    let cluster = Cluster::start(Timing::GO);
    throughout("nobody forgets anything", Duration::from_secs(95), || {
        cluster.whole()
    });
    cluster.nobody_complains();
}
