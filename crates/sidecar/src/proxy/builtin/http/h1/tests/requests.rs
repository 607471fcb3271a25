//! Heads of requests, good ones and those that two readers could read differently.

use super::{
    super::{
        head::{Framing, may_end},
        request::{self, Request},
    },
    parsed,
};

const CLIENT: &[u8] = b"10.1.2.3";

pub(super) fn read_request(text: &[u8]) -> (String, Option<Request>, Vec<u8>) {
    let mut out = Vec::new();
    let server = "192.168.168.168:10000".parse().unwrap();
    let (verdict, request) = match request::read(text, CLIENT, server, &mut out, |_| ()) {
        Err(reject) => (reject.status().as_u16().to_string(), None),
        Ok(None) => ("part".to_owned(), None),
        Ok(Some((_, request))) => {
            let verdict = match (request.refusal, request.framing) {
                (Some(refusal), _) => format!("{refusal:?}"),
                (None, Framing::Length(length)) => length.to_string(),
                (None, framing) => format!("{framing:?}").to_lowercase(),
            };
            (verdict, Some(request))
        }
    };
    (verdict, request, out)
}

#[test]
fn a_request_is_understood_in_one_way_or_not_at_all() {
    let long = "x".repeat(70_000);
    let many = "x: 1\r\n".repeat(101);
    let ninety = "x: 1\r\n".repeat(90);
    // What is put before "Host: w" and the end of the head, what after it, and what is understood.
    for (line, fields, verdict) in [
        ("GET / HTTP/1.1", "", "empty"),
        ("GET / HTTP/1.0", "", "empty"),
        ("GET  / HTTP/1.1", "", "400"),
        ("GET / HTTP/1.1 ", "", "400"),
        (" GET / HTTP/1.1", "", "400"),
        ("\r\nGET / HTTP/1.1", "", "empty"),
        ("G=T / HTTP/1.1", "", "400"),
        ("GET / HTTP/1.2", "", "400"),
        ("GET / HTTP/2.0", "", "400"),
        ("GET / HTTP/0.9", "", "400"),
        ("GET / http/1.1", "", "400"),
        ("GET /", "", "400"),
        ("GET /\t HTTP/1.1", "", "400"),
        ("GET /\0 HTTP/1.1", "", "400"),
        ("GET /a\x7fb HTTP/1.1", "", "400"),
        ("GET /\r HTTP/1.1", "", "400"),
        ("GET * HTTP/1.1", "", "BadTarget"),
        ("OPTIONS * HTTP/1.1", "", "empty"),
        ("GET a:80 HTTP/1.1", "", "BadTarget"),
        ("GET http://a/ HTTP/1.1", "", "empty"),
        ("GET http://u:p@a/ HTTP/1.1", "", "BadTarget"),
        ("GET http:// HTTP/1.1", "", "400"),
        ("GET //a/b HTTP/1.1", "", "empty"),
        ("GET /\"{}\" HTTP/1.1", "", "empty"),
        ("CONNECT a:80 HTTP/1.1", "", "Connect"),
        ("CONNECT / HTTP/1.1", "", "Connect"),
        ("POST / HTTP/1.1", "Content-Length: 3\r\n", "3"),
        ("POST / HTTP/1.1", "Content-Length: 0\r\n", "empty"),
        ("POST / HTTP/1.1", "content-length:007\r\n", "7"),
        (
            "POST / HTTP/1.1",
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            "3",
        ),
        (
            "POST / HTTP/1.1",
            "Content-Length: 3\r\nContent-Length: 4\r\n",
            "400",
        ),
        ("POST / HTTP/1.1", "Content-Length: 3, 3\r\n", "400"),
        ("POST / HTTP/1.1", "Content-Length: \r\n", "400"),
        ("POST / HTTP/1.1", "Content-Length: +3\r\n", "400"),
        ("POST / HTTP/1.1", "Content-Length: -3\r\n", "400"),
        ("POST / HTTP/1.1", "Content-Length: 0x3\r\n", "400"),
        ("POST / HTTP/1.1", "Content-Length: 3 3\r\n", "400"),
        (
            "POST / HTTP/1.1",
            "Content-Length: 18446744073709551616\r\n",
            "400",
        ),
        ("POST / HTTP/1.1", "Content-Length : 3\r\n", "400"),
        (
            "POST / HTTP/1.1",
            "Transfer-Encoding: chunked\r\n",
            "chunked",
        ),
        (
            "POST / HTTP/1.1",
            "transfer-encoding: CHUNKED\r\n",
            "chunked",
        ),
        (
            "POST / HTTP/1.1",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "chunked",
        ),
        (
            "POST / HTTP/1.1",
            "Content-Length: x\r\nTransfer-Encoding: chunked\r\n",
            "400",
        ),
        ("POST / HTTP/1.1", "Transfer-Encoding: gzip\r\n", "400"),
        ("POST / HTTP/1.1", "Transfer-Encoding: identity\r\n", "400"),
        (
            "POST / HTTP/1.1",
            "Transfer-Encoding: gzip, chunked\r\n",
            "400",
        ),
        (
            "POST / HTTP/1.1",
            "Transfer-Encoding: chunked, chunked\r\n",
            "400",
        ),
        (
            "POST / HTTP/1.1",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "400",
        ),
        (
            "POST / HTTP/1.1",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n",
            "400",
        ),
        (
            "POST / HTTP/1.1",
            "Transfer-Encoding: \"chunked\"\r\n",
            "400",
        ),
        ("POST / HTTP/1.1", "Transfer-Encoding: xchunked\r\n", "400"),
        (
            "POST / HTTP/1.1",
            "Transfer-Encoding: chunked;q=1\r\n",
            "400",
        ),
        (
            "POST / HTTP/1.1",
            "Transfer-Encoding:\x0bchunked\r\n",
            "400",
        ),
        (
            "POST / HTTP/1.1",
            "Transfer-Encoding:\r\n chunked\r\n",
            "400",
        ),
        ("POST / HTTP/1.1", "Transfer-Encoding : chunked\r\n", "400"),
        (
            "POST / HTTP/1.1",
            "Transfer-Encoding\r\n: chunked\r\n",
            "400",
        ),
        ("POST / HTTP/1.1", "Transfer-Encoding:\r\n", "400"),
        ("POST / HTTP/1.0", "Transfer-Encoding: chunked\r\n", "400"),
        ("POST / HTTP/1.1", "Transfer_Encoding: chunked\r\n", "empty"),
        ("GET / HTTP/1.1", "Host: v\r\n", "ManyHosts"),
        ("GET / HTTP/1.1", "Host: w\r\n", "ManyHosts"),
        ("GET / HTTP/1.1", "X: a\r\n b\r\n", "400"),
        ("GET / HTTP/1.1", " X: a\r\n", "400"),
        ("GET / HTTP/1.1", ": a\r\n", "400"),
        ("GET / HTTP/1.1", "X\r\n", "400"),
        ("GET / HTTP/1.1", "X Y: a\r\n", "400"),
        ("GET / HTTP/1.1", "X(: a\r\n", "400"),
        ("GET / HTTP/1.1", "X: a\0b\r\n", "400"),
        ("GET / HTTP/1.1", "X: a\rb\r\n", "400"),
        ("GET / HTTP/1.1", "X: a\x7fb\r\n", "400"),
        ("GET / HTTP/1.1", "X: \r\n", "empty"),
        ("GET / HTTP/1.1", "X: \u{fc}\r\n", "empty"),
        ("GET / HTTP/1.1", "X: a\nY: b\n", "empty"),
        ("GET / HTTP/1.1", &ninety, "empty"),
        ("GET / HTTP/1.1", &many, "431"),
        (
            "GET / HTTP/1.1",
            &format!("Connection: {}\r\n", "x,".repeat(3_000)),
            "431",
        ),
        ("GET / HTTP/1.1", &format!("X: {long}\r\n"), "431"),
        (&format!("GET /{long} HTTP/1.1"), "", "431"),
    ] {
        let text = format!("{line}\r\nHost: w\r\n{fields}\r\n");
        let (understood, request, out) = read_request(text.as_bytes());
        let shown = &text[..text.len().min(100)];
        assert_eq!(understood, verdict, "{shown:?}");
        if request.is_some_and(|it| it.refusal.is_none()) {
            says_its_framing_once(&out, request.unwrap().framing);
        } else {
            assert!(out.is_empty(), "{shown:?}");
        }
    }
    let (understood, ..) = read_request(format!("GET /{long}").as_bytes());
    assert_eq!(understood, "414", "its first line does not end");
    assert_eq!(read_request(b"GET / HTTP/1.1\r\n\r\n").0, "NoHost");
    assert_eq!(read_request(b"GET / HTTP/1.0\r\n\r\n").0, "empty");
    assert_eq!(read_request(b"\x16\x03\x01\x02\x00\x01").0, "400");
}

