//! One session's deliveries that are not finished: references to messages under dense sequence numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;

use cluster_proto::{QueueChunk, SequenceRange, SubscriptionIds};
use prost::Message;

use super::MessageId;
use super::record;
use crate::encoding::Changes;

/// Deliveries of one record: a long queue is not rewritten because its end grew.
const CHUNK: u64 = 256;
/// Positions of commands in an entry have 24 bits, so that a delivery takes 16 bytes.
pub(crate) const COMMANDS_MAX: u32 = 1 << 24;

const QOS: u32 = 0b0000_0011;
const RETAIN: u32 = 0b0000_0100;
const RECEIVED: u32 = 0b0000_1000;
const FROM_SHARE: u32 = 0b0001_0000;
/// The identifiers are in `Queue::id_sets`, with the shared subscription if one chose the session; otherwise the one identifier itself, which has 28 bits, or 0.
const IN_SET: u32 = 1 << 31;

/// One delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Delivery {
    index: u64,
    command_and_flags: u32,
    ids: u32,
}

impl Delivery {
    pub(crate) fn message(self) -> MessageId {
        MessageId {
            index: self.index,
            command: self.command_and_flags >> 8,
        }
    }

    pub(crate) fn qos(self) -> u8 {
        (self.command_and_flags & QOS) as u8
    }

    pub(crate) fn retain(self) -> bool {
        self.command_and_flags & RETAIN != 0
    }

    pub(crate) fn received(self) -> bool {
        self.command_and_flags & RECEIVED != 0
    }

    pub(crate) fn is_from_share(self) -> bool {
        self.command_and_flags & FROM_SHARE != 0
    }
}

/// How a message goes to one session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner<'a> {
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// The shared subscription that chose the session.
    pub(crate) share: Option<&'a str>,
    pub(crate) subscription_ids: &'a [u32],
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Queue {
    deliveries: BTreeMap<u64, Delivery>,
    next_sequence: u64,
    /// Deliveries below it may have been sent by an earlier connection.
    sent_before: u64,
    bytes: u64,
    id_sets: Vec<SubscriptionIds>,
    /// The last checkpoint knows sequences below it.
    checkpointed: u64,
    /// Of the chunks it knows, those that changed.
    changed_chunks: BTreeSet<u64>,
}

