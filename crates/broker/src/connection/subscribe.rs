//! SUBSCRIBE and UNSUBSCRIBE: stored first, then routed on every node, then answered, then the retained messages.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use cluster::proto::{self, ShardCommand, ShardResponse, shard_command::Command, shard_response::Response};
use cluster::{ProposeError, Unannounced};
use mqtt_codec::{Limit, PacketId, ProtocolVersion, QoS, ReasonCode, RetainHandling, Unsubscribe};
use mqtt_session::{ProtocolError, SubscribeRequest, Subscription};
use mqtt_topic::SubscriptionFilter;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tracing::debug;

use crate::mailbox::Grant;
use crate::pass::Denied;
use crate::refusal::Limited;
use crate::router::Subscriber;
use crate::share::{Here, Leaving};
use crate::tenants::CountedSubscription;

use super::attachment::{Attachment, Entered};
use super::retained::{Reader, Retained};
use super::{Answer, Connection, End, Stream};

/// Retained messages put into a session's queue by one entry of its shard.
const APPENDS_AT_ONCE: usize = 256;

/// A SUBSCRIBE whose subscriptions are in the tables of this node.
pub(super) struct Entering {
    packet_id: PacketId,
    entries: Vec<Entry>,
}

struct Entry {
    code: ReasonCode,
    /// `None`: it was refused.
    subscription: Option<Subscription>,
    new: bool,
    wants_retained: bool,
}

/// Whether every node knows of a SUBSCRIBE, and what is retained for those of its entries that want it, by their places.
pub(super) type Told = Result<Vec<(usize, Result<Retained, ProposeError>)>, ProposeError>;

impl Entry {
    fn refused(code: ReasonCode) -> Self {
        Self {
            code,
            subscription: None,
            new: false,
            wants_retained: false,
        }
    }
}

impl Entering {
    /// The subscriptions that want retained messages.
    pub(super) fn wanted(&self) -> impl Iterator<Item = (usize, &Subscription)> {
        let wanting = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.wants_retained);
        wanting.filter_map(|(place, entry)| Some((place, entry.subscription.as_ref()?)))
    }
}

impl<S: Stream> Connection<S> {
    /// The flow of every SUBSCRIBE: stored in the session's shard, entered here, announced to every node, retained messages
    /// read, answered, and those messages sent. Where there is nothing to wait for, all of it happens at once.
    pub(super) fn subscribe(&mut self, mut request: SubscribeRequest, now: u64) -> Result<(), End> {
        let live = self.shared.live();
        let limits = &live.limits;
        if request.entries.len() > limits.filters_per_packet_max as usize {
            let reason = ReasonCode::QuotaExceeded;
            return Err(End::Protocol(ProtocolError::beyond(
                Limit::FiltersPerPacket,
                reason,
                "too many filters in one SUBSCRIBE",
            )));
        }
        for _ in 0..request.too_deep {
            self.shared.metrics.exceeded(Limit::TopicLevels);
        }
        let mut count = self.attachment.subscriptions.len();
        for entry in &mut request.entries {
            let Ok(subscription) = entry else { continue };
            // For a shared subscription it is the filter behind the name of the share.
            if !self.pass.may_subscribe(subscription.filter.filter()) {
                self.pass
                    .denied(&self.shared, Denied::Subscribe, &subscription.name);
                *entry = Err(ReasonCode::NotAuthorized);
                continue;
            }
            if let Some(tenant) = &self.pass.tenant {
                // Topics that begin with `$` are the server's own, and in no tenant's space.
                if subscription.filter.filter().as_str().starts_with('$') {
                    self.pass
                        .denied(&self.shared, Denied::Subscribe, &subscription.name);
                    *entry = Err(ReasonCode::NotAuthorized);
                    continue;
                }
                match tenant.enter_filter(&subscription.filter, self.shared.topic_bounds()) {
                    Ok(entered) => {
                        subscription.name = entered.to_string().into();
                        subscription.filter = entered;
                    }
                    Err(limit) => {
                        self.shared.metrics.exceeded(limit);
                        *entry = Err(ReasonCode::TopicFilterInvalid);
                        continue;
                    }
                }
            }
            if self.attachment.subscriptions.contains_key(&subscription.name) {
                continue;
            }
            let new = count - self.attachment.subscriptions.len();
            count += 1;
            let tenant = self.pass.tenant.as_ref();
            if count > limits.subscriptions_per_client_max as usize {
                self.shared.metrics.limited(Limited::Subscriptions);
                *entry = Err(ReasonCode::QuotaExceeded);
            } else if self.session.is_durable() && self.shared.overload.keeps_no_more() {
                self.shared.metrics.limited(Limited::Overload);
                *entry = Err(ReasonCode::QuotaExceeded);
                count -= 1;
            } else if tenant.is_some_and(|tenant| !tenant.admits_subscription(new)) {
                self.shared.metrics.limited(Limited::SubscriptionsPerTenant);
                *entry = Err(ReasonCode::QuotaExceeded);
                count -= 1;
            } else if subscription.name.len() > usize::from(limits.topic_bytes_max) {
                self.shared.metrics.exceeded(Limit::TopicBytes);
                *entry = Err(ReasonCode::TopicFilterInvalid);
            }
        }
        if !self.session.is_durable() {
            self.subscribe_stored(request, Ok(ShardResponse::default()), now);
            return Ok(());
        }
        let valid = request.entries.iter().flatten();
        let command = Command::Subscribe(proto::Subscribe {
            client: self.attachment.client.to_string(),
            epoch: self.attachment.epoch,
            subscriptions: valid.map(to_proto).collect(),
        });
        let stored = self.ask(command);
        self.operation = Some(Box::pin(async move { Answer::Subscribe(request, stored.await) }));
        Ok(())
    }

