//! One simulated host: the agent's own core on top of a simulated node. What a real agent has around
//! it (discovery, health checks, the first join) is played here.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use catalog::{Now, Service, Snapshot, Timestamp};
use memberlist::{
    Event, Member,
    node::{Node, StreamRequest},
    sim::{Application, HostId},
};

use super::watch::Watch;
use crate::{
    cluster::{
        core::{Action, Core, Counters},
        exchange, metadata,
        replica::Replica,
    },
    health::LocalUpdate,
};

/// Pauses between attempts to join the seeds that are no members, as in the agent.
const JOIN_PAUSE: Duration = Duration::from_secs(1);
const JOIN_PAUSE_ALONE_MAX: Duration = Duration::from_secs(10);
const JOIN_PAUSE_MAX: Duration = Duration::from_secs(60);

/// What a host's clock shows at the start of the simulation, and what that is called in virtual time.
#[derive(Debug, Clone, Copy)]
pub(super) struct WallClock {
    /// The start in virtual time.
    pub(super) start: Instant,
    /// What a right clock shows at the start.
    pub(super) epoch: Timestamp,
    /// By how much this one is ahead, in nanoseconds.
    pub(super) ahead_ns: i128,
}

impl WallClock {
    fn now(&self, monotonic: Instant) -> Now {
        let since = monotonic.saturating_duration_since(self.start);
        let right = self.epoch.plus(since).as_unix_nanos();
        Now {
            wall: Timestamp::from_unix_nanos(right + self.ahead_ns),
            monotonic,
        }
    }
}

/// The agent of a simulated host.
#[derive(Debug)]
pub(super) struct Host {
    id: HostId,
    name: String,
    core: Core,
    /// What runs here.
    own: Vec<Service>,
    clock: WallClock,
    seeds: Rc<[SocketAddr]>,
    joined: bool,
    /// Whether seeds were tried in this life.
    attempted: bool,
    /// When the seeds that are missing are tried next.
    join_at: Option<Instant>,
    join_pause: Duration,
    lives: u64,
    watch: Rc<RefCell<Watch>>,
}

/// What a [`Host`] is made of.
#[derive(Debug)]
pub(super) struct Setting {
    /// Its number in the network.
    pub(super) id: HostId,
    /// Its clock.
    pub(super) clock: WallClock,
    /// Whom it joins through after a restart.
    pub(super) seeds: Rc<[SocketAddr]>,
    /// Who is told what becomes known.
    pub(super) watch: Rc<RefCell<Watch>>,
}

impl Host {
    /// A host that has been part of its cluster for long: `replica` has everything already, what
    /// runs here included.
    pub(super) fn settled(
        setting: Setting,
        replica: Replica,
        own: Vec<Service>,
        now: Instant,
    ) -> Self {
        let mut host = Self {
            id: setting.id,
            name: replica.hostname().to_owned(),
            core: Core::new(replica, Arc::new(Counters::default()), setting.id as u64),
            own,
            clock: setting.clock,
            seeds: setting.seeds,
            joined: true,
            attempted: true,
            join_at: Some(now + JOIN_PAUSE_MAX.mul_f64(setting.id as f64 % 64.0 / 64.0)),
            join_pause: JOIN_PAUSE_MAX,
            lives: 1,
            watch: setting.watch,
        };
        host.announce_all(now);
        host.core.joined(host.clock.now(now));
        // It is known already.
        host.core.actions();
        host
    }

    /// What it knows.
    pub(super) fn snapshot(&self) -> &Snapshot {
        self.core.snapshot()
    }

    /// What runs on it.
    pub(super) fn own(&self) -> &[Service] {
        &self.own
    }

    /// What it knows, and what it thinks of its clock.
    #[cfg(test)]
    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    /// What runs here changes: `change` gets the list, and what differs afterwards is announced.
    pub(super) fn edit(
        &mut self,
        now: Instant,
        node: &mut Node,
        change: impl FnOnce(&mut Vec<Service>),
    ) -> Vec<StreamRequest> {
        let before = self.own.clone();
        change(&mut self.own);
        let now = self.clock.now(now);
        for gone in &before {
            if !self.own.iter().any(|service| service.id == gone.id) {
                let id = gone.id.clone();
                self.core.local(LocalUpdate::Gone { id }, now);
            }
        }
        for service in self.own.clone() {
            if !before.contains(&service) {
                let checked = true;
                self.core
                    .local(LocalUpdate::Present { service, checked }, now);
            }
        }
        self.carry_out(now.monotonic, node)
    }

    /// Declares everything that runs here gone; the node is to leave next.
    pub(super) fn farewell(&mut self, now: Instant, node: &mut Node) -> Vec<StreamRequest> {
        self.core.farewell(self.clock.now(now));
        self.carry_out(now, node)
    }

    fn announce_all(&mut self, now: Instant) {
        let now = self.clock.now(now);
        for service in self.own.clone() {
            let checked = true;
            self.core
                .local(LocalUpdate::Present { service, checked }, now);
        }
    }

