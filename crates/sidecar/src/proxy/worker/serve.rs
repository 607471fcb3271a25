//! The worker's side: the data plane, its control socket, and the agent that drives it.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    sync::Arc,
};

use anyhow::Context as _;
use tokio::{
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Settings,
    driver::own_hello,
    handover,
    logs::Logs,
    messages::{Estate, FromWorker, Hello, StatusChange, ToWorker, read, write},
    socket,
};
use crate::{
    logging,
    proxy::builtin::{self, Listeners, PlaneStatus, Succession},
    routes::Routes,
};

/// Is a worker until it is told to stop, or has given its ports away and its last connection ends.
///
/// Standard input is the control socket, or with `succeeds` a connection to the worker to succeed. Standard
/// error ends when the worker serves.
///
/// # Errors
/// When it cannot start.
pub fn run(settings: &Settings, succeeds: bool) -> anyhow::Result<()> {
    // Signals for the terminal or the group of the agent are not for this process. It fails where this
    // is the leader of its session already.
    let _ = rustix::process::setsid();
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let (control, estate, inherited) = if succeeds {
        let predecessor = StdUnixStream::from(stdin);
        let got = handover::request(&predecessor)
            .context("the proxy that runs does not hand its ports over")?;
        (got.control, got.estate, got.listeners)
    } else {
        (stdin, Estate::default(), Listeners::new())
    };
    let logs = Logs::default();
    logging::start_with(settings.level(), settings.log_format, logs.clone());
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = settings.threads {
        runtime.worker_threads(threads.get());
    }
    let runtime = runtime.enable_all().build()?;
    let outcome = runtime.block_on(async {
        let worker = Worker::start(settings, estate, inherited, logs);
        let control = control_socket(control)?;
        let null = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        worker.serve(control).await
    });
    runtime.shutdown_background();
    outcome
}

fn control_socket(socket: OwnedFd) -> io::Result<UnixListener> {
    let socket = StdUnixListener::from(socket);
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket)
}

struct Worker {
    hello: Hello,
    logs: Logs,
    routes: Arc<watch::Sender<Arc<Routes>>>,
    status: watch::Receiver<Arc<PlaneStatus>>,
    succession: mpsc::Sender<oneshot::Sender<Listeners>>,
    shutdown: CancellationToken,
    plane: JoinHandle<()>,
}

/// How the conversation with one agent ended.
enum End {
    /// It is gone, or a newer one is there.
    Gone,
    /// Its successor wants everything.
    HandOver(UnixStream),
}

impl Worker {
    fn start(settings: &Settings, estate: Estate, inherited: Listeners, logs: Logs) -> Self {
        let routes = Routes {
            by_port: estate.routes,
            excluded: Vec::new(),
        };
        let (routes, routes_seen) = watch::channel(Arc::new(routes));
        let (status_sender, status) = watch::channel(Arc::default());
        let (succession, requests) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        // Those of another address are closed.
        let inherited = inherited.into_iter().filter(|(port, socket)| {
            let address = socket.local_addr();
            address.is_ok_and(|it| it == (settings.bind, *port).into())
        });
        let succession_of_ports = Succession {
            inherited: inherited.collect(),
            requests,
        };
        let plane = builtin::run_in_succession(
            settings.options.clone(),
            settings.bind,
            routes_seen,
            status_sender,
            shutdown.clone(),
            succession_of_ports,
        );
        Self {
            hello: own_hello(settings),
            logs,
            routes: Arc::new(routes),
            status,
            succession,
            shutdown,
            plane: tokio::spawn(plane),
        }
    }

    async fn serve(mut self, control: UnixListener) -> anyhow::Result<()> {
        tokio::spawn(stop_at_signals(self.shutdown.clone())?);
        // Nobody drives it yet.
        let mut conversation = tokio::spawn(std::future::pending());
        let mut newer = CancellationToken::new();
        loop {
            tokio::select! {
                accepted = control.accept() => {
                    let Some(stream) = trusted(accepted) else { continue };
                    newer.cancel();
                    newer = CancellationToken::new();
                    conversation = tokio::spawn(self.converse(stream, newer.clone()));
                }
                end = &mut conversation => {
                    conversation = tokio::spawn(std::future::pending());
                    if let Ok(End::HandOver(stream)) = end {
                        return self.hand_over(stream, control).await;
                    }
                }
                ended = &mut self.plane => return Ok(ended?),
            }
        }
    }

