//! One host under change: its records, and all that must agree with them.

use std::{sync::Arc, time::Instant};

use super::deadlines::Deadlines;
use crate::{
    Digest, HostRecords, Service, Status, Timestamp,
    digest::Identity,
    held::{Held, Presence, entombed},
};

/// See the module documentation.
pub(super) struct Edit<'a> {
    pub(super) host: &'a mut HostRecords,
    /// What was said of the host when the records held were put there.
    pub(super) before: Presence,
    /// What is said of it now.
    pub(super) presence: Presence,
    pub(super) digest: &'a mut Arc<Digest>,
    pub(super) deadlines: &'a mut Deadlines,
    /// What changed for readers: the instance as they see it now, and the status before.
    pub(super) changed: Vec<(Arc<Service>, Status)>,
}

impl Edit<'_> {
    /// Puts a record in the place of the one held, or judges that one anew. `overdue` says that it
    /// was not refreshed in time.
    pub(super) fn put(&mut self, record: Arc<Service>, overdue: bool, received: Instant) {
        let (id, old) = match self.host.held.get_key_value(&*record.id) {
            Some((id, held)) => (id.clone(), Some(held.clone())),
            None => (Arc::from(&*record.id), None),
        };
        let updated = record.updated;
        let new = Held::new(record, self.presence, overdue, old.as_ref());
        let shown = old.as_ref().map(Held::shown);
        if shown.is_none_or(|shown| shown.differs_materially(new.shown())) {
            let previous = shown.map_or(Status::Unknown, |shown| shown.status);
            self.changed.push((new.shown().clone(), previous));
        }
        self.weigh(&new.record, old.as_ref(), Some(&new));
        let deadline = new.lifetime(self.presence).map(|span| received + span);
        self.deadlines.set(&self.host.name, &id, deadline);
        self.host.last_updated = self.host.last_updated.max(updated);
        if old.is_none_or(|old| !old.is(&new)) {
            self.host.held.insert_mut(id, new);
        }
    }

    /// Takes a record out as if never heard of.
    pub(super) fn forget(&mut self, id: &Arc<str>) {
        let Some(old) = self.host.held.get(id).cloned() else {
            return;
        };
        let shown = old.shown();
        if !shown.is_tombstone() {
            self.changed.push((entombed(shown, None), shown.status));
        }
        self.weigh(&old.record, Some(&old), None);
        self.deadlines.set(&self.host.name, id, None);
        self.host.held.remove_mut(id);
    }

    /// Takes the newest stamp from the records there are. Walks over them.
    pub(super) fn recall_last_updated(&mut self) {
        let stamps = self.host.held.values().map(|held| held.record.updated);
        self.host.last_updated = stamps.max().unwrap_or(Timestamp::EPOCH);
    }

    /// Brings the digest up to date with one record.
    fn weigh(&mut self, record: &Service, old: Option<&Held>, new: Option<&Held>) {
        let identity = Identity::of(&record.hostname, &record.id);
        let [was, is] = [old, new].map(|held| held.map(|held| &held.record));
        if !matches!((was, is), (Some(was), Some(is)) if Arc::ptr_eq(was, is)) {
            let (was, is) = (was.map(AsRef::as_ref), is.map(AsRef::as_ref));
            self.host.roots.replace(identity, was, is);
        }
        let before = old.map_or(0, |old| old.summary(identity, self.before));
        let now = new.map_or(0, |new| new.summary(identity, self.presence));
        if before != now {
            Arc::make_mut(self.digest).replace(identity, before, now);
        }
    }
}
