//! `/api/v2/hosts`: who is there and how they are, from gossip and from records.
//!
//! Gossip knows those who are alive or suspected. Of the others their records tell: a host that left
//! has buried its instances itself, one that died has not.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use catalog::{HostRecords, Snapshot, Timestamp};
use memberlist::{Member, NodeState};
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use super::forms::{ByStatus, text};
use crate::cluster::metadata::{self, Kind};

/// Who is there, as this host believes.
#[derive(Debug)]
pub struct Hosts {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    members: watch::Receiver<Arc<Vec<Member>>>,
    latest: Mutex<Latest>,
}

#[derive(Debug, Default)]
struct Latest {
    /// Members as they were last seen, while there are records of them.
    known: BTreeMap<String, Known>,
    /// The list it was made of.
    members: Option<Arc<Vec<Member>>>,
    document: Option<Arc<Document>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    address: SocketAddr,
    kind: Kind,
}

/// The hosts at one time.
#[derive(Debug)]
pub(super) struct Document {
    /// Of the snapshot it was made of: of each publication and of each that matters to readers.
    publication: u64,
    pub(super) version: u64,
    /// The list as JSON.
    pub(super) list: Bytes,
    /// Names and liveness alone: differs when there is something to tell.
    pub(super) liveness: Vec<(Arc<str>, State, Option<SocketAddr>)>,
    pub(super) counts: StateCounts,
}

/// How a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// It answers, or others answer for what is announced in its name.
    Alive,
    /// It did not answer, and has not yet said that it is there.
    Suspect,
    /// It is gone without a word.
    Dead,
    /// It said goodbye.
    Left,
}

/// Hosts by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct StateCounts {
    alive: usize,
    suspect: usize,
    dead: usize,
    #[serde(skip)]
    left: usize,
}

#[derive(Debug, Serialize)]
struct HostForm<'a> {
    name: &'a str,
    /// IP and port of its gossip; `None` for who was never a member.
    address: Option<SocketAddr>,
    own: bool,
    state: State,
    kind: &'static str,
    #[serde(serialize_with = "known_time")]
    last_updated: Option<Timestamp>,
    #[serde(serialize_with = "known_time")]
    last_changed: Option<Timestamp>,
    instances: ByStatus,
}

/// Nothing for a host without records, or whose records have not changed yet.
fn known_time<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time.filter(|time| *time > Timestamp::EPOCH) {
        Some(time) => serializer.collect_str(&time),
        None => serializer.serialize_none(),
    }
}

impl Hosts {
    /// The hosts that gossip and the catalog tell of.
    pub fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        members: watch::Receiver<Arc<Vec<Member>>>,
    ) -> Self {
        Self {
            snapshots,
            members,
            latest: Mutex::default(),
        }
    }

    /// A receiver of members of its own.
    pub(super) fn members(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.members.clone()
    }

    /// A receiver of snapshots of its own.
    pub(super) fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// The hosts now. Costs a walk over all instances when anything was published since the last call.
    pub(super) fn document(&self) -> Arc<Document> {
        let snapshot = self.snapshots.borrow().clone();
        let members = self.members.borrow().clone();
        // A reader waits for another one's walk rather than walk itself.
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let has_same_members = latest
            .members
            .as_ref()
            .is_some_and(|it| Arc::ptr_eq(it, &members));
        if let Some(document) = &latest.document
            && has_same_members
            && document.publication >= snapshot.version
        {
            return document.clone();
        }
        latest.see(&snapshot, &members);
        let document = Arc::new(latest.encode(&snapshot, &members));
        latest.members = Some(members);
        latest.document = Some(document.clone());
        document
    }
}

impl Latest {
    /// Remembers the members, and forgets who is none and has no records.
    fn see(&mut self, snapshot: &Snapshot, members: &[Member]) {
        let there: BTreeSet<&str> = members.iter().map(|it| it.name.as_str()).collect();
        self.known.retain(|name, _| {
            there.contains(name.as_str()) || snapshot.hosts.contains_key(name.as_str())
        });
        for member in members {
            let known = Known {
                address: member.addr,
                kind: metadata::kind(&member.meta),
            };
            self.known.insert(member.name.clone(), known);
        }
    }

    fn encode(&self, snapshot: &Snapshot, members: &[Member]) -> Document {
        let members: BTreeMap<&str, &Member> =
            members.iter().map(|it| (it.name.as_str(), it)).collect();
        let names: BTreeSet<&str> = snapshot
            .hosts
            .keys()
            .map(|name| &**name)
            .chain(members.keys().copied())
            .collect();
        let mut counts = StateCounts::default();
        let mut liveness = Vec::with_capacity(names.len());
        let mut forms = Vec::with_capacity(names.len());
        for name in names {
            let records = snapshot.hosts.get(name);
            let known = self.known.get(name);
            let state = match members.get(name).map(|it| it.state) {
                Some(NodeState::Suspect) => State::Suspect,
                Some(_) => State::Alive,
                None => state_of_records(records.map(|it| &**it), known.is_some()),
            };
            *match state {
                State::Alive => &mut counts.alive,
                State::Suspect => &mut counts.suspect,
                State::Dead => &mut counts.dead,
                State::Left => &mut counts.left,
            } += 1;
            let address = known.map(|it| it.address);
            liveness.push((name.into(), state, address));
            forms.push(HostForm {
                name,
                address,
                own: *name == *snapshot.hostname,
                state,
                kind: match known.map(|it| it.kind) {
                    Some(Kind::Ours) => "sidecar",
                    Some(Kind::Go) => "go-sidecar",
                    Some(Kind::Foreign) | None => "foreign",
                },
                last_updated: records.map(|it| it.last_updated),
                last_changed: records.map(|it| it.last_changed),
                instances: records.map_or_else(ByStatus::default, |it| ByStatus::of(it.services())),
            });
        }
        Document {
            publication: snapshot.version,
            version: snapshot.changes,
            list: text(&forms).into(),
            liveness,
            counts,
        }
    }
}

/// How a host is that is no member.
fn state_of_records(records: Option<&HostRecords>, was_member: bool) -> State {
    let Some(records) = records else {
        return State::Dead;
    };
    let is_buried = || records.services().all(|it| it.is_tombstone());
    let by_itself = || records.written().count() == records.services().len();
    if is_buried() && by_itself() {
        State::Left
    } else if was_member || is_buried() {
        State::Dead
    } else {
        // Announced by others in its name.
        State::Alive
    }
}