    /// Talks with one agent until it is gone or `newer` is cancelled.
    fn converse(
        &self,
        stream: UnixStream,
        newer: CancellationToken,
    ) -> impl Future<Output = End> + 'static {
        let hello = self.hello.clone();
        let teller = Teller {
            logs: self.logs.clone(),
            status: self.status.clone(),
        };
        let (routes, shutdown) = (self.routes.clone(), self.shutdown.clone());
        async move {
            let (mut from, mut to) = stream.into_split();
            if write(&mut to, &FromWorker::Hello(hello)).await.is_err() {
                return End::Gone;
            }
            // A frame that is begun is sent whole: another may follow.
            let heard = CancellationToken::new();
            let listening = async {
                let wants_all = obey(&mut from, &routes, &shutdown).await;
                heard.cancel();
                wants_all
            };
            let wants_all = tokio::select! {
                (wants_all, ()) = async { tokio::join!(listening, teller.tell(&mut to, &heard)) } => {
                    wants_all
                }
                () = newer.cancelled() => false,
            };
            match from.reunite(to) {
                Ok(stream) if wants_all => End::HandOver(stream),
                _ => End::Gone,
            }
        }
    }

    /// Gives all ports away and waits for the last connection to end.
    async fn hand_over(self, stream: UnixStream, control: UnixListener) -> anyhow::Result<()> {
        let (answer, listeners) = oneshot::channel();
        // Fails when the plane has just ended; then the answer does not come either.
        let _ = self.succession.send(answer).await;
        let listeners = listeners.await.unwrap_or_default();
        let estate = Estate {
            routes: self.routes.borrow().by_port.clone(),
            ports: Vec::new(),
        };
        let (stream, control) = (stream.into_std()?, control.into_std()?);
        let given = tokio::task::spawn_blocking(move || {
            handover::give(&stream, control.as_fd(), &listeners, estate)
        });
        if let Err(error) = given.await? {
            warn!(%error, "the successor did not take the ports");
        }
        Ok(self.plane.await?)
    }
}

/// Ends the worker when it is told to by a signal.
fn stop_at_signals(shutdown: CancellationToken) -> io::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // What these ask of an agent does not concern its worker.
    let ignored = (
        signal(SignalKind::hangup())?,
        signal(SignalKind::user_defined1())?,
    );
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
        drop(ignored);
    })
}

fn trusted(accepted: io::Result<(UnixStream, tokio::net::unix::SocketAddr)>) -> Option<UnixStream> {
    let (stream, _) = accepted
        .inspect_err(|error| warn!(%error, "the control socket of the proxy fails"))
        .ok()?;
    let user = stream.peer_cred().ok()?.uid();
    if !socket::is_trusted(user) {
        warn!(user, "another user's process may not drive the proxy");
        return None;
    }
    Some(stream)
}

/// Does what the agent says, until it is gone (`false`) or wants everything (`true`).
async fn obey(
    from: &mut OwnedReadHalf,
    routes: &watch::Sender<Arc<Routes>>,
    shutdown: &CancellationToken,
) -> bool {
    loop {
        match read(from).await {
            Ok(ToWorker::Routes(change)) => {
                routes.send_modify(|current| change.apply(Arc::make_mut(current)));
            }
            Ok(ToWorker::Stop) => shutdown.cancel(),
            Ok(ToWorker::HandOver) => return true,
            Err(error) => {
                info!(reason = %error, "no agent drives the proxy; it goes on with the last routes");
                return false;
            }
        }
    }
}

/// What the agent is told.
struct Teller {
    logs: Logs,
    status: watch::Receiver<Arc<PlaneStatus>>,
}

impl Teller {
    /// Until nobody listens, or `end`.
    async fn tell(mut self, to: &mut OwnedWriteHalf, end: &CancellationToken) {
        let mut told = Arc::<PlaneStatus>::default();
        self.status.mark_changed();
        loop {
            let message = tokio::select! {
                () = end.cancelled() => return,
                line = self.logs.next() => FromWorker::Log(line),
                changed = self.status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let newest = self.status.borrow_and_update().clone();
                    let change = StatusChange::between(&told, &newest);
                    told = newest;
                    FromWorker::Status(change)
                }
            };
            if write(to, &message).await.is_err() {
                return;
            }
        }
    }
}
