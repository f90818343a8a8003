//! A simulated disk as one life of its machine uses it: after a crash everything fails, and syncs do nothing.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use raft_engine::env::WriteExt;
use rand::Rng;

use super::disk::Disk;
use super::names::FileNumber;
use super::{Batch, SimulatedDisk};
use crate::Visit;

/// The disk, until its machine crashes.
#[derive(Clone, Debug)]
pub(crate) struct Mounted {
    disk: SimulatedDisk,
    power: u64,
}

impl Mounted {
    pub(super) fn new(disk: SimulatedDisk, power: u64) -> Self {
        Self { disk, power }
    }

    /// Nothing this life of the machine reports counts any more when this is false.
    pub(crate) fn has_power(&self) -> bool {
        self.disk.0.lock().has_power(self.power)
    }

    fn with<T>(&self, operation: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.0.lock();
        disk.require_power(self.power)?;
        operation(&mut disk)
    }

    /// Syncs without power succeed and do nothing: their errors would be panics of the log engine, also when it is
    /// only dropped. So who reports something as synced asks [`Self::has_power`] after it.
    fn synced(&self, operation: impl FnOnce(&mut Disk) -> io::Result<()>) -> io::Result<()> {
        let hook = self.disk.0.lock().before_sync.clone();
        if let Some(hook) = hook {
            hook();
        }
        let mut disk = self.disk.0.lock();
        match disk.has_power(self.power) {
            true => operation(&mut disk),
            false => Ok(()),
        }
    }

    pub(crate) fn create(&self, path: &Path) -> io::Result<SimulatedFile> {
        self.with(|disk| disk.create(path)).map(|file| self.file(file))
    }

    pub(crate) fn open(&self, path: &Path) -> io::Result<SimulatedFile> {
        self.with(|disk| disk.open(path)).map(|file| self.file(file))
    }

    fn file(&self, file: FileNumber) -> SimulatedFile {
        SimulatedFile {
            mounted: self.clone(),
            file,
            position: 0,
        }
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(|disk| disk.rename(from, to))
    }

    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        self.with(|disk| disk.remove(path))
    }

    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.with(|disk| disk.read(path))
    }

    pub(crate) fn list(&self, directory: &Path) -> Vec<PathBuf> {
        self.disk.files(directory)
    }

    pub(crate) fn random(&self) -> u128 {
        self.disk.0.lock().random.random()
    }

    /// Writes and syncs a file.
    pub(crate) fn write_whole(&self, path: &Path, contents: &[u8]) -> io::Result<()> {
        let mut file = self.create(path)?;
        file.write_all(contents)?;
        file.sync()?;
        self.with(|_| Ok(()))
    }

    pub(crate) fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.synced(|disk| {
            disk.sync_directory(path);
            Ok(())
        })?;
        self.with(|_| Ok(()))
    }

    /// None when somebody else has the lock.
    pub(crate) fn lock(&self, path: &Path) -> Option<SimulatedLock> {
        let locked = self.with(|disk| Ok(disk.locks.insert(path.to_path_buf())));
        locked.is_ok_and(|locked| locked).then(|| SimulatedLock {
            mounted: self.clone(),
            path: path.to_path_buf(),
        })
    }

    pub(crate) fn get(&self, store: &Path, tree: u64, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.with(|disk| {
            let tree = disk.stores.get(store).and_then(|trees| trees.tree(tree));
            Ok(tree.and_then(|tree| tree.get(key)).cloned())
        })
    }

    pub(crate) fn range(&self, store: &Path, tree: u64, prefix: &[u8], visit: Visit<'_>) -> io::Result<()> {
        // Visitors read from the store themselves.
        let pairs: Vec<_> = self.with(|disk| {
            let tree = disk.stores.get(store).and_then(|trees| trees.tree(tree));
            let pairs = tree.into_iter().flat_map(|tree| tree.range(prefix.to_vec()..));
            let pairs = pairs.take_while(|(key, _)| key.starts_with(prefix));
            Ok(pairs.map(|(key, value)| (key.clone(), value.clone())).collect())
        })?;
        for (key, value) in pairs {
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn apply(&self, store: &Path, batch: Batch) -> io::Result<()> {
        self.with(|disk| disk.apply(store, batch))
    }

    pub(crate) fn checkpoint(&self, store: &Path) -> io::Result<()> {
        self.synced(|disk| disk.checkpoint(store))?;
        self.with(|_| Ok(()))
    }

    pub(crate) fn store_bytes(&self, store: &Path) -> io::Result<u64> {
        self.with(|disk| Ok(disk.stores.get(store).map_or(0, |trees| trees.bytes())))
    }
}

/// A lock that is released when it is dropped or its machine crashes.
#[derive(Debug)]
pub(crate) struct SimulatedLock {
    mounted: Mounted,
    path: PathBuf,
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        // Without power there is nothing to release.
        let _ = self.mounted.with(|disk| Ok(disk.locks.remove(&self.path)));
    }
}

/// An open file with a position.
#[derive(Clone)]
pub(crate) struct SimulatedFile {
    mounted: Mounted,
    file: FileNumber,
    position: usize,
}

impl SimulatedFile {
    pub(crate) fn length(&self) -> io::Result<usize> {
        self.mounted.with(|disk| Ok(disk.content(self.file)?.length()))
    }

    pub(crate) fn set_length(&self, length: usize) -> io::Result<()> {
        self.mounted.with(|disk| disk.set_length(self.file, length))
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.mounted.synced(|disk| disk.sync(self.file))
    }
}

impl Read for SimulatedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (file, position) = (self.file, self.position);
        let count = self
            .mounted
            .with(|disk| Ok(disk.content(file)?.read(position, buffer)))?;
        self.position += count;
        Ok(count)
    }
}

impl Write for SimulatedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (file, position) = (self.file, self.position);
        self.mounted.with(|disk| disk.write(file, position, bytes))?;
        self.position += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for SimulatedFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(distance) => (self.position as u64).checked_add_signed(distance),
            SeekFrom::End(distance) => (self.length()? as u64).checked_add_signed(distance),
        };
        let position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.position = position as usize;
        Ok(position)
    }
}

impl WriteExt for SimulatedFile {
    fn truncate(&mut self, length: usize) -> io::Result<()> {
        self.set_length(length)?;
        self.position = length;
        Ok(())
    }

    fn allocate(&mut self, offset: usize, size: usize) -> io::Result<()> {
        match offset + size > self.length()? {
            true => self.set_length(offset + size),
            false => Ok(()),
        }
    }
}

/// The log engine lists its directory without asking its file system: it is shown a real one, with an empty file for
/// each of the simulated ones.
pub(crate) struct LogListing {
    shown: PathBuf,
}

impl LogListing {
    pub(crate) fn create(mounted: &Mounted, directory: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("flotilla-simulated-log-{}-{number}", std::process::id());
        let listing = Self {
            shown: std::env::temp_dir().join(name),
        };
        std::fs::create_dir_all(&listing.shown)?;
        for path in mounted.disk.files(directory) {
            if let Some(name) = path.file_name() {
                std::fs::write(listing.shown.join(name), [])?;
            }
        }
        Ok(listing)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.shown
    }
}

impl Drop for LogListing {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.shown) {
            tracing::debug!(%error, path = %self.shown.display(), "left behind");
        }
    }
}
