//! The replicated state: one writer applies records to it and publishes snapshots.
//!
//! Last writer wins by the origin's stamp. What an observer concludes by itself (a host is dead, a
//! record was not refreshed) is never written into a record; it only changes what snapshots show.
//!
//! A change costs the logarithm of what is held, never a walk over it: snapshots are persistent
//! maps, deadlines stand in an ordered set, the digest is kept up to date record by record.

mod held;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use self::held::{Held, Host, Presence};
use crate::{HostRecords, Service, Snapshot, Status, Timestamp};

/// A record that must be refreshed and is not within this time reads as a tombstone (Go Sidecar:
/// 80 s).
pub const LIFESPAN: Duration = Duration::from_secs(80);
/// The same for draining records (Go Sidecar: 10 min).
pub const DRAINING_LIFESPAN: Duration = Duration::from_secs(10 * 60);
/// Tombstones, and records of hosts that are down, are kept this long, so that older records of the
/// dead cannot return (Go Sidecar: 3 h).
pub const TOMBSTONE_LIFESPAN: Duration = Duration::from_secs(3 * 3600);
/// Records with a stamp older than this are refused where refreshes are due: the tombstone that
/// would cover them may be forgotten (Go Sidecar: tombstone life + 1 min).
pub const STALE_AFTER: Duration = Duration::from_secs(3 * 3600 + 60);
/// Records stamped further than this in the future are refused: nothing could ever override them.
pub const FUTURE_STAMP_MAX: Duration = Duration::from_secs(10 * 60);

/// The time of an input, on both clocks: stamps are compared with the wall clock, ages are measured
/// with the monotonic one.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Wall clock.
    pub wall: Timestamp,
    /// Monotonic clock.
    pub monotonic: Instant,
}

/// Who wrote a record, which decides how far it is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// This host. Its stamps stand even when its clock was set back far.
    Own,
    /// A peer. A stamp far in the future is refused, and a draining instance stays draining when it
    /// is reported merely alive: Go owners never gossip that they drain, so their next refresh
    /// would undo it.
    Peer,
}

/// What keeps the records of a host believable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upkeep {
    /// The host itself: its records stand as long as it is a member. The way of our own agents.
    Membership,
    /// Each record must be refreshed within its lifespan. The way of Go Sidecar, and of records
    /// under a name that is no member's.
    Refresh,
}

/// A change that matters to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The instance after the change, as snapshots show it.
    pub service: Arc<Service>,
    /// Status before; [`Status::Unknown`] for an instance never seen.
    pub previous: Status,
    /// The state's `LastChanged` at the change.
    pub time: Timestamp,
}

/// What a record did to the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It was news. The change is `None` when only the stamp moved, or when it cannot be seen
    /// because its host is dead.
    New(Option<Change>),
    /// The state holds the same or a newer record.
    Known,
}

/// Why a record was refused. The state is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Older than [`STALE_AFTER`].
    #[error("its stamp {0} is more than 3 h 1 min old")]
    Stale(Timestamp),
    /// Newer than [`FUTURE_STAMP_MAX`] from now.
    #[error("its stamp {0} is more than 10 min in the future; check that host's clock")]
    Future(Timestamp),
}

/// When something about a record, or with an empty ID about its host, has to be looked at again.
type Alarm = (Instant, Arc<str>, Arc<str>);

/// All records this host knows. One task owns it; everybody else reads [`State::snapshot`].
#[derive(Debug)]
pub struct State {
    hosts: BTreeMap<Arc<str>, Host>,
    alarms: BTreeSet<Alarm>,
    view: Snapshot,
}

impl State {
    /// An empty state, seen from `hostname`.
    pub fn new(hostname: &str, cluster_name: &str) -> Self {
        Self {
            hosts: BTreeMap::new(),
            alarms: BTreeSet::new(),
            view: Snapshot::empty(hostname, cluster_name),
        }
    }

    /// The current view.
    pub fn snapshot(&self) -> &Snapshot {
        &self.view
    }

