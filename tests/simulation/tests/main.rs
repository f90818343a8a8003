//! What the cluster promises, one module per promise, each under faults that a seed decides.

mod acknowledged_messages;
mod common;
mod determinism;
mod exactly_once;
mod fence;
mod one_owner;
mod order;
mod retained;
mod routes;
mod wills;
