//! Clients that send requests at a constant rate, whatever becomes of them.
//!
//! The rate does not follow the answers: a proxy that hangs for a second gets all requests of that second,
//! and their time counts from when they were due. Among them are all kinds that matter when what is behind
//! a proxy changes: on new connections and on kept ones, with an answer at once and after a while, and some
//! that nobody may repeat.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::Host;

/// One in so many requests is on a connection of its own.
const NEW_CONNECTION_EVERY: usize = 4;
/// Of so many, one has an answer that takes [`SLOW`], and two may not be repeated.
const KINDS: usize = 20;
const SLOW: &str = "/after/50";
/// Kept connections; they are used in turns, so that each is idle for a while before it is used again.
const KEPT: usize = 32;
/// From a request to its complete answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// No answer here has a longer head or body.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Failures that are told of one by one; the others are counted.
const FAILURES_MAX: usize = 10_000;

/// A request that did not get its answer.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When it was sent.
    pub sent: Instant,
    /// When it was clear that there would be no answer.
    pub failed: Instant,
    /// Its method and path.
    pub request: &'static str,
    /// Whether the request may be sent again by whoever has no answer to it.
    pub idempotent: bool,
    /// Whether it was sent on a connection that had carried others.
    pub kept: bool,
    /// What happened instead.
    pub error: String,
}

/// What became of all requests.
#[derive(Debug, Default)]
pub struct Report {
    /// How many were sent.
    pub requests: usize,
    /// How many got no answer.
    pub failed: usize,
    /// Those in detail, as far as they are remembered.
    pub failures: Vec<Failure>,
    /// How many got each answer.
    pub answers: BTreeMap<String, usize>,
    /// From when each was due to its answer, sorted; without those that are meant to take their time.
    pub times: Vec<Duration>,
    /// Kept connections that were found closed before a request was sent on them.
    pub reopened: usize,
    /// The most that a request was sent after it was due: this client's own fault.
    pub late: Duration,
}

impl Report {
    /// The time within which this share of the answers came.
    ///
    /// # Panics
    /// When there were none.
    pub fn time(&self, share: f64) -> Duration {
        let last = self.times.len().checked_sub(1).expect("there were answers");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a length"
        )]
        let place = (last as f64 * share) as usize;
        self.times[place.min(last)]
    }
}

/// Clients at work. They stop when this is dropped.
#[derive(Debug)]
pub struct Traffic {
    control: Arc<Control>,
    thread: Option<thread::JoinHandle<Report>>,
}

#[derive(Debug, Default)]
struct Control {
    stop: AtomicBool,
    sent: AtomicUsize,
}

impl Traffic {
    /// Begins to send from a host.
    pub fn start(host: &Arc<Host>, to: SocketAddr, per_second: u32) -> Self {
        let control = Arc::new(Control::default());
        let (host, shared) = (Arc::clone(host), Arc::clone(&control));
        let thread = thread::spawn(move || {
            host.within(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("the system has a poll for it");
                runtime.block_on(send(to, per_second, &shared))
            })
        });
        Self {
            control,
            thread: Some(thread),
        }
    }

    /// How many requests were sent so far.
    pub fn sent(&self) -> usize {
        self.control.sent.load(Ordering::Relaxed)
    }

    /// Sends no more and waits for what is on its way.
    ///
    /// # Panics
    /// When the clients panicked.
    pub fn stop(mut self) -> Report {
        self.control.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        thread.join().expect("the clients do not panic")
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::Relaxed);
    }
}

async fn send(to: SocketAddr, per_second: u32, control: &Control) -> Report {
    let clients = Arc::new(Clients {
        to,
        state: Mutex::default(),
    });
    let pause = Duration::from_secs(1) / per_second;
    let mut ticks = interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut requests = JoinSet::new();
    let mut due = Instant::now();
    let mut number = 0;
    while !control.stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let now = Instant::now();
        while due <= now {
            requests.spawn(Arc::clone(&clients).ask(number, due));
            number += 1;
            due += pause;
        }
        control.sent.store(number, Ordering::Relaxed);
        while requests.try_join_next().is_some() {}
    }
    requests.join_all().await;
    let mut report = std::mem::take(&mut clients.state().report);
    report.requests = number;
    report.times.sort_unstable();
    report
}

struct Clients {
    to: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: VecDeque<TcpStream>,
    /// Kept connections with a request on its way.
    busy: usize,
    report: Report,
}

/// How the requests differ.
struct Kind {
    request: &'static str,
    idempotent: bool,
    kept: bool,
}

impl Kind {
    fn of(number: usize) -> Self {
        let (request, idempotent) = match number / NEW_CONNECTION_EVERY % KINDS {
            3 => (SLOW, true),
            7 | 14 => ("POST /", false),
            _ => ("/", true),
        };
        Self {
            request,
            idempotent,
            kept: !number.is_multiple_of(NEW_CONNECTION_EVERY),
        }
    }

    fn text(&self) -> String {
        let connection = if self.kept { "keep-alive" } else { "close" };
        let head = format!("HTTP/1.1\r\nHost: lab\r\nConnection: {connection}\r\n");
        match self.request.strip_prefix("POST ") {
            Some(path) => format!("POST {path} {head}Content-Length: 4\r\n\r\nbody"),
            None => format!("GET {} {head}\r\n", self.request),
        }
    }
}

