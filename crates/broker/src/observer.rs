//! What the replicated state tells this node, passed on to the connections and the router.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use cluster::{Kicked, KickedBy, Observer, ShardId, proto};
use mqtt_topic::SubscriptionFilter;
use tokio::sync::Notify;
use tracing::warn;

use crate::incoming;
use crate::mailbox::Close;
use crate::metrics::Metrics;
use crate::operator;
use crate::rebalance;
use crate::registry::Registry;
use crate::router::Router;
use crate::shared::Shared;

/// Which outboxes have something to send.
#[derive(Default, Debug)]
pub(crate) struct OutboxSignal {
    ready: Vec<AtomicBool>,
    pub(crate) notify: Notify,
}

impl OutboxSignal {
    pub(crate) fn new(shards: u16) -> Self {
        // All are looked at once after the start.
        Self {
            ready: (0..shards).map(|_| AtomicBool::new(true)).collect(),
            notify: Notify::new(),
        }
    }

    pub(crate) fn set(&self, shard: ShardId) {
        if let Some(ready) = self.ready.get(usize::from(shard)) {
            ready.store(true, Ordering::Release);
            self.notify.notify_one();
        }
    }

    /// Those among the shards that `idle` names.
    pub(crate) fn take(&self, idle: impl Fn(ShardId) -> bool) -> Vec<ShardId> {
        let taken = |(shard, ready): (ShardId, &AtomicBool)| {
            (idle(shard) && ready.swap(false, Ordering::AcqRel)).then_some(shard)
        };
        (0..).zip(&self.ready).filter_map(taken).collect()
    }
}

/// Called from the cluster's own tasks: nothing here waits.
pub(crate) struct NodeObserver {
    pub(crate) router: Arc<Router>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) outboxes: Arc<OutboxSignal>,
    /// Known when the cluster has started; before that nobody is connected here.
    pub(crate) shared: Arc<OnceLock<Weak<Shared>>>,
}

impl Observer for NodeObserver {
    fn outbox_ready(&self, shard: ShardId) {
        self.outboxes.set(shard);
    }

    fn share_member(&self, filter: &str, member: &proto::ShareMember, added: bool) {
        let Ok(parsed) = SubscriptionFilter::parse(filter.into()) else {
            return;
        };
        match added {
            true => self
                .router
                .learn(filter, parsed.filter(), &member.client, member.into()),
            false => self.router.forget(filter, parsed.filter(), &member.client),
        }
    }

    fn owner_lost(&self, client: &str, epoch: u64) {
        // Nobody waits for its end.
        let _ = self.registry.take_over(client, epoch, None);
    }

    fn session_ended(&self, client: &str, reason: &'static str) {
        match reason {
            "expired" => self.metrics.sessions_expired.increment(1),
            "administrative" => drop(self.registry.fence(client, u64::MAX, Close::Administrative)),
            _ => {}
        }
    }

    fn dropped(&self, reason: &'static str, count: u64) {
        let counter = match reason {
            "expired" => &self.metrics.dropped_expired,
            "session_ended" => &self.metrics.dropped_session_ended,
            _ => &self.metrics.dropped_queue_full,
        };
        counter.increment(count);
    }

    fn forwarded(&self, _from: u64, messages: Vec<proto::ForwardMessage>) {
        match self.shared.get().and_then(Weak::upgrade) {
            Some(shared) => incoming::receive(&shared, messages),
            None => self.metrics.no_subscribers.increment(messages.len() as u64),
        }
    }

    fn kick(&self, client: &str, epoch: u64, by: KickedBy) -> Option<Kicked> {
        let closed = match by {
            KickedBy::Operator => self.registry.fence(client, epoch, Close::Administrative)?,
            KickedBy::Connection(address) => {
                let by = address.and_then(|address| address.parse().ok());
                let closed = self.registry.take_over(client, epoch, by)?;
                self.metrics.kicks.increment(1);
                closed
            }
        };
        Some(Kicked {
            address: closed.address.to_string(),
            ended: closed.ended,
        })
    }

    fn shares_left_behind(&self, shard: ShardId, node: u64) -> Vec<String> {
        let shared = self.shared.get().and_then(Weak::upgrade);
        let prefers_connected = |shared: &Arc<Shared>| shared.config.mqtt.shared_prefer_connected;
        match shared.filter(prefers_connected) {
            Some(shared) => self
                .router
                .shares_left_behind(shard, node, shared.cluster.node_id()),
            None => Vec::new(),
        }
    }

    fn fenced(&self) {
        let connections = self.registry.len();
        warn!(
            connections,
            "this node may be cut off from its cluster: it closes its connections"
        );
        self.metrics.fences.increment(1);
        self.registry.close_all(Close::Fenced);
    }

    fn leaving(&self) -> bool {
        let shared = self.shared.get().and_then(Weak::upgrade);
        shared.is_none_or(|shared| shared.drain.to_leave(shared.config.drain.connections_per_second))
    }

    fn numbers(&self) -> proto::NodeNumbers {
        let shared = self.shared.get().and_then(Weak::upgrade);
        shared.map_or_else(Default::default, |shared| operator::numbers(&shared))
    }

    fn move_clients(&self, count: u64, per_second: u32) -> bool {
        let shared = self.shared.get().and_then(Weak::upgrade);
        shared.is_some_and(|shared| rebalance::move_some(&shared, count as usize, per_second))
    }

    fn connection(&self, client: &str) -> proto::ConnectionFacts {
        let shared = self.shared.get().and_then(Weak::upgrade);
        shared.map_or_else(Default::default, |shared| operator::connection(&shared, client))
    }

    fn refusals(&self, query: &proto::RefusalQuery) -> Vec<proto::Refusal> {
        let shared = self.shared.get().and_then(Weak::upgrade);
        shared.map_or_else(Vec::new, |shared| shared.refusals().newest(query))
    }

    fn addresses(&self, clients: &[String]) -> Vec<String> {
        let address = |client: &String| {
            let connected = self.registry.get(client);
            connected.map_or_else(String::new, |connected| connected.facts.peer.to_string())
        };
        clients.iter().map(address).collect()
    }

    fn subscriptions(&self, query: &proto::SubscriptionQuery) -> Vec<proto::ClientSubscription> {
        let shared = self.shared.get().and_then(Weak::upgrade);
        shared.map_or_else(Vec::new, |shared| operator::subscriptions(&shared, query))
    }
}
