//! State exchanges (push/pull): when and with whom, what we say, what is checked and how it is
//! merged; and finding members again that were forgotten, which Go never does.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::seq::SliceRandom;

use super::membership::{Haste, Origin};
use super::table::Entry;
use super::timers::Timer;
use super::{Event, Node, Profile, StreamRequest};
use crate::wire::message::{
    Alive, Dead, NodeState, PushNode, PushPull, Suspect, Versions, socket_addr,
};

/// Members up to which everyone exchanges states once per interval.
const PUSH_PULL_SCALE_FROM: usize = 32;

/// For this long after the start every state exchange re-announces us: a peer that knew us at
/// another address ignores us until it has given the old one up.
const REANNOUNCE: Duration = Duration::from_secs(300);

/// Seeds and forgotten members tried per attempt.
const REJOIN_TARGETS: usize = 3;
/// Longest pause between attempts that all fail.
const REJOIN_PAUSE_MAX: Duration = Duration::from_secs(300);
/// First pause while we know nobody at all: someone waits for this node to come up.
const REJOIN_PAUSE_ALONE: Duration = Duration::from_secs(2);
/// Seeds remembered.
const SEEDS_MAX: usize = 256;
/// Forgotten members remembered, and for how long.
const FORGOTTEN_MAX: usize = 256;
const FORGOTTEN_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a state exchange was not merged. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A node speaks a version that another one does not understand.
    #[error("{what} version {spoken} of node {node:?}: the cluster understands {min} to {max}")]
    Version {
        /// Which of the two versions.
        what: &'static str,
        /// The node that does not fit, of their table or ours.
        node: String,
        /// What it speaks.
        spoken: u8,
        /// Lowest version all alive nodes understand.
        min: u8,
        /// Highest version all alive nodes understand.
        max: u8,
    },
}

/// Where to look for the cluster when it is lost.
#[derive(Debug, Default)]
pub(super) struct Rejoin {
    seeds: BTreeSet<SocketAddr>,
    forgotten: VecDeque<(SocketAddr, Instant)>,
    /// Addresses of the last attempt that have not succeeded.
    trying: BTreeSet<SocketAddr>,
    failures: u32,
}

impl Node {
    /// Remembers addresses at which the cluster may be found again. To join now, also exchange
    /// states with each.
    pub fn add_seeds(&mut self, now: Instant, seeds: &[SocketAddr]) {
        self.note_time(now);
        for seed in seeds {
            if self.rejoin.seeds.len() < SEEDS_MAX {
                self.rejoin.seeds.insert(*seed);
            }
        }
        self.arm_rejoin(now);
    }

    /// Our side of a state exchange, as it is now. Take it before merging the other side: a
    /// restarted node learns from our stale view of it that it must speak up.
    pub fn push_pull(&self, join: bool) -> PushPull {
        let nodes = self
            .table
            .iter()
            .filter(|entry| entry.incarnation < u32::MAX || entry.state == NodeState::Alive)
            .map(|entry| {
                let mut node = entry.push_node();
                if node.state == NodeState::Left && self.config.profile == Profile::Fork {
                    node.state = NodeState::Dead;
                }
                node
            })
            .collect();
        PushPull {
            join,
            nodes,
            user_state: Default::default(),
        }
    }

    /// Merges the other side of a state exchange. `join` is the flag of the request, whoever
    /// made it.
    ///
    /// # Errors
    /// Protocol versions do not fit; nothing was merged.
    pub fn merge(&mut self, now: Instant, remote: PushPull, join: bool) -> Result<(), MergeError> {
        self.note_time(now);
        // Whoever leaves its table out has none that could not fit ours.
        if !remote.nodes.is_empty()
            && let Err(error) = self.check_versions(&remote.nodes)
        {
            self.counters.merges_refused += 1;
            return Err(error);
        }
        self.counters.merges += 1;
        for node in remote.nodes {
            self.merge_node(now, node);
        }
        self.ask_the_contradicted(now);
        if !remote.user_state.is_empty() {
            self.events.push_back(Event::RemoteState {
                state: remote.user_state,
                join,
            });
        }
        Ok(())
    }

