//! What a node keeps on disk: its identity, the Raft log of all its groups (raft-engine) and checkpoints of
//! their state machines (sled). What the records mean is decided above.

mod error;
mod files;
mod identity;
mod kv;
mod log;
mod state;

pub use error::StorageError;
pub use identity::{DataDir, Identity};
pub use kv::{Kv, SledKv, Visit};
pub use log::{Flushed, GroupId, GroupLog, LogOptions, LogState, RaftLog};
pub use state::{Change, StateStore, VisitRecord};
