//! What the replicated state tells this node, passed on to the connections and the router.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cluster::{Observer, ShardId};
use mqtt_topic::SubscriptionFilter;
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::mailbox::{Close, Grant};
use crate::message::qos_of;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::router::Router;
use crate::share::Member;

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

    pub(crate) fn take(&self) -> Vec<ShardId> {
        let taken = |(shard, ready): (usize, &AtomicBool)| {
            ready.swap(false, Ordering::AcqRel).then_some(shard as ShardId)
        };
        self.ready.iter().enumerate().filter_map(taken).collect()
    }
}

pub(crate) struct NodeObserver {
    pub(crate) shards: u16,
    pub(crate) router: Arc<Router>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) outboxes: Arc<OutboxSignal>,
}

impl Observer for NodeObserver {
    fn outbox_ready(&self, shard: ShardId) {
        self.outboxes.set(shard);
    }

    fn shared_member(&self, client: &str, subscription_filter: &str, qos: u8, added: bool) {
        let Ok(filter) = SubscriptionFilter::parse(subscription_filter.into()) else {
            return;
        };
        if !added {
            self.router.leave(subscription_filter, filter.filter(), client);
            return;
        }
        // The connection, if there is one, enters itself with its mailbox afterwards.
        let grant = Grant {
            qos: qos_of(u32::from(qos)),
            no_local: false,
            retain_as_published: false,
            subscription_ids: SmallVec::new(),
        };
        let member = Member {
            client: client.into(),
            grant: Arc::new(grant),
            shard: Some(cluster::shard_of(client, self.shards)),
            mailbox: None,
        };
        self.router.join(subscription_filter, filter.filter(), member);
    }

    fn owner_lost(&self, client: &str, epoch: u64) {
        self.registry.fence(client, epoch, Close::TakenOver);
    }

    fn session_ended(&self, client: &str, reason: &'static str) {
        match reason {
            "expired" => self.metrics.sessions_expired.increment(1),
            "administrative" => self.registry.fence(client, u64::MAX, Close::Administrative),
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
}
