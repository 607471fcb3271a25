//! Metrics of a HAProxy that is driven.

use super::{Metrics, Text};
use crate::proxy::haproxy::State;

impl Metrics {
    pub(super) fn haproxy(&self, text: &mut Text) {
        let Some(haproxy) = self.view.haproxy() else {
            return;
        };
        text.single(
            "sidecar_haproxy_applied",
            "gauge",
            "Whether HAProxy runs what it should.",
            u64::from(haproxy.state == State::Applied),
        );
        if let Some(is_running) = haproxy.is_running {
            text.single(
                "sidecar_haproxy_running",
                "gauge",
                "Whether a process of HAProxy runs.",
                is_running.into(),
            );
        }
        text.single(
            "sidecar_haproxy_reloads_total",
            "counter",
            "Reloads and starts of HAProxy.",
            haproxy.reloads,
        );
        text.single(
            "sidecar_haproxy_revivals_total",
            "counter",
            "How often HAProxy was found dead and started again.",
            haproxy.revivals,
        );
        text.single(
            "sidecar_haproxy_repairs_total",
            "counter",
            "Differences found in what HAProxy holds and set right; runtime mode.",
            haproxy.repairs,
        );
        let name = "sidecar_haproxy_failures_total";
        text.family(name, "counter", "What failed, by step.");
        for (step, count) in &haproxy.failures {
            text.line(format_args!("{name}{{step=\"{step}\"}} {count}"));
        }
    }
}
