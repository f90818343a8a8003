//! What each client was promised, and whether it was kept. The whole judgement of the crash test is in this file.
//!
//! A stream is the sequence of numbered messages of one publisher on one topic. A subscriber of a stream was promised:
//! every acknowledged message arrives; first deliveries come in the order of publishing; at QoS 2 each arrives once;
//! at QoS 1 it arrives again only with DUP set, or when its publisher itself sent it again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

/// How often a message may arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// QoS 1 on either side.
    AtLeastOnce,
    /// QoS 2 on both sides.
    ExactlyOnce,
}

/// One message at one subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Who was to get it.
    pub subscriber: String,
    /// The topic, which names the stream.
    pub topic: String,
    /// The number in the stream.
    pub number: u64,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Acknowledged to the publisher and never received.
    Lost(Arrival),
    /// Received more often than promised.
    Duplicated(Arrival),
    /// Received for the first time after a later one, whose number follows.
    Reordered(Arrival, u64),
    /// Received and never sent.
    Invented(Arrival),
    /// This client's session was to outlive its connection and is gone.
    SessionLost(String),
    /// This client was disconnected from this node, which it has not left by itself, so many times.
    Disconnected(String, SocketAddr, u32),
    /// The retained message is older than the last one acknowledged, or newer than the last one sent.
    Retained(RetainedMismatch),
}

/// What was found retained, and what could have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedMismatch {
    /// The topic.
    pub topic: String,
    /// The number found.
    pub found: Option<u64>,
    /// The last number acknowledged.
    pub acknowledged: Option<u64>,
    /// The last number sent.
    pub sent: Option<u64>,
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self:?}")
    }
}

/// Everything that was sent, acknowledged and received in one run.
#[derive(Debug, Default)]
pub struct History {
    streams: BTreeMap<String, Stream>,
    subscriptions: BTreeMap<(String, String), Subscription>,
    retained: BTreeMap<String, Stream>,
    broken: Vec<Broken>,
    /// By client and node.
    disconnections: BTreeMap<(String, SocketAddr), u32>,
}

/// The publisher's side of one topic.
#[derive(Debug, Default)]
struct Stream {
    /// How often each number was sent; numbers count from 0.
    sent: Vec<u32>,
    acknowledged: BTreeSet<u64>,
}

/// One subscriber's side of one topic.
#[derive(Debug)]
struct Subscription {
    promise: Promise,
    /// In the order of arrival: the number, and whether DUP was set.
    received: Vec<(u64, bool)>,
}

/// Writing the book.
impl History {
    /// A subscriber holds an acknowledged subscription to a topic from now on.
    pub fn subscribed(&mut self, subscriber: &str, topic: &str, promise: Promise) {
        let key = (subscriber.to_owned(), topic.to_owned());
        self.subscriptions.entry(key).or_insert(Subscription {
            promise,
            received: Vec::new(),
        });
    }

    /// A publisher is about to send a number, for the first time or again.
    pub fn sending(&mut self, topic: &str, number: u64) {
        self.streams.entry(topic.to_owned()).or_default().sending(number);
    }

    /// A publisher has the PUBACK or PUBREC of a number.
    pub fn acknowledged(&mut self, topic: &str, number: u64) {
        self.streams
            .entry(topic.to_owned())
            .or_default()
            .acknowledged
            .insert(number);
    }

    /// A subscriber has a message. At QoS 2, one with a packet id it already keeps is not a new one to it.
    pub fn received(&mut self, subscriber: &str, topic: &str, number: u64, dup: bool) {
        let key = (subscriber.to_owned(), topic.to_owned());
        match self.subscriptions.get_mut(&key) {
            Some(subscription) => subscription.received.push((number, dup)),
            None => self.broken.push(Broken::Invented(Arrival {
                subscriber: key.0,
                topic: key.1,
                number,
            })),
        }
    }

    /// A client came back and its session was not there.
    pub fn session_lost(&mut self, client: &str) {
        self.broken.push(Broken::SessionLost(client.to_owned()));
    }

    /// A client's connection to this node ended, and the client did not want it.
    pub fn disconnected(&mut self, client: &str, node: SocketAddr) {
        *self.disconnections.entry((client.to_owned(), node)).or_default() += 1;
    }

