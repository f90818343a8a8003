//! A message reaches the subscribers of every node, whatever its QoS and their sessions.

use anyhow::{Context, Result, ensure};
use cluster_tests::*;
use harness::{Cluster, wait_for};
use tokio::task::block_in_place;

/// What a node counts of messages from other nodes (`in`), or to them (`out`).
fn forwarded(cluster: &Cluster, node: usize, direction: &str) -> Result<u64> {
    let metrics = block_in_place(|| cluster.admin_get(node, "/metrics"))?;
    let name = format!("flotilla_forwarded_messages_total{{direction=\"{direction}\"}} ");
    let count = metrics.lines().find_map(|line| line.strip_prefix(&name));
    Ok(count.with_context(|| name.clone())?.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_on_one_node_reaches_clean_and_persistent_sessions_on_another() -> Result<()> {
    let cluster = three()?;
    let mut publisher = client(&cluster, 0, "publisher").await?;
    for qos in 0..=2 {
        let mut clean = client(&cluster, 1, "clean").await?;
        let mut kept = persistent(&cluster, 2, "kept").await?;
        let topic = format!("qos/{qos}");
        subscribe(&mut clean, &topic, qos).await?;
        subscribe(&mut kept, "qos/+", qos).await?;
        publish(&mut publisher, &topic, "hello", qos).await?;
        expect_text(&mut clean, "hello").await?;
        expect_text(&mut kept, "hello").await?;
        clean.disconnect().await?;
        kept.disconnect().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_away_gets_its_messages_on_the_node_where_it_comes_back() -> Result<()> {
    let cluster = three()?;
    let mut kept = persistent(&cluster, 0, "kept").await?;
    subscribe(&mut kept, "a/#", 2).await?;
    kept.disconnect().await?;
    let mut publisher = client(&cluster, 1, "publisher").await?;
    for text in ["1", "2", "3"] {
        publish(&mut publisher, "a/b", text, 2).await?;
    }
    let mut kept = persistent(&cluster, 2, "kept").await?;
    for text in ["1", "2", "3"] {
        expect_text(&mut kept, text).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_acknowledged_after_suback_is_never_missed() -> Result<()> {
    let cluster = three()?;
    let mut publisher = client(&cluster, 0, "publisher").await?;
    for round in 0..50 {
        let mut reader = client(&cluster, 1 + round % 2, "reader").await?;
        let topic = format!("fresh/{round}");
        subscribe(&mut reader, &topic, 1).await?;
        publish(&mut publisher, &topic, "at once", 1).await?;
        expect_text(&mut reader, "at once").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_once_to_a_node_with_subscribers_and_never_to_one_without() -> Result<()> {
    let cluster = three()?;
    // Two of one node: it gets each message once for both. The others have clients, too, of other topics.
    let mut readers = [
        client(&cluster, 1, "one").await?,
        client(&cluster, 1, "other").await?,
    ];
    subscribe(&mut readers[0], "here/#", 2).await?;
    subscribe(&mut readers[1], "here/+", 2).await?;
    let mut beside = client(&cluster, 2, "beside").await?;
    subscribe(&mut beside, "there/#", 2).await?;
    let mut publisher = client(&cluster, 0, "publisher").await?;
    const EACH: u64 = 20;
    for number in 0..EACH {
        for qos in 0..=2 {
            let text = format!("{qos}/{number}");
            publish(&mut publisher, "here/a", &text, qos).await?;
            for reader in &mut readers {
                expect_text(reader, &text).await?;
            }
        }
    }
    let sent = 3 * EACH;
    let counted = async || {
        forwarded(&cluster, 0, "out").is_ok_and(|count| count >= sent)
            && forwarded(&cluster, 1, "in").is_ok_and(|count| count >= sent)
    };
    wait_for(counted, RECOVERY).await.context("not counted")?;
    for (node, direction, wanted) in [
        (0, "in", 0),
        (0, "out", sent),
        (1, "in", sent),
        (1, "out", 0),
        (2, "in", 0),
        (2, "out", 0),
    ] {
        let count = forwarded(&cluster, node, direction)?;
        ensure!(count == wanted, "node {node}, {direction}: {count}, not {wanted}");
    }
    // And it is one that gets what it wants.
    publish(&mut publisher, "there/a", "hello", 1).await?;
    expect_text(&mut beside, "hello").await?;
    wait_for(
        async || forwarded(&cluster, 2, "in").is_ok_and(|count| count == 1),
        RECOVERY,
    )
    .await
}
