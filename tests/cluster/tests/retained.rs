//! Retained messages are those of the whole cluster.

use anyhow::Result;
use cluster_tests::*;
use harness::Message;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "nodes do not form clusters yet"]
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
