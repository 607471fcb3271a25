use super::super::fixtures::{now, service};
use super::*;

fn present(id: &str, status: Status, checked: bool) -> LocalUpdate {
    LocalUpdate::Present {
        service: service("me", id, 0, status),
        checked,
    }
}

/// A replica of host `me` that has joined and listed, started at second 100.
fn settled() -> Replica {
    let mut replica = Replica::new("me", "c", [SourceName::Static], now(100));
    replica.joined(now(100));
    replica.local(LocalUpdate::Listed(SourceName::Static), now(100));
    replica
}

fn shown(replica: &Replica, host: &str, id: &str) -> Option<Status> {
    replica
        .snapshot()
        .service(host, id)
        .map(|service| service.status)
}

#[test]
fn a_found_instance_is_unknown_then_what_its_check_says() {
    let mut replica = settled();
    let found = replica.local(present("1", Status::Unknown, false), now(101));
    assert_eq!(found.broadcasts.len(), 1);
    assert_eq!(shown(&replica, "me", "1"), Some(Status::Unknown));
    let checked = replica.local(present("1", Status::Alive, true), now(101));
    assert_eq!(checked.broadcasts[0].status, Status::Alive);
    assert!(checked.broadcasts[0].updated > found.broadcasts[0].updated);
    let again = replica.local(present("1", Status::Alive, true), now(102));
    assert!(again.broadcasts.is_empty() && again.changes.is_empty());
}

#[test]
fn a_restart_takes_nothing_out_of_service() {
    let mut replica = Replica::new("me", "c", [SourceName::Docker], now(100));
    // Found before the first join: silence, since peers may know it as alive.
    assert!(
        replica
            .local(present("1", Status::Unknown, false), now(100))
            .broadcasts
            .is_empty()
    );
    // The join brings what peers last knew.
    replica.remote(service("me", "1", 90, Status::Alive), now(101));
    replica.joined(now(101));
    assert_eq!(shown(&replica, "me", "1"), Some(Status::Alive));
    // The first result decides.
    let effects = replica.local(present("1", Status::Unhealthy, true), now(102));
    assert_eq!(effects.broadcasts[0].status, Status::Unhealthy);
}

/// A static file says nothing about age, and the oldest claim owns a port.
#[test]
fn a_restart_makes_nobody_younger() {
    let born = |id: &str, created: u64, stamp: u64, status| Service {
        created: now(created).wall,
        ..service("me", id, stamp, status)
    };
    let found = |id: &str, checked| LocalUpdate::Present {
        service: born(id, 100, 0, Status::Alive),
        checked,
    };
    let created = |replica: &Replica, id: &str| {
        let shown = replica.snapshot().service("me", id);
        shown.map(|service| service.created)
    };
    let mut replica = Replica::new("me", "c", [SourceName::Static], now(100));
    // One was checked before the join, one was not, and one has gone and come.
    replica.local(found("checked", true), now(100));
    replica.local(found("found", false), now(100));
    replica.local(found("returned", false), now(100));
    for id in ["checked", "found"] {
        replica.remote(born(id, 50, 90, Status::Alive), now(101));
    }
    replica.remote(born("returned", 50, 90, Status::Tombstone), now(101));
    let effects = replica.joined(now(101));
    // Where nothing is new, nothing is said.
    assert!(effects.broadcasts.iter().all(|news| news.id == "returned"));
    for id in ["checked", "found"] {
        assert_eq!(created(&replica, id), Some(now(50).wall), "{id}");
        assert_eq!(shown(&replica, "me", id), Some(Status::Alive));
        replica.local(found(id, true), now(102));
        assert_eq!(created(&replica, id), Some(now(50).wall), "{id}");
    }
    assert_eq!(created(&replica, "returned"), Some(now(100).wall));
    // One whose source lists it after the join.
    replica.remote(born("late", 50, 90, Status::Alive), now(103));
    let effects = replica.local(found("late", false), now(103));
    assert!(effects.broadcasts.is_empty());
    assert_eq!(created(&replica, "late"), Some(now(50).wall));
}

#[test]
fn an_instance_is_decided_by_its_check_or_by_what_the_cluster_knew() {
    let mut replica = Replica::new("me", "c", [SourceName::Static], now(100));
    assert!(!replica.is_undecided());
    replica.local(present("1", Status::Unknown, false), now(100));
    replica.local(present("2", Status::Unknown, false), now(100));
    assert!(replica.is_undecided());
    replica.remote(service("me", "1", 90, Status::Alive), now(101));
    replica.remote(service("me", "2", 90, Status::Tombstone), now(101));
    replica.joined(now(101));
    assert!(replica.has_joined() && replica.is_undecided());
    replica.local(present("2", Status::Unhealthy, true), now(102));
    assert!(!replica.is_undecided());
}

