//! Streams of the virtual network: the bytes of a message arrive whole, cut off or not at all.
//! A state exchange keeps its order: the responder answers before it merges. Buffers, segments
//! and deadlines of real connections are the driver's and are tested there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::RngExt;

use super::HostId;
use super::application::Application;
use super::brief::Tables;
use super::checker::Step;
use super::host::{Delivery, Host, Side};
use super::network::Network;
use crate::node::{Event, Known, MergeError, Node, StreamRequest};
use crate::wire::message::{PushPull, StreamMessage};
use crate::wire::{ClusterFilter, StreamDecoder, StreamProgress, encode_stream};

impl<A: Application> Network<A> {
    pub(super) fn open_stream(&mut self, id: HostId, request: StreamRequest) {
        match request {
            StreamRequest::PushPull { to, join, full } => self.exchange(id, to, join, full),
            StreamRequest::Ping { to, ping, deadline } => {
                self.hosts[id].traffic.stream(ping.node.len() + 64, true);
                let round_trip = self.stream_delay() + self.faults.delay(&mut self.rng);
                let host = &self.hosts[id];
                let in_time = host.clock.at(self.now + round_trip) < deadline;
                let life = host.life;
                let answering = self.answering(id, to).filter(|peer| {
                    // Frozen hosts accept connections and say nothing.
                    let peer = &self.hosts[*peer];
                    peer.frozen_until <= self.now + round_trip && peer.config.name == ping.node
                });
                if answering.is_some() && in_time {
                    let seq_no = ping.seq_no;
                    self.enqueue(round_trip, id, Delivery::TcpAck { life, seq_no });
                }
            }
            StreamRequest::User { to, payload } => {
                self.hosts[id].traffic.stream(payload.len(), true);
                if let Some(peer) = self.answering(id, to) {
                    let delay = self.stream_delay();
                    self.enqueue(delay, peer, Delivery::User { payload });
                }
            }
        }
    }

    pub(super) fn exchange(&mut self, id: HostId, to: SocketAddr, join: bool, full: bool) {
        let turn = Turn::Opening { to, full };
        let Some(side) = self.our_side(id, turn, join) else {
            return;
        };
        let life = self.hosts[id].life;
        let patience = self.hosts[id].config.tcp_timeout;
        let Some(peer) = self.answering(id, to) else {
            let nothing = Delivery::Reply {
                from: to,
                life,
                side: Side::default(),
                join,
            };
            return self.enqueue(patience, id, nothing);
        };
        let cut = self.rng.random_bool(self.faults.stream_cut);
        let cut_request = cut && self.rng.random_bool(0.5);
        self.tally.streams_harmed += u64::from(cut);
        let side = if cut_request { side.half() } else { side };
        let delay = self.stream_delay();
        let request = Delivery::Request {
            from: id,
            life,
            side,
            join,
            cut_reply: cut && !cut_request,
        };
        self.enqueue(delay, peer, request);
    }

    /// What a host writes in a state exchange.
    fn our_side(&mut self, id: HostId, turn: Turn<'_>, join: bool) -> Option<Side> {
        self.hosts[id].node.as_ref()?;
        let opened = matches!(turn, Turn::Opening { .. });
        let now = self.hosts[id].clock.at(self.now);
        let brief = if join {
            None
        } else {
            self.our_brief_state(id, turn)
        };
        let host = &mut self.hosts[id];
        let node = host.node.as_ref()?;
        let is_brief = brief.is_some();
        self.tally.brief_sides += u64::from(is_brief);
        let user_state = brief.unwrap_or_else(|| host.whole_state(now, turn, join));
        if self.measuring {
            let rows = if is_brief { Vec::new() } else { node.known() };
            let length = rows.iter().map(Known::bytes).sum::<usize>() + user_state.len();
            host.traffic.stream(length, opened);
            return Some(Side::Rows(rows, user_state));
        }
        let table = if is_brief {
            PushPull {
                join,
                nodes: Vec::new(),
                user_state,
            }
        } else {
            let mut table = node.push_pull(join);
            table.user_state = user_state;
            table
        };
        let message = StreamMessage::PushPull(table);
        let config = &host.config;
        let bytes = encode_stream(&message, &config.cluster_name, config.compression);
        host.traffic.stream(bytes.len(), opened);
        Some(Side::Written(bytes.into()))
    }

