//! State exchanges: when they come.

use super::super::Acquaintances;
use super::*;

/// Exchanges states and does nothing else of its own accord.
fn exchanging(seed: u64) -> Bench {
    Bench::with(|config| {
        config.gossip_interval = Duration::ZERO;
        config.probe_interval = Duration::ZERO;
        config.rejoin_interval = Duration::ZERO;
        config.eager_bytes_per_interval = 0;
        config.seed = seed;
    })
}

/// When the next exchange comes, in intervals.
fn first_exchange(bench: &Bench) -> f64 {
    let at = bench.node.poll_timeout().expect("an exchange is due");
    let interval = bench.node.config.push_pull_interval;
    (at - bench.now).as_secs_f64() / interval.as_secs_f64()
}

/// Whether so many moments are those of members that exchange states independently.
fn assert_spread(mut moments: Vec<f64>, period: f64) {
    moments.sort_by(f64::total_cmp);
    for (at, moment) in moments.iter().enumerate() {
        let expected = period * at as f64 / moments.len() as f64;
        assert!(
            (moment - expected).abs() < period / 5.0,
            "exchange {at} of {} comes after {moment:.2} intervals of {period}: {moments:?}",
            moments.len()
        );
    }
}

#[test]
fn a_cluster_that_is_there_at_once_spreads_its_exchanges_over_the_period() {
    let mut other = exchanging(0);
    other.fill(200);
    let rows = Acquaintances::new(other.node.known());
    let first = |seed| {
        let mut bench = exchanging(seed);
        bench.node.acquaint(bench.now, &rows);
        first_exchange(&bench)
    };
    assert_spread((1..=64).map(first).collect(), 4.0);
}

#[test]
fn a_cluster_that_grows_spreads_its_exchanges_over_the_longer_period() {
    let first = |seed| {
        let mut bench = exchanging(seed);
        bench.fill(200);
        first_exchange(&bench)
    };
    assert_spread((1..=64).map(first).collect(), 4.0);
}

#[test]
fn growth_without_a_longer_period_leaves_the_next_exchange_where_it_is() {
    let mut bench = exchanging(7);
    bench.fill(33);
    let next = bench.node.poll_timeout();
    bench.fill(64);
    assert_eq!(bench.node.poll_timeout(), next);
    bench.fill(65);
    assert_ne!(bench.node.poll_timeout(), next);
}

#[test]
fn who_is_acquainted_believes_what_the_others_do() {
    let mut other = exchanging(0);
    other.fill(50);
    let rows = Acquaintances::new(other.node.known());
    // Alone, or with a table already.
    for known in [1, 7] {
        let mut bench = exchanging(1);
        bench.fill(known);
        bench.node.acquaint(bench.now, &rows);
        assert_eq!(bench.node.members(), other.node.members());
        assert_eq!(bench.node.table_digest(), other.node.table_digest());
        let news = Message::Alive(alive(51, 1));
        bench.receive(&news);
        assert_eq!(bench.state("n51"), Some((NodeState::Alive, 1)));
        assert_ne!(bench.node.table_digest(), other.node.table_digest());
    }
}

fn digest_of(messages: &[Message]) -> u64 {
    let mut bench = Bench::quiet();
    for message in messages {
        bench.receive(message);
    }
    bench.node.table_digest()
}

#[test]
fn the_digest_is_that_of_every_machine_and_version() {
    let mut named = alive(2, 7);
    named.meta = Bytes::from_static(b"meta");
    let doubted = suspect("n3", 1, "n9");
    let messages = [Message::Alive(named), Message::Alive(alive(3, 1)), doubted];
    assert_eq!(digest_of(&messages), 13_770_757_038_565_068_972);
}

#[test]
fn who_believes_the_same_has_the_same_digest_in_any_order() {
    let news: Vec<Message> = (2..=40).map(|id| Message::Alive(alive(id, 1))).collect();
    let backwards: Vec<Message> = news.iter().rev().cloned().collect();
    assert_eq!(digest_of(&news), digest_of(&backwards));
    let mut mapped = alive(2, 1);
    mapped.addr = RawIp::V16([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 2]);
    assert_eq!(
        digest_of(&[Message::Alive(mapped)]),
        digest_of(&news[..1]),
        "the same address written differently"
    );
}

