//! Names, addresses and outgoing connections. Nothing here reaches libc's resolver.

pub mod bind_address;
pub mod dial;
pub mod http_client;
#[cfg(target_os = "linux")]
pub mod netlink;
mod pinned;
pub mod resolver;
