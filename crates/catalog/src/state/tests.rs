mod properties;

use super::*;
use crate::{Buckets, service::tests::service};

fn now(seconds: u64) -> Now {
    // A fixed base keeps every test in one monotonic frame.
    static BASE: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let base = *BASE.get_or_init(Instant::now);
    Now {
        wall: Timestamp::EPOCH.plus(Duration::from_secs(seconds)),
        monotonic: base + Duration::from_secs(seconds),
    }
}

fn at(seconds: u64) -> i128 {
    i128::from(seconds) * 1_000_000_000
}

/// A peer's record that is acceptable.
fn hear(state: &mut State, record: Service, now: Now) -> Applied {
    state.apply(record, Author::Peer, now).unwrap()
}

fn shown(state: &State, host: &str, id: &str) -> Option<Status> {
    state
        .snapshot()
        .service(host, id)
        .map(|service| service.status)
}

#[test]
fn newer_wins_at_nanosecond_precision() {
    let mut state = State::new("me", "c");
    let first = hear(&mut state, service("a", "1", at(5), Status::Alive), now(5));
    let Applied::New(Some(change)) = first else {
        panic!("first sight is a change: {first:?}")
    };
    assert_eq!(change.previous, Status::Unknown);
    let older = service("a", "1", at(5) - 1, Status::Unhealthy);
    assert_eq!(state.apply(older, Author::Peer, now(5)), Ok(Applied::Known));
    let newer = service("a", "1", at(5) + 1, Status::Unhealthy);
    let Ok(Applied::New(Some(change))) = state.apply(newer, Author::Peer, now(5)) else {
        panic!()
    };
    assert_eq!(
        (change.previous, change.service.status),
        (Status::Alive, Status::Unhealthy)
    );
    assert!(change.time > Timestamp::from_unix_nanos(at(5)));
}

#[test]
fn a_refresh_is_news_but_no_change() {
    let mut state = State::new("me", "c");
    hear(&mut state, service("a", "1", at(5), Status::Alive), now(5));
    let changes = state.snapshot().changes;
    let refreshed = state.apply(
        service("a", "1", at(65), Status::Alive),
        Author::Peer,
        now(65),
    );
    assert_eq!(refreshed, Ok(Applied::New(None)));
    assert_eq!(state.snapshot().changes, changes);
    assert_eq!(
        state
            .snapshot()
            .service("a", "1")
            .unwrap()
            .updated
            .as_unix_nanos(),
        at(65)
    );
}

#[test]
fn a_change_of_ports_alone_is_a_change() {
    let mut state = State::new("me", "c");
    hear(&mut state, service("a", "1", at(5), Status::Alive), now(5));
    let mut moved = service("a", "1", at(6), Status::Alive);
    moved.ports.as_mut().unwrap()[0].port = 40000;
    let Ok(Applied::New(Some(change))) = state.apply(moved, Author::Peer, now(6)) else {
        panic!()
    };
    assert_eq!(change.previous, Status::Alive);
}

#[test]
fn draining_sticks_against_alive_of_a_peer_only() {
    for (author, expected) in [
        (Author::Peer, Status::Draining),
        (Author::Own, Status::Alive),
    ] {
        let mut state = State::new("me", "c");
        state
            .apply(service("a", "1", at(5), Status::Draining), author, now(5))
            .unwrap();
        state
            .apply(service("a", "1", at(6), Status::Alive), author, now(6))
            .unwrap();
        assert_eq!(shown(&state, "a", "1"), Some(expected));
    }
}

/// Who keeps its records by membership says itself when it drains, and when it is over.
#[test]
fn draining_sticks_for_hosts_that_refresh_only() {
    for (upkeep, expected) in [
        (Upkeep::Refresh, Status::Draining),
        (Upkeep::Membership, Status::Alive),
    ] {
        let mut state = State::new("me", "c");
        state.member_up("a", upkeep, now(1));
        for (seconds, status) in [(5, Status::Draining), (6, Status::Alive)] {
            let record = service("a", "1", at(seconds), status);
            state.apply(record, Author::Peer, now(seconds)).unwrap();
        }
        assert_eq!(shown(&state, "a", "1"), Some(expected));
    }
}

