//! Nodes that are given the same seeds become one cluster, whatever the order in which they start.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::*;
use harness::{Cluster, ClusterOptions, Message, wait_for};
use tokio::task::block_in_place;

const FORMED: Duration = Duration::from_secs(10);

fn prepared() -> Result<Cluster> {
    Cluster::prepare(ClusterOptions::default())
}

/// The identifier of the cluster that a node belongs to, as its admin listener tells.
fn cluster_id(cluster: &Cluster, node: usize) -> Result<String> {
    let status = cluster.admin_get(node, "/api/v1/cluster")?;
    let id = status.split("\"cluster_id\":\"").nth(1).unwrap_or_default();
    Ok(id.split('"').next().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_are_ready_within_ten_seconds_in_any_order() -> Result<()> {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        block_in_place(|| {
            let mut cluster = prepared()?;
            for node in order {
                cluster.launch(node)?;
            }
            cluster.wait_ready(&cluster.all(), FORMED)?;
            let ids: Vec<String> = order
                .iter()
                .map(|node| cluster_id(&cluster, *node))
                .collect::<Result<_>>()?;
            ensure!(
                !ids[0].is_empty() && ids.iter().all(|id| *id == ids[0]),
                "{order:?}: {ids:?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_do_not_begin_without_the_third_and_the_third_may_be_late() -> Result<()> {
    block_in_place(|| {
        let mut cluster = prepared()?;
        cluster.launch(0)?;
        cluster.launch(1)?;
        ensure!(
            cluster.wait_ready(&[0, 1], Duration::from_secs(3)).is_err(),
            "ready without the third"
        );
        cluster.launch(2)?;
        cluster.wait_ready(&cluster.all(), FORMED)
    })
}

/// The founder of all, by its address: with an empty disk it knows nothing of what it founded.
#[tokio::test(flavor = "multi_thread")]
async fn a_founder_that_lost_its_disk_waits_for_its_old_cluster_and_founds_no_other() -> Result<()> {
    let mut cluster = three()?;
    let founded = block_in_place(|| cluster_id(&cluster, 0))?;
    let mut kept = persistent(&cluster, 0, "kept").await?;
    subscribe(&mut kept, "a", 1).await?;
    kept.disconnect().await?;
    let mut writer = client(&cluster, 0, "writer").await?;
    for number in 0..20 {
        publish(&mut writer, "a", &number.to_string(), 1).await?;
        let state = Message::new(&format!("state/{number}"), "is").qos(1).retain();
        writer.publish(state).await?;
    }
    drop(writer);
    let before = block_in_place(|| -> Result<usize> {
        for node in cluster.all() {
            let status = cluster.stop(node)?;
            ensure!(status.success(), "node {node}: {status}");
        }
        cluster.wipe(0)?;
        let before = cluster.log(0).len();
        cluster.launch(0)?;
        Ok(before)
    })?;
    let silent = format!(
        "no answer from {}, {}",
        cluster.peer_addr(1),
        cluster.peer_addr(2)
    );
    wait_for(async || cluster.log(0)[before..].contains(&silent), RECOVERY)
        .await
        .with_context(|| cluster.log(0)[before..].to_owned())?;
    ensure!(
        !block_in_place(|| cluster.is_ready(0)),
        "ready without the others"
    );

    block_in_place(|| -> Result<()> {
        cluster.launch(1)?;
        cluster.launch(2)?;
        cluster.wait_ready(&[0, 1, 2], RECOVERY)?;
        for node in cluster.all() {
            ensure!(
                cluster_id(&cluster, node)? == founded,
                "node {node} has another cluster"
            );
        }
        Ok(())
    })?;
    let log = &cluster.log(0)[before..];
    ensure!(!log.contains("founding a cluster"), "{log}");
    let mut kept = persistent(&cluster, 0, "kept").await?;
    for number in 0..20 {
        expect_text(&mut kept, &number.to_string()).await?;
    }
    let mut reader = client(&cluster, 0, "reader").await?;
    subscribe(&mut reader, "state/#", 1).await?;
    for _ in 0..20 {
        expect_text(&mut reader, "is").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_grows_into_three_and_its_clients_notice_nothing() -> Result<()> {
    let mut cluster = Cluster::prepare(ClusterOptions {
        seeds: vec![vec![0], vec![0, 1], vec![0, 2]],
        config: "[storage]\nshards = 5\n".to_owned(),
        ..ClusterOptions::default()
    })?;
    block_in_place(|| cluster.restart(0))?;
    let mut clean = client(&cluster, 0, "clean").await?;
    subscribe(&mut clean, "a", 1).await?;
    let mut kept = persistent(&cluster, 0, "kept").await?;
    subscribe(&mut kept, "a", 1).await?;
    let mut publisher = client(&cluster, 0, "publisher").await?;
    let (end, over) = tokio::sync::watch::channel(false);
    // A lost connection, a lost message or one too many is an error.
    let talking = tokio::spawn(async move {
        for number in 0.. {
            let text = format!("message {number}");
            publish(&mut publisher, "a", &text, 1).await?;
            expect_text(&mut clean, &text).await?;
            expect_text(&mut kept, &text).await?;
            if *over.borrow() {
                break;
            }
        }
        anyhow::Ok((publisher, clean, kept))
    });
    block_in_place(|| -> Result<()> {
        cluster.launch(1)?;
        cluster.launch(2)?;
        cluster.wait_ready(&[0, 1, 2], RECOVERY)
    })?;
    for node in cluster.all() {
        let full = |member: &Member| member.state == "up" && member.shards_held == 5;
        wait_member(&cluster, 0, node, RECOVERY * 2, full).await?;
    }
    end.send_replace(true);
    let (mut publisher, mut clean, mut kept) = talking.await??;
    // The same connections are those of a cluster now.
    let mut elsewhere = client(&cluster, 2, "elsewhere").await?;
    subscribe(&mut elsewhere, "b", 1).await?;
    publish(&mut publisher, "b", "from the first", 1).await?;
    expect_text(&mut elsewhere, "from the first").await?;
    publish(&mut elsewhere, "a", "to the first", 1).await?;
    expect_text(&mut clean, "to the first").await?;
    expect_text(&mut kept, "to the first").await
}
