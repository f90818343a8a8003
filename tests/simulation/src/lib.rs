//! Whole nodes in one process, on a network, disks and clocks that are simulated, with faults drawn from a seed.
//!
//! The network is turmoil's, below gRPC and MQTT; the disks are `storage`'s, which lose what was not synced. A run with the
//! same seed takes the same decisions at the same simulated moments. It is nearly, not completely, the same run: the order
//! of what happens inside a millisecond depends on hash seeds and on threads that read files.

mod clock;
mod dial;
mod faults;
mod load;
mod machine;
mod net;
mod seeds;
mod simulation;
mod world;

pub use dial::{connect, dial_any, open};
pub use faults::{Fault, trouble};
pub use load::{Load, Stream};
pub use seeds::{for_seeds, is_caught};
pub use simulation::{Options, run};
pub use world::{World, wait_until};