#[test]
fn everything_believed_of_the_living_is_in_the_digest() {
    let told = |change: &dyn Fn(&mut Alive)| {
        let mut it = alive(2, 5);
        change(&mut it);
        Message::Alive(it)
    };
    let plain = told(&|_| {});
    let others = [
        vec![],
        vec![told(&|it| it.node = "n3".to_owned())],
        vec![told(&|it| it.addr = RawIp::from(address(3).ip()))],
        vec![told(&|it| it.port = 7947)],
        vec![told(&|it| it.incarnation = 6)],
        vec![told(&|it| it.meta = Bytes::from_static(b"x"))],
        vec![told(&|it| it.versions.0[5] = 4)],
        vec![told(&|it| {
            // Where one text ends and the next begins.
            it.node = "n".to_owned();
            it.meta = Bytes::from_static(b"2");
        })],
        vec![plain.clone(), suspect("n2", 5, "n9")],
        vec![plain.clone(), Message::Alive(alive(3, 1))],
    ];
    let mut digests: Vec<u64> = others.iter().map(|it| digest_of(it)).collect();
    digests.push(digest_of(std::slice::from_ref(&plain)));
    let count = digests.len();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), count, "all differ");
}

#[test]
fn the_gone_do_not_count() {
    let [two, three] = [2, 3].map(|id| Message::Alive(alive(id, 1)));
    let without = digest_of(std::slice::from_ref(&two));
    for gone in [dead("n3", 1, "n9"), dead("n3", 1, "n3")] {
        assert_eq!(digest_of(&[two.clone(), three.clone(), gone]), without);
    }
}

#[test]
fn the_digest_follows_every_change() {
    let mut bench = Bench::quiet();
    let mut seen = vec![bench.node.table_digest()];
    let mut changed = |bench: &mut Bench, message: &Message| {
        bench.receive(message);
        let digest = bench.node.table_digest();
        assert!(!seen.contains(&digest), "{message:?}");
        seen.push(digest);
    };
    changed(&mut bench, &Message::Alive(alive(2, 1)));
    changed(&mut bench, &suspect("n2", 1, "n9"));
    changed(&mut bench, &Message::Alive(alive(2, 2)));
    // We refute.
    changed(&mut bench, &suspect("us", 1, "n9"));
    changed(&mut bench, &dead("us", 2, "n9"));
    changed(&mut bench, &dead("n2", 2, "n9"));
    let before = bench.node.table_digest();
    // Our own verdict, at its deadline.
    bench.receive(&Message::Alive(alive(3, 1)));
    bench.receive(&suspect("n3", 1, "n9"));
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.state("n3"), Some((NodeState::Dead, 1)));
    assert_eq!(bench.node.table_digest(), before);
}

#[test]
fn an_exchange_without_a_table_brings_only_the_state() {
    let mut bench = Bench::quiet();
    // One that fits no exchange of tables.
    let mut odd = alive(2, 1);
    odd.versions.0[..3].copy_from_slice(&[1, 1, 1]);
    bench.receive(&Message::Alive(odd));
    bench.events();
    let shown = bench.node.push_pull(false);
    assert!(bench.node.merge(bench.now, shown, false).is_err());
    let before = bench.node.table_digest();
    let mut brief = push_pull(Vec::new());
    brief.user_state = Bytes::from_static(b"state");
    let merged = bench.node.merge(bench.now, brief, false);
    assert_eq!(merged, Ok(()));
    let state = Event::RemoteState {
        state: Bytes::from_static(b"state"),
        join: false,
    };
    assert_eq!(bench.events(), [state]);
    assert_eq!(bench.node.table_digest(), before);
}

#[test]
fn the_partner_of_an_exchange_is_found_by_its_address() {
    let mut bench = exchanging(3);
    bench.fill(9);
    bench.pass(Duration::from_secs(120));
    let requests = bench.requests();
    assert!(requests.len() > 1);
    for request in requests {
        let StreamRequest::PushPull { to, .. } = request else {
            panic!("{request:?}")
        };
        let peer = bench.node.member_at(to).expect("a member");
        assert_eq!(peer.addr, to);
    }
    let last = bench.node.partner.clone().expect("there was an exchange");
    let addr = bench.node.member(&last).expect("a member").addr;
    bench.receive(&dead(&last, 1, "n99"));
    assert_eq!(bench.node.member_at(addr), None, "it is dead");
    let known = bench.node.known_at(addr).expect("it is remembered");
    assert_eq!((known.name, known.state), (last, NodeState::Dead));
}
