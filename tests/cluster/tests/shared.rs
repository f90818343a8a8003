//! The members of a shared subscription are those of all nodes: each message goes to one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::*;
use harness::{Client, Cluster};
use tokio::task::block_in_place;
use tokio::time::timeout;

const MESSAGES: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn members_on_all_nodes_share_the_messages_of_all_nodes() -> Result<()> {
    let cluster = three()?;
    let mut members = Vec::new();
    for node in cluster.all() {
        let mut member = client(&cluster, node, &format!("member-{node}")).await?;
        subscribe(&mut member, "$share/group/jobs/#", 1).await?;
        members.push(member);
    }
    for node in cluster.all() {
        let mut publisher = client(&cluster, node, "publisher").await?;
        for number in 0..MESSAGES / 3 {
            publish(&mut publisher, "jobs/one", &format!("{node}/{number}"), 1).await?;
        }
    }
    let mut arrivals: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for (node, member) in members.iter_mut().enumerate() {
        let mut own = 0;
        while let Ok(received) = timeout(Duration::from_secs(1), member.receive()).await {
            *arrivals
                .entry(received?.publication.payload().to_vec())
                .or_default() += 1;
            own += 1;
        }
        ensure!(own > 0, "the member on node {node} got nothing");
    }
    ensure!(
        arrivals.len() == MESSAGES,
        "{} of {MESSAGES} arrived",
        arrivals.len()
    );
    ensure!(arrivals.values().all(|times| *times == 1), "{arrivals:?}");
    Ok(())
}

/// A kept member on node 1, another one on node 0 that has got something of the messages and keeps quiet about it, and their
/// publisher on node 2.
async fn two_with_messages(cluster: &Cluster, quiet: &str) -> Result<(Client, Client, Client)> {
    let mut stays = persistent(cluster, 1, "stays").await?;
    subscribe(&mut stays, "$share/group/jobs", 1).await?;
    let mut quiet = persistent(cluster, 0, quiet).await?;
    subscribe(&mut quiet, "$share/group/jobs", 1).await?;
    let mut publisher = client(cluster, 2, "publisher").await?;
    for number in 0..MESSAGES {
        publish(&mut publisher, "jobs", &number.to_string(), 1).await?;
    }
    quiet.expect_publish().await?;
    Ok((stays, quiet, publisher))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_did_not_acknowledge_survives_its_node() -> Result<()> {
    let mut cluster = three()?;
    let (mut stays, _moves, mut publisher) = two_with_messages(&cluster, "moves").await?;

    block_in_place(|| cluster.kill9(0));

    let mut arrived = BTreeSet::new();
    let mut moves = persistent(&cluster, 2, "moves").await?;
    while arrived.len() < MESSAGES {
        let received = tokio::select! {
            received = stays.receive() => received?,
            received = moves.receive() => received?,
        };
        arrived.insert(received.publication.payload().to_vec());
    }
    // And those that come now find somebody, whether the node is missed yet or not.
    for number in MESSAGES..2 * MESSAGES {
        publish(&mut publisher, "jobs", &number.to_string(), 1).await?;
    }
    while arrived.len() < 2 * MESSAGES {
        let received = tokio::select! {
            received = stays.receive() => received?,
            received = moves.receive() => received?,
        };
        arrived.insert(received.publication.payload().to_vec());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_has_not_got_when_its_node_dies_goes_to_one_that_is_connected() -> Result<()> {
    let mut cluster = three()?;
    // It acknowledges nothing, and never comes back.
    let (mut stays, _dies, _publisher) = two_with_messages(&cluster, "dies").await?;

    block_in_place(|| cluster.kill9(0));

    wait_member(&cluster, 2, 0, RECOVERY, |member| member.state == "down").await?;
    let mut arrived = BTreeSet::new();
    while arrived.len() < MESSAGES {
        let received = stays.receive().await;
        let received = received.with_context(|| format!("{} of {MESSAGES} arrived", arrived.len()))?;
        arrived.insert(received.publication.payload().to_vec());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_session_is_left_out_when_its_node_has_died() -> Result<()> {
    let mut cluster = three()?;
    let mut stays = client(&cluster, 1, "stays").await?;
    subscribe(&mut stays, "$share/group/jobs", 1).await?;
    let mut goes = client(&cluster, 0, "goes").await?;
    subscribe(&mut goes, "$share/group/jobs", 1).await?;

    block_in_place(|| cluster.kill9(0));
    wait_member(&cluster, 2, 0, RECOVERY, |member| member.state == "down").await?;

    let mut publisher = client(&cluster, 2, "publisher").await?;
    for number in 0..MESSAGES {
        publish(&mut publisher, "jobs", &number.to_string(), 1).await?;
        expect_text(&mut stays, &number.to_string()).await?;
    }
    Ok(())
}
