//! SUBSCRIBE and UNSUBSCRIBE: durable first, then routed, then answered, then the retained messages.

use std::sync::Arc;

use bytestring::ByteString;
use cluster::ProposeError;
use cluster::proto::{self, ShardCommand, ShardResponse, shard_command::Command, shard_response::Response};
use mqtt_codec::{QoS, ReasonCode, RetainHandling, Unsubscribe};
use mqtt_session::{Delivery, ProtocolError, SubscribeRequest, Subscription};
use mqtt_topic::SubscriptionFilter;
use smallvec::SmallVec;

use crate::mailbox::{Grant, LiveMessage};
use crate::message::{from_stored, to_stored};
use crate::router::Subscriber;
use crate::share::Member;
use crate::shared::Shared;

use super::attachment::Attachment;
use super::{Connection, End, Operation, Stream, Work};

/// Retained messages one subscription brings at the most.
const RETAINED_MAX: usize = 1_000_000;
/// Retained messages that may wait when another subscription brings more: what exceeds it is dropped and counted.
const RETAINED_WAITING_MAX: usize = 100_000;
/// Retained messages for a durable session that share an entry of its shard's log.
const APPENDS_MAX: usize = 256;

impl<S: Stream> Connection<S> {
    pub(super) fn subscribe(&mut self, mut request: SubscribeRequest, now: u64) -> Result<(), End> {
        let limits = &self.shared.config.limits;
        if request.entries.len() > limits.filters_per_packet_max as usize {
            let reason = ReasonCode::QuotaExceeded;
            return Err(End::Protocol(ProtocolError::new(
                reason,
                "too many filters in one SUBSCRIBE",
            )));
        }
        let mut count = self.attachment.subscriptions.len();
        for entry in &mut request.entries {
            let Ok(subscription) = entry else { continue };
            if self.attachment.subscriptions.contains_key(&subscription.name) {
                continue;
            }
            count += 1;
            if count > limits.subscriptions_per_client_max as usize {
                *entry = Err(ReasonCode::QuotaExceeded);
            } else if subscription.name.len() > usize::from(limits.topic_bytes_max) {
                *entry = Err(ReasonCode::TopicFilterInvalid);
            }
        }
        if !self.session.is_durable() {
            self.finish_subscribe(request, Ok(ShardResponse::default()), now);
            return Ok(());
        }
        let valid = request.entries.iter().flatten();
        let command = Command::Subscribe(proto::Subscribe {
            client: self.attachment.client.to_string(),
            epoch: self.attachment.epoch,
            subscriptions: valid.map(to_proto).collect(),
        });
        self.ask(command, Work::Subscribe(request));
        Ok(())
    }

    fn ask(&mut self, command: Command, work: Work) {
        let (cluster, shard) = (self.shared.cluster.clone(), self.attachment.shard);
        let command = ShardCommand {
            command: Some(command),
        };
        let answer = Box::pin(async move { cluster.request(shard, command).await });
        self.operation = Some(Operation { work, answer });
    }

    pub(super) fn finish_subscribe(
        &mut self,
        request: SubscribeRequest,
        result: Result<ShardResponse, ProposeError>,
        now: u64,
    ) {
        // Messages sent before the SUBSCRIBE are not to be seen by it.
        self.flush_publishes();
        let durable = self.session.is_durable();
        let existed = match result.map(|response| response.response) {
            Ok(Some(Response::Subscribed(subscribed))) => subscribed.existed,
            Ok(None) if !durable => Vec::new(),
            _ => {
                let codes = vec![ReasonCode::UnspecifiedError; request.entries.len()];
                self.session.subscribed(request.packet_id, codes, &mut self.out);
                return;
            }
        };
        let mut codes = Vec::with_capacity(request.entries.len());
        let mut existed = existed.into_iter();
        let mut wanted = Vec::new();
        for entry in request.entries {
            let subscription = match entry {
                Err(code) => {
                    codes.push(code);
                    continue;
                }
                Ok(subscription) => subscription,
            };
            codes.push(granted(subscription.options.qos));
            let known = self.attachment.subscriptions.contains_key(&subscription.name);
            let replaced = existed.next().unwrap_or(known);
            self.attachment.enter(&subscription);
            let handling = subscription.options.retain_handling;
            let send = handling == RetainHandling::SendAtSubscribe
                || (handling == RetainHandling::SendIfNew && !replaced);
            if send && subscription.filter.share().is_none() {
                wanted.push(subscription);
            }
        }
        self.session.subscribed(request.packet_id, codes, &mut self.out);
        for subscription in wanted {
            self.send_retained(&subscription, now);
        }
    }

