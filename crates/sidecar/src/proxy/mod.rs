//! Data planes: routes to traffic.

pub mod builtin;
pub mod haproxy;
pub mod kernel;
#[cfg(target_os = "linux")]
pub mod worker;
