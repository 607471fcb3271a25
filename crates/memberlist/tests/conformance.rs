//! Numbered requirements of the protocol that no other test shows by itself, and the index of all of
//! them: `CONFORMANCE.md` beside the manifest says which test shows which.
//!
//! Only what the crate offers to everybody is used here: `wire`, `node`, `driver` and `sim`.
#![cfg(feature = "driver")]

#[path = "conformance/bench.rs"]
mod bench;
#[path = "conformance/detector.rs"]
mod detector;
#[path = "conformance/gossip.rs"]
mod gossip;
#[path = "conformance/index.rs"]
mod index;
#[path = "conformance/membership.rs"]
mod membership;
#[path = "conformance/never_emit.rs"]
mod never_emit;
#[path = "conformance/reactions.rs"]
mod reactions;
#[path = "conformance/streams.rs"]
mod streams;
