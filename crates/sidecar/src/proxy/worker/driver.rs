//! The agent's side: finds or starts a worker, tells it the routes, shows what it tells.

use std::{
    io::{self, Write as _},
    os::fd::OwnedFd,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::Command,
    sync::watch,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    OWN_PROGRAM, Settings, build,
    messages::{FromWorker, Hello, RoutesChange, StatusChange, ToWorker, read, write},
    socket::{self, SocketError},
};
use crate::{
    proxy::builtin::{self, PlaneStatus},
    routes::Routes,
};

/// Most time a new worker may take until it serves, and a running one until it says who it is.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before a worker that ended is replaced; doubles each time up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause, and how long a worker must have lived for the next pause to be the shortest again.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// What a worker that was told to stop may take beyond the time its connections have.
const STOP_MARGIN: Duration = Duration::from_secs(1);
/// Most of a failed worker's words that are repeated.
const WORDS_BYTES_MAX: u64 = 4096;

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
enum DriverError {
    /// The control socket cannot be used.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The system refuses a process or a socket.
    #[error("the process of the proxy cannot be started: {0}")]
    System(#[from] io::Error),
    /// It ended; its words say why.
    #[error("the process of the proxy does not start: {0}")]
    Ended(String),
    /// It says nothing.
    #[error("the process of the proxy has not answered within {START_TIMEOUT:?}")]
    Silent,
}

/// What the driver is given.
#[derive(Debug)]
pub struct Inputs {
    /// The routes; nothing is told before the first change, so that the last agent's stay in force.
    pub routes: watch::Receiver<Arc<Routes>>,
    /// Where the worker's status is shown.
    pub status: watch::Sender<Arc<PlaneStatus>>,
    /// Cancelled before `shutdown` when this host leaves the cluster: then the worker ends, too.
    pub leaving: CancellationToken,
    /// Ends the driver.
    pub shutdown: CancellationToken,
}

/// Keeps a worker and drives it until `shutdown`. Where none can be had at all, the data plane runs in this
/// process.
pub async fn drive(settings: Settings, mut inputs: Inputs) {
    let mut routes = None;
    let mut pause = PAUSE_MIN;
    let mut is_first = true;
    loop {
        let started = tokio::time::Instant::now();
        let found = tokio::select! {
            found = find(&settings) => found,
            () = inputs.shutdown.cancelled() => return,
        };
        match found {
            Ok(stream) => match converse(stream, &mut routes, &mut inputs).await {
                End::Shutdown => return,
                End::Lost(error) => {
                    warn!(%error, "the process of the proxy is gone; there will be another");
                }
            },
            Err(error) if is_first => {
                warn!(
                    %error,
                    "the proxy runs in the agent's own process: when the agent ends, so do connections"
                );
                let Inputs {
                    routes,
                    status,
                    shutdown,
                    ..
                } = inputs;
                let options = settings.options;
                return builtin::run(options, settings.bind, routes, status, shutdown).await;
            }
            Err(error) => warn!(%error, "trying again"),
        }
        is_first = false;
        inputs.status.send_replace(Arc::default());
        if started.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = inputs.shutdown.cancelled() => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Ends a worker that an agent with another data plane left behind, and waits until its ports are free.
pub async fn retire(gossip_port: u16) {
    let Ok(stream) = socket::connect(&socket::name(gossip_port)) else {
        return;
    };
    info!("ending the built-in proxy that an agent with other settings left behind");
    let ended = async {
        let mut stream = UnixStream::from_std(stream)?;
        write(&mut stream, &ToWorker::Stop).await?;
        let mut status = PlaneStatus::default();
        loop {
            if let FromWorker::Status(change) = read(&mut stream).await? {
                change.apply(&mut status);
                if status.ports.is_empty() {
                    return Ok::<_, io::Error>(());
                }
            }
        }
    };
    match timeout(START_TIMEOUT, ended).await {
        Ok(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
            warn!(%error, "the built-in proxy cannot be ended");
        }
        Err(_) => warn!("the built-in proxy does not end"),
        Ok(_) => {}
    }
}

/// A connection to a worker with these settings: the one that runs, or a new one.
async fn find(settings: &Settings) -> Result<UnixStream, DriverError> {
    let name = socket::name(settings.gossip_port);
    match socket::connect(&name) {
        Ok(stream) => {
            let mut stream = UnixStream::from_std(stream)?;
            let hello = greeting(&mut stream).await?;
            if hello == own_hello(settings) {
                info!("the proxy that runs goes on");
                return Ok(stream);
            }
            info!("the proxy hands its ports over to a new one");
            let stdin = stream.into_std()?.into();
            if let Err(error) = start(settings, stdin, true).await {
                warn!(%error, "the proxy cannot be succeeded");
                retire(settings.gossip_port).await;
                start(settings, socket::listen(&name)?, false).await?;
            }
        }
        Err(SocketError::Nobody) => {
            start(settings, socket::listen(&name)?, false).await?;
        }
        Err(error) => return Err(error.into()),
    }
    let mut stream = UnixStream::from_std(socket::connect(&name)?)?;
    greeting(&mut stream).await?;
    Ok(stream)
}

pub(super) fn own_hello(settings: &Settings) -> Hello {
    Hello {
        build: build(),
        settings: settings.clone(),
    }
}

async fn greeting(stream: &mut UnixStream) -> Result<Hello, DriverError> {
    match timeout(START_TIMEOUT, read(stream)).await {
        Ok(Ok(FromWorker::Hello(hello))) => Ok(hello),
        Ok(Ok(_)) => Err(io::Error::other("it does not say who it is").into()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(DriverError::Silent),
    }
}

/// Starts a worker and returns when it serves. `stdin` is its control socket, or its connection to the
/// worker it succeeds.
async fn start(settings: &Settings, stdin: OwnedFd, succeeds: bool) -> Result<(), DriverError> {
    let mut command = Command::new(OWN_PROGRAM);
    command.arg0("sidecar").arg("proxy-worker").args([
        "--settings",
        &serde_json::to_string(settings).map_err(io::Error::from)?,
    ]);
    if succeeds {
        command.arg("--succeed");
    }
    if rustix::process::parent_process_death_signal()
        .ok()
        .flatten()
        .is_some()
    {
        command.arg("--with-parent");
    }
    let mut child = command
        // It needs no setting, and no secret of the agent's.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    // It ends its standard error when it serves; what stands there before is why it does not.
    let mut words = String::new();
    if let Some(stderr) = child.stderr.take() {
        let mut stderr = stderr.take(WORDS_BYTES_MAX);
        let said = timeout(START_TIMEOUT, stderr.read_to_string(&mut words)).await;
        if said.is_err() {
            child.kill().await?;
            return Err(DriverError::Silent);
        }
    }
    if words.is_empty() {
        Ok(())
    } else {
        Err(DriverError::Ended(words.trim().to_owned()))
    }
}

enum End {
    Shutdown,
    Lost(io::Error),
}

async fn converse(stream: UnixStream, known: &mut Option<Arc<Routes>>, inputs: &mut Inputs) -> End {
    let (mut from, mut to) = stream.into_split();
    let error = tokio::select! {
        error = listen(&mut from, &inputs.status) => error,
        error = tell(&mut to, known, &mut inputs.routes) => error,
        () = inputs.shutdown.cancelled() => {
            if inputs.leaving.is_cancelled() {
                finish(from, to, &inputs.status).await;
            }
            return End::Shutdown;
        }
    };
    End::Lost(error)
}

/// Shows what the worker says, until it is gone.
async fn listen(from: &mut OwnedReadHalf, status: &watch::Sender<Arc<PlaneStatus>>) -> io::Error {
    loop {
        match read(from).await {
            Ok(FromWorker::Status(change)) => show(change, status),
            Ok(FromWorker::Log(line)) => {
                // The one thing to do about a broken log would be to log it.
                let _ = io::stderr().write_all(line.as_bytes());
            }
            Ok(FromWorker::Hello(_) | FromWorker::HandOver(_)) => {}
            Err(error) => return error,
        }
    }
}

fn show(change: StatusChange, status: &watch::Sender<Arc<PlaneStatus>>) {
    status.send_modify(|current| change.apply(Arc::make_mut(current)));
}

/// Tells the worker the routes and each change of them.
async fn tell(
    to: &mut OwnedWriteHalf,
    known: &mut Option<Arc<Routes>>,
    routes: &mut watch::Receiver<Arc<Routes>>,
) -> io::Error {
    let mut told: Option<Arc<Routes>> = None;
    loop {
        if let Some(newest) = known {
            let change = RoutesChange::between(told.as_deref(), newest);
            if let Err(error) = write(to, &ToWorker::Routes(change)).await {
                return error;
            }
            told = Some(newest.clone());
        }
        if routes.changed().await.is_err() {
            // The routes stay as they are.
            std::future::pending::<()>().await;
        }
        *known = Some(routes.borrow_and_update().clone());
    }
}

/// Ends the worker and waits for its end.
async fn finish(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    status: &watch::Sender<Arc<PlaneStatus>>,
) {
    if write(&mut to, &ToWorker::Stop).await.is_err() {
        return;
    }
    let patience = builtin::Limits::default().drain_deadline + STOP_MARGIN;
    if timeout(patience, listen(&mut from, status)).await.is_err() {
        warn!("the process of the proxy has not ended in time");
    }
}
