//! A request that came by HTTP/2, and its answer.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use hyper::{
    Request, Response, StatusCode, Uri, Version,
    body::{Body as _, Incoming},
    client::conn::http2::SendRequest,
    header::{self, HeaderValue},
    http::request,
};

use super::{
    access::Record,
    answers::Trouble,
    attempts::{Attempts, Failure},
    body::{RequestBody, ResponseBody},
    fields::is_idempotent,
    headers,
    link::{Link, SendFailure},
    progress::Progress,
};
use crate::proxy::builtin::{Shared, balance::Lease, connection, listener::Port};

/// Answers the requests of one client's connection.
#[derive(Debug)]
pub(super) struct Forwarder {
    pub(super) port: Arc<Port>,
    pub(super) shared: Arc<Shared>,
    pub(super) client: SocketAddr,
    client_value: HeaderValue,
}

/// A request on its way to an endpoint.
struct Job {
    /// Absent once it was sent.
    request: Option<Request<RequestBody>>,
    /// What it can be made of again, if repeating it does no harm.
    spare: Option<request::Parts>,
}

type Answer = Response<ResponseBody>;

impl Forwarder {
    pub(super) fn new(port: Arc<Port>, shared: Arc<Shared>, client: SocketAddr) -> Self {
        Self {
            port,
            shared,
            client,
            client_value: headers::address_value(client.ip()),
        }
    }

    /// The answer to one request: always one.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let started = Instant::now();
        let mut record = self.record(&request, started);
        self.port.counts.requests.fetch_add(1, Relaxed);
        let (answer, endpoint, attempts) = match self.prepare(request) {
            Ok(mut job) => self.try_endpoints(&mut job, started).await,
            Err(trouble) => (self.give_up(trouble), None, 0),
        };
        if endpoint.is_none() {
            self.port.counts.own_answer(answer.status());
        }
        if let Some(record) = &mut record {
            record.answered(answer.status().as_u16(), endpoint, attempts);
        }
        Ok(match record {
            Some(record) => answer.map(|body| body.recorded(record)),
            None => answer,
        })
    }

    fn record(&self, request: &Request<Incoming>, started: Instant) -> Option<Box<Record>> {
        let log = self.shared.access_log.as_ref()?;
        let protocol = format!("{:?}", request.version());
        let path = request.uri().path_and_query();
        let path = path.map_or("", |it| it.as_str());
        let asked = (protocol.as_str(), request.method().as_str(), path);
        let client = self.client.ip();
        Some(Record::begin(log, &self.port, client, asked, started))
    }

    /// What to send to an endpoint.
    fn prepare(&self, request: Request<Incoming>) -> Result<Box<Job>, Trouble> {
        let (mut head, incoming) = request.into_parts();
        let (client, server) = (&self.client_value, self.port.address);
        headers::prepare_request(&mut head, client, server).map_err(Trouble::Refused)?;
        head.version = Version::HTTP_11;
        let body = RequestBody::new(incoming);
        let is_repeatable = body.is_empty() && is_idempotent(head.method.as_str());
        Ok(Box::new(Job {
            spare: is_repeatable.then(|| head.clone()),
            request: Some(Request::from_parts(head, body)),
        }))
    }

    /// The answer, the endpoint it is from, and how many were tried.
    async fn try_endpoints(
        &self,
        job: &mut Job,
        started: Instant,
    ) -> (Answer, Option<SocketAddr>, usize) {
        let mut attempts = Attempts::new(&self.port, &self.shared, started);
        let trouble = loop {
            let lease = match attempts.next() {
                Ok(lease) => lease,
                Err(trouble) => break trouble,
            };
            let upstream = lease.upstream().clone();
            let attempt = Attempt {
                forwarder: self,
                lease,
            };
            let failure = match attempt.run(job).await {
                Ok(answer) => return (answer, Some(upstream.address), attempts.count),
                Err(failure) => failure,
            };
            let mut is_repeatable = false;
            if matches!(failure, Failure::Lost)
                && let Some(head) = job.spare.take()
            {
                job.request = Some(Request::from_parts(head, RequestBody::empty()));
                is_repeatable = true;
            }
            if let Err(trouble) = attempts.failed(&upstream, failure, is_repeatable) {
                break trouble;
            }
        };
        (self.give_up(trouble), None, attempts.count)
    }

    fn give_up(&self, trouble: Trouble) -> Answer {
        trouble.answer(&self.port.service())
    }
}

/// One endpoint's chance to answer a request.
struct Attempt<'a> {
    forwarder: &'a Forwarder,
    lease: Lease,
}

