//! Metrics of the xDS server.

use std::collections::BTreeMap;

use super::{Metrics, Text};
use crate::proxy::envoy::resources::Kind;

impl Metrics {
    pub(super) fn envoy(&self, text: &mut Text) {
        let Some(envoy) = self.view.envoy() else {
            return;
        };
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        for (name, help, value) in [
            (
                "listening",
                "Whether xDS is served.",
                u64::from(envoy.listening.is_some()),
            ),
            (
                "streams",
                "Envoys that are connected.",
                count(envoy.streams.len()),
            ),
            (
                "streams_unsettled",
                "Envoys that have not taken all there is.",
                count(envoy.streams.iter().filter(|it| !it.settled).count()),
            ),
        ] {
            text.single(&format!("sidecar_envoy_{name}"), "gauge", help, value);
        }
        text.single(
            "sidecar_envoy_streams_refused_total",
            "counter",
            "Streams refused because there were too many.",
            envoy.streams_refused,
        );
        let mut rejected = BTreeMap::new();
        for it in &envoy.rejected {
            *rejected.entry(it.kind).or_insert(0_u64) += 1;
        }
        let resources = envoy.resources.iter();
        let resources = resources
            .map(|(kind, value)| (*kind, count(*value)))
            .collect();
        for (name, kind_of_metric, help, values) in [
            ("resources", "gauge", "Resources there are.", &resources),
            (
                "rejected",
                "gauge",
                "Resources that at least one Envoy does not take.",
                &rejected,
            ),
            (
                "responses_total",
                "counter",
                "Responses sent to Envoys.",
                &envoy.responses,
            ),
            (
                "acks_total",
                "counter",
                "Responses that were taken.",
                &envoy.acks,
            ),
            (
                "nacks_total",
                "counter",
                "Responses that were refused.",
                &envoy.nacks,
            ),
        ] {
            let name = format!("sidecar_envoy_{name}");
            text.family(&name, kind_of_metric, help);
            for kind in Kind::ALL.map(Kind::word) {
                let value = values.get(kind).copied().unwrap_or(0);
                text.line(format_args!("{name}{{kind=\"{kind}\"}} {value}"));
            }
        }
    }
}
