//! What an operator sees and does, against running nodes. One module for each way of it.

mod api;
mod ctl;
mod dashboard;
mod drain;
mod reload;
mod systemd;
mod three_nodes;
mod trace;
