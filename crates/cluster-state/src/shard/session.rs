//! One client's session, and the table of all sessions of a shard.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use cluster_proto::{InboundRecord, Owner, QueueRecord, SessionRecord, Subscription, Will};
use prost::Message;

use super::MessageId;
use super::queue::Queue;
use super::record;
use crate::encoding::Changes;

/// `session_expiry_s` of a session that never expires. [MQTT5 3.1.2.11.2]
pub(crate) const NEVER_S: u32 = u32::MAX;

/// The place of a session in the table, for as long as it lives. Never part of the replicated state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct SessionId(u32);

/// What a client asked for with a subscription, without its filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Options {
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retain_handling: u8,
    /// 0: none.
    pub(crate) subscription_id: u32,
}

impl Options {
    pub(crate) fn of(subscription: &Subscription) -> Option<Self> {
        (subscription.qos <= 2 && subscription.retain_handling <= 2).then_some(Self {
            qos: subscription.qos as u8,
            no_local: subscription.no_local,
            retain_as_published: subscription.retain_as_published,
            retain_handling: subscription.retain_handling as u8,
            subscription_id: subscription.subscription_id,
        })
    }

    pub(crate) fn with_filter(&self, filter: &str) -> Subscription {
        Subscription {
            filter: filter.to_owned(),
            qos: self.qos.into(),
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            retain_handling: self.retain_handling.into(),
            subscription_id: self.subscription_id,
        }
    }
}

/// The limits of a session's queue. 0 is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) messages_max: u64,
    pub(crate) bytes_max: u64,
    pub(crate) drop_oldest: bool,
}

/// When expired messages of a disconnected session are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Sweep {
    pub(crate) due_ms: Option<u64>,
    pub(crate) last_ms: u64,
}

#[derive(Default, Debug)]
pub(crate) struct Session {
    pub(crate) owner: Owner,
    pub(crate) connected: bool,
    pub(crate) user: String,
    pub(crate) expiry_s: u32,
    /// While disconnected; none: never.
    pub(crate) expires_at_ms: Option<u64>,
    pub(crate) will: Option<Will>,
    /// While disconnected, with a will.
    pub(crate) will_due_ms: Option<u64>,
    pub(crate) limits: QueueLimits,
    pub(crate) subscriptions: BTreeMap<Arc<str>, Options>,
    pub(crate) queue: Queue,
    pub(crate) sweep: Sweep,
    /// QoS 2 messages of the client that wait for their PUBREL.
    pub(crate) inbound: BTreeMap<u16, MessageId>,
    /// What the last checkpoint does not know yet.
    pub(crate) dirty: Dirty,
}

#[derive(Default, Debug)]
pub(crate) struct Dirty {
    /// Whether `Sessions` knows that there is something.
    listed: bool,
    session: bool,
    filters: BTreeSet<Arc<str>>,
}

impl Session {
    /// A connection exists, so the session has no deadlines.
    pub(crate) fn is_alive(&self, now_ms: u64) -> bool {
        self.connected || self.expires_at_ms.is_none_or(|at| at > now_ms)
    }

    /// Where `ShardState::owners` has it while it is connected.
    pub(crate) fn place_of(&self, client: &Arc<str>) -> (u64, u64, Arc<str>) {
        (self.owner.node, self.owner.incarnation, Arc::clone(client))
    }

    fn encode_session(&self) -> Vec<u8> {
        SessionRecord {
            owner: Some(self.owner),
            connected: self.connected,
            user: self.user.clone(),
            session_expiry_s: self.expiry_s,
            expires_at_ms: self.expires_at_ms,
            will: self.will.clone(),
            will_due_ms: self.will_due_ms,
            queue_messages_max: self.limits.messages_max,
            queue_bytes_max: self.limits.bytes_max,
            drop_oldest: self.limits.drop_oldest,
        }
        .encode_to_vec()
    }

    fn encode_queue(&self) -> Vec<u8> {
        let inbound = |(packet_id, message): (&u16, &MessageId)| InboundRecord {
            packet_id: u32::from(*packet_id),
            message: Some(message.encode()),
        };
        QueueRecord {
            next_sequence: self.queue.next_sequence(),
            sent_before: self.queue.sent_before(),
            sweep_at_ms: self.sweep.due_ms,
            swept_at_ms: self.sweep.last_ms,
            inbound: self.inbound.iter().map(inbound).collect(),
            subscription_ids: self.queue.encode_sets(),
        }
        .encode_to_vec()
    }

    fn take_dirty(&mut self, client: &str, changes: &mut Changes) {
        let dirty = std::mem::take(&mut self.dirty);
        if dirty.session {
            changes.insert(
                record::client_key(record::SESSION, client, &[]),
                Some(self.encode_session()),
            );
        }
        changes.insert(
            record::client_key(record::QUEUE, client, &[]),
            Some(self.encode_queue()),
        );
        for filter in dirty.filters {
            let options = self.subscriptions.get(&filter);
            changes.insert(subscription_key(client, &filter), options.map(encode_options));
        }
        self.queue.take_dirty(client, changes);
    }

    /// All records; with `gone`, as removals of those that a checkpoint may have.
    fn records(&self, client: &str, gone: bool, changes: &mut Changes) {
        let value = |value: &dyn Fn() -> Vec<u8>| if gone { None } else { Some(value()) };
        let session = || self.encode_session();
        changes.insert(record::client_key(record::SESSION, client, &[]), value(&session));
        changes.insert(
            record::client_key(record::QUEUE, client, &[]),
            value(&|| self.encode_queue()),
        );
        for (filter, options) in &self.subscriptions {
            changes.insert(
                subscription_key(client, filter),
                value(&|| encode_options(options)),
            );
        }
        if gone {
            changes.extend(
                self.dirty
                    .filters
                    .iter()
                    .map(|filter| (subscription_key(client, filter), None)),
            );
        }
        self.queue.records(client, gone, changes);
    }
}

