//! The replicated state: one writer applies records to it and publishes snapshots.
//!
//! Last writer wins by the origin's stamp. What an observer concludes by itself (a host is dead, a
//! record was not refreshed) is never written into a record; it only changes what snapshots show.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{HostRecords, Service, Snapshot, Status, Timestamp};

/// A record that is not refreshed within this time reads as a tombstone (Go Sidecar: 80 s).
pub const LIFESPAN: Duration = Duration::from_secs(80);
/// The same for draining records (Go Sidecar: 10 min).
pub const DRAINING_LIFESPAN: Duration = Duration::from_secs(10 * 60);
/// Tombstones are kept this long, so that older records of the dead cannot return (Go Sidecar: 3 h).
pub const TOMBSTONE_LIFESPAN: Duration = Duration::from_secs(3 * 3600);
/// Records with a stamp older than this are refused: the tombstone that would cover them may be
/// forgotten (Go Sidecar: tombstone life + 1 min).
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

#[derive(Debug)]
struct Held {
    record: Arc<Service>,
    received: Instant,
    expired: bool,
}

#[derive(Debug)]
struct Host {
    held: BTreeMap<String, Held>,
    last_updated: Timestamp,
    last_changed: Timestamp,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            held: BTreeMap::new(),
            last_updated: Timestamp::EPOCH,
            last_changed: Timestamp::EPOCH,
        }
    }
}

/// All records this host knows. One task owns it; everybody else reads [`State::snapshot`].
#[derive(Debug)]
pub struct State {
    hosts: BTreeMap<String, Host>,
    /// Names of members declared dead or left and not back since, and since when. Kept apart from
    /// the hosts because a late record of a dead host may arrive after the verdict.
    down: BTreeMap<String, Instant>,
    view: Snapshot,
}

impl State {
    /// An empty state, seen from `hostname`.
    pub fn new(hostname: &str, cluster_name: &str) -> Self {
        Self {
            hosts: BTreeMap::new(),
            down: BTreeMap::new(),
            view: Snapshot::empty(hostname, cluster_name),
        }
    }

    /// The current view.
    pub fn snapshot(&self) -> &Snapshot {
        &self.view
    }

    /// Whether a peer's record has a stamp that can be true.
    ///
    /// # Errors
    /// Says what is wrong with the stamp.
    pub fn admit(record: &Service, now: Now) -> Result<(), Rejected> {
        if record.updated < now.wall.minus(STALE_AFTER) {
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
            Self::admit(&record, now)?;
        }
        let name = record.hostname.clone();
        let host = self.hosts.entry(name.clone()).or_default();
        if let Some(held) = host.held.get(&record.id) {
            if !record.supersedes(&held.record) {
                return Ok(Applied::Known);
            }
            if author == Author::Peer
                && held.record.status == Status::Draining
                && record.status == Status::Alive
            {
                record.status = Status::Draining;
            }
        }
        let id = record.id.clone();
        host.last_updated = host.last_updated.max(record.updated);
        let updated = record.updated;
        let held = Held {
            record: Arc::new(record),
            received: now.monotonic,
            expired: false,
        };
        host.held.insert(id.clone(), held);
        let changes = self.present(&name, updated);
        Ok(Applied::New(
            changes.into_iter().find(|change| change.service.id == id),
        ))
    }

    /// A member is there (joined, or returned): its records read as they are again.
    pub fn member_up(&mut self, name: &str, now: Now) -> Vec<Change> {
        if Arc::make_mut(&mut self.view.members).insert(name.to_owned()) {
            self.view.version += 1;
        }
        if self.down.remove(name).is_none() {
            return Vec::new();
        }
        // Ages start afresh: the origin could not be heard while it was away.
        if let Some(host) = self.hosts.get_mut(name) {
            for held in host.held.values_mut() {
                held.received = now.monotonic;
                held.expired = false;
            }
        }
        self.present(name, now.wall)
    }

    /// A member died or left: its records read as tombstones until it returns.
    pub fn member_down(&mut self, name: &str, now: Now) -> Vec<Change> {
        if Arc::make_mut(&mut self.view.members).remove(name) {
            self.view.version += 1;
        }
        if self.down.insert(name.to_owned(), now.monotonic).is_some() {
            return Vec::new();
        }
        self.present(name, now.wall)
    }

