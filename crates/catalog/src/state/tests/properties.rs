//! What holds after any history.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{Digest, digest::Identity};

/// Something that happens to a state.
#[derive(Debug, Clone)]
enum Step {
    Hear(Service),
    Up(String, Upkeep),
    Down(String),
    /// Seconds pass.
    Expire(u64),
    /// Of stamps from this many nanoseconds after the tenth second.
    ForgetNewer(i128),
    ForgetOthers(String),
}

fn host() -> impl Strategy<Value = String> {
    (0..3_u8).prop_map(|number| format!("h{number}"))
}

fn record() -> impl Strategy<Value = Service> {
    // Draining is left out: that it sticks against Alive depends on order, by contract with peers
    // whose owners do not gossip it.
    let status = prop_oneof![
        Just(Status::Alive),
        Just(Status::Tombstone),
        Just(Status::Unhealthy),
        Just(Status::Unknown)
    ];
    (host(), 0..3_u8, 0..4_i128, status, 1..3_u16).prop_map(|(host, id, updated, status, port)| {
        let mut it = service(&host, &format!("{id}"), at(10) + updated, status);
        it.ports.as_mut().unwrap()[0].port = port;
        it
    })
}

fn upkeep() -> impl Strategy<Value = Upkeep> {
    prop_oneof![Just(Upkeep::Membership), Just(Upkeep::Refresh)]
}

/// What the cluster and the clock do to a state, other than telling it records.
fn circumstance(seconds_max: u64) -> impl Strategy<Value = Step> {
    prop_oneof![
        (host(), upkeep()).prop_map(|(host, upkeep)| Step::Up(host, upkeep)),
        host().prop_map(Step::Down),
        (0..seconds_max).prop_map(Step::Expire),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => record().prop_map(Step::Hear),
        4 => circumstance(4000),
        1 => (0..4_i128).prop_map(Step::ForgetNewer),
        1 => host().prop_map(Step::ForgetOthers),
    ]
}

/// A state and its clock.
#[derive(Clone)]
struct Lived {
    state: State,
    seconds: u64,
}

impl Lived {
    fn born() -> Self {
        Self {
            state: State::new("h0", "c"),
            seconds: 10,
        }
    }

    fn through<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Self {
        let mut lived = Self::born();
        for step in steps {
            lived.take(step);
        }
        lived
    }

    fn take(&mut self, step: &Step) -> Vec<Change> {
        let (state, now) = (&mut self.state, now(self.seconds));
        match step.clone() {
            Step::Hear(record) => {
                let applied = state.apply(record, Author::Own, now).unwrap();
                match applied {
                    Applied::New(change) => change.into_iter().collect(),
                    Applied::Known => Vec::new(),
                }
            }
            Step::Up(host, upkeep) => state.member_up(&host, upkeep, now),
            Step::Down(host) => state.member_down(&host, now),
            Step::Expire(seconds) => {
                self.seconds += seconds;
                let now = super::now(self.seconds);
                let changes = state.expire(now);
                assert!(state.next_expiry().is_none_or(|at| at > now.monotonic));
                changes
            }
            Step::ForgetNewer(nanos) => {
                let limit = Timestamp::from_unix_nanos(at(10) + nanos);
                state.forget_newer_than(limit, now)
            }
            Step::ForgetOthers(host) => state.forget_others(&host, now),
        }
    }

    /// Takes in all records another one holds, as their origins wrote them.
    fn merge(mut self, other: &Self) -> Self {
        for record in records(&other.state) {
            self.take(&Step::Hear(record));
        }
        self
    }

    /// Lets the same be said of all hosts, which makes all ages start afresh.
    fn settled(mut self) -> Self {
        for (host, upkeep) in [("h0", Upkeep::Membership), ("h1", Upkeep::Refresh)] {
            self.take(&Step::Down(host.into()));
            self.take(&Step::Up(host.into(), upkeep));
        }
        self.take(&Step::Down("h2".into()));
        self
    }

    /// All that does not depend on when and in which order things were heard.
    fn knowledge(&self) -> (Vec<Service>, Vec<Service>, Digest) {
        let snapshot = self.state.snapshot();
        let shown = snapshot.services().map(|it| Service::clone(it)).collect();
        (records(&self.state), shown, Digest::clone(&snapshot.digest))
    }
}

fn records(state: &State) -> Vec<Service> {
    let hosts = state.snapshot().hosts.keys();
    hosts
        .flat_map(|host| state.records_of(host).map(|it| Service::clone(it)))
        .collect()
}

/// What a state's digest must be: everything that can be seen alive, put in one by one.
fn summed_up(state: &State) -> Digest {
    let mut digest = Digest::default();
    let snapshot = state.snapshot();
    for shown in snapshot.services().filter(|it| !it.is_tombstone()) {
        let vouched = snapshot.members.get(&*shown.hostname) == Some(&Upkeep::Membership);
        let identity = Identity::of(&shown.hostname, &shown.id);
        let said = identity.saying(shown.status, vouched.then_some(shown.updated));
        digest.replace(identity, 0, said);
    }
    digest
}

/// Everything there is in a state, as text: shares no memory with it.
fn deep_copy(state: &State) -> (String, Vec<u8>) {
    (format!("{state:?}"), state.snapshot().digest.to_bytes())
}

/// The steps with those of `between` put among them, at places that depend on `seed`.
fn mixed(records: &[Service], between: &[Step], seed: u64) -> Vec<Step> {
    let mut random = seed;
    let mut below = |limit: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(random >> 33).unwrap() % limit
    };
    let mut steps: Vec<Step> = records.iter().cloned().map(Step::Hear).collect();
    for i in (1..steps.len()).rev() {
        steps.swap(i, below(i + 1));
    }
    for step in between {
        steps.insert(below(steps.len() + 1), step.clone());
    }
    steps
}

