//! One HTTP/2 connection to an endpoint, without TLS, shared by the requests that came by HTTP/2 themselves.
//! Whether the endpoint speaks it is found out before a request is entrusted to it: a server that does says so
//! with its first frame.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};

use super::{
    HEAD_BYTES_MAX,
    body::RequestBody,
    stream::{Account, Counted},
};
use crate::proxy::builtin::upstream::Upstream;

/// How long an endpoint may take to show that it speaks HTTP/2.
const VERDICT_WITHIN: Duration = Duration::from_secs(1);
/// How long it is believed that an endpoint does not.
const REFUSAL_HOLDS: Duration = Duration::from_secs(60);
/// Silence after which it is asked whether the endpoint is still there, and how long that may take.
const PING_AFTER: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a frame's head (RFC 9113, 4.1), and the type of the frame a server begins with (6.5).
const FRAME_HEAD: usize = 9;
const SETTINGS: u8 = 4;

/// The connection, when there is one.
#[derive(Debug, Default)]
pub(in crate::proxy::builtin) struct SharedLink {
    state: Mutex<State>,
    /// Held by who connects, so that one does.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Unknown,
    Open(SendRequest<RequestBody>),
    /// The endpoint does not speak HTTP/2, as far as is known until then.
    Refused(Instant),
}

impl SharedLink {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Replaced as a whole: a panic elsewhere leaves it valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> Option<Option<SendRequest<RequestBody>>> {
        match &*self.lock() {
            State::Open(sender) if !sender.is_closed() => Some(Some(sender.clone())),
            State::Refused(until) if Instant::now() < *until => Some(None),
            _ => None,
        }
    }

    /// A way to send requests; `None` when the endpoint speaks HTTP/1.1 alone.
    ///
    /// # Errors
    /// When it cannot be connected to.
    pub(super) async fn open(
        &self,
        upstream: &Arc<Upstream>,
        dial: impl Future<Output = io::Result<TcpStream>>,
    ) -> io::Result<Option<SendRequest<RequestBody>>> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let _turn = self.turn.lock().await;
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let sender = handshake(dial.await?, upstream.clone()).await;
        *self.lock() = match &sender {
            Some(sender) if !upstream.is_retired() => State::Open(sender.clone()),
            Some(_) => State::Unknown,
            None => State::Refused(Instant::now() + REFUSAL_HOLDS),
        };
        Ok(sender)
    }

    /// Requests that are under way are finished; there will be no more.
    pub(in crate::proxy::builtin) fn close(&self) {
        *self.lock() = State::Unknown;
    }
}

async fn handshake(stream: TcpStream, upstream: Arc<Upstream>) -> Option<SendRequest<RequestBody>> {
    let (verdict, heard) = oneshot::channel();
    let account = Account::Endpoint(upstream);
    let io = Overheard {
        stream: Counted::new(stream, account),
        head: Vec::with_capacity(FRAME_HEAD),
        verdict: Some(verdict),
    };
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .adaptive_window(true)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(io))
        .await
        .ok()?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an HTTP/2 connection to an endpoint ended");
        }
    });
    matches!(timeout(VERDICT_WITHIN, heard).await, Ok(Ok(true))).then_some(sender)
}

/// A stream whose first bytes are looked at on their way.
struct Overheard {
    stream: Counted,
    head: Vec<u8>,
    /// Takes whether they begin a frame of settings.
    verdict: Option<oneshot::Sender<bool>>,
}

impl Overheard {
    fn hear(&mut self, bytes: &[u8]) {
        let Some(verdict) = self.verdict.take() else {
            return;
        };
        let missing = FRAME_HEAD - self.head.len();
        self.head.extend(bytes.iter().take(missing));
        if self.head.len() < FRAME_HEAD && !bytes.is_empty() {
            self.verdict = Some(verdict);
            return;
        }
        // Nobody waits any more when it took too long.
        let _ = verdict.send(self.head.get(3) == Some(&SETTINGS) && self.head.len() == FRAME_HEAD);
    }
}

impl AsyncRead for Overheard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_ready() {
            self.hear(&buffer.filled()[before..]);
        }
        polled
    }
}

impl AsyncWrite for Overheard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