    /// Lets time pass: records not refreshed read as tombstones, old tombstones are forgotten.
    pub fn expire(&mut self, now: Now) -> Vec<Change> {
        let mut changes = Vec::new();
        self.down.retain(|name, since| {
            self.hosts.contains_key(name)
                || now.monotonic.saturating_duration_since(*since) < TOMBSTONE_LIFESPAN
        });
        let names: Vec<String> = self.hosts.keys().cloned().collect();
        for name in names {
            let Some(host) = self.hosts.get_mut(&name) else {
                continue;
            };
            let mut touched = false;
            let down = self.down.contains_key(&name);
            host.held.retain(|_, held| {
                let age = now.monotonic.saturating_duration_since(held.received);
                let lifespan = lifespan(held.record.status);
                let gone = held.record.is_tombstone() || held.expired || down;
                if gone && age >= TOMBSTONE_LIFESPAN {
                    touched = true;
                    return false;
                }
                if !held.expired && !held.record.is_tombstone() && age >= lifespan {
                    held.expired = true;
                    touched = true;
                }
                true
            });
            if !touched {
                continue;
            }
            if host.held.is_empty() {
                self.hosts.remove(&name);
                self.view.hosts.remove_mut(&name);
                self.view.version += 1;
                continue;
            }
            changes.extend(self.present(&name, now.wall));
        }
        changes
    }

    /// When [`State::expire`] next has something to do; `None` when nothing is held.
    pub fn next_expiry(&self) -> Option<Instant> {
        let held = self.hosts.values().flat_map(|host| host.held.values());
        held.map(|held| {
            let gone = held.record.is_tombstone() || held.expired;
            held.received
                + if gone {
                    TOMBSTONE_LIFESPAN
                } else {
                    lifespan(held.record.status)
                }
        })
        .min()
    }

    /// The record as its origin wrote it, not as snapshots show it.
    pub fn record(&self, hostname: &str, id: &str) -> Option<&Arc<Service>> {
        self.hosts
            .get(hostname)?
            .held
            .get(id)
            .map(|held| &held.record)
    }

    /// All records held for a host, as their origin wrote them.
    pub fn records_of(&self, hostname: &str) -> impl Iterator<Item = &Arc<Service>> {
        let host = self.hosts.get(hostname);
        host.into_iter()
            .flat_map(|host| host.held.values().map(|held| &held.record))
    }

    /// Rebuilds what readers see of one host and returns what changed for them.
    fn present(&mut self, name: &str, at: Timestamp) -> Vec<Change> {
        let Some(host) = self.hosts.get_mut(name) else {
            return Vec::new();
        };
        let down = self.down.contains_key(name);
        let before = self.view.hosts.get(name).cloned();
        let mut services = BTreeMap::new();
        let mut derived = BTreeSet::new();
        let mut changed = Vec::new();
        for (id, held) in &host.held {
            let old = before.as_ref().and_then(|host| host.services.get(id));
            let hidden = (down || held.expired) && !held.record.is_tombstone();
            let shown = if hidden {
                entombed(&held.record, old)
            } else {
                held.record.clone()
            };
            if hidden {
                derived.insert(id.clone());
            }
            if old.is_none_or(|old| old.differs_materially(&shown)) {
                let previous = old.map_or(Status::Unknown, |old| old.status);
                changed.push((shown.clone(), previous));
            }
            services.insert(id.clone(), shown);
        }
        if !changed.is_empty() {
            host.last_changed = at.max(host.last_changed.next());
            self.view.last_changed = at.max(self.view.last_changed.next());
            self.view.changes += 1;
        }
        self.view.version += 1;
        let records = HostRecords {
            name: name.to_owned(),
            services,
            derived,
            last_updated: host.last_updated,
            last_changed: host.last_changed,
        };
        self.view
            .hosts
            .insert_mut(name.to_owned(), Arc::new(records));
        let time = self.view.last_changed;
        changed
            .into_iter()
            .map(|(service, previous)| Change {
                service,
                previous,
                time,
            })
            .collect()
    }
}

fn lifespan(status: Status) -> Duration {
    match status {
        Status::Draining => DRAINING_LIFESPAN,
        Status::Alive | Status::Unhealthy | Status::Unknown => LIFESPAN,
        Status::Tombstone => TOMBSTONE_LIFESPAN,
    }
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