    fn carry_out(&mut self, now: Instant, node: &mut Node) -> Vec<StreamRequest> {
        let mut requests = Vec::new();
        let exchange = |to, full| StreamRequest::PushPull {
            to,
            join: false,
            full,
        };
        for action in self.core.actions() {
            match action {
                Action::Broadcast {
                    key,
                    payload,
                    priority,
                } => node.broadcast_with(Some(key), payload, &priority),
                Action::Send { to, messages } => {
                    if let Some(to) = node.member(&to).map(|member| member.addr) {
                        let messages = messages.into_iter();
                        requests
                            .extend(messages.map(|payload| StreamRequest::User { to, payload }));
                    }
                }
                Action::Exchange(with) => requests.push(exchange(with, false)),
                Action::ExchangeTables { with } => {
                    let member = node.member(&with);
                    requests.extend(member.map(|member| exchange(member.addr, true)));
                }
                Action::CatchUp(Some(with)) => {
                    let member = node.member(&with);
                    requests.extend(member.map(|member| exchange(member.addr, false)));
                }
                Action::CatchUp(None) => node.exchange_with_any(),
                // Nobody gives commands here.
                Action::Keep(_) | Action::Applied { .. } => {}
                Action::Changed(change) => {
                    let at = now.saturating_duration_since(self.clock.start);
                    let mut watch = self.watch.borrow_mut();
                    watch.heard(self.id, &change.service, at);
                }
            }
        }
        requests
    }

    /// Turns to all seeds that are no members, as the agent does.
    fn join(&mut self, now: Instant, node: &Node) -> Vec<StreamRequest> {
        let us = SocketAddr::new(node.config().advertise, node.config().port());
        let missing: Vec<StreamRequest> = self
            .seeds
            .iter()
            .filter(|seed| **seed != us && node.member_at(**seed).is_none())
            .map(|seed| StreamRequest::PushPull {
                to: *seed,
                join: true,
                full: true,
            })
            .collect();
        let alone = self.snapshot().members.size() <= 1;
        let longest = if alone {
            JOIN_PAUSE_ALONE_MAX
        } else {
            JOIN_PAUSE_MAX
        };
        self.join_pause = if missing.is_empty() {
            longest
        } else {
            (2 * self.join_pause).min(longest)
        };
        self.join_at = Some(now + self.join_pause);
        missing
    }

    /// The first join is done: what runs here is announced.
    fn join_done(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.joined, true) {
            self.core.joined(self.clock.now(now));
            self.announce_all(now);
        }
    }
}

impl Application for Host {
    fn handle_event(&mut self, now: Instant, event: Event, node: &mut Node) -> Vec<StreamRequest> {
        let first_state = matches!(event, Event::RemoteState { join: true, .. });
        self.core.gossip(event, self.clock.now(now));
        if first_state {
            self.join_done(now);
        }
        self.carry_out(now, node)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let core = self.core.next_deadline();
        [core, self.join_at].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant, node: &mut Node) -> Vec<StreamRequest> {
        let mut requests = Vec::new();
        if self.join_at.is_some_and(|at| at <= now) {
            if self.attempted {
                // Nobody has answered so far, and what runs here is to be known some time.
                self.join_done(now);
            }
            self.attempted = true;
            requests = self.join(now, node);
        }
        self.core.tick(self.clock.now(now));
        requests.extend(self.carry_out(now, node));
        requests
    }

    fn opening(&self, now: Instant, peer: Option<&Member>, _join: bool) -> Bytes {
        let clock = self.clock.now(now).wall;
        match peer {
            // There are no others.
            Some(_) => exchange::opening(self.snapshot(), clock, None),
            None => exchange::greeting(self.snapshot(), clock),
        }
    }

    fn reply(&self, now: Instant, theirs: &Bytes, _join: bool) -> Bytes {
        exchange::reply(self.snapshot(), theirs, self.clock.now(now).wall)
    }

    fn brief_opening(&self, now: Instant, peer: &Member, members: u64) -> Option<Bytes> {
        let clock = self.clock.now(now).wall;
        let ours = metadata::is_ours(&peer.meta);
        ours.then(|| exchange::opening(self.snapshot(), clock, Some(members)))
    }

    fn brief_reply(&self, now: Instant, theirs: &Bytes, members: u64) -> Option<Bytes> {
        let clock = self.clock.now(now).wall;
        exchange::brief_reply(self.snapshot(), theirs, clock, members)
    }

    fn restarted(&self, now: Instant) -> Self {
        let wall = self.clock.now(now);
        let cluster = self.snapshot().cluster_name.clone();
        let replica = Replica::new(&self.name, &cluster, [], wall);
        let lives = self.lives + 1;
        let seed = self.id as u64 | lives << 32;
        Self {
            id: self.id,
            name: self.name.clone(),
            core: Core::new(replica, Arc::new(Counters::default()), seed),
            own: self.own.clone(),
            clock: self.clock,
            seeds: self.seeds.clone(),
            joined: false,
            attempted: false,
            join_at: Some(now),
            join_pause: JOIN_PAUSE / 2,
            lives,
            watch: self.watch.clone(),
        }
    }
}
