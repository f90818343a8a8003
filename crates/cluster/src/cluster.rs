//! The handle the broker holds: proposing to shards, reading their state, and reaching the other nodes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cluster_proto::{
    Empty, FetchQueue, ForwardMessage, Kick, Owner, Publication, ShardCommand, ShardResponse, ShareMember,
    call_request, call_response, kick,
};
use cluster_state::{ShardState, shard_of};
use tokio::time::timeout;
use transport::{Channel, PeerError};

use crate::group::Group;
use crate::node::Inner;
use crate::proposer::BatchDone;
use crate::raft::Machine;
use crate::shard::Shard;
use crate::slot::Slot;
use crate::status::Status;
use crate::view::sum;
use crate::{
    Clock, ClusterClock, Fetch, KickedBy, Outboxed, ProposeError, SessionInfo, SessionWaker, ShardId, Totals,
};

/// Called once with the response of a command, after commit on disk and apply.
pub type Done = Box<dyn FnOnce(Result<ShardResponse, ProposeError>) + Send>;
/// Called once when another node has received messages, or when it is known that it never will.
pub type ForwardDone = Box<dyn FnOnce(Result<(), ProposeError>) + Send>;

/// The longest that the connection of a client's previous owner is waited for.
const KICK_WITHIN: Duration = Duration::from_secs(1);
/// The longest that announcing a subscription may take: longer than a silent node takes to be declared down.
const ANNOUNCE_WITHIN: Duration = Duration::from_secs(20);

/// The groups of this node. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(pub(crate) Arc<Inner>);

/// Another node that wants a topic's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRoute {
    /// The node.
    pub node: u64,
    /// Only sessions that are kept in shards are connected there: above QoS 0 the shards bring them everything.
    pub qos_0_only: bool,
}

/// Filters whose routes to a shard have to be announced: of the response to a `Subscribe`.
#[derive(Clone, Debug, Default)]
pub struct Unannounced {
    /// The shard.
    pub shard: ShardId,
    /// Plain topic filters.
    pub filters: Vec<String>,
    /// The index of the entry that made the subscriptions.
    pub version: u64,
}

impl Cluster {
    /// This node's random identity.
    pub fn node_id(&self) -> u64 {
        self.0.node_id
    }

    /// How often this node was started, or was taken back after it had been declared down. May grow at any time.
    pub fn incarnation(&self) -> u64 {
        self.0.incarnation()
    }

    /// The cluster this node belongs to; empty before it does.
    pub fn cluster_id(&self) -> String {
        self.0.cluster_id()
    }

    /// The number of shards.
    pub fn shards(&self) -> u16 {
        self.0.slots.len() as u16
    }

    /// Whether this node may serve clients: it belongs to the cluster, has caught up, holds its lease and is not stopping.
    pub fn is_ready(&self) -> bool {
        self.0.is_ready()
    }

    /// Whether this node holds its lease. Without it nothing above QoS 0 may be acknowledged.
    pub fn may_acknowledge(&self) -> bool {
        self.0.lease.is_held()
    }

    /// Whether this node is its cluster's only member: nothing needs announcing or forwarding.
    pub fn is_alone(&self) -> bool {
        self.0.is_alone()
    }

    /// The time of the cluster, as this node knows it.
    pub fn clock(&self) -> Arc<ClusterClock> {
        self.0.clock.clone()
    }

    /// The cluster as this node knows it.
    pub fn status(&self) -> Status {
        self.0.status()
    }

    /// For tests: of each group with a replica here, the last entry applied and a digest of the state after it. Replicas
    /// with the same entry have the same digest. Shard n is group n + 1.
    #[doc(hidden)]
    pub fn digests(&self) -> Vec<(u64, u64, u64)> {
        let meta = self.0.meta.machine.digest();
        let meta = (0, meta.0, meta.1);
        let shards = self.0.slots.iter().filter_map(|slot| {
            let replica = slot.replica()?;
            let group = u64::from(slot.id) + 1;
            Some(
                replica
                    .machine
                    .read_applied(|state, index| (group, index, state.digest())),
            )
        });
        std::iter::once(meta).chain(shards).collect()
    }

    /// How many shards this node leads.
    pub fn leads_count(&self) -> usize {
        self.0
            .slots
            .iter()
            .filter(|slot| slot.led_here().is_some())
            .count()
    }

