//! A whole story from a seed: the cluster forms, the nemesis torments it, then all is repaired and
//! the cluster must agree within a bound (P5, P6, P16), come to rest (P14, P18), stay at rest (P2)
//! and pass its drills.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::HostId;
use super::catalogue::Catalogue;
use super::checker::{Checker, Rules, Violation, suspicion_span};
use super::faults::Faults;
use super::network::Network;
use super::options::Options;
use super::tally::Tally;
use crate::node::Node;
use crate::wire::encode_message;
use crate::wire::message::{Message, NodeState};

/// Hosts everyone knows as seeds. They never move and are up when all is calm.
pub(super) const SEEDS: usize = 3;
/// How often a condition of the whole cluster is looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Longest pause between a node's attempts to find lost members, with its jitter.
const REJOIN_PAUSE_MAX: Duration = Duration::from_secs(360);
/// After this time nothing sent in the chaos is on its way any more.
const STRAGGLERS: Duration = Duration::from_secs(22);
const SECOND: Duration = Duration::from_secs(1);

/// Why a run failed: the name of the invariant, and the particulars.
pub(super) type Outcome = Result<(), (&'static str, String)>;

/// A story waiting to be told. See the module documentation.
#[derive(Debug, Clone)]
pub struct Scenario {
    seed: u64,
    options: Options,
    rng: Pcg64Mcg,
}

/// How a run went.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// What was drawn from it.
    pub options: Options,
    /// The first invariant that did not hold.
    pub violation: Option<Violation>,
    /// What happened.
    pub tally: Tally,
    /// Virtual time at the end.
    pub elapsed: Duration,
    /// Stands for everything that happened, in order. See [`Network::trace_hash`].
    pub trace_hash: u64,
    /// What the scenario did, line by line.
    pub log: Vec<String>,
}

impl Scenario {
    /// The story of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed ^ 0x5eed_0000_0000_0000);
        Self {
            seed,
            options: Options::draw(seed, &mut rng),
            rng,
        }
    }

    /// What was drawn.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The same seed with other options.
    #[must_use]
    pub fn with_options(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.options);
        self
    }

    /// Runs it to its end, or to the first violation.
    pub fn run(self) -> Report {
        let mut network = Network::new(self.seed, Instant::now());
        network.checker = Some(Box::new(Checker::new(self.options.damages())));
        network.set_recording(false);
        network.set_brief(self.options.brief);
        let mut run = Run {
            network,
            options: self.options,
            rng: self.rng,
            left: BTreeMap::new(),
            stamp: 0,
            written: BTreeMap::new(),
            log: Vec::new(),
        };
        if let Err((invariant, detail)) = run.tell() {
            let now = run.network.now;
            if let Some(checker) = &mut run.network.checker {
                checker.fail(invariant, now, detail);
            }
        }
        Report {
            seed: self.seed,
            violation: run
                .network
                .checker
                .take()
                .and_then(|checker| checker.violation),
            tally: run.network.tally(),
            elapsed: run.network.elapsed(),
            trace_hash: run.network.trace_hash(),
            options: run.options,
            log: run.log,
        }
    }
}

/// A story being told.
pub(super) struct Run {
    pub(super) network: Network,
    pub(super) options: Options,
    pub(super) rng: Pcg64Mcg,
    /// Hosts that have left and are still up, and since when.
    pub(super) left: BTreeMap<HostId, Duration>,
    stamp: u64,
    /// Records whose author has been up ever since: key to author, its life, and stamp.
    written: BTreeMap<String, (HostId, u64, u64)>,
    log: Vec<String>,
}

impl Run {
    fn tell(&mut self) -> Outcome {
        self.form()?;
        self.torment()?;
        self.log("calm");
        self.calm_down();
        // What is still under way on slow streams may be old news.
        self.run_for(STRAGGLERS)?;
        self.converge("P5 convergence", self.convergence_bound())?;
        self.come_to_rest()?;
        self.stay_at_rest()?;
        for drill in self.options.drills.clone() {
            self.log(&format!("drill {drill:?}"));
            self.perform(drill)?;
            self.set_rules(Rules::default());
            self.calm_down();
            // A round of failure detection begun in the drill may still end badly.
            let config = &self.options.config;
            self.run_for(config.probe_interval * (config.awareness_max_multiplier + 1))?;
            self.converge("P5 convergence after a drill", self.convergence_bound())?;
            self.come_to_rest()?;
        }
        self.verdict()
    }

