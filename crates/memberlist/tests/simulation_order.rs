//! What single messages do must not depend on their order (P9), nor on their number (P10). The
//! network of the simulator relies on it: it delivers late, twice and in any order.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use memberlist::node::{Config, Node};
use memberlist::wire::encode_message;
use memberlist::wire::message::{Alive, Dead, Message, NodeState, RawIp, Suspect, Versions};
use proptest::prelude::*;

const OTHER: &str = "other";

fn alive(incarnation: u32) -> Message {
    Message::Alive(Alive {
        incarnation,
        node: OTHER.to_owned(),
        addr: RawIp::V4([10, 0, 0, 2]),
        port: 7946,
        meta: Bytes::new(),
        versions: Versions::OURS,
    })
}

fn accusation() -> impl Strategy<Value = Message> {
    (any::<bool>(), 1..8_u32, 0..3).prop_map(|(deadly, incarnation, accuser)| {
        let (node, from) = (OTHER.to_owned(), format!("accuser-{accuser}"));
        if deadly {
            Message::Dead(Dead {
                incarnation,
                node,
                from,
            })
        } else {
            Message::Suspect(Suspect {
                incarnation,
                node,
                from,
            })
        }
    })
}

fn announcements() -> impl Strategy<Value = Vec<Message>> {
    prop::collection::vec((1..8_u32).prop_map(alive), 0..6)
}

/// A node that knows the other one at incarnation 1.
fn acquainted(now: Instant) -> Node {
    let us = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let mut node = Node::new(Config::lan("us", us), now).expect("valid settings");
    hear(&mut node, now, &alive(1));
    node
}

fn hear(node: &mut Node, now: Instant, message: &Message) {
    let from = SocketAddr::from(([10, 0, 0, 3], 7946));
    let errors = node.handle_datagram(now, from, &encode_message(message, "default"));
    assert!(errors.is_empty(), "{errors:?}");
    while node.poll_transmit().is_some() {}
}

fn belief(node: &Node) -> (NodeState, u32) {
    let member = node.member(OTHER).expect("known");
    (member.state, member.incarnation)
}

proptest! {
    #[test]
    fn one_accusation_among_announcements_ends_the_same_in_every_order(
        announcements in announcements(),
        accusation in accusation(),
        order in any::<u64>(),
        repeated in any::<prop::sample::Index>(),
    ) {
        let mut messages = announcements;
        messages.push(accusation);
        let now = Instant::now();
        let mut straight = acquainted(now);
        for message in &messages {
            hear(&mut straight, now, message);
        }
        messages.push(messages[repeated.index(messages.len())].clone());
        // Any order will do, as long as the number decides it.
        let mut keyed: Vec<(u64, &Message)> = (1..)
            .map(|at: u64| order.wrapping_mul(2 * at + 1).rotate_left(at as u32 * 7))
            .zip(&messages)
            .collect();
        keyed.sort_by_key(|(key, _)| *key);
        let mut shuffled = acquainted(now);
        for (_, message) in keyed {
            hear(&mut shuffled, now, message);
        }
        prop_assert_eq!(belief(&straight), belief(&shuffled));
    }

    #[test]
    fn a_later_announcement_beats_any_accusations(
        accusations in prop::collection::vec(accusation(), 0..6),
    ) {
        let now = Instant::now();
        let mut node = acquainted(now);
        for accusation in &accusations {
            hear(&mut node, now, accusation);
        }
        hear(&mut node, now, &alive(9));
        prop_assert_eq!(belief(&node), (NodeState::Alive, 9));
    }

    #[test]
    fn a_repeated_message_changes_nothing(
        announcements in announcements(),
        accusations in prop::collection::vec(accusation(), 0..4),
        again in any::<prop::sample::Index>(),
    ) {
        let now = Instant::now();
        let mut node = acquainted(now);
        let messages: Vec<Message> = announcements.into_iter().chain(accusations).collect();
        for message in &messages {
            hear(&mut node, now, message);
        }
        let Some(last) = messages.last() else {
            return Ok(());
        };
        // The last one, or any again and then once more: the second time is a repetition.
        let repeated = &messages[again.index(messages.len())];
        hear(&mut node, now, repeated);
        for message in [repeated, repeated] {
            while node.poll_event().is_some() {}
            let before = (belief(&node), *node.counters(), node.membership_queue_len());
            hear(&mut node, now + Duration::from_millis(1), message);
            let mut after = (belief(&node), *node.counters(), node.membership_queue_len());
            // An accusation may be repeated to the accused, once, and an old one answered.
            after.1.accusations_repeated = before.1.accusations_repeated;
            prop_assert_eq!(before, after, "{:?} after {:?}", message, last);
            prop_assert_eq!(node.poll_event(), None);
        }
    }
}
