//! What operators may look at and do on a running node. How they ask, and who may, is not known here.

mod publish;
mod sessions;
mod topics;
mod trace;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cluster::proto::{
    ClientSubscription, ConnectionFacts, EndSession, NodeNumbers, ShardCommand, Subscription,
    SubscriptionQuery, shard_command,
};
use cluster::{Cluster, KickedBy, ProposeError};
use mqtt_codec::ProtocolVersion;

use crate::mailbox::{Close, Grant};
use crate::overload::resident_bytes;
use crate::rebalance;
use crate::shared::Shared;

pub use crate::drain::DrainPhase;
pub use crate::rebalance::Share;
pub use crate::refusals::Refused;
pub use crate::trace::{Event, Line, Subject, TracedPacket};
pub use publish::{NewMessage, Outcome};
pub use sessions::Restored;
pub use topics::{Explained, Group, Keeper, Member, Receiver, Ruling, Who};
pub use trace::{Trace, TraceError};
pub use watch::{Watch, WatchError, Watched};

/// Subscriptions in one answer to another node.
const PAGE_MAX: usize = 10_000;

/// A hand on the node. Cheap to clone.
#[derive(Clone)]
pub struct Operator {
    shared: Arc<Shared>,
}

/// What came of a wish to disconnect a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnected {
    /// It was connected, and is told to go.
    Told,
    /// Its session was ended, wherever it is.
    Ended,
    /// The node that it is connected to has not answered.
    Unanswered,
    /// It is not connected.
    NotConnected,
    /// There is no such session.
    Unknown,
}

impl Operator {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The groups of this node.
    pub fn cluster(&self) -> &Cluster {
        &self.shared.cluster
    }

    /// Milliseconds since the Unix epoch, by the node's clock.
    pub fn now_ms(&self) -> u64 {
        self.shared.clock.now_ms()
    }

    /// Takes the node out of service, at the configured rate or another one, until `undrain`. What was asked for last counts.
    pub fn drain(&self, connections_per_second: Option<u32>) {
        let configured = self.shared.live().connections_per_second;
        self.shared
            .drain
            .begin(connections_per_second.unwrap_or(configured), None);
    }

    /// Takes the node back into service: clients may come, and it leads what it is to lead. False: it stops, and cannot.
    pub fn undrain(&self) -> bool {
        self.shared.drain.end()
    }

    /// How far the node is out of service, and how many connections it has.
    pub fn drain_progress(&self) -> (DrainPhase, usize) {
        (self.shared.drain.phase(), self.shared.registry.len())
    }

    /// Has every node with more than its share of the connections ask the rest to go elsewhere, at the configured rate or
    /// another one. What is told is as of now; a node that does not answer, or is out of service, is left out.
    pub async fn rebalance(&self, connections_per_second: Option<u32>) -> Vec<Share> {
        let cluster = &self.shared.cluster;
        let configured = self.shared.live().connections_per_second;
        let per_second = connections_per_second.unwrap_or(configured);
        let members = cluster.status().members.into_iter();
        let away = members.filter(|member| member.draining || member.leaving);
        let away: Vec<u64> = away.map(|member| member.node).collect();
        let numbers = cluster.numbers().await.into_iter();
        let serving = numbers.filter(|(node, _)| !away.contains(node));
        let serving = serving.filter_map(|(node, numbers)| Some((node, numbers?.connections)));
        let mut shares = rebalance::shares(&serving.collect::<Vec<_>>());
        for share in shares.iter_mut().filter(|share| share.excess > 0) {
            if !cluster.ask_to_move(share.node, share.excess, per_second).await {
                share.excess = 0;
            }
        }
        shares
    }

    /// What this node has counted.
    pub fn numbers(&self) -> NodeNumbers {
        numbers(&self.shared)
    }

    /// Closes a client's connection on whatever node it is; with `end_session` its session is deleted, too.
    ///
    /// # Errors
    /// The session's shard has no leader with a quorum; whether the session was ended is not known.
    pub async fn disconnect(&self, client: &str, end_session: bool) -> Result<Disconnected, ProposeError> {
        let cluster = &self.shared.cluster;
        let session = cluster.session(client, 0).await;
        let session = session.map_err(|_| ProposeError::NoQuorum)?;
        if end_session {
            if session.is_none() {
                return Ok(Disconnected::Unknown);
            }
            let command = shard_command::Command::EndSession(EndSession {
                client: client.to_owned(),
            });
            let command = ShardCommand {
                command: Some(command),
            };
            cluster.request(cluster.shard_of_client(client), command).await?;
        }
        // The connection may be newer than what that replica has applied.
        let here = self
            .shared
            .registry
            .fence(client, u64::MAX, Close::Administrative);
        match session {
            _ if here.is_some() => {}
            Some(session) if session.facts.connected => {
                let owner = session.facts.owner.unwrap_or_default();
                let answered = cluster.kick(&owner, client, KickedBy::Operator).await.is_some();
                if !answered && !end_session {
                    return Ok(Disconnected::Unanswered);
                }
            }
            _ if end_session => {}
            Some(_) => return Ok(Disconnected::NotConnected),
            None => return Ok(Disconnected::Unknown),
        }
        Ok(match end_session {
            true => Disconnected::Ended,
            false => Disconnected::Told,
        })
    }

