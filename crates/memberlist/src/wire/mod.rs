//! Bytes to messages and back. Pure; every limit on untrusted input lives here.

pub mod message;
