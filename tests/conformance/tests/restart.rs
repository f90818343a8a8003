//! What a client was promised holds over `kill -9` and over a stop.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Broker, BrokerOptions, Client, ConnectOptions, Message, subscription_options, wait_for};
use mqtt_codec::{Packet, PacketId, ReasonCode, SubscriptionOptions};

use crate::common::{MOMENT, expect_text, text};

fn start() -> Result<Broker> {
    Broker::start(BrokerOptions::default())
}

async fn resumed(broker: &Broker, id: &str) -> Result<Client> {
    let client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5(id).persistent()).await?;
    ensure!(client.connack().session_present, "the session of {id} is gone");
    Ok(client)
}

async fn publisher(broker: &Broker) -> Result<Client> {
    Client::connect(broker.mqtt_addr(), ConnectOptions::v5("publisher")).await
}

/// Waits until the shard of a session has as many messages for it as that: the others are acknowledged for good.
async fn expect_queued(broker: &Broker, id: &str, count: u64) -> Result<()> {
    let path = format!("/api/v1/clients/{id}");
    let expected = format!("\"queued_messages\":{count},");
    let is_so = async || broker.admin_get(&path).is_ok_and(|said| said.contains(&expected));
    wait_for(is_so, Duration::from_secs(10)).await
}

/// A persistent session subscribed to `t/#`, away.
async fn away(broker: &Broker, options: ConnectOptions) -> Result<()> {
    let mut client = Client::connect(broker.mqtt_addr(), options).await?;
    client.subscribe("t/#", 2).await?;
    client.disconnect().await
}

#[tokio::test]
async fn acknowledged_messages_survive_kill_9_in_order() -> Result<()> {
    let mut broker = start()?;
    away(&broker, ConnectOptions::v5("five").persistent()).await?;
    away(&broker, ConnectOptions::v311("three").persistent()).await?;
    let mut publisher = publisher(&broker).await?;
    for number in 0..100 {
        publisher
            .publish(Message::new("t/x", number.to_string()).qos(1 + number % 2))
            .await?;
    }
    broker.restart()?;
    let mut five = resumed(&broker, "five").await?;
    let mut three = Client::connect(broker.mqtt_addr(), ConnectOptions::v311("three").resume()).await?;
    ensure!(three.connack().session_present);
    for number in 0..100 {
        for client in [&mut five, &mut three] {
            let received = expect_text(client, &number.to_string()).await?;
            ensure!(
                !received.dup && received.qos as u8 == 1 + number % 2,
                "{received:?}"
            );
        }
    }
    five.expect_no_publish(MOMENT).await?;
    // Subscriptions and options are back too.
    let mut publisher = self::publisher(&broker).await?;
    publisher.publish(Message::new("t/after", "after").qos(1)).await?;
    expect_text(&mut five, "after").await?;
    expect_text(&mut three, "after").await.map(|_| ())
}

#[tokio::test]
async fn properties_and_subscription_identifiers_survive_kill_9() -> Result<()> {
    let mut broker = start()?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c").persistent()).await?;
    let options = SubscriptionOptions {
        retain_as_published: true,
        ..subscription_options(2)
    };
    client.subscribe_with("t/#", options, Some(7)).await?;
    client.disconnect().await?;
    let message = Message::new("t/x", "x")
        .content_type("text/plain")
        .user_property("a", "1")
        .user_property("a", "2");
    publisher(&broker)
        .await?
        .publish(message.qos(2).retain().expiry(1000))
        .await?;
    broker.restart()?;
    let received = resumed(&broker, "c").await?.receive().await?;
    ensure!(
        received.subscription_ids[..] == [7] && received.retain,
        "{received:?}"
    );
    let properties = received.publication.properties();
    ensure!(
        properties.content_type.as_deref() == Some("text/plain"),
        "{properties:?}"
    );
    ensure!(
        properties.user_properties.len() == 2 && &*properties.user_properties[1].1 == "2",
        "{properties:?}"
    );
    let left = received.publication.message_expiry_interval();
    ensure!(
        left.is_some_and(|seconds| (900..=1000).contains(&seconds)),
        "{left:?}"
    );
    Ok(())
}

