//! Traces: the packets of one client, or those about one topic filter, told one by one to an operator who looks on. What they
//! carry is never told, nor what a client shows to be let in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use bytestring::ByteString;
use metrics::Counter;
use mqtt_codec::{Packet, PacketType, QoS, ReasonCode};
use mqtt_topic::{SubscriptionFilter, TopicFilter, TopicName};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::refusals::Refused;

/// Lines that wait for the one who looks on. What is too much is dropped and counted.
const LINES_MAX: usize = 1024;
/// Characters of a text that a client has chosen.
const TEXT_MAX: usize = 256;
/// Filters and reason codes of one packet that are told one by one.
const LISTED_MAX: usize = 16;

/// What is traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// All packets of a client id.
    Client(String),
    /// PUBLISH packets whose topic matches, SUBSCRIBE and UNSUBSCRIBE packets with a filter that lies inside this one or
    /// holds all of it, and what was denied of either; of all clients of the node.
    Topic(TopicFilter),
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Line {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Lines before this one that were dropped, because the reader was too slow.
    pub lost: u64,
    /// Whom it happened to.
    pub client_id: String,
    /// What.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A packet came from the client.
    Received(TracedPacket),
    /// A packet was made ready to be written to the client.
    Sent(TracedPacket),
    /// The client has its client id.
    Connected {
        /// Of the client.
        address: SocketAddr,
        /// Which listener it came by.
        listener: Arc<str>,
    },
    /// The connection has ended.
    Closed {
        /// In the words of `flotilla_connections_closed_total`.
        reason: &'static str,
        /// What was wrong, if the client broke the protocol.
        detail: Option<&'static str>,
    },
    /// A connection was refused, or rules have denied something.
    Refused(Box<Refused>),
    /// Where the client is, as far as this node knows: at the beginning, and when that changes. None: it is not connected.
    Place(Option<u64>),
}

/// What is told of a packet.
#[derive(Clone, Debug)]
pub struct TracedPacket {
    /// Its type.
    pub packet_type: PacketType,
    /// All of it.
    pub bytes: usize,
    /// Of its payload, if it is a PUBLISH.
    pub payload_bytes: Option<usize>,
    /// Its identifier.
    pub packet_id: Option<u16>,
    /// Of a PUBLISH, or of the will of a CONNECT; that which an alias stands for.
    pub topic: Option<String>,
    /// With `topic`.
    pub qos: Option<QoS>,
    /// `dup`, `retain`, `clean_start`, `will`, `session_present`.
    pub flags: Vec<&'static str>,
    /// Of a SUBSCRIBE or UNSUBSCRIBE; the first of them.
    pub filters: Vec<String>,
    /// The first of them.
    pub reason_codes: Vec<ReasonCode>,
}

/// Those who look on.
pub(crate) struct Traces {
    /// Grows with each change of the list.
    version: AtomicU32,
    list: Mutex<Vec<Arc<Tracer>>>,
    lost: Counter,
}

/// One who looks on.
pub(crate) struct Tracer {
    pub(crate) subject: Subject,
    lines: mpsc::Sender<Line>,
    /// Since the last line that had room.
    lost: AtomicU64,
    told_total: AtomicU64,
    lost_total: AtomicU64,
    counter: Counter,
}

impl Traces {
    pub(crate) fn new(lost: Counter) -> Self {
        Self {
            version: AtomicU32::new(0),
            list: Mutex::default(),
            lost,
        }
    }

    /// Another one than before: somebody has come or gone. 0: nobody was ever there.
    #[inline]
    pub(crate) fn version(&self) -> u32 {
        self.version.load(Relaxed)
    }

    pub(crate) fn begin(&self, subject: Subject) -> (Arc<Tracer>, mpsc::Receiver<Line>) {
        let (lines, receiver) = mpsc::channel(LINES_MAX);
        let tracer = Arc::new(Tracer {
            subject,
            lines,
            lost: AtomicU64::new(0),
            told_total: AtomicU64::new(0),
            lost_total: AtomicU64::new(0),
            counter: self.lost.clone(),
        });
        self.list.lock().push(Arc::clone(&tracer));
        self.version.fetch_add(1, Relaxed);
        (tracer, receiver)
    }

    pub(crate) fn end(&self, tracer: &Arc<Tracer>) {
        self.list.lock().retain(|known| !Arc::ptr_eq(known, tracer));
        self.version.fetch_add(1, Relaxed);
    }

    /// Those who want to know of packets of a client: of all, or of those about some topics.
    pub(crate) fn of(&self, client: &str) -> Vec<Arc<Tracer>> {
        let list = self.list.lock();
        let wanted = list.iter().filter(|tracer| match &tracer.subject {
            Subject::Client(wanted) => wanted == client,
            Subject::Topic(_) => true,
        });
        wanted.cloned().collect()
    }

