//! sled, made durable by our own sync of its file: its `flush` does not wait for the disk. It takes a file that lost
//! its end for one that was never written so far; a count of the checkpoints beside it tells the two apart.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::{Kv, Visit, Write};
use crate::{StorageError, files};

/// The file that says how many checkpoints are on the disk.
const CHECKPOINTS: &str = "CHECKPOINTS";
/// The tree in which the store counts them itself; those of groups have names of eight bytes.
const COUNT_TREE: &[u8] = b"checkpoints";
const COUNT: &[u8] = b"count";
/// After so many writes of a batch there is one operation that does nothing but free memory.
const WRITES_PER_LOOK: usize = 2;

/// The store of a node.
pub struct SledKv {
    db: sled::Db,
    counted: sled::Tree,
    path: PathBuf,
    checkpoints: Mutex<Checkpoints>,
}

struct Checkpoints {
    count: u64,
    file: File,
}

impl SledKv {
    /// Opens or creates the store in a directory of its own. One that lost a part of what was checkpointed is
    /// refused.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, StorageError> {
        files::create_directory(path)?;
        let damaged = |detail: String| StorageError::DataDamaged {
            what: "the state store",
            path: path.to_path_buf(),
            detail,
        };
        // sled panics when it reads what it did not write.
        let opened = catch_unwind(AssertUnwindSafe(|| open_sled(path, cache_bytes)));
        let (db, counted, count) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(sled::Error::Corruption { .. })) => return Err(damaged("sled cannot read it".into())),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(damaged("sled stumbled over it".into())),
        };
        let (file, expected) = open_count(path)?;
        if count < expected {
            let detail = format!("it holds checkpoint {count} and {expected} was on the disk");
            return Err(damaged(detail));
        }
        let store = Self {
            db,
            counted,
            path: path.to_path_buf(),
            checkpoints: Mutex::new(Checkpoints { count, file }),
        };
        store.sync("db")?;
        store.sync("conf")?;
        files::sync_directory(path)?;
        Ok(store)
    }

    /// Lets sled free what a batch of so many writes has replaced. Each write copies a node, and what was there before
    /// waits for others to pass by: an operation frees four pieces on average, and the whole batch was one operation.
    fn collect(&self, writes: usize) -> Result<(), StorageError> {
        for _ in 0..writes / WRITES_PER_LOOK {
            self.counted.contains_key(COUNT)?;
        }
        Ok(())
    }

    fn tree(&self, tree: u64) -> Result<sled::Tree, StorageError> {
        Ok(self.db.open_tree(tree.to_be_bytes())?)
    }

    fn sync(&self, name: &str) -> Result<(), StorageError> {
        let path = self.path.join(name);
        let synced = File::open(&path).and_then(|file| file.sync_data());
        synced.map_err(files::failed(&path))
    }
}

/// Whether sled finds its own lock taken: the threads of a store that was closed in this process hold it a moment longer.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock"))
}

fn open_sled(path: &Path, cache_bytes: u64) -> sled::Result<(sled::Db, sled::Tree, u64)> {
    let config = sled::Config::new()
        .path(path)
        .mode(sled::Mode::HighThroughput)
        .flush_every_ms(None)
        .cache_capacity(cache_bytes);
    let db = files::open_unlocked(|| config.open(), is_locked)?;
    let counted = db.open_tree(COUNT_TREE)?;
    let count = counted.get(COUNT)?;
    let count = count.and_then(|count| count.first_chunk().map(|count| u64::from_be_bytes(*count)));
    Ok((db, counted, count.unwrap_or(0)))
}

/// The file of the count, and what it says. A new one says zero.
fn open_count(path: &Path) -> Result<(File, u64), StorageError> {
    let path = path.join(CHECKPOINTS);
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true);
    let opened = || -> io::Result<(File, u64)> {
        let file = options.open(&path)?;
        let mut count = [0; 8];
        match file.read_exact_at(&mut count, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            read => read?,
        }
        Ok((file, u64::from_be_bytes(count)))
    };
    opened().map_err(files::failed(&path))
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
        let count = writes.len();
        let mut batch = sled::Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.tree(tree)?.apply_batch(batch)?;
        self.collect(count)
    }

    fn remove_tree(&self, tree: u64) -> Result<(), StorageError> {
        self.db.drop_tree(tree.to_be_bytes())?;
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), StorageError> {
        let mut checkpoints = self.checkpoints.lock();
        checkpoints.count += 1;
        let count = checkpoints.count.to_be_bytes();
        self.counted.insert(COUNT, &count)?;
        self.db.flush()?;
        // The kernel syncs a file's pages whichever descriptor asks.
        self.sync("db")?;
        // Eight bytes in one sector: there is no half of them.
        let written = checkpoints.file.write_all_at(&count, 0);
        let written = written.and_then(|()| checkpoints.file.sync_data());
        written.map_err(files::failed(&self.path.join(CHECKPOINTS)))
    }

    fn size_on_disk(&self) -> Result<u64, StorageError> {
        size_of(&self.path).map_err(files::failed(&self.path))
    }
}

/// Bytes of the files in a folder. One that goes meanwhile has none.
fn size_of(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path())?,
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        };
    }
    Ok(bytes)
}
