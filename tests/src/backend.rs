//! A web server that costs little, so that what is measured is the proxy before it, and that ends as a
//! service should. It runs in a process of its own, on a host or as a container's only program.
//!
//! One thread, HTTP/1.1 with keep-alive and pipelining. It answers `/` and all that is not named here with
//! its name, `/large` with [`LARGE_BYTES`], and `/after/MS` with its name that many milliseconds later.
//! Requests may have a body with a length; it is dropped.
//!
//! Told to end by SIGTERM it serves on as before for its linger time, takes no more connections then, and
//! ends when those that are in the middle of a request have their answer. Idle ones are closed without a
//! word, as most servers do it: whoever keeps connections to a server has to be prepared for that.

use std::{io, net::SocketAddr, process::ExitCode, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

/// How many bytes `/large` has.
pub const LARGE_BYTES: usize = 1 << 20;

/// No request of a test is larger.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Pause when a connection cannot be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// What is read at once.
const READ_BYTES: usize = 16 * 1024;

/// The program: its arguments are the address to listen on, the name that it answers with and how many
/// milliseconds it serves on after SIGTERM.
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (Some(Ok(listen)), Some(name)) = (words.first().map(|it| it.parse()), words.get(1)) else {
        return ExitCode::from(2);
    };
    let linger = words.get(2).and_then(|it| it.parse().ok());
    let linger = Duration::from_millis(linger.unwrap_or_default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime.and_then(|it| it.block_on(serve(listen, name, linger))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

async fn serve(listen: SocketAddr, name: &str, linger: Duration) -> io::Result<()> {
    let mut told_to_end = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(listen).await?;
    let pages: &'static Pages = Box::leak(Box::new(Pages::new(name)));
    let (end, ends) = watch::channel(false);
    let mut connections = JoinSet::new();
    let linger_over = async {
        told_to_end.recv().await;
        tokio::time::sleep(linger).await;
    };
    tokio::pin!(linger_over);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(converse(stream, pages, ends.clone()));
                    }
                    // There is no descriptor for it: the next one may come when one is free again.
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
            Some(_) = connections.join_next() => {}
            () = &mut linger_over => break,
        }
    }
    drop(listener);
    // Nobody may be left to be told.
    let _ = end.send(true);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// The answers as they go over the wire.
#[derive(Debug)]
struct Pages {
    small: Vec<u8>,
    large: Vec<u8>,
}

impl Pages {
    fn new(name: &str) -> Self {
        let body = format!("{name}\n");
        let head = |length: usize| {
            format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
            )
        };
        let mut large = head(LARGE_BYTES).into_bytes();
        large.resize(large.len() + LARGE_BYTES, b'x');
        Self {
            small: format!("{}{body}", head(body.len())).into_bytes(),
            large,
        }
    }
}

/// A connection's requests, one after the other, until either side has enough.
async fn converse(
    mut stream: TcpStream,
    pages: &'static Pages,
    mut ends: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut read = Vec::with_capacity(READ_BYTES);
    loop {
        let request = match head_end(&read) {
            Some(end) => Request::parse(&read[..end]),
            None if read.len() > HEAD_BYTES_MAX => return Ok(()),
            None if read.is_empty() => {
                tokio::select! {
                    count = stream.read_buf(&mut read) => if count? == 0 { return Ok(()) },
                    _ = ends.wait_for(|it| *it) => return Ok(()),
                }
                continue;
            }
            None => {
                if stream.read_buf(&mut read).await? == 0 {
                    return Ok(());
                }
                continue;
            }
        };
        while read.len() < request.length {
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        }
        read.drain(..request.length);
        let page = match request.page {
            Page::Large => &pages.large,
            Page::Small { after } => {
                if !after.is_zero() {
                    tokio::time::sleep(after).await;
                }
                &pages.small
            }
        };
        stream.write_all(page).await?;
        if request.is_last {
            return stream.shutdown().await;
        }
    }
}

/// Where a request's head ends, if it is there completely.
fn head_end(read: &[u8]) -> Option<usize> {
    read.windows(4)
        .position(|it| it == b"\r\n\r\n")
        .map(|start| start + 4)
}

#[derive(Debug, PartialEq, Eq)]
enum Page {
    Small { after: Duration },
    Large,
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    page: Page,
    /// Of head and body.
    length: usize,
    /// Whether the client wants no answer after this one's.
    is_last: bool,
}

impl Request {
    fn parse(head: &[u8]) -> Self {
        let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let page = if path == b"/large" {
            Page::Large
        } else {
            let after = path
                .strip_prefix(b"/after/")
                .and_then(|it| std::str::from_utf8(it).ok())
                .and_then(|it| it.parse().ok());
            Page::Small {
                after: Duration::from_millis(after.unwrap_or_default()),
            }
        };
        let mut request = Self {
            page,
            length: head.len(),
            is_last: false,
        };
        for line in head.split(|byte| *byte == b'\n').skip(1) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                let length: Option<usize> = std::str::from_utf8(value)
                    .ok()
                    .and_then(|it| it.parse().ok());
                request.length += length.unwrap_or_default();
            } else if name.eq_ignore_ascii_case(b"connection") {
                request.is_last = value.eq_ignore_ascii_case(b"close");
            }
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_it_wants_and_how_long_it_is() {
        let text = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let expected = Request {
            page: Page::Small {
                after: Duration::ZERO,
            },
            length: text.len(),
            is_last: false,
        };
        assert_eq!(Request::parse(text), expected);
        let text = b"POST /after/50 HTTP/1.1\r\ncontent-LENGTH:  3\r\nConnection: Close\r\n\r\n";
        let expected = Request {
            page: Page::Small {
                after: Duration::from_millis(50),
            },
            length: text.len() + 3,
            is_last: true,
        };
        assert_eq!(Request::parse(text), expected);
        assert_eq!(
            Request::parse(b"GET /large HTTP/1.1\r\n\r\n").page,
            Page::Large
        );
    }
}
