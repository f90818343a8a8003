//! What the groups of a node are told, and the errors its callers see.

use std::path::PathBuf;
use std::time::Duration;

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
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the identity, the Raft log and the state are kept; created when absent.
    pub data_dir: PathBuf,
    /// The number of shard groups, fixed when the data directory is created.
    pub shards: u16,
    /// Bytes of message bodies kept in memory; older ones are read from disk when they are fetched.
    pub queue_memory_bytes: u64,
    /// The longest time between two checkpoints of a shard that changed.
    pub checkpoint_interval: Duration,
    /// A shard whose log has grown by this many bytes is checkpointed before the interval is over.
    pub checkpoint_log_bytes: u64,
    /// When a proposal is complete.
    pub ack: AckLevel,
    /// Bytes of proposals a shard may have waiting; above that it is congested, at twice that it answers `Busy`.
    pub proposal_queue_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            shards: 16,
            queue_memory_bytes: 256 << 20,
            checkpoint_interval: Duration::from_secs(10),
            checkpoint_log_bytes: 64 << 20,
            ack: AckLevel::QuorumSynced,
            proposal_queue_bytes: 8 << 20,
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
    /// This node is shutting down.
    #[error("the node is stopping")]
    Stopping,
    /// The node that was to answer was declared down.
    #[error("the node is down")]
    Gone,
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
    /// The configuration contradicts the data directory.
    #[error("the data directory was created with {found} shards, the configuration says {configured}")]
    ShardsDiffer {
        /// The number in the data directory.
        found: u16,
        /// The number configured.
        configured: u16,
    },
}
