//! What other tasks leave for a connection. One lock, one waker: a receiver is woken once for a batch.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;

use bytestring::ByteString;
use mqtt_codec::{PacketId, Publication, QoS, ReasonCode};
use mqtt_session::Delivery;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::queue_memory::{HeldMemory, QueueMemory};

/// A message on its way through this node.
#[derive(Clone, Debug)]
pub(crate) struct LiveMessage {
    pub(crate) publication: Publication,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Milliseconds since the Unix epoch.
    pub(crate) expires_at: Option<u64>,
}

/// Messages of one publisher, one after the other, that go to the same receivers. Shared by all of them.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) messages: SmallVec<[LiveMessage; 1]>,
    pub(crate) bytes: usize,
    /// The highest and the lowest among the messages.
    pub(crate) qos: QoS,
    pub(crate) qos_min: QoS,
    /// When they came, if how long they take is measured.
    pub(crate) measured_from: Option<Instant>,
}

impl Batch {
    pub(crate) fn new(messages: SmallVec<[LiveMessage; 1]>, measured_from: Option<Instant>) -> Self {
        let bytes = messages
            .iter()
            .map(|message| message.publication.size() + 64)
            .sum();
        let qos = messages
            .iter()
            .map(|message| message.qos)
            .max()
            .unwrap_or(QoS::AtMostOnce);
        let qos_min = messages
            .iter()
            .map(|message| message.qos)
            .min()
            .unwrap_or(QoS::AtMostOnce);
        Self {
            messages,
            bytes,
            qos,
            qos_min,
            measured_from,
        }
    }

    /// The same messages in buffers of their own, for a receiver that will not take them soon.
    fn compact(&self) -> Self {
        let compact = |message: &LiveMessage| LiveMessage {
            publication: message.publication.compact(),
            ..message.clone()
        };
        Self {
            messages: self.messages.iter().map(compact).collect(),
            ..*self
        }
    }
}

/// What a client's matching subscriptions together allow and ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Grant {
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) subscription_ids: SmallVec<[u32; 2]>,
}

/// Why the server ends a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Close {
    /// Another connection has the client id: see `take_over`.
    TakenOver,
    /// An operator or a limit ended the session.
    Administrative,
    /// The node stops.
    ShuttingDown,
    /// The client is to go to another node, if there is one.
    Moving,
    /// The node may be cut off from the cluster, and must not keep up promises that others may have broken.
    Fenced,
}

#[derive(Debug)]
pub(crate) enum Event {
    Deliver {
        batch: Arc<Batch>,
        grant: Arc<Grant>,
    },
    /// By a shared subscription that chose this client.
    DeliverOne(Box<Delivery>),
    /// One destination, a shard or another node, has publishes or failed to take them.
    Committed {
        packet_ids: SmallVec<[PacketId; 4]>,
        reason_code: ReasonCode,
        /// Those among them for which every queue of the shard is full.
        without_room: SmallVec<[PacketId; 4]>,
        /// When the publishes were read.
        began: Instant,
    },
    /// Retained messages are stored: what was held back may be routed.
    Retained {
        count: usize,
        reason_code: ReasonCode,
    },
    /// PUBRECs are durable.
    ReceivedStored(SmallVec<[u64; 4]>),
    /// A PUBREL is durable.
    Released(PacketId),
    /// The replicated state could not be changed: the connection cannot keep its promises.
    Failed,
}

impl Event {
    /// What it takes of the mailbox's bounds.
    fn bytes(&self) -> usize {
        match self {
            Event::Deliver { batch, .. } => batch.bytes,
            Event::DeliverOne(delivery) => size_of_one(delivery),
            _ => 0,
        }
    }
}

fn size_of_one(delivery: &Delivery) -> usize {
    delivery.publication.size() + 64
}

/// What a look into the mailbox finds apart from events.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Flags {
    pub(crate) queue_grew: bool,
    /// Users or rules have changed.
    pub(crate) recheck: bool,
    pub(crate) close: Option<Close>,
}

#[derive(Debug)]
struct Inner {
    events: Vec<Event>,
    live_bytes: usize,
    /// What a slow receiver has waiting here.
    held: HeldMemory,
    /// The receiver cannot take what there is: its socket has no room.
    is_stuck: bool,
    flags: Flags,
    /// Where the connection comes from that has the client id now, as far as that is known.
    taken_by: Option<Box<SocketAddr>>,
    waker: Option<Waker>,
    /// The connection has ended, and nobody will look into it again.
    ended: bool,
}

