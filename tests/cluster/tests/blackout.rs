//! All nodes go at once and come back: what was acknowledged is on their disks.

use anyhow::Result;
use cluster_tests::*;
use tokio::task::block_in_place;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "nodes do not form clusters yet"]
async fn after_all_nodes_were_killed_at_once_everything_is_there() -> Result<()> {
    let mut cluster = three()?;
    let load = Load::start(&cluster).await?;
    load.progress(500, RECOVERY).await?;
    block_in_place(|| -> Result<()> {
        for node in cluster.all() {
            cluster.kill9(node);
        }
        for node in cluster.all() {
            cluster.launch(node)?;
        }
        cluster.wait_ready(&cluster.all(), RECOVERY)
    })?;
    load.progress(500, RECOVERY).await?;
    load.judge(&cluster).await
}
