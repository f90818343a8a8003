//! CONNACK: the server's answer to CONNECT. (3.2)

use std::num::NonZeroU16;

use bytes::Bytes;
use bytestring::ByteString;

use crate::error::{DecodeError, EncodeError};
use crate::packet::PacketType;
use crate::properties::{
    Place, Property, PropertyId, PropertyReader, PutProperty, WriteProperties, put_section,
};
use crate::reader::{Context, Reader};
use crate::reason_code::ReasonCode;
use crate::sink::Sink;
use crate::types::{ProtocolVersion, QoS, UserProperties};

/// The server's answer to CONNECT. (3.2)
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnAck {
    /// The server kept a session for this client. Written as `false` if the reason code is an error, and in MQTT 3.1.
    pub session_present: bool,
    /// Before MQTT 5.0 it is mapped to one of five return codes.
    pub reason_code: ReasonCode,
    /// Sent in MQTT 5.0 only.
    pub properties: ConnAckProperties,
}

/// What the server tells about itself. Absent means the default of the specification. (3.2.2.3)
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(
    missing_docs,
    reason = "the fields are the property names of the specification"
)]
pub struct ConnAckProperties {
    pub session_expiry_interval: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    /// QoS 0 or 1; without it, 2. [MQTT-3.2.2-9]
    pub maximum_qos: Option<QoS>,
    pub retain_available: Option<bool>,
    pub maximum_packet_size: Option<u32>,
    pub assigned_client_identifier: Option<ByteString>,
    pub topic_alias_maximum: Option<u16>,
    pub reason_string: Option<ByteString>,
    pub user_properties: UserProperties,
    pub wildcard_subscription_available: Option<bool>,
    pub subscription_identifiers_available: Option<bool>,
    pub shared_subscription_available: Option<bool>,
    pub server_keep_alive: Option<u16>,
    pub response_information: Option<ByteString>,
    pub server_reference: Option<ByteString>,
    pub authentication_method: Option<ByteString>,
    pub authentication_data: Option<Bytes>,
}

impl ConnAck {
    /// An answer without properties.
    pub fn new(session_present: bool, reason_code: ReasonCode) -> Self {
        Self {
            session_present,
            reason_code,
            properties: ConnAckProperties::default(),
        }
    }

    pub(crate) fn decode(body: &Bytes, context: &Context) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let flags = match context.version {
            // The byte was reserved, and not judged.
            ProtocolVersion::V3_1 => reader.u8().map(|_| 0)?,
            _ => reader.u8()?,
        };
        if flags & !1 != 0 {
            // [MQTT-3.2.2-1]
            return Err(DecodeError::malformed(
                "reserved bits of the connect acknowledge flags",
            ));
        }
        let code = reader.u8()?;
        let reason_code = match context.is_v5() {
            true => ReasonCode::decode(code, PacketType::ConnAck, context.from_server)?,
            false => from_return_code(code).ok_or(DecodeError::malformed("unknown connect return code"))?,
        };
        let session_present = flags == 1;
        if session_present && reason_code.is_error() {
            // [MQTT-3.2.2-6]
            return Err(DecodeError::protocol("session present in a CONNACK that refuses"));
        }
        let properties = ConnAckProperties::decode(&mut reader, context)?;
        reader.finish()?;
        Ok(Self {
            session_present,
            reason_code,
            properties,
        })
    }

    /// Whether there is a CONNACK for the reason in `version`.
    pub(crate) fn check(&self, version: ProtocolVersion) -> Result<(), EncodeError> {
        match (version, return_code(self.reason_code)) {
            (ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1, None) => Err(EncodeError::NoReturnCode),
            _ => Ok(()),
        }
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) {
        let session_present =
            self.session_present && !self.reason_code.is_error() && version != ProtocolVersion::V3_1;
        out.put_u8(u8::from(session_present));
        if version == ProtocolVersion::V5 {
            out.put_u8(self.reason_code.code());
            put_section(out, &self.properties);
        } else {
            out.put_u8(return_code(self.reason_code).unwrap_or(SERVER_UNAVAILABLE));
        }
    }
}

const SERVER_UNAVAILABLE: u8 = 3;

/// The return code of MQTT 3.1 and 3.1.1 for a reason, if one of the five says it. (3.2.2.3 of 3.1.1)
fn return_code(reason_code: ReasonCode) -> Option<u8> {
    Some(match reason_code {
        ReasonCode::Success => 0,
        ReasonCode::UnsupportedProtocolVersion => 1,
        ReasonCode::ClientIdentifierNotValid => 2,
        ReasonCode::ServerUnavailable
        | ReasonCode::ServerBusy
        | ReasonCode::ServerShuttingDown
        | ReasonCode::QuotaExceeded
        | ReasonCode::UseAnotherServer
        | ReasonCode::ServerMoved
        | ReasonCode::ConnectionRateExceeded
        | ReasonCode::UnspecifiedError
        | ReasonCode::ImplementationSpecificError => SERVER_UNAVAILABLE,
        ReasonCode::BadUserNameOrPassword => 4,
        ReasonCode::NotAuthorized | ReasonCode::Banned => 5,
        _ => return None,
    })
}

