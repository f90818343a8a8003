//! PUBLISH: decoded without copying, encoded from a shared [`Publication`] and a head of its own per receiver. (3.3)

use std::num::NonZeroU16;

use bytes::{Buf, Bytes};
use mqtt_topic::TopicName;

use crate::PACKET_SIZE_MAX;
use crate::error::{DecodeError, EncodeError};
use crate::packet::PacketType;
use crate::properties::{Place, Property, PropertyId, PropertyReader};
use crate::publication::{Forwarded, Publication};
use crate::reader::{Context, Reader};
use crate::sink::{Sink, variable_len};
use crate::types::{PacketId, ProtocolVersion, QoS};
use crate::write_queue::{COPIED_SIZE_MAX, WriteQueue};

/// The identifiers of the subscriptions a message matched. Without any it holds no memory. (3.3.2.3.8)
pub type SubscriptionIds = Vec<u32>;

/// A PUBLISH as it was received, or as a client sends it. (3.3)
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publish {
    /// It may have been sent before. Always `false` with QoS 0. [MQTT-3.3.1-2]
    pub dup: bool,
    /// The level of assurance.
    pub qos: QoS,
    /// To be retained, or retained before. (3.3.1.3)
    pub retain: bool,
    /// Present exactly if `qos` is not 0. [MQTT-2.2.1-2]
    pub packet_id: Option<PacketId>,
    /// Stands for the topic, or is to stand for it from now on. (3.3.2.3.4)
    pub topic_alias: Option<NonZeroU16>,
    /// Sent by servers only. [MQTT-3.3.4-6]
    pub subscription_ids: SubscriptionIds,
    /// The message.
    pub publication: Publication,
}

impl Publish {
    fn head(&self) -> PublishHead<'_> {
        PublishHead {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            packet_id: self.packet_id,
            subscription_ids: &self.subscription_ids,
            topic_alias: self.topic_alias,
            omit_topic: false,
            message_expiry_interval: self.publication.message_expiry_interval(),
        }
    }
}

/// What is different for each receiver of a shared [`Publication`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PublishHead<'a> {
    /// Sent before on this session. [MQTT-3.3.1-1]
    pub dup: bool,
    /// The level of assurance for this receiver.
    pub qos: QoS,
    /// As the subscription's retain-as-published and the delivery ask for. (3.3.1.3)
    pub retain: bool,
    /// Must be present if `qos` is not 0; not written otherwise. [MQTT-2.2.1-2]
    pub packet_id: Option<PacketId>,
    /// All subscriptions of this receiver that matched and carry an identifier. [MQTT-3.3.4-4]
    pub subscription_ids: &'a [u32],
    /// The alias for the topic on this connection.
    pub topic_alias: Option<NonZeroU16>,
    /// The receiver knows the alias already: write a zero-length topic.
    pub omit_topic: bool,
    /// What is left of the message's lifetime. [MQTT-3.3.2-6]
    pub message_expiry_interval: Option<u32>,
}

/// Appends a PUBLISH: the head is copied, a large payload is shared. Properties are left out before MQTT 5.0.
///
/// Whoever calls compares [`publish_len`] with the receiver's maximum packet size [MQTT-3.1.2-24]; of a packet above
/// [`PACKET_SIZE_MAX`], which has no form on the wire, nothing is written.
pub fn encode_publish(
    publication: &Publication,
    version: ProtocolVersion,
    head: &PublishHead<'_>,
    out: &mut WriteQueue,
) {
    debug_assert!(
        head.qos == QoS::AtMostOnce || head.packet_id.is_some(),
        "a packet identifier is missing"
    );
    let layout = Layout::new(publication, version, head);
    let total = layout.total();
    if total > PACKET_SIZE_MAX as usize {
        return;
    }
    out.count_packet(PacketType::Publish);
    let (properties, payload) = (publication.properties_ref(), publication.payload_slice());
    if total - layout.head_len() <= COPIED_SIZE_MAX {
        let buffer = out.gather(total);
        layout.write_head(buffer);
        if layout.is_v5() {
            buffer.extend_from_slice(properties);
        }
        buffer.extend_from_slice(payload);
    } else {
        layout.write_head(out.gather(layout.head_len()));
        if layout.is_v5() {
            out.push(properties);
        }
        out.push(publication.payload_ref());
    }
}

