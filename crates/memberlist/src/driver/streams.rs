//! Connections: state exchanges, pings by stream and long user messages. One task per connection,
//! one request per connection. Counts, bytes and times are bounded here; what the bytes mean is
//! decided by `wire` and the node.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::core::Command;
use super::meters::Shared;
use super::security::{self, Security};
use super::{Config, Delegate, malformed, sockets};
use crate::node::{MergeError, StreamRequest};
use crate::wire::message::{Ack, Ping, PushPull, StreamMessage};
use crate::wire::{
    Envelope, SealError, StreamDecoder, StreamProgress, StreamSide, WireError, encode_stream,
};

/// Connections others may have open to us, altogether and per address.
const INBOUND_MAX: usize = 256;
const INBOUND_PER_ADDRESS_MAX: usize = 16;
/// State exchanges others may have under way with us.
const INBOUND_EXCHANGES_MAX: usize = 32;
/// Connections we may have open to others.
const OUTBOUND_MAX: usize = 64;
/// Memory for all streams and for states the application has not released, in KiB.
const BUDGET_KIB: usize = 128 * 1024;
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;
/// What is read, and for how long, of a stream that was refused with an answer.
const DRAIN_BYTES_MAX: u64 = 256 * 1024;
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// Pause after an accept that failed, doubled each time up to a second.
const ACCEPT_PAUSE: Duration = Duration::from_millis(5);

/// Why a stream came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no progress within {0:?} while {1}")]
    Timeout(Duration, &'static str),
    #[error("closed without an answer")]
    NoAnswer,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("unexpected {0} message")]
    Unexpected(&'static str),
    #[error("peer refuses: {0:?}")]
    Refused(String),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error("this is the address of this very node")]
    Ourselves,
    #[error("stream memory used up")]
    Budget,
    #[error("too many streams")]
    Busy,
    #[error("shut down")]
    Stopped,
}

impl StreamError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) | Self::Io(_) => "stream_io",
            Self::Timeout(..) => "stream_timeout",
            Self::NoAnswer => "stream_no_answer",
            Self::Wire(error) => malformed::kind(error),
            Self::Unexpected(_) => "stream_unexpected",
            Self::Refused(_) => "stream_refused",
            Self::Seal(_) => "seal",
            Self::Merge(_) => "merge",
            Self::Ourselves => "ourselves",
            Self::Budget => "stream_budget",
            Self::Busy => "stream_busy",
            Self::Stopped => "stopped",
        }
    }
}

