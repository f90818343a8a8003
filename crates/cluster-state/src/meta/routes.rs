//! Topic filters and where their messages go: nodes with connected subscribers, shards with durable ones.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_topic::{FilterTree, TopicFilter};

use super::MetaState;

/// One place that wants a filter's messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Destination {
    /// A node with a connected subscriber.
    Node {
        /// The node.
        node: u64,
        /// All its subscribers have sessions in shards: what is above QoS 0 reaches them from there.
        qos_0_only: bool,
    },
    /// A shard with a durable subscriber.
    Shard(u16),
}

/// All places that want a filter's messages. There are few of them per filter.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Destinations {
    /// Sorted: nodes, and whether they want QoS 0 only.
    nodes: Vec<(u64, bool)>,
    /// Sorted: shards, and the version they were added with last.
    shards: Vec<(u16, u64)>,
}

impl Destinations {
    /// In order, nodes first.
    pub fn iter(&self) -> impl Iterator<Item = Destination> {
        let nodes = self.nodes.iter().map(|(node, qos_0_only)| Destination::Node {
            node: *node,
            qos_0_only: *qos_0_only,
        });
        let shards = self.shards.iter().map(|(shard, _)| Destination::Shard(*shard));
        nodes.chain(shards)
    }

    /// The version a shard's route was added with last, if there is one.
    pub fn version(&self, shard: u16) -> Option<u64> {
        find(&self.shards, shard).ok().map(|place| self.shards[place].1)
    }

    pub(crate) fn nodes(&self) -> &[(u64, bool)] {
        &self.nodes
    }

    pub(crate) fn shards(&self) -> &[(u16, u64)] {
        &self.shards
    }

    fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.shards.is_empty()
    }
}

fn find<K: Ord + Copy, V>(sorted: &[(K, V)], key: K) -> Result<usize, usize> {
    sorted.binary_search_by_key(&key, |(known, _)| *known)
}

/// Whose routes they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    Node(u64),
    Shard(u16),
}

#[derive(Default, Debug)]
pub(crate) struct Routes {
    filters: FilterTree<Destinations>,
    /// What each place wants, to find it all when a node dies.
    by_place: BTreeMap<Place, BTreeSet<TopicFilter>>,
    generation: u64,
    pub(crate) changed: BTreeSet<TopicFilter>,
}

/// Adding what is there and removing what is not changes nothing: batches may be repeated.
impl Routes {
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn restore_generation(&mut self, generation: u64) {
        self.generation = generation;
    }

    pub(crate) fn get(&self, filter: &TopicFilter) -> Option<&Destinations> {
        self.filters.get(filter)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (String, &Destinations)> {
        self.filters.iter()
    }

    /// Adds a node's route, or changes whether it is for QoS 0 only.
    pub(crate) fn add_node(&mut self, filter: &TopicFilter, node: u64, qos_0_only: bool) {
        let nodes = &mut self
            .filters
            .get_or_insert_with(filter, Destinations::default)
            .nodes;
        match find(nodes, node) {
            Ok(place) if nodes[place].1 == qos_0_only => return,
            Ok(place) => nodes[place].1 = qos_0_only,
            Err(place) => {
                nodes.insert(place, (node, qos_0_only));
                self.by_place
                    .entry(Place::Node(node))
                    .or_default()
                    .insert(filter.clone());
            }
        }
        self.changed(filter);
    }

    pub(crate) fn remove_node(&mut self, filter: &TopicFilter, node: u64) {
        let Some(destinations) = self.filters.get_mut(filter) else {
            return;
        };
        if let Ok(place) = find(&destinations.nodes, node) {
            destinations.nodes.remove(place);
            self.removed(filter, Place::Node(node));
        }
    }

    /// Adds a shard's route. Of two that add it, the later version counts, in whatever order they come.
    pub(crate) fn add_shard(&mut self, filter: &TopicFilter, shard: u16, version: u64) {
        let shards = &mut self
            .filters
            .get_or_insert_with(filter, Destinations::default)
            .shards;
        match find(shards, shard) {
            Ok(place) if shards[place].1 >= version => {}
            Ok(place) => {
                shards[place].1 = version;
                self.changed.insert(filter.clone());
            }
            Err(place) => {
                shards.insert(place, (shard, version));
                self.by_place
                    .entry(Place::Shard(shard))
                    .or_default()
                    .insert(filter.clone());
                self.changed(filter);
            }
        }
    }

    /// Removes a shard's route unless it was added for this version or a later one. An entry of the shard may take a
    /// filter back first and want it again then, so that the same version wins as an addition.
    pub(crate) fn remove_shard(&mut self, filter: &TopicFilter, shard: u16, version: u64) {
        let Some(destinations) = self.filters.get_mut(filter) else {
            return;
        };
        if let Ok(place) = find(&destinations.shards, shard)
            && destinations.shards[place].1 < version
        {
            destinations.shards.remove(place);
            self.removed(filter, Place::Shard(shard));
        }
    }

    /// Removes all routes of a node.
    pub(crate) fn forget_node(&mut self, node: u64) {
        for filter in self.by_place.remove(&Place::Node(node)).unwrap_or_default() {
            self.remove_node(&filter, node);
        }
    }

    fn removed(&mut self, filter: &TopicFilter, place: Place) {
        if let Some(wanted) = self.by_place.get_mut(&place) {
            wanted.remove(filter);
            if wanted.is_empty() {
                self.by_place.remove(&place);
            }
        }
        if self.filters.get(filter).is_some_and(Destinations::is_empty) {
            self.filters.remove(filter);
        }
        self.changed(filter);
    }

    fn changed(&mut self, filter: &TopicFilter) {
        self.generation += 1;
        self.changed.insert(filter.clone());
    }

    /// How many routes the places have, for `check`.
    pub(super) fn listed(&self) -> usize {
        self.by_place.values().map(BTreeSet::len).sum()
    }

    fn wanted_by(&self, place: Place) -> impl Iterator<Item = &str> {
        self.by_place
            .get(&place)
            .into_iter()
            .flatten()
            .map(TopicFilter::as_str)
    }
}

impl MetaState {
    /// Visits where a topic's messages go, once per filter that matches: a place may come several times.
    pub fn for_each_destination(&self, topic: &str, mut visit: impl FnMut(Destination)) {
        self.routes
            .filters
            .for_each_match(topic, |destinations| destinations.iter().for_each(&mut visit));
    }

    /// The destinations of one filter.
    pub fn destinations(&self, filter: &TopicFilter) -> Option<&Destinations> {
        self.routes.get(filter)
    }

    /// The filters with a route to a shard, in their order.
    pub fn routes_of_shard(&self, shard: u16) -> impl Iterator<Item = &str> {
        self.routes.wanted_by(Place::Shard(shard))
    }

    /// The filters with a route to a node, in their order.
    pub fn routes_of_node(&self, node: u64) -> impl Iterator<Item = &str> {
        self.routes.wanted_by(Place::Node(node))
    }

    /// Every filter with its destinations.
    pub fn routes(&self) -> impl Iterator<Item = (String, &Destinations)> {
        self.routes.iter()
    }

    /// Changes whenever a route does.
    pub fn routes_generation(&self) -> u64 {
        self.routes.generation()
    }
}