    /// A retained number is about to be sent.
    pub fn retaining(&mut self, topic: &str, number: u64) {
        self.retained.entry(topic.to_owned()).or_default().sending(number);
    }

    /// A retained number is acknowledged.
    pub fn retained(&mut self, topic: &str, number: u64) {
        self.retained
            .entry(topic.to_owned())
            .or_default()
            .acknowledged
            .insert(number);
    }

    /// What a new subscriber found retained while nobody was writing.
    pub fn found_retained(&mut self, topic: &str, found: Option<u64>) {
        let Some(stream) = self.retained.get(topic) else {
            return;
        };
        let acknowledged = stream.acknowledged.last().copied();
        let sent = (stream.sent.len() as u64).checked_sub(1);
        if found < acknowledged || found > sent {
            let topic = topic.to_owned();
            self.broken.push(Broken::Retained(RetainedMismatch {
                topic,
                found,
                acknowledged,
                sent,
            }));
        }
    }
}

/// Reading the book.
impl History {
    /// Messages that were acknowledged and have not reached a subscriber so far.
    pub fn missing(&self) -> usize {
        self.pairs()
            .map(|(_, _, stream, subscription)| subscription.missing(stream).count())
            .sum()
    }

    /// Acknowledged messages, and deliveries.
    pub fn totals(&self) -> (usize, usize) {
        let acknowledged = self
            .streams
            .values()
            .map(|stream| stream.acknowledged.len())
            .sum();
        let received = self
            .subscriptions
            .values()
            .map(|subscription| subscription.received.len())
            .sum();
        (acknowledged, received)
    }

    /// Every broken promise of a run that has come to rest.
    pub fn judge(&self) -> Vec<Broken> {
        let mut broken = self.broken.clone();
        for (subscriber, topic, stream, subscription) in self.pairs() {
            subscription.judge(subscriber, topic, stream, &mut broken);
        }
        broken
    }

    /// Who was disconnected more than once from the same node.
    pub fn disconnected_again(&self) -> Vec<Broken> {
        let again = self.disconnections.iter().filter(|(_, times)| **times > 1);
        again
            .map(|((client, node), times)| Broken::Disconnected(client.clone(), *node, *times))
            .collect()
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str, &Stream, &Subscription)> {
        self.subscriptions
            .iter()
            .filter_map(|((subscriber, topic), subscription)| {
                Some((
                    subscriber.as_str(),
                    topic.as_str(),
                    self.streams.get(topic)?,
                    subscription,
                ))
            })
    }
}

impl Stream {
    fn sending(&mut self, number: u64) {
        let index = number as usize;
        if self.sent.len() <= index {
            self.sent.resize(index + 1, 0);
        }
        self.sent[index] += 1;
    }

    fn times_sent(&self, number: u64) -> u32 {
        self.sent.get(number as usize).copied().unwrap_or(0)
    }
}

impl Subscription {
    fn missing<'a>(&'a self, stream: &'a Stream) -> impl Iterator<Item = u64> + 'a {
        let arrived: BTreeSet<u64> = self.received.iter().map(|(number, _)| *number).collect();
        stream
            .acknowledged
            .iter()
            .copied()
            .filter(move |number| !arrived.contains(number))
    }

