//! SWIM + Lifeguard cluster membership, wire-compatible with HashiCorp memberlist.
#![warn(missing_docs)]

pub mod node;
pub mod sim;
pub mod wire;
