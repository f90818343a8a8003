//! The state of a simulated disk, with its faults. Every operation of its users comes through here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::content::Content;
use super::names::{FileNumber, Names};
use super::trees::{Batch, Trees};

/// What the system calls "no space left on device".
const NO_SPACE: i32 = 28;
/// What the system calls "input/output error".
const INPUT_OUTPUT: i32 = 5;

pub(super) struct Disk {
    pub(super) random: SmallRng,
    /// Counts the crashes: what was opened before one does not work after it.
    pub(super) power: u64,
    pub(super) dead: bool,
    pub(super) operations: u64,
    pub(super) power_fails_at: Option<u64>,
    pub(super) fail_next_sync: bool,
    pub(super) full: bool,
    pub(super) forgetful: bool,
    pub(super) before_sync: Option<Arc<dyn Fn() + Send + Sync>>,
    pub(super) names: Names,
    contents: BTreeMap<FileNumber, Content>,
    next_file: FileNumber,
    pub(super) stores: BTreeMap<PathBuf, Trees>,
    pub(super) locks: BTreeSet<PathBuf>,
}

impl Disk {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            power: 0,
            dead: false,
            operations: 0,
            power_fails_at: None,
            fail_next_sync: false,
            full: false,
            forgetful: false,
            before_sync: None,
            names: Names::default(),
            contents: BTreeMap::new(),
            next_file: 0,
            stores: BTreeMap::new(),
            locks: BTreeSet::new(),
        }
    }

    pub(super) fn crash(&mut self) {
        self.power += 1;
        self.dead = false;
        self.power_fails_at = None;
        self.locks.clear();
        self.names.crash(&mut self.random);
        for content in self.contents.values_mut() {
            content.crash(&mut self.random);
        }
        for trees in self.stores.values_mut() {
            trees.crash(&mut self.random);
        }
        let used = self.names.used();
        self.contents.retain(|file, _| used.contains(file));
    }

    pub(super) fn has_power(&self, power: u64) -> bool {
        self.power == power && !self.dead
    }

    pub(super) fn require_power(&self, power: u64) -> io::Result<()> {
        match self.has_power(power) {
            true => Ok(()),
            false => Err(io::Error::other("the simulated machine has no power")),
        }
    }

    /// Counts an operation; false when the power fails in it.
    fn count(&mut self) -> bool {
        self.operations += 1;
        if self.power_fails_at == Some(self.operations) {
            self.dead = true;
        }
        !self.dead
    }

    fn require_space(&self) -> io::Result<()> {
        match self.full {
            true => Err(io::Error::from_raw_os_error(NO_SPACE)),
            false => Ok(()),
        }
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<FileNumber> {
        self.require_space()?;
        let file = match self.names.get(path) {
            Some(file) => {
                self.content_mut(file)?.set_length(0);
                file
            }
            None => {
                self.next_file += 1;
                self.contents.insert(self.next_file, Content::default());
                self.names.create(path, self.next_file);
                self.next_file
            }
        };
        self.count();
        Ok(file)
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<FileNumber> {
        self.names.get(path).ok_or_else(not_found)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let found = self.names.rename(from, to);
        self.count();
        found.then_some(()).ok_or_else(not_found)
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let found = self.names.remove(path);
        self.count();
        found.then_some(()).ok_or_else(not_found)
    }

    pub(super) fn content(&self, file: FileNumber) -> io::Result<&Content> {
        self.contents.get(&file).ok_or_else(not_found)
    }

    fn content_mut(&mut self, file: FileNumber) -> io::Result<&mut Content> {
        self.contents.get_mut(&file).ok_or_else(not_found)
    }

    pub(super) fn write(&mut self, file: FileNumber, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.require_space()?;
        self.content_mut(file)?.write(offset, bytes);
        self.count();
        Ok(())
    }

    pub(super) fn set_length(&mut self, file: FileNumber, length: usize) -> io::Result<()> {
        self.content_mut(file)?.set_length(length);
        self.count();
        Ok(())
    }

    pub(super) fn sync(&mut self, file: FileNumber) -> io::Result<()> {
        if !self.count() || self.forgetful {
            return Ok(());
        }
        if std::mem::take(&mut self.fail_next_sync) {
            self.content_mut(file)?.lose_unsynced();
            return Err(io::Error::from_raw_os_error(INPUT_OUTPUT));
        }
        self.content_mut(file)?.sync();
        self.names.sync_file(file);
        Ok(())
    }

    pub(super) fn sync_directory(&mut self, path: &Path) {
        if self.count() && !self.forgetful {
            self.names.sync_directory(path);
        }
    }

    pub(super) fn apply(&mut self, store: &Path, batch: Batch) -> io::Result<()> {
        self.require_space()?;
        self.stores.entry(store.to_path_buf()).or_default().apply(batch);
        self.count();
        Ok(())
    }

    pub(super) fn checkpoint(&mut self, store: &Path) -> io::Result<()> {
        let works = self.count() && !self.forgetful;
        let fails = works && std::mem::take(&mut self.fail_next_sync);
        let Some(trees) = self.stores.get_mut(store) else {
            return Ok(());
        };
        if fails {
            trees.lose_unsynced();
            return Err(io::Error::from_raw_os_error(INPUT_OUTPUT));
        }
        if works {
            trees.sync();
        }
        Ok(())
    }

    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let content = self.content(self.open(path)?)?;
        let mut bytes = vec![0; content.length()];
        content.read(0, &mut bytes);
        Ok(bytes)
    }

    pub(super) fn damage(&mut self, path: &Path, offset: usize) -> io::Result<()> {
        let file = self.open(path)?;
        self.content_mut(file)?.flip(offset);
        Ok(())
    }
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}
