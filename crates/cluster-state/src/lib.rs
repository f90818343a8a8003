//! The facts all nodes agree on: `shard` for sessions and retained messages, `meta` for members and routes. Commands and
//! time come from the log, so every replica computes the same; where bodies, files and sockets are is not known here.

mod encoding;
pub mod meta;
pub mod placement;
pub mod shard;
mod spread;

pub use encoding::RestoreError;
pub use meta::{MetaEffect, MetaState};
pub use placement::shard_of;
pub use shard::{
    ApplyContext, DropReason, Effect, EndReason, EntryKind, MessageCopy, MessageId, OutboxBody, OutboxItem,
    QueueItem, SessionCopy, SessionView, ShardState,
};
pub use spread::{copies, spread};
