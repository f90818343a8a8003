//! The Raft log on a simulated disk: crashes at every place, and disks that fail.

mod faults;
mod node;
mod random;
