//! Durable subscriptions. Plain ones are matched here; the members of shares are known to all nodes, which choose.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytestring::ByteString;
use cluster_proto::{ShardResponse, Subscribe, Subscribed, Unsubscribe, shard_response::Response};
use mqtt_topic::{SubscriptionFilter, TopicFilter};

use super::session::{Options, SessionId};
use super::{Effect, ShardState, answer, record};

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
    pub(super) fn subscribe(&mut self, command: &Subscribe, effects: &mut Vec<Effect>) -> ShardResponse {
        let id = match self.owned(&command.client, command.epoch) {
            Ok(id) => id,
            Err(reason) => return answer::rejected(reason),
        };
        let mut wanted = Vec::with_capacity(command.subscriptions.len());
        for subscription in &command.subscriptions {
            let filter = parse(&subscription.filter);
            let (Some(filter), Some(options)) = (filter, Options::of(subscription)) else {
                return answer::malformed();
            };
            wanted.push((filter, Arc::from(subscription.filter.as_str()), options));
        }
        let existed = wanted
            .into_iter()
            .map(|(parsed, filter, options)| self.add_subscription(id, &parsed, &filter, options, effects));
        let existed = existed.collect();
        answer::of(Response::Subscribed(Subscribed {
            existed,
            ..Subscribed::default()
        }))
    }

    /// Adds or replaces a subscription; says whether there was one. The queue stays as it is. [MQTT-3.8.4-3]
    fn add_subscription(
        &mut self,
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
                route_changed(before, subscribers.is_route(), filter, effects);
            }
            SubscriptionFilter::Shared { .. } => effects.push(Effect::SharedMember {
                client: Arc::clone(client),
                filter: Arc::clone(filter),
                qos: options.qos,
                added: true,
            }),
        }
        self.totals.subscriptions += u64::from(!existed);
        self.sessions.subscription_changed(id, Arc::clone(filter));
        existed
    }

    pub(super) fn unsubscribe(&mut self, command: &Unsubscribe, effects: &mut Vec<Effect>) -> ShardResponse {
        let id = match self.owned(&command.client, command.epoch) {
            Ok(id) => id,
            Err(reason) => return answer::rejected(reason),
        };
        let existed = command
            .filters
            .iter()
            .map(|filter| self.remove_subscription(id, filter, effects))
            .collect();
        answer::existed(existed)
    }

    fn remove_subscription(&mut self, id: SessionId, filter: &str, effects: &mut Vec<Effect>) -> bool {
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
                    route_changed(before, subscribers.is_route(), &filter, effects);
                    if subscribers.by_session.is_empty() {
                        self.filters.remove(&plain);
                    }
                }
            }
            Some(SubscriptionFilter::Shared { .. }) => effects.push(Effect::SharedMember {
                client: Arc::clone(client),
                filter: Arc::clone(&filter),
                qos: options.qos,
                added: false,
            }),
            None => {}
        }
        self.totals.subscriptions -= 1;
        self.sessions.subscription_changed(id, filter);
        true
    }

    pub(super) fn forget_subscriptions(&mut self, id: SessionId, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let filters: Vec<Arc<str>> = session.subscriptions.keys().cloned().collect();
        for filter in filters {
            self.remove_subscription(id, &filter, effects);
        }
    }

    /// Adds a subscription of a checkpoint.
    pub(super) fn restore_subscription(&mut self, id: SessionId, filter: &str, options: Options) -> bool {
        let Some(parsed) = parse(filter) else { return false };
        let Some((_, session)) = self.sessions.get_mut(id) else {
            return false;
        };
        session.subscriptions.insert(filter.into(), options);
        if let SubscriptionFilter::Plain(plain) = parsed {
            self.filters
                .get_or_insert_with(&plain, Subscribers::default)
                .insert(id, options);
        }
        self.totals.subscriptions += 1;
        true
    }
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

fn route_changed(before: bool, after: bool, filter: &Arc<str>, effects: &mut Vec<Effect>) {
    if before != after {
        effects.push(Effect::RoutesChanged {
            filter: Arc::clone(filter),
            added: after,
        });
    }
}