    /// The hosts start one after the other and join.
    fn form(&mut self) -> Outcome {
        let hosts = self.options.hosts;
        for id in 0..hosts + self.options.foreigners {
            let mut config = self.options.config.clone();
            config.name = name(id);
            config.advertise = address(id, 0);
            if id >= hosts {
                config.cluster_name = "elsewhere".to_owned();
            }
            let added = self.network.add(config);
            debug_assert_eq!(added, Ok(id), "the drawn settings are valid");
            let skew = self.options.clock_rate_ppm;
            if skew != 0 {
                let offset = Duration::from_millis(self.rng.random_range(0..100_000));
                let rate = self.rng.random_range(-skew..=skew);
                self.network.crash(id);
                self.network.set_clock(id, offset, rate);
                self.restart(id);
            } else {
                self.network.hosts[id].application = Some(Catalogue::default());
                self.join_seeds(id);
            }
            let pause = Duration::from_millis(self.rng.random_range(0..200));
            self.run_for(pause)?;
        }
        // Joins alone bring everyone together: no death, no reaping is needed.
        self.converge("P5 convergence at the start", self.convergence_bound())
    }

    /// Starts a host with an empty memory and joins the seeds.
    pub(super) fn restart(&mut self, id: HostId) {
        self.left.remove(&id);
        self.network.hosts[id].application = Some(Catalogue::default());
        let started = self.network.restart(id);
        debug_assert!(started.is_ok(), "settings that were valid once");
        self.join_seeds(id);
    }

    fn join_seeds(&mut self, id: HostId) {
        let known = self.network.hosts_len();
        if id >= self.options.hosts {
            // A stranger knocks at our door, and at its own.
            self.network.join(id, self.options.hosts);
        }
        for seed in (0..SEEDS.min(known)).filter(|seed| *seed != id) {
            self.network.join(id, seed);
        }
    }

    /// Hosts of the cluster that are up and have not left.
    pub(super) fn live(&self) -> Vec<HostId> {
        (0..self.options.hosts)
            .filter(|id| {
                self.network
                    .node(*id)
                    .is_some_and(|node| !node.is_leaving())
            })
            .collect()
    }

    /// One of them.
    pub(super) fn pick(&mut self) -> HostId {
        let live = self.live();
        live.choose(&mut self.rng).copied().unwrap_or(0)
    }

    /// One of them that is not `other`.
    pub(super) fn pick_other(&mut self, other: HostId) -> HostId {
        let mut live = self.live();
        live.retain(|id| *id != other);
        live.choose(&mut self.rng).copied().unwrap_or(0)
    }

    /// No fault is left. What is down stays down, but for the seeds.
    pub(super) fn calm_down(&mut self) {
        self.network.set_faults(Faults::default());
        self.network.repair();
        let now = self.network.now;
        for id in 0..self.network.hosts_len() {
            self.network.reset_processor(id);
            let host = &mut self.network.hosts[id];
            host.busy_until = host.busy_until.min(now);
            host.frozen_until = host.frozen_until.min(now);
            self.network.act(id, super::checker::Step::Api, |_, _| ());
        }
        for (id, _) in std::mem::take(&mut self.left) {
            self.network.crash(id);
        }
        for id in 0..self.options.hosts {
            let down = self.network.node(id).is_none();
            if down && (id < SEEDS || self.rng.random_bool(0.5)) {
                self.restart(id);
            }
        }
    }

    /// Lets time pass, unless an invariant breaks.
    pub(super) fn run_for(&mut self, time: Duration) -> Outcome {
        self.network.run_for(time);
        self.intact()
    }

    /// Lets time pass until `done`, for `time` at most.
    pub(super) fn wait(
        &mut self,
        invariant: &'static str,
        time: Duration,
        what: &str,
        done: impl FnMut(&Network) -> bool,
    ) -> Outcome {
        let until = self.network.now + time;
        let period = LOOK_PERIOD.min(time / 100);
        let reached = self.network.run_until(until, period, done);
        self.intact()?;
        if reached {
            return Ok(());
        }
        Err((invariant, format!("not within {time:?}: {what}")))
    }

    fn intact(&self) -> Outcome {
        match self
            .network
            .checker
            .as_ref()
            .and_then(|checker| checker.violation.as_ref())
        {
            // The checker holds the particulars already.
            Some(violation) => Err((violation.invariant, violation.detail.clone())),
            None => Ok(()),
        }
    }

