//! What a node keeps on disk: its identity, the Raft log of all its groups (raft-engine) and checkpoints of
//! their state machines (sled). What the records mean is decided above.

mod error;
mod files;
mod identity;
mod kv;
mod log;
mod simulated;
mod state;

pub use error::StorageError;
pub use files::Files;
pub use identity::{DataDir, Identity};
pub use kv::{Kv, MemoryKv, SharedKv, SledKv, Visit};
pub use log::{
    Flushed, GroupId, GroupLog, LogOptions, LogState, OnFatal, RaftLog, Turn, Writing, finish_removals,
};
pub use simulated::SimulatedDisk;
pub use state::{Change, StateStore, VisitRecord};
