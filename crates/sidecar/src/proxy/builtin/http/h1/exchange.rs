//! One request: given to an endpoint, and its answer to the client.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{
    super::{
        access::Record,
        answers::Trouble,
        attempts::{Attempts, Failure},
        progress::Progress,
        rarely,
    },
    Asked, Conversation, End, Next,
    body::{Broken, Counters, Transfer, carry, write},
    buffer::Outbox,
    hearing::Hearing,
    link::Link,
    request::Request,
    response::{Response, connection_word, write_status_line},
};
use crate::proxy::builtin::{balance::Lease, connection, copy};

/// What a client waits for that asked whether it may send its body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What is known of the attempt that is under way.
#[derive(Debug, Clone, Copy)]
struct Attempt<'a> {
    lease: &'a Lease,
    begun: Instant,
    /// The first, the second, …
    number: usize,
}

impl Conversation<'_> {
    /// Answers a request, in one way or another.
    pub(super) async fn answer(&mut self, asked: &mut Asked) -> Next {
        self.port.counts.requests.fetch_add(1, Relaxed);
        if let Some(refusal) = asked.request.refusal {
            return rarely(self.give_up(asked, Trouble::Refused(refusal), 0)).await;
        }
        if asked.is_body_bad {
            return rarely(self.give_up(asked, Trouble::ClientBroken, 0)).await;
        }
        let mut attempts = Attempts::new(self.port, self.shared, asked.started);
        let trouble = loop {
            let lease = match attempts.next() {
                Ok(lease) => lease,
                Err(trouble) => break trouble,
            };
            let attempt = Attempt {
                lease: &lease,
                begun: attempts.now,
                number: attempts.count,
            };
            let failure = match self.attempt(attempt, asked).await {
                Ok(next) => return next,
                Err(failure) => failure,
            };
            let is_repeatable = asked.request.is_repeatable();
            if let Err(trouble) = attempts.failed(lease.upstream(), failure, is_repeatable) {
                break trouble;
            }
        };
        let count = attempts.count;
        rarely(self.give_up(asked, trouble, count)).await
    }

    async fn attempt(&mut self, attempt: Attempt<'_>, asked: &mut Asked) -> Result<Next, Failure> {
        let upstream = attempt.lease.upstream();
        // A request that cannot be repeated must not meet a connection that is about to close.
        let surely = !asked.request.is_repeatable();
        loop {
            let take = |cx: &mut Context<'_>| upstream.waiting.take(cx, attempt.begun, surely);
            let link = match poll_fn(|cx| Poll::Ready(take(cx))).await {
                Some(link) => link,
                None => rarely(self.dial(attempt)).await?,
            };
            let is_fresh = link.is_fresh;
            let outcome = if asked.body.is_over() {
                self.ask(link, attempt, asked).await
            } else {
                rarely(self.ask_with_body(link, attempt, asked)).await
            };
            match outcome {
                // It was closed while it waited, which says nothing about the endpoint.
                Err(Failure::Unsent) if !is_fresh => upstream.waiting.clear(),
                Err(failure) => {
                    if is_fresh
                        && matches!(failure, Failure::Lost | Failure::Final(Trouble::Broken))
                    {
                        self.port.pool.failed(attempt.lease, Instant::now());
                    }
                    return Err(failure);
                }
                Ok(next) => return Ok(next),
            }
        }
    }

    async fn dial(&self, attempt: Attempt<'_>) -> Result<Link, Failure> {
        let stream = connection::dial(attempt.lease, self.port, self.shared).await;
        stream.map(Link::fresh).map_err(|_| Failure::Unsent)
    }

    /// For a request that has come whole.
    async fn ask(
        &mut self,
        mut link: Link,
        attempt: Attempt<'_>,
        asked: &mut Asked,
    ) -> Result<Next, Failure> {
        let upstream = attempt.lease.upstream();
        let (mut from, mut to) = link.stream.split();
        let parts = (&asked.request, self.shared, &**upstream);
        let mut hearing = Hearing::new(
            parts,
            &mut self.timer,
            &mut asked.out,
            &mut link.inbox,
            attempt.begun,
        );
        let response = poll_fn(|cx| hearing.poll(cx, &mut from, &mut to)).await?;
        let now = attempt.note(&response, &mut asked.record);
        if response.status == 101 {
            return rarely(self.tunnel(link, attempt, asked)).await;
        }
        let mut body = Transfer::new(response.framing, response.form);
        if let Err(error) = body.advance(&mut link.inbox, &mut asked.out) {
            tracing::debug!(endpoint = %attempt.lease.address(), %error, "an answer's body is none");
            return Err(Failure::Final(Trouble::Broken));
        }
        if !body.is_over() {
            return Ok(rarely(self.pass_on(link, attempt, asked, response, body)).await);
        }
        if response.keeps_link {
            upstream.waiting.put(link, now, upstream);
        }
        let (_, mut to) = self.client.split();
        let counter = &self.port.counts.to_clients_bytes;
        if write(&mut to, &asked.out, counter).await.is_err() {
            return Ok(Next::End(End::Reset));
        }
        asked.is_answered(body.data_bytes);
        Ok(next(&response, now))
    }

    /// Passes an answer on that does not come at once.
    async fn pass_on(
        &mut self,
        mut link: Link,
        attempt: Attempt<'_>,
        asked: &mut Asked,
        response: Response,
        mut body: Transfer,
    ) -> Next {
        let upstream = attempt.lease.upstream();
        let counters = Counters {
            read: &upstream.received_bytes,
            written: &self.port.counts.to_clients_bytes,
            progress: None,
        };
        let (mut from, _) = link.stream.split();
        let (_, mut to) = self.client.split();
        let (inbox, out) = (&mut link.inbox, &mut asked.out);
        let outcome = carry(&mut body, inbox, &mut from, &mut to, out, counters).await;
        if let Err(error) = outcome {
            return self.broke_off(attempt, asked, &error, body.data_bytes);
        }
        let now = Instant::now();
        if response.keeps_link {
            upstream.waiting.put(link, now, upstream);
        }
        asked.is_answered(body.data_bytes);
        next(&response, now)
    }

    fn broke_off(
        &self,
        attempt: Attempt<'_>,
        asked: &mut Asked,
        error: &Broken,
        bytes: u64,
    ) -> Next {
        tracing::debug!(port = self.port.address.port(), client = %self.address,
            endpoint = %attempt.lease.address(), %error, "the body of an answer broke off");
        if let Some(record) = &mut asked.record {
            record.bytes = bytes;
        }
        Next::End(End::Reset)
    }

    /// For a request whose body is still coming: it is sent while the answer is awaited and passed on, since an
    /// endpoint may answer before it has heard everything.
    async fn ask_with_body(
        &mut self,
        mut link: Link,
        attempt: Attempt<'_>,
        asked: &mut Asked,
    ) -> Result<Next, Failure> {
        let upstream = attempt.lease.upstream();
        let (mut from_client, mut to_client) = self.client.split();
        let (mut from, mut to) = link.stream.split();
        let sent = AtomicU64::new(0);
        let limit = self.shared.limits.response_timeout;
        let sending = within(limit, write(&mut to, &asked.out, &sent)).await;
        let sent = sent.into_inner();
        upstream.sent_bytes.fetch_add(sent, Relaxed);
        sending?.map_err(|_| match sent {
            0 => Failure::Unsent,
            _ => Failure::Lost,
        })?;
        asked.out.clear();
        if asked.request.expects_continue && asked.body.data_bytes == 0 {
            let counter = &self.port.counts.to_clients_bytes;
            let said = write(&mut to_client, CONTINUE, counter).await;
            said.map_err(|_| Failure::Final(Trouble::ClientBroken))?;
        }
        let progress = Progress::new(Instant::now());
        let up = Counters {
            read: &self.port.counts.to_endpoints_bytes,
            written: &upstream.sent_bytes,
            progress: Some(&progress),
        };
        let passed = {
            let (body, inbox) = (&mut asked.body, &mut self.inbox);
            let upload = async {
                let mut out = Outbox::new();
                let outcome = carry(body, inbox, &mut from_client, &mut to, &mut out, up).await;
                progress.end();
                outcome
            };
            let mut upload = Upload {
                work: pin!(upload),
                outcome: None,
            };
            let mut hearing = Hearing::new(
                (&asked.request, self.shared, &**upstream),
                &mut self.timer,
                &mut asked.out,
                &mut link.inbox,
                attempt.begun,
            );
            hearing.progress = Some(&progress);
            let response = poll_fn(|cx| {
                let may_go_on = upload.poll(cx);
                if may_go_on.is_err() {
                    return Poll::Ready(Err(Failure::Final(Trouble::ClientBroken)));
                }
                hearing.poll_answer(cx, &mut from)
            })
            .await?;
            attempt.note(&response, &mut asked.record);
            let mut body = Transfer::new(response.framing, response.form);
            if response.status == 101 {
                (response, upload.is_over(), body, Ok(()))
            } else {
                if body.advance(&mut link.inbox, &mut asked.out).is_err() {
                    return Err(Failure::Final(Trouble::Broken));
                }
                let down = Counters {
                    read: &upstream.received_bytes,
                    written: &self.port.counts.to_clients_bytes,
                    progress: None,
                };
                let (inbox, out) = (&mut link.inbox, &mut asked.out);
                let outcome = {
                    let passing = carry(&mut body, inbox, &mut from, &mut to_client, out, down);
                    let mut passing = pin!(passing);
                    poll_fn(|cx| {
                        upload.poll(cx)?;
                        passing.as_mut().poll(cx)
                    })
                    .await
                };
                (response, upload.is_over(), body, outcome)
            }
        };
        let (response, is_uploaded, body, outcome) = passed;
        if response.status == 101 {
            if !is_uploaded {
                return Err(Failure::Final(Trouble::Broken));
            }
            return self.tunnel(link, attempt, asked).await;
        }
        if let Err(error) = outcome {
            return Ok(self.broke_off(attempt, asked, &error, body.data_bytes));
        }
        asked.is_answered(body.data_bytes);
        if !is_uploaded {
            // Nobody knows where the next request begins.
            return Ok(Next::End(End::Linger));
        }
        let now = Instant::now();
        if response.keeps_link {
            upstream.waiting.put(link, now, upstream);
        }
        Ok(next(&response, now))
    }

    /// Carries bytes both ways after an endpoint has agreed to another protocol.
    async fn tunnel(
        &mut self,
        mut link: Link,
        attempt: Attempt<'_>,
        asked: &mut Asked,
    ) -> Result<Next, Failure> {
        if !asked.request.asks_upgrade {
            return Err(Failure::Final(Trouble::Broken));
        }
        let upstream = attempt.lease.upstream();
        let (up, down) = copy::tallies(self.port, upstream);
        let work = async {
            let (_, mut to) = self.client.split();
            write(&mut to, &asked.out, down.port).await?;
            asked.is_answered(0);
            asked.record = None;
            write(&mut to, link.inbox.bytes(), down.port).await?;
            link.inbox.consume(link.inbox.bytes().len());
            let (_, mut to) = link.stream.split();
            write(&mut to, self.inbox.bytes(), up.endpoint).await?;
            self.inbox.consume(self.inbox.bytes().len());
            copy::both_ways(self.client, &link.stream, up, down).await?;
            Ok::<(), std::io::Error>(())
        };
        Ok(Next::End(match work.await {
            Ok(()) => End::Closed,
            Err(error) => {
                tracing::debug!(port = self.port.address.port(), endpoint = %upstream.address, %error,
                    "an upgraded connection broke");
                connection::reset(link.stream);
                End::Reset
            }
        }))
    }

    /// Answers ourselves.
    async fn give_up(&mut self, asked: &mut Asked, trouble: Trouble, attempts: usize) -> Next {
        let status = trouble.status();
        self.port.counts.own_answer(status);
        let request = &asked.request;
        let keeps_client = request.keeps_alive
            && asked.body.is_over()
            && !trouble.is_the_clients()
            && !self.shared.retiring.is_cancelled();
        let text = trouble.text(&self.port.service());
        let out = &mut asked.out;
        out.clear();
        let reason = status.canonical_reason().unwrap_or_default();
        write_status_line(out, request.is_1_1, status.as_u16(), reason);
        for (name, value) in trouble.fields() {
            super::head::write_field(out, name, value.as_bytes());
        }
        if let Some(word) = connection_word(request, keeps_client) {
            super::head::write_field(out, "connection", word.as_bytes());
        }
        super::head::write_field(out, "content-length", text.len().to_string().as_bytes());
        out.extend_from_slice(b"\r\n");
        if !request.is_head {
            out.extend_from_slice(text.as_bytes());
        }
        if let Some(record) = &mut asked.record {
            record.answered(status.as_u16(), None, attempts);
        }
        let (_, mut to) = self.client.split();
        let counter = &self.port.counts.to_clients_bytes;
        if write(&mut to, &asked.out, counter).await.is_err() {
            return Next::End(End::Reset);
        }
        let length = if asked.request.is_head { 0 } else { text.len() };
        asked.is_answered(length as u64);
        if keeps_client {
            Next::Request(Instant::now())
        } else {
            Next::End(End::Linger)
        }
    }
}

