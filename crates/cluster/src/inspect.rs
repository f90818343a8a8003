//! Looking through the replicated state, for operators: sessions, subscriptions and routes, in pages. Each shard is read from this
//! node's replica, or from another node's; and what other nodes know alone is asked of them.

mod replica;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use cluster_proto::inspect::Question;
use cluster_proto::{
    AddressesOf, AskConnection, AskNumbers, AskToMove, ClientSubscription, ConnectionFacts, Inspect,
    Inspected, Keepers, KeepersOf, NodeNumbers, QueuedFacts, Refusal, RefusalQuery, SessionFacts, SessionOf,
    SessionQuery, Subscription, SubscriptionQuery, TotalsOf, call_request, call_response,
};
use cluster_state::meta::Destination;
use futures_util::future::join_all;
use transport::Channel;

use crate::view::sum;
use crate::{Cluster, NodeRoute, ShardId, Totals};

/// Another node has this long to answer; one that does not is shown as silent.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// What all shards, or all nodes, know together.
#[derive(Clone, Debug, Default)]
pub struct Found<T> {
    /// In order.
    pub items: Vec<T>,
    /// Of how many shards a replica answered; the items are those of these.
    pub shards: usize,
}

/// A session with all that its shard knows.
#[derive(Clone, Debug)]
pub struct Session {
    /// Who owns it, and how much waits.
    pub facts: SessionFacts,
    /// In the order of filters.
    pub subscriptions: Vec<Subscription>,
    /// The first deliveries that are not finished.
    pub queue: Vec<QueuedFacts>,
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

/// No replica of a client's shard answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Silent(
    /// The shard.
    pub ShardId,
);

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
        let held = self.0.slots.iter().filter_map(|slot| slot.replica());
        sum(held.map(|replica| replica.machine.totals()))
    }

    /// What a sum over the shards that this node has a replica of says of all shards, if the others are like them.
    pub fn of_all_shards(&self, counted: u64) -> u64 {
        let (held, shards) = (self.shards_held() as u64, u64::from(self.shards()));
        counted.saturating_mul(shards) / held.max(1)
    }

    /// Sessions of a tenant, as its name is in front of their client ids, in the shards that this node has a replica of.
    pub fn sessions_held(&self, tenant: &str) -> u64 {
        let replicas = self.0.slots.iter().filter_map(|slot| slot.replica());
        let sessions = replicas.map(|replica| replica.machine.read(|state| state.sessions_in(tenant)));
        sessions.sum()
    }

    /// Messages and bytes that are retained for an owner in the shards that this node has a replica of.
    pub fn retained_held(&self, owner: &str) -> (u64, u64) {
        let replicas = self.0.slots.iter().filter_map(|slot| slot.replica());
        replicas.fold((0, 0), |(messages, bytes), replica| {
            let (more, larger) = replica.machine.read(|state| state.retained_of(owner));
            (messages + more, bytes + larger)
        })
    }

    /// Sums over all shards, and of how many shards they are.
    pub async fn totals_of_all(&self) -> (Totals, usize) {
        let asked = self.0.slots.iter();
        let asked = asked.map(|slot| self.ask_shard(slot.id, Question::Totals(TotalsOf {})));
        let answers = join_all(asked).await.into_iter().flatten();
        let known: Vec<Totals> = answers.filter_map(|answer| answer.totals).collect();
        let shards = known.len();
        (sum(known), shards)
    }

    /// A session with its subscriptions and the first of its queue. None: its shard has no such session.
    ///
    /// # Errors
    /// No replica of its shard answered.
    pub async fn session(&self, client: &str, queue_max: usize) -> Result<Option<Session>, Silent> {
        let shard = self.shard_of_client(client);
        let question = Question::Session(SessionOf {
            client: client.to_owned(),
            queue_max: queue_max as u64,
        });
        let found = self.ask_shard(shard, question).await.ok_or(Silent(shard))?;
        let (queue, subscriptions) = (found.queue, found.subscriptions.into_iter());
        Ok(found.sessions.into_iter().next().map(|facts| Session {
            facts,
            subscriptions: subscriptions.filter_map(|one| one.subscription).collect(),
            queue,
        }))
    }

    /// A page of the sessions of all shards.
    pub async fn sessions(&self, query: &SessionQuery) -> Found<SessionFacts> {
        let next = |left: usize, last: Option<&SessionFacts>| {
            let mut query = query.clone();
            query.limit = left as u64;
            if let Some(last) = last {
                query.behind.clone_from(&last.client);
            }
            Question::Sessions(query)
        };
        let limit = query.limit as usize;
        let mut found = self.list(limit, next, |page| &mut page.sessions).await;
        found.items.sort_by(|a, b| a.client.cmp(&b.client));
        found.items.truncate(limit);
        found
    }

    /// A page of the subscriptions that shards keep.
    pub async fn subscriptions(&self, query: &SubscriptionQuery) -> Found<ClientSubscription> {
        let next = |left: usize, last: Option<&ClientSubscription>| {
            let mut query = query.clone();
            query.limit = left as u64;
            if let Some(last) = last {
                query.behind_client.clone_from(&last.client);
                filter_of(last).clone_into(&mut query.behind_filter);
            }
            Question::Subscriptions(query)
        };
        let limit = query.limit as usize;
        let mut found = self.list(limit, next, |page| &mut page.subscriptions).await;
        found.items.sort_by(by_client_and_filter);
        found.items.truncate(limit);
        found
    }

    /// The first of each shard, up to a limit each. `next` asks for so many more behind the last one.
    async fn list<T>(
        &self,
        limit: usize,
        next: impl Fn(usize, Option<&T>) -> Question,
        items: impl Fn(&mut Inspected) -> &mut Vec<T>,
    ) -> Found<T> {
        let lists = self.0.slots.iter().map(async |slot| {
            let mut found = Vec::new();
            loop {
                let question = next(limit - found.len(), found.last());
                let mut page = self.ask_shard(slot.id, question).await?;
                let more = page.more && !items(&mut page).is_empty();
                found.append(items(&mut page));
                if !more || found.len() >= limit {
                    return Some(found);
                }
            }
        });
        let lists = join_all(lists).await;
        let shards = lists.iter().flatten().count();
        let items = lists.into_iter().flatten().flatten().collect();
        Found { items, shards }
    }

    /// A page of the subscriptions of connections whose sessions no shard keeps, with the node each is at; and who did not answer.
    pub async fn connected_subscriptions(
        &self,
        query: &SubscriptionQuery,
    ) -> (Vec<(u64, ClientSubscription)>, Vec<u64>) {
        let (answers, silent) = self.ask_nodes(&Question::Connected(query.clone())).await;
        let of_node = |(node, known): (u64, Inspected)| {
            let subscriptions = known.subscriptions.into_iter();
            subscriptions.map(move |one| (node, one))
        };
        let mut found: Vec<_> = answers.into_iter().flat_map(of_node).collect();
        found.sort_by(|(_, a), (_, b)| by_client_and_filter(a, b));
        found.truncate(query.limit as usize);
        (found, silent)
    }

    /// What nodes refused lately, the newest first, with the node each was at; and who did not answer.
    pub async fn refusals(&self, query: &RefusalQuery) -> (Vec<(u64, Refusal)>, Vec<u64>) {
        let (answers, silent) = self.ask_nodes(&Question::Refusals(query.clone())).await;
        let of_node =
            |(node, known): (u64, Inspected)| known.refusals.into_iter().map(move |one| (node, one));
        let mut found: Vec<_> = answers.into_iter().flat_map(of_node).collect();
        found.sort_by_key(|(_, refusal)| std::cmp::Reverse(refusal.at_ms));
        found.truncate(query.limit as usize);
        (found, silent)
    }

    /// Where the clients of those sessions come from that are connected, by client id.
    pub async fn addresses(&self, sessions: &[SessionFacts]) -> HashMap<String, String> {
        let mut by_node: HashMap<u64, Vec<String>> = HashMap::new();
        for session in sessions.iter().filter(|session| session.connected) {
            let node = session.owner.unwrap_or_default().node;
            by_node.entry(node).or_default().push(session.client.clone());
        }
        let asked = by_node.into_iter().map(async |(node, clients)| {
            let addresses = self.addresses_at(node, clients.clone()).await;
            clients.into_iter().zip(addresses)
        });
        let known = join_all(asked).await.into_iter().flatten();
        known.filter(|(_, address)| !address.is_empty()).collect()
    }

    async fn addresses_at(&self, node: u64, clients: Vec<String>) -> Vec<String> {
        let known = self
            .ask_node(node, &Question::Addresses(AddressesOf { clients }))
            .await;
        known.unwrap_or_default().addresses
    }

    /// Who keeps a message of this topic in a shard: how many sessions, and the first of them. None: no replica answered.
    pub async fn keepers(&self, shard: ShardId, topic: &str, max: usize) -> Option<Keepers> {
        let question = Question::Keepers(KeepersOf {
            topic: topic.to_owned(),
            listed_max: max as u64,
        });
        self.ask_shard(shard, question).await?.keepers
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
        let members = self.members();
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

    /// What a replica answers: this node's, or the first other one that does.
    async fn ask_shard(&self, shard: ShardId, question: Question) -> Option<Inspected> {
        if let Some(found) = self.0.inspect(shard, &question).await {
            return Some(found);
        }
        for node in self.0.slot(shard)?.others() {
            let body = call_request::Body::Inspect(Inspect {
                shard: shard.into(),
                question: Some(question.clone()),
            });
            if let Some(call_response::Body::Inspected(found)) = self.ask(node, body).await {
                return Some(found);
            }
        }
        None
    }

    /// What all live members answer, this one included; and who did not.
    async fn ask_nodes(&self, question: &Question) -> (Vec<(u64, Inspected)>, Vec<u64>) {
        let members = self.members().into_iter();
        let live = members.filter(|(node, down)| !down || *node == self.0.node_id);
        let asked = live.map(async |(node, _)| (node, self.ask_node(node, question).await));
        let (mut answers, mut silent) = (Vec::new(), Vec::new());
        for (node, answer) in join_all(asked).await {
            match answer {
                Some(answer) => answers.push((node, answer)),
                None => silent.push(node),
            }
        }
        (answers, silent)
    }

    /// What a node knows alone.
    async fn ask_node(&self, node: u64, question: &Question) -> Option<Inspected> {
        if node == self.0.node_id {
            return self.0.inspect_node(question);
        }
        let body = call_request::Body::Inspect(Inspect {
            shard: 0,
            question: Some(question.clone()),
        });
        match self.ask(node, body).await? {
            call_response::Body::Inspected(found) => Some(found),
            _ => None,
        }
    }

    /// The cluster's members, and whether they are declared down.
    fn members(&self) -> Vec<(u64, bool)> {
        self.0.meta.machine.read(|state| {
            let members = state.members();
            members.map(|member| (member.node, member.down)).collect()
        })
    }

    async fn ask(&self, node: u64, body: call_request::Body) -> Option<call_response::Body> {
        let peers = self.0.peers.as_ref()?;
        peers.call(node, Channel::Data, body, ASK_WITHIN).await.ok()
    }
}

fn filter_of(one: &ClientSubscription) -> &str {
    one.subscription
        .as_ref()
        .map_or("", |subscription| &subscription.filter)
}

fn by_client_and_filter(a: &ClientSubscription, b: &ClientSubscription) -> std::cmp::Ordering {
    (&a.client, filter_of(a)).cmp(&(&b.client, filter_of(b)))
}
