//! Users, tokens, certificates, rules and what the broker says of them, one module for each.

mod certificates;
mod common;
mod leaks;
mod limits;
mod reload;
mod revocation;
mod rules;
mod scram;
mod secrets;
mod secrets_between_nodes;
mod service;
mod tenants;
mod tokens;
mod users;