    /// The shard of a client's session.
    pub fn shard_of_client(&self, client: &str) -> ShardId {
        shard_of(client, self.shards())
    }

    /// The shard of a topic's retained message.
    pub fn shard_of_topic(&self, topic: &str) -> ShardId {
        shard_of(topic, self.shards())
    }

    /// Proposes a command. `done` runs after commit on disk and apply, or at once when it is refused; the caller is
    /// never blocked, and `done` must not block either.
    pub fn propose(&self, shard: ShardId, command: ShardCommand, done: Done) {
        self.propose_batch(
            shard,
            vec![command],
            Box::new(move |responses| {
                done(
                    responses
                        .and_then(|responses| responses.into_iter().next().ok_or(ProposeError::NoQuorum)),
                );
            }),
        );
    }

    /// Proposes a command that nobody waits for, behind those proposed before. It may wait `within` that time for others
    /// to share an entry with. It is never refused for lack of room, so callers propose few; a node that stops drops it.
    pub fn propose_soon(&self, shard: ShardId, command: ShardCommand, within: Duration) {
        if let Some(slot) = self.0.slot(shard) {
            slot.proposer.propose_soon(command, within);
        }
    }

    /// Proposes commands that are applied in this order, in one entry.
    pub fn propose_batch(&self, shard: ShardId, commands: Vec<ShardCommand>, done: BatchDone) {
        match self.0.slot(shard) {
            Some(slot) => slot.proposer.propose(commands, done),
            None => done(Err(ProposeError::NoQuorum)),
        }
    }

    /// Proposes a command and waits for its response.
    pub async fn request(
        &self,
        shard: ShardId,
        command: ShardCommand,
    ) -> Result<ShardResponse, ProposeError> {
        self.0.shard_request(shard, command).await
    }

    /// Whether the shard's queue of proposals is above its limit: the caller stops reading its socket until its own
    /// proposals are complete.
    pub fn is_congested(&self, shard: ShardId) -> bool {
        self.0
            .slot(shard)
            .is_some_and(|slot| slot.proposer.is_congested())
    }

    /// From now on `waker` is told when the client's queue grows.
    pub fn attach(&self, client: &str, epoch: u64, waker: Arc<dyn SessionWaker>) {
        let replica = self.slot_with(client).and_then(|slot| slot.replica());
        if let Some(replica) = &replica {
            replica.machine.attach(client, epoch, waker.clone());
        }
        // A replica that has not caught up knows nothing of the connection yet.
        if replica.is_none_or(|replica| !replica.machine.is_owner(client, epoch)) {
            self.0.remote_queues.attach(client, epoch, waker);
        }
    }

    /// Ends what `attach` with this epoch began.
    pub fn detach(&self, client: &str, epoch: u64) {
        if let Some(replica) = self.slot_with(client).and_then(|slot| slot.replica()) {
            replica.machine.detach(client, epoch);
        }
        self.0.remote_queues.detach(client, epoch);
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
        let Some(slot) = self.slot_with(client) else {
            return Fetch::Gone;
        };
        if let Some(replica) = slot.replica() {
            let fetched = replica
                .machine
                .fetch(client, epoch, from_sequence, messages_max, bytes_max);
            if !matches!(fetched, Fetch::Gone)
                || replica.leads_surely()
                || !self.0.remote_queues.has(client, epoch)
            {
                return fetched;
            }
            // The leader is asked where the replica may be behind; a new one looks again when it has caught up.
            if replica.leads() {
                return Fetch::Loading;
            }
        }
        let request = FetchQueue {
            shard: u32::from(slot.id),
            client: client.to_owned(),
            epoch,
            from_sequence,
            messages_max: u32::try_from(messages_max).unwrap_or(u32::MAX),
            bytes_max: bytes_max as u64,
        };
        self.0.fetch_remote(slot, request)
    }

    /// Adds where a topic's messages go besides this node's own connections: other nodes and shards, each once.
    pub fn destinations(&self, topic: &str, nodes: &mut Vec<NodeRoute>, shards: &mut Vec<ShardId>) {
        // Looked at before the table is: once it does not grow any more, the table has all.
        let alone = self.is_alone();
        let from_replicas = alone || self.0.lease.is_growing();
        if !alone {
            self.0.meta.machine.destinations(topic, nodes, shards);
        }
        if !from_replicas {
            return;
        }
        for slot in self.0.slots.iter() {
            let has_route = |group: Arc<Group<Shard>>| group.machine.read(|state| state.has_route_for(topic));
            let wanted = !shards.contains(&slot.id) && slot.replica().is_some_and(has_route);
            if wanted {
                shards.push(slot.id);
            }
        }
    }

