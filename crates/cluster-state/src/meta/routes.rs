//! Topic filters and where their messages go: nodes with connected subscribers, shards with durable ones.

use std::collections::{BTreeMap, BTreeSet};

use bytestring::ByteString;
use cluster_proto::{RouteChange, route_change};
use mqtt_topic::{FilterTree, TopicFilter};

use super::MetaState;

/// One place that wants a filter's messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Destination {
    /// A node with a connected subscriber.
    Node(u64),
    /// A shard with a durable subscriber.
    Shard(u16),
}

/// All places that want a filter's messages.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Destinations(pub(crate) BTreeSet<Destination>);

impl Destinations {
    /// In order, nodes first.
    pub fn iter(&self) -> impl Iterator<Item = Destination> {
        self.0.iter().copied()
    }
}

#[derive(Default, Debug)]
pub(crate) struct Routes {
    filters: FilterTree<Destinations>,
    /// What each destination wants, to find it all when a node dies.
    by_destination: BTreeMap<Destination, BTreeSet<TopicFilter>>,
    generation: u64,
    pub(crate) changed: BTreeSet<TopicFilter>,
}

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

    /// Adding what is there and removing what is not changes nothing: batches may be repeated.
    pub(crate) fn add(&mut self, filter: &TopicFilter, destination: Destination) {
        if self
            .filters
            .get_or_insert_with(filter, Destinations::default)
            .0
            .insert(destination)
        {
            self.by_destination
                .entry(destination)
                .or_default()
                .insert(filter.clone());
            self.changed(filter);
        }
    }

    pub(crate) fn remove(&mut self, filter: &TopicFilter, destination: Destination) {
        if let Some(wanted) = self.by_destination.get_mut(&destination) {
            wanted.remove(filter);
            if wanted.is_empty() {
                self.by_destination.remove(&destination);
            }
        }
        let Some(destinations) = self.filters.get_mut(filter) else {
            return;
        };
        if !destinations.0.remove(&destination) {
            return;
        }
        if destinations.0.is_empty() {
            self.filters.remove(filter);
        }
        self.changed(filter);
    }

    pub(crate) fn remove_node(&mut self, node: u64) {
        let destination = Destination::Node(node);
        for filter in self.by_destination.remove(&destination).unwrap_or_default() {
            self.remove(&filter, destination);
        }
    }

    fn changed(&mut self, filter: &TopicFilter) {
        self.generation += 1;
        self.changed.insert(filter.clone());
    }
}

impl MetaState {
    /// All of a batch or nothing.
    pub(super) fn change_routes(&mut self, changes: &[RouteChange]) -> Result<(), &'static str> {
        let mut parsed = Vec::with_capacity(changes.len());
        for change in changes {
            let filter = TopicFilter::parse(ByteString::from(change.filter.as_str()))
                .map_err(|_| "not a topic filter")?;
            let destination = match change.destination {
                Some(route_change::Destination::Node(node)) => Destination::Node(node),
                Some(route_change::Destination::Shard(shard)) => {
                    Destination::Shard(u16::try_from(shard).map_err(|_| "no such shard")?)
                }
                Some(route_change::Destination::Member(_)) | None => {
                    return Err("a route needs a destination");
                }
            };
            parsed.push((filter, destination, change.added));
        }
        for (filter, destination, added) in parsed {
            if added {
                self.routes.add(&filter, destination);
            } else {
                self.routes.remove(&filter, destination);
            }
        }
        Ok(())
    }

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

    /// Changes whenever a route does.
    pub fn routes_generation(&self) -> u64 {
        self.routes.generation()
    }
}
