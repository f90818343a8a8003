//! SUBSCRIBE judged filter by filter, before the broker is asked (MQTT 5.0 section 3.8).

use bytestring::ByteString;
use mqtt_codec::{PacketId, ReasonCode, Subscribe, SubscriptionOptions};
use mqtt_topic::SubscriptionFilter;

use crate::{ProtocolError, ServerLimits};

/// One valid filter of a SUBSCRIBE.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// As sent, for the client's list of subscriptions.
    pub name: ByteString,
    /// The same, parsed.
    pub filter: SubscriptionFilter,
    /// QoS already lowered to the server's Maximum QoS.
    pub options: SubscriptionOptions,
    /// Zero: none.
    pub subscription_id: u32,
}

/// A SUBSCRIBE whose filters are valid, or have got their reason code.
#[derive(Clone, Debug)]
pub struct SubscribeRequest {
    /// For the SUBACK.
    pub packet_id: PacketId,
    /// In the order of the packet. [MQTT-3.8.4-6]
    pub entries: Vec<Result<Subscription, ReasonCode>>,
    /// How many of them have more levels than a filter may.
    pub too_deep: usize,
}

pub(crate) fn judge(packet: Subscribe, limits: &ServerLimits) -> Result<SubscribeRequest, ProtocolError> {
    if packet.subscription_id.is_some() && !limits.subscription_identifiers_available {
        let reason = ReasonCode::SubscriptionIdentifiersNotSupported;
        return Err(ProtocolError::new(
            reason,
            "subscription identifiers are not available",
        ));
    }
    let subscription_id = packet.subscription_id.unwrap_or(0);
    let mut entries = Vec::with_capacity(packet.filters.len());
    let mut too_deep = 0;
    for entry in packet.filters {
        entries.push(match SubscriptionFilter::parse(entry.filter.clone()) {
            Err(_) => Err(ReasonCode::TopicFilterInvalid),
            Ok(filter) => {
                let shared = filter.share().is_some();
                if shared && entry.options.no_local {
                    // [MQTT-3.8.3-4]
                    return Err(ProtocolError::violation("No Local on a shared subscription"));
                }
                if shared && !limits.shared_subscription_available {
                    Err(ReasonCode::SharedSubscriptionsNotSupported)
                } else if filter.filter().has_wildcards() && !limits.wildcard_subscription_available {
                    Err(ReasonCode::WildcardSubscriptionsNotSupported)
                } else if filter.filter().levels() > limits.topic_levels_max {
                    too_deep += 1;
                    Err(ReasonCode::TopicFilterInvalid)
                } else {
                    let mut options = entry.options;
                    options.qos = options.qos.min(limits.maximum_qos);
                    Ok(Subscription {
                        name: entry.filter,
                        filter,
                        options,
                        subscription_id,
                    })
                }
            }
        });
    }
    Ok(SubscribeRequest {
        packet_id: packet.packet_id,
        entries,
        too_deep,
    })
}
