//! What the groups of a node are told, and the errors its callers see.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use storage::{Files, OnFatal, Writing};
use transport::Net;

/// A shard group's number, from 0.
pub type ShardId = u16;

/// When an acknowledgement may be given to the publisher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckLevel {
    /// A quorum has the message on synced disks.
    #[default]
    QuorumSynced,
    /// A quorum has it in memory; a loss of power in a quorum loses it.
    Quorum,
    /// This node has it in memory.
    Received,
}

/// Limits and intervals of the groups of one node.
#[derive(Clone)]
pub struct Config {
    /// Where the identity, the Raft log and the state are kept; created when absent.
    pub data_dir: PathBuf,
    /// The number of shard groups, fixed when the data directory is created.
    pub shards: u16,
    /// Bytes of message bodies kept in memory; older ones are read from disk when they are fetched.
    pub queue_memory_bytes: u64,
    /// Bytes of that which others use: bodies keep to what is left, and to a quarter of it all at least.
    pub queue_memory_elsewhere: Arc<AtomicU64>,
    /// The longest time between two checkpoints of a shard that changed.
    pub checkpoint_interval: Duration,
    /// A shard whose log has grown by this many bytes is checkpointed before the interval is over.
    pub checkpoint_log_bytes: u64,
    /// When a proposal is complete.
    pub ack: AckLevel,
    /// Bytes of proposals a shard may have waiting; above that it is congested, at twice that it answers `Busy`.
    pub proposal_queue_bytes: u64,
    /// How long a proposal whose fate is unknown is proposed again. Then its caller is told so.
    pub propose_timeout: Duration,
    /// A name for people, and the place of a node whose disk was lost. Empty: the node has none.
    pub name: String,
    /// Where the node stands; replicas of a shard are spread over zones.
    pub zone: String,
    /// The disk: the real one, or a simulated one.
    pub files: Files,
    /// Who writes the Raft log: a thread, or whoever a simulation says.
    pub writing: Writing,
    /// What happens when the log cannot be written any more: the process ends.
    pub on_fatal: OnFatal,
    /// Other nodes. Absent: this node has no peers and stays alone.
    pub peers: Option<PeerConfig>,
    /// What a test leaves out to see that it notices.
    #[doc(hidden)]
    pub broken: Broken,
}

/// Steps that a node can be told to leave out, for tests that have to notice. Nothing but a test sets them.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Broken {
    /// SUBACK does not wait until other nodes route by the subscription.
    pub no_route_wait: bool,
    /// Replicas apply entries by a time of their own, not by that of the leader.
    pub own_time: bool,
    /// Connections that have lost their session may still change it.
    pub no_epochs: bool,
    /// Entries and messages have no numbers by which those that come again are told from new ones.
    pub no_numbers: bool,
    /// What was proposed last goes into the log first.
    pub newest_first: bool,
    /// A leader that restarts leads on in its old term.
    pub leads_on: bool,
    /// Connections are not asked to close before their sessions are taken.
    pub no_kicks: bool,
    /// Each node goes by its own clock, whatever the others' show.
    pub own_clocks: bool,
    /// A group that a node has no log of is founded, also if its replica was there before.
    pub founds_again: bool,
    /// A checkpoint does not wait until the disk has the log that it refers to.
    pub early_checkpoints: bool,
    /// What a leader has taken is waited for, whether it answers or not.
    pub waits_for_ever: bool,
    /// The lead of a shard is moved once, whatever becomes of it.
    pub moves_once: bool,
}

/// How a node reaches its peers and lives with them.
#[derive(Clone)]
pub struct PeerConfig {
    /// The network: TCP with or without TLS, or a simulated one.
    pub net: Arc<dyn Net>,
    /// Where this node listens for its peers.
    pub listen: String,
    /// The address its peers dial: `host:port`.
    pub advertise: String,
    /// Nodes to look for at the first start, `host:port`, this one included or not. Empty: found a cluster alone.
    pub seeds: Vec<String>,
    /// How many nodes form the first cluster together. Fewer wait for the others.
    pub expect: usize,
    /// Voters of a shard, where there are so many nodes.
    pub replication_factor: usize,
    /// Voters of the meta group at the most: odd.
    pub meta_voters_max: usize,
    /// How long a node may serve without having heard from a meta leader with a quorum.
    pub lease: Duration,
    /// A node that was not heard of for so long is declared down. Longer than the lease, by more than a second.
    pub down_after: Duration,
    /// The replicas of a node that has been down for so long are replaced, where there are other nodes.
    pub replace_after: Duration,
}

impl fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerConfig")
            .field("listen", &self.listen)
            .field("advertise", &self.advertise)
            .field("seeds", &self.seeds)
            .field("expect", &self.expect)
            .finish_non_exhaustive()
    }
}

impl PeerConfig {
    /// The defaults of a node that listens and is dialled at one address.
    pub fn new(net: Arc<dyn Net>, address: &str) -> Self {
        Self {
            net,
            listen: address.to_owned(),
            advertise: address.to_owned(),
            seeds: Vec::new(),
            expect: 0,
            replication_factor: 3,
            meta_voters_max: 5,
            lease: Duration::from_secs(3),
            down_after: Duration::from_secs(5),
            replace_after: Duration::from_secs(600),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            shards: 16,
            queue_memory_bytes: 256 << 20,
            queue_memory_elsewhere: Arc::default(),
            checkpoint_interval: Duration::from_secs(10),
            checkpoint_log_bytes: 64 << 20,
            ack: AckLevel::QuorumSynced,
            proposal_queue_bytes: 8 << 20,
            propose_timeout: Duration::from_secs(10),
            name: String::new(),
            zone: String::new(),
            files: Files::default(),
            writing: Writing::Thread,
            on_fatal: OnFatal::default(),
            peers: None,
            broken: Broken::default(),
        }
    }
}

/// Why a proposal has no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The shard's queue of proposals is full. Nothing was proposed.
    #[error("the shard's queue of proposals is full")]
    Busy,
    /// No leader with a quorum: whether the command will be applied is unknown.
    #[error("the shard has no leader with a quorum")]
    NoQuorum,
    /// The node it was for is gone for good, or declared down.
    #[error("the node is down")]
    Gone,
    /// This node is shutting down.
    #[error("the node is stopping")]
    Stopping,
    /// The disk failed.
    #[error("storage: {0}")]
    Storage(String),
}

/// Why the node's groups did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory, the log or the state could not be opened.
    #[error("{0}")]
    Storage(String),
    /// A group did not become ready.
    #[error("group {group}: {reason}")]
    Group {
        /// The group's number: 0 is the meta group, shard n is n + 1.
        group: u64,
        /// What went wrong.
        reason: String,
    },
    /// The peers' address cannot be listened on.
    #[error("cannot listen for peers on {address}: {reason}")]
    Listen {
        /// As configured.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// The configuration contradicts the data directory.
    #[error("the data directory was created with {found} shards, the configuration says {configured}")]
    ShardsDiffer {
        /// The number in the data directory.
        found: u16,
        /// The number configured.
        configured: u16,
    },
}
