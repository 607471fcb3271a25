//! One host of the virtual network: its node, its clock, its processor and its application.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::HostId;
use super::application::Application;
use super::clock::Clock;
use crate::node::{Config, Event, Known, Node, StreamRequest};

/// Datagrams a host with a slow processor handles before its timers get their turn.
pub(super) const HANDLED_BEFORE_TIMERS: usize = 64;

/// One side of a state exchange on its way.
#[derive(Debug, Clone)]
pub(super) enum Side {
    /// The stream as written: whole, cut off, or nothing.
    Written(Bytes),
    /// While measuring: the rows themselves, and the application's state.
    Rows(Vec<Known>, Bytes),
}

impl Side {
    /// What arrives when the connection breaks.
    pub(super) fn half(&self) -> Self {
        match self {
            Self::Written(bytes) => Self::Written(bytes.slice(..bytes.len() / 2)),
            Self::Rows(..) => Self::default(),
        }
    }
}

impl Default for Side {
    fn default() -> Self {
        Self::Written(Bytes::new())
    }
}

/// Something on its way to a host.
#[derive(Debug, Clone)]
pub(super) enum Delivery {
    Datagram {
        from: SocketAddr,
        bytes: Bytes,
    },
    /// The request of a state exchange arrives.
    Request {
        from: HostId,
        life: u64,
        side: Side,
        join: bool,
        /// The connection breaks in the middle of the reply.
        cut_reply: bool,
    },
    /// Its answer comes back, or nothing does.
    Reply {
        from: SocketAddr,
        life: u64,
        side: Side,
        join: bool,
    },
    TcpAck {
        life: u64,
        seq_no: u32,
    },
    User {
        payload: Bytes,
    },
}

/// What a host has sent so far, headers included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes, with 28 of IP and UDP each.
    pub datagram_bytes: u64,
    /// Connections opened.
    pub streams: u64,
    /// Bytes on connections, of either side, with 40 of IP and TCP for each 1,448 and 240 for
    /// opening and closing one. State exchanges count uncompressed.
    pub stream_bytes: u64,
}

impl Traffic {
    /// A datagram with this payload.
    pub(super) fn datagram(&mut self, length: usize) {
        self.datagrams += 1;
        self.datagram_bytes += length as u64 + 28;
    }

    /// One side of a connection with this payload.
    pub(super) fn stream(&mut self, length: usize, opened: bool) {
        self.streams += u64::from(opened);
        let segments = (length as u64).div_ceil(1448);
        self.stream_bytes += length as u64 + 40 * segments + 120;
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            datagrams: self.datagrams + other.datagrams,
            datagram_bytes: self.datagram_bytes + other.datagram_bytes,
            streams: self.streams + other.streams,
            stream_bytes: self.stream_bytes + other.stream_bytes,
        }
    }

    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.datagram_bytes + self.stream_bytes
    }
}

/// What the scenario and the network know of a host.
pub(super) struct Host<A> {
    pub(super) config: Config,
    pub(super) addr: SocketAddr,
    /// `None` while crashed.
    pub(super) node: Option<Node>,
    /// Grows with every start; what was meant for an earlier life does not arrive.
    pub(super) life: u64,
    pub(super) clock: Clock,
    /// When the world looks at this host next.
    pub(super) wakeup: Option<Duration>,
    /// Until then it neither reads nor acts: frozen, or busy with a datagram.
    pub(super) busy_until: Duration,
    /// Frozen until then; what was due meanwhile is late.
    pub(super) frozen_until: Duration,
    /// Until then it acts but does not read.
    pub(super) deaf_until: Duration,
    /// Time one datagram takes.
    pub(super) handling: Duration,
    pub(super) inbox: VecDeque<Delivery>,
    pub(super) inbox_max: usize,
    pub(super) handled_since_timers: usize,
    /// What it hands out in exchanges when no application runs on it.
    pub(super) state: Bytes,
    pub(super) application: Option<A>,
    pub(super) events: Vec<(Duration, Event)>,
    pub(super) traffic: Traffic,
}

impl<A: Application> Host<A> {
    /// Hands an event to the application; what it wants to do on connections.
    pub(super) fn tell(&mut self, now: Duration, event: Event, record: bool) -> Vec<StreamRequest> {
        let of_application = matches!(event, Event::Message(_) | Event::RemoteState { .. });
        if record && !(of_application && self.application.is_some()) {
            self.events.push((now, event.clone()));
        }
        let (Some(application), Some(node)) = (&mut self.application, &mut self.node) else {
            return Vec::new();
        };
        application.handle_event(self.clock.at(now), event, node)
    }

    /// The earliest deadline of node and application, on this host's clock.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let node = self.node.as_ref()?.poll_timeout();
        let application = self.application.as_ref().and_then(A::poll_timeout);
        [node, application].into_iter().flatten().min()
    }
}
