//! What a simulated cluster is measured by and how the result is shown.
//!
//! `report` is the data, `table`, `plot` and `progress` show it to a person. Nothing here knows the
//! protocol or reads a clock of the simulation: whoever runs the cluster fills the data in.

pub mod plot;
pub mod progress;
pub mod report;
pub mod table;
mod units;
