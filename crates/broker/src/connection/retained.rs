//! Retained messages for new subscriptions: read, and made ready for one client, in slices that let others have their turns.

use std::sync::Arc;

use cluster::proto::{self, Publication, ShardCommand, shard_command::Command};
use cluster::{ProposeError, Unannounced};
use mqtt_codec::QoS;
use mqtt_session::{Delivery, Subscription};
use smallvec::SmallVec;

use crate::mailbox::LiveMessage;
use crate::message::{from_stored, to_stored};
use crate::shared::Shared;

use super::attachment::Attachment;
use super::subscribe::{Entering, Told};

/// Retained messages one subscription brings at the most.
const RETAINED_MAX: usize = 1_000_000;
/// Retained messages that may wait when another subscription brings more: what exceeds it is dropped and counted.
const WAITING_MAX: usize = 100_000;
/// On a node with more of them, filters with wildcards are not looked up within a connection's turn.
const AT_ONCE_MAX: u64 = 10_000;
/// So many are made ready in one turn.
const SLICE: usize = 1_000;

/// What one subscription brings.
#[derive(Default)]
pub(super) struct Retained {
    /// To be sent by the connection.
    pub(super) deliveries: Vec<Delivery>,
    /// For the queue of a durable session.
    pub(super) appends: Vec<ShardCommand>,
}

impl Retained {
    fn len(&self) -> usize {
        self.deliveries.len() + self.appends.len()
    }
}

/// What the queue of a session has room for, as far as is known here: its shard has the last word.
fn queue_room(shared: &Shared, client: &str) -> (usize, u64) {
    let limits = Arc::clone(&shared.live().session);
    let waiting = shared.cluster.session_info(client);
    let (messages, bytes) = waiting.map_or((0, 0), |info| (info.queued_messages, info.queued_bytes));
    (
        limits.queue_messages_max.saturating_sub(messages as usize),
        (limits.queue_bytes_max as u64).saturating_sub(bytes),
    )
}

/// Reads for one client.
pub(super) struct Reader {
    shared: Arc<Shared>,
    client: String,
    durable: bool,
    /// Retained messages that wait for the client, with those that were read here.
    waiting: usize,
    /// Messages and bytes that the queue of a durable session has room for.
    queue_room: (usize, u64),
}

impl Reader {
    /// `waiting`: retained messages of earlier subscriptions that the client has not been sent.
    pub(super) fn new(shared: &Arc<Shared>, attachment: &Attachment, durable: bool, waiting: usize) -> Self {
        Self {
            shared: Arc::clone(shared),
            client: attachment.client.to_string(),
            durable,
            waiting,
            queue_room: queue_room(shared, &attachment.client),
        }
    }

    /// Whether there is nothing to wait for, and little to read.
    pub(super) fn may_read_at_once(&self, entering: &Entering) -> bool {
        let cluster = &self.shared.cluster;
        let mut wanted = entering.wanted();
        cluster.is_alone()
            && (wanted.all(|(_, subscription)| !subscription.filter.filter().has_wildcards())
                || cluster.totals().retained_messages <= AT_ONCE_MAX)
    }

    /// What a node that is alone has itself.
    pub(super) fn read_here(&mut self, subscription: &Subscription) -> Retained {
        let mut found = self.latest_of_this_node(subscription);
        let (room, mut without_room) = (self.room(), 0);
        let mut queue_room = self.queue_room;
        let filter = subscription.filter.filter().as_str();
        self.shared
            .cluster
            .retained_local(filter, RETAINED_MAX, &mut |stored| {
                if found.len() >= room || !self.add(subscription, stored, &mut found, &mut queue_room) {
                    without_room += 1;
                }
            });
        self.queue_room = queue_room;
        self.finish(found, without_room)
    }