fn remembered(records: &[Service], between: &[Step], seed: u64) -> Lived {
    Lived::through(&mixed(records, between, seed))
}

// Nothing is forgotten in them: that takes three hours, and fewer pass.
const SECONDS_MAX: u64 = 1000;

proptest! {
    #[test]
    fn merge_commutes_and_is_idempotent_whatever_happens_in_between(
        records in vec(record(), 0..24),
        between in vec(circumstance(SECONDS_MAX), 0..10),
        other_between in vec(circumstance(SECONDS_MAX), 0..10),
        seeds in any::<(u64, u64)>(),
    ) {
        let one = remembered(&records, &between, seeds.0);
        let other = remembered(&records, &other_between, seeds.1);
        let twice = remembered(&[&records[..], &records].concat(), &between, seeds.1);
        let again = one.clone().merge(&one).merge(&other);
        let expected = one.settled().knowledge();
        prop_assert_eq!(other.settled().knowledge(), expected.clone());
        prop_assert_eq!(twice.settled().knowledge(), expected.clone());
        prop_assert_eq!(again.settled().knowledge(), expected);
    }

    #[test]
    fn merge_is_associative_whatever_happened_before(
        records in [vec(record(), 0..8), vec(record(), 0..8), vec(record(), 0..8)],
        between in [
            vec(circumstance(SECONDS_MAX), 0..4),
            vec(circumstance(SECONDS_MAX), 0..4),
            vec(circumstance(SECONDS_MAX), 0..4),
        ],
        seed in any::<u64>(),
    ) {
        let lived = |of: usize| remembered(&records[of], &between[of], seed);
        let left_first = lived(0).merge(&lived(1)).merge(&lived(2));
        let right_first = lived(0).merge(&lived(1).merge(&lived(2)));
        let backwards = lived(2).merge(&lived(1)).merge(&lived(0));
        let expected = left_first.settled().knowledge();
        prop_assert_eq!(right_first.settled().knowledge(), expected.clone());
        prop_assert_eq!(backwards.settled().knowledge(), expected);
    }

    #[test]
    fn all_parts_of_a_state_agree(steps in vec(step(), 0..40)) {
        let mut lived = Lived::born();
        for step in &steps {
            let before = lived.state.snapshot().clone();
            let changes = lived.take(step);
            let state = &lived.state;
            let view = state.snapshot();
            prop_assert_eq!(&*view.digest, &summed_up(state));

            // Readers are told of all they can see change, and of nothing else.
            for change in &changes {
                let (host, id) = (&change.service.hostname, &change.service.id);
                let old = before.service(host, id);
                prop_assert_eq!(old.map_or(Status::Unknown, |old| old.status), change.previous);
                match view.service(host, id) {
                    Some(shown) => prop_assert_eq!(shown, &change.service),
                    None => prop_assert!(change.service.is_tombstone()),
                }
            }
            for shown in before.services().chain(view.services()) {
                let seen = |snapshot: &Snapshot| {
                    let seen = snapshot.service(&shown.hostname, &shown.id)?;
                    (!seen.is_tombstone()).then(|| (seen.status, seen.ports.clone()))
                };
                let told = changes.iter().any(|it| {
                    (&it.service.hostname, &it.service.id) == (&shown.hostname, &shown.id)
                });
                prop_assert!(told || seen(&before) == seen(view), "{:?}", shown);
            }
            prop_assert_eq!(view.changes > before.changes, !changes.is_empty());
            prop_assert_eq!(view.last_changed > before.last_changed, !changes.is_empty());

            // What has to be looked at some time has its deadline, and nothing else has one.
            let mut deadlines = Vec::new();
            for host in view.hosts.values() {
                prop_assert!(!host.held.is_empty());
                let presence = state.presence(&host.name);
                for (id, held) in &host.held {
                    prop_assert_eq!(&**id, &*held.record.id);
                    if held.lifetime(presence).is_some() {
                        deadlines.push((host.name.clone(), id.clone()));
                    }
                }
            }
            prop_assert_eq!(state.deadlines.records(), deadlines);
            prop_assert!(state.deadlines.agree());
            prop_assert!(state.deadlines.down().all(|name| !view.members.contains_key(name)));
        }
    }

    #[test]
    fn a_clone_that_changes_leaves_the_original_as_it_was(
        before in vec(step(), 0..20),
        after in vec(step(), 1..20),
    ) {
        let original = Lived::through(&before);
        let expected = deep_copy(&original.state);
        let mut clone = original.clone();
        for step in &after {
            clone.take(step);
        }
        prop_assert_eq!(deep_copy(&original.state), expected);
        // And the clone went where one without an original goes.
        let alone = Lived::through(before.iter().chain(&after));
        prop_assert_eq!(deep_copy(&clone.state), deep_copy(&alone.state));
    }

    #[test]
    fn what_is_forgotten_is_as_if_never_heard_of(
        records in vec(record(), 0..24),
        limit in 0..4_i128,
    ) {
        let limit = Timestamp::from_unix_nanos(at(10) + limit);
        let older: Vec<Service> = records
            .iter()
            .filter(|record| record.updated <= limit)
            .cloned()
            .collect();
        let mut forgetful = remembered(&records, &[], 0);
        forgetful.state.forget_newer_than(limit, now(10));
        let held = self::records(&forgetful.state);
        prop_assert!(held.iter().all(|record| older.contains(record)));
        let forgetful = forgetful.merge(&remembered(&older, &[], 0));
        prop_assert_eq!(forgetful.knowledge(), remembered(&older, &[], 1).knowledge());
    }
}
