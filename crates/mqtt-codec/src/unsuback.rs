//! UNSUBACK: the answer to UNSUBSCRIBE. (3.11)

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

/// How each topic filter of one UNSUBSCRIBE went. (3.11)
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnsubAck {
    /// Which UNSUBSCRIBE it answers.
    pub packet_id: PacketId,
    /// One for each filter, in the order of the UNSUBSCRIBE. Not sent before MQTT 5.0. [MQTT-3.11.3-1]
    pub reason_codes: Vec<ReasonCode>,
    /// For a human who diagnoses.
    pub reason_string: Option<ByteString>,
    /// Whatever the sender adds.
    pub user_properties: UserProperties,
}

impl UnsubAck {
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
        let mut unsuback = Self::new(reader.packet_id()?, Vec::new());
        let mut properties = PropertyReader::new(&mut reader, Place::Packet(PacketType::UnsubAck), context)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::ReasonString(value) => unsuback.reason_string = Some(properties.own_str(value)),
                Property::UserProperty(name, value) => {
                    unsuback.user_properties.push(properties.own_pair(name, value));
                }
                _ => return Err(PropertyReader::unexpected()),
            }
        }
        if context.is_v5() {
            while !reader.is_empty() {
                let code = ReasonCode::decode(reader.u8()?, PacketType::UnsubAck, context.from_server)?;
                unsuback.reason_codes.push(code);
            }
        }
        reader.finish()?;
        Ok(unsuback)
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) {
        let is_v5 = version == ProtocolVersion::V5;
        out.put_u16(self.packet_id.get());
        if is_v5 {
            put_section(out, self);
            for code in &self.reason_codes {
                out.put_u8(code.code());
            }
        }
    }
}

impl WriteProperties for UnsubAck {
    fn write_properties<S: Sink>(&self, out: &mut S) {
        out.put_str_property(PropertyId::ReasonString, self.reason_string.as_ref());
        out.put_user_properties(&self.user_properties);
    }
}