    pub(super) fn merge_node(&mut self, now: Instant, mut node: PushNode) {
        if node.port == 0 {
            node.port = self.config.port();
        }
        let known = self.table.find(&node.name);
        let other = known.filter(|entry| entry.name != self.config.name);
        match (node.state, other) {
            (NodeState::Alive, Some(entry))
                if node.incarnation <= entry.incarnation
                    && entry.addr() == socket_addr(node.addr, node.port)
                    && !self.is_believed_back(entry, node.incarnation, now) =>
            {
                if entry.state != NodeState::Alive {
                    self.weigh(node.name, None);
                }
                return;
            }
            // Hearsay of a death is a question first: the accused gets its chance to refute.
            (NodeState::Suspect | NodeState::Dead, Some(entry))
                if entry.state == NodeState::Alive
                    && (entry.incarnation..u32::MAX).contains(&node.incarnation) =>
            {
                self.weigh(node.name, Some(node.incarnation));
                return;
            }
            _ => {}
        }
        match node.state {
            NodeState::Alive => self.alive(
                now,
                Alive {
                    incarnation: node.incarnation,
                    node: node.name,
                    addr: node.addr,
                    port: node.port,
                    meta: node.meta,
                    versions: node.versions,
                },
            ),
            NodeState::Suspect | NodeState::Dead => self.suspect(
                now,
                Suspect {
                    incarnation: node.incarnation,
                    node: node.name,
                    from: self.config.name.clone(),
                },
                Origin::Peer,
            ),
            NodeState::Left => self.dead(
                now,
                Dead {
                    incarnation: node.incarnation,
                    from: node.name.clone(),
                    node: node.name,
                },
                Origin::Peer,
            ),
        }
    }

    /// Every node of both tables must speak what all alive nodes of both understand.
    fn check_versions(&self, remote: &[PushNode]) -> Result<(), MergeError> {
        let local = self
            .table
            .iter()
            .map(|entry| (entry.name.as_str(), entry.state, entry.versions));
        let all = remote
            .iter()
            .map(|node| (node.name.as_str(), node.state, node.versions))
            .chain(local);
        for (what, at) in [("protocol", 0), ("delegate protocol", 3)] {
            let (mut min, mut max) = (0, u8::MAX);
            let alive = all
                .clone()
                .filter(|(_, state, _)| *state == NodeState::Alive);
            for (_, _, Versions(versions)) in alive {
                min = min.max(versions[at]);
                max = max.min(versions[at + 1]);
            }
            for (node, _, Versions(versions)) in all.clone() {
                let spoken = versions[at + 2];
                if !(min..=max).contains(&spoken) {
                    return Err(MergeError::Version {
                        what,
                        node: node.to_owned(),
                        spoken,
                        min,
                        max,
                    });
                }
            }
        }
        Ok(())
    }

    /// Time between our state exchanges at the present size of the cluster.
    pub(super) fn push_pull_period(&self) -> Duration {
        self.config.push_pull_interval * push_pull_scale(self.table.len())
    }

    /// The table has grown. When that makes exchanges rarer, the next one gets a random phase of the
    /// new period: those that learn of many members at once must not all exchange states at once.
    pub(super) fn spread_push_pull(&mut self, now: Instant) {
        let scale = push_pull_scale(self.table.len());
        if scale > self.push_pull_scale && !self.config.push_pull_interval.is_zero() {
            let phase = self.random_within(self.push_pull_period());
            self.timers.arm(Timer::PushPull, now + phase);
        }
        self.push_pull_scale = self.push_pull_scale.max(scale);
    }

    pub(super) fn push_pull_tick(&mut self, now: Instant) {
        if now.saturating_duration_since(self.started) < REANNOUNCE && !self.leaving {
            self.announce_ourselves(Haste::NextRound);
        }
        self.exchange_with_any();
    }

