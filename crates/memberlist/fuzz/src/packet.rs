//! One datagram under several filters.

use memberlist::wire::limits::{COMPOUND_PARTS_MAX, MESSAGES_PER_PACKET_MAX};
use memberlist::wire::{
    ClusterFilter, Message, PacketBuilder, WireError, decode_packet, encode_message,
};

use super::{filters, fork, unwritable};

/// Reads `input` as a datagram.
pub fn run(input: &[u8]) {
    for filter in filters() {
        let packet = decode_packet(input, &filter);
        let errors_max = MESSAGES_PER_PACKET_MAX + 1;
        assert!(packet.messages.len() + packet.errors.len() <= errors_max);
        for error in &packet.errors {
            check_error(error);
        }
        let written: Vec<&Message> = packet
            .messages
            .iter()
            .filter(|message| !unwritable(message))
            .collect();
        for message in &written {
            reads_back(&[message], &filter);
        }
        for some in written.chunks(COMPOUND_PARTS_MAX) {
            reads_back(some, &filter);
        }
    }
}

/// A log line must stay one line of bounded length.
fn check_error(error: &WireError) {
    let text = error.to_string();
    assert!(text.len() < 2048, "{text}");
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// Writes messages as one datagram in every way and reads that.
fn reads_back(messages: &[&Message], filter: &ClusterFilter) {
    let mut builder = PacketBuilder::new();
    for message in messages {
        assert!(builder.push(&encode_message(message, &filter.name)));
    }
    for (compress, crc) in [(false, false), (true, false), (true, true)] {
        let datagram = builder.clone().finish(compress, crc);
        if let Err(problem) = fork::check_datagram(&datagram, &filter.name) {
            panic!("the fork would not take {messages:?}: {problem}");
        }
        let again = decode_packet(&datagram, filter);
        assert_eq!(again.errors, []);
        assert!(again.messages.iter().eq(messages.iter().copied()));
    }
}
