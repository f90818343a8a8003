//! What can be wrong with bytes that came in, and with packets that should go out.

use std::fmt;

use crate::reason_code::ReasonCode;

/// What one side bounds of what the other may send or have, by the key that sets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Bytes of a packet.
    PacketSize,
    /// Bytes of the first packet.
    PacketSizeBeforeConnect,
    /// Levels of a topic name or filter.
    TopicLevels,
    /// Bytes of a topic name or filter.
    TopicBytes,
    /// Filters of a SUBSCRIBE or UNSUBSCRIBE.
    FiltersPerPacket,
    /// User properties of a packet.
    UserProperties,
    /// PUBLISH packets under way.
    ReceiveMaximum,
    /// The highest topic alias.
    TopicAlias,
    /// Bytes of a client id.
    ClientIdBytes,
}

impl Limit {
    /// All of them, by number.
    pub const ALL: [Self; 9] = [
        Self::PacketSize,
        Self::PacketSizeBeforeConnect,
        Self::TopicLevels,
        Self::TopicBytes,
        Self::FiltersPerPacket,
        Self::UserProperties,
        Self::ReceiveMaximum,
        Self::TopicAlias,
        Self::ClientIdBytes,
    ];

    /// The key that sets it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PacketSize => "packet_size_max",
            Self::PacketSizeBeforeConnect => "packet_size_before_connect",
            Self::TopicLevels => "topic_levels_max",
            Self::TopicBytes => "topic_bytes_max",
            Self::FiltersPerPacket => "filters_per_packet_max",
            Self::UserProperties => "user_properties_max",
            Self::ReceiveMaximum => "receive_maximum",
            Self::TopicAlias => "topic_alias_maximum",
            Self::ClientIdBytes => "client_id_bytes_max",
        }
    }
}

/// The peer broke the protocol. Nothing can be read after it: say the reason code if the version allows, and close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecodeError {
    /// The code for the CONNACK or DISCONNECT that answers it. (4.13)
    pub reason_code: ReasonCode,
    /// Which rule was broken, for the log and the reason string.
    pub detail: &'static str,
    /// Within the standard, and beyond what this side permits.
    pub limit: Option<Limit>,
}

impl DecodeError {
    #[cold]
    pub(crate) fn new(reason_code: ReasonCode, detail: &'static str) -> Self {
        Self {
            reason_code,
            detail,
            limit: None,
        }
    }

    #[cold]
    pub(crate) fn beyond(limit: Limit, reason_code: ReasonCode, detail: &'static str) -> Self {
        Self {
            limit: Some(limit),
            ..Self::new(reason_code, detail)
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_their_number_and_a_name_of_their_own() {
        for (number, limit) in Limit::ALL.iter().enumerate() {
            assert_eq!(*limit as usize, number);
            let same = Limit::ALL.iter().filter(|other| other.as_str() == limit.as_str());
            assert_eq!(same.count(), 1, "{limit:?}");
        }
    }
}
