//! A node that stands still is left behind, acknowledges nothing in its sleep, and comes back.

use anyhow::Result;
use cluster_tests::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "nodes do not form clusters yet"]
async fn the_others_go_on_without_a_node_that_stands_still_and_it_returns() -> Result<()> {
    let cluster = three()?;
    let load = Load::start(&cluster).await?;
    load.progress(500, RECOVERY).await?;
    cluster.pause(0)?;
    load.move_clients(&cluster, 0, 1);
    load.progress(500, RECOVERY).await?;
    cluster.resume(0)?;
    wait_ready(&cluster, 0, true, RECOVERY).await?;
    load.move_clients(&cluster, 0, 0);
    load.progress(500, RECOVERY).await?;
    load.judge(&cluster).await
}