    /// Tells those who trace this client, if anybody does.
    pub(crate) fn tell(&self, client: &str, at_ms: u64, event: impl Fn() -> Event) {
        if self.version() == 0 {
            return;
        }
        let list = self.list.lock();
        let traced =
            |tracer: &&Arc<Tracer>| matches!(&tracer.subject, Subject::Client(wanted) if wanted == client);
        for tracer in list.iter().filter(traced) {
            tracer.tell(client, at_ms, event());
        }
    }

    /// Tells those who trace the client, or what it was denied.
    pub(crate) fn refused(&self, refused: &Refused, at_ms: u64) {
        if self.version() == 0 {
            return;
        }
        let list = self.list.lock();
        for tracer in list.iter().filter(|tracer| tracer.wants_refused(refused)) {
            tracer.tell(
                &refused.client_id,
                at_ms,
                Event::Refused(Box::new(cut_refused(refused))),
            );
        }
    }
}

impl Tracer {
    /// Whether a packet is one of those that are traced, whose topic, if it has one, is this.
    pub(crate) fn wants(&self, packet: &Packet, topic: Option<&TopicName>) -> bool {
        let Subject::Topic(traced) = &self.subject else {
            return true;
        };
        match packet {
            Packet::Publish(_) => topic.is_some_and(|topic| traced.matches(topic)),
            Packet::Subscribe(packet) => packet.filters.iter().any(|one| meets(traced, &one.filter)),
            Packet::Unsubscribe(packet) => packet.filters.iter().any(|filter| meets(traced, filter)),
            _ => false,
        }
    }

    fn wants_refused(&self, refused: &Refused) -> bool {
        match &self.subject {
            Subject::Client(client) => *client == refused.client_id,
            Subject::Topic(_) if refused.topic.is_empty() => false,
            Subject::Topic(traced) => meets(traced, &refused.topic.as_str().into()),
        }
    }

    pub(crate) fn tell(&self, client: &str, at_ms: u64, event: Event) {
        match self.lines.try_reserve() {
            Ok(room) => {
                self.told_total.fetch_add(1, Relaxed);
                room.send(Line {
                    at_ms,
                    lost: self.lost.swap(0, Relaxed),
                    client_id: cut(client),
                    event,
                });
            }
            Err(TrySendError::Full(())) => {
                self.lost.fetch_add(1, Relaxed);
                self.lost_total.fetch_add(1, Relaxed);
                self.counter.increment(1);
            }
            // It is over.
            Err(TrySendError::Closed(())) => {}
        }
    }

    /// When nobody is there any more to read its lines.
    pub(crate) async fn left(&self) {
        self.lines.closed().await;
    }

