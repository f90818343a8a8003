//! A cluster grows: one more node is taken in while clients work, and takes its share.

use std::time::Duration;

use anyhow::Result;
use cluster_tests::*;
use tokio::task::block_in_place;

/// Replicas move one after the other, each with its snapshot.
const MOVED: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_node_joins_under_load_and_takes_its_share() -> Result<()> {
    let mut cluster = three_of(4, "")?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    load.progress(300, RECOVERY).await?;
    block_in_place(|| cluster.restart(3))?;
    wait_member(&cluster, 0, 3, MOVED, |member| {
        member.state == "up" && member.shards_held > 0
    })
    .await?;

    let mut here = client(&cluster, 3, "here").await?;
    subscribe(&mut here, "to/the/new/one", 1).await?;
    let mut there = client(&cluster, 1, "there").await?;
    publish(&mut there, "to/the/new/one", "welcome", 1).await?;
    expect_text(&mut here, "welcome").await?;
    // The clients of another node move to the new one.
    load.move_clients(&cluster, 0, 3);
    block_in_place(|| cluster.kill9(0));
    load.progress(300, RECOVERY).await?;
    block_in_place(|| cluster.restart(0))?;
    load.judge(&cluster).await
}
