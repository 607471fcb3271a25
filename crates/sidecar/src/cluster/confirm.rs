//! Whether all agents route by a record of ours: asked of each, and answered when its routes were made
//! of that record or a newer one. Pure.
//!
//! ```text
//! A → B  confirm     a number, and the record        (by stream; repeated while B is silent)
//! B → A  confirmed   the number
//! ```
//!
//! The question carries the record, so that nobody has to say that gossip has not brought it yet. Only
//! members of our kind are asked: Go Sidecars take every such message for a record, and older agents
//! drop what they do not know. Who leaves or dies meanwhile is not waited for.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use catalog::{Snapshot, Timestamp, Upkeep};

use super::drains::Key;

/// The first pause before a question is repeated; it doubles ...
const REPEAT: Duration = Duration::from_millis(500);
/// ... up to this.
const REPEAT_MAX: Duration = Duration::from_secs(4);
/// Questions that are sent at a time, and when the next ones are: all answers come back here.
const BURST: usize = 64;
const BURST_EVERY: Duration = Duration::from_millis(50);
/// Inquiries at a time. Of more than that nothing is confirmed.
const INQUIRIES_MAX: usize = 64;
/// Questions that cannot be answered yet, at most; beyond that the oldest is forgotten.
const OWED_MAX: usize = 1024;
/// A question is forgotten after so long: whoever still waits repeats it.
const OWED_FOR: Duration = Duration::from_secs(10);

/// Who routes by a record, by names of hosts in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// They do.
    pub confirmed: Vec<String>,
    /// They have not said so in time, or have left.
    pub unconfirmed: Vec<String>,
    /// They cannot be asked, being no agents of ours.
    pub not_asked: Vec<String>,
}

/// What somebody wants to know of all agents.
#[derive(Debug)]
struct Inquiry {
    /// The instance of this host.
    id: String,
    until: Instant,
    /// Once the record says what it is to say.
    is_asked: bool,
    /// Who has not answered: when to ask, and the pause after that.
    silent: BTreeMap<String, (Instant, Duration)>,
    confirmed: BTreeSet<String>,
    gone: BTreeSet<String>,
    not_asked: BTreeSet<String>,
}

/// A question to answer when the routes are as it wants them.
#[derive(Debug)]
struct Owed {
    to: String,
    number: u64,
    key: Key,
    stamp: Timestamp,
    /// It is forgotten then.
    until: Instant,
    /// The snapshot whose routes will do.
    version: Option<u64>,
}

/// Something to send or to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Ask this host whether it routes by the record of this instance of ours.
    Ask {
        /// The host.
        to: String,
        /// The inquiry.
        number: u64,
        /// The instance.
        id: String,
    },
    /// Tell this host that we do.
    Confirm {
        /// The host.
        to: String,
        /// Its inquiry.
        number: u64,
    },
    /// An inquiry is over.
    Over {
        /// The inquiry.
        number: u64,
        /// What came out.
        applied: Applied,
    },
}

/// All inquiries, ours and those of others.
#[derive(Debug, Default)]
pub(super) struct Confirmations {
    inquiries: BTreeMap<u64, Inquiry>,
    owed: VecDeque<Owed>,
    /// The newest snapshot that routes were made of.
    routed: u64,
    next_burst: Option<Instant>,
}

impl Confirmations {
    /// Begins an inquiry about an instance of this host, among those who are members now.
    pub(super) fn inquire(
        &mut self,
        number: u64,
        id: &str,
        within: Duration,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        let mut inquiry = Inquiry {
            id: id.to_owned(),
            until: now + within,
            is_asked: false,
            silent: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            gone: BTreeSet::new(),
            not_asked: BTreeSet::new(),
        };
        for (name, upkeep) in &snapshot.members {
            let name = name.to_string();
            match upkeep {
                Upkeep::Membership => {
                    // Nothing is sent to this host itself.
                    let at = if name == *snapshot.hostname {
                        now + within
                    } else {
                        now
                    };
                    inquiry.silent.insert(name, (at, REPEAT));
                }
                Upkeep::Refresh => {
                    inquiry.not_asked.insert(name);
                }
            }
        }
        if self.inquiries.len() >= INQUIRIES_MAX {
            inquiry.until = now;
        }
        self.inquiries.insert(number, inquiry);
    }

    /// Somebody asks whether we route by a record.
    pub(super) fn asked(
        &mut self,
        to: &str,
        number: u64,
        key: Key,
        stamp: Timestamp,
        now: Instant,
    ) {
        if self
            .owed
            .iter()
            .any(|owed| owed.number == number && owed.to == to)
        {
            return;
        }
        if self.owed.len() >= OWED_MAX {
            self.owed.pop_front();
        }
        self.owed.push_back(Owed {
            to: to.to_owned(),
            number,
            key,
            stamp,
            until: now + OWED_FOR,
            version: None,
        });
    }

