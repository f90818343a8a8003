//! Messages that operators and application servers publish without a connection of their own, with what an acknowledgement
//! promises: committed for every session that keeps them, received by every node with a matching connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster::proto::{self, ShardCommand, shard_command::Command};
use futures_util::future::join_all;
use mqtt_codec::{MessageProperties, Publication, QoS};
use mqtt_topic::TopicName;
use tokio::sync::oneshot;

use super::Operator;
use crate::mailbox::LiveMessage;
use crate::message::{expires_at, to_stored};
use crate::proposal::Settled;
use crate::publisher::{Outgoing, Publisher};
use crate::shared::Shared;

/// Longer than a silent node takes to be declared down.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// The publisher's name on messages of operators. No client has it: an empty client id is replaced.
const PUBLISHER: &str = "";

/// A message to be published.
#[derive(Clone, Debug, Default)]
pub struct NewMessage {
    /// Where.
    pub topic: String,
    /// What. Empty and retained: what was retained is deleted.
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether it is kept for those who subscribe later.
    pub retain: bool,
    /// Seconds until it is not delivered any more.
    pub expiry_s: Option<u32>,
    /// What MQTT 5 receivers get with it.
    pub properties: MessageProperties,
    /// In place of `properties`: as a backup has them.
    pub properties_wire: Option<Bytes>,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every destination has it. False: there was none.
    Done(bool),
    /// It breaks a rule: nothing was done.
    Refused(String),
    /// A destination may not have it.
    Failed(String),
}

impl Operator {
    /// Publishes messages in their order, and answers for each when all its destinations have answered. Those to be retained
    /// are retained before any is sent on.
    pub async fn publish(&self, messages: Vec<NewMessage>) -> Vec<Outcome> {
        let (live, mut outcomes) = self.judge(messages);
        self.store(&live, &mut outcomes).await;
        let pending = live
            .into_iter()
            .zip(&outcomes)
            .enumerate()
            .filter(|(_, (_, outcome))| matches!(outcome, Outcome::Done(_)));
        let pending = pending
            .filter_map(|(index, (message, _))| Some((index, message?)))
            .collect();
        self.send(pending, &mut outcomes).await;
        self.fail_without_lease(&mut outcomes);
        outcomes
    }

    /// Sets or deletes what is retained, and tells nobody: for backups, and for tidying up.
    pub async fn retain(&self, messages: Vec<NewMessage>) -> Vec<Outcome> {
        let retained = messages.into_iter().map(|message| NewMessage {
            retain: true,
            ..message
        });
        let (live, mut outcomes) = self.judge(retained.collect());
        self.store(&live, &mut outcomes).await;
        self.fail_without_lease(&mut outcomes);
        outcomes
    }

    fn judge(&self, messages: Vec<NewMessage>) -> (Vec<Option<LiveMessage>>, Vec<Outcome>) {
        let judged = messages.into_iter().map(|message| match self.live(message) {
            Ok(live) => (Some(live), Outcome::Done(true)),
            Err(reason) => (None, Outcome::Refused(reason)),
        });
        judged.unzip()
    }

    fn live(&self, message: NewMessage) -> Result<LiveMessage, String> {
        let live = self.shared.live();
        let (limits, mqtt) = (&live.limits, &self.shared.config.mqtt);
        let topic = TopicName::parse(message.topic.as_str().into()).map_err(|error| error.to_string())?;
        if topic.is_dollar() {
            return Err("topics that begin with `$` are the server's own".to_owned());
        }
        if topic.as_str().len() > usize::from(limits.topic_bytes_max)
            || topic.levels() > usize::from(limits.topic_levels_max)
        {
            return Err(
                "the topic is longer than limits.topic_bytes_max or limits.topic_levels_max".to_owned(),
            );
        }
        if message.qos > mqtt.maximum_qos {
            return Err(format!("QoS {} is above mqtt.maximum_qos", message.qos));
        }
        if message.retain && !mqtt.retain_available {
            return Err("mqtt.retain_available is false".to_owned());
        }
        // Written anew from its values: what comes from a file may be anything.
        let properties = match message.properties_wire {
            Some(wire) => Publication::with_properties(topic.clone(), wire, None, Bytes::new()).properties(),
            None => message.properties,
        };
        let publication = Publication::from_parts(topic, &properties, message.payload);
        if publication.size() > limits.packet_size_max.as_usize() {
            return Err("the message is larger than limits.packet_size_max".to_owned());
        }
        let publication = publication.with_message_expiry_interval(message.expiry_s);
        let expires_at = expires_at(&publication, self.now_ms());
        let qos = match message.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        Ok(LiveMessage {
            publication,
            qos,
            retain: message.retain,
            expires_at,
        })
    }