    /// Lines that were told, and lines that were dropped.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.told_total.load(Relaxed), self.lost_total.load(Relaxed))
    }

    /// Lines that were dropped behind the last one that was told.
    pub(crate) fn lost_last(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

/// A topic is a filter without wildcards; of a shared subscription it is the filter behind the name of the share.
fn meets(traced: &TopicFilter, filter: &ByteString) -> bool {
    let Ok(filter) = SubscriptionFilter::parse(filter.clone()) else {
        return false;
    };
    traced.covers(filter.filter()) || filter.filter().covers(traced)
}

impl TracedPacket {
    /// What is told of a packet of so many bytes, whose topic, if it has one, is this.
    pub(crate) fn of(packet: &Packet, bytes: usize, topic: Option<&TopicName>) -> Self {
        let mut told = Self {
            packet_type: packet.packet_type(),
            bytes,
            payload_bytes: None,
            packet_id: None,
            topic: topic.map(|topic| cut(topic.as_str())),
            qos: None,
            flags: Vec::new(),
            filters: Vec::new(),
            reason_codes: Vec::new(),
        };
        match packet {
            Packet::Connect(packet) => {
                told.flag("clean_start", packet.clean_start);
                if let Some(will) = &packet.will {
                    told.flag("will", true);
                    told.flag("retain", will.retain);
                    told.topic = Some(cut(will.publication.topic().as_str()));
                    told.qos = Some(will.qos);
                }
            }
            Packet::ConnAck(packet) => {
                told.flag("session_present", packet.session_present);
                told.reason_codes.push(packet.reason_code);
            }
            Packet::Publish(packet) => {
                told.flag("dup", packet.dup);
                told.flag("retain", packet.retain);
                told.qos = Some(packet.qos);
                told.packet_id = packet.packet_id.map(|id| id.get());
                told.payload_bytes = Some(packet.publication.payload_len());
            }
            Packet::PubAck(packet)
            | Packet::PubRec(packet)
            | Packet::PubRel(packet)
            | Packet::PubComp(packet) => {
                told.packet_id = Some(packet.packet_id.get());
                told.reason_codes.push(packet.reason_code);
            }
            Packet::Subscribe(packet) => {
                told.packet_id = Some(packet.packet_id.get());
                told.list(packet.filters.iter().map(|one| &one.filter));
            }
            Packet::Unsubscribe(packet) => {
                told.packet_id = Some(packet.packet_id.get());
                told.list(packet.filters.iter());
            }
            Packet::SubAck(packet) => told.answer(packet.packet_id.get(), &packet.reason_codes),
            Packet::UnsubAck(packet) => told.answer(packet.packet_id.get(), &packet.reason_codes),
            Packet::Disconnect(packet) => told.reason_codes.push(packet.reason_code),
            Packet::Auth(packet) => told.reason_codes.push(packet.reason_code),
            Packet::PingReq | Packet::PingResp => {}
        }
        told
    }

    fn flag(&mut self, name: &'static str, is_set: bool) {
        if is_set {
            self.flags.push(name);
        }
    }

    fn list<'a>(&mut self, filters: impl Iterator<Item = &'a ByteString>) {
        self.filters = filters.take(LISTED_MAX).map(|filter| cut(filter)).collect();
    }

    fn answer(&mut self, packet_id: u16, reason_codes: &[ReasonCode]) {
        self.packet_id = Some(packet_id);
        self.reason_codes = reason_codes.iter().take(LISTED_MAX).copied().collect();
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn cut_refused(refused: &Refused) -> Refused {
    Refused {
        topic: cut(&refused.topic),
        ..refused.clone()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mqtt_codec::{PacketId, Publication, Publish, Subscribe, SubscribeFilter, SubscriptionOptions};

    use super::*;

    fn publish(topic: &str, payload: &str) -> Packet {
        let topic = TopicName::parse(topic.into()).unwrap();
        Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: true,
            packet_id: None,
            topic_alias: None,
            subscription_ids: Vec::new(),
            publication: Publication::new(topic, Bytes::from(payload.to_owned())),
        })
    }

    fn subscribe(filter: &str) -> Packet {
        Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(7).unwrap(),
            subscription_id: None,
            user_properties: Default::default(),
            filters: vec![SubscribeFilter {
                filter: filter.into(),
                options: SubscriptionOptions::with_qos(QoS::AtMostOnce),
            }],
        })
    }

    fn topics(filter: &str) -> (Traces, Arc<Tracer>, mpsc::Receiver<Line>) {
        let traces = Traces::new(Counter::noop());
        let (tracer, lines) = traces.begin(Subject::Topic(TopicFilter::parse(filter.into()).unwrap()));
        (traces, tracer, lines)
    }

    #[test]
    fn a_trace_of_topics_wants_their_messages_and_the_subscriptions_that_meet_them() {
        let (_traces, tracer, _lines) = topics("a/+");
        let wants = |packet: Packet| {
            let topic = match &packet {
                Packet::Publish(publish) => Some(publish.publication.topic().clone()),
                _ => None,
            };
            tracer.wants(&packet, topic.as_ref())
        };
        assert!(wants(publish("a/1", "")) && !wants(publish("b/1", "")));
        for met in ["a/1", "a/#", "#", "$share/g/a/+"] {
            assert!(wants(subscribe(met)), "{met}");
        }
        for other in ["b/#", "$share/g/b", "a/1/2"] {
            assert!(!wants(subscribe(other)), "{other}");
        }
        assert!(!wants(Packet::PingReq));
    }

    #[test]
    fn a_reader_that_does_not_keep_up_loses_lines_and_is_told_how_many() {
        let (traces, tracer, mut lines) = topics("#");
        for number in 0..LINES_MAX as u64 + 5 {
            tracer.tell("c", number, Event::Place(None));
        }
        assert_eq!(tracer.totals(), (LINES_MAX as u64, 5));
        for number in 0..2 {
            let line = lines.try_recv().unwrap();
            assert_eq!((line.at_ms, line.lost), (number, 0));
        }
        tracer.tell("c", 9999, Event::Place(None));
        tracer.tell("c", 10_000, Event::Place(None));
        tracer.tell("c", 10_001, Event::Place(None));
        let rest: Vec<_> = std::iter::from_fn(|| lines.try_recv().ok()).collect();
        let last: Vec<_> = rest
            .iter()
            .rev()
            .take(3)
            .map(|line| (line.at_ms, line.lost))
            .collect();
        assert_eq!(last, [(10_000, 0), (9999, 5), (LINES_MAX as u64 - 1, 0)]);
        assert_eq!(tracer.lost_last(), 1);
        let before = traces.version();
        traces.end(&tracer);
        assert!(traces.of("c").is_empty() && traces.version() > before);
    }

    #[test]
    fn what_a_message_says_is_not_told_and_long_names_are_cut() {
        let packet = publish(&"ä".repeat(500), "a secret of eighteen");
        let Packet::Publish(inner) = &packet else {
            unreachable!()
        };
        let told = TracedPacket::of(&packet, 900, Some(inner.publication.topic()));
        assert_eq!(told.topic.as_deref(), Some(&*("ä".repeat(TEXT_MAX) + "…")));
        assert_eq!(
            (told.payload_bytes, told.flags.as_slice()),
            (Some(20), &["retain"][..])
        );
        assert!(!format!("{told:?}").contains("secret"));
    }
}
