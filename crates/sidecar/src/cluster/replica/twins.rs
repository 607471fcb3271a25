//! Two live hosts of one name, and a third that hears both: nobody's services are lost, and they do
//! not contradict each other for ever.

use super::super::fixtures::{now, service};
use super::*;

/// Three replicas that hear everything the others say. The first two are both named `twin`.
struct Twins {
    replicas: [Replica; 3],
    at: u64,
    records_sent: usize,
    foreign: [usize; 3],
}

impl Twins {
    /// The first twin announces its instances at second 100, the third knows them.
    fn new(instances: &[&str]) -> Self {
        let mut twins = Self {
            replicas: ["twin", "twin", "third"].map(|name| started(name, 100)),
            at: 100,
            records_sent: 0,
            foreign: [0; 3],
        };
        twins.start(0, instances);
        twins
    }

    /// A host is there from now on, with its instances. What the third one knows comes first, as when
    /// it joins.
    fn start(&mut self, host: usize, instances: &[&str]) {
        let name = self.replicas[host].hostname().to_owned();
        self.replicas[host] = started(&name, self.at);
        let known = held(&self.replicas[2]);
        self.hear(host, known);
        let effects = self.replicas[host].joined(now(self.at));
        self.flow(host, effects);
        for id in instances {
            self.announce(host, id);
        }
        let listed = LocalUpdate::Listed(SourceName::Docker);
        let effects = self.replicas[host].local(listed, now(self.at));
        self.flow(host, effects);
    }

    fn announce(&mut self, host: usize, id: &str) {
        let name = self.replicas[host].hostname();
        let mut service = service(name, id, 0, Status::Alive);
        // Theirs are different containers, if by the same ID.
        service.image = format!("of-{host}");
        let checked = true;
        let effects =
            self.replicas[host].local(LocalUpdate::Present { service, checked }, now(self.at));
        self.flow(host, effects);
    }

    fn hear(&mut self, host: usize, records: Vec<Service>) {
        for record in records {
            let effects = self.replicas[host].remote(record, now(self.at));
            self.flow(host, effects);
        }
    }

    /// What `from` says, and all answers, until it is quiet.
    fn flow(&mut self, from: usize, effects: Effects) {
        let mut under_way = vec![(from, effects)];
        while let Some((from, effects)) = under_way.pop() {
            self.foreign[from] += effects.foreign.len();
            for record in effects.broadcasts {
                self.records_sent += 1;
                assert!(self.records_sent < 10_000, "a war");
                for to in (0..3).filter(|to| *to != from) {
                    let record = Service::clone(&record);
                    let answer = self.replicas[to].remote(record, now(self.at));
                    under_way.push((to, answer));
                }
            }
        }
    }

    /// Everybody exchanges with everybody, every twenty seconds.
    fn live(&mut self, seconds: u64, conflict_reported: bool) {
        for _ in 0..seconds / 20 {
            self.at += 20;
            for host in 0..3 {
                if conflict_reported && host < 2 {
                    self.replicas[host].rival_reported(now(self.at));
                }
                let effects = self.replicas[host].tick(now(self.at));
                self.flow(host, effects);
                for other in (0..3).filter(|other| *other != host) {
                    let offered = held(&self.replicas[other]);
                    self.hear(host, offered);
                }
            }
        }
    }

    /// Everybody sees these instances of the twins, and nothing else.
    fn expect(&self, instances: &[&str]) {
        for (number, replica) in self.replicas.iter().enumerate() {
            let services = replica.snapshot().services();
            let alive = services.filter(|it| it.is_alive() && it.hostname == "twin");
            let alive: Vec<&str> = alive.map(|it| it.id.as_str()).collect();
            assert_eq!(alive, instances, "{number}");
        }
    }
}

fn started(name: &str, at: u64) -> Replica {
    let mut replica = Replica::new(name, "c", [SourceName::Docker], now(at));
    for member in ["twin", "third"] {
        replica.member_up(member, Kind::Ours, now(at));
    }
    replica
}

