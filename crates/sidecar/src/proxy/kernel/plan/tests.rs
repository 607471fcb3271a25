use std::time::Instant;

use catalog::Snapshot;

use super::*;
use crate::proxy::kernel::{target::Target, turns::FIRST};

const PORT: u16 = 10_000;

fn address(host: u8) -> SocketAddr {
    ([10, 0, 0, host], 80).into()
}

/// A target with one service at these hosts, which are all there is to know.
fn target(hosts: &[u8]) -> Target {
    let mut target = Target::default();
    route(&mut target, hosts);
    target
}

fn route(target: &mut Target, hosts: &[u8]) {
    let weights = hosts.iter().map(|host| (address(*host), 1)).collect();
    let turns = (!hosts.is_empty()).then(|| Turns::new(&weights));
    let nobody = Snapshot::empty("here", "test");
    let now = Instant::now();
    target.route(PORT, Some("db"), turns, |_| None, &nobody, now);
}

fn changes(held: Option<&PortHeld>, target: &Target) -> (Vec<Change>, Option<PortHeld>) {
    let mut changes = Vec::new();
    let settled = plan(PORT, held, target.ports.get(&PORT), 0, &mut changes);
    (changes, settled)
}

#[test]
fn a_service_of_one_endpoint_needs_one_turn_and_no_chain() {
    let (found, held) = changes(None, &target(&[1]));
    assert_eq!(
        found,
        [
            Change::GiveTurn(PORT, FIRST, address(1)),
            Change::Add(Set::Opened, PORT, address(1)),
            Change::Add(Set::Live, PORT, address(1)),
        ]
    );
    assert_eq!(changes(held.as_ref(), &target(&[1])).0, []);
}

#[test]
fn another_endpoint_of_the_same_weight_changes_elements_alone() {
    let mut target = target(&[1, 2]);
    let held = changes(None, &target).1;
    route(&mut target, &[1, 3]);
    let (found, held) = changes(held.as_ref(), &target);
    assert_eq!(
        found,
        [
            Change::TakeTurn(PORT, 1),
            Change::GiveTurn(PORT, 1, address(3)),
            Change::Add(Set::Opened, PORT, address(3)),
            Change::Delete(Set::Opened, PORT, address(2)),
            Change::Add(Set::Live, PORT, address(3)),
            Change::Delete(Set::Live, PORT, address(2)),
            Change::Add(Set::Dead, PORT, address(2)),
        ]
    );
    // Who returns is not dead any more.
    route(&mut target, &[2, 3]);
    let (found, _) = changes(held.as_ref(), &target);
    assert!(found.contains(&Change::Delete(Set::Dead, PORT, address(2))));
    assert!(found.contains(&Change::Add(Set::Dead, PORT, address(1))));
}

#[test]
fn chain_and_entry_come_and_go_in_an_order_the_kernel_takes() {
    let mut target = target(&[1, 2]);
    let (found, held) = changes(None, &target);
    assert_eq!(
        found[..3],
        [
            Change::AddChain(PORT),
            Change::Count(PORT, 2, None),
            Change::Lead(PORT)
        ]
    );
    route(&mut target, &[]);
    let (found, held) = changes(held.as_ref(), &target);
    assert_eq!(
        found[..2],
        [Change::Unlead(PORT), Change::DeleteChain(PORT)]
    );
    // The dead stay for a while, and then nothing.
    assert_eq!(held.map(|it| it.dead.len()), Some(2));
}

#[test]
fn what_somebody_else_changed_is_changed_back() {
    let target = target(&[1, 2]);
    let Some(held) = changes(None, &target).1 else {
        panic!("there is a service");
    };
    let differences = |damage: &dyn Fn(&mut PortHeld)| {
        let mut held = held.clone();
        damage(&mut held);
        changes(Some(&held), &target).0
    };
    assert_eq!(differences(&|_| {}), []);
    assert_eq!(
        differences(&|it| it.entry = Entry::None),
        [Change::Lead(PORT)]
    );
    assert_eq!(
        differences(&|it| it.entry = Entry::Foreign),
        [Change::Unlead(PORT), Change::Lead(PORT)]
    );
    assert_eq!(
        differences(&|it| it.live.retain(|it| *it != address(1))),
        [Change::Add(Set::Live, PORT, address(1))]
    );
    assert_eq!(
        differences(&|it| it.dead.extend([(address(1), Duration::ZERO)])),
        [Change::Delete(Set::Dead, PORT, address(1))]
    );
    let one_more = differences(&|it| (it.counts, it.handle) = (Some(3), Some(7)));
    assert_eq!(one_more[0], Change::Count(PORT, 2, Some(7)));
    let recounted = differences(&|it| (it.counts, it.handle) = (None, Some(7)));
    assert_eq!(recounted[0], Change::Count(PORT, 2, None));
    // A turn that is nobody's, and one too many.
    let turn = held.turns[&0];
    assert_eq!(
        differences(&|it| it.turns.retain(|turn, _| *turn != 0)),
        [Change::GiveTurn(PORT, 0, turn)]
    );
    assert_eq!(
        differences(&|it| it.turns.extend([(7, turn)])),
        [Change::TakeTurn(PORT, 7)]
    );
}
