//! A message in its two forms: as clients send it, and as the replicated state keeps it.

use bytestring::ByteString;
use cluster::proto;
use mqtt_codec::{Publication, QoS};
use mqtt_topic::TopicName;

use crate::mailbox::LiveMessage;
use crate::retained_room::Owner;

/// When a message that came at `now_ms` expires, in milliseconds since the Unix epoch.
pub(crate) fn expires_at(publication: &Publication, now_ms: u64) -> Option<u64> {
    publication
        .message_expiry_interval()
        .map(|seconds| now_ms + u64::from(seconds) * 1000)
}

/// For the replicated state.
pub(crate) fn to_stored(message: &LiveMessage, publisher: &str) -> proto::Publication {
    proto::Publication {
        topic: message.publication.topic().as_str().to_owned(),
        properties: message.publication.properties_wire(),
        payload: message.publication.payload(),
        qos: u32::from(message.qos as u8),
        retain: message.retain,
        expires_at_ms: message.expires_at.unwrap_or(0),
        publisher: publisher.to_owned(),
        owner: String::new(),
    }
}

/// For the replicated state, and what is retained of it counts for its owner.
pub(crate) fn to_owned(message: &LiveMessage, publisher: &str, owner: &Owner) -> proto::Publication {
    let owner = if message.retain { owner.name.as_str() } else { "" };
    proto::Publication {
        owner: owner.to_owned(),
        ..to_stored(message, publisher)
    }
}

/// From the replicated state. `None`: the topic is not valid, which no writer of ours stores.
pub(crate) fn from_stored(stored: &proto::Publication) -> Option<LiveMessage> {
    let topic = TopicName::parse(ByteString::from(stored.topic.as_str())).ok()?;
    let expires_at = (stored.expires_at_ms != 0).then_some(stored.expires_at_ms);
    // The interval is only a marker here: what is left of it is computed from `expires_at` for each receiver.
    let interval = expires_at.map(|_| 0);
    let publication =
        Publication::with_properties(topic, stored.properties.clone(), interval, stored.payload.clone());
    Some(LiveMessage {
        publication,
        qos: qos_of(stored.qos),
        retain: stored.retain,
        expires_at,
    })
}

/// A stored QoS; anything above 2 is 2.
pub(crate) fn qos_of(value: u32) -> QoS {
    match value {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}
