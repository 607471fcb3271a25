//! Waiting for the head of an answer.

use std::{
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncWrite as _,
    net::tcp::{ReadHalf, WriteHalf},
};

use super::{
    super::{answers::Trouble, attempts::Failure, progress::Progress},
    buffer::{Inbox, Outbox},
    head::{check_part, may_end},
    request::Request,
    response::{self, Heard, Response},
    timer::Timer,
};
use crate::proxy::builtin::{Shared, upstream::Upstream};

/// A request that is sent to an endpoint, and its answer awaited.
#[derive(Debug)]
pub(super) struct Hearing<'a> {
    pub(super) request: &'a Request,
    pub(super) shared: &'a Shared,
    pub(super) upstream: &'a Upstream,
    pub(super) timer: &'a mut Timer,
    /// What is sent, and then what the client is to get.
    pub(super) out: &'a mut Outbox,
    pub(super) inbox: &'a mut Inbox,
    /// How far the body is that is sent by somebody else meanwhile.
    pub(super) progress: Option<&'a Progress>,
    deadline: Option<Instant>,
    sent: usize,
    /// Bytes of the head that were looked at.
    known: usize,
}

impl<'a> Hearing<'a> {
    /// Begun at a time.
    pub(super) fn new(
        (request, shared, upstream): (&'a Request, &'a Shared, &'a Upstream),
        timer: &'a mut Timer,
        out: &'a mut Outbox,
        inbox: &'a mut Inbox,
        now: Instant,
    ) -> Self {
        let limit = shared.limits.response_timeout;
        Self {
            request,
            shared,
            upstream,
            timer,
            out,
            inbox,
            progress: None,
            deadline: (!limit.is_zero()).then(|| now + limit),
            sent: 0,
            known: 0,
        }
    }

    /// Sends what is to be sent, and then waits as [`Hearing::poll_answer`] does.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
    ) -> Poll<Result<Response, Failure>> {
        while self.sent < self.out.len() {
            match Pin::new(&mut *to).poll_write(cx, &self.out[self.sent..]) {
                Poll::Ready(Ok(count @ 1..)) => {
                    self.sent += count;
                    self.upstream.sent_bytes.fetch_add(count as u64, Relaxed);
                }
                Poll::Ready(_) if self.sent == 0 => return Poll::Ready(Err(Failure::Unsent)),
                Poll::Ready(_) => return Poll::Ready(Err(Failure::Lost)),
                Poll::Pending => return self.poll_deadline(cx).map(Err),
            }
        }
        self.poll_answer(cx, from)
    }

    /// Waits for the answer, whose head then is what is to be sent.
    pub(super) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
    ) -> Poll<Result<Response, Failure>> {
        loop {
            match self.inbox.poll_fill(cx, from) {
                Poll::Ready(Ok(count @ 1..)) => {
                    self.upstream
                        .received_bytes
                        .fetch_add(count as u64, Relaxed);
                }
                Poll::Ready(_) => return Poll::Ready(Err(Failure::Lost)),
                Poll::Pending => return self.poll_deadline(cx).map(Err),
            }
            match self.read() {
                Ok(Some(response)) => return Poll::Ready(Ok(response)),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(endpoint = %self.upstream.address, %error, "an answer is none");
                    return Poll::Ready(Err(Failure::Final(Trouble::Broken)));
                }
            }
        }
    }

    fn read(&mut self) -> Result<Option<Response>, super::head::Reject> {
        loop {
            let bytes = self.inbox.bytes();
            if self.known > 0 && !may_end(bytes, self.known) {
                self.known = bytes.len();
                return check_part(bytes).map(|()| None);
            }
            let is_last = self.shared.retiring.is_cancelled();
            match response::read(bytes, self.request, is_last, self.out)? {
                None => {
                    self.known = bytes.len();
                    return Ok(None);
                }
                Some((length, heard)) => {
                    self.inbox.consume(length);
                    self.known = 0;
                    match heard {
                        Heard::Response(response) => return Ok(Some(response)),
                        Heard::Interim if self.inbox.is_empty() => return Ok(None),
                        Heard::Interim => {}
                    }
                }
            }
        }
    }

    /// Time runs from when the request's body moved last.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        loop {
            ready!(self.timer.poll(cx, self.deadline));
            let limit: Duration = self.shared.limits.response_timeout;
            let moved = self.progress.map(|it| it.last() + limit);
            match moved.filter(|moved| self.deadline.is_some_and(|it| *moved > it)) {
                Some(later) => self.deadline = Some(later),
                None if self.progress.is_some_and(|it| !it.has_ended()) => {
                    return Poll::Ready(Failure::Final(Trouble::ClientSilent));
                }
                None => return Poll::Ready(Failure::Final(Trouble::Silent)),
            }
        }
    }
}
