//! Messages on their way to this connection's client: from the mailbox, from the replicated queue, and retained ones.

use cluster::Fetch;
use mqtt_codec::QoS;
use mqtt_session::{Delivery, Outcome, Sending};
use smallvec::SmallVec;

use crate::mailbox::{Batch, Close, Grant, LiveMessage};
use crate::message::{from_stored, qos_of};
use crate::pass::Denied;

use super::{Connection, End, OUT_MAX, Stream};

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
            self.deliver(delivery, now);
        }
    }

    pub(super) fn deliver(&mut self, delivery: Delivery, now: u64) {
        let Some(delivery) = self.seen(delivery) else {
            return;
        };
        let (qos, publication) = (delivery.qos, &delivery.publication);
        let (payload, size) = (publication.payload_len(), publication.size());
        let is_paced = self.paced_until().is_some();
        if qos == QoS::AtMostOnce && is_paced {
            return self.shared.metrics.dropped_rate_limited.increment(1);
        }
        let waits =
            qos > QoS::AtMostOnce && (is_paced || self.session.room() == 0 || self.session.queued().0 > 0);
        if waits && !self.queued.try_add(size) {
            // All sessions of the node together have too much waiting.
            return self.shared.metrics.dropped_queue_full.increment(1);
        }
        let outcome = match waits {
            true => self.session.deliver_later(delivery),
            false => self.session.deliver(delivery, now, &mut self.out),
        };
        self.note(outcome, qos, payload, size);
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
        while self.out.len() < OUT_MAX && self.session.queued().0 > 0 && self.paced_until().is_none() {
            let Some((outcome, qos, payload, size)) = self.session.send_next(now, &mut self.out) else {
                break;
            };
            self.note(outcome, qos, payload, size);
        }
        while self.out.len() < OUT_MAX && self.session.queued().0 == 0 && self.paced_until().is_none() {
            let Some(next) = self.retained.front() else { return };
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
        while self.pull
            && self.may_pull
            && self.out.len() < OUT_MAX
            && self.session.room() > 0
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
                Fetch::Ready { messages, .. } if messages.is_empty() => self.pull = false,
                Fetch::Ready {
                    messages,
                    next_sequence,
                } => {
                    self.fetch_from = next_sequence;
                    for queued in messages {
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
