//! A request whose body does not come at once: it is sent while the answer is awaited and passed on.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{
    super::{answers::Trouble, attempts::Failure, progress::Progress},
    Asked, Conversation, End, Next,
    body::{Broken, Counters, Transfer, carry, write},
    buffer::Outbox,
    exchange::{Attempt, next},
    hearing::Hearing,
    link::Link,
};

/// What a client waits for that asked whether it may send its body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl Conversation<'_> {
    /// For a request whose body is still coming. An endpoint may answer before it has heard everything.
    pub(super) async fn ask_with_body(
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
