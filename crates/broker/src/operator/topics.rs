//! Where a message of a topic would go, and why.

use std::net::{IpAddr, Ipv4Addr};

use access::Principal;
use cluster::proto::Keepers;
use cluster::{NodeRoute, ShardId};
use futures_util::future::join_all;
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
    /// How many sessions keep it, and the first of them. None: no replica of the shard answered.
    pub sessions: Option<Keepers>,
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

/// Who would publish a message.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// A client by its whole id.
    Client(&'a str),
    /// Somebody of whom the user name alone is known.
    User(&'a str),
}

/// What the access rules say of a publish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ruling {
    /// Whether it is allowed.
    pub is_allowed: bool,
    /// The line of the rule that decides; `None`: no rule speaks of it, or there are none.
    pub line: Option<u32>,
    /// False: rules that ask for a certificate, a token or an address were passed over, since they are not known here.
    pub is_exact: bool,
    /// The same in words.
    pub reason: String,
}

impl Operator {
    /// What the rules in force here say of a client or user that publishes to a topic.
    ///
    /// # Errors
    /// Why there cannot be such a message, that there is no such client, or that nobody who knows answered, in words.
    pub async fn ruling(&self, topic: &str, who: Who<'_>) -> Result<Ruling, String> {
        let shared = &self.shared;
        let name = TopicName::parse(topic.into()).map_err(|error| error.to_string())?;
        if !shared.authenticator.has_rules() {
            return Ok(Ruling {
                is_allowed: true,
                line: None,
                is_exact: true,
                reason: "there are no rules".to_owned(),
            });
        }
        let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let (principal, is_exact, name) = match who {
            Who::User(user) => (Principal::named(user, "", unspecified), false, name),
            Who::Client(client) => {
                let (tenant, client_id, seen) = shared.tenants.as_written(client, name);
                if tenant.is_none() && shared.tenants.is_of_a_tenant(client) {
                    return Ok(Ruling {
                        is_allowed: false,
                        line: None,
                        is_exact: true,
                        reason: "the topic is not one of the client's tenant".to_owned(),
                    });
                }
                let here = shared.registry.get(client);
                match here.and_then(|connected| connected.facts.principal.clone()) {
                    Some(principal) => (*principal, true, seen),
                    None => {
                        let session = shared.cluster.session(client, 0).await;
                        let session =
                            session.map_err(|_| "no node with a copy of the client's shard answered")?;
                        let session = session.ok_or("there is no such client")?;
                        let principal = Principal {
                            user: Some(session.facts.user).filter(|user| !user.is_empty()),
                            tenant,
                            ..Principal::anonymous(client_id, unspecified)
                        };
                        (principal, false, seen)
                    }
                }
            }
        };
        let permissions = shared.authenticator.permissions(&principal).unwrap_or_default();
        let verdict = permissions.publish(&name);
        let reason = match (verdict.line, verdict.is_allowed) {
            (Some(line), true) => format!("line {line} of the rules allows it"),
            (Some(line), false) => format!("line {line} of the rules denies it"),
            (None, true) => "the rules allow it".to_owned(),
            (None, false) => "no rule allows it".to_owned(),
        };
        Ok(Ruling {
            is_allowed: verdict.is_allowed,
            line: verdict.line,
            is_exact,
            reason,
        })
    }

    /// Where a message would go from here.
    ///
    /// # Errors
    /// Why there cannot be such a message, in words.
    pub async fn explain(&self, topic: &str, qos: u8) -> Result<Explained, String> {
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
        let keeper = async |shard: &ShardId| Keeper {
            shard: *shard,
            takes: above_0,
            sessions: shared.cluster.keepers(*shard, topic, LISTED_MAX).await,
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
            shards: join_all(route.shards.iter().map(keeper)).await,
            groups: route.groups.iter().map(group).collect(),
            strategy: shared.config.mqtt.shared_strategy,
            matched: !route.is_empty(),
            retained_shard: shared.cluster.shard_of_topic(topic),
        })
    }
}
