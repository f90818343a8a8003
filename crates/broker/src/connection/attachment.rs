//! A connection's hold on its client id and session. Dropping it gives everything back, however the task ends.

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use cluster::proto::shard_response::Response;
use cluster::proto::{
    Acknowledge, Disconnect, SequenceRange, ShardCommand, ShardResponse, shard_command::Command,
};
use cluster::{Ending, ShardId};
use foldhash::HashMap;
use metrics::Gauge;
use mqtt_codec::ReasonCode;
use mqtt_topic::SubscriptionFilter;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::mailbox::{Event, Mailbox};
use crate::places::Place;
use crate::share::Leaving;
use crate::shared::Shared;
use crate::tenants::{CountedSubscription, Tenant};

/// The end of a session without persistence may wait this long for other commands of its shard.
const END_WITHIN: Duration = Duration::from_millis(10);

/// A subscription of this connection in the router.
pub(super) struct Entered {
    pub(super) filter: SubscriptionFilter,
    /// What is above QoS 0 comes to it through the session's shard.
    pub(super) from_shard: bool,
    pub(super) _counted: Option<CountedSubscription>,
}

pub(crate) struct Attachment {
    pub(super) shared: Arc<Shared>,
    pub(super) client: ByteString,
    pub(super) epoch: u64,
    pub(super) shard: ShardId,
    pub(super) durable: bool,
    pub(super) session_expiry_interval: u32,
    pub(super) mailbox: Arc<Mailbox>,
    /// Of this connection in the router, by the name the client used.
    pub(super) subscriptions: HashMap<ByteString, Entered>,
    /// Whether the will is published: always, unless the client has taken leave. [MQTT-3.1.2-10]
    publish_will: bool,
    new_expiry: Option<u32>,
    /// Among the connections of its address and of its user.
    pub(super) places: SmallVec<[Place; 2]>,
    /// For whom its subscriptions count.
    pub(super) tenant: Option<Arc<Tenant>>,
    /// The first delivery of a durable session that was not sent; unknown if the task did not end by itself.
    pub(super) sent_before: Option<u64>,
    /// Told when the end of the connection is committed, or never will be.
    committed: Option<oneshot::Sender<()>>,
    /// Where this connection is among those that are open.
    pub(super) counted: Gauge,
    /// Dropped with the rest: whoever waits for the end of this connection sees it.
    _ended: Ending,
}

impl Attachment {
    pub(super) fn new(
        shared: Arc<Shared>,
        client: ByteString,
        epoch: u64,
        durable: bool,
        session_expiry_interval: u32,
        mailbox: Arc<Mailbox>,
        ended: Ending,
    ) -> Self {
        let shard = shared.cluster.shard_of_client(&client);
        Self {
            shared,
            client,
            epoch,
            shard,
            durable,
            session_expiry_interval,
            mailbox,
            subscriptions: HashMap::default(),
            publish_will: true,
            new_expiry: None,
            places: SmallVec::new(),
            tenant: None,
            sent_before: None,
            committed: None,
            counted: Gauge::noop(),
            _ended: ended,
        }
    }

    /// The client said goodbye. [MQTT-3.14.4-3]
    pub(super) fn left(&mut self, packet: &mqtt_codec::Disconnect) {
        self.publish_will = packet.reason_code != ReasonCode::Success;
        let maximum = self.shared.live().session.session_expiry_max;
        self.new_expiry = packet
            .session_expiry_interval
            .map(|interval| interval.min(maximum));
    }

    /// The client may not publish its will any more.
    pub(super) fn void_will(&mut self) {
        self.publish_will = false;
    }

    /// Ends when the end of this connection is committed, which is proposed when the attachment is dropped.
    pub(super) fn end_committed(&mut self) -> oneshot::Receiver<()> {
        let (committed, receiver) = oneshot::channel();
        self.committed = Some(committed);
        receiver
    }

    /// The shared subscriptions whose messages go to another member while this one is away: where that comes first
    /// and is connected. Not when the whole node goes.
    fn to_hand_over(&self) -> Vec<String> {
        let shared = &self.shared;
        let goes = shared.drain.is_asking() || !shared.cluster.may_acknowledge();
        if goes || !shared.config.mqtt.shared_prefer_connected {
            return Vec::new();
        }
        let names = self.subscriptions.iter();
        let names = names.filter(|(_, entered)| entered.filter.share().is_some());
        let has_other = |name: &&ByteString| self.has_other_member(name, true);
        names
            .map(|(name, _)| name)
            .filter(has_other)
            .map(ToString::to_string)
            .collect()
    }

    /// Whether another client is in a shared subscription.
    pub(super) fn has_other_member(&self, name: &str, connected: bool) -> bool {
        let group = self.shared.router.group(name);
        let this_node = self.shared.cluster.node_id();
        group.is_some_and(|group| group.has_other(&self.client, connected, this_node))
    }

    /// Proposes a command for the session; the answer says whether it was stored.
    pub(super) fn propose(&self, command: Command, answer: impl FnOnce(bool) -> Event + Send + 'static) {
        let mailbox = Arc::clone(&self.mailbox);
        let command = ShardCommand {
            command: Some(command),
        };
        let done = Box::new(move |result: Result<ShardResponse, _>| {
            let stored = result.is_ok_and(|response| !is_rejected(&response));
            mailbox.answer(answer(stored));
        });
        self.shared.cluster.propose(self.shard, command, done);
    }

    /// Deliveries the client has finished with: the replicated queue may drop them.
    pub(super) fn acknowledge(&self, ranges: Vec<(u64, u64)>) {
        let ranges = ranges
            .into_iter()
            .map(|(first, last)| SequenceRange { first, last })
            .collect();
        let command = Command::Acknowledge(Acknowledge {
            client: self.client.to_string(),
            epoch: self.epoch,
            ranges,
        });
        // Lost acknowledgements mean repeated deliveries with DUP, which QoS 1 allows and QoS 2 catches.
        let command = ShardCommand {
            command: Some(command),
        };
        self.shared
            .cluster
            .propose_soon(self.shard, command, Duration::ZERO);
    }
}

/// Whether the state machine refused a command.
pub(crate) fn is_rejected(response: &ShardResponse) -> bool {
    matches!(response.response, Some(Response::Rejected(_)) | None)
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let stays = self.durable && self.new_expiry != Some(0);
        let leaving = if stays { Leaving::Away } else { Leaving::Ended };
        for (name, entered) in &self.subscriptions {
            self.withdraw(name, entered, leaving);
        }
        if self.durable {
            self.shared.cluster.detach(&self.client, self.epoch);
        }
        let hand_over = if stays { self.to_hand_over() } else { Vec::new() };
        let command = Command::Disconnect(Disconnect {
            client: self.client.to_string(),
            epoch: self.epoch,
            publish_will: self.publish_will,
            session_expiry_s: self.new_expiry,
            sent_before: self.sent_before,
            hand_over,
        });
        let command = ShardCommand {
            command: Some(command),
        };
        // Of a session that ends here nothing is left to be saved, and entries are what costs.
        let within = if self.durable { Duration::ZERO } else { END_WITHIN };
        match self.committed.take() {
            Some(committed) => {
                let done = Box::new(move |_| drop(committed));
                self.shared.cluster.propose(self.shard, command, done);
            }
            None => self.shared.cluster.propose_soon(self.shard, command, within),
        }
        self.shared.registry.leave(&self.client, self.epoch);
        self.counted.decrement(1.0);
    }
}
