//! What lets large clusters be simulated: rows go from node to node as they are. A cluster comes
//! into being at once, every node given the rows of all others as if it had known them for long;
//! and states are exchanged without bytes. Nothing here belongs to the protocol, and no shell needs
//! it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::digest::{self, Cached};
use super::names::Names;
use super::table::{Announced, Entry};
use super::{Event, Node};
use crate::wire::message::{NodeState, PushNode};

/// Bytes of a row of a state exchange without name and metadata: the names of its fields, and the
/// small ones.
const ROW_BYTES: usize = 62;

/// For so long the dead have been dead. Longer than they are told of it.
const BURIED_FOR: Duration = Duration::from_secs(3600);

/// What a node holds of another one, or of itself. Whoever is given it shares it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    announced: Arc<Announced>,
    incarnation: u32,
    state: NodeState,
}

impl Known {
    /// About what it takes in a state exchange, uncompressed.
    pub(crate) fn bytes(&self) -> usize {
        ROW_BYTES + self.announced.name.len() + self.announced.meta.len()
    }

    fn row(&self) -> u64 {
        digest::row(self.announced.hash, self.incarnation, self.state)
    }

    /// The same of somebody who is dead.
    pub(crate) fn buried(self) -> Self {
        Self {
            state: NodeState::Dead,
            ..self
        }
    }

    fn entry(&self, now: Instant) -> Entry {
        let died = now
            .checked_sub(BURIED_FOR)
            .filter(|_| self.state == NodeState::Dead);
        Entry {
            announced: self.announced.clone(),
            state_change: died.unwrap_or(now),
            suspicion: None,
            incarnation: self.incarnation,
            state: self.state,
        }
    }
}

/// Rows that nodes are to begin with, all of different names, and what their tables have in common.
#[derive(Debug)]
pub(crate) struct Acquaintances {
    rows: Vec<Known>,
    places: Names,
    digest: u64,
}

impl Acquaintances {
    /// Of these.
    pub(crate) fn new(rows: Vec<Known>) -> Self {
        let mut places = Names::default();
        places.rebuild(rows.len(), |at| rows[at].announced.name.as_str());
        let live = rows
            .iter()
            .filter(|row| matches!(row.state, NodeState::Alive | NodeState::Suspect));
        let digest = live.map(Known::row).fold(0, u64::wrapping_add);
        Self {
            rows,
            places,
            digest,
        }
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.places
            .find(name, |at| self.rows[at].announced.name.as_str())
    }

    fn find(&self, name: &str) -> Option<&Known> {
        self.place(name).map(|at| &self.rows[at])
    }
}

impl From<&Entry> for Known {
    fn from(entry: &Entry) -> Self {
        Self {
            announced: entry.announced.clone(),
            incarnation: entry.incarnation,
            state: entry.state,
        }
    }
}

impl Node {
    /// Our own row.
    pub(crate) fn introduction(&self) -> Option<Known> {
        self.table.find(&self.config.name).map(Known::from)
    }

    /// All rows, as [`Node::push_pull`] says them to our own kind.
    pub(crate) fn known(&self) -> Vec<Known> {
        self.table
            .iter()
            .filter(|entry| entry.incarnation < u32::MAX || entry.state == NodeState::Alive)
            .map(Known::from)
            .collect()
    }

    /// Takes over all rows with names we do not know. Neither peers nor the application hear of
    /// it, and what was to be said about ourselves is taken as said.
    pub(crate) fn acquaint(&mut self, now: Instant, others: &Acquaintances) {
        self.note_time(now);
        self.members_version += 1;
        match others.find(&self.config.name) {
            Some(ours) if self.table.len() == 1 => {
                let rows = others.rows.iter().map(|other| other.entry(now));
                let mut entries: Vec<Entry> = rows.collect();
                let same = self.introduction().is_some_and(|it| it.row() == ours.row());
                if let Some(us) = self.table.find_mut(&self.config.name)
                    && let Some(place) = others.place(&self.config.name)
                {
                    std::mem::swap(us, &mut entries[place]);
                }
                self.table
                    .begin(entries, others.places.clone(), &mut self.rng);
                if same {
                    let digest = (self.members_version, others.digest);
                    self.digest = Cached(Some(digest));
                }
            }
            _ => {
                for other in &others.rows {
                    if self.table.find(&other.announced.name).is_none() {
                        self.table.insert(other.entry(now), &mut self.rng);
                    }
                }
            }
        }
        self.spread_push_pull(now);
        self.membership.remove(&self.config.name);
        self.eager.clear();
        self.eager_urgent = 0;
    }

    /// As [`Node::merge`] of a state exchange between nodes of the same versions.
    pub(crate) fn merge_known(&mut self, now: Instant, rows: &[Known], state: Bytes, join: bool) {
        self.note_time(now);
        self.counters.merges += 1;
        for row in rows {
            let name = &row.announced.name;
            let old = row.state == NodeState::Alive
                && self.table.find(name).is_some_and(|entry| {
                    entry.state == NodeState::Alive
                        && entry.incarnation >= row.incarnation
                        && Arc::ptr_eq(&entry.announced, &row.announced)
                        && *name != self.config.name
                });
            if !old {
                let node = PushNode {
                    name: name.clone(),
                    addr: row.announced.addr,
                    port: row.announced.port,
                    meta: row.announced.meta.clone(),
                    incarnation: row.incarnation,
                    state: row.state,
                    versions: row.announced.versions,
                };
                self.merge_node(now, node);
            }
        }
        self.ask_the_contradicted(now);
        if !state.is_empty() {
            self.events.push_back(Event::RemoteState { state, join });
        }
    }
}
