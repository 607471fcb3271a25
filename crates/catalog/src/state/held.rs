//! What the state holds of one host and one record, and how long: the rules of age.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Alarm, DRAINING_LIFESPAN, LIFESPAN, TOMBSTONE_LIFESPAN, Upkeep};
use crate::{Service, Status, Timestamp, digest::Identity};

/// What gossip says about a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// No member of this name was ever seen: its word comes ahead of it, or it is not an agent.
    Unknown,
    Up(Upkeep),
    /// Dead or left, and since when.
    Down(Instant),
}

#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) name: Arc<str>,
    pub(super) held: BTreeMap<Arc<str>, Held>,
    pub(super) presence: Presence,
    pub(super) last_updated: Timestamp,
    pub(super) last_changed: Timestamp,
}

impl Host {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            held: BTreeMap::new(),
            presence: Presence::Unknown,
            last_updated: Timestamp::EPOCH,
            last_changed: Timestamp::EPOCH,
        }
    }

    pub(super) fn upkeep(&self) -> Upkeep {
        match self.presence {
            Presence::Up(upkeep) => upkeep,
            // While it is down nothing is believed, and what comes late is judged strictly.
            Presence::Unknown | Presence::Down(_) => Upkeep::Refresh,
        }
    }

    pub(super) fn held_mut(&mut self, id: &str) -> Option<(Arc<str>, &mut Held)> {
        let (key, _) = self.held.get_key_value(id)?;
        let key = key.clone();
        self.held.get_mut(id).map(|held| (key, held))
    }

    /// Whether nothing needs this record (or, for an empty ID, this host) any more.
    pub(super) fn is_forgotten(&self, id: &str, now: Instant) -> bool {
        match (self.held.get(id), self.presence) {
            (Some(held), presence) => held
                .forgotten_at(presence)
                .is_some_and(|forgotten| forgotten <= now),
            (None, Presence::Down(since)) => id.is_empty() && since + TOMBSTONE_LIFESPAN <= now,
            (None, Presence::Unknown | Presence::Up(_)) => false,
        }
    }

    /// Marks a record whose refresh is overdue; false when it is not.
    pub(super) fn expire(&mut self, id: &str, now: Instant) -> bool {
        let presence = self.presence;
        let Some(held) = self.held.get_mut(id) else {
            return false;
        };
        let overdue = held.refresh_due(presence).is_some_and(|due| due <= now);
        held.expired |= overdue;
        overdue
    }

    /// See [`Held::arm`].
    pub(super) fn arm(&mut self, id: &Arc<str>, alarms: &mut BTreeSet<Alarm>) {
        if let Some(held) = self.held.get_mut(id) {
            held.arm(self.presence, &self.name, id, alarms);
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) record: Arc<Service>,
    pub(super) received: Instant,
    pub(super) expired: bool,
    pub(super) identity: Identity,
    /// What the digest holds for it; 0 for nothing.
    pub(super) summary: u64,
    /// When it is looked at again; never later than its deadline.
    pub(super) alarm: Option<Instant>,
}

impl Held {
    pub(super) fn new(record: Service, now: Instant) -> Self {
        Self {
            identity: Identity::of(&record.hostname, &record.id),
            record: Arc::new(record),
            received: now,
            expired: false,
            summary: 0,
            alarm: None,
        }
    }

    pub(super) fn renew(&mut self, record: Service, now: Instant) {
        self.record = Arc::new(record);
        self.received = now;
        self.expired = false;
    }

    /// What the digest held of this record, and what it holds from now on.
    pub(super) fn summarise(&mut self, down: bool, upkeep: Upkeep) -> (u64, u64) {
        let counted = !down && !self.expired && !self.record.is_tombstone();
        let stamp = (upkeep == Upkeep::Membership).then_some(self.record.updated);
        let now = if counted {
            self.identity.saying(self.record.status, stamp)
        } else {
            0
        };
        (std::mem::replace(&mut self.summary, now), now)
    }

    /// When a record that needs refreshing counts as lost.
    fn refresh_due(&self, presence: Presence) -> Option<Instant> {
        let kept = match presence {
            Presence::Unknown | Presence::Up(Upkeep::Refresh) => false,
            Presence::Up(Upkeep::Membership) | Presence::Down(_) => true,
        };
        let lifespan = lifespan(self.record.status)?;
        (!kept && !self.expired).then(|| self.received + lifespan)
    }

    /// When a record that nobody sees alive is of no use even to win against older ones.
    fn forgotten_at(&self, presence: Presence) -> Option<Instant> {
        let gone_since = match presence {
            Presence::Down(since) => self.received.max(since),
            _ if self.expired || self.record.is_tombstone() => self.received,
            Presence::Unknown | Presence::Up(_) => return None,
        };
        Some(gone_since + TOMBSTONE_LIFESPAN)
    }

    /// Sees to it that the record is looked at when its time comes. A later deadline than the one
    /// armed is found out when that one comes, so that refreshes cost nothing here.
    pub(super) fn arm(
        &mut self,
        presence: Presence,
        name: &Arc<str>,
        id: &Arc<str>,
        alarms: &mut BTreeSet<Alarm>,
    ) {
        let deadline = self
            .refresh_due(presence)
            .or_else(|| self.forgotten_at(presence));
        let Some(deadline) = deadline else { return };
        if let Some(armed) = self.alarm {
            if armed <= deadline {
                return;
            }
            alarms.remove(&(armed, name.clone(), id.clone()));
        }
        alarms.insert((deadline, name.clone(), id.clone()));
        self.alarm = Some(deadline);
    }
}

/// `None` for tombstones, which need no refresh.
fn lifespan(status: Status) -> Option<Duration> {
    match status {
        Status::Draining => Some(DRAINING_LIFESPAN),
        Status::Alive | Status::Unhealthy | Status::Unknown => Some(LIFESPAN),
        Status::Tombstone => None,
    }
}
