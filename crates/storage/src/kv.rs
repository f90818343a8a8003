//! The ordered store under the state machines' checkpoints: one tree per group. Kept tiny so that a test can put
//! a map in its place.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::{StorageError, files};

/// Takes a key and a value, and says whether to go on.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// A change of one key: a new value, or none when it is removed.
pub(crate) type Write = (Vec<u8>, Option<Vec<u8>>);

/// An ordered store of small values with atomic batches. Every call may block.
pub trait Kv: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, tree: u64, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;
    /// Visits the keys with a prefix in order, until told to stop.
    fn range(&self, tree: u64, prefix: &[u8], visit: Visit<'_>) -> Result<(), StorageError>;
    /// Applies all writes to one tree or, after a crash, none of them.
    fn apply_batch(&self, tree: u64, writes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StorageError>;
    /// Returns when everything applied before is on the disk.
    fn checkpoint(&self) -> Result<(), StorageError>;
    /// Bytes used on the disk.
    fn size_on_disk(&self) -> Result<u64, StorageError>;
}

/// sled, made durable by our own sync of its file: its `flush` does not wait for the disk.
pub struct SledKv {
    db: sled::Db,
    path: PathBuf,
}

impl SledKv {
    /// Opens or creates the store in a directory of its own.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, StorageError> {
        let db = sled::Config::new()
            .path(path)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None)
            .cache_capacity(cache_bytes)
            .open()?;
        let store = Self {
            db,
            path: path.to_path_buf(),
        };
        store.sync("db")?;
        store.sync("conf")?;
        files::sync_directory(path)?;
        Ok(store)
    }

    fn tree(&self, tree: u64) -> Result<sled::Tree, StorageError> {
        Ok(self.db.open_tree(tree.to_be_bytes())?)
    }

    fn sync(&self, name: &str) -> Result<(), StorageError> {
        let path = self.path.join(name);
        let synced = File::open(&path).and_then(|file| file.sync_data());
        synced.map_err(|source| StorageError::File { path, source })
    }
}

impl Kv for SledKv {
    fn get(&self, tree: u64, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.tree(tree)?.get(key)?.map(|value| value.to_vec()))
    }

    fn range(&self, tree: u64, prefix: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        for pair in self.tree(tree)?.scan_prefix(prefix) {
            let (key, value) = pair?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply_batch(&self, tree: u64, writes: Vec<Write>) -> Result<(), StorageError> {
        let mut batch = sled::Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        Ok(self.tree(tree)?.apply_batch(batch)?)
    }

    fn checkpoint(&self) -> Result<(), StorageError> {
        self.db.flush()?;
        // The kernel syncs a file's pages whichever descriptor asks.
        self.sync("db")
    }

    fn size_on_disk(&self) -> Result<u64, StorageError> {
        Ok(self.db.size_on_disk()?)
    }
}
