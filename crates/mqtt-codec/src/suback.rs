//! SUBACK: the answer to SUBSCRIBE. (3.9)

use bytes::Bytes;
use bytestring::ByteString;

use crate::error::DecodeError;
use crate::packet::PacketType;
use crate::properties::{
    Place, Property, PropertyId, PropertyReader, PutProperty, WriteProperties, put_section,
};
use crate::reader::{Context, Reader};
use crate::reason_code::ReasonCode;
use crate::sink::Sink;
use crate::types::{PacketId, ProtocolVersion, UserProperties};

/// How each subscription of one SUBSCRIBE went. (3.9)
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubAck {
    /// Which SUBSCRIBE it answers.
    pub packet_id: PacketId,
    /// One for each subscription asked for, in that order: the QoS granted, or why not. [MQTT-3.8.4-5]
    pub reason_codes: Vec<ReasonCode>,
    /// For a human who diagnoses.
    pub reason_string: Option<ByteString>,
    /// Whatever the sender adds.
    pub user_properties: UserProperties,
}

impl SubAck {
    /// Before MQTT 5.0 a refusal has one code only. (3.9.3 of 3.1.1)
    const FAILURE: u8 = 0x80;

    /// Without a reason string and user properties.
    pub fn new(packet_id: PacketId, reason_codes: Vec<ReasonCode>) -> Self {
        Self {
            packet_id,
            reason_codes,
            reason_string: None,
            user_properties: UserProperties::new(),
        }
    }

    pub(crate) fn decode(body: &Bytes, context: &Context) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut suback = Self::new(reader.packet_id()?, Vec::new());
        let mut properties = PropertyReader::new(&mut reader, Place::Packet(PacketType::SubAck), context)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::ReasonString(value) => suback.reason_string = Some(properties.own_str(value)),
                Property::UserProperty(name, value) => {
                    suback.user_properties.push(properties.own_pair(name, value));
                }
                _ => return Err(PropertyReader::unexpected()),
            }
        }
        while !reader.is_empty() {
            let code = reader.u8()?;
            if !context.is_v5() && !matches!(code, 0..=2 | Self::FAILURE) {
                // [MQTT-3.9.3-2] of 3.1.1
                return Err(DecodeError::malformed("return code that SUBACK does not have"));
            }
            suback
                .reason_codes
                .push(ReasonCode::decode(code, PacketType::SubAck, context.from_server)?);
        }
        Ok(suback)
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) {
        let is_v5 = version == ProtocolVersion::V5;
        out.put_u16(self.packet_id.get());
        if is_v5 {
            put_section(out, self);
        }
        for code in &self.reason_codes {
            out.put_u8(if code.is_error() && !is_v5 {
                Self::FAILURE
            } else {
                code.code()
            });
        }
    }
}

impl WriteProperties for SubAck {
    fn write_properties<S: Sink>(&self, out: &mut S) {
        out.put_str_property(PropertyId::ReasonString, self.reason_string.as_ref());
        out.put_user_properties(&self.user_properties);
    }
}
