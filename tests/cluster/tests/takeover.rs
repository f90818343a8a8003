//! A client id belongs to one connection of the whole cluster.

use anyhow::{Result, ensure};
use cluster_tests::*;
use harness::{Client, ConnectOptions};
use mqtt_codec::ReasonCode;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_connects_to_another_node_takes_its_session_along() -> Result<()> {
    let cluster = three()?;
    let mut first = persistent(&cluster, 0, "mover").await?;
    subscribe(&mut first, "news", 1).await?;
    let second = Client::connect(cluster.mqtt_addr(1), ConnectOptions::v5("mover").persistent()).await;
    let mut second = second?;
    ensure!(second.connack().session_present, "the session stayed behind");
    first.expect_disconnect(ReasonCode::SessionTakenOver).await?;
    let mut publisher = client(&cluster, 2, "publisher").await?;
    publish(&mut publisher, "news", "for the second", 1).await?;
    expect_text(&mut second, "for the second").await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_come_at_once_one_stays() -> Result<()> {
    let cluster = three()?;
    let mut clients = Vec::new();
    for round in 0..12 {
        clients.push(client(&cluster, round % 3, "popular").await?);
    }
    let mut last = clients.pop().expect("twelve came");
    for mut earlier in clients {
        earlier.drain_until_closed().await?;
    }
    last.ping().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_just_before_the_connection_was_lost_is_not_forgotten_elsewhere() -> Result<()> {
    let cluster = three()?;
    let mut publisher = client(&cluster, 2, "publisher").await?;
    let mut wanderer = persistent(&cluster, 0, "wanderer").await?;
    subscribe(&mut wanderer, "steps", 1).await?;
    for step in 1..=10 {
        let text = format!("step {step}");
        publish(&mut publisher, "steps", &text, 1).await?;
        let received = wanderer.receive().await?;
        ensure!(
            received.publication.payload() == text.as_bytes(),
            "step {step}: acknowledged before, and here again: {:?}",
            received.publication.payload()
        );
        wanderer.acknowledge(&received).await?;
        // Without goodbye, and at once somewhere else.
        drop(wanderer);
        wanderer = persistent(&cluster, step % 3, "wanderer").await?;
        ensure!(wanderer.connack().session_present, "the session stayed behind");
    }
    Ok(())
}
