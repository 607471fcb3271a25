//! A short run of the bench `haproxy_churn`: what must never happen, however long it is.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../benches/haproxy_churn/scenario.rs"]
mod scenario;

use std::time::Duration;

use scenario::Size;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_services_neither_reload_haproxy_nor_break_a_connection() {
    let size = Size {
        changes: 600,
        idle: 100,
        active: 20,
    };
    let figures = scenario::run(size).await;
    assert_eq!(figures.reloads, 0, "{figures:?}");
    assert_eq!(figures.extra_processes, 0, "{figures:?}");
    assert_eq!(figures.broken, 0, "{figures:?}");
    assert_eq!(figures.repairs, 0, "{figures:?}");
    let (before, after) = figures.memory;
    assert!(
        after < before + before / 10 + 1024,
        "{:?} kB",
        figures.memory
    );
    // A hundred times what the bench measures, for a machine that does much else.
    let p50 = figures.quantile(0.5);
    assert!(
        p50 < Duration::from_millis(200),
        "{p50:?}, all in {:?}",
        figures.took
    );
}
