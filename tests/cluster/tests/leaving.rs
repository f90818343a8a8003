//! Members that go for good, because they were told to or because they are dead, and their old disks, which nobody takes back.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::*;
use harness::{Client, Cluster, ClusterOptions, ConnectOptions, peer_keys, wait_for};
use mqtt_codec::ReasonCode;
use tempfile::TempDir;
use tokio::task::block_in_place;

/// Replicas move one after the other, each with its snapshot.
const MOVED: Duration = Duration::from_secs(60);
/// Fewer than usual: each is moved.
const SHARDS: u64 = 5;
/// What a node says that has left, once for each of its lives.
const GONE: &str = "this node has left the cluster for good";

fn succeeded(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

/// Waits until a node knows these members and no others, each with a replica of every shard.
async fn wait_members(cluster: &Cluster, asked: usize, nodes: &[usize]) -> Result<()> {
    let names: Vec<&str> = nodes.iter().map(|node| cluster.name(*node)).collect();
    let there = async || {
        let mut known = members(cluster, asked).unwrap_or_default();
        known.sort_by(|a, b| a.name.cmp(&b.name));
        let full = |member: &Member| member.state == "up" && member.shards_held == SHARDS;
        known.iter().map(|member| &*member.name).eq(names.iter().copied()) && known.iter().all(full)
    };
    wait_for(there, MOVED)
        .await
        .with_context(|| format!("{names:?}: {:?}", members(cluster, asked)))
}

/// A node that is started with an id that was retired says so, serves nobody, and is no member.
async fn is_refused(cluster: &mut Cluster, node: usize) -> Result<()> {
    let before = cluster.log(node).matches(GONE).count();
    block_in_place(|| cluster.launch(node))?;
    let says_so = async || cluster.log(node).matches(GONE).count() > before;
    wait_for(says_so, RECOVERY)
        .await
        .with_context(|| cluster.log(node))?;
    ensure!(!block_in_place(|| cluster.is_ready(node)), "it is ready");
    let mut late = Client::open(cluster.mqtt_addr(node)).await?;
    late.send_connect(ConnectOptions::v5("late")).await?;
    let refused = late.expect_connack().await?.reason_code;
    ensure!(refused == ReasonCode::ServerUnavailable, "{refused:?}");
    Ok(())
}

/// What a session that is away has waiting for it.
async fn waiting(cluster: &Cluster, node: usize, text: &str) -> Result<()> {
    let mut kept = persistent(cluster, node, "kept").await?;
    subscribe(&mut kept, "a", 1).await?;
    kept.disconnect().await?;
    let mut publisher = client(cluster, node, "publisher").await?;
    publish(&mut publisher, "a", text, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_told_to_leave_gives_all_away_and_its_old_disk_is_refused() -> Result<()> {
    let mut cluster = three_of(4, &format!("[storage]\nshards = {SHARDS}\n"))?;
    block_in_place(|| cluster.restart(3))?;
    waiting(&cluster, 2, "kept by others").await?;

    // What counts is what becomes of it, not what is said.
    ctl(&cluster, 2, &["cluster", "leave"])?;
    wait_members(&cluster, 0, &[0, 1, 3]).await?;
    let gone = wait_for(async || cluster.log(2).contains(GONE), RECOVERY);
    gone.await.context("it does not know that it has left")?;
    let status = block_in_place(|| cluster.stop(2))?;
    ensure!(status.success(), "{status}");

    is_refused(&mut cluster, 2).await?;
    wait_members(&cluster, 0, &[0, 1, 3]).await?;
    let mut kept = persistent(&cluster, 3, "kept").await?;
    expect_text(&mut kept, "kept by others").await?;

    for node in cluster.all() {
        let name = format!("name=\"{}\"", cluster.name(node));
        wait_audited(&cluster, &[0, 1, 2, 3], "member joined", &[&name]).await?;
    }
    wait_audited(&cluster, &[2], "operator change", &["/leave"]).await?;
    wait_audited(&cluster, &[2], "member leaving", &["a node is told to leave"]).await?;
    wait_audited(&cluster, &[2], "member left", &[cluster.name(2)]).await?;
    // It had a vote, which another one has now.
    wait_audited(&cluster, &[0, 1, 2, 3], "voters", &["voters change"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_forgotten_and_its_old_disk_is_refused() -> Result<()> {
    let files = TempDir::new()?;
    let mut cluster = Cluster::prepare(ClusterOptions {
        nodes: 4,
        seeds: vec![vec![0, 1, 2]; 4],
        config: format!("[storage]\nshards = {SHARDS}\n"),
        cluster_keys: peer_keys(files.path()),
        ..ClusterOptions::default()
    })?;
    cluster.write_peer_certificate(files.path())?;
    block_in_place(|| cluster.launch_all(RECOVERY))?;
    waiting(&cluster, 2, "kept by others").await?;

    let forget = |cluster: &Cluster| ctl(cluster, 0, &["cluster", "forget", cluster.name(2)]);
    let refused = forget(&cluster)?;
    ensure!(refused.status.code() == Some(1), "it lives: {refused:?}");
    block_in_place(|| cluster.kill9(2));
    wait_member(&cluster, 0, 2, RECOVERY, |member| member.state == "down").await?;
    succeeded(&forget(&cluster)?)?;
    wait_members(&cluster, 0, &[0, 1, 3]).await?;

    // Meanwhile all have new certificates, of another authority: the next connection is made with them.
    cluster.write_peer_certificate(files.path())?;
    is_refused(&mut cluster, 2).await?;
    wait_members(&cluster, 0, &[0, 1, 3]).await?;
    let mut kept = persistent(&cluster, 3, "kept").await?;
    expect_text(&mut kept, "kept by others").await?;

    wait_audited(&cluster, &[0, 1, 3], "member down", &["a node is silent"]).await?;
    wait_audited(&cluster, &[0], "operator change", &["/forget"]).await?;
    wait_audited(&cluster, &[0], "member forgotten", &[cluster.name(2)]).await?;
    wait_audited(&cluster, &[0, 1, 3], "certificates", &["were read again"]).await
}
