//! One request: which endpoint answers it, how often it is tried, and what the client gets when nobody does.
//!
//! A request that nothing of was sent is given to the next endpoint, each is tried once. One that was sent and
//! lost with its connection is repeated once, if that can do no harm: it is idempotent and has no body.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use hyper::{
    Request, Response, StatusCode, Uri, Version,
    body::{Body as _, Incoming},
    client::conn::http2::SendRequest,
    header::{self, HeaderValue},
    http::request,
};
use tokio::net::TcpStream;

use super::{
    access::{Line, Record},
    activity::Activity,
    answers::Trouble,
    body::{Progress, RequestBody, ResponseBody},
    headers,
    link::{Link, SendFailure},
};
use crate::proxy::builtin::{Shared, balance::Lease, connection, listener::Port};

/// Most of a path that is written into the access log, in characters.
const PATH_LOGGED_MAX: usize = 1024;

/// Answers the requests of one client's connection.
#[derive(Debug)]
pub(super) struct Forwarder {
    pub(super) port: Arc<Port>,
    pub(super) shared: Arc<Shared>,
    pub(super) client: SocketAddr,
    client_value: HeaderValue,
    pub(super) activity: Arc<Activity>,
    /// Where an upgraded connection leads once its answer is sent.
    tunnel: Mutex<Option<Tunnel>>,
}

/// An endpoint's side of an upgraded connection.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) stream: TcpStream,
    /// What it has said already.
    pub(super) said: Bytes,
    pub(super) lease: Lease,
}

/// A request on its way to an endpoint.
struct Job {
    /// Absent once it was sent.
    request: Option<Request<RequestBody>>,
    /// What it can be made of again, if repeating it does no harm.
    spare: Option<request::Parts>,
    asks_upgrade: bool,
    /// How the client speaks.
    version: Version,
}

/// Why an attempt brought no answer.
enum Failure {
    /// Nothing was sent: the request is where it was.
    Unsent,
    /// The connection ended after something may have been sent.
    Lost,
    /// It is of no use to try again.
    Final(Trouble),
}

type Answer = Response<ResponseBody>;

impl Forwarder {
    /// For a client that has been quiet `since` then.
    pub(super) fn new(
        port: Arc<Port>,
        shared: Arc<Shared>,
        client: SocketAddr,
        since: Instant,
    ) -> Self {
        Self {
            port,
            shared,
            client,
            client_value: headers::address_value(client.ip()),
            activity: Arc::new(Activity::new(since)),
            tunnel: Mutex::default(),
        }
    }

    fn keep_tunnel(&self, tunnel: Tunnel) {
        let mut place = self.tunnel.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(tunnel);
    }

    /// What the connection turns into once its last answer is sent.
    pub(super) fn take_tunnel(&self) -> Option<Tunnel> {
        let mut tunnel = self.tunnel.lock().unwrap_or_else(PoisonError::into_inner);
        tunnel.take()
    }

