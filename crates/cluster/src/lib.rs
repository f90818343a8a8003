//! This node's Raft groups: proposing, applying, bodies of messages, checkpoints. The only crate that names
//! openraft; what a command means is decided in `cluster-state`, how bytes reach the disk in `storage`.

mod clock;
mod cluster;
mod config;
mod meta;
mod observe;
mod raft;
mod view;

pub use clock::{Clock, SystemClock};
pub use cluster::{BatchDone, Cluster, Done};
pub use cluster_proto as proto;
pub use cluster_state::shard_of;
pub use config::{AckLevel, Config, ProposeError, ShardId, StartError};
pub use observe::{Observer, SessionWaker};
pub use view::{Fetch, Queued, SessionInfo, Totals};
