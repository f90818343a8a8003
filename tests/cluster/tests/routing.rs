//! A message reaches the subscribers of every node, whatever its QoS and their sessions.

use anyhow::Result;
use cluster_tests::*;

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