/// Whoever reads what was written understands the same.
fn says_its_framing_once(out: &[u8], framing: Framing) {
    let (understood, again, _) = read_request(out);
    let again = again.unwrap_or_else(|| panic!("{understood}: {:?}", String::from_utf8_lossy(out)));
    assert_eq!(again.framing, framing);
    assert_eq!(again.refusal, None);
    assert!(again.is_1_1);
    let text = String::from_utf8_lossy(out).to_lowercase();
    let framings = text.matches("\r\ncontent-length:").count();
    let framings = framings + text.matches("\r\ntransfer-encoding:").count();
    let is_measured = text.contains("\r\ncontent-length: 0\r\n");
    let expected = usize::from(framing != Framing::Empty || is_measured);
    assert_eq!(framings, expected, "{text}");
    assert_eq!(text.matches("\r\nhost:").count(), 1, "{text}");
}

#[test]
fn whether_another_request_may_follow_is_up_to_version_and_connection() {
    for (version, fields, keeps) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: x, CLOSE\r\n", false),
        (
            "1.1",
            "Connection: close\r\nConnection: keep-alive\r\n",
            false,
        ),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
        // Who gave two lengths may have meant the other one.
        (
            "1.1",
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            false,
        ),
    ] {
        let text = format!("GET / HTTP/{version}\r\nHost: w\r\n{fields}\r\n");
        let (_, request, out) = read_request(text.as_bytes());
        assert_eq!(request.unwrap().keeps_alive, keeps, "{text}");
        let (_, fields) = parsed(&out);
        assert!(
            fields.iter().all(|(name, _)| name != "connection"),
            "{fields:?}"
        );
    }
}