#[test]
fn impossible_stamps_are_refused() {
    let mut state = State::new("me", "c");
    let stale = service("a", "1", at(0), Status::Alive);
    assert!(matches!(
        state.apply(stale, Author::Peer, now(20_000)),
        Err(Rejected::Stale(_))
    ));
    let future = service("a", "1", at(20_601), Status::Alive);
    assert!(matches!(
        state.apply(future, Author::Peer, now(20_000)),
        Err(Rejected::Future(_))
    ));
    assert_eq!(shown(&state, "a", "1"), None);
}

#[test]
fn a_dead_host_shows_tombstones_and_returns_as_it_was() {
    let mut state = State::new("me", "c");
    state.member_up("a", Upkeep::Membership, now(1));
    hear(&mut state, service("a", "1", at(5), Status::Alive), now(5));
    hear(
        &mut state,
        service("a", "2", at(5), Status::Unhealthy),
        now(5),
    );
    let gone = state.member_down("a", now(6));
    assert_eq!(gone.len(), 2);
    assert_eq!(shown(&state, "a", "1"), Some(Status::Tombstone));
    assert_eq!(state.record("a", "1").unwrap().status, Status::Alive);
    assert!(!state.snapshot().members.contains_key("a"));
    assert!(!crate::json::encode_replica(state.snapshot()).contains("\"a\""));
    let back = state.member_up("a", Upkeep::Membership, now(100));
    assert_eq!(back.len(), 2);
    assert_eq!(shown(&state, "a", "1"), Some(Status::Alive));
    assert_eq!(shown(&state, "a", "2"), Some(Status::Unhealthy));
}

#[test]
fn a_late_record_of_a_dead_host_stays_hidden() {
    let mut state = State::new("me", "c");
    state.member_down("a", now(1));
    hear(&mut state, service("a", "1", at(1), Status::Alive), now(2));
    assert_eq!(shown(&state, "a", "1"), Some(Status::Tombstone));
}

#[test]
fn unrefreshed_records_expire_by_local_receipt_and_tombstones_are_forgotten() {
    let mut state = State::new("me", "c");
    // The origin's clock is 30 s behind; only the time since receipt counts.
    hear(
        &mut state,
        service("a", "1", at(70), Status::Alive),
        now(100),
    );
    assert!(state.expire(now(179)).is_empty());
    assert_eq!(state.next_expiry(), Some(now(180).monotonic));
    assert_eq!(state.expire(now(180)).len(), 1);
    assert_eq!(shown(&state, "a", "1"), Some(Status::Tombstone));
    assert!(state.expire(now(181)).is_empty());
    hear(
        &mut state,
        service("a", "1", at(175), Status::Alive),
        now(182),
    );
    assert_eq!(shown(&state, "a", "1"), Some(Status::Alive));
    hear(
        &mut state,
        service("a", "1", at(183), Status::Tombstone),
        now(183),
    );
    state.expire(now(183 + 3 * 3600 - 1));
    assert_eq!(shown(&state, "a", "1"), Some(Status::Tombstone));
    state.expire(now(183 + 3 * 3600));
    assert_eq!(shown(&state, "a", "1"), None);
    assert!(state.snapshot().hosts.get("a").is_none());
}

#[test]
fn an_expired_record_is_forgotten_by_the_time_of_its_receipt() {
    let mut state = State::new("me", "c");
    let record = service("a", "1", at(100), Status::Alive);
    hear(&mut state, record, now(100));
    // Nobody looked for a while: only what was due then is due now.
    assert_eq!(state.expire(now(1000)).len(), 1);
    assert_eq!(state.next_expiry(), Some(now(100 + 3 * 3600).monotonic));
    state.expire(now(100 + 3 * 3600));
    assert_eq!(shown(&state, "a", "1"), None);
}

