//! Peers that mean harm: every reaction and every limit of the protocol's security requirements.
#![cfg(feature = "driver")]

#[allow(dead_code, reason = "shared with other programs, which use the rest")]
#[path = "conformance/bench.rs"]
mod bench;
#[path = "hardening/bombs.rs"]
mod bombs;
#[path = "hardening/floods.rs"]
mod floods;
#[path = "hardening/hostile.rs"]
mod hostile;
#[path = "hardening/poison.rs"]
mod poison;
#[path = "hardening/streams.rs"]
mod streams;
