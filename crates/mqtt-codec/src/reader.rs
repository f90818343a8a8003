//! Reads the fields of one packet whose bytes are all there. What it returns are slices of the packet's frame.

use std::num::NonZeroU16;

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_topic::{TopicError, TopicName};

use crate::decoder::DecodeLimits;
use crate::error::{DecodeError, Limit};
use crate::reason_code::ReasonCode;
use crate::types::{PacketId, ProtocolVersion};

/// What a packet decoder must know beyond the bytes.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    pub(crate) version: ProtocolVersion,
    pub(crate) limits: DecodeLimits,
    /// The packet was sent by a server: we are a client.
    pub(crate) from_server: bool,
}

impl Context {
    pub(crate) fn is_v5(&self) -> bool {
        self.version == ProtocolVersion::V5
    }
}

/// A place in a frame; reading moves it forward.
pub(crate) struct Reader<'a> {
    frame: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(frame: &'a Bytes) -> Self {
        Self { frame, rest: frame }
    }

    pub(crate) fn frame(&self) -> &'a Bytes {
        self.frame
    }

    /// Reads on in another part of the same frame.
    pub(crate) fn set_rest(&mut self, rest: &'a [u8]) {
        self.rest = rest;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Refuses bytes after the last field of the packet.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::malformed("bytes after the end of the packet"))
        }
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            return Err(DecodeError::malformed("a field is longer than the packet"));
        };
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(DecodeError::malformed("the packet ends inside a field"));
        };
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.take_array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.take_array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.take_array().map(u32::from_be_bytes)
    }

    /// A variable byte integer in its shortest form. [MQTT-1.5.5-1]
    #[inline]
    pub(crate) fn variable(&mut self) -> Result<u32, DecodeError> {
        match variable(self.rest)? {
            Variable::Complete {
                value,
                len,
                minimal: true,
            } => {
                self.rest = &self.rest[len..];
                Ok(value)
            }
            Variable::Complete { .. } => Err(DecodeError::malformed("a length is not in its shortest form")),
            Variable::Incomplete => Err(DecodeError::malformed("the packet ends inside a field")),
        }
    }

    /// Binary data after its two-byte length. (1.5.6)
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A string: valid UTF-8 without U+0000. [MQTT-1.5.4-1, MQTT-1.5.4-2]
    pub(crate) fn str(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        if bytes.contains(&0) {
            return Err(DecodeError::malformed("a string contains U+0000"));
        }
        std::str::from_utf8(bytes).map_err(|_| DecodeError::malformed("a string is not UTF-8"))
    }

    pub(crate) fn string(&mut self) -> Result<ByteString, DecodeError> {
        let bytes = self.binary()?;
        if bytes.contains(&0) {
            return Err(DecodeError::malformed("a string contains U+0000"));
        }
        shared_string(self.frame, bytes)
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let bytes = self.binary()?;
        Ok(self.frame.slice_ref(bytes))
    }

    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        match NonZeroU16::new(self.u16()?) {
            Some(value) => Ok(value.into()),
            None => Err(DecodeError::protocol("packet identifier 0")),
        }
    }

    /// A topic name. With `may_be_empty` a zero-length one is the empty name: a topic alias stands for it.
    #[inline]
    pub(crate) fn topic(
        &mut self,
        limits: &DecodeLimits,
        may_be_empty: bool,
    ) -> Result<TopicName, DecodeError> {
        let bytes = self.binary()?;
        if bytes.is_empty() && may_be_empty {
            return Ok(TopicName::empty());
        }
        // Each level but the first costs a byte: most names are too short to have too many.
        let levels_max = usize::from(limits.topic_levels_max);
        if bytes.len() >= levels_max && levels(bytes) > levels_max {
            return Err(DecodeError::beyond(
                Limit::TopicLevels,
                ReasonCode::TopicNameInvalid,
                "topic name with too many levels",
            ));
        }
        TopicName::parse(shared_string(self.frame, bytes)?).map_err(topic_error)
    }
}

/// The start of a buffer read as a variable byte integer.
pub(crate) enum Variable {
    Incomplete,
    Complete { value: u32, len: usize, minimal: bool },
}

/// Reads a variable byte integer that may not be there completely. (1.5.5)
#[inline]
pub(crate) fn variable(bytes: &[u8]) -> Result<Variable, DecodeError> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Variable::Complete {
                value,
                len: index + 1,
                minimal: index == 0 || *byte != 0,
            });
        }
    }
    if bytes.len() < 4 {
        Ok(Variable::Incomplete)
    } else {
        Err(DecodeError::malformed("a length takes more than four bytes"))
    }
}

#[cold]
fn levels(topic: &[u8]) -> usize {
    1 + topic.iter().filter(|byte| **byte == b'/').count()
}

#[inline]
fn shared_string(frame: &Bytes, bytes: &[u8]) -> Result<ByteString, DecodeError> {
    // `slice_ref` of an empty slice keeps nothing of the frame.
    ByteString::try_from(frame.slice_ref(bytes)).map_err(|_| DecodeError::malformed("a string is not UTF-8"))
}

fn topic_error(error: TopicError) -> DecodeError {
    match error {
        TopicError::NulCharacter => DecodeError::malformed("a string contains U+0000"),
        TopicError::Empty => DecodeError::protocol("empty topic name"),
        _ => DecodeError::new(ReasonCode::TopicNameInvalid, "wildcard in a topic name"),
    }
}
