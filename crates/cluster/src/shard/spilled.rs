//! Which bodies are in the state store, without asking for each: all that the state refers to, up to an entry of the log.

use std::collections::BTreeSet;

use cluster_proto::raft as proto;
use cluster_state::MessageId;
use prost::Message;
use storage::{Change, StorageError};

/// Written with each checkpoint, and before bodies are.
#[derive(Clone, Default, Debug)]
pub(super) struct Spilled {
    /// The bodies of all messages that the state refers to are there, if they were committed up to this index.
    pub(super) up_to: u64,
    /// Bodies besides, which nothing refers to: they are to be removed.
    pub(super) loose: BTreeSet<MessageId>,
}

impl Spilled {
    pub(super) const KEY: &[u8] = b"b";

    pub(super) fn decode(value: &[u8]) -> Result<Self, StorageError> {
        let damaged = |error: prost::DecodeError| StorageError::Damaged {
            what: "the record of the bodies",
            detail: error.to_string(),
        };
        let record = proto::Spilled::decode(value).map_err(damaged)?;
        let loose = record.loose_indexes.into_iter().zip(record.loose_commands);
        Ok(Self {
            up_to: record.up_to,
            loose: loose
                .map(|(index, command)| MessageId { index, command })
                .collect(),
        })
    }

    /// As a record.
    pub(super) fn record(&self) -> (Vec<u8>, Vec<u8>) {
        let record = proto::Spilled {
            up_to: self.up_to,
            loose_indexes: self.loose.iter().map(|id| id.index).collect(),
            loose_commands: self.loose.iter().map(|id| id.command).collect(),
        };
        (Self::KEY.to_vec(), record.encode_to_vec())
    }

    /// As a change of the record.
    pub(super) fn change(&self) -> Change {
        let (key, value) = self.record();
        (key, Some(value))
    }
}
