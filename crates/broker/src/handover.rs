//! Messages of shared subscriptions whose member did not get them, or left without acknowledging them: another member
//! gets them, on whatever node. [MQTT-4.8.2-5]

use std::sync::Arc;

use bytestring::ByteString;
use cluster::ProposeError;
use cluster::proto::{self, ShardCommand, shard_command::Command};
use mqtt_codec::{QoS, ReasonCode};
use mqtt_session::Delivery;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::connection::is_rejected;
use crate::forward::reason_code;
use crate::mailbox::{Grant, LiveMessage};
use crate::message::to_stored;
use crate::share::{Choice, Chosen, Place, ShareGroup};
use crate::shared::Shared;
use crate::sources::Source;

/// Members that are tried for one message.
const TRIES: usize = 4;
/// Nodes that pass a message on to one another, each because its member has just left, before it is dropped.
pub(crate) const HOPS_MAX: u32 = 3;

/// A message that one member of a group is to get.
#[derive(Clone, Debug)]
pub(crate) struct Handover {
    /// In wire form.
    pub(crate) group: Arc<str>,
    pub(crate) message: LiveMessage,
    pub(crate) publisher: Arc<str>,
    pub(crate) source: Option<Source>,
    /// Members that could not take it.
    pub(crate) except: SmallVec<[ByteString; 1]>,
    pub(crate) hops: u32,
}

impl Handover {
    /// What a member left unacknowledged.
    pub(crate) fn left_behind(delivery: Delivery) -> Option<Self> {
        Some(Self {
            group: delivery.share?,
            message: LiveMessage {
                publication: delivery.publication,
                qos: delivery.qos,
                retain: delivery.retain,
                expires_at: delivery.expires_at,
            },
            publisher: "".into(),
            source: None,
            except: SmallVec::new(),
            hops: 0,
        })
    }
}

/// Picks a member by the rules of the configuration.
pub(crate) fn choose(
    shared: &Shared,
    group: &ShareGroup,
    publisher: &str,
    message: &LiveMessage,
    except: &[ByteString],
) -> Option<Chosen> {
    let mqtt = &shared.config.mqtt;
    group.choose(&Choice {
        strategy: mqtt.shared_strategy,
        prefer_connected: mqtt.shared_prefer_connected,
        prefer_local: mqtt.shared_prefer_local,
        this_node: shared.cluster.node_id(),
        publisher,
        topic: message.publication.topic().as_str(),
        qos: message.qos,
        except,
    })
}

/// Finds members for messages, one after the other. The answer is the worst of theirs.
pub(crate) async fn all(shared: &Arc<Shared>, messages: Vec<Handover>) -> ReasonCode {
    let mut worst = ReasonCode::Success;
    for message in messages {
        let reason_code = hand_over(shared, message).await;
        if reason_code as u8 >= 0x80 {
            worst = reason_code;
        }
    }
    worst
}

/// Gives a message to a member that can take it. When there is none, it is counted as dropped: a subscription that
/// nobody has is no reason to refuse a message.
pub(crate) async fn hand_over(shared: &Arc<Shared>, mut handover: Handover) -> ReasonCode {
    for _ in 0..TRIES {
        let Some(group) = shared.router.group(&handover.group) else {
            break;
        };
        let Handover {
            message,
            publisher,
            except,
            ..
        } = &handover;
        let Some(chosen) = choose(shared, &group, publisher, message, except) else {
            break;
        };
        match give(shared, &handover, &chosen).await {
            Given::Taken => return ReasonCode::Success,
            Given::Failed(reason_code) => return reason_code,
            Given::Refused => handover.except.push(chosen.client),
        }
    }
    shared.metrics.no_subscribers.increment(1);
    ReasonCode::Success
}

enum Given {
    Taken,
    /// This member cannot take it; another one may.
    Refused,
    /// Whether it has it is not known.
    Failed(ReasonCode),
}

async fn give(shared: &Arc<Shared>, handover: &Handover, chosen: &Chosen) -> Given {
    match &chosen.place {
        Place::Here { mailbox, grant } => {
            let mut wakers = Vec::new();
            let delivery = Box::new(delivery_for(&handover.message, grant, &handover.group));
            if mailbox.deliver_one(delivery, &mut wakers).is_err() {
                return Given::Refused;
            }
            wakers.into_iter().for_each(std::task::Waker::wake);
            Given::Taken
        }
        Place::Shard(shard) => {
            // Without its source: the shard may have seen the number by another member.
            let append = proto::Append {
                publication: Some(to_stored(&handover.message, &handover.publisher)),
                only_client: chosen.client.to_string(),
                share_filter: handover.group.to_string(),
                ..proto::Append::default()
            };
            let command = ShardCommand {
                command: Some(Command::Append(append)),
            };
            match shared.cluster.request(*shard, command).await {
                // It has left since.
                Ok(response) if is_rejected(&response) => Given::Refused,
                Ok(_) => Given::Taken,
                Err(error) => Given::Failed(reason_code(&error)),
            }
        }
        Place::Node(_) if handover.hops >= HOPS_MAX => Given::Refused,
        Place::Node(node) => forward(shared, handover, *node, &chosen.client).await,
    }
}

async fn forward(shared: &Arc<Shared>, handover: &Handover, node: u64, client: &str) -> Given {
    if handover.message.qos == QoS::AtMostOnce
        && shared.cluster.is_forward_congested(node, &handover.publisher)
    {
        return Given::Refused;
    }
    let message = proto::ForwardMessage {
        publication: Some(to_stored(&handover.message, &handover.publisher)),
        only_client: client.to_owned(),
        share_filter: handover.group.to_string(),
        hops: handover.hops + 1,
        ..proto::ForwardMessage::default()
    };
    let (sender, answer) = oneshot::channel();
    // Nobody may be waiting any more.
    let done = Box::new(move |result| drop(sender.send(result)));
    if shared
        .cluster
        .forward(node, &handover.publisher, vec![message], done)
        .is_err()
    {
        return Given::Refused;
    }
    shared.metrics.forwarded(1, None);
    match answer.await.unwrap_or(Err(ProposeError::Stopping)) {
        Ok(()) => Given::Taken,
        Err(ProposeError::Gone) => Given::Refused,
        Err(error) => Given::Failed(reason_code(&error)),
    }
}

pub(crate) fn delivery_for(message: &LiveMessage, grant: &Grant, group: &Arc<str>) -> Delivery {
    Delivery {
        publication: message.publication.clone(),
        qos: message.qos.min(grant.qos),
        retain: message.retain && grant.retain_as_published,
        subscription_ids: grant.subscription_ids.clone(),
        expires_at: message.expires_at,
        share: Some(Arc::clone(group)),
    }
}
