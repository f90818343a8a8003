//! AUTH: a step of an authentication that takes several. MQTT 5.0 only. (3.15)

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
use crate::types::UserProperties;

/// A step of extended authentication. (3.15, 4.12)
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Auth {
    /// Success (from the server), continue, or re-authenticate (from the client). [MQTT-3.15.2-1]
    pub reason_code: ReasonCode,
    /// The method in use; absent only in the short form of success. (3.15.2.2.2)
    pub method: Option<ByteString>,
    /// What the method says.
    pub data: Option<Bytes>,
    /// For a human who diagnoses.
    pub reason_string: Option<ByteString>,
    /// Whatever the sender adds.
    pub user_properties: UserProperties,
}

impl Auth {
    pub(crate) fn decode(body: &Bytes, context: &Context) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut auth = Self::default();
        if reader.is_empty() {
            // The short form means success. (3.15.2.1)
            auth.reason_code =
                ReasonCode::decode(ReasonCode::Success.code(), PacketType::Auth, context.from_server)?;
            return Ok(auth);
        }
        auth.reason_code = ReasonCode::decode(reader.u8()?, PacketType::Auth, context.from_server)?;
        auth.decode_properties(&mut reader, context)?;
        reader.finish()?;
        if auth.method.is_none() {
            return Err(DecodeError::protocol("AUTH without an authentication method"));
        }
        Ok(auth)
    }

    fn decode_properties(&mut self, reader: &mut Reader<'_>, context: &Context) -> Result<(), DecodeError> {
        let mut properties = PropertyReader::new(reader, Place::Packet(PacketType::Auth), context)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::AuthenticationMethod(value) => self.method = Some(properties.own_str(value)),
                Property::AuthenticationData(value) => self.data = Some(properties.own_bytes(value)),
                Property::ReasonString(value) => self.reason_string = Some(properties.own_str(value)),
                Property::UserProperty(name, value) => {
                    self.user_properties.push(properties.own_pair(name, value))
                }
                _ => return Err(PropertyReader::unexpected()),
            }
        }
        Ok(())
    }

    pub(crate) fn write<S: Sink>(&self, out: &mut S) {
        let mut properties = Counter::default();
        self.write_properties(&mut properties);
        if properties.len() > 0 || self.reason_code != ReasonCode::Success {
            out.put_u8(self.reason_code.code());
            put_section(out, self);
        }
    }
}

impl WriteProperties for Auth {
    fn write_properties<S: Sink>(&self, out: &mut S) {
        out.put_str_property(PropertyId::AuthenticationMethod, self.method.as_ref());
        out.put_bytes_property(PropertyId::AuthenticationData, self.data.as_deref());
        out.put_str_property(PropertyId::ReasonString, self.reason_string.as_ref());
        out.put_user_properties(&self.user_properties);
    }
}
