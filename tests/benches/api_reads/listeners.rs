//! Those who listen to the events, all in one thread.

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use blackbox::Host;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{io::AsyncReadExt as _, net::TcpStream, sync::watch, task::JoinSet};

/// One listener in so many takes the time; the others only count.
const TIMED: usize = 100;
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Listeners {
    stop: watch::Sender<usize>,
    heard: mpsc::Receiver<Heard>,
    thread: thread::JoinHandle<()>,
}

/// What the listeners heard.
pub(crate) struct Heard {
    /// Those who heard every change.
    pub(crate) listeners: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Listeners {
    /// Returns when all have heard the first event.
    pub(crate) fn open(host: &Host, to: SocketAddr, count: usize) -> Self {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).unwrap();
        let sockets: Vec<std::net::TcpStream> = host.within(|| {
            (0..count)
                .map(|_| {
                    let mut stream = std::net::TcpStream::connect(to).unwrap();
                    let request =
                        "GET /api/v2/events?topics=changes HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
                    stream.write_all(request.as_bytes()).unwrap();
                    stream.set_nonblocking(true).unwrap();
                    stream
                })
                .collect()
        });
        let (stop, stopped) = watch::channel(usize::MAX);
        let (tell, heard) = mpsc::channel();
        let (greet, greeted) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let greetings = Arc::new(AtomicUsize::new(0));
                let mut all = JoinSet::new();
                for (number, socket) in sockets.into_iter().enumerate() {
                    let stream = TcpStream::from_std(socket).unwrap();
                    let greetings = greetings.clone();
                    let (greet, stopped) = (greet.clone(), stopped.clone());
                    let greeted = move || {
                        if greetings.fetch_add(1, Ordering::Relaxed) + 1 == count {
                            greet.send(()).unwrap();
                        }
                    };
                    all.spawn(listen(stream, number % TIMED == 0, greeted, stopped));
                }
                let mut times = Vec::new();
                let mut complete = 0;
                while let Some(one) = all.join_next().await {
                    let (is_complete, its_times) = one.unwrap();
                    complete += usize::from(is_complete);
                    times.extend(its_times);
                }
                times.sort_unstable();
                let at = |part: f64| {
                    let place = (times.len() as f64 * part) as usize;
                    times.get(place).copied().unwrap_or_default()
                };
                // Nobody waits for it when only memory is measured.
                let _ = tell.send(Heard {
                    listeners: complete,
                    p50: at(0.5),
                    p99: at(0.99),
                });
            });
        });
        greeted.recv_timeout(PATIENCE * 2).unwrap();
        Self {
            stop,
            heard,
            thread,
        }
    }

    /// Waits until all have heard so many changes, or long enough.
    pub(crate) fn close(self, changes: usize) -> Heard {
        self.stop.send(changes).unwrap();
        let heard = self.heard.recv_timeout(PATIENCE * 2).unwrap();
        self.thread.join().unwrap();
        heard
    }
}

/// Reads until it has heard as many changes as there were; whether it has, and how long each took.
async fn listen(
    mut stream: TcpStream,
    is_timed: bool,
    greeted: impl Fn(),
    mut stopped: watch::Receiver<usize>,
) -> (bool, Vec<Duration>) {
    let mut times = Vec::new();
    let mut heard = 0;
    let mut is_greeted = false;
    let mut text = Vec::new();
    let mut piece = vec![0; 4 * 1024];
    let mut deadline: Option<Instant> = None;
    loop {
        let wanted = *stopped.borrow_and_update();
        if wanted != usize::MAX {
            deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
        if heard >= wanted || deadline.is_some_and(|it| it < Instant::now()) {
            return (heard == wanted, times);
        }
        tokio::select! {
            read = stream.read(&mut piece) => {
                let count = read.unwrap_or(0);
                if count == 0 {
                    return (false, times);
                }
                text.extend_from_slice(&piece[..count]);
            }
            changed = stopped.changed() => {
                if changed.is_err() {
                    return (false, times);
                }
                continue;
            }
            () = tokio::time::sleep(PATIENCE) => continue,
        }
        // Whole events only; the rest waits for more.
        let Some(end) = text.windows(2).rposition(|it| it == b"\n\n") else {
            continue;
        };
        let events = String::from_utf8_lossy(&text[..end + 2]).into_owned();
        text.drain(..end + 2);
        for line in events.lines() {
            if line == "event: hello" && !is_greeted {
                is_greeted = true;
                greeted();
            }
            if line == "event: change" {
                heard += 1;
            }
            if is_timed && let Some(data) = line.strip_prefix("data: ") {
                times.extend(age(data));
            }
        }
    }
}

/// How long ago the record of a change was stamped.
fn age(data: &str) -> Option<Duration> {
    let change: serde_json::Value = serde_json::from_str(data).ok()?;
    let stamp = change["instance"]["updated"].as_str()?;
    let (_, time) = stamp.strip_suffix('Z')?.split_once('T')?;
    let mut parts = time.splitn(3, ':');
    let hours: f64 = parts.next()?.parse().ok()?;
    let minutes: f64 = parts.next()?.parse().ok()?;
    let seconds: f64 = parts.next()?.parse().ok()?;
    let of_day = hours * 3600.0 + minutes * 60.0 + seconds;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    let now = now.as_secs_f64() % 86_400.0;
    // Midnight may lie between.
    Duration::try_from_secs_f64((now - of_day).rem_euclid(86_400.0)).ok()
}