    fn ask(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<ShardResponse, ProposeError>> + Send + 'static {
        let (cluster, shard) = (self.shared.cluster.clone(), self.attachment.shard);
        let command = ShardCommand {
            command: Some(command),
        };
        async move { cluster.request(shard, command).await }
    }

    /// The session's shard has the subscriptions, if it keeps them: now they are entered here, announced, and answered.
    pub(super) fn subscribe_stored(
        &mut self,
        request: SubscribeRequest,
        result: Result<ShardResponse, ProposeError>,
        now: u64,
    ) {
        // Messages sent before the SUBSCRIBE are not to be seen by it.
        self.flush_publishes();
        let stored = match result.map(|response| response.response) {
            Ok(Some(Response::Subscribed(subscribed))) => subscribed,
            Ok(None) if !self.session.is_durable() => proto::Subscribed::default(),
            _ => {
                let codes = vec![ReasonCode::UnspecifiedError; request.entries.len()];
                self.session.subscribed(request.packet_id, codes, &mut self.out);
                return;
            }
        };
        let entering = self.enter_all(request, &stored.existed);
        let unannounced = (!stored.unannounced.is_empty()).then_some(Unannounced {
            shard: self.attachment.shard,
            filters: stored.unannounced,
            version: stored.index,
        });
        let (durable, waiting) = (self.session.is_durable(), self.retained.len());
        let mut reader = Reader::new(&self.shared, &self.attachment, durable, waiting);
        if unannounced.is_none() && reader.may_read_at_once(&entering) {
            let retained = entering
                .wanted()
                .map(|(place, wanted)| (place, Ok(reader.read_here(wanted))));
            let told = Ok(retained.collect());
            return self.finish_subscribe(entering, told, now);
        }
        self.operation = Some(Box::pin(async move {
            let told = reader.announce_and_read(unannounced, &entering).await;
            Answer::Announced(entering, told)
        }));
    }

    /// Puts subscriptions into the tables of this node.
    fn enter_all(&mut self, request: SubscribeRequest, existed: &[bool]) -> Entering {
        let mut existed = existed.iter();
        let mut entries = Vec::with_capacity(request.entries.len());
        for entry in request.entries {
            let subscription = match entry {
                Err(code) => {
                    entries.push(Entry::refused(code));
                    continue;
                }
                Ok(subscription) => subscription,
            };
            let known = self.attachment.subscriptions.contains_key(&subscription.name);
            let replaced = existed.next().copied().unwrap_or(known);
            self.attachment.enter(&subscription);
            let handling = subscription.options.retain_handling;
            let send = handling == RetainHandling::SendAtSubscribe
                || (handling == RetainHandling::SendIfNew && !replaced);
            entries.push(Entry {
                code: granted(subscription.options.qos),
                wants_retained: send && subscription.filter.share().is_none(),
                new: !replaced && !known,
                subscription: Some(subscription),
            });
        }
        Entering {
            packet_id: request.packet_id,
            entries,
        }
    }

    /// Every node routes by the subscriptions, or not: SUBACK, and the retained messages behind it.
    pub(super) fn finish_subscribe(&mut self, mut entering: Entering, told: Told, now: u64) {
        let mut retained = Vec::new();
        match told {
            Ok(read) => {
                for (place, result) in read {
                    match result {
                        Ok(found) => retained.push(found),
                        Err(error) => self.take_back(&mut entering.entries[place], &error),
                    }
                }
            }
            Err(error) => {
                for entry in &mut entering.entries {
                    self.take_back(entry, &error);
                }
            }
        }
        let mut entered = entering
            .entries
            .iter()
            .filter_map(|entry| entry.subscription.as_ref());
        if entered.any(|subscription| !self.pass.may_keep(subscription.filter.filter())) {
            // The rules have changed while it was stored and announced.
            self.attachment.mailbox.recheck();
        }
        let codes = entering.entries.iter().map(|entry| entry.code).collect();
        self.session.subscribed(entering.packet_id, codes, &mut self.out);
        let mut appends = Vec::new();
        for found in retained {
            self.newer.read_anew(&found);
            self.retained.extend(found.deliveries);
            appends.extend(found.appends);
        }
        self.append(appends);
        self.send_waiting(now);
    }

