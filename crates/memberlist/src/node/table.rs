//! Who we know: entries by name, the order in which they are probed, and random choice among
//! them. No rule about *when* an entry changes lives here, see `membership`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;

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

/// One row of the table.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// The bytes of the latest accepted announcement: Go compares bytes, so they are passed on
    /// exactly as they came.
    pub(super) addr: RawIp,
    pub(super) port: u16,
    pub(super) meta: Bytes,
    pub(super) versions: Versions,
    pub(super) incarnation: u32,
    pub(super) state: NodeState,
    /// When `state` changed last; metadata and incarnation do not touch it.
    pub(super) state_change: Instant,
    pub(super) suspicion: Option<Suspicion>,
    /// When a stale announcement of this node was last answered with our accusation or, for
    /// ourselves, a stale accusation with our announcement.
    pub(super) accused_again: Option<Instant>,
    /// When an address conflict was last reported.
    pub(super) conflict_reported: Option<Instant>,
}

impl Entry {
    /// A node that is new to us.
    pub(super) fn new(alive: Alive, now: Instant) -> Self {
        Self {
            name: alive.node,
            addr: alive.addr,
            port: alive.port,
            meta: alive.meta,
            versions: alive.versions,
            incarnation: alive.incarnation,
            state: NodeState::Alive,
            state_change: now,
            suspicion: None,
            accused_again: None,
            conflict_reported: None,
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

/// All entries, ourselves included, dead ones until they are reaped.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// In probe order.
    entries: Vec<Entry>,
    index: BTreeMap<String, usize>,
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
        self.index.get(name).map(|&at| &self.entries[at])
    }

    pub(super) fn find_mut(&mut self, name: &str) -> Option<&mut Entry> {
        self.index.get(name).map(|&at| &mut self.entries[at])
    }

    /// Whether any entry, in whatever state, has this address.
    pub(super) fn knows_addr(&self, addr: SocketAddr) -> bool {
        self.entries.iter().any(|entry| entry.addr() == addr)
    }

    /// Adds an entry at a random place of the probe order, so that newcomers do not all wait for
    /// the end of the cycle.
    pub(super) fn insert(&mut self, entry: Entry, rng: &mut Pcg64Mcg) {
        debug_assert!(!self.index.contains_key(&entry.name));
        let last = self.entries.len();
        self.entries.push(entry);
        let place = rng.random_range(0..=last);
        self.entries.swap(place, last);
        self.index.insert(self.entries[place].name.clone(), place);
        self.index.insert(self.entries[last].name.clone(), last);
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
            let Some(entry) = self.entries.get(self.cursor) else {
                reaped.extend(self.entries.extract_if(.., |entry| expired(entry)));
                self.entries.shuffle(rng);
                self.reindex();
                self.cursor = 0;
                checks += 1;
                continue;
            };
            self.cursor += 1;
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

    fn reindex(&mut self) {
        self.index = self
            .entries
            .iter()
            .enumerate()
            .map(|(at, entry)| (entry.name.clone(), at))
            .collect();
    }
}
