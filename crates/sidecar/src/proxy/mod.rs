//! Data planes: routes to traffic.

pub mod builtin;
pub mod haproxy;