    /// A subscription that not all nodes know of is none: the client is told so, and nothing comes of it.
    fn take_back(&mut self, entry: &mut Entry, error: &ProposeError) {
        let Some(subscription) = entry.subscription.take() else {
            return;
        };
        debug!(client_id = ?&*self.attachment.client, filter = ?&*subscription.name, %error, "subscription was taken back");
        entry.code = match self.session.version() {
            ProtocolVersion::V5 => ReasonCode::ImplementationSpecificError,
            _ => ReasonCode::UnspecifiedError,
        };
        if !entry.new {
            return;
        }
        self.forget(&subscription.name);
        if !self.session.is_durable() {
            return;
        }
        let command = Command::Unsubscribe(proto::Unsubscribe {
            client: self.attachment.client.to_string(),
            epoch: self.attachment.epoch,
            filters: vec![subscription.name.to_string()],
            ..proto::Unsubscribe::default()
        });
        let command = ShardCommand {
            command: Some(command),
        };
        self.shared
            .cluster
            .propose_soon(self.attachment.shard, command, Duration::ZERO);
    }

    /// Retained messages above QoS 0 for a durable session: their packet ids come from its sequence, in its queue.
    fn append(&mut self, mut appends: Vec<ShardCommand>) {
        if appends.is_empty() {
            return;
        }
        self.newer.in_queue = true;
        let (cluster, shard) = (self.shared.cluster.clone(), self.attachment.shard);
        let metrics = Arc::clone(&self.shared.metrics);
        self.operation = Some(Box::pin(async move {
            while !appends.is_empty() {
                let rest = appends.split_off(appends.len().min(APPENDS_AT_ONCE));
                let part = std::mem::replace(&mut appends, rest);
                let (count, (done, stored)) = (part.len() as u64, oneshot::channel());
                let report = move |result: Result<_, _>| {
                    // The connection may have ended meanwhile.
                    let _ = done.send(result.is_ok());
                };
                cluster.propose_batch(shard, part, Box::new(report));
                if !stored.await.unwrap_or(false) {
                    metrics.dropped_queue_full.increment(count);
                }
            }
            Answer::Appended
        }));
    }

    pub(super) fn unsubscribe(&mut self, mut packet: Unsubscribe) -> Result<(), End> {
        if packet.filters.len() > self.shared.live().limits.filters_per_packet_max as usize {
            let reason = ReasonCode::QuotaExceeded;
            return Err(End::Protocol(ProtocolError::beyond(
                Limit::FiltersPerPacket,
                reason,
                "too many filters in one UNSUBSCRIBE",
            )));
        }
        if let Some(tenant) = &self.pass.tenant {
            let bounds = self.shared.topic_bounds();
            for name in &mut packet.filters {
                // What is no filter stays as it is, and is told from what is.
                let entered = SubscriptionFilter::parse(name.clone())
                    .ok()
                    .and_then(|filter| tenant.enter_filter(&filter, bounds).ok());
                *name = entered.map_or_else(|| name.clone(), |entered| entered.to_string().into());
            }
        }
        if !self.session.is_durable() {
            return self.finish_unsubscribe(packet, Ok(ShardResponse::default()));
        }
        let command = Command::Unsubscribe(proto::Unsubscribe {
            client: self.attachment.client.to_string(),
            epoch: self.attachment.epoch,
            filters: packet.filters.iter().map(ToString::to_string).collect(),
            hand_over: self.left_to_others(&packet),
            sent_before: self.session.next_sequence(),
        });
        // What was not sent by now is not to be before the shard has given it to others.
        self.may_pull = false;
        let stored = self.ask(command);
        self.operation = Some(Box::pin(async move { Answer::Unsubscribe(packet, stored.await) }));
        Ok(())
    }

    /// The shared subscriptions that a client leaves to other members.
    fn left_to_others(&self, packet: &Unsubscribe) -> Vec<String> {
        let names = packet.filters.iter().filter(|name| {
            let entered = self.attachment.subscriptions.get(*name);
            entered.is_some_and(|entered| entered.filter.share().is_some())
                && self.attachment.has_other_member(name, false)
        });
        names.map(ToString::to_string).collect()
    }

