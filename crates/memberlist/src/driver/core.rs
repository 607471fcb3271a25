//! The core task: the only owner of the node and of the UDP socket. It waits for input or the
//! next deadline, hands everything in that is there, and carries out what comes out. It never
//! waits for the application, a stream or a peer.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::malformed;
use super::meters::Shared;
use super::pending::Pending;
use super::security::{self, Security};
use super::streams::Streams;
use crate::node::{Event, Member, MergeError, Node, Priority, StreamRequest, Transmit};
use crate::wire::message::PushPull;

/// Largest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// Datagrams read before anything else gets its turn: some milliseconds of work.
const DATAGRAMS_PER_TURN: usize = 256;

/// Datagrams read before timers fire late: more than a full socket buffer holds.
const DATAGRAMS_BEFORE_TIMERS: usize = 8192;

/// Commands taken per turn.
const COMMANDS_PER_TURN: usize = 1024;

/// How long a full send buffer is waited for before the datagram is given up.
const SEND_PATIENCE: Duration = Duration::from_millis(10);

/// What handles and streams ask of the core.
#[derive(Debug)]
pub(super) enum Command {
    Broadcast {
        key: Option<String>,
        payload: Bytes,
        priority: Priority,
    },
    Seeds(Vec<SocketAddr>),
    ExchangeWithAny,
    /// The digest of our table, and who is at this address.
    TableDigest {
        peer: Option<SocketAddr>,
        reply: oneshot::Sender<(u64, Option<Member>)>,
    },
    /// Our side of a state exchange, without the application's state, and who is at this address.
    PushPull {
        join: bool,
        peer: Option<SocketAddr>,
        reply: oneshot::Sender<(PushPull, Option<Member>)>,
    },
    Merge {
        remote: PushPull,
        join: bool,
        reply: oneshot::Sender<Result<(), MergeError>>,
    },
    ExchangeResult {
        to: SocketAddr,
        merged: bool,
    },
    TcpAck {
        seq_no: u32,
    },
    /// A user message that came by stream.
    Message(Bytes),
    Leave {
        done: oneshot::Sender<()>,
    },
}

pub(super) struct Core {
    node: Node,
    security: Arc<Security>,
    udp: UdpSocket,
    events: mpsc::Sender<Event>,
    pending: Pending,
    members: watch::Sender<Arc<Vec<Member>>>,
    members_version: u64,
    leaving: Vec<oneshot::Sender<()>>,
    shared: Arc<Shared>,
    streams: Arc<Streams>,
    tasks: TaskTracker,
    buffer: Box<[u8]>,
}

