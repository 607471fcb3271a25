use catalog::Status;
use proptest::prelude::*;

use super::super::{
    fixtures::{now, service},
    metadata::Kind,
    replica::Replica,
};
use super::*;

fn record(host: &str, id: usize, seconds: u64, status: Status) -> Service {
    service(host, &format!("{id:012}"), seconds, status)
}

/// An agent that knows the hosts `h0` to `h3` as members.
fn agent(name: &str) -> Replica {
    let mut replica = Replica::new(name, "c", [], now(100));
    replica.joined(now(100));
    for host in 0..4 {
        replica.member_up(&format!("h{host}"), Kind::Ours, now(100));
    }
    replica
}

/// What everybody's wall clock shows.
fn clock() -> Timestamp {
    now(200).wall
}

fn head() -> Head {
    Head {
        from: "h0".to_owned(),
        clock: clock(),
    }
}

fn hear(replica: &mut Replica, record: Service) {
    let effects = replica.remote(record, now(200));
    assert!(effects.rejected.is_empty());
}

/// What a conversation cost.
#[derive(Debug, Default)]
struct Cost {
    messages: usize,
    bytes: usize,
}

impl Cost {
    fn of(&mut self, messages: Vec<Bytes>) -> Vec<Message> {
        self.messages += messages.len();
        self.bytes += messages.iter().map(Bytes::len).sum::<usize>();
        let decode = |bytes: &Bytes| Message::decode(bytes).expect("our own message");
        let messages = messages.iter().map(decode);
        let read = messages.map(|(head, message)| {
            assert!(["one", "other", "late", "awake", "sleeper"].contains(&&*head.from));
            assert_eq!(head.clock, clock());
            message
        });
        read.collect()
    }
}

fn records_in(list: &[u8]) -> Vec<Service> {
    let records = json::decode_records(list).expect("our own list");
    records.into_iter().map(Result::unwrap).collect()
}

/// A whole exchange that `one` begins, over a network that loses every message for which `lost` says
/// so.
fn exchange(one: &mut Replica, other: &mut Replica, mut lost: impl FnMut() -> bool) -> Cost {
    let mut cost = Cost::default();
    let opening = opening(one.snapshot(), clock());
    cost.of(vec![opening.clone()]);
    let reply = cost.of(vec![reply(other.snapshot(), &opening, clock())]);
    let digest = match &reply[..] {
        [Message::Same] => return cost,
        [Message::Digest { digest }] => digest.clone(),
        reply => panic!("{reply:?}"),
    };
    let offers = offers(one.snapshot(), &digest, clock());
    // To whom, and what.
    let mut under_way: Vec<(bool, Message)> = Vec::new();
    under_way.extend(cost.of(offers).into_iter().map(|it| (true, it)));
    while let Some((to_other, message)) = under_way.pop() {
        if lost() {
            continue;
        }
        let replica = if to_other { &mut *other } else { &mut *one };
        let better = match message {
            Message::Offer { buckets, records } => {
                replica.offered(&buckets, records_in(&records), now(200)).1
            }
            Message::Answer { records } => replica.exchanged(records_in(&records), now(200)).1,
            message => panic!("{message:?}"),
        };
        let head = Head::of(replica.snapshot(), clock());
        let answers = cost.of(answers(&head, &better));
        under_way.extend(answers.into_iter().map(|it| (!to_other, it)));
        assert!(cost.messages < 1000, "it never ends");
    }
    cost
}

fn root(replica: &Replica) -> u64 {
    replica.snapshot().digest.root()
}

#[test]
fn who_agrees_says_so_in_a_few_dozen_bytes() {
    let (mut one, mut other) = (agent("one"), agent("other"));
    for id in 0..1000 {
        for replica in [&mut one, &mut other] {
            hear(replica, record("h0", id, 150, Status::Alive));
        }
    }
    let cost = exchange(&mut one, &mut other, || false);
    assert_eq!((cost.messages, cost.bytes), (2, 38));
}

#[test]
fn one_difference_costs_one_bucket_not_the_catalog() {
    let (mut one, mut other) = (agent("one"), agent("other"));
    for id in 0..5000 {
        for replica in [&mut one, &mut other] {
            hear(replica, record("h0", id, 150, Status::Alive));
        }
    }
    hear(&mut other, record("h1", 7, 150, Status::Alive));
    hear(&mut one, record("h0", 8, 151, Status::Unhealthy));
    let cost = exchange(&mut one, &mut other, || false);
    assert_eq!(root(&one), root(&other));
    let whole = json::encode_replica(one.snapshot()).len();
    assert!(cost.bytes < 16_384 && whole > 1_000_000, "{cost:?} {whole}");
}

#[test]
fn whoever_missed_everything_gets_it_in_pieces() {
    let (mut one, mut other) = (agent("one"), agent("other"));
    for id in 0..10_000 {
        hear(&mut other, record("h0", id, 150, Status::Alive));
    }
    let cost = exchange(&mut one, &mut other, || false);
    assert_eq!(root(&one), root(&other));
    assert!(cost.messages > 5, "{cost:?}");
    // The other way round, the offer brings all of it.
    let mut late = agent("late");
    exchange(&mut one, &mut late, || false);
    assert_eq!(root(&one), root(&late));
}

