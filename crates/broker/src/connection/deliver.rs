//! Messages on their way to this connection's client: from the mailbox, from the replicated queue, and retained ones.

use cluster::Fetch;
use mqtt_codec::QoS;
use mqtt_session::{Delivery, Outcome, Sending};
use smallvec::SmallVec;

use crate::mailbox::{Batch, Close, Grant, LiveMessage};
use crate::message::{from_stored, qos_of};
use crate::pass::Denied;

use super::{Connection, End, Stream};

/// Messages and bytes asked of the replicated queue at once.
const FETCH_MESSAGES: usize = 256;
const FETCH_BYTES: usize = 512 * 1024;

impl<S: Stream> Connection<S> {
    pub(super) fn deliver_batch(&mut self, batch: &Batch, grant: &Grant, now: u64) {
        for LiveMessage {
            publication,
            qos,
            retain,
            expires_at,
        } in &batch.messages
        {
            let qos = (*qos).min(grant.qos);
            // Above QoS 0 a durable session gets it through its queue.
            if self.session.is_durable() && qos > QoS::AtMostOnce {
                continue;
            }
            let is_value = *retain && self.awaits_copies();
            let retain = *retain && grant.retain_as_published;
            // Of most messages nothing is kept.
            if self.pass.tenant.is_none() && self.pace.is_none() && self.session.may_send(qos) {
                let sending = Sending {
                    publication,
                    qos,
                    retain,
                    subscription_ids: &grant.subscription_ids,
                    expires_at: *expires_at,
                };
                let outcome = self.session.send_now(sending, now, &mut self.out);
                self.note(outcome, qos, publication.payload_len(), publication.size());
                if is_value && outcome == Outcome::Sent {
                    self.newer.note(publication.topic().as_str());
                }
                continue;
            }
            let delivery = Delivery {
                publication: publication.clone(),
                qos,
                retain,
                subscription_ids: grant.subscription_ids.clone(),
                expires_at: *expires_at,
                share: None,
            };
            if self.deliver(delivery, now) && is_value {
                self.newer.note(publication.topic().as_str());
            }
        }
    }

    /// Whether copies of retained messages are on their way to the client.
    fn awaits_copies(&self) -> bool {
        self.newer.in_queue || !self.retained.is_empty()
    }

    /// False: the client does not get it.
    pub(super) fn deliver(&mut self, delivery: Delivery, now: u64) -> bool {
        let Some(delivery) = self.seen(delivery) else {
            return false;
        };
        let (qos, publication) = (delivery.qos, &delivery.publication);
        let (payload, size) = (publication.payload_len(), publication.size());
        let is_paced = self.paced_until().is_some();
        if qos == QoS::AtMostOnce && is_paced {
            self.shared.metrics.dropped_rate_limited.increment(1);
            return false;
        }
        let waits = is_paced || !self.session.may_send(qos);
        if waits && !self.queued.try_add(size) {
            // All sessions of the node together have too much waiting.
            self.shared.metrics.dropped_queue_full.increment(1);
            return false;
        }
        let outcome = match waits {
            true => self.session.deliver_later(delivery),
            false => self.session.deliver(delivery, now, &mut self.out),
        };
        self.note(outcome, qos, payload, size);
        matches!(outcome, Outcome::Sent | Outcome::Queued)
    }

    /// A message as the client is to see it; `None`: it is not for its tenant.
    #[inline]
    fn seen(&self, delivery: Delivery) -> Option<Delivery> {
        let Some(tenant) = &self.pass.tenant else {
            return Some(delivery);
        };
        let publication = tenant.leave(delivery.publication);
        if publication.is_none() {
            self.shared.metrics.denied(Denied::Deliver);
        }
        publication.map(|publication| Delivery {
            publication,
            ..delivery
        })
    }

    /// When the client may be sent the next message; `None`: now.
    pub(super) fn paced_until(&self) -> Option<u64> {
        self.pace.as_ref()?.waits_until(self.steady)
    }

    /// Whether there may be messages that wait for the client.
    pub(super) fn has_waiting(&self) -> bool {
        self.pull || self.session.queued().0 > 0 || !self.retained.is_empty()
    }

    /// Counts what became of a delivery.
    fn note(&mut self, outcome: Outcome, qos: QoS, payload: usize, size: usize) {
        let metrics = &self.shared.metrics;
        match outcome {
            Outcome::Sent => {
                self.tally.sent[qos as usize] += 1;
                self.tally.payload_sent += payload as u64;
                if let Some(pace) = &mut self.pace
                    && let Some(limited) = pace.charge(size, self.steady)
                {
                    metrics.limited(limited);
                }
            }
            Outcome::Queued => {}
            Outcome::TooLarge => metrics.dropped_too_large.increment(1),
            Outcome::Expired => metrics.dropped_expired.increment(1),
            Outcome::QueueFull(dropped) => metrics.dropped_queue_full.increment(dropped as u64),
        }
    }

