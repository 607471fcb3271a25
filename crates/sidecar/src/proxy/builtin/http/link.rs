//! A kept HTTP/1.1 connection to an endpoint for requests that came by HTTP/2, and those that wait for their next.
//!
//! hyper's connection does nothing unless it is polled; here whoever uses a link polls it, in the task of the
//! client. So no request passes between tasks, and a link that waits costs no task.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    HEAD_BYTES_MAX,
    body::RequestBody,
    stream::{Account, Counted},
};
use crate::proxy::builtin::upstream::Upstream;

/// Most links that wait at one endpoint.
pub(super) const IDLE_MAX: usize = 1024;
/// How long a link may wait. Endpoints close idle connections themselves, many after 60 s: better before.
pub(super) const IDLE_TIME_MAX: Duration = Duration::from_secs(30);
/// A request that cannot be repeated goes to links that waited less: the longer, the likelier the endpoint is
/// about to close it.
pub(super) const IDLE_TIME_SURE: Duration = Duration::from_secs(1);

/// One connection.
#[derive(Debug)]
pub(in crate::proxy::builtin) struct Link {
    sender: SendRequest<RequestBody>,
    connection: Connection<TokioIo<Counted>, RequestBody>,
    upstream: Arc<Upstream>,
    used: Instant,
    is_fresh: bool,
    has_ended: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct SendFailure {
    /// The request, when nothing of it was sent.
    pub(super) unsent: Option<Request<RequestBody>>,
    pub(super) error: hyper::Error,
}

impl Link {
    pub(super) async fn open(
        stream: TcpStream,
        upstream: Arc<Upstream>,
    ) -> hyper::Result<Box<Self>> {
        let account = Account::Endpoint(upstream.clone());
        let io = TokioIo::new(Counted::new(stream, account));
        let (sender, connection) = http1::Builder::new()
            .max_header_size(HEAD_BYTES_MAX)
            .handshake(io)
            .await?;
        Ok(Box::new(Self {
            sender,
            connection,
            upstream,
            used: Instant::now(),
            is_fresh: true,
            has_ended: false,
        }))
    }

    /// Whether it was opened for the present request.
    pub(super) fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    fn work(&mut self, cx: &mut Context<'_>) {
        if !self.has_ended && self.connection.poll_without_shutdown(cx).is_ready() {
            self.has_ended = true;
        }
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// When the connection ends before.
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendFailure>> {
        // Not in the future, which would have room for the request for as long as it waits.
        let answer = self.sender.try_send_request(request);
        async move {
            let mut answer = pin!(answer);
            poll_fn(|cx| {
                self.work(cx);
                answer.as_mut().poll(cx)
            })
            .await
            .map_err(|mut error| SendFailure {
                unsent: error.take_message(),
                error: error.into_error(),
            })
        }
    }

    /// Moves what the body of the answer is waiting for.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Incoming,
    ) -> Poll<Option<hyper::Result<hyper::body::Frame<Bytes>>>> {
        self.work(cx);
        hyper::body::Body::poll_frame(std::pin::Pin::new(body), cx)
    }

    /// The answer is over: the link waits for another request where it can.
    pub(super) fn finish(mut self: Box<Self>, cx: &mut Context<'_>) {
        self.work(cx);
        if self.has_ended || !self.sender.is_ready() {
            return;
        }
        self.used = Instant::now();
        self.is_fresh = false;
        let upstream = self.upstream.clone();
        upstream.idle.put(self, &upstream);
    }

    /// [`Link::finish`], for an answer without a body.
    pub(super) async fn finish_now(self: Box<Self>) {
        let mut link = Some(self);
        poll_fn(|cx| {
            if let Some(link) = link.take() {
                link.finish(cx);
            }
            Poll::Ready(())
        })
        .await;
    }
}

/// Boxed, since a link is large and moves on as it is.
type Links = Vec<Box<Link>>;

/// Links of one endpoint that wait.
#[derive(Debug, Default)]
pub(in crate::proxy::builtin) struct IdleLinks {
    links: Mutex<Links>,
}

impl IdleLinks {
    fn lock(&self) -> MutexGuard<'_, Links> {
        // One push or pop at a time: a panic elsewhere leaves it whole.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link used last that is still open. `surely`: rather none than one that may be about to close.
    pub(super) async fn take(&self, surely: bool) -> Option<Box<Link>> {
        poll_fn(|cx| {
            loop {
                let Some(mut link) = self.lock().pop() else {
                    return Poll::Ready(None);
                };
                if surely && link.used.elapsed() > IDLE_TIME_SURE {
                    self.lock().push(link);
                    return Poll::Ready(None);
                }
                link.work(cx);
                if !link.has_ended && link.sender.is_ready() {
                    return Poll::Ready(Some(link));
                }
            }
        })
        .await
    }

    fn put(&self, link: Box<Link>, upstream: &Upstream) {
        let mut links = self.lock();
        if links.len() < IDLE_MAX {
            links.push(link);
        }
        drop(links);
        // It may have been retired while this one was on its way.
        if upstream.is_retired() {
            self.clear();
        }
    }

    /// Closes all.
    pub(in crate::proxy::builtin) fn clear(&self) {
        let links = std::mem::take(&mut *self.lock());
        drop(links);
    }

    /// Closes what the endpoint has closed and what has waited long.
    pub(in crate::proxy::builtin) fn sweep(&self, now: Instant) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut gone = Vec::new();
        let mut links = self.lock();
        for mut link in std::mem::take(&mut *links) {
            link.work(&mut cx);
            let waited = now.saturating_duration_since(link.used);
            if link.has_ended || waited > IDLE_TIME_MAX {
                gone.push(link);
            } else {
                links.push(link);
            }
        }
        drop(links);
        drop(gone);
    }
}
