//! The Raft log of all groups of a node in one append stream, and their votes. One thread writes: whatever waits
//! goes to disk in one synced write, so that many busy groups cost one sync.

mod files;
mod group;
mod measure;
mod options;
mod payload;
mod removal;
mod watermark;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use raft_engine::{Config, Engine, ReadableSize, RecoveryMode};

use files::LogFiles;
use group::Group;
pub use group::{GroupLog, LogState};
pub use options::{LogOptions, OnFatal, Writing};
use removal::Removal;
pub use removal::finish_removals;
use watermark::Watermark;
pub use writer::Turn;
use writer::{Kind, Operation, Writer};

use crate::files::open_unlocked;
use crate::{Files, StorageError};

/// The number of a Raft group on its node's log and state store.
pub type GroupId = u64;

/// Called once when a write is on the disk, or will not be.
pub type Flushed = Box<dyn FnOnce(io::Result<()>) + Send>;

type LogEngine = Engine<LogFiles>;

/// What a group may keep in memory however short that is: entries are read to be applied right after they were written.
const CACHE_BYTES_MIN: usize = 512 << 10;

/// What concerns the whole node is kept under this number.
const NODE: GroupId = GroupId::MAX;

/// The log of all groups.
pub struct RaftLog {
    engine: Arc<LogEngine>,
    writer: Arc<Writer>,
    thread: Mutex<Option<JoinHandle<()>>>,
    groups: Mutex<Groups>,
    /// Bytes of a group's entries in memory, as of now.
    cache_bytes_max: Arc<AtomicUsize>,
    options: LogOptions,
}

#[derive(Default)]
struct Groups {
    open: BTreeMap<GroupId, Arc<Group>>,
    /// Their log is removed, their state is not.
    half_removed: BTreeSet<GroupId>,
    /// Were on this node and were removed from it, whether they are here again or not.
    removed: BTreeSet<GroupId>,
}

impl RaftLog {
    /// Opens or creates the log. A torn tail, which was never reported as flushed, is cut; any other damage is
    /// an error, here or when what is damaged is read.
    pub fn open(path: &Path, options: LogOptions) -> Result<Self, StorageError> {
        Self::open_on(&Files::Real, path, options)
    }

    /// Opens or creates the log on these files.
    pub fn open_on(files: &Files, path: &Path, options: LogOptions) -> Result<Self, StorageError> {
        let mount = files.mount();
        mount.create_directory(path)?;
        let mut watermark = Watermark::open(&mount, path)?;
        let files = Arc::new(LogFiles::open(mount.clone(), path)?);
        let open = || Engine::open_with_file_system(config(&files, &options), files.clone());
        let opened = open_unlocked(open, is_locked);
        let engine = Arc::new(opened.map_err(|error| damaged_or_failed(path, error))?);
        // The engine does not when it creates its first files.
        mount.sync_directory(path)?;
        watermark.check(&mount, path, &engine)?;
        let (half_removed, removed) = removal::read(&engine)?;
        let writer = Arc::new(Writer::new(engine.clone(), files, watermark, &options));
        Ok(Self {
            engine,
            thread: Mutex::new(start_thread(path, &writer, &options)?),
            writer,
            groups: Mutex::new(Groups {
                open: BTreeMap::new(),
                half_removed,
                removed,
            }),
            cache_bytes_max: Arc::new(AtomicUsize::new(options.cache_bytes_per_group)),
            options,
        })
    }

    /// The log of one group, which is empty when it is new.
    pub fn group(&self, id: GroupId) -> Result<GroupLog, StorageError> {
        let mut groups = self.groups.lock();
        if groups.half_removed.contains(&id) {
            return Err(StorageError::HalfRemoved { group: id });
        }
        let group = match groups.open.get(&id) {
            Some(group) => group.clone(),
            None => {
                let simulated = self.writer.is_simulated();
                let open = || Group::open(&self.engine, id, &self.cache_bytes_max, simulated);
                let group = Arc::new(self.writer.guard(open)?);
                groups.open.insert(id, group.clone());
                group
            }
        };
        Ok(GroupLog::new(group, self.engine.clone(), self.writer.clone()))
    }

    /// Removes a group's log with its vote: for a replica that is not a member of its group any more. Handles of it
    /// fail from now on, and the group cannot be opened before [`finish_removals`] was called.
    pub fn remove_group(&self, id: GroupId, flushed: Flushed) {
        let mut groups = self.groups.lock();
        if let Some(group) = groups.open.remove(&id) {
            group.remove();
        }
        groups.half_removed.insert(id);
        groups.removed.insert(id);
        let queued = self.writer.push(Operation {
            kind: Kind::Remove(id, Removal::Log),
            flushed,
        });
        drop(groups);
        self.writer.settle(queued);
    }

