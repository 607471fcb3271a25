//! HTTP and WebSocket mode: requests are balanced, not connections. HTTP/1.1 and HTTP/2 without TLS, told apart
//! by their first bytes; hyper parses and writes both, here is decided what becomes of each request.
//!
//! A client's HTTP/1.1 connection is one task, in which its requests' connections to endpoints are moved, too.

mod access;
mod activity;
mod answers;
mod body;
mod forward;
pub(super) mod h2;
mod headers;
pub(super) mod link;
mod service;
mod stream;

use std::{
    future::poll_fn,
    io,
    net::Shutdown,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{io::AsyncReadExt as _, net::TcpStream};

pub(super) use self::access::AccessLog;
use self::{
    activity::Activity,
    forward::{Forwarder, Tunnel},
    service::Requests,
    stream::{Account, Counted},
};
use super::{
    Shared, connection,
    copy::{self, write},
    listener::Port,
};

/// Longest head of a message, in bytes. It may have 100 fields, which is hyper's own limit: with any other it
/// takes memory for each head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Silence after which a client is asked by HTTP/2 whether it is still there, and how long it may take.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long is read on after our last word, so that it is not lost to a client that is still sending.
const LINGER: Duration = Duration::from_secs(2);
/// What a client begins with that speaks HTTP/2 (RFC 9113, 3.4); no method of HTTP/1.1 begins like it.
const PREFACE: &[u8] = b"PRI";
/// How long a client must have been quiet to be put aside: above the pauses of one that is at work.
const ASIDE_AFTER: Duration = Duration::from_millis(25);
/// Pause between looks at a first word that is not whole.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);

/// Serves a client until either side ends the connection, or connections are cut off.
///
/// A client that waits for its next request is put aside: nothing of HTTP is kept for it but its socket.
pub(super) async fn serve(client: TcpStream, port: Arc<Port>, shared: Arc<Shared>) {
    let Ok(address) = client.peer_addr() else {
        return;
    };
    connection::tune(&client);
    let mut aside = Some(Aside {
        client,
        early: Bytes::new(),
        since: Instant::now(),
    });
    let work = async {
        while let Some(client) = aside.take() {
            let deadline = client.since + shared.limits.client_timeout;
            if !client.early.is_empty() && deadline <= Instant::now() {
                return client.refuse_to_wait().await;
            }
            let spoken = tokio::time::timeout_at(deadline.into(), client.speaks_http2());
            let spoken = tokio::select! {
                spoken = spoken => spoken,
                () = shared.closing.cancelled() => return,
            };
            // Otherwise nothing was said, for long or for ever.
            if let Ok(Ok(is_http2)) = spoken {
                let (port, shared) = (port.clone(), shared.clone());
                let forwarder = Forwarder::new(port, shared, address, client.since);
                aside = converse(is_http2, client, Arc::new(forwarder)).await;
            }
        }
    };
    tokio::select! {
        biased;
        () = work => {}
        () = shared.cut_off.cancelled() => {}
    }
}

/// A client that is expected to send a request.
struct Aside {
    client: TcpStream,
    /// What has come of it.
    early: Bytes,
    /// When its last one was answered.
    since: Instant,
}

impl Aside {
    /// Waits for the client's first word.
    async fn speaks_http2(&self) -> io::Result<bool> {
        if !self.early.is_empty() {
            return Ok(false);
        }
        let mut word = [0; PREFACE.len()];
        loop {
            let count = self.client.peek(&mut word).await?;
            if count == 0 || !PREFACE.starts_with(&word[..count]) {
                return Ok(false);
            }
            if count == word.len() {
                return Ok(true);
            }
            tokio::time::sleep(PREFACE_PAUSE).await;
        }
    }

    /// A request was begun and does not come.
    async fn refuse_to_wait(self) {
        let answer =
            b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        if write(&self.client, answer).await.is_ok() {
            linger(self.client).await;
        }
    }

    fn into_io(self, port: &Arc<Port>, activity: &Arc<Activity>) -> TokioIo<Counted> {
        let account = Account::Client(port.clone(), activity.clone());
        TokioIo::new(Counted {
            stream: self.client,
            account,
            early: self.early,
        })
    }
}

/// Serves requests; boxed, so that who waits for the first one takes no room for it.
fn converse(
    is_http2: bool,
    client: Aside,
    forwarder: Arc<Forwarder>,
) -> Pin<Box<dyn Future<Output = Option<Aside>> + Send>> {
    if is_http2 {
        Box::pin(serve_http2(client, forwarder))
    } else {
        Box::pin(serve_http1(client, forwarder))
    }
}

/// Serves requests until the client is quiet, or the connection over.
async fn serve_http1(client: Aside, forwarder: Arc<Forwarder>) -> Option<Aside> {
    let Forwarder { port, shared, .. } = &*forwarder;
    let service = Requests::new(forwarder.clone());
    let mut connection = http1::Builder::new()
        // Who has said all it wants to say may still want to hear the answer.
        .half_close(true)
        .auto_date_header(false)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(client.into_io(port, &forwarder.activity), service);
    let mut is_closing = false;
    let mut look = pin!(tokio::time::sleep(ASIDE_AFTER));
    let ended = loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break ended,
            () = shared.closing.cancelled(), if !is_closing => {
                is_closing = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            () = &mut look => {
                let now = Instant::now();
                let next = match forwarder.activity.quiet_since() {
                    Some(since) if since + ASIDE_AFTER <= now => {
                        let parts = connection.into_parts();
                        return Some(Aside {
                            client: parts.io.into_inner().stream,
                            early: parts.read_buf,
                            since,
                        });
                    }
                    Some(since) => since + ASIDE_AFTER,
                    None => now + ASIDE_AFTER,
                };
                look.as_mut().reset(next.into());
            }
        }
    };
    let parts = connection.into_parts();
    let client = parts.io.into_inner().stream;
    match (ended, forwarder.take_tunnel()) {
        (Ok(()), Some(tunnel)) => carry(client, &parts.read_buf, tunnel, port).await,
        (Ok(()), None) => linger(client).await,
        (Err(error), _) => {
            tracing::debug!(port = port.address.port(), client = %forwarder.client, %error,
                "a client's connection broke");
            if error.is_parse() {
                // It was told what is wrong.
                linger(client).await;
            } else {
                // What broke must not look complete.
                connection::reset(client);
            }
        }
    }
    None
}

