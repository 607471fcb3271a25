//! What each fuzz target does with its input, as plain functions, so that other programs than the
//! targets in `fuzz_targets` can run the same code. A function that returns has found nothing; a
//! finding is a panic.
//!
//! | target | input | what must hold |
//! | --- | --- | --- |
//! | [`packet`] | a datagram | what is read is written and read again the same |
//! | [`stream`] | cuts, then a stream | the cuts change nothing |
//! | [`node`] | a sequence of operations | the invariants of a member, after each |
//! | [`catalog_json`] | a record, a list of such or a state | what is accepted survives writing and reading |
//! | [`template`] | a template | parsing and executing end, within bounds |

pub mod catalog_json;
pub mod fork;
pub mod node;
pub mod packet;
pub mod stream;
pub mod template;

use memberlist::wire::{ClusterFilter, Message};

/// Name of the cluster in the seeds, which are recordings.
pub const CLUSTER: &str = "lab";

/// A strict member of [`CLUSTER`], a lenient one, and two of other clusters.
pub fn filters() -> [ClusterFilter; 4] {
    [
        (CLUSTER, false),
        (CLUSTER, true),
        ("", false),
        ("other", true),
    ]
    .map(|(name, accept_missing)| ClusterFilter {
        name: name.to_owned(),
        accept_missing,
    })
}

/// Whether our encoder refuses to write this: an accusation that nobody could refute.
pub fn unwritable(message: &Message) -> bool {
    match message {
        Message::Suspect(suspect) => {
            suspect.incarnation == u32::MAX && suspect.from != suspect.node
        }
        Message::Dead(dead) => dead.incarnation == u32::MAX && dead.from != dead.node,
        _ => false,
    }
}
