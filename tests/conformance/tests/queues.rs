//! Queues that are full: who is told, what is dropped, what is counted.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Broker, Client, ConnectOptions, Message, wait_for};
use mqtt_codec::ReasonCode;

use crate::common::*;

/// What the broker has dropped for a reason.
fn dropped(broker: &Broker, reason: &str) -> u64 {
    let name = format!("flotilla_messages_dropped_total{{reason=\"{reason}\"}} ");
    let metrics = broker.admin_get("/metrics").unwrap_or_default();
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

async fn expect_dropped(broker: &Broker, reason: &str, count: u64) -> Result<()> {
    let counted = wait_for(async || dropped(broker, reason) >= count, Duration::from_secs(20)).await;
    ensure!(
        counted.is_ok() && dropped(broker, reason) == count,
        "{reason}: {}",
        dropped(broker, reason)
    );
    Ok(())
}

#[tokio::test]
async fn a_message_that_no_queue_has_room_for_is_refused_with_quota_exceeded() -> Result<()> {
    let broker = with_config("[queues]\nmessages_max = 2\nwhen_full = \"drop-new\"")?;
    let mut away = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("away").persistent()).await?;
    away.subscribe("t", 2).await?;
    away.disconnect().await?;
    let mut publisher = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("p")).await?;
    for _ in 0..2 {
        ensure!(publisher.publish(Message::new("t", "x").qos(1)).await? == ReasonCode::Success);
    }
    for qos in [1, 2] {
        let reason = publisher.publish(Message::new("t", "x").qos(qos)).await?;
        ensure!(reason == ReasonCode::QuotaExceeded, "QoS {qos}: {reason:?}");
    }
    // A version without words for it, and a message that somebody else has.
    let mut older = Client::connect(broker.mqtt_addr(), ConnectOptions::v311("old")).await?;
    ensure!(older.publish(Message::new("t", "x").qos(1)).await? == ReasonCode::Success);
    let mut live = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("live")).await?;
    live.subscribe("t", 1).await?;
    ensure!(publisher.publish(Message::new("t", "seen").qos(1)).await? == ReasonCode::Success);
    ensure!(publisher.publish(Message::new("t", "seen").qos(2)).await? == ReasonCode::Success);
    expect_text(&mut live, "seen").await?;
    expect_dropped(&broker, "queue_full", 5).await
}

#[tokio::test]
async fn retained_messages_for_a_kept_session_keep_to_its_queue_in_messages_and_bytes() -> Result<()> {
    for (config, fit) in [
        ("[queues]\nmessages_max = 5", 5),
        ("[queues]\nbytes_max = \"1KiB\"", 3),
    ] {
        let broker = with_config(config)?;
        let mut publisher = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("p")).await?;
        for number in 0..8 {
            let retained = Message::new(&format!("r/{number}"), "x".repeat(300))
                .qos(1)
                .retain();
            publisher.publish(retained).await?;
        }
        let options = ConnectOptions::v5("kept").persistent();
        let mut kept = Client::connect(broker.mqtt_addr(), options).await?;
        kept.subscribe("r/#", 1).await?;
        for _ in 0..fit {
            ensure!(kept.receive().await?.retain, "{config}");
        }
        kept.expect_no_publish(MOMENT).await?;
        expect_dropped(&broker, "queue_full", 8 - fit).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_a_session_in_memory_had_waiting_is_counted_when_it_ends() -> Result<()> {
    let broker = with_config("")?;
    let options = ConnectOptions::v5("c").receive_maximum(1);
    let mut client = Client::connect(broker.mqtt_addr(), options).await?;
    client.subscribe("t", 1).await?;
    let mut publisher = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("p")).await?;
    for number in 0..5 {
        publisher
            .publish(Message::new("t", number.to_string()).qos(1))
            .await?;
    }
    client.expect_publish().await?;
    drop(client);
    expect_dropped(&broker, "session_ended", 5).await
}

#[tokio::test]
async fn sessions_in_memory_keep_to_the_memory_of_the_node() -> Result<()> {
    let broker = with_config("[queues]\nnode_bytes_max = \"1MiB\"")?;
    let mut clients = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let options = ConnectOptions::v5(name).receive_maximum(1);
        let mut client = Client::connect(broker.mqtt_addr(), options).await?;
        client.subscribe("t", 1).await?;
        clients.push(client);
    }
    let mut publisher = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("p")).await?;
    for _ in 0..10 {
        publisher
            .publish(Message::new("t", "x".repeat(50_000)).qos(1))
            .await?;
    }
    // One is under way to each; of 36 the three quarters of a MiB hold 15, or few more if they came at the same moment.
    // Whoever takes what it has makes room for others.
    let mut received = 0;
    for client in &mut clients {
        received += client.receive_all().await?.len() as u64;
    }
    ensure!((4 + 15..=4 + 18).contains(&received), "{received}");
    expect_dropped(&broker, "queue_full", 40 - received).await
}

#[tokio::test]
async fn connections_that_never_say_connect_keep_no_other_listener_busy() -> Result<()> {
    let broker = with_config("[limits]\nhandshakes_max = 1\nconnect_timeout = \"60s\"")?;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(Client::open(broker.ws_addr()).await?);
    }
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c")).await?;
    client.ping().await
}