    /// The answer to one request: always one.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let started = Instant::now();
        let version = request.version();
        let answering = self.activity.answering();
        let mut record = self.record(&request, started);
        self.port.counts.requests.fetch_add(1, Relaxed);
        let (mut answer, endpoint, attempts) = match self.prepare(request) {
            Ok(mut job) => self.try_endpoints(&mut job, started).await,
            Err(trouble) => (self.give_up(trouble), None, 0),
        };
        if endpoint.is_none() {
            self.port.counts.own_answer(answer.status());
        }
        if version < Version::HTTP_2 && self.shared.retiring.is_cancelled() {
            let close = HeaderValue::from_static("close");
            let fields = answer.headers_mut();
            if !fields.contains_key(header::CONNECTION) {
                fields.insert(header::CONNECTION, close);
            }
        }
        if let Some(record) = &mut record {
            record.answered(answer.status().as_u16(), endpoint, attempts);
        }
        Ok(answer.map(|body| match record {
            Some(record) => body.recorded(record).tracked(answering),
            None => body.tracked(answering),
        }))
    }

    fn record(&self, request: &Request<Incoming>, started: Instant) -> Option<Box<Record>> {
        let log = self.shared.access_log.clone()?;
        let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default();
        let path = request.uri().path_and_query();
        let path = path.map_or("", |it| it.as_str());
        let line = Line {
            time: now.to_string(),
            service: self.port.service(),
            service_port: self.port.address.port(),
            client: self.client.ip(),
            protocol: format!("{:?}", request.version()),
            method: request.method().to_string(),
            path: path.chars().take(PATH_LOGGED_MAX).collect(),
            status: None,
            endpoint: None,
            attempts: 0,
            head_ms: None,
            duration_ms: 0.0,
            response_bytes: 0,
            complete: false,
        };
        Some(Box::new(Record::new(log, started, line)))
    }

    /// What to send to an endpoint.
    fn prepare(&self, request: Request<Incoming>) -> Result<Box<Job>, Trouble> {
        let (mut head, incoming) = request.into_parts();
        let version = head.version;
        let (client, server) = (&self.client_value, self.port.address);
        let asks_upgrade =
            headers::prepare_request(&mut head, client, server).map_err(Trouble::Refused)?;
        head.version = Version::HTTP_11;
        let body = RequestBody::new(incoming, &self.activity);
        let is_repeatable = body.is_empty() && headers::is_idempotent(&head.method);
        Ok(Box::new(Job {
            spare: is_repeatable.then(|| head.clone()),
            request: Some(Request::from_parts(head, body)),
            asks_upgrade,
            version,
        }))
    }

    /// The answer, the endpoint it is from, and how many were tried.
    async fn try_endpoints(
        &self,
        job: &mut Job,
        started: Instant,
    ) -> (Answer, Option<SocketAddr>, usize) {
        let pool = &self.port.pool;
        // Endpoints that could not be reached, and the one that lost the request.
        let (mut tried, mut lost) = (Vec::new(), None);
        let mut is_second_try = false;
        let mut attempts = 0;
        let mut now = started;
        let trouble = loop {
            let but_lost = [tried.as_slice(), lost.as_slice()].concat();
            // Its connection was lost, not necessarily the endpoint: without another it is asked again.
            let lease = pool.pick_for_request(&but_lost, now).or_else(|| {
                pool.pick_for_request(&tried, now)
                    .filter(|_| lost.take().is_some())
            });
            let is_late = now - started >= self.shared.limits.connect_deadline;
            let Some(lease) = lease.filter(|_| !is_late || attempts == 0) else {
                break match tried.len() {
                    _ if is_second_try => Trouble::Broken,
                    0 => Trouble::NoEndpoint,
                    tried => Trouble::Unreachable { tried },
                };
            };
            if attempts > 0 {
                self.port.counts.retries.fetch_add(1, Relaxed);
            }
            attempts += 1;
            let address = lease.address();
            let upstream = lease.upstream().clone();
            let attempt = Attempt {
                forwarder: self,
                lease,
            };
            match attempt.run(job).await {
                Ok(answer) => return (answer, Some(address), attempts),
                Err(Failure::Unsent) => tried.push(address),
                Err(Failure::Lost) => {
                    upstream.requests.failed();
                    // What else waits there is as likely lost.
                    upstream.idle.clear();
                    let Some(head) = job.spare.take() else {
                        break Trouble::Broken;
                    };
                    job.request = Some(Request::from_parts(head, RequestBody::empty()));
                    lost = Some(address);
                    is_second_try = true;
                }
                Err(Failure::Final(trouble)) => {
                    if matches!(trouble, Trouble::Broken | Trouble::Silent) {
                        upstream.requests.failed();
                    }
                    break trouble;
                }
            }
            now = Instant::now();
        };
        (self.give_up(trouble), None, attempts)
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

/// Boxed, so that what is rarely done takes no room in the future of every request.
fn rarely<'a, T>(
    future: impl Future<Output = T> + Send + 'a,
) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(future)
}

impl Attempt<'_> {
    async fn run(self, job: &mut Job) -> Result<Answer, Failure> {
        if job.version == Version::HTTP_2
            && let Some(sender) = rarely(self.shared_link()).await?
        {
            return rarely(self.share(sender, job)).await;
        }
        let upstream = self.lease.upstream();
        let limit = self.forwarder.shared.limits.response_timeout;
        let (sent, link, answer) = loop {
            // A request that cannot be repeated must not meet a connection that is about to close.
            let waiting = upstream.idle.take(job.spare.is_none()).await;
            let mut link = match waiting {
                Some(link) => link,
                None => rarely(self.new_link()).await?,
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
            if !job.asks_upgrade {
                return Err(Failure::Final(Trouble::Broken));
            }
            headers::prepare_response(&mut head, true);
            rarely(self.upgrade(link)).await?;
            return Ok(Response::from_parts(head, ResponseBody::own("")));
        }
        headers::prepare_response(&mut head, false);
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

    async fn upgrade(self, link: Box<Link>) -> Result<(), Failure> {
        let (stream, said) = link.into_stream().await.map_err(|_| Failure::Lost)?;
        self.forwarder.keep_tunnel(Tunnel {
            stream,
            said,
            lease: self.lease,
        });
        Ok(())
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
                headers::prepare_response(&mut head, false);
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
