//! Properties of MQTT 5.0 packets: which there are, where each may stand, and reading and writing them. (2.2.2)

use std::num::NonZeroU16;

use bytes::Bytes;
use bytestring::ByteString;

use crate::error::{DecodeError, Limit};
use crate::packet::PacketType;
use crate::reader::{Context, Reader};
use crate::reason_code::ReasonCode;
use crate::sink::{Counter, Sink};
use crate::types::{QoS, UserProperties};

/// The identifier of a property. (2.2.2.2)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum PropertyId {
    PayloadFormatIndicator = 0x01,
    MessageExpiryInterval = 0x02,
    ContentType = 0x03,
    ResponseTopic = 0x08,
    CorrelationData = 0x09,
    SubscriptionIdentifier = 0x0B,
    SessionExpiryInterval = 0x11,
    AssignedClientIdentifier = 0x12,
    ServerKeepAlive = 0x13,
    AuthenticationMethod = 0x15,
    AuthenticationData = 0x16,
    RequestProblemInformation = 0x17,
    WillDelayInterval = 0x18,
    RequestResponseInformation = 0x19,
    ResponseInformation = 0x1A,
    ServerReference = 0x1C,
    ReasonString = 0x1F,
    ReceiveMaximum = 0x21,
    TopicAliasMaximum = 0x22,
    TopicAlias = 0x23,
    MaximumQoS = 0x24,
    RetainAvailable = 0x25,
    UserProperty = 0x26,
    MaximumPacketSize = 0x27,
    WildcardSubscriptionAvailable = 0x28,
    SubscriptionIdentifierAvailable = 0x29,
    SharedSubscriptionAvailable = 0x2A,
}

