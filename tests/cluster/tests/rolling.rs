//! A rolling restart, as an upgrade makes it, is noticed by clients as a reconnect and nothing more.

use anyhow::{Result, ensure};
use cluster_tests::*;
use tokio::task::block_in_place;

#[tokio::test(flavor = "multi_thread")]
async fn each_node_is_stopped_and_started_under_load_and_every_promise_is_kept() -> Result<()> {
    let mut cluster = three()?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    for node in cluster.all() {
        load.progress(300, RECOVERY).await?;
        load.move_clients(&cluster, node, (node + 1) % 3);
        let status = block_in_place(|| cluster.stop(node))?;
        ensure!(status.success(), "node {node}: {status}");
        load.progress(300, RECOVERY).await?;
        block_in_place(|| cluster.restart(node))?;
        load.move_clients(&cluster, node, node);
    }
    load.progress(300, RECOVERY).await?;
    load.at_most_once_per_node()?;
    load.judge(&cluster).await
}
