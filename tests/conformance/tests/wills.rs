//! Wills (3.1.2.5): which ends of a connection publish them, when, and as what.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Client, ConnectOptions, Message};
use mqtt_codec::ReasonCode;
use tokio::time::Instant;

use crate::common::*;

/// A client with a will, and one that waits for it.
async fn with_will(change: impl Fn(ConnectOptions) -> ConnectOptions) -> Result<(Client, Client, String)> {
    let topic = unique("will");
    let watcher = subscriber(&topic, 1).await?;
    let options = ConnectOptions::v5(unique("mortal")).will(Message::new(&topic, "gone").qos(1));
    Ok((connected(change(options)).await?, watcher, topic))
}

#[tokio::test]
async fn a_lost_connection_publishes_the_will() -> Result<()> {
    let (client, mut watcher, _) = with_will(|options| options).await?;
    drop(client);
    expect_text(&mut watcher, "gone").await.map(|_| ())
}

#[tokio::test]
async fn disconnect_with_will_message_publishes_the_will() -> Result<()> {
    let (client, mut watcher, _) = with_will(|options| options).await?;
    client
        .disconnect_with(ReasonCode::DisconnectWithWillMessage)
        .await?;
    expect_text(&mut watcher, "gone").await.map(|_| ())
}

#[tokio::test]
async fn any_other_failing_disconnect_publishes_the_will() -> Result<()> {
    let (client, mut watcher, _) = with_will(|options| options).await?;
    client.disconnect_with(ReasonCode::UnspecifiedError).await?;
    expect_text(&mut watcher, "gone").await.map(|_| ())
}

