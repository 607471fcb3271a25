//! What is said to nf_tables and what it says: netlink messages as bytes. Truth:
//! `linux/netfilter/nf_tables.h` and `nfnetlink.h`, and what `nft --debug=netlink` shows of itself.
//!
//! Numbers in attributes are in network order, those of message heads in the machine's.
//! **Invariant:** pure but for `socket`.

pub(super) mod attributes;
pub(super) mod batch;
pub(super) mod expressions;
pub(super) mod socket;
