//! This node's Raft groups and its place among the other nodes: proposing, applying, membership, leases, routes. The only
//! crate that names openraft; what a command means is decided in `cluster-state`, how bytes reach the disk in `storage`,
//! and how they reach other nodes in `transport`.

mod agreed;
mod announcer;
mod backup;
mod barrier;
mod bodies;
mod cache;
mod chance;
mod clock;
mod cluster;
mod config;
mod drain;
mod ending;
mod formation;
mod group;
mod inspect;
mod keeper;
mod lease;
mod leave;
mod measure;
mod membership;
mod meta;
mod meta_duties;
mod node;
mod observe;
mod peer_service;
mod proposer;
mod raft;
mod reads;
mod recover;
mod remote_queues;
mod said;
mod scale_in;
mod shard;
mod shard_duties;
mod slot;
mod start;
mod status;
mod view;

pub use agreed::ClusterClock;
#[doc(hidden)]
pub use chance::simulate;
pub use clock::{Clock, SystemClock};
pub use cluster::{Cluster, Done, ForwardDone, NodeRoute, Unannounced};
pub use cluster_proto as proto;
pub use cluster_proto::Totals;
pub use cluster_state::shard_of;
#[doc(hidden)]
pub use config::Broken;
pub use config::{AckLevel, Config, PeerConfig, ProposeError, ShardId, StartError};
pub use ending::{Ended, Ending};
pub use inspect::{Found, RouteView, Session, Silent};
pub use leave::{LeaveState, LeaveTerms};
pub use observe::{Kicked, KickedBy, Observer, SessionWaker};
pub use proposer::BatchDone;
pub use recover::{RecoverError, Remains};
pub use scale_in::{ScaleIn, ScaleInState};
pub use status::{MemberStatus, ShardStatus, Status};
pub use view::{Fetch, Outboxed, Queued, SessionInfo};
