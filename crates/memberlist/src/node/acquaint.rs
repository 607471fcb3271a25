//! How a simulated cluster comes into being at once: every node is given the rows of all others, as
//! if it had known them for long. Nothing here belongs to the protocol, and no shell needs it.

use std::sync::Arc;
use std::time::Instant;

use super::Node;
use super::table::{Announced, Entry};
use crate::wire::message::NodeState;

/// A node's own row. Whoever is given it shares it: a cluster of many hosts has many rows.
#[derive(Debug, Clone)]
pub(crate) struct Introduction {
    announced: Arc<Announced>,
    incarnation: u32,
}

impl Node {
    /// Our own row.
    pub(crate) fn introduction(&self) -> Option<Introduction> {
        let entry = self.table.find(&self.config.name)?;
        Some(Introduction {
            announced: entry.announced.clone(),
            incarnation: entry.incarnation,
        })
    }

    /// Takes over all rows with names we do not know. Neither peers nor the application hear of
    /// it, and what was to be said about ourselves is taken as said.
    pub(crate) fn acquaint(&mut self, now: Instant, others: &[Introduction]) {
        let rows = others.iter().map(|other| Entry {
            announced: other.announced.clone(),
            state_change: now,
            suspicion: None,
            answered: None,
            incarnation: other.incarnation,
            state: NodeState::Alive,
        });
        self.table.extend(rows, &mut self.rng);
        self.members_version += 1;
        self.membership.remove(&self.config.name);
        self.eager.clear();
    }
}
