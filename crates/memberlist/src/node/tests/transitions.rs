//! State × message × incarnation: what happens to an entry, what the application hears, what is
//! passed on.

use super::*;
use NodeState::{Alive as A, Dead as D, Left as L, Suspect as S};

#[derive(Debug, Clone, Copy)]
enum Says {
    Alive,
    Suspect,
    Dead,
    Leave,
}

fn says(what: Says, incarnation: u32) -> Message {
    match what {
        Says::Alive => Message::Alive(alive(2, incarnation)),
        Says::Suspect => suspect("n2", incarnation, "n9"),
        Says::Dead => dead("n2", incarnation, "n9"),
        Says::Leave => dead("n2", incarnation, "n2"),
    }
}

/// A bench that holds `n2` in `state` at incarnation 5, nothing queued about it.
fn holding(state: NodeState) -> Bench {
    let mut bench = Bench::quiet();
    bench.receive(&says(Says::Alive, 5));
    match state {
        A => {}
        S => bench.receive(&suspect("n2", 5, "n8")),
        D => bench.receive(&says(Says::Dead, 5)),
        L => bench.receive(&says(Says::Leave, 5)),
    }
    bench.events();
    bench.transmits();
    bench.node.membership.remove(&"n2".to_owned());
    assert_eq!(bench.state("n2"), Some((state, 5)));
    bench
}

#[test]
fn the_matrix_of_states_and_messages() {
    // held at 5, message, incarnation, then: state, event, passed on
    let rows = [
        (A, Says::Alive, 4, (A, 5), "", false),
        (A, Says::Alive, 5, (A, 5), "", false),
        (A, Says::Alive, 6, (A, 6), "", true),
        (A, Says::Suspect, 4, (A, 5), "", false),
        (A, Says::Suspect, 5, (S, 5), "", true),
        (A, Says::Suspect, 6, (S, 6), "", true),
        (A, Says::Dead, 4, (A, 5), "", false),
        (A, Says::Dead, 5, (D, 5), "left", true),
        (A, Says::Dead, 6, (D, 6), "left", true),
        (A, Says::Leave, 4, (A, 5), "", false),
        (A, Says::Leave, 5, (L, 5), "left", true),
        (A, Says::Leave, 6, (L, 6), "left", true),
        // An announcement that loses against an accusation makes us repeat the accusation.
        (S, Says::Alive, 4, (S, 5), "", false),
        (S, Says::Alive, 5, (S, 5), "", false),
        (S, Says::Alive, 6, (A, 6), "", true),
        (S, Says::Suspect, 4, (S, 5), "", false),
        // Three members are too few for confirmations.
        (S, Says::Suspect, 5, (S, 5), "", false),
        (S, Says::Suspect, 6, (S, 5), "", false),
        (S, Says::Dead, 4, (S, 5), "", false),
        (S, Says::Dead, 5, (D, 5), "left", true),
        (S, Says::Dead, 6, (D, 6), "left", true),
        (S, Says::Leave, 4, (S, 5), "", false),
        (S, Says::Leave, 5, (L, 5), "left", true),
        (S, Says::Leave, 6, (L, 6), "left", true),
        (D, Says::Alive, 4, (D, 5), "", false),
        (D, Says::Alive, 5, (D, 5), "", false),
        (D, Says::Alive, 6, (A, 6), "joined", true),
        (D, Says::Suspect, 4, (D, 5), "", false),
        (D, Says::Suspect, 5, (D, 5), "", false),
        (D, Says::Suspect, 6, (D, 5), "", false),
        (D, Says::Dead, 6, (D, 5), "", false),
        (D, Says::Leave, 6, (D, 5), "", false),
        (L, Says::Alive, 4, (L, 5), "", false),
        (L, Says::Alive, 5, (L, 5), "", false),
        (L, Says::Alive, 6, (A, 6), "joined", true),
        (L, Says::Suspect, 6, (L, 5), "", false),
        (L, Says::Dead, 6, (L, 5), "", false),
        (L, Says::Leave, 6, (L, 5), "", false),
    ];
    for (held, what, incarnation, then, heard, passed_on) in rows {
        let mut bench = holding(held);
        bench.receive(&says(what, incarnation));
        let row = format!("{held:?}@5 and {what:?}@{incarnation}");
        assert_eq!(bench.state("n2"), Some(then), "{row}");
        let events: Vec<&str> = bench
            .events()
            .iter()
            .map(|event| match event {
                Event::Joined(_) => "joined",
                Event::Updated(_) => "updated",
                Event::Left(_) => "left",
                other => panic!("{row}: {other:?}"),
            })
            .collect();
        assert_eq!(events.join(" "), heard, "{row}");
        assert_eq!(bench.queued("n2"), passed_on, "{row}");
        let suspected = then.0 == S;
        assert_eq!(
            bench.node.timers.len(),
            usize::from(suspected),
            "{row}: timers"
        );
    }
}