    /// Sends what waits in memory, as far as the window, the socket and the client's limits allow.
    pub(super) fn send_waiting(&mut self, now: u64) {
        let out_max = self.out_max();
        while self.out.len() < out_max && self.session.queued().0 > 0 && self.paced_until().is_none() {
            let Some((outcome, qos, payload, size)) = self.session.send_next(now, &mut self.out) else {
                break;
            };
            self.note(outcome, qos, payload, size);
        }
        while self.out.len() < out_max && self.session.queued().0 == 0 && self.paced_until().is_none() {
            let Some(next) = self.retained.front() else {
                if !self.newer.in_queue {
                    self.newer.clear();
                }
                return;
            };
            if self.newer.has(next.publication.topic().as_str()) {
                self.retained.pop_front();
                continue;
            }
            if next.qos > QoS::AtMostOnce && self.session.room() == 0 {
                return;
            }
            if let Some(delivery) = self.retained.pop_front() {
                self.deliver(delivery, now);
            }
        }
    }

    /// Takes from the session's replicated queue what the window has room for.
    pub(super) fn pull(&mut self, now: u64) -> Result<(), End> {
        let out_max = self.out_max();
        while self.pull
            && self.may_pull
            && self.out.len() < out_max
            && self.session.room() > 0
            && self.session.reaches(self.fetch_from)
            && self.paced_until().is_none()
        {
            let pace = self.pace.as_ref();
            let (messages, bytes) = pace.map_or((usize::MAX, usize::MAX), |pace| pace.room(self.steady));
            let messages_max = self.session.room().min(FETCH_MESSAGES).min(messages);
            let bytes_max = FETCH_BYTES.min(bytes);
            let (client, epoch) = (&self.attachment.client, self.attachment.epoch);
            match self
                .shared
                .cluster
                .fetch(client, epoch, self.fetch_from, messages_max, bytes_max)
            {
                Fetch::Gone => return Err(End::Closed(Close::TakenOver)),
                Fetch::Loading => self.pull = false,
                Fetch::Ready { messages, .. } if messages.is_empty() => {
                    self.pull = false;
                    // What is being stored may still bring some.
                    self.newer.in_queue &= self.operation.is_some();
                }
                Fetch::Ready {
                    messages,
                    next_sequence,
                } => {
                    self.fetch_from = next_sequence;
                    for queued in messages {
                        if !self.session.reaches(queued.sequence) {
                            self.fetch_from = queued.sequence;
                            break;
                        }
                        self.send_queued(queued, now);
                    }
                }
            }
        }
        Ok(())
    }

    fn send_queued(&mut self, queued: cluster::Queued, now: u64) {
        if queued.received {
            self.session.send_pubrel(queued.sequence, &mut self.out);
            return;
        }
        let Some(message) = from_stored(&queued.publication) else {
            return;
        };
        let qos = qos_of(u32::from(queued.qos));
        // Only a copy of a retained message is to be seen with RETAIN without having been published with it.
        let is_copy = queued.retain && !message.retain;
        let topic = queued.publication.topic.as_str();
        if is_copy && self.newer.has(topic) {
            return self.session.skip_durable(queued.sequence);
        }
        // One that another version has stored looks like a value that nobody has published.
        let is_published = !(queued.retain && queued.publication.publisher.is_empty());
        let is_value = message.retain && is_published && self.awaits_copies();
        let delivery = self.seen(Delivery {
            publication: message.publication,
            qos,
            retain: queued.retain,
            subscription_ids: SmallVec::from_vec(queued.subscription_ids),
            expires_at: message.expires_at,
            share: None,
        });
        // It may have been queued under older rules.
        let Some(delivery) = delivery.filter(|delivery| self.may_receive(delivery)) else {
            self.session.skip_durable(queued.sequence);
            return;
        };
        let (payload, size) = (delivery.publication.payload_len(), delivery.publication.size());
        let outcome = self
            .session
            .send_durable(queued.sequence, &delivery, now, &mut self.out);
        self.note(outcome, qos, payload, size);
        if is_value && outcome == Outcome::Sent {
            self.newer.note(topic);
        }
    }

    fn may_receive(&self, delivery: &Delivery) -> bool {
        let topic = delivery.publication.topic();
        let may_receive = self.pass.may_receive(topic);
        if !may_receive {
            self.pass.denied(&self.shared, Denied::Deliver, topic.as_str());
        }
        may_receive
    }
}

#[cfg(test)]
mod tests {
    use cluster::proto::{self, ShardCommand, shard_command::Command};
    use mqtt_codec::{DecodeLimits, Decoder, Packet, ProtocolVersion};
    use tokio::io::DuplexStream;

    use super::*;
    use crate::connection::retained::Retained;
    use crate::connection::testing::connect;
    use crate::testing::{grant, message, node};

    fn value(topic: &str, payload: &str, retain: bool) -> LiveMessage {
        let stored = message("p", topic, payload, 0).publication.unwrap();
        LiveMessage {
            retain,
            ..from_stored(&stored).unwrap()
        }
    }

