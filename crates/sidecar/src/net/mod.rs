//! Names, addresses and outgoing connections. Nothing here reaches libc's resolver.

pub mod http_client;
pub mod resolver;