#[test]
fn an_unknown_name_appears_only_by_an_announcement() {
    let mut bench = Bench::quiet();
    for message in [
        says(Says::Suspect, 7),
        says(Says::Dead, 7),
        says(Says::Leave, 7),
    ] {
        bench.receive(&message);
        assert_eq!(bench.state("n2"), None);
        assert!(!bench.queued("n2"));
    }
    bench.receive(&says(Says::Alive, 1));
    assert_eq!(bench.state("n2"), Some((A, 1)));
    assert!(matches!(&bench.events()[..], [Event::Joined(member)] if member.name == "n2"));
}

#[test]
fn new_metadata_is_an_update_once() {
    let mut bench = holding(A);
    let mut announcement = alive(2, 6);
    announcement.meta = Bytes::from_static(b"new");
    for expected in [1, 0] {
        bench.receive(&Message::Alive(announcement.clone()));
        let events = bench.events();
        assert_eq!(events.len(), expected);
        assert!(
            events
                .iter()
                .all(|event| matches!(event, Event::Updated(m) if m.meta == "new"))
        );
    }
}

#[test]
fn we_refute_every_accusation_that_is_not_outdated() {
    let ourselves = |incarnation, meta: &'static str| {
        let mut alive = alive(1, incarnation);
        alive.node = "us".to_owned();
        alive.meta = Bytes::from_static(meta.as_bytes());
        Message::Alive(alive)
    };
    // We are at 1. What is outdated is answered, see below.
    let outdated = [suspect("us", 0, "n9"), dead("us", 0, "n9")];
    let rows = [
        (suspect("us", 0, "n9"), 1),
        (suspect("us", 1, "n9"), 2),
        (suspect("us", 7, "n9"), 8),
        (dead("us", 0, "n9"), 1),
        (dead("us", 1, "n9"), 2),
        (dead("us", 7, "us"), 8),
        (ourselves(1, ""), 1),
        (ourselves(1, "other"), 2),
        (ourselves(7, ""), 8),
        (suspect("us", u32::MAX, "n9"), u32::MAX),
    ];
    for (message, then) in rows {
        let mut bench = Bench::quiet();
        bench.transmits();
        bench.node.membership.remove(&"us".to_owned());
        bench.receive(&message);
        assert_eq!(bench.state("us"), Some((A, then)), "{message:?}");
        let refuted = then != 1;
        assert_eq!(bench.node.health_score(), u32::from(refuted), "{message:?}");
        let answered = outdated.contains(&message);
        assert_eq!(bench.queued("us"), refuted || answered, "{message:?}");
        assert!(bench.events().is_empty());
    }
}

#[test]
fn who_missed_our_refutation_is_told_again_once_in_a_while() {
    for accuse in [suspect, dead] {
        let mut bench = Bench::quiet();
        bench.node.config.gossip_interval = MS * 200;
        bench.fill(3);
        bench.receive(&suspect("us", 1, "n2"));
        bench.transmits();
        bench.node.membership.remove(&"us".to_owned());
        let old = accuse("us", 1, "n2");
        for (later, expected) in [(0, 1), (0, 1), (999, 1), (1, 2)] {
            bench.now += MS * later;
            bench.receive(&old);
            assert_eq!(bench.node.counters().old_accusations_answered, expected);
        }
        let alive = |messages: &[Message]| matches!(messages, [Message::Alive(alive)] if alive.node == "us" && alive.incarnation == 2);
        let sent = bench.transmits();
        assert_eq!(sent.len(), 2, "{sent:?}");
        assert!(
            sent.iter()
                .all(|(to, messages)| *to == address(2) && alive(messages)),
            "{sent:?}"
        );
        assert!(bench.queued("us"), "the cluster hears it, too");
        assert_eq!(bench.node.counters().refutations, 1);
        assert_eq!(bench.node.health_score(), 1, "nothing new about our health");
    }
}

#[test]
fn our_incarnation_saturates() {
    let mut bench = Bench::quiet();
    for _ in 0..3 {
        bench.receive(&suspect("us", u32::MAX, "n9"));
        assert_eq!(bench.state("us"), Some((A, u32::MAX)));
    }
    assert_eq!(bench.node.counters().far_accusations, 1);
}

