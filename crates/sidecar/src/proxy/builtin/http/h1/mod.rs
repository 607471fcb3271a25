//! HTTP/1.1 from clients to endpoints. httparse reads heads; what is done here is framing and forwarding.
//!
//! A client's connection is one task, in which its requests' connections to endpoints are moved, too. While it
//! waits it has no buffer. A small request and its answer take two reads, two writes, and one allocation: each is
//! read into a buffer of the thread, and its head written anew into another, with what has come of the body.
//!
//! - [`request`], [`response`], [`head`], [`chunks`]: what is understood and what is written; pure.
//! - [`exchange`]: one request, from its head to the end of its answer; [`hearing`]: the head of the answer;
//!   [`upload`]: a request whose body does not come at once.
//! - [`body`]: bodies that do not come at once. [`link`]: connections to endpoints that wait.

mod body;
mod buffer;
mod chunks;
mod exchange;
mod head;
mod hearing;
pub(in crate::proxy::builtin) mod link;
mod request;
mod response;
#[cfg(test)]
pub(super) mod tests;
mod timer;
mod upload;

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use hyper::StatusCode;
use tokio::net::TcpStream;

#[cfg(test)]
pub(in crate::proxy::builtin) use self::buffer::lent;
use self::{
    body::Transfer,
    buffer::{Inbox, Outbox},
    chunks::Form,
    head::{Reject, check_part, may_end},
    request::Request,
    timer::Timer,
};
use super::{PREFACE, access::Record};
use crate::proxy::builtin::{Shared, listener::Port};

/// How a conversation ended, and so what is to be done with the client's connection.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides are done with it.
    Closed,
    /// We are; the client may still be sending.
    Linger,
    /// Something broke, and must not look complete.
    Reset,
    /// The client speaks HTTP/2 and has said this.
    Http2(Bytes),
}

/// What comes after an answer.
#[derive(Debug)]
enum Next {
    /// Another request. The answer was there at this time.
    Request(Instant),
    End(End),
}

/// With a client.
#[derive(Debug)]
struct Conversation<'a> {
    client: &'a mut TcpStream,
    address: SocketAddr,
    /// The address as endpoints are told it.
    name: Box<str>,
    port: &'a Port,
    shared: &'a Shared,
    inbox: Inbox,
    timer: Timer,
}

/// A request whose head has come.
#[derive(Debug)]
struct Asked {
    request: Request,
    /// What an endpoint is to get: the head, and what has come of the body.
    out: Outbox,
    /// The rest of the body.
    body: Transfer,
    /// What has come of it is none.
    is_body_bad: bool,
    record: Option<Box<Record>>,
    started: Instant,
}

/// Why no request came.
enum Unasked {
    End(End),
    TooSlow,
    Rejected(Reject),
}

/// Answers requests until either side ends the connection.
pub(super) async fn converse(
    client: &mut TcpStream,
    address: SocketAddr,
    port: &Port,
    shared: &Shared,
) -> End {
    let mut it = Conversation {
        client,
        address,
        name: address.ip().to_string().into(),
        port,
        shared,
        inbox: Inbox::default(),
        timer: Timer::default(),
    };
    let mut since = Instant::now();
    let mut is_first = true;
    loop {
        let mut known = 0;
        let next = match poll_fn(|cx| it.poll_request(cx, since, is_first, &mut known)).await {
            Ok(asked) => apart(it.answer(asked)),
            Err(unasked) => apart(it.part(unasked)),
        };
        is_first = false;
        match next.await {
            Next::Request(at) => since = at,
            Next::End(end) => return end,
        }
    }
}

/// Boxed, so that a client that waits for its next request takes no room for answering it.
fn apart<'a>(
    work: impl Future<Output = Next> + Send + 'a,
) -> Pin<Box<dyn Future<Output = Next> + Send + 'a>> {
    Box::pin(work)
}

