//! Stand-ins of a single node for what many nodes need: the broker is built on these.

use cluster_proto::{ForwardMessage, Owner, Publication, ShareMember};

use crate::{Cluster, ProposeError, ShardId};

/// A node that wants a topic's messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeRoute {
    /// Its id.
    pub node: u64,
    /// Only sessions kept in shards are connected there: what is above QoS 0 comes to them through the shard.
    pub qos_0_only: bool,
}

/// Called once when a node has received messages, or was declared down.
pub type ForwardDone = Box<dyn FnOnce(Result<(), ProposeError>) + Send>;

/// Filters of a shard that the meta group has no routes for yet.
#[derive(Clone, Debug)]
pub struct Unannounced {
    /// Which shard.
    pub shard: ShardId,
    /// Its filters.
    pub filters: Vec<String>,
    /// The index of the entry that added them.
    pub version: u64,
}

impl Cluster {
    /// Where a topic's messages go besides this node's own connections. Adds to the vectors, each place once.
    pub fn destinations(&self, topic: &str, _nodes: &mut Vec<NodeRoute>, shards: &mut Vec<ShardId>) {
        self.matching_shards(topic, shards);
    }

    /// Changes whenever the answer of `destinations` may have changed.
    pub fn routes_generation(&self) -> u64 {
        self.durable_routes_generation()
    }

    /// One more connected subscriber of a filter on this node.
    pub fn want(&self, _filter: &str, _durable: bool) {}

    /// One less.
    pub fn unwant(&self, _filter: &str, _durable: bool) {}

    /// A connected client of this node joins a shared subscription.
    pub fn join_share(&self, _filter: &str, _member: ShareMember) {}

    /// It leaves.
    pub fn leave_share(&self, _filter: &str, _client: &str, _stays: bool) {}

    /// Returns when every live node routes by what was wanted before.
    ///
    /// # Errors
    /// It is not known to be so.
    pub async fn announced(&self, _shard: Option<Unannounced>) -> Result<(), ProposeError> {
        Ok(())
    }

    /// Whether this node is the only member.
    pub fn is_alone(&self) -> bool {
        true
    }

    /// Sends messages to another node.
    ///
    /// # Errors
    /// The lane is full: the messages are given back.
    pub fn forward(
        &self,
        _node: u64,
        _publisher: &str,
        messages: Vec<ForwardMessage>,
        _done: ForwardDone,
    ) -> Result<(), Vec<ForwardMessage>> {
        Err(messages)
    }

    /// Whether QoS 0 is to be dropped and publishers are to stop reading.
    pub fn is_forward_congested(&self, _node: u64, _publisher: &str) -> bool {
        false
    }

    /// Retained messages that match.
    ///
    /// # Errors
    /// A shard could not be asked.
    pub async fn retained(&self, filter: &str, limit: usize) -> Result<Vec<Publication>, ProposeError> {
        let (cluster, filter) = (self.clone(), filter.to_owned());
        let read = move || {
            let mut found = Vec::new();
            cluster.retained_local(&filter, limit, &mut |stored| found.push(stored.clone()));
            found
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|_| ProposeError::Stopping)
    }

    /// Asks the previous owner's node to close its connection.
    pub async fn kick(&self, _previous: &Owner, _client: &str) {}

    /// Whether this node may acknowledge anything above QoS 0.
    pub fn may_acknowledge(&self) -> bool {
        self.is_ready()
    }
}
