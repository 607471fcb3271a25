use proptest::prelude::*;

use super::*;

const YEAR: i64 = 365 * 86_400;
const MINUTE: i64 = 60;

/// Reads so many seconds into the test, on a host whose wall clock is off by `error` seconds.
fn own(base: Instant, at: u64, error: i64) -> Now {
    let at = Duration::from_secs(at);
    Now {
        wall: wall(at, error),
        monotonic: base + at,
    }
}

/// What a clock shows that is off by `error` seconds.
fn wall(at: Duration, error: i64) -> Timestamp {
    let now = 1_800_000_000 + i128::from(error);
    Timestamp::from_unix_nanos(now * 1_000_000_000 + nanos(at))
}

/// A host with a wall clock that is off, and what it knows of others.
struct Host {
    base: Instant,
    at: u64,
    error: i64,
    agents: usize,
    clock: ClusterClock,
}

impl Host {
    fn new(error: i64, agents: usize) -> Self {
        let mut host = Self {
            base: Instant::now(),
            at: 0,
            error,
            agents,
            clock: ClusterClock::default(),
        };
        host.read();
        host
    }

    fn read(&mut self) -> Reading {
        self.clock
            .read(own(self.base, self.at, self.error), self.agents)
    }

    fn hear(&mut self, peer: &str, error: i64) -> Reading {
        let now = own(self.base, self.at, self.error).monotonic;
        let theirs = wall(Duration::from_secs(self.at), error);
        self.clock.heard(peer, theirs, now);
        self.read()
    }

    /// How far its time is from the true one, in seconds.
    fn error_left(&mut self) -> i64 {
        let truth = wall(Duration::from_secs(self.at), 0).as_unix_nanos();
        seconds(self.read().now.wall.as_unix_nanos() - truth)
    }
}

#[test]
fn of_two_the_one_ahead_yields() {
    let mut ahead = Host::new(YEAR, 2);
    let moved = ahead.hear("b", 0).moved.map(Offset::seconds);
    assert_eq!((moved, ahead.error_left()), (Some(-YEAR), 0));
    let mut behind = Host::new(0, 2);
    assert_eq!(behind.hear("a", YEAR).moved, None);
    assert_eq!(behind.error_left(), 0);
}

#[test]
fn the_majority_wins_whoever_is_met_first() {
    for (error, first, second) in [(0, -YEAR, 0), (-YEAR, 0, 0), (0, 0, -YEAR), (YEAR, 0, 0)] {
        let mut host = Host::new(error, 3);
        let early = host.hear("b", first).moved;
        assert_eq!(early, None, "one voice is no majority of three");
        assert_eq!(host.clock.in_doubt(), error != first);
        host.hear("c", second);
        assert!(!host.clock.in_doubt());
        assert_eq!(host.error_left(), 0);
        assert_eq!(host.clock.correction(), -error);
    }
}

#[test]
fn after_some_time_those_that_are_known_decide() {
    let mut host = Host::new(YEAR, 9);
    host.hear("b", 0);
    assert_eq!(host.error_left(), YEAR);
    let deadline = host
        .clock
        .next_deadline()
        .expect("there is something to decide");
    assert_eq!(deadline, host.base + PATIENCE);
    host.at = PATIENCE.as_secs();
    assert_eq!(host.error_left(), 0);
    assert!(!host.clock.in_doubt());
}

#[test]
fn a_step_of_our_own_clock_is_known_at_once() {
    let mut host = Host::new(0, 3);
    host.hear("b", 0);
    host.hear("c", 0);
    for error in [3 * YEAR, -3 * YEAR, 0, -6 * MINUTE] {
        host.at += 30;
        host.error = error;
        assert_eq!(host.read().moved, None, "the cluster's time goes on");
        assert_eq!(host.error_left(), 0);
        assert_eq!(host.clock.correction(), -error);
    }
}

#[test]
fn alone_the_time_agreed_on_goes_on_until_our_clock_is_set() {
    let mut host = Host::new(YEAR, 2);
    host.hear("b", 0);
    host.clock.left("b");
    host.at = 40;
    assert_eq!(host.read().moved, None);
    assert_eq!(host.error_left(), 0);
    host.error = 2 * YEAR;
    let moved = host.read().moved.map(Offset::seconds);
    assert_eq!((moved, host.error_left()), (Some(2 * YEAR), 2 * YEAR));
}

#[test]
fn alone_a_clock_that_is_set_moves_the_time() {
    let mut host = Host::new(YEAR, 1);
    host.at = 50;
    host.error = 0;
    assert_eq!(host.read().moved.map(Offset::seconds), Some(-YEAR));
    assert_eq!(host.read().moved, None, "once");
}

