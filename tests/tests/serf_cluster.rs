//! Five agents and five Serf agents in one cluster: deaths, returns, goodbyes and a bad network, seen
//! from every one of them.
//!
//! Every agent has a Serf agent of its own for a seed and, for the records that Serf does not pass on,
//! the first agent.

#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use blackbox::{Agent, AgentBuilder, Lab, Machine, Serf, Status, eventually, throughout};
use rustix::process::Signal;
use serde_json::{Value, json};

const AGENTS: [&str; 5] = ["agent-1", "agent-2", "agent-3", "agent-4", "agent-5"];
const SERFS: [&str; 5] = ["serf-1", "serf-2", "serf-3", "serf-4", "serf-5"];
/// Hosts of the lab: agents first.
const SERF_HOSTS: usize = AGENTS.len();

const JOINED: Duration = Duration::from_secs(15);
/// The longest suspicion of ten members is thirty seconds; a probe cycle comes before it.
const SUSPICION: Duration = Duration::from_secs(40);
/// A goodbye travels by gossip, a fifth of a second a round, and is not a suspicion of at least four
/// seconds.
const GOODBYE: Duration = Duration::from_secs(2);
const SPREAD: Duration = Duration::from_secs(10);
/// Time for an event to go round.
const AGAIN: Duration = Duration::from_secs(3);
const LOSS: Duration = Duration::from_secs(20);
const LOSS_PERCENT: u8 = 10;

/// Words in which memberlist and Serf complain of bytes that they could not use.
const COMPLAINTS: [&str; 7] = [
    "decode",
    "decompress",
    "CRC",
    "not supported",
    "truncated",
    "type",
    "incompatible",
];
/// Serf takes the state and the messages of our application for its own, and says so.
const HARMLESS: [&str; 2] = [
    "Remote state has bad type prefix: 123",
    "Received message of unknown type: 123",
];

fn service(name: &str) -> Value {
    json!({
        "Service": {
            "Name": name,
            "Ports": [{ "Type": "tcp", "Port": 8300 }],
        },
        "Check": { "Type": "AlwaysSuccessful" },
    })
}

/// `service-3` of `agent-3`.
fn service_of(agent: &str) -> String {
    agent.replace("agent", "service")
}

fn all() -> Vec<&'static str> {
    AGENTS.iter().chain(&SERFS).copied().collect()
}

fn all_but(absent: &[&str]) -> Vec<&'static str> {
    let mut names = all();
    names.retain(|name| !absent.contains(name));
    names
}

