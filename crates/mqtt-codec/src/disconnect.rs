//! DISCONNECT: the last packet, sent by the client, and since MQTT 5.0 also by the server. (3.14)

use bytes::Bytes;
use bytestring::ByteString;

use crate::error::DecodeError;
use crate::packet::PacketType;
use crate::properties::{
    Place, Property, PropertyId, PropertyReader, PutProperty, WriteProperties, put_section,
};
use crate::reader::{Context, Reader};
use crate::reason_code::ReasonCode;
use crate::sink::{Counter, Sink};
use crate::types::{ProtocolVersion, UserProperties};

/// The end of a connection and its reason. Before MQTT 5.0 it carries nothing. (3.14)
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Disconnect {
    /// Why.
    pub reason_code: ReasonCode,
    /// Replaces the interval of the CONNECT; sent by clients only. [MQTT-3.14.2-2]
    pub session_expiry_interval: Option<u32>,
    /// For a human who diagnoses.
    pub reason_string: Option<ByteString>,
    /// Another server the client may use. (4.13)
    pub server_reference: Option<ByteString>,
    /// Whatever the sender adds.
    pub user_properties: UserProperties,
}

impl Disconnect {
    /// Only the reason code.
    pub fn new(reason_code: ReasonCode) -> Self {
        Self {
            reason_code,
            ..Self::default()
        }
    }

    pub(crate) fn decode(body: &Bytes, context: &Context) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut disconnect = Self::default();
        // Both the reason code and the properties may be left out from the end. (3.14.2.1, 3.14.2.2.1)
        if context.is_v5() && !reader.is_empty() {
            let code = reader.u8()?;
            disconnect.reason_code = ReasonCode::decode(code, PacketType::Disconnect, context.from_server)?;
            if !reader.is_empty() {
                disconnect.decode_properties(&mut reader, context)?;
            }
        }
        reader.finish()?;
        Ok(disconnect)
    }

    fn decode_properties(&mut self, reader: &mut Reader<'_>, context: &Context) -> Result<(), DecodeError> {
        let mut properties = PropertyReader::new(reader, Place::Packet(PacketType::Disconnect), context)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::SessionExpiryInterval(value) => self.session_expiry_interval = Some(value),
                Property::ReasonString(value) => self.reason_string = Some(properties.own_str(value)),
                Property::ServerReference(value) => self.server_reference = Some(properties.own_str(value)),
                Property::UserProperty(name, value) => {
                    self.user_properties.push(properties.own_pair(name, value))
                }
                _ => return Err(PropertyReader::unexpected()),
            }
        }
        Ok(())
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) {
        if version != ProtocolVersion::V5 {
            return;
        }
        let mut properties = Counter::default();
        self.write_properties(&mut properties);
        if properties.len() > 0 || self.reason_code != ReasonCode::Success {
            out.put_u8(self.reason_code.code());
        }
        if properties.len() > 0 {
            put_section(out, self);
        }
    }
}

impl WriteProperties for Disconnect {
    fn write_properties<S: Sink>(&self, out: &mut S) {
        out.put_u32_property(PropertyId::SessionExpiryInterval, self.session_expiry_interval);
        out.put_str_property(PropertyId::ReasonString, self.reason_string.as_ref());
        out.put_str_property(PropertyId::ServerReference, self.server_reference.as_ref());
        out.put_user_properties(&self.user_properties);
    }
}