    /// Changes whenever the answer of `destinations` may have changed.
    pub fn routes_generation(&self) -> u64 {
        self.0.shard_parts.routes_generation.load(Ordering::Acquire)
    }

    /// One more connected subscriber of a filter on this node. `durable`: its session is kept in a shard.
    pub fn want(&self, filter: &str, durable: bool) {
        self.0.announcer.want(filter, durable);
    }

    /// One less.
    pub fn unwant(&self, filter: &str, durable: bool) {
        self.0.announcer.unwant(filter, durable);
    }

    /// A connected client of this node is a member of a shared subscription; the filter is the whole `$share/…`.
    pub fn join_share(&self, filter: &str, member: ShareMember) {
        let version = self.applied_of(&member.client);
        self.0.announcer.join_share(filter, member, version);
    }

    /// It is not any more, or not on this node: a durable member that `stays` is one without a node.
    pub fn leave_share(&self, filter: &str, client: &str, stays: bool) {
        let version = self.applied_of(client);
        self.0.announcer.leave_share(filter, client, stays, version);
    }

    fn applied_of(&self, client: &str) -> u64 {
        let replica = self.slot_with(client).and_then(|slot| slot.replica());
        replica.map_or(0, |replica| replica.machine.applied_index())
    }

    /// Returns when every live node routes by what was wanted or joined on this node before the call, and, if given, by
    /// the routes to a shard. At once on a node that is alone.
    ///
    /// # Errors
    /// The meta group has no leader with a quorum: what is routed is not known.
    pub async fn announced(&self, shard: Option<Unannounced>) -> Result<(), ProposeError> {
        if self.is_alone() || self.0.config.broken.no_route_wait {
            return Ok(());
        }
        let announcing = async {
            let mut index = self.0.announcer.announced().await;
            if let Some(Unannounced {
                shard,
                filters,
                version,
            }) = shard.filter(|shard| !shard.filters.is_empty())
            {
                index = index.max(self.0.announce_shard(shard, filters, version).await?);
            }
            // Routes that were here already may still be on their way to others.
            self.0.barrier(index.max(self.0.meta_applied())).await
        };
        timeout(ANNOUNCE_WITHIN, announcing)
            .await
            .unwrap_or(Err(ProposeError::NoQuorum))
    }

    /// Sends messages of a publisher to another node. `done` runs when that node has received them; with `Gone` when it
    /// was declared down.
    ///
    /// # Errors
    /// The messages come back: the lane has twice as much under way as it should.
    pub fn forward(
        &self,
        node: u64,
        publisher: &str,
        messages: Vec<ForwardMessage>,
        done: ForwardDone,
    ) -> Result<(), Vec<ForwardMessage>> {
        let Some(peers) = &self.0.peers else {
            done(Err(ProposeError::Gone));
            return Ok(());
        };
        if !self.0.is_live(node) {
            done(Err(ProposeError::Gone));
            return Ok(());
        }
        let done = Box::new(move |result: Result<(), PeerError>| {
            done(result.map_err(|_| ProposeError::Gone));
        });
        peers.forward(node, lane_of(publisher), messages, done)
    }

    /// Whether as much is under way to a node as should be: QoS 0 is to be dropped, publishers are to stop reading.
    pub fn is_forward_congested(&self, node: u64, publisher: &str) -> bool {
        self.0
            .peers
            .as_ref()
            .is_some_and(|peers| peers.is_congested(node, lane_of(publisher)))
    }

    /// Messages of the shard's outbox that are not done, oldest first, with their numbers. May read from disk. Nothing
    /// where this node does not lead the shard, and on one that is not ready: what it routes by may be old.
    pub fn outbox(&self, shard: ShardId, max: usize) -> Vec<Outboxed> {
        if !self.0.lease.serves() {
            return Vec::new();
        }
        let group = self.0.slot(shard).and_then(|slot| slot.led_here());
        group.map_or_else(Vec::new, |group| group.machine.outbox(max))
    }

