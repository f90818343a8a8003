//! A cluster grows under load and shrinks again, and its clients notice one disconnect for each node that goes.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::*;
use harness::{Cluster, wait_for};
use serde_json::Value;
use tokio::task::block_in_place;

/// Replicas move one after the other, each with its snapshot.
const MOVED: Duration = Duration::from_secs(90);
/// Fewer than usual: each is moved twice.
const SHARDS: u64 = 5;
/// The clients which are connected to the nodes that go.
const MOVING: [(&str, usize); 2] = [("publisher of one/new", 3), ("steady", 4)];

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_become_five_under_load_and_three_and_four_again() -> Result<()> {
    let mut cluster = three_of(5, &format!("[storage]\nshards = {SHARDS}\n"))?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    load.progress(300, RECOVERY).await?;
    block_in_place(|| -> Result<()> {
        cluster.launch(3)?;
        cluster.launch(4)?;
        cluster.wait_ready(&[3, 4], RECOVERY)
    })?;
    for node in [3, 4] {
        wait_member(&cluster, 0, node, MOVED, |member| member.shards_held > 0).await?;
    }
    load.move_clients(&cluster, 0, 3);
    load.move_clients(&cluster, 1, 4);
    for (client, node) in MOVING {
        send_elsewhere(&cluster, client, node).await?;
    }
    load.progress(300, RECOVERY).await?;
    load.move_clients(&cluster, 0, 0);
    load.move_clients(&cluster, 1, 1);

    let foretold = succeeded(&scale_in(&cluster, &["3", "--dry-run"])?)?;
    let named: Vec<_> = foretold
        .lines()
        .filter_map(|line| line.strip_prefix("would leave: ")?.split(' ').next())
        .collect();
    ensure!(named == ["node-5", "node-4"], "{foretold}");
    // Whoever gave the order goes away before it is done, and another one gives it again.
    let interrupted = wait_for(
        async || {
            let output = scale_in(&cluster, &["3", "--within", "0"]);
            output.is_ok_and(|output| printed(&output).contains("leaving: node-5"))
        },
        MOVED,
    );
    interrupted.await.context("node-5 was not told to leave")?;
    load.progress(300, RECOVERY).await?;
    let said = succeeded(&scale_in(&cluster, &["3", "--within", "240"])?)?;
    ensure!(
        said.contains("node-4 has left\n") && said.ends_with("done: 3 nodes\n"),
        "{said}"
    );
    let again = succeeded(&scale_in(&cluster, &["3"])?)?;
    ensure!(again == "done: 3 nodes\n", "{again}");
    for node in 0..3 {
        let full = wait_for(async || are_three_with_all(&cluster, node), RECOVERY);
        full.await
            .with_context(|| format!("{:?}", members(&cluster, node)))?;
    }
    // What is left is as much as each shard is to have copies.
    let refused = scale_in(&cluster, &["2"])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    ensure!(
        String::from_utf8_lossy(&refused.stderr).contains("--fewer-copies"),
        "{refused:?}"
    );
    for gone in [3, 4] {
        let status = block_in_place(|| cluster.stop(gone))?;
        ensure!(status.success(), "node {gone}: {status}");
    }
    load.progress(300, RECOVERY).await?;
    load.at_most_once_per_node()?;

    // And up again, with a new disk, since the identity that has left is gone.
    cluster.wipe(3)?;
    block_in_place(|| cluster.restart(3))?;
    wait_member(&cluster, 0, 3, MOVED, |member| member.shards_held > 0).await?;
    let mut here = client(&cluster, 3, "here").await?;
    subscribe(&mut here, "up/again", 1).await?;
    let mut there = client(&cluster, 1, "there").await?;
    publish(&mut there, "up/again", "welcome", 1).await?;
    expect_text(&mut here, "welcome").await?;
    load.judge(&cluster).await
}

/// An operator disconnects the client, which comes back where it belongs now.
async fn send_elsewhere(cluster: &Cluster, client: &str, node: usize) -> Result<()> {
    let told = wait_for(
        async || asked(cluster, &["clients", "disconnect", client]).is_some(),
        RECOVERY,
    );
    told.await
        .with_context(|| format!("{client} was not disconnected"))?;
    let there = async || {
        let shown = asked(cluster, &["clients", "show", client, "--output", "json"]);
        let shown: Value = shown
            .and_then(|output| serde_json::from_slice(&output.stdout).ok())
            .unwrap_or_default();
        shown["session"]["connected"] == true && shown["session"]["node"] == cluster.name(node)
    };
    wait_for(there, RECOVERY)
        .await
        .with_context(|| format!("{client} is not on {}", cluster.name(node)))
}

/// What a node says that need not have a copy of the client's shard.
fn asked(cluster: &Cluster, arguments: &[&str]) -> Option<Output> {
    let output = ctl(cluster, 0, arguments).ok();
    output.filter(|output| output.status.success())
}

fn scale_in(cluster: &Cluster, to: &[&str]) -> Result<Output> {
    ctl(cluster, 1, &[&["cluster", "scale-in", "--to"], to].concat())
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn succeeded(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(printed(output))
}

fn are_three_with_all(cluster: &Cluster, asked: usize) -> bool {
    let known = members(cluster, asked).unwrap_or_default();
    let full = |member: &Member| member.state == "up" && member.shards_held == SHARDS;
    known.len() == 3 && known.iter().all(full)
}