#[test]
fn records_of_a_member_of_ours_stand_as_long_as_it_does() {
    let mut state = State::new("me", "c");
    state.member_up("a", Upkeep::Membership, now(1));
    hear(&mut state, service("a", "1", at(5), Status::Alive), now(5));
    assert_eq!(state.next_expiry(), None);
    let day = 86_400;
    // Longer ago than a tombstone lasts: a short absence must not cost the records.
    state.member_down("a", now(day));
    assert_eq!(state.next_expiry(), Some(now(day + 3 * 3600).monotonic));
    state.expire(now(day + 1));
    assert_eq!(
        state.member_up("a", Upkeep::Membership, now(day + 2)).len(),
        1
    );
    assert_eq!(shown(&state, "a", "1"), Some(Status::Alive));
    state.member_down("a", now(2 * day));
    state.expire(now(2 * day + 3 * 3600));
    assert_eq!(shown(&state, "a", "1"), None);
    assert!(state.snapshot().hosts.get("a").is_none());
    assert_eq!(state.next_expiry(), None);
    assert_eq!(state.snapshot().digest.root(), 0);
}

#[test]
fn a_member_that_turns_out_to_be_go_must_refresh() {
    let mut state = State::new("me", "c");
    state.member_up("a", Upkeep::Membership, now(1));
    hear(&mut state, service("a", "1", at(5), Status::Alive), now(5));
    state.member_up("a", Upkeep::Refresh, now(1000));
    assert_eq!(state.expire(now(1079)), []);
    assert_eq!(state.expire(now(1080)).len(), 1);
}

#[test]
fn the_verdict_on_a_host_without_records_is_forgotten_too() {
    let mut state = State::new("me", "c");
    state.member_up("a", Upkeep::Membership, now(1));
    state.member_down("a", now(5));
    state.expire(now(5 + 3 * 3600 - 1));
    hear(
        &mut state,
        service("a", "1", at(3 * 3600), Status::Alive),
        now(3 * 3600),
    );
    assert_eq!(shown(&state, "a", "1"), Some(Status::Tombstone));
    state.expire(now(6 * 3600 - 1));
    assert!(state.snapshot().hosts.contains_key("a"));
    assert_eq!(state.presence("a"), Presence::Down);
    state.expire(now(6 * 3600));
    assert!(!state.snapshot().hosts.contains_key("a"));
    assert_eq!(state.presence("a"), Presence::Unknown);
}

#[test]
fn digests_tell_what_differs_and_nothing_that_is_merely_concluded() {
    let (mut one, mut other) = (State::new("me", "c"), State::new("you", "c"));
    for state in [&mut one, &mut other] {
        state.member_up("a", Upkeep::Membership, now(1));
        state.member_up("go", Upkeep::Refresh, now(1));
        hear(state, service("a", "1", at(5), Status::Alive), now(5));
        hear(state, service("go", "1", at(5), Status::Alive), now(5));
    }
    let digest = |state: &State| state.snapshot().digest.clone();
    assert_ne!(digest(&one).root(), 0);
    assert_eq!(digest(&one), digest(&other));

    // A refresh of a Go host's record is no difference, one of ours is.
    hear(&mut one, service("go", "1", at(65), Status::Alive), now(65));
    assert_eq!(digest(&one), digest(&other));
    hear(&mut one, service("a", "1", at(66), Status::Alive), now(66));
    let buckets = digest(&one).differences(&digest(&other));
    assert_eq!(buckets.len(), 1);
    let differing: Vec<i128> = one
        .snapshot()
        .records_in(&buckets)
        .map(|record| record.updated.as_unix_nanos())
        .collect();
    assert_eq!(differing, [at(66)]);

    // Tombstones do not count, nor does a host that is down.
    hear(
        &mut one,
        service("a", "1", at(67), Status::Tombstone),
        now(67),
    );
    other.member_down("a", now(67));
    assert_eq!(digest(&one), digest(&other));
    let buckets = Buckets::from_bytes(&[0xff; crate::BUCKETS_BYTES]).unwrap();
    let names = |state: &State| -> Vec<String> {
        let records = state.snapshot().records_in(&buckets);
        records.map(|record| record.hostname.clone()).collect()
    };
    assert_eq!(names(&one), ["a", "go"], "a tombstone is a record");
    assert_eq!(names(&other), ["go"]);
}

