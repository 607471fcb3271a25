//! The catalog among hosts: what this host announces, what it hears, and how it finds the others.

pub mod awake;
pub mod catching_up;
mod change_log;
pub mod clock;
pub mod confirm;
pub mod core;
pub mod drains;
pub mod exchange;
#[cfg(test)]
mod fixtures;
pub mod introductions;
pub mod join;
#[cfg(test)]
mod lab;
pub mod metadata;
pub mod registry;
pub mod replica;
pub mod state_file;
pub mod timings;
pub mod update;
