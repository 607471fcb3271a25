//! Who we know: entries by name, the order in which they are probed, and random choice among
//! them. No rule about *when* an entry changes lives here, see `membership`.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;

use super::digest;
use super::names::Names;
use super::suspicion::Suspicion;
use crate::wire::message::{Alive, NodeState, PushNode, RawIp, Versions, socket_addr};

/// A node as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Unique name.
    pub name: String,
    /// Where it is reached, for datagrams and streams alike.
    pub addr: SocketAddr,
    /// Opaque metadata, at most 512 bytes.
    pub meta: Bytes,
    /// Its logical clock.
    pub incarnation: u32,
    /// What we believe about it.
    pub state: NodeState,
    /// Protocol versions it understands and speaks.
    pub versions: Versions,
}

/// What a node said about itself in the latest accepted announcement, but for its incarnation.
/// Go compares bytes, so they are passed on exactly as they came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) name: String,
    pub(super) addr: RawIp,
    pub(super) port: u16,
    pub(super) meta: Bytes,
    pub(super) versions: Versions,
    /// Hash of all this, see `digest`.
    pub(super) hash: u64,
}

/// One row of the table. Small, as a simulated cluster has a row for each pair of its hosts.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) announced: Arc<Announced>,
    /// When `state` changed last; metadata and incarnation do not touch it.
    pub(super) state_change: Instant,
    pub(super) suspicion: Option<Box<Suspicion>>,
    pub(super) incarnation: u32,
    pub(super) state: NodeState,
}

/// What must not be repeated all the time about one node. Few nodes have any of this.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// When a stale announcement of this node was last answered with our accusation or, for
    /// ourselves, a stale accusation with our announcement.
    pub(super) accused_again: Option<Instant>,
    /// When an address conflict was last reported.
    pub(super) conflict_reported: Option<Instant>,
}

impl Deref for Entry {
    type Target = Announced;

    fn deref(&self) -> &Announced {
        &self.announced
    }
}

impl Entry {
    /// A node that is new to us.
    pub(super) fn new(alive: Alive, now: Instant) -> Self {
        Self {
            state_change: now,
            suspicion: None,
            incarnation: alive.incarnation,
            state: NodeState::Alive,
            announced: Arc::new(announced(alive)),
        }
    }

    /// Takes over an announcement.
    pub(super) fn update(&mut self, alive: &Alive) {
        self.incarnation = alive.incarnation;
        let same = (self.addr, self.port, &self.meta, self.versions)
            == (alive.addr, alive.port, &alive.meta, alive.versions);
        if !same {
            self.announced = Arc::new(announced(alive.clone()));
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        socket_addr(self.addr, self.port)
    }

    /// Alive or suspect.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.state, NodeState::Alive | NodeState::Suspect)
    }

    pub(super) fn member(&self) -> Member {
        Member {
            name: self.name.clone(),
            addr: self.addr(),
            meta: self.meta.clone(),
            incarnation: self.incarnation,
            state: self.state,
            versions: self.versions,
        }
    }

    pub(super) fn alive(&self) -> Alive {
        Alive {
            incarnation: self.incarnation,
            node: self.name.clone(),
            addr: self.addr,
            port: self.port,
            meta: self.meta.clone(),
            versions: self.versions,
        }
    }

    pub(super) fn push_node(&self) -> PushNode {
        PushNode {
            name: self.name.clone(),
            addr: self.addr,
            port: self.port,
            meta: self.meta.clone(),
            incarnation: self.incarnation,
            state: self.state,
            versions: self.versions,
        }
    }
}

fn announced(alive: Alive) -> Announced {
    Announced {
        hash: digest::announced(
            &alive.node,
            alive.addr,
            alive.port,
            &alive.meta,
            alive.versions,
        ),
        name: alive.node,
        addr: alive.addr,
        port: alive.port,
        meta: alive.meta,
        versions: alive.versions,
    }
}