impl Inner {
    /// Whether so many bytes more may wait. Those of a prompt receiver are gone in a moment, and are not counted.
    fn has_room(&mut self, bytes: usize, bound: usize) -> bool {
        if self.live_bytes > 0 && self.live_bytes + bytes > bound {
            return false;
        }
        match (self.is_stuck, self.live_bytes > PROMPT_BYTES) {
            (true, _) => self.held.try_add(bytes),
            (false, true) => self.held.try_add_for_a_moment(bytes),
            (false, false) => true,
        }
    }

    fn is_slow(&self) -> bool {
        self.is_stuck || self.live_bytes > PROMPT_BYTES
    }

    /// Until it takes something the receiver is a slow one, and all that it has waiting is counted.
    fn note_stuck(&mut self) {
        self.is_stuck = true;
        self.held.set(self.live_bytes);
    }
}

/// The mailbox of one connection.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// Of the connection; never used twice in a process.
    pub(crate) id: u64,
    pub(crate) client: ByteString,
    live_bytes_max: usize,
    queue_bytes_max: usize,
    inner: Mutex<Inner>,
}

/// Beyond this the receiver is slow, and must not pin the publishers' read buffers.
const PROMPT_BYTES: usize = 64 * 1024;

impl Mailbox {
    pub(crate) fn new(
        id: u64,
        client: ByteString,
        live_bytes_max: usize,
        queue_bytes_max: usize,
        memory: &Arc<QueueMemory>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            client,
            live_bytes_max,
            queue_bytes_max,
            inner: Mutex::new(Inner {
                events: Vec::new(),
                live_bytes: 0,
                held: HeldMemory::new(memory),
                is_stuck: false,
                flags: Flags::default(),
                taken_by: None,
                waker: None,
                ended: false,
            }),
        })
    }

    /// Leaves a batch. False: the receiver is too far behind and the batch was dropped; the caller counts it.
    pub(crate) fn deliver(&self, batch: &Arc<Batch>, grant: &Arc<Grant>, wakers: &mut Vec<Waker>) -> bool {
        let mut inner = self.inner.lock();
        let bound = if batch.qos.min(grant.qos) == QoS::AtMostOnce {
            self.live_bytes_max
        } else {
            self.queue_bytes_max
        };
        if !inner.has_room(batch.bytes, bound) {
            return false;
        }
        let slow = inner.is_slow();
        inner.live_bytes += batch.bytes;
        let batch = if slow {
            Arc::new(batch.compact())
        } else {
            Arc::clone(batch)
        };
        inner.events.push(Event::Deliver {
            batch,
            grant: Arc::clone(grant),
        });
        wakers.extend(inner.waker.take());
        true
    }

    /// Leaves one message of a shared subscription. Gives it back if the receiver is too far behind, or has ended since
    /// it was chosen: then another member is to have it.
    pub(crate) fn deliver_one(
        &self,
        delivery: Box<Delivery>,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), Box<Delivery>> {
        let mut inner = self.inner.lock();
        let bytes = size_of_one(&delivery);
        let bound = if delivery.qos == QoS::AtMostOnce {
            self.live_bytes_max
        } else {
            self.queue_bytes_max
        };
        if inner.ended || !inner.has_room(bytes, bound) {
            return Err(delivery);
        }
        inner.live_bytes += bytes;
        inner.events.push(Event::DeliverOne(delivery));
        wakers.extend(inner.waker.take());
        Ok(())
    }

    /// Leaves an answer to something the connection asked for; it has bounded that itself.
    pub(crate) fn answer(&self, event: Event) {
        self.change(|inner| inner.events.push(event));
    }

    pub(crate) fn close(&self, reason: Close) {
        self.change(|inner| {
            inner.flags.close.get_or_insert(reason);
        });
    }

    /// Another connection has the client id.
    pub(crate) fn take_over(&self, by: Option<SocketAddr>) {
        self.change(|inner| {
            inner.flags.close.get_or_insert(Close::TakenOver);
            if let Some(by) = by {
                inner.taken_by.get_or_insert_with(|| Box::new(by));
            }
        });
    }

    /// Where that comes from.
    pub(crate) fn taken_by(&self) -> Option<SocketAddr> {
        self.inner.lock().taken_by.as_deref().copied()
    }

    /// Users or rules have changed: the connection is to judge itself anew.
    pub(crate) fn recheck(&self) {
        self.change(|inner| inner.flags.recheck = true);
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let waker = {
            let mut inner = self.inner.lock();
            change(&mut inner);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes everything into `events` (empty on entry); with nothing there, `waker` is woken when there is.
    pub(crate) fn take(&self, events: &mut Vec<Event>, waker: &Waker) -> Flags {
        let mut inner = self.inner.lock();
        std::mem::swap(&mut inner.events, events);
        inner.live_bytes = 0;
        inner.is_stuck = false;
        inner.held.set(0);
        let flags = Flags {
            queue_grew: std::mem::take(&mut inner.flags.queue_grew),
            recheck: std::mem::take(&mut inner.flags.recheck),
            close: inner.flags.close,
        };
        if !inner.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
        flags
    }

    /// Only the flags, for a connection that cannot take more messages now. That the queue grew stays to be seen by `take`.
    pub(crate) fn peek(&self, waker: &Waker) -> Flags {
        let mut inner = self.inner.lock();
        inner.note_stuck();
        if !inner.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
        Flags {
            recheck: std::mem::take(&mut inner.flags.recheck),
            ..inner.flags
        }
    }

    /// Gives back, to be taken first, what the connection has no room for: it waits here, where it is counted.
    pub(crate) fn put_back(&self, events: impl Iterator<Item = Event>) {
        let mut inner = self.inner.lock();
        let later = std::mem::take(&mut inner.events);
        inner.events.extend(events);
        inner.live_bytes += inner.events.iter().map(Event::bytes).sum::<usize>();
        inner.events.extend(later);
        inner.note_stuck();
    }

    /// What was left when the connection ended. Messages of shared subscriptions are not taken from here on.
    pub(crate) fn drain(&self) -> Vec<Event> {
        let mut inner = self.inner.lock();
        inner.ended = true;
        inner.held.set(0);
        std::mem::take(&mut inner.events)
    }
}

impl cluster::SessionWaker for Mailbox {
    fn queue_grew(&self) {
        self.change(|inner| inner.flags.queue_grew = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use mqtt_topic::TopicName;

    fn batch(qos: QoS, payload: usize) -> Arc<Batch> {
        let topic = TopicName::parse("a".into()).unwrap();
        let publication = Publication::new(topic, Bytes::from(vec![0; payload]));
        let message = LiveMessage {
            publication,
            qos,
            retain: false,
            expires_at: None,
        };
        Arc::new(Batch::new(SmallVec::from_iter([message]), None))
    }

    #[test]
    fn what_waits_for_slow_receivers_keeps_to_the_memory_of_the_node() {
        let memory = QueueMemory::new(400_000, Arc::default());
        let slow: Vec<_> = (0..4)
            .map(|id| Mailbox::new(id, "c".into(), 300_000, 300_000, &memory))
            .collect();
        let (mut wakers, mut delivered) = (Vec::new(), 0);
        for _ in 0..2 {
            for mailbox in &slow {
                let batch = batch(QoS::AtLeastOnce, 100_000);
                delivered += usize::from(mailbox.deliver(&batch, &grant(), &mut wakers));
            }
        }
        assert_eq!(delivered, 4 + 2, "the second round is counted");
        slow[0].take(&mut Vec::new(), Waker::noop());
        drop(slow);
        assert!(HeldMemory::new(&memory).try_add(300_000));
    }

    #[test]
    fn what_a_connection_has_no_room_for_is_counted_and_comes_first() {
        let memory = QueueMemory::new(400_000, Arc::default());
        let mailbox = Mailbox::new(1, "c".into(), 300_000, 300_000, &memory);
        let (mut wakers, mut events) = (Vec::new(), Vec::new());
        for payload in [100_000, 99_999] {
            assert!(mailbox.deliver(&batch(QoS::AtLeastOnce, payload), &grant(), &mut wakers));
        }
        mailbox.take(&mut events, Waker::noop());
        assert!(mailbox.deliver(&batch(QoS::AtLeastOnce, 10), &grant(), &mut wakers));
        mailbox.put_back(events.drain(..));
        assert!(!HeldMemory::new(&memory).try_add(200_000), "it is counted");
        assert!(
            !mailbox.deliver(&batch(QoS::AtLeastOnce, 150_000), &grant(), &mut wakers),
            "the mailbox keeps to its own bound, too"
        );
        mailbox.take(&mut events, Waker::noop());
        let payloads = events.iter().map(|event| match event {
            Event::Deliver { batch, .. } => batch.messages[0].publication.payload_len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(payloads.collect::<Vec<_>>(), [100_000, 99_999, 10]);
        assert!(HeldMemory::new(&memory).try_add(200_000));
    }

    #[test]
    fn what_waits_for_a_socket_without_room_is_counted_from_its_first_byte() {
        let used = Arc::default();
        let memory = QueueMemory::new(4_000_000, Arc::clone(&used));
        let mailbox = Mailbox::new(1, "c".into(), 300_000, 300_000, &memory);
        let (mut wakers, batch) = (Vec::new(), batch(QoS::AtLeastOnce, 1_000));
        let mut deliver = || assert!(mailbox.deliver(&batch, &grant(), &mut wakers));
        deliver();
        assert_eq!(memory.used(), 0, "it is gone in a moment");
        mailbox.peek(Waker::noop());
        let counted = memory.used();
        assert!(counted > 1_000);
        deliver();
        assert_eq!(memory.used(), 2 * counted);
        mailbox.take(&mut Vec::new(), Waker::noop());
        deliver();
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_connection_that_takes_no_messages_hears_of_new_rules_once() {
        let mailbox = Mailbox::new(1, "c".into(), 1_000, 1_000, &QueueMemory::unlimited());
        mailbox.recheck();
        assert!(mailbox.peek(Waker::noop()).recheck);
        assert!(!mailbox.peek(Waker::noop()).recheck);
        cluster::SessionWaker::queue_grew(&*mailbox);
        mailbox.peek(Waker::noop());
        assert!(mailbox.take(&mut Vec::new(), Waker::noop()).queue_grew);
    }

    fn grant() -> Arc<Grant> {
        let subscription_ids = SmallVec::new();
        Arc::new(Grant {
            qos: QoS::ExactlyOnce,
            no_local: false,
            retain_as_published: false,
            subscription_ids,
        })
    }

    #[test]
    fn qos_0_gives_way_before_qos_1_when_a_receiver_is_behind() {
        let mailbox = Mailbox::new(1, "c".into(), 1_000, 10_000, &QueueMemory::unlimited());
        let mut wakers = Vec::new();
        assert!(mailbox.deliver(&batch(QoS::AtMostOnce, 900), &grant(), &mut wakers));
        assert!(!mailbox.deliver(&batch(QoS::AtMostOnce, 900), &grant(), &mut wakers));
        assert!(mailbox.deliver(&batch(QoS::AtLeastOnce, 900), &grant(), &mut wakers));
        assert!(!mailbox.deliver(&batch(QoS::AtLeastOnce, 9_000), &grant(), &mut wakers));
    }

    #[test]
    fn taking_makes_room_again() {
        let mailbox = Mailbox::new(1, "c".into(), 1_000, 1_000, &QueueMemory::unlimited());
        let (mut wakers, mut events) = (Vec::new(), Vec::new());
        assert!(mailbox.deliver(&batch(QoS::AtMostOnce, 900), &grant(), &mut wakers));
        mailbox.take(&mut events, Waker::noop());
        assert_eq!(events.len(), 1);
        assert!(mailbox.deliver(&batch(QoS::AtMostOnce, 900), &grant(), &mut wakers));
        assert_eq!(wakers.len(), 1, "the waker that was left is handed out once");
    }

    #[test]
    fn a_message_for_a_member_that_has_ended_is_given_back() {
        let mailbox = Mailbox::new(1, "c".into(), 1_000, 1_000, &QueueMemory::unlimited());
        let delivery = || {
            Box::new(Delivery {
                publication: batch(QoS::AtLeastOnce, 10).messages[0].publication.clone(),
                qos: QoS::AtLeastOnce,
                retain: false,
                subscription_ids: SmallVec::new(),
                expires_at: None,
                share: Some("$share/g/a".into()),
            })
        };
        let mut wakers = Vec::new();
        assert!(mailbox.deliver_one(delivery(), &mut wakers).is_ok());
        assert_eq!(mailbox.drain().len(), 1);
        assert!(mailbox.deliver_one(delivery(), &mut wakers).is_err());
    }
}
