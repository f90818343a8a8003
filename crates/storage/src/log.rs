//! The Raft log of all groups of a node in one append stream, and their votes. One thread writes: whatever waits
//! goes to disk in one synced write, so that many busy groups cost one sync.

mod group;
mod payload;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use raft_engine::{Config, Engine, ReadableSize, RecoveryMode};

use group::Group;
pub use group::{GroupLog, LogState};
use writer::Writer;

use crate::StorageError;

/// The number of a Raft group on its node's log and state store.
pub type GroupId = u64;

/// Called once when a write is on the disk.
pub type Flushed = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Sizes of the log, and whether it is synced.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// A file of the log is closed at this size.
    pub file_bytes: u64,
    /// Above this size, what is left of old files is written forward so that they can go.
    pub collect_bytes: u64,
    /// Entries of a group kept in memory; those not yet written come on top.
    pub cache_bytes_per_group: usize,
    /// Whether entries are synced before they are reported as flushed. Votes always are.
    pub sync: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            file_bytes: 64 << 20,
            collect_bytes: 512 << 20,
            cache_bytes_per_group: 4 << 20,
            sync: true,
        }
    }
}

/// The log of all groups.
pub struct RaftLog {
    engine: Arc<Engine>,
    writer: Arc<Writer>,
    thread: Mutex<Option<JoinHandle<()>>>,
    groups: Mutex<BTreeMap<GroupId, Arc<Group>>>,
    options: LogOptions,
}

impl RaftLog {
    /// Opens or creates the log. A torn tail, which was never reported as flushed, is cut; any other damage is an
    /// error.
    pub fn open(path: &Path, options: LogOptions) -> Result<Self, StorageError> {
        crate::files::create_directory(path)?;
        let config = Config {
            dir: path.to_string_lossy().into_owned(),
            recovery_mode: RecoveryMode::TolerateTailCorruption,
            // Payloads are the clients'; compressing them costs more than it saves.
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize(options.file_bytes),
            purge_threshold: ReadableSize(options.collect_bytes.max(options.file_bytes)),
            ..Config::default()
        };
        let engine = Arc::new(Engine::open(config)?);
        let writer = Arc::new(Writer::new(engine.clone(), options.sync));
        let thread = {
            let writer = writer.clone();
            std::thread::Builder::new()
                .name("raft-log".into())
                .spawn(move || writer.run())
        };
        let thread = thread.map_err(|source| StorageError::File {
            path: path.to_path_buf(),
            source,
        })?;
        Ok(Self {
            engine,
            writer,
            thread: Mutex::new(Some(thread)),
            groups: Mutex::default(),
            options,
        })
    }

    /// The log of one group, which is empty when it is new.
    pub fn group(&self, id: GroupId) -> Result<GroupLog, StorageError> {
        let mut groups = self.groups.lock();
        let group = match groups.get(&id) {
            Some(group) => group.clone(),
            None => {
                let group = Arc::new(Group::open(&self.engine, id, self.options.cache_bytes_per_group)?);
                groups.insert(id, group.clone());
                group
            }
        };
        Ok(GroupLog::new(group, self.engine.clone(), self.writer.clone()))
    }

    /// Removes files of which nothing is needed any more. Answers the groups that keep old files in use: a
    /// checkpoint and a purge of those would free them. May block for long.
    pub fn collect_garbage(&self) -> Result<Vec<GroupId>, StorageError> {
        Ok(self.engine.purge_expired_files()?)
    }

    /// Bytes used on the disk.
    pub fn size_on_disk(&self) -> u64 {
        self.engine.get_used_size() as u64
    }

    /// Writes what waits and stops the writer; what comes later is answered with an error.
    pub fn close(&self) {
        self.writer.stop();
        if let Some(thread) = self.thread.lock().take() {
            // The writer's panic has ended the process already.
            let _ = thread.join();
        }
    }
}

impl Drop for RaftLog {
    fn drop(&mut self) {
        self.close();
    }
}