    /// The retained messages that match and have not expired: what was acknowledged last for each topic.
    ///
    /// # Errors
    /// A shard that may have some has no leader with a quorum.
    pub async fn retained(&self, filter: &str, limit: usize) -> Result<Vec<Publication>, ProposeError> {
        let shards = self.shards_of_filter(filter);
        let mut found = self.0.read_all_retained(shards, filter, "", limit).await?;
        found.truncate(limit);
        Ok(found)
    }

    /// As `retained`, in the order of topics, and those behind a topic only: a page of a long list.
    ///
    /// # Errors
    /// As `retained`.
    pub async fn retained_page(
        &self,
        filter: &str,
        behind: &str,
        limit: usize,
    ) -> Result<Vec<Publication>, ProposeError> {
        let shards = self.shards_of_filter(filter);
        let mut found = self.0.read_all_retained(shards, filter, behind, limit).await?;
        found.sort_by(|a, b| a.topic.cmp(&b.topic));
        found.truncate(limit);
        Ok(found)
    }

    /// As `retained`, at once and from this node's replicas: for a node that is alone.
    pub fn retained_local(&self, filter: &str, limit: usize, visit: &mut dyn FnMut(&Publication)) {
        let now_ms = self.0.clock.now_ms();
        let mut left = limit;
        for shard in self.shards_of_filter(filter) {
            if let Some(replica) = self.0.slot(shard).and_then(|slot| slot.replica()) {
                replica.machine.retained(filter, now_ms, &mut left, visit);
            }
        }
    }

    fn shards_of_filter(&self, filter: &str) -> Vec<ShardId> {
        match filter.contains(['+', '#']) {
            true => (0..self.shards()).collect(),
            false => vec![self.shard_of_topic(filter)],
        }
    }

    /// The connection that has a client's session, as far as this node's replica of its shard knows.
    pub fn owner(&self, client: &str) -> Option<Owner> {
        self.0.slot_with(client)?.replica()?.machine.owner(client)
    }

    /// The same, if it is on another node.
    pub fn owner_elsewhere(&self, client: &str) -> Option<Owner> {
        if self.is_alone() {
            return None;
        }
        let owner = self.owner(client)?;
        (owner.node != self.0.node_id).then_some(owner)
    }

    /// Asks the node of a client's previous owner to close its connection, and returns when it has and what it proposed
    /// for the session is committed, after one second at the most. At once if that is this node, or one that is down. `None`: it
    /// has not answered. Otherwise where the connection came from, as far as it says that; empty if it had none.
    pub async fn kick(&self, previous: &Owner, client: &str, by: KickedBy) -> Option<String> {
        let Some(peers) = &self.0.peers else {
            return Some(String::new());
        };
        if previous.node == self.0.node_id || !self.0.is_live(previous.node) || self.0.config.broken.no_kicks
        {
            return Some(String::new());
        }
        let kick = call_request::Body::Kick(Kick {
            client: client.to_owned(),
            epoch: previous.epoch,
            by: match by {
                KickedBy::Connection(address) => address.map(kick::By::Address),
                KickedBy::Operator => Some(kick::By::Operator(Empty {})),
            },
        });
        // Fenced by its epoch, whatever becomes of this.
        let answer = peers.call(previous.node, Channel::Data, kick, KICK_WITHIN).await;
        match answer.ok()? {
            call_response::Body::Kicked(kicked) => Some(kicked.address),
            _ => Some(String::new()),
        }
    }

    /// What is known of a client's session.
    pub fn session_info(&self, client: &str) -> Option<SessionInfo> {
        self.slot_with(client)?.replica()?.machine.session_info(client)
    }

    /// Sums over the shards that this node leads.
    pub fn totals(&self) -> Totals {
        let led = self.0.slots.iter().filter_map(|slot| slot.led_here());
        sum(led.map(|group| group.machine.totals()))
    }

    /// Sessions, of the shards that this node leads, whose queue is nearly full. Looks at each of them.
    pub fn queues_near_limit(&self) -> u64 {
        let led = self.0.slots.iter().filter_map(|slot| slot.led_here());
        led.map(|group| group.machine.read(ShardState::queues_near_limit))
            .sum()
    }

    fn slot_with(&self, client: &str) -> Option<&Arc<Slot>> {
        self.0.slot_with(client)
    }
}

/// One lane for one publisher keeps its messages in order.
fn lane_of(publisher: &str) -> u32 {
    u32::from(cluster_state::placement::slot_of(publisher)) % transport::LANES
}
