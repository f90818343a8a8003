//! A map in sled's place, on a simulated disk: what was applied after the last checkpoint is lost in a crash, or
//! kept up to some batch.

use std::io;
use std::path::{Path, PathBuf};

use super::{Kv, Visit, Write};
use crate::simulated::{Batch, Mounted, SimulatedDisk};
use crate::{StorageError, files};

/// The store of a simulated node.
pub struct MemoryKv {
    disk: Mounted,
    path: PathBuf,
}

impl MemoryKv {
    /// Opens or creates the store.
    pub fn open(disk: &SimulatedDisk, path: &Path) -> Result<Self, StorageError> {
        Ok(Self {
            disk: disk.mount(),
            path: path.to_path_buf(),
        })
    }

    fn failed<T>(&self, result: io::Result<T>) -> Result<T, StorageError> {
        result.map_err(files::failed(&self.path))
    }
}

impl Kv for MemoryKv {
    fn get(&self, tree: u64, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.failed(self.disk.get(&self.path, tree, key))
    }

    fn range(&self, tree: u64, prefix: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        self.failed(self.disk.range(&self.path, tree, prefix, visit))
    }

    fn apply_batch(&self, tree: u64, writes: Vec<Write>) -> Result<(), StorageError> {
        self.failed(self.disk.apply(&self.path, Batch::Write(tree, writes)))
    }

    fn remove_tree(&self, tree: u64) -> Result<(), StorageError> {
        self.failed(self.disk.apply(&self.path, Batch::Remove(tree)))
    }

    fn checkpoint(&self) -> Result<(), StorageError> {
        self.failed(self.disk.checkpoint(&self.path))
    }

    fn size_on_disk(&self) -> Result<u64, StorageError> {
        self.failed(self.disk.store_bytes(&self.path))
    }
}
