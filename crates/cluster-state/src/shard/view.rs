//! Reading a shard's state: queues for delivery, the rest for start-up, metrics and operators.

use std::ops::ControlFlow;
use std::sync::Arc;

use cluster_proto::{Owner, Publication, ShareMember, Subscription, Totals};

use super::session::Session;
use super::{MessageId, ShardState, subscribe};

/// One delivery that is not finished.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueItem {
    /// The session's delivery number; the packet id is 1 + sequence mod 65535.
    pub sequence: u64,
    /// The message.
    pub message: MessageId,
    /// The effective QoS: 1 or 2.
    pub qos: u8,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// The identifiers of the subscriptions that matched.
    pub subscription_ids: Vec<u32>,
    /// Its PUBREC was committed: only the PUBREL is to be sent.
    pub received: bool,
    /// A shared subscription chose this session.
    pub from_share: bool,
    /// After this it is not to be sent for the first time. 0: never.
    pub expires_at_ms: u64,
}

/// A session as others see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionView {
    /// Who owns it, or owned it last.
    pub owner: Owner,
    /// Whether the owner is connected.
    pub connected: bool,
    /// The user name it authenticated with.
    pub user: String,
    /// Deliveries that are not finished.
    pub queued_messages: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Its subscriptions.
    pub subscriptions: u64,
    /// When it expires, while disconnected.
    pub expires_at_ms: Option<u64>,
    /// Seconds that it outlives its connection. 0: it ends with it.
    pub expiry_s: u32,
    /// Deliveries below this may have been sent before.
    pub sent_before: u64,
}

impl SessionView {
    fn of(session: &Session) -> Self {
        Self {
            owner: session.owner,
            connected: session.connected,
            user: session.user.clone(),
            queued_messages: session.queue.len(),
            queued_bytes: session.queue.bytes(),
            subscriptions: session.subscriptions.len() as u64,
            expires_at_ms: session.expires_at_ms,
            expiry_s: session.expiry_s,
            sent_before: session.queue.sent_before(),
        }
    }
}

impl ShardState {
    /// The session's deliveries from a sequence on, and where to continue. At least one if there is one, whatever its
    /// size. Nothing for an unknown client.
    pub fn queue_from(
        &self,
        client: &str,
        from_sequence: u64,
        messages_max: usize,
        bytes_max: usize,
    ) -> (Vec<QueueItem>, u64) {
        let session = self.sessions.find(client).and_then(|id| self.sessions.get(id));
        let Some(session) = session else {
            return (Vec::new(), from_sequence);
        };
        let mut items = Vec::new();
        let mut bytes = 0usize;
        for (sequence, delivery) in session.queue.from(from_sequence) {
            let Some(stored) = self.messages.get(delivery.message()) else {
                continue;
            };
            bytes = bytes.saturating_add(stored.size as usize);
            if items.len() >= messages_max || (bytes > bytes_max && !items.is_empty()) {
                return (items, sequence);
            }
            items.push(QueueItem {
                sequence,
                message: delivery.message(),
                qos: delivery.qos(),
                retain: delivery.retain(),
                subscription_ids: session.queue.subscription_ids(delivery),
                received: delivery.received(),
                from_share: delivery.is_from_share(),
                expires_at_ms: stored.expires_at_ms,
            });
        }
        (items, session.queue.next_sequence().max(from_sequence))
    }

    /// Sessions whose queue holds more than four fifths of the messages or bytes that it may. Looks at each of them.
    pub fn queues_near_limit(&self) -> u64 {
        if self.totals.queued_messages == 0 {
            return 0;
        }
        let is_near = |has: u64, max: u64| max != 0 && has > max - max.div_ceil(5);
        let near = self.sessions.iter().filter(|(_, _, session)| {
            let limits = session.limits;
            is_near(session.queue.len(), limits.messages_max)
                || is_near(session.queue.bytes(), limits.bytes_max)
        });
        near.count() as u64
    }

    /// Whether a connection with this epoch owns the session.
    pub fn is_owner(&self, client: &str, epoch: u64) -> bool {
        self.owned(client, epoch).is_ok()
    }

    /// A session.
    pub fn session(&self, client: &str) -> Option<SessionView> {
        let session = self.sessions.get(self.sessions.find(client)?)?;
        Some(SessionView::of(session))
    }

    /// Visits the sessions behind a client id, in the order of client ids, until `visit` breaks.
    pub fn sessions_after(
        &self,
        client: &str,
        visit: &mut dyn FnMut(&Arc<str>, SessionView) -> ControlFlow<()>,
    ) {
        for (client, _, session) in self.sessions.behind(client) {
            if visit(client, SessionView::of(session)).is_break() {
                return;
            }
        }
    }