    /// Somebody confirms.
    pub(super) fn confirmed(&mut self, from: &str, number: u64) {
        if let Some(inquiry) = self.inquiries.get_mut(&number)
            && inquiry.silent.remove(from).is_some()
        {
            inquiry.confirmed.insert(from.to_owned());
        }
    }

    /// Routes were made of the snapshot of this version.
    pub(super) fn routed(&mut self, version: u64) {
        self.routed = self.routed.max(version);
    }

    /// What is to be said now. `settled` is where the record of an instance of ours is held, and its
    /// stamp, once it says what it is to say; `held` the stamp of any record.
    pub(super) fn look(
        &mut self,
        snapshot: &Snapshot,
        settled: impl Fn(&str) -> Option<(Key, Timestamp)>,
        held: impl Fn(&Key) -> Option<Timestamp>,
        now: Instant,
    ) -> Vec<Say> {
        if self.inquiries.is_empty() && self.owed.is_empty() {
            return Vec::new();
        }
        let mut say = Vec::new();
        let us = &*snapshot.hostname;
        self.ask(snapshot, settled, now, &mut say);
        let routed = self.routed;
        self.owed.retain_mut(|owed| {
            if owed.version.is_none() && held(&owed.key).is_some_and(|held| held >= owed.stamp) {
                owed.version = Some(snapshot.version);
            }
            if owed.version.is_some_and(|version| version <= routed) {
                let (to, number) = (owed.to.clone(), owed.number);
                say.push(Say::Confirm { to, number });
                return false;
            }
            now < owed.until
        });
        say.retain(|it| match it {
            Say::Confirm { to, number } if to == us => {
                if let Some(inquiry) = self.inquiries.get_mut(number)
                    && inquiry.silent.remove(us).is_some()
                {
                    inquiry.confirmed.insert(us.to_owned());
                }
                false
            }
            _ => true,
        });
        self.conclude(us, now, &mut say);
        say
    }

    fn ask(
        &mut self,
        snapshot: &Snapshot,
        settled: impl Fn(&str) -> Option<(Key, Timestamp)>,
        now: Instant,
        say: &mut Vec<Say>,
    ) {
        let us = &*snapshot.hostname;
        let mut room = match self.next_burst {
            Some(next) if now < next => 0,
            _ => BURST,
        };
        for (number, inquiry) in &mut self.inquiries {
            let left: Vec<String> = inquiry
                .silent
                .keys()
                .filter(|name| !snapshot.members.contains_key(name.as_str()))
                .cloned()
                .collect();
            for name in left {
                inquiry.silent.remove(&name);
                inquiry.gone.insert(name);
            }
            if !inquiry.is_asked {
                let Some((key, stamp)) = settled(&inquiry.id) else {
                    continue;
                };
                inquiry.is_asked = true;
                self.owed.push_back(Owed {
                    to: us.to_owned(),
                    number: *number,
                    key,
                    stamp,
                    // Our own question is not repeated.
                    until: inquiry.until,
                    version: None,
                });
            }
            for (name, (at, pause)) in &mut inquiry.silent {
                if room == 0 {
                    break;
                }
                if *name != us && *at <= now {
                    *at = now + *pause;
                    *pause = (*pause * 2).min(REPEAT_MAX);
                    room -= 1;
                    self.next_burst = Some(now + BURST_EVERY);
                    say.push(Say::Ask {
                        to: name.clone(),
                        number: *number,
                        id: inquiry.id.clone(),
                    });
                }
            }
        }
    }

    /// Ends inquiries that have all answers, or no more time.
    fn conclude(&mut self, us: &str, now: Instant, say: &mut Vec<Say>) {
        let is_over = |inquiry: &Inquiry| inquiry.silent.is_empty() || inquiry.until <= now;
        let over = self
            .inquiries
            .iter()
            .filter(|(_, inquiry)| is_over(inquiry));
        let over: Vec<u64> = over.map(|(number, _)| *number).collect();
        for number in over {
            let Some(mut inquiry) = self.inquiries.remove(&number) else {
                continue;
            };
            inquiry.gone.extend(inquiry.silent.into_keys());
            self.owed
                .retain(|owed| owed.to != us || owed.number != number);
            let applied = Applied {
                confirmed: inquiry.confirmed.into_iter().collect(),
                unconfirmed: inquiry.gone.into_iter().collect(),
                not_asked: inquiry.not_asked.into_iter().collect(),
            };
            say.push(Say::Over { number, applied });
        }
    }

