//! The files under the log engine: real ones, or those of a simulated disk.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_engine::env::{DefaultFileSystem, FileSystem, Handle, Permission, WriteExt};

use crate::StorageError;
use crate::files::{Mount, failed};
use crate::simulated::{LogListing, Mounted, SimulatedFile};

type RealHandle = <DefaultFileSystem as FileSystem>::Handle;
type RealFile = <DefaultFileSystem as FileSystem>::Reader;

/// The directory of the log.
pub(super) enum LogFiles {
    Real {
        directory: PathBuf,
    },
    Simulated {
        disk: Mounted,
        directory: PathBuf,
        listing: LogListing,
    },
}

impl LogFiles {
    pub(super) fn open(mount: Mount, directory: &Path) -> Result<Self, StorageError> {
        let directory = directory.to_path_buf();
        match mount {
            Mount::Real => Ok(Self::Real { directory }),
            Mount::Simulated(disk) => {
                let listing = LogListing::create(&disk, &directory).map_err(failed(&directory))?;
                Ok(Self::Simulated {
                    disk,
                    directory,
                    listing,
                })
            }
        }
    }

    /// The directory that the engine is told.
    pub(super) fn shown(&self) -> &Path {
        match self {
            Self::Real { directory } => directory,
            Self::Simulated { listing, .. } => listing.path(),
        }
    }

    /// What was reported as synced without power was not.
    pub(super) fn has_power(&self) -> bool {
        match self {
            Self::Real { .. } => true,
            Self::Simulated { disk, .. } => disk.has_power(),
        }
    }

    pub(super) fn is_simulated(&self) -> bool {
        matches!(self, Self::Simulated { .. })
    }
}

/// The simulated file that the engine means by a path in the directory it was shown.
fn meant(directory: &Path, shown: &Path) -> PathBuf {
    directory.join(shown.file_name().unwrap_or_default())
}

pub(super) enum LogHandle {
    Real(Arc<RealHandle>),
    Simulated(SimulatedFile),
}

pub(super) enum LogFile {
    Real(RealFile),
    Simulated(SimulatedFile),
}

impl FileSystem for LogFiles {
    type Handle = LogHandle;
    type Reader = LogFile;
    type Writer = LogFile;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<LogHandle> {
        match self {
            Self::Real { .. } => Ok(LogHandle::Real(Arc::new(DefaultFileSystem.create(path)?))),
            Self::Simulated { disk, directory, .. } => disk
                .create(&meant(directory, path.as_ref()))
                .map(LogHandle::Simulated),
        }
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<LogHandle> {
        match self {
            Self::Real { .. } => Ok(LogHandle::Real(Arc::new(
                DefaultFileSystem.open(path, permission)?,
            ))),
            Self::Simulated { disk, directory, .. } => disk
                .open(&meant(directory, path.as_ref()))
                .map(LogHandle::Simulated),
        }
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        match self {
            Self::Real { .. } => DefaultFileSystem.delete(path),
            Self::Simulated { disk, directory, .. } => disk.remove(&meant(directory, path.as_ref())),
        }
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        match self {
            Self::Real { .. } => DefaultFileSystem.rename(from, to),
            Self::Simulated { disk, directory, .. } => {
                disk.rename(&meant(directory, from.as_ref()), &meant(directory, to.as_ref()))
            }
        }
    }

    fn new_reader(&self, handle: Arc<LogHandle>) -> io::Result<LogFile> {
        match handle.as_ref() {
            LogHandle::Real(handle) => DefaultFileSystem.new_reader(handle.clone()).map(LogFile::Real),
            LogHandle::Simulated(file) => Ok(LogFile::Simulated(file.clone())),
        }
    }

    fn new_writer(&self, handle: Arc<LogHandle>) -> io::Result<LogFile> {
        self.new_reader(handle)
    }
}

impl Handle for LogHandle {
    fn truncate(&self, length: usize) -> io::Result<()> {
        match self {
            Self::Real(handle) => handle.truncate(length),
            Self::Simulated(file) => file.set_length(length),
        }
    }

    fn file_size(&self) -> io::Result<usize> {
        match self {
            Self::Real(handle) => handle.file_size(),
            Self::Simulated(file) => file.length(),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self {
            Self::Real(handle) => handle.sync(),
            Self::Simulated(file) => file.sync(),
        }
    }
}

impl Read for LogFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Real(file) => file.read(buffer),
            Self::Simulated(file) => file.read(buffer),
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Real(file) => file.write(bytes),
            Self::Simulated(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Real(file) => file.flush(),
            Self::Simulated(file) => file.flush(),
        }
    }
}

impl Seek for LogFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Real(file) => file.seek(to),
            Self::Simulated(file) => file.seek(to),
        }
    }
}

impl WriteExt for LogFile {
    fn truncate(&mut self, length: usize) -> io::Result<()> {
        match self {
            Self::Real(file) => WriteExt::truncate(file, length),
            Self::Simulated(file) => WriteExt::truncate(file, length),
        }
    }

    fn allocate(&mut self, offset: usize, size: usize) -> io::Result<()> {
        match self {
            Self::Real(file) => file.allocate(offset, size),
            Self::Simulated(file) => file.allocate(offset, size),
        }
    }
}
