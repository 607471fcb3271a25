//! What checks cost an agent that has nothing else to do:
//! `cargo bench -p blackbox --bench health_idle`.
//!
//! One host, one service that answers at once, and so many instances of it that are checked every
//! 3 s. Printed are the processor time over a minute and the resident memory, without checks and with.

#[cfg(target_os = "linux")]
#[path = "health_idle/figures.rs"]
mod figures;

fn main() {
    #[cfg(target_os = "linux")]
    figures::run();
}