/// All entries, ourselves included, dead ones until they are reaped.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// In the order in which they came.
    entries: Vec<Entry>,
    /// Where in `entries` a name is.
    places: Names,
    /// Places in probe order, each once.
    order: Vec<u32>,
    /// How far in `order` the cycle is.
    cursor: usize,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.entries.iter()
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Entry> {
        self.entries.iter_mut()
    }

    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        self.place(name).map(|at| &self.entries[at])
    }

    pub(super) fn find_mut(&mut self, name: &str) -> Option<&mut Entry> {
        self.place(name).map(|at| &mut self.entries[at])
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.places.find(name, |at| &self.entries[at].name)
    }

    /// Whether any entry, in whatever state, has this address.
    pub(super) fn knows_addr(&self, addr: SocketAddr) -> bool {
        self.entries.iter().any(|entry| entry.addr() == addr)
    }

    /// Adds an entry at a random place of the probe order, so that newcomers do not all wait for
    /// the end of the cycle.
    pub(super) fn insert(&mut self, entry: Entry, rng: &mut Pcg64Mcg) {
        debug_assert!(self.find(&entry.name).is_none());
        let last = self.entries.len();
        self.entries.push(entry);
        self.places.push(last, |at| self.entries[at].name.as_str());
        // Tables have fewer rows than that, see `Config::members_max`.
        self.order.push(last as u32);
        let place = rng.random_range(0..=last);
        self.order.swap(place, last);
    }

    /// Begins anew with these entries, of different names, which `places` is the index of.
    pub(super) fn begin(&mut self, entries: Vec<Entry>, places: Names, rng: &mut Pcg64Mcg) {
        self.entries = entries;
        self.places = places;
        self.begin_cycle(rng);
    }

    /// The entries in probe order.
    #[cfg(test)]
    pub(super) fn in_probe_order(&self) -> impl Iterator<Item = &Entry> {
        self.order
            .iter()
            .map(|place| &self.entries[*place as usize])
    }

    fn begin_cycle(&mut self, rng: &mut Pcg64Mcg) {
        self.order.clear();
        self.order.extend(0..self.entries.len() as u32);
        self.order.shuffle(rng);
        self.cursor = 0;
    }

    /// The next entry to probe that is live and is not `us`. At the end of the cycle entries for
    /// which `expired` holds are removed (and returned) and the order is shuffled.
    pub(super) fn next_probe(
        &mut self,
        us: &str,
        rng: &mut Pcg64Mcg,
        expired: impl Fn(&Entry) -> bool,
    ) -> (Option<String>, Vec<Entry>) {
        let mut reaped = Vec::new();
        let mut checks = 0;
        while checks < self.entries.len() {
            let Some(&place) = self.order.get(self.cursor) else {
                let before = self.entries.len();
                reaped.extend(self.entries.extract_if(.., |entry| expired(entry)));
                if self.entries.len() < before {
                    self.places
                        .rebuild(self.entries.len(), |at| self.entries[at].name.as_str());
                }
                self.begin_cycle(rng);
                checks += 1;
                continue;
            };
            self.cursor += 1;
            let entry = &self.entries[place as usize];
            if entry.is_live() && entry.name != us {
                return (Some(entry.name.clone()), reaped);
            }
            checks += 1;
        }
        (None, reaped)
    }

    /// Up to `count` different entries for which `wanted` holds, every set equally likely.
    pub(super) fn sample(
        &self,
        rng: &mut Pcg64Mcg,
        count: usize,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Vec<&Entry> {
        let total = self.entries.len();
        let mut chosen: Vec<usize> = Vec::with_capacity(count.min(total));
        // In a large table a few draws find enough without looking at every entry.
        if total > 16 * count {
            for _ in 0..4 * count {
                if chosen.len() == count {
                    break;
                }
                let at = rng.random_range(0..total);
                if !chosen.contains(&at) && wanted(&self.entries[at]) {
                    chosen.push(at);
                }
            }
        }
        if chosen.len() < count {
            let mut rest: Vec<usize> = (0..total)
                .filter(|at| !chosen.contains(at) && wanted(&self.entries[*at]))
                .collect();
            let missing = count - chosen.len();
            let (picked, _) = rest.partial_shuffle(rng, missing);
            chosen.extend_from_slice(picked);
        }
        chosen.into_iter().map(|at| &self.entries[at]).collect()
    }
}
