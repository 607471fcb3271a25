//! Scenarios of whole clusters on the virtual network, with fixed seeds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use memberlist::node::{Event, Node};
use memberlist::sim::{Faults, HostId, Network};
use memberlist::wire::message::NodeState;

const SECOND: Duration = Duration::from_secs(1);

/// `count` hosts that all joined the first one and know each other.
fn cluster(seed: u64, count: usize) -> Network {
    let mut network = Network::new(seed, Instant::now());
    for id in 0..count {
        network
            .add(Network::config(name(id), id))
            .expect("valid settings");
        if id > 0 {
            network.join(id, 0);
        }
    }
    let took = network.run_while_waiting(SECOND * 60, Network::converged);
    assert!(
        took.is_some(),
        "seed {seed}: {count} hosts do not converge in a minute"
    );
    network
}

fn name(id: HostId) -> String {
    format!("node-{id:03}")
}

fn state(node: &Node, id: HostId) -> Option<NodeState> {
    node.member(&name(id)).map(|member| member.state)
}

/// Running hosts whose application was told that `id` is gone.
fn mourners(network: &Network, id: HostId) -> BTreeSet<HostId> {
    let name = name(id);
    let told = |host: &HostId| {
        network
            .events(*host)
            .any(|(_, event)| matches!(event, Event::Left(member) if member.name == name))
    };
    network
        .running()
        .map(|(host, _)| host)
        .filter(told)
        .collect()
}

fn received(network: &Network, host: HostId, message: &[u8]) -> bool {
    network
        .events(host)
        .any(|(_, event)| matches!(event, Event::Message(bytes) if bytes == message))
}

#[test]
fn hosts_that_join_one_seed_find_each_other_within_seconds() {
    for seed in 0..5 {
        let mut network = Network::new(seed, Instant::now());
        for id in 0..30 {
            network
                .add(Network::config(name(id), id))
                .expect("valid settings");
            network.join(id, 0);
        }
        let took = network.run_while_waiting(SECOND * 10, Network::converged);
        assert!(
            took.is_some_and(|took| took < SECOND * 3),
            "seed {seed}: {took:?}"
        );
        assert_eq!(network.tally().unreadable, 0);
    }
}

#[test]
fn a_crash_is_known_everywhere_after_the_suspicion() {
    for seed in 0..5 {
        let mut network = cluster(seed, 12);
        let victim = 7;
        network.crash(victim);
        let all_know = |network: &Network| {
            network
                .running()
                .all(|(_, node)| state(node, victim) == Some(NodeState::Dead))
        };
        let took = network.run_while_waiting(SECOND * 60, all_know);
        // Two probe cycles at most to notice, at least the shortest and at most the longest
        // suspicion to be sure, and the time gossip takes.
        let bounds = SECOND * 5..SECOND * (2 * 12 + 33);
        assert!(
            took.is_some_and(|took| bounds.contains(&took)),
            "seed {seed}: {took:?}"
        );
        assert_eq!(mourners(&network, victim).len(), 11);
    }
}

#[test]
fn a_quiet_network_never_suspects_anyone() {
    let mut network = cluster(1, 20);
    network.run_for(SECOND * 600);
    assert!(network.converged());
    for (_, node) in network.running() {
        assert_eq!(node.counters().suspicions, 0);
        assert_eq!(node.health_score(), 0);
        assert!(node.counters().probes_succeeded > 500);
    }
}

#[test]
fn a_leave_is_seen_at_once_and_never_as_a_suspicion() {
    for seed in 0..5 {
        let mut network = cluster(seed, 20);
        let leaver = 3;
        network.with(leaver, Node::leave);
        let all_know = |network: &Network| {
            network
                .running()
                .all(|(_, node)| state(node, leaver) == Some(NodeState::Left))
        };
        let took = network.run_while_waiting(SECOND * 10, all_know);
        assert!(
            took.is_some_and(|took| took < SECOND),
            "seed {seed}: {took:?}"
        );
        let drained = |network: &Network| !network.node(leaver).expect("up").leave_pending();
        assert!(network.run_while_waiting(SECOND * 10, drained).is_some());
        network.crash(leaver);
        network.run_for(SECOND * 120);
        let suspicions: u64 = network
            .running()
            .map(|(_, node)| node.counters().suspicions)
            .sum();
        assert_eq!(suspicions, 0, "seed {seed}");
        assert!(
            network
                .running()
                .all(|(_, node)| state(node, leaver).is_none()),
            "forgotten"
        );
    }
}

