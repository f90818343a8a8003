//! UNSUBSCRIBE: filters that are no longer wanted. (3.10)

use bytes::Bytes;
use bytestring::ByteString;

use crate::error::DecodeError;
use crate::packet::PacketType;
use crate::properties::{Place, Property, PropertyReader, PutProperty, WriteProperties, put_section};
use crate::reader::{Context, Reader};
use crate::sink::Sink;
use crate::types::{PacketId, ProtocolVersion, UserProperties};

/// A request to end subscriptions. (3.10)
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsubscribe {
    /// Comes back in the UNSUBACK.
    pub packet_id: PacketId,
    /// At least one, as received. [MQTT-3.10.3-2]
    pub filters: Vec<ByteString>,
    /// Whatever the client adds.
    pub user_properties: UserProperties,
}

impl Unsubscribe {
    pub(crate) fn decode(body: &Bytes, context: &Context) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut unsubscribe = Self {
            packet_id,
            filters: Vec::new(),
            user_properties: UserProperties::new(),
        };
        let mut properties =
            PropertyReader::new(&mut reader, Place::Packet(PacketType::Unsubscribe), context)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::UserProperty(name, value) => {
                    unsubscribe.user_properties.push(properties.own_pair(name, value));
                }
                _ => return Err(PropertyReader::unexpected()),
            }
        }
        while !reader.is_empty() {
            unsubscribe.filters.push(reader.string()?);
        }
        if unsubscribe.filters.is_empty() {
            return Err(DecodeError::protocol("UNSUBSCRIBE without a filter"));
        }
        Ok(unsubscribe)
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, out: &mut S) {
        out.put_u16(self.packet_id.get());
        if version == ProtocolVersion::V5 {
            put_section(out, self);
        }
        for filter in &self.filters {
            out.put_prefixed(filter.as_bytes());
        }
    }
}

impl WriteProperties for Unsubscribe {
    fn write_properties<S: Sink>(&self, out: &mut S) {
        out.put_user_properties(&self.user_properties);
    }
}
