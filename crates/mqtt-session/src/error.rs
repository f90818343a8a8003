//! A violation of the protocol by the peer: it is told the reason code, and its connection ends.

use std::fmt;

use mqtt_codec::{DecodeError, Limit, ReasonCode};

/// What the peer did wrong (MQTT 5.0 section 4.13).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProtocolError {
    /// Sent in DISCONNECT (or CONNACK before the connection is accepted).
    pub reason_code: ReasonCode,
    /// For the log and the Reason String: what was wrong, without any of the peer's data.
    pub detail: &'static str,
    /// Within the standard, and beyond what the server permits.
    pub limit: Option<Limit>,
}

impl ProtocolError {
    /// An error with any reason code.
    pub fn new(reason_code: ReasonCode, detail: &'static str) -> Self {
        Self {
            reason_code,
            detail,
            limit: None,
        }
    }

    /// More than a limit of the server permits.
    pub fn beyond(limit: Limit, reason_code: ReasonCode, detail: &'static str) -> Self {
        Self {
            limit: Some(limit),
            ..Self::new(reason_code, detail)
        }
    }

    /// Reason code 0x82.
    pub fn violation(detail: &'static str) -> Self {
        Self::new(ReasonCode::ProtocolError, detail)
    }
}

impl From<DecodeError> for ProtocolError {
    fn from(error: DecodeError) -> Self {
        let DecodeError {
            reason_code,
            detail,
            limit,
        } = error;
        Self {
            reason_code,
            detail,
            limit,
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02X})", self.detail, self.reason_code as u8)
    }
}

impl std::error::Error for ProtocolError {}