    fn copy(topic: &str, payload: &str) -> Delivery {
        Delivery {
            publication: value(topic, payload, true).publication,
            qos: QoS::AtMostOnce,
            retain: true,
            subscription_ids: SmallVec::new(),
            expires_at: None,
            share: None,
        }
    }

    /// Topics and payloads of what was sent, behind the CONNACK.
    fn sent(connection: &mut Connection<DuplexStream>) -> Vec<(String, String)> {
        let mut decoder = Decoder::client(ProtocolVersion::V5, DecodeLimits::default());
        let mut bytes = connection.out.copy_behind(0);
        let mut sent = Vec::new();
        while let Some(packet) = decoder.decode(&mut bytes).unwrap() {
            if let Packet::Publish(publish) = packet {
                let payload = String::from_utf8(publish.publication.payload().to_vec()).unwrap();
                sent.push((publish.publication.topic().to_string(), payload));
            }
        }
        sent
    }

    fn texts<const N: usize>(expected: [(&str, &str); N]) -> Vec<(String, String)> {
        let owned = |(topic, payload): (&str, &str)| (topic.to_owned(), payload.to_owned());
        expected.map(owned).into()
    }

    #[tokio::test]
    async fn a_copy_of_a_retained_message_does_not_come_behind_the_value_that_replaced_it() {
        let (_files, shared) = node().await;
        let (mut connection, _client) = connect(&shared, "c", ProtocolVersion::V5, true).await;
        connection
            .retained
            .extend([copy("t/1", "old"), copy("t/2", "old"), copy("t/3", "old")]);
        let live = [value("t/1", "new", true), value("t/2", "event", false)];
        let batch = Batch::new(live.into_iter().collect(), None);

        connection.deliver_batch(&batch, &grant(QoS::AtMostOnce), 0);
        connection.newer.read_anew(&Retained {
            deliveries: vec![copy("t/3", "newest")],
            appends: Vec::new(),
        });
        connection.send_waiting(0);

        let expected = [("t/1", "new"), ("t/2", "event"), ("t/2", "old"), ("t/3", "old")];
        assert_eq!(sent(&mut connection), texts(expected));
    }

    #[tokio::test]
    async fn who_asks_again_for_a_retained_message_gets_it_again() {
        let (_files, shared) = node().await;
        let (mut connection, _client) = connect(&shared, "c", ProtocolVersion::V5, true).await;
        connection
            .retained
            .extend([copy("t/1", "old"), copy("t/2", "old")]);
        let batch = Batch::new([value("t/2", "new", true)].into_iter().collect(), None);
        connection.deliver_batch(&batch, &grant(QoS::AtMostOnce), 0);

        let read = Retained {
            deliveries: vec![copy("t/2", "new")],
            appends: Vec::new(),
        };
        connection.newer.read_anew(&read);
        connection.retained.extend(read.deliveries);
        connection.send_waiting(0);

        let sent = sent(&mut connection);
        assert_eq!(sent.last(), texts([("t/2", "new")]).last(), "{sent:?}");
        assert!(!connection.newer.has("t/2"));
    }

    #[tokio::test]
    async fn a_copy_in_the_queue_of_a_kept_session_does_not_come_behind_the_value_that_replaced_it() {
        let (_files, shared) = node().await;
        let (mut connection, _client) = connect(&shared, "c", ProtocolVersion::V5, false).await;
        let (client, epoch) = (
            connection.attachment.client.to_string(),
            connection.attachment.epoch,
        );
        let subscribe = Command::Subscribe(proto::Subscribe {
            client: client.clone(),
            epoch,
            subscriptions: vec![proto::Subscription {
                filter: "t/#".into(),
                qos: 1,
                retain_as_published: true,
                ..proto::Subscription::default()
            }],
        });
        let append = |topic: &str, payload: &str, is_copy: bool| {
            let stored = message("p", topic, payload, 1).publication.unwrap();
            let publication = proto::Publication {
                retain: !is_copy,
                ..stored
            };
            let (only_client, share_filter) = match is_copy {
                true => (client.clone(), "t/#".to_owned()),
                false => Default::default(),
            };
            Command::Append(proto::Append {
                publication: Some(publication),
                only_client,
                share_filter,
                retained: is_copy,
                ..proto::Append::default()
            })
        };
        for command in [
            subscribe,
            append("t/1", "new", false),
            append("t/1", "old", true),
            append("t/2", "old", true),
        ] {
            let command = ShardCommand {
                command: Some(command),
            };
            let stored = shared.cluster.request(connection.attachment.shard, command);
            stored.await.unwrap();
        }

        connection.newer.in_queue = true;
        connection.pull = true;
        connection.pull(0).unwrap();

        let expected = [("t/1", "new"), ("t/2", "old")];
        assert_eq!(sent(&mut connection), texts(expected));
        assert!(!connection.newer.in_queue, "all copies have come");
        assert_eq!(connection.session.in_flight(), 2);
        assert_eq!(
            connection.session.take_finished().len(),
            1,
            "the queue may drop it"
        );
    }
}