fn from_return_code(code: u8) -> Option<ReasonCode> {
    Some(match code {
        0 => ReasonCode::Success,
        1 => ReasonCode::UnsupportedProtocolVersion,
        2 => ReasonCode::ClientIdentifierNotValid,
        SERVER_UNAVAILABLE => ReasonCode::ServerUnavailable,
        4 => ReasonCode::BadUserNameOrPassword,
        5 => ReasonCode::NotAuthorized,
        _ => return None,
    })
}

impl ConnAckProperties {
    fn decode(reader: &mut Reader<'_>, context: &Context) -> Result<Self, DecodeError> {
        let mut found = Self::default();
        let mut properties = PropertyReader::new(reader, Place::Packet(PacketType::ConnAck), context)?;
        while let Some(property) = properties.next()? {
            let text = |value| Some(properties.own_str(value));
            match property {
                Property::SessionExpiryInterval(value) => found.session_expiry_interval = Some(value),
                Property::ReceiveMaximum(value) => found.receive_maximum = Some(value),
                Property::MaximumQoS(value) => found.maximum_qos = Some(value),
                Property::RetainAvailable(value) => found.retain_available = Some(value),
                Property::MaximumPacketSize(value) => found.maximum_packet_size = Some(value),
                Property::AssignedClientIdentifier(value) => found.assigned_client_identifier = text(value),
                Property::TopicAliasMaximum(value) => found.topic_alias_maximum = Some(value),
                Property::ReasonString(value) => found.reason_string = text(value),
                Property::UserProperty(name, value) => {
                    found.user_properties.push(properties.own_pair(name, value))
                }
                Property::WildcardSubscriptionAvailable(value) => {
                    found.wildcard_subscription_available = Some(value);
                }
                Property::SubscriptionIdentifierAvailable(value) => {
                    found.subscription_identifiers_available = Some(value);
                }
                Property::SharedSubscriptionAvailable(value) => {
                    found.shared_subscription_available = Some(value)
                }
                Property::ServerKeepAlive(value) => found.server_keep_alive = Some(value),
                Property::ResponseInformation(value) => found.response_information = text(value),
                Property::ServerReference(value) => found.server_reference = text(value),
                Property::AuthenticationMethod(value) => found.authentication_method = text(value),
                Property::AuthenticationData(value) => {
                    found.authentication_data = Some(properties.own_bytes(value));
                }
                _ => return Err(PropertyReader::unexpected()),
            }
        }
        Ok(found)
    }
}

impl WriteProperties for ConnAckProperties {
    fn write_properties<S: Sink>(&self, out: &mut S) {
        out.put_u32_property(PropertyId::SessionExpiryInterval, self.session_expiry_interval);
        out.put_u16_property(
            PropertyId::ReceiveMaximum,
            self.receive_maximum.map(NonZeroU16::get),
        );
        // QoS 2 is said by leaving the property out.
        let maximum_qos = self.maximum_qos.filter(|qos| *qos != QoS::ExactlyOnce);
        out.put_flag_property(
            PropertyId::MaximumQoS,
            maximum_qos.map(|qos| qos == QoS::AtLeastOnce),
        );
        out.put_flag_property(PropertyId::RetainAvailable, self.retain_available);
        out.put_u32_property(PropertyId::MaximumPacketSize, self.maximum_packet_size);
        out.put_str_property(
            PropertyId::AssignedClientIdentifier,
            self.assigned_client_identifier.as_ref(),
        );
        out.put_u16_property(PropertyId::TopicAliasMaximum, self.topic_alias_maximum);
        out.put_str_property(PropertyId::ReasonString, self.reason_string.as_ref());
        out.put_user_properties(&self.user_properties);
        out.put_flag_property(
            PropertyId::WildcardSubscriptionAvailable,
            self.wildcard_subscription_available,
        );
        out.put_flag_property(
            PropertyId::SubscriptionIdentifierAvailable,
            self.subscription_identifiers_available,
        );
        out.put_flag_property(
            PropertyId::SharedSubscriptionAvailable,
            self.shared_subscription_available,
        );
        out.put_u16_property(PropertyId::ServerKeepAlive, self.server_keep_alive);
        out.put_str_property(
            PropertyId::ResponseInformation,
            self.response_information.as_ref(),
        );
        out.put_str_property(PropertyId::ServerReference, self.server_reference.as_ref());
        out.put_str_property(
            PropertyId::AuthenticationMethod,
            self.authentication_method.as_ref(),
        );
        out.put_bytes_property(
            PropertyId::AuthenticationData,
            self.authentication_data.as_deref(),
        );
    }
}