    /// A retained message is committed before anybody gets it.
    async fn store(&self, messages: &[Option<LiveMessage>], outcomes: &mut [Outcome]) {
        let cluster = &self.shared.cluster;
        let store = |message: &LiveMessage| {
            let retain = Command::Retain(proto::Retain {
                publication: Some(to_stored(message, PUBLISHER)),
                ..proto::Retain::default()
            });
            let command = ShardCommand {
                command: Some(retain),
            };
            cluster.request(
                cluster.shard_of_topic(message.publication.topic().as_str()),
                command,
            )
        };
        let storing = messages.iter().zip(outcomes).filter_map(|(message, outcome)| {
            let message = message.as_ref().filter(|message| message.retain)?;
            let stored = store(message);
            Some(async move {
                if let Err(error) = stored.await {
                    *outcome = Outcome::Failed(error.to_string());
                }
            })
        });
        join_all(storing).await;
    }

    async fn send(&self, messages: Vec<(usize, LiveMessage)>, outcomes: &mut [Outcome]) {
        let mut publisher: Publisher<usize> = Publisher::new(PUBLISHER.into());
        for (index, message) in messages {
            let routed = publisher.publish(&self.shared, message, index, None);
            if !routed.matched {
                self.shared.metrics.no_subscribers.increment(1);
            }
            outcomes[index] = Outcome::Done(routed.matched);
        }
        let answers = dispatch(&self.shared, &mut publisher);
        for (tickets, answer) in answers {
            let failure = match tokio::time::timeout(ANSWERS_WITHIN, answer).await {
                Ok(Ok(None)) => continue,
                Ok(Ok(Some(failure))) => failure,
                Ok(Err(_)) => "the node is stopping".to_owned(),
                Err(_) => {
                    "a destination has not answered: whether it has the message is not known".to_owned()
                }
            };
            for index in tickets {
                outcomes[index] = Outcome::Failed(failure.clone());
            }
        }
    }

    /// Whoever may be cut off must not say that something is done.
    fn fail_without_lease(&self, outcomes: &mut [Outcome]) {
        if self.shared.cluster.may_acknowledge() {
            return;
        }
        for outcome in outcomes
            .iter_mut()
            .filter(|outcome| matches!(outcome, Outcome::Done(_)))
        {
            *outcome = Outcome::Failed("this node may be cut off from the cluster".to_owned());
        }
    }
}

/// The messages that wait for one destination, and what it says: nothing, or why it has not got them.
type Answer = (Vec<usize>, oneshot::Receiver<Option<String>>);

fn dispatch(shared: &Arc<Shared>, publisher: &mut Publisher<usize>) -> Vec<Answer> {
    let mut answers = Vec::new();
    let Outgoing { proposals, forwards } = publisher.flush(shared);
    for proposal in proposals {
        let (done, answer) = oneshot::channel();
        let tickets = proposal.fate.tickets.to_vec();
        let (shared_later, mut fate) = (Arc::clone(shared), proposal.fate);
        let report = Box::new(move |result: Result<Vec<_>, cluster::ProposeError>| {
            fate.settle(&shared_later, result, |settled| {
                let failure = match settled {
                    Err(error) => Some(error.to_string()),
                    Ok(Settled { failed: true, .. }) => Some("its shard refused it".to_owned()),
                    Ok(Settled { handed_over, .. }) => (handed_over as u8 >= 0x80)
                        .then(|| format!("no other member took it: {handed_over:?}")),
                };
                drop(done.send(failure));
            });
        });
        shared
            .cluster
            .propose_batch(proposal.shard, proposal.commands, report);
        answers.push((tickets, answer));
    }
    for batch in forwards {
        let tickets = batch.tickets.to_vec();
        let (done, answer) = oneshot::channel();
        if !tickets.is_empty() {
            answers.push((tickets, answer));
        }
        batch.send(shared, publisher.lane(), move |_, reason_code| {
            let failed = reason_code as u8 >= 0x80;
            drop(done.send(failed.then(|| format!("another node could not take it: {reason_code:?}"))));
        });
    }
    answers
}
