//! The life of a loaded connection: one task that writes a batch, reads a batch, answers it, and publishes what there is room for.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::{BufMut, BytesMut};
use bytestring::ByteString;
use mqtt_codec::{Acknowledgement, Packet, PacketId, Publication, Publish, QoS, ReasonCode};
use mqtt_topic::TopicName;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, Sleep};

use crate::client::Client;
use crate::flow::Flow;
use crate::oracle::{Arrival, Tracker};
use crate::payload::{HEAD_LENGTH, Head};
use crate::stats::Stats;

/// Above this many unwritten bytes nothing further is published: the socket is the limit then.
const UNWRITTEN_MAX: usize = 256 * 1024;

/// What the connections are told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Publish and receive.
    Load,
    /// Receive only, until all has come.
    Drain,
    /// Disconnect.
    Stop,
}

/// One connection with its roles.
#[derive(Debug)]
pub(crate) struct Driver {
    client: Client,
    stats: Arc<Stats>,
    publisher: Option<Publisher>,
    subscriber: Option<Subscriber>,
    ping: Option<Interval>,
}

/// What a connection has seen when it ends.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Why it ended before it was told to.
    pub(crate) error: Option<anyhow::Error>,
    /// The judges of the publishers it listened to, in their order.
    pub(crate) trackers: Vec<Tracker>,
    /// Messages from outside this run.
    pub(crate) unexpected: u64,
    /// Times the publisher stopped waiting for messages under way.
    pub(crate) given_up: u64,
}

impl Driver {
    /// Takes over a connection whose handshakes are done.
    pub(crate) fn new(
        client: Client,
        stats: Arc<Stats>,
        publisher: Option<Publisher>,
        subscriber: Option<Subscriber>,
    ) -> Self {
        let ping = (client.keep_alive() > 0).then(|| {
            let mut interval = tokio::time::interval(Duration::from_secs(u64::from(client.keep_alive())) / 2);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval.reset();
            interval
        });
        Self {
            client,
            stats,
            publisher,
            subscriber,
            ping,
        }
    }

    /// Runs until told to stop or until the connection fails.
    pub(crate) async fn run(mut self, mut stages: watch::Receiver<Stage>) -> Outcome {
        if let Some(publisher) = &mut self.publisher {
            publisher.window = publisher
                .window
                .min(publisher.unacknowledged_max(self.client.receive_maximum()));
        }
        let error = loop {
            let stage = *stages.borrow_and_update();
            if stage == Stage::Stop {
                break None;
            }
            if let Err(error) = self.run_stage(stage, &mut stages).await {
                break Some(error);
            }
        };
        let Self {
            client,
            publisher,
            subscriber,
            ..
        } = self;
        if error.is_none() {
            // The measurement is over; a broker that is gone by now is reported by whoever started it.
            let _ = tokio::time::timeout(Duration::from_secs(2), client.disconnect()).await;
        }
        let given_up = publisher.map_or(0, |publisher| publisher.given_up);
        let (trackers, unexpected) = subscriber
            .map(|subscriber| (subscriber.trackers, subscriber.unexpected))
            .unwrap_or_default();
        Outcome {
            error,
            trackers,
            unexpected,
            given_up,
        }
    }

    async fn run_stage(&mut self, stage: Stage, stages: &mut watch::Receiver<Stage>) -> anyhow::Result<()> {
        let mut changed = pin!(stages.changed());
        poll_fn(|context| {
            // The sender going away means the run was abandoned.
            if let Poll::Ready(result) = changed.as_mut().poll(context) {
                return Poll::Ready(result.context("the run was abandoned"));
            }
            self.poll_work(stage, context)
        })
        .await
    }