#[test]
fn a_long_partition_heals_through_the_seeds() {
    for seed in 0..3 {
        let mut network = cluster(seed, 8);
        network.partition(&[&[0, 1, 2, 3], &[4, 5, 6, 7]]);
        network.run_for(SECOND * 600);
        for (_, node) in network.running() {
            assert_eq!(node.members().len(), 4, "each side has forgotten the other");
        }
        network.heal();
        let took = network.run_while_waiting(SECOND * 720, Network::converged);
        assert!(took.is_some(), "seed {seed}: {network:?}");
        assert!(network.tally().blocked > 0);
    }
}

#[test]
fn a_short_partition_heals_by_refutation() {
    let mut network = cluster(3, 8);
    network.partition(&[&[0, 1, 2, 3], &[4, 5, 6, 7]]);
    network.run_for(SECOND * 4);
    network.heal();
    let took = network.run_while_waiting(SECOND * 30, Network::converged);
    assert!(took.is_some(), "{network:?}");
    assert!((0..8).all(|id| mourners(&network, id).is_empty()));
    let refutations: u64 = network
        .running()
        .map(|(_, node)| node.counters().refutations)
        .sum();
    assert!(refutations > 0, "somebody was suspected");
}

#[test]
fn ten_percent_loss_kills_nobody() {
    for seed in 0..3 {
        let mut network = cluster(seed, 10);
        network.set_faults(Faults {
            loss: 0.1,
            duplication: 0.02,
            latency_mean: Duration::from_millis(20),
            latency_max: Duration::from_millis(50),
            ..Faults::default()
        });
        network.run_for(SECOND * 600);
        assert!(
            (0..10).all(|id| mourners(&network, id).is_empty()),
            "seed {seed}"
        );
        assert!(network.tally().lost > 1000);
        network.set_faults(Faults::default());
        assert!(
            network
                .run_while_waiting(SECOND * 60, Network::converged)
                .is_some()
        );
    }
}

#[test]
fn a_broadcast_reaches_everyone_within_a_few_gossip_rounds() {
    for seed in 0..5 {
        let mut network = cluster(seed, 50);
        network.with(17, |node, _| {
            node.broadcast(None, Bytes::from_static(b"hello"));
        });
        let all_have =
            |network: &Network| (0..50).all(|id| id == 17 || received(network, id, b"hello"));
        // The origin alone transmits a few dozen copies. Relaying on first sight is the
        // application's part, done here as it would.
        let mut relayed = BTreeSet::from([17]);
        let begin = network.elapsed();
        while !all_have(&network) && network.elapsed() - begin < SECOND * 5 {
            network.run_for(Duration::from_millis(5));
            for id in 0..50 {
                if received(&network, id, b"hello") && relayed.insert(id) {
                    let hello = Bytes::from_static(b"hello");
                    network.with(id, |node, _| {
                        node.broadcast(Some("hello".to_owned()), hello);
                    });
                }
            }
        }
        let took = network.elapsed() - begin;
        assert!(took < Duration::from_millis(700), "seed {seed}: {took:?}");
    }
}

#[test]
fn an_eager_broadcast_does_not_wait_for_the_round() {
    let mut network = cluster(2, 4);
    network.with(0, |node, _| {
        node.broadcast(None, Bytes::from_static(b"now"));
    });
    let all_have = |network: &Network| (1..4).all(|id| received(network, id, b"now"));
    let took = network.run_while_waiting(SECOND, all_have);
    assert!(
        took.is_some_and(|took| took < Duration::from_millis(4)),
        "{took:?}"
    );
}

#[test]
fn an_oversized_broadcast_travels_by_stream() {
    let mut network = cluster(2, 4);
    let long = Bytes::from(vec![b'x'; 1396]);
    network.with(0, |node, _| node.broadcast(None, long.clone()));
    let all_have = |network: &Network| (1..4).all(|id| received(network, id, &long));
    assert!(network.run_while_waiting(SECOND, all_have).is_some());
    let node = network.node(0).expect("up");
    assert_eq!(
        (node.counters().broadcasts_by_stream, node.user_queue_len()),
        (1, 0)
    );
}

#[test]
fn a_restarted_host_is_believed_again_at_once() {
    for seed in 0..5 {
        let mut network = cluster(seed, 6);
        let victim = 2;
        network.crash(victim);
        network.run_for(SECOND * 45);
        network.restart(victim).expect("valid settings");
        network.join(victim, 0);
        let took = network.run_while_waiting(SECOND * 30, Network::converged);
        assert!(
            took.is_some_and(|took| took < SECOND * 3),
            "seed {seed}: {took:?}"
        );
    }
}

