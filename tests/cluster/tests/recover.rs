//! The disks of a majority are gone for good: a cluster is made of the one that is left.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use cluster_tests::*;
use harness::{Cluster, wait_for};
use tokio::task::block_in_place;

fn recover(cluster: &Cluster, node: usize, arguments: &[&str]) -> Result<Output> {
    let mut command = harness::flotilla(cluster.admin_addr(node))?;
    command
        .arg("recover")
        .arg("--data-dir")
        .arg(cluster.data_dir(node));
    block_in_place(|| command.args(arguments).output()).context("flotilla recover")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_disk_of_three_becomes_the_cluster_and_has_what_it_had_acknowledged() -> Result<()> {
    let mut cluster = three()?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    load.progress(300, RECOVERY).await.context("at first")?;
    // From here on a majority is nodes 0 and 2, so that the disk that is left has all that is acknowledged.
    block_in_place(|| cluster.stop(1))?;
    load.move_clients(&cluster, 1, 0);
    load.move_clients(&cluster, 2, 0);
    load.progress(300, RECOVERY).await.context("without node 1")?;

    let running = recover(&cluster, 0, &["--others-are-gone"])?;
    ensure!(
        !running.status.success(),
        "the disk of a node that runs: {running:?}"
    );
    cluster.kill9(2);
    cluster.kill9(0);
    cluster.wipe(2)?;
    let asked = recover(&cluster, 0, &[])?;
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    ensure!(
        asked.status.code() == Some(3) && said.contains("Nothing was changed"),
        "{asked:?}"
    );
    ensure!(
        [0, 1, 2].iter().all(|node| said.contains(cluster.name(*node))),
        "{said}"
    );
    let done = recover(&cluster, 0, &["--others-are-gone"])?;
    ensure!(done.status.success(), "{done:?}");
    let none = recover(&cluster, 2, &["--others-are-gone"])?;
    ensure!(
        none.status.code() == Some(1),
        "there is nothing to recover: {none:?}"
    );

    block_in_place(|| cluster.restart(0))?;
    load.progress(300, RECOVERY).await.context("on the one disk")?;
    // The disk of the old cluster is none of the new one.
    block_in_place(|| cluster.launch(1))?;
    let refused = async || block_in_place(|| cluster.log(1)).contains("not of this cluster");
    wait_for(refused, RECOVERY).await?;
    ensure!(!block_in_place(|| cluster.is_ready(1)));
    ensure!(members(&cluster, 0)?.len() == 1, "{:?}", members(&cluster, 0));
    cluster.kill9(1);
    cluster.wipe(1)?;

    block_in_place(|| -> Result<()> {
        cluster.restart(1)?;
        cluster.restart(2)
    })?;
    for node in [1, 2] {
        wait_member(&cluster, 0, node, RECOVERY, |member| member.voter).await?;
    }
    wait_complete(&cluster, 0, 3, RECOVERY).await?;
    // Two of the three are a majority, whoever they are.
    block_in_place(|| cluster.kill9(0));
    load.move_clients(&cluster, 0, 1);
    load.progress(300, RECOVERY).await.context("with two others")?;
    block_in_place(|| cluster.restart(0))?;
    load.judge(&cluster).await
}
