//! Data planes: routes to traffic.

pub mod builtin;
pub mod haproxy;
#[cfg(target_os = "linux")]
pub mod worker;
