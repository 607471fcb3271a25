//! What the log tells of changes: each by itself, and when many come at once, as when a host dies, of most
//! only how many there were.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use catalog::{Change, Status};
use tracing::info;

/// Changes told by themselves in one window; of the others their number is told at its end.
const TOLD_MAX: usize = 20;
/// A window begins with the first change after the last.
const WINDOW: Duration = Duration::from_secs(1);

/// Remembers what was told of late.
#[derive(Debug, Default)]
pub(super) struct ChangeLog {
    began: Option<Instant>,
    told: usize,
    /// Those that were not told by themselves, by what they have become.
    more: BTreeMap<Status, usize>,
}

impl ChangeLog {
    /// Tells of these, and of what is left of a window that is over. To be called also without changes.
    pub(super) fn tell(&mut self, changes: &[Change], now: Instant) {
        for line in self.lines(changes, now) {
            match line {
                Line::Change(change) => {
                    let service = &change.service;
                    info!(
                        service = service.name,
                        instance = service.id,
                        host = service.hostname,
                        from = %change.previous,
                        to = %service.status,
                        "service changed"
                    );
                }
                Line::More { count, now } => info!(
                    more = count,
                    now, "more services changed; /api/v2/changes has them"
                ),
            }
        }
    }

    /// When [`ChangeLog::tell`] has something to tell without further changes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let began = self.began.filter(|_| !self.more.is_empty())?;
        Some(began + WINDOW)
    }

    fn lines<'a>(&mut self, changes: &'a [Change], now: Instant) -> Vec<Line<'a>> {
        let mut lines = Vec::new();
        if self.began.is_some_and(|began| now - began >= WINDOW) {
            self.began = None;
            self.told = 0;
            let more = std::mem::take(&mut self.more);
            if !more.is_empty() {
                lines.push(Line::More {
                    count: more.values().sum(),
                    now: more
                        .iter()
                        .map(|(status, count)| format!("{count} {status}"))
                        .collect::<Vec<_>>()
                        .join(", "),
                });
            }
        }
        for change in changes {
            self.began.get_or_insert(now);
            if self.told < TOLD_MAX {
                self.told += 1;
                lines.push(Line::Change(change));
            } else {
                *self.more.entry(change.service.status).or_default() += 1;
            }
        }
        lines
    }
}

#[derive(Debug, PartialEq)]
enum Line<'a> {
    Change(&'a Change),
    More { count: usize, now: String },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures;

    fn changes(count: usize, status: Status) -> Vec<Change> {
        let service = fixtures::service("node-a", "a", 1, status);
        let change = Change {
            service: service.into(),
            previous: Status::Unknown,
            time: catalog::Timestamp::EPOCH,
            derived: false,
        };
        vec![change; count]
    }

    #[test]
    fn few_are_told_and_of_many_the_number() {
        let start = Instant::now();
        let mut log = ChangeLog::default();
        let (alive, gone) = (changes(15, Status::Alive), changes(500, Status::Tombstone));
        assert_eq!(log.lines(&alive, start).len(), 15);
        assert_eq!(log.deadline(), None);
        assert_eq!(log.lines(&gone, start + WINDOW / 2).len(), 5);
        assert_eq!(log.lines(&alive, start + WINDOW / 2), []);
        assert_eq!(log.deadline(), Some(start + WINDOW));
        let rest = log.lines(&[], start + WINDOW);
        let now = "15 Alive, 495 Tombstone".to_owned();
        assert_eq!(rest, [Line::More { count: 510, now }]);
        assert_eq!(log.deadline(), None);
        assert_eq!(log.lines(&alive, start + WINDOW).len(), 15);
        assert_eq!(log.lines(&[], start + 3 * WINDOW), []);
    }
}