    /// What a host writes instead of its table and everything else.
    fn our_brief_state(&mut self, id: HostId, turn: Turn<'_>) -> Option<Bytes> {
        let host = &mut self.hosts[id];
        let now = host.clock.at(self.now);
        let node = host.node.as_mut()?;
        let application = host.application.as_ref();
        match turn {
            Turn::Opening { full: true, .. } | Turn::Reply { brief: false, .. } => None,
            Turn::Opening { to, .. } => {
                let peer = node.member_at(to)?;
                let members = node.table_digest();
                application
                    .and_then(|it| it.brief_opening(now, &peer, members))
                    .or_else(|| {
                        let tables = self.brief.then_some(Tables::Digest(members))?;
                        Some(tables.before(&host.whole_state(now, turn, false)))
                    })
            }
            Turn::Reply { theirs, .. } => {
                let members = node.table_digest();
                application
                    .and_then(|it| it.brief_reply(now, theirs, members))
                    .or_else(|| {
                        let (Tables::Digest(digest), state) = Tables::read(theirs)? else {
                            return None;
                        };
                        let tables = if digest == members {
                            Tables::Same
                        } else {
                            Tables::Differ
                        };
                        let turn = Turn::Reply {
                            theirs: &state,
                            brief: true,
                        };
                        Some(tables.before(&host.whole_state(now, turn, false)))
                    })
            }
        }
    }

    pub(super) fn deliver_stream(&mut self, id: HostId, delivery: Delivery) {
        let filter = self.hosts[id].config.cluster_filter();
        match delivery {
            Delivery::Request {
                from,
                life,
                side,
                join,
                cut_reply,
            } => {
                let Some(mut request) = whole(side, join, filter) else {
                    // Closed without a word; the requester sees that at once.
                    return self.reply(id, from, life, Side::default(), join);
                };
                let join = request.join();
                let turn = Turn::Reply {
                    theirs: request.user_state(),
                    brief: request.is_brief(),
                };
                let reply = self.our_side(id, turn, join).unwrap_or_default();
                request.strip();
                // A refused merge is invisible to the other side, as on a real connection.
                self.act(id, Step::Exchange, |node, now| {
                    let _ = request.merge(node, now, join);
                });
                let reply = if cut_reply { reply.half() } else { reply };
                self.reply(id, from, life, reply, join);
            }
            Delivery::Reply {
                from,
                life,
                side,
                join,
            } if life == self.hosts[id].life => {
                let mut reply = whole(side, join, filter);
                let tables = reply.as_mut().and_then(Read::strip);
                let merged = self.act(id, Step::Exchange, |node, now| {
                    let merged = reply.is_some_and(|reply| reply.merge(node, now, join).is_ok());
                    node.handle_exchange_result(from, merged);
                    merged
                });
                self.tally.exchanges += u64::from(merged == Some(true));
                if tables == Some(Tables::Differ) {
                    self.tally.tables_exchanged += 1;
                    self.exchange(id, from, join, true);
                }
            }
            Delivery::TcpAck { life, seq_no } if life == self.hosts[id].life => {
                self.act(id, Step::Exchange, |node, _| node.handle_tcp_ack(seq_no));
            }
            Delivery::User { payload } => {
                let event = Event::Message(payload);
                let wanted = self.hosts[id].tell(self.now, event, self.record_events);
                for request in wanted {
                    self.open_stream(id, request);
                }
                self.act(id, Step::Exchange, |_, _| ());
            }
            // Datagrams do not come here, and an earlier life hears nothing any more.
            Delivery::Datagram { .. } | Delivery::Reply { .. } | Delivery::TcpAck { .. } => {}
        }
    }

    fn reply(&mut self, id: HostId, to: HostId, life: u64, side: Side, join: bool) {
        let from = self.hosts[id].addr;
        let patience = self.hosts[to].config.tcp_timeout;
        // The link may have been cut since the connection was opened.
        let (side, delay) = if self.links.connects(id, to, self.now) {
            (side, self.stream_delay())
        } else {
            self.tally.blocked += 1;
            (Side::default(), patience)
        };
        let reply = Delivery::Reply {
            from,
            life,
            side,
            join,
        };
        self.enqueue(delay, to, reply);
    }