#[test]
fn a_fresh_instance_found_before_the_join_is_announced_after_it() {
    let mut replica = Replica::new("me", "c", [SourceName::Docker], now(100));
    replica.local(present("1", Status::Unknown, false), now(100));
    let effects = replica.joined(now(103));
    assert_eq!(effects.broadcasts[0].status, Status::Unknown);
}

#[test]
fn ghosts_of_a_former_life_are_buried_once_every_source_has_listed() {
    let mut replica = Replica::new(
        "me",
        "c",
        [SourceName::Docker, SourceName::Static],
        now(100),
    );
    replica.remote(service("me", "old", 90, Status::Alive), now(100));
    replica.joined(now(100));
    replica.local(LocalUpdate::Listed(SourceName::Docker), now(101));
    assert_eq!(
        shown(&replica, "me", "old"),
        Some(Status::Alive),
        "static has not listed"
    );
    let effects = replica.local(LocalUpdate::Listed(SourceName::Static), now(102));
    assert_eq!(effects.broadcasts[0].status, Status::Tombstone);
    // A peer that missed it is corrected.
    let again = replica.remote(service("me", "older", 95, Status::Alive), now(103));
    assert_eq!(again.broadcasts[0].status, Status::Tombstone);
}

#[test]
fn a_live_stranger_under_our_name_is_reported_and_left_alone() {
    let mut replica = settled();
    // Not of a former life with a clock that was ahead: nobody would have believed it.
    let effects = replica.remote(service("me", "x", 705, Status::Alive), now(705));
    assert_eq!((effects.foreign.len(), effects.broadcasts.len()), (1, 0));
    assert_eq!(shown(&replica, "me", "x"), Some(Status::Alive));
}

/// A clock that was set back, or has lost some minutes while the host was off.
#[test]
fn ghosts_of_a_former_life_whose_clock_was_ahead_are_buried() {
    let buried = |effects: &Effects, expected: u64| {
        let tombstone = &effects.broadcasts[0];
        assert_eq!(tombstone.status, Status::Tombstone);
        assert!(
            tombstone.updated > now(expected).wall,
            "{}",
            tombstone.updated
        );
    };
    // Known before every source has listed.
    let mut replica = Replica::new("me", "c", [SourceName::Docker], now(1000));
    replica.joined(now(1000));
    replica.remote(service("me", "old", 1400, Status::Alive), now(1001));
    let effects = replica.local(LocalUpdate::Listed(SourceName::Docker), now(1002));
    buried(&effects, 1400);
    // A newer word of the former life does not pass for an answer.
    let effects = replica.remote(service("me", "third", 900, Status::Alive), now(1003));
    buried(&effects, 900);
    let tombstone = effects.broadcasts[0].updated;
    let effects = replica.remote(service("me", "third", 1200, Status::Alive), now(1003));
    assert!(effects.broadcasts.is_empty() && effects.foreign.is_empty());
    assert_eq!(shown(&replica, "me", "third"), Some(Status::Tombstone));
    // Somebody who lives says it again, and is left alone.
    let answer = Service {
        updated: tombstone.next(),
        ..service("me", "third", 0, Status::Alive)
    };
    let effects = replica.remote(answer, now(1004));
    assert_eq!((effects.broadcasts.len(), effects.foreign.len()), (0, 1));
    assert_eq!(shown(&replica, "me", "third"), Some(Status::Alive));
    // From a host that could not be heard for an hour.
    let mut replica = settled();
    let late = service("me", "other", 600, Status::Alive);
    let effects = replica.remote(late, now(100 + 3600));
    buried(&effects, 600);
}

#[test]
fn what_was_said_before_time_went_back_twice_stays_buried() {
    let mut replica = settled();
    let at = |wall, monotonic| Now {
        wall: now(wall).wall,
        monotonic: now(monotonic).monotonic,
    };
    let first = replica.local(present("1", Status::Alive, true), at(100_000, 101));
    let echo = Service::clone(&first.broadcasts[0]);
    for (wall, monotonic) in [(50_000, 102), (20_000, 103)] {
        let effects = replica.time_moved(None, at(wall, monotonic));
        assert_eq!(effects.broadcasts[0].status, Status::Alive);
    }
    let gone = LocalUpdate::Gone { id: "1".into() };
    replica.local(gone, at(20_001, 104));
    // The majority was right in the beginning, and some have missed all that.
    let effects = replica.remote(echo, at(100_100, 200));
    assert_eq!(effects.broadcasts[0].status, Status::Tombstone);
    assert_eq!(shown(&replica, "me", "1"), Some(Status::Tombstone));
}

