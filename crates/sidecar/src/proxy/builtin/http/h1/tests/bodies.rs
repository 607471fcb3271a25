//! Bodies, and everything in pieces of any size.

use proptest::{collection::vec, prelude::*};

use super::super::{
    chunks::{BadChunk, Chunks, Form},
    head::may_end,
    request, response,
};

const ALL: Form = Form::Chunks {
    with_trailers: true,
};

fn pass(text: &[u8], form: Form) -> Result<(String, usize, bool), BadChunk> {
    let (mut chunks, mut out) = (Chunks::default(), Vec::new());
    let used = chunks.advance(text, form, &mut out)?;
    Ok((String::from_utf8(out).unwrap(), used, chunks.is_over()))
}

#[test]
fn chunks_are_passed_on_in_the_one_way_there_is() {
    for (text, passed) in [
        ("3\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        ("003\r\nabc\r\n000\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        (
            "A;x=\"y\"\r\n0123456789\r\n0;z\r\n\r\n",
            "a\r\n0123456789\r\n0\r\n\r\n",
        ),
        ("1 \t;x\r\na\r\n0 \r\n\r\n", "1\r\na\r\n0\r\n\r\n"),
        ("0\r\nX-Sum: 7\r\n\r\n", "0\r\nx-sum: 7\r\n\r\n"),
        // None that says how a message is read, where it goes, or who sends it.
        (
            "0\r\nContent-Length: 9\r\nHost: a\r\nTE: b\r\nSet-Cookie: c\r\nOk: d\r\n\r\n",
            "0\r\nok: d\r\n\r\n",
        ),
    ] {
        let expected = (passed.to_owned(), text.len(), true);
        assert_eq!(pass(text.as_bytes(), ALL).unwrap(), expected, "{text:?}");
        let more = format!("{text}GET / HTTP/1.1\r\n");
        assert_eq!(pass(more.as_bytes(), ALL).unwrap(), expected, "{text:?}");
    }
    let form = Form::Chunks {
        with_trailers: false,
    };
    assert_eq!(pass(b"0\r\nX-Sum: 7\r\n\r\n", form).unwrap().0, "0\r\n\r\n");
    let plain = pass(b"3\r\nabc\r\n2\r\nde\r\n0\r\nX: 7\r\n\r\n", Form::Plain);
    assert_eq!(plain.unwrap().0, "abcde");
}

#[test]
fn chunks_that_two_readers_could_read_differently_are_none() {
    for (text, error) in [
        ("\r\n", BadChunk::Size),
        ("x\r\n", BadChunk::Size),
        ("-1\r\n", BadChunk::Size),
        ("+1\r\n", BadChunk::Size),
        ("0x1\r\n", BadChunk::Size),
        (" 1\r\n", BadChunk::Size),
        ("1\na", BadChunk::Size),
        ("1\rx", BadChunk::Size),
        ("1 1\r\n", BadChunk::Size),
        ("1;a\nb\r\n", BadChunk::Size),
        (";a\r\n", BadChunk::Size),
        ("1,1\r\n", BadChunk::Size),
        ("11111111111111111\r\n", BadChunk::SizeTooLarge),
        ("1\r\nab", BadChunk::End),
        ("1\r\na\n", BadChunk::End),
        ("1\r\na\rb", BadChunk::End),
        ("0\r\nx\r\n\r\n", BadChunk::Trailers),
        ("0\r\nx : 1\r\n\r\n", BadChunk::Trailers),
        ("0\r\nx: 1\r\n y\r\n\r\n", BadChunk::Trailers),
        ("0\r\nx: 1\n\nGET / HTTP/1.1\r\n\r\n", BadChunk::Trailers),
        ("0\r\n\nGET / HTTP/1.1\r\n\r\n", BadChunk::Trailers),
    ] {
        assert_eq!(pass(text.as_bytes(), ALL).unwrap_err(), error, "{text:?}");
    }
    let long = format!("1;{}\r\n", "x".repeat(17_000));
    assert_eq!(
        pass(long.as_bytes(), ALL).unwrap_err(),
        BadChunk::Extensions
    );
    let many = "1;xxxxxxxxx\r\na\r\n".repeat(2_000);
    assert_eq!(
        pass(many.as_bytes(), ALL).unwrap_err(),
        BadChunk::Extensions
    );
    let blanks = format!("1{}\r\n", " ".repeat(17_000));
    assert_eq!(
        pass(blanks.as_bytes(), ALL).unwrap_err(),
        BadChunk::Extensions
    );
    let long = format!("0\r\nx: {}\r\n\r\n", "x".repeat(17_000));
    assert_eq!(pass(long.as_bytes(), ALL).unwrap_err(), BadChunk::Trailers);
    let many = format!("0\r\n{}\r\n", "x: 1\r\n".repeat(101));
    assert_eq!(pass(many.as_bytes(), ALL).unwrap_err(), BadChunk::Trailers);
}

fn read_request(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    let server = "192.168.168.168:10000".parse().unwrap();
    let read = request::read(bytes, b"10.1.2.3", server, &mut out, |_| ());
    format!("{read:?} {:?}", String::from_utf8_lossy(&out))
}

/// What becomes of a request that comes in pieces, as a conversation reads it.
fn in_pieces(text: &[u8], cuts: &[usize]) -> String {
    let mut known = 0;
    for end in cuts.iter().copied().chain([text.len()]) {
        let bytes = &text[..end.min(text.len())];
        if bytes.len() <= known || (known > 0 && !may_end(bytes, known)) {
            known = known.max(bytes.len());
            continue;
        }
        let read = read_request(bytes);
        if !read.starts_with("Ok(None)") {
            return read;
        }
        known = bytes.len();
    }
    "nothing".to_owned()
}

/// A head of a few fields, some of them nasty.
fn head() -> impl Strategy<Value = String> {
    let field = prop_oneof![
        "[a-zA-Z-]{1,12}: [ -~]{0,20}",
        Just("Connection: close, x".to_owned()),
        Just("Content-Length: 5".to_owned()),
        Just("Transfer-Encoding: chunked".to_owned()),
        Just("X-Forwarded-For: 1.1.1.1".to_owned()),
        Just("TE: trailers".to_owned()),
        Just("x: a\nb: c".to_owned()),
    ];
    let line = prop_oneof![
        "(GET|POST|HEAD|OPTIONS) /[!-~]{0,20} HTTP/1\\.[01]",
        Just("GET http://a/b HTTP/1.1".to_owned()),
        Just("OPTIONS * HTTP/1.1".to_owned()),
    ];
    (line, vec(field, 0..8)).prop_map(|(line, mut fields)| {
        fields.push("Host: w".to_owned());
        format!("{line}\r\n{}\r\n\r\n", fields.join("\r\n"))
    })
}

proptest! {
    #[test]
    fn a_request_in_pieces_is_the_same_request(head in head(), mut cuts in vec(0_usize..300, 0..6)) {
        cuts.sort_unstable();
        let whole = read_request(head.as_bytes());
        // Errors may be seen before the end.
        let pieces = in_pieces(head.as_bytes(), &cuts);
        if whole.starts_with("Ok") {
            prop_assert_eq!(pieces, whole);
        } else {
            prop_assert!(pieces.starts_with("Err"), "{} and not {}", pieces, whole);
        }
    }

    #[test]
    fn a_request_that_is_passed_on_is_understood_as_it_was(head in head()) {
        let mut out = Vec::new();
        let server = "192.168.168.168:10000".parse().unwrap();
        let read = request::read(head.as_bytes(), b"10.1.2.3", server, &mut out, |_| ());
        if let Ok(Some((length, request))) = read && request.refusal.is_none() {
            prop_assert_eq!(length, head.len());
            let again = request::read(&out, b"10.1.2.3", server, &mut Vec::new(), |_| ());
            let (length, again) = again.unwrap().unwrap();
            prop_assert_eq!(length, out.len());
            prop_assert_eq!(again.framing, request.framing);
            prop_assert_eq!(again.is_head, request.is_head);
            prop_assert!(again.refusal.is_none());
        }
    }

    #[test]
    fn chunks_in_pieces_are_the_same_chunks(
        data in vec(vec(any::<u8>(), 1..40), 0..6),
        mut cuts in vec(0_usize..300, 0..8),
        trailer in "[a-z]{1,5}: [a-z]{0,5}",
    ) {
        let mut text = Vec::new();
        for piece in &data {
            text.extend_from_slice(format!("{:03X};e\r\n", piece.len()).as_bytes());
            text.extend_from_slice(piece);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(format!("0\r\nx-{trailer}\r\n\r\nmore").as_bytes());
        cuts.sort_unstable();
        let (mut whole, mut expected) = (Chunks::default(), Vec::new());
        let used = whole.advance(&text, ALL, &mut expected).unwrap();
        prop_assert_eq!(used, text.len() - 4);
        prop_assert_eq!(whole.data_bytes as usize, data.concat().len());
        let (mut chunks, mut out, mut at) = (Chunks::default(), Vec::new(), 0);
        for end in cuts.into_iter().chain([text.len()]) {
            let end = end.min(text.len()).max(at);
            at += chunks.advance(&text[at..end], ALL, &mut out).unwrap();
        }
        prop_assert!(chunks.is_over());
        prop_assert_eq!(at, used);
        prop_assert_eq!(&out, &expected);
        // What was written is a body of the same data.
        let (mut again, mut plain) = (Chunks::default(), Vec::new());
        prop_assert_eq!(again.advance(&out, Form::Plain, &mut plain).unwrap(), out.len());
        prop_assert_eq!(plain, data.concat());
    }

    #[test]
    fn whatever_comes_nothing_panics(bytes in vec(any::<u8>(), 0..400), prefix in 0_usize..4) {
        let prefix = ["", "GET / HTTP/1.1\r\n", "HTTP/1.1 200 OK\r\n", "1\r\na\r\n"][prefix];
        let text = [prefix.as_bytes(), &bytes].concat();
        let server = "192.168.168.168:10000".parse().unwrap();
        let _ = request::read(&text, b"c", server, &mut Vec::new(), |_| ());
        let asked = b"GET / HTTP/1.1\r\nHost: w\r\n\r\n";
        let (_, asked) = request::read(asked, b"c", server, &mut Vec::new(), |_| ()).unwrap().unwrap();
        let _ = response::read(&text, &asked, false, &mut Vec::new());
        let _ = Chunks::default().advance(&text, ALL, &mut Vec::new());
        let _ = may_end(&text, text.len() / 2);
    }
}
