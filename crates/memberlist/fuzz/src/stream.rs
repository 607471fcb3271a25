//! One stream, fed in pieces.
//!
//! Input: which filter, the number of cuts, two bytes for each cut, then the stream.

use memberlist::wire::{
    ClusterFilter, NodeState, StreamDecoder, StreamMessage, StreamProgress, WireError,
    encode_stream,
};

use super::{filters, fork};

/// Most cuts of one input.
const CUTS_MAX: u8 = 8;

/// What came of a stream.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// `None` while the message is not complete.
    message: Option<Result<StreamMessage, WireError>>,
    at_eof: Result<(), WireError>,
    skipped: usize,
    first_skipped: Option<WireError>,
}

/// Reads `input` as described above.
pub fn run(input: &[u8]) {
    let [selector, cuts, rest @ ..] = input else {
        return;
    };
    let (cuts, stream) = rest.split_at((2 * usize::from(cuts % CUTS_MAX)).min(rest.len()));
    let filters = filters();
    let filter = filters[usize::from(*selector) % filters.len()].clone();

    let whole = read([stream], &filter);
    let mut at: Vec<usize> = cuts
        .chunks_exact(2)
        .map(|cut| usize::from(u16::from_le_bytes([cut[0], cut[1]])) % (stream.len() + 1))
        .collect();
    at.extend([0, stream.len()]);
    at.sort_unstable();
    let pieces = at.windows(2).map(|piece| &stream[piece[0]..piece[1]]);
    assert_eq!(read(pieces, &filter), whole);
    if stream.len() < 512 {
        assert_eq!(read(stream.chunks(1), &filter), whole);
    }

    match whole.message {
        Some(Ok(message)) => reads_back(&message, &filter),
        Some(Err(error)) => {
            let text = error.to_string();
            assert!(text.len() < 2048 && !text.chars().any(char::is_control));
        }
        None => assert_eq!(whole.at_eof.is_ok(), stream.is_empty()),
    }
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, filter: &ClusterFilter) -> Outcome {
    let mut decoder = StreamDecoder::new(filter.clone());
    let mut message = None;
    for piece in pieces {
        match decoder.feed(piece) {
            Ok(StreamProgress::NeedMore) => continue,
            Ok(StreamProgress::Complete(complete)) => message = Some(Ok(complete)),
            Err(error) => message = Some(Err(error)),
        }
        assert!(decoder.feed(piece).is_err(), "it has already ended");
        break;
    }
    Outcome {
        message,
        at_eof: decoder.finish_at_eof(),
        skipped: decoder.skipped_entries(),
        first_skipped: decoder.first_skipped_entry().cloned(),
    }
}

/// Writes the message in every way and reads that.
fn reads_back(message: &StreamMessage, filter: &ClusterFilter) {
    let mut expected = message.clone();
    if let StreamMessage::PushPull(table) = &mut expected {
        for node in &mut table.nodes {
            // Written as dead: the fork has no other state for it.
            if node.state == NodeState::Left {
                node.state = NodeState::Dead;
            }
        }
    }
    for compress in [false, true] {
        let stream = encode_stream(message, &filter.name, compress);
        if let Err(problem) = fork::check_stream(&stream, &filter.name) {
            panic!("the fork would not take {message:?}: {problem}");
        }
        let again = read([&stream[..]], filter);
        assert_eq!(again.message, Some(Ok(expected.clone())));
        assert_eq!(again.skipped, 0);
    }
}
