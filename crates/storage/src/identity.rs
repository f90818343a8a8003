//! Who this node is: a random number kept with its data, never a host name. An empty disk is a new node.

use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::files::{Lock, Mount, failed};
use crate::{Files, StorageError};

/// The layout of the data directory that this version writes and reads. 2: bodies of messages in trees of their own.
const LAYOUT: u64 = 2;

/// A data directory that no other process has open.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    files: Mount,
    _lock: Lock,
    /// One change of the identity at a time.
    changing: Mutex<()>,
}

/// Who this node is and how often it was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Random, drawn when the data directory was empty.
    pub node_id: u64,
    /// The cluster this node belongs to, once it does.
    pub cluster_id: Option<String>,
    /// The number of shard groups of the cluster.
    pub shards: u16,
    /// Counts the node's lives, from 1: its starts, and its returns to the cluster after it was declared down.
    pub incarnation: u64,
}

impl DataDir {
    /// Creates the directory if it is absent and locks it.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        Self::open_on(&Files::Real, path)
    }

    /// Creates the directory on these files if it is absent and locks it.
    pub fn open_on(files: &Files, path: &Path) -> Result<Self, StorageError> {
        let files = files.mount();
        files.create_directory(path)?;
        let lock = files.lock(&path.join("LOCK"))?;
        Ok(Self {
            path: path.to_path_buf(),
            files,
            _lock: lock,
            changing: Mutex::default(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the identity, or draws a new one with `shards` that belongs to no cluster, and counts this start; it is
    /// durable when this returns.
    pub fn start_identity(&self, shards: u16) -> Result<Identity, StorageError> {
        self.change(Some(shards), |identity| {
            identity.incarnation += 1;
            Ok(())
        })
    }

    /// Joins a cluster, for good; it is durable when this returns. Joining the same one again changes nothing.
    pub fn adopt(&self, cluster_id: &str) -> Result<Identity, StorageError> {
        self.change(None, |identity| match &identity.cluster_id {
            Some(ours) if ours != cluster_id => Err(StorageError::OtherCluster {
                ours: ours.clone(),
                theirs: cluster_id.to_owned(),
            }),
            _ => {
                identity.cluster_id = Some(cluster_id.to_owned());
                Ok(())
            }
        })
    }

    /// Who it is, if it ever was started.
    pub fn identity(&self) -> Result<Option<Identity>, StorageError> {
        self.read(&self.path.join("IDENTITY"))
    }

    /// Belongs to another cluster from now on, which was made of what this disk has; it is durable when this returns.
    pub fn change_cluster(&self, cluster_id: &str) -> Result<Identity, StorageError> {
        self.change(None, |identity| {
            identity.cluster_id = Some(cluster_id.to_owned());
            Ok(())
        })
    }

    /// Begins a new life of the running node; it is durable when this returns.
    pub fn bump_incarnation(&self) -> Result<Identity, StorageError> {
        self.change(None, |identity| {
            identity.incarnation += 1;
            Ok(())
        })
    }

    fn change(
        &self,
        shards_if_new: Option<u16>,
        change: impl FnOnce(&mut Identity) -> Result<(), StorageError>,
    ) -> Result<Identity, StorageError> {
        let _changing = self.changing.lock();
        let path = self.path.join("IDENTITY");
        let before = self.read(&path)?;
        let mut identity = match (before.clone(), shards_if_new) {
            (Some(identity), _) => identity,
            (None, Some(shards)) => Identity::draw(shards, &self.files),
            (None, None) => return Err(failed(&path)(io::Error::from(io::ErrorKind::NotFound))),
        };
        change(&mut identity)?;
        if before.as_ref() != Some(&identity) {
            self.files.replace(&path, identity.to_text().as_bytes())?;
        }
        Ok(identity)
    }

    fn read(&self, path: &Path) -> Result<Option<Identity>, StorageError> {
        let text = match self.files.read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(path)(error)),
        };
        let damaged = |detail| StorageError::Identity {
            path: path.to_path_buf(),
            detail,
        };
        let text = String::from_utf8_lossy(&text);
        let found = layout_of(&text).map_err(damaged)?;
        if found != LAYOUT {
            return Err(StorageError::Layout {
                path: self.path.clone(),
                found,
                ours: LAYOUT,
            });
        }
        Identity::parse(&text).map(Some).map_err(damaged)
    }
}

impl Identity {
    fn draw(shards: u16, files: &Mount) -> Self {
        // Zero means "no node" on the wire.
        let node_id = (files.random() as u64).max(1);
        Self {
            node_id,
            cluster_id: None,
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
        let cluster = cluster_id
            .as_ref()
            .map(|cluster_id| format!("cluster = {cluster_id}\n"))
            .unwrap_or_default();
        format!(
            "layout = {LAYOUT}\nnode = {node_id:016x}\n{cluster}shards = {shards}\nincarnation = {incarnation}\n"
        )
    }

    fn parse(text: &str) -> Result<Self, String> {
        let find = |name: &str| find(text, name);
        let field = |name: &str| find(name).ok_or_else(|| format!("`{name}` is missing"));
        let number = |name: &str| {
            field(name)?
                .parse::<u64>()
                .map_err(|error| format!("`{name}`: {error}"))
        };
        let node_id = u64::from_str_radix(field("node")?, 16).map_err(|error| format!("`node`: {error}"))?;
        let shards = u16::try_from(number("shards")?).map_err(|error| format!("`shards`: {error}"))?;
        Ok(Self {
            node_id,
            cluster_id: find("cluster").map(str::to_owned),
            shards,
            incarnation: number("incarnation")?,
        })
    }
}

fn find<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

/// The first layout had no number.
fn layout_of(text: &str) -> Result<u64, String> {
    find(text, "layout").map_or(Ok(1), |layout| {
        layout.parse().map_err(|error| format!("`layout`: {error}"))
    })
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
    fn two_empty_directories_are_two_nodes_of_no_cluster() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, other] = dirs
            .each_ref()
            .map(|dir| DataDir::open(dir.path()).unwrap().start_identity(16).unwrap());

        assert_ne!(one.node_id, other.node_id);
        assert_eq!([one.cluster_id, other.cluster_id], [None, None]);
    }

    #[test]
    fn a_node_belongs_to_the_cluster_that_adopted_it_and_to_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path()).unwrap();
        let drawn = data_dir.start_identity(16).unwrap();

        let adopted = data_dir.adopt("one").unwrap();
        let again = data_dir.adopt("one").unwrap();
        let refused = data_dir.adopt("other").unwrap_err();
        drop(data_dir);
        let restarted = DataDir::open(dir.path()).unwrap().start_identity(16).unwrap();

        assert_eq!(adopted.cluster_id.as_deref(), Some("one"));
        assert_eq!((adopted.node_id, adopted.incarnation), (drawn.node_id, 1));
        assert_eq!(again, adopted);
        assert!(matches!(refused, StorageError::OtherCluster { .. }));
        assert_eq!(
            restarted,
            Identity {
                incarnation: 2,
                ..adopted
            }
        );
    }

    #[test]
    fn a_new_life_while_running_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path()).unwrap();
        data_dir.start_identity(16).unwrap();

        assert_eq!(data_dir.bump_incarnation().unwrap().incarnation, 2);
        drop(data_dir);

        let restarted = DataDir::open(dir.path()).unwrap().start_identity(16).unwrap();
        assert_eq!(restarted.incarnation, 3);
    }

    #[test]
    fn data_of_an_older_or_a_newer_layout_is_refused_and_left_as_it_is() {
        for (layout, found) in [("", 1), ("layout = 3\n", 3)] {
            let dir = tempfile::tempdir().unwrap();
            let text = format!("{layout}node = 00000000000000ab\nshards = 16\nincarnation = 7\n");
            let path = dir.path().join("IDENTITY");
            std::fs::write(&path, &text).unwrap();

            let refused = DataDir::open(dir.path()).unwrap().start_identity(16).unwrap_err();

            assert!(
                refused
                    .to_string()
                    .contains(&format!("has layout {found} and this version reads layout 2"))
            );
            assert_eq!(std::fs::read_to_string(path).unwrap(), text);
        }
    }

    #[test]
    fn a_lock_on_a_simulated_disk_is_released_by_a_crash() {
        let disk = crate::SimulatedDisk::new(1);
        let files = Files::Simulated(disk.clone());
        let first = DataDir::open_on(&files, Path::new("node")).unwrap();
        let identity = first.start_identity(16).unwrap();
        let refused = DataDir::open_on(&files, Path::new("node")).unwrap_err();

        disk.crash();
        let second = DataDir::open_on(&files, Path::new("node")).unwrap();
        drop(first);

        assert!(matches!(refused, StorageError::InUse { .. }));
        assert_eq!(second.start_identity(16).unwrap().node_id, identity.node_id);
        assert!(DataDir::open_on(&files, Path::new("node")).is_err());
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
        std::fs::write(dir.path().join("IDENTITY"), "layout = 2\nnode = zz\n").unwrap();

        let refused = DataDir::open(dir.path()).unwrap().start_identity(16).unwrap_err();

        assert!(matches!(refused, StorageError::Identity { .. }));
    }
}
