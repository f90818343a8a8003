//! openraft's view of a group: its types, its log, its state machine, its network.

pub(crate) mod convert;
mod log_store;
mod machine;
mod network;
mod runtime;
mod types;

pub(crate) use log_store::LogStore;
pub(crate) use machine::{Applied, Machine, SnapshotData, StateMachine, received_snapshot};
pub(crate) use network::Network;
pub(crate) use types::{Callback, Payload, Responses, TypeConfig};

#[cfg(test)]
mod conformance;
