//! The service model of a sidecar cluster and its replicated state.
//!
//! Pure: no sockets, no clock, no environment. Time comes in as [`Now`], records come in as
//! [`Service`] values, and what readers see comes out as immutable [`Snapshot`]s that share
//! structure. The JSON that Go Sidecar and its clients speak lives in [`json`], at the edge.
//!
//! Rules and numbers come from the behaviour of Go Sidecar (record lifecycle, merge order,
//! lifespans), with one deliberate difference: the death of a host and the expiry of a record are
//! *derived* when a snapshot is made and never written into the records, so a host that returns
//! shows its services as they were and nobody's clock is trusted but the origin's.
#![warn(missing_docs)]

mod digest;
mod held;
pub mod json;
mod outline;
mod service;
mod snapshot;
mod state;
mod timestamp;

pub use digest::{BUCKETS, BUCKETS_BYTES, Buckets, DIGEST_BYTES, Digest, bucket_of, content_hash};
pub use outline::{Comparison, OUTLINE_HOST_BYTES, Outline};
pub use service::{DEFAULT_WEIGHT, InvalidService, Port, Protocol, ProxyMode, Service, Status};
pub use snapshot::{Difference, HostRecords, Snapshot, paired};
pub use state::{
    Applied, Author, Change, DRAINING_LIFESPAN, FUTURE_STAMP_MAX, LIFESPAN, Now, Rejected,
    STALE_AFTER, State, TOMBSTONE_LIFESPAN, Upkeep,
};
pub use timestamp::{InvalidTimestamp, Timestamp};
