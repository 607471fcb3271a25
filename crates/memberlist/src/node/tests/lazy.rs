//! Lazy push: what is told, what is asked for, and what members that do not know it get.

use super::super::Priority;
use super::super::lazy::number;
use super::super::timers::Timer;
use super::*;

const OURS: &[u8] = b"ours";

/// `us` among `n2` to `n9`, of whom those that `understand` have our metadata; all calm.
fn among(understand: impl Fn(u8) -> bool) -> Bench {
    let mut bench = Bench::with(|config| {
        config.meta = Bytes::from_static(OURS);
        config.lazy_push = Some(|meta| meta == OURS);
        config.probe_interval = Duration::ZERO;
        config.push_pull_interval = Duration::ZERO;
        config.rejoin_interval = Duration::ZERO;
        config.gossip_nodes = 8;
    });
    for id in 2..=9 {
        let mut alive = alive(id, 1);
        if understand(id) {
            alive.meta = Bytes::from_static(OURS);
        }
        bench.receive(&Message::Alive(alive));
    }
    bench.pass(Duration::from_secs(10));
    bench.transmits();
    bench.events();
    bench
}

fn user(content: &[u8]) -> Message {
    Message::User(Bytes::copy_from_slice(content))
}

/// A message of lazy push.
fn list(kind: u8, contents: &[&[u8]]) -> Message {
    let mut bytes = vec![0xd2, kind];
    for content in contents {
        bytes.extend(number(content).to_le_bytes());
    }
    user(&bytes)
}

/// What is sent in the next round.
fn round(bench: &mut Bench) -> Vec<(SocketAddr, Vec<Message>)> {
    bench.pass(Duration::from_millis(200));
    bench.transmits()
}

#[test]
fn rounds_tell_the_number_of_what_has_left_eagerly() {
    let mut bench = among(|_| true);
    bench.node.broadcast(None, Bytes::from_static(b"news"));
    let sent = bench.transmits();
    assert!(!sent.is_empty() && sent.iter().all(|(_, parts)| parts[..] == [user(b"news")]));
    let mut rounds = 0;
    loop {
        let sent = round(&mut bench);
        if sent.is_empty() {
            break;
        }
        assert_eq!(sent.len(), 8);
        let told = [list(b'H', &[b"news"])];
        assert!(sent.iter().all(|(_, parts)| parts[..] == told));
        rounds += 1;
    }
    assert_eq!(rounds, 4, "as often as it would have been repeated");
    assert_eq!(bench.node.user_queue_len(), 0);
}

#[test]
fn whoever_was_told_can_ask_and_then_it_is_told_anew() {
    let mut bench = among(|_| true);
    bench.node.broadcast(None, Bytes::from_static(b"one"));
    bench.node.broadcast(None, Bytes::from_static(b"two"));
    bench.transmits();
    let want = list(b'W', &[b"two", b"unknown"]);
    let ask = |bench: &mut Bench, id| {
        let bytes = encode_message(&want, &bench.node.config.cluster_name);
        let errors = bench.node.handle_datagram(bench.now, address(id), &bytes);
        assert_eq!(errors, []);
        bench.transmits()
    };
    assert_eq!(ask(&mut bench, 5), [], "nobody has told it anything");
    for _ in 0..3 {
        round(&mut bench);
    }
    assert_eq!(ask(&mut bench, 5), [(address(5), vec![user(b"two")])]);
    assert_eq!(bench.node.counters().messages_fetched, 1);
    round(&mut bench);
    for _ in 0..3 {
        let sent = round(&mut bench);
        assert!(
            sent.iter()
                .all(|(_, parts)| parts[..] == [list(b'H', &[b"two"])])
        );
        assert_eq!(sent.len(), 8);
    }
    assert_eq!(round(&mut bench), []);
}

#[test]
fn what_is_missing_is_asked_for_once_in_a_while_and_what_was_seen_never() {
    let mut bench = among(|_| true);
    bench.receive(&user(b"seen"));
    assert_eq!(
        bench.events(),
        [Event::Message(Bytes::from_static(b"seen"))]
    );
    bench.receive(&user(b"seen"));
    assert_eq!(bench.events(), [], "the application knows it");
    assert_eq!(bench.node.counters().messages_repeated, 1);
    let told = list(b'H', &[b"seen", b"missed"]);
    bench.receive(&told);
    let want = list(b'W', &[b"missed"]);
    assert_eq!(bench.transmits(), [(address(99), vec![want.clone()])]);
    bench.receive(&told);
    assert_eq!(bench.transmits(), [], "the answer is on its way");
    bench.pass(Duration::from_millis(200));
    bench.receive(&told);
    assert_eq!(
        bench.transmits(),
        [(address(99), vec![want])],
        "it was lost"
    );
    bench.receive(&user(b"missed"));
    bench.pass(Duration::from_millis(200));
    bench.receive(&told);
    assert_eq!(bench.transmits(), []);
    assert_eq!(
        bench.events(),
        [Event::Message(Bytes::from_static(b"missed"))]
    );
    // Not for ever.
    bench.pass(Duration::from_secs(5));
    bench.receive(&user(b"other"));
    bench.pass(Duration::from_secs(5));
    bench.receive(&user(b"another"));
    bench.receive(&user(b"seen"));
    assert_eq!(bench.events().len(), 3);
}

