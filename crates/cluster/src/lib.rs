//! This node's Raft groups: proposing, applying, bodies of messages, checkpoints. The only crate that names
//! openraft; what a command means is decided in `cluster-state`, how bytes reach the disk in `storage`.

mod bodies;
mod clock;
mod cluster;
mod config;
mod group;
mod keeper;
mod many;
mod meta;
mod observe;
mod proposer;
mod raft;
mod shard;
mod view;

pub use clock::{Clock, SystemClock};
pub use cluster::{Cluster, Done};
pub use cluster_proto as proto;
pub use cluster_state::shard_of;
pub use config::{AckLevel, Config, ProposeError, ShardId, StartError};
pub use many::{ForwardDone, NodeRoute, Unannounced};
pub use observe::{Observer, SessionWaker};
pub use proposer::BatchDone;
pub use view::{Fetch, Queued, SessionInfo, Totals};