impl Attempt<'_> {
    /// The head of an answer came: when.
    fn note(self, response: &Response, record: &mut Option<Box<Record>>) -> Instant {
        let now = Instant::now();
        let after = now.saturating_duration_since(self.begun);
        self.lease.upstream().answered(response.status, after, now);
        if let Some(record) = record {
            record.answered(response.status, Some(self.lease.address()), self.number);
        }
        now
    }
}

impl Asked {
    /// The answer was passed on to its end.
    fn is_answered(&mut self, bytes: u64) {
        if let Some(record) = &mut self.record {
            record.bytes = bytes;
            record.is_whole = true;
        }
    }
}

impl Request {
    /// Whether it may be sent again when nobody knows whether it has arrived, and can be.
    fn is_repeatable(&self) -> bool {
        self.is_idempotent && self.framing == super::head::Framing::Empty
    }
}

fn next(response: &Response, now: Instant) -> Next {
    if response.keeps_client {
        Next::Request(now)
    } else {
        Next::End(End::Linger)
    }
}

/// A request's body on its way, beside whatever else is done.
struct Upload<'a, F> {
    work: Pin<&'a mut F>,
    outcome: Option<Result<(), Broken>>,
}

impl<F: Future<Output = Result<(), Broken>>> Upload<'_, F> {
    /// # Errors
    /// When the client broke off. An endpoint that takes no more may still say why.
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        if self.outcome.is_some() {
            return Ok(());
        }
        let Poll::Ready(outcome) = self.work.as_mut().poll(cx) else {
            return Ok(());
        };
        match outcome {
            Err(error @ (Broken::Sender(_) | Broken::Malformed(_))) => Err(error),
            outcome => {
                self.outcome = Some(outcome);
                Ok(())
            }
        }
    }

    /// Whether all of it was taken.
    fn is_over(&self) -> bool {
        matches!(self.outcome, Some(Ok(())))
    }
}

/// What is done in this time; zero is no limit.
async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Failure> {
    if limit.is_zero() {
        return Ok(work.await);
    }
    let done = tokio::time::timeout(limit, work).await;
    done.map_err(|_| Failure::Final(Trouble::Silent))
}