impl Conversation<'_> {
    /// There is no request.
    async fn part(&mut self, unasked: Unasked) -> Next {
        Next::End(match unasked {
            Unasked::End(end) => end,
            Unasked::TooSlow => self.dismiss(StatusCode::REQUEST_TIMEOUT).await,
            Unasked::Rejected(reject) => {
                tracing::debug!(port = self.port.address.port(), client = %self.address,
                    error = %reject, "a client's request is none");
                self.dismiss(reject.status()).await
            }
        })
    }

    /// Waits for a request, of which the first `known` bytes were looked at, from a client that has been quiet
    /// `since` then.
    fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        since: Instant,
        is_first: bool,
        known: &mut usize,
    ) -> Poll<Result<Asked, Unasked>> {
        loop {
            if self.inbox.bytes().len() > *known {
                if is_first && self.inbox.bytes().starts_with(PREFACE) {
                    let said = Bytes::copy_from_slice(self.inbox.bytes());
                    return Poll::Ready(Err(Unasked::End(End::Http2(said))));
                }
                match self.read_request(*known) {
                    Ok(Some(asked)) => return Poll::Ready(Ok(asked)),
                    Ok(None) => *known = self.inbox.bytes().len(),
                    Err(reject) => return Poll::Ready(Err(Unasked::Rejected(reject))),
                }
            }
            let (mut from, _) = self.client.split();
            let end = match self.inbox.poll_fill(cx, &mut from) {
                Poll::Ready(Ok(count @ 1..)) => {
                    let counts = &self.port.counts;
                    counts.to_endpoints_bytes.fetch_add(count as u64, Relaxed);
                    continue;
                }
                Poll::Ready(Ok(_)) if self.inbox.is_empty() => Unasked::End(End::Closed),
                Poll::Ready(_) => Unasked::End(End::Reset),
                // Who waits for its next request is not waited for.
                Poll::Pending if self.shared.closing.is_cancelled() => Unasked::End(End::Closed),
                Poll::Pending => {
                    let deadline = since + self.shared.limits.client_timeout;
                    if self.timer.poll(cx, Some(deadline)).is_pending() {
                        return Poll::Pending;
                    }
                    if self.inbox.is_empty() {
                        Unasked::End(End::Closed)
                    } else {
                        Unasked::TooSlow
                    }
                }
            };
            return Poll::Ready(Err(end));
        }
    }

    /// The request in the inbox, if its head is there.
    fn read_request(&mut self, known: usize) -> Result<Option<Asked>, Reject> {
        let bytes = self.inbox.bytes();
        if known > 0 && !may_end(bytes, known) {
            return check_part(bytes).map(|()| None);
        }
        let started = Instant::now();
        let mut out = Outbox::new();
        let mut record = None;
        let note = |line: request::Line<'_>| {
            record = self.shared.access_log.as_ref().map(|log| {
                let protocol = if line.is_1_1 { "HTTP/1.1" } else { "HTTP/1.0" };
                let asked = (protocol, line.method, line.target);
                Record::begin(log, self.port, self.address.ip(), asked, started)
            });
        };
        let name = self.name.as_bytes();
        let read = request::read(bytes, name, self.port.address, &mut out, note)?;
        let Some((length, request)) = read else {
            return Ok(None);
        };
        self.inbox.consume(length);
        // An endpoint has no need to know whether it understands trailers: it may ignore them.
        let form = Form::Chunks {
            with_trailers: true,
        };
        let mut body = Transfer::new(request.framing, form);
        let is_body_bad = body.advance(&mut self.inbox, &mut out).is_err();
        Ok(Some(Asked {
            request,
            out,
            body,
            is_body_bad,
            record,
            started,
        }))
    }

    /// Tells a client who asks for nothing that could be answered to go.
    async fn dismiss(&mut self, status: StatusCode) -> End {
        let reason = status.canonical_reason().unwrap_or_default();
        let mut out = Outbox::new();
        response::write_status_line(&mut out, true, status.as_u16(), reason);
        out.extend_from_slice(b"connection: close\r\ncontent-length: 0\r\n\r\n");
        let (_, mut to) = self.client.split();
        let counter = &self.port.counts.to_clients_bytes;
        match body::write(&mut to, &out, counter).await {
            Ok(()) => End::Linger,
            Err(_) => End::Reset,
        }
    }
}
