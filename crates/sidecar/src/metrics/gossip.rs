//! Metrics of gossip and of membership.

use super::{Metrics, Text, label};

impl Metrics {
    pub(super) fn membership(&self, text: &mut Text) {
        let stats = self.gossip.stats();
        let node = &stats.node;
        for (name, help, value) in [
            (
                "packets_received_total",
                "Datagrams received.",
                stats.packets_in,
            ),
            (
                "bytes_received_total",
                "Bytes of datagrams received.",
                stats.bytes_in,
            ),
            ("packets_sent_total", "Datagrams sent.", stats.packets_out),
            (
                "bytes_sent_total",
                "Bytes of datagrams sent.",
                stats.bytes_out,
            ),
            (
                "packets_unsent_total",
                "Datagrams the system would not send.",
                stats.packets_unsent,
            ),
            (
                "streams_accepted_total",
                "Connections accepted.",
                stats.streams_in,
            ),
            (
                "streams_refused_total",
                "Connections over the limit.",
                stats.streams_refused,
            ),
            (
                "packets_not_allowed_total",
                "Datagrams from outside SIDECAR_GOSSIP_ALLOW.",
                stats.packets_not_allowed,
            ),
            (
                "streams_not_allowed_total",
                "Connections from outside SIDECAR_GOSSIP_ALLOW.",
                stats.streams_not_allowed,
            ),
            (
                "entries_skipped_total",
                "Invalid entries in peers' tables.",
                stats.entries_skipped,
            ),
            (
                "pings_for_others_total",
                "Pings meant for another host at this address.",
                node.pings_for_others + stats.stream_pings_for_others,
            ),
            (
                "streams_opened_total",
                "Connections opened.",
                stats.streams_out,
            ),
            (
                "streams_failed_total",
                "Connections that ended early.",
                stats.streams_failed,
            ),
            (
                "stream_bytes_sent_total",
                "Bytes of connections sent.",
                stats.stream_bytes_out,
            ),
            (
                "exchanges_begun_total",
                "State exchanges begun here.",
                stats.exchanges_out,
            ),
            (
                "exchanges_answered_total",
                "State exchanges begun by peers.",
                stats.exchanges_in,
            ),
            (
                "messages_dropped_total",
                "Messages dropped, queue full.",
                stats.messages_dropped,
            ),
            (
                "states_dropped_total",
                "Peers' states dropped, queue full.",
                stats.states_dropped,
            ),
            (
                "broadcasts_dropped_total",
                "Broadcasts dropped.",
                stats.broadcasts_dropped,
            ),
            (
                "probes_succeeded_total",
                "Probes answered.",
                node.probes_succeeded,
            ),
            (
                "probes_failed_total",
                "Probes not answered.",
                node.probes_failed,
            ),
            (
                "probes_stretched_total",
                "Probes given more time, as this host seemed to be the problem.",
                node.probes_stretched,
            ),
            (
                "announcements_applied_total",
                "Announcements of members taken over.",
                node.announcements_applied,
            ),
            ("suspicions_total", "Members suspected.", node.suspicions),
            (
                "deaths_declared_total",
                "Members declared dead here.",
                node.deaths_declared,
            ),
            (
                "deaths_applied_total",
                "Members that became dead or left, whoever said so.",
                node.deaths_applied,
            ),
            (
                "refutations_total",
                "Accusations of this host refuted.",
                node.refutations,
            ),
            (
                "conflicts_total",
                "Claims of a name from a second address.",
                node.conflicts,
            ),
            (
                "late_wakeups_total",
                "Pauses of this process noticed.",
                node.late_wakeups,
            ),
        ] {
            text.single(&format!("sidecar_gossip_{name}"), "counter", help, value);
        }
        for (name, help, micros) in [
            (
                "round_seconds_total",
                "The time all gossip rounds took, with the sending.",
                stats.gossip_micros,
            ),
            (
                "probe_seconds_total",
                "The time all probes took, to their ack or their end.",
                node.probe_micros,
            ),
            (
                "exchange_seconds_total",
                "The time the state exchanges begun here took.",
                stats.exchange_micros,
            ),
        ] {
            let name = format!("sidecar_gossip_{name}");
            text.family(&name, "counter", help);
            text.line(format_args!("{name} {}", micros as f64 / 1e6));
        }
        text.single(
            "sidecar_gossip_rounds_total",
            "counter",
            "Gossip rounds, those with nothing to say included.",
            node.gossip_rounds,
        );
        let name = "sidecar_gossip_malformed_total";
        text.family(
            name,
            "counter",
            "Unreadable input from the network, by kind.",
        );
        for (kind, count) in &stats.malformed {
            text.line(format_args!("{name}{{kind=\"{}\"}} {count}", label(kind)));
        }
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        for (name, help, value) in [
            (
                "health_score",
                "Local health: 0 is healthy, 7 the worst.",
                stats.health_score.into(),
            ),
            (
                "membership_queue",
                "Announcements to transmit.",
                count(stats.membership_queue),
            ),
            (
                "record_queue",
                "Records to transmit.",
                count(stats.user_queue),
            ),
            (
                "keys",
                "Gossip keys installed; 0 is plain text.",
                count(self.gossip.keys().len()),
            ),
        ] {
            text.single(&format!("sidecar_gossip_{name}"), "gauge", help, value);
        }
    }
}
