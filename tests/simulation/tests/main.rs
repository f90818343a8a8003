//! What the cluster promises, one module per promise, each under faults that a seed decides.

mod acknowledged_messages;
mod checkpoints;
mod clocks;
mod common;
mod determinism;
mod exactly_once;
mod fence;
mod founded_once;
mod one_owner;
mod order;
mod retained;
mod routes;
mod transfers;
mod wills;
mod without_followers;
