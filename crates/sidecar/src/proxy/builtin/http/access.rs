//! The access log: one JSON object for each request, in a file, written by a thread of its own. A file that is
//! moved away is opened anew, so that it can be rotated.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write as _},
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use crate::proxy::builtin::listener::Port;

/// Lines that wait to be written; of more the newest are dropped and counted.
const LINES_MAX: usize = 16_384;
/// Most of a path that is written, in characters.
const PATH_LOGGED_MAX: usize = 1024;
/// How long a line may wait for others, and how often is looked whether the file was moved.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// Where requests are written down.
#[derive(Debug, Clone)]
pub(in crate::proxy::builtin) struct AccessLog {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

/// One request.
#[derive(Debug, Serialize)]
struct Line {
    time: String,
    service: String,
    service_port: u16,
    client: IpAddr,
    protocol: String,
    method: String,
    path: String,
    /// Absent when the client went before there was an answer.
    status: Option<u16>,
    /// Absent when the proxy answered.
    endpoint: Option<SocketAddr>,
    attempts: usize,
    head_ms: Option<f64>,
    duration_ms: f64,
    response_bytes: u64,
    /// Whether the answer was taken from its endpoint to its end.
    complete: bool,
}

/// A request that is being answered: written down when this is dropped.
#[derive(Debug)]
pub(super) struct Record {
    log: AccessLog,
    started: Instant,
    line: Option<Line>,
    pub(super) bytes: u64,
    pub(super) is_whole: bool,
}

impl Record {
    /// Of a request that says protocol, method and path.
    pub(super) fn begin(
        log: &AccessLog,
        port: &Port,
        client: IpAddr,
        (protocol, method, path): (&str, &str, &str),
        started: Instant,
    ) -> Box<Self> {
        let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default();
        let line = Line {
            time: now.to_string(),
            service: port.service(),
            service_port: port.address.port(),
            client,
            protocol: protocol.to_owned(),
            method: method.to_owned(),
            path: path.chars().take(PATH_LOGGED_MAX).collect(),
            status: None,
            endpoint: None,
            attempts: 0,
            head_ms: None,
            duration_ms: 0.0,
            response_bytes: 0,
            complete: false,
        };
        Box::new(Self {
            log: log.clone(),
            started,
            line: Some(line),
            bytes: 0,
            is_whole: false,
        })
    }

    /// The head of an answer is there.
    pub(super) fn answered(&mut self, status: u16, endpoint: Option<SocketAddr>, attempts: usize) {
        let after = millis(self.started.elapsed());
        if let Some(line) = &mut self.line {
            line.status = Some(status);
            line.endpoint = endpoint;
            line.attempts = attempts;
            line.head_ms = Some(after);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(mut line) = self.line.take() {
            line.duration_ms = millis(self.started.elapsed());
            line.response_bytes = self.bytes;
            line.complete = self.is_whole;
            if self.log.lines.try_send(line).is_err() {
                self.log.dropped.fetch_add(1, Relaxed);
            }
        }
    }
}

fn millis(duration: Duration) -> f64 {
    // Three digits are microseconds.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl AccessLog {
    /// Begins to write to `path`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(in crate::proxy::builtin) fn open(path: &Path) -> io::Result<Self> {
        let file = append_to(path)?;
        let (lines, received) = sync_channel(LINES_MAX);
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write(path, file, &received))?;
        Ok(Self {
            lines,
            dropped: Arc::default(),
        })
    }

    /// Lines that were dropped.
    pub(in crate::proxy::builtin) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Writes until nobody sends lines any more.
fn write(path: PathBuf, file: File, lines: &Receiver<Line>) {
    let mut writer = BufWriter::new(file);
    let mut flushed = Instant::now();
    let mut is_failing = false;
    loop {
        let received = lines.recv_timeout(FLUSH_INTERVAL);
        let mut outcome = match &received {
            Ok(line) => serde_json::to_writer(&mut writer, line)
                .map_err(io::Error::from)
                .and_then(|()| writer.write_all(b"\n")),
            Err(_) => Ok(()),
        };
        let is_over = matches!(received, Err(RecvTimeoutError::Disconnected));
        if is_over || flushed.elapsed() >= FLUSH_INTERVAL {
            flushed = Instant::now();
            outcome = outcome.and_then(|()| writer.flush());
            if !is_over && !is_same(&path, writer.get_ref()) {
                match append_to(&path) {
                    Ok(file) => writer = BufWriter::new(file),
                    Err(error) => outcome = Err(error),
                }
            }
        }
        if let Err(error) = &outcome
            && !is_failing
        {
            tracing::warn!(path = %path.display(), %error, "cannot write the access log");
        }
        is_failing = outcome.is_err();
        if is_over {
            return;
        }
    }
}

/// Whether the name still leads to the file.
fn is_same(path: &Path, file: &File) -> bool {
    let (Ok(named), Ok(open)) = (std::fs::metadata(path), file.metadata()) else {
        return false;
    };
    (named.dev(), named.ino()) == (open.dev(), open.ino())
}