#[test]
fn untrue_news_about_own_instances_is_refuted() {
    let mut replica = settled();
    replica.local(present("1", Status::Alive, true), now(101));
    let lie = service("me", "1", 130, Status::Tombstone);
    let effects = replica.remote(lie.clone(), now(110));
    let truth = &effects.broadcasts[0];
    assert_eq!(truth.status, Status::Alive);
    assert!(
        truth.updated > lie.updated,
        "beats a stamp from a clock that runs ahead"
    );
    assert_eq!(shown(&replica, "me", "1"), Some(Status::Alive));
    // The same lie again is older than the truth.
    assert!(replica.remote(lie, now(111)).broadcasts.is_empty());
}

#[test]
fn stamps_grow_when_the_wall_clock_steps_back() {
    let mut replica = settled();
    let first = replica
        .local(present("1", Status::Alive, true), now(200))
        .broadcasts[0]
        .updated;
    let back = Now {
        wall: now(50).wall,
        monotonic: now(201).monotonic,
    };
    let effects = replica.local(present("1", Status::Unhealthy, true), back);
    assert!(effects.broadcasts[0].updated > first);
}

#[test]
fn news_is_passed_on_once() {
    let mut replica = settled();
    let record = service("peer", "1", 101, Status::Alive);
    assert_eq!(replica.remote(record.clone(), now(101)).broadcasts.len(), 1);
    assert!(replica.remote(record, now(102)).broadcasts.is_empty());
}

#[test]
fn among_our_own_nothing_is_repeated() {
    let mut replica = settled();
    replica.member_up("other", Kind::Ours, now(100));
    replica.member_up("serf", Kind::Foreign, now(100));
    replica.local(present("1", Status::Alive, true), now(101));
    replica.remote(service("other", "9", 101, Status::Alive), now(101));
    assert_eq!(replica.next_deadline(), None);
    assert!(replica.tick(now(1_000_000)).broadcasts.is_empty());
    for (host, id) in [("me", "1"), ("other", "9")] {
        assert_eq!(shown(&replica, host, id), Some(Status::Alive), "{host}");
    }
    let late = service("other", "8", 101, Status::Alive);
    let effects = replica.remote(late, now(1_000_000));
    assert!(effects.rejected.is_empty(), "old, but its host vouches");
    assert_eq!(shown(&replica, "other", "8"), Some(Status::Alive));
}

#[test]
fn for_a_go_member_quiet_records_are_refreshed_before_it_forgets_them() {
    let mut replica = settled();
    replica.local(present("1", Status::Alive, true), now(101));
    replica.member_up("go", Kind::Go, now(10_000));
    let deadline = replica.next_deadline().unwrap();
    assert!(deadline <= now(10_005).monotonic, "an old stamp is refused");
    let effects = replica.tick(now(10_005));
    assert_eq!(effects.broadcasts.len(), 1);
    assert!(effects.changes.is_empty());
    assert!(replica.tick(now(10_050)).broadcasts.is_empty());
    let deadline = replica.next_deadline().unwrap();
    assert!(deadline <= now(10_065).monotonic && deadline >= now(10_055).monotonic);
    assert_eq!(replica.tick(now(10_065)).broadcasts.len(), 1);
    replica.member_down("go", now(10_066));
    assert!(replica.tick(now(20_000)).broadcasts.is_empty());
}

#[test]
fn a_name_that_is_no_members_is_refreshed() {
    let mut replica = settled();
    let update = LocalUpdate::Present {
        service: service("node-7", "1", 0, Status::Alive),
        checked: true,
    };
    replica.local(update, now(101));
    assert_eq!(replica.tick(now(161)).broadcasts.len(), 1);
    assert_eq!(shown(&replica, "node-7", "1"), Some(Status::Alive));
}

#[test]
fn draining_outlives_good_and_bad_checks() {
    let mut replica = settled();
    replica.local(present("1", Status::Alive, true), now(101));
    let (done, effects) = replica.drain("1", None, now(102));
    assert_eq!(done.map(|done| done.name).as_deref(), Some("web"));
    assert_eq!(effects.broadcasts[0].status, Status::Draining);
    for status in [Status::Unhealthy, Status::Alive] {
        assert!(
            replica
                .local(present("1", status, true), now(103))
                .broadcasts
                .is_empty()
        );
    }
    assert_eq!(shown(&replica, "me", "1"), Some(Status::Draining));
    assert_eq!(replica.drain("nope", None, now(104)).0, None);
    replica.local(LocalUpdate::Gone { id: "1".into() }, now(105));
    assert_eq!(shown(&replica, "me", "1"), Some(Status::Tombstone));
}

