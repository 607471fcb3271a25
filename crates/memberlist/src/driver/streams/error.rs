//! Why a stream came to nothing, and the name under which that is counted.

use std::io;
use std::time::Duration;

use crate::driver::malformed;
use crate::node::MergeError;
use crate::wire::{SealError, WireError};

/// Why a stream came to nothing.
#[derive(Debug, thiserror::Error)]
pub(in crate::driver) enum StreamError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no progress within {0:?} while {1}")]
    Timeout(Duration, &'static str),
    #[error("closed without an answer")]
    NoAnswer,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("unexpected {0} message")]
    Unexpected(&'static str),
    #[error("peer refuses: {0:?}")]
    Refused(String),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error("this is the address of this very node")]
    Ourselves,
    #[error("stream memory used up")]
    Budget,
    #[error("too many streams")]
    Busy,
    #[error("shut down")]
    Stopped,
}

impl StreamError {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) | Self::Io(_) => "stream_io",
            Self::Timeout(..) => "stream_timeout",
            Self::NoAnswer => "stream_no_answer",
            Self::Wire(error) => malformed::kind(error),
            Self::Unexpected(_) => "stream_unexpected",
            Self::Refused(_) => "stream_refused",
            Self::Seal(_) => "seal",
            Self::Merge(_) => "merge",
            Self::Ourselves => "ourselves",
            Self::Budget => "stream_budget",
            Self::Busy => "stream_busy",
            Self::Stopped => "stopped",
        }
    }
}
