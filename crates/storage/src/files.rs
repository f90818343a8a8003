//! Where the data directory is: on the file systems of this machine, or on a simulated disk. Files are replaced so
//! that they are there completely or not at all, also after a loss of power. What clients say is in them: other users of the machine
//! may not look.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use crate::simulated::{Mounted, SimulatedDisk, SimulatedLock};
use crate::{MemoryKv, SharedKv, SledKv, StorageError};

/// For the node's own user alone.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// What others than owner and group may do.
const OTHERS: u32 = 0o007;

/// The files of a node.
#[derive(Clone, Default)]
pub enum Files {
    /// Those of this machine.
    #[default]
    Real,
    /// Files in memory, which lose what was not synced when the simulated machine crashes.
    Simulated(SimulatedDisk),
}

impl Files {
    /// Opens or creates the state store in a directory of its own: sled, or a map on a simulated disk.
    pub fn open_kv(&self, path: &Path, cache_bytes: u64) -> Result<SharedKv, StorageError> {
        match self {
            Self::Real => Ok(Arc::new(SledKv::open(path, cache_bytes)?)),
            Self::Simulated(disk) => Ok(Arc::new(MemoryKv::open(disk, path)?)),
        }
    }

    /// The files as they are until the next crash.
    pub(crate) fn mount(&self) -> Mount {
        match self {
            Self::Real => Mount::Real,
            Self::Simulated(disk) => Mount::Simulated(disk.mount()),
        }
    }
}

/// Files in use: those of a simulated disk are gone for their user when it crashes.
#[derive(Clone, Debug)]
pub(crate) enum Mount {
    Real,
    Simulated(Mounted),
}

/// Lasts as long as the value, also when the process is killed.
#[derive(Debug)]
pub(crate) enum Lock {
    Real(#[expect(dead_code, reason = "held, not read")] File),
    Simulated(#[expect(dead_code, reason = "held, not read")] SimulatedLock),
}

impl Mount {
    /// Creates a directory with its parents and makes its entry durable. Others lose their rights to one that is there.
    pub(crate) fn create_directory(&self, path: &Path) -> Result<(), StorageError> {
        match self {
            Self::Real => create_directory(path),
            // Directories have no entries of their own in a simulation.
            Self::Simulated(_) => Ok(()),
        }
    }

    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self {
            Self::Real => fs::read(path),
            Self::Simulated(disk) => disk.read(path),
        }
    }

    /// Replaces a file's contents: written beside it, synced, renamed, and the directory synced.
    pub(crate) fn replace(&self, path: &Path, contents: &[u8]) -> Result<(), StorageError> {
        let beside = path.with_extension("new");
        let directory = path.parent().unwrap_or(Path::new("."));
        let replaced = match self {
            Self::Real => write_real(&beside, contents).and_then(|()| fs::rename(&beside, path)),
            Self::Simulated(disk) => disk
                .write_whole(&beside, contents)
                .and_then(|()| disk.rename(&beside, path)),
        };
        replaced.map_err(failed(path))?;
        self.sync_directory(directory)
    }

    /// Makes the entries of a directory durable.
    pub(crate) fn sync_directory(&self, path: &Path) -> Result<(), StorageError> {
        match self {
            Self::Real => sync_directory(path),
            Self::Simulated(disk) => disk.sync_directory(path).map_err(failed(path)),
        }
    }

    /// The files in a directory.
    pub(crate) fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        match self {
            Self::Real => fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect(),
            Self::Simulated(disk) => Ok(disk.list(directory)),
        }
    }

    /// A number that nobody knows; a simulated disk draws the same one again.
    pub(crate) fn random(&self) -> u128 {
        match self {
            Self::Real => rand::random(),
            Self::Simulated(disk) => disk.random(),
        }
    }

    /// Locks a file, which is created if it is absent.
    pub(crate) fn lock(&self, path: &Path) -> Result<Lock, StorageError> {
        let in_use = || StorageError::InUse {
            path: path.parent().unwrap_or(path).to_path_buf(),
        };
        match self {
            Self::Real => {
                let mut options = OpenOptions::new();
                options.create(true).write(true).truncate(false).mode(FILE_MODE);
                let file = options.open(path).map_err(failed(path))?;
                match file.try_lock() {
                    Ok(()) => Ok(Lock::Real(file)),
                    Err(TryLockError::WouldBlock) => Err(in_use()),
                    Err(TryLockError::Error(source)) => Err(failed(path)(source)),
                }
            }
            Self::Simulated(disk) => disk.lock(path).map(Lock::Simulated).ok_or_else(in_use),
        }
    }
}

fn write_real(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(FILE_MODE);
    let mut file = options.open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

/// Creates a directory with its parents and makes its entry durable. Others lose their rights to one that is there.
pub(crate) fn create_directory(path: &Path) -> Result<(), StorageError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIRECTORY_MODE);
    builder.create(path).map_err(failed(path))?;
    close_to_others(path);
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => Ok(()),
    }
}

/// Of a directory that somebody else has made, or an older version. What its owner and group may do stays. The root of a volume may
/// belong to somebody else, who has to see to that: it is no reason not to start.
fn close_to_others(path: &Path) {
    let Ok(found) = fs::metadata(path) else { return };
    let mode = found.permissions().mode();
    if mode & OTHERS == 0 {
        return;
    }
    match fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS)) {
        Ok(()) => {
            info!(path = %path.display(), "other users of this machine could look into it, and cannot any more")
        }
        Err(_) => info!(path = %path.display(),
            "other users of this machine can list what is in it, which is closed to them: it is somebody else's"),
    }
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StorageError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(failed(path))
}

/// An error of the system, with the file it is about.
pub(crate) fn failed(path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = PathBuf::from(path);
    |source| StorageError::File { path, source }
}

/// So often, with a pause in between, a lock is tried again that is about to be released: two seconds.
const LOCK_TRIES: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Opens what has a lock of its own. Who else may use the directory is a matter of the node's lock.
pub(crate) fn open_unlocked<T, E>(
    open: impl Fn() -> Result<T, E>,
    is_locked: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 0..LOCK_TRIES {
        match open() {
            Err(error) if is_locked(&error) => std::thread::sleep(LOCK_PAUSE),
            opened => return opened,
        }
    }
    open()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn only_the_nodes_own_user_may_look_at_what_is_created() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("some/where");
        let files = Files::Real.mount();
        files.create_directory(&data).unwrap();
        files.replace(&data.join("IDENTITY"), b"me").unwrap();
        let _lock = files.lock(&data.join("LOCK")).unwrap();
        for (path, expected) in [("", 0o700), ("IDENTITY", 0o600), ("LOCK", 0o600)] {
            assert_eq!(mode(&data.join(path)), expected, "{path}");
        }
    }

    #[test]
    fn others_lose_their_rights_to_what_was_there_and_the_group_keeps_its_own() {
        let folder = tempfile::tempdir().unwrap();
        for (before, after) in [(0o755, 0o750), (0o2775, 0o2770), (0o700, 0o700)] {
            fs::set_permissions(folder.path(), Permissions::from_mode(before)).unwrap();
            Files::Real.mount().create_directory(folder.path()).unwrap();
            assert_eq!(mode(folder.path()), after, "from {before:o}");
        }
    }
}
