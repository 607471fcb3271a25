//! Memory of streams: what they may take together, and who holds how much of it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::StreamError;

/// Memory for all streams and for states the application has not released, in KiB.
pub(super) const BUDGET_KIB: usize = 128 * 1024;

/// Memory a stream has taken from the common budget; given back when dropped.
pub(super) struct Reserved {
    pub(super) budget: Arc<Semaphore>,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

impl Reserved {
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), StreamError> {
        let held = self
            .permit
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = bytes.div_ceil(1024).saturating_sub(held);
        if missing == 0 {
            return Ok(());
        }
        let more = u32::try_from(missing)
            .ok()
            .and_then(|missing| self.budget.clone().try_acquire_many_owned(missing).ok())
            .ok_or(StreamError::Budget)?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}

/// Application state that holds its share of the budget until the application drops it.
pub(super) struct HeldState {
    pub(super) bytes: Bytes,
    pub(super) _reserved: Reserved,
}

impl AsRef<[u8]> for HeldState {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
