//! Cut off from the majority, a node stops to acknowledge within its lease; healed, it is one of them again.

use anyhow::{Result, ensure};
use cluster_tests::*;
use harness::{Client, ConnectOptions, Cut, Message};
use tokio::time::timeout;

async fn the_minority_is_silent_and_heals(cut: Cut) -> Result<()> {
    let cluster = three_with_links()?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    load.progress(300, RECOVERY).await?;
    let mut stranded = client(&cluster, 0, "stranded").await?;

    cluster.isolate(0, cut);
    load.move_clients(&cluster, 0, 1);
    wait_ready(&cluster, 0, false, FENCED).await?;
    ensure!(
        !acknowledges(&mut stranded).await,
        "acknowledged without a majority"
    );
    let refused = Client::connect(cluster.mqtt_addr(0), ConnectOptions::v5("late")).await;
    ensure!(refused.is_err(), "a client was let in without a majority");
    load.progress(300, RECOVERY).await?;

    cluster.heal_all();
    wait_ready(&cluster, 0, true, RECOVERY).await?;
    load.move_clients(&cluster, 0, 0);
    load.progress(300, RECOVERY).await?;
    load.judge(&cluster).await
}

async fn acknowledges(client: &mut Client) -> bool {
    let publish = client.publish(Message::new("from/the/minority", "x").qos(1));
    matches!(timeout(FENCED, publish).await, Ok(Ok(reason)) if accepts(reason))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_links_are_closed_stops_to_acknowledge_and_heals() -> Result<()> {
    the_minority_is_silent_and_heals(Cut::Refuse).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_links_are_silent_stops_to_acknowledge_and_heals() -> Result<()> {
    the_minority_is_silent_and_heals(Cut::Silent).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_cannot_reach_each_other_stop_nobody() -> Result<()> {
    let cluster = three_with_links()?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    load.progress(300, RECOVERY).await?;
    cluster.cut(0, 1, Cut::Silent);
    load.progress(300, RECOVERY).await?;
    cluster.heal(0, 1);
    load.progress(300, RECOVERY).await?;
    load.judge(&cluster).await
}
