//! What can go wrong with the disk. A failed sync of the Raft log is not here: it ends the process.

use std::io;
use std::path::PathBuf;

/// An operation on the data directory that did not work.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A file or a directory.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the data directory open.
    #[error("{path} is used by another process; two nodes cannot share a data directory")]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// The identity file cannot be read.
    #[error("{path} is damaged: {detail}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The Raft log.
    #[error("the Raft log: {0}")]
    Log(#[from] raft_engine::Error),
    /// The state store.
    #[error("the state store: {0}")]
    State(#[from] sled::Error),
    /// A record which was written by us and cannot be read.
    #[error("{what} is damaged: {detail}")]
    Damaged {
        /// Which record.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        io::Error::other(error)
    }
}
