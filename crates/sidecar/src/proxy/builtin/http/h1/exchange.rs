//! One request: given to an endpoint, and its answer to the client.

use std::{
    future::poll_fn,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
    time::Instant,
};

use super::{
    super::{
        access::Record,
        answers::Trouble,
        attempts::{Attempts, Failure},
        rarely,
    },
    Asked, Conversation, End, Next,
    body::{Broken, Counters, Transfer, carry, write},
    hearing::Hearing,
    link::Link,
    request::Request,
    response::{Response, connection_word, write_status_line},
};
use crate::proxy::builtin::{balance::Lease, connection, copy};

/// What is known of the attempt that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) lease: &'a Lease,
    pub(super) begun: Instant,
    /// The first, the second, …
    number: usize,
}

impl Conversation<'_> {
    /// Answers a request, in one way or another.
    pub(super) async fn answer(&mut self, mut asked: Asked) -> Next {
        self.port.counts.requests.fetch_add(1, Relaxed);
        if let Some(refusal) = asked.request.refusal {
            return rarely(self.give_up(&mut asked, Trouble::Refused(refusal), 0)).await;
        }
        if asked.is_body_bad {
            return rarely(self.give_up(&mut asked, Trouble::ClientBroken, 0)).await;
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
            let failure = match self.attempt(attempt, &mut asked).await {
                Ok(next) => return next,
                Err(failure) => failure,
            };
            let is_repeatable = asked.request.is_repeatable();
            if let Err(trouble) = attempts.failed(lease.upstream(), failure, is_repeatable) {
                break trouble;
            }
        };
        let count = attempts.count;
        rarely(self.give_up(&mut asked, trouble, count)).await
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

    pub(super) fn broke_off(
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

    /// Carries bytes both ways after an endpoint has agreed to another protocol.
    pub(super) async fn tunnel(
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
    pub(super) fn note(self, response: &Response, record: &mut Option<Box<Record>>) -> Instant {
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
    pub(super) fn is_answered(&mut self, bytes: u64) {
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

pub(super) fn next(response: &Response, now: Instant) -> Next {
    if response.keeps_client {
        Next::Request(now)
    } else {
        Next::End(End::Linger)
    }
}
