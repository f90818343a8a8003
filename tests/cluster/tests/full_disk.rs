//! A node whose disk is full acknowledges nothing it cannot keep, stops no other, and comes back when there is room.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use cluster_tests::*;
use harness::{Cluster, ClusterOptions};
use tokio::task::block_in_place;

const DISK: &str = "size=200m";

/// A small file system in memory, until it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this is not allowed.
    fn mount(at: &Path) -> Option<SmallDisk> {
        std::fs::create_dir_all(at).ok()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(at);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| SmallDisk(at.to_owned()))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Writes until there is no room.
    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.ballast())?;
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was killed a moment ago may still hold a file.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_full_disk_loses_nothing_and_stops_no_other() -> Result<()> {
    // Unmounted after the cluster has ended: dropped in the reverse order.
    let disk;
    let mut cluster = Cluster::prepare(ClusterOptions::default())?;
    disk = SmallDisk::mount(&cluster.data_dir(0));
    let Some(disk) = &disk else {
        eprintln!("skipped: a small file system cannot be mounted here (this takes root)");
        return Ok(());
    };
    block_in_place(|| -> Result<()> {
        for node in cluster.all() {
            cluster.launch(node)?;
        }
        cluster.wait_ready(&cluster.all(), RECOVERY)
    })?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    load.progress(300, RECOVERY).await?;
    block_in_place(|| disk.fill())?;
    // A node whose disk fails is of no use to its clients: they go to another.
    wait_ready(&cluster, 0, false, RECOVERY).await?;
    load.move_clients(&cluster, 0, 1);
    load.progress(300, RECOVERY).await?;
    block_in_place(|| -> Result<()> {
        std::fs::remove_file(disk.ballast())?;
        cluster.restart(0)
    })?;
    load.move_clients(&cluster, 0, 0);
    load.progress(300, RECOVERY).await?;
    load.judge(&cluster).await
}
