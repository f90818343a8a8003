//! Whether a file is another one than it was: by what the system tells of it, links followed. Kubernetes swaps the folder behind
//! a link (`..data`), which gives each file another inode.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use broker::config::{Config, Listener};

/// The configuration, and every file that it names and that is read again.
pub(super) fn files(file: Option<&Path>, config: &Config) -> Arc<[PathBuf]> {
    let named = [
        &config.auth.password_file,
        &config.access.rules,
        &config.access.mosquitto_acl,
        &config.admin.read_token_file,
        &config.admin.write_token_file,
    ];
    let named = named.into_iter().flatten().chain(&config.auth.jwt_keys);
    let listeners = config.listeners.iter();
    let listeners = listeners.flat_map(|listener| {
        let Listener {
            cert,
            key,
            client_ca,
            client_crl,
            ..
        } = listener;
        [cert, key, client_ca, client_crl].into_iter().flatten()
    });
    let peers = config.cluster.tls.files().into_iter();
    let peers = peers.filter_map(|(_, file)| file);
    let named = named.chain(listeners).chain(peers).map(PathBuf::as_path);
    file.into_iter().chain(named).map(Path::to_owned).collect()
}

/// Of each file that is read again; none for one that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamps(BTreeMap<PathBuf, Option<Stamp>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Stamps {
    /// Looks at them. Blocks.
    pub(super) fn of(files: &[PathBuf]) -> Self {
        Self(files.iter().map(|path| (path.clone(), stamp(path))).collect())
    }

    /// The files that are others now.
    pub(super) fn changed_since(&self, earlier: &Self) -> Vec<String> {
        let changed = self
            .0
            .iter()
            .filter(|(path, stamp)| earlier.0.get(*path) != Some(stamp));
        changed.map(|(path, _)| path.display().to_string()).collect()
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rules: PathBuf) -> Config {
        let mut config = Config::default();
        config.access.rules = Some(rules);
        config
    }

    /// As Kubernetes mounts a secret: a file is a link into `..data`, which is a link to a folder of this version.
    #[test]
    fn a_folder_that_is_swapped_behind_a_link_is_noticed() {
        let mounted = tempfile::tempdir().unwrap();
        let at = |name: &str| mounted.path().join(name);
        for version in ["..1", "..2"] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("rules"), "allow all #\n").unwrap();
        }
        std::os::unix::fs::symlink("..1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/rules", at("rules")).unwrap();
        let config = config(at("rules"));
        let before = Stamps::of(&files(None, &config));
        assert_eq!(before, Stamps::of(&files(None, &config)));

        std::os::unix::fs::symlink("..2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        let after = Stamps::of(&files(None, &config));
        assert_eq!(after.changed_since(&before), [at("rules").display().to_string()]);
    }

    #[test]
    fn a_file_that_is_gone_and_one_that_comes_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path().join("rules"));
        let look = || Stamps::of(&files(Some(Path::new("/nothing")), &config));
        let none = look();
        std::fs::write(folder.path().join("rules"), "").unwrap();
        let there = look();
        assert_ne!(none, there);
        std::fs::remove_file(folder.path().join("rules")).unwrap();
        assert_eq!(look(), none);
    }
}
