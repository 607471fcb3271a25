//! When something held has to be looked at again. Empty in the ordinary case: live records of
//! members that vouch for them have no deadline.
//!
//! This is all that depends on when this host heard of something. Persistent, so that a state can be
//! cloned at no cost.

use std::{sync::Arc, time::Instant};

use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};

/// A deadline that has come.
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) host: Arc<str>,
    /// `None` for the host itself and all its records.
    pub(super) id: Option<Arc<str>>,
}

/// See the module documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Deadlines {
    /// All of them, soonest first; those of hosts have no ID.
    due: RedBlackTreeSetSync<(Instant, Arc<str>, Option<Arc<str>>)>,
    records: RedBlackTreeMapSync<(Arc<str>, Arc<str>), Instant>,
    /// When the verdict that a host is down is forgotten, and its records with it.
    down: RedBlackTreeMapSync<Arc<str>, Instant>,
}

impl Deadlines {
    /// Whether this host is down, and that is not forgotten yet.
    pub(super) fn is_down(&self, host: &str) -> bool {
        self.down.contains_key(host)
    }

    /// Hosts that are down.
    pub(super) fn down(&self) -> impl Iterator<Item = &Arc<str>> {
        self.down.keys()
    }

    /// Sets or, with `None`, clears when the verdict on a host is forgotten.
    pub(super) fn set_down(&mut self, host: &Arc<str>, at: Option<Instant>) {
        let before = self.down.get(host).copied();
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.due.remove_mut(&(before, host.clone(), None));
        }
        match at {
            Some(at) => {
                self.down.insert_mut(host.clone(), at);
                self.due.insert_mut((at, host.clone(), None));
            }
            None => {
                self.down.remove_mut(host);
            }
        }
    }

    /// Sets or, with `None`, clears when a record is looked at.
    pub(super) fn set(&mut self, host: &Arc<str>, id: &Arc<str>, at: Option<Instant>) {
        if at.is_none() && self.records.is_empty() {
            return;
        }
        let key = (host.clone(), id.clone());
        let before = self.records.get(&key).copied();
        if before == at {
            return;
        }
        if let Some(before) = before {
            let due = (before, host.clone(), Some(id.clone()));
            self.due.remove_mut(&due);
        }
        match at {
            Some(at) => {
                let due = (at, host.clone(), Some(id.clone()));
                self.due.insert_mut(due);
                self.records.insert_mut(key, at);
            }
            None => {
                self.records.remove_mut(&key);
            }
        }
    }

    /// The soonest.
    pub(super) fn first(&self) -> Option<Instant> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// Takes the soonest out if its time has come.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Due> {
        let (at, host, id) = self.due.first().filter(|(at, ..)| *at <= now)?.clone();
        match &id {
            Some(id) => self.set(&host, id, None),
            None => self.set_down(&host, None),
        }
        Some(Due { at, host, id })
    }
}

#[cfg(test)]
impl Deadlines {
    /// The records that have one.
    pub(super) fn records(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.records.keys().cloned().collect()
    }

    /// Whether the two ways to look at them show the same.
    pub(super) fn agree(&self) -> bool {
        self.due.size() == self.records.size() + self.down.size()
            && self.due.iter().all(|(at, host, id)| match id {
                Some(id) => self.records.get(&(host.clone(), id.clone())) == Some(at),
                None => self.down.get(host) == Some(at),
            })
    }
}