    /// All live hosts agree on each other, on who is alive and where, and on all records.
    pub(super) fn converge(&mut self, invariant: &'static str, bound: Duration) -> Outcome {
        let live = self.live();
        let outcome = self.wait(invariant, bound, "agreement", |network| {
            disagreement(network, &live).is_none()
        });
        outcome.map_err(|(invariant, detail)| {
            let why = disagreement(&self.network, &live).unwrap_or_default();
            (invariant, format!("{detail}; {why}"))
        })
    }

    /// Time in which any disagreement must end: the longest doubts, two rounds through the table
    /// by the unhealthiest prober, name reclaim, state exchanges, and two attempts to rejoin.
    pub(super) fn convergence_bound(&self) -> Duration {
        let config = &self.options.config;
        let hosts = self.options.hosts as u32 + 2;
        let (_, suspicion) = suspicion_span(config, 2 * self.options.hosts);
        let cycle = config.probe_interval * config.awareness_max_multiplier * hosts;
        let exchanges = config.push_pull_interval * (3 + hosts.ilog2());
        let settle = config.gossip_to_the_dead + config.dead_node_reclaim;
        2 * (suspicion + 2 * cycle + settle) + exchanges + 2 * REJOIN_PAUSE_MAX
    }

    /// The dead are forgotten, queues and relays are empty, everyone is healthy.
    pub(super) fn come_to_rest(&mut self) -> Outcome {
        let config = &self.options.config;
        let hosts = self.options.hosts as u32 + 2;
        let cycle = config.probe_interval * hosts;
        // Reaping may wait for the end of a slow cycle, health for as many successes.
        let bound = config.gossip_to_the_dead + 12 * cycle + 30 * SECOND;
        let live = self.live();
        let mut drained = BTreeSet::new();
        let outcome = self.wait("P14 bounds", bound, "rest", |network| {
            for id in &live {
                let node = network.node(*id);
                if node.is_some_and(|node| {
                    node.membership_queue_len() == 0 && node.user_queue_len() == 0
                }) {
                    drained.insert(*id);
                }
            }
            drained.len() == live.len() && live.iter().all(|id| unrest(network, *id).is_none())
        });
        outcome.map_err(|(invariant, detail)| {
            let why = live.iter().find_map(|id| unrest(&self.network, *id));
            let name = match &why {
                Some(why) if why.contains("health") => "P18 health",
                Some(why) if why.contains("forgotten") => "P1 completeness",
                _ => invariant,
            };
            let why = why.unwrap_or_else(|| format!("queues drained only at {drained:?}"));
            (name, format!("{detail}; {why}"))
        })
    }

    /// In a quiet cluster nobody is doubted and everybody is looked after.
    fn stay_at_rest(&mut self) -> Outcome {
        self.set_rules(Rules {
            no_suspicion: true,
            ..Rules::default()
        });
        let begin = self.network.now;
        self.run_for(self.two_cycles())?;
        self.set_rules(Rules::default());
        let skipped = self.network.checker.as_ref();
        match skipped.and_then(|checker| checker.not_pinged(begin)) {
            Some((prober, member)) => Err((
                "P1 completeness",
                format!("{prober} does not probe {member}"),
            )),
            None => Ok(()),
        }
    }

    /// Rounds in which every prober must have looked at every member.
    pub(super) fn two_cycles(&self) -> Duration {
        let rounds = 2 * self.live().len() as u32 + 2;
        (self.options.config.probe_interval * rounds).mul_f64(1.02)
    }

    /// The last word, about what can only be said at the end.
    fn verdict(&mut self) -> Outcome {
        let tally = self.network.tally();
        if !self.options.damages() && tally.unreadable > tally.forged {
            let detail = format!("{} datagrams were not understood", tally.unreadable);
            return Err(("P20 Go-peer safety", detail));
        }
        for (key, (author, life, stamp)) in &self.written {
            let host = &self.network.hosts[*author];
            if host.life != *life || host.node.is_none() {
                continue;
            }
            for id in self.live() {
                let catalogue = self.network.hosts[id].application.as_ref();
                if catalogue.and_then(|held| held.stamp(key)) < Some(*stamp) {
                    let detail = format!("{} lacks record {key}@{stamp}", name(id));
                    return Err(("P16 user data", detail));
                }
            }
        }
        Ok(())
    }

    pub(super) fn set_rules(&mut self, rules: Rules) {
        if let Some(checker) = &mut self.network.checker {
            checker.rules = rules;
        }
    }