    /// A session's subscriptions, in the order of filters. Nothing for an unknown client.
    pub fn subscriptions(&self, client: &str) -> Vec<Subscription> {
        let session = self.sessions.find(client).and_then(|id| self.sessions.get(id));
        let subscriptions = session.into_iter().flat_map(|session| &session.subscriptions);
        subscriptions
            .map(|(filter, options)| options.with_filter(filter))
            .collect()
    }

    /// Visits the sessions that keep a message of this topic by a plain subscription, some of them more than once.
    pub fn keepers(&self, topic: &str, visit: &mut dyn FnMut(&Arc<str>)) {
        self.filters.for_each_match(topic, |subscribers| {
            for (id, _) in subscribers.iter().filter(|(_, options)| options.qos > 0) {
                if let Some((client, _)) = self.sessions.entry(id) {
                    visit(client);
                }
            }
        });
    }

    /// How many sessions have this in front of the first slash of their client ids: those of a tenant.
    pub fn sessions_in(&self, space: &str) -> u64 {
        self.sessions.in_space(space)
    }

    /// The client ids of all sessions, in their order.
    pub fn clients(&self) -> impl Iterator<Item = &Arc<str>> {
        self.sessions.iter().map(|(client, ..)| client)
    }

    /// The lives of nodes that own connections, each once: `(node, incarnation)`, in order.
    pub fn owners(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut from = Some((0, 0, Arc::from("")));
        std::iter::from_fn(move || {
            let (node, incarnation, _) = self.owners.range(from.take()?..).next()?;
            // Behind all clients of that life.
            from = match incarnation.checked_add(1) {
                Some(next) => Some((*node, next, Arc::from(""))),
                None => node.checked_add(1).map(|next| (next, 0, Arc::from(""))),
            };
            Some((*node, *incarnation))
        })
    }

    /// The nodes that own connections, each once with its earliest life that does.
    pub fn connected_nodes(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut last = None;
        self.owners()
            .filter(move |(node, _)| last.replace(*node) != Some(*node))
    }

    /// Whether a message of this topic has a plain subscription here whose QoS is above 0.
    pub fn has_route_for(&self, topic: &str) -> bool {
        let mut found = false;
        self.filters
            .for_each_match(topic, |subscribers| found |= subscribers.is_route());
        found
    }

    /// The filters for which this shard wants messages: what `Effect::RoutesChanged` has told so far.
    pub fn routes(&self) -> impl Iterator<Item = String> {
        self.filters
            .iter()
            .filter(|(_, subscribers)| subscribers.is_route())
            .map(|(filter, _)| filter)
    }

    /// The members of shares, with the whole filter, as the meta group is to know them: what `Effect::SharedMember` has told
    /// so far, and who is connected where. The shard is this one.
    pub fn shared_members(&self, shard: u16) -> impl Iterator<Item = (&Arc<str>, ShareMember)> {
        self.sessions.iter().flat_map(move |(client, _, session)| {
            let shared = session
                .subscriptions
                .iter()
                .filter(|(filter, _)| filter.starts_with("$share/"));
            shared.map(move |(filter, options)| {
                (filter, subscribe::share_member(shard, client, session, options))
            })
        })
    }

    /// Visits the retained messages that a filter matches and that are not expired, until `visit` breaks. Nothing for
    /// a filter that is not a plain topic filter.
    pub fn retained_matching(
        &self,
        filter: &str,
        now_ms: u64,
        visit: &mut dyn FnMut(&Publication) -> ControlFlow<()>,
    ) {
        self.retained_matching_after(filter, "", now_ms, visit);
    }

    /// Messages and bytes that are retained for an owner.
    pub fn retained_of(&self, owner: &str) -> (u64, u64) {
        self.retained.of_owner(owner)
    }

    /// As `retained_matching`, from behind a topic on: a long list is read in pieces.
    pub fn retained_matching_after(
        &self,
        filter: &str,
        after: &str,
        now_ms: u64,
        visit: &mut dyn FnMut(&Publication) -> ControlFlow<()>,
    ) {
        if let Some(filter) = subscribe::parse_plain(filter) {
            self.retained.matching(&filter, after, now_ms, visit);
        }
    }

    /// The messages that something refers to, of entries up to this index: what is to be saved before the log is cut.
    pub fn live_messages_up_to(&self, index: u64) -> impl Iterator<Item = MessageId> {
        self.messages.up_to(index)
    }

    /// Whether something refers to this message.
    pub fn is_live(&self, message: MessageId) -> bool {
        self.messages.get(message).is_some()
    }

    /// When the next `Tick` has something to do.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    /// The index and position of the last command applied.
    pub fn applied(&self) -> MessageId {
        self.applied
    }

    /// Sums for metrics.
    pub fn totals(&self) -> Totals {
        Totals {
            retained_messages: self.retained.len() as u64,
            retained_bytes: self.retained.bytes(),
            ..self.totals
        }
    }
}
