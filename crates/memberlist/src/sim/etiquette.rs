//! The drill of questions: a stranger, whom nobody knows, sends pings and relay requests and looks
//! at the answers with the fork's eyes.

use std::time::Duration;

use bytes::Bytes;

use super::HostId;
use super::fork::{self, Heard};
use super::scenario::{Outcome, Run, ghost, name};
use crate::wire::message::{IndirectPing, Message, Ping, RawIp};
use crate::wire::{PacketBuilder, encode_message};

const NAME: &str = "P15 etiquette";

impl Run {
    pub(super) fn etiquette(&mut self) -> Outcome {
        let host = self.pick();
        let target = self.pick_other(host);
        self.expect_answers(host, &[ping(7, &name(host))], &[Heard::Ack { seq_no: 7 }])?;
        self.expect_answers(host, &[ping(8, "somebody else")], &[])?;
        let ack = [Heard::Ack { seq_no: 9 }];
        let request = self.request(9, target, true);
        self.expect_answers(host, &[request], &ack)?;
        // Datagrams between the two are lost from here on: the relay has to say so.
        let time = Duration::from_secs(2);
        self.network.cut_datagrams(host, target, time);
        let nack = [Heard::Nack { seq_no: 10 }];
        let request = self.request(10, target, true);
        self.expect_answers(host, &[request], &nack)?;
        let request = self.request(11, target, false);
        self.expect_answers(host, &[request], &[])?;
        // A relay is no cannon: unknown targets are not pinged, only answered for.
        let mut stray = self.request(12, target, true);
        if let Message::IndirectPing(request) = &mut stray {
            request.port = 9;
        }
        let astray = self.network.tally().astray;
        self.expect_answers(host, &[stray], &[Heard::Nack { seq_no: 12 }])?;
        if self.network.tally().astray > astray {
            return Err((NAME, format!("{} pings where nobody lives", name(host))));
        }
        let many: Vec<Message> = (20..26).map(|seq_no| ping(seq_no, &name(host))).collect();
        let four: Vec<Heard> = (20..24).map(|seq_no| Heard::Ack { seq_no }).collect();
        self.expect_answers(host, &many, &four)
    }

    fn request(&self, seq_no: u32, target: HostId, nack: bool) -> Message {
        let addr = self.network.addr(target);
        Message::IndirectPing(IndirectPing {
            seq_no,
            target: RawIp::from(addr.ip()),
            port: addr.port(),
            node: name(target),
            nack,
            source: None,
        })
    }

    /// Sends `messages` in one datagram and compares what comes back, gossip aside.
    fn expect_answers(&mut self, to: HostId, messages: &[Message], expected: &[Heard]) -> Outcome {
        let cluster = self.options.config.cluster_name.clone();
        let mut packet = PacketBuilder::new();
        for message in messages {
            packet.push(&encode_message(message, &cluster));
        }
        self.network.tap(ghost());
        self.forge_bytes(to, Bytes::from(packet.finish(false, false)));
        // Relays forget after the timeout.
        self.run_for(self.options.config.probe_timeout.mul_f64(1.1))?;
        let mut answers = Vec::new();
        for (_, datagram) in self.network.tapped(ghost()) {
            let heard = fork::read(datagram, &cluster).map_err(|problem| (NAME, problem))?;
            answers.extend(heard.into_iter().filter(Heard::is_probing));
        }
        if answers == expected {
            return Ok(());
        }
        let question = messages.first();
        Err((
            NAME,
            format!("{question:?} is answered by {answers:?}, expected {expected:?}"),
        ))
    }
}

fn ping(seq_no: u32, node: &str) -> Message {
    Message::Ping(Ping {
        seq_no,
        node: node.to_owned(),
        source: None,
    })
}