    /// Goes on until nothing is left to do, and then waits for whichever comes first.
    fn poll_work(&mut self, stage: Stage, context: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        loop {
            if let Poll::Ready(Err(error)) = self.client.poll_flush(context) {
                return Poll::Ready(Err(error.into()));
            }
            let mut has_worked = match self.client.poll_fill(context) {
                Poll::Ready(Ok(())) => match self.receive_batch() {
                    Ok(()) => true,
                    Err(error) => return Poll::Ready(Err(error)),
                },
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => false,
            };
            if let (Some(publisher), Stage::Load) = (&mut self.publisher, stage) {
                has_worked |= publisher.publish(&mut self.client, &self.stats, context);
            }
            if let Err(error) = self.ping(context) {
                return Poll::Ready(Err(error));
            }
            if !has_worked && self.client.unwritten() == 0 {
                return Poll::Pending;
            }
            if !has_worked {
                // Bytes are left: either they leave now, or the socket is full and its readiness wakes this task.
                match self.client.poll_flush(context) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Pending => return Poll::Pending,
                }
            }
        }
    }

    fn receive_batch(&mut self) -> anyhow::Result<()> {
        let now_ns = self.stats.now_ns();
        while let Some(packet) = self.client.next_packet()? {
            self.receive(packet, now_ns)?;
        }
        if let Some(subscriber) = &mut self.subscriber {
            subscriber.report(&self.stats);
        }
        Ok(())
    }

    fn receive(&mut self, packet: Packet, now_ns: u64) -> anyhow::Result<()> {
        match packet {
            Packet::Publish(publish) => {
                let Some(subscriber) = &mut self.subscriber else {
                    bail!("a publisher received {publish:?}")
                };
                if let Some(answer) = subscriber.receive(&publish, now_ns)? {
                    self.client.queue(&answer)?;
                }
            }
            Packet::PubRel(release) => {
                if let Some(subscriber) = &mut self.subscriber {
                    subscriber.released.remove(release.packet_id);
                }
                self.client.queue(&Packet::PubComp(Acknowledgement::new(
                    release.packet_id,
                    ReasonCode::Success,
                )))?;
            }
            Packet::PubRec(ack) if (ack.reason_code as u8) < 0x80 => {
                self.client.queue(&Packet::PubRel(Acknowledgement::new(
                    ack.packet_id,
                    ReasonCode::Success,
                )))?;
            }
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => {
                if let Some(publisher) = &self.publisher {
                    publisher.acknowledged(ack.packet_id);
                }
            }
            Packet::Disconnect(disconnect) => bail!("the broker disconnected: {:?}", disconnect.reason_code),
            _ => {}
        }
        Ok(())
    }

    fn ping(&mut self, context: &mut Context<'_>) -> anyhow::Result<()> {
        while let Some(interval) = &mut self.ping
            && interval.poll_tick(context).is_ready()
        {
            self.client.queue(&Packet::PingReq)?;
        }
        Ok(())
    }
}

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
    pub(crate) given_up: u64,
    /// Payloads are cut from here.
    pub(crate) arena: BytesMut,
}

impl Publisher {
    fn unacknowledged_max(&self, receive_maximum: u16) -> u64 {
        if self.qos == QoS::AtMostOnce {
            u64::MAX
        } else {
            u64::from(receive_maximum)
        }
    }