#[tokio::test]
async fn a_protocol_error_publishes_the_will() -> Result<()> {
    for bytes in [
        publish_frame(6, b"a", Some(1), &[], b"x"),
        connect_frame(b"again", 2, &[], &[]),
    ] {
        let (mut client, mut watcher, _) = with_will(|options| options).await?;
        client.send_raw(&bytes).await?;
        client.drain_until_closed().await?;
        expect_text(&mut watcher, "gone").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_keep_alive_timeout_publishes_the_will() -> Result<()> {
    let start = Instant::now();
    let (_client, mut watcher, _) = with_will(|options| options.keep_alive(1)).await?;
    expect_text(&mut watcher, "gone").await?;
    ensure!(
        start.elapsed() >= Duration::from_millis(1400),
        "after {:?}",
        start.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn a_takeover_publishes_the_will_without_delay() -> Result<()> {
    for clean in [false, true] {
        let (id, topic) = (unique("taken"), unique("will"));
        let mut watcher = subscriber(&topic, 1).await?;
        let options = ConnectOptions::v5(&id).persistent();
        let mut first = connected(options.clone().will(Message::new(&topic, "taken over").qos(1))).await?;
        let _second = connected(if clean { ConnectOptions::v5(&id) } else { options }).await?;
        first.expect_disconnect(ReasonCode::SessionTakenOver).await?;
        expect_text(&mut watcher, "taken over").await?;
        watcher.expect_no_publish(MOMENT).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_takeover_that_resumes_the_session_cancels_a_delayed_will() -> Result<()> {
    let (id, topic) = (unique("taken"), unique("will"));
    let mut watcher = subscriber(&topic, 1).await?;
    let options = ConnectOptions::v5(&id).persistent();
    let mut first = connected(options.clone().delayed_will(Message::new(&topic, "no").qos(1), 3)).await?;
    let mut second = connected(options).await?;
    first.expect_disconnect(ReasonCode::SessionTakenOver).await?;
    tokio::time::sleep(Duration::from_millis(3800)).await;
    second.ping().await?;
    watcher.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn a_takeover_with_clean_start_ends_the_session_and_publishes_even_a_delayed_will() -> Result<()> {
    let (id, topic) = (unique("taken"), unique("will"));
    let mut watcher = subscriber(&topic, 1).await?;
    let options = ConnectOptions::v5(&id).persistent();
    let _first = connected(options.delayed_will(Message::new(&topic, "session over").qos(1), 600)).await?;
    let _second = connected(ConnectOptions::v5(&id)).await?;
    expect_text(&mut watcher, "session over").await.map(|_| ())
}

#[tokio::test]
async fn a_clean_start_while_the_delay_runs_publishes_the_will_at_once() -> Result<()> {
    let (id, topic) = (unique("waits"), unique("will"));
    let mut watcher = subscriber(&topic, 1).await?;
    let options = ConnectOptions::v5(&id).persistent();
    drop(connected(options.delayed_will(Message::new(&topic, "session over").qos(1), 600)).await?);
    watcher.expect_silence(MOMENT).await?;
    let _second = connected(ConnectOptions::v5(&id)).await?;
    expect_text(&mut watcher, "session over").await.map(|_| ())
}

#[tokio::test]
async fn a_session_that_expires_before_the_delay_publishes_the_will() -> Result<()> {
    let topic = unique("will");
    let mut watcher = subscriber(&topic, 1).await?;
    let options = ConnectOptions::v5(unique("short")).resume().session_expiry(1);
    drop(connected(options.delayed_will(Message::new(&topic, "expired").qos(1), 600)).await?);
    let start = Instant::now();
    expect_text(&mut watcher, "expired").await?;
    ensure!(
        start.elapsed() >= Duration::from_millis(900),
        "after {:?}",
        start.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn a_will_has_all_its_properties() -> Result<()> {
    let topic = unique("will");
    let mut watcher = subscriber(&topic, 2).await?;
    let will = Message::new(&topic, "déjà")
        .qos(2)
        .payload_format(1)
        .expiry(100)
        .content_type("text/plain")
        .response_topic("answer/here")
        .correlation_data(b"\x00\x01")
        .user_property("name", "value");
    drop(connected(ConnectOptions::v5(unique("w")).will(will)).await?);
    let received = expect_text(&mut watcher, "déjà").await?;
    let properties = received.publication.properties();
    ensure!(received.qos as u8 == 2 && !received.retain, "{received:?}");
    ensure!(
        properties.payload_format_indicator == Some(true),
        "{properties:?}"
    );
    ensure!(
        properties.content_type.as_deref() == Some("text/plain"),
        "{properties:?}"
    );
    ensure!(
        properties.response_topic.as_deref() == Some("answer/here"),
        "{properties:?}"
    );
    ensure!(
        properties.correlation_data.as_deref() == Some(&[0, 1]),
        "{properties:?}"
    );
    ensure!(properties.user_properties.len() == 1, "{properties:?}");
    let expiry = received.publication.message_expiry_interval();
    ensure!(
        expiry.is_some_and(|seconds| (95..=100).contains(&seconds)),
        "{expiry:?}"
    );
    Ok(())
}

#[tokio::test]
async fn wills_of_version_3_clients_are_published_on_loss_and_not_on_disconnect() -> Result<()> {
    let topic = unique("will");
    let mut watcher = subscriber(&topic, 1).await?;
    let options = || ConnectOptions::v311(unique("old"));
    connected(options().will(Message::new(&topic, "left").qos(1)))
        .await?
        .disconnect()
        .await?;
    drop(connected(options().will(Message::new(&topic, "lost").qos(1).retain())).await?);
    expect_text(&mut watcher, "lost").await?;
    expect_text(&mut subscriber(&topic, 1).await?, "lost")
        .await
        .map(|_| ())
}

#[tokio::test]
async fn a_will_reaches_a_session_that_is_away() -> Result<()> {
    let (id, topic) = (unique("away"), unique("will"));
    let mut away = connected(ConnectOptions::v5(&id).persistent()).await?;
    away.subscribe(&topic, 1).await?;
    away.disconnect().await?;
    drop(connected(ConnectOptions::v5(unique("w")).will(Message::new(&topic, "gone").qos(1))).await?);
    tokio::time::sleep(MOMENT).await;
    expect_text(
        &mut connected(ConnectOptions::v5(&id).persistent()).await?,
        "gone",
    )
    .await
    .map(|_| ())
}
