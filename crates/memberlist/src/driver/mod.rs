//! The tokio shell around [`node`](crate::node): one UDP socket for sending and receiving, one TCP
//! listener on the same port, timers, and the application's side of it all.
//!
//! | task | what it does |
//! | --- | --- |
//! | core (one) | owns the node and the UDP socket; never waits for the application or a stream |
//! | accept (one) | hands connections out, within the bounds of `streams` |
//! | stream (many) | one connection: reads, encodes, writes; asks the core for the rest |
//!
//! Label and encryption are put on and taken off here, around whatever the node reads and writes.
//!
//! Events go through a bounded channel. When the application is slow, messages of peers are
//! dropped and counted (gossip and state exchanges bring the content again), but changes of
//! membership are kept: at most three per member, later ones merged into earlier ones.

mod core;
mod malformed;
mod meters;
mod pending;
mod security;
mod sockets;
mod streams;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::core::{Command, Core};
use self::meters::Shared;
use self::security::Security;
use self::streams::Streams;
use crate::node::{ConfigError, Node, Priority, StreamRequest};
use crate::wire::{Key, Keyring, KeyringError};

pub use self::meters::Stats;
pub use crate::node::{Config, Event, Member};

/// Requests of the application and of streams waiting for the core.
const COMMANDS_MAX: usize = 4096;

/// What the application contributes to state exchanges. All methods are called on blocking threads,
/// possibly several at once.
pub trait Delegate: Send + Sync + 'static {
    /// Our whole application state for a state exchange; empty for none. `join` tells whether the
    /// exchange is an explicit join.
    fn local_state(&self, join: bool) -> Bytes;

    /// What to say to a member we turn to, when less than everything will do. `peer` is what we
    /// know of it, who may be thought to be dead; nothing before we have met. The default says
    /// everything.
    fn opening(&self, peer: Option<&Member>, join: bool) -> Bytes {
        let _ = peer;
        self.local_state(join)
    }

    /// What to reply to `theirs`, the state a member has sent. It is merged only afterwards. The
    /// default says everything.
    fn reply(&self, theirs: &Bytes, join: bool) -> Bytes {
        let _ = theirs;
        self.local_state(join)
    }

    /// What to say first to `peer` when neither side shows its table of members; none when the peer
    /// would not understand that. `members` is the digest of our table, which must be part of what
    /// is said: the application finds out whether the tables agree, and calls
    /// [`Handle::exchange_tables`] when they do not. The default is to show tables.
    fn brief_opening(&self, peer: &Member, members: u64) -> Option<Bytes> {
        let _ = (peer, members);
        None
    }

    /// What to reply to `theirs`, the state of a member that has not shown its table; none to show
    /// ours all the same. `members` is the digest of our table. The default is to show it.
    fn brief_reply(&self, theirs: &Bytes, members: u64) -> Option<Bytes> {
        let _ = (theirs, members);
        None
    }
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is out of range.
    #[error("memberlist settings: {0}")]
    Config(#[from] ConfigError),
    /// The listener for streams could not be opened, most often because the port is taken.
    #[error("cannot listen on tcp {addr}: {source}")]
    Tcp {
        /// Address asked for.
        addr: SocketAddr,
        /// Cause.
        source: io::Error,
    },
    /// The socket for datagrams could not be opened, most often because the port is taken.
    #[error("cannot bind udp {addr}: {source}")]
    Udp {
        /// Address asked for.
        addr: SocketAddr,
        /// Cause.
        source: io::Error,
    },
}

/// What came of an attempt to join.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JoinOutcome {
    /// Seeds with which states were exchanged.
    pub contacted: usize,
    /// The others, and why.
    pub errors: Vec<(SocketAddr, String)>,
}

/// A running member. Cheap to clone; when the last clone is dropped everything stops, without a
/// goodbye.
#[derive(Debug, Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    commands: mpsc::Sender<Command>,
    members: watch::Receiver<Arc<Vec<Member>>>,
    shared: Arc<Shared>,
    streams: Arc<Streams>,
    security: Arc<Security>,
    local_addr: SocketAddr,
    cancel: CancellationToken,
    tasks: TaskTracker,
    _stop: DropGuard,
}