    fn judge(&self, subscriber: &str, topic: &str, stream: &Stream, broken: &mut Vec<Broken>) {
        let arrival = |number| Arrival {
            subscriber: subscriber.to_owned(),
            topic: topic.to_owned(),
            number,
        };
        let mut plain_arrivals: BTreeMap<u64, u32> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for &(number, dup) in &self.received {
            if stream.times_sent(number) == 0 {
                broken.push(Broken::Invented(arrival(number)));
                continue;
            }
            let first = seen.insert(number);
            let plain = plain_arrivals.entry(number).or_default();
            *plain += u32::from(first || !dup);
            let allowed = match self.promise {
                Promise::ExactlyOnce => first,
                Promise::AtLeastOnce => *plain <= stream.times_sent(number),
            };
            let latest = seen.last().copied().unwrap_or(number);
            if !allowed {
                broken.push(Broken::Duplicated(arrival(number)));
            } else if first && latest > number {
                broken.push(Broken::Reordered(arrival(number), latest));
            }
        }
        broken.extend(self.missing(stream).map(|number| Broken::Lost(arrival(number))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_sent(promise: Promise) -> History {
        let mut history = History::default();
        history.subscribed("reader", "t", promise);
        for number in 0..3 {
            history.sending("t", number);
            history.acknowledged("t", number);
        }
        history
    }

    fn after_arrivals(promise: Promise, arrivals: &[(u64, bool)]) -> Vec<Broken> {
        let mut history = three_sent(promise);
        for (number, dup) in arrivals {
            history.received("reader", "t", *number, *dup);
        }
        history.judge()
    }

    fn arrival(number: u64) -> Arrival {
        Arrival {
            subscriber: "reader".to_owned(),
            topic: "t".to_owned(),
            number,
        }
    }

    #[test]
    fn a_history_that_keeps_every_promise_passes() {
        let once = [(0, false), (1, false), (2, true)];
        assert_eq!(after_arrivals(Promise::ExactlyOnce, &once), []);
        let repeated = [(0, false), (1, false), (0, true), (1, true), (2, true)];
        assert_eq!(after_arrivals(Promise::AtLeastOnce, &repeated), []);
    }

    #[test]
    fn a_lost_message_is_caught() {
        let broken = after_arrivals(Promise::AtLeastOnce, &[(0, false), (2, false)]);
        assert_eq!(broken, [Broken::Lost(arrival(1))]);
    }

    #[test]
    fn a_message_that_was_not_acknowledged_may_be_lost() {
        let mut history = three_sent(Promise::AtLeastOnce);
        history.sending("t", 3);
        (0..3).for_each(|number| history.received("reader", "t", number, false));
        assert_eq!((history.judge(), history.missing()), (vec![], 0));
    }

    #[test]
    fn a_second_arrival_is_caught_at_qos_2_whatever_its_dup_says() {
        let broken = after_arrivals(
            Promise::ExactlyOnce,
            &[(0, false), (0, true), (1, false), (2, false)],
        );
        assert_eq!(broken, [Broken::Duplicated(arrival(0))]);
    }

    #[test]
    fn a_second_arrival_without_dup_is_caught_at_qos_1_unless_it_was_sent_twice() {
        let arrivals = [(0, false), (0, false), (1, false), (2, false)];
        let broken = after_arrivals(Promise::AtLeastOnce, &arrivals);
        assert_eq!(broken, [Broken::Duplicated(arrival(0))]);

        let mut history = three_sent(Promise::AtLeastOnce);
        history.sending("t", 0);
        arrivals
            .iter()
            .for_each(|(number, dup)| history.received("reader", "t", *number, *dup));
        assert_eq!(history.judge(), []);
    }

    #[test]
    fn a_changed_order_of_first_arrivals_is_caught() {
        let broken = after_arrivals(Promise::ExactlyOnce, &[(0, false), (2, false), (1, false)]);
        assert_eq!(broken, [Broken::Reordered(arrival(1), 2)]);
    }

    #[test]
    fn a_message_that_nobody_sent_is_caught() {
        let broken = after_arrivals(
            Promise::AtLeastOnce,
            &[(0, false), (1, false), (2, false), (9, false)],
        );
        assert_eq!(broken, [Broken::Invented(arrival(9))]);
    }

    #[test]
    fn a_lost_session_is_caught() {
        let mut history = History::default();
        history.session_lost("reader");
        assert_eq!(history.judge(), [Broken::SessionLost("reader".to_owned())]);
    }

    #[test]
    fn a_second_disconnection_from_the_same_node_is_noticed() {
        let mut history = History::default();
        let [one, other] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        history.disconnected("reader", one);
        history.disconnected("reader", other);
        history.disconnected("writer", one);
        assert_eq!(history.disconnected_again(), []);
        history.disconnected("reader", one);
        let again = Broken::Disconnected("reader".to_owned(), one, 2);
        assert_eq!(history.disconnected_again(), [again]);
    }

    #[test]
    fn a_retained_message_is_the_last_acknowledged_or_one_sent_after_it() {
        let mut history = History::default();
        for number in 0..3 {
            history.retaining("r", number);
        }
        history.retained("r", 0);
        history.retained("r", 1);
        history.found_retained("r", Some(1));
        history.found_retained("r", Some(2));
        assert_eq!(history.judge(), []);
        history.found_retained("r", Some(0));
        history.found_retained("r", None);
        history.found_retained("r", Some(3));
        assert_eq!(history.judge().len(), 3);
    }
}