#[test]
fn a_host_that_slept_does_not_raise_the_dead() {
    for sleeper_begins in [true, false] {
        let (mut awake, mut sleeper) = (agent("awake"), agent("sleeper"));
        for replica in [&mut awake, &mut sleeper] {
            hear(replica, record("h0", 1, 150, Status::Alive));
        }
        hear(&mut awake, record("h0", 1, 160, Status::Tombstone));
        let (one, other) = if sleeper_begins {
            (&mut sleeper, &mut awake)
        } else {
            (&mut awake, &mut sleeper)
        };
        exchange(one, other, || false);
        for replica in [&awake, &sleeper] {
            let shown = replica.snapshot().service("h0", "000000000001");
            assert_eq!(shown.map(|it| it.status), Some(Status::Tombstone));
        }
        assert_eq!(root(&awake), root(&sleeper));
    }
}

#[test]
fn much_news_of_one_exchange_is_not_gossiped_again() {
    for (count, passed_on) in [(10, 10), (1000, 0)] {
        let mut one = agent("one");
        let records = (0..count).map(|id| record("h0", id, 150, Status::Alive));
        let (effects, better) = one.exchanged(records.collect(), now(200));
        assert_eq!(effects.broadcasts.len(), passed_on);
        assert_eq!(effects.changes.len(), count);
        assert_eq!(better, []);
    }
}

#[test]
fn a_go_sidecar_gets_the_whole_state() {
    let one = agent("one");
    let theirs = Bytes::from_static(b"{\"Servers\":{}}");
    assert_eq!(
        reply(one.snapshot(), &theirs, clock()),
        json::encode_replica(one.snapshot())
    );
    assert_eq!(
        reply(one.snapshot(), &Bytes::new(), clock()),
        json::encode_replica(one.snapshot())
    );
}

#[test]
fn what_others_say_is_not_taken_for_ours() {
    for kind in 0..=16_u8 {
        assert!(!Message::is(&[kind, b'R']), "a message of Serf");
    }
    assert!(!Message::is(b"{\"Servers\":{}}"));
    assert!(Message::is(&Message::Same.encode(&head())));
}

#[test]
fn what_cannot_be_read_is_refused() {
    let digest = Box::new(Digest::default());
    let good = Message::Digest { digest }.encode(&head());
    assert!(Message::decode(&good).is_ok());
    let same = Message::Same.encode(&head());
    for end in 0..same.len() {
        assert!(Message::decode(&same.slice(..end)).is_err(), "{end}");
    }
    let head = &same[2..];
    for (kind, body) in [
        (b'X', &b""[..]),
        (b'R', b"1234567"),
        (b'R', b"123456789"),
        (b'S', b"."),
        (b'O', b"short"),
        (b'D', &good[same.len()..good.len() - 1]),
        (b'D', &[&good[same.len()..], b"."].concat()),
    ] {
        let bad = Bytes::from([&[MAGIC, kind], head, body].concat());
        assert!(Message::decode(&bad).is_err(), "{bad:?}");
    }
    for bad in [&b"{}"[..], b"\xd1A\x02\xff\xff12345678[]", b"\xd1A\xffh0"] {
        assert!(Message::decode(&Bytes::from_static(bad)).is_err());
    }
}

#[test]
fn any_clock_travels_to_the_microsecond() {
    for text in [
        "-009999-01-02T03:04:05Z",
        "1969-12-31T23:59:59.999999Z",
        "2026-02-03T09:15:27.000001Z",
        "9999-12-30T00:00:00Z",
    ] {
        let clock = text.parse().expect("a time");
        let from = "h0".to_owned();
        let head = Head { from, clock };
        let read = Message::decode(&Message::Root(7).encode(&head));
        assert_eq!(read.ok(), Some((head, Message::Root(7))));
    }
}

fn held() -> impl Strategy<Value = Vec<Service>> {
    let status = prop_oneof![
        Just(Status::Alive),
        Just(Status::Unhealthy),
        Just(Status::Tombstone),
    ];
    let record = (0..4_u8, 0..6_usize, 150..156_u64, status)
        .prop_map(|(host, id, at, status)| record(&format!("h{host}"), id, at, status));
    proptest::collection::vec(record, 0..24)
}

proptest! {
    #[test]
    fn whatever_two_hold_they_agree_after_one_exchange(mine in held(), yours in held()) {
        let (mut one, mut other) = (agent("one"), agent("other"));
        mine.into_iter().for_each(|record| hear(&mut one, record));
        yours.into_iter().for_each(|record| hear(&mut other, record));
        exchange(&mut one, &mut other, || false);
        prop_assert_eq!(root(&one), root(&other));
        let cost = exchange(&mut other, &mut one, || false);
        prop_assert_eq!(cost.messages, 2);
    }

    #[test]
    fn losses_only_delay_it(
        mine in held(),
        yours in held(),
        losses in proptest::collection::vec(any::<bool>(), 12),
    ) {
        let (mut one, mut other) = (agent("one"), agent("other"));
        mine.into_iter().for_each(|record| hear(&mut one, record));
        yours.into_iter().for_each(|record| hear(&mut other, record));
        let mut losses = losses.into_iter();
        for _ in 0..3 {
            exchange(&mut one, &mut other, || losses.next().unwrap_or(false));
        }
        exchange(&mut one, &mut other, || false);
        prop_assert_eq!(root(&one), root(&other));
    }
}