/// Binds `config.bind` and starts. Must be called inside a tokio runtime. The member is alone
/// until [`Handle::join`] or until someone joins it.
///
/// # Errors
/// A setting out of range, or an address that cannot be bound; nothing is left running.
pub async fn start(
    mut config: Config,
    delegate: Arc<dyn Delegate>,
) -> Result<(Handle, mpsc::Receiver<Event>), StartError> {
    let (udp, tcp) = sockets::bind(config.bind)?;
    let local_addr = tcp.local_addr().map_err(|source| StartError::Tcp {
        addr: config.bind,
        source,
    })?;
    config.bind = local_addr;
    let node = Node::new(config.clone(), Instant::now())?;
    let security = Arc::new(Security::new(config.envelope()));
    // From here on keys live in one place only, where they can be removed.
    config.keyring = None;

    let (commands, commands_in) = mpsc::channel(COMMANDS_MAX);
    let (events, events_out) = mpsc::channel(config.handoff_queue_depth);
    let (members, members_out) = watch::channel(Arc::new(node.members()));
    let shared = Arc::new(Shared::default());
    let cancel = CancellationToken::new();
    let tasks = TaskTracker::new();
    let streams = Arc::new(Streams::new(
        config,
        delegate,
        commands.clone(),
        shared.clone(),
        security.clone(),
    ));

    let core = Core::new(
        node,
        udp,
        events,
        members,
        shared.clone(),
        streams.clone(),
        tasks.clone(),
    );
    let stop = cancel.clone();
    tasks.spawn(async move { core.run(commands_in, stop).await });
    tasks.spawn(streams::accept(
        streams.clone(),
        tcp,
        tasks.clone(),
        cancel.clone(),
    ));

    let handle = Handle {
        inner: Arc::new(Inner {
            commands,
            members: members_out,
            shared,
            streams,
            security,
            local_addr,
            _stop: cancel.clone().drop_guard(),
            cancel,
            tasks,
        }),
    };
    Ok((handle, events_out))
}

impl Handle {
    /// Spreads a message to all members, see [`Node::broadcast`]. Never waits: when far too many
    /// are under way already the message is dropped and counted.
    pub fn broadcast(&self, key: Option<String>, payload: Bytes) {
        self.broadcast_with(key, payload, Priority::default());
    }

    /// The same, for one of several sources, and perhaps urgent, see [`Node::broadcast_with`].
    pub fn broadcast_with(&self, key: Option<String>, payload: Bytes, priority: Priority) {
        let command = Command::Broadcast {
            key,
            payload,
            priority,
        };
        if self.inner.commands.try_send(command).is_err() {
            self.inner.shared.meters.broadcasts_dropped.add(1);
        }
    }

    /// Exchanges states with every seed, all at the same time, and remembers them: should the
    /// cluster be lost, or the seeds be down now, they are tried again from time to time.
    pub async fn join(&self, seeds: &[SocketAddr]) -> JoinOutcome {
        let seeds_known = Command::Seeds(seeds.to_vec());
        // The core is gone only after a shutdown; the exchanges below will say so.
        let _ = self.inner.commands.send(seeds_known).await;
        let exchanges: Vec<_> = seeds
            .iter()
            .map(|&seed| {
                let (streams, cancel) = (self.inner.streams.clone(), self.inner.cancel.clone());
                let exchange = async move { streams.exchange(seed, true, true).await };
                let task = self
                    .inner
                    .tasks
                    .spawn(cancel.run_until_cancelled_owned(exchange));
                (seed, task)
            })
            .collect();
        let mut outcome = JoinOutcome::default();
        for (seed, task) in exchanges {
            match task.await {
                Ok(Some(Ok(()))) => outcome.contacted += 1,
                Ok(Some(Err(error))) => outcome.errors.push((seed, error.to_string())),
                Ok(None) | Err(_) => outcome.errors.push((seed, "shut down".to_owned())),
            }
        }
        outcome
    }

    /// Exchanges states with a member in the background, besides the periodic exchanges with members
    /// of the node's choice.
    pub fn exchange(&self, with: SocketAddr) {
        self.in_background(vec![StreamRequest::PushPull {
            to: with,
            join: false,
            full: false,
        }]);
    }

