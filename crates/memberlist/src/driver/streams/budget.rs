//! Memory of streams: what they may take together, and who holds how much of it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::StreamError;
use super::reading::DECODING_KIB;

/// Memory for all streams and for what the application has not released of them, in KiB.
const BUDGET_KIB: usize = 128 * 1024;
/// The part of it for what is read and kept; the other is for messages while they are opened.
pub(super) const HELD_KIB: usize = BUDGET_KIB - DECODING_KIB;

/// Memory a stream has taken from the common budget; given back when dropped.
pub(super) struct Reserved {
    pub(super) budget: Arc<Semaphore>,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

impl Reserved {
    /// Takes what is missing to `bytes`.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), StreamError> {
        let missing = bytes.div_ceil(1024).saturating_sub(self.held_kib());
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

    /// Takes what is missing to `bytes` or gives back what is beyond.
    pub(super) fn resize(&mut self, bytes: usize) -> Result<(), StreamError> {
        drop(self.split_off(bytes));
        self.grow_to(bytes)
    }

    /// Keeps `bytes`, as far as there are so many, and hands out the rest.
    pub(super) fn split_off(&mut self, bytes: usize) -> Self {
        let beyond = self.held_kib().saturating_sub(bytes.div_ceil(1024));
        let permit = self.permit.as_mut().and_then(|permit| permit.split(beyond));
        Self {
            budget: self.budget.clone(),
            permit,
        }
    }

    fn held_kib(&self) -> usize {
        self.permit
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits)
    }
}

/// Content for the application that holds its share of the budget until it is dropped.
struct Held {
    bytes: Bytes,
    _reserved: Reserved,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The same bytes, which keep their share of `reserved` until they are dropped.
pub(super) fn held(bytes: Bytes, mut reserved: Reserved) -> Bytes {
    // The rest goes back at once.
    drop(reserved.split_off(bytes.len()));
    Bytes::from_owner(Held {
        bytes,
        _reserved: reserved,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_with_the_last_byte() {
        let budget = Arc::new(Semaphore::new(10));
        let mut reserved = Reserved {
            budget: budget.clone(),
            permit: None,
        };
        reserved.grow_to(1).unwrap();
        reserved.grow_to(8 * 1024 + 1).unwrap();
        assert_eq!(budget.available_permits(), 1);
        let refused = reserved.grow_to(10 * 1024 + 1);
        assert!(matches!(refused, Err(StreamError::Budget)));
        assert_eq!(budget.available_permits(), 1);
        reserved.resize(5 * 1024).unwrap();
        assert_eq!(budget.available_permits(), 5);
        let bytes = held(vec![7; 3000].into(), reserved);
        assert_eq!(budget.available_permits(), 7);
        let part = bytes.slice(1..2);
        drop(bytes);
        assert_eq!(budget.available_permits(), 7);
        drop(part);
        assert_eq!(budget.available_permits(), 10);
    }
}
