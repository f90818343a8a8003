//! What a test says about a CONNECT and about a message, in a chain of short words.

use std::num::NonZeroU16;

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use mqtt_codec::{Connect, ConnectProperties, PacketId, ProtocolVersion, Publication, Publish, QoS, Will};
use mqtt_topic::TopicName;

/// A CONNECT under construction. Starts as: clean start, no keep alive, no properties, no will.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// The packet as it will be sent, for what has no method here.
    pub connect: Connect,
}

impl ConnectOptions {
    /// Of any version.
    pub fn new(version: ProtocolVersion, client_id: impl Into<String>) -> Self {
        ConnectOptions {
            connect: Connect {
                version,
                client_id: client_id.into().into(),
                clean_start: true,
                keep_alive: 0,
                username: None,
                password: None,
                will: None,
                properties: ConnectProperties::default(),
            },
        }
    }

    /// MQTT 5.0.
    pub fn v5(client_id: impl Into<String>) -> Self {
        Self::new(ProtocolVersion::V5, client_id)
    }

    /// MQTT 3.1.1.
    pub fn v311(client_id: impl Into<String>) -> Self {
        Self::new(ProtocolVersion::V3_1_1, client_id)
    }

    /// MQTT 3.1.
    pub fn v31(client_id: impl Into<String>) -> Self {
        Self::new(ProtocolVersion::V3_1, client_id)
    }

    /// Clean start 0 (clean session 0 before version 5).
    pub fn resume(mut self) -> Self {
        self.connect.clean_start = false;
        self
    }

    /// Keeps the session this many seconds after the connection ends; version 5 only.
    pub fn session_expiry(mut self, seconds: u32) -> Self {
        self.connect.properties.session_expiry_interval = Some(seconds);
        self
    }

    /// A session that outlives the connection, in any version.
    pub fn persistent(self) -> Self {
        let version = self.connect.version;
        let resumed = self.resume();
        if version == ProtocolVersion::V5 {
            resumed.session_expiry(3600)
        } else {
            resumed
        }
    }

    /// Keep alive in seconds.
    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.connect.keep_alive = seconds;
        self
    }

    /// How many QoS 1 and 2 messages may be under way towards this client.
    pub fn receive_maximum(mut self, messages: u16) -> Self {
        self.connect.properties.receive_maximum = NonZeroU16::new(messages);
        self
    }

    /// The largest packet this client accepts.
    pub fn maximum_packet_size(mut self, bytes: u32) -> Self {
        self.connect.properties.maximum_packet_size = Some(bytes);
        self
    }

    /// How many topic aliases the broker may use towards this client.
    pub fn topic_alias_maximum(mut self, aliases: u16) -> Self {
        self.connect.properties.topic_alias_maximum = Some(aliases);
        self
    }

    /// Whether reason strings are wanted on packets other than PUBLISH, CONNACK and DISCONNECT.
    pub fn request_problem_information(mut self, wanted: bool) -> Self {
        self.connect.properties.request_problem_information = Some(wanted);
        self
    }

    /// A will without delay.
    pub fn will(self, message: Message) -> Self {
        self.delayed_will(message, 0)
    }

    /// A will that waits this many seconds after the connection ended.
    pub fn delayed_will(mut self, message: Message, delay_seconds: u32) -> Self {
        let publish = message.build();
        self.connect.will = Some(Will {
            publication: publish.publication,
            qos: publish.qos,
            retain: publish.retain,
            delay_interval: delay_seconds,
        });
        self
    }

    /// User name and password.
    pub fn credentials(mut self, username: &str, password: &[u8]) -> Self {
        self.connect.username = Some(ByteString::from(username));
        self.connect.password = Some(Bytes::copy_from_slice(password));
        self
    }
}

/// A message under construction. Starts as QoS 0, not retained, no properties.
#[derive(Clone, Debug)]
pub struct Message {
    topic: TopicName,
    payload: Bytes,
    qos: QoS,
    retain: bool,
    dup: bool,
    packet_id: Option<PacketId>,
    topic_alias: Option<NonZeroU16>,
    properties: BytesMut,
    expiry: Option<u32>,
}

impl Message {
    /// A message for `topic`, which has to be a valid topic name.
    pub fn new(topic: &str, payload: impl AsRef<[u8]>) -> Self {
        let topic = TopicName::parse(ByteString::from(topic)).expect("a test uses valid topic names here");
        Message {
            topic,
            payload: Bytes::copy_from_slice(payload.as_ref()),
            qos: QoS::AtMostOnce,
            retain: false,
            dup: false,
            packet_id: None,
            topic_alias: None,
            properties: BytesMut::new(),
            expiry: None,
        }
    }

    /// Quality of service 0, 1 or 2.
    pub fn qos(mut self, qos: u8) -> Self {
        self.qos = QoS::try_from(qos).expect("a test uses QoS 0, 1 or 2 here");
        self
    }

    /// Sets RETAIN.
    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    /// Sets DUP.
    pub fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    /// Chooses the packet id instead of the client's next one.
    pub fn packet_id(mut self, id: u16) -> Self {
        self.packet_id = PacketId::new(id);
        self
    }

    /// Sends a topic alias along with the topic.
    pub fn topic_alias(mut self, alias: u16) -> Self {
        self.topic_alias = NonZeroU16::new(alias);
        self
    }

    /// Message expiry interval in seconds.
    pub fn expiry(mut self, seconds: u32) -> Self {
        self.expiry = Some(seconds);
        self
    }

    /// Payload format indicator; 1 says that the payload is UTF-8.
    pub fn payload_format(mut self, indicator: u8) -> Self {
        self.properties.put_slice(&[0x01, indicator]);
        self
    }

    /// Content type.
    pub fn content_type(self, text: &str) -> Self {
        self.bytes_property(0x03, text.as_bytes())
    }

    /// Response topic.
    pub fn response_topic(self, topic: &str) -> Self {
        self.bytes_property(0x08, topic.as_bytes())
    }

    /// Correlation data.
    pub fn correlation_data(self, data: &[u8]) -> Self {
        self.bytes_property(0x09, data)
    }

    /// One more user property.
    pub fn user_property(self, name: &str, value: &str) -> Self {
        let mut message = self.bytes_property(0x26, name.as_bytes());
        message.put_bytes(value.as_bytes());
        message
    }

    /// The packet; the client adds a packet id where one is needed and none was chosen.
    pub fn build(self) -> Publish {
        let publication =
            Publication::with_properties(self.topic, self.properties.freeze(), self.expiry, self.payload);
        Publish {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            packet_id: self.packet_id,
            topic_alias: self.topic_alias,
            subscription_ids: Default::default(),
            publication,
        }
    }

    fn bytes_property(mut self, identifier: u8, value: &[u8]) -> Self {
        self.properties.put_u8(identifier);
        self.put_bytes(value);
        self
    }

    fn put_bytes(&mut self, value: &[u8]) {
        let length = u16::try_from(value.len()).expect("a test uses short properties");
        self.properties.put_u16(length);
        self.properties.put_slice(value);
    }
}
