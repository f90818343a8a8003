//! The 16 bytes at the start of every payload: who sent it, which one it is, and when.

/// Bytes taken by the head.
pub(crate) const HEAD_LENGTH: usize = 16;

const SEQUENCE_BITS: u32 = 40;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;

/// Identity and time of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Index of the publisher within the run.
    pub(crate) source: u32,
    /// Counts up from 0 per publisher.
    pub(crate) sequence: u64,
    /// Nanoseconds since the run began.
    pub(crate) sent_ns: u64,
}

impl Head {
    /// The wire form: 24 bits of source and 40 of sequence, then the time, big endian.
    pub(crate) fn to_bytes(self) -> [u8; HEAD_LENGTH] {
        let identity = u64::from(self.source) << SEQUENCE_BITS | self.sequence & SEQUENCE_MASK;
        (u128::from(identity) << 64 | u128::from(self.sent_ns)).to_be_bytes()
    }

    /// `None` when the payload is too short to be one of ours.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let value = u128::from_be_bytes(*payload.first_chunk::<HEAD_LENGTH>()?);
        let (identity, sent_ns) = ((value >> 64) as u64, value as u64);
        Some(Self {
            source: (identity >> SEQUENCE_BITS) as u32,
            sequence: identity & SEQUENCE_MASK,
            sent_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let head = Head {
            source: 99_999,
            sequence: 123_456_789_012,
            sent_ns: u64::MAX - 3,
        };
        assert_eq!(Head::read(&head.to_bytes()), Some(head));
    }

    #[test]
    fn a_foreign_short_payload_is_no_head() {
        assert_eq!(Head::read(b"fifteen bytes.."), None);
    }
}
