//! A deterministic simulator: many real nodes on a virtual network in one thread, with virtual
//! time and everything drawn from one seed.
//!
//! Datagrams and streams are real bytes and pass the real codec. Connections, buffers and
//! deadlines of the real shell are not modelled, they are the driver's. Time jumps to the next
//! thing that happens; a minute of a small cluster takes milliseconds.
//!
//! [`Network`] is the tool for a test that wants one particular story. [`Scenario`] draws a whole
//! story from its seed: a cluster with its settings, a time of chaos, calm, and drills with
//! bounds; all the while named invariants are checked. The same seed gives the same run, bit for
//! bit, so a seed is a bug report.
//!
//! | module | what it decides |
//! | --- | --- |
//! | `network` | what happens next |
//! | `faults`, `clock`, `host` | what can be wrong with links, clocks and machines |
//! | `streams` | what becomes of connections |
//! | `checker`, `fork` | what must hold at every step |
//! | `options`, `nemesis` | which story a seed tells |
//! | `scenario`, `drills`, `etiquette` | how it goes, and what must hold at its end |

mod catalogue;
mod checker;
mod clock;
mod drills;
mod etiquette;
mod faults;
mod fork;
mod host;
mod nemesis;
mod network;
mod options;
mod scenario;
mod streams;
mod tally;

pub use self::checker::Violation;
pub use self::drills::Drill;
pub use self::faults::Faults;
pub use self::network::Network;
pub use self::options::{Options, Trouble};
pub use self::scenario::{Report, Scenario};
pub use self::tally::Tally;

/// Number of a host, in the order of [`Network::add`].
pub type HostId = usize;
