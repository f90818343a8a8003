//! The handle the broker holds: proposing to shards and reading their state.

use std::sync::Arc;

use cluster_proto::{Publication, ShardCommand, ShardResponse};

use crate::{
    Clock, Config, Fetch, Observer, ProposeError, SessionInfo, SessionWaker, ShardId, StartError, Totals,
};

/// The groups of this node. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {}

/// Called once with the responses of a batch, after commit on disk and apply.
pub type BatchDone = Box<dyn FnOnce(Result<Vec<ShardResponse>, ProposeError>) + Send>;
/// Called once with the response of a command, after commit on disk and apply.
pub type Done = Box<dyn FnOnce(Result<ShardResponse, ProposeError>) + Send>;

#[allow(unused_variables, clippy::todo)]
impl Cluster {
    /// Opens or creates the data directory, replays, becomes the leader of every group of a cluster of one, and
    /// returns when all of them are ready.
    pub async fn start(
        config: Config,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Cluster, StartError> {
        todo!()
    }
    /// Drains the proposals, writes a last checkpoint and closes the files.
    pub async fn shutdown(&self) {
        todo!()
    }
    /// This node's random identity.
    pub fn node_id(&self) -> u64 {
        todo!()
    }
    /// How often this node was started.
    pub fn incarnation(&self) -> u64 {
        todo!()
    }
    /// The cluster this node belongs to.
    pub fn cluster_id(&self) -> String {
        todo!()
    }
    /// The number of shards.
    pub fn shards(&self) -> u16 {
        todo!()
    }
    /// Whether every group has a leader and this node is not stopping.
    pub fn is_ready(&self) -> bool {
        todo!()
    }
    /// The shard of a client's session.
    pub fn shard_of_client(&self, client: &str) -> ShardId {
        todo!()
    }
    /// The shard of a topic's retained message.
    pub fn shard_of_topic(&self, topic: &str) -> ShardId {
        todo!()
    }
    /// Proposes a command. `done` runs after commit on disk and apply; the caller is never blocked.
    pub fn propose(&self, shard: ShardId, command: ShardCommand, done: Done) {
        todo!()
    }
    /// Proposes commands that are applied in this order, in one entry where they fit.
    pub fn propose_batch(&self, shard: ShardId, commands: Vec<ShardCommand>, done: BatchDone) {
        todo!()
    }
    /// Proposes a command and waits for its response.
    pub async fn request(
        &self,
        shard: ShardId,
        command: ShardCommand,
    ) -> Result<ShardResponse, ProposeError> {
        todo!()
    }
    /// Whether the shard's queue of proposals is above its limit: the caller stops reading its socket until its own
    /// proposals are complete.
    pub fn is_congested(&self, shard: ShardId) -> bool {
        todo!()
    }
    /// From now on `waker` is told when the client's queue grows.
    pub fn attach(&self, client: &str, epoch: u64, waker: Arc<dyn SessionWaker>) {
        todo!()
    }
    /// Ends what `attach` with this epoch began.
    pub fn detach(&self, client: &str, epoch: u64) {
        todo!()
    }
    /// The session's queue from a sequence number on, oldest first, without what is acknowledged.
    pub fn fetch(
        &self,
        client: &str,
        epoch: u64,
        from_sequence: u64,
        messages_max: usize,
        bytes_max: usize,
    ) -> Fetch {
        todo!()
    }
    /// Adds the shards with a matching durable plain subscription.
    pub fn matching_shards(&self, topic: &str, out: &mut Vec<ShardId>) {
        todo!()
    }
    /// Changes whenever the answer of `matching_shards` may have changed.
    pub fn durable_routes_generation(&self) -> u64 {
        todo!()
    }
    /// Messages of the shard's outbox that are not done, oldest first, with their numbers.
    pub fn outbox(&self, shard: ShardId, max: usize) -> Vec<(u64, Publication)> {
        todo!()
    }
    /// Visits the retained messages that match and have not expired; a filter without wildcards asks one shard.
    pub fn retained(&self, filter: &str, limit: usize, visit: &mut dyn FnMut(&Publication)) {
        todo!()
    }
    /// What is known of a client's session.
    pub fn session_info(&self, client: &str) -> Option<SessionInfo> {
        todo!()
    }
    /// Sums over all shards.
    pub fn totals(&self) -> Totals {
        todo!()
    }
}
