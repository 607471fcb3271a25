//! What a client meets: requests, upgrades and plain bytes, and instances that answer them with their address.

use super::*;

/// What a client meets once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Met {
    /// Refused, or reset at once, or told so by the proxy.
    Closed,
    Instance(SocketAddr),
    /// Anything else, in words.
    Broken(String),
}

pub(super) const REQUEST: &str = "GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
pub(super) const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: lab\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// What a WebSocket server answers; RFC 6455's example.
pub(super) const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                        Connection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// No request at all, so that nobody who reads requests passes it on.
pub(super) const BYTES: &str = "who is there?\r\n\r\n";

impl Met {
    pub(super) fn at(host: &Host, port: u16, mode: Mode) -> Self {
        let (said, status) = match mode {
            Mode::Http => (REQUEST, "HTTP/1.1 200 "),
            Mode::Tcp => (BYTES, ""),
            Mode::Ws => (UPGRADE, "HTTP/1.1 101 "),
        };
        let answer = match talk(host, port, said, mode == Mode::Ws) {
            Ok(answer) => answer,
            Err(error) if is_closed(&error) => return Self::Closed,
            Err(error) => return Self::Broken(error.to_string()),
        };
        if answer.contains("\r\n\r\nsidecar: no instance of ") {
            return Self::Closed;
        }
        let last_line = answer.trim_end().rsplit('\n').next();
        match last_line.and_then(|it| it.parse().ok()) {
            Some(address) if answer.starts_with(status) => Self::Instance(address),
            _ => Self::Broken(answer),
        }
    }
}

pub(super) fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset};
    [BrokenPipe, ConnectionRefused, ConnectionReset].contains(&error.kind())
}

/// All that is answered; what was upgraded is asked once more.
pub(super) fn talk(host: &Host, port: u16, said: &str, upgraded: bool) -> io::Result<String> {
    let mut stream = host.connect((PROXY_IP, port).into())?;
    stream.write_all(said.as_bytes())?;
    let mut answer = Vec::new();
    if upgraded {
        answer = head(&mut stream)?;
        if answer.starts_with(b"HTTP/1.1 101 ") {
            stream.write_all(BYTES.as_bytes())?;
        }
    }
    stream.read_to_end(&mut answer)?;
    String::from_utf8(answer).map_err(io::Error::other)
}

/// All until an empty line.
pub(super) fn head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(head)
}

/// Answers with the address that was asked, in whichever way it was.
pub(super) fn answer_at(host: &Host, at: SocketAddr) {
    let listener = host.listen(at);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away in the middle is its own affair.
            thread::spawn(move || drop(answer(stream)));
        }
    });
}

pub(super) fn answer(mut stream: TcpStream) -> io::Result<()> {
    let address = format!("{}\n", stream.local_addr()?);
    let asked = String::from_utf8_lossy(&head(&mut stream)?).to_ascii_lowercase();
    if asked.contains("upgrade: websocket") {
        stream.write_all(UPGRADED.as_bytes())?;
        head(&mut stream)?;
    } else if asked.starts_with("get ") {
        let length = address.len();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
    }
    stream.write_all(address.as_bytes())
}
