//! An application message in the form that every receiver shares.

use std::mem::size_of;
use std::ops::Range;

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_topic::TopicName;

use crate::properties::{Property, PropertyId, PutProperty, WriteProperties, own_str, read_judged};
use crate::reader::Reader;
use crate::sink::Sink;
use crate::types::UserProperties;

/// An application message: topic, payload, and the properties a server forwards unchanged.
///
/// A clone shares all bytes. A decoded one keeps the buffer it was read into alive; whoever stores it for long takes
/// a [`compact`](Self::compact) copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    topic: TopicName,
    properties: Bytes,
    payload: Bytes,
    message_expiry_interval: Option<u32>,
}

/// The forwarded properties of a [`Publication`] as values. (3.3.2.3)
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MessageProperties {
    /// `true`: the payload is UTF-8 text; `false`: unspecified bytes, said explicitly. (3.3.2.3.2)
    pub payload_format_indicator: Option<bool>,
    /// A description of the payload's content. (3.3.2.3.9)
    pub content_type: Option<ByteString>,
    /// Where an answer should be published. (3.3.2.3.5)
    pub response_topic: Option<ByteString>,
    /// What an answer should carry so that the requester knows it. (3.3.2.3.6)
    pub correlation_data: Option<Bytes>,
    /// Passed on in their order. [MQTT-3.3.2-18]
    pub user_properties: UserProperties,
}

impl Publication {
    /// A message without properties.
    pub fn new(topic: TopicName, payload: Bytes) -> Self {
        Self {
            topic,
            properties: Bytes::new(),
            payload,
            message_expiry_interval: None,
        }
    }

    /// A message from its stored parts. `properties` is what [`properties_wire`](Self::properties_wire) gave.
    #[inline]
    pub fn with_properties(
        topic: TopicName,
        properties: Bytes,
        message_expiry_interval: Option<u32>,
        payload: Bytes,
    ) -> Self {
        Self {
            topic,
            properties,
            payload,
            message_expiry_interval,
        }
    }

    /// A message with properties given as values. Strings longer than 65,535 bytes make a packet no one can read:
    /// callers keep them shorter.
    pub fn from_parts(topic: TopicName, properties: &MessageProperties, payload: Bytes) -> Self {
        let mut wire = Vec::new();
        properties.write_properties(&mut wire);
        Self::with_properties(topic, wire.into(), None, payload)
    }

    /// Where the message was published. Empty only in a PUBLISH that names its topic by alias.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The same message with another payload.
    pub fn with_payload(&self, payload: Bytes) -> Self {
        Self {
            topic: self.topic.clone(),
            properties: self.properties.clone(),
            payload,
            message_expiry_interval: self.message_expiry_interval,
        }
    }

    /// The payload, shared.
    pub fn payload(&self) -> Bytes {
        self.payload.clone()
    }

    /// The payload.
    pub fn payload_slice(&self) -> &[u8] {
        &self.payload
    }

    /// The length of the payload. A retained message of length 0 removes the one stored. [MQTT-3.3.1-6]
    pub fn payload_len(&self) -> usize {
        self.payload.len()
    }

    /// The forwarded properties as they stand on the wire, in the order received, without a length.
    pub fn properties_wire(&self) -> Bytes {
        self.properties.clone()
    }

    pub(crate) fn properties_ref(&self) -> &Bytes {
        &self.properties
    }

    pub(crate) fn payload_ref(&self) -> &Bytes {
        &self.payload
    }

    /// The forwarded properties as values.
    pub fn properties(&self) -> MessageProperties {
        let frame = &self.properties;
        let mut reader = Reader::new(frame);
        let mut values = MessageProperties::default();
        while let Some(property) = read_judged(&mut reader) {
            match property {
                Property::PayloadFormatIndicator(value) => values.payload_format_indicator = Some(value),
                Property::ContentType(value) => values.content_type = Some(own_str(frame, value)),
                Property::ResponseTopic(value) => values.response_topic = Some(own_str(frame, value)),
                Property::CorrelationData(value) => values.correlation_data = Some(frame.slice_ref(value)),
                Property::UserProperty(name, value) => {
                    values
                        .user_properties
                        .push((own_str(frame, name), own_str(frame, value)));
                }
                _ => {}
            }
        }
        values
    }