    /// A host's application says something new, `padding` bytes longer than need be. The stamp of
    /// the record.
    pub(super) fn write(&mut self, id: HostId, key: &str, padding: usize) -> u64 {
        self.stamp += 1;
        let record = Catalogue::record(key, self.stamp, padding);
        let host = &mut self.network.hosts[id];
        if let Some(catalogue) = &mut host.application {
            catalogue.merge(&record);
        }
        let version = (id, host.life, self.stamp);
        self.written.insert(key.to_owned(), version);
        self.network.tally.writes += 1;
        self.network
            .with(id, |node, _| node.broadcast(Some(key.to_owned()), record));
        self.stamp
    }

    /// A message that nobody has sent arrives.
    pub(super) fn forge(&mut self, to: HostId, message: &Message) {
        if let Some(checker) = &mut self.network.checker {
            match message {
                Message::Suspect(word) => checker.forged(&word.node, word.incarnation),
                Message::Dead(word) => checker.forged(&word.node, word.incarnation),
                Message::Alive(word) => checker.forged(&word.node, word.incarnation),
                _ => {}
            }
        }
        let bytes = encode_message(message, &self.options.config.cluster_name);
        self.network.forge(ghost(), to, bytes.into());
    }

    /// As [`Run::forge`], bytes as they are.
    pub(super) fn forge_bytes(&mut self, to: HostId, bytes: Bytes) {
        self.network.forge(ghost(), to, bytes);
    }

    pub(super) fn incarnation(&self, id: HostId) -> u32 {
        let own = self
            .network
            .node(id)
            .and_then(|node| node.member(&name(id)));
        own.map_or(0, |member| member.incarnation)
    }

    pub(super) fn log(&mut self, line: &str) {
        let at = self.network.elapsed().as_secs_f64();
        self.log.push(format!("{at:9.3} {line}"));
    }
}

/// Name of a host.
pub(super) fn name(id: HostId) -> String {
    format!("node-{id:02}")
}

/// Address of a host, a new one for each move.
pub(super) fn address(id: HostId, moves: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, moves, 0, id as u8 + 1))
}

/// Whoever sends what nobody has sent.
pub(super) fn ghost() -> SocketAddr {
    SocketAddr::from(([10, 99, 99, 99], 7946))
}

/// What a host believes about another.
pub(super) fn belief(network: &Network, observer: HostId, about: HostId) -> Option<NodeState> {
    let node = network.node(observer)?;
    node.member(&name(about)).map(|member| member.state)
}

/// Whether all of `observers` but `about` itself hold it so.
pub(super) fn all_believe(
    network: &Network,
    observers: &[HostId],
    about: HostId,
    right: impl Fn(Option<NodeState>) -> bool,
) -> bool {
    observers
        .iter()
        .filter(|id| **id != about)
        .all(|id| right(belief(network, *id, about)))
}

/// Why the cluster is not of one mind.
fn disagreement(network: &Network, live: &[HostId]) -> Option<String> {
    let owners: BTreeMap<String, &Node> = live
        .iter()
        .filter_map(|id| Some((name(*id), network.node(*id)?)))
        .collect();
    let first = live.first().map(|id| &network.hosts[*id]);
    for id in live {
        let host = &network.hosts[*id];
        let us = name(*id);
        let Some(node) = &host.node else {
            return Some(format!("{us} is down"));
        };
        let members = node.members();
        if members.len() != owners.len() {
            let names: Vec<&str> = members.iter().map(|member| &*member.name).collect();
            return Some(format!("{us} knows {names:?} of {} live", owners.len()));
        }
        for member in members {
            let own = owners
                .get(&member.name)
                .and_then(|owner| owner.member(&member.name));
            if own.as_ref() != Some(&member) {
                return Some(format!("{us} holds {member:?}, itself {own:?}"));
            }
        }
        if let Some(first) = first
            && first.application != host.application
        {
            return Some(format!(
                "P16: the records of {us} are not those of the first host"
            ));
        }
    }
    None
}

/// Why a host is not at rest.
fn unrest(network: &Network, id: HostId) -> Option<String> {
    let node = network.node(id)?;
    let us = name(id);
    if node.health_score() > 0 {
        return Some(format!(
            "{us} has a health score of {}",
            node.health_score()
        ));
    }
    if node.relays_len() > 0 {
        return Some(format!("{us} has {} relays open", node.relays_len()));
    }
    let row = node.rows().find(|row| row.state != NodeState::Alive)?;
    Some(format!(
        "{us} has not forgotten {}, {:?}",
        row.name, row.state
    ))
}
