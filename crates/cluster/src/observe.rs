//! What the replicated state tells the broker on this node.

use cluster_proto::{ForwardMessage, ShareMember};

use crate::ShardId;

/// What the replicated state tells this node. Called from a shard's apply task with no lock held: it must not block.
pub trait Observer: Send + Sync + 'static {
    /// The outbox of a shard has messages that wait for their destinations.
    fn outbox_ready(&self, shard: ShardId);
    /// A client of the cluster joined or left a shared subscription; also told at start for every one that exists.
    fn share_member(&self, filter: &str, member: &ShareMember, added: bool);
    /// This node's connection of the client with this epoch or an older one is fenced: close it with 0x8E.
    fn owner_lost(&self, client: &str, epoch: u64);
    /// A session's state is gone.
    fn session_ended(&self, client: &str, reason: &'static str);
    /// Messages were dropped: "queue_full" or "expired".
    fn dropped(&self, reason: &'static str, count: u64);
    /// Messages another node's publishers sent for connections of this node, in order.
    fn forwarded(&self, from: u64, messages: Vec<ForwardMessage>);
    /// Closes the client's connection if its epoch is not above.
    fn kick(&self, client: &str, epoch: u64) -> Option<tokio::sync::watch::Receiver<()>>;
    /// The node lost its lease: every connection is to be closed.
    fn fenced(&self);
}

/// A connection that wants to know when its session's queue has more.
pub trait SessionWaker: Send + Sync {
    /// The queue has messages which the last `fetch` did not return. At most once per applied entry.
    fn queue_grew(&self);
}