/// Carries bytes both ways after an upgrade.
async fn carry(client: TcpStream, early: &[u8], tunnel: Tunnel, port: &Port) {
    let Tunnel {
        stream: endpoint,
        said,
        lease,
    } = tunnel;
    let (up, down) = copy::tallies(port, lease.upstream());
    let work = async {
        write(&endpoint, early).await?;
        write(&client, &said).await?;
        copy::both_ways(&client, &endpoint, up, down).await
    };
    if let Err(error) = work.await {
        tracing::debug!(port = port.address.port(), endpoint = %lease.address(), %error,
            "an upgraded connection broke");
        connection::reset(client);
        connection::reset(endpoint);
    }
}

/// Ends our half and reads what is still coming, for a while: to close before would be a reset, which can
/// destroy what the client has not read yet.
async fn linger(mut client: TcpStream) {
    if SockRef::from(&client).shutdown(Shutdown::Write).is_err() {
        return;
    }
    let mut rest = vec![0; 4096];
    let drain = async { while matches!(client.read(&mut rest).await, Ok(count) if count > 0) {} };
    // Who goes on after that has had its chance.
    let _ = tokio::time::timeout(LINGER, drain).await;
}

async fn serve_http2(client: Aside, forwarder: Arc<Forwarder>) -> Option<Aside> {
    let Forwarder { port, shared, .. } = &*forwarder;
    let io = client.into_io(port, &forwarder.activity);
    let service = service_fn(|request| {
        let forwarder = forwarder.clone();
        async move { forwarder.answer(request).await }
    });
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .adaptive_window(true)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(io, service)
    );
    // Who shares one connection for everything would stay for ever.
    let mut is_retiring = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => break ended,
            () = shared.retiring.cancelled(), if !is_retiring => {
                is_retiring = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(port = port.address.port(), client = %forwarder.client, %error,
            "a client's HTTP/2 connection broke");
    }
    None
}
