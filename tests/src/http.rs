//! HTTP as little as a test needs: one request, and the answer as it came over the wire.
//!
//! Written on sockets because the answers themselves are under test: header order, chunking and
//! what stands between two documents of a stream.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::json::Json;

/// A request. `Connection: close` is always part of it, and a `Host` unless the headers have one.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`, `POST`, `OPTIONS`, …
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Further header lines, name and value.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body; its length is sent with it.
    pub body: &'a str,
}

impl<'a> Request<'a> {
    /// `GET path`.
    pub fn get(path: &'a str) -> Self {
        Self {
            method: "GET",
            path,
            headers: &[],
            body: "",
        }
    }

    /// `POST path` with an empty body.
    pub fn post(path: &'a str) -> Self {
        Self {
            method: "POST",
            ..Self::get(path)
        }
    }

    pub(crate) fn write(&self, stream: &mut TcpStream) -> io::Result<()> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        let mut names = self.headers.iter().map(|(name, _)| name);
        if !names.any(|name| name.eq_ignore_ascii_case("host")) {
            head += "Host: lab\r\n";
        }
        head += "Connection: close\r\n";
        for (name, value) in self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.method != "GET" || !self.body.is_empty() {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        stream.write_all(format!("{head}\r\n{}", self.body).as_bytes())
    }
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header lines in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body without its transfer coding.
    pub body: String,
}

impl Response {
    pub(crate) fn read(mut stream: TcpStream, request: &Request<'_>) -> io::Result<Self> {
        request.write(&mut stream)?;
        let (head, body) = split(stream)?;
        let mut bytes = Vec::new();
        match head.length() {
            _ if request.method == "HEAD" || head.status == 304 => {}
            Some(length) => {
                bytes.resize(length, 0);
                Body::new(body, &head).read_exact(&mut bytes)?;
            }
            None => {
                Body::new(body, &head).read_to_end(&mut bytes)?;
            }
        }
        let body = String::from_utf8(bytes).map_err(io::Error::other)?;
        Ok(Self {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    /// The value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Json {
        Json::parse(&self.body)
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    fn length(&self) -> Option<usize> {
        header(&self.headers, "content-length")?.parse().ok()
    }

    fn chunked(&self) -> bool {
        header(&self.headers, "transfer-encoding").is_some_and(|coding| coding == "chunked")
    }
}

pub(crate) fn split(stream: TcpStream) -> io::Result<(Head, BufReader<TcpStream>)> {
    let mut reader = BufReader::new(stream);
    let first = line(&mut reader)?;
    let status = first
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1)?.parse().ok())
        .ok_or_else(|| io::Error::other(format!("not the head of an answer: {first:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = line(&mut reader)?;
        if line.is_empty() {
            return Ok((Head { status, headers }, reader));
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A body without its transfer coding.
#[derive(Debug)]
pub(crate) struct Body {
    reader: BufReader<TcpStream>,
    chunked: bool,
    /// What is left of the current chunk.
    left: usize,
    ended: bool,
}

impl Body {
    pub(crate) fn new(reader: BufReader<TcpStream>, head: &Head) -> Self {
        Self {
            reader,
            chunked: head.chunked(),
            left: 0,
            ended: false,
        }
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        let size = line(&mut self.reader)?;
        self.left = usize::from_str_radix(&size, 16)
            .map_err(|_| io::Error::other(format!("not a chunk's size: {size:?}")))?;
        if self.left == 0 {
            self.ended = true;
            line(&mut self.reader)?;
        }
        Ok(())
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.chunked {
            return self.reader.read(into);
        }
        if self.left == 0 && !self.ended {
            self.next_chunk()?;
        }
        if self.ended || into.is_empty() {
            return Ok(0);
        }
        let room = into.len().min(self.left);
        let read = self.reader.read(&mut into[..room])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read;
        if self.left == 0 {
            line(&mut self.reader)?;
        }
        Ok(read)
    }
}

/// An endless answer made of JSON documents.
#[derive(Debug)]
pub struct Stream {
    /// The status code.
    pub status: u16,
    /// Header lines in the order they came.
    pub headers: Vec<(String, String)>,
    socket: TcpStream,
    body: Body,
    /// What was read and not yet returned.
    text: Vec<u8>,
}

impl Stream {
    pub(crate) fn open(mut stream: TcpStream, path: &str) -> io::Result<Self> {
        Request::get(path).write(&mut stream)?;
        let socket = stream.try_clone()?;
        let (head, reader) = split(stream)?;
        let body = Body::new(reader, &head);
        Ok(Self {
            status: head.status,
            headers: head.headers,
            socket,
            body,
            text: Vec::new(),
        })
    }

    /// The text of the next document, and nothing of what follows it.
    ///
    /// # Panics
    /// When there is no complete one `within` the time given, counted from the last byte.
    pub fn next(&mut self, within: Duration) -> String {
        self.socket
            .set_read_timeout(Some(within))
            .expect("a timeout above zero");
        loop {
            if let Some(end) = document_end(&self.text) {
                let rest = self.text.split_off(end);
                let document = std::mem::replace(&mut self.text, rest);
                return String::from_utf8(document).expect("documents are UTF-8");
            }
            let mut piece = [0; 8192];
            let read = self.body.read(&mut piece).unwrap_or_else(|error| {
                panic!(
                    "no further document within {within:?} ({error}), so far {} bytes",
                    self.text.len()
                )
            });
            assert_ne!(
                read,
                0,
                "the stream ended after {} bytes of a document",
                self.text.len()
            );
            self.text.extend_from_slice(&piece[..read]);
        }
    }
}

/// Where the first JSON document of `text` ends, if it is complete.
fn document_end(text: &[u8]) -> Option<usize> {
    let mut documents =
        serde_json::Deserializer::from_slice(text).into_iter::<serde::de::IgnoredAny>();
    match documents.next()? {
        Ok(_) => Some(documents.byte_offset()),
        Err(error) if error.is_eof() => None,
        Err(error) => panic!("not JSON: {error}: {}", String::from_utf8_lossy(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::document_end;

    #[test]
    fn documents_follow_one_another_without_a_separator() {
        assert_eq!(document_end(b"{\"a\":1}{\"b\""), Some(7));
        assert_eq!(document_end(b"{\"a\":"), None);
        assert_eq!(document_end(b""), None);
    }
}
