//! Clients that do not stop asking while something happens.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use crate::{Host, Route};

/// Acts while clients of a host send requests to these service ports of it without a pause, each on a new
/// connection; how many there were.
///
/// # Panics
/// When one of them failed.
pub fn under_load(host: &Host, ports: &[u16], act: impl FnOnce()) -> usize {
    let (done, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = ports
            .iter()
            .map(|&port| {
                let (done, requests) = (&done, &requests);
                scope.spawn(move || {
                    let mut failures = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        requests.fetch_add(1, Ordering::Relaxed);
                        match host.route(port) {
                            Route::Answer(_) => {}
                            other => failures.push((port, other)),
                        }
                    }
                    failures
                })
            })
            .collect();
        // Also when it panics, lest the clients go on for ever.
        let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        done.store(true, Ordering::Relaxed);
        for client in clients {
            let failures = client.join().expect("a client does not panic");
            assert!(
                failures.is_empty(),
                "{} requests failed, the first: {:?}",
                failures.len(),
                failures[0]
            );
        }
        if let Err(panic) = acted {
            std::panic::resume_unwind(panic);
        }
    });
    requests.into_inner()
}
