//! Messages that publishers of other nodes sent for connections of this one. They go to nobody else: the publisher's node
//! has asked shards and other nodes itself.

use std::sync::Arc;

use bytes::Bytes;
use cluster::ShardId;
use cluster::proto::{ForwardMessage, Publication};
use foldhash::HashMap;
use mqtt_topic::TopicName;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Semaphore;

use crate::forward::count_of;
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
    let count = messages.iter().map(count_of).sum();
    shared.metrics.forwarded_in.increment(count);
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
            lane.run.send(shared, &publisher);
            publisher = stored.publisher;
        }
        if message.only_client.is_empty() {
            lane.plain(shared, &publisher, live, source, message.more_payloads);
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
    lane.run.flush(shared, &publisher);
    let mut resting = shared.incoming.resting.lock();
    if resting.len() < RESTING_MAX {
        resting.push(lane);
    }
}

impl Lane {
    /// For all who want it, and then the same message with other payloads.
    fn plain(
        &mut self,
        shared: &Arc<Shared>,
        publisher: &str,
        message: LiveMessage,
        source: Option<Source>,
        more_payloads: Vec<Bytes>,
    ) {
        if source.is_some_and(|source| !shared.sources.is_new(source)) {
            return;
        }
        let route = self.route(shared, message.publication.topic());
        if route.subscribers.is_empty() {
            return;
        }
        let mut last = message;
        for payload in more_payloads {
            let publication = last.publication.with_payload(payload);
            let next = LiveMessage { publication, ..last };
            let message = std::mem::replace(&mut last, next);
            self.run.push(shared, publisher, Arc::clone(&route), message);
        }
        self.run.push(shared, publisher, route, last);
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

#[cfg(test)]
mod tests {
    use mqtt_codec::QoS;

    use super::*;
    use crate::forward::NodeBatch;
    use crate::mailbox::Grant;
    use crate::router::Route;
    use crate::testing::{grant, message, node, received, subscribe};

    fn shared_message(client: &str, payload: &str) -> ForwardMessage {
        ForwardMessage {
            only_client: client.into(),
            share_filter: "$share/g/t".into(),
            ..message("p", "t", payload, 2)
        }
    }

    #[tokio::test]
    async fn messages_of_another_node_reach_the_subscribers_of_this_one_in_order() {
        let (_files, shared) = node().await;
        let all = subscribe(&shared, "all", "#", grant(QoS::AtLeastOnce), false);
        let some = subscribe(&shared, "some", "a/+", grant(QoS::AtLeastOnce), false);
        let messages = [
            ("p", "a/b", "1"),
            ("q", "a/b", "2"),
            ("q", "c", "3"),
            ("q", "a/b", "4"),
        ];
        let messages = messages.map(|(publisher, topic, payload)| message(publisher, topic, payload, 1));
        receive(&shared, messages.to_vec());
        let payloads = |mailbox| {
            received(mailbox)
                .into_iter()
                .map(|(payload, _)| payload)
                .collect::<Vec<_>>()
        };
        assert_eq!(payloads(&all), ["1", "2", "3", "4"]);
        assert_eq!(payloads(&some), ["1", "2", "4"]);
    }

    #[tokio::test]
    async fn messages_that_travelled_as_one_arrive_as_many_in_order() {
        let (_files, shared) = node().await;
        let all = subscribe(&shared, "all", "#", grant(QoS::AtLeastOnce), false);
        let mut sent = NodeBatch::<()>::new(2, false);
        let (a, b) = (Arc::new(Route::default()), Arc::new(Route::default()));
        for (topic, payload) in [
            ("a", "1"),
            ("a", "2"),
            ("a", "3"),
            ("b", "4"),
            ("b", "5"),
            ("a", "6"),
        ] {
            let stored = message("p", topic, payload, 1).publication.unwrap();
            let route = if topic == "a" { &a } else { &b };
            sent.push(&from_stored(&stored).unwrap(), "p", None, route);
        }
        let numbered = Source { shard: 1, number: 7 };
        for source in [Some(numbered), None] {
            let stored = message("p", "a", "7", 1).publication.unwrap();
            sent.push(&from_stored(&stored).unwrap(), "p", source, &a);
        }
        let together: Vec<u64> = sent.messages.iter().map(count_of).collect();
        assert_eq!(together, [3, 2, 1, 1, 1], "what has a number travels alone");
        receive(&shared, sent.messages);
        let payloads: Vec<_> = received(&all).into_iter().map(|(payload, _)| payload).collect();
        assert_eq!(payloads, ["1", "2", "3", "4", "5", "6", "7", "7"]);
    }

    #[tokio::test]
    async fn a_session_kept_in_a_shard_gets_only_qos_0_from_other_nodes() {
        let (_files, shared) = node().await;
        let durable = subscribe(&shared, "durable", "t", grant(QoS::AtLeastOnce), true);
        receive(&shared, vec![message("p", "t", "above", 1)]);
        assert!(received(&durable).is_empty());
        receive(&shared, vec![message("p", "t", "live", 0)]);
        assert_eq!(received(&durable), [("live".to_owned(), QoS::AtMostOnce)]);
    }

    #[tokio::test]
    async fn no_local_holds_for_what_the_same_client_published_on_another_node() {
        let (_files, shared) = node().await;
        let no_local = Grant {
            no_local: true,
            ..grant(QoS::AtLeastOnce)
        };
        let mailbox = subscribe(&shared, "c", "t", no_local, false);
        receive(
            &shared,
            vec![message("c", "t", "own", 1), message("d", "t", "other", 1)],
        );
        assert_eq!(received(&mailbox), [("other".to_owned(), QoS::AtLeastOnce)]);
    }

    #[tokio::test]
    async fn a_batch_of_an_outbox_that_comes_again_reaches_nobody_twice() {
        let (_files, shared) = node().await;
        let mailbox = subscribe(&shared, "c", "t", grant(QoS::ExactlyOnce), false);
        let batch = |numbers: std::ops::Range<u64>| {
            let from_outbox = |number: u64| ForwardMessage {
                source_shard: Some(1),
                source_number: number,
                ..message("p", "t", &number.to_string(), 2)
            };
            numbers.map(from_outbox).collect::<Vec<_>>()
        };
        receive(&shared, batch(1..3));
        receive(&shared, batch(1..4));
        let payloads: Vec<_> = received(&mailbox)
            .into_iter()
            .map(|(payload, _)| payload)
            .collect();
        assert_eq!(payloads, ["1", "2", "3"]);
    }

    #[tokio::test]
    async fn a_shared_message_goes_to_the_client_that_was_chosen_as_it_was_granted() {
        let (_files, shared) = node().await;
        let first = subscribe(&shared, "a", "$share/g/t", grant(QoS::AtLeastOnce), false);
        let second = subscribe(&shared, "b", "$share/g/t", grant(QoS::AtMostOnce), false);
        receive(&shared, vec![shared_message("b", "1"), shared_message("a", "2")]);
        assert_eq!(received(&first), [("2".to_owned(), QoS::AtLeastOnce)]);
        assert_eq!(received(&second), [("1".to_owned(), QoS::AtMostOnce)]);
    }

    #[tokio::test]
    async fn a_shared_message_for_a_client_that_has_left_goes_to_another_member() {
        let (_files, shared) = node().await;
        let left = subscribe(&shared, "a", "$share/g/t", grant(QoS::AtLeastOnce), false);
        let stays = subscribe(&shared, "b", "$share/g/t", grant(QoS::AtLeastOnce), false);
        let filter = mqtt_topic::TopicFilter::parse("t".into()).unwrap();
        let leaving = crate::share::Leaving::Ended;
        assert!(
            shared
                .router
                .leave("$share/g/t", &filter, &left, leaving, shared.cluster.node_id())
        );
        receive(&shared, vec![shared_message("a", "1")]);
        let mut found = received(&stays);
        while found.is_empty() {
            tokio::task::yield_now().await;
            found = received(&stays);
        }
        assert_eq!(found, [("1".to_owned(), QoS::AtLeastOnce)]);
        assert!(received(&left).is_empty());
    }
}
