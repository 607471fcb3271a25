//! The replicated state: one writer applies records to it and publishes snapshots.
//!
//! Last writer wins by the origin's stamp. What an observer concludes by itself (a host is dead, a
//! record was not refreshed) is never written into a record; it only changes what snapshots show.
//!
//! A change costs the logarithm of what is held, never a walk over it: writer and readers share one
//! persistent map, deadlines stand in an ordered set, the digest is kept up to date record by record.

mod deadlines;
mod edit;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use self::{deadlines::Deadlines, edit::Edit};
use crate::{
    HostRecords, Service, Snapshot, Status, Timestamp,
    held::{Held, Presence, lifespan},
};

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
    /// Whether this host concluded it, from the coming or going of another host or from the passing of
    /// time, rather than read it in a record that came: the record's stamp does not tell when it happened.
    pub derived: bool,
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

/// All records this host knows. One task owns it; everybody else reads [`State::snapshot`].
///
/// A clone costs a few reference counts, whatever is held, and shares everything with the original
/// until one of them changes; then the two differ in the path to that change alone.
#[derive(Debug, Clone)]
pub struct State {
    view: Snapshot,
    deadlines: Deadlines,
}

impl State {
    /// An empty state, seen from `hostname`.
    pub fn new(hostname: &str, cluster_name: &str) -> Self {
        Self {
            view: Snapshot::empty(hostname, cluster_name),
            deadlines: Deadlines::default(),
        }
    }

    /// A clone that belongs to another host.
    pub fn seen_from(&self, hostname: &str) -> Self {
        let mut other = self.clone();
        other.view.hostname = hostname.into();
        other
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
        // While a host is down nothing is believed, and what comes late is judged strictly.
        let vouched = self.view.members.get(&*record.hostname) == Some(&Upkeep::Membership);
        if !vouched && record.updated < now.wall.minus(STALE_AFTER) {
            return Err(Rejected::Stale(record.updated));
        }
        if record.updated > now.wall.plus(FUTURE_STAMP_MAX) {
            return Err(Rejected::Future(record.updated));
        }
        Ok(())
    }

    /// Merges one record: a peer's, or one this host just wrote. The state keeps the `Arc` it is
    /// given.
    ///
    /// # Errors
    /// Refuses a peer's record with an impossible stamp; the state is unchanged then.
    pub fn apply(
        &mut self,
        record: impl Into<Arc<Service>>,
        author: Author,
        now: Now,
    ) -> Result<Applied, Rejected> {
        let mut record = record.into();
        if author == Author::Peer {
            self.admit(&record, now)?;
        }
        let host = self.view.hosts.get(&*record.hostname);
        if let Some(held) = host.and_then(|host| host.held.get(&*record.id)) {
            let held = &held.record;
            if !record.supersedes(held) {
                return Ok(Applied::Known);
            }
            if author == Author::Peer
                && held.status == Status::Draining
                && record.status == Status::Alive
            {
                Arc::make_mut(&mut record).status = Status::Draining;
            }
        }
        let name = match host {
            Some(host) => host.name.clone(),
            None => {
                let name = self.name(&record.hostname);
                let host = Arc::new(HostRecords::empty(name.clone()));
                self.view.hosts.insert_mut(name.clone(), host);
                name
            }
        };
        let presence = self.presence(&name);
        let updated = record.updated;
        if presence == Presence::Down {
            // It must not outlive the verdict, or somebody would take it for a live one.
            let forgotten = now.monotonic + TOMBSTONE_LIFESPAN;
            self.deadlines.set_down(&name, Some(forgotten));
        }
        let mut changes = self.edit(&name, (presence, presence), updated, |edit| {
            edit.put(record, false, now.monotonic);
        });
        Ok(Applied::New(changes.pop().map(|change| Change {
            derived: false,
            ..change
        })))
    }

    /// A member is there (joined, returned, or changed its ways): its records read as they are
    /// again.
    pub fn member_up(&mut self, name: &str, upkeep: Upkeep, now: Now) -> Vec<Change> {
        let before = self.presence(name);
        if before == Presence::Up(upkeep) {
            return Vec::new();
        }
        let name = self.name(name);
        self.view.members.insert_mut(name.clone(), upkeep);
        self.deadlines.set_down(&name, None);
        // Ages start afresh: the origin could not be heard while it was away.
        self.revise(&name, (before, Presence::Up(upkeep)), now)
    }

    /// A member died or left: its records read as tombstones until it returns.
    pub fn member_down(&mut self, name: &str, now: Now) -> Vec<Change> {
        let before = self.presence(name);
        if before == Presence::Down {
            return Vec::new();
        }
        let name = self.name(name);
        self.view.members.remove_mut(&name);
        let forgotten = now.monotonic + TOMBSTONE_LIFESPAN;
        self.deadlines.set_down(&name, Some(forgotten));
        self.revise(&name, (before, Presence::Down), now)
    }

