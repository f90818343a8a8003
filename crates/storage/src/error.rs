//! What can go wrong with the disk. A failed sync of the Raft log is not here: it ends the
//! process.

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
    /// The data directory was written by another version, in a way that this one does not know.
    #[error(
        "the data in {path} has layout {found} and this version reads layout {ours}: start the version that wrote it, \
         or name an empty directory"
    )]
    Layout {
        /// The data directory.
        path: PathBuf,
        /// Its layout.
        found: u64,
        /// What this version writes.
        ours: u64,
    },
    /// The Raft log.
    #[error("the Raft log: {0}")]
    Log(#[from] raft_engine::Error),
    /// The state store.
    #[error("the state store: {0}")]
    State(#[from] sled::Error),
    /// A part of the node's data that was on the disk is not there any more. The replicas of the other nodes are
    /// what it is restored from.
    #[error(
        "{what} in {path} is damaged: {detail}. To repair it, stop the node, remove its whole data directory and \
         start it again: it comes back as a new node and gets its data from its peers. A node without peers has to \
         be restored from a backup"
    )]
    DataDamaged {
        /// Which part.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The Raft log was closed, or failed and accepts nothing more.
    #[error("{0}")]
    LogEnded(&'static str),
    /// A group's log was removed and its state was not yet.
    #[error(
        "group {group} was removed from this node and something of it is left: its removal has to be finished first"
    )]
    HalfRemoved {
        /// Which group.
        group: u64,
    },
    /// The node belongs to another cluster than the one that it is to belong to.
    #[error(
        "this node belongs to cluster {ours} and not to {theirs}; a node changes its cluster only with an empty data directory"
    )]
    OtherCluster {
        /// Where it belongs.
        ours: String,
        /// Where it does not.
        theirs: String,
    },
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
