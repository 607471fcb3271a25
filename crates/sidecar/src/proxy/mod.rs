//! Data planes: routes to traffic.