    /// Whether a peer's record has a stamp that can be true. Where nothing has to be refreshed an
    /// old stamp is no fault.
    ///
    /// # Errors
    /// Says what is wrong with the stamp.
    pub fn admit(&self, record: &Service, now: Now) -> Result<(), Rejected> {
        let host = self.hosts.get(&*record.hostname);
        let refreshed = host.is_none_or(|host| host.upkeep() == Upkeep::Refresh);
        if refreshed && record.updated < now.wall.minus(STALE_AFTER) {
            return Err(Rejected::Stale(record.updated));
        }
        if record.updated > now.wall.plus(FUTURE_STAMP_MAX) {
            return Err(Rejected::Future(record.updated));
        }
        Ok(())
    }

    /// Merges one record: a peer's, or one this host just wrote.
    ///
    /// # Errors
    /// Refuses a peer's record with an impossible stamp; the state is unchanged then.
    pub fn apply(
        &mut self,
        mut record: Service,
        author: Author,
        now: Now,
    ) -> Result<Applied, Rejected> {
        if author == Author::Peer {
            self.admit(&record, now)?;
        }
        let host = match self.hosts.get_mut(&*record.hostname) {
            Some(host) => host,
            None => {
                let name: Arc<str> = record.hostname.as_str().into();
                let host = Host::new(name.clone());
                self.hosts.entry(name).or_insert(host)
            }
        };
        let updated = record.updated;
        let id = if let Some((id, held)) = host.held_mut(&record.id) {
            if !record.supersedes(&held.record) {
                return Ok(Applied::Known);
            }
            if author == Author::Peer
                && held.record.status == Status::Draining
                && record.status == Status::Alive
            {
                record.status = Status::Draining;
            }
            held.renew(record, now.monotonic);
            id
        } else {
            let id: Arc<str> = record.id.as_str().into();
            host.held
                .insert(id.clone(), Held::new(record, now.monotonic));
            id
        };
        host.last_updated = host.last_updated.max(updated);
        let change = present(&mut self.view, &mut self.alarms, host, [id], updated).pop();
        Ok(Applied::New(change))
    }

    /// A member is there (joined, returned, or changed its ways): its records read as they are
    /// again.
    pub fn member_up(&mut self, name: &str, upkeep: Upkeep, now: Now) -> Vec<Change> {
        let name: Arc<str> = name.into();
        if !self.view.members.contains(&name) {
            self.view.members.insert_mut(name.clone());
            self.view.version += 1;
        }
        let host = self
            .hosts
            .entry(name.clone())
            .or_insert_with(|| Host::new(name));
        let before = std::mem::replace(&mut host.presence, Presence::Up(upkeep));
        if before == host.presence {
            return Vec::new();
        }
        // Ages start afresh: the origin could not be heard while it was away.
        for held in host.held.values_mut() {
            held.received = now.monotonic;
            held.expired = false;
        }
        let ids: Vec<Arc<str>> = host.held.keys().cloned().collect();
        present(&mut self.view, &mut self.alarms, host, ids, now.wall)
    }

    /// A member died or left: its records read as tombstones until it returns.
    pub fn member_down(&mut self, name: &str, now: Now) -> Vec<Change> {
        let name: Arc<str> = name.into();
        if self.view.members.remove_mut(&name) {
            self.view.version += 1;
        }
        let host = self
            .hosts
            .entry(name.clone())
            .or_insert_with(|| Host::new(name.clone()));
        if matches!(host.presence, Presence::Down(_)) {
            return Vec::new();
        }
        host.presence = Presence::Down(now.monotonic);
        // Without records the verdict itself must be forgotten some time.
        self.alarms
            .insert((now.monotonic + TOMBSTONE_LIFESPAN, name, "".into()));
        let ids: Vec<Arc<str>> = host.held.keys().cloned().collect();
        present(&mut self.view, &mut self.alarms, host, ids, now.wall)
    }