/// The length of what [`encode_publish`] writes for the same arguments.
pub fn publish_len(publication: &Publication, version: ProtocolVersion, head: &PublishHead<'_>) -> usize {
    Layout::new(publication, version, head).total()
}

/// Encodes a PUBLISH of its own. With a topic alias and a topic both are written.
pub(crate) fn encode(
    publish: &Publish,
    version: ProtocolVersion,
    out: &mut WriteQueue,
) -> Result<(), EncodeError> {
    encoded_len(publish, version)?;
    encode_publish(&publish.publication, version, &publish.head(), out);
    Ok(())
}

pub(crate) fn encoded_len(publish: &Publish, version: ProtocolVersion) -> Result<usize, EncodeError> {
    match publish_len(&publish.publication, version, &publish.head()) {
        len if len > PACKET_SIZE_MAX as usize => Err(EncodeError::PacketTooLarge),
        len => Ok(len),
    }
}

/// Decodes the body of a PUBLISH whose first byte was `first_byte`.
#[inline]
pub(crate) fn decode(first_byte: u8, mut body: Bytes, context: &Context) -> Result<Publish, DecodeError> {
    let dup = first_byte & 0b1000 != 0;
    let retain = first_byte & 0b0001 != 0;
    let Ok(qos) = QoS::try_from(first_byte >> 1 & 0b11) else {
        // [MQTT-3.3.1-4]
        return Err(DecodeError::malformed("QoS 3"));
    };
    if dup && qos == QoS::AtMostOnce && context.version != ProtocolVersion::V3_1 {
        return Err(DecodeError::malformed("DUP with QoS 0"));
    }
    let mut reader = Reader::new(&body);
    let topic = reader.topic(&context.limits, context.is_v5())?;
    let packet_id = if qos == QoS::AtMostOnce {
        None
    } else {
        Some(reader.packet_id()?)
    };
    let properties = if context.is_v5() {
        decode_properties(&mut reader, context)?
    } else {
        Properties::default()
    };
    if properties.topic_alias.is_none() && topic.as_str().is_empty() {
        return Err(DecodeError::protocol("neither a topic name nor a topic alias"));
    }
    let payload_start = body.len() - reader.rest().len();
    body.advance(payload_start);
    Ok(Publish {
        dup,
        qos,
        retain,
        packet_id,
        topic_alias: properties.topic_alias,
        subscription_ids: properties.subscription_ids,
        publication: publication(
            topic,
            properties.forwarded,
            properties.message_expiry_interval,
            body,
        ),
    })
}

#[inline]
fn publication(topic: TopicName, forwarded: Bytes, expiry: Option<u32>, payload: Bytes) -> Publication {
    // An empty slice would still keep the read buffer.
    let payload = if payload.is_empty() { Bytes::new() } else { payload };
    Publication::with_properties(topic, forwarded, expiry, payload)
}

#[derive(Default)]
struct Properties {
    topic_alias: Option<NonZeroU16>,
    subscription_ids: SubscriptionIds,
    message_expiry_interval: Option<u32>,
    forwarded: Bytes,
}

#[inline]
fn decode_properties(reader: &mut Reader<'_>, context: &Context) -> Result<Properties, DecodeError> {
    let mut found = Properties::default();
    let mut properties = PropertyReader::new(reader, Place::Packet(PacketType::Publish), context)?;
    let section = properties.rest();
    if section.is_empty() {
        return Ok(found);
    }
    let mut forwarded = Forwarded::default();
    loop {
        let start = section.len() - properties.rest().len();
        let Some(property) = properties.next()? else { break };
        match property {
            Property::TopicAlias(alias) => found.topic_alias = Some(alias),
            Property::MessageExpiryInterval(seconds) => found.message_expiry_interval = Some(seconds),
            Property::SubscriptionIdentifier(id) => found.subscription_ids.push(id),
            _ => forwarded.add(section, start..section.len() - properties.rest().len()),
        }
    }
    found.forwarded = forwarded.finish(reader.frame(), section);
    Ok(found)
}

