//! Which connections of this node, which other nodes and which shards a topic goes to. Answers are cached by each publisher
//! and stay valid for as long as the generation does not change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use cluster::{Cluster, NodeRoute, ShardId};
use foldhash::{HashMap, HashMapExt};
use mqtt_topic::{FilterTree, SubscriptionFilter, TopicFilter};
use parking_lot::RwLock;

use crate::mailbox::{Grant, Mailbox};
use crate::share::{Here, Known, Leaving, ShareGroup};

/// A connected client's subscription.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) grant: Arc<Grant>,
    /// Of the client's own messages, where only some of its subscriptions have No Local.
    pub(crate) own_grant: Option<Arc<Grant>>,
    /// The session is kept in a shard, which brings it everything above QoS 0; only QoS 0 goes straight to it.
    pub(crate) durable: bool,
}

/// Where messages of one topic go.
#[derive(Default, Debug)]
pub(crate) struct Route {
    generation: (u64, u64),
    pub(crate) subscribers: Vec<Subscriber>,
    /// Some of them have no queue in a shard: what comes to their connections has been delivered.
    pub(crate) is_live: bool,
    pub(crate) groups: Vec<Arc<ShareGroup>>,
    /// Other nodes with connected subscribers.
    pub(crate) nodes: Vec<NodeRoute>,
    pub(crate) shards: Vec<ShardId>,
}

impl Subscriber {
    /// What is granted of messages of this publisher; `None`: nothing, they are the client's own. The same client id is the same
    /// client, whichever of its connections published. [MQTT-3.8.3-3]
    pub(crate) fn granted(&self, publisher: &str) -> Option<&Arc<Grant>> {
        match self.grant.no_local && *self.mailbox.client == *publisher {
            true => self.own_grant.as_ref(),
            false => Some(&self.grant),
        }
    }
}

impl Route {
    pub(crate) fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
            && self.groups.is_empty()
            && self.nodes.is_empty()
            && self.shards.is_empty()
    }
}

#[derive(Default, Debug)]
struct Entry {
    /// Sorted by the connection's id.
    subscribers: Vec<Subscriber>,
    groups: Vec<Arc<ShareGroup>>,
}

/// The table of this node.
#[derive(Debug)]
pub(crate) struct Router {
    table: RwLock<FilterTree<Entry>>,
    generation: AtomicU64,
    /// Shared subscriptions with members.
    groups: AtomicUsize,
}

impl Router {
    pub(crate) fn new() -> Self {
        Self {
            table: RwLock::new(FilterTree::new()),
            generation: AtomicU64::new(1),
            groups: AtomicUsize::new(0),
        }
    }

    fn generation(&self, cluster: &Cluster) -> (u64, u64) {
        (
            self.generation.load(Ordering::Acquire),
            cluster.routes_generation(),
        )
    }

    /// Whether a route is still the answer.
    pub(crate) fn is_current(&self, route: &Route, cluster: &Cluster) -> bool {
        route.generation == self.generation(cluster)
    }

    /// Looks a topic up.
    pub(crate) fn route(&self, topic: &str, cluster: &Cluster) -> Route {
        let mut route = Route {
            generation: self.generation(cluster),
            ..Route::default()
        };
        self.table.read().for_each_match(topic, |entry| {
            route.subscribers.extend_from_slice(&entry.subscribers);
            route.groups.extend_from_slice(&entry.groups);
        });
        merge_overlapping(&mut route.subscribers);
        route.is_live = route.subscribers.iter().any(|subscriber| !subscriber.durable);
        cluster.destinations(topic, &mut route.nodes, &mut route.shards);
        route
    }

    /// Only the connections of this node that subscribe to a topic.
    pub(crate) fn route_here(&self, topic: &str) -> Route {
        let mut route = Route {
            generation: (self.generation.load(Ordering::Acquire), 0),
            ..Route::default()
        };
        self.table.read().for_each_match(topic, |entry| {
            route.subscribers.extend_from_slice(&entry.subscribers);
        });
        merge_overlapping(&mut route.subscribers);
        route
    }

    /// Whether an answer of `route_here` still is one.
    pub(crate) fn is_current_here(&self, route: &Route) -> bool {
        route.generation.0 == self.generation.load(Ordering::Acquire)
    }

    /// Adds or replaces a connection's subscription to a plain filter. True: it is new.
    pub(crate) fn subscribe(&self, filter: &TopicFilter, subscriber: Subscriber) -> bool {
        let mut table = self.table.write();
        let subscribers = &mut table.get_or_insert_with(filter, Entry::default).subscribers;
        let position = subscribers.binary_search_by_key(&subscriber.mailbox.id, |s| s.mailbox.id);
        match position {
            Ok(found) => subscribers[found] = subscriber,
            Err(place) => subscribers.insert(place, subscriber),
        }
        self.generation.fetch_add(1, Ordering::Release);
        position.is_err()
    }

    /// Takes a connection's subscription away. True: there was one.
    pub(crate) fn unsubscribe(&self, filter: &TopicFilter, connection: u64) -> bool {
        let mut table = self.table.write();
        let Some(entry) = table.get_mut(filter) else {
            return false;
        };
        let Ok(found) = entry
            .subscribers
            .binary_search_by_key(&connection, |s| s.mailbox.id)
        else {
            return false;
        };
        entry.subscribers.remove(found);
        if entry.subscribers.is_empty() && entry.groups.is_empty() {
            table.remove(filter);
        }
        self.generation.fetch_add(1, Ordering::Release);
        true
    }

