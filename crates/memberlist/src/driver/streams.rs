//! Connections: state exchanges, pings by stream and long user messages. One task per connection,
//! one request per connection. Counts, bytes and times are bounded here; what the bytes mean is
//! decided by `wire` and the node.
//!
//! | module | what it is |
//! | --- | --- |
//! | `admission` | who gets in |
//! | `inbound`, `outbound` | connections of others, connections of ours |
//! | `reading` | one message off a connection |
//! | `budget` | the memory they may take together |
//! | `error` | what may go wrong |

mod admission;
mod budget;
mod error;
mod inbound;
mod outbound;
mod reading;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};

use self::admission::INBOUND_MAX;
use self::budget::{HELD_KIB, Reserved, held};
use self::reading::Decoding;
use super::core::Command;
use super::meters::Shared;
use super::security::{self, Security};
use super::{Config, Delegate};
use crate::wire::message::{PushPull, StreamMessage};
use crate::wire::{Envelope, SealError, StreamSide, encode_stream};

pub(super) use self::admission::accept;
use self::error::StreamError;

/// State exchanges others may have under way with us.
const INBOUND_EXCHANGES_MAX: usize = 32;
/// Connections we may have open to others.
const OUTBOUND_MAX: usize = 64;

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
    decoding: Decoding,
    budget: Arc<Semaphore>,
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

/// Whose turn it is in a state exchange.
enum Turn {
    /// We begin; both tables are shown if it is `full`.
    Opening {
        to: SocketAddr,
        join: bool,
        full: bool,
    },
    /// They began, with this application state; without their table if it is `brief`.
    Reply {
        theirs: Bytes,
        join: bool,
        brief: bool,
    },
}

impl Turn {
    /// Whether our table may be left out.
    fn may_be_brief(&self) -> bool {
        match self {
            Self::Opening { join, full, .. } => !join && !full,
            Self::Reply { join, brief, .. } => !join && *brief,
        }
    }

    /// Whom we turn to, if we do not know yet whether it is a member, and which side we are.
    fn side(&self) -> (Option<SocketAddr>, StreamSide) {
        match self {
            Self::Opening { to, .. } => (Some(*to), StreamSide::Dialling),
            Self::Reply { .. } => (None, StreamSide::Accepting),
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
            decoding: Decoding::new(),
            budget: Arc::new(Semaphore::new(HELD_KIB)),
            addresses: Mutex::default(),
        }
    }

    fn note(&self, peer: SocketAddr, error: &StreamError) {
        if !matches!(error, StreamError::Stopped) {
            self.shared.meters.streams_failed.add(1);
            self.shared.malformed.note(error.kind(), peer, error);
        }
    }

    async fn write(&self, stream: &mut TcpStream, bytes: &[u8]) -> Result<(), StreamError> {
        self.within("writing", stream.write_all(bytes)).await??;
        self.shared.meters.stream_bytes_out.add(bytes.len() as u64);
        Ok(())
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
    async fn our_side(&self, turn: Turn) -> Result<Vec<u8>, StreamError> {
        if turn.may_be_brief()
            && let Some(brief) = self.our_brief_side(&turn).await?
        {
            return Ok(brief);
        }
        let (peer, side) = turn.side();
        let (Turn::Opening { join, .. } | Turn::Reply { join, .. }) = turn;
        let (reply, answer) = oneshot::channel();
        self.tell(Command::PushPull { join, peer, reply }).await?;
        let (mut ours, peer) = answer.await.map_err(|_| StreamError::Stopped)?;
        let delegate = self.delegate.clone();
        let (cluster, compress) = (self.config.cluster_name.clone(), self.config.compression);
        let envelope = self.security.envelope();
        let sealed = tokio::task::spawn_blocking(move || {
            ours.user_state = match turn {
                Turn::Opening { .. } => delegate.opening(peer.as_ref(), join),
                Turn::Reply { theirs, .. } => delegate.reply(&theirs, join),
            };
            let ours = StreamMessage::PushPull(ours);
            encode(&ours, &cluster, compress, &envelope, side)
        });
        Ok(sealed.await.map_err(|_| StreamError::Stopped)??)
    }

    /// The same without our table, if the application knows that the other side does without.
    async fn our_brief_side(&self, turn: &Turn) -> Result<Option<Vec<u8>>, StreamError> {
        let (peer, side) = turn.side();
        let (reply, answer) = oneshot::channel();
        self.tell(Command::TableDigest { peer, reply }).await?;
        let (members, peer) = answer.await.map_err(|_| StreamError::Stopped)?;
        let theirs = match turn {
            Turn::Opening { .. } => None,
            Turn::Reply { theirs, .. } => Some(theirs.clone()),
        };
        let delegate = self.delegate.clone();
        let (cluster, compress) = (self.config.cluster_name.clone(), self.config.compression);
        let envelope = self.security.envelope();
        let sealed = tokio::task::spawn_blocking(move || {
            let said = match (theirs, peer) {
                (Some(theirs), _) => delegate.brief_reply(&theirs, members),
                (None, Some(peer)) => delegate.brief_opening(&peer, members),
                (None, None) => None,
            };
            said.map(|user_state| {
                let ours = StreamMessage::PushPull(PushPull {
                    join: false,
                    nodes: Vec::new(),
                    user_state,
                });
                encode(&ours, &cluster, compress, &envelope, side)
            })
            .transpose()
        });
        Ok(sealed.await.map_err(|_| StreamError::Stopped)??)
    }

    async fn merge(
        &self,
        mut remote: PushPull,
        join: bool,
        mut reserved: Reserved,
    ) -> Result<(), StreamError> {
        // The table is gone once it is merged, the state when the application drops it.
        let for_table = reserved.split_off(remote.user_state.len());
        if !remote.user_state.is_empty() {
            remote.user_state = held(remote.user_state, reserved);
        }
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Merge {
            remote,
            join,
            reply,
        })
        .await?;
        let merged = answer.await.map_err(|_| StreamError::Stopped)?;
        drop(for_table);
        Ok(merged?)
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
