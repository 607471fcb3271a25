//! Connections to endpoints that wait for their next request: their sockets alone.

use std::{
    io::ErrorKind,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
    time::Instant,
};

use tokio::net::TcpStream;

use super::super::link::{IDLE_MAX, IDLE_TIME_MAX, IDLE_TIME_SURE};
use super::buffer::Inbox;
use crate::proxy::builtin::upstream::Upstream;

/// One connection to an endpoint while a request uses it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: TcpStream,
    pub(super) inbox: Inbox,
    /// It was opened for the present request.
    pub(super) is_fresh: bool,
}

#[derive(Debug)]
struct Waiting {
    stream: TcpStream,
    since: Instant,
}

/// Those of one endpoint that wait.
#[derive(Debug, Default)]
pub(in crate::proxy::builtin) struct WaitingLinks {
    links: Mutex<Vec<Waiting>>,
}

impl Link {
    pub(super) fn fresh(stream: TcpStream) -> Self {
        Self {
            stream,
            inbox: Inbox::default(),
            is_fresh: true,
        }
    }
}

impl WaitingLinks {
    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        // One push or pop at a time: a panic elsewhere leaves it whole.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one used last that is still open. `surely`: rather none than one that may be about to close.
    pub(super) fn take(&self, cx: &mut Context<'_>, now: Instant, surely: bool) -> Option<Link> {
        loop {
            let mut links = self.lock();
            let last = links.last()?;
            if surely && now.saturating_duration_since(last.since) > IDLE_TIME_SURE {
                return None;
            }
            let stream = links.pop()?.stream;
            drop(links);
            if is_quiet(&stream, cx) {
                let mut link = Link::fresh(stream);
                link.is_fresh = false;
                return Some(link);
            }
        }
    }

    /// Takes one whose answer is over.
    pub(super) fn put(&self, link: Link, now: Instant, upstream: &Upstream) {
        // What an endpoint says unasked is no answer to whoever comes next.
        if !link.inbox.is_empty() {
            return;
        }
        let mut links = self.lock();
        if links.len() < IDLE_MAX {
            links.push(Waiting {
                stream: link.stream,
                since: now,
            });
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
        for link in std::mem::take(&mut *links) {
            let waited = now.saturating_duration_since(link.since);
            if waited > IDLE_TIME_MAX || !is_quiet(&link.stream, &mut cx) {
                gone.push(link);
            } else {
                links.push(link);
            }
        }
        drop(links);
        drop(gone);
    }
}

/// Whether a connection is open and nothing was said on it. Costs a call only where something seems to have come.
fn is_quiet(stream: &TcpStream, cx: &mut Context<'_>) -> bool {
    if stream.poll_read_ready(cx).is_pending() {
        return true;
    }
    let said = stream.try_read(&mut [0]);
    said.is_err_and(|it| it.kind() == ErrorKind::WouldBlock)
}
