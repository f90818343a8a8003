//! Messages sent to a client: the window, the packet ids and the QoS 1 and 2 handshakes.
//!
//! Every delivery has a dense sequence number and its packet id follows from it, so a session that moves
//! to another node sends a message again under the id it had. [MQTT-4.4.0-1]

use std::collections::{BTreeMap, VecDeque};

use mqtt_codec::{PacketId, Publication, QoS};
use smallvec::SmallVec;

/// Packet ids repeat after this many deliveries.
const PACKET_IDS: u64 = 65_535;

/// The packet id of a delivery.
pub fn packet_id_of(sequence: u64) -> PacketId {
    let value = 1 + (sequence % PACKET_IDS) as u16;
    PacketId::new(value).expect("one was added to it")
}

/// A message on its way to this client.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message, shared by all its receivers.
    pub publication: Publication,
    /// The lower of the message's QoS and the subscription's.
    pub qos: QoS,
    /// As the client is to see it: kept only with Retain As Published, or for a retained message.
    pub retain: bool,
    /// Of every subscription that matched.
    pub subscription_ids: SmallVec<[u32; 2]>,
    /// Milliseconds since the Unix epoch after which it is not sent.
    pub expires_at: Option<u64>,
    /// The share filter by which this client was chosen: another member gets it if this one leaves.
    pub share: Option<std::sync::Arc<str>>,
}

/// What a client is sent, for as long as that takes.
#[derive(Clone, Copy, Debug)]
pub struct Sending<'a> {
    /// The message, shared by all its receivers.
    pub publication: &'a Publication,
    /// As of a [`Delivery`].
    pub qos: QoS,
    /// As of a [`Delivery`].
    pub retain: bool,
    /// As of a [`Delivery`].
    pub subscription_ids: &'a [u32],
    /// As of a [`Delivery`].
    pub expires_at: Option<u64>,
}

impl Delivery {
    pub(crate) fn sending(&self) -> Sending<'_> {
        Sending {
            publication: &self.publication,
            qos: self.qos,
            retain: self.retain,
            subscription_ids: &self.subscription_ids,
            expires_at: self.expires_at,
        }
    }
}

/// What became of a delivery that was handed to the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was encoded for the socket.
    Sent,
    /// The window is full: it waits in memory.
    Queued,
    /// It is above the client's Maximum Packet Size. [MQTT-3.1.2-25]
    TooLarge,
    /// Its Message Expiry Interval has passed. [MQTT-3.3.2-5]
    Expired,
    /// The queue of this session was full: so many messages were dropped, this one or as many of the oldest as it took.
    QueueFull(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// PUBLISH with QoS 1 sent.
    AwaitsPubAck,
    /// PUBLISH with QoS 2 sent.
    AwaitsPubRec,
    /// PUBREC came, and is being made durable before the PUBREL may go.
    StoringPubRec,
    /// PUBREL sent.
    AwaitsPubComp,
    /// The client has it, or it will not be sent.
    Done,
}

/// The window of deliveries the client has not finished with.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// The client's Receive Maximum, or the server's bound on what it has in flight. [MQTT-3.3.4-9]
    window: usize,
    /// The sequence of `stages[0]`.
    base: u64,
    stages: VecDeque<Stage>,
    in_flight: usize,
    /// Deliveries whose PUBREC is being stored, in the order in which it came, and whether it is.
    storing: VecDeque<(u64, bool)>,
    /// A durable session reports what is finished, so that the replicated queue can drop it.
    durable: bool,
    finished: Vec<(u64, u64)>,
    /// Shared messages of a session in memory, kept to be given to another member.
    shared: BTreeMap<u64, Delivery>,
    queue: VecDeque<Delivery>,
    queue_bytes: usize,
}

impl Outbound {
    pub(crate) fn new(window: usize, first_sequence: u64, durable: bool) -> Self {
        Self {
            window,
            base: first_sequence,
            stages: VecDeque::new(),
            in_flight: 0,
            storing: VecDeque::new(),
            durable,
            finished: Vec::new(),
            shared: BTreeMap::new(),
            queue: VecDeque::new(),
            queue_bytes: 0,
        }
    }