impl Queue {
    /// The queue that a checkpoint describes, without its deliveries.
    pub(crate) fn restore(next_sequence: u64, sent_before: u64, id_sets: Vec<SubscriptionIds>) -> Self {
        Self {
            next_sequence,
            sent_before,
            id_sets,
            checkpointed: next_sequence,
            ..Self::default()
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.deliveries.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(crate) fn sent_before(&self) -> u64 {
        self.sent_before
    }

    /// The cursor: everything below is finished. It only grows, because new deliveries come at the end.
    pub(crate) fn first_sequence(&self) -> u64 {
        self.deliveries
            .first_key_value()
            .map_or(self.next_sequence, |(first, _)| *first)
    }

    /// The connection is gone. What it has sent is known, or everything so far may have been sent.
    pub(crate) fn connection_lost(&mut self, sent_before: Option<u64>) {
        let sent = sent_before.unwrap_or(self.next_sequence);
        self.sent_before = sent.clamp(self.sent_before.min(self.next_sequence), self.next_sequence);
    }

    pub(crate) fn from(&self, sequence: u64) -> impl Iterator<Item = (u64, Delivery)> {
        self.deliveries
            .range(sequence..)
            .map(|(sequence, delivery)| (*sequence, *delivery))
    }

    pub(crate) fn push(&mut self, message: MessageId, size: u64, manner: &Manner<'_>) {
        let delivery = self.delivery(message, manner);
        self.deliveries.insert(self.next_sequence, delivery);
        self.next_sequence += 1;
        self.bytes += size;
    }

    /// A delivery of a backup, under the number it had, which is below the next one. False: there is one.
    pub(crate) fn put_back(
        &mut self,
        sequence: u64,
        message: MessageId,
        size: u64,
        manner: &Manner<'_>,
    ) -> bool {
        if sequence >= self.next_sequence || self.deliveries.contains_key(&sequence) {
            return false;
        }
        let delivery = self.delivery(message, manner);
        self.deliveries.insert(sequence, delivery);
        self.changed(sequence);
        self.bytes += size;
        true
    }

    fn delivery(&mut self, message: MessageId, manner: &Manner<'_>) -> Delivery {
        let ids = match (manner.share, manner.subscription_ids) {
            (None, []) => 0,
            (None, [id]) if *id < IN_SET => *id,
            (share, ids) => self.intern(ids, share.unwrap_or_default()),
        };
        let mut flags = u32::from(manner.qos) & QOS;
        flags |= if manner.retain { RETAIN } else { 0 };
        flags |= if manner.share.is_some() { FROM_SHARE } else { 0 };
        Delivery {
            index: message.index,
            command_and_flags: message.command << 8 | flags,
            ids,
        }
    }

    pub(crate) fn subscription_ids(&self, delivery: Delivery) -> Vec<u32> {
        match delivery.ids {
            0 => Vec::new(),
            ids if ids & IN_SET == 0 => vec![ids],
            ids => self
                .id_sets
                .get((ids & !IN_SET) as usize)
                .map(|set| set.ids.clone())
                .unwrap_or_default(),
        }
    }

    /// The shared subscription that chose the session.
    pub(crate) fn share_of(&self, delivery: Delivery) -> Option<&str> {
        let set = (delivery.ids & IN_SET != 0).then(|| self.id_sets.get((delivery.ids & !IN_SET) as usize));
        let share = set.flatten()?.share_filter.as_str();
        (!share.is_empty()).then_some(share)
    }

    /// What other members of shared subscriptions may get instead of this session, by their filters: deliveries from
    /// `from` on. What QoS 2 has begun with one client is never finished with another. [MQTT-4.8.2-5]
    pub(crate) fn to_hand_over(
        &self,
        from: u64,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Vec<(u64, MessageId, Arc<str>)> {
        let mut found: Vec<(u64, MessageId, Arc<str>)> = Vec::new();
        for (sequence, delivery) in self.from(from) {
            let begun = delivery.qos() == 2 && (sequence < self.sent_before || delivery.received());
            let Some(share) = self.share_of(delivery).filter(|share| !begun && is_wanted(share)) else {
                continue;
            };
            let known = found.last().filter(|(.., known)| **known == *share);
            let share = known.map_or_else(|| share.into(), |(.., known)| Arc::clone(known));
            found.push((sequence, delivery.message(), share));
        }
        found
    }

    /// Takes one delivery out; its message has this size.
    pub(crate) fn remove(&mut self, sequence: u64, size: u64) -> Option<Delivery> {
        let delivery = self.deliveries.remove(&sequence)?;
        self.changed(sequence);
        self.bytes = self.bytes.saturating_sub(size);
        if self.deliveries.is_empty() {
            self.id_sets.clear();
        }
        Some(delivery)
    }

    /// The first delivery of a range that is not finished.
    pub(crate) fn first_in(&self, range: RangeInclusive<u64>) -> Option<(u64, Delivery)> {
        if range.is_empty() {
            return None;
        }
        self.deliveries
            .range(range)
            .next()
            .map(|(sequence, delivery)| (*sequence, *delivery))
    }

    /// Marks a QoS 2 delivery as received: its PUBREC has come. [MQTT-4.3.3-4]
    pub(crate) fn receive(&mut self, sequence: u64) {
        let Some(delivery) = self.deliveries.get_mut(&sequence) else {
            return;
        };
        if delivery.qos() == 2 && !delivery.received() {
            delivery.command_and_flags |= RECEIVED;
            self.changed(sequence);
        }
    }

    /// The finished sequences above the cursor.
    pub(crate) fn gaps(&self) -> Vec<SequenceRange> {
        let mut gaps = Vec::new();
        let mut expected = self.first_sequence();
        for sequence in self.deliveries.keys().copied().chain([self.next_sequence]) {
            if sequence > expected {
                gaps.push(SequenceRange {
                    first: expected,
                    last: sequence - 1,
                });
            }
            expected = sequence + 1;
        }
        gaps
    }

    pub(crate) fn received(&self) -> Vec<u64> {
        self.deliveries
            .iter()
            .filter(|(_, delivery)| delivery.received())
            .map(|(sequence, _)| *sequence)
            .collect()
    }

    pub(crate) fn messages(&self) -> impl Iterator<Item = MessageId> {
        self.deliveries.values().map(|delivery| delivery.message())
    }

    fn changed(&mut self, sequence: u64) {
        if sequence < self.checkpointed {
            self.changed_chunks.insert(sequence / CHUNK);
        }
    }

    fn intern(&mut self, ids: &[u32], share: &str) -> u32 {
        if self.id_sets.len() >= 64 && self.id_sets.len() > 2 * self.deliveries.len() {
            self.forget_unused_sets();
        }
        let is_it = |set: &SubscriptionIds| set.ids == ids && set.share_filter == share;
        let position = self.id_sets.iter().position(is_it).unwrap_or_else(|| {
            self.id_sets.push(SubscriptionIds {
                ids: ids.to_vec(),
                share_filter: share.to_owned(),
            });
            self.id_sets.len() - 1
        });
        position as u32 | IN_SET
    }

    fn forget_unused_sets(&mut self) {
        let old = std::mem::take(&mut self.id_sets);
        let mut places = BTreeMap::new();
        let checkpointed = self.checkpointed;
        for (sequence, delivery) in &mut self.deliveries {
            if delivery.ids & IN_SET == 0 {
                continue;
            }
            let place = *places.entry(delivery.ids).or_insert_with(|| {
                self.id_sets.push(
                    old.get((delivery.ids & !IN_SET) as usize)
                        .cloned()
                        .unwrap_or_default(),
                );
                (self.id_sets.len() - 1) as u32 | IN_SET
            });
            delivery.ids = place;
            if *sequence < checkpointed {
                self.changed_chunks.insert(sequence / CHUNK);
            }
        }
    }

    pub(crate) fn encode_sets(&self) -> Vec<SubscriptionIds> {
        self.id_sets.clone()
    }

    /// The chunks that changed since the last checkpoint.
    pub(crate) fn take_dirty(&mut self, client: &str, changes: &mut Changes) {
        let mut chunks = std::mem::take(&mut self.changed_chunks);
        let mut from = self.checkpointed;
        while let Some((sequence, _)) = self.from(from).next() {
            chunks.insert(sequence / CHUNK);
            from = (sequence / CHUNK + 1) * CHUNK;
        }
        for chunk in chunks {
            changes.insert(record::chunk_key(client, chunk), self.encode(chunk));
        }
        self.checkpointed = self.next_sequence;
    }

    /// All chunks; with `gone`, as removals of those that a checkpoint may have.
    pub(crate) fn records(&self, client: &str, gone: bool, changes: &mut Changes) {
        let mut from = 0;
        while let Some((sequence, _)) = self.from(from).next() {
            let chunk = sequence / CHUNK;
            let value = if gone { None } else { self.encode(chunk) };
            changes.insert(record::chunk_key(client, chunk), value);
            from = (chunk + 1) * CHUNK;
        }
        if gone {
            changes.extend(
                self.changed_chunks
                    .iter()
                    .map(|chunk| (record::chunk_key(client, *chunk), None)),
            );
        }
    }

    fn encode(&self, chunk: u64) -> Option<Vec<u8>> {
        let mut record = QueueChunk::default();
        for (sequence, delivery) in self.deliveries.range(chunk * CHUNK..=chunk * CHUNK + (CHUNK - 1)) {
            record.offsets.push((sequence % CHUNK) as u32);
            record.indexes.push(delivery.index);
            record.commands.push(delivery.command_and_flags);
            record.subscription_ids.push(delivery.ids);
        }
        (!record.offsets.is_empty()).then(|| record.encode_to_vec())
    }

    /// Adds a chunk of a checkpoint; `size_of` answers with the size of a known message.
    pub(crate) fn restore_chunk(
        &mut self,
        chunk: u64,
        record: &QueueChunk,
        mut size_of: impl FnMut(MessageId) -> Option<u64>,
    ) -> Result<(), &'static str> {
        let length = record.offsets.len();
        let lengths = [
            record.indexes.len(),
            record.commands.len(),
            record.subscription_ids.len(),
        ];
        if lengths.iter().any(|other| *other != length) || chunk > self.next_sequence / CHUNK {
            return Err("a queue chunk does not fit");
        }
        for (place, offset) in record.offsets.iter().enumerate() {
            let sequence = chunk * CHUNK + u64::from(*offset);
            let delivery = Delivery {
                index: record.indexes[place],
                command_and_flags: record.commands[place],
                ids: record.subscription_ids[place],
            };
            let size = size_of(delivery.message()).ok_or("a delivery of an unknown message")?;
            if u64::from(*offset) >= CHUNK || sequence >= self.next_sequence {
                return Err("a delivery has a sequence that was not given yet");
            }
            self.deliveries.insert(sequence, delivery);
            self.bytes += size;
        }
        Ok(())
    }

    /// The first delivery that may be dropped to make room. One that was sent is not: what QoS 2 means by a packet id
    /// must not be forgotten half-way, and while a connection exists any QoS 2 delivery may be on its way.
    pub(crate) fn droppable(&self, connected: bool) -> Option<(u64, Delivery)> {
        const LOOK_AT_MAX: usize = 256;
        let mut rest = self
            .deliveries
            .range((Bound::Included(self.sent_before), Bound::Unbounded));
        let found = if connected {
            rest.take(LOOK_AT_MAX).find(|(_, delivery)| delivery.qos() == 1)
        } else {
            rest.next()
        };
        found.map(|(sequence, delivery)| (*sequence, *delivery))
    }
}