#[test]
fn draining_records_live_ten_minutes() {
    let mut state = State::new("me", "c");
    hear(
        &mut state,
        service("a", "1", at(5), Status::Draining),
        now(5),
    );
    assert!(state.expire(now(604)).is_empty());
    assert_eq!(state.expire(now(605)).len(), 1);
}

#[test]
fn last_changed_never_goes_back() {
    let mut state = State::new("me", "c");
    hear(
        &mut state,
        service("a", "1", at(500), Status::Alive),
        now(500),
    );
    let before = state.snapshot().last_changed;
    hear(
        &mut state,
        service("b", "1", at(400), Status::Alive),
        now(500),
    );
    assert!(state.snapshot().last_changed > before);
}

#[test]
fn snapshots_share_untouched_hosts() {
    let mut state = State::new("me", "c");
    hear(&mut state, service("a", "1", at(5), Status::Alive), now(5));
    let before = state.snapshot().clone();
    hear(&mut state, service("b", "1", at(5), Status::Alive), now(5));
    let after = state.snapshot();
    assert!(Arc::ptr_eq(
        before.hosts.get("a").unwrap(),
        after.hosts.get("a").unwrap()
    ));
    assert!(before.hosts.get("b").is_none());
}

#[test]
fn forgotten_future_records_leave_no_trace() {
    let mut state = State::new("a", "c");
    for host in ["a", "b"] {
        state.member_up(host, Upkeep::Membership, now(1));
        let record = service(host, "1", at(5), Status::Alive);
        hear(&mut state, record, now(5));
    }
    let digest = state.snapshot().digest.clone();
    for host in ["a", "b", "c"] {
        for (id, status) in [("2", Status::Alive), ("3", Status::Tombstone)] {
            let record = service(host, id, at(500), status);
            hear(&mut state, record, now(5));
        }
    }
    // One that nobody vouches for: a deadline to clear as well.
    assert!(state.next_expiry().is_some());
    assert_eq!(state.forget_newer_than(now(500).wall, now(6)), []);
    let last_changed = state.snapshot().last_changed;

    let changes = state.forget_newer_than(now(499).wall, now(6));
    let told: Vec<_> = changes
        .iter()
        .map(|it| (&*it.service.hostname, &*it.service.id, it.previous))
        .collect();
    let alive = Status::Alive;
    assert_eq!(
        told,
        [("a", "2", alive), ("b", "2", alive), ("c", "2", alive)]
    );
    assert!(changes.iter().all(|it| it.service.is_tombstone()));
    let snapshot = state.snapshot();
    assert!(changes.windows(2).all(|two| two[0].time < two[1].time));
    assert!(changes[0].time > last_changed);
    assert_eq!(changes[2].time, snapshot.last_changed);
    assert_eq!(snapshot.services().count(), 2);
    assert!(!snapshot.hosts.contains_key("c"));
    assert_eq!(
        snapshot.hosts.get("b").unwrap().last_updated,
        now(5).wall,
        "the stamp in the future is forgotten, too"
    );
    assert_eq!(snapshot.digest, digest);
    assert_eq!(state.next_expiry(), None);

    // No tombstone stands against what is older.
    let older = service("b", "3", at(6), Status::Alive);
    assert!(matches!(
        hear(&mut state, older, now(6)),
        Applied::New(Some(_))
    ));
}

