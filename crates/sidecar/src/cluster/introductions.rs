//! Whom to exchange states with out of turn: when members appear, when clocks seem to differ, and
//! after everything was forgotten. Pure: members and time go in, an address comes out.
//!
//! Who joins through a member of another kind, Serf for one, which takes none of our records and
//! passes none on, hears of us by name alone; and so does everybody when two halves of a cluster find
//! each other again. Who joins through one of us has whole states, but does not know what time it is
//! there. All that would come with the next periodic exchange, up to twenty seconds later, or with
//! refreshes. Therefore one of those that just appeared is chosen to exchange states with, about half
//! a second later, unless an exchange has come meanwhile.
//!
//! The chance to choose anybody falls with the share of the newcomers: somebody new in a large
//! cluster asks one of the others for sure, and is asked by few.
//!
//! Exchanges that are asked for by name, or with anybody, take no chance, but they are bounded, too:
//! whatever a peer sends, it makes this host begin one exchange each second at most, and one with the
//! same peer in ten.

use std::{
    collections::{BTreeMap, BTreeSet},
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
/// The same member is not asked by name again before this.
const SAME_APART: Duration = Duration::from_secs(10);
/// How many of the others turn to a single newcomer, about.
const ASKED_BY: usize = 3;
/// How many are tried when anybody will do; then the periodic exchange has to help.
const TRIES: u8 = 5;

/// Which members keep records, and with whom of them to exchange.
#[derive(Debug)]
pub struct Introductions {
    us: String,
    peers: BTreeMap<String, Peer>,
    new: BTreeSet<String>,
    due: Option<Instant>,
    wanted: BTreeSet<String>,
    /// Those asked by name of late, and when.
    asked: BTreeMap<String, Instant>,
    /// How many more are tried until an exchange comes about.
    tries: u8,
    /// Since when `wanted` or `tries` ask for something.
    since: Option<Instant>,
    last: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Peer {
    address: SocketAddr,
    kind: Kind,
}

impl Introductions {
    /// Knows nobody but ourselves, by the name of this node.
    pub fn new(us: &str) -> Self {
        Self {
            us: us.to_owned(),
            peers: BTreeMap::new(),
            new: BTreeSet::new(),
            due: None,
            wanted: BTreeSet::new(),
            asked: BTreeMap::new(),
            tries: 0,
            since: None,
            last: None,
        }
    }

    /// A member joined or returned from the dead.
    pub fn joined(&mut self, member: &Member, now: Instant, rng: &mut impl Rng) {
        self.updated(member);
        if !self.peers.contains_key(&member.name) {
            return;
        }
        self.new.insert(member.name.clone());
        if self.due.is_none() {
            self.due = Some(now + PAUSE + JITTER.mul_f64(rng.random()));
        }
    }

    /// A member says what it is.
    pub fn updated(&mut self, member: &Member) {
        let kind = metadata::kind(&member.meta);
        if member.name == self.us || kind == Kind::Foreign {
            self.left(&member.name);
            return;
        }
        let address = member.addr;
        self.peers
            .insert(member.name.clone(), Peer { address, kind });
    }

    /// A member died or left.
    pub fn left(&mut self, name: &str) {
        self.peers.remove(name);
        self.new.remove(name);
        self.wanted.remove(name);
        self.settle();
    }

    /// Somebody's whole state was merged in a join; it has ours too, but agents still have to compare
    /// their clocks.
    pub fn joined_with_state(&mut self) {
        let agents = |name: &String| self.peers.get(name).is_some_and(Peer::is_ours);
        self.new.retain(agents);
        self.settle();
    }

    /// The state of one of our kind was compared or merged; it has ours too.
    pub fn exchanged(&mut self) {
        self.new.clear();
        self.tries = 0;
        self.settle();
    }

    /// How many members are of our kind, this one included.
    pub fn agents(&self) -> usize {
        1 + self.peers.values().filter(|peer| peer.is_ours()).count()
    }

    /// Whether this is the name of another member of our kind.
    pub fn is_agent(&self, name: &str) -> bool {
        self.peers.get(name).is_some_and(Peer::is_ours)
    }

    /// Asks for an exchange with this member soon, if it is of our kind.
    pub fn want(&mut self, name: &str, now: Instant) {
        if self.is_agent(name) && !self.asked_of_late(name, now) {
            self.wanted.insert(name.to_owned());
            self.since.get_or_insert(now);
        }
    }

    /// Asks for an exchange soon with one of our kind for whom `wanted` holds, unless somebody is
    /// asked for already.
    pub fn want_one(&mut self, wanted: impl Fn(&str) -> bool, now: Instant, rng: &mut impl Rng) {
        if !self.wanted.is_empty() {
            return;
        }
        let agents = self.peers.iter().filter(|(_, peer)| peer.is_ours());
        let names = agents.map(|(name, _)| name);
        let names: Vec<&String> = names
            .filter(|name| wanted(name) && !self.asked_of_late(name, now))
            .collect();
        if !names.is_empty() {
            let name = names[rng.random_range(0..names.len())].clone();
            self.want(&name, now);
        }
    }

    /// Asks for an exchange at once with whoever answers.
    pub fn want_anybody(&mut self, now: Instant) {
        self.tries = TRIES;
        self.since.get_or_insert(now);
    }

    fn asked_of_late(&self, name: &str, now: Instant) -> bool {
        let asked = self.asked.get(name);
        asked.is_some_and(|at| now < *at + SAME_APART)
    }

    /// When [`Introductions::take`] next has something to say.
    pub fn next_deadline(&self) -> Option<Instant> {
        let next = [self.due, self.since].into_iter().flatten().min()?;
        Some(self.last.map_or(next, |last| next.max(last + APART)))
    }

    /// Whom to exchange states with now, if it is time and chance falls on us, one of `members`.
    pub fn take(&mut self, now: Instant, members: usize, rng: &mut impl Rng) -> Option<SocketAddr> {
        self.next_deadline().filter(|at| *at <= now)?;
        let taken = self
            .take_anybody(rng)
            .or_else(|| self.take_wanted(now))
            .or_else(|| self.take_new(now, members, rng));
        if taken.is_some() {
            self.last = Some(now);
        }
        self.settle();
        taken
    }

    fn take_anybody(&mut self, rng: &mut impl Rng) -> Option<SocketAddr> {
        self.tries = self.tries.checked_sub(1)?;
        // Of Go Sidecars whole states must come, and they know no time.
        let agents = |peer: &&Peer| peer.is_ours();
        let of_ours: Vec<&Peer> = self.peers.values().filter(agents).collect();
        let peers = match of_ours.is_empty() {
            true => self.peers.values().collect(),
            false => of_ours,
        };
        if peers.is_empty() {
            self.tries = 0;
            return None;
        }
        Some(peers[rng.random_range(0..peers.len())].address)
    }

    fn take_wanted(&mut self, now: Instant) -> Option<SocketAddr> {
        let name = self.wanted.pop_first()?;
        self.asked.retain(|_, at| now < *at + SAME_APART);
        let address = self.peers.get(&name)?.address;
        self.asked.insert(name, now);
        Some(address)
    }

    fn take_new(&mut self, now: Instant, members: usize, rng: &mut impl Rng) -> Option<SocketAddr> {
        self.due.filter(|due| *due <= now)?;
        let new = std::mem::take(&mut self.new).into_iter();
        let new: Vec<SocketAddr> = new
            .filter_map(|name| Some(self.peers.get(&name)?.address))
            .collect();
        if new.is_empty() || rng.random_range(0..members.max(1)) >= ASKED_BY * new.len() {
            return None;
        }
        Some(new[rng.random_range(0..new.len())])
    }

    fn settle(&mut self) {
        if self.new.is_empty() {
            self.due = None;
        }
        if self.wanted.is_empty() && self.tries == 0 {
            self.since = None;
        }
    }
}

impl Peer {
    fn is_ours(&self) -> bool {
        self.kind == Kind::Ours
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

    fn ours(number: usize) -> Member {
        member(&format!("agent-{number}"), number, "{\"Generation\":1}")
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
    fn whoever_is_asked_for_is_asked_once_in_ten_seconds() {
        let mut bench = Bench::new();
        (1..=3).for_each(|number| bench.joined(&ours(number)));
        bench.introductions.exchanged();
        let mut taken = Vec::new();
        let start = bench.now;
        while bench.now < start + 30 * SECOND {
            for name in ["agent-1", "agent-2", "go", "nobody"] {
                bench.introductions.want(name, bench.now);
            }
            taken.extend(bench.take().map(|with| (bench.now - start, with)));
            bench.now += SECOND / 4;
        }
        let expected = (0..3).flat_map(|round| {
            let first = 10 * SECOND * round;
            [(first, address(1)), (first + SECOND, address(2))]
        });
        assert!(taken.iter().copied().eq(expected), "{taken:?}");
    }

    #[test]
    fn one_of_those_that_will_do_is_asked() {
        let mut bench = Bench::new();
        (1..=3).for_each(|number| bench.joined(&ours(number)));
        bench.joined(&agent(4));
        bench.introductions.exchanged();
        assert_eq!(bench.introductions.agents(), 4);
        for expected in [Some(address(3)), None] {
            let will_do = |name: &str| !["agent-1", "agent-2"].contains(&name);
            let introductions = &mut bench.introductions;
            introductions.want_one(will_do, bench.now, &mut bench.rng);
            bench.now += SECOND;
            assert_eq!(bench.take(), expected);
        }
    }

    #[test]
    fn anybody_is_asked_until_somebody_answers() {
        for answered in [false, true] {
            let mut bench = Bench::new();
            bench.joined(&agent(1));
            bench.joined(&ours(2));
            bench.introductions.exchanged();
            bench.introductions.want_anybody(bench.now);
            assert_eq!(bench.next(), Some((Duration::ZERO, Some(address(2)))));
            if answered {
                bench.introductions.exchanged();
            }
            let mut more = Vec::new();
            while let Some(next) = bench.next() {
                more.push(next);
            }
            let again = (APART, Some(address(2)));
            assert_eq!(more, vec![again; if answered { 0 } else { 4 }]);
        }
        let mut alone = Bench::new();
        alone.introductions.want_anybody(alone.now);
        assert_eq!(alone.next(), Some((Duration::ZERO, None)));
        assert_eq!(alone.next(), None);
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