    /// How many more deliveries with QoS above 0 may be sent now.
    pub(crate) fn room(&self) -> usize {
        // The numbers must not lap themselves: two deliveries would share a packet id.
        let before_lapping = (PACKET_IDS as usize - 1).saturating_sub(self.stages.len());
        self.window.saturating_sub(self.in_flight).min(before_lapping)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.base + self.stages.len() as u64
    }

    /// Whether a delivery may be sent, or has a packet id that one under way may have: messages between may have been dropped.
    pub(crate) fn reaches(&self, sequence: u64) -> bool {
        self.stages.is_empty() || sequence.saturating_sub(self.base) < PACKET_IDS - 1
    }

    /// Takes the place of a sequence number in the window, which it `reaches`. Numbers that were skipped are finished already.
    pub(crate) fn begin(&mut self, sequence: u64, stage: Stage) {
        if self.stages.is_empty() {
            self.base = self.base.max(sequence);
        }
        while self.next_sequence() < sequence {
            self.stages.push_back(Stage::Done);
        }
        if sequence < self.next_sequence() {
            return;
        }
        self.stages.push_back(stage);
        if stage == Stage::Done {
            self.finish(sequence);
        } else {
            self.in_flight += 1;
        }
        self.advance();
    }

    pub(crate) fn remember_shared(&mut self, sequence: u64, delivery: Delivery) {
        self.shared.insert(sequence, delivery);
    }

    /// The delivery under way with this packet id.
    pub(crate) fn find(&self, packet_id: PacketId) -> Option<(u64, Stage)> {
        let base_id = self.base % PACKET_IDS;
        let offset = (u64::from(packet_id.get()) - 1 + PACKET_IDS - base_id) % PACKET_IDS;
        let stage = *self.stages.get(offset as usize)?;
        (stage != Stage::Done).then_some((self.base + offset, stage))
    }

    /// Moves a delivery on. `Stage::Done` frees its place in the window.
    pub(crate) fn advance_to(&mut self, sequence: u64, stage: Stage) {
        let Some(slot) = sequence
            .checked_sub(self.base)
            .and_then(|o| self.stages.get_mut(o as usize))
        else {
            return;
        };
        if *slot == Stage::Done {
            return;
        }
        *slot = stage;
        if stage == Stage::Done {
            self.in_flight -= 1;
            self.shared.remove(&sequence);
            self.finish(sequence);
            self.advance();
        }
    }

    /// The PUBREC of a delivery came: it is to be stored.
    pub(crate) fn store_pubrec(&mut self, sequence: u64) {
        self.advance_to(sequence, Stage::StoringPubRec);
        self.storing.push_back((sequence, false));
    }

    /// The PUBREC of a delivery is stored. Some are known to be stored before earlier ones are.
    pub(crate) fn pubrec_stored(&mut self, sequence: u64) {
        let mut storing = self.storing.iter_mut();
        if let Some((_, stored)) = storing.find(|(storing, _)| *storing == sequence) {
            *stored = true;
        }
    }

    /// The next delivery whose PUBREL may go: in the order of the PUBRECs, as clients have it by that.
    pub(crate) fn next_pubrel(&mut self) -> Option<u64> {
        let (sequence, _) = self.storing.pop_front_if(|(_, stored)| *stored)?;
        self.advance_to(sequence, Stage::AwaitsPubComp);
        Some(sequence)
    }

    fn finish(&mut self, sequence: u64) {
        if !self.durable {
            return;
        }
        match self.finished.last_mut() {
            Some((_, last)) if *last + 1 == sequence => *last = sequence,
            _ => self.finished.push((sequence, sequence)),
        }
    }

    fn advance(&mut self) {
        while self.stages.front() == Some(&Stage::Done) {
            self.stages.pop_front();
            self.base += 1;
        }
    }

    pub(crate) fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    pub(crate) fn finished_count(&self) -> u64 {
        self.finished.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(crate) fn take_finished(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.finished)
    }

    /// Puts a message into the queue of a session that lives in memory.
    pub(crate) fn enqueue(&mut self, delivery: Delivery) {
        self.queue_bytes += delivery.publication.size();
        self.queue.push_back(delivery);
    }

