//! What is too much, and what is just not.

use super::*;

#[test]
fn declared_sizes_beyond_any_stream_are_refused_at_once() {
    let too_large = WireError::Stream(StreamProblem::TooLarge {
        max: STREAM_BYTES_MAX,
    });
    assert_eq!(
        refused(b"\x09\x82\xa4Algo\x00\xa3Buf\xdb\xff\xff\xff\xff"),
        too_large
    );
    assert_eq!(refused(b"\x00\x81\xa4Node\xdb\x7f\xff\xff\xff"), too_large);
    assert_eq!(
        refused(
            &[
                head(b"\x01", b"\x00"),
                b"\x81\xa4Name\xc6\x80\x00\x00\x00".to_vec()
            ]
            .concat()
        ),
        too_large
    );
}

#[test]
fn declared_counts_have_ranges() {
    let length = |field, value, max| WireError::Stream(StreamProblem::Length { field, value, max });
    for (nodes, value) in [
        (&b"\xff"[..], -1),
        (b"\xd2\x80\x00\x00\x00", i64::from(i32::MIN)),
        (b"\xce\x00\x01\x00\x01", 65_537),
        (b"\xcf\x7f\xff\xff\xff\xff\xff\xff\xff", i64::MAX),
    ] {
        assert_eq!(
            refused(&head(nodes, b"\x00")),
            length("Nodes", value, PUSH_NODES_MAX)
        );
    }
    for (bytes, value) in [
        (&b"\xff"[..], -1),
        (b"\xce\x01\x40\x00\x01", 20 * 1024 * 1024 + 1),
    ] {
        assert_eq!(
            refused(&head(b"\x00", bytes)),
            length("UserStateLen", value, USER_STATE_BYTES_MAX)
        );
    }
    for (bytes, value) in [
        (&b"\xff"[..], -1),
        (b"\xce\x00\x10\x00\x01", 1024 * 1024 + 1),
    ] {
        let stream = [b"\x08\x81\xaaUserMsgLen", bytes].concat();
        assert_eq!(
            refused(&stream),
            length("UserMsgLen", value, USER_MESSAGE_BYTES_MAX)
        );
    }
    // The largest ones are waited for.
    for stream in [
        head(b"\xce\x00\x01\x00\x00", b"\x00"),
        head(b"\x00", b"\xce\x01\x40\x00\x00"),
        b"\x08\x81\xaaUserMsgLen\xce\x00\x10\x00\x00".to_vec(),
    ] {
        assert_eq!(
            StreamDecoder::new(filter("")).feed(&stream),
            Ok(StreamProgress::NeedMore)
        );
    }
    // No more entries than the bytes of a compressed table could hold.
    let stream = packet::compress(&[head(b"\x02", b"\x00"), vec![0; 39]].concat());
    assert_eq!(refused(&stream), length("Nodes", 2, 1));
}

#[test]
fn message_may_be_as_long_as_the_limits_say() {
    let content = Bytes::from(vec![7; USER_MESSAGE_BYTES_MAX]);
    let message = StreamMessage::User(content);
    for compress in [false, true] {
        let stream = encode_stream(&message, "", compress);
        let progress = StreamDecoder::new(filter("")).feed(&stream);
        assert_eq!(progress, Ok(StreamProgress::Complete(message.clone())));
    }
    let user_state = Bytes::from(vec![7; USER_STATE_BYTES_MAX]);
    let message = StreamMessage::PushPull(PushPull {
        join: false,
        nodes: vec![node("a")],
        user_state,
    });
    let stream = encode_stream(&message, "", true);
    let progress = StreamDecoder::new(filter("")).feed(&stream);
    assert_eq!(progress, Ok(StreamProgress::Complete(message)));
}

#[test]
fn stream_is_capped_raw_and_inflated() {
    let too_large = Err(WireError::Stream(StreamProblem::TooLarge {
        max: STREAM_BYTES_MAX,
    }));
    // Small entries that would go on for ever.
    let mut decoder = StreamDecoder::new(filter(""));
    let skipped = [&b"\x81\xa1x\xda\xff\xff"[..], &[0; 65_535]].concat();
    assert_eq!(
        decoder.feed(&head(b"\xce\x00\x01\x00\x00", b"\x00")),
        Ok(StreamProgress::NeedMore)
    );
    let outcome = (0..=STREAM_BYTES_MAX / skipped.len())
        .map(|_| decoder.feed(&skipped))
        .find(|progress| *progress != Ok(StreamProgress::NeedMore));
    assert_eq!(outcome, Some(too_large));
    // 40 MiB and one byte of nothing.
    let bomb = packet::compress(&vec![0; DECOMPRESSED_STREAM_BYTES_MAX + 1]);
    assert!(bomb.len() < 40_000);
    let max = DECOMPRESSED_STREAM_BYTES_MAX;
    let error = StreamDecoder::new(filter("")).feed(&bomb).unwrap_err();
    assert_eq!(
        error,
        WireError::Compression(CompressionProblem::TooLarge { max })
    );
}
