//! What is held of one instance, and how long it is of use: the rules of age.

use std::{sync::Arc, time::Duration};

use crate::{
    DRAINING_LIFESPAN, LIFESPAN, Service, Status, TOMBSTONE_LIFESPAN, Upkeep, digest::Identity,
};

/// What gossip says about a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// No member of this name was ever seen: its word comes ahead of it, or it is not an agent.
    Unknown,
    Up(Upkeep),
    /// Dead or left.
    Down,
}

/// Knowledge only: nothing in here depends on when this host heard of it, so that hosts that know
/// the same hold the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    /// As its origin wrote it.
    pub(crate) record: Arc<Service>,
    /// What readers see instead when the host is down or a refresh is overdue.
    derived: Option<Arc<Service>>,
}

impl Held {
    /// A record in the place of `before`. `overdue` says that it was not refreshed in time.
    pub(crate) fn new(
        record: Arc<Service>,
        presence: Presence,
        overdue: bool,
        before: Option<&Self>,
    ) -> Self {
        let hidden = (overdue || presence == Presence::Down) && !record.is_tombstone();
        Self {
            derived: hidden.then(|| entombed(&record, before.map(Self::shown))),
            record,
        }
    }

    /// What readers see.
    pub(crate) fn shown(&self) -> &Arc<Service> {
        self.derived.as_ref().unwrap_or(&self.record)
    }

    /// Whether readers see a tombstone that nobody wrote.
    pub(crate) fn is_derived(&self) -> bool {
        self.derived.is_some()
    }

    /// Whether it is the very same, not merely equal.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let derived = match (&self.derived, &other.derived) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        };
        derived && Arc::ptr_eq(&self.record, &other.record)
    }

    /// What the digest holds of it; 0 for nothing.
    pub(crate) fn summary(&self, identity: Identity, presence: Presence) -> u64 {
        if self.shown().is_tombstone() {
            return 0;
        }
        let vouched = presence == Presence::Up(Upkeep::Membership);
        identity.saying(self.record.status, vouched.then_some(self.record.updated))
    }

    /// How long after its receipt it has to be looked at: a live record expires then, a tombstone is
    /// forgotten. `None` where the record stands or falls with its host.
    pub(crate) fn lifetime(&self, presence: Presence) -> Option<Duration> {
        match presence {
            Presence::Down => None,
            _ if self.shown().is_tombstone() => Some(TOMBSTONE_LIFESPAN),
            Presence::Up(Upkeep::Membership) => None,
            Presence::Unknown | Presence::Up(Upkeep::Refresh) => Some(lifespan(self.record.status)),
        }
    }
}

/// How long a live record is believed without a refresh.
pub(crate) fn lifespan(status: Status) -> Duration {
    match status {
        Status::Draining => DRAINING_LIFESPAN,
        _ => LIFESPAN,
    }
}

/// The record as a tombstone; the one shown before is shared when it says the same.
pub(crate) fn entombed(record: &Arc<Service>, shown: Option<&Arc<Service>>) -> Arc<Service> {
    let tombstone = Service {
        status: Status::Tombstone,
        ..Service::clone(record)
    };
    match shown {
        Some(shown) if **shown == tombstone => shown.clone(),
        _ => Arc::new(tombstone),
    }
}
