//! The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding. What MQTT 5.0 section 4.12 carries in
//! AUTH packets goes in and out as bytes.
//!
//! Names and passwords are taken as they are sent: for ASCII that is what SASLprep (RFC 4013) gives, and no other client
//! is known to be sent here.

mod server;
mod verifier;

pub use server::{Failure, Outcome, Server};
pub use verifier::Verifier;

/// The name of the authentication method.
pub const METHOD: &str = "SCRAM-SHA-256";
