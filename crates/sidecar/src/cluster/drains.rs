//! Which instances of this host are to take no traffic, and how they come back. Pure.
//!
//! A drain is its operator's wish and not a state of the instance: checks do not end it, and neither
//! does the agent's end, as long as somebody keeps [`Drains::list`] and gives it to the next one. It
//! ends when it is taken back, at its time, or with the instance.
//!
//! Go Sidecars take whoever drains and is then reported alive for draining still. For them an
//! instance comes back in two steps: it is unknown for a moment, which they believe, and then alive.
//! Whoever has missed the first step passes the second on as draining, and so it is heard of: then
//! both are repeated, further apart each time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use catalog::{Now, Timestamp};

use super::clock::Offset;

/// Identity of an instance: host and ID.
pub(super) type Key = (String, String);

/// Between the first step and the second: five rounds of gossip, in which all have heard of the first.
const STEP: Duration = Duration::from_secs(1);
/// The same after several rounds.
const STEP_MAX: Duration = Duration::from_secs(16);
/// Rounds for one return; who says after that it drains is not somebody who has missed it.
const ROUNDS_MAX: u8 = 6;
/// A drain of a former life ends when its instance has not been found for so long: an engine may come
/// long after the agent.
const UNCLAIMED: Duration = Duration::from_secs(3600);
/// The wall clock is looked at again after so long: the monotonic one stands still in suspend.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A drain, as it is kept from one agent to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Host that announces the instance.
    pub hostname: String,
    /// The instance.
    pub id: String,
    /// When it ends by itself; `None` is never.
    pub until: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy)]
struct Wish {
    until: Option<Timestamp>,
    /// When the clock is looked at, where there is an end.
    look_at: Option<Instant>,
    /// Set while the instance has not been found.
    unclaimed_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Return {
    /// While the first step lasts.
    step_until: Option<Instant>,
    rounds: u8,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Drains {
    wishes: BTreeMap<Key, Wish>,
    returns: BTreeMap<Key, Return>,
    /// Nobody has kept the drains of a former life: that the cluster takes an instance for draining
    /// tells of one.
    learns: bool,
    revision: u64,
}

impl Drains {
    /// Those that were kept; `None` when nobody has kept any.
    pub(super) fn new(kept: Option<Vec<Drain>>, now: Now) -> Self {
        let learns = kept.is_none();
        let mut drains = Self {
            wishes: BTreeMap::new(),
            returns: BTreeMap::new(),
            learns,
            revision: 0,
        };
        for drain in kept.unwrap_or_default() {
            let key = (drain.hostname, drain.id);
            drains.put(key.clone(), drain.until, now);
            if let Some(wish) = drains.wishes.get_mut(&key) {
                wish.unclaimed_until = Some(now.monotonic + UNCLAIMED);
            }
        }
        drains.revision = 0;
        drains
    }

    /// Changes when what is to be kept does.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// What is to be kept.
    pub(super) fn list(&self) -> Vec<Drain> {
        let wishes = self.wishes.iter();
        let drains = wishes.map(|((hostname, id), wish)| Drain {
            hostname: hostname.clone(),
            id: id.clone(),
            until: wish.until,
        });
        drains.collect()
    }

    /// Whether this instance is to take no traffic.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.wishes.contains_key(key)
    }

    /// An instance is to take no traffic.
    pub(super) fn put(&mut self, key: Key, until: Option<Timestamp>, now: Now) {
        self.returns.remove(&key);
        let wish = Wish {
            until,
            look_at: until.map(|until| look_at(until, now)),
            unclaimed_until: None,
        };
        self.wishes.insert(key, wish);
        self.revision += 1;
    }

    /// The instance was found.
    pub(super) fn claim(&mut self, key: &Key) {
        if let Some(wish) = self.wishes.get_mut(key) {
            wish.unclaimed_until = None;
        }
    }

    /// The cluster takes an instance for draining that this agent has only just found.
    pub(super) fn learn(&mut self, key: &Key, now: Now) {
        if self.learns && !self.has(key) && !self.returns.contains_key(key) {
            self.put(key.clone(), None, now);
        }
    }

    /// A drain is over and the instance comes back.
    pub(super) fn end(&mut self, key: &Key) {
        if self.wishes.remove(key).is_some() {
            self.revision += 1;
        }
        let fresh = Return {
            step_until: None,
            rounds: 0,
        };
        self.returns.insert(key.clone(), fresh);
    }

    /// The instance is gone.
    pub(super) fn forget(&mut self, key: &Key) {
        self.returns.remove(key);
        if self.wishes.remove(key).is_some() {
            self.revision += 1;
        }
    }

    /// Begins the two steps, once more if need be; false when that was done often enough.
    pub(super) fn step(&mut self, key: &Key, now: Now) -> bool {
        let entry = self.returns.entry(key.clone()).or_insert(Return {
            step_until: None,
            rounds: 0,
        });
        if entry.rounds >= ROUNDS_MAX {
            return false;
        }
        let pause = (STEP * (1 << entry.rounds)).min(STEP_MAX);
        entry.rounds += 1;
        entry.step_until = Some(now.monotonic + pause);
        true
    }

    /// Whether an instance that works is in the first of its two steps.
    pub(super) fn in_step(&self, key: &Key) -> bool {
        let entry = self.returns.get(key);
        entry.is_some_and(|entry| entry.step_until.is_some())
    }

    /// Drains that end now, which are ended by this, and instances whose second step is due.
    pub(super) fn due(&mut self, now: Now) -> (Vec<Key>, Vec<Key>) {
        let is_over = |wish: &Wish| {
            wish.until.is_some_and(|until| until <= now.wall)
                || wish.unclaimed_until.is_some_and(|at| at <= now.monotonic)
        };
        let over = self.wishes.iter().filter(|(_, wish)| is_over(wish));
        let over: Vec<Key> = over.map(|(key, _)| key.clone()).collect();
        for key in &over {
            self.end(key);
        }
        for wish in self.wishes.values_mut() {
            wish.look_at = wish.until.map(|until| look_at(until, now));
        }
        let mut steps = Vec::new();
        for (key, entry) in &mut self.returns {
            if entry.step_until.is_some_and(|at| at <= now.monotonic) {
                entry.step_until = None;
                steps.push(key.clone());
            }
        }
        (over, steps)
    }

    /// When [`Drains::due`] may have something.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let wishes = self.wishes.values();
        let wishes = wishes.flat_map(|wish| [wish.look_at, wish.unclaimed_until]);
        let steps = self.returns.values().map(|entry| entry.step_until);
        wishes.chain(steps).flatten().min()
    }