fn held(replica: &Replica) -> Vec<Service> {
    let services = replica.snapshot().services();
    services.map(|service| Service::clone(service)).collect()
}

#[test]
fn neither_destroys_what_the_other_announces() {
    for conflict_reported in [true, false] {
        let mut twins = Twins::new(&["a", "b"]);
        twins.at += 3600;
        if conflict_reported {
            twins.replicas[1].rival_reported(now(twins.at));
        }
        twins.start(1, &["c"]);
        twins.expect(&["a", "b", "c"]);
        twins.at += 10;
        twins.start(1, &["c"]);
        twins.start(0, &["a", "b"]);
        twins.live(3 * 3600, conflict_reported);
        twins.expect(&["a", "b", "c"]);
        // Each announcement, one doubt of each start, its answer, and all of it passed on.
        assert!(twins.records_sent < 60, "{}", twins.records_sent);
        assert!(twins.foreign[0] > 0 && twins.foreign[1] > 0);
    }
}

#[test]
fn a_twin_that_was_not_reported_is_doubted_once() {
    let mut twins = Twins::new(&["a"]);
    twins.at += 3600;
    twins.records_sent = 0;
    twins.start(1, &[]);
    twins.expect(&["a"]);
    // The tombstone, the answer, and both passed on by the third.
    assert_eq!(twins.records_sent, 4);
    twins.live(600, false);
    assert_eq!(twins.records_sent, 4);
}

#[test]
fn two_that_announce_the_same_instance_do_not_fight_over_it() {
    for conflict_reported in [true, false] {
        let mut twins = Twins::new(&["a", "same"]);
        twins.at += 3600;
        twins.start(1, &["b", "same"]);
        twins.live(600, conflict_reported);
        twins.expect(&["a", "b", "same"]);
        twins.records_sent = 0;
        twins.live(3600, conflict_reported);
        twins.expect(&["a", "b", "same"]);
        // If nobody reports it, it is tried every five minutes whether the other one is still there.
        let rounds = if conflict_reported { 0 } else { 3600 / 300 };
        assert!(twins.records_sent <= rounds * 20, "{}", twins.records_sent);
    }
}

#[test]
fn what_a_twin_leaves_behind_is_buried_when_it_is_gone() {
    let mut twins = Twins::new(&["a"]);
    twins.at += 3600;
    twins.start(1, &["b"]);
    twins.live(600, true);
    twins.expect(&["a", "b"]);
    // Killed, and started again under another name.
    twins.replicas[1] = started("renamed", twins.at);
    twins.live(260, false);
    assert_eq!(
        twins.replicas[2]
            .snapshot()
            .service("twin", "b")
            .map(|it| it.status),
        Some(Status::Alive)
    );
    twins.live(100, false);
    twins.expect(&["a"]);
}

#[test]
fn ghosts_wait_while_a_twin_is_reported() {
    let mut replica = started("twin", 1000);
    replica.rival_reported(now(1000));
    replica.remote(service("twin", "old", 900, Status::Alive), now(1000));
    replica.joined(now(1000));
    let listed = LocalUpdate::Listed(SourceName::Docker);
    assert!(replica.local(listed, now(1000)).broadcasts.is_empty());
    assert_eq!(replica.next_deadline(), Some(now(1300).monotonic));
    let effects = replica.tick(now(1300));
    assert_eq!(effects.broadcasts[0].status, Status::Tombstone);
}

#[test]
fn what_we_have_buried_and_forgotten_does_not_return() {
    let mut replica = started("twin", 100);
    replica.joined(now(100));
    replica.local(LocalUpdate::Listed(SourceName::Docker), now(100));
    let late = 4 * 3600;
    let effects = replica.remote(service("twin", "old", 200, Status::Alive), now(late));
    assert_eq!(effects.broadcasts[0].status, Status::Tombstone);
    let effects = replica.remote(service("twin", "new", late - 60, Status::Alive), now(late));
    assert_eq!((effects.broadcasts.len(), effects.foreign.len()), (0, 1));
}
