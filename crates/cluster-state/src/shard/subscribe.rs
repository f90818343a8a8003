//! Durable subscriptions. Plain ones are matched here; the members of shares are known to all nodes, which choose.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytestring::ByteString;
use cluster_proto::{
    ShardResponse, ShareMember, Subscribe, Subscribed, Subscription, Unsubscribe, shard_response::Response,
};
use mqtt_topic::{SubscriptionFilter, TopicFilter};

use super::session::{Options, Session, SessionId};
use super::{ApplyContext, Effect, ShardState, answer, record};

/// Who subscribes to one filter.
#[derive(Clone, Default, Debug)]
pub(crate) struct Subscribers {
    by_session: BTreeMap<SessionId, Options>,
    /// How many of them want messages in their queues: those with a QoS above 0.
    queueing: usize,
}

impl Subscribers {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SessionId, &Options)> {
        self.by_session.iter().map(|(id, options)| (*id, options))
    }

    pub(crate) fn is_route(&self) -> bool {
        self.queueing > 0
    }

    pub(crate) fn insert(&mut self, id: SessionId, options: Options) {
        self.remove(id);
        self.queueing += usize::from(options.qos > 0);
        self.by_session.insert(id, options);
    }

    fn remove(&mut self, id: SessionId) {
        let removed = self.by_session.remove(&id);
        self.queueing -= usize::from(removed.is_some_and(|options| options.qos > 0));
    }
}

impl ShardState {
    pub(super) fn subscribe(
        &mut self,
        context: &ApplyContext,
        command: &Subscribe,
        effects: &mut Vec<Effect>,
    ) -> ShardResponse {
        let id = match self.owned(&command.client, command.epoch) {
            Ok(id) => id,
            Err(reason) => return answer::rejected(reason),
        };
        let Some(wanted) = wanted(&command.subscriptions) else {
            return answer::malformed();
        };
        let existed = wanted.iter().map(|(parsed, filter, options)| {
            self.add_subscription(context, id, parsed, filter, *options, effects)
        });
        let existed = existed.collect();
        self.subscribed(context, id, &wanted, existed)
    }

    /// The answer, with the filters among them that have to be announced.
    pub(super) fn subscribed(
        &self,
        context: &ApplyContext,
        id: SessionId,
        wanted: &[Wanted],
        existed: Vec<bool>,
    ) -> ShardResponse {
        let filters: BTreeSet<&Arc<str>> = wanted.iter().map(|(_, filter, _)| filter).collect();
        let unannounced = filters
            .into_iter()
            .filter(|filter| self.wants_announcement(id, filter));
        answer::of(Response::Subscribed(Subscribed {
            existed,
            unannounced: unannounced.map(ToString::to_string).collect(),
            index: context.index,
        }))
    }

    /// Adds or replaces a subscription; says whether there was one. The queue stays as it is. [MQTT-3.8.4-3]
    pub(super) fn add_subscription(
        &mut self,
        context: &ApplyContext,
        id: SessionId,
        parsed: &SubscriptionFilter,
        filter: &Arc<str>,
        options: Options,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some((client, session)) = self.sessions.get_mut(id) else {
            return false;
        };
        let existed = session
            .subscriptions
            .insert(Arc::clone(filter), options)
            .is_some();
        match parsed {
            SubscriptionFilter::Plain(plain) => {
                let subscribers = self.filters.get_or_insert_with(plain, Subscribers::default);
                let before = subscribers.is_route();
                subscribers.insert(id, options);
                let after = subscribers.is_route();
                self.route_changed(before, after, filter, effects);
            }
            SubscriptionFilter::Shared { .. } => effects.push(Effect::SharedMember {
                filter: Arc::clone(filter),
                member: share_member(context.shard, client, session, &options),
                added: true,
                version: context.index,
            }),
        }
        self.totals.subscriptions += u64::from(!existed);
        self.sessions.subscription_changed(id, Arc::clone(filter));
        existed
    }

    /// Whether a filter that the session just subscribed to has to be announced before that is acknowledged.
    fn wants_announcement(&self, id: SessionId, filter: &str) -> bool {
        let wants = |session: &Session| session.subscriptions.get(filter).map(|options| options.qos);
        self.announcements.is_missing(filter) && self.sessions.get(id).and_then(wants) > Some(0)
    }

