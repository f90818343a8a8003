//! PUBACK, PUBREC, PUBREL and PUBCOMP: the four acknowledgements, which share one form. (3.4 to 3.7)

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

/// The content of a PUBACK, PUBREC, PUBREL or PUBCOMP. Before MQTT 5.0 only the packet identifier is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acknowledgement {
    /// Which PUBLISH it is about.
    pub packet_id: PacketId,
    /// How it went.
    pub reason_code: ReasonCode,
    /// For a human who diagnoses.
    pub reason_string: Option<ByteString>,
    /// Whatever the sender adds.
    pub user_properties: UserProperties,
}

impl Acknowledgement {
    /// Without a reason string and user properties.
    pub fn new(packet_id: PacketId, reason_code: ReasonCode) -> Self {
        Self {
            packet_id,
            reason_code,
            reason_string: None,
            user_properties: UserProperties::new(),
        }
    }

    pub(crate) fn decode(packet: PacketType, body: &Bytes, context: &Context) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut acknowledgement = Self::new(reader.packet_id()?, ReasonCode::Success);
        // Both the reason code and the properties may be left out from the end. (3.4.2.1)
        if context.is_v5() && !reader.is_empty() {
            acknowledgement.reason_code = ReasonCode::decode(reader.u8()?, packet, context.from_server)?;
            if !reader.is_empty() {
                acknowledgement.decode_properties(packet, &mut reader, context)?;
            }
        }
        reader.finish()?;
        Ok(acknowledgement)
    }

    fn decode_properties(
        &mut self,
        packet: PacketType,
        reader: &mut Reader<'_>,
        context: &Context,
    ) -> Result<(), DecodeError> {
        let mut properties = PropertyReader::new(reader, Place::Packet(packet), context)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::ReasonString(value) => self.reason_string = Some(properties.own_str(value)),
                Property::UserProperty(name, value) => {
                    self.user_properties.push(properties.own_pair(name, value))
                }
                _ => return Err(PropertyReader::unexpected()),
            }
        }
        Ok(())
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) {
        out.put_u16(self.packet_id.get());
        if version != ProtocolVersion::V5 {
            return;
        }
        let has_properties = self.reason_string.is_some() || !self.user_properties.is_empty();
        if has_properties || self.reason_code != ReasonCode::Success {
            out.put_u8(self.reason_code.code());
        }
        if has_properties {
            put_section(out, self);
        }
    }
}

impl WriteProperties for Acknowledgement {
    fn write_properties<S: Sink>(&self, out: &mut S) {
        out.put_str_property(PropertyId::ReasonString, self.reason_string.as_ref());
        out.put_user_properties(&self.user_properties);
    }
}
