//! What holds for every message, every cut and arbitrary bytes.

use proptest::prelude::*;

use super::*;

fn any_node() -> impl Strategy<Value = PushNode> {
    let state = prop_oneof![
        Just(NodeState::Alive),
        Just(NodeState::Suspect),
        Just(NodeState::Dead),
        Just(NodeState::Left)
    ];
    let meta = proptest::collection::vec(any::<u8>(), 0..80).prop_map(Bytes::from);
    (state, 1..=u32::MAX, any::<u16>(), "[a-z0-9]{1,40}", meta).prop_map(
        |(state, incarnation, port, name, meta)| PushNode {
            name,
            port,
            meta,
            incarnation,
            state,
            ..node("")
        },
    )
}

fn any_stream_message() -> impl Strategy<Value = StreamMessage> {
    let content = || proptest::collection::vec(any::<u8>(), 0..3000).prop_map(Bytes::from);
    prop_oneof![
        (
            any::<bool>(),
            proptest::collection::vec(any_node(), 0..20),
            content()
        )
            .prop_map(
                |(join, nodes, user_state)| StreamMessage::PushPull(PushPull {
                    join,
                    nodes,
                    user_state
                })
            ),
        content().prop_map(StreamMessage::User),
        "[ -~]{0,300}".prop_map(StreamMessage::Error),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_however_it_is_cut(
        message in any_stream_message(),
        compress: bool,
        mut cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let stream = encode_stream(&message, "lab", compress);
        cuts.sort_unstable_by_key(|cut| cut.index(stream.len()));
        let mut decoder = StreamDecoder::new(filter("lab"));
        let mut fed = 0;
        for cut in cuts {
            let end = cut.index(stream.len());
            prop_assert_eq!(decoder.feed(&stream[fed..end]), Ok(StreamProgress::NeedMore));
            fed = end;
        }
        prop_assert_eq!(decoder.feed(&stream[fed..]), Ok(StreamProgress::Complete(message)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        type_id in prop_oneof![0_u8..=13, any::<u8>()],
        content in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let plain = [&[type_id][..], &content].concat();
        for stream in [packet::compress(&plain), plain] {
            let _ = StreamDecoder::new(filter("")).feed(&stream);
        }
    }

    /// Damage is seen the same however the stream is cut.
    #[test]
    fn damage_never_panics(
        message in any_stream_message(),
        compress: bool,
        at: prop::sample::Index,
        value: u8,
    ) {
        let mut stream = encode_stream(&message, "", compress);
        let at = at.index(stream.len());
        stream[at] = value;
        let whole = StreamDecoder::new(filter("")).feed(&stream);
        let mut decoder = StreamDecoder::new(filter(""));
        let pieces = stream.iter().map(|byte| decoder.feed(&[*byte]));
        let piecewise = pieces.into_iter().find(|progress| *progress != Ok(StreamProgress::NeedMore));
        prop_assert_eq!(piecewise.unwrap_or(Ok(StreamProgress::NeedMore)), whole);
    }
}