    fn send_retained(&mut self, subscription: &Subscription, now: u64) {
        let filter = subscription.filter.filter();
        let room = match self.retained.len() {
            0 => RETAINED_MAX,
            waiting => RETAINED_WAITING_MAX.saturating_sub(waiting),
        };
        let mut messages: Vec<LiveMessage> = self.shared.sys.matching(filter);
        let mut without_room = 0;
        self.shared
            .cluster
            .retained(filter.as_str(), RETAINED_MAX, &mut |stored| {
                if messages.len() < room {
                    messages.extend(from_stored(stored));
                } else {
                    without_room += 1;
                }
            });
        if without_room > 0 {
            self.shared.metrics.dropped_queue_full.increment(without_room);
        }
        let identifier = (subscription.subscription_id != 0).then_some(subscription.subscription_id);
        let mut appends = Vec::new();
        for message in messages {
            let qos = message.qos.min(subscription.options.qos);
            if self.session.is_durable() && qos > QoS::AtMostOnce {
                // Its packet id has to come from the session's sequence.
                let publication = to_stored(
                    &LiveMessage {
                        retain: true,
                        ..message
                    },
                    "",
                );
                let append = proto::Append {
                    publication: Some(publication),
                    only_client: self.attachment.client.to_string(),
                    share_filter: subscription.name.to_string(),
                    retained: true,
                    ..proto::Append::default()
                };
                appends.push(ShardCommand {
                    command: Some(Command::Append(append)),
                });
                continue;
            }
            self.retained.push_back(Delivery {
                publication: message.publication,
                qos,
                retain: true,
                subscription_ids: SmallVec::from_iter(identifier),
                expires_at: message.expires_at,
                share: None,
            });
        }
        while !appends.is_empty() {
            let rest = appends.split_off(appends.len().min(APPENDS_MAX));
            let (metrics, count) = (Arc::clone(&self.shared.metrics), appends.len() as u64);
            let count_refused = move |result: Result<Vec<ShardResponse>, ProposeError>| {
                if result.is_err() {
                    metrics.dropped_queue_full.increment(count);
                }
            };
            self.shared
                .cluster
                .propose_batch(self.attachment.shard, appends, Box::new(count_refused));
            appends = rest;
        }
        self.send_waiting(now);
    }

    pub(super) fn unsubscribe(&mut self, packet: Unsubscribe) -> Result<(), End> {
        if packet.filters.len() > self.shared.config.limits.filters_per_packet_max as usize {
            let reason = ReasonCode::QuotaExceeded;
            return Err(End::Protocol(ProtocolError::new(
                reason,
                "too many filters in one UNSUBSCRIBE",
            )));
        }
        if !self.session.is_durable() {
            self.finish_unsubscribe(packet, Ok(ShardResponse::default()));
            return Ok(());
        }
        let command = Command::Unsubscribe(proto::Unsubscribe {
            client: self.attachment.client.to_string(),
            epoch: self.attachment.epoch,
            filters: packet.filters.iter().map(ToString::to_string).collect(),
        });
        self.ask(command, Work::Unsubscribe(packet));
        Ok(())
    }

    pub(super) fn finish_unsubscribe(
        &mut self,
        packet: Unsubscribe,
        result: Result<ShardResponse, ProposeError>,
    ) {
        self.flush_publishes();
        let durable = self.session.is_durable();
        let stored = match result.map(|response| response.response) {
            Ok(Some(Response::Done(_))) => true,
            Ok(None) => !durable,
            _ => false,
        };
        let mut codes = Vec::with_capacity(packet.filters.len());
        for name in &packet.filters {
            codes.push(match (stored, SubscriptionFilter::parse(name.clone())) {
                (false, _) => ReasonCode::UnspecifiedError,
                (_, Err(_)) => ReasonCode::TopicFilterInvalid,
                (_, Ok(filter)) => self.forget(name, &filter),
            });
        }
        self.session.unsubscribed(packet.packet_id, codes, &mut self.out);
    }

    fn forget(&mut self, name: &ByteString, filter: &SubscriptionFilter) -> ReasonCode {
        if self.attachment.subscriptions.remove(name).is_none() {
            return ReasonCode::NoSubscriptionExisted;
        }
        match filter.share() {
            None => drop(
                self.shared
                    .router
                    .unsubscribe(filter.filter(), self.attachment.mailbox.id),
            ),
            Some(_) => drop(
                self.shared
                    .router
                    .leave(name, filter.filter(), &self.attachment.client),
            ),
        }
        ReasonCode::Success
    }
}

impl Attachment {
    /// Puts a subscription into the router of this node.
    pub(super) fn enter(&mut self, subscription: &Subscription) {
        let options = subscription.options;
        let identifier = (subscription.subscription_id != 0).then_some(subscription.subscription_id);
        let grant = Arc::new(Grant {
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            subscription_ids: SmallVec::from_iter(identifier),
        });
        let (router, mailbox) = (&self.shared.router, Arc::clone(&self.mailbox));
        match subscription.filter.share() {
            None => {
                let subscriber = Subscriber {
                    mailbox,
                    grant,
                    durable: self.durable,
                };
                router.subscribe(subscription.filter.filter(), subscriber);
            }
            Some(_) => {
                let shard = self.durable.then_some(self.shard);
                let member = Member {
                    client: self.client.clone(),
                    grant,
                    shard,
                    mailbox: Some(mailbox),
                };
                router.join(&subscription.name, subscription.filter.filter(), member);
            }
        }
        self.subscriptions
            .insert(subscription.name.clone(), subscription.filter.clone());
    }
}

/// A member of a group whose session outlives its connection stays in the group, without a mailbox.
pub(super) fn away(
    shared: &Shared,
    name: &str,
    filter: &SubscriptionFilter,
    client: &ByteString,
    shard: cluster::ShardId,
) {
    let Some(group) = shared.router.group(name) else {
        return;
    };
    let Some(member) = group.member(client) else {
        return;
    };
    let away = Member {
        mailbox: None,
        shard: Some(shard),
        ..member
    };
    shared.router.join(name, filter.filter(), away);
}

fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}

fn to_proto(subscription: &Subscription) -> proto::Subscription {
    let options = subscription.options;
    proto::Subscription {
        filter: subscription.name.to_string(),
        qos: u32::from(options.qos as u8),
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        retain_handling: options.retain_handling as u32,
        subscription_id: subscription.subscription_id,
    }
}
