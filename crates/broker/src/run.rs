//! Messages that go the same way one after the other: to the connections of this node they go as one batch.

use std::sync::Arc;
use std::task::Waker;

use mqtt_codec::QoS;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::mailbox::{Batch, LiveMessage};
use crate::router::{Route, Subscriber};
use crate::shared::Shared;

/// Messages that leave together at the most.
const BATCH_MAX: usize = 512;
/// How long one of so many batches takes is measured: the first, and then each after so many.
const MEASURED_EVERY: u32 = 64;

/// The messages of one publisher that wait for others of the same topic, and the receivers to be woken.
#[derive(Default, Debug)]
pub(crate) struct Run {
    current: Option<(Arc<Route>, SmallVec<[LiveMessage; 1]>)>,
    pub(crate) wakers: Vec<Waker>,
    /// Until the next one that is measured.
    unmeasured: u32,
}

impl Run {
    /// Adds a message for the subscribers of a route.
    pub(crate) fn push(&mut self, shared: &Shared, publisher: &str, route: Arc<Route>, message: LiveMessage) {
        if let Some((current, messages)) = &mut self.current
            && Arc::ptr_eq(current, &route)
            && messages.len() < BATCH_MAX
        {
            messages.push(message);
            return;
        }
        self.send(shared, publisher);
        self.current = Some((route, SmallVec::from_iter([message])));
    }

    /// Leaves what waits in the mailboxes of its receivers.
    pub(crate) fn send(&mut self, shared: &Shared, publisher: &str) {
        let Some((route, mut messages)) = self.current.take() else {
            return;
        };
        let sheds = shared.overload.sheds();
        if sheds {
            shed(shared, &route, &mut messages);
        }
        if messages.is_empty() {
            return;
        }
        let is_measured = self.unmeasured == 0;
        self.unmeasured = (self.unmeasured + 1) % MEASURED_EVERY;
        let batch = Arc::new(Batch::new(messages, is_measured.then(Instant::now)));
        for subscriber in &route.subscribers {
            let Some(grant) = subscriber.granted(publisher) else {
                continue;
            };
            let Subscriber { mailbox, durable, .. } = subscriber;
            let by_shard = *durable && batch.qos_min.min(grant.qos) > QoS::AtMostOnce;
            if by_shard {
                continue;
            }
            if sheds && batch.qos.min(grant.qos) == QoS::AtMostOnce {
                shared
                    .metrics
                    .dropped_overload
                    .increment(batch.messages.len() as u64);
                continue;
            }
            if !mailbox.deliver(&batch, grant, &mut self.wakers) {
                shared
                    .metrics
                    .dropped(batch.qos.min(grant.qos), batch.messages.len());
            }
        }
    }

    /// Sends what is left, and wakes every receiver once.
    pub(crate) fn flush(&mut self, shared: &Shared, publisher: &str) {
        self.send(shared, publisher);
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }
}

/// Memory is used up: what was published with QoS 0 goes to none of its receivers.
fn shed(shared: &Shared, route: &Route, messages: &mut SmallVec<[LiveMessage; 1]>) {
    let before = messages.len();
    messages.retain(|message| message.qos > QoS::AtMostOnce);
    let dropped = (before - messages.len()) * route.subscribers.len();
    shared.metrics.dropped_overload.increment(dropped as u64);
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::mailbox::{Event, Grant};
    use crate::message::from_stored;
    use crate::testing::{grant, message, node, subscribe};

    /// Each of its subscriptions says for itself whether a client wants its own messages. [MQTT-3.8.3-3]
    #[tokio::test]
    async fn a_client_gets_its_own_messages_only_by_its_subscriptions_without_no_local() {
        let (_files, shared) = node().await;
        let with = |qos, no_local, identifier| Grant {
            no_local,
            subscription_ids: SmallVec::from_iter([identifier]),
            ..grant(qos)
        };
        for durable in [false, true] {
            let mailbox = subscribe(&shared, "c", "a/#", with(QoS::ExactlyOnce, true, 1), durable);
            for (filter, grant) in [
                ("a/b", with(QoS::AtMostOnce, false, 2)),
                ("+/b", with(QoS::AtLeastOnce, true, 3)),
            ] {
                let filter = mqtt_topic::TopicFilter::parse(filter.into()).unwrap();
                let subscriber = Subscriber {
                    mailbox: Arc::clone(&mailbox),
                    grant: Arc::new(grant),
                    own_grant: None,
                    durable,
                };
                shared.router.subscribe(&filter, subscriber);
            }
            let granted = |publisher: &str, topic: &str, qos| {
                let stored = message(publisher, topic, "x", qos).publication.unwrap();
                let route = Arc::new(shared.router.route_here(topic));
                let mut run = Run::default();
                run.push(&shared, publisher, route, from_stored(&stored).unwrap());
                run.flush(&shared, publisher);
                let mut events = Vec::new();
                mailbox.take(&mut events, Waker::noop());
                let of = |event| match event {
                    Event::Deliver { grant, .. } => {
                        let mut identifiers = grant.subscription_ids.to_vec();
                        identifiers.sort_unstable();
                        (grant.qos, identifiers)
                    }
                    other => panic!("{other:?}"),
                };
                events.into_iter().map(of).collect::<Vec<_>>()
            };
            assert_eq!(granted("c", "a/b", 2), [(QoS::AtMostOnce, vec![2])]);
            assert_eq!(granted("c", "a/c", 2), []);
            let others = match durable {
                // The shard brings it.
                true => vec![],
                false => vec![(QoS::ExactlyOnce, vec![1, 2, 3])],
            };
            assert_eq!(granted("d", "a/b", 2), others);
            assert_eq!(granted("c", "a/b", 0), [(QoS::AtMostOnce, vec![2])]);
            for filter in ["a/#", "a/b", "+/b"] {
                let filter = mqtt_topic::TopicFilter::parse(filter.into()).unwrap();
                shared.router.unsubscribe(&filter, mailbox.id);
            }
        }
    }

    #[tokio::test]
    async fn the_first_batch_of_so_many_is_measured() {
        let (_files, shared) = node().await;
        let mailbox = subscribe(&shared, "all", "t", grant(QoS::AtMostOnce), false);
        let mut run = Run::default();
        let mut measured = Vec::new();
        for place in 0..=MEASURED_EVERY {
            let stored = message("p", "t", "x", 0).publication.unwrap();
            let route = Arc::new(shared.router.route_here("t"));
            run.push(&shared, "p", route, from_stored(&stored).unwrap());
            run.flush(&shared, "p");
            let mut events = Vec::new();
            mailbox.take(&mut events, Waker::noop());
            let [Event::Deliver { batch, .. }] = &events[..] else {
                panic!("{events:?}");
            };
            measured.extend(batch.measured_from.map(|_| place));
        }
        assert_eq!(measured, [0, MEASURED_EVERY]);
    }
}
