//! Heads of answers, good ones and those that two readers could read differently.

use super::{
    super::{
        chunks::Form,
        head::Framing,
        request::Request,
        response::{self, Heard, Response},
    },
    parsed,
    requests::read_request,
};

fn asked(method: &str, version: &str, fields: &str) -> Request {
    let text = format!("{method} / HTTP/{version}\r\nHost: w\r\n{fields}\r\n");
    read_request(text.as_bytes()).1.unwrap()
}

fn read_response(text: &[u8], request: &Request) -> (String, Option<Response>, Vec<u8>) {
    let mut out = b"what was sent".to_vec();
    let (verdict, response) = match response::read(text, request, false, &mut out) {
        Err(_) => ("none".to_owned(), None),
        Ok(None) => ("part".to_owned(), None),
        Ok(Some((_, Heard::Interim))) => ("interim".to_owned(), None),
        Ok(Some((_, Heard::Response(response)))) => {
            let verdict = match response.framing {
                Framing::Length(length) => length.to_string(),
                framing => format!("{framing:?}").to_lowercase(),
            };
            (verdict, Some(response))
        }
    };
    if response.is_none() {
        assert_eq!(out, b"what was sent", "the request may be needed again");
    }
    (verdict, response, out)
}

#[test]
fn an_answer_is_understood_in_one_way_or_not_at_all() {
    let many = "x: 1\r\n".repeat(101);
    let get = asked("GET", "1.1", "");
    let head = asked("HEAD", "1.1", "");
    for (request, line, fields, verdict) in [
        (&get, "HTTP/1.1 200 OK", "Content-Length: 3\r\n", "3"),
        (&get, "HTTP/1.1 200 OK", "Content-Length: 0\r\n", "empty"),
        (&get, "HTTP/1.1 200 OK", "", "untilend"),
        (&get, "HTTP/1.0 200 OK", "", "untilend"),
        (&get, "HTTP/1.1 200", "Content-Length: 3\r\n", "3"),
        (&get, "HTTP/1.1 200 ", "Content-Length: 3\r\n", "3"),
        (
            &get,
            "HTTP/1.1 200 OK",
            "Transfer-Encoding: chunked\r\n",
            "chunked",
        ),
        (
            &get,
            "HTTP/1.1 200 OK",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "chunked",
        ),
        (
            &get,
            "HTTP/1.1 200 OK",
            "Transfer-Encoding: gzip\r\n",
            "none",
        ),
        (
            &get,
            "HTTP/1.1 200 OK",
            "Transfer-Encoding: gzip, chunked\r\n",
            "none",
        ),
        (
            &get,
            "HTTP/1.0 200 OK",
            "Transfer-Encoding: chunked\r\n",
            "none",
        ),
        (
            &get,
            "HTTP/1.1 200 OK",
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "none",
        ),
        (
            &get,
            "HTTP/1.1 200 OK",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "1",
        ),
        (&get, "HTTP/1.1 200 OK", "Content-Length: -1\r\n", "none"),
        (&get, "HTTP/1.1 200 OK", "Content-Length: 1, 1\r\n", "none"),
        (&get, "HTTP/1.1 200 OK", "Content-Length : 1\r\n", "none"),
        (&get, "HTTP/1.1 200 OK", "X: a\r\n b\r\n", "none"),
        (&get, "HTTP/1.1 200 OK", &many, "none"),
        (
            &get,
            "HTTP/1.1 204 No Content",
            "Content-Length: 3\r\n",
            "empty",
        ),
        (
            &get,
            "HTTP/1.1 204 No Content",
            "Transfer-Encoding: chunked\r\n",
            "empty",
        ),
        (
            &get,
            "HTTP/1.1 304 Not Modified",
            "Content-Length: 3\r\n",
            "empty",
        ),
        (&head, "HTTP/1.1 200 OK", "Content-Length: 3\r\n", "empty"),
        (&head, "HTTP/1.1 200 OK", "", "empty"),
        (&get, "HTTP/1.1 100 Continue", "", "interim"),
        (&get, "HTTP/1.1 103 Early Hints", "Link: x\r\n", "interim"),
        (
            &get,
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: x\r\n",
            "empty",
        ),
        (&get, "HTTP/1.1 099 x", "", "none"),
        (&get, "HTTP/1.1 20 OK", "", "none"),
        (&get, "HTTP/1.1 2000 OK", "", "none"),
        (&get, "HTTP/2 200 OK", "", "none"),
        (&get, "SSH-2.0-x", "", "none"),
        (&get, " HTTP/1.1 200 OK", "", "none"),
    ] {
        let text = format!("{line}\r\n{fields}\r\n");
        let (understood, response, out) = read_response(text.as_bytes(), request);
        assert_eq!(understood, verdict, "{:?}", &text[..text.len().min(100)]);
        let Some(response) = response else { continue };
        let (_, fields) = parsed(&out);
        let framings = fields
            .iter()
            .filter(|(name, _)| name == "content-length" || name == "transfer-encoding");
        assert!(framings.count() <= 1, "{fields:?}");
        // What has no end of its own is given one.
        let is_open = matches!(response.framing, Framing::Chunked | Framing::UntilEnd);
        let with_trailers = false;
        assert_eq!(response.form == Form::Chunks { with_trailers }, is_open);
        let again = response::read(&out, request, false, &mut Vec::new());
        let Ok(Some((_, Heard::Response(again)))) = again else {
            panic!("{again:?}");
        };
        let framing = if is_open {
            Framing::Chunked
        } else {
            response.framing
        };
        assert_eq!(again.framing, framing, "{fields:?}");
    }
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(70_000));
    assert_eq!(read_response(long.as_bytes(), &get).0, "none");
}

#[test]
fn what_an_old_client_cannot_read_ends_with_the_connection() {
    let old = asked("GET", "1.0", "Connection: keep-alive\r\n");
    for (fields, keeps) in [
        ("Content-Length: 3\r\n", true),
        ("Transfer-Encoding: chunked\r\n", false),
        ("", false),
    ] {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        let (_, response, out) = read_response(text.as_bytes(), &old);
        let response = response.unwrap();
        assert_eq!((response.keeps_client, response.form), (keeps, Form::Plain));
        let (line, fields) = parsed(&out);
        assert_eq!(line, "HTTP/1.0 200 OK");
        let word = ("connection".to_owned(), "keep-alive".to_owned());
        assert_eq!(fields.contains(&word), keeps, "{fields:?}");
        assert!(fields.iter().all(|(name, _)| name != "transfer-encoding"));
    }
}

#[test]
fn answers_lose_what_concerns_the_endpoints_connection() {
    let text = "HTTP/1.1 200 Fine\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                Set-Cookie: a\r\nSet-Cookie: b\r\nX-Forwarded-For: c\r\nVia: 1.0 old\r\nContent-Length: 3\r\n\r\n";
    let (_, response, out) = read_response(text.as_bytes(), &asked("GET", "1.1", ""));
    assert!(!response.unwrap().keeps_link && response.unwrap().keeps_client);
    let expected = "HTTP/1.1 200 Fine\r\nset-cookie: a\r\nset-cookie: b\r\nx-forwarded-for: c\r\n\
                    via: 1.0 old, 1.1 sidecar\r\ncontent-length: 3\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}