fn subscription_key(client: &str, filter: &str) -> Vec<u8> {
    record::client_key(record::SUBSCRIPTION, client, filter.as_bytes())
}

fn encode_options(options: &Options) -> Vec<u8> {
    // The filter is in the key.
    options.with_filter("").encode_to_vec()
}

/// What is in front of the first slash of a client id.
fn space_of(client: &str) -> Option<&str> {
    client.split_once('/').map(|(space, _)| space)
}

/// Boxed: a table that grows has room for twice as many.
type Slot = Option<Box<(Arc<str>, Session)>>;

#[derive(Default, Debug)]
pub(crate) struct Sessions {
    names: BTreeMap<Arc<str>, SessionId>,
    /// How many have so much in front of the first slash of their client ids; who has no slash is not in it.
    spaces: BTreeMap<Box<str>, u64>,
    slots: Vec<Slot>,
    free: Vec<SessionId>,
    dirty: Vec<SessionId>,
    /// Records of sessions that ended since the last checkpoint.
    gone: Changes,
}

impl Sessions {
    pub(crate) fn find(&self, client: &str) -> Option<SessionId> {
        self.names.get(client).copied()
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<&Session> {
        self.slots
            .get(id.0 as usize)?
            .as_deref()
            .map(|(_, session)| session)
    }

    pub(crate) fn get_mut(&mut self, id: SessionId) -> Option<(&Arc<str>, &mut Session)> {
        self.slots
            .get_mut(id.0 as usize)?
            .as_deref_mut()
            .map(|(client, session)| (&*client, session))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, SessionId, &Session)> {
        self.names
            .iter()
            .filter_map(|(client, id)| Some((client, *id, self.get(*id)?)))
    }

    pub(crate) fn entry(&self, id: SessionId) -> Option<(&Arc<str>, &Session)> {
        let (client, session) = self.slots.get(id.0 as usize)?.as_deref()?;
        Some((client, session))
    }

    /// Those behind a client id.
    pub(crate) fn behind(&self, client: &str) -> impl Iterator<Item = (&Arc<str>, SessionId, &Session)> {
        self.names
            .range::<str, _>((Bound::Excluded(client), Bound::Unbounded))
            .filter_map(|(client, id)| Some((client, *id, self.get(*id)?)))
    }

    /// How many have this in front of the first slash of their client ids: the tenant's name, where there are tenants.
    pub(crate) fn in_space(&self, space: &str) -> u64 {
        self.spaces.get(space).copied().unwrap_or_default()
    }

    /// All of these.
    pub(crate) fn spaces(&self) -> &BTreeMap<Box<str>, u64> {
        &self.spaces
    }

    fn enter_space(&mut self, client: &str) {
        let Some(space) = space_of(client) else { return };
        match self.spaces.get_mut(space) {
            Some(count) => *count += 1,
            None => drop(self.spaces.insert(space.into(), 1)),
        }
    }

    fn leave_space(&mut self, client: &str) {
        let Some(space) = space_of(client) else { return };
        let Some(count) = self.spaces.get_mut(space) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.spaces.remove(space);
        }
    }

    pub(crate) fn insert(&mut self, client: Arc<str>, session: Session) -> SessionId {
        let slot = Some(Box::new((Arc::clone(&client), session)));
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id.0 as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                SessionId((self.slots.len() - 1) as u32)
            }
        };
        self.enter_space(&client);
        self.names.insert(client, id);
        id
    }

    pub(crate) fn remove(&mut self, id: SessionId) -> Option<(Arc<str>, Session)> {
        let (client, session) = *self.slots.get_mut(id.0 as usize)?.take()?;
        self.names.remove(&client);
        self.leave_space(&client);
        self.free.push(id);
        session.records(&client, true, &mut self.gone);
        Some((client, session))
    }

    /// The queue, or what belongs to it, changed.
    pub(crate) fn queue_changed(&mut self, id: SessionId) {
        if let Some((_, session)) = self.get_mut(id)
            && !session.dirty.listed
        {
            session.dirty.listed = true;
            self.dirty.push(id);
        }
    }

    /// The owner, the will or a deadline changed.
    pub(crate) fn session_changed(&mut self, id: SessionId) {
        self.queue_changed(id);
        if let Some((_, session)) = self.get_mut(id) {
            session.dirty.session = true;
        }
    }

    pub(crate) fn subscription_changed(&mut self, id: SessionId, filter: Arc<str>) {
        self.queue_changed(id);
        if let Some((_, session)) = self.get_mut(id) {
            session.dirty.filters.insert(filter);
        }
    }

    pub(crate) fn take_dirty(&mut self, changes: &mut Changes) {
        changes.append(&mut self.gone);
        for id in std::mem::take(&mut self.dirty) {
            // Its slot may have a later tenant, which is then in the list once more.
            if let Some((client, session)) = self.get_mut(id)
                && session.dirty.listed
            {
                session.take_dirty(&Arc::clone(client), changes);
            }
        }
    }

    pub(crate) fn records(&self, changes: &mut Changes) {
        for (client, _, session) in self.iter() {
            session.records(client, false, changes);
        }
    }
}
