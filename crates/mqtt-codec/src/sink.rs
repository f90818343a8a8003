//! Where encoders write to: a buffer, or a counter that only learns how long the result will be.

use crate::error::EncodeError;

/// The largest number a variable byte integer can hold. (1.5.5)
pub(crate) const VARIABLE_BYTE_INTEGER_MAX: u32 = 268_435_455;

/// Takes the parts of a packet in the order of the wire.
pub(crate) trait Sink {
    fn put_slice(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put_slice(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put_slice(&value.to_be_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put_slice(&value.to_be_bytes());
    }

    /// Binary data or a string after its two-byte length. (1.5.4, 1.5.6)
    fn put_prefixed(&mut self, bytes: &[u8]) {
        // A longer field was found by the `Counter`, which always goes first.
        self.put_u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
        self.put_slice(bytes);
    }

    fn put_variable(&mut self, value: u32) {
        let (bytes, len) = variable_byte_integer(value);
        self.put_slice(&bytes[..len]);
    }
}

impl Sink for Vec<u8> {
    fn put_slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }
}

/// Counts what a packet takes and notices fields that do not fit in one.
#[derive(Default)]
pub(crate) struct Counter {
    len: usize,
    field_too_long: bool,
}

impl Counter {
    /// The length of what was written, if it fits in a packet.
    pub(crate) fn finish(self) -> Result<u32, EncodeError> {
        if self.field_too_long {
            return Err(EncodeError::FieldTooLong);
        }
        match u32::try_from(self.len) {
            Ok(len) if len <= VARIABLE_BYTE_INTEGER_MAX => Ok(len),
            _ => Err(EncodeError::PacketTooLarge),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Sink for Counter {
    fn put_slice(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
    }

    fn put_prefixed(&mut self, bytes: &[u8]) {
        self.field_too_long |= bytes.len() > usize::from(u16::MAX);
        self.len += 2 + bytes.len();
    }
}

/// The bytes of a variable byte integer and how many of them count. (1.5.5)
#[inline]
pub(crate) fn variable_byte_integer(value: u32) -> ([u8; 4], usize) {
    let byte = |index: u32| (value >> (7 * index)) as u8;
    match variable_len(value) {
        1 => ([byte(0), 0, 0, 0], 1),
        2 => ([byte(0) | 0x80, byte(1), 0, 0], 2),
        3 => ([byte(0) | 0x80, byte(1) | 0x80, byte(2), 0], 3),
        _ => (
            [byte(0) | 0x80, byte(1) | 0x80, byte(2) | 0x80, byte(3) & 0x7F],
            4,
        ),
    }
}

/// How many bytes a variable byte integer takes.
#[inline]
pub(crate) fn variable_len(value: u32) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}
