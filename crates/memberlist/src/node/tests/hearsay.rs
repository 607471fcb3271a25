//! What tables say of members that we know otherwise.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// `us` among `n2`, `n3` and so on up to `count`, all at 5; we suspect nobody by ourselves.
fn among(count: u8) -> Bench {
    among_with(count, SECOND)
}

fn among_with(count: u8, probe_interval: Duration) -> Bench {
    let mut bench = Bench::with(|config| {
        config.probe_interval = probe_interval;
        config.push_pull_interval = Duration::ZERO;
        config.rejoin_interval = Duration::ZERO;
        config.tcp_pings = false;
    });
    for id in 2..=count {
        bench.receive(&Message::Alive(alive(id, 5)));
    }
    bench
}

/// Time passes in which whoever is pinged answers.
fn pass_answered(bench: &mut Bench, time: Duration) {
    let end = bench.now + time;
    while bench.now < end {
        bench.pass((end - bench.now).min(MS * 50));
        for (_, parts) in bench.transmits() {
            for part in parts {
                if let Message::Ping(ping) = part {
                    bench.receive(&Message::Ack(crate::wire::message::Ack {
                        seq_no: ping.seq_no,
                        payload: Bytes::new(),
                    }));
                }
            }
        }
    }
}

fn shown(bench: &mut Bench, rows: Vec<PushNode>) {
    let table = push_pull(rows);
    let merged = bench.node.merge(bench.now, table, false);
    merged.expect("versions fit");
}

/// Those who are told that they are suspected, and nobody else, with which incarnation.
fn asked(bench: &mut Bench) -> Vec<(SocketAddr, u32)> {
    let mut asked = Vec::new();
    for (to, parts) in bench.transmits() {
        if let [Message::Suspect(suspect)] = &parts[..]
            && suspect.from == "us"
        {
            asked.push((to, suspect.incarnation));
        }
    }
    asked
}

#[test]
fn whom_a_table_calls_dead_is_asked_and_suspected_only_when_it_does_not_answer() {
    for (state, incarnation) in [(NodeState::Dead, 5), (NodeState::Suspect, 7)] {
        for answers in [true, false] {
            let mut bench = among(4);
            pass_answered(&mut bench, SECOND * 10);
            shown(&mut bench, vec![push_node(2, incarnation, state)]);
            // Others say the same.
            shown(&mut bench, vec![push_node(2, incarnation, state)]);
            assert_eq!(asked(&mut bench), [(address(2), incarnation)]);
            assert_eq!(bench.state("n2"), Some((NodeState::Alive, 5)));
            assert!(!bench.queued("n2"), "nobody else hears of it");
            if answers {
                bench.receive(&Message::Alive(alive(2, incarnation + 1)));
            }
            pass_answered(&mut bench, SECOND);
            let then = if answers {
                (NodeState::Alive, incarnation + 1)
            } else {
                (NodeState::Suspect, incarnation)
            };
            assert_eq!(bench.state("n2"), Some(then), "{state:?} {answers}");
        }
    }
}

#[test]
fn of_a_table_that_contradicts_all_we_know_few_are_asked() {
    let mut bench = among(200);
    let before = bench.node.counters().suspicions;
    let rows = |state| (2..=200).map(|id| push_node(id, 5, state)).collect();
    shown(&mut bench, rows(NodeState::Dead));
    let first = asked(&mut bench);
    assert_eq!(first.len(), 16);
    shown(&mut bench, rows(NodeState::Dead));
    let second = asked(&mut bench);
    assert!(second.iter().all(|one| !first.contains(one)));
    assert!(second.len() > 8, "by chance others");
    assert_eq!(bench.node.counters().suspicions, before);
    for _ in 0..20 {
        shown(&mut bench, rows(NodeState::Dead));
    }
    assert_eq!(bench.node.counters().accused_asked, 64, "at a time");
}

/// `n2` to `n20` died, all but `alive`, and for so long.
fn bereaved(since: Duration) -> Bench {
    // Without probes nobody is forgotten meanwhile; in large clusters that takes hours.
    let mut bench = among_with(21, Duration::ZERO);
    for id in 2..=20 {
        bench.receive(&dead(&format!("n{id}"), 5, "n21"));
    }
    bench.pass(since);
    bench.transmits();
    bench
}

#[test]
fn when_several_of_the_long_dead_return_the_others_are_believed_to_be_back() {
    let state = |bench: &Bench, id: u8| bench.state(&format!("n{id}")).map(|it| it.0);
    let table = || {
        (2..=20)
            .map(|id| push_node(id, 5, NodeState::Alive))
            .collect()
    };
    // For how long they were dead, how many returned by their own word, how long ago; and the others?
    let rows = [
        (31, 3, 0, true),
        (31, 3, 9, true),
        (31, 3, 11, false),
        (31, 2, 0, false),
        (29, 3, 0, false),
    ];
    for (dead_s, returned, ago_s, believed) in rows {
        let row = format!("dead for {dead_s} s, {returned} returned {ago_s} s ago");
        let mut bench = bereaved(SECOND * dead_s);
        shown(&mut bench, table());
        assert_eq!(asked(&mut bench).len(), 16, "{row}: nobody is believed yet");
        for id in 2..2 + returned {
            assert_eq!(state(&bench, id), Some(NodeState::Dead), "{row}");
            bench.receive(&Message::Alive(alive(id, 6)));
        }
        bench.now += SECOND * ago_s;
        let expected = if believed {
            NodeState::Alive
        } else {
            NodeState::Dead
        };
        bench.receive(&Message::Alive(alive(20, 5)));
        assert_eq!(state(&bench, 20), Some(expected), "{row}: an announcement");
        bench.receive(&Message::Alive(alive(19, 4)));
        assert_eq!(
            state(&bench, 19),
            Some(NodeState::Dead),
            "{row}: an old one"
        );
        shown(&mut bench, table());
        for id in 2 + returned..=20 {
            assert_eq!(state(&bench, id), Some(expected), "{row}: n{id}");
        }
        let counted = bench.node.counters().believed_back;
        let others = if believed {
            19 - u64::from(returned)
        } else {
            0
        };
        assert_eq!(counted, others, "{row}");
    }
}

#[test]
fn whoever_accuses_us_hears_first_that_we_live() {
    let mut bench = among(4);
    bench.transmits();
    for (message, incarnation) in [(suspect("us", 3, "n2"), 4), (dead("us", 9, "n3"), 10)] {
        let from = match &message {
            Message::Suspect(suspect) => suspect.from.clone(),
            _ => "n3".to_owned(),
        };
        bench.receive(&message);
        let us = Message::Alive(Alive {
            node: "us".to_owned(),
            addr: RawIp::from(address(1).ip()),
            ..alive(1, incarnation)
        });
        let to = if from == "n2" { address(2) } else { address(3) };
        let sent = bench.transmits();
        assert!(sent.contains(&(to, vec![us])), "{sent:?}");
    }
}
