//! CONNECT: who the client is, how it wants to talk, and its will. (3.1)

use std::num::NonZeroU16;

use bytes::Bytes;
use bytestring::ByteString;

use crate::decoder::DecodeLimits;
use crate::error::DecodeError;
use crate::packet::PacketType;
use crate::properties::{
    Place, Property, PropertyId, PropertyReader, PutProperty, WriteProperties, put_section,
};
use crate::publication::{Forwarded, Publication};
use crate::reader::{Context, Reader};
use crate::reason_code::ReasonCode;
use crate::sink::Sink;
use crate::types::{ProtocolVersion, QoS, UserProperties};

/// The first packet of a client. (3.1)
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connect {
    /// The version the rest of the connection speaks.
    pub version: ProtocolVersion,
    /// May be empty: the server then chooses one. In MQTT 3.1 it is never empty. (3.1.3.1)
    pub client_id: ByteString,
    /// Forget an earlier session. Before MQTT 5.0, "clean session": and keep none afterwards. (3.1.2.4)
    pub clean_start: bool,
    /// In seconds; 0 turns it off. (3.1.2.10)
    pub keep_alive: u16,
    /// The user name.
    pub username: Option<ByteString>,
    /// The password. Before MQTT 5.0 only together with a user name. [MQTT-3.1.2-22 of 3.1.1]
    pub password: Option<Bytes>,
    /// Published for the client when it is gone. (3.1.2.5)
    pub will: Option<Will>,
    /// Sent in MQTT 5.0 only.
    pub properties: ConnectProperties,
}

/// What the client tells about itself. Absent means the default of the specification. (3.1.2.11)
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(
    missing_docs,
    reason = "the fields are the property names of the specification"
)]
pub struct ConnectProperties {
    pub session_expiry_interval: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    pub maximum_packet_size: Option<u32>,
    pub topic_alias_maximum: Option<u16>,
    pub request_response_information: Option<bool>,
    pub request_problem_information: Option<bool>,
    pub authentication_method: Option<ByteString>,
    pub authentication_data: Option<Bytes>,
    pub user_properties: UserProperties,
}

/// A message that the server publishes when the client is gone. (3.1.2.5)
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Will {
    /// The message.
    pub publication: Publication,
    /// The QoS it is published with.
    pub qos: QoS,
    /// Whether it is retained.
    pub retain: bool,
    /// How long the server waits before it publishes, in seconds. (3.1.3.2.2)
    pub delay_interval: u32,
}

impl Connect {
    /// A CONNECT with a clean start, keep alive off and nothing else.
    pub fn new(version: ProtocolVersion, client_id: ByteString) -> Self {
        Self {
            version,
            client_id,
            clean_start: true,
            keep_alive: 0,
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties::default(),
        }
    }

    /// `minimal_length` tells whether the fixed header's length was in its shortest form, which only the version
    /// found here can judge.
    pub(crate) fn decode(
        body: &Bytes,
        limits: DecodeLimits,
        minimal_length: bool,
    ) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let version = decode_version(&mut reader)?;
        if version == ProtocolVersion::V5 && !minimal_length {
            return Err(DecodeError::malformed("a length is not in its shortest form"));
        }
        let context = Context {
            version,
            limits,
            from_server: false,
        };
        let flags = Flags::decode(reader.u8()?, version)?;
        let keep_alive = reader.u16()?;
        let properties = ConnectProperties::decode(&mut reader, &context)?;
        let client_id = reader.string()?;
        check_client_id(&client_id, version, flags.clean_start)?;
        let will = match flags.will {
            Some((qos, retain)) => Some(Will::decode(&mut reader, &context, qos, retain)?),
            None => None,
        };
        // In MQTT 3.1 the remaining length is stronger than the flags.
        let missing = |reader: &Reader<'_>| version == ProtocolVersion::V3_1 && reader.is_empty();
        let username = if flags.username && !missing(&reader) {
            Some(reader.string()?)
        } else {
            None
        };
        let password = if flags.password && !missing(&reader) {
            Some(reader.bytes()?)
        } else {
            None
        };
        reader.finish()?;
        let clean_start = flags.clean_start;
        Ok(Self {
            version,
            client_id,
            clean_start,
            keep_alive,
            username,
            password,
            will,
            properties,
        })
    }

    pub(crate) fn write<S: Sink>(&self, out: &mut S) {
        out.put_prefixed(self.version.name().as_bytes());
        out.put_u8(self.version.level());
        out.put_u8(Flags::of(self).byte());
        out.put_u16(self.keep_alive);
        let is_v5 = self.version == ProtocolVersion::V5;
        if is_v5 {
            put_section(out, &self.properties);
        }
        out.put_prefixed(self.client_id.as_bytes());
        if let Some(will) = &self.will {
            if is_v5 {
                put_section(out, will);
            }
            out.put_prefixed(will.publication.topic().as_str().as_bytes());
            out.put_prefixed(will.publication.payload_slice());
        }
        if let Some(username) = &self.username {
            out.put_prefixed(username.as_bytes());
        }
        if let Some(password) = &self.password {
            out.put_prefixed(password);
        }
    }
}

