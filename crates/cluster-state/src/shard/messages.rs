//! Which messages this shard still needs, and how many references each has. Their bodies are the caller's.

use std::collections::BTreeMap;

use cluster_proto::{MessageRecord, MessageReference, Publication};
use prost::Message;

use super::Effect;
use super::record;
use crate::encoding::Changes;

/// The name of a message: where in the shard's log it was committed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct MessageId {
    /// The index of the Raft entry.
    pub index: u64,
    /// The position of the command in that entry.
    pub command: u32,
}

impl MessageId {
    pub(crate) fn encode(self) -> MessageReference {
        MessageReference {
            index: self.index,
            command: self.command,
        }
    }

    pub(crate) fn decode(reference: MessageReference) -> Self {
        Self {
            index: reference.index,
            command: reference.command,
        }
    }
}

/// What is known of a message without its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    pub(crate) size: u64,
    /// 0: never.
    pub(crate) expires_at_ms: u64,
    pub(crate) references: u64,
}

impl Stored {
    /// Whether it may not be delivered any more.
    pub(crate) fn is_expired(&self, now_ms: u64) -> bool {
        is_past(self.expires_at_ms, now_ms)
    }
}

/// Whether a message with this expiry may not be delivered any more.
pub(crate) fn is_past(expires_at_ms: u64, now_ms: u64) -> bool {
    expires_at_ms != 0 && expires_at_ms <= now_ms
}

/// The bytes a message counts for in limits.
pub(crate) fn size_of(publication: &Publication) -> u64 {
    (publication.topic.len() + publication.properties.len() + publication.payload.len()) as u64
}

#[derive(Default, Debug)]
pub(crate) struct Messages {
    stored: BTreeMap<MessageId, Stored>,
    /// The last checkpoint knows messages up to here; ids only grow.
    checkpointed: MessageId,
    /// Of those the checkpoint knows, the ones that are gone.
    released: Vec<MessageId>,
}

impl Messages {
    pub(crate) fn get(&self, id: MessageId) -> Option<&Stored> {
        self.stored.get(&id)
    }

    /// Adds a message that `references` places hold.
    pub(crate) fn insert(
        &mut self,
        id: MessageId,
        publication: Publication,
        references: u64,
        effects: &mut Vec<Effect>,
    ) {
        let (size, expires_at_ms) = (size_of(&publication), publication.expires_at_ms);
        self.stored.insert(
            id,
            Stored {
                size,
                expires_at_ms,
                references,
            },
        );
        effects.push(Effect::MessageStored { id, publication });
    }

    /// Takes one reference away.
    pub(crate) fn release(&mut self, id: MessageId, effects: &mut Vec<Effect>) {
        let Some(stored) = self.stored.get_mut(&id) else {
            return;
        };
        stored.references -= 1;
        if stored.references > 0 {
            return;
        }
        self.stored.remove(&id);
        if id <= self.checkpointed {
            self.released.push(id);
        }
        effects.push(Effect::MessageReleased { id });
    }

    pub(crate) fn up_to(&self, index: u64) -> impl Iterator<Item = MessageId> {
        self.stored
            .range(
                ..=MessageId {
                    index,
                    command: u32::MAX,
                },
            )
            .map(|(id, _)| *id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (MessageId, &Stored)> {
        self.stored.iter().map(|(id, stored)| (*id, stored))
    }

    /// Adds a message of a checkpoint; its references are counted as they are found.
    pub(crate) fn restore(&mut self, id: MessageId, record: &MessageRecord) {
        let stored = Stored {
            size: record.size,
            expires_at_ms: record.expires_at_ms,
            references: 0,
        };
        self.stored.insert(id, stored);
        self.checkpointed = self.checkpointed.max(id);
    }

    /// Counts a reference found in a checkpoint; false if there is no such message.
    pub(crate) fn refer(&mut self, id: MessageId) -> bool {
        let Some(stored) = self.stored.get_mut(&id) else {
            return false;
        };
        stored.references += 1;
        true
    }

    /// A checkpoint's message that nothing refers to.
    pub(crate) fn unreferenced(&self) -> Option<MessageId> {
        self.stored
            .iter()
            .find(|(_, stored)| stored.references == 0)
            .map(|(id, _)| *id)
    }

    /// What changed since the last checkpoint; `applied` is where this one is taken.
    pub(crate) fn take_dirty(&mut self, applied: MessageId, changes: &mut Changes) {
        for id in self.released.drain(..) {
            changes.insert(record::message_key(id), None);
        }
        let new = (
            std::ops::Bound::Excluded(self.checkpointed),
            std::ops::Bound::Unbounded,
        );
        for (id, stored) in self.stored.range(new) {
            changes.insert(record::message_key(*id), Some(stored.encode()));
        }
        self.checkpointed = self.checkpointed.max(applied);
    }

    pub(crate) fn records(&self, changes: &mut Changes) {
        for (id, stored) in &self.stored {
            changes.insert(record::message_key(*id), Some(stored.encode()));
        }
    }
}

impl Stored {
    fn encode(&self) -> Vec<u8> {
        MessageRecord {
            size: self.size,
            expires_at_ms: self.expires_at_ms,
        }
        .encode_to_vec()
    }
}