    /// The host at `to`, if a connection is accepted.
    fn answering(&mut self, from: HostId, to: SocketAddr) -> Option<HostId> {
        let peer = self
            .host_at(to)
            .filter(|peer| self.hosts[*peer].node.is_some())
            .filter(|peer| self.links.connects(from, *peer, self.now));
        if peer.is_none() {
            self.tally.blocked += 1;
            return None;
        }
        let refused = self.rng.random_bool(self.faults.stream_refused);
        self.tally.streams_harmed += u64::from(refused);
        peer.filter(|_| !refused)
    }

    /// Handshake and first bytes. A lost segment costs a retransmission.
    fn stream_delay(&mut self) -> Duration {
        let faults = self.faults;
        let mut delay = Duration::ZERO;
        for _ in 0..3 {
            delay += faults.delay(&mut self.rng);
            if self.rng.random_bool(faults.loss) {
                delay += Duration::from_millis(300);
            }
        }
        if self.rng.random_bool(faults.stream_slow) {
            self.tally.streams_harmed += 1;
            delay += faults.stream_slow_delay;
        }
        delay
    }
}

/// Whose turn it is in a state exchange, and what it depends on.
#[derive(Clone, Copy)]
enum Turn<'a> {
    /// Of whoever turns to this address; both tables are shown if it is `full`.
    Opening { to: SocketAddr, full: bool },
    /// Of whoever was sent this state; without a table if it is `brief`.
    Reply { theirs: &'a Bytes, brief: bool },
}

impl<A: Application> Host<A> {
    /// What the application says when tables are shown.
    fn whole_state(&self, now: Instant, turn: Turn<'_>, join: bool) -> Bytes {
        match (&self.application, turn) {
            (None, _) => self.state.clone(),
            (Some(application), Turn::Opening { to, .. }) => {
                let peer = self.node.as_ref().and_then(|node| node.known_at(to));
                application.opening(now, peer.as_ref(), join)
            }
            (Some(application), Turn::Reply { theirs, .. }) => application.reply(now, theirs, join),
        }
    }
}

/// One side of a state exchange as it was read.
enum Read {
    Message(PushPull),
    Rows(Vec<Known>, Bytes, bool),
}

impl Read {
    fn join(&self) -> bool {
        match self {
            Self::Message(exchange) => exchange.join,
            Self::Rows(_, _, join) => *join,
        }
    }

    /// Whether no table is shown. Nobody's is empty: its owner is in it.
    fn is_brief(&self) -> bool {
        match self {
            Self::Message(exchange) => exchange.nodes.is_empty(),
            Self::Rows(rows, ..) => rows.is_empty(),
        }
    }

    /// Takes out what is said about tables for the application.
    fn strip(&mut self) -> Option<Tables> {
        let (Self::Message(PushPull {
            user_state: state, ..
        })
        | Self::Rows(_, state, _)) = self;
        let (tables, rest) = Tables::read(state)?;
        *state = rest;
        Some(tables)
    }

    fn user_state(&self) -> &Bytes {
        match self {
            Self::Message(exchange) => &exchange.user_state,
            Self::Rows(_, state, _) => state,
        }
    }

    fn merge(self, node: &mut Node, now: Instant, join: bool) -> Result<(), MergeError> {
        match self {
            Self::Message(exchange) => node.merge(now, exchange, join),
            Self::Rows(rows, state, _) => {
                node.merge_known(now, &rows, state, join);
                Ok(())
            }
        }
    }
}

/// The state exchange in this, if it is all of it and for us.
fn whole(side: Side, join: bool, filter: ClusterFilter) -> Option<Read> {
    let bytes = match side {
        Side::Written(bytes) => bytes,
        Side::Rows(rows, state) => return Some(Read::Rows(rows, state, join)),
    };
    let mut decoder = StreamDecoder::new(filter);
    let (head, tail) = bytes.split_at(bytes.len() / 3);
    for piece in [head, tail] {
        if let Ok(StreamProgress::Complete(StreamMessage::PushPull(exchange))) = decoder.feed(piece)
        {
            return Some(Read::Message(exchange));
        }
    }
    None
}