impl Core {
    pub(super) fn new(
        node: Node,
        udp: UdpSocket,
        events: mpsc::Sender<Event>,
        members: watch::Sender<Arc<Vec<Member>>>,
        shared: Arc<Shared>,
        streams: Arc<Streams>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            members_version: node.members_version(),
            node,
            security: streams.security.clone(),
            udp,
            events,
            pending: Pending::default(),
            members,
            leaving: Vec::new(),
            shared,
            streams,
            tasks,
            buffer: vec![0; DATAGRAM_BYTES_MAX].into_boxed_slice(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        cancel: CancellationToken,
    ) {
        let events = self.events.clone();
        let mut gossiped: Option<Instant> = None;
        loop {
            self.settle(&cancel).await;
            if let Some(since) = gossiped.take() {
                self.shared.meters.gossip_micros.add_micros(since.elapsed());
            }
            let deadline = self.node.poll_timeout();
            let wakeup = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                // An error shows again when reading; there is nothing to do about it here.
                _ = self.udp.readable() => self.read_datagrams(DATAGRAMS_PER_TURN),
                Some(command) = commands.recv() => self.handle_command(command),
                Ok(permit) = events.reserve(), if !self.pending.is_empty() => {
                    if let Some(event) = self.pending.pop() {
                        permit.send(event);
                    }
                }
                () = tokio::time::sleep_until(wakeup.into()) => {}
            }
            // Each gets its turn, however fast datagrams come in.
            self.take_commands(&mut commands);
            self.hand_over_pending();
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                // What has arrived is read before anybody is judged by it not having arrived.
                self.read_datagrams(DATAGRAMS_BEFORE_TIMERS);
                self.take_commands(&mut commands);
                let (rounds, now) = (self.node.counters().gossip_rounds, Instant::now());
                self.node.handle_timeout(now);
                gossiped = (self.node.counters().gossip_rounds != rounds).then_some(now);
            }
        }
    }

    fn read_datagrams(&mut self, count: usize) {
        let envelope = self.security.envelope();
        for _ in 0..count {
            match self.udp.try_recv_from(&mut self.buffer) {
                Ok((length, from)) => {
                    self.shared.meters.packets_in.add(1);
                    self.shared.meters.bytes_in.add(length as u64);
                    if !self.node.config().lets_in(from.ip()) {
                        self.shared.meters.packets_not_allowed.add(1);
                        continue;
                    }
                    let errors = match envelope.open_packet(&self.buffer[..length]) {
                        Ok(datagram) => self.node.handle_datagram(Instant::now(), from, &datagram),
                        Err(error) => vec![error],
                    };
                    for error in errors {
                        let kind = malformed::kind(&error);
                        self.shared.malformed.note(kind, from, &error);
                    }
                    // Here and not later: messages must not pile up where nothing bounds them.
                    self.hand_over_events();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The system reports an earlier datagram that did not arrive. Not about this one.
                Err(error) => tracing::debug!(%error, "receiving a datagram"),
            }
        }
    }

    fn take_commands(&mut self, commands: &mut mpsc::Receiver<Command>) {
        for _ in 0..COMMANDS_PER_TURN {
            match commands.try_recv() {
                Ok(command) => self.handle_command(command),
                Err(_) => return,
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        let now = Instant::now();
        self.node.note_time(now);
        match command {
            Command::Broadcast {
                key,
                payload,
                priority,
            } => self.node.broadcast_with(key, payload, &priority),
            Command::Seeds(seeds) => self.node.add_seeds(now, &seeds),
            Command::ExchangeWithAny => self.node.exchange_with_any(),
            // Who asked may have given up meanwhile; then nobody reads the answer.
            Command::TableDigest { peer, reply } => {
                let peer = peer.and_then(|addr| self.node.member_at(addr));
                drop(reply.send((self.node.table_digest(), peer)));
            }
            Command::PushPull { join, peer, reply } => {
                let peer = peer.and_then(|addr| self.node.known_at(addr));
                drop(reply.send((self.node.push_pull(join), peer)));
            }
            Command::Merge {
                remote,
                join,
                reply,
            } => {
                let merged = self.node.merge(now, remote, join);
                // Who waits for the answer finds what it brought in the queue of events.
                self.hand_over_events();
                drop(reply.send(merged));
            }
            Command::ExchangeResult { to, merged } => self.node.handle_exchange_result(to, merged),
            Command::TcpAck { seq_no } => self.node.handle_tcp_ack(seq_no),
            Command::Message(payload) => self.hand_over(Event::Message(payload)),
            Command::Leave { done } => {
                self.node.leave(now);
                self.leaving.push(done);
            }
        }
    }

    /// Carries out all the node wants done, and shows where it stands.
    async fn settle(&mut self, cancel: &CancellationToken) {
        loop {
            if let Some(transmit) = self.node.poll_transmit() {
                self.send(transmit).await;
            } else if let Some(request) = self.node.poll_stream_request() {
                self.open_stream(request, cancel);
            } else if let Some(event) = self.node.poll_event() {
                self.hand_over(event);
            } else {
                break;
            }
        }
        let version = self.node.members_version();
        if version != self.members_version {
            self.members_version = version;
            self.members.send_replace(Arc::new(self.node.members()));
        }
        if !self.leaving.is_empty() && !self.node.leave_pending() {
            for done in self.leaving.drain(..) {
                // Whoever waited may have run out of patience.
                let _ = done.send(());
            }
        }
        let members = self.members.borrow().len();
        self.shared.show(&self.node, members);
    }

    async fn send(&mut self, transmit: Transmit) {
        let envelope = self.security.envelope();
        let datagram = match envelope.seal_packet(&transmit.bytes, security::nonce) {
            Ok(datagram) => datagram,
            Err(error) => return self.not_sent(transmit.to, &error),
        };
        let mut sent = self.udp.try_send_to(&datagram, transmit.to);
        if would_block(&sent) {
            let writable = self.udp.writable();
            // After an elapsed timeout the second attempt fails like the first.
            let _ = tokio::time::timeout(SEND_PATIENCE, writable).await;
            sent = self.udp.try_send_to(&datagram, transmit.to);
        }
        match sent {
            Ok(length) => {
                self.shared.meters.packets_out.add(1);
                self.shared.meters.bytes_out.add(length as u64);
            }
            Err(error) => self.not_sent(transmit.to, &error),
        }
    }

    fn not_sent(&mut self, to: SocketAddr, error: &dyn Display) {
        tracing::debug!(%to, %error, "sending a datagram");
        self.shared.meters.packets_unsent.add(1);
        self.node.handle_send_error(Instant::now(), to);
    }

    fn open_stream(&self, request: StreamRequest, cancel: &CancellationToken) {
        let streams = self.streams.clone();
        let carry_out = async move { streams.carry_out(request).await };
        self.tasks
            .spawn(cancel.clone().run_until_cancelled_owned(carry_out));
    }

    fn hand_over_pending(&mut self) {
        while !self.pending.is_empty()
            && let Ok(permit) = self.events.try_reserve()
            && let Some(event) = self.pending.pop()
        {
            permit.send(event);
        }
    }

    /// Gives what the node has to tell to the application.
    fn hand_over_events(&mut self) {
        while let Some(event) = self.node.poll_event() {
            self.hand_over(event);
        }
    }

    /// Gives the event to the application, or makes do without it. Membership waits.
    fn hand_over(&mut self, event: Event) {
        let droppable = match &event {
            Event::Message(_) => Some(&self.shared.meters.messages_dropped),
            Event::RemoteState { .. } => Some(&self.shared.meters.states_dropped),
            Event::Joined(_) | Event::Updated(_) | Event::Left(_) | Event::Conflict { .. } => None,
        };
        if droppable.is_none() && !self.pending.is_empty() {
            self.pending.push(event);
            return;
        }
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            match droppable {
                Some(meter) => meter.add(1),
                None => self.pending.push(event),
            }
        }
    }
}

fn would_block(result: &io::Result<usize>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
