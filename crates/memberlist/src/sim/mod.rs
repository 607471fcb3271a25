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
//! | `streams`, `brief` | what becomes of connections |
//! | `application`, `catalogue` | what runs on top of the nodes |
//! | `checker`, `fork` | what must hold at every step |
//! | `options`, `nemesis` | which story a seed tells |
//! | `scenario`, `drills`, `etiquette` | how it goes, and what must hold at its end |
//!
//! What is proven, and where. Every name begins with the number.
//!
//! | property | checked by |
//! | --- | --- |
//! | P1 completeness: the crashed are dead everywhere in time and then forgotten; everyone is probed | `drills`, `scenario` |
//! | P2 accuracy: in a quiet cluster, or with others to vouch for it, nobody is suspected | `checker` while `scenario` and `drills` say so |
//! | P3 robustness to loss | measured by the bench `simulation` |
//! | P4 refutation: the accused answer before they die, and suspicions have their span | `checker`, `drills` |
//! | P5 convergence within a bound after the last fault | `scenario` |
//! | P6 healing of a partition of any length | `drills` |
//! | P7 no resurrection | `checker`, `drills` |
//! | P8 incarnations are monotonic and never invented | `checker` |
//! | P11 nobody doubts itself | `checker` |
//! | P12 a goodbye is understood | `drills` |
//! | P13 clusters of other names are invisible | `checker` |
//! | P14 queues, relays and work per step are bounded, and run empty | `checker`, `scenario` |
//! | P15 no amplification | `checker`, `etiquette` |
//! | P16 records of the application reach everyone | `scenario`, `drills` |
//! | P17 every timer has its reason | `checker` |
//! | P18 health keeps its range and recovers | `checker`, `scenario` |
//! | P19 a live member's name and address are its own | `checker`, `drills` |
//! | P20 datagrams are safe for the Go fork | `checker` with `fork` |
//!
//! P9 (order) and P10 (repetition) are properties of single messages: `tests/simulation_order.rs`. Whether the simulator would notice a bug is itself tested: `mutations/run` plants
//! bugs one at a time, `mutations/RESULTS.md` says which were caught, by what.

mod application;
mod brief;
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

pub use self::application::Application;
pub use self::catalogue::Catalogue;
pub use self::checker::Violation;
pub use self::drills::Drill;
pub use self::faults::Faults;
pub use self::host::Traffic;
pub use self::network::Network;
pub use self::options::{Options, Trouble};
pub use self::scenario::{Report, Scenario};
pub use self::tally::Tally;

/// Number of a host, in the order of [`Network::add`].
pub type HostId = usize;
