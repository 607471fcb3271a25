//! Watches changes spread: which host presents them since when.

use std::{collections::BTreeMap, time::Duration};

use catalog::{Service, Timestamp};
use memberlist::sim::HostId;

use super::report::SpreadRecorder;

/// A change on its way.
#[derive(Debug)]
struct Open {
    change: usize,
    stamp: Timestamp,
    /// Hosts that know, a bit each.
    knows: Vec<u64>,
    missing: usize,
}

/// The changes being watched, by instance.
#[derive(Debug, Default)]
pub struct Watch {
    open: BTreeMap<(String, String), Vec<Open>>,
    changes: usize,
    /// What became of them.
    pub spread: SpreadRecorder,
}

impl Watch {
    /// From now on everybody in `hosts` but the origin is expected to hear of this record, which
    /// its origin has just written.
    pub fn expect(&mut self, record: &Service, hosts: impl Iterator<Item = HostId>, at: Duration) {
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
        self.spread.changed(change, at, missing);
        let key = (record.hostname.clone(), record.id.clone());
        self.open.entry(key).or_default().push(Open {
            change,
            stamp: record.updated,
            knows,
            missing,
        });
    }

    /// A host presents this record.
    pub fn heard(&mut self, host: HostId, record: &Service, at: Duration) {
        if self.open.is_empty() {
            return;
        }
        let key = (record.hostname.clone(), record.id.clone());
        let Some(open) = self.open.get_mut(&key) else {
            return;
        };
        let (word, bit) = (host / 64, 1 << (host % 64));
        for open in open.iter_mut() {
            let Some(knows) = open.knows.get_mut(word) else {
                continue;
            };
            if record.updated >= open.stamp && *knows & bit == 0 {
                *knows |= bit;
                open.missing -= 1;
                self.spread.heard(open.change, at);
            }
        }
        open.retain(|open| open.missing > 0);
        if open.is_empty() {
            self.open.remove(&key);
        }
    }

    /// Changes that somebody has not heard of.
    pub fn pending(&self) -> usize {
        self.open.values().map(Vec::len).sum()
    }

    /// All changes watched so far.
    pub fn changes(&self) -> usize {
        self.changes
    }
}