impl Clients {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(self: Arc<Self>, number: usize, due: Instant) {
        let kind = Kind::of(number);
        let sent = Instant::now();
        let old = if kind.kept { self.kept() } else { None };
        let was_kept = old.is_some();
        let asked = timeout(PATIENCE, exchange(old, self.to, &kind)).await;
        let outcome = asked.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
        let now = Instant::now();

        let mut state = self.state();
        if kind.kept {
            state.busy -= 1;
        }
        let report = &mut state.report;
        report.late = report.late.max(sent - due);
        match outcome {
            Ok((answer, stream)) => {
                *report.answers.entry(answer).or_default() += 1;
                if kind.request != SLOW {
                    report.times.push(now - due);
                }
                if let Some(stream) = stream
                    && state.idle.len() < KEPT
                {
                    state.idle.push_back(stream);
                }
            }
            Err(error) => {
                report.failed += 1;
                if report.failures.len() < FAILURES_MAX {
                    report.failures.push(Failure {
                        sent,
                        failed: now,
                        request: kind.request,
                        idempotent: kind.idempotent,
                        kept: was_kept,
                        error,
                    });
                }
            }
        }
    }

    /// A kept connection that is open, once there are enough of them.
    fn kept(&self) -> Option<TcpStream> {
        let mut state = self.state();
        state.busy += 1;
        if state.idle.len() + state.busy <= KEPT {
            return None;
        }
        while let Some(stream) = state.idle.pop_front() {
            // The runtime may not know yet what the system knows.
            let peeked =
                rustix::net::recv(&stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            if peeked.is_err_and(|it| it == rustix::io::Errno::AGAIN) {
                return Some(stream);
            }
            state.report.reopened += 1;
        }
        None
    }
}

/// The body of a good answer, and the connection if it can be kept.
async fn exchange(
    old: Option<TcpStream>,
    to: SocketAddr,
    kind: &Kind,
) -> Result<(String, Option<TcpStream>), String> {
    let mut stream = match old {
        Some(stream) => stream,
        None => connect(to)
            .await
            .map_err(|error| format!("connecting: {error}"))?,
    };
    let text = kind.text();
    let written = stream.write_all(text.as_bytes()).await;
    // Whoever does not want the request may have said so, and that is more to the point.
    let mut read = Vec::new();
    let answer = loop {
        if let Some(answer) = Answer::parse(&read)? {
            break answer;
        }
        let so_far = read.len();
        let told = |what: String| match &written {
            Err(error) => format!("sending: {error}; then {what}"),
            Ok(()) => what,
        };
        match stream.read_buf(&mut read).await {
            Ok(0) => return Err(told(format!("closed after {so_far} bytes of an answer"))),
            Ok(_) if read.len() > ANSWER_BYTES_MAX => return Err("an endless answer".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(told(format!("{error} after {so_far} bytes of an answer"))),
        }
    };
    if answer.status != 200 {
        let line = answer.body.lines().next().unwrap_or_default();
        return Err(format!("{}: {line}", answer.status));
    }
    let stream = (kind.kept && !answer.closes).then_some(stream);
    Ok((answer.body, stream))
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A complete answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: String,
    closes: bool,
}

impl Answer {
    fn parse(read: &[u8]) -> Result<Option<Self>, String> {
        let Some(end) = read.windows(4).position(|it| it == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = String::from_utf8_lossy(&read[..end]);
        let mut lines = head.lines();
        let first = lines.next().unwrap_or_default();
        let status = first.split(' ').nth(1).and_then(|it| it.parse().ok());
        let status = status.ok_or_else(|| format!("not an answer: {first:?}"))?;
        let (mut length, mut closes) = (None, first.starts_with("HTTP/1.0"));
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse::<usize>().ok();
            } else if name.eq_ignore_ascii_case("connection") {
                closes = value.trim().eq_ignore_ascii_case("close");
            }
        }
        let body = &read[end + 4..];
        let text = |body: &[u8]| String::from_utf8_lossy(body).trim_end().to_owned();
        let Some(length) = length else {
            return Err(format!("{status} without a length: {}", text(body)));
        };
        Ok((body.len() >= length).then(|| Self {
            status,
            body: text(&body[..length]),
            closes,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_the_last_byte_of_its_body() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nConnection: close\r\n\r\nit\n";
        for end in 0..text.len() {
            assert_eq!(Answer::parse(&text[..end]), Ok(None), "{end}");
        }
        let answer = Answer {
            status: 200,
            body: "it".to_owned(),
            closes: true,
        };
        assert_eq!(Answer::parse(text), Ok(Some(answer)));
        assert!(Answer::parse(b"SSH-2.0\r\n\r\n").is_err());
    }

    #[test]
    fn all_kinds_of_requests_come_on_new_and_on_kept_connections() {
        let kinds: std::collections::BTreeSet<_> = (0..NEW_CONNECTION_EVERY * KINDS)
            .map(Kind::of)
            .map(|it| (it.request, it.kept))
            .collect();
        assert_eq!(kinds.len(), 6, "{kinds:?}");
    }
}