    /// The same message with another response topic, if it has one; where `change` has none, it is left out. What comes back is
    /// not longer than 65,535 bytes.
    pub fn map_response_topic(self, change: impl FnOnce(&str) -> Option<String>) -> Self {
        if !self.has_response_topic() {
            return self;
        }
        let mut properties = self.properties();
        properties.response_topic = properties
            .response_topic
            .and_then(|topic| change(&topic))
            .map(ByteString::from);
        let mut wire = Vec::new();
        properties.write_properties(&mut wire);
        Self {
            properties: wire.into(),
            ..self
        }
    }

    fn has_response_topic(&self) -> bool {
        let mut reader = Reader::new(&self.properties);
        let mut properties = std::iter::from_fn(|| read_judged(&mut reader));
        properties.any(|property| matches!(property, Property::ResponseTopic(_)))
    }

    /// The lifetime its publisher gave it, in seconds. (3.3.2.3.3)
    pub fn message_expiry_interval(&self) -> Option<u32> {
        self.message_expiry_interval
    }

    /// The bytes it keeps in memory, roughly: what quotas count.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.topic.as_str().len() + self.properties.len() + self.payload.len()
    }

    /// The same message under another topic: the one its alias stands for.
    pub fn with_topic(self, topic: TopicName) -> Self {
        Self { topic, ..self }
    }

    /// The same message with another lifetime.
    pub fn with_message_expiry_interval(self, message_expiry_interval: Option<u32>) -> Self {
        Self {
            message_expiry_interval,
            ..self
        }
    }

    /// A copy in memory of its own, in one piece, which does not keep a read buffer alive.
    pub fn compact(&self) -> Self {
        let topic = self.topic.as_str().as_bytes();
        let mut all = Vec::with_capacity(topic.len() + self.properties.len() + self.payload.len());
        all.extend_from_slice(topic);
        all.extend_from_slice(&self.properties);
        all.extend_from_slice(&self.payload);
        let all = Bytes::from(all);
        let properties_end = topic.len() + self.properties.len();
        Self {
            topic: copied_topic(all.slice(..topic.len())),
            properties: all.slice(topic.len()..properties_end),
            payload: all.slice(properties_end..),
            message_expiry_interval: self.message_expiry_interval,
        }
    }
}

fn copied_topic(bytes: Bytes) -> TopicName {
    if bytes.is_empty() {
        return TopicName::empty();
    }
    let string = ByteString::try_from(bytes).expect("the bytes of a topic name are UTF-8");
    TopicName::parse(string).expect("it was a topic name before it was copied")
}

impl WriteProperties for MessageProperties {
    fn write_properties<S: Sink>(&self, out: &mut S) {
        out.put_flag_property(PropertyId::PayloadFormatIndicator, self.payload_format_indicator);
        out.put_str_property(PropertyId::ContentType, self.content_type.as_ref());
        out.put_str_property(PropertyId::ResponseTopic, self.response_topic.as_ref());
        out.put_bytes_property(PropertyId::CorrelationData, self.correlation_data.as_deref());
        out.put_user_properties(&self.user_properties);
    }
}

/// Collects the forwarded properties of a section: a slice of it, or a copy if others stand between them.
#[derive(Default)]
pub(crate) struct Forwarded {
    span: Range<usize>,
    rebuilt: Vec<u8>,
}

impl Forwarded {
    #[inline]
    pub(crate) fn add(&mut self, section: &[u8], property: Range<usize>) {
        if !self.rebuilt.is_empty() {
            self.rebuilt.extend_from_slice(&section[property]);
        } else if self.span.is_empty() {
            self.span = property;
        } else if self.span.end == property.start {
            self.span.end = property.end;
        } else {
            self.rebuilt.extend_from_slice(&section[self.span.clone()]);
            self.rebuilt.extend_from_slice(&section[property]);
        }
    }

    #[inline]
    pub(crate) fn finish(self, frame: &Bytes, section: &[u8]) -> Bytes {
        if self.rebuilt.is_empty() {
            frame.slice_ref(&section[self.span])
        } else {
            self.rebuilt.into()
        }
    }
}
