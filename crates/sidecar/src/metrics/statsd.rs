//! The numbers of Go Sidecar's dashboards, under its names, as statsd lines once a second.
//!
//! Counters are sent as what was added since the last report, gauges as they are. Of a timer with several
//! values in a second the mean is sent, with the rate that makes statsd count all of them (`|@0.2` for
//! five). Nothing waits for the receiver: what it does not take is lost, as is usual for statsd.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Metrics;
use crate::{cluster::timings::Timings, net::resolver::Resolver, usage};

/// Time from one report to the next.
const PERIOD: Duration = Duration::from_secs(1);
/// The receiver's name is resolved again after this much time, and after any failure to send.
const RESOLVE_EVERY: Duration = Duration::from_secs(60);
/// That nobody listens is known only from the answer to an earlier report: so many without one are believed.
const REPORTS_BELIEVED: u32 = 3;
/// Most bytes of a datagram, as in the original: they fit a packet of any network.
const PACKET_BYTES_MAX: usize = 1400;

/// Everything that is reported, since the start or as it is.
#[derive(Debug, Default)]
struct Reading {
    counters: Vec<(&'static str, u64)>,
    /// How many values, and their sum in microseconds.
    timers: Vec<(&'static str, (u64, u64))>,
    gauges: Vec<(&'static str, u64)>,
}

/// Sends reports to `receiver`, a host and a port, until `shutdown`.
pub(crate) async fn run(
    receiver: (String, u16),
    hostname: String,
    metrics: Arc<Metrics>,
    resolver: Resolver,
    shutdown: CancellationToken,
) {
    let mut last = Reading::default();
    let mut sender = Sender {
        receiver,
        resolver,
        open: None,
        in_a_row: 0,
        trouble: None,
    };
    let mut ticks = tokio::time::interval_at(Instant::now() + PERIOD, PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let newest = metrics.reading();
        let packets = packed(&lines(&last, &newest, &hostname));
        last = newest;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sender.send(&packets) => {}
        }
    }
}

/// Where reports go.
struct Sender {
    receiver: (String, u16),
    resolver: Resolver,
    open: Option<(UdpSocket, Instant)>,
    /// Reports sent since the last that was not.
    in_a_row: u32,
    /// What was wrong last; said once.
    trouble: Option<String>,
}

impl Sender {
    async fn send(&mut self, packets: &[Vec<u8>]) {
        let sent = self.try_send(packets).await;
        let receiver = format!("{}:{}", self.receiver.0, self.receiver.1);
        match sent {
            Ok(()) => {
                self.in_a_row += 1;
                if self.in_a_row >= REPORTS_BELIEVED && self.trouble.take().is_some() {
                    info!(receiver, "metrics are sent to statsd again");
                }
            }
            Err(error) => {
                self.in_a_row = 0;
                // What was refused was so by somebody who is there.
                if error.kind() != io::ErrorKind::ConnectionRefused {
                    self.open = None;
                }
                let error = error.to_string();
                if self.trouble.as_ref() != Some(&error) {
                    warn!(
                        receiver,
                        error,
                        "metrics cannot be sent to statsd (SIDECAR_STATS_ADDR); \
                         it is tried again every second"
                    );
                    self.trouble = Some(error);
                }
            }
        }
    }

    async fn try_send(&mut self, packets: &[Vec<u8>]) -> io::Result<()> {
        let socket = match self.open.take() {
            Some((socket, since)) if since.elapsed() < RESOLVE_EVERY => {
                &self.open.insert((socket, since)).0
            }
            _ => {
                let socket = connect(&self.resolver, &self.receiver).await?;
                &self.open.insert((socket, Instant::now())).0
            }
        };
        for packet in packets {
            match socket.try_send(packet) {
                // The system's buffer is full: statsd is for who can do without a value.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => drop(sent?),
            }
        }
        Ok(())
    }
}

async fn connect(resolver: &Resolver, (host, port): &(String, u16)) -> io::Result<UdpSocket> {
    let addresses = resolver.lookup(host).await.map_err(io::Error::other)?;
    let address = addresses[0];
    let any = match address.is_ipv4() {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect((address, *port)).await?;
    // Only a socket that is known to be writable takes what is not waited for.
    socket.writable().await?;
    Ok(socket)
}

impl Metrics {
    /// What is reported, read now.
    fn reading(&self) -> Reading {
        let stats = self.gossip.stats();
        let node = &stats.node;
        let Timings {
            message,
            merge,
            announce,
            withdraw,
            send,
            expire,
        } = &self.counters.timings;
        let (announced, heard) = (announce.read(), message.read());
        let added = (announced.0 + heard.0, announced.1 + heard.1);
        let probes = node.probes_succeeded + node.probes_failed + node.probes_answered_by_tcp_only;
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let tasks = tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks();
        let mut gauges = vec![
            ("delegate.pendingBroadcasts", count(stats.user_queue)),
            ("memberlist.health.score", stats.health_score.into()),
            ("runtime.num_goroutines", count(tasks)),
        ];
        if let Some(memory) = usage::memory() {
            gauges.push(("runtime.alloc_bytes", memory.anonymous));
            gauges.push(("runtime.sys_bytes", memory.resident));
        }
        Reading {
            counters: vec![
                ("memberlist.tcp.accept", stats.streams_in),
                ("memberlist.tcp.connect", stats.streams_out),
                ("memberlist.tcp.sent", stats.stream_bytes_out),
                ("memberlist.udp.sent", stats.bytes_out),
                ("memberlist.udp.received", stats.bytes_in),
                ("memberlist.msg.alive", node.announcements_applied),
                ("memberlist.msg.suspect", node.suspicions),
                ("memberlist.msg.dead", node.deaths_applied),
                ("memberlist.degraded.probe", node.probes_stretched),
                ("memberlist.degraded.timeout", node.deaths_unconfirmed),
            ],
            timers: vec![
                ("services_state.AddServiceEntry", added),
                ("services_state.BroadcastServices", announced),
                ("services_state.BroadcastTombstones", withdraw.read()),
                ("services_state.SendServices", send.read()),
                ("services_state.TombstoneOthersServices", expire.read()),
                ("delegate.NotifyMsg", heard),
                (
                    "delegate.GetBroadcasts",
                    (node.gossip_rounds, stats.gossip_micros),
                ),
                ("delegate.MergeRemoteState", merge.read()),
                (
                    "memberlist.gossip",
                    (node.gossip_rounds, stats.gossip_micros),
                ),
                ("memberlist.probeNode", (probes, node.probe_micros)),
                (
                    "memberlist.pushPullNode",
                    (stats.exchanges_out, stats.exchange_micros),
                ),
            ],
            gauges,
        }
    }
}

/// The lines of a report.
fn lines(last: &Reading, newest: &Reading, hostname: &str) -> Vec<String> {
    let before = |name| last.counters.iter().find(|it| it.0 == name);
    let counters = newest.counters.iter().filter_map(|&(name, value)| {
        let added = value.saturating_sub(before(name).map_or(0, |it| it.1));
        (added > 0).then(|| format!("sidecar.{name}:{added}.000000|c\n"))
    });
    let before = |name| last.timers.iter().find(|it| it.0 == name);
    let timers = newest.timers.iter().filter_map(|&(name, (count, micros))| {
        let (last_count, last_micros) = before(name).map_or((0, 0), |it| it.1);
        let added = count.saturating_sub(last_count);
        let mean = micros.saturating_sub(last_micros) as f64 / added as f64 / 1e3;
        match added {
            0 => None,
            1 => Some(format!("sidecar.{name}:{mean:.6}|ms\n")),
            _ => {
                let rate = 1.0 / added as f64;
                Some(format!("sidecar.{name}:{mean:.6}|ms|@{rate:.6}\n"))
            }
        }
    });
    // What would end a name in this protocol.
    let hostname = hostname.replace([':', ' ', '|', '\n'], "_");
    let gauges = newest.gauges.iter();
    let gauges =
        gauges.map(|(name, value)| format!("sidecar.{hostname}.{name}:{value}.000000|g\n"));
    counters.chain(timers).chain(gauges).collect()
}

/// As few datagrams as hold the lines; none is cut.
fn packed(lines: &[String]) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    for line in lines {
        match packets.last_mut() {
            Some(packet) if packet.len() + line.len() <= PACKET_BYTES_MAX => {
                packet.extend_from_slice(line.as_bytes());
            }
            _ => packets.push(line.as_bytes().to_vec()),
        }
    }
    packets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_what_was_added_and_how_things_stand() {
        let last = Reading {
            counters: vec![("memberlist.tcp.accept", 3), ("memberlist.tcp.connect", 1)],
            timers: vec![
                ("delegate.NotifyMsg", (10, 5_000)),
                ("memberlist.gossip", (1, 10)),
            ],
            gauges: vec![("memberlist.health.score", 7)],
        };
        let newest = Reading {
            counters: vec![("memberlist.tcp.accept", 5), ("memberlist.tcp.connect", 1)],
            timers: vec![
                ("delegate.NotifyMsg", (14, 6_000)),
                ("memberlist.gossip", (2, 1_260)),
            ],
            gauges: vec![("memberlist.health.score", 0)],
        };
        let report = lines(&last, &newest, "node a:1").concat();
        let expected = "sidecar.memberlist.tcp.accept:2.000000|c\n\
            sidecar.delegate.NotifyMsg:0.250000|ms|@0.250000\n\
            sidecar.memberlist.gossip:1.250000|ms\n\
            sidecar.node_a_1.memberlist.health.score:0.000000|g\n";
        assert_eq!(report, expected);
    }

    #[test]
    fn lines_are_packed_without_cutting_any() {
        let lines: Vec<String> = (0..200).map(|it| format!("sidecar.x:{it}|c\n")).collect();
        let packets = packed(&lines);
        assert!(packets.len() > 1);
        assert!(packets.iter().all(|it| it.len() <= PACKET_BYTES_MAX));
        assert!(packets.iter().all(|it| it.ends_with(b"\n")));
        assert_eq!(packets.concat(), lines.concat().into_bytes());
    }
}
