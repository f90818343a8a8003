//! A disk in memory for simulations and crash tests. What was written and not synced is lost, kept or torn when its
//! machine crashes; which of them, the seed decides. What was opened before a crash is dead after it.

mod content;
mod disk;
mod mounted;
mod names;
mod trees;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use disk::Disk;
pub(crate) use mounted::{LogListing, Mounted, SimulatedFile, SimulatedLock};
pub(crate) use trees::Batch;

/// A handle of the disk; all clones are the same disk.
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Mutex<Disk>>);

impl SimulatedDisk {
    /// An empty disk. The same seed and the same operations leave the same bytes after a crash.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Disk::new(seed))))
    }

    /// The machine crashes and starts again: each file, directory entry and store keeps all, none or a part of what
    /// was not synced. Everything opened before fails from now on, so crash the disk before its node is dropped:
    /// a node that is dropped first writes what waits, like one that is stopped.
    pub fn crash(&self) {
        self.0.lock().crash();
    }

    /// Writes, syncs, creations, renames and removals so far.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// The power fails in the operation that makes [`Self::operations`] this number: a write still reaches the
    /// cache, a sync does nothing. The disk is dead from then on until [`Self::crash`].
    pub fn fail_power_at(&self, operation: u64) {
        self.0.lock().power_fails_at = Some(operation);
    }

    /// Whether the power has failed since the last [`Self::crash`].
    pub fn is_dead(&self) -> bool {
        self.0.lock().dead
    }

    /// The next sync reports an error, and what it should have written is lost even if a later sync succeeds.
    pub fn fail_next_sync(&self) {
        self.0.lock().fail_next_sync = true;
    }

    /// Whether writes fail because there is no space.
    pub fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// Whether syncs answer without doing anything: to show that a test notices.
    pub fn set_forgetful(&self, forgetful: bool) {
        self.0.lock().forgetful = forgetful;
    }

    /// Calls this before each sync, for a disk that is slow.
    pub fn before_sync(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.0.lock().before_sync = Some(Arc::new(hook));
    }

    /// The files below a directory, in order.
    pub fn files(&self, directory: &Path) -> Vec<PathBuf> {
        self.0.lock().names.below(directory)
    }

    /// What a file holds.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.lock().read(path)
    }

    /// Flips a bit of a file, on the disk and in the cache.
    pub fn damage(&self, path: &Path, offset: usize) -> io::Result<()> {
        self.0.lock().damage(path, offset)
    }

    /// The disk as it is used until the next crash.
    pub(crate) fn mount(&self) -> Mounted {
        Mounted::new(self.clone(), self.0.lock().power)
    }
}

impl std::fmt::Debug for SimulatedDisk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SimulatedDisk")
    }
}
