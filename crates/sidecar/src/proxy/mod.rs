//! Data planes: routes to traffic.

pub mod builtin;