#[tokio::test]
async fn deliveries_under_way_go_on_after_kill_9_where_they_were() -> Result<()> {
    let mut broker = start()?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c").persistent()).await?;
    client.subscribe("t/#", 2).await?;
    let mut publisher = publisher(&broker).await?;
    for (payload, qos) in [("done", 2), ("received", 2), ("sent", 1)] {
        publisher.publish(Message::new("t/x", payload).qos(qos)).await?;
    }
    expect_text(&mut client, "done").await?;
    let received = client.expect_publish().await?.packet_id.unwrap();
    let sent = client.expect_publish().await?.packet_id.unwrap();
    client.send_pubrec(received).await?;
    client.expect_pubrel(received).await?;
    // The PUBCOMP of "done" is not answered, and acknowledgements are gathered for a while.
    expect_queued(&broker, "c", 2).await?;
    broker.restart()?;
    let mut client = resumed(&broker, "c").await?;
    let (mut pubrel, mut publish) = (None, None);
    for _ in 0..2 {
        match client.receive_packet().await? {
            Packet::PubRel(packet) => pubrel = Some(packet.packet_id),
            Packet::Publish(packet) => publish = Some((text(&packet), packet.packet_id)),
            other => anyhow::bail!("{other:?}"),
        }
    }
    ensure!(pubrel == Some(received), "{pubrel:?}");
    ensure!(publish == Some(("sent".to_owned(), Some(sent))), "{publish:?}");
    client.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn a_publishers_qos_2_survives_kill_9_exactly_once() -> Result<()> {
    let mut broker = start()?;
    away(&broker, ConnectOptions::v5("c").persistent()).await?;
    let mut sender = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("sender").persistent()).await?;
    let id = sender
        .send_publish(Message::new("t/x", "once").qos(2).packet_id(9))
        .await?
        .unwrap();
    sender.expect_pubrec(id).await?;
    broker.restart()?;
    let mut sender = resumed(&broker, "sender").await?;
    sender
        .send_publish(Message::new("t/x", "once").qos(2).packet_id(9).dup())
        .await?;
    sender.expect_pubrec(id).await?;
    sender.send_pubrel(id).await?;
    ensure!(sender.expect_pubcomp(id).await?.reason_code == ReasonCode::Success);
    let mut client = resumed(&broker, "c").await?;
    expect_text(&mut client, "once").await?;
    client.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn retained_messages_survive_kill_9() -> Result<()> {
    let mut broker = start()?;
    let mut publisher = publisher(&broker).await?;
    publisher
        .publish(Message::new("r/kept", "first").qos(1).retain())
        .await?;
    publisher
        .publish(Message::new("r/kept", "second").qos(1).retain())
        .await?;
    publisher
        .publish(Message::new("r/gone", "x").qos(1).retain())
        .await?;
    publisher
        .publish(Message::new("r/gone", "").qos(1).retain())
        .await?;
    broker.restart()?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c")).await?;
    client.subscribe("r/+", 1).await?;
    let received = expect_text(&mut client, "second").await?;
    ensure!(received.retain, "{received:?}");
    client.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn wills_are_published_after_kill_9() -> Result<()> {
    let mut broker = start()?;
    away(&broker, ConnectOptions::v5("c").persistent()).await?;
    let will = Message::new("t/will", "gone").qos(1);
    let options = ConnectOptions::v5("mortal").persistent().delayed_will(will, 1);
    let _mortal = Client::connect(broker.mqtt_addr(), options).await?;
    broker.restart()?;
    let mut client = resumed(&broker, "c").await?;
    expect_text(&mut client, "gone").await?;
    client.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn sessions_that_end_with_their_connection_are_gone_after_kill_9() -> Result<()> {
    let mut broker = start()?;
    let mut short = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("short")).await?;
    short.subscribe("t/#", 1).await?;
    let expires = ConnectOptions::v5("expires").session_expiry(1);
    let _expires = Client::connect(broker.mqtt_addr(), expires).await?;
    broker.restart()?;
    let options = |id: &str| ConnectOptions::v5(id).persistent();
    let client = Client::connect(broker.mqtt_addr(), options("short")).await?;
    ensure!(
        !client.connack().session_present,
        "a session without expiry interval survived"
    );
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let client = Client::connect(broker.mqtt_addr(), options("expires")).await?;
    ensure!(
        !client.connack().session_present,
        "the session outlived its expiry interval"
    );
    Ok(())
}

#[tokio::test]
async fn acknowledgements_survive_kill_9() -> Result<()> {
    let mut broker = start()?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c").persistent()).await?;
    client.subscribe("t/#", 1).await?;
    let mut publisher = publisher(&broker).await?;
    for number in 0..20 {
        publisher
            .publish(Message::new("t/x", number.to_string()).qos(1))
            .await?;
    }
    for number in 0..10 {
        expect_text(&mut client, &number.to_string()).await?;
    }
    expect_queued(&broker, "c", 10).await?;
    broker.restart()?;
    let mut client = resumed(&broker, "c").await?;
    for number in 10..20 {
        expect_text(&mut client, &number.to_string()).await?;
    }
    client.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn a_graceful_stop_keeps_everything_too() -> Result<()> {
    let mut broker = start()?;
    away(&broker, ConnectOptions::v5("c").persistent()).await?;
    let mut publisher = publisher(&broker).await?;
    for number in 0..50 {
        publisher
            .publish(Message::new("t/x", number.to_string()).qos(1))
            .await?;
    }
    let mut broker = tokio::task::spawn_blocking(move || {
        let status = broker.stop()?;
        ensure!(status.success(), "{status:?}");
        broker.restart()?;
        Ok(broker)
    })
    .await??;
    let mut client = resumed(&broker, "c").await?;
    for number in 0..50 {
        expect_text(&mut client, &number.to_string()).await?;
    }
    // A second stop keeps the acknowledgements; kill -9 may lose those of the last moment, and QoS 1 repeats.
    client.disconnect().await?;
    let broker = tokio::task::spawn_blocking(move || -> Result<Broker> {
        broker.stop()?;
        broker.restart()?;
        Ok(broker)
    })
    .await??;
    resumed(&broker, "c").await?.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn packet_ids_of_a_new_connection_do_not_collide_after_kill_9() -> Result<()> {
    let mut broker = start()?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c").persistent()).await?;
    client.subscribe("t/#", 1).await?;
    let mut publisher = publisher(&broker).await?;
    publisher.publish(Message::new("t/x", "one").qos(1)).await?;
    let first: Option<PacketId> = client.expect_publish().await?.packet_id;
    broker.restart()?;
    let mut client = resumed(&broker, "c").await?;
    let again = client.expect_publish().await?;
    ensure!(again.packet_id == first, "{again:?}");
    self::publisher(&broker)
        .await?
        .publish(Message::new("t/x", "two").qos(1))
        .await?;
    let next = client.expect_publish().await?;
    ensure!(next.packet_id != first, "{next:?}");
    Ok(())
}
