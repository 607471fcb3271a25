//! The msgpack structures behind the type byte: which fields each has, what each may hold.
//!
//! Fields are named and ordered as Go writes them (ascending by name). A missing field has Go's
//! zero value and is then checked like any other; an unknown one is skipped.

mod check;
mod read;
mod record;
mod write;

pub(super) use check::length;
pub(super) use read::*;
pub(super) use write::*;

use super::error::WireError;

type Result<T> = std::result::Result<T, WireError>;

/// What precedes the entries of a push/pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PushPullHeader {
    pub(super) join: bool,
    pub(super) nodes: usize,
    pub(super) user_state_bytes: usize,
}
