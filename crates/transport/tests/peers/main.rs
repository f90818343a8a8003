//! Peers against each other, over a network in memory and over loopback.

mod calls;
mod fake;
mod hostile;
mod lanes;
mod snapshots;
mod tls;