    /// Lets time pass: records not refreshed read as tombstones, old tombstones are forgotten.
    pub fn expire(&mut self, now: Now) -> Vec<Change> {
        let mut changes = Vec::new();
        while self
            .alarms
            .first()
            .is_some_and(|(at, ..)| *at <= now.monotonic)
        {
            let Some((_, name, id)) = self.alarms.pop_first() else {
                break;
            };
            let Some(host) = self.hosts.get_mut(&name) else {
                continue;
            };
            if let Some(held) = host.held.get_mut(&id) {
                held.alarm = None;
            }
            if host.is_forgotten(&id, now.monotonic) {
                if let Some(held) = host.held.remove(&id) {
                    hide(&mut self.view, &name, &id, &held);
                }
                if host.held.is_empty() && !matches!(host.presence, Presence::Up(_)) {
                    self.forget_host(&name, now);
                }
                continue;
            }
            if host.expire(&id, now.monotonic) {
                let (view, alarms) = (&mut self.view, &mut self.alarms);
                changes.extend(present(view, alarms, host, [id], now.wall));
            } else {
                host.arm(&id, &mut self.alarms);
            }
        }
        changes
    }

    /// Drops every record stamped after `limit`, own ones too, as if it had never been heard of: time
    /// has been set right, and nothing could ever override what is stamped in the future.
    pub fn forget_newer_than(&mut self, limit: Timestamp, now: Now) -> Vec<Change> {
        self.forget(now, |_, record| record.updated > limit)
    }

    /// Drops all records and tombstones of every other host than `hostname`, and the verdicts about
    /// hosts that are down. Members stay members.
    pub fn forget_others(&mut self, hostname: &str, now: Now) -> Vec<Change> {
        let changes = self.forget(now, |host, _| host != hostname);
        let view = &mut self.view;
        self.hosts.retain(|name, host| {
            let kept = **name == *hostname || matches!(host.presence, Presence::Up(_));
            if !kept {
                view.hosts.remove_mut(name);
            }
            kept
        });
        changes
    }

    fn forget(&mut self, now: Now, doomed: impl Fn(&str, &Service) -> bool) -> Vec<Change> {
        let mut changed = Vec::new();
        for (name, host) in &mut self.hosts {
            let ids = host.held.iter();
            let ids: Vec<Arc<str>> = ids
                .filter(|(_, held)| doomed(name, &held.record))
                .map(|(id, _)| id.clone())
                .collect();
            if ids.is_empty() {
                continue;
            }
            for id in ids {
                let Some(held) = host.held.remove(&id) else {
                    continue;
                };
                let shown = self.view.service(name, &id).cloned();
                hide(&mut self.view, name, &id, &held);
                if let Some(shown) = shown.filter(|shown| !shown.is_tombstone()) {
                    changed.push((entombed(&shown, None), shown.status));
                }
            }
            let stamps = host.held.values().map(|held| held.record.updated);
            host.last_updated = stamps.max().unwrap_or(Timestamp::EPOCH);
            host.last_changed = now.wall.max(host.last_changed.next());
            if let Some(records) = self.view.hosts.get(name) {
                let mut records = HostRecords::clone(records);
                records.last_updated = host.last_updated;
                records.last_changed = host.last_changed;
                self.view.hosts.insert_mut(name.clone(), Arc::new(records));
            }
        }
        if !changed.is_empty() {
            self.view.last_changed = now.wall.max(self.view.last_changed.next());
            self.view.changes += 1;
        }
        let time = self.view.last_changed;
        let changes = changed.into_iter();
        changes
            .map(|(service, previous)| Change {
                service,
                previous,
                time,
            })
            .collect()
    }

    /// Drops a host without records. The verdict that it is down outlives them: a late record of it
    /// must not be taken for a live one.
    fn forget_host(&mut self, name: &Arc<str>, now: Now) {
        let down_since = match self.hosts.get(name).map(|host| host.presence) {
            Some(Presence::Down(since)) => Some(since),
            _ => None,
        };
        if down_since.is_none_or(|since| since + TOMBSTONE_LIFESPAN <= now.monotonic) {
            self.hosts.remove(name);
        }
        if self.view.hosts.remove_mut(name) {
            self.view.version += 1;
        }
    }