#[test]
fn of_others_only_their_membership_is_remembered() {
    let mut state = State::new("me", "c");
    for (host, upkeep) in [
        ("me", Upkeep::Membership),
        ("peer", Upkeep::Membership),
        ("go", Upkeep::Refresh),
        ("down", Upkeep::Membership),
    ] {
        state.member_up(host, upkeep, now(1));
    }
    for host in ["me", "peer", "go", "down", "stranger"] {
        for (id, status) in [("1", Status::Alive), ("2", Status::Tombstone)] {
            let record = service(host, id, at(5), status);
            hear(&mut state, record, now(5));
        }
    }
    state.member_down("down", now(6));
    let changes = state.forget_others("me", now(7));
    let told: Vec<_> = changes.iter().map(|it| &*it.service.hostname).collect();
    assert_eq!(
        told,
        ["go", "peer", "stranger"],
        "what was down is not gone twice"
    );
    let left: Vec<_> = state
        .snapshot()
        .services()
        .map(|it| &*it.hostname)
        .collect();
    assert_eq!(left, ["me", "me"]);
    let members: Vec<_> = state.snapshot().members.keys().map(|it| &**it).collect();
    assert_eq!(members, ["go", "me", "peer"]);
    assert_eq!(state.presence("down"), Presence::Unknown);
    assert_eq!(
        state.next_expiry(),
        Some(now(5 + 3 * 3600).monotonic),
        "the tombstone of this host is all that is left to expire"
    );

    // A member still vouches for records however old.
    let old = service("peer", "1", at(5), Status::Alive);
    hear(&mut state, old, now(1_000_000));
    assert_eq!(shown(&state, "peer", "1"), Some(Status::Alive));
}

#[test]
fn this_host_may_be_down_itself_when_others_are_forgotten() {
    let mut state = State::new("me", "c");
    state.member_down("me", now(1));
    state.forget_others("me", now(2));
    assert_eq!(state.presence("me"), Presence::Down);
}

#[test]
fn live_records_of_members_of_ours_leave_no_trace_of_when_they_came() {
    let record = |host: &str| service(host, "1", at(5), Status::Alive);
    let (mut one, mut other) = (State::new("me", "c"), State::new("me", "c"));
    one.member_up("a", Upkeep::Membership, now(1));
    hear(&mut one, record("a"), now(5));
    hear(&mut other, record("a"), now(50));
    other.member_up("a", Upkeep::Membership, now(60));
    assert_eq!(one.deadlines, other.deadlines);
    assert_eq!(one.deadlines, Deadlines::default());
    assert_eq!(
        one.view.hosts.get("a").unwrap().held,
        other.view.hosts.get("a").unwrap().held
    );
}

#[test]
fn a_record_is_kept_as_it_was_given() {
    let mut state = State::new("me", "c");
    let record = Arc::new(service("a", "1", at(5), Status::Alive));
    state.apply(record.clone(), Author::Peer, now(5)).unwrap();
    assert!(Arc::ptr_eq(state.record("a", "1").unwrap(), &record));
}

#[test]
fn one_deadline_stands_for_all_records_of_a_host_that_is_down() {
    let mut state = State::new("me", "c");
    state.member_up("a", Upkeep::Refresh, now(1));
    for id in ["1", "2", "3"] {
        hear(&mut state, service("a", id, at(5), Status::Alive), now(5));
    }
    state.member_down("a", now(10));
    let forgotten = 10 + 3 * 3600;
    assert_eq!(state.next_expiry(), Some(now(forgotten).monotonic));
    assert_eq!(state.expire(now(forgotten)), []);
    assert_eq!(state.next_expiry(), None);
    assert!(state.snapshot().hosts.is_empty());
}

#[test]
fn a_clone_for_another_host_shares_all_records() {
    let mut state = State::new("me", "c");
    hear(&mut state, service("a", "1", at(5), Status::Alive), now(5));
    let other = state.seen_from("you");
    assert_eq!(&*other.snapshot().hostname, "you");
    assert_eq!(&*state.snapshot().hostname, "me");
    assert!(other.view.hosts.ptr_eq(&state.view.hosts));
}