#[test]
fn hosts_that_all_restart_but_one_are_told_of_their_past() {
    // The survivor holds the others dead; nobody joins the survivor.
    let mut network = cluster(9, 4);
    for id in 1..4 {
        network.crash(id);
    }
    let all_dead = |network: &Network| {
        let survivor = network.node(0).expect("up");
        (1..4).all(|id| state(survivor, id) == Some(NodeState::Dead))
    };
    assert!(network.run_while_waiting(SECOND * 120, all_dead).is_some());
    for id in 1..4 {
        network.restart(id).expect("valid settings");
        network.join(id, 1);
    }
    let took = network.run_while_waiting(SECOND * 60, Network::converged);
    assert!(took.is_some(), "{network:?}");
}

#[test]
fn a_pause_kills_nobody() {
    for seed in 0..5 {
        let mut network = cluster(seed, 8);
        network.pause(4, SECOND * 3);
        network.run_for(SECOND * 60);
        assert!(network.converged(), "seed {seed}");
        assert!(
            (0..8).all(|id| mourners(&network, id).is_empty()),
            "seed {seed}"
        );
        let sleeper = network.node(4).expect("up");
        assert!(sleeper.counters().late_wakeups > 0);
    }
}

#[test]
fn a_long_sleeper_declares_nobody_dead_on_waking() {
    for seed in 0..5 {
        let mut network = cluster(seed, 8);
        network.pause(4, SECOND * 20);
        network.run_for(SECOND * 120);
        assert!(network.converged(), "seed {seed}");
        assert!(
            (0..8)
                .filter(|id| *id != 4)
                .all(|id| mourners(&network, id).is_empty())
        );
    }
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = |seed| {
        let mut network = cluster(seed, 10);
        network.crash(3);
        network.run_for(SECOND * 60);
        network.tally()
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11), run(12));
}

#[test]
fn application_state_reaches_both_sides_of_a_join() {
    let mut network = Network::new(1, Instant::now());
    for id in 0..2 {
        network
            .add(Network::config(name(id), id))
            .expect("valid settings");
        network.set_state(id, format!("state of {id}"));
    }
    network.join(1, 0);
    network.run_for(SECOND);
    for (host, expected) in [(0, "state of 1"), (1, "state of 0")] {
        let heard = network.events(host).any(|(_, event)| {
            matches!(event, Event::RemoteState { state, join: true } if state == expected)
        });
        assert!(heard, "host {host}");
    }
}

#[test]
fn a_quiet_cluster_shows_no_tables_and_one_that_differs_heals_by_them() {
    let mut network = Network::new(8, Instant::now());
    network.set_brief(true);
    for id in 0..8 {
        let mut config = Network::config(name(id), id);
        // Whatever anybody learns is learned by a state exchange.
        config.probe_interval = Duration::ZERO;
        config.gossip_interval = Duration::ZERO;
        config.rejoin_interval = Duration::ZERO;
        config.eager_bytes_per_interval = 0;
        network.add(config).expect("valid settings");
        if id > 0 {
            network.join(id, 0);
        }
    }
    let everywhere = |count| {
        move |network: &Network| {
            let mut nodes = network.running();
            nodes.all(|(_, node)| node.members().len() == count)
        }
    };
    assert!(
        network
            .run_while_waiting(SECOND * 600, everywhere(8))
            .is_some()
    );
    let quiet = |network: &mut Network| {
        network.run_for(SECOND * 60);
        let before = network.tally();
        network.run_for(SECOND * 600);
        let after = network.tally();
        let exchanges = after.exchanges - before.exchanges;
        assert!(exchanges > 100, "{exchanges}");
        let brief = after.brief_sides - before.brief_sides;
        // One may be under way at the beginning; and the newcomer does not answer.
        assert!(brief + 2 >= 2 * exchanges, "{brief} {exchanges}");
        assert_eq!(after.tables_exchanged, before.tables_exchanged);
    };
    quiet(&mut network);
    network.with(3, |node, now| {
        let mut table = node.push_pull(false);
        table.nodes.truncate(1);
        table.nodes[0].name = "newcomer".to_owned();
        table.nodes[0].port = 7777;
        node.merge(now, table, false).expect("it fits");
    });
    assert!(
        network
            .run_while_waiting(SECOND * 600, everywhere(9))
            .is_some()
    );
    assert!(network.tally().tables_exchanged > 0);
    quiet(&mut network);
}
