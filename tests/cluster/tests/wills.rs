//! A node that dies cannot send the wills of its clients: the others do.

use anyhow::{Result, ensure};
use cluster_tests::*;
use harness::{Client, ConnectOptions, Message};
use tokio::task::block_in_place;

#[tokio::test(flavor = "multi_thread")]
async fn wills_are_sent_when_their_node_is_killed() -> Result<()> {
    let mut cluster = three()?;
    let mut watcher = client(&cluster, 1, "watcher").await?;
    subscribe(&mut watcher, "gone/#", 1).await?;
    let clean = ConnectOptions::v5("clean").will(Message::new("gone/clean", "clean").qos(1));
    let kept = ConnectOptions::v5("kept")
        .persistent()
        .will(Message::new("gone/kept", "kept").qos(1));
    let _clean = Client::connect(cluster.mqtt_addr(0), clean).await?;
    let _kept = Client::connect(cluster.mqtt_addr(0), kept).await?;

    block_in_place(|| cluster.kill9(0));
    wait_member(&cluster, 1, 0, RECOVERY, |member| member.state == "down").await?;

    let mut told = Vec::new();
    for _ in 0..2 {
        let will = watcher.receive().await?;
        told.push(will.publication.payload().to_vec());
    }
    told.sort();
    ensure!(told == [b"clean".to_vec(), b"kept".to_vec()], "{told:?}");
    Ok(())
}
