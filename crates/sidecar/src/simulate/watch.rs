//! Watches changes spread: which host presents them since when.

use std::{collections::BTreeMap, time::Duration};

use catalog::{Service, Timestamp};
use memberlist::sim::HostId;

use super::report::{CHANGES_MAX, Spread, SpreadError, SpreadRecorder};

/// A change on its way.
#[derive(Debug)]
struct Open {
    change: u64,
    stamp: Timestamp,
    /// Hosts that know, a bit each.
    knows: Vec<u64>,
    missing: usize,
}

/// The changes being watched, by instance.
#[derive(Debug)]
pub(super) struct Watch {
    open: BTreeMap<(String, String), Vec<Open>>,
    changes: u64,
    recorder: SpreadRecorder,
    trouble: Option<SpreadError>,
}

impl Watch {
    /// For changes each of which has to reach so many hosts.
    pub(super) fn new(hosts_to_reach: u32) -> Self {
        Self {
            open: BTreeMap::new(),
            changes: 0,
            recorder: SpreadRecorder::new(hosts_to_reach),
            trouble: None,
        }
    }

    /// What became of them.
    ///
    /// # Errors
    /// Something was counted wrong.
    pub(super) fn spread(&self) -> Result<Option<Spread>, SpreadError> {
        match &self.trouble {
            Some(trouble) => Err(trouble.clone()),
            None => Ok(self.recorder.spread()),
        }
    }

    /// From now on everybody in `hosts` but the origin is expected to hear of this record, which
    /// its origin has just written. Beyond a bound they are no longer watched.
    pub(super) fn expect(
        &mut self,
        record: &Service,
        hosts: impl Iterator<Item = HostId>,
        at: Duration,
    ) {
        if self.changes >= CHANGES_MAX as u64 {
            return;
        }
        let mut knows = Vec::new();
        let mut missing = 0;
        for host in hosts {
            let word = host / 64;
            if knows.len() <= word {
                knows.resize(word + 1, u64::MAX);
            }
            knows[word] &= !(1 << (host % 64));
            missing += 1;
        }
        let change = self.changes;
        self.changes += 1;
        self.note(|recorder| recorder.changed(change, at));
        let key = (record.hostname.clone(), record.id.clone());
        self.open.entry(key).or_default().push(Open {
            change,
            stamp: record.updated,
            knows,
            missing,
        });
    }

    /// A host presents this record.
    pub(super) fn heard(&mut self, host: HostId, record: &Service, at: Duration) {
        if self.open.is_empty() {
            return;
        }
        let key = (record.hostname.clone(), record.id.clone());
        let Some(open) = self.open.get_mut(&key) else {
            return;
        };
        let (word, bit) = (host / 64, 1 << (host % 64));
        let mut news = Vec::new();
        for open in open.iter_mut() {
            let Some(knows) = open.knows.get_mut(word) else {
                continue;
            };
            if record.updated >= open.stamp && *knows & bit == 0 {
                *knows |= bit;
                open.missing -= 1;
                news.push(open.change);
            }
        }
        open.retain(|open| open.missing > 0);
        if open.is_empty() {
            self.open.remove(&key);
        }
        for change in news {
            self.note(|recorder| recorder.heard(change, at));
        }
    }

    fn note(&mut self, note: impl FnOnce(&mut SpreadRecorder) -> Result<(), SpreadError>) {
        if let Err(trouble) = note(&mut self.recorder) {
            self.trouble.get_or_insert(trouble);
        }
    }

    /// Changes that somebody has not heard of.
    pub(super) fn pending(&self) -> usize {
        self.open.values().map(Vec::len).sum()
    }
}
