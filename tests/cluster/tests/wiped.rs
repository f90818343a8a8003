//! A node that has lost its disk comes back empty and is filled again by the others.

use anyhow::Result;
use cluster_tests::*;
use tokio::task::block_in_place;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_new_disk_takes_part_again_and_can_stand_in_for_another() -> Result<()> {
    let mut cluster = three()?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    load.progress(300, RECOVERY).await?;
    block_in_place(|| -> Result<()> {
        cluster.kill9(0);
        cluster.wipe(0)
    })?;
    load.move_clients(&cluster, 0, 1);
    load.progress(300, RECOVERY).await?;
    block_in_place(|| cluster.restart(0))?;
    load.move_clients(&cluster, 0, 0);
    load.progress(300, RECOVERY).await?;
    // With another one gone, the majority is the new disk and the last old one.
    block_in_place(|| cluster.kill9(1));
    load.move_clients(&cluster, 1, 2);
    load.progress(300, RECOVERY).await?;
    block_in_place(|| cluster.restart(1))?;
    load.judge(&cluster).await
}
