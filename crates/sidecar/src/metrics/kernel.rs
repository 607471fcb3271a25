//! Metrics of the kernel data plane.

use super::{Metrics, Text, label};
use crate::proxy::kernel::{KernelEndpoint, KernelState};

impl Metrics {
    pub(super) fn kernel(&self, text: &mut Text) {
        let Some(kernel) = self.view.kernel() else {
            return;
        };
        text.single(
            "sidecar_kernel_applied",
            "gauge",
            "Whether the kernel holds the rules it should.",
            u64::from(kernel.state == KernelState::Applied),
        );
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        for (name, help, value) in [
            (
                "services",
                "Services that the kernel serves.",
                count(kernel.services),
            ),
            (
                "services_left_to_builtin",
                "Services in mode tcp that the built-in proxy serves.",
                count(kernel.left_to_builtin.len()),
            ),
            (
                "dead_endpoints",
                "Endpoints whose connections are cut.",
                count(kernel.dead_endpoints),
            ),
        ] {
            text.single(&format!("sidecar_kernel_{name}"), "gauge", help, value);
        }
        for (name, help, value) in [
            (
                "transactions",
                "Batches of changes that the kernel took.",
                kernel.transactions,
            ),
            (
                "failures",
                "Batches of changes that the kernel did not take.",
                kernel.failures,
            ),
            (
                "repairs",
                "Differences found in what the kernel holds and set right.",
                kernel.repairs,
            ),
        ] {
            text.single(
                &format!("sidecar_kernel_{name}_total"),
                "counter",
                help,
                value,
            );
        }
        for (name, kind, help, value) in [
            (
                "sidecar_kernel_apply_seconds_total",
                "counter",
                "The time all changes took, from the routes to the kernel's answer.",
                kernel.apply_total,
            ),
            (
                "sidecar_kernel_last_apply_seconds",
                "gauge",
                "The time the last change took.",
                kernel.last_apply,
            ),
        ] {
            text.family(name, kind, help);
            text.line(format_args!("{name} {}", value.as_secs_f64()));
        }
        type Read = fn(&KernelEndpoint) -> u64;
        let families: [(&str, &str, Read); 3] = [
            ("connections", "Connections sent to an endpoint.", |it| {
                it.connections
            }),
            (
                "packets",
                "Packets of an endpoint's connections, both ways.",
                |it| it.packets,
            ),
            ("bytes", "Bytes of these packets, headers included.", |it| {
                it.bytes
            }),
        ];
        for (name, help, read) in families {
            let name = format!("sidecar_kernel_{name}_total");
            text.family(&name, "counter", help);
            for (service_port, port) in kernel.ports.iter() {
                for endpoint in &port.endpoints {
                    text.line(format_args!(
                        "{name}{{service_port=\"{service_port}\",service=\"{}\",endpoint=\"{}\"}} {}",
                        label(&port.service),
                        endpoint.address,
                        read(endpoint)
                    ));
                }
            }
        }
    }
}