#[test]
fn while_leaving_nothing_brings_us_back() {
    let mut bench = Bench::quiet();
    bench.fill(3);
    bench.node.leave(bench.now);
    bench.events();
    let mut announcement = alive(1, 9);
    announcement.node = "us".to_owned();
    for message in [
        Message::Alive(announcement),
        suspect("us", 9, "n9"),
        dead("us", 9, "n9"),
    ] {
        bench.receive(&message);
        assert_eq!(bench.state("us"), Some((L, 1)), "{message:?}");
    }
    assert_eq!(bench.node.counters().refutations, 0);
    assert_eq!(bench.events(), []);
}

#[test]
fn accusations_nobody_could_refute_are_dropped() {
    for what in [Says::Suspect, Says::Dead, Says::Leave] {
        let mut bench = holding(A);
        bench.receive(&says(what, u32::MAX));
        assert_eq!(bench.state("n2"), Some((A, 5)), "{what:?}");
        assert_eq!(bench.node.counters().irrefutable_refused, 1);
    }
    let mut bench = holding(A);
    let remote = push_pull(vec![push_node(2, u32::MAX, D)]);
    bench
        .node
        .merge(bench.now, remote, false)
        .expect("versions fit");
    assert_eq!(bench.state("n2"), Some((A, 5)));
}

#[test]
fn a_name_is_taken_over_only_from_the_gone() {
    let reclaim = Duration::from_secs(30);
    // held, time since, incarnation of the newcomer, accepted
    let rows = [
        (A, reclaim * 9, 9, false),
        (D, reclaim - MS, 9, false),
        (D, reclaim, 1, true),
        (L, Duration::ZERO, 1, true),
    ];
    for (held, since, incarnation, accepted) in rows {
        let mut bench = holding(held);
        bench.now += since;
        let mut newcomer = alive(2, incarnation);
        newcomer.addr = RawIp::from(address(77).ip());
        bench.receive(&Message::Alive(newcomer.clone()));
        bench.receive(&Message::Alive(newcomer));
        let row = format!("{held:?} for {since:?}");
        let events = bench.events();
        if accepted {
            assert_eq!(bench.state("n2"), Some((A, incarnation)), "{row}");
            assert!(
                matches!(&events[..], [Event::Joined(m)] if m.addr == address(77)),
                "{row}"
            );
        } else {
            assert_eq!(bench.state("n2"), Some((held, 5)), "{row}");
            let expected = Event::Conflict {
                name: "n2".to_owned(),
                existing: address(2),
                claimed: address(77),
            };
            assert_eq!(events, [expected], "{row}: reported once");
            let told = told_of_itself(&mut bench, address(2));
            let expected = if held == A { vec![address(77)] } else { vec![] };
            assert_eq!(
                told, expected,
                "{row}: who has the name is told if it lives"
            );
        }
    }
    let mut bench = Bench::with(|config| config.dead_node_reclaim = Duration::ZERO);
    bench.receive(&says(Says::Alive, 5));
    bench.receive(&says(Says::Dead, 5));
    bench.now += reclaim;
    let mut newcomer = alive(2, 9);
    newcomer.port = 1;
    bench.receive(&Message::Alive(newcomer));
    assert_eq!(bench.state("n2"), Some((D, 5)), "never, when turned off");
}

