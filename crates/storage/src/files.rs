//! Files that are there completely or not at all, also after a loss of power.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::StorageError;

/// Replaces a file's contents: written beside it, synced, renamed, and the directory synced.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> Result<(), StorageError> {
    let beside = path.with_extension("new");
    let written = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    written().map_err(|source| StorageError::File {
        path: path.to_path_buf(),
        source,
    })?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Creates a directory with its parents and makes its entry durable.
pub(crate) fn create_directory(path: &Path) -> Result<(), StorageError> {
    fs::create_dir_all(path).map_err(|source| StorageError::File {
        path: path.to_path_buf(),
        source,
    })?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => Ok(()),
    }
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StorageError> {
    let failed = |source| StorageError::File {
        path: PathBuf::from(path),
        source,
    };
    File::open(path).map_err(failed)?.sync_all().map_err(failed)
}