#[test]
fn what_does_not_come_is_asked_for_again_and_at_last_exchanged() {
    let mut bench = among(|_| true);
    let told = list(b'H', &[b"missed", b"late"]);
    let tell = |bench: &mut Bench, from| {
        let bytes = encode_message(&told, &bench.node.config.cluster_name);
        bench.node.handle_datagram(bench.now, from, &bytes);
    };
    tell(&mut bench, address(5));
    assert_eq!(bench.transmits().len(), 1);
    bench.receive(&user(b"late"));
    let want = list(b'W', &[b"missed"]);
    for _ in 2..=6 {
        assert_eq!(round(&mut bench), [(address(5), vec![want.clone()])]);
    }
    assert_eq!(bench.requests(), []);
    assert_eq!(round(&mut bench), []);
    let exchange = StreamRequest::PushPull {
        to: address(5),
        join: false,
        full: false,
    };
    assert_eq!(bench.requests(), [exchange]);
    assert_eq!(bench.node.counters().messages_given_up, 1);
    assert!(!bench.node.timers.is_armed(&Timer::AskAgain));
    // A stranger, or somebody in the name of one, is asked once.
    tell(&mut bench, "192.0.2.1:7946".parse().unwrap());
    assert_eq!(bench.transmits().len(), 1);
    assert_eq!(round(&mut bench), []);
    assert_eq!(bench.requests(), []);
}

#[test]
fn who_only_talks_does_not_remember_all_it_said() {
    let mut bench = among(|_| true);
    let said = |bench: &Bench| bench.node.lazy.seen_len();
    let before = said(&bench);
    for second in 0..60 {
        bench.node.broadcast(None, Bytes::from(format!("{second}")));
        bench.pass(Duration::from_secs(1));
        bench.transmits();
    }
    let kept = said(&bench) - before;
    assert!((5..=11).contains(&kept), "{kept} of 60");
}

#[test]
fn with_members_that_do_not_understand_rounds_repeat_contents() {
    let mut bench = among(|id| id != 9);
    bench.node.broadcast(None, Bytes::from_static(b"news"));
    bench.transmits();
    let sent = round(&mut bench);
    let repeated = sent
        .iter()
        .filter(|(_, parts)| parts[..] == [user(b"news")]);
    assert_eq!(repeated.count(), 8);
    let told = [list(b'H', &[b"news"])];
    let told: Vec<_> = sent.iter().filter(|(_, parts)| parts[..] == told).collect();
    assert_eq!(told.len(), 7);
    assert!(told.iter().all(|(to, _)| *to != address(9)));
}

#[test]
fn what_is_for_kin_only_reaches_nobody_else() {
    let mut bench = among(|id| id < 6);
    let priority = Priority {
        brief: Some(Bytes::from_static(b"short")),
        ..Priority::default()
    };
    let content = Bytes::from_static(b"all of it");
    bench.node.broadcast_with(None, content, &priority);
    let is_kin = |(to, _): &(SocketAddr, Vec<Message>)| (2..6).any(|id| *to == address(id));
    let sent = bench.transmits();
    assert_eq!(sent.len(), 4);
    assert!(
        sent.iter()
            .all(|sent| is_kin(sent) && sent.1[..] == [user(b"short")])
    );
    let sent = round(&mut bench);
    assert_eq!(sent.len(), 4);
    let told = [list(b'H', &[b"short"])];
    assert!(sent.iter().all(|sent| is_kin(sent) && sent.1[..] == told));
}

#[test]
fn what_follows_a_whole_message_that_is_still_on_its_way_is_told_as_a_whole() {
    let mut bench = among(|_| true);
    let key = || Some("key".to_owned());
    let whole = |text: &'static [u8]| Bytes::from_static(text);
    let brief = Priority {
        brief: Some(Bytes::from_static(b"short")),
        ..Priority::default()
    };
    bench.node.broadcast(key(), whole(b"first"));
    bench.transmits();
    bench.node.broadcast_with(key(), whole(b"second"), &brief);
    let sent = bench.transmits();
    assert!(!sent.is_empty() && sent.iter().all(|sent| sent.1[..] == [user(b"second")]));
    for _ in 0..20 {
        round(&mut bench);
    }
    // Everybody knows the first by now.
    bench.node.broadcast_with(key(), whole(b"third"), &brief);
    let sent = bench.transmits();
    assert!(!sent.is_empty() && sent.iter().all(|sent| sent.1[..] == [user(b"short")]));
}

#[test]
fn without_lazy_push_its_messages_are_the_applications() {
    let mut bench = Bench::quiet();
    let told = list(b'H', &[b"missed"]);
    bench.receive(&told);
    bench.receive(&told);
    assert_eq!(bench.events().len(), 2);
    assert_eq!(bench.transmits(), []);
}

#[test]
fn a_burst_is_told_in_few_datagrams_and_fetched_within_the_budget() {
    let mut bench = among(|_| true);
    let content = |index: usize| Bytes::from(format!("{index:0900}"));
    let contents: Vec<Bytes> = (0..1000).map(content).collect();
    for (index, content) in contents.iter().enumerate() {
        bench
            .node
            .broadcast(Some(index.to_string()), content.clone());
    }
    bench.transmits();
    let sent = round(&mut bench);
    let to_one = sent.iter().filter(|(to, _)| *to == address(4));
    assert_eq!(to_one.count(), 3, "a thousand numbers of four bytes");
    let wanted: Vec<&[u8]> = contents[..300].iter().map(|content| &content[..]).collect();
    let want = list(b'W', &wanted);
    let bytes = encode_message(&want, &bench.node.config.cluster_name);
    bench.node.handle_datagram(bench.now, address(4), &bytes);
    let answered: usize = bench
        .transmits()
        .iter()
        .map(|(_, parts)| 905 * parts.len())
        .sum();
    let budget = bench.node.config.eager_bytes_per_interval;
    assert!(
        (budget - 905..=budget).contains(&answered),
        "{answered} bytes"
    );
}