impl Attempt<'_> {
    async fn run(self, job: &mut Job) -> Result<Answer, Failure> {
        if let Some(sender) = self.shared_link().await? {
            return self.share(sender, job).await;
        }
        let upstream = self.lease.upstream();
        let limit = self.forwarder.shared.limits.response_timeout;
        let (sent, link, answer) = loop {
            // A request that cannot be repeated must not meet a connection that is about to close.
            let waiting = upstream.idle.take(job.spare.is_none()).await;
            let mut link = match waiting {
                Some(link) => link,
                None => self.new_link().await?,
            };
            let Some(request) = job.request.take() else {
                return Err(Failure::Lost);
            };
            let (sent, was_fresh) = (Instant::now(), link.is_fresh());
            let progress = request.body().progress();
            let answer = within(limit, progress.as_deref(), pin!(link.send(request))).await?;
            match answer.map_err(|failure| self.judge(failure, was_fresh, job)) {
                Ok(answer) => break (sent, link, answer),
                // It was closed while it waited, which says nothing about the endpoint.
                Err(Failure::Unsent) if !was_fresh => upstream.idle.clear(),
                Err(failure) => return Err(failure),
            }
        };
        self.note(answer.status(), sent);
        let (mut head, incoming) = answer.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked for another protocol: HTTP/2 has no way to.
            return Err(Failure::Final(Trouble::Broken));
        }
        headers::prepare_response(&mut head);
        let body = if incoming.is_end_stream() {
            link.finish_now().await;
            ResponseBody::own("")
        } else {
            ResponseBody::of_link(incoming, link, self.lease)
        };
        Ok(Response::from_parts(head, body))
    }

    async fn new_link(&self) -> Result<Box<Link>, Failure> {
        let Forwarder { port, shared, .. } = self.forwarder;
        let upstream = self.lease.upstream().clone();
        let stream = connection::dial(&self.lease, port, shared).await;
        let stream = stream.map_err(|_| Failure::Unsent)?;
        let link = Link::open(stream, upstream).await;
        link.map_err(|_| Failure::Unsent)
    }

    async fn shared_link(&self) -> Result<Option<SendRequest<RequestBody>>, Failure> {
        let Forwarder { port, shared, .. } = self.forwarder;
        let upstream = self.lease.upstream();
        let dial = connection::dial(&self.lease, port, shared);
        let link = upstream.h2.open(upstream, dial).await;
        link.map_err(|_| Failure::Unsent)
    }

    async fn share(
        self,
        mut sender: SendRequest<RequestBody>,
        job: &mut Job,
    ) -> Result<Answer, Failure> {
        let Some(mut request) = job.request.take() else {
            return Err(Failure::Lost);
        };
        let sent = Instant::now();
        let plain = request.uri().clone();
        *request.version_mut() = Version::HTTP_2;
        if let Some(full) = full_target(&request) {
            *request.uri_mut() = full;
            request.headers_mut().remove(header::HOST);
        }
        let progress = request.body().progress();
        let limit = self.forwarder.shared.limits.response_timeout;
        let answer = pin!(sender.try_send_request(request));
        match within(limit, progress.as_deref(), answer).await? {
            Ok(answer) => {
                self.note(answer.status(), sent);
                let (mut head, incoming) = answer.into_parts();
                headers::prepare_response(&mut head);
                let body = ResponseBody::shared(incoming, self.lease);
                Ok(Response::from_parts(head, body))
            }
            Err(mut error) => {
                let mut unsent = error.take_message();
                if let Some(request) = &mut unsent {
                    *request.version_mut() = Version::HTTP_11;
                    if let Some(host) = request.uri().authority()
                        && let Ok(host) = HeaderValue::from_str(host.as_str())
                    {
                        request.headers_mut().insert(header::HOST, host);
                    }
                    *request.uri_mut() = plain;
                }
                let error = error.into_error();
                Err(self.judge(SendFailure { unsent, error }, false, job))
            }
        }
    }

    /// The head of an answer came.
    fn note(&self, status: StatusCode, sent: Instant) {
        let now = Instant::now();
        let after = now.saturating_duration_since(sent);
        self.lease.upstream().answered(status.as_u16(), after, now);
    }

    fn judge(&self, failure: SendFailure, was_fresh: bool, job: &mut Job) -> Failure {
        let SendFailure { unsent, error } = failure;
        if unsent.is_some() {
            job.request = unsent;
            return Failure::Unsent;
        }
        if error.is_user() {
            return Failure::Final(Trouble::ClientBroken);
        }
        tracing::debug!(port = self.forwarder.port.address.port(), endpoint = %self.lease.address(),
            was_fresh, %error, "an endpoint broke a connection before it answered");
        if was_fresh {
            let pool = &self.forwarder.port.pool;
            pool.failed(&self.lease, Instant::now());
        }
        if error.is_parse() {
            return Failure::Final(Trouble::Broken);
        }
        Failure::Lost
    }
}

/// The target as HTTP/2 has it: with scheme and authority.
fn full_target(request: &Request<RequestBody>) -> Option<Uri> {
    let host = request.headers().get(header::HOST)?;
    let path = request.uri().path_and_query()?.clone();
    Uri::builder()
        .scheme("http")
        .authority(host.as_bytes())
        .path_and_query(path)
        .build()
        .ok()
}

/// Waits until `limit` has passed since the request's body moved last; zero is no limit.
async fn within<T>(
    limit: Duration,
    progress: Option<&Progress>,
    mut answer: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Failure> {
    if limit.is_zero() {
        return Ok(answer.await);
    }
    let mut deadline = Instant::now() + limit;
    loop {
        match tokio::time::timeout_at(deadline.into(), answer.as_mut()).await {
            Ok(answer) => return Ok(answer),
            Err(_) => {
                let moved = progress.map(Progress::last);
                match moved.map(|it| it + limit).filter(|it| *it > deadline) {
                    Some(later) => deadline = later,
                    None if progress.is_some_and(|it| !it.has_ended()) => {
                        return Err(Failure::Final(Trouble::ClientSilent));
                    }
                    None => return Err(Failure::Final(Trouble::Silent)),
                }
            }
        }
    }
}
