//! Metrics of the process itself, under the names all programs have for them.

use std::time::UNIX_EPOCH;

use super::{Metrics, Text};
use crate::usage;

impl Metrics {
    pub(super) fn process(&self, text: &mut Text) {
        let name = "sidecar_build_info";
        text.family(name, "gauge", "1, with the version of the program.");
        let version = env!("CARGO_PKG_VERSION");
        text.line(format_args!("{name}{{version=\"{version}\"}} 1"));
        text.single(
            "sidecar_ready",
            "gauge",
            "Whether the agent has all it waits for at its start.",
            u64::from(self.ready.borrow().is_empty()),
        );
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let cpu = usage::processor_time();
        for (name, kind, help, value) in [
            (
                "process_start_time_seconds",
                "gauge",
                "When the agent started, in seconds since 1970.",
                started.as_secs_f64(),
            ),
            (
                "process_cpu_seconds_total",
                "counter",
                "Processor time the agent has used; not that of the built-in proxy, a process of its own.",
                cpu.as_secs_f64(),
            ),
        ] {
            text.family(name, kind, help);
            text.line(format_args!("{name} {value}"));
        }
        if let Some(memory) = usage::memory() {
            text.single(
                "process_resident_memory_bytes",
                "gauge",
                "Memory the agent holds, in bytes.",
                memory.resident,
            );
        }
        if let Some(open) = usage::descriptors() {
            text.single(
                "process_open_fds",
                "gauge",
                "Files and sockets the agent has open.",
                open,
            );
        }
    }
}
