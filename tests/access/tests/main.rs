//! Users, tokens, certificates, rules and what the broker says of them, one module for each.

mod certificates;
mod common;
mod reload;
mod rules;
mod scram;
mod secrets;
mod tokens;
mod users;
