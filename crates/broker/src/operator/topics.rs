//! Where a message of a topic would go, and why.

use cluster::{NodeRoute, ShardId};
use mqtt_codec::QoS;
use mqtt_topic::TopicName;

use super::Operator;
use crate::config::SharedStrategy;

/// Names that are listed of each kind; all are counted.
const LISTED_MAX: usize = 100;

/// Where a message would go.
#[derive(Clone, Debug)]
pub struct Explained {
    /// Connections of this node that get it at once; the first of them.
    pub here: Vec<Receiver>,
    /// How many they are.
    pub here_count: u64,
    /// Other nodes with connected subscribers.
    pub nodes: Vec<NodeRoute>,
    /// Shards with sessions that keep it.
    pub shards: Vec<Keeper>,
    /// Shared subscriptions, of which one member each gets it.
    pub groups: Vec<Group>,
    /// How a member is chosen.
    pub strategy: SharedStrategy,
    /// Whether anybody wants it.
    pub matched: bool,
    /// The shard of the topic's retained message.
    pub retained_shard: ShardId,
}

/// A connection that gets a message.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Its client id.
    pub client: String,
    /// The QoS it gets it with.
    pub qos: u8,
    /// Its session is kept in a shard.
    pub persistent: bool,
}

/// A shard that a message goes into.
#[derive(Clone, Debug)]
pub struct Keeper {
    /// Its number.
    pub shard: ShardId,
    /// Whether this message goes there: QoS 0 is not kept.
    pub takes: bool,
    /// How many sessions keep it, and the first of them. None: this node has no replica of the shard.
    pub sessions: Option<(u64, Vec<String>)>,
}

/// A shared subscription.
#[derive(Clone, Debug)]
pub struct Group {
    /// The whole `$share/name/filter`.
    pub filter: String,
    /// The first of its members.
    pub members: Vec<Member>,
}

/// A client in a shared subscription.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its client id.
    pub client: String,
    /// Where it is connected.
    pub node: Option<u64>,
    /// A shard keeps its session.
    pub kept: bool,
}

impl Operator {
    /// Where a message would go from here.
    ///
    /// # Errors
    /// Why there cannot be such a message, in words.
    pub fn explain(&self, topic: &str, qos: u8) -> Result<Explained, String> {
        let name = TopicName::parse(topic.into()).map_err(|error| error.to_string())?;
        if name.is_dollar() {
            return Err(
                "topics that begin with `$` are the server's own: clients may not publish to them".into(),
            );
        }
        let shared = &self.shared;
        let route = shared.router.route(name.as_str(), &shared.cluster);
        let above_0 = qos > 0;
        let direct = |durable: bool, granted: QoS| !(durable && above_0 && granted > QoS::AtMostOnce);
        let receivers = route
            .subscribers
            .iter()
            .filter(|subscriber| direct(subscriber.durable, subscriber.grant.qos));
        let listed = receivers.clone().take(LISTED_MAX).map(|subscriber| Receiver {
            client: subscriber.mailbox.client.to_string(),
            qos: qos.min(subscriber.grant.qos as u8),
            persistent: subscriber.durable,
        });
        let keeper = |shard: &ShardId| Keeper {
            shard: *shard,
            takes: above_0,
            sessions: shared.cluster.keepers(*shard, topic, LISTED_MAX),
        };
        let this_node = shared.cluster.node_id();
        let group = |group: &std::sync::Arc<crate::share::ShareGroup>| {
            let members = group.list(this_node).into_iter().take(LISTED_MAX);
            let member = |(client, node, kept): (bytestring::ByteString, Option<u64>, bool)| Member {
                client: client.to_string(),
                node,
                kept,
            };
            Group {
                filter: group.name.to_string(),
                members: members.map(member).collect(),
            }
        };
        Ok(Explained {
            here: listed.collect(),
            here_count: receivers.count() as u64,
            nodes: route.nodes.clone(),
            shards: route.shards.iter().map(keeper).collect(),
            groups: route.groups.iter().map(group).collect(),
            strategy: shared.config.mqtt.shared_strategy,
            matched: !route.is_empty(),
            retained_shard: shared.cluster.shard_of_topic(topic),
        })
    }
}
