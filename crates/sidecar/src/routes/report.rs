//! Says once, in the log, which alive instances are not routed and why, and when that is over.

use std::collections::BTreeSet;

use tracing::{info, warn};

use super::{Exclusion, Routes};

/// Remembers what was said last.
#[derive(Debug, Default)]
pub struct Reporter {
    known: BTreeSet<Exclusion>,
}

impl Reporter {
    /// Logs what is new in `routes` and what is over.
    pub fn report(&mut self, routes: &Routes) {
        let current: BTreeSet<Exclusion> = routes.excluded.iter().cloned().collect();
        for exclusion in current.difference(&self.known) {
            warn!(
                service = exclusion.service,
                service_port = exclusion.service_port,
                instance = exclusion.id,
                host = exclusion.hostname,
                reason = %exclusion.reason,
                "instance is not routed"
            );
        }
        for exclusion in self.known.difference(&current) {
            info!(
                service = exclusion.service,
                service_port = exclusion.service_port,
                instance = exclusion.id,
                "the reason not to route an instance is gone"
            );
        }
        self.known = current;
    }
}