    /// Lets time pass: records not refreshed read as tombstones, old tombstones are forgotten.
    pub fn expire(&mut self, now: Now) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(due) = self.deadlines.pop(now.monotonic) {
            let Some(id) = due.id else {
                // A host that is down: nothing of it is in the digest, in the other deadlines, or
                // visible other than as a tombstone.
                self.view.hosts.remove_mut(&due.host);
                self.view.version += 1;
                continue;
            };
            let Some(held) = self.held(&due.host, &id) else {
                continue;
            };
            let (gone, record) = (held.shown().is_tombstone(), held.record.clone());
            let presence = self.presence(&due.host);
            let news = self.edit(&due.host, (presence, presence), now.wall, |edit| {
                if gone {
                    edit.forget(&id);
                } else {
                    let received = due.at - lifespan(record.status);
                    edit.put(record, true, received);
                }
            });
            changes.extend(news);
        }
        changes
    }

    /// Drops every record stamped after `limit`, own ones too, as if never heard of: it leaves no
    /// tombstone, and older records may come again. Walks over everything held.
    pub fn forget_newer_than(&mut self, limit: Timestamp, now: Now) -> Vec<Change> {
        self.forget(now, |_, record| record.updated > limit)
    }

    /// Drops all records, tombstones included, of every host but this one, and the verdicts that
    /// hosts are down. Members stay members. Walks over everything held.
    pub fn forget_others(&mut self, hostname: &str, now: Now) -> Vec<Change> {
        let changes = self.forget(now, |host, _| host != hostname);
        let down: Vec<Arc<str>> = self.deadlines.down().cloned().collect();
        for name in down.iter().filter(|name| ***name != *hostname) {
            self.deadlines.set_down(name, None);
        }
        changes
    }

    fn forget(&mut self, now: Now, doomed: impl Fn(&str, &Service) -> bool) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, host) in &self.view.hosts.clone() {
            let ids = host.held.iter();
            let ids: Vec<&Arc<str>> = ids
                .filter(|(_, held)| doomed(name, &held.record))
                .map(|(id, _)| id)
                .collect();
            if ids.is_empty() {
                continue;
            }
            let presence = self.presence(name);
            changes.extend(self.edit(name, (presence, presence), now.wall, |edit| {
                ids.into_iter().for_each(|id| edit.forget(id));
                edit.recall_last_updated();
            }));
        }
        changes
    }

    /// When [`State::expire`] next has something to do; `None` when nothing can expire.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.deadlines.first()
    }

    /// The record as its origin wrote it, not as snapshots show it.
    pub fn record(&self, hostname: &str, id: &str) -> Option<&Arc<Service>> {
        self.held(hostname, id).map(|held| &held.record)
    }

    /// All records held for a host, as their origin wrote them.
    pub fn records_of(&self, hostname: &str) -> impl Iterator<Item = &Arc<Service>> {
        let host = self.view.hosts.get(hostname);
        host.into_iter()
            .flat_map(|host| host.held.values().map(|held| &held.record))
    }

    fn held(&self, hostname: &str, id: &str) -> Option<&Held> {
        self.view.hosts.get(hostname)?.held.get(id)
    }

    fn presence(&self, name: &str) -> Presence {
        match self.view.members.get(name) {
            Some(upkeep) => Presence::Up(*upkeep),
            None if self.deadlines.is_down(name) => Presence::Down,
            None => Presence::Unknown,
        }
    }

    /// The name as it is held already, if it is.
    fn name(&self, name: &str) -> Arc<str> {
        let host = || self.view.hosts.get(name).map(|host| &host.name);
        let member = self.view.members.get_key_value(name).map(|(name, _)| name);
        member.or_else(host).map_or_else(|| name.into(), Arc::clone)
    }

    /// Looks at all records of a host again when its presence has changed, as if just received.
    fn revise(
        &mut self,
        name: &Arc<str>,
        presences: (Presence, Presence),
        now: Now,
    ) -> Vec<Change> {
        self.view.version += 1;
        let records: Vec<Arc<Service>> = self.records_of(name).cloned().collect();
        self.edit(name, presences, now.wall, |edit| {
            for record in records {
                edit.put(record, false, now.monotonic);
            }
        })
    }

    /// Changes the records of a host there is, whose presence was and is as given, and tells what
    /// changed for readers.
    fn edit(
        &mut self,
        name: &Arc<str>,
        (before, presence): (Presence, Presence),
        at: Timestamp,
        change: impl FnOnce(&mut Edit<'_>),
    ) -> Vec<Change> {
        let view = &mut self.view;
        let Some(host) = view.hosts.get_mut(name).map(Arc::make_mut) else {
            return Vec::new();
        };
        let mut edit = Edit {
            host,
            before,
            presence,
            digest: &mut view.digest,
            deadlines: &mut self.deadlines,
            changed: Vec::new(),
        };
        change(&mut edit);
        let changed = edit.changed;
        if !changed.is_empty() {
            host.last_changed = at.max(host.last_changed.next());
            view.last_changed = at.max(view.last_changed.next());
            view.changes += 1;
        }
        if host.held.is_empty() {
            view.hosts.remove_mut(name);
        }
        view.version += 1;
        let time = view.last_changed;
        let changes = changed.into_iter().map(|(service, previous)| Change {
            service,
            previous,
            time,
            derived: true,
        });
        changes.collect()
    }
}

#[cfg(test)]
mod tests;