/// Where `n2`, at this address, hears that it is.
fn told_of_itself(bench: &mut Bench, to: SocketAddr) -> Vec<SocketAddr> {
    let sent = bench.transmits().into_iter().filter(|sent| sent.0 == to);
    let claims = sent.flat_map(|(_, messages)| messages);
    claims
        .filter_map(|message| match message {
            Message::Alive(alive) if alive.node == "n2" => {
                Some(crate::wire::message::socket_addr(alive.addr, alive.port))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn both_owners_of_a_name_learn_of_each_other() {
    let conflict = |claimed| Event::Conflict {
        name: "us".to_owned(),
        existing: address(1),
        claimed,
    };
    let ourselves = |last| Alive {
        node: "us".to_owned(),
        ..alive(last, 9)
    };
    // The second one: whoever it exchanges with lists the first.
    let mut second = Bench::quiet();
    let mut row = push_node(77, 9, A);
    row.name = "us".to_owned();
    let table = push_pull(vec![row]);
    second
        .node
        .merge(second.now, table, false)
        .expect("versions fit");
    assert_eq!(second.events(), [conflict(address(77))]);
    // The first one: whoever ignores the second passes its claim on.
    let mut first = Bench::quiet();
    first.receive(&Message::Alive(ourselves(77)));
    assert_eq!(first.events(), [conflict(address(77))]);
    for mut bench in [first, second] {
        assert_eq!(bench.state("us"), Some((A, 1)), "neither gives way");
        assert_eq!(bench.transmits(), [], "nor writes to a stranger");
    }
}

#[test]
fn a_mapped_address_is_the_same_address_and_its_bytes_are_kept() {
    let mut bench = holding(A);
    let mut mapped = alive(2, 6);
    mapped.addr = RawIp::V16([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2]);
    bench.receive(&Message::Alive(mapped.clone()));
    assert_eq!(bench.state("n2"), Some((A, 6)));
    assert_eq!(bench.events(), []);
    let ours = bench.node.push_pull(false);
    let entry = ours.nodes.iter().find(|node| node.name == "n2");
    assert_eq!(entry.expect("listed").addr, mapped.addr);
}

#[test]
fn hearsay_of_a_death_is_only_a_suspicion() {
    let rows = [(A, A), (S, S), (D, S), (L, L)];
    for (told, then) in rows {
        let mut bench = holding(A);
        bench.node.config.probe_interval = Duration::from_secs(1);
        let remote = push_pull(vec![push_node(2, 5, told)]);
        bench
            .node
            .merge(bench.now, remote, false)
            .expect("versions fit");
        bench.pass(Duration::from_secs(1));
        assert_eq!(bench.state("n2"), Some((then, 5)), "{told:?}");
    }
}

#[test]
fn left_is_written_as_the_profile_knows_it() {
    for (profile, written) in [
        (super::super::Profile::Fork, D),
        (super::super::Profile::HashiCorp, L),
    ] {
        let mut bench = holding(L);
        bench.node.config.profile = profile;
        let ours = bench.node.push_pull(true);
        let entry = ours.nodes.iter().find(|node| node.name == "n2");
        assert_eq!(entry.expect("listed").state, written);
    }
}

#[test]
fn versions_that_do_not_meet_refuse_the_exchange() {
    // Theirs, and whether it merges.
    let rows = [
        ([1, 5, 2, 0, 0, 0], true),
        ([1, 5, 3, 0, 0, 0], true),
        ([3, 5, 3, 0, 0, 0], false),
        ([1, 1, 1, 0, 0, 0], false),
        ([1, 5, 2, 2, 5, 5], false),
        ([1, 5, 2, 0, 5, 0], true),
        ([1, 5, 2, 0, 5, 1], false),
    ];
    for (versions, merges) in rows {
        let mut bench = Bench::quiet();
        let mut node = push_node(2, 1, A);
        node.versions = Versions(versions);
        let mut remote = push_pull(vec![node]);
        remote.user_state = Bytes::from_static(b"state");
        let result = bench.node.merge(bench.now, remote, false);
        assert_eq!(result.is_ok(), merges, "{versions:?}: {result:?}");
        assert_eq!(
            bench.events().len(),
            if merges { 2 } else { 0 },
            "{versions:?}"
        );
    }
    let mut bench = Bench::quiet();
    let mut node = push_node(2, 1, D);
    node.versions = Versions([1, 5, 0, 0, 0, 0]);
    let refused = bench.node.merge(bench.now, push_pull(vec![node]), false);
    let text = refused.expect_err("even a dead node counts").to_string();
    assert!(
        text.contains("\"n2\"") && text.contains("version 0"),
        "{text}"
    );
}

#[test]
fn a_full_table_refuses_newcomers() {
    let mut bench = Bench::with(|config| config.members_max = 3);
    bench.fill(5);
    assert_eq!(bench.node.members().len(), 3);
    assert_eq!(bench.node.counters().members_refused, 2);
}

#[test]
fn a_stale_announcement_is_contradicted_once_in_a_while() {
    let mut bench = Bench::with(|config| config.eager_bytes_per_interval = 0);
    bench.fill(2);
    bench.receive(&dead("n2", 4, "n9"));
    bench.transmits();
    let directly = |bench: &mut Bench| {
        let accusation = suspect("n2", 4, "us");
        let sent = bench.transmits();
        sent.iter()
            .filter(|(to, parts)| *to == address(2) && parts[..] == [accusation.clone()])
            .count()
    };
    bench.receive(&Message::Alive(alive(2, 1)));
    bench.receive(&Message::Alive(alive(2, 1)));
    assert_eq!(directly(&mut bench), 1, "and not again at once");
    bench.now += Duration::from_secs(1);
    bench.receive(&Message::Alive(alive(2, 4)));
    assert_eq!(directly(&mut bench), 1);
    bench.receive(&Message::Alive(alive(2, 5)));
    assert_eq!(bench.state("n2"), Some((A, 5)), "it has refuted");
}
