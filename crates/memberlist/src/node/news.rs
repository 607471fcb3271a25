//! What is heard again and again: in a calm cluster nearly every announcement is known. It is
//! recognised while it still stands in its datagram, so that only news are copied. The rules are in
//! `membership`; here is merely for what they do nothing.

use super::Node;
use super::queue::transmit_limit;
use crate::wire::message::{Dead, MessageRef, NodeState, Suspect, socket_addr};

impl Node {
    /// Others say what we say as well: when there is more to say than a round holds, ours is said
    /// less often. The original sends everything as often as a lone sender would have to, so that in
    /// large clusters many joins at once fill all queues for minutes.
    pub(super) fn count_heard(&mut self, message: &MessageRef<'_>) {
        let round = self.config.gossip_messages * self.packet_budget;
        if self.membership.bytes() <= round {
            return;
        }
        let (name, incarnation) = match message {
            MessageRef::Alive(alive) => (alive.node, alive.incarnation),
            MessageRef::Dead(dead) => (dead.node, dead.incarnation),
            _ => return,
        };
        // What is queued about a node is what made it what it is.
        let same = self.table.find(name).is_some_and(|entry| {
            let alive = matches!(message, MessageRef::Alive(_));
            entry.incarnation == incarnation && alive == (entry.state == NodeState::Alive)
        });
        if same {
            let limit = transmit_limit(self.config.retransmit_mult, self.table.len());
            self.membership.heard(name, limit);
        }
    }

    /// Whether the message certainly changes nothing and is answered by nothing.
    pub(super) fn is_known(&self, message: &MessageRef<'_>) -> bool {
        match message {
            MessageRef::Alive(alive) => {
                let port = match alive.port {
                    0 => self.config.port(),
                    port => port,
                };
                alive.node != self.config.name
                    && self.table.find(alive.node).is_some_and(|entry| {
                        entry.state == NodeState::Alive
                            && alive.incarnation <= entry.incarnation
                            && entry.addr() == socket_addr(alive.addr, port)
                    })
            }
            MessageRef::Suspect(suspect) => self.is_known_accusation(suspect, true),
            MessageRef::Dead(Dead {
                incarnation,
                node,
                from,
            }) => {
                let accusation = Suspect {
                    incarnation: *incarnation,
                    node: *node,
                    from: *from,
                };
                self.is_known_accusation(&accusation, false)
            }
            _ => false,
        }
    }

    fn is_known_accusation(&self, accusation: &Suspect<&str>, merely_suspect: bool) -> bool {
        // Ours may have to be refuted, and irrefutable ones are counted.
        if accusation.node == self.config.name || accusation.incarnation == u32::MAX {
            return false;
        }
        self.table.find(accusation.node).is_none_or(|entry| {
            let doubted = || match &entry.suspicion {
                Some(suspicion) => !suspicion.is_news(accusation.from),
                None => entry.state != NodeState::Alive,
            };
            accusation.incarnation < entry.incarnation
                || !entry.is_live()
                || merely_suspect && doubted()
        })
    }
}
