//! Retained messages are those of the whole cluster.

use std::time::Duration;

use anyhow::Result;
use cluster_tests::*;
use harness::Message;

#[tokio::test(flavor = "multi_thread")]
async fn the_last_acknowledged_retained_message_is_found_on_every_node() -> Result<()> {
    let cluster = three()?;
    let mut writer = client(&cluster, 0, "writer").await?;
    for round in 0..20 {
        let text = round.to_string();
        writer
            .publish(Message::new("state/door", &text).qos(1).retain())
            .await?;
        for node in cluster.all() {
            let mut reader = client(&cluster, node, "reader").await?;
            subscribe(&mut reader, "state/+", 1).await?;
            expect_text(&mut reader, &text).await?;
            reader.disconnect().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_that_is_deleted_is_deleted_everywhere() -> Result<()> {
    let cluster = three()?;
    for round in 0..9 {
        let topic = format!("state/{round}");
        let mut writer = client(&cluster, round % 3, "writer").await?;
        writer.publish(Message::new(&topic, "is").qos(1).retain()).await?;
        let mut other = client(&cluster, (round + 1) % 3, "other").await?;
        other.publish(Message::new(&topic, "").qos(1).retain()).await?;
        for node in cluster.all() {
            let mut reader = client(&cluster, node, "reader").await?;
            subscribe(&mut reader, &topic, 1).await?;
            reader.expect_no_publish(Duration::ZERO).await?;
        }
    }
    Ok(())
}
