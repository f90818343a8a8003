//! A node that comes back with the same disk and another address is the same member, and the others find it.

use anyhow::{Result, ensure};
use cluster_tests::*;
use harness::{Cluster, ClusterOptions, own_hosts_are_possible};
use serde_json::Value;
use tokio::task::block_in_place;

/// Where a node says that the members are.
fn addresses(cluster: &Cluster, asked: usize) -> Vec<String> {
    let answer = block_in_place(|| cluster.admin_get(asked, "/api/v1/cluster")).unwrap_or_default();
    let status: Value = serde_json::from_str(&answer).unwrap_or_default();
    let members = status["members"].as_array().cloned().unwrap_or_default();
    let mut addresses: Vec<String> = members
        .iter()
        .filter_map(|member| member["address"].as_str().map(str::to_owned))
        .collect();
    addresses.sort();
    addresses
}

fn ids(cluster: &Cluster, asked: usize) -> Result<Vec<String>> {
    let members = members(cluster, asked)?;
    Ok(members.into_iter().map(|member| member.node_id).collect())
}

/// The last node is away, gets another address by `move_it`, and comes back under load. Then it is needed: one of the others
/// goes, and comes back by its seeds.
async fn moves_and_is_found(
    mut cluster: Cluster,
    move_it: impl FnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    let mut kept = persistent(&cluster, 2, "kept").await?;
    subscribe(&mut kept, "kept", 1).await?;
    drop(kept);
    let known = ids(&cluster, 0)?;
    let load = Load::start(&cluster, &[0, 1, 2]).await?;
    load.progress(300, RECOVERY).await?;
    block_in_place(|| cluster.kill9(2));
    load.move_clients(&cluster, 2, 0);
    let mut publisher = client(&cluster, 0, "publisher").await?;
    publish(&mut publisher, "kept", "while it was away", 1).await?;
    move_it(&mut cluster)?;
    block_in_place(|| cluster.restart(2))?;
    load.move_clients(&cluster, 2, 2);
    load.progress(300, RECOVERY).await?;
    let mut expected: Vec<String> = cluster
        .all()
        .iter()
        .map(|node| cluster.advertised(*node))
        .collect();
    expected.sort();
    for node in cluster.all() {
        let found = async || addresses(&cluster, node) == expected;
        harness::wait_for(found, RECOVERY).await?;
        ensure!(ids(&cluster, node)? == known, "it is not the same member");
    }
    // It serves: what came while it was away, and what comes now from another node.
    let mut kept = persistent(&cluster, 2, "kept").await?;
    expect_text(&mut kept, "while it was away").await?;
    publish(&mut publisher, "kept", "from another node", 1).await?;
    expect_text(&mut kept, "from another node").await?;
    drop((kept, publisher));
    // It votes: without another one there is no majority but with it.
    block_in_place(|| cluster.kill9(1));
    load.move_clients(&cluster, 1, 2);
    load.progress(300, RECOVERY).await?;
    block_in_place(|| cluster.restart(1))?;
    load.move_clients(&cluster, 1, 1);
    block_in_place(|| cluster.kill9(0));
    load.move_clients(&cluster, 0, 2);
    load.progress(300, RECOVERY).await?;
    block_in_place(|| cluster.restart(0))?;
    load.move_clients(&cluster, 0, 0);
    load.judge(&cluster).await?;
    // After all were away at once, only what they wrote down says where it is.
    block_in_place(|| -> Result<()> {
        cluster.all().into_iter().for_each(|node| cluster.kill9(node));
        for node in cluster.all() {
            cluster.launch(node)?;
        }
        cluster.wait_ready(&cluster.all(), RECOVERY)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_under_another_peer_address_is_found_by_the_others() -> Result<()> {
    moves_and_is_found(three()?, |cluster| cluster.move_peer_port(2)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_whose_seed_is_one_name_with_all_their_addresses_form_and_one_of_them_moves() -> Result<()> {
    if !own_hosts_are_possible() {
        println!("skipped: this user may not mount a hosts file for a process");
        return Ok(());
    }
    let cluster = block_in_place(|| {
        Cluster::start(ClusterOptions {
            names: true,
            ..ClusterOptions::default()
        })
    })?;
    let addresses = addresses(&cluster, 0);
    ensure!(
        addresses == ["node-1.test:7883", "node-2.test:7883", "node-3.test:7883"],
        "{addresses:?}"
    );
    moves_and_is_found(cluster, |cluster| cluster.move_address(2)).await
}
