//! Who may come in, and what they may do: passwords, tokens, certificates, SCRAM, access rules, back-off. Texts, times and
//! random bytes go in, decisions come out; files, clocks, sockets and threads are left to the broker.

pub mod backoff;
mod base64;
mod certificate;
mod cidr;
mod client_id;
pub mod der;
pub mod inquiry;
pub mod jwt;
pub mod password;
mod principal;
pub mod rules;
pub mod scram;

pub use certificate::{Certificate, NameSource};
pub use cidr::{Cidr, CidrError};
pub use client_id::ClientIdRule;
pub use principal::Principal;

/// A line of a file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct LineError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it. Never shows a hash or a key.
    pub message: String,
}

impl LineError {
    pub(crate) fn new(line: usize, message: impl Into<String>) -> Self {
        Self {
            line,
            message: message.into(),
        }
    }
}