#[test]
fn a_container_that_returns_is_announced_again() {
    let mut replica = settled();
    replica.local(present("1", Status::Alive, true), now(101));
    replica.local(LocalUpdate::Gone { id: "1".into() }, now(102));
    let effects = replica.local(present("1", Status::Unknown, false), now(103));
    assert_eq!(effects.broadcasts[0].status, Status::Unknown);
    let effects = replica.local(present("1", Status::Alive, true), now(103));
    assert_eq!(effects.broadcasts[0].status, Status::Alive);
}

#[test]
fn farewell_buries_everything_this_host_announced() {
    let mut replica = settled();
    replica.local(present("1", Status::Alive, true), now(101));
    replica.remote(service("peer", "1", 101, Status::Alive), now(101));
    let effects = replica.farewell(now(102));
    assert_eq!(effects.broadcasts.len(), 1);
    assert_eq!(shown(&replica, "me", "1"), Some(Status::Tombstone));
    assert_eq!(shown(&replica, "peer", "1"), Some(Status::Alive));
}

#[test]
fn stamps_from_far_in_the_future_are_refused_even_about_own_instances() {
    let mut replica = settled();
    replica.local(present("1", Status::Alive, true), now(101));
    let effects = replica.remote(service("me", "1", 10_000, Status::Tombstone), now(102));
    assert_eq!((effects.rejected.len(), effects.broadcasts.len()), (1, 0));
}

#[test]
fn a_drain_ends_at_its_time_or_when_it_is_taken_back() {
    let mut replica = settled();
    replica.local(present("1", Status::Alive, true), now(101));
    let (done, _) = replica.drain("1", Some(Duration::from_secs(600)), now(102));
    assert_eq!(done.unwrap().until, Some(now(702).wall));
    assert!(replica.tick(now(701)).broadcasts.is_empty());
    let effects = replica.tick(now(702));
    assert_eq!(effects.broadcasts[0].status, Status::Alive);
    assert_eq!(effects.returned, ["1"]);

    // Without a time it is without end, whatever was said before.
    replica.drain("1", Some(Duration::from_secs(60)), now(710));
    replica.drain("1", None, now(711));
    replica.tick(now(2000));
    assert_eq!(shown(&replica, "me", "1"), Some(Status::Draining));
    // What it is afterwards its check says.
    replica.local(present("1", Status::Unhealthy, true), now(2001));
    let (done, effects) = replica.undrain("1", now(2002));
    assert_eq!(done.unwrap().status, Status::Unhealthy);
    assert_eq!(effects.broadcasts[0].status, Status::Unhealthy);
    // Once more changes nothing.
    let (done, effects) = replica.undrain("1", now(2003));
    assert!(done.is_some() && effects.broadcasts.is_empty());
    assert_eq!(replica.undrain("nope", now(2003)).0, None);
}

#[test]
fn a_drain_does_not_outlive_its_instance() {
    let mut replica = settled();
    replica.local(present("1", Status::Alive, true), now(101));
    replica.drain("1", None, now(102));
    let (before, kept) = replica.drains();
    assert_eq!(kept.len(), 1);
    replica.local(LocalUpdate::Gone { id: "1".into() }, now(103));
    let (after, kept) = replica.drains();
    assert!(kept.is_empty() && before != after);
    replica.local(present("1", Status::Alive, true), now(104));
    assert_eq!(shown(&replica, "me", "1"), Some(Status::Alive));
}

/// An agent alone has nobody to ask what the agent before it was told.
#[test]
fn a_kept_drain_is_in_force_before_the_instance_is_announced() {
    let mut first = settled();
    for id in ["1", "2"] {
        first.local(present(id, Status::Alive, true), now(101));
    }
    first.drain("1", None, now(102));
    first.drain("2", Some(Duration::from_secs(60)), now(102));
    let kept = first.drains().1;

    let mut second =
        Replica::new("me", "c", [SourceName::Static], now(170)).with_drains(Some(kept), now(170));
    second.tick(now(170));
    for id in ["1", "2"] {
        // The cluster may still take the second for draining; its time was over meanwhile.
        second.remote(service("me", id, 102, Status::Draining), now(170));
        second.local(present(id, Status::Unknown, false), now(171));
    }
    second.joined(now(171));
    assert_eq!(shown(&second, "me", "1"), Some(Status::Draining));
    assert_eq!(shown(&second, "me", "2"), Some(Status::Unknown));
    for id in ["1", "2"] {
        second.local(present(id, Status::Alive, true), now(172));
    }
    assert_eq!(shown(&second, "me", "1"), Some(Status::Draining));
    assert_eq!(shown(&second, "me", "2"), Some(Status::Alive));
}