#[test]
fn another_protocol_is_asked_for_but_http_2() {
    let upgrade = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n";
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    for (version, fields, asks) in [
        ("1.1", upgrade, true),
        ("1.0", upgrade, false),
        ("1.1", "Upgrade: websocket\r\n", false),
        ("1.1", "Connection: upgrade\r\n", false),
        ("1.1", h2c, false),
    ] {
        let text = format!("GET / HTTP/{version}\r\nHost: w\r\n{fields}\r\n");
        let (_, request, out) = read_request(text.as_bytes());
        assert_eq!(request.unwrap().asks_upgrade, asks, "{text}");
        let (_, fields) = parsed(&out);
        let has = |wanted: (&str, &str)| {
            let mut fields = fields.iter();
            fields.any(|(name, value)| (name.as_str(), value.as_str()) == wanted)
        };
        assert_eq!(has(("connection", "upgrade")), asks, "{fields:?}");
        assert_eq!(has(("upgrade", "websocket")), asks, "{fields:?}");
        assert!(fields.iter().all(|(name, _)| name != "http2-settings"));
    }
}

#[test]
fn a_head_is_read_again_only_when_its_end_may_have_come() {
    for (bytes, known, may) in [
        ("GET / HTTP/1.1\r\nA: b", 1, false),
        ("GET / HTTP/1.1\r\nA: b\r\n", 1, false),
        ("GET / HTTP/1.1\r\n\r\n", 1, true),
        ("GET / HTTP/1.1\r\n\r\n", 15, true),
        ("GET / HTTP/1.1\r\n\r\n", 16, true),
        ("GET / HTTP/1.1\r\n\r\n", 17, true),
        ("GET / HTTP/1.1\n\n", 15, true),
        ("a\r\n\r\nb", 6, false),
    ] {
        let text = bytes.as_bytes();
        assert_eq!(may_end(text, known), may, "{bytes:?} from {known}");
    }
}
