//! How fast and how gently runtime mode changes a real HAProxy: 36,000 changes with 1,000 idle and 200
//! active connections held. Run with `cargo bench -p sidecar --bench haproxy_churn`; it takes some
//! minutes and needs an installed `haproxy`. A number behind `--` is the number of changes.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

#[path = "haproxy_churn/scenario.rs"]
mod scenario;

use scenario::Size;

#[tokio::main]
async fn main() {
    let changes = std::env::args().find_map(|word| word.parse().ok());
    let size = Size {
        changes: changes.unwrap_or(36_000),
        idle: 1_000,
        active: 200,
    };
    let figures = scenario::run(size).await;
    println!("{size:?} in {:.1?}", figures.took);
    println!(
        "from the change to HAProxy holding it: p50 {:.2?}, p99 {:.2?}, worst {:.2?}",
        figures.quantile(0.5),
        figures.quantile(0.99),
        figures.quantile(1.0),
    );
    println!(
        "reloads {}, extra processes {}, broken connections {}, repairs {}",
        figures.reloads, figures.extra_processes, figures.broken, figures.repairs
    );
    let (before, after) = figures.memory;
    println!(
        "memory of the worker: {before} kB after a twentieth, {after} kB at the end ({:+.1} %)",
        (after as f64 / before as f64 - 1.0) * 100.0
    );
}
