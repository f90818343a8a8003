//! The state as records: what changed since the last checkpoint, all of it, and back.

use std::sync::Arc;

use cluster_proto::{
    OutboxRecord, Publication, QueueChunk, QueueRecord, SessionRecord, ShardRecord, Subscription,
};
use prost::Message;

use super::ShardState;
use super::messages::{MessageId, Messages};
use super::outbox::Outbox;
use super::queue::Queue;
use super::record;
use super::session::{Options, QueueLimits, Session, SessionId, Sweep};
use super::sources::Sources;
use super::timers::Due;
use crate::encoding::{Change, Changes, RestoreError, decode, fault, name_of};
use crate::placement::Fnv;

impl ShardState {
    /// The records that changed since the last call, each key once. Written over the records of the calls before, they
    /// are the state at this moment.
    pub fn take_dirty(&mut self) -> Vec<Change> {
        let mut changes = Changes::new();
        if std::mem::take(&mut self.dirty) {
            changes.insert(vec![record::SHARD], Some(self.encode_shard()));
        }
        self.sessions.take_dirty(&mut changes);
        self.messages.take_dirty(self.applied, &mut changes);
        self.outbox.take_dirty(&mut changes);
        self.retained.take_dirty(&mut changes);
        changes.into_iter().collect()
    }

    /// All records.
    pub fn records(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut changes = Changes::new();
        changes.insert(vec![record::SHARD], Some(self.encode_shard()));
        self.sessions.records(&mut changes);
        self.messages.records(&mut changes);
        self.outbox.records(&mut changes);
        self.retained.records(&mut changes);
        changes
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    }

    /// A number that is the same for the same state, on every replica and after a restart.
    pub fn digest(&self) -> u64 {
        let mut digest = Fnv::default();
        for (key, value) in self.records() {
            for part in [key, value] {
                digest.update(&(part.len() as u64).to_le_bytes());
                digest.update(&part);
            }
        }
        digest.finish()
    }

    fn encode_shard(&self) -> Vec<u8> {
        ShardRecord {
            applied: Some(self.applied.encode()),
            last_epoch: self.last_epoch,
            next_outbox_number: self.outbox.next_number(),
            sources: self.sources.encode(),
            ..ShardRecord::default()
        }
        .encode_to_vec()
    }

    /// The state that records describe, in whatever order they come.
    ///
    /// # Errors
    /// A record is not one of a shard's state, or contradicts another one.
    pub fn restore<K, V>(records: impl IntoIterator<Item = (K, V)>) -> Result<Self, RestoreError>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let mut sorted = Sorted::default();
        for (key, value) in records {
            sorted.add(key.as_ref(), value.as_ref())?;
        }
        sorted.build()
    }
}

type Records<M> = Vec<(Vec<u8>, M)>;

/// Records by kind: a session is needed before its queue, messages before what refers to them.
#[derive(Default)]
struct Sorted {
    shard: Option<ShardRecord>,
    sessions: Records<SessionRecord>,
    queues: Records<QueueRecord>,
    subscriptions: Records<Subscription>,
    chunks: Records<QueueChunk>,
    messages: Messages,
    retained: Records<Publication>,
    outbox: Records<OutboxRecord>,
}

impl Sorted {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let owned = key.to_vec();
        match key.first() {
            Some(&record::SHARD) => self.shard = Some(decode(key, value)?),
            Some(&record::SESSION) => self.sessions.push((owned, decode(key, value)?)),
            Some(&record::QUEUE) => self.queues.push((owned, decode(key, value)?)),
            Some(&record::SUBSCRIPTION) => self.subscriptions.push((owned, decode(key, value)?)),
            Some(&record::CHUNK) => self.chunks.push((owned, decode(key, value)?)),
            Some(&record::MESSAGE) => self
                .messages
                .restore(record::split_message(key)?, &decode(key, value)?),
            Some(&record::RETAINED) => self.retained.push((owned, decode(key, value)?)),
            Some(&record::OUTBOX) => self.outbox.push((owned, decode(key, value)?)),
            _ => return Err(fault(key, "the key begins with no known letter")),
        }
        Ok(())
    }

    fn build(mut self) -> Result<ShardState, RestoreError> {
        let Some(shard) = self.shard else {
            // Without it there has been no command, and so nothing else.
            let any = self.sessions.first().map(|(key, _)| key.clone());
            return any.map_or_else(
                || Ok(ShardState::new()),
                |key| Err(fault(&key, "no shard record")),
            );
        };
        let mut state = ShardState {
            applied: shard.applied.map(MessageId::decode).unwrap_or_default(),
            last_epoch: shard.last_epoch,
            outbox: Outbox::restore(shard.next_outbox_number),
            sources: Sources::restore(shard.sources),
            messages: self.messages,
            ..ShardState::default()
        };
        self.sessions.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (key, record) in self.sessions {
            state.restore_session(&key, record)?;
        }
        for (key, record) in self.queues {
            state.restore_queue(&key, record)?;
        }
        for (key, subscription) in self.subscriptions {
            state.restore_subscription_record(&key, &subscription)?;
        }
        for (key, chunk) in self.chunks {
            state.restore_chunk(&key, &chunk)?;
        }
        for (key, publication) in self.retained {
            state
                .retained
                .restore(name_of(&key)?.into(), publication, &mut state.timers);
        }
        for (key, item) in self.outbox {
            state.restore_outbox(&key, item)?;
        }
        if let Some(id) = state.messages.unreferenced() {
            return Err(fault(&record::message_key(id), "nothing refers to this message"));
        }
        Ok(state)
    }
}

