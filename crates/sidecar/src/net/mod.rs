//! Names, addresses and outgoing connections. Nothing here reaches libc's resolver.

pub mod resolver;
