//! How long a change takes until every host routes by it: `cargo bench -p blackbox --bench convergence`.
//!
//! Three hosts in namespaces on this machine, real agents, real sockets. The figures are what a user
//! of another host sees, without what the service itself needs to start.

#[cfg(target_os = "linux")]
#[path = "convergence/rounds.rs"]
mod rounds;

fn main() {
    #[cfg(target_os = "linux")]
    rounds::run();
}
