//! The directory entries of a simulated disk: a creation, rename or removal is undone by a crash unless its
//! directory, or the file it is about, was synced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::SmallRng;

/// The number of a file, which keeps it through renames.
pub(super) type FileNumber = u64;

type Entries = BTreeMap<PathBuf, FileNumber>;

/// An entry goes from one place to another; either is none when it is created or removed.
struct Move {
    file: FileNumber,
    from: Option<PathBuf>,
    to: Option<PathBuf>,
}

#[derive(Default)]
pub(super) struct Names {
    seen: Entries,
    synced: Entries,
    unsynced: Vec<Move>,
}

impl Names {
    pub(super) fn get(&self, path: &Path) -> Option<FileNumber> {
        self.seen.get(path).copied()
    }

    pub(super) fn below(&self, directory: &Path) -> Vec<PathBuf> {
        let below = self.seen.keys().filter(|path| path.starts_with(directory));
        below.cloned().collect()
    }

    pub(super) fn create(&mut self, path: &Path, file: FileNumber) {
        self.push(file, None, Some(path));
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> bool {
        let file = self.get(from);
        file.is_some_and(|file| self.push(file, Some(from), Some(to)))
    }

    pub(super) fn remove(&mut self, path: &Path) -> bool {
        let file = self.get(path);
        file.is_some_and(|file| self.push(file, Some(path), None))
    }

    fn push(&mut self, file: FileNumber, from: Option<&Path>, to: Option<&Path>) -> bool {
        let change = Move {
            file,
            from: from.map(Path::to_path_buf),
            to: to.map(Path::to_path_buf),
        };
        apply(&mut self.seen, &change);
        self.unsynced.push(change);
        true
    }

    /// A file's sync takes its own entry along, as journalling file systems do. The log engine syncs the real
    /// directory after it, which a simulated disk does not notice.
    pub(super) fn sync_file(&mut self, file: FileNumber) {
        self.sync_where(|change| change.file == file && change.to.is_some());
    }

    pub(super) fn sync_directory(&mut self, directory: &Path) {
        let inside = |path: &Option<PathBuf>| path.as_deref().and_then(Path::parent) == Some(directory);
        self.sync_where(|change| inside(&change.from) || inside(&change.to));
    }

    fn sync_where(&mut self, chosen: impl Fn(&Move) -> bool) {
        for change in self.unsynced.extract_if(.., |change| chosen(change)) {
            apply(&mut self.synced, &change);
        }
    }

    pub(super) fn crash(&mut self, random: &mut SmallRng) {
        for change in self.unsynced.drain(..) {
            if random.random() {
                apply(&mut self.synced, &change);
            }
        }
        self.seen = self.synced.clone();
    }

    /// The files that have a name, or get one back when a removal is undone.
    pub(super) fn used(&self) -> BTreeSet<FileNumber> {
        self.seen.values().chain(self.synced.values()).copied().collect()
    }
}

fn apply(entries: &mut Entries, change: &Move) {
    if let Some(from) = &change.from
        && entries.get(from) == Some(&change.file)
    {
        entries.remove(from);
    }
    if let Some(to) = &change.to {
        entries.insert(to.clone(), change.file);
    }
}