/// The lengths that a PUBLISH writes before what they count.
struct Layout<'a> {
    topic: &'a str,
    head: &'a PublishHead<'a>,
    /// The property section without its own length; `None` before MQTT 5.0.
    properties_len: Option<usize>,
    /// Of these, the ones that stand in the head.
    head_properties_len: usize,
    qos: QoS,
    remaining_len: usize,
    payload_len: usize,
    forwarded_len: usize,
}

impl<'a> Layout<'a> {
    #[inline]
    fn new(publication: &'a Publication, version: ProtocolVersion, head: &'a PublishHead<'a>) -> Self {
        let is_v5 = version == ProtocolVersion::V5;
        let topic = if head.omit_topic && is_v5 {
            ""
        } else {
            publication.topic().as_str()
        };
        let payload_len = publication.payload_len();
        let packet_id_len = if head.qos == QoS::AtMostOnce { 0 } else { 2 };
        let mut remaining_len = 2 + topic.len() + packet_id_len + payload_len;
        let mut properties_len = None;
        let (mut head_properties_len, mut forwarded_len) = (0, 0);
        if is_v5 {
            head_properties_len = head_properties(head);
            forwarded_len = publication.properties_ref().len();
            let len = head_properties_len + forwarded_len;
            properties_len = Some(len);
            remaining_len += variable_len(saturate(len)) + len;
        }
        Self {
            topic,
            head,
            properties_len,
            head_properties_len,
            qos: head.qos,
            remaining_len,
            payload_len,
            forwarded_len,
        }
    }

    fn is_v5(&self) -> bool {
        self.properties_len.is_some()
    }

    fn total(&self) -> usize {
        1 + variable_len(saturate(self.remaining_len)) + self.remaining_len
    }

    /// Everything before the forwarded properties and the payload.
    fn head_len(&self) -> usize {
        self.total() - self.forwarded_len - self.payload_len
    }

    #[inline]
    fn write_head(&self, out: &mut Vec<u8>) {
        let flags = u8::from(self.head.dup) << 3 | (self.qos as u8) << 1 | u8::from(self.head.retain);
        out.put_u8((PacketType::Publish as u8) << 4 | flags);
        out.put_variable(saturate(self.remaining_len));
        out.put_prefixed(self.topic.as_bytes());
        if self.qos != QoS::AtMostOnce {
            out.put_u16(self.head.packet_id.map_or(0, PacketId::get));
        }
        let Some(properties_len) = self.properties_len else {
            return;
        };
        out.put_variable(saturate(properties_len));
        if self.head_properties_len != 0 {
            self.write_head_properties(out);
        }
    }

    fn write_head_properties(&self, out: &mut Vec<u8>) {
        if let Some(alias) = self.head.topic_alias {
            out.put_u8(PropertyId::TopicAlias as u8);
            out.put_u16(alias.get());
        }
        if let Some(seconds) = self.head.message_expiry_interval {
            out.put_u8(PropertyId::MessageExpiryInterval as u8);
            out.put_u32(seconds);
        }
        for id in self.head.subscription_ids {
            out.put_u8(PropertyId::SubscriptionIdentifier as u8);
            out.put_variable(*id);
        }
    }
}

fn head_properties(head: &PublishHead<'_>) -> usize {
    let alias = if head.topic_alias.is_some() { 3 } else { 0 };
    let expiry = if head.message_expiry_interval.is_some() {
        5
    } else {
        0
    };
    alias
        + expiry
        + head
            .subscription_ids
            .iter()
            .map(|id| 1 + variable_len(*id))
            .sum::<usize>()
}

fn saturate(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
