use catalog::Status;
use memberlist::Event;
use proptest::prelude::*;

use super::super::{
    core::{Action, Core},
    fixtures::{now, service},
    metadata::Kind,
    replica::Replica,
    update::StatusUpdate,
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
    let opening = opening(one.snapshot(), clock(), Some(1));
    cost.of(vec![opening.clone()]);
    let reply = brief_reply(other.snapshot(), &opening, clock(), 1).expect("a brief opening");
    let (head, _) = Message::decode(&reply).expect("our own message");
    assert_eq!(head.from, other.hostname());
    let digest = match cost.of(vec![reply]).remove(0) {
        Message::Same {
            members: Members::Same,
        } => return cost,
        Message::Digest {
            members: Members::Same,
            digest,
        } => digest,
        reply => panic!("{reply:?}"),
    };
    let buckets = one.snapshot().digest.differences(&digest);
    let first = differing(one.snapshot(), &buckets, clock());
    // To whom, and what.
    let mut under_way: Vec<(bool, Message)> = Vec::new();
    under_way.extend(cost.of(first).into_iter().map(|it| (true, it)));
    while let Some((to_other, message)) = under_way.pop() {
        if lost() {
            continue;
        }
        let replica = if to_other { &mut *other } else { &mut *one };
        let answers = match message {
            Message::Offer { buckets, records } => {
                let better = replica.offered(&buckets, records_in(&records), now(200)).1;
                answers(&Head::of(replica.snapshot(), clock()), &better)
            }
            Message::Answer { records } => {
                let better = replica.exchanged(records_in(&records), now(200)).1;
                answers(&Head::of(replica.snapshot(), clock()), &better)
            }
            Message::Outline(outline) => compared(replica.snapshot(), &outline, clock()),
            Message::Want(hosts) => wanted(replica.snapshot(), hosts, clock()),
            message => panic!("{message:?}"),
        };
        let answers = cost.of(answers);
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
    assert_eq!((cost.messages, cost.bytes), (2, 38 + 8 + 1));
}

/// Whether the reply to `opening` says that the records are the same, and that the tables are not.
fn verdict(reply: &Bytes) -> (bool, Members) {
    match Message::decode(reply) {
        Ok((_, Message::Same { members })) => (true, members),
        Ok((_, Message::Digest { members, .. })) => (false, members),
        reply => panic!("{reply:?}"),
    }
}

#[test]
fn records_and_tables_are_compared_apart() {
    let (one, mut other) = (agent("one"), agent("other"));
    for same in [true, false] {
        if !same {
            hear(&mut other, record("h0", 1, 150, Status::Alive));
        }
        let ours = other.snapshot();
        for (members, compared) in [(7, Members::Same), (8, Members::Differ)] {
            let opening = opening(one.snapshot(), clock(), Some(7));
            let reply = brief_reply(ours, &opening, clock(), members).expect("a brief opening");
            assert_eq!(verdict(&reply), (same, compared));
        }
        // Where tables are shown they are not compared, and who shows one is shown ours.
        for members in [None, Some(7)] {
            let opening = opening(one.snapshot(), clock(), members);
            assert_eq!(
                verdict(&reply(ours, &opening, clock())),
                (same, Members::Shown)
            );
        }
        assert_eq!(
            brief_reply(ours, &opening(one.snapshot(), clock(), None), clock(), 7),
            None
        );
    }
    let ours = one.snapshot();
    for other in [
        Bytes::new(),
        Bytes::from_static(b"{\"Servers\":{}}"),
        Bytes::from_static(b"\xd1R1234567"),
        Message::Same {
            members: Members::Differ,
        }
        .encode(&head()),
    ] {
        assert_eq!(brief_reply(ours, &other, clock(), 7), None, "{other:?}");
    }
}

#[test]
fn tables_that_differ_are_shown_once_for_each_exchange_and_not_more_often_than_every_second() {
    let mut core = Core::new(agent("one"), Arc::default(), 1);
    let mut heard = |from: &str, message: Message, at: u64| -> Vec<String> {
        let head = Head {
            from: from.to_owned(),
            clock: now(at).wall,
        };
        let event = Event::RemoteState {
            state: message.encode(&head),
            join: false,
        };
        core.gossip(event, now(at));
        let actions = core.actions().into_iter();
        let shown = actions.filter_map(|action| match action {
            Action::ExchangeTables { with } => Some(with),
            _ => None,
        });
        shown.collect()
    };
    let same = |members| Message::Same { members };
    let digest = |members| Message::Digest {
        members,
        digest: Box::default(),
    };
    assert_eq!(heard("h0", same(Members::Same), 200), [""; 0]);
    assert_eq!(heard("h1", digest(Members::Same), 200), [""; 0]);
    assert_eq!(heard("h0", same(Members::Differ), 200), ["h0"]);
    assert_eq!(
        heard("h1", digest(Members::Differ), 200),
        [""; 0],
        "a flood of replies"
    );
    assert_eq!(heard("h1", digest(Members::Differ), 201), ["h1"]);
    // The exchange that follows says nothing about tables, and so ends it.
    let (one, other) = (agent("one"), agent("h1"));
    let full = reply(
        other.snapshot(),
        &opening(one.snapshot(), clock(), None),
        clock(),
    );
    let (_, full) = Message::decode(&full).expect("our own message");
    assert_eq!(heard("h1", full, 210), [""; 0]);
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
fn those_who_take_each_other_for_dead_compare_hosts_and_send_only_what_is_news() {
    let (mut one, mut other) = (agent("one"), agent("other"));
    for id in 0..4000 {
        for replica in [&mut one, &mut other] {
            hear(
                replica,
                record(&format!("h{}", id % 4), id, 150, Status::Alive),
            );
        }
    }
    for (replica, gone) in [(&mut one, ["h0", "h1"]), (&mut other, ["h2", "h3"])] {
        for name in gone {
            replica.member_down(name, now(160));
        }
    }
    hear(&mut one, record("h2", 2, 170, Status::Unhealthy));
    let differing = one.snapshot().digest.differences(&other.snapshot().digest);
    assert!(differing.len() > 900);
    let cost = exchange(&mut one, &mut other, || false);
    // The records of the one host of which there are news.
    let whole = json::encode_replica(one.snapshot()).len();
    assert!(cost.bytes < whole, "{cost:?}: {whole} for two hosts");
    // Now each hears that the others live, and what changed is exchanged.
    for replica in [&mut one, &mut other] {
        for host in 0..4 {
            replica.member_up(&format!("h{host}"), Kind::Ours, now(180));
        }
    }
    exchange(&mut one, &mut other, || false);
    assert_eq!(root(&one), root(&other));
}

#[test]
fn a_greeting_is_a_state_to_a_go_sidecar_and_a_root_to_an_agent() {
    let (mut one, mut other) = (agent("one"), agent("other"));
    for replica in [&mut one, &mut other] {
        hear(replica, record("h0", 1, 150, Status::Alive));
    }
    let greeting = greeting(one.snapshot(), clock());
    let text = std::str::from_utf8(&greeting).expect("JSON");
    let read = |text| json::decode_state(text).map(|records| records.len());
    assert_eq!(read(text.as_bytes()).ok(), Some(1));
    let plain = json::encode_replica(one.snapshot());
    assert!(text.starts_with(plain.trim_end_matches('}')), "{text}");

    assert_eq!(
        verdict(&reply(other.snapshot(), &greeting, clock())),
        (true, Members::Shown)
    );
    hear(&mut other, record("h0", 2, 150, Status::Alive));
    assert_eq!(
        verdict(&reply(other.snapshot(), &greeting, clock())),
        (false, Members::Shown)
    );
    for id in 0..5000 {
        hear(&mut other, record("h1", id, 150, Status::Alive));
    }
    hear(&mut other, record("other", 1, 150, Status::Alive));
    let short = super::greeting(other.snapshot(), clock());
    let text = std::str::from_utf8(&short).expect("JSON");
    assert_eq!(read(text.as_bytes()).ok(), Some(1), "{text}");
    assert_eq!(
        verdict(&reply(one.snapshot(), &short, clock())),
        (false, Members::Shown)
    );
    let text = std::str::from_utf8(&greeting).expect("JSON");
    for almost in [
        plain,
        text.replace("Exchange", "exchange"),
        format!("{text} "),
        text.replace("\"}", "=\"}"),
    ] {
        let whole = reply(other.snapshot(), &almost.clone().into(), clock());
        assert_eq!(whole, json::encode_replica(other.snapshot()), "{almost}");
    }
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
    let same = Message::Same {
        members: Members::Same,
    };
    assert!(Message::is(&same.encode(&head())));
}

#[test]
fn what_cannot_be_read_is_refused() {
    let digest = Box::new(Digest::default());
    let good = Message::Digest {
        members: Members::Same,
        digest,
    };
    let good = good.encode(&head());
    assert!(Message::decode(&good).is_ok());
    let same = Message::Same {
        members: Members::Differ,
    };
    let same = same.encode(&head());
    for end in 0..same.len() {
        assert!(Message::decode(&same.slice(..end)).is_err(), "{end}");
    }
    let head = &same[2..same.len() - 1];
    let body = &good[same.len() - 1..];
    for (kind, body) in [
        (b'X', &b""[..]),
        (b'R', b"1234567"),
        (b'R', b"123456789"),
        (b'R', b"12345678abcdefghi"),
        (b'S', b""),
        (b'S', b"\x03"),
        (b'S', b"\x00."),
        (b'O', b"short"),
        (b'D', &body[..body.len() - 1]),
        (b'D', &[body, b"."].concat()),
        (b'D', &[b"\x03", &body[1..]].concat()),
        (b'H', b"123456789012345"),
        (b'W', b"1234567"),
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
        let root = Message::Root {
            records: 7,
            members: None,
        };
        let read = Message::decode(&root.encode(&head));
        assert_eq!(read.ok(), Some((head, root)));
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

#[test]
fn clocks_beyond_the_calendar_are_read_as_they_are_written() {
    for micros in [i64::MIN, i64::MAX] {
        let bytes = [&[MAGIC, b'S', 0][..], &micros.to_le_bytes(), &[0]].concat();
        let (head, message) = Message::decode(&bytes.into()).expect("well formed");
        let again = Message::decode(&message.encode(&head));
        assert_eq!(again, Ok((head, message)));
    }
}

proptest! {
    /// Whatever comes is read or refused, and what is read is what was meant.
    #[test]
    fn any_bytes_are_read_or_refused(
        kind in prop::sample::select(b"RSDOAHWCKUX".to_vec()),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = Bytes::from([&[MAGIC, kind], &body[..]].concat());
        if let Ok((head, message)) = Message::decode(&bytes) {
            let again = message.encode(&head);
            prop_assert_eq!(Message::decode(&again).ok(), Some((head, message)));
        }
        if let Some(update) = StatusUpdate::decode(&bytes) {
            prop_assert!(StatusUpdate::is(&bytes));
            prop_assert!(!update.hostname.is_empty() && !update.id.is_empty());
        }
    }
}
