//! One host of the virtual network: its node, its clock, its processor and its application.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::HostId;
use super::catalogue::Catalogue;
use super::clock::Clock;
use crate::node::{Config, Event, Known, Node};

/// Datagrams a host with a slow processor handles before its timers get their turn.
pub(super) const HANDLED_BEFORE_TIMERS: usize = 64;

/// One side of a state exchange on its way.
#[derive(Debug, Clone)]
pub(super) enum Side {
    /// The stream as written: whole, cut off, or nothing.
    Written(Bytes),
    /// While measuring: the rows themselves.
    Rows(Vec<Known>),
}

impl Side {
    /// What arrives when the connection breaks.
    pub(super) fn half(&self) -> Self {
        match self {
            Self::Written(bytes) => Self::Written(bytes.slice(..bytes.len() / 2)),
            Self::Rows(_) => Self::default(),
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

/// What the scenario and the network know of a host.
pub(super) struct Host {
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
    /// What it hands out in exchanges when no catalogue runs on it.
    pub(super) state: Bytes,
    pub(super) catalogue: Option<Catalogue>,
    pub(super) events: Vec<(Duration, Event)>,
}

impl Host {
    /// The application state for an exchange.
    pub(super) fn user_state(&self) -> Bytes {
        self.catalogue
            .as_ref()
            .map_or_else(|| self.state.clone(), Catalogue::state)
    }

    /// Hands an event to the application, which passes on what is news to it.
    pub(super) fn tell(&mut self, now: Duration, event: Event, record: bool) {
        let Some(catalogue) = &mut self.catalogue else {
            if record {
                self.events.push((now, event));
            }
            return;
        };
        let news: Vec<(String, Bytes)> = match &event {
            Event::Message(bytes) => catalogue
                .merge(bytes)
                .map(|key| (key, bytes.clone()))
                .into_iter()
                .collect(),
            Event::RemoteState { state, .. } => catalogue.merge_state(state),
            _ => Vec::new(),
        };
        if let Some(node) = &mut self.node {
            for (key, record) in news {
                node.broadcast(Some(key), record);
            }
        }
        if record && !matches!(event, Event::Message(_) | Event::RemoteState { .. }) {
            self.events.push((now, event));
        }
    }
}
