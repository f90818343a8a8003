//! Bodies that are not in memory: in the state store once they were spilled, in the log before.

use cluster_proto::{Publication, ShardEntry, raft::entry::Payload, shard_command::Command};
use cluster_state::MessageId;
use prost::Message;
use storage::{GroupLog, StorageError};

/// Spilled bodies, by the place where they were committed.
pub(super) const BODY: u8 = b'm';

type ReadRecord = Box<dyn Fn(&[u8]) -> Result<Option<Vec<u8>>, StorageError> + Send + Sync>;

/// Reads bodies from disk. Blocks.
pub(super) struct BodyReader {
    record: ReadRecord,
    log: GroupLog,
}

impl BodyReader {
    pub(super) fn new(
        record: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, StorageError> + Send + Sync + 'static,
        log: GroupLog,
    ) -> Self {
        Self {
            record: Box::new(record),
            log,
        }
    }

    /// A body, wherever it is. None: nothing refers to the message any more.
    pub(super) fn read(
        &self,
        id: MessageId,
        entry: &mut DecodedEntry,
    ) -> Result<Option<Publication>, StorageError> {
        if let Some(body) = self.spilled(id)? {
            return Ok(Some(body));
        }
        if let Some(body) = self.logged(id, entry)? {
            return Ok(Some(body));
        }
        // It may have been spilled, and the log purged, between the two.
        self.spilled(id)
    }

    fn spilled(&self, id: MessageId) -> Result<Option<Publication>, StorageError> {
        let Some(bytes) = (self.record)(&body_key(id))? else {
            return Ok(None);
        };
        Publication::decode(bytes::Bytes::from(bytes))
            .map(Some)
            .map_err(damaged)
    }

    fn logged(&self, id: MessageId, entry: &mut DecodedEntry) -> Result<Option<Publication>, StorageError> {
        if entry.index != Some(id.index) {
            let found = self
                .log
                .entries(id.index..id.index + 1)?
                .pop()
                .and_then(|entry| entry.payload);
            let Some(Payload::Normal(bytes)) = found else {
                return Ok(None);
            };
            *entry = DecodedEntry {
                index: Some(id.index),
                entry: ShardEntry::decode(bytes).map_err(damaged)?,
            };
        }
        let command = entry
            .entry
            .commands
            .get(id.command as usize)
            .and_then(|command| command.command.as_ref());
        Ok(match command {
            Some(Command::Append(append)) => append.publication.clone(),
            Some(Command::Inbound(inbound)) => inbound.publication.clone(),
            Some(Command::Retain(retain)) => retain.publication.clone(),
            Some(Command::RestoreMessage(restore)) => restore.publication.clone(),
            _ => None,
        })
    }
}

/// The entry that was decoded last: neighbours in a queue often come from one entry.
#[derive(Default)]
pub(super) struct DecodedEntry {
    index: Option<u64>,
    entry: ShardEntry,
}

pub(super) fn body_key(id: MessageId) -> Vec<u8> {
    let mut key = vec![BODY];
    key.extend_from_slice(&id.index.to_be_bytes());
    key.extend_from_slice(&id.command.to_be_bytes());
    key
}

pub(super) fn split_key(key: &[u8]) -> Option<MessageId> {
    let (index, command) = key.get(1..)?.split_first_chunk::<8>()?;
    let command = command.try_into().ok()?;
    Some(MessageId {
        index: u64::from_be_bytes(*index),
        command: u32::from_be_bytes(command),
    })
}

fn damaged(error: prost::DecodeError) -> StorageError {
    StorageError::Damaged {
        what: "a message",
        detail: error.to_string(),
    }
}
