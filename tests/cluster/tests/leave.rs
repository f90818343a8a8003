//! One node leaves for good: refused where something could be lost, shown as it goes on, and given again when it was interrupted.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::*;
use harness::{Cluster, wait_for};
use serde_json::Value;
use tokio::task::block_in_place;

/// Replicas move one after the other, each with its snapshot.
const MOVED: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn one_of_four_leaves_and_the_three_others_stay() -> Result<()> {
    let mut cluster = three_of(4, "[storage]\nshards = 5\n")?;
    block_in_place(|| -> Result<()> {
        cluster.launch(3)?;
        cluster.wait_ready(&[3], RECOVERY)
    })?;
    wait_member(&cluster, 0, 3, MOVED, |member| member.shards_held > 0).await?;
    let mut kept = persistent(&cluster, 3, "kept").await?;
    subscribe(&mut kept, "kept/#", 1).await?;

    // Beside a dead node nobody goes.
    block_in_place(|| cluster.kill9(1));
    wait_member(&cluster, 3, 1, RECOVERY, |member| member.state == "down").await?;
    let refused = leave(&cluster, 3, &["--fewer-copies"])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    ensure!(said(&refused).contains("--beside-down"), "{refused:?}");
    block_in_place(|| -> Result<()> {
        cluster.launch(1)?;
        cluster.wait_ready(&[1], RECOVERY)
    })?;
    wait_member(&cluster, 3, 1, RECOVERY, |member| member.state == "up").await?;

    // Whoever gave the order goes away before it is done.
    let begun = leave(&cluster, 3, &["--within", "0"])?;
    ensure!(begun.status.code() == Some(3), "{begun:?}");
    ensure!(printed(&begun).starts_with("leaving: node-4 ("), "{begun:?}");
    ensure!(said(&begun).contains("goes on leaving"), "{begun:?}");
    let rest = leave(&cluster, 3, &["--stalled-after", "90"])?;
    ensure!(rest.status.success(), "{rest:?}");
    ensure!(printed(&rest).ends_with("node-4 has left\n"), "{rest:?}");
    let again: Value = serde_json::from_slice(&leave(&cluster, 3, &["--output", "json"])?.stdout)?;
    ensure!(again["state"] == "left" && again["replicas"] == 0, "{again}");
    let three = wait_for(
        async || members(&cluster, 0).is_ok_and(|members| members.len() == 3),
        RECOVERY,
    );
    three
        .await
        .with_context(|| format!("{:?}", members(&cluster, 0)))?;

    // Its client had to go elsewhere, and finds its session there.
    drop(kept);
    let kept = persistent(&cluster, 0, "kept").await?;
    ensure!(kept.connack().session_present, "the session has gone");

    // What is left is as much as each shard is to have copies.
    let refused = leave(&cluster, 0, &[])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    ensure!(said(&refused).contains("--fewer-copies"), "{refused:?}");
    Ok(())
}

fn leave(cluster: &Cluster, node: usize, flags: &[&str]) -> Result<Output> {
    ctl(cluster, node, &[&["cluster", "leave"], flags].concat())
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
