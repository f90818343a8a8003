//! Our entries in the form the log engine wants: a message with an index that it can ask for.

use cluster_proto::raft::Entry;
use prost::Message;
use protobuf::well_known_types::BytesValue;
use raft_engine::MessageExt;

use crate::StorageError;

/// Tells the engine how to find an entry's index: it precedes the encoded entry.
pub(super) struct Payload;

impl MessageExt for Payload {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry
            .value
            .first_chunk()
            .map_or(0, |index| u64::from_be_bytes(*index))
    }
}

/// An entry's index; an entry without a log id has none and is never written.
pub(super) fn index(entry: &Entry) -> u64 {
    entry.log_id.as_ref().map_or(0, |id| id.index)
}

pub(super) fn encode(entry: &Entry) -> BytesValue {
    let mut value = Vec::with_capacity(8 + entry.encoded_len());
    value.extend_from_slice(&index(entry).to_be_bytes());
    entry.encode_raw(&mut value);
    BytesValue {
        value,
        ..BytesValue::default()
    }
}

pub(super) fn decode(entry: BytesValue) -> Result<Entry, StorageError> {
    let mut bytes = bytes::Bytes::from(entry.value);
    if bytes.len() < 8 {
        return Err(StorageError::Damaged {
            what: "an entry",
            detail: "it is too short".into(),
        });
    }
    let bytes = bytes.split_off(8);
    Entry::decode(bytes).map_err(|error| StorageError::Damaged {
        what: "an entry",
        detail: error.to_string(),
    })
}