    /// The same, showing each other the tables of members whatever the delegate says.
    pub fn exchange_tables(&self, with: SocketAddr) {
        self.in_background(vec![StreamRequest::PushPull {
            to: with,
            join: false,
            full: true,
        }]);
    }

    /// The same with a random member.
    pub fn exchange_with_any(&self) {
        // Dropped only when far too much is under way anyway.
        let _ = self.inner.commands.try_send(Command::ExchangeWithAny);
    }

    /// Sends messages to one member, by stream, one after the other in the background. What cannot be
    /// delivered is dropped and counted.
    pub fn send(&self, to: SocketAddr, payloads: Vec<Bytes>) {
        let messages = payloads.into_iter();
        let messages = messages.map(|payload| StreamRequest::User { to, payload });
        self.in_background(messages.collect());
    }

    /// Carries requests out one after the other, until everything stops.
    fn in_background(&self, requests: Vec<StreamRequest>) {
        let (streams, cancel) = (self.inner.streams.clone(), self.inner.cancel.clone());
        let work = async move {
            for request in requests {
                streams.carry_out(request).await;
            }
        };
        self.inner
            .tasks
            .spawn(cancel.run_until_cancelled_owned(work));
    }

    /// What we believe of a member that is alive or suspect.
    pub fn member(&self, name: &str) -> Option<Member> {
        let members = self.inner.members.borrow();
        let at = members.binary_search_by(|member| member.name.as_str().cmp(name));
        Some(members[at.ok()?].clone())
    }

    /// Everyone alive or suspect, ourselves included, ordered by name. A snapshot.
    pub fn members(&self) -> Vec<Member> {
        self.inner.members.borrow().to_vec()
    }

    /// The same as it changes.
    pub fn members_changed(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.inner.members.clone()
    }

    /// Counters and gauges, since the start.
    pub fn stats(&self) -> Stats {
        self.inner.shared.stats()
    }

    /// Installs a gossip key: what was encrypted with it is accepted from now on. To change the key
    /// of a cluster install the new one everywhere, then use it everywhere, then remove the old.
    ///
    /// # Errors
    /// The keyring is full, or the member was started without one.
    pub fn install_key(&self, key: Key) -> Result<(), KeyringError> {
        self.inner.security.change(|keyring| keyring.add(key))
    }

    /// Encrypts with an installed key from now on.
    ///
    /// # Errors
    /// The key is not installed, or the member was started without a keyring.
    pub fn use_key(&self, key: &Key) -> Result<(), KeyringError> {
        self.inner
            .security
            .change(|keyring| keyring.make_primary(key))
    }

    /// Removes a key: what was encrypted with it is refused from now on.
    ///
    /// # Errors
    /// The key is the one in use, or the member was started without a keyring.
    pub fn remove_key(&self, key: &Key) -> Result<(), KeyringError> {
        self.inner.security.change(|keyring| keyring.remove(key))
    }

    /// Installs, uses and removes keys all at once, so that these are the keys.
    ///
    /// # Errors
    /// The member was started without a keyring.
    pub fn replace_keyring(&self, new: Keyring) -> Result<(), KeyringError> {
        self.inner.security.change(|keyring| {
            *keyring = new;
            Ok(())
        })
    }

    /// The gossip keys, the one in use first; none when gossip is not encrypted.
    pub fn keys(&self) -> Vec<Key> {
        self.inner.security.keys()
    }

    /// Says goodbye, so that peers see us leave instead of suspecting us, and waits until the
    /// word is out or `timeout` has passed. Call [`Handle::shutdown`] afterwards.
    pub async fn leave(&self, timeout: Duration) {
        let (done, told) = oneshot::channel();
        if self
            .inner
            .commands
            .send(Command::Leave { done })
            .await
            .is_ok()
        {
            // Both an elapsed timeout and a core that is gone end the wait.
            let _ = tokio::time::timeout(timeout, told).await;
        }
    }

    /// Stops everything and closes the sockets. Returns when the port is free again.
    pub async fn shutdown(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Where the sockets are bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }
}
