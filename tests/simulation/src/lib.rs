//! Whole nodes in one process, on a network, disks and clocks that are simulated, with faults drawn from a seed.
//!
//! The network is turmoil's, below gRPC and MQTT; the disks are `storage`'s, which lose what was not synced. All of it is one
//! thread: what a node leaves to other threads is done in place, and its dice are the seed's. So a run with the same seed is
//! the same run, on any machine and under any load. (tokio wakes those who wait for one thing in an order of its own: this
//! changes nothing but the order inside of one millisecond of one node.)

mod clock;
mod dial;
mod faults;
mod links;
mod load;
mod machine;
mod net;
mod seeds;
mod simulation;
mod world;

pub use dial::{connect, connect_at_last, dial_any, look, open};
pub use faults::{Fault, trouble};
pub use load::{Load, Stream};
pub use seeds::{for_seeds, is_caught};
pub use simulation::{Options, run, run_and_tell};
pub use world::{World, wait_until};
