//! Messages on their way to this connection's client: from the mailbox, from the replicated queue, and retained ones.

use cluster::Fetch;
use mqtt_codec::QoS;
use mqtt_session::{Delivery, Outcome};
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
            let delivery = Delivery {
                publication: publication.clone(),
                qos,
                retain: *retain && grant.retain_as_published,
                subscription_ids: grant.subscription_ids.clone(),
                expires_at: *expires_at,
                share: None,
            };
            self.deliver(delivery, now);
        }
    }

    pub(super) fn deliver(&mut self, delivery: Delivery, now: u64) {
        let (qos, payload) = (delivery.qos, delivery.publication.payload_len());
        let waits = qos > QoS::AtMostOnce && self.session.room() == 0;
        if waits && !self.queued.try_add(delivery.publication.size()) {
            // All sessions of the node together have too much waiting.
            return self.note(Outcome::QueueFull(1), qos, 0);
        }
        let outcome = self.session.deliver(delivery, now, &mut self.out);
        self.note(outcome, qos, payload);
    }

    /// Counts what became of a delivery.
    fn note(&mut self, outcome: Outcome, qos: QoS, payload: usize) {
        let metrics = &self.shared.metrics;
        match outcome {
            Outcome::Sent => {
                self.tally.sent[qos as usize] += 1;
                self.tally.payload_sent += payload as u64;
            }
            Outcome::Queued => {}
            Outcome::TooLarge => metrics.dropped_too_large.increment(1),
            Outcome::Expired => metrics.dropped_expired.increment(1),
            Outcome::QueueFull(dropped) => metrics.dropped_queue_full.increment(dropped as u64),
        }
    }

    /// Sends what waits in memory, as far as the window and the socket allow.
    pub(super) fn send_waiting(&mut self, now: u64) {
        if self.session.queued().0 > 0 && self.session.room() > 0 {
            let before = self.session.in_flight();
            let mut lost: SmallVec<[Outcome; 4]> = SmallVec::new();
            let payload = self
                .session
                .send_queued(now, &mut self.out, |outcome| lost.push(outcome));
            self.tally.payload_sent += payload as u64;
            self.tally.sent[QoS::AtLeastOnce as usize] += (self.session.in_flight() - before) as u64;
            for outcome in lost {
                self.note(outcome, QoS::AtLeastOnce, 0);
            }
        }
        while self.out.len() < OUT_MAX && self.session.queued().0 == 0 {
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
        while self.pull && self.may_pull && self.out.len() < OUT_MAX && self.session.room() > 0 {
            let messages_max = self.session.room().min(FETCH_MESSAGES);
            let (client, epoch) = (&self.attachment.client, self.attachment.epoch);
            match self
                .shared
                .cluster
                .fetch(client, epoch, self.fetch_from, messages_max, FETCH_BYTES)
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
        // It may have been queued under older rules.
        let topic = message.publication.topic();
        if !self.pass.may_receive(topic) {
            self.pass.denied(&self.shared, Denied::Deliver, topic.as_str());
            self.session.skip_durable(queued.sequence);
            return;
        }
        let qos = qos_of(u32::from(queued.qos));
        let payload = message.publication.payload_len();
        let delivery = Delivery {
            publication: message.publication,
            qos,
            retain: queued.retain,
            subscription_ids: SmallVec::from_vec(queued.subscription_ids),
            expires_at: message.expires_at,
            share: None,
        };
        let outcome = self
            .session
            .send_durable(queued.sequence, &delivery, now, &mut self.out);
        self.note(outcome, qos, payload);
    }
}