/// A property with its value, borrowed from the frame.
#[allow(
    clippy::enum_variant_names,
    reason = "UserProperty is the name of the specification"
)]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Property<'a> {
    PayloadFormatIndicator(bool),
    MessageExpiryInterval(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionIdentifier(u32),
    SessionExpiryInterval(u32),
    AssignedClientIdentifier(&'a str),
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelayInterval(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(NonZeroU16),
    TopicAliasMaximum(u16),
    TopicAlias(NonZeroU16),
    MaximumQoS(QoS),
    RetainAvailable(bool),
    UserProperty(&'a str, &'a str),
    MaximumPacketSize(u32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdentifierAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

/// The place a property section stands in: a packet, or the will inside CONNECT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Packet(PacketType),
    Will,
}

/// Reads one property section, one property at a time, and refuses what must not be in it.
pub(crate) struct PropertyReader<'a> {
    reader: Reader<'a>,
    place: Place,
    from_server: bool,
    user_properties_left: u16,
    seen: u64,
}

impl<'a> PropertyReader<'a> {
    /// Takes the section off the front of `packet`: its length, and that many bytes. Before 5.0 there is none.
    #[inline]
    pub(crate) fn new(packet: &mut Reader<'a>, place: Place, context: &Context) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(packet.frame());
        if context.is_v5() {
            let len = packet.variable()?;
            reader.set_rest(packet.take(len as usize)?);
        } else {
            reader.set_rest(&[]);
        }
        Ok(Self {
            reader,
            place,
            from_server: context.from_server,
            user_properties_left: context.limits.user_properties_max,
            seen: 0,
        })
    }

    /// The bytes not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.reader.rest()
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Property<'a>>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let byte = self.reader.u8()?;
        let id = PropertyId::from_byte(byte).ok_or(DecodeError::malformed("unknown property"))?;
        self.admit(id)?;
        id.read_value(&mut self.reader).map(Some)
    }

    fn admit(&mut self, id: PropertyId) -> Result<(), DecodeError> {
        if !id.may_be_in(self.place, self.from_server) {
            return Err(match (self.place, id) {
                // [MQTT-3.3.4-6]
                (Place::Packet(PacketType::Publish), PropertyId::SubscriptionIdentifier) => {
                    DecodeError::protocol("subscription identifier from a client")
                }
                _ => Self::unexpected(),
            });
        }
        match id {
            PropertyId::UserProperty => match self.user_properties_left.checked_sub(1) {
                Some(left) => self.user_properties_left = left,
                None => {
                    return Err(DecodeError::beyond(
                        Limit::UserProperties,
                        ReasonCode::QuotaExceeded,
                        "too many user properties",
                    ));
                }
            },
            // One for each subscription that matched. (3.3.2.3.8)
            PropertyId::SubscriptionIdentifier if self.place == Place::Packet(PacketType::Publish) => {}
            _ => {
                let bit = 1 << (id as u8);
                if self.seen & bit != 0 {
                    return Err(DecodeError::protocol("the same property twice"));
                }
                self.seen |= bit;
            }
        }
        Ok(())
    }

    /// A property in a packet it does not belong to is malformed. (2.2.2.2)
    pub(crate) fn unexpected() -> DecodeError {
        DecodeError::malformed("property that this packet cannot carry")
    }

    /// A string of the frame that outlives the reader.
    pub(crate) fn own_str(&self, value: &str) -> ByteString {
        own_str(self.reader.frame(), value)
    }

    /// Bytes of the frame that outlive the reader.
    pub(crate) fn own_bytes(&self, value: &[u8]) -> Bytes {
        self.reader.frame().slice_ref(value)
    }

    pub(crate) fn own_pair(&self, name: &str, value: &str) -> (ByteString, ByteString) {
        (self.own_str(name), self.own_str(value))
    }
}

impl PropertyId {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::PayloadFormatIndicator,
            0x02 => Self::MessageExpiryInterval,
            0x03 => Self::ContentType,
            0x08 => Self::ResponseTopic,
            0x09 => Self::CorrelationData,
            0x0B => Self::SubscriptionIdentifier,
            0x11 => Self::SessionExpiryInterval,
            0x12 => Self::AssignedClientIdentifier,
            0x13 => Self::ServerKeepAlive,
            0x15 => Self::AuthenticationMethod,
            0x16 => Self::AuthenticationData,
            0x17 => Self::RequestProblemInformation,
            0x18 => Self::WillDelayInterval,
            0x19 => Self::RequestResponseInformation,
            0x1A => Self::ResponseInformation,
            0x1C => Self::ServerReference,
            0x1F => Self::ReasonString,
            0x21 => Self::ReceiveMaximum,
            0x22 => Self::TopicAliasMaximum,
            0x23 => Self::TopicAlias,
            0x24 => Self::MaximumQoS,
            0x25 => Self::RetainAvailable,
            0x26 => Self::UserProperty,
            0x27 => Self::MaximumPacketSize,
            0x28 => Self::WildcardSubscriptionAvailable,
            0x29 => Self::SubscriptionIdentifierAvailable,
            0x2A => Self::SharedSubscriptionAvailable,
            _ => return None,
        })
    }

    /// The table of 2.2.2.2, with who may send what where the packet's own section restricts it.
    fn may_be_in(self, place: Place, from_server: bool) -> bool {
        use PacketType as P;
        use Place::{Packet, Will};
        match self {
            Self::PayloadFormatIndicator
            | Self::MessageExpiryInterval
            | Self::ContentType
            | Self::ResponseTopic
            | Self::CorrelationData => matches!(place, Packet(P::Publish) | Will),
            Self::SubscriptionIdentifier => match place {
                Packet(P::Subscribe) => true,
                // [MQTT-3.3.4-6]
                Packet(P::Publish) => from_server,
                _ => false,
            },
            Self::SessionExpiryInterval => match place {
                Packet(P::Connect | P::ConnAck) => true,
                // [MQTT-3.14.2-2]
                Packet(P::Disconnect) => !from_server,
                _ => false,
            },
            Self::AuthenticationMethod | Self::AuthenticationData => {
                matches!(place, Packet(P::Connect | P::ConnAck | P::Auth))
            }
            Self::RequestProblemInformation | Self::RequestResponseInformation => place == Packet(P::Connect),
            Self::WillDelayInterval => place == Will,
            Self::ServerReference => matches!(place, Packet(P::ConnAck | P::Disconnect)),
            Self::ReasonString => matches!(
                place,
                Packet(
                    P::ConnAck
                        | P::PubAck
                        | P::PubRec
                        | P::PubRel
                        | P::PubComp
                        | P::SubAck
                        | P::UnsubAck
                        | P::Disconnect
                        | P::Auth
                )
            ),
            Self::ReceiveMaximum | Self::TopicAliasMaximum | Self::MaximumPacketSize => {
                matches!(place, Packet(P::Connect | P::ConnAck))
            }
            Self::TopicAlias => place == Packet(P::Publish),
            Self::UserProperty => true,
            Self::AssignedClientIdentifier
            | Self::ServerKeepAlive
            | Self::ResponseInformation
            | Self::MaximumQoS
            | Self::RetainAvailable
            | Self::WildcardSubscriptionAvailable
            | Self::SubscriptionIdentifierAvailable
            | Self::SharedSubscriptionAvailable => place == Packet(P::ConnAck),
        }
    }

    #[inline]
    fn read_value<'a>(self, reader: &mut Reader<'a>) -> Result<Property<'a>, DecodeError> {
        Ok(match self {
            Self::PayloadFormatIndicator => Property::PayloadFormatIndicator(flag(reader)?),
            Self::MessageExpiryInterval => Property::MessageExpiryInterval(reader.u32()?),
            Self::ContentType => Property::ContentType(reader.str()?),
            Self::ResponseTopic => Property::ResponseTopic(response_topic(reader)?),
            Self::CorrelationData => Property::CorrelationData(reader.binary()?),
            Self::SubscriptionIdentifier => match reader.variable()? {
                0 => return Err(DecodeError::protocol("subscription identifier 0")),
                id => Property::SubscriptionIdentifier(id),
            },
            Self::SessionExpiryInterval => Property::SessionExpiryInterval(reader.u32()?),
            Self::AssignedClientIdentifier => Property::AssignedClientIdentifier(reader.str()?),
            Self::ServerKeepAlive => Property::ServerKeepAlive(reader.u16()?),
            Self::AuthenticationMethod => Property::AuthenticationMethod(reader.str()?),
            Self::AuthenticationData => Property::AuthenticationData(reader.binary()?),
            Self::RequestProblemInformation => Property::RequestProblemInformation(flag(reader)?),
            Self::WillDelayInterval => Property::WillDelayInterval(reader.u32()?),
            Self::RequestResponseInformation => Property::RequestResponseInformation(flag(reader)?),
            Self::ResponseInformation => Property::ResponseInformation(reader.str()?),
            Self::ServerReference => Property::ServerReference(reader.str()?),
            Self::ReasonString => Property::ReasonString(reader.str()?),
            Self::ReceiveMaximum => match NonZeroU16::new(reader.u16()?) {
                Some(maximum) => Property::ReceiveMaximum(maximum),
                None => return Err(DecodeError::protocol("receive maximum 0")),
            },
            Self::TopicAliasMaximum => Property::TopicAliasMaximum(reader.u16()?),
            Self::TopicAlias => match NonZeroU16::new(reader.u16()?) {
                Some(alias) => Property::TopicAlias(alias),
                // [MQTT-3.3.2-8]
                None => return Err(DecodeError::new(ReasonCode::TopicAliasInvalid, "topic alias 0")),
            },
            Self::MaximumQoS => match reader.u8()? {
                0 => Property::MaximumQoS(QoS::AtMostOnce),
                1 => Property::MaximumQoS(QoS::AtLeastOnce),
                _ => return Err(DecodeError::protocol("maximum QoS is neither 0 nor 1")),
            },
            Self::RetainAvailable => Property::RetainAvailable(flag(reader)?),
            Self::UserProperty => Property::UserProperty(reader.str()?, reader.str()?),
            Self::MaximumPacketSize => match reader.u32()? {
                0 => return Err(DecodeError::protocol("maximum packet size 0")),
                size => Property::MaximumPacketSize(size),
            },
            Self::WildcardSubscriptionAvailable => Property::WildcardSubscriptionAvailable(flag(reader)?),
            Self::SubscriptionIdentifierAvailable => Property::SubscriptionIdentifierAvailable(flag(reader)?),
            Self::SharedSubscriptionAvailable => Property::SharedSubscriptionAvailable(flag(reader)?),
        })
    }
}