    /// A connection of this node joins a shared subscription, or changes what it is granted.
    pub(crate) fn join(&self, name: &str, filter: &TopicFilter, here: Here) {
        self.with_group(name, filter, |group| group.join(here));
    }

    /// A connection of this node leaves a shared subscription. True: it was in it.
    pub(crate) fn leave(
        &self,
        name: &str,
        filter: &TopicFilter,
        mailbox: &Mailbox,
        leaving: Leaving,
        this_node: u64,
    ) -> bool {
        let mut left = false;
        self.take_from_group(name, filter, |group| {
            left = group.leave(mailbox, leaving, this_node);
        });
        left
    }

    /// The cluster has a member of a shared subscription.
    pub(crate) fn learn(&self, name: &str, filter: &TopicFilter, client: &str, known: Known) {
        self.with_group(name, filter, |group| group.learn(client, known));
    }

    /// The cluster has not got a member any more.
    pub(crate) fn forget(&self, name: &str, filter: &TopicFilter, client: &str) {
        self.take_from_group(name, filter, |group| group.forget(client));
    }

    /// Adds to a group, which is made when it is missing.
    fn with_group(&self, name: &str, filter: &TopicFilter, add: impl FnOnce(&ShareGroup)) {
        let mut table = self.table.write();
        let groups = &mut table.get_or_insert_with(filter, Entry::default).groups;
        let group = match groups.iter().find(|group| &*group.name == name) {
            Some(group) => group,
            None => {
                groups.push(Arc::new(ShareGroup::new(name)));
                self.groups.fetch_add(1, Ordering::Relaxed);
                self.generation.fetch_add(1, Ordering::Release);
                groups.last().expect("one was pushed two lines above")
            }
        };
        add(group);
    }

    /// Takes from a group, which goes when nobody is left in it.
    fn take_from_group(&self, name: &str, filter: &TopicFilter, take: impl FnOnce(&ShareGroup)) {
        let mut table = self.table.write();
        let Some(entry) = table.get_mut(filter) else {
            return;
        };
        let Some(place) = entry.groups.iter().position(|group| &*group.name == name) else {
            return;
        };
        take(&entry.groups[place]);
        if !entry.groups[place].is_empty() {
            return;
        }
        entry.groups.remove(place);
        self.groups.fetch_sub(1, Ordering::Relaxed);
        if entry.subscribers.is_empty() && entry.groups.is_empty() {
            table.remove(filter);
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The group of a shared subscription, if it has members.
    pub(crate) fn group(&self, name: &str) -> Option<Arc<ShareGroup>> {
        let filter = SubscriptionFilter::parse(name.into()).ok()?;
        let table = self.table.read();
        let entry = table.get(filter.filter())?;
        entry.groups.iter().find(|group| &*group.name == name).cloned()
    }

    /// The shared subscriptions with a member whose session this shard keeps and who was not connected to another node than this
    /// one, which is down, and with one who is.
    pub(crate) fn shares_left_behind(&self, shard: ShardId, down: u64, this_node: u64) -> Vec<String> {
        let table = self.table.read();
        let groups = table.iter().flat_map(|(_, entry)| &entry.groups);
        let left = groups.filter(|group| group.is_left_behind(shard, down, this_node));
        left.map(|group| group.name.to_string()).collect()
    }

    /// Shows every filter of this node with its subscribers; while it does, nobody subscribes.
    pub(crate) fn for_each_filter(&self, mut visit: impl FnMut(&str, &[Subscriber])) {
        for (filter, entry) in self.table.read().iter() {
            visit(&filter, &entry.subscribers);
        }
    }

    /// Shared subscriptions with members, on whatever node.
    pub(crate) fn groups(&self) -> usize {
        self.groups.load(Ordering::Relaxed)
    }

    /// Filters with a connected subscriber or a group.
    pub(crate) fn filters(&self) -> usize {
        self.table.read().len()
    }
}

/// One copy for a client whose subscriptions overlap, with the highest QoS and every identifier. [MQTT-3.3.4-2]
fn merge_overlapping(subscribers: &mut Vec<Subscriber>) {
    if subscribers.len() < 2 {
        return;
    }
    let mut places: HashMap<u64, usize> = HashMap::with_capacity(subscribers.len());
    let mut merged: Vec<Subscriber> = Vec::with_capacity(subscribers.len());
    for subscriber in subscribers.drain(..) {
        let place = *places.entry(subscriber.mailbox.id).or_insert(merged.len());
        let Some(first) = merged.get_mut(place) else {
            merged.push(subscriber);
            continue;
        };
        if first.grant.no_local || subscriber.grant.no_local {
            first.own_grant = match (own_grant(first), own_grant(&subscriber)) {
                (Some(one), Some(other)) => Some(together(&one, &other)),
                (one, other) => one.or(other),
            };
        }
        first.grant = together(&first.grant, &subscriber.grant);
    }
    *subscribers = merged;
}

fn own_grant(subscriber: &Subscriber) -> Option<Arc<Grant>> {
    match subscriber.grant.no_local {
        true => subscriber.own_grant.clone(),
        false => Some(Arc::clone(&subscriber.grant)),
    }
}

/// What two subscriptions grant. No Local if one of them has it: then the client's own messages are looked at apart.
fn together(one: &Grant, other: &Grant) -> Arc<Grant> {
    let mut grant = one.clone();
    grant.qos = grant.qos.max(other.qos);
    grant.no_local |= other.no_local;
    grant.retain_as_published |= other.retain_as_published;
    grant.subscription_ids.extend_from_slice(&other.subscription_ids);
    Arc::new(grant)
}