    /// The clock was set: what was to last for ten minutes still does.
    pub(super) fn time_moved(&mut self, moved: Offset) {
        for wish in self.wishes.values_mut() {
            if let Some(until) = &mut wish.until {
                *until = moved.translate(*until);
                self.revision += 1;
            }
        }
    }
}

fn look_at(until: Timestamp, now: Now) -> Instant {
    now.monotonic + until.since(now.wall).min(LOOK_AGAIN)
}

#[cfg(test)]
mod tests {
    use super::{super::fixtures::now, *};

    fn key(id: &str) -> Key {
        ("me".into(), id.into())
    }

    #[test]
    fn what_is_kept_comes_back_as_it_was() {
        let mut drains = Drains::new(None, now(100));
        drains.put(key("1"), None, now(100));
        drains.put(key("2"), Some(now(700).wall), now(100));
        let kept = drains.list();
        let mut next = Drains::new(Some(kept.clone()), now(200));
        assert_eq!(next.list(), kept);
        assert_eq!(next.revision(), 0, "nothing to write");
        next.claim(&key("2"));
        assert_eq!(next.due(now(699)), (vec![], vec![]));
        assert_eq!(next.due(now(700)), (vec![key("2")], vec![]));
        assert_ne!(next.revision(), 0);
    }

    #[test]
    fn an_end_in_the_past_is_noticed_at_once() {
        let kept = Drain {
            hostname: "me".into(),
            id: "1".into(),
            until: Some(now(50).wall),
        };
        let mut drains = Drains::new(Some(vec![kept]), now(100));
        assert_eq!(drains.next_deadline(), Some(now(100).monotonic));
        assert_eq!(drains.due(now(100)).0, [key("1")]);
        // Who was told of it by the cluster is not mistaken for drained.
        drains.learn(&key("1"), now(101));
        assert!(!drains.has(&key("1")));
    }

    #[test]
    fn what_is_not_found_for_an_hour_is_forgotten() {
        let kept = |id: &str| Drain {
            hostname: "me".into(),
            id: id.into(),
            until: None,
        };
        let mut drains = Drains::new(Some(vec![kept("1"), kept("2")]), now(100));
        drains.claim(&key("2"));
        assert_eq!(drains.next_deadline(), Some(now(3700).monotonic));
        assert_eq!(drains.due(now(3700)).0, [key("1")]);
        assert_eq!(drains.next_deadline(), None);
        assert!(drains.has(&key("2")));
    }

    #[test]
    fn a_suspended_machine_looks_at_its_wall_clock() {
        let mut drains = Drains::new(None, now(100));
        drains.put(key("1"), Some(now(8000).wall), now(100));
        let look = drains.next_deadline().unwrap();
        assert!(look <= now(160).monotonic);
        // Two hours passed on the wall clock, a minute on the other.
        let woken = Now {
            wall: now(8000).wall,
            monotonic: now(160).monotonic,
        };
        assert_eq!(drains.due(woken).0, [key("1")]);
    }

    #[test]
    fn steps_are_repeated_further_apart_and_not_for_ever() {
        let mut drains = Drains::new(None, now(0));
        drains.end(&key("1"));
        let mut waits = Vec::new();
        while drains.step(&key("1"), now(0)) {
            assert!(drains.in_step(&key("1")));
            let wait = drains.next_deadline().unwrap() - now(0).monotonic;
            waits.push(wait.as_secs());
            assert_eq!(drains.due(now(wait.as_secs())).1, [key("1")]);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 16]);
        drains.put(key("1"), None, now(0));
        assert!(drains.step(&key("1"), now(0)), "another return");
    }
}