#[test]
fn a_drain_that_nobody_kept_is_learned_from_the_cluster() {
    let mut replica = Replica::new("me", "c", [SourceName::Static], now(170));
    replica.local(present("1", Status::Unknown, false), now(170));
    replica.remote(service("me", "1", 102, Status::Draining), now(170));
    replica.joined(now(171));
    replica.local(present("1", Status::Alive, true), now(172));
    assert_eq!(shown(&replica, "me", "1"), Some(Status::Draining));
    assert_eq!(replica.drains().1.len(), 1, "it is kept from now on");
    replica.undrain("1", now(173));
    assert_eq!(shown(&replica, "me", "1"), Some(Status::Alive));
}

/// What Go Sidecar makes of a record: whoever drains and is alive drains on.
struct GoPeer(Option<Service>);

impl GoPeer {
    fn hear(&mut self, news: &Service) -> Service {
        let mut record = news.clone();
        if let Some(held) = &self.0 {
            if record.updated <= held.updated {
                return held.clone();
            }
            if held.status == Status::Draining && record.status == Status::Alive {
                record.status = Status::Draining;
            }
        }
        self.0.insert(record).clone()
    }
}

#[test]
fn go_sidecars_let_an_instance_return_in_two_steps() {
    let mut replica = settled();
    let mut go = GoPeer(None);
    replica.member_up("go", Kind::Go, now(100));
    replica.local(present("1", Status::Alive, true), now(101));
    let (_, effects) = replica.drain("1", None, now(102));
    go.hear(&effects.broadcasts[0]);
    let (done, effects) = replica.undrain("1", now(103));
    assert_eq!(done.unwrap().status, Status::Alive, "what it will be");
    assert_eq!(effects.broadcasts[0].status, Status::Unknown);
    assert_eq!(replica.settled_record("1"), None);
    go.hear(&effects.broadcasts[0]);
    // A check in between changes nothing.
    let checked = replica.local(present("1", Status::Alive, true), now(103));
    assert!(checked.broadcasts.is_empty());
    let effects = replica.tick(now(104));
    assert_eq!(effects.broadcasts[0].status, Status::Alive);
    assert_eq!(go.hear(&effects.broadcasts[0]).status, Status::Alive);
    assert!(replica.settled_record("1").is_some());
}

#[test]
fn a_go_sidecar_that_has_missed_a_step_is_told_again() {
    let mut replica = settled();
    let mut go = GoPeer(None);
    replica.member_up("go", Kind::Go, now(100));
    replica.local(present("1", Status::Alive, true), now(101));
    let (_, effects) = replica.drain("1", None, now(102));
    go.hear(&effects.broadcasts[0]);
    replica.undrain("1", now(103));
    let effects = replica.tick(now(104));
    let echo = go.hear(&effects.broadcasts[0]);
    assert_eq!(echo.status, Status::Draining);
    // It passes that on, with our own stamp.
    let effects = replica.remote(echo.clone(), now(104));
    assert_eq!(effects.broadcasts[0].status, Status::Unknown);
    assert!(effects.foreign.is_empty());
    go.hear(&effects.broadcasts[0]);
    // An echo from before does not begin anew.
    assert!(replica.remote(echo, now(105)).broadcasts.is_empty());
    let effects = replica.tick(now(106));
    assert_eq!(go.hear(&effects.broadcasts[0]).status, Status::Alive);
}

/// Among our own agents one step is enough: nobody has to see it as unknown.
#[test]
fn agents_of_ours_let_an_instance_return_at_once() {
    let mut replica = settled();
    replica.member_up("peer", Kind::Ours, now(100));
    replica.local(present("1", Status::Alive, true), now(101));
    let (_, drained) = replica.drain("1", None, now(102));
    let (_, returned) = replica.undrain("1", now(103));
    assert_eq!(returned.broadcasts.len(), 1);
    let mut peer = Replica::new("peer", "c", [], now(100));
    peer.member_up("me", Kind::Ours, now(100));
    peer.remote(drained.broadcasts[0].record.clone(), now(102));
    assert_eq!(shown(&peer, "me", "1"), Some(Status::Draining));
    peer.remote(returned.broadcasts[0].record.clone(), now(103));
    assert_eq!(shown(&peer, "me", "1"), Some(Status::Alive));
}
