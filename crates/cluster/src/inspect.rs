//! Looking through the replicated state, for operators: sessions, subscriptions and routes, in pages, from the replicas that
//! this node has; and what other nodes know alone, asked of them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use cluster_proto::{
    AskConnection, AskNumbers, AskToMove, ConnectionFacts, NodeNumbers, Subscription, call_request,
    call_response,
};
use cluster_state::meta::Destination;
use cluster_state::{QueueItem, SessionView};
use futures_util::future::join_all;
use transport::Channel;

use crate::slot::Slot;
use crate::{Cluster, NodeRoute, ShardId, Totals};

/// Sessions looked at between two chances for the shard to apply entries.
const SLICE: usize = 1000;
/// Another node has this long to answer; one that does not is shown as silent.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// A session with all that its shard knows.
#[derive(Clone, Debug)]
pub struct Session {
    /// Who owns it, and how much waits.
    pub view: SessionView,
    /// In the order of filters.
    pub subscriptions: Vec<Subscription>,
    /// The first deliveries that are not finished.
    pub queue: Vec<QueueItem>,
}

/// A subscription that a shard keeps.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Whose it is.
    pub client: String,
    /// What it asks for.
    pub subscription: Subscription,
}

/// Where messages of a filter go.
#[derive(Clone, Debug, Default)]
pub struct RouteView {
    /// Nodes with connected subscribers, this one included.
    pub nodes: Vec<NodeRoute>,
    /// Shards with a session that keeps them.
    pub shards: Vec<ShardId>,
    /// Of a shared subscription: how many members it has.
    pub members: usize,
}

impl Cluster {
    /// Of how many shards this node has a replica.
    pub fn shards_held(&self) -> usize {
        self.0
            .slots
            .iter()
            .filter(|slot| slot.replica().is_some())
            .count()
    }

    /// Sums over the shards that this node has a replica of.
    pub fn totals_held(&self) -> Totals {
        let mut totals = Totals::default();
        for replica in self.0.slots.iter().filter_map(|slot| slot.replica()) {
            replica.machine.add_totals(&mut totals);
        }
        totals
    }

    /// Messages and bytes that are retained for an owner in the shards that this node has a replica of.
    pub fn retained_held(&self, owner: &str) -> (u64, u64) {
        let replicas = self.0.slots.iter().filter_map(|slot| slot.replica());
        replicas.fold((0, 0), |(messages, bytes), replica| {
            let (more, larger) = replica.machine.read(|state| state.retained_of(owner));
            (messages + more, bytes + larger)
        })
    }

    /// A session, from this node's replica of its shard. None: it has no replica, or there is no such session.
    pub fn session(&self, client: &str, queue_max: usize) -> Option<Session> {
        let slot = self.0.slot(self.shard_of_client(client))?;
        slot.replica()?.machine.read(|state| {
            Some(Session {
                view: state.session(client)?,
                subscriptions: state.subscriptions(client),
                queue: state.queue_from(client, 0, queue_max, usize::MAX).0,
            })
        })
    }

    /// Whether this node has a replica of the client's shard.
    pub fn holds_client(&self, client: &str) -> bool {
        let slot = self.0.slot(self.shard_of_client(client));
        slot.is_some_and(|slot| slot.replica().is_some())
    }

