//! What the replicated state and other nodes tell the broker on this node.

use cluster_proto::{
    ClientSubscription, ConnectionFacts, ForwardMessage, NodeNumbers, Refusal, RefusalQuery, ShareMember,
    SubscriptionQuery,
};

use crate::{Ended, ShardId};

/// Who wants a connection to be closed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KickedBy {
    /// A new connection of the client, from this address; `None`: its node does not say.
    Connection(Option<String>),
    /// An operator.
    Operator,
}

/// A connection that was told to close.
#[derive(Debug)]
pub struct Kicked {
    /// Can be waited for.
    pub ended: Ended,
    /// Where it comes from.
    pub address: String,
}

/// What this node is told. Called from apply tasks and from peers' streams with no lock held: it must not block.
pub trait Observer: Send + Sync + 'static {
    /// This node leads the shard, and its outbox has messages that wait for their destinations.
    fn outbox_ready(&self, shard: ShardId);
    /// A client of the cluster joined a shared subscription, changed there, or left; also told at start for each one.
    fn share_member(&self, filter: &str, member: &ShareMember, added: bool);
    /// This node's connection of the client with this epoch or an older one is fenced: close it with 0x8E.
    fn owner_lost(&self, client: &str, epoch: u64);
    /// A session's state is gone.
    fn session_ended(&self, client: &str, reason: &'static str);
    /// Messages were dropped: "queue_full" or "expired".
    fn dropped(&self, reason: &'static str, count: u64);
    /// What another node's publishers sent for connections of this node, in order. It is acknowledged when this returns.
    fn forwarded(&self, from: u64, messages: Vec<ForwardMessage>);
    /// Closes the client's connection if its epoch is not above.
    fn kick(&self, client: &str, epoch: u64, by: KickedBy) -> Option<Kicked>;
    /// A node is down. Names the shared subscriptions of which this shard keeps what its clients have not got, and that have members
    /// connected to other nodes, to get it instead.
    fn shares_left_behind(&self, shard: ShardId, node: u64) -> Vec<String> {
        let _ = (shard, node);
        Vec::new()
    }
    /// The node lost its lease: every connection is to be closed.
    fn fenced(&self);
    /// The node is to leave the cluster for good: its clients are to go elsewhere. Told again and again; true when none is left.
    fn leaving(&self) -> bool {
        true
    }
    /// What the node has counted, for operators who ask any node.
    fn numbers(&self) -> NodeNumbers {
        NodeNumbers::default()
    }
    /// So many clients are to be asked to go to other nodes, at this rate. False: that is under way already.
    fn move_clients(&self, count: u64, per_second: u32) -> bool {
        let _ = (count, per_second);
        false
    }
    /// What is known of a client that is connected to this node.
    fn connection(&self, client: &str) -> ConnectionFacts {
        let _ = client;
        ConnectionFacts::default()
    }
    /// What this node refused lately.
    fn refusals(&self, query: &RefusalQuery) -> Vec<Refusal> {
        let _ = query;
        Vec::new()
    }
    /// Where these clients come from; empty for one that is not connected to this node.
    fn addresses(&self, clients: &[String]) -> Vec<String> {
        vec![String::new(); clients.len()]
    }
    /// A page of the subscriptions of connections whose sessions no shard keeps.
    fn subscriptions(&self, query: &SubscriptionQuery) -> Vec<ClientSubscription> {
        let _ = query;
        Vec::new()
    }
}

/// A connection that wants to know when its session's queue has more.
pub trait SessionWaker: Send + Sync {
    /// The queue has messages which the last `fetch` did not return. At most once per applied entry.
    fn queue_grew(&self);
}