/// Reads name and level; everything after them depends on the version. [MQTT-3.1.2-1, MQTT-3.1.2-2]
fn decode_version(reader: &mut Reader<'_>) -> Result<ProtocolVersion, DecodeError> {
    let name = reader.binary()?;
    let level = reader.u8()?;
    [
        ProtocolVersion::V3_1,
        ProtocolVersion::V3_1_1,
        ProtocolVersion::V5,
    ]
    .into_iter()
    .find(|version| version.name().as_bytes() == name && version.level() == level)
    .ok_or_else(|| {
        DecodeError::new(
            ReasonCode::UnsupportedProtocolVersion,
            "protocol name or level is not supported",
        )
    })
}

/// The version of a CONNECT, or for one of an unknown version the nearest that has words to refuse it.
pub(crate) fn version_for_answer(body: &Bytes) -> Option<ProtocolVersion> {
    match decode_version(&mut Reader::new(body)) {
        Ok(version) => Some(version),
        Err(error) if error.reason_code == ReasonCode::UnsupportedProtocolVersion => {
            let mut reader = Reader::new(body);
            reader.binary().ok()?;
            let newer = reader.u8().ok()? > ProtocolVersion::V5.level();
            Some(if newer {
                ProtocolVersion::V5
            } else {
                ProtocolVersion::V3_1_1
            })
        }
        Err(_) => None,
    }
}

fn check_client_id(client_id: &str, version: ProtocolVersion, clean_start: bool) -> Result<(), DecodeError> {
    let may_be_empty = match version {
        ProtocolVersion::V3_1 => false,
        // [MQTT-3.1.3-8] of 3.1.1
        ProtocolVersion::V3_1_1 => clean_start,
        ProtocolVersion::V5 => true,
    };
    if client_id.is_empty() && !may_be_empty {
        return Err(DecodeError::new(
            ReasonCode::ClientIdentifierNotValid,
            "empty client identifier",
        ));
    }
    Ok(())
}

/// The connect flags. (3.1.2.3)
struct Flags {
    username: bool,
    password: bool,
    will: Option<(QoS, bool)>,
    clean_start: bool,
}

impl Flags {
    fn decode(byte: u8, version: ProtocolVersion) -> Result<Self, DecodeError> {
        // In MQTT 3.1 bit 0 was not used, and the will bits meant nothing without a will.
        let is_strict = version != ProtocolVersion::V3_1;
        if is_strict && byte & 1 != 0 {
            // [MQTT-3.1.2-3]
            return Err(DecodeError::malformed("reserved connect flag"));
        }
        let Ok(will_qos) = QoS::try_from(byte >> 3 & 0b11) else {
            // [MQTT-3.1.2-12]
            return Err(DecodeError::malformed("will QoS 3"));
        };
        let has_will = byte & 0b100 != 0;
        if is_strict && !has_will && byte & 0b0011_1000 != 0 {
            // [MQTT-3.1.2-11, MQTT-3.1.2-13]
            return Err(DecodeError::malformed("will QoS or will retain without a will"));
        }
        let (username, password) = (byte & 0b1000_0000 != 0, byte & 0b0100_0000 != 0);
        if password && !username && version != ProtocolVersion::V5 {
            // [MQTT-3.1.2-22] of 3.1.1
            return Err(DecodeError::malformed("password without a user name"));
        }
        Ok(Self {
            username,
            password,
            will: has_will.then_some((will_qos, byte & 0b10_0000 != 0)),
            clean_start: byte & 0b10 != 0,
        })
    }

    fn of(connect: &Connect) -> Self {
        Self {
            username: connect.username.is_some(),
            password: connect.password.is_some(),
            will: connect.will.as_ref().map(|will| (will.qos, will.retain)),
            clean_start: connect.clean_start,
        }
    }

