//! What is understood of bytes, whatever they are and however they come.

mod bodies;
mod requests;
mod responses;

use std::net::SocketAddr;

use hyper::{Version, http::request::Parts};

use super::{super::headers::Refusal, request};

/// Target and fields of what an endpoint gets of a request.
pub(in super::super) fn relayed(
    head: &Parts,
    client: &str,
    server: SocketAddr,
) -> Result<(String, Vec<(String, String)>), Refusal> {
    let version = if head.version == Version::HTTP_10 {
        0
    } else {
        1
    };
    let mut text = format!("{} {} HTTP/1.{version}\r\n", head.method, head.uri);
    for (name, value) in &head.headers {
        text += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    text += "\r\n";
    let mut out = Vec::new();
    let read = request::read(text.as_bytes(), client.as_bytes(), server, &mut out, |_| ());
    let (length, request) = read.unwrap().unwrap();
    assert_eq!(length, text.len());
    if let Some(refusal) = request.refusal {
        assert!(out.is_empty(), "nothing is said of what is refused");
        return Err(refusal);
    }
    let (line, fields) = parsed(&out);
    let target = line.split(' ').nth(1).unwrap().to_owned();
    Ok((target, fields))
}

/// The first line and the fields of a head that is whole.
fn parsed(bytes: &[u8]) -> (String, Vec<(String, String)>) {
    let text = std::str::from_utf8(bytes).unwrap();
    let head = text.strip_suffix("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap().to_owned();
    let fields = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_owned(), value.to_owned())
    });
    (first, fields.collect())
}