    pub(super) fn unsubscribe(
        &mut self,
        context: &ApplyContext,
        command: &Unsubscribe,
        effects: &mut Vec<Effect>,
    ) -> ShardResponse {
        let id = match self.owned(&command.client, command.epoch) {
            Ok(id) => id,
            Err(reason) => return answer::rejected(reason),
        };
        let existed = command
            .filters
            .iter()
            .map(|filter| self.remove_subscription(context, id, filter, effects))
            .collect();
        let wanted = |share: &str| {
            let is_it = |filter: &String| filter == share;
            command.hand_over.iter().any(is_it) && command.filters.iter().any(is_it)
        };
        if !command.hand_over.is_empty() {
            self.hand_over(id, command.sent_before, wanted, effects);
        }
        answer::existed(existed)
    }

    fn remove_subscription(
        &mut self,
        context: &ApplyContext,
        id: SessionId,
        filter: &str,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some((client, session)) = self.sessions.get_mut(id) else {
            return false;
        };
        let Some((filter, options)) = session.subscriptions.remove_entry(filter) else {
            return false;
        };
        match parse(&filter) {
            Some(SubscriptionFilter::Plain(plain)) => {
                if let Some(subscribers) = self.filters.get_mut(&plain) {
                    let before = subscribers.is_route();
                    subscribers.remove(id);
                    let after = subscribers.is_route();
                    if subscribers.by_session.is_empty() {
                        self.filters.remove(&plain);
                    }
                    self.route_changed(before, after, &filter, effects);
                }
            }
            Some(SubscriptionFilter::Shared { .. }) => effects.push(Effect::SharedMember {
                filter: Arc::clone(&filter),
                member: share_member(context.shard, client, session, &options),
                added: false,
                version: context.index,
            }),
            None => {}
        }
        self.totals.subscriptions -= 1;
        self.sessions.subscription_changed(id, filter);
        true
    }

    pub(super) fn forget_subscriptions(
        &mut self,
        context: &ApplyContext,
        id: SessionId,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let filters: Vec<Arc<str>> = session.subscriptions.keys().cloned().collect();
        for filter in filters {
            self.remove_subscription(context, id, &filter, effects);
        }
    }

    /// Adds a subscription of a checkpoint.
    pub(super) fn restore_subscription(&mut self, id: SessionId, filter: &str, options: Options) -> bool {
        let Some(parsed) = parse(filter) else { return false };
        let Some((_, session)) = self.sessions.get_mut(id) else {
            return false;
        };
        let filter: Arc<str> = filter.into();
        session.subscriptions.insert(Arc::clone(&filter), options);
        if let SubscriptionFilter::Plain(plain) = parsed {
            let subscribers = self.filters.get_or_insert_with(&plain, Subscribers::default);
            subscribers.insert(id, options);
            let is_route = subscribers.is_route();
            self.announcements.route_changed(&filter, is_route);
        }
        self.totals.subscriptions += 1;
        true
    }

    fn route_changed(&mut self, before: bool, after: bool, filter: &Arc<str>, effects: &mut Vec<Effect>) {
        if before != after {
            self.announcements.route_changed(filter, after);
            effects.push(Effect::RoutesChanged {
                filter: Arc::clone(filter),
                added: after,
            });
        }
    }
}

/// A subscription that is to be made: its filter, as parsed and as sent, and what it asks for.
pub(super) type Wanted = (SubscriptionFilter, Arc<str>, Options);

/// None: one of them is none.
pub(super) fn wanted(subscriptions: &[Subscription]) -> Option<Vec<Wanted>> {
    let wanted = |subscription: &Subscription| {
        let filter = parse(&subscription.filter)?;
        let options = Options::of(subscription)?;
        Some((filter, Arc::from(subscription.filter.as_str()), options))
    };
    subscriptions.iter().map(wanted).collect()
}

/// The subscription filter that a client sent, if it is one.
pub(super) fn parse(filter: &str) -> Option<SubscriptionFilter> {
    if filter.len() > record::NAME_BYTES_MAX {
        return None;
    }
    SubscriptionFilter::parse(ByteString::from(filter)).ok()
}

/// The plain topic filter.
pub(super) fn parse_plain(filter: &str) -> Option<TopicFilter> {
    TopicFilter::parse(ByteString::from(filter)).ok()
}

/// A member of a share, as the meta group is to know it.
pub(super) fn share_member(shard: u16, client: &str, session: &Session, options: &Options) -> ShareMember {
    ShareMember {
        client: client.to_owned(),
        qos: options.qos.into(),
        shard: Some(shard.into()),
        node: if session.connected { session.owner.node } else { 0 },
        no_local: options.no_local,
        epoch: session.owner.epoch,
    }
}