    /// Sessions behind a client id that are wanted, in the order of client ids; `limit` at the most.
    pub async fn sessions(
        &self,
        behind: &str,
        limit: usize,
        wanted: impl Fn(&str, &SessionView) -> bool,
    ) -> Vec<(String, SessionView)> {
        let mut found = Vec::new();
        for slot in self.0.slots.iter() {
            let mut page = Vec::new();
            let take = |client: &str, view: SessionView| {
                if wanted(client, &view) {
                    page.push((client.to_owned(), view));
                }
                page.len() < limit
            };
            walk(slot, behind, take).await;
            found.append(&mut page);
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found.truncate(limit);
        found
    }

    /// Subscriptions of sessions from a client id on, in the order of client ids and filters. They are those of whole
    /// sessions: of the last one there may be some beyond the limit.
    pub async fn subscriptions(
        &self,
        from: &str,
        limit: usize,
        wanted: impl Fn(&str, &Subscription) -> bool,
    ) -> Vec<Kept> {
        let mut found = Vec::new();
        for slot in self.0.slots.iter() {
            let mut page = Vec::new();
            let mut take = |client: &str| {
                let subscriptions = slot
                    .replica()
                    .map(|replica| replica.machine.read(|state| state.subscriptions(client)));
                let kept = subscriptions.into_iter().flatten();
                page.extend(
                    kept.filter(|subscription| wanted(client, subscription))
                        .map(|subscription| Kept {
                            client: client.to_owned(),
                            subscription,
                        }),
                );
                page.len() < limit
            };
            if take(from) {
                // Two looks at the shard: the session may have changed in between, as it may after the answer.
                let mut behind = from.to_owned();
                while let Some(clients) = clients_with_subscriptions(slot, &behind) {
                    behind = clients.last().cloned().unwrap_or_default();
                    if clients.is_empty() || !clients.iter().all(|client| take(client)) {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            found.append(&mut page);
        }
        found.sort_by(|a, b| (&a.client, &a.subscription.filter).cmp(&(&b.client, &b.subscription.filter)));
        found
    }

    /// Who keeps a message of this topic in a shard: how many sessions, and the first of them. None: no replica here.
    pub fn keepers(&self, shard: ShardId, topic: &str, max: usize) -> Option<(u64, Vec<String>)> {
        let replica = self.0.slot(shard)?.replica()?;
        let mut clients = std::collections::BTreeSet::new();
        replica.machine.read(|state| {
            state.keepers(topic, &mut |client| {
                clients.insert(client.clone());
            });
        });
        let first = clients.iter().take(max).map(ToString::to_string).collect();
        Some((clients.len() as u64, first))
    }

    /// Filters behind one, in their order, with where their messages go; `limit` at the most. On a node that is alone
    /// those of its shards.
    pub fn route_table(
        &self,
        behind: &str,
        limit: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> BTreeMap<String, RouteView> {
        let mut found: BTreeMap<String, RouteView> = BTreeMap::new();
        let mut add = |filter: String, change: &mut dyn FnMut(&mut RouteView)| {
            if filter.as_str() <= behind || !wanted(&filter) {
                return;
            }
            // Of those that are kept only the first are needed.
            if found.len() >= limit && found.last_key_value().is_some_and(|(last, _)| *last < filter) {
                return;
            }
            change(found.entry(filter).or_default());
            if found.len() > limit {
                found.pop_last();
            }
        };
        if self.is_alone() {
            for slot in self.0.slots.iter() {
                let Some(replica) = slot.replica() else { continue };
                let (routes, shared) = replica.machine.read(|state| {
                    let shared = state.shared_members(slot.id);
                    let shared: Vec<String> = shared.map(|(filter, _)| filter.to_string()).collect();
                    (state.routes().collect::<Vec<_>>(), shared)
                });
                routes
                    .into_iter()
                    .for_each(|filter| add(filter, &mut |route| route.shards.push(slot.id)));
                shared
                    .into_iter()
                    .for_each(|filter| add(filter, &mut |route| route.members += 1));
            }
            return found;
        }
        self.0.meta.machine.read(|state| {
            for (filter, destinations) in state.routes() {
                add(filter, &mut |route| {
                    for destination in destinations.iter() {
                        match destination {
                            Destination::Node { node, qos_0_only } => {
                                route.nodes.push(NodeRoute { node, qos_0_only });
                            }
                            Destination::Shard(shard) => route.shards.push(shard),
                        }
                    }
                });
            }
            for (filter, _) in state.share_members() {
                add(filter.to_owned(), &mut |route| route.members += 1);
            }
        });
        found
    }

    /// What every member has counted; none of those that do not answer within a second.
    pub async fn numbers(&self) -> Vec<(u64, Option<NodeNumbers>)> {
        let members: Vec<(u64, bool)> = self.0.meta.machine.read(|state| {
            let members = state.members();
            members.map(|member| (member.node, member.down)).collect()
        });
        let ask = |(node, down): (u64, bool)| async move {
            if node == self.0.node_id {
                return (node, Some(self.0.observer.numbers()));
            }
            if down {
                return (node, None);
            }
            match self
                .ask(node, call_request::Body::AskNumbers(AskNumbers {}))
                .await
            {
                Some(call_response::Body::Numbers(numbers)) => (node, Some(numbers)),
                _ => (node, None),
            }
        };
        join_all(members.into_iter().map(ask)).await
    }

    /// What a node knows of a client's connection. None: it did not answer, or the client is not connected there.
    pub async fn connection(&self, node: u64, client: &str) -> Option<ConnectionFacts> {
        let facts = if node == self.0.node_id {
            self.0.observer.connection(client)
        } else {
            let client = client.to_owned();
            let body = call_request::Body::AskConnection(AskConnection { client });
            match self.ask(node, body).await? {
                call_response::Body::Connection(facts) => facts,
                _ => return None,
            }
        };
        facts.connected.then_some(facts)
    }

    /// Has a member ask so many of its clients to go elsewhere. False: it does so already, or does not answer.
    pub async fn ask_to_move(&self, node: u64, count: u64, per_second: u32) -> bool {
        if node == self.0.node_id {
            return self.0.observer.move_clients(count, per_second);
        }
        let body = call_request::Body::AskToMove(AskToMove { count, per_second });
        self.ask(node, body).await.is_some()
    }

    async fn ask(&self, node: u64, body: call_request::Body) -> Option<call_response::Body> {
        let peers = self.0.peers.as_ref()?;
        peers.call(node, Channel::Data, body, ASK_WITHIN).await.ok()
    }
}

/// Shows the sessions behind a client id to `take`, until it says that it has enough.
async fn walk(slot: &Slot, behind: &str, mut take: impl FnMut(&str, SessionView) -> bool) {
    let mut behind = behind.to_owned();
    loop {
        let Some(replica) = slot.replica() else { return };
        let (mut seen, mut enough) = (0, false);
        replica.machine.read(|state| {
            state.sessions_after(&behind.clone(), &mut |client, view| {
                seen += 1;
                behind = client.to_string();
                enough = !take(client, view);
                match enough || seen == SLICE {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
        });
        if enough || seen < SLICE {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// The next sessions of a shard that have subscriptions, or what was looked at last. None: no replica here.
fn clients_with_subscriptions(slot: &Slot, behind: &str) -> Option<Vec<String>> {
    let replica = slot.replica()?;
    let mut clients = Vec::new();
    let mut seen = 0;
    replica.machine.read(|state| {
        state.sessions_after(behind, &mut |client, view| {
            seen += 1;
            if view.subscriptions > 0 || seen == SLICE {
                clients.push(client.to_string());
            }
            match seen == SLICE {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
    });
    Some(clients)
}