/// Reads a property of a section that a decoder or `Publication::from_parts` has already judged.
pub(crate) fn read_judged<'a>(reader: &mut Reader<'a>) -> Option<Property<'a>> {
    let id = PropertyId::from_byte(reader.u8().ok()?)?;
    id.read_value(reader).ok()
}

/// A string of `frame` as a slice that shares it.
pub(crate) fn own_str(frame: &Bytes, value: &str) -> ByteString {
    ByteString::try_from(frame.slice_ref(value.as_bytes())).expect("the bytes of a str are UTF-8")
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::protocol(
            "a property that is 0 or 1 has another value",
        )),
    }
}

fn response_topic<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let topic = reader.str()?;
    // [MQTT-3.3.2-14]
    if topic.contains(['+', '#']) {
        return Err(DecodeError::protocol("wildcard in a response topic"));
    }
    Ok(topic)
}

/// The properties of one packet, to be written without their length.
pub(crate) trait WriteProperties {
    fn write_properties<S: Sink>(&self, out: &mut S);
}

/// Writes a property section: its length, and the properties.
pub(crate) fn put_section<S: Sink>(out: &mut S, properties: &impl WriteProperties) {
    let mut counter = Counter::default();
    properties.write_properties(&mut counter);
    out.put_variable(u32::try_from(counter.len()).unwrap_or(u32::MAX));
    properties.write_properties(out);
}

/// Writers of single properties; an absent one writes nothing.
pub(crate) trait PutProperty: Sink {
    fn put_flag_property(&mut self, id: PropertyId, value: Option<bool>) {
        if let Some(value) = value {
            self.put_slice(&[id as u8, u8::from(value)]);
        }
    }

    fn put_u16_property(&mut self, id: PropertyId, value: Option<u16>) {
        if let Some(value) = value {
            self.put_u8(id as u8);
            self.put_u16(value);
        }
    }

    fn put_u32_property(&mut self, id: PropertyId, value: Option<u32>) {
        if let Some(value) = value {
            self.put_u8(id as u8);
            self.put_u32(value);
        }
    }

    fn put_variable_property(&mut self, id: PropertyId, value: Option<u32>) {
        if let Some(value) = value {
            self.put_u8(id as u8);
            self.put_variable(value);
        }
    }

    fn put_bytes_property(&mut self, id: PropertyId, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.put_u8(id as u8);
            self.put_prefixed(value);
        }
    }

    fn put_str_property(&mut self, id: PropertyId, value: Option<&ByteString>) {
        self.put_bytes_property(id, value.map(|value| value.as_bytes().as_ref()));
    }

    fn put_user_properties(&mut self, properties: &UserProperties) {
        for (name, value) in properties {
            self.put_u8(PropertyId::UserProperty as u8);
            self.put_prefixed(name.as_bytes());
            self.put_prefixed(value.as_bytes());
        }
    }
}

impl<S: Sink> PutProperty for S {}
