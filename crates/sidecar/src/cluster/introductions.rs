//! Whom to exchange states with when members appear. Pure: members and time go in, an address comes
//! out.
//!
//! Who joins through one of us exchanges states with it on the way. Who joins through a member of
//! another kind, Serf for one, which takes none of our records and passes none on, hears of us by
//! name alone; and so does everybody when two halves of a cluster find each other again. The records
//! would come with the next periodic exchange, up to twenty seconds later, or with their refresh.
//! Therefore one of those that just appeared is chosen to exchange states with, about half a second
//! later, unless a state has come meanwhile.
//!
//! The chance to choose anybody falls with the share of the newcomers: somebody new in a large
//! cluster asks one of the others for sure, and is asked by few.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use memberlist::Member;
use rand::{Rng, RngExt};

use super::metadata::{self, Kind};

/// First pause after somebody appeared: news of one cause come together, and states on the way make
/// an exchange needless.
const PAUSE: Duration = Duration::from_millis(200);
/// Up to so much is added to [`PAUSE`], so that not everybody turns to a newcomer at once.
const JITTER: Duration = Duration::from_millis(600);
/// Exchanges are at least so far apart, whoever comes and goes.
const APART: Duration = Duration::from_secs(1);
/// How many of the others turn to a single newcomer, about.
const ASKED_BY: usize = 3;

/// Which members that keep records are new.
#[derive(Debug)]
pub struct Introductions {
    us: String,
    new: BTreeMap<String, SocketAddr>,
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Introductions {
    /// Knows nobody but ourselves, by the name of this node.
    pub fn new(us: &str) -> Self {
        Self {
            us: us.to_owned(),
            new: BTreeMap::new(),
            due: None,
            last: None,
        }
    }

    /// A member joined or returned from the dead.
    pub fn joined(&mut self, member: &Member, now: Instant, rng: &mut impl Rng) {
        if member.name == self.us || metadata::kind(&member.meta) == Kind::Foreign {
            return;
        }
        self.new.insert(member.name.clone(), member.addr);
        if self.due.is_none() {
            let soon = now + PAUSE + JITTER.mul_f64(rng.random());
            let allowed = self.last.map_or(now, |last| last + APART);
            self.due = Some(soon.max(allowed));
        }
    }

    /// A member died or left.
    pub fn left(&mut self, name: &str) {
        self.new.remove(name);
        self.settle();
    }

    /// The state of one of our kind was merged; it has ours too.
    pub fn exchanged(&mut self) {
        self.new.clear();
        self.settle();
    }

    /// When [`Introductions::take`] next has something to say.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Whom to exchange states with now, if it is time and chance falls on us, one of `members`.
    pub fn take(&mut self, now: Instant, members: usize, rng: &mut impl Rng) -> Option<SocketAddr> {
        self.due.filter(|due| *due <= now)?;
        let new: Vec<SocketAddr> = std::mem::take(&mut self.new).into_values().collect();
        self.settle();
        if rng.random_range(0..members.max(1)) >= ASKED_BY * new.len() {
            return None;
        }
        self.last = Some(now);
        Some(new[rng.random_range(0..new.len())])
    }

    fn settle(&mut self) {
        if self.new.is_empty() {
            self.due = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use memberlist::{NodeState, Versions};
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(number: usize) -> SocketAddr {
        format!("10.0.0.{number}:7946").parse().expect("an address")
    }

    fn member(name: &str, number: usize, meta: &'static str) -> Member {
        Member {
            name: name.to_owned(),
            addr: address(number),
            meta: meta.into(),
            incarnation: 1,
            state: NodeState::Alive,
            versions: Versions::OURS,
        }
    }

    fn agent(number: usize) -> Member {
        member(
            &format!("agent-{number}"),
            number,
            "{\"State\":\"Running\"}",
        )
    }

    struct Bench {
        introductions: Introductions,
        members: BTreeSet<String>,
        rng: StdRng,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                introductions: Introductions::new("us"),
                members: BTreeSet::from(["us".to_owned()]),
                rng: StdRng::seed_from_u64(7),
                now: Instant::now(),
            }
        }

        fn joined(&mut self, member: &Member) {
            self.members.insert(member.name.clone());
            self.introductions.joined(member, self.now, &mut self.rng);
        }

        fn take(&mut self) -> Option<SocketAddr> {
            let members = self.members.len();
            self.introductions.take(self.now, members, &mut self.rng)
        }

        /// Goes to the next deadline, and how far that is.
        fn next(&mut self) -> Option<(Duration, Option<SocketAddr>)> {
            let due = self.introductions.next_deadline()?;
            let waited = due.saturating_duration_since(self.now);
            self.now = self.now.max(due);
            Some((waited, self.take()))
        }
    }

    #[test]
    fn two_that_meet_exchange_once_within_a_second() {
        let mut bench = Bench::new();
        bench.joined(&agent(1));
        assert_eq!(bench.take(), None, "not at once");
        let (waited, with) = bench.next().expect("something is due");
        assert!(waited >= PAUSE && waited < SECOND, "{waited:?}");
        assert_eq!(with, Some(address(1)));
        assert_eq!(bench.next(), None);
    }

    #[test]
    fn a_newcomer_asks_one_of_the_many_it_meets() {
        let mut bench = Bench::new();
        (1..=200).for_each(|number| bench.joined(&agent(number)));
        let (_, with) = bench.next().expect("something is due");
        assert!(with.is_some());
        assert_eq!(bench.next(), None, "one exchange for all of them");
    }

    #[test]
    fn of_many_only_few_turn_to_a_newcomer() {
        let mut bench = Bench::new();
        (1..=199).for_each(|number| bench.joined(&agent(number)));
        bench.next();
        let mut asked = 0;
        for _ in 0..200 {
            bench.now += 10 * SECOND;
            bench.joined(&agent(200));
            let (_, with) = bench.next().expect("something is due");
            asked += usize::from(with.is_some());
        }
        assert!(
            (1..=3 * ASKED_BY).contains(&asked),
            "{asked} of 200 turn to it"
        );
    }

    #[test]
    fn exchanges_are_a_second_apart() {
        let mut bench = Bench::new();
        bench.joined(&agent(1));
        assert!(bench.next().is_some_and(|(_, with)| with.is_some()));
        for round in 0..20 {
            bench.joined(&agent(1));
            let (waited, with) = bench.next().expect("something is due");
            assert!(with.is_some() && waited >= APART, "{round}: {waited:?}");
        }
    }

    #[test]
    fn who_is_of_another_kind_or_ourselves_is_nobody_to_exchange_with() {
        let mut bench = Bench::new();
        bench.joined(&member("serf", 1, "\u{7f}role"));
        bench.joined(&member("us", 3, "{}"));
        assert_eq!(bench.introductions.next_deadline(), None);
    }

    #[test]
    fn a_state_that_came_or_a_member_that_went_makes_it_needless() {
        let mut bench = Bench::new();
        bench.joined(&agent(1));
        bench.introductions.exchanged();
        assert_eq!(bench.introductions.next_deadline(), None);
        bench.joined(&agent(1));
        bench.introductions.left("agent-1");
        assert_eq!(bench.introductions.next_deadline(), None);
        // Who returns is met again.
        bench.joined(&agent(1));
        assert!(bench.next().is_some_and(|(_, with)| with.is_some()));
    }
}
