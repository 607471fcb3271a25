//! Whether what was found works.

use catalog::Service;

use crate::discovery::SourceName;

/// What this host knows of its own instances, for the catalog's writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalUpdate {
    /// An instance is there, new, changed, or with a new check result.
    Present {
        /// The instance; its status is what the check says (`Unknown` before the first result),
        /// its `updated` is meaningless.
        service: Service,
        /// Whether at least one check has completed since it was found. Until then the writer keeps
        /// the status the cluster last knew.
        checked: bool,
    },
    /// An instance is gone.
    Gone {
        /// Its [`Service::id`].
        id: String,
    },
    /// A source finished its first complete listing: what the cluster holds of this host beyond
    /// what was found is from a former life.
    Listed(SourceName),
}