    /// When [`State::expire`] next has something to do; `None` when nothing can expire.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.alarms.first().map(|(at, ..)| *at)
    }

    /// The record as its origin wrote it, not as snapshots show it.
    pub fn record(&self, hostname: &str, id: &str) -> Option<&Arc<Service>> {
        let held = self.hosts.get(hostname)?.held.get(id);
        held.map(|held| &held.record)
    }

    /// All records held for a host, as their origin wrote them.
    pub fn records_of(&self, hostname: &str) -> impl Iterator<Item = &Arc<Service>> {
        let host = self.hosts.get(hostname);
        host.into_iter()
            .flat_map(|host| host.held.values().map(|held| &held.record))
    }
}

/// Brings what readers see of these records, the digest and the alarms up to date; returns what
/// changed for readers.
fn present(
    view: &mut Snapshot,
    alarms: &mut BTreeSet<Alarm>,
    host: &mut Host,
    ids: impl IntoIterator<Item = Arc<str>>,
    at: Timestamp,
) -> Vec<Change> {
    let mut records = view.hosts.get(&host.name).map_or_else(
        || HostRecords::empty(host.name.clone()),
        |records| HostRecords::clone(records),
    );
    let (presence, upkeep) = (host.presence, host.upkeep());
    let mut changed = Vec::new();
    for id in ids {
        let Some(held) = host.held.get_mut(&id) else {
            continue;
        };
        let down = matches!(presence, Presence::Down(_));
        let hidden = (down || held.expired) && !held.record.is_tombstone();
        let old = records.services.get(&id);
        let shown = if hidden {
            entombed(&held.record, old)
        } else {
            held.record.clone()
        };
        if old.is_none_or(|old| old.differs_materially(&shown)) {
            let previous = old.map_or(Status::Unknown, |old| old.status);
            changed.push((shown.clone(), previous));
        }
        if hidden {
            records.derived.insert_mut(id.clone());
        } else {
            records.derived.remove_mut(&id);
        }
        records.services.insert_mut(id.clone(), shown);
        let (before, now) = held.summarise(down, upkeep);
        if before != now {
            Arc::make_mut(&mut view.digest).replace(held.identity, before, now);
        }
        held.arm(presence, &host.name, &id, alarms);
    }
    if !changed.is_empty() {
        host.last_changed = at.max(host.last_changed.next());
        view.last_changed = at.max(view.last_changed.next());
        view.changes += 1;
    }
    view.version += 1;
    records.last_updated = host.last_updated;
    records.last_changed = host.last_changed;
    if !records.services.is_empty() {
        view.hosts.insert_mut(host.name.clone(), Arc::new(records));
    }
    let time = view.last_changed;
    changed
        .into_iter()
        .map(|(service, previous)| Change {
            service,
            previous,
            time,
        })
        .collect()
}

/// Takes a forgotten record out of what readers see.
fn hide(view: &mut Snapshot, name: &Arc<str>, id: &Arc<str>, held: &Held) {
    if held.summary != 0 {
        Arc::make_mut(&mut view.digest).replace(held.identity, held.summary, 0);
    }
    if let Some(records) = view.hosts.get(name) {
        let mut records = HostRecords::clone(records);
        records.services.remove_mut(id);
        records.derived.remove_mut(id);
        view.hosts.insert_mut(name.clone(), Arc::new(records));
    }
    view.version += 1;
}

/// The record as a tombstone; the one shown before is shared when it says the same.
fn entombed(record: &Arc<Service>, shown: Option<&Arc<Service>>) -> Arc<Service> {
    let tombstone = Service {
        status: Status::Tombstone,
        ..Service::clone(record)
    };
    match shown {
        Some(shown) if **shown == tombstone => shown.clone(),
        _ => Arc::new(tombstone),
    }
}

#[cfg(test)]
mod tests;