impl ShardState {
    fn restore_session(&mut self, key: &[u8], record: SessionRecord) -> Result<(), RestoreError> {
        let (client, _) = record::split_client(key)?;
        let client: Arc<str> = client.into();
        let session = Session {
            owner: record.owner.unwrap_or_default(),
            connected: record.connected,
            user: record.user,
            expiry_s: record.session_expiry_s,
            expires_at_ms: record.expires_at_ms,
            will: record.will,
            will_due_ms: record.will_due_ms,
            limits: QueueLimits {
                messages_max: record.queue_messages_max,
                bytes_max: record.queue_bytes_max,
                drop_oldest: record.drop_oldest,
            },
            ..Session::default()
        };
        self.timers.set(session.expires_at_ms, Due::Expiry, &client);
        self.timers.set(session.will_due_ms, Due::Will, &client);
        if session.connected {
            self.owners.insert((session.owner.node, Arc::clone(&client)));
            self.totals.connected += 1;
        }
        self.totals.sessions += 1;
        self.sessions.insert(client, session);
        Ok(())
    }

    fn session_of_key<'a>(&self, key: &'a [u8]) -> Result<(SessionId, &'a [u8]), RestoreError> {
        let (client, rest) = record::split_client(key)?;
        let id = self
            .sessions
            .find(client)
            .ok_or_else(|| fault(key, "no such session"))?;
        Ok((id, rest))
    }

    fn restore_queue(&mut self, key: &[u8], record: QueueRecord) -> Result<(), RestoreError> {
        let (id, _) = self.session_of_key(key)?;
        let Some((client, session)) = self.sessions.get_mut(id) else {
            return Ok(());
        };
        session.queue = Queue::restore(record.next_sequence, record.sent_before, record.subscription_ids);
        session.sweep = Sweep {
            due_ms: record.sweep_at_ms,
            last_ms: record.swept_at_ms,
        };
        self.timers.set(session.sweep.due_ms, Due::Sweep, client);
        for inbound in record.inbound {
            let packet_id =
                u16::try_from(inbound.packet_id).map_err(|_| fault(key, "a packet id is too large"))?;
            let message = inbound.message.map(MessageId::decode).unwrap_or_default();
            if !self.messages.refer(message) {
                return Err(fault(key, "a message that is received is not stored"));
            }
            session.inbound.insert(packet_id, message);
        }
        Ok(())
    }

    fn restore_subscription_record(
        &mut self,
        key: &[u8],
        subscription: &Subscription,
    ) -> Result<(), RestoreError> {
        let (id, filter) = self.session_of_key(key)?;
        let filter = std::str::from_utf8(filter).map_err(|_| fault(key, "the filter is not UTF-8"))?;
        let options = Options::of(subscription).ok_or_else(|| fault(key, "options that cannot be"))?;
        if !self.restore_subscription(id, filter, options) {
            return Err(fault(key, "the filter is not valid"));
        }
        Ok(())
    }

    fn restore_chunk(&mut self, key: &[u8], chunk: &QueueChunk) -> Result<(), RestoreError> {
        let (id, number) = self.session_of_key(key)?;
        let number = record::number(key, number)?;
        let messages = &mut self.messages;
        let Some((_, session)) = self.sessions.get_mut(id) else {
            return Ok(());
        };
        let (messages_before, bytes_before) = (session.queue.len(), session.queue.bytes());
        let refer = |message| {
            messages
                .refer(message)
                .then(|| messages.get(message).map_or(0, |stored| stored.size))
        };
        session
            .queue
            .restore_chunk(number, chunk, refer)
            .map_err(|detail| fault(key, detail))?;
        self.totals.queued_messages += session.queue.len() - messages_before;
        self.totals.queued_bytes += session.queue.bytes() - bytes_before;
        Ok(())
    }

    fn restore_outbox(&mut self, key: &[u8], item: OutboxRecord) -> Result<(), RestoreError> {
        let number = record::number(key, key.get(1..).unwrap_or_default())?;
        if let Some(cluster_proto::outbox_record::Body::Message(reference)) = item.body
            && !self.messages.refer(MessageId::decode(reference))
        {
            return Err(fault(key, "a message that waits is not stored"));
        }
        self.outbox
            .restore_item(number, item)
            .map_err(|detail| fault(key, detail))
    }
}
