//! The publishing role of a connection: what may leave now, by the window, by the clock and by a limit.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use bytestring::ByteString;
use mqtt_codec::{PacketId, Publication, QoS};
use mqtt_topic::TopicName;
use tokio::time::Sleep;

use crate::client::Client;
use crate::flow::Flow;
use crate::payload::{HEAD_LENGTH, Head};
use crate::stats::Stats;

/// Above this many unwritten bytes nothing further is published: the socket is the limit then.
const UNWRITTEN_MAX: usize = 256 * 1024;

/// Topic of each message.
#[derive(Clone, Debug)]
pub(crate) enum Topics {
    /// The same for all.
    Fixed(TopicName),
    /// This prefix and the sequence number.
    Numbered(String),
}

/// The publishing role.
#[derive(Debug)]
pub(crate) struct Publisher {
    /// Index within the run.
    pub(crate) source: u32,
    /// Its messages under way.
    pub(crate) flow: Arc<Flow>,
    /// Of the flow's window, as much as is used.
    pub(crate) window: u64,
    pub(crate) topics: Topics,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) payload_length: usize,
    /// Publishes this many and no more.
    pub(crate) limit: Option<u64>,
    /// Publishes by the clock.
    pub(crate) pace: Option<Pace>,
    /// Waits this long for a message under way.
    pub(crate) loss_timeout: Duration,
    pub(crate) starvation: Starvation,
    /// Times it stopped waiting for messages under way.
    pub(crate) given_up: u64,
    /// Payloads are cut from here.
    pub(crate) arena: BytesMut,
}

impl Publisher {
    /// Messages the broker lets it have unacknowledged.
    pub(crate) fn unacknowledged_max(&self, receive_maximum: u16) -> u64 {
        if self.qos == QoS::AtMostOnce {
            u64::MAX
        } else {
            u64::from(receive_maximum)
        }
    }

    /// Publishes what there is room for; whether that was anything.
    pub(crate) fn publish(&mut self, client: &mut Client, stats: &Stats, context: &mut Context<'_>) -> bool {
        let now_ns = stats.now_ns();
        let before = self.flow.published();
        while client.unwritten() < UNWRITTEN_MAX
            && self.is_due(stats, now_ns, context)
            && self.has_room(context)
        {
            self.publish_next(client, now_ns);
        }
        let published = self.flow.published() - before;
        if published > 0 {
            stats.add_published(published);
        }
        published > 0
    }

    fn publish_next(&mut self, client: &mut Client, now_ns: u64) {
        let sequence = self.flow.begin();
        let head = Head {
            source: self.source,
            sequence,
            sent_ns: now_ns,
        };
        let packet_id = (self.qos != QoS::AtMostOnce).then(|| packet_id(sequence));
        self.arena.put_slice(&head.to_bytes());
        self.arena.put_bytes(b'.', self.payload_length - HEAD_LENGTH);
        let publication = Publication::new(self.topic(sequence), self.arena.split().freeze());
        client.queue_publish(&publication, self.qos, self.retain, packet_id);
    }

    fn topic(&self, sequence: u64) -> TopicName {
        match &self.topics {
            Topics::Fixed(topic) => topic.clone(),
            Topics::Numbered(prefix) => TopicName::parse(ByteString::from(format!("{prefix}{sequence}")))
                .expect("digits after a valid topic make a valid topic"),
        }
    }

    fn is_due(&mut self, stats: &Stats, now_ns: u64, context: &mut Context<'_>) -> bool {
        let sequence = self.flow.published();
        if self.limit.is_some_and(|limit| sequence >= limit) {
            return false;
        }
        self.pace
            .as_mut()
            .is_none_or(|pace| pace.is_due(sequence, stats, now_ns, context))
    }

    fn has_room(&mut self, context: &mut Context<'_>) -> bool {
        if self.flow.poll_room(self.window, context) {
            self.starvation.end();
            return true;
        }
        if self.starvation.lasts_for(self.loss_timeout, context) {
            self.given_up += 1;
            self.flow.give_up();
            return true;
        }
        false
    }

    /// The broker is done with this message.
    pub(crate) fn acknowledged(&self, packet_id: PacketId) {
        let next = self.flow.published();
        // The youngest message begun that has this packet id.
        let back = (next + 65_534 - (u64::from(packet_id.get()) - 1)) % 65_535;
        if let Some(sequence) = next.checked_sub(1 + back) {
            self.flow.finish_part(sequence);
        }
    }
}

/// Packet ids follow from the sequence number; the window is smaller than their range.
pub(crate) fn packet_id(sequence: u64) -> PacketId {
    let id = u16::try_from(1 + sequence % 65_535).expect("at most 65535");
    PacketId::new(id).expect("at least 1")
}

/// Publishing by the clock.
#[derive(Debug)]
pub(crate) struct Pace {
    start_ns: u64,
    interval_ns: f64,
    sleep: Pin<Box<Sleep>>,
}

impl Pace {
    /// The first message at `start_ns` of the run's clock, then one per interval.
    pub(crate) fn new(start_ns: u64, interval: Duration) -> Self {
        Self {
            start_ns,
            interval_ns: interval.as_nanos() as f64,
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    fn is_due(&mut self, sequence: u64, stats: &Stats, now_ns: u64, context: &mut Context<'_>) -> bool {
        let due_ns = self.start_ns + (sequence as f64 * self.interval_ns) as u64;
        if due_ns <= now_ns {
            stats.note_behind_schedule(now_ns - due_ns);
            return true;
        }
        self.sleep
            .as_mut()
            .reset((Instant::now() + Duration::from_nanos(due_ns - now_ns)).into());
        // Ready at once can only mean that the time came between the two readings of the clock.
        self.sleep.as_mut().poll(context).is_ready()
    }
}

/// How long a publisher has been without room.
#[derive(Debug, Default)]
pub(crate) struct Starvation {
    since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Starvation {
    fn end(&mut self) {
        self.since = None;
    }

    /// True once when it has lasted that long; otherwise wakes this task when it will have.
    fn lasts_for(&mut self, limit: Duration, context: &mut Context<'_>) -> bool {
        let deadline = *self.since.get_or_insert_with(Instant::now) + limit;
        if Instant::now() >= deadline {
            self.since = None;
            return true;
        }
        // One alarm per limit, not per wait: when it is early for the present wait it is set again.
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        while alarm.as_mut().poll(context).is_ready() {
            alarm
                .as_mut()
                .reset(deadline.max(Instant::now() + Duration::from_millis(10)).into());
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_finds_its_message_also_after_packet_ids_went_round() {
        let flow = Arc::new(Flow::new(4, 1));
        let publisher = Publisher {
            source: 0,
            flow: flow.clone(),
            window: 4,
            topics: Topics::Numbered("t/".into()),
            qos: QoS::AtLeastOnce,
            retain: false,
            payload_length: HEAD_LENGTH,
            limit: None,
            pace: None,
            loss_timeout: Duration::from_secs(1),
            starvation: Starvation::default(),
            given_up: 0,
            arena: BytesMut::new(),
        };
        for round in 0..50_000 {
            let ids: Vec<_> = (0..4).map(|_| packet_id(flow.begin())).collect();
            for id in ids {
                publisher.acknowledged(id);
            }
            assert!(flow.is_idle(), "round {round}");
        }
    }
}
