//! Messages that were accepted for good and wait for their destinations: released QoS 2 messages, wills, and what members
//! of shared subscriptions have left behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster_proto::{Author, OutboxRecord, Publication, outbox_record::Body};
use prost::Message;

use super::MessageId;
use super::record;
use crate::encoding::Changes;

/// A message of the outbox.
#[derive(Clone, PartialEq, Debug)]
pub struct OutboxItem {
    /// Its number; numbers are dense and grow.
    pub number: u64,
    /// The message.
    pub body: OutboxBody,
}

/// Where the message is.
#[derive(Clone, PartialEq, Debug)]
pub enum OutboxBody {
    /// With the caller, under this name.
    Message(MessageId),
    /// Here: a will, and by whom it is judged.
    Will(Box<Publication>, Option<Box<Author>>),
    /// With the caller, and only for a member of this shared subscription: another one has left it behind.
    Shared(MessageId, Arc<str>),
}

impl OutboxBody {
    /// The name of the message, if it is with the caller.
    pub fn message(&self) -> Option<MessageId> {
        match self {
            Self::Message(id) | Self::Shared(id, _) => Some(*id),
            Self::Will(..) => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Outbox {
    items: BTreeMap<u64, OutboxBody>,
    next_number: u64,
    /// The last checkpoint knows numbers below it.
    checkpointed: u64,
    /// Of those, the ones that are done since.
    done: Vec<u64>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::restore(1)
    }
}

impl Outbox {
    pub(crate) fn restore(next_number: u64) -> Self {
        Self {
            items: BTreeMap::new(),
            next_number,
            checkpointed: next_number,
            done: Vec::new(),
        }
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }

    pub(crate) fn push(&mut self, body: OutboxBody) {
        self.items.insert(self.next_number, body);
        self.next_number += 1;
    }

    /// Takes the oldest message out if its number is not above `up_to`.
    pub(crate) fn take_done(&mut self, up_to: u64) -> Option<OutboxBody> {
        let first = self.items.first_entry()?;
        if *first.key() > up_to {
            return None;
        }
        let (number, body) = first.remove_entry();
        if number < self.checkpointed {
            self.done.push(number);
        }
        Some(body)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = OutboxItem> {
        self.items.iter().map(|(number, body)| OutboxItem {
            number: *number,
            body: body.clone(),
        })
    }

    pub(crate) fn messages(&self) -> impl Iterator<Item = MessageId> {
        self.items.values().filter_map(OutboxBody::message)
    }

    pub(crate) fn restore_item(&mut self, number: u64, record: OutboxRecord) -> Result<(), &'static str> {
        let body = match record.body {
            Some(Body::Message(reference)) if record.share_filter.is_empty() => {
                OutboxBody::Message(MessageId::decode(reference))
            }
            Some(Body::Message(reference)) => {
                OutboxBody::Shared(MessageId::decode(reference), record.share_filter.into())
            }
            Some(Body::Publication(publication)) => OutboxBody::Will(Box::new(publication), record.author),
            None => return Err("an outbox record is empty"),
        };
        if number >= self.next_number {
            return Err("an outbox record has a number that was not given yet");
        }
        self.items.insert(number, body);
        Ok(())
    }

    pub(crate) fn take_dirty(&mut self, changes: &mut Changes) {
        changes.extend(
            self.done
                .drain(..)
                .map(|number| (record::outbox_key(number), None)),
        );
        for (number, body) in self.items.range(self.checkpointed..) {
            changes.insert(record::outbox_key(*number), Some(encode(body)));
        }
        self.checkpointed = self.next_number;
    }

    pub(crate) fn records(&self, changes: &mut Changes) {
        for (number, body) in &self.items {
            changes.insert(record::outbox_key(*number), Some(encode(body)));
        }
    }
}

fn encode(body: &OutboxBody) -> Vec<u8> {
    let (body, share, author) = match body {
        OutboxBody::Message(id) => (Body::Message(id.encode()), "", None),
        OutboxBody::Will(publication, author) => {
            let publication = Publication::clone(publication);
            (Body::Publication(publication), "", author.clone())
        }
        OutboxBody::Shared(id, share) => (Body::Message(id.encode()), &**share, None),
    };
    OutboxRecord {
        body: Some(body),
        share_filter: share.to_owned(),
        author,
    }
    .encode_to_vec()
}
