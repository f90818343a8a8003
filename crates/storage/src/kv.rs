//! The ordered store under the state machines' checkpoints: two trees per group. Kept tiny so that a simulation can
//! put a map in its place.

mod memory;
mod sled;

use std::ops::ControlFlow;
use std::sync::Arc;

pub use memory::MemoryKv;
pub use sled::SledKv;

use crate::StorageError;

/// Takes a key and a value, and says whether to go on.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// A change of one key: a new value, or none when it is removed.
pub(crate) type Write = (Vec<u8>, Option<Vec<u8>>);

/// The store of a node, whichever it is. A call through it costs nothing next to what the store does.
pub type SharedKv = Arc<dyn Kv>;

/// An ordered store of small values with atomic batches. Every call may block.
pub trait Kv: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, tree: u64, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;
    /// Visits the keys with a prefix in order, until told to stop.
    fn range(&self, tree: u64, prefix: &[u8], visit: Visit<'_>) -> Result<(), StorageError>;
    /// Applies all writes to one tree or, after a crash, none of them.
    fn apply_batch(&self, tree: u64, writes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StorageError>;
    /// Removes a tree with everything in it. As durable as a batch: with the next checkpoint.
    fn remove_tree(&self, tree: u64) -> Result<(), StorageError>;
    /// Returns when everything applied before is on the disk.
    fn checkpoint(&self) -> Result<(), StorageError>;
    /// Bytes used on the disk.
    fn size_on_disk(&self) -> Result<u64, StorageError>;
}