#[test]
fn steps_that_are_tolerated_one_by_one_add_up() {
    let mut host = Host::new(0, 1);
    let moves = (1..=4).map(|step| {
        host.at += 10;
        host.error = -3 * MINUTE * step;
        host.read().moved.map(Offset::seconds)
    });
    let moves: Vec<_> = moves.collect();
    assert_eq!(moves, [None, Some(-6 * MINUTE), None, Some(-6 * MINUTE)]);
}

#[test]
fn a_clock_at_the_edge_of_tolerance_does_not_flutter() {
    let mut host = Host::new(0, 2);
    let moves = (0..20).map(|round| {
        let moved = host.hear("b", -5 * MINUTE - 1 + 2 * (round % 2)).moved;
        usize::from(moved.is_some())
    });
    assert_eq!(moves.sum::<usize>(), 1);
    assert_ne!(host.clock.correction(), 0);
    host.hear("b", -MINUTE);
    assert_eq!(host.clock.correction(), 0);
}

#[test]
fn a_sleep_is_a_pause_and_no_step() {
    let mut host = Host::new(0, 3);
    host.hear("b", 0);
    host.hear("c", 0);
    host.at = 60;
    assert_eq!(host.read().paused, None);
    // The monotonic clock stood still, the wall clock did not.
    let slept = Duration::from_secs(4 * 3600);
    host.clock.suspended(slept);
    let now = Now {
        wall: wall(slept + Duration::from_secs(61), 0),
        monotonic: own(host.base, 61, 0).monotonic,
    };
    let reading = host.clock.read(now, 3);
    assert_eq!(reading.moved, None);
    assert_eq!(reading.paused, Some(slept + Duration::from_secs(1)));
    assert_eq!(reading.now.wall, now.wall);
    let deadline = host.clock.next_deadline();
    assert_eq!(deadline, Some(now.monotonic + READ_EVERY));
}

#[test]
fn what_waited_during_a_pause_says_nothing_of_clocks() {
    let mut host = Host::new(0, 2);
    host.hear("b", 0);
    host.at = 3600;
    assert!(host.read().paused.is_some());
    // Sent an hour ago, read now.
    host.hear("b", -3600);
    assert_eq!(host.error_left(), 0);
    host.at += DEAF_AFTER_PAUSE.as_secs();
    host.hear("b", -3600);
    assert_eq!(host.error_left(), -3600);
}

#[test]
fn the_latest_clocks_are_kept_and_the_gone_forgotten() {
    let mut host = Host::new(0, 1000);
    for peer in 0..CLOCKS_MAX + 10 {
        host.at += 1;
        host.hear(&peer.to_string(), 0);
    }
    let known = (0..CLOCKS_MAX + 10).filter(|peer| host.clock.knows(&peer.to_string()));
    assert!(known.eq(10..CLOCKS_MAX + 10));
    host.clock.left("70");
    assert!(!host.clock.knows("70"));
}

#[test]
fn differences_are_told_in_the_unit_that_fits() {
    for (seconds, words) in [
        (90, "90 seconds"),
        (390, "6.5 minutes"),
        (7_200, "2.0 hours"),
        (300_000, "3.4 days"),
        (730 * 86_400, "2.0 years"),
    ] {
        assert_eq!(in_words(seconds), words);
    }
}

/// Every one of these clocks has heard all the others: what each takes for the time, as an error.
fn all_meet(errors: &[i64]) -> Vec<i64> {
    let times = errors.iter().enumerate().map(|(us, error)| {
        let mut host = Host::new(*error, errors.len());
        for (peer, error) in errors.iter().enumerate().filter(|(peer, _)| *peer != us) {
            host.hear(&peer.to_string(), *error);
        }
        host.error_left()
    });
    times.collect()
}

fn errors() -> impl Strategy<Value = Vec<i64>> {
    let error = prop_oneof![-10 * YEAR..10 * YEAR, -20 * MINUTE..20 * MINUTE, Just(0)];
    proptest::collection::vec(error, 1..12)
}

proptest! {
    #[test]
    fn who_knows_the_same_clocks_comes_to_the_same_time(errors in errors()) {
        let mut sorted = errors.clone();
        sorted.sort_unstable();
        let median = sorted[(sorted.len() - 1) / 2];
        for (error, time) in errors.iter().zip(all_meet(&errors)) {
            if time == *error {
                prop_assert!((time - median).abs() < 5 * MINUTE);
            } else {
                prop_assert_eq!(time, median);
            }
        }
    }

    #[test]
    fn near_clocks_are_taken_as_they_are(
        around in -10 * YEAR..10 * YEAR,
        errors in proptest::collection::vec(0..5 * MINUTE, 1..12),
    ) {
        let errors: Vec<i64> = errors.iter().map(|error| around + error).collect();
        prop_assert_eq!(all_meet(&errors), errors);
    }
}