    /// Filters behind one that this node's connections subscribe to, and how many of them; `limit` at the most.
    pub fn filters_here(
        &self,
        behind: &str,
        limit: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        self.shared.router.for_each_filter(|filter, subscribers| {
            if filter > behind && !subscribers.is_empty() && wanted(filter) {
                found.insert(filter.to_owned(), subscribers.len());
                if found.len() > limit {
                    found.pop_last();
                }
            }
        });
        found
    }
}

/// Subscriptions of this node's connections whose sessions no shard keeps, in the order of clients and filters. Shared ones are
/// members, and listed with the routes.
pub(crate) fn subscriptions(shared: &Shared, query: &SubscriptionQuery) -> Vec<ClientSubscription> {
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX).min(PAGE_MAX);
    let behind = (&*query.behind_client, &*query.behind_filter);
    let mut found: BTreeMap<(String, String), Subscription> = BTreeMap::new();
    shared.router.for_each_filter(|filter, subscribers| {
        for subscriber in subscribers.iter().filter(|subscriber| !subscriber.durable) {
            let client: &str = &subscriber.mailbox.client;
            let is_wanted = client.contains(&query.client_part) && filter.contains(&query.filter_part);
            if client.is_empty() || (client, filter) <= behind || !is_wanted {
                continue;
            }
            let key = (client.to_owned(), filter.to_owned());
            if found.len() >= limit && found.last_key_value().is_some_and(|(last, _)| *last < key) {
                continue;
            }
            found.insert(key, subscription(filter, &subscriber.grant));
            if found.len() > limit {
                found.pop_last();
            }
        }
    });
    let found = found.into_iter();
    found
        .map(|((client, _), subscription)| ClientSubscription {
            client,
            subscription: Some(subscription),
        })
        .collect()
}

pub(crate) fn numbers(shared: &Shared) -> NodeNumbers {
    let totals = &shared.sys.totals;
    NodeNumbers {
        connections: shared.registry.len() as u64,
        messages_received: totals.publishes_received.load(Ordering::Relaxed),
        messages_sent: totals.publishes_sent.load(Ordering::Relaxed),
        bytes_received: totals.bytes_received.load(Ordering::Relaxed),
        bytes_sent: totals.bytes_sent.load(Ordering::Relaxed),
        messages_dropped: shared.metrics.dropped_total(),
        uptime_s: shared.clock.now_ms().saturating_sub(shared.started_ms) / 1000,
        resident_bytes: resident_bytes().unwrap_or(0),
    }
}

/// As other nodes ask: with the subscriptions that no shard knows.
pub(crate) fn connection(shared: &Arc<Shared>, client: &str) -> ConnectionFacts {
    let Some(mut facts) = facts(shared, client) else {
        return ConnectionFacts::default();
    };
    if !facts.persistent {
        shared.router.for_each_filter(|filter, subscribers| {
            let own = subscribers
                .iter()
                .find(|subscriber| *subscriber.mailbox.client == *client);
            facts
                .subscriptions
                .extend(own.map(|subscriber| subscription(filter, &subscriber.grant)));
        });
    }
    facts
}

fn facts(shared: &Shared, client: &str) -> Option<ConnectionFacts> {
    let facts = shared.registry.get(client)?.facts;
    let protocol = match facts.version {
        ProtocolVersion::V3_1 => "MQTT 3.1",
        ProtocolVersion::V3_1_1 => "MQTT 3.1.1",
        ProtocolVersion::V5 => "MQTT 5.0",
    };
    Some(ConnectionFacts {
        connected: true,
        address: facts.peer.to_string(),
        listener: facts.listener.to_string(),
        protocol: protocol.to_owned(),
        keep_alive_s: u32::from(facts.keep_alive),
        connected_for_s: shared.clock.now_ms().saturating_sub(facts.since_ms) / 1000,
        persistent: facts.durable,
        in_flight: facts.in_flight.load(Ordering::Relaxed),
        subscriptions: Vec::new(),
    })
}

fn subscription(filter: &str, grant: &Grant) -> Subscription {
    Subscription {
        filter: filter.to_owned(),
        qos: u32::from(grant.qos as u8),
        no_local: grant.no_local,
        retain_as_published: grant.retain_as_published,
        retain_handling: 0,
        subscription_id: grant.subscription_ids.first().copied().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests;
