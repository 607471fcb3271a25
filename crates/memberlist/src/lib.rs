//! SWIM + Lifeguard cluster membership, wire-compatible with HashiCorp memberlist.
//!
//! [`wire`] turns bytes into messages and back, [`node`] is the protocol as a state machine without
//! sockets or clock, `driver` (feature `driver`, on by default) runs it on tokio, and [`sim`] runs
//! whole clusters of it on a virtual network.
#![warn(missing_docs)]

#[cfg(feature = "driver")]
pub mod driver;
pub mod node;
pub mod sim;
pub mod wire;

#[cfg(feature = "driver")]
pub use driver::{Delegate, Handle, JoinOutcome, StartError, Stats, start};
pub use node::{
    CLUSTER_NAME_BYTES_MAX, Config, Event, Member, Priority, STREAM_USER_BYTES_MAX, Subnet,
};
pub use wire::message::{NodeState, Versions};
pub use wire::{Key, Keyring, KeyringError};
