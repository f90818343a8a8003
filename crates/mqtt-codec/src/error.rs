//! What can be wrong with bytes that came in, and with packets that should go out.

use std::fmt;

use crate::reason_code::ReasonCode;

/// The peer broke the protocol. Nothing can be read after it: say the reason code if the version allows, and close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecodeError {
    /// The code for the CONNACK or DISCONNECT that answers it. (4.13)
    pub reason_code: ReasonCode,
    /// Which rule was broken, for the log and the reason string.
    pub detail: &'static str,
}

impl DecodeError {
    #[cold]
    pub(crate) fn new(reason_code: ReasonCode, detail: &'static str) -> Self {
        Self { reason_code, detail }
    }

    #[cold]
    pub(crate) fn malformed(detail: &'static str) -> Self {
        Self::new(ReasonCode::MalformedPacket, detail)
    }

    #[cold]
    pub(crate) fn protocol(detail: &'static str) -> Self {
        Self::new(ReasonCode::ProtocolError, detail)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({:?})", self.detail, self.reason_code)
    }
}

impl std::error::Error for DecodeError {}

/// A packet has no form on the wire in the version asked for. Nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EncodeError {
    /// A string or binary field is longer than its two-byte length can say. (1.5.4)
    FieldTooLong,
    /// The packet is larger than [`PACKET_SIZE_MAX`](crate::PACKET_SIZE_MAX).
    PacketTooLarge,
    /// The packet does not exist in this version: AUTH before 5.0.
    NotInThisVersion,
    /// CONNACK before 5.0 has no return code for this reason: close without a CONNACK. [MQTT-3.2.2-6 of 3.1.1]
    NoReturnCode,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::FieldTooLong => "a field is longer than 65,535 bytes",
            Self::PacketTooLarge => "the packet is larger than MQTT can express",
            Self::NotInThisVersion => "the packet does not exist in this protocol version",
            Self::NoReturnCode => "there is no return code for this reason before MQTT 5.0",
        })
    }
}

impl std::error::Error for EncodeError {}
