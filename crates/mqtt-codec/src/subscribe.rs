//! SUBSCRIBE: filters, each with its options. The filters are parsed by the session: a bad one is refused alone. (3.8)

use bytes::Bytes;
use bytestring::ByteString;

use crate::error::DecodeError;
use crate::packet::PacketType;
use crate::properties::{
    Place, Property, PropertyId, PropertyReader, PutProperty, WriteProperties, put_section,
};
use crate::reader::{Context, Reader};
use crate::sink::Sink;
use crate::types::{PacketId, ProtocolVersion, QoS, UserProperties};

/// A request for subscriptions. (3.8)
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscribe {
    /// Comes back in the SUBACK.
    pub packet_id: PacketId,
    /// Sent along with every message that matches one of the filters: 1 to 268,435,455. (3.8.2.1.2)
    pub subscription_id: Option<u32>,
    /// Whatever the client adds.
    pub user_properties: UserProperties,
    /// At least one. [MQTT-3.8.3-2]
    pub filters: Vec<SubscribeFilter>,
}

/// One filter of a SUBSCRIBE. (3.8.3)
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscribeFilter {
    /// As received: valid UTF-8, perhaps not a valid filter.
    pub filter: ByteString,
    /// How messages that match are to be sent.
    pub options: SubscriptionOptions,
}

/// How messages that match a subscription are to be sent. Before MQTT 5.0 only the QoS exists. (3.8.3.1)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SubscriptionOptions {
    /// The highest QoS to send with.
    pub qos: QoS,
    /// Do not send what the subscriber itself published. [MQTT-3.8.3-3]
    pub no_local: bool,
    /// Keep the RETAIN flag as it was published. (3.3.1.3)
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
}

/// When a new subscription gets the retained messages that match. (3.8.3.1)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE.
    #[default]
    SendAtSubscribe = 0,
    /// Only if the subscription did not exist.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

impl SubscriptionOptions {
    /// The options a subscription has before MQTT 5.0.
    pub fn with_qos(qos: QoS) -> Self {
        Self {
            qos,
            ..Self::default()
        }
    }

    fn decode(byte: u8, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let byte = match version {
            // The upper six bits were not used, and not judged.
            ProtocolVersion::V3_1 => byte & 0b11,
            // [MQTT-3-8.3-4] of 3.1.1
            ProtocolVersion::V3_1_1 if byte & !0b11 != 0 => {
                return Err(DecodeError::malformed("reserved bits of the requested QoS"));
            }
            // [MQTT-3.8.3-5]
            ProtocolVersion::V5 if byte & 0b1100_0000 != 0 => {
                return Err(DecodeError::malformed(
                    "reserved bits of the subscription options",
                ));
            }
            _ => byte,
        };
        let is_v5 = version == ProtocolVersion::V5;
        let Ok(qos) = QoS::try_from(byte & 0b11) else {
            return Err(match is_v5 {
                true => DecodeError::protocol("maximum QoS 3"),
                false => DecodeError::malformed("QoS 3"),
            });
        };
        let retain_handling = match byte >> 4 & 0b11 {
            0 => RetainHandling::SendAtSubscribe,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(DecodeError::protocol("retain handling 3")),
        };
        Ok(Self {
            qos,
            no_local: byte & 0b100 != 0,
            retain_as_published: byte & 0b1000 != 0,
            retain_handling,
        })
    }

    fn byte(self, version: ProtocolVersion) -> u8 {
        let qos = self.qos as u8;
        if version != ProtocolVersion::V5 {
            return qos;
        }
        let flags = u8::from(self.no_local) << 2 | u8::from(self.retain_as_published) << 3;
        qos | flags | (self.retain_handling as u8) << 4
    }
}

impl Subscribe {
    pub(crate) fn decode(body: &Bytes, context: &Context) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut subscribe = Self {
            packet_id: reader.packet_id()?,
            subscription_id: None,
            user_properties: UserProperties::new(),
            filters: Vec::new(),
        };
        let mut properties = PropertyReader::new(&mut reader, Place::Packet(PacketType::Subscribe), context)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::SubscriptionIdentifier(id) => subscribe.subscription_id = Some(id),
                Property::UserProperty(name, value) => {
                    subscribe.user_properties.push(properties.own_pair(name, value));
                }
                _ => return Err(PropertyReader::unexpected()),
            }
        }
        while !reader.is_empty() {
            let filter = reader.string()?;
            let options = SubscriptionOptions::decode(reader.u8()?, context.version)?;
            if options.no_local && filter.starts_with("$share/") {
                // [MQTT-3.8.3-4]
                return Err(DecodeError::protocol("no local on a shared subscription"));
            }
            subscribe.filters.push(SubscribeFilter { filter, options });
        }
        if subscribe.filters.is_empty() {
            return Err(DecodeError::protocol("SUBSCRIBE without a filter"));
        }
        Ok(subscribe)
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) {
        out.put_u16(self.packet_id.get());
        if version == ProtocolVersion::V5 {
            put_section(out, self);
        }
        for SubscribeFilter { filter, options } in &self.filters {
            out.put_prefixed(filter.as_bytes());
            out.put_u8(options.byte(version));
        }
    }
}

impl WriteProperties for Subscribe {
    fn write_properties<S: Sink>(&self, out: &mut S) {
        out.put_variable_property(PropertyId::SubscriptionIdentifier, self.subscription_id);
        out.put_user_properties(&self.user_properties);
    }
}
