//! The table in one number: two members who believe the same of everyone alive have the same one,
//! and need not show each other their tables. Who is dead or has left does not count, since that is
//! forgotten at different times. The hash is XXH3 (64 bits, no seed) over explicit bytes: it must be
//! the same in all versions and on all machines.

use std::net::IpAddr;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::Node;
use crate::wire::message::{NodeState, RawIp, Versions};

/// The last digest, and the version of the members it is of.
#[derive(Debug, Default)]
pub(super) struct Cached(pub(super) Option<(u64, u64)>);

impl Node {
    /// Digest of everyone alive or suspect: name, address, metadata, versions, incarnation, and
    /// which of the two. Computed at most once per [`Node::members_version`].
    pub fn table_digest(&mut self) -> u64 {
        if let Some((version, digest)) = self.digest.0
            && version == self.members_version
        {
            debug_assert_eq!(digest, self.table_digest_anew());
            return digest;
        }
        let digest = self.table_digest_anew();
        self.digest = Cached(Some((self.members_version, digest)));
        digest
    }

    fn table_digest_anew(&self) -> u64 {
        let live = self.table.iter().filter(|entry| entry.is_live());
        // A sum, as the tables of two members are in different orders.
        live.map(|entry| row(entry.hash, entry.incarnation, entry.state))
            .fold(0, u64::wrapping_add)
    }
}

/// Hash of what a node said about itself, but for its incarnation.
pub(super) fn announced(
    name: &str,
    addr: RawIp,
    port: u16,
    meta: &Bytes,
    versions: Versions,
) -> u64 {
    let mut bytes = Vec::with_capacity(40 + name.len() + meta.len());
    for text in [name.as_bytes(), meta] {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text);
    }
    // The address meant: its bytes may be written in two ways.
    match addr.ip() {
        IpAddr::V4(ip) => bytes.extend(ip.octets()),
        IpAddr::V6(ip) => bytes.extend(ip.octets()),
    }
    bytes.extend(port.to_le_bytes());
    bytes.extend(versions.0);
    xxh3_64(&bytes)
}

/// Hash of what is believed of a node that is alive or suspect; `announced` is that of what it said
/// about itself.
pub(super) fn row(announced: u64, incarnation: u32, state: NodeState) -> u64 {
    let mut bytes = [0; 13];
    bytes[..8].copy_from_slice(&announced.to_le_bytes());
    bytes[8..12].copy_from_slice(&incarnation.to_le_bytes());
    bytes[12] = u8::from(state == NodeState::Suspect);
    xxh3_64(&bytes)
}
