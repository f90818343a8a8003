//! All nodes go at once and come back: what was acknowledged is on their disks.

use anyhow::{Result, ensure};
use cluster_tests::*;
use tokio::task::block_in_place;

#[tokio::test(flavor = "multi_thread")]
async fn after_all_nodes_were_killed_at_once_everything_is_there() -> Result<()> {
    let mut cluster = three()?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    load.progress(300, RECOVERY).await?;
    block_in_place(|| -> Result<()> {
        for node in cluster.all() {
            cluster.kill9(node);
        }
        for node in cluster.all() {
            cluster.launch(node)?;
        }
        cluster.wait_ready(&cluster.all(), RECOVERY)
    })?;
    load.progress(300, RECOVERY).await?;
    load.judge(&cluster).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_all_nodes_were_stopped_everything_is_there() -> Result<()> {
    let mut cluster = three()?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    load.progress(300, RECOVERY).await?;
    block_in_place(|| -> Result<()> {
        for node in cluster.all() {
            let status = cluster.stop(node)?;
            ensure!(status.success(), "node {node}: {status}");
        }
        for node in cluster.all() {
            cluster.launch(node)?;
        }
        cluster.wait_ready(&cluster.all(), RECOVERY)
    })?;
    load.progress(300, RECOVERY).await?;
    load.judge(&cluster).await
}
