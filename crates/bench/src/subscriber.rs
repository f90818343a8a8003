//! The receiving role of a connection: each message is acknowledged, judged and timed.

use std::sync::Arc;

use mqtt_codec::{Acknowledgement, Packet, PacketId, Publish, QoS, ReasonCode};

use crate::flow::Flow;
use crate::oracle::{Arrival, Tracker};
use crate::payload::Head;
use crate::stats::Stats;

/// The receiving role.
#[derive(Debug)]
pub(crate) struct Subscriber {
    first_source: u32,
    /// The judges of the publishers it listens to, in their order.
    pub(crate) trackers: Vec<Tracker>,
    flows: Vec<Arc<Flow>>,
    unreleased: PacketIdSet,
    latencies_ns: Vec<u64>,
    /// Messages from outside this run.
    pub(crate) unexpected: u64,
}

impl Subscriber {
    /// Listens to `count` publishers from `first_source` on; `flows` are theirs, or empty if they don't wait for receivers.
    pub(crate) fn new(first_source: u32, count: usize, flows: Vec<Arc<Flow>>) -> Self {
        Self {
            first_source,
            trackers: (0..count).map(|_| Tracker::default()).collect(),
            flows,
            unreleased: PacketIdSet::default(),
            latencies_ns: Vec::new(),
            unexpected: 0,
        }
    }

    /// Judges a message and says what to answer.
    pub(crate) fn receive(&mut self, publish: &Publish, now_ns: u64) -> anyhow::Result<Option<Packet>> {
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
        if self.unreleased.insert(packet_id) {
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

    /// The sender has ended its side of a QoS 2 delivery; the packet id is free again.
    pub(crate) fn release(&mut self, packet_id: PacketId) {
        self.unreleased.remove(packet_id);
    }

    /// Hands over what a batch brought.
    pub(crate) fn report(&mut self, stats: &Stats) {
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
    use bytestring::ByteString;
    use mqtt_codec::Publication;
    use mqtt_topic::TopicName;

    use super::*;
    use crate::publisher::packet_id;

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
        subscriber.unreleased.remove(packet_id(sequence));
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
}
