use std::sync::atomic::Ordering;

use catalog::{Author, State, Status};
use proptest::prelude::*;

use super::{
    super::{
        fixtures::now,
        lab::{Lab, Sleep},
    },
    *,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const YEAR: i64 = 365 * 86_400;

/// What each host adds to its clock.
fn corrections(lab: &Lab) -> Vec<i64> {
    let hosts = lab.hosts.iter();
    let shown = hosts.map(|host| &host.counters.clock_correction_seconds);
    // A message takes a moment.
    let rounded = |seconds: i64| (seconds + seconds.signum() * 2) / 5 * 5;
    shown
        .map(|it| rounded(it.load(Ordering::Relaxed)))
        .collect()
}

/// All join through the first one, one after the other.
fn joined(errors: &[i64]) -> Lab {
    let mut lab = Lab::new(errors);
    for host in 1..errors.len() {
        lab.join(host, 0);
    }
    lab
}

#[test]
fn what_was_taken_over_is_judged_before_anything_else() {
    let record = |host, at| crate::cluster::fixtures::service(host, "s", at, Status::Alive);
    let later = 10_000_000;
    let mut state = State::new("us", "c");
    for host in ["us", "other"] {
        state.member_up(host, Upkeep::Membership, now(later));
        let held = state.apply(record(host, later), Author::Own, now(later));
        held.expect("own records are not judged");
    }
    let mut core = Core::new(Replica::resumed(state, now(100)), Arc::default(), 1);
    let update = LocalUpdate::Present {
        service: record("us", 0),
        checked: true,
    };
    core.local(update, now(100));
    assert_eq!(core.snapshot().service("other", "s"), None);
    let ours = core.snapshot().service("us", "s").map(|own| own.updated);
    assert!(ours.is_some_and(|stamp| stamp <= now(101).wall), "{ours:?}");
    assert!(
        core.next_deadline()
            .is_some_and(|at| at <= now(100).monotonic),
        "it asks"
    );
}

#[test]
fn a_clock_that_is_years_off_costs_nobody_anything() {
    for (errors, expected) in [
        ([2 * YEAR, 0], [-2 * YEAR, 0]),
        ([-2 * YEAR, 0], [0, -2 * YEAR]),
        ([0, 60], [0, 0]),
    ] {
        let mut lab = joined(&errors);
        lab.run(5 * SECOND);
        lab.expect(&["h0/s", "h1/s"]);
        assert_eq!(corrections(&lab), expected);
    }
    for wrong in [-30 * YEAR, -YEAR, -900, 900, YEAR, 30 * YEAR] {
        for host in 0..3 {
            let mut errors = [0; 3];
            errors[host] = wrong;
            let mut lab = joined(&errors);
            lab.run(5 * SECOND);
            lab.expect(&["h0/s", "h1/s", "h2/s"]);
            assert_eq!(corrections(&lab), errors.map(|error| -error));
        }
    }
}

#[test]
fn of_many_clocks_that_all_differ_each_is_asked_for() {
    let errors: [i64; 8] = std::array::from_fn(|host| host as i64 * YEAR);
    let mut lab = joined(&errors);
    lab.run(15 * SECOND);
    assert_eq!(corrections(&lab), errors.map(|error| 3 * YEAR - error));
}

#[test]
fn a_clock_that_is_set_while_it_runs_costs_nobody_anything() {
    for error in [-2 * YEAR, 2 * YEAR] {
        let mut lab = joined(&[0, 0, 0]);
        lab.run(2 * MINUTE);
        lab.hosts[1].error = error;
        lab.stop(1, "s");
        lab.announce(1, "t");
        lab.run(SECOND);
        lab.expect(&["h0/s", "h1/t", "h2/s"]);
        assert_eq!(corrections(&lab), [0, -error, 0]);
        lab.hosts[1].error = 0;
        lab.stop(1, "t");
        lab.run(SECOND);
        lab.expect(&["h0/s", "h2/s"]);
        lab.run(2 * MINUTE);
        lab.expect(&["h0/s", "h2/s"]);
        assert_eq!(corrections(&lab), [0, 0, 0]);
    }
}

#[test]
fn of_two_hosts_either_clock_may_be_set() {
    for error in [-2 * YEAR, 2 * YEAR] {
        let mut lab = joined(&[0, 0]);
        lab.run(2 * MINUTE);
        lab.hosts[0].error = error;
        lab.announce(0, "t");
        lab.stop(1, "s");
        lab.run(MINUTE);
        lab.expect(&["h0/s", "h0/t"]);
        lab.hosts[0].error = 0;
        lab.stop(0, "t");
        lab.announce(1, "s");
        lab.run(MINUTE);
        lab.expect(&["h0/s", "h1/s"]);
        assert_eq!(corrections(&lab), [0, 0]);
    }
}

#[test]
fn a_clock_that_was_wrong_before_anybody_came_leaves_nothing_behind() {
    let mut lab = Lab::new(&[5 * YEAR]);
    lab.announce(0, "t");
    lab.run(MINUTE);
    lab.hosts[0].error = 0;
    lab.run(2 * MINUTE);
    let host = lab.add(0);
    lab.join(host, 0);
    lab.run(5 * SECOND);
    lab.expect(&["h0/s", "h0/t", "h1/s"]);
    assert_eq!(corrections(&lab), [0, 0]);
}

#[test]
fn what_was_buried_by_a_wrong_clock_stays_buried() {
    let mut lab = joined(&[0, 0]);
    lab.run(MINUTE);
    // Alone and years ahead, it buries; the other one, away, holds the service as alive.
    lab.bury(1);
    lab.sleep(1, Sleep::Stopped);
    lab.hosts[0].error = 2 * YEAR;
    lab.run(MINUTE);
    lab.stop(0, "s");
    lab.run(MINUTE);
    lab.wake(1);
    lab.run(MINUTE);
    lab.expect(&["h1/s"]);
}

#[test]
fn who_has_slept_for_long_does_not_raise_the_dead() {
    for how in [Sleep::Suspended, Sleep::Stopped] {
        for found_dead in [true, false] {
            let mut lab = joined(&[0, 0, 0]);
            lab.announce(2, "own");
            lab.run(MINUTE);
            lab.sleep(2, how);
            if found_dead {
                lab.bury(2);
            }
            lab.run(MINUTE);
            lab.stop(0, "s");
            lab.run(240 * MINUTE);
            let held = |host: usize| lab.hosts[host].core.snapshot().service("h0", "s");
            assert_eq!(held(0), None, "buried and forgotten");
            assert_eq!(held(1), None, "buried and forgotten");
            assert!(held(2).is_some_and(|it| it.is_alive()));
            lab.wake(2);
            for _ in 0..600 {
                lab.run(SECOND / 10);
                for host in 0..2 {
                    assert!(!lab.seen_by(host).contains(&"h0/s".to_owned()), "{how:?}");
                }
            }
            lab.expect(&["h1/s", "h2/own", "h2/s"]);
        }
    }
}

#[test]
fn until_somebody_answers_who_has_slept_knows_itself_alone() {
    let mut lab = joined(&[0, 0, 0]);
    lab.run(MINUTE);
    lab.sleep(2, Sleep::Suspended);
    lab.run(120 * MINUTE);
    lab.hosts[2].cut_off = true;
    lab.wake(2);
    lab.run(MINUTE);
    assert_eq!(lab.seen_by(2), ["h2/s"]);
    assert_eq!(lab.hosts[2].core.snapshot().members.size(), 3);
    lab.hosts[2].cut_off = false;
    lab.run(MINUTE);
    lab.expect(&["h0/s", "h1/s", "h2/s"]);
}

#[test]
fn short_sleeps_without_an_exchange_add_up() {
    for (cut_off, forgets) in [(true, true), (false, false)] {
        let mut lab = joined(&[0, 0]);
        lab.run(MINUTE);
        for nap in 0..2 {
            lab.sleep(1, Sleep::Suspended);
            lab.run(40 * MINUTE);
            lab.hosts[1].cut_off = cut_off;
            lab.wake(1);
            lab.run(MINUTE);
            let forgot = lab.seen_by(1) == ["h1/s"];
            assert_eq!(forgot, forgets && nap == 1, "{nap}");
        }
    }
}

#[test]
fn a_newcomer_among_agents_compares_clocks_at_once() {
    let mut lab = joined(&[0; 8]);
    lab.run(2 * MINUTE);
    let host = lab.add(0);
    lab.join(host, 0);
    lab.run(SECOND);
    let known = lab.hosts[..8].iter();
    let known = known.filter(|peer| lab.hosts[host].core.clock.knows(&peer.name));
    assert!(known.count() >= 1);
}

#[test]
fn a_stamp_that_nobody_can_mend_is_no_reason_to_talk_all_the_time() {
    let mut lab = joined(&[0, 0, 0]);
    lab.run(MINUTE);
    let same = |lab: &Lab| lab.hosts[0].counters.exchanges_same.load(Ordering::Relaxed);
    let before = same(&lab);
    for _ in 0..600 {
        let record = super::super::fixtures::service("h1", "x", 3_000_000_000, Status::Alive);
        let message = Bytes::from(json::encode_service(&record));
        lab.hear(0, message);
        lab.run(SECOND / 10);
    }
    let rejected = &lab.hosts[0].counters.records_rejected;
    assert_eq!(rejected.load(Ordering::Relaxed), 600);
    let exchanges = same(&lab) - before;
    assert!((6..=6 + 3).contains(&exchanges), "{exchanges}");
    assert_eq!(corrections(&lab), [0, 0, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_clocks_show_nobody_is_lost_and_nobody_returns(
        errors in proptest::collection::vec(
            prop_oneof![Just(0), -3 * YEAR..3 * YEAR, -1200_i64..1200],
            2..6,
        ),
        through in proptest::collection::vec(any::<prop::sample::Index>(), 6),
        set in proptest::collection::vec((any::<prop::sample::Index>(), -3 * YEAR..3 * YEAR), 0..3),
    ) {
        let mut lab = Lab::new(&errors);
        for (host, through) in (1..errors.len()).zip(through) {
            lab.announce(host, "gone");
            lab.join(host, through.index(host));
        }
        lab.run(3 * SECOND);
        for (host, error) in set {
            lab.hosts[host.index(errors.len())].error = error;
            lab.run(2 * SECOND);
        }
        for host in 1..errors.len() {
            lab.stop(host, "gone");
        }
        lab.run(2 * MINUTE);
        let expected: Vec<String> = (0..errors.len()).map(|host| format!("h{host}/s")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        lab.expect(&expected);
        let hosts = lab.hosts.iter().zip(corrections(&lab));
        let times: Vec<i64> = hosts.map(|(host, correction)| host.error + correction).collect();
        let (first, last) = (times.iter().min(), times.iter().max());
        prop_assert!(last.zip(first).is_some_and(|(last, first)| last - first < 600), "{:?}", times);
    }
}

#[test]
fn the_state_of_a_member_of_another_kind_makes_no_exchange_needless() {
    use memberlist::{Member, NodeState, Versions};
    let member = |name: &str, address: &str, meta: &'static str| Member {
        name: name.to_owned(),
        addr: address.parse().expect("an address"),
        meta: meta.into(),
        incarnation: 1,
        state: NodeState::Alive,
        versions: Versions::OURS,
    };
    let mut core = Core::new(Replica::new("us", "c", [], now(100)), Arc::default(), 1);
    let serf = member("serf", "10.0.0.1:7946", "\u{7f}role");
    let agent = member("agent", "10.0.0.2:7946", "{\"Generation\":1}");
    let address = agent.addr;
    for event in [
        Event::Joined(serf),
        Event::Joined(agent),
        Event::RemoteState {
            state: Bytes::from_static(b"\x05\x86"),
            join: true,
        },
    ] {
        core.gossip(event, now(100));
    }
    core.tick(now(101));
    assert!(core.actions().contains(&Action::Exchange(address)));
}

/// The first eight, and those after them.
#[test]
fn who_hears_of_many_newcomers_exchanges_states_until_both_sides_know_the_same_ones() {
    let mut core = Core::new(Replica::new("us", "c", [], now(100)), Arc::default(), 1);
    let meta = metadata::write("c").expect("short");
    let newcomer = |number: usize| {
        Event::Joined(memberlist::Member {
            name: format!("m{number}"),
            addr: format!("10.0.0.{number}:7946").parse().expect("an address"),
            meta: meta.clone().into(),
            incarnation: 1,
            state: memberlist::NodeState::Alive,
            versions: memberlist::Versions::OURS,
        })
    };
    let caught_up = |core: &mut Core, at: u64| {
        core.tick(now(at));
        let actions = core.actions().into_iter();
        actions
            .filter(|it| matches!(it, Action::CatchUp(_)))
            .count()
    };
    let replied = |core: &mut Core, members: Members, at: u64| {
        let head = exchange::Head {
            from: "m1".to_owned(),
            clock: now(at).wall,
        };
        let state = exchange::Message::Same { members }.encode(&head);
        core.gossip(Event::RemoteState { state, join: false }, now(at));
    };
    for few in 1..MANY {
        core.gossip(newcomer(few), now(100));
    }
    assert_eq!(caught_up(&mut core, 110), 0);
    core.gossip(newcomer(MANY), now(110));
    assert_eq!(caught_up(&mut core, 110), 0, "the others are just coming");
    assert_eq!(caught_up(&mut core, 111), 1);
    for at in 112..115 {
        replied(&mut core, Members::Differ, at - 1);
        replied(&mut core, Members::Shown, at - 1);
        assert_eq!(caught_up(&mut core, at), 1);
    }
    replied(&mut core, Members::Same, 120);
    assert_eq!(caught_up(&mut core, 130), 0);
    replied(&mut core, Members::Differ, 130);
    assert_eq!(caught_up(&mut core, 140), 0, "one who came or went since");
}

fn status_at(lab: &Lab, seen_by: usize, id: &str) -> Status {
    let snapshot = lab.hosts[seen_by].core.snapshot();
    snapshot.service("h0", id).expect("known").status
}

/// The outcome of an inquiry of the first host, once there is one.
fn outcome(lab: &Lab) -> Option<Applied> {
    let applied = lab.hosts[0].applied.last();
    applied.map(|(_, applied)| applied.clone())
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_drain_is_confirmed_by_all_once_their_routes_follow() {
    let mut lab = joined(&[0; 4]);
    lab.run(5 * SECOND);
    // This one knows, but its routes are not made yet.
    lab.hosts[3].routes = false;
    lab.command(0, |core, now| {
        core.drain("s", None, now).expect("here");
        core.inquire("s", 30 * SECOND, now)
    });
    lab.run(SECOND);
    assert_eq!(status_at(&lab, 3, "s"), Status::Draining);
    assert_eq!(outcome(&lab), None);
    lab.hosts[3].routes = true;
    lab.run(SECOND);
    let applied = outcome(&lab).expect("all have answered");
    assert_eq!(applied.confirmed, names(&["h0", "h1", "h2", "h3"]));
    assert!(applied.unconfirmed.is_empty() && applied.not_asked.is_empty());
    let kept = lab.hosts[0].kept.as_ref().map(Vec::len);
    assert_eq!(kept, Some(1));

    lab.command(0, |core, now| {
        core.undrain("s", now).expect("here");
        core.inquire("s", 30 * SECOND, now)
    });
    lab.run(SECOND);
    let number = lab.hosts[0].applied.len();
    assert_eq!(number, 2, "each inquiry has one outcome");
    for host in 0..4 {
        assert_eq!(status_at(&lab, host, "s"), Status::Alive);
    }
    assert_eq!(lab.hosts[0].kept.as_ref().map(Vec::len), Some(0));
}

#[test]
fn who_does_not_answer_is_named_and_who_is_buried_not_waited_for() {
    let mut lab = joined(&[0; 4]);
    lab.run(5 * SECOND);
    lab.sleep(2, Sleep::Stopped);
    lab.hosts[3].cut_off = true;
    let ask = |lab: &mut Lab| {
        lab.command(0, |core, now| {
            core.drain("s", None, now).expect("here");
            core.inquire("s", 10 * SECOND, now)
        });
    };
    ask(&mut lab);
    lab.run(9 * SECOND);
    assert_eq!(outcome(&lab), None);
    lab.run(2 * SECOND);
    let applied = outcome(&lab).expect("the time is over");
    assert_eq!(applied.confirmed, names(&["h0", "h1"]));
    assert_eq!(applied.unconfirmed, names(&["h2", "h3"]));

    ask(&mut lab);
    lab.run(SECOND);
    lab.bury(2);
    lab.bury(3);
    lab.run(SECOND);
    assert_eq!(lab.hosts[0].applied.len(), 2, "nobody is left to wait for");
    assert_eq!(outcome(&lab), Some(applied));
}

/// The question brings the record along, and is repeated.
#[test]
fn a_host_that_has_missed_the_news_confirms_all_the_same() {
    let mut lab = joined(&[0; 3]);
    lab.run(5 * SECOND);
    lab.hosts[2].cut_off = true;
    lab.command(0, |core, now| core.drain("s", None, now).expect("here"));
    lab.run(SECOND);
    assert_eq!(status_at(&lab, 2, "s"), Status::Alive);
    lab.command(0, |core, now| core.inquire("s", 10 * SECOND, now));
    lab.run(SECOND);
    lab.hosts[2].cut_off = false;
    lab.run(3 * SECOND);
    let applied = outcome(&lab).expect("asked again");
    assert_eq!(applied.confirmed, names(&["h0", "h1", "h2"]));
    assert_eq!(status_at(&lab, 2, "s"), Status::Draining);
}

#[test]
fn go_sidecars_are_not_asked_and_an_instance_returns_to_them_in_two_steps() {
    let mut lab = joined(&[0; 2]);
    lab.run(5 * SECOND);
    let go = |name: &str, meta: &'static [u8]| {
        Event::Joined(memberlist::Member {
            name: name.to_owned(),
            addr: "10.0.0.9:7946".parse().expect("an address"),
            meta: meta.into(),
            incarnation: 1,
            state: memberlist::NodeState::Alive,
            versions: memberlist::Versions::OURS,
        })
    };
    for host in 0..2 {
        lab.command(host, |core, now| {
            core.gossip(
                go("go", b"{\"ClusterName\":\"c\",\"State\":\"Running\"}"),
                now,
            );
            core.gossip(go("serf", b"\xff\x81\xa4role\xa3web"), now);
        });
    }
    lab.command(0, |core, now| core.drain("s", None, now).expect("here"));
    lab.run(SECOND);
    lab.command(0, |core, now| {
        core.undrain("s", now).expect("here");
        core.inquire("s", 10 * SECOND, now)
    });
    lab.run(SECOND / 2);
    assert_eq!(status_at(&lab, 1, "s"), Status::Unknown);
    assert_eq!(outcome(&lab), None, "it is not what it is to be yet");
    lab.run(SECOND);
    assert_eq!(status_at(&lab, 1, "s"), Status::Alive);
    let applied = outcome(&lab).expect("all have answered");
    assert_eq!(applied.confirmed, names(&["h0", "h1"]));
    assert_eq!(applied.not_asked, names(&["go", "serf"]));
}

#[test]
fn a_drain_ends_by_itself_everywhere() {
    let mut lab = joined(&[0; 3]);
    lab.run(5 * SECOND);
    lab.command(0, |core, now| {
        let done = core.drain("s", Some(30 * SECOND), now).expect("here");
        assert!(done.until.is_some());
    });
    lab.run(29 * SECOND);
    for host in 0..3 {
        assert_eq!(status_at(&lab, host, "s"), Status::Draining);
    }
    lab.run(2 * SECOND);
    for host in 0..3 {
        assert_eq!(status_at(&lab, host, "s"), Status::Alive);
    }
    assert_eq!(lab.hosts[0].kept.as_ref().map(Vec::len), Some(0));
}