/// All peers of one kind, asked at the same time.
fn each<T: Sync>(peers: &[T], ask: impl Fn(&T) -> Result<(), String> + Sync) -> Result<(), String> {
    thread::scope(|scope| {
        let answers: Vec<_> = peers.iter().map(|peer| scope.spawn(|| ask(peer))).collect();
        answers.into_iter().try_for_each(|answer| {
            answer
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

struct Cluster {
    lab: Lab,
    agents: Vec<Agent>,
    serfs: Vec<Serf>,
}

impl Cluster {
    fn start() -> Self {
        let lab = Lab::new(Machine::Alone, &all());
        let serfs: Vec<_> = (0..SERFS.len())
            .map(|number| {
                // All join the first; the first joins nobody.
                let seeds = [SERF_HOSTS];
                let seeds = if number == 0 { &[][..] } else { &seeds };
                Serf::start(&lab, SERF_HOSTS + number, seeds)
            })
            .collect();
        eventually("Serf is one cluster", JOINED, || {
            each(&serfs, |serf| serf.expect_all(&SERFS, &["alive"]))
        });
        let agents = (0..AGENTS.len())
            .map(|number| {
                let serf = lab.host(SERF_HOSTS + number).ip.to_string();
                let seeds = match number {
                    0 => serf,
                    _ => format!("{serf},{}", lab.host(0).ip),
                };
                AgentBuilder::new(&lab, number)
                    .env("SIDECAR_CLUSTER_NAME", "")
                    .env("SIDECAR_GOSSIP_DELEGATE_VERSIONS", "2,5,5")
                    .env("SIDECAR_SEEDS", &seeds)
                    .services(&[service(&service_of(AGENTS[number]))])
                    .start()
            })
            .collect();
        Self { lab, agents, serfs }
    }

    /// Whether everybody who is not in `absent` lists all who are not, and Serf lists the absent as
    /// one of `states`.
    fn agrees(&self, absent: &[&str], states: &[&str]) -> Result<(), String> {
        let present = all_but(absent);
        let is_present = |name: &String| present.contains(&name.as_str());
        each(&self.agents, |agent| {
            if is_present(&agent.host.name) {
                agent.expect_members(&present)?;
            }
            Ok(())
        })?;
        each(&self.serfs, |serf| {
            if is_present(&serf.host.name) {
                serf.expect_all(&present, &["alive"])?;
                serf.expect_all(absent, states)?;
            }
            Ok(())
        })
    }

    fn whole(&self) -> Result<(), String> {
        self.agrees(&[], &[])
    }

    /// Whether every agent lists these services alive, each on its host.
    fn lists(&self, services: &[(String, &str)]) -> Result<(), String> {
        each(&self.agents, |agent| {
            services.iter().try_for_each(|(service, host)| {
                agent.expect_instances(service, &[(host, Status::Alive)])
            })
        })
    }

    /// Deaths and departures that anybody has noticed so far.
    fn losses(&self) -> Result<BTreeMap<String, u64>, String> {
        let mut losses = BTreeMap::new();
        for agent in &self.agents {
            let declared = agent.metrics("sidecar_gossip_deaths_declared_total")?;
            let declared: f64 = declared.values().sum();
            losses.insert(agent.host.name.clone(), declared as u64);
        }
        for serf in &self.serfs {
            let lost = serf.mentions("EventMemberFailed") + serf.mentions("EventMemberLeave");
            losses.insert(serf.host.name.clone(), lost as u64);
        }
        Ok(losses)
    }
}

fn services() -> Vec<(String, &'static str)> {
    let services = AGENTS.iter().map(|agent| (service_of(agent), *agent));
    services.collect()
}

fn agents_announce_services_past_serf(cluster: &Cluster) {
    eventually("every agent lists every service", SPREAD, || {
        cluster.lists(&services())
    });
    // And Serf's own messages are not lost among our agents. Serf sends an event eight times and only
    // Serf passes it on; of ten members, half of them ours, one in about forty times somebody hears
    // nothing. So it is said again.
    let mut said: Option<Instant> = None;
    eventually("every Serf agent hears of an event", SPREAD, || {
        if said.is_none_or(|at| at.elapsed() > AGAIN) {
            let sent = cluster.serfs[4].command(&["event", "deploy", "past-the-agents"]);
            assert!(sent.status.success(), "serf event: {sent:?}");
            said = Some(Instant::now());
        }
        each(&cluster.serfs, |serf| {
            let heard = serf.mentions("user-event: deploy") > 0;
            heard
                .then_some(())
                .ok_or_else(|| format!("{} does not", serf.host.name))
        })
    });
}

/// How long it took, in words; the phases below say the same of themselves.
fn deaths_are_noticed_and_forgiven(cluster: &mut Cluster) -> String {
    cluster.agents[1].kill();
    cluster.serfs[1].kill();
    let dead = ["agent-2", "serf-2"];
    let killed = Instant::now();
    eventually("everybody notices two deaths", SUSPICION, || {
        cluster.agrees(&dead, &["failed"])
    });
    let noticed = killed.elapsed();
    cluster.serfs[1].restart(&cluster.lab);
    cluster.agents[1].restart();
    let restarted = Instant::now();
    eventually("both are back everywhere", JOINED, || cluster.whole());
    let back = restarted.elapsed();
    eventually("every agent lists every service again", SPREAD, || {
        cluster.lists(&services())
    });
    format!("dead everywhere {noticed:?} after kill -9, back everywhere {back:?} after the restart")
}

fn a_bad_network_loses_nobody(cluster: &Cluster) -> String {
    let hosts = 0..all().len();
    let before = cluster.losses().expect("every agent answers");
    hosts
        .clone()
        .for_each(|host| cluster.lab.lose(host, LOSS_PERCENT));
    let late: Vec<_> = AGENTS
        .iter()
        .map(|agent| (format!("late-{agent}"), *agent))
        .collect();
    for (name, agent) in &late {
        let targets = json!([service(&service_of(agent)), service(name)]);
        let file = format!("static-{agent}.json");
        cluster.lab.write(&file, &targets.to_string());
    }
    let began = Instant::now();
    let mut spread = None;
    throughout("nobody is lost in a bad network", LOSS, || {
        cluster.whole()?;
        if spread.is_none() && cluster.lists(&late).is_ok() {
            spread = Some(began.elapsed());
        }
        Ok(())
    });
    let dropped: Vec<u64> = hosts.map(|host| cluster.lab.lose_no_more(host)).collect();
    assert!(
        dropped.iter().all(|packets| *packets > 0),
        "every host lost some: {dropped:?}"
    );
    let spread = spread.expect("new services reach every agent in a bad network");
    // What happened between two looks is seen by what everybody remembers.
    let after = cluster.losses().expect("every agent answers");
    assert_eq!(after, before, "nobody was thought dead, however shortly");
    format!("with {LOSS_PERCENT} % loss, {dropped:?} packets: services everywhere after {spread:?}")
}

fn an_agent_that_leaves_is_dropped_at_once(cluster: &mut Cluster) -> String {
    let failed = |serf: &Serf| serf.mentions("EventMemberFailed: agent-5");
    let before: Vec<usize> = cluster.serfs.iter().map(failed).collect();
    cluster.agents[4].signal(Signal::TERM);
    let told = Instant::now();
    let stay = all_but(&["agent-5"]);
    eventually("agents drop an agent that leaves", GOODBYE, || {
        each(&cluster.agents[..4], |agent| agent.expect_members(&stay))
    });
    let ours = told.elapsed();
    eventually("Serf drops an agent that leaves", GOODBYE, || {
        let after: Vec<usize> = cluster.serfs.iter().map(failed).collect();
        let all = after
            .iter()
            .zip(&before)
            .all(|(after, before)| after > before);
        all.then_some(())
            .ok_or_else(|| format!("{before:?}, {after:?}"))
    });
    let theirs = told.elapsed();
    // Serf knows of a leave only by a message of its own, so it takes ours for a failure.
    eventually("the leave is known everywhere", GOODBYE, || {
        cluster.agrees(&["agent-5"], &["failed"])
    });
    format!("an agent is gone from agents {ours:?}, from Serf {theirs:?} after SIGTERM")
}

fn a_serf_that_leaves_is_dropped_at_once(cluster: &Cluster) -> String {
    let absent = ["agent-5", "serf-5"];
    let stay = all_but(&absent);
    let began = Instant::now();
    let (agents, leaver) = (&cluster.agents[..4], &cluster.serfs[4]);
    let (ours, left) = thread::scope(|scope| {
        let leave = scope.spawn(|| leaver.command(&["leave"]));
        // Serf first tells its own kind, which may take it five seconds.
        let ours = eventually("agents drop a Serf agent that leaves", SPREAD, || {
            each(agents, |agent| agent.expect_members(&stay)).map(|()| began.elapsed())
        });
        (ours, leave.join().expect("the command was run"))
    });
    let ended = began.elapsed();
    assert!(left.status.success(), "serf leave: {left:?}");
    assert!(
        ours < ended + GOODBYE,
        "agents took a leave for a death: {ours:?}, when the command took {ended:?}"
    );
    eventually("the leave is known everywhere", GOODBYE, || {
        cluster.agrees(&absent, &["left", "failed"])
    });
    // Serf's own word about its leave is sent eight times and passed on by Serf alone, so one of ten
    // members may miss it and take the leave for a failure.
    let knows = |serf: &&Serf| serf.expect("serf-5", &["left"]).is_ok();
    let knowing = cluster.serfs[..4].iter().filter(knows).count();
    assert!(knowing >= 1, "nobody of Serf knows of its own kind's leave");
    format!("agents dropped a Serf agent {ours:?} after `serf leave`, which took {ended:?}")
}

fn nobody_complains(cluster: &Cluster) {
    for serf in &cluster.serfs {
        let log = serf.log();
        let has = |line: &str, words: &[&str]| words.iter().any(|word| line.contains(word));
        let complaint = log.lines().find(|line| {
            has(line, &["[WARN]", "[ERR]"]) && has(line, &COMPLAINTS) && !has(line, &HARMLESS)
        });
        assert_eq!(complaint, None, "{} complains", serf.host.name);
        assert_eq!(serf.mentions("panic:"), 0, "{}", serf.host.name);
    }
    for agent in &cluster.agents[..4] {
        let malformed = agent
            .metrics("sidecar_gossip_malformed_total")
            .expect("the agent answers");
        assert!(
            malformed.values().all(|count| *count == 0.0),
            "{}: {malformed:?}",
            agent.host.name
        );
        assert_eq!(agent.mentions("panicked"), 0);
    }
}

#[test]
fn five_agents_and_five_serf_agents_live_together() {
    let mut cluster = Cluster::start();
    let began = Instant::now();
    eventually("all ten list all ten alive", JOINED, || cluster.whole());
    println!("ten members agree after {:?}", began.elapsed());
    agents_announce_services_past_serf(&cluster);
    println!("{}", deaths_are_noticed_and_forgiven(&mut cluster));
    println!("{}", a_bad_network_loses_nobody(&cluster));
    println!("{}", an_agent_that_leaves_is_dropped_at_once(&mut cluster));
    println!("{}", a_serf_that_leaves_is_dropped_at_once(&cluster));
    nobody_complains(&cluster);
}
