//! Messages that publishers of other nodes sent for connections of this one. They go to nobody else: the publisher's node
//! has asked shards and other nodes itself.

use std::sync::Arc;

use cluster::ShardId;
use cluster::proto::{ForwardMessage, Publication};
use foldhash::{HashMap, HashMapExt};
use mqtt_topic::TopicName;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Semaphore;

use crate::handover::{self, HOPS_MAX, Handover, delivery_for};
use crate::mailbox::LiveMessage;
use crate::message::from_stored;
use crate::router::Route;
use crate::run::Run;
use crate::shared::Shared;
use crate::sources::Source;

/// Routes remembered by one lane; beyond it they are looked up anew.
const ROUTES_MAX: usize = 4096;
/// Lanes whose routes are kept while they rest.
const RESTING_MAX: usize = 32;
/// Messages of shared subscriptions that look for another member at the same time. Beyond it they are dropped.
const HANDOVERS_MAX: usize = 1024;

/// What lanes need to bring messages to connections.
#[derive(Debug)]
pub(crate) struct Incoming {
    resting: Mutex<Vec<Lane>>,
    handovers: Arc<Semaphore>,
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            resting: Mutex::default(),
            handovers: Arc::new(Semaphore::new(HANDOVERS_MAX)),
        }
    }
}

#[derive(Default, Debug)]
struct Lane {
    routes: HashMap<TopicName, Arc<Route>>,
    run: Run,
}

/// Brings messages to their receivers, in order; each receiver is woken once.
pub(crate) fn receive(shared: &Arc<Shared>, messages: Vec<ForwardMessage>) {
    shared.metrics.forwarded_in.increment(messages.len() as u64);
    let mut lane = shared.incoming.resting.lock().pop().unwrap_or_default();
    let mut publisher = String::new();
    for message in messages {
        let source = source_of(&message);
        let Some(stored) = message.publication else {
            continue;
        };
        let Some(live) = from_stored(&stored) else {
            continue;
        };
        if stored.publisher != publisher {
            lane.run.send(&shared.metrics, &publisher);
            publisher = stored.publisher;
        }
        if message.only_client.is_empty() {
            lane.plain(shared, &publisher, live, source);
        } else {
            let handover = Handover {
                group: message.share_filter.into(),
                message: live,
                publisher: publisher.as_str().into(),
                source: None,
                except: SmallVec::from_iter([message.only_client.into()]),
                hops: message.hops,
            };
            lane.shared(shared, handover);
        }
    }
    lane.run.flush(&shared.metrics, &publisher);
    let mut resting = shared.incoming.resting.lock();
    if resting.len() < RESTING_MAX {
        resting.push(lane);
    }
}

impl Lane {
    fn plain(&mut self, shared: &Arc<Shared>, publisher: &str, message: LiveMessage, source: Option<Source>) {
        if source.is_some_and(|source| !shared.sources.is_new(source)) {
            return;
        }
        let route = self.route(shared, message.publication.topic());
        if !route.subscribers.is_empty() {
            self.run.push(&shared.metrics, publisher, route, message);
        }
    }

    fn route(&mut self, shared: &Shared, topic: &TopicName) -> Arc<Route> {
        if let Some(route) = self.routes.get(topic)
            && shared.router.is_current_here(route)
        {
            return Arc::clone(route);
        }
        let route = Arc::new(shared.router.route_here(topic.as_str()));
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        self.routes.insert(topic.clone(), Arc::clone(&route));
        route
    }

    /// For the client that the publisher's node has chosen; if that one has left, for another one, which may be anywhere.
    fn shared(&mut self, shared: &Arc<Shared>, handover: Handover) {
        let group = shared.router.group(&handover.group);
        let here = group.and_then(|group| group.here(&handover.except[0]));
        if let Some(here) = here {
            let delivery = Box::new(delivery_for(&handover.message, &here.grant, &handover.group));
            if here.mailbox.deliver_one(delivery, &mut self.run.wakers).is_ok() {
                return;
            }
        }
        let permit = Arc::clone(&shared.incoming.handovers).try_acquire_owned();
        let (Ok(permit), true) = (permit, handover.hops <= HOPS_MAX) else {
            shared.metrics.dropped(handover.message.qos, 1);
            return;
        };
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            handover::hand_over(&shared, handover).await;
            drop(permit);
        });
    }
}

fn source_of(message: &ForwardMessage) -> Option<Source> {
    Some(Source {
        shard: ShardId::try_from(message.source_shard?).ok()?,
        number: message.source_number,
    })
}

/// A message for another node's subscribers.
pub(crate) fn outgoing(publication: Publication, source: Option<Source>) -> ForwardMessage {
    ForwardMessage {
        publication: Some(publication),
        source_shard: source.map(|source| u32::from(source.shard)),
        source_number: source.map_or(0, |source| source.number),
        ..ForwardMessage::default()
    }
}