/// What all connections share.
pub(super) struct Streams {
    config: Config,
    delegate: Arc<dyn Delegate>,
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    pub(super) security: Arc<Security>,
    inbound: Arc<Semaphore>,
    inbound_exchanges: Semaphore,
    outbound: Semaphore,
    budget: Arc<Semaphore>,
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

/// A place among the connections of one address.
struct Place {
    streams: Arc<Streams>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut addresses = self.streams.addresses();
        if let Some(open) = addresses.get_mut(&self.address) {
            *open -= 1;
            if *open == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

/// Memory a stream has taken from the common budget; given back when dropped.
struct Reserved {
    budget: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Reserved {
    fn grow_to(&mut self, bytes: usize) -> Result<(), StreamError> {
        let held = self
            .permit
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = bytes.div_ceil(1024).saturating_sub(held);
        if missing == 0 {
            return Ok(());
        }
        let more = u32::try_from(missing)
            .ok()
            .and_then(|missing| self.budget.clone().try_acquire_many_owned(missing).ok())
            .ok_or(StreamError::Budget)?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}

/// Application state that holds its share of the budget until the application drops it.
struct HeldState {
    bytes: Bytes,
    _reserved: Reserved,
}

impl AsRef<[u8]> for HeldState {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Accepts connections until cancelled.
pub(super) async fn accept(
    streams: Arc<Streams>,
    listener: TcpListener,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let mut pause = ACCEPT_PAUSE;
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = ACCEPT_PAUSE;
                match streams.admit(peer) {
                    Some(admitted) => {
                        let streams = streams.clone();
                        let serve = async move {
                            streams.serve(stream, peer).await;
                            drop(admitted);
                        };
                        tasks.spawn(cancel.clone().run_until_cancelled_owned(serve));
                    }
                    None => streams.shared.meters.streams_refused.add(1),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

impl Streams {
    pub(super) fn new(
        config: Config,
        delegate: Arc<dyn Delegate>,
        commands: mpsc::Sender<Command>,
        shared: Arc<Shared>,
        security: Arc<Security>,
    ) -> Self {
        Self {
            config,
            delegate,
            commands,
            shared,
            security,
            inbound: Arc::new(Semaphore::new(INBOUND_MAX)),
            inbound_exchanges: Semaphore::new(INBOUND_EXCHANGES_MAX),
            outbound: Semaphore::new(OUTBOUND_MAX),
            budget: Arc::new(Semaphore::new(BUDGET_KIB)),
            addresses: Mutex::default(),
        }
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(self: &Arc<Self>, peer: SocketAddr) -> Option<(OwnedSemaphorePermit, Place)> {
        let permit = self.inbound.clone().try_acquire_owned().ok()?;
        let address = peer.ip().to_canonical();
        let mut addresses = self.addresses();
        let open = addresses.entry(address).or_default();
        if *open >= INBOUND_PER_ADDRESS_MAX {
            return None;
        }
        *open += 1;
        drop(addresses);
        let streams = self.clone();
        Some((permit, Place { streams, address }))
    }

    // === Connections of others ===

    async fn serve(&self, mut stream: TcpStream, peer: SocketAddr) {
        self.shared.meters.streams_in.add(1);
        if let Err(error) = self.answer(&mut stream).await {
            self.note(peer, &error);
        }
    }

    fn note(&self, peer: SocketAddr, error: &StreamError) {
        if !matches!(error, StreamError::Stopped) {
            self.shared.meters.streams_failed.add(1);
            self.shared.malformed.note(error.kind(), peer, error);
        }
    }

    async fn answer(&self, stream: &mut TcpStream) -> Result<(), StreamError> {
        let mut reserved = self.reserve();
        let read = self.read(stream, StreamSide::Dialling, &mut reserved);
        let message = match read.await {
            Ok(message) => message,
            // Somebody looked whether the port is open.
            Err(StreamError::NoAnswer) => return Ok(()),
            Err(StreamError::Wire(error)) => {
                // A courtesy: what was wrong in the first place is what counts.
                let _ = self.refuse(stream, &error).await;
                return Err(error.into());
            }
            Err(error) => return Err(error),
        };
        match message {
            StreamMessage::Ping(ping) => {
                if ping.node.is_empty() || ping.node == self.config.name {
                    let ack = Ack {
                        seq_no: ping.seq_no,
                        payload: Bytes::new(),
                    };
                    let ack = self.encode(&StreamMessage::Ack(ack), StreamSide::Accepting)?;
                    self.write(stream, &ack).await?;
                }
                Ok(())
            }
            StreamMessage::PushPull(remote) => self.answer_exchange(stream, remote, reserved).await,
            StreamMessage::User(payload) => {
                if !payload.is_empty() {
                    self.tell(Command::Message(payload)).await?;
                }
                Ok(())
            }
            StreamMessage::Ack(_) => Err(StreamError::Unexpected("ack")),
            StreamMessage::Error(text) => Err(StreamError::Refused(text)),
        }
    }

    /// Tells a peer whose envelope could not be read what is wrong, so that its operator learns of
    /// it too.
    async fn refuse(&self, stream: &mut TcpStream, error: &WireError) -> Result<(), StreamError> {
        let Some(text) = error.reply() else {
            return Ok(());
        };
        let reply = StreamMessage::Error(text.to_owned());
        let reply = self.encode(&reply, StreamSide::Accepting)?;
        self.write(stream, &reply).await?;
        stream.shutdown().await?;
        // What is left unread would turn the end into a reset, and the peer might lose the reply.
        let mut rest = stream.take(DRAIN_BYTES_MAX);
        let mut nowhere = tokio::io::sink();
        let drained = tokio::io::copy(&mut rest, &mut nowhere);
        // How it ends does not matter any more.
        let _ = tokio::time::timeout(DRAIN_PATIENCE, drained).await;
        Ok(())
    }

    async fn answer_exchange(
        &self,
        stream: &mut TcpStream,
        remote: PushPull,
        reserved: Reserved,
    ) -> Result<(), StreamError> {
        let _one_of_few = self
            .inbound_exchanges
            .try_acquire()
            .map_err(|_| StreamError::Busy)?;
        let join = remote.join;
        // Ours is written before theirs is merged: a restarted peer must see what we remember.
        let ours = self.our_side(join, StreamSide::Accepting).await?;
        self.write(stream, &ours).await?;
        self.merge(remote, join, reserved).await?;
        self.shared.meters.exchanges_in.add(1);
        Ok(())
    }

    // === Connections of ours ===

    /// Does what the node asked for and reports back.
    pub(super) async fn carry_out(&self, request: StreamRequest) {
        match request {
            StreamRequest::PushPull { to, join } => {
                let result = self.exchange(to, join).await;
                if let Err(error) = &result {
                    tracing::debug!(%to, %error, "exchanging states");
                }
                let merged = result.is_ok();
                // The core is gone only when everything ends.
                let _ = self.tell(Command::ExchangeResult { to, merged }).await;
            }
            StreamRequest::Ping { to, ping, deadline } => {
                let seq_no = ping.seq_no;
                let patience = deadline.saturating_duration_since(Instant::now());
                let answered = tokio::time::timeout(patience, self.ping(to, ping)).await;
                if matches!(answered, Ok(Ok(()))) {
                    let _ = self.tell(Command::TcpAck { seq_no }).await;
                }
            }
            StreamRequest::User { to, payload } => {
                if let Err(error) = self.send_user(to, payload).await {
                    tracing::debug!(%to, %error, "sending a message by stream");
                }
            }
        }
    }

    /// Exchanges states with whoever listens at `to`.
    pub(super) async fn exchange(&self, to: SocketAddr, join: bool) -> Result<(), StreamError> {
        let result = self.try_exchange(to, join).await;
        match &result {
            Ok(()) => self.shared.meters.exchanges_out.add(1),
            Err(StreamError::Ourselves) => {}
            Err(StreamError::Connect(_) | StreamError::Timeout(..) | StreamError::Io(_)) => {
                // A peer that is down has not sent anything malformed.
                self.shared.meters.streams_failed.add(1);
            }
            Err(error) => self.note(to, error),
        }
        result
    }

    async fn try_exchange(&self, to: SocketAddr, join: bool) -> Result<(), StreamError> {
        let advertised = SocketAddr::new(self.config.advertise, self.config.port());
        if to == advertised || to == self.config.bind {
            return Err(StreamError::Ourselves);
        }
        let _place = self
            .outbound
            .acquire()
            .await
            .map_err(|_| StreamError::Stopped)?;
        let mut stream = self.dial(to).await?;
        let ours = self.our_side(join, StreamSide::Dialling).await?;
        self.write(&mut stream, &ours).await?;
        let mut reserved = self.reserve();
        let reply = self.read(&mut stream, StreamSide::Accepting, &mut reserved);
        let remote = match reply.await? {
            StreamMessage::PushPull(remote) => remote,
            StreamMessage::Error(text) => return Err(StreamError::Refused(text)),
            StreamMessage::Ping(_) => return Err(StreamError::Unexpected("ping")),
            StreamMessage::Ack(_) => return Err(StreamError::Unexpected("ack")),
            StreamMessage::User(_) => return Err(StreamError::Unexpected("user")),
        };
        drop(stream);
        self.merge(remote, join, reserved).await
    }

    async fn ping(&self, to: SocketAddr, ping: Ping) -> Result<(), StreamError> {
        let seq_no = ping.seq_no;
        let mut stream = self.dial(to).await?;
        let ping = self.encode(&StreamMessage::Ping(ping), StreamSide::Dialling)?;
        self.write(&mut stream, &ping).await?;
        let mut reserved = self.reserve();
        let reply = self.read(&mut stream, StreamSide::Accepting, &mut reserved);
        match reply.await? {
            StreamMessage::Ack(ack) if ack.seq_no == seq_no => Ok(()),
            _ => Err(StreamError::Unexpected("answer to a ping")),
        }
    }

    async fn send_user(&self, to: SocketAddr, payload: Bytes) -> Result<(), StreamError> {
        let _place = self.outbound.try_acquire().map_err(|_| StreamError::Busy)?;
        let mut stream = self.dial(to).await?;
        let message = self.encode(&StreamMessage::User(payload), StreamSide::Dialling)?;
        self.write(&mut stream, &message).await
    }

    // === Pieces ===

    async fn dial(&self, to: SocketAddr) -> Result<TcpStream, StreamError> {
        let dialled = self
            .within("connecting", sockets::dial(self.config.bind, to))
            .await?;
        self.shared.meters.streams_out.add(1);
        dialled.map_err(StreamError::Connect)
    }

    async fn write(&self, stream: &mut TcpStream, bytes: &[u8]) -> Result<(), StreamError> {
        Ok(self.within("writing", stream.write_all(bytes)).await??)
    }

    /// Reads the one message that `side` sends. [`StreamError::NoAnswer`] if there is none.
    async fn read(
        &self,
        stream: &mut TcpStream,
        side: StreamSide,
        reserved: &mut Reserved,
    ) -> Result<StreamMessage, StreamError> {
        self.within("reading", async {
            let envelope = self.security.envelope();
            let filter = self.config.cluster_filter();
            let mut decoder = StreamDecoder::enveloped(filter, envelope, side);
            let mut buffer = vec![0; READ_BYTES];
            let mut total = 0;
            loop {
                let length = stream.read(&mut buffer).await?;
                if length == 0 {
                    decoder.finish_at_eof()?;
                    return Err(StreamError::NoAnswer);
                }
                total += length;
                reserved.grow_to(total)?;
                if let StreamProgress::Complete(message) = decoder.feed(&buffer[..length])? {
                    return Ok(message);
                }
            }
        })
        .await?
    }

    async fn within<T>(
        &self,
        doing: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, StreamError> {
        let patience = self.config.tcp_timeout;
        tokio::time::timeout(patience, work)
            .await
            .map_err(|_| StreamError::Timeout(patience, doing))
    }

    fn reserve(&self) -> Reserved {
        Reserved {
            budget: self.budget.clone(),
            permit: None,
        }
    }

    fn encode(&self, message: &StreamMessage, side: StreamSide) -> Result<Vec<u8>, SealError> {
        let envelope = self.security.envelope();
        let config = &self.config;
        encode(
            message,
            &config.cluster_name,
            config.compression,
            &envelope,
            side,
        )
    }

    /// Our table and the application's state, ready to be written. Serialising, compressing and
    /// encrypting take long enough to keep them off the threads that answer pings.
    async fn our_side(&self, join: bool, side: StreamSide) -> Result<Vec<u8>, StreamError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::PushPull { join, reply }).await?;
        let mut ours = answer.await.map_err(|_| StreamError::Stopped)?;
        let delegate = self.delegate.clone();
        let (cluster, compress) = (self.config.cluster_name.clone(), self.config.compression);
        let envelope = self.security.envelope();
        let sealed = tokio::task::spawn_blocking(move || {
            ours.user_state = delegate.local_state(join);
            let ours = StreamMessage::PushPull(ours);
            encode(&ours, &cluster, compress, &envelope, side)
        });
        Ok(sealed.await.map_err(|_| StreamError::Stopped)??)
    }

    async fn merge(
        &self,
        mut remote: PushPull,
        join: bool,
        mut reserved: Reserved,
    ) -> Result<(), StreamError> {
        if !remote.user_state.is_empty() {
            reserved.grow_to(remote.user_state.len())?;
            remote.user_state = Bytes::from_owner(HeldState {
                bytes: remote.user_state,
                _reserved: reserved,
            });
        }
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Merge {
            remote,
            join,
            reply,
        })
        .await?;
        Ok(answer.await.map_err(|_| StreamError::Stopped)??)
    }

    async fn tell(&self, command: Command) -> Result<(), StreamError> {
        self.commands
            .send(command)
            .await
            .map_err(|_| StreamError::Stopped)
    }
}

fn encode(
    message: &StreamMessage,
    cluster: &str,
    compress: bool,
    envelope: &Envelope,
    side: StreamSide,
) -> Result<Vec<u8>, SealError> {
    let message = encode_stream(message, cluster, compress);
    envelope.seal_stream(message, side, security::nonce)
}