    /// Asks for a state exchange with a random member that is not suspected.
    pub fn exchange_with_any(&mut self) {
        let us = &self.config.name;
        let partner = self.table.sample(&mut self.rng, 1, |entry| {
            entry.state == NodeState::Alive && entry.name != *us
        });
        if let Some(partner) = partner.first() {
            self.partner = Some(partner.name.clone());
            self.requests.push_back(StreamRequest::PushPull {
                to: partner.addr(),
                join: false,
                full: false,
            });
        }
    }

    /// How an exchange ended that was asked for by [`StreamRequest::PushPull`].
    pub fn handle_exchange_result(&mut self, to: SocketAddr, merged: bool) {
        if merged && self.rejoin.trying.remove(&to) {
            self.rejoin.failures = 0;
            self.rejoin.forgotten.retain(|(addr, _)| *addr != to);
        }
    }

    /// Keeps the address of a node that leaves the table: after a long partition it may be back.
    pub(super) fn forget(&mut self, now: Instant, entry: &Entry) {
        self.membership.remove(&entry.name);
        self.answered.remove(&entry.name);
        if entry.state == NodeState::Left {
            return;
        }
        let addr = entry.addr();
        self.rejoin.forgotten.retain(|(known, _)| *known != addr);
        self.rejoin.forgotten.push_back((addr, now));
        if self.rejoin.forgotten.len() > FORGOTTEN_MAX {
            self.rejoin.forgotten.pop_front();
        }
    }

    pub(super) fn arm_rejoin(&mut self, now: Instant) {
        if self.config.rejoin_interval.is_zero() {
            return;
        }
        let us = &self.config.name;
        let alone = !self
            .table
            .iter()
            .any(|entry| entry.is_live() && entry.name != *us);
        // Alone, the first attempts come quickly and never rarer than the interval.
        let interval = self.config.rejoin_interval;
        let (first, longest) = if alone {
            (interval.min(REJOIN_PAUSE_ALONE), interval)
        } else {
            (interval, REJOIN_PAUSE_MAX.max(interval))
        };
        let pause = first
            .saturating_mul(1 << self.rejoin.failures.min(16))
            .min(longest);
        let jitter = self.rng.random_range(0.8..=1.2);
        self.timers.arm(Timer::Rejoin, now + pause.mul_f64(jitter));
    }

    pub(super) fn rejoin_tick(&mut self, now: Instant) {
        if !std::mem::take(&mut self.rejoin.trying).is_empty() {
            self.rejoin.failures = self.rejoin.failures.saturating_add(1);
        }
        if self.leaving {
            return;
        }
        self.rejoin
            .forgotten
            .retain(|(_, at)| now.saturating_duration_since(*at) < FORGOTTEN_KEPT);
        let mut lost = self.rejoin.seeds.clone();
        lost.extend(self.rejoin.forgotten.iter().map(|(addr, _)| *addr));
        for entry in self.table.iter().filter(|entry| entry.is_live()) {
            if lost.is_empty() {
                break;
            }
            lost.remove(&entry.addr());
        }
        let mut lost: Vec<SocketAddr> = lost.into_iter().collect();
        let (chosen, _) = lost.partial_shuffle(&mut self.rng, REJOIN_TARGETS);
        for &mut to in chosen {
            self.counters.rejoin_attempts += 1;
            self.rejoin.trying.insert(to);
            let join = self.rejoin.seeds.contains(&to);
            let full = true;
            self.requests
                .push_back(StreamRequest::PushPull { to, join, full });
        }
        self.arm_rejoin(now);
    }
}

/// Multiple of the interval at which a table of `members` exchanges states.
pub(super) fn push_pull_scale(members: usize) -> u32 {
    if members <= PUSH_PULL_SCALE_FROM {
        return 1;
    }
    let doublings = (members as f64).log2() - (PUSH_PULL_SCALE_FROM as f64).log2();
    doublings.ceil() as u32 + 1
}