    /// Err: the subscriptions are still there, and this version cannot say so.
    pub(super) fn finish_unsubscribe(
        &mut self,
        packet: Unsubscribe,
        result: Result<ShardResponse, ProposeError>,
    ) -> Result<(), End> {
        self.flush_publishes();
        self.may_pull = true;
        let durable = self.session.is_durable();
        let stored = match result.map(|response| response.response) {
            Ok(Some(Response::Done(_))) => true,
            Ok(None) => !durable,
            _ => false,
        };
        if !stored && self.session.version() != ProtocolVersion::V5 {
            return Err(End::Unavailable);
        }
        let mut codes = Vec::with_capacity(packet.filters.len());
        for name in &packet.filters {
            codes.push(match (stored, SubscriptionFilter::parse(name.clone())) {
                (false, _) => ReasonCode::UnspecifiedError,
                (_, Err(_)) => ReasonCode::TopicFilterInvalid,
                (_, Ok(_)) => self.forget(name),
            });
        }
        self.session.unsubscribed(packet.packet_id, codes, &mut self.out);
        Ok(())
    }

    fn forget(&mut self, name: &ByteString) -> ReasonCode {
        let Some(entered) = self.attachment.subscriptions.remove(name) else {
            return ReasonCode::NoSubscriptionExisted;
        };
        self.attachment.withdraw(name, &entered, Leaving::Unsubscribed);
        ReasonCode::Success
    }
}

impl Attachment {
    /// Puts a subscription into the router of this node, and lets the cluster know, without waiting for it.
    pub(super) fn enter(&mut self, subscription: &Subscription) {
        let options = subscription.options;
        let identifier = (subscription.subscription_id != 0).then_some(subscription.subscription_id);
        let grant = Arc::new(Grant {
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            subscription_ids: SmallVec::from_iter(identifier),
        });
        let (router, cluster, mailbox) = (
            &self.shared.router,
            &self.shared.cluster,
            Arc::clone(&self.mailbox),
        );
        let (name, filter) = (&subscription.name, &subscription.filter);
        let from_shard = self.durable && options.qos > QoS::AtMostOnce;
        let entered = Entered {
            filter: filter.clone(),
            from_shard,
            _counted: self.tenant.as_ref().map(CountedSubscription::of),
        };
        let previous = self.subscriptions.insert(name.clone(), entered);
        if !self.durable && previous.is_none() {
            self.shared.sys.totals.subscribed();
        }
        if filter.share().is_some() {
            let shard = self.durable.then_some(self.shard);
            cluster.join_share(
                name,
                proto::ShareMember {
                    client: self.client.to_string(),
                    qos: u32::from(options.qos as u8),
                    shard: shard.map(u32::from),
                    node: cluster.node_id(),
                    no_local: options.no_local,
                    epoch: self.epoch,
                },
            );
            let here = Here {
                mailbox,
                grant,
                shard,
            };
            router.join(name, filter.filter(), here);
            return;
        }
        let subscriber = Subscriber {
            mailbox,
            grant,
            own_grant: None,
            durable: self.durable,
        };
        router.subscribe(filter.filter(), subscriber);
        cluster.want(name, from_shard);
        if let Some(previous) = previous {
            cluster.unwant(name, previous.from_shard);
        }
    }

    /// Takes a subscription out of the router of this node, and lets the cluster know.
    pub(super) fn withdraw(&self, name: &ByteString, entered: &Entered, leaving: Leaving) {
        let (router, cluster, filter) = (&self.shared.router, &self.shared.cluster, entered.filter.filter());
        if !self.durable {
            self.shared.sys.totals.unsubscribed();
        }
        if entered.filter.share().is_none() {
            router.unsubscribe(filter, self.mailbox.id);
            cluster.unwant(name, entered.from_shard);
            return;
        }
        // Where another connection of the client has joined by now, it is that one's membership.
        if router.leave(name, filter, &self.mailbox, leaving, cluster.node_id()) {
            cluster.leave_share(name, &self.client, leaving == Leaving::Away);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::testing::connect;
    use crate::testing::node;

    fn unsubscribe() -> Unsubscribe {
        Unsubscribe {
            packet_id: PacketId::new(1).unwrap(),
            filters: vec!["t".into()],
            user_properties: Vec::new(),
        }
    }

    #[tokio::test]
    async fn an_unsubscribe_that_was_not_stored_is_not_said_to_be_done() {
        let (_files, shared) = node().await;
        for (version, is_ended) in [(ProtocolVersion::V3_1_1, true), (ProtocolVersion::V5, false)] {
            let (mut connection, _client) = connect(&shared, "c", version, false).await;
            assert!(connection.session.is_durable());
            let before = connection.out.len();
            let finished = connection.finish_unsubscribe(unsubscribe(), Err(ProposeError::Busy));
            assert_eq!(matches!(finished, Err(End::Unavailable)), is_ended, "{version:?}");
            assert_eq!(connection.out.len() > before, !is_ended, "{version:?}");
        }
    }
}
