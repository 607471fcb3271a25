use catalog::{Author, Now, Port, State, Timestamp};

use super::*;

const PORT: u16 = 10_000;

fn address(port: u16) -> SocketAddr {
    ([10, 0, 0, 1], port).into()
}

fn turns(ports: &[u16]) -> Option<Turns> {
    let weights = ports.iter().map(|it| (address(*it), 1)).collect();
    (!ports.is_empty()).then(|| Turns::new(&weights))
}

/// A snapshot with instances named after their ports.
fn snapshot(instances: &[(u16, Status)]) -> Snapshot {
    let seconds = |it: i128| Timestamp::from_unix_nanos(it * 1_000_000_000);
    let mut state = State::new("here", "test");
    let now = Now {
        wall: seconds(1_000),
        monotonic: Instant::now(),
    };
    for (port, status) in instances {
        let service = Service {
            id: port.to_string(),
            name: "db".into(),
            image: "image:1".into(),
            created: seconds(1),
            hostname: "here".into(),
            ports: Some(vec![Port {
                kind: "tcp".into(),
                port: *port,
                service_port: PORT,
                ip: "10.0.0.1".into(),
            }]),
            updated: seconds(1_000),
            proxy_mode: "tcp".into(),
            weight: None,
            status: *status,
        };
        state.apply(service, Author::Own, now).unwrap();
    }
    state.snapshot().clone()
}

fn holder(address: SocketAddr) -> Option<Holder> {
    Some(("here".to_owned(), address.port().to_string()))
}

struct Rig {
    target: Target,
    now: Instant,
}

impl Rig {
    fn new(ports: &[u16]) -> Self {
        let mut rig = Self {
            target: Target::default(),
            now: Instant::now(),
        };
        rig.route(ports, &snapshot(&[]));
        rig
    }

    fn route(&mut self, ports: &[u16], snapshot: &Snapshot) {
        let turns = turns(ports);
        self.target
            .route(PORT, Some("db"), turns, holder, snapshot, self.now);
    }

    /// Ports of endpoints: tracked, dead.
    fn shown(&self) -> (Vec<u16>, Vec<u16>) {
        let Some(it) = self.target.ports.get(&PORT) else {
            return (Vec::new(), Vec::new());
        };
        let mut tracked: Vec<u16> = it.tracked().map(|it| it.port()).collect();
        tracked.sort_unstable();
        (tracked, it.dead.keys().map(|it| it.port()).collect())
    }
}

#[test]
fn connections_of_who_drains_go_on_and_those_of_the_dead_are_cut() {
    let mut rig = Rig::new(&[1, 2, 3, 4]);
    let now = snapshot(&[
        (1, Status::Alive),
        (2, Status::Draining),
        (3, Status::Unhealthy),
        (4, Status::Tombstone),
    ]);
    rig.route(&[1], &now);
    assert_eq!(rig.shown(), (vec![1, 2], vec![3, 4]));
    assert!(rig.target.has_lingering());
    // Nothing is new, and then the drained one ends.
    assert!(rig.target.recheck(&now, rig.now).is_empty());
    let later = snapshot(&[(1, Status::Alive), (2, Status::Tombstone)]);
    assert_eq!(rig.target.recheck(&later, rig.now), BTreeSet::from([PORT]));
    assert_eq!(rig.shown(), (vec![1], vec![2, 3, 4]));
    assert!(!rig.target.has_lingering());
    // Back at the same address.
    rig.route(&[1, 3], &later);
    assert_eq!(rig.shown(), (vec![1, 3], vec![2, 4]));
}

#[test]
fn an_alive_instance_without_its_route_keeps_its_connections() {
    let mut rig = Rig::new(&[1]);
    let alive = snapshot(&[(1, Status::Alive)]);
    rig.route(&[], &alive);
    assert_eq!(rig.shown(), (vec![1], vec![]));
    // Another instance under its name is at another address.
    rig.target.recheck(&snapshot(&[]), rig.now);
    assert_eq!(rig.shown(), (vec![], vec![1]));
}

#[test]
fn the_dead_are_forgotten_after_their_time_and_when_they_are_too_many() {
    let mut rig = Rig::new(&[1, 2]);
    rig.route(&[2], &snapshot(&[]));
    rig.now += DEAD_FOR / 2;
    rig.route(&[], &snapshot(&[]));
    assert_eq!(rig.shown(), (vec![], vec![1, 2]));
    rig.now += DEAD_FOR / 2;
    assert_eq!(rig.target.expire(rig.now), BTreeSet::from([PORT]));
    assert_eq!(rig.shown(), (vec![], vec![2]));
    rig.now += DEAD_FOR;
    rig.target.expire(rig.now);
    assert!(rig.target.ports.is_empty() && rig.target.dead_count() == 0);

    for port in 1..=10_000 {
        rig.route(&[port], &snapshot(&[]));
        rig.target.expire(rig.now);
    }
    assert_eq!(rig.target.dead_count(), DEAD_MAX);
    assert!(!rig.shown().1.contains(&1));
    assert!(rig.shown().1.contains(&9_999));
}

#[test]
fn what_a_former_agent_had_tracked_is_judged_by_what_is_there_now() {
    let mut rig = Rig::new(&[1]);
    let now = snapshot(&[(1, Status::Alive), (2, Status::Draining)]);
    let tracked = [1, 2, 3].map(|port| (PORT, address(port))).into();
    let hour = Duration::from_secs(3600);
    let dead = [(1, 2), (2, 2), (4, 1), (5, 5)];
    let dead = dead.map(|(port, hours)| ((PORT, address(port)), hour * hours));
    rig.target.adopt(&tracked, &dead.into(), &now, rig.now);
    assert_eq!(rig.shown(), (vec![1, 2], vec![3, 4, 5]));
    // The kernel forgets later than we do.
    rig.target.expire(rig.now);
    assert_eq!(rig.shown().1, [3, 5]);
}