    /// Publishes what there is room for; whether that was anything.
    fn publish(&mut self, client: &mut Client, stats: &Stats, context: &mut Context<'_>) -> bool {
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

    fn acknowledged(&self, packet_id: PacketId) {
        let next = self.flow.published();
        // The youngest message begun that has this packet id.
        let back = (next + 65_534 - (u64::from(packet_id.get()) - 1)) % 65_535;
        if let Some(sequence) = next.checked_sub(1 + back) {
            self.flow.finish_part(sequence);
        }
    }
}

/// Packet ids follow from the sequence number; the window is smaller than their range.
fn packet_id(sequence: u64) -> PacketId {
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

/// The receiving role.
#[derive(Debug)]
pub(crate) struct Subscriber {
    first_source: u32,
    trackers: Vec<Tracker>,
    flows: Vec<Arc<Flow>>,
    released: PacketIdSet,
    latencies_ns: Vec<u64>,
    unexpected: u64,
}

impl Subscriber {
    /// Listens to `count` publishers from `first_source` on; `flows` are theirs, or empty if they don't wait for receivers.
    pub(crate) fn new(first_source: u32, count: usize, flows: Vec<Arc<Flow>>) -> Self {
        Self {
            first_source,
            trackers: (0..count).map(|_| Tracker::default()).collect(),
            flows,
            released: PacketIdSet::default(),
            latencies_ns: Vec::new(),
            unexpected: 0,
        }
    }

    /// Judges a message and says what to answer.
    fn receive(&mut self, publish: &Publish, now_ns: u64) -> anyhow::Result<Option<Packet>> {
        let Some(packet_id) = publish.packet_id else {
            self.judge(publish.publication.payload_slice(), now_ns);
            return Ok(None);
        };
        let ack = Acknowledgement::new(packet_id, ReasonCode::Success);
        if publish.qos == QoS::AtLeastOnce {
            self.judge(publish.publication.payload_slice(), now_ns);
            return Ok(Some(Packet::PubAck(ack)));
        }
        // A repetition before PUBREL is part of the same delivery. [MQTT-4.3.3-10]
        if self.released.insert(packet_id) {
            self.judge(publish.publication.payload_slice(), now_ns);
        }
        Ok(Some(Packet::PubRec(ack)))
    }

    fn judge(&mut self, payload: &[u8], now_ns: u64) {
        let head = Head::read(payload);
        let place = head
            .and_then(|head| head.source.checked_sub(self.first_source))
            .map(|place| place as usize);
        let (Some(head), Some(place)) = (head, place) else {
            self.unexpected += 1;
            return;
        };
        let Some(tracker) = self.trackers.get_mut(place) else {
            self.unexpected += 1;
            return;
        };
        if tracker.arrived(head.sequence) == Arrival::New {
            self.latencies_ns.push(now_ns.saturating_sub(head.sent_ns));
            if let Some(flow) = self.flows.get(place) {
                flow.finish_part(head.sequence);
            }
        }
    }

    fn report(&mut self, stats: &Stats) {
        if !self.latencies_ns.is_empty() {
            stats.add_delivered(&self.latencies_ns);
            self.latencies_ns.clear();
        }
    }
}

/// Packet ids between PUBLISH and PUBREL.
#[derive(Debug, Default)]
struct PacketIdSet {
    words: Vec<u64>,
}

impl PacketIdSet {
    /// False if it was there already.
    fn insert(&mut self, id: PacketId) -> bool {
        if self.words.is_empty() {
            self.words = vec![0; 1024];
        }
        let (word, bit) = (usize::from(id.get() / 64), 1_u64 << (id.get() % 64));
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_new
    }

    fn remove(&mut self, id: PacketId) {
        if let Some(word) = self.words.get_mut(usize::from(id.get() / 64)) {
            *word &= !(1_u64 << (id.get() % 64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscriber(flow: &Arc<Flow>) -> Subscriber {
        Subscriber::new(7, 1, vec![flow.clone()])
    }

    fn publish(source: u32, sequence: u64, qos: QoS) -> Publish {
        let topic = TopicName::parse(ByteString::from("t")).unwrap();
        let payload = Head {
            source,
            sequence,
            sent_ns: 5,
        }
        .to_bytes()
        .to_vec();
        Publish {
            dup: false,
            qos,
            retain: false,
            packet_id: (qos != QoS::AtMostOnce).then(|| packet_id(sequence)),
            topic_alias: None,
            subscription_ids: Default::default(),
            publication: Publication::new(topic, payload.into()),
        }
    }

    #[test]
    fn a_first_arrival_is_timed_and_makes_room_and_a_repetition_does_not() {
        let flow = Arc::new(Flow::new(2, 1));
        let (first, second) = (flow.begin(), flow.begin());
        let mut subscriber = subscriber(&flow);
        subscriber
            .receive(&publish(7, first, QoS::AtMostOnce), 25)
            .unwrap();
        subscriber
            .receive(&publish(7, first, QoS::AtMostOnce), 30)
            .unwrap();
        assert_eq!(subscriber.latencies_ns, [20]);
        assert!(!flow.is_idle());
        subscriber
            .receive(&publish(7, second, QoS::AtMostOnce), 30)
            .unwrap();
        assert!(flow.is_idle());
        assert_eq!(subscriber.trackers[0].duplicates(), 1);
    }

    #[test]
    fn a_repeated_qos_2_publish_before_pubrel_is_one_delivery() {
        let flow = Arc::new(Flow::new(2, 1));
        let sequence = flow.begin();
        let mut subscriber = subscriber(&flow);
        for _ in 0..2 {
            let answer = subscriber
                .receive(&publish(7, sequence, QoS::ExactlyOnce), 25)
                .unwrap();
            assert!(matches!(answer, Some(Packet::PubRec(_))));
        }
        assert_eq!(subscriber.trackers[0].duplicates(), 0);
        subscriber.released.remove(packet_id(sequence));
        subscriber
            .receive(&publish(7, sequence, QoS::ExactlyOnce), 25)
            .unwrap();
        assert_eq!(subscriber.trackers[0].duplicates(), 1);
    }

    #[test]
    fn a_message_of_another_run_is_unexpected() {
        let flow = Arc::new(Flow::new(1, 1));
        let mut subscriber = subscriber(&flow);
        subscriber.receive(&publish(6, 0, QoS::AtMostOnce), 25).unwrap();
        subscriber.receive(&publish(8, 0, QoS::AtMostOnce), 25).unwrap();
        assert_eq!(subscriber.unexpected, 2);
        assert!(subscriber.latencies_ns.is_empty());
    }

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