    pub(crate) fn dequeue(&mut self) -> Option<Delivery> {
        let delivery = self.queue.pop_front()?;
        self.queue_bytes -= delivery.publication.size();
        Some(delivery)
    }

    pub(crate) fn queued(&self) -> (usize, usize) {
        (self.queue.len(), self.queue_bytes)
    }

    /// Shared messages this client has not acknowledged, oldest first: those sent and those queued.
    pub(crate) fn take_shared(&mut self) -> Vec<Delivery> {
        let sent = std::mem::take(&mut self.shared).into_values();
        let queued = self.queue.drain(..).filter(|delivery| delivery.share.is_some());
        let all = sent.chain(queued).collect();
        self.queue_bytes = 0;
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_ids_follow_from_the_sequence_and_are_never_zero() {
        assert_eq!(packet_id_of(0).get(), 1);
        assert_eq!(packet_id_of(65_534).get(), 65_535);
        assert_eq!(packet_id_of(65_535).get(), 1);
    }

    #[test]
    fn a_delivery_is_found_by_its_packet_id_across_the_wrap() {
        let mut outbound = Outbound::new(100, 65_530, true);
        for sequence in 65_530..65_540 {
            outbound.begin(sequence, Stage::AwaitsPubAck);
        }
        for sequence in 65_530..65_540 {
            assert_eq!(
                outbound.find(packet_id_of(sequence)),
                Some((sequence, Stage::AwaitsPubAck))
            );
        }
        assert_eq!(outbound.find(packet_id_of(65_540)), None);
    }

    #[test]
    fn one_stuck_acknowledgement_stops_sending_before_the_ids_lap() {
        let mut outbound = Outbound::new(usize::MAX, 0, true);
        outbound.begin(0, Stage::AwaitsPubAck);
        let mut sequence = 1;
        while outbound.room() > 0 {
            outbound.begin(sequence, Stage::AwaitsPubAck);
            outbound.advance_to(sequence, Stage::Done);
            sequence += 1;
            assert!(sequence < 70_000, "the window never closed");
        }
        assert_ne!(packet_id_of(sequence), packet_id_of(0));
        outbound.advance_to(0, Stage::Done);
        assert!(outbound.room() > 0);
    }

    #[test]
    fn a_gap_of_dropped_messages_does_not_lap_what_is_under_way() {
        let mut outbound = Outbound::new(10, 0, true);
        outbound.begin(0, Stage::AwaitsPubAck);
        assert!(!outbound.reaches(70_000));
        assert!(outbound.reaches(65_533));
        outbound.begin(65_533, Stage::AwaitsPubAck);
        assert!(!outbound.reaches(65_534));
        for sequence in [0, 65_533] {
            let found = outbound.find(packet_id_of(sequence));
            assert_eq!(found, Some((sequence, Stage::AwaitsPubAck)));
        }
        outbound.advance_to(65_533, Stage::Done);
        outbound.advance_to(0, Stage::Done);

        assert!(outbound.reaches(200_000), "nothing is under way");
        outbound.begin(200_000, Stage::AwaitsPubAck);
        assert_eq!(outbound.stages.len(), 1);
        assert_eq!(outbound.next_sequence(), 200_001);
        outbound.advance_to(outbound.find(packet_id_of(200_000)).unwrap().0, Stage::Done);
        assert_eq!(outbound.room(), 10);
        assert_eq!(
            outbound.take_finished(),
            [(65_533, 65_533), (0, 0), (200_000, 200_000)]
        );
    }

    #[test]
    fn finished_deliveries_are_reported_as_ranges_and_once() {
        let mut outbound = Outbound::new(10, 5, true);
        for sequence in 5..9 {
            outbound.begin(sequence, Stage::AwaitsPubAck);
        }
        for sequence in [5, 6, 8] {
            outbound.advance_to(sequence, Stage::Done);
            outbound.advance_to(sequence, Stage::Done);
        }
        assert_eq!(outbound.take_finished(), [(5, 6), (8, 8)]);
        assert_eq!(outbound.room(), 9);
    }
}