    fn byte(&self) -> u8 {
        let will = self.will.map_or(0, |(qos, retain)| {
            0b100 | (qos as u8) << 3 | u8::from(retain) << 5
        });
        u8::from(self.username) << 7 | u8::from(self.password) << 6 | will | u8::from(self.clean_start) << 1
    }
}

impl ConnectProperties {
    fn decode(reader: &mut Reader<'_>, context: &Context) -> Result<Self, DecodeError> {
        let mut found = Self::default();
        let mut properties = PropertyReader::new(reader, Place::Packet(PacketType::Connect), context)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::SessionExpiryInterval(value) => found.session_expiry_interval = Some(value),
                Property::ReceiveMaximum(value) => found.receive_maximum = Some(value),
                Property::MaximumPacketSize(value) => found.maximum_packet_size = Some(value),
                Property::TopicAliasMaximum(value) => found.topic_alias_maximum = Some(value),
                Property::RequestResponseInformation(value) => {
                    found.request_response_information = Some(value)
                }
                Property::RequestProblemInformation(value) => found.request_problem_information = Some(value),
                Property::AuthenticationMethod(value) => {
                    found.authentication_method = Some(properties.own_str(value));
                }
                Property::AuthenticationData(value) => {
                    found.authentication_data = Some(properties.own_bytes(value));
                }
                Property::UserProperty(name, value) => {
                    found.user_properties.push(properties.own_pair(name, value))
                }
                _ => return Err(PropertyReader::unexpected()),
            }
        }
        if found.authentication_data.is_some() && found.authentication_method.is_none() {
            // (3.1.2.11.10)
            return Err(DecodeError::protocol("authentication data without a method"));
        }
        Ok(found)
    }
}

impl WriteProperties for ConnectProperties {
    fn write_properties<S: Sink>(&self, out: &mut S) {
        out.put_u32_property(PropertyId::SessionExpiryInterval, self.session_expiry_interval);
        out.put_u16_property(
            PropertyId::ReceiveMaximum,
            self.receive_maximum.map(NonZeroU16::get),
        );
        out.put_u32_property(PropertyId::MaximumPacketSize, self.maximum_packet_size);
        out.put_u16_property(PropertyId::TopicAliasMaximum, self.topic_alias_maximum);
        out.put_flag_property(
            PropertyId::RequestResponseInformation,
            self.request_response_information,
        );
        out.put_flag_property(
            PropertyId::RequestProblemInformation,
            self.request_problem_information,
        );
        out.put_str_property(
            PropertyId::AuthenticationMethod,
            self.authentication_method.as_ref(),
        );
        out.put_bytes_property(
            PropertyId::AuthenticationData,
            self.authentication_data.as_deref(),
        );
        out.put_user_properties(&self.user_properties);
    }
}

impl Will {
    fn decode(
        reader: &mut Reader<'_>,
        context: &Context,
        qos: QoS,
        retain: bool,
    ) -> Result<Self, DecodeError> {
        let mut properties = PropertyReader::new(reader, Place::Will, context)?;
        let section = properties.rest();
        let mut forwarded = Forwarded::default();
        let (mut delay_interval, mut message_expiry_interval) = (0, None);
        loop {
            let start = section.len() - properties.rest().len();
            let Some(property) = properties.next()? else { break };
            match property {
                Property::WillDelayInterval(seconds) => delay_interval = seconds,
                Property::MessageExpiryInterval(seconds) => message_expiry_interval = Some(seconds),
                _ => forwarded.add(section, start..section.len() - properties.rest().len()),
            }
        }
        let forwarded = forwarded.finish(reader.frame(), section);
        let topic = reader.topic(&context.limits, false)?;
        let payload = reader.bytes()?;
        let publication = Publication::with_properties(topic, forwarded, message_expiry_interval, payload);
        Ok(Self {
            publication,
            qos,
            retain,
            delay_interval,
        })
    }
}

impl WriteProperties for Will {
    fn write_properties<S: Sink>(&self, out: &mut S) {
        let delay_interval = Some(self.delay_interval).filter(|seconds| *seconds != 0);
        out.put_u32_property(PropertyId::WillDelayInterval, delay_interval);
        out.put_u32_property(
            PropertyId::MessageExpiryInterval,
            self.publication.message_expiry_interval(),
        );
        out.put_slice(self.publication.properties_ref());
    }
}
