//! kill -9 of a node under load breaks no promise that any client was given.

use anyhow::Result;
use cluster_tests::*;
use tokio::task::block_in_place;

#[tokio::test(flavor = "multi_thread")]
async fn every_node_in_turn_is_killed_and_nothing_acknowledged_is_lost() -> Result<()> {
    let mut cluster = three()?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    for node in cluster.all() {
        load.progress(300, RECOVERY).await?;
        block_in_place(|| cluster.kill9(node));
        load.move_clients(&cluster, node, (node + 1) % 3);
        load.progress(300, RECOVERY).await?;
        // One comes back before the others give it up, the others long after.
        if node > 0 {
            wait_member(&cluster, (node + 1) % 3, node, RECOVERY, |member| {
                member.state == "down"
            })
            .await?;
        }
        block_in_place(|| cluster.restart(node))?;
        load.move_clients(&cluster, node, node);
    }
    load.progress(300, RECOVERY).await?;
    load.judge(&cluster).await
}
