//! Nodes that are given the same seeds become one cluster, whatever the order in which they start.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Cluster, ClusterOptions};
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