    /// When [`Confirmations::look`] is due even if nothing happens.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let inquiries = self.inquiries.values().flat_map(|inquiry| {
            let asked = inquiry.silent.values().map(|it| it.0).min();
            let asked = asked.filter(|_| inquiry.is_asked);
            let asked = asked.map(|at| self.next_burst.map_or(at, |burst| at.max(burst)));
            [Some(inquiry.until), asked]
        });
        let owed = self.owed.iter().map(|owed| owed.until).min();
        inquiries.chain([owed]).flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cluster(size: usize) -> Snapshot {
        let mut snapshot = Snapshot::empty("us", "c");
        snapshot.version = 3;
        snapshot.members.insert_mut("us".into(), Upkeep::Membership);
        for number in 1..size {
            let name = format!("h{number:03}");
            snapshot
                .members
                .insert_mut(name.as_str().into(), Upkeep::Membership);
        }
        snapshot
    }

    fn stamp(seconds: u64) -> Timestamp {
        Timestamp::EPOCH.plus(Duration::from_secs(seconds))
    }

    fn key() -> Key {
        ("us".into(), "1".into())
    }

    fn look(confirmations: &mut Confirmations, snapshot: &Snapshot, now: Instant) -> Vec<Say> {
        let settled = |_: &str| Some((key(), stamp(7)));
        confirmations.look(snapshot, settled, |_| Some(stamp(7)), now)
    }

    fn asked(said: &[Say]) -> Vec<String> {
        let asked = said.iter().filter_map(|say| match say {
            Say::Ask { to, .. } => Some(to.clone()),
            _ => None,
        });
        asked.collect()
    }

    #[test]
    fn many_hosts_are_asked_in_bursts_and_again_while_they_are_silent() {
        let snapshot = cluster(150);
        let mut confirmations = Confirmations::default();
        let mut now = Instant::now();
        confirmations.inquire(9, "1", 30 * SECOND, &snapshot, now);
        let mut all = BTreeSet::new();
        for size in [64, 64, 21] {
            let burst = asked(&look(&mut confirmations, &snapshot, now));
            assert_eq!(burst.len(), size);
            all.extend(burst);
            assert!(
                look(&mut confirmations, &snapshot, now).is_empty(),
                "not yet"
            );
            let next = confirmations.next_deadline().unwrap();
            assert!(next > now, "it would look without a pause");
            now = next;
        }
        assert_eq!(all.len(), 149, "each of the others once");
        all.remove("h149");
        for name in &all {
            confirmations.confirmed(name, 9);
            confirmations.confirmed(name, 8);
        }
        now += SECOND;
        let again = asked(&look(&mut confirmations, &snapshot, now));
        assert_eq!(again, ["h149"]);
        confirmations.confirmed("h149", 9);
        // We are missing still: routes follow later.
        assert!(look(&mut confirmations, &snapshot, now).is_empty());
        confirmations.routed(snapshot.version);
        let said = look(&mut confirmations, &snapshot, now);
        let [Say::Over { number: 9, applied }] = &said[..] else {
            panic!("{said:?}")
        };
        assert_eq!(applied.confirmed.len(), 150);
        assert_eq!(confirmations.next_deadline(), None);
    }

    #[test]
    fn a_question_is_answered_when_routes_are_made_of_the_record() {
        let mut snapshot = cluster(2);
        snapshot.version = 4;
        let mut confirmations = Confirmations::default();
        let now = Instant::now();
        confirmations.routed(4);
        let held = Cell::new(stamp(6));
        let look = |confirmations: &mut Confirmations, snapshot: &Snapshot, now| {
            confirmations.look(snapshot, |_| None, |_| Some(held.get()), now)
        };
        confirmations.asked("h001", 9, key(), stamp(7), now);
        // Asked again, it is still one question.
        confirmations.asked("h001", 9, key(), stamp(7), now);
        assert!(look(&mut confirmations, &snapshot, now).is_empty());
        held.set(stamp(8));
        snapshot.version = 5;
        assert!(look(&mut confirmations, &snapshot, now).is_empty());
        confirmations.routed(5);
        let to = "h001".to_owned();
        let said = look(&mut confirmations, &snapshot, now);
        assert_eq!(said, [Say::Confirm { to, number: 9 }]);
        assert!(look(&mut confirmations, &snapshot, now).is_empty());

        // What never comes is forgotten.
        confirmations.asked("h001", 10, key(), stamp(99), now);
        assert!(look(&mut confirmations, &snapshot, now + 10 * SECOND).is_empty());
        assert_eq!(confirmations.next_deadline(), None);
    }

    #[test]
    fn questions_and_inquiries_are_bounded() {
        let snapshot = cluster(2);
        let mut confirmations = Confirmations::default();
        let now = Instant::now();
        for number in 0..2000 {
            confirmations.asked("h001", number, key(), stamp(99), now);
        }
        assert_eq!(confirmations.owed.len(), OWED_MAX);
        for number in 0..=64 {
            confirmations.inquire(number, "1", 30 * SECOND, &snapshot, now);
        }
        let said = confirmations.look(&snapshot, |_| None, |_| None, now);
        let [
            Say::Over {
                number: 64,
                applied,
            },
        ] = &said[..]
        else {
            panic!("{said:?}")
        };
        assert_eq!(applied.unconfirmed, ["h001", "us"]);
    }
}