    /// Whether a group was here before and was removed: it has been founded, and an empty log says nothing about that.
    pub fn was_removed(&self, id: GroupId) -> bool {
        self.groups.lock().removed.contains(&id)
    }

    /// Whether there is something of a group here that was not removed: what a replica has left behind, which is not open.
    pub fn is_left_behind(&self, id: GroupId) -> bool {
        let groups = self.groups.lock();
        let is_known = groups.open.contains_key(&id) || groups.half_removed.contains(&id);
        !is_known && self.engine.first_index(id).is_some()
    }

    /// Ends the log and what depends on it, since something else on this node's disk has failed.
    pub fn fail(&self, reason: &str) {
        self.writer.fail(reason);
    }

    /// Bytes of entries that are in memory.
    pub fn cached_bytes(&self) -> usize {
        let groups = self.groups.lock();
        groups.open.values().map(|group| group.cached_bytes()).sum()
    }

    /// From now on entries take so much memory at the most: each group an equal part, which is not less than the options'
    /// least and not more than their most. Those not yet written come on top.
    pub fn keep_cached_to(&self, bytes: usize) {
        let groups = self.groups.lock();
        let part = bytes / groups.open.len().max(1);
        let part = part.max(CACHE_BYTES_MIN).min(self.options.cache_bytes_per_group);
        self.cache_bytes_max.store(part, Ordering::Relaxed);
        groups.open.values().for_each(|group| group.evict());
    }

    fn half_removed(&self) -> Vec<GroupId> {
        self.groups.lock().half_removed.iter().copied().collect()
    }

    /// When the mark is still there after a crash, an empty state is removed again.
    fn state_removed(&self, id: GroupId) {
        let mut groups = self.groups.lock();
        let queued = self.writer.push(Operation {
            kind: Kind::Remove(id, Removal::Done),
            flushed: Box::new(|_| ()),
        });
        groups.half_removed.remove(&id);
        drop(groups);
        self.writer.settle(queued);
    }

    /// Removes files of which nothing is needed any more. Answers the groups that keep old files in use: a
    /// checkpoint and a purge of those would free them. May block for long.
    pub fn collect_garbage(&self) -> Result<Vec<GroupId>, StorageError> {
        self.writer.guard(|| Ok(self.engine.purge_expired_files()?))
    }

    /// Bytes used on the disk.
    pub fn size_on_disk(&self) -> u64 {
        self.engine.get_used_size() as u64
    }

    /// Writes what waits and stops the writer; what comes later is answered with an error.
    pub fn close(&self) {
        self.writer.stop();
        if let Some(thread) = self.thread.lock().take() {
            // It catches the panics of what it calls.
            let _ = thread.join();
        }
    }
}

impl Drop for RaftLog {
    fn drop(&mut self) {
        self.close();
    }
}

fn config(files: &LogFiles, options: &LogOptions) -> Config {
    let defaults = Config::default();
    Config {
        dir: files.shown().to_string_lossy().into_owned(),
        recovery_mode: RecoveryMode::TolerateTailCorruption,
        recovery_threads: match files.is_simulated() {
            true => 1,
            false => defaults.recovery_threads,
        },
        // Payloads are the clients'; compressing them costs more than it saves.
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize(options.file_bytes),
        purge_threshold: ReadableSize(options.collect_bytes.max(options.file_bytes)),
        ..defaults
    }
}

fn start_thread(
    path: &Path,
    writer: &Arc<Writer>,
    options: &LogOptions,
) -> Result<Option<JoinHandle<()>>, StorageError> {
    let Writing::Thread = options.writing else {
        return Ok(None);
    };
    let writer = writer.clone();
    let thread = std::thread::Builder::new().name("raft-log".into());
    let thread = thread.spawn(move || writer.run());
    thread.map(Some).map_err(crate::files::failed(path))
}

/// Whether the engine finds its own lock taken: a task of a node that was closed in this process holds it a moment longer.
fn is_locked(error: &raft_engine::Error) -> bool {
    matches!(error, raft_engine::Error::Other(error) if error.to_string().contains("Failed to lock file"))
}

fn damaged_or_failed(path: &Path, error: raft_engine::Error) -> StorageError {
    match error {
        raft_engine::Error::Corruption(detail) => StorageError::DataDamaged {
            what: "the Raft log",
            path: path.to_path_buf(),
            detail,
        },
        error => StorageError::Log(error),
    }
}