    /// First every node routes by the subscriptions, then what is retained is read: no message is missed by both.
    pub(super) async fn announce_and_read(
        &mut self,
        unannounced: Option<Unannounced>,
        entering: &Entering,
    ) -> Told {
        let cluster = &self.shared.cluster;
        let announced = cluster.announced(unannounced).await;
        if !cluster.is_alone() {
            self.shared.metrics.announced(announced.is_ok());
        }
        announced?;
        let mut read = Vec::new();
        for (place, subscription) in entering.wanted() {
            read.push((place, self.read(subscription).await));
        }
        Ok(read)
    }

    async fn read(&mut self, subscription: &Subscription) -> Result<Retained, ProposeError> {
        let filter = subscription.filter.filter().as_str();
        let mut stored = self.shared.cluster.retained(filter, RETAINED_MAX).await?;
        let mut found = self.latest_of_this_node(subscription);
        let room = self.room().saturating_sub(found.len());
        let mut without_room = stored.len().saturating_sub(room);
        let mut queue_room = self.queue_room;
        stored.truncate(room);
        for slice in stored.chunks(SLICE) {
            for stored in slice {
                let added = self.add(subscription, stored, &mut found, &mut queue_room);
                without_room += usize::from(!added);
            }
            if slice.len() == SLICE {
                tokio::task::yield_now().await;
            }
        }
        self.queue_room = queue_room;
        Ok(self.finish(found, without_room as u64))
    }

    /// One SUBSCRIBE, or many in a row, may ask for everything again and again: what waits already counts.
    fn room(&self) -> usize {
        match self.waiting {
            0 => RETAINED_MAX,
            waiting => WAITING_MAX.saturating_sub(waiting),
        }
    }

    fn finish(&mut self, found: Retained, without_room: u64) -> Retained {
        self.waiting += found.len();
        if without_room > 0 {
            self.shared.metrics.dropped_queue_full.increment(without_room);
        }
        found
    }

    fn latest_of_this_node(&self, subscription: &Subscription) -> Retained {
        let mut found = Retained::default();
        for message in self.shared.sys.matching(subscription.filter.filter()) {
            self.add_message(subscription, message, &mut found);
        }
        found
    }

    /// False: it goes into the queue of a durable session, and that has no room for it.
    fn add(
        &self,
        subscription: &Subscription,
        stored: &Publication,
        found: &mut Retained,
        queue_room: &mut (usize, u64),
    ) -> bool {
        let Some(message) = from_stored(stored) else {
            return true;
        };
        if self.durable && message.qos.min(subscription.options.qos) > QoS::AtMostOnce {
            let size = (stored.topic.len() + stored.properties.len() + stored.payload.len()) as u64;
            let (messages, bytes) = queue_room;
            let (Some(fewer), Some(less)) = (messages.checked_sub(1), bytes.checked_sub(size)) else {
                return false;
            };
            (*messages, *bytes) = (fewer, less);
        }
        self.add_message(subscription, message, found);
        true
    }

    fn add_message(&self, subscription: &Subscription, message: LiveMessage, found: &mut Retained) {
        let qos = message.qos.min(subscription.options.qos);
        if self.durable && qos > QoS::AtMostOnce {
            // Its packet id has to come from the session's sequence. What was published as the topic's new value is told from it
            // there: `retained` alone makes the client see RETAIN.
            let message = LiveMessage {
                retain: false,
                ..message
            };
            let append = proto::Append {
                publication: Some(to_stored(&message, "")),
                only_client: self.client.clone(),
                share_filter: subscription.name.to_string(),
                retained: true,
                ..proto::Append::default()
            };
            found.appends.push(ShardCommand {
                command: Some(Command::Append(append)),
            });
            return;
        }
        let identifier = (subscription.subscription_id != 0).then_some(subscription.subscription_id);
        found.deliveries.push(Delivery {
            publication: message.publication,
            qos,
            retain: true,
            subscription_ids: SmallVec::from_iter(identifier),
            expires_at: message.expires_at,
            share: None,
        });
    }
}
