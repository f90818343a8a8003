//! Words for negative acknowledgements: the Reason String that goes with a reason code. They hold none of the client's
//! data, and a client that wants no problem information is sent none of them. [MQTT-3.1.2-29]

use bytestring::ByteString;
use mqtt_codec::{Acknowledgement, Packet, ProtocolVersion, ReasonCode, WriteQueue, encode, encoded_len};

/// What a reason code means in an acknowledgement of this server; `None`: it went well.
pub(crate) fn explain(reason_code: ReasonCode) -> Option<&'static str> {
    if (reason_code as u8) < 0x80 {
        return None;
    }
    Some(match reason_code {
        ReasonCode::NotAuthorized => "not permitted; topics that begin with $ belong to the server",
        ReasonCode::TopicFilterInvalid => "a topic filter is malformed, too long or too deep",
        ReasonCode::TopicNameInvalid => "the topic name is not accepted",
        ReasonCode::PacketIdentifierInUse => "the packet identifier is in use",
        ReasonCode::PacketIdentifierNotFound => "no exchange with this packet identifier is under way",
        ReasonCode::QuotaExceeded => "a limit of this server is reached",
        ReasonCode::PayloadFormatInvalid => "the payload is not UTF-8",
        ReasonCode::SharedSubscriptionsNotSupported => "shared subscriptions are not available",
        ReasonCode::SubscriptionIdentifiersNotSupported => "subscription identifiers are not available",
        ReasonCode::WildcardSubscriptionsNotSupported => "wildcard subscriptions are not available",
        ReasonCode::UnspecifiedError => "it could not be stored now; try again later",
        _ => "refused",
    })
}

/// Whether, and up to which size of a packet, the client is told in words why something failed.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    pub(crate) version: ProtocolVersion,
    pub(crate) wanted: bool,
    pub(crate) packet_size_max: usize,
}

impl Words {
    /// Writes a packet with its reason string, if the client wants one and the packet stays small enough for it.
    /// [MQTT-3.4.2-2] [MQTT-3.5.2-2] [MQTT-3.6.2-2] [MQTT-3.7.2-2] [MQTT-3.9.2-1] [MQTT-3.11.2-1] [MQTT-3.14.2-3]
    pub(crate) fn write(
        self,
        words: Option<&'static str>,
        out: &mut WriteQueue,
        packet: impl Fn(Option<ByteString>) -> Packet,
    ) {
        let explained = words
            .filter(|_| self.wanted)
            .map(|words| packet(Some(words.into())))
            .filter(|packet| {
                encoded_len(packet, self.version).is_ok_and(|length| length <= self.packet_size_max)
            });
        write(&explained.unwrap_or_else(|| packet(None)), self.version, out);
    }

    pub(crate) fn write_acknowledgement(
        self,
        acknowledgement: Acknowledgement,
        out: &mut WriteQueue,
        packet: impl Fn(Acknowledgement) -> Packet,
    ) {
        let Some(words) = explain(acknowledgement.reason_code) else {
            return write(&packet(acknowledgement), self.version, out);
        };
        self.write(Some(words), out, |reason_string| {
            packet(Acknowledgement {
                reason_string,
                ..acknowledgement.clone()
            })
        });
    }
}

/// Writes a packet of the server's own making.
pub(crate) fn write(packet: &Packet, version: ProtocolVersion, out: &mut WriteQueue) {
    // The only packets that may not be encodable are those with oversized strings, and ours have none.
    let result = encode(packet, version, out);
    debug_assert!(
        result.is_ok(),
        "a packet of the server's own making was not encodable"
    );
}
