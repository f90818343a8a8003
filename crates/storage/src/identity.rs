//! Who this node is: a random number kept with its data, never a host name. An empty disk is a new node.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::{StorageError, files};

/// A data directory that no other process has open.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    // The lock lasts as long as the file is open, also when the process is killed.
    _lock: File,
}

/// Who this node is and how often it was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Random, drawn when the data directory was empty.
    pub node_id: u64,
    /// The cluster this node belongs to.
    pub cluster_id: String,
    /// The number of shard groups of the cluster.
    pub shards: u16,
    /// Counts the starts, from 1.
    pub incarnation: u64,
}

impl DataDir {
    /// Creates the directory if it is absent and locks it.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        files::create_directory(path)?;
        let lock_path = path.join("LOCK");
        let failed = |source| StorageError::File {
            path: lock_path.clone(),
            source,
        };
        let lock = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_path_buf(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(StorageError::InUse {
                path: path.to_path_buf(),
            }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the identity, or draws a new one for a cluster of `shards`, and counts this start; it is durable when
    /// this returns.
    pub fn start_identity(&self, shards: u16) -> Result<Identity, StorageError> {
        let path = self.path.join("IDENTITY");
        let mut identity = match std::fs::read_to_string(&path) {
            Ok(text) => Identity::parse(&text).map_err(|detail| StorageError::Identity {
                path: path.clone(),
                detail,
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Identity::draw(shards),
            Err(source) => return Err(StorageError::File { path, source }),
        };
        identity.incarnation += 1;
        files::replace(&path, identity.to_text().as_bytes())?;
        Ok(identity)
    }
}

impl Identity {
    fn draw(shards: u16) -> Self {
        // Zero means "no node" on the wire.
        let node_id = rand::random_range(1..=u64::MAX);
        Self {
            node_id,
            cluster_id: format!("{:032x}", rand::random::<u128>()),
            shards,
            incarnation: 0,
        }
    }

    fn to_text(&self) -> String {
        let Self {
            node_id,
            cluster_id,
            shards,
            incarnation,
        } = self;
        format!(
            "node = {node_id:016x}\ncluster = {cluster_id}\nshards = {shards}\nincarnation = {incarnation}\n"
        )
    }

    fn parse(text: &str) -> Result<Self, String> {
        let field = |name: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim())
                .ok_or_else(|| format!("`{name}` is missing"))
        };
        let number = |name: &str| {
            field(name)?
                .parse::<u64>()
                .map_err(|error| format!("`{name}`: {error}"))
        };
        let node_id = u64::from_str_radix(field("node")?, 16).map_err(|error| format!("`node`: {error}"))?;
        let shards = u16::try_from(number("shards")?).map_err(|error| format!("`shards`: {error}"))?;
        Ok(Self {
            node_id,
            cluster_id: field("cluster")?.to_owned(),
            shards,
            incarnation: number("incarnation")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_keeps_the_identity_and_counts_the_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap().start_identity(16).unwrap();
        let second = DataDir::open(dir.path()).unwrap().start_identity(16).unwrap();

        assert_eq!(first.incarnation, 1);
        assert_eq!(
            second,
            Identity {
                incarnation: 2,
                ..first
            }
        );
    }

    #[test]
    fn two_empty_directories_are_two_nodes_of_two_clusters() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, other] = dirs
            .each_ref()
            .map(|dir| DataDir::open(dir.path()).unwrap().start_identity(16).unwrap());

        assert_ne!(one.node_id, other.node_id);
        assert_ne!(one.cluster_id, other.cluster_id);
    }

    #[test]
    fn a_second_process_is_refused_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let _first = DataDir::open(dir.path()).unwrap();

        let refused = DataDir::open(dir.path()).unwrap_err();

        assert!(matches!(refused, StorageError::InUse { .. }));
        assert!(refused.to_string().contains("used by another process"));
    }

    #[test]
    fn a_damaged_identity_is_not_replaced_by_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("IDENTITY"), "node = zz\n").unwrap();

        let refused = DataDir::open(dir.path()).unwrap().start_identity(16).unwrap_err();

        assert!(matches!(refused, StorageError::Identity { .. }));
    }
}
