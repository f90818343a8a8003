//! Sections 4.1, 4.2, 4.4 and 4.5: sessions, what is sent again, and who gets a message.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{ConnectOptions, Message};
use mqtt_codec::{Acknowledgement, Packet, ReasonCode};

use crate::common::*;

/// Session state is not discarded while its connection is open.
#[tokio::test]
async fn mqtt_4_1_0_1_session_state_stays_while_connected() -> Result<()> {
    let topic = unique("open");
    // The expiry interval counts from the end of the connection, not from its beginning.
    let mut client = connected(ConnectOptions::v5(unique("open")).session_expiry(1)).await?;
    client.subscribe(&topic, 1).await?;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    publish(Message::new(&topic, "still subscribed").qos(1)).await?;
    expect_text(&mut client, "still subscribed").await.map(|_| ())
}

/// Session state is discarded once the connection is closed and the expiry interval has passed.
#[tokio::test]
async fn mqtt_4_1_0_2_session_state_goes_when_it_expires() -> Result<()> {
    let id = unique("expires");
    let mut client = connected(ConnectOptions::v5(&id).session_expiry(1)).await?;
    client.subscribe(&id, 1).await?;
    client.disconnect().await?;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let client = connected(ConnectOptions::v5(&id).resume().session_expiry(0)).await?;
    ensure!(
        !client.connack().session_present,
        "the session outlived its expiry interval"
    );
    client.disconnect().await?;
    // An interval of zero ends with the connection.
    let client = connected(ConnectOptions::v5(&id).resume()).await?;
    ensure!(
        !client.connack().session_present,
        "a session without expiry interval outlived its connection"
    );
    Ok(())
}

/// The transport is an ordered, lossless stream of bytes.
#[tokio::test]
async fn mqtt_4_2_0_1_a_large_message_arrives_whole_and_in_order() -> Result<()> {
    let topic = unique("stream");
    let payload: Vec<u8> = (0..900_000u32)
        .map(|number| (number * 7 + number / 251) as u8)
        .collect();
    let mut client = subscriber(&topic, 1).await?;
    publish(Message::new(&topic, &payload).qos(1)).await?;
    let received = client.receive().await?;
    ensure!(
        received.publication.payload_slice() == payload,
        "the payload has changed"
    );
    Ok(())
}

/// After a reconnect unacknowledged PUBLISH and PUBREL are sent again with their identifiers, and at no other time.
#[tokio::test]
async fn mqtt_4_4_0_1_unacknowledged_packets_are_sent_again_after_reconnect_only() -> Result<()> {
    let (id, topic) = (unique("again"), unique("again"));
    let mut first = connected(ConnectOptions::v5(&id).persistent()).await?;
    first.subscribe(&topic, 2).await?;
    for (payload, qos) in [("a", 1), ("b", 2), ("c", 2), ("d", 1)] {
        publish(Message::new(&topic, payload).qos(qos)).await?;
    }
    let mut ids = Vec::new();
    for payload in ["a", "b", "c", "d"] {
        let publish = first.expect_publish().await?;
        ensure!(text(&publish) == payload && !publish.dup, "{publish:?}");
        ids.push(publish.packet_id.unwrap());
    }
    // b is received but not released: from now on only its PUBREL is sent.
    first.send_pubrec(ids[1]).await?;
    first.expect_pubrel(ids[1]).await?;
    first.expect_silence(Duration::from_millis(1500)).await?;
    drop(first);

    let mut second = connected(ConnectOptions::v5(&id).persistent()).await?;
    let mut publishes = Vec::new();
    let mut pubrels = Vec::new();
    for _ in 0..4 {
        match second.receive_packet().await? {
            Packet::Publish(publish) => {
                ensure!(publish.dup, "{publish:?}");
                publishes.push((text(&publish), publish.packet_id.unwrap()));
            }
            Packet::PubRel(pubrel) => pubrels.push(pubrel.packet_id),
            other => anyhow::bail!("{other:?}"),
        }
    }
    ensure!(pubrels == [ids[1]], "{pubrels:?}, not {:?}", ids[1]);
    let expected = [("a", ids[0]), ("c", ids[2]), ("d", ids[3])].map(|(text, id)| (text.to_owned(), id));
    ensure!(publishes == expected, "{publishes:?}, not {expected:?}");
    second.expect_silence(MOMENT).await
}

/// A message that a client refuses with PUBACK or PUBREC counts as acknowledged and is not sent again.
#[tokio::test]
async fn mqtt_4_4_0_2_a_refused_message_is_not_sent_again() -> Result<()> {
    let (id, topic) = (unique("refuse"), unique("refuse"));
    let mut first = connected(ConnectOptions::v5(&id).persistent().receive_maximum(1)).await?;
    first.subscribe(&topic, 2).await?;
    for (payload, qos) in [("one", 1), ("two", 2), ("three", 1)] {
        publish(Message::new(&topic, payload).qos(qos)).await?;
    }
    for payload in ["one", "two"] {
        let publish = first.expect_publish().await?;
        ensure!(text(&publish) == payload, "{publish:?}");
        let refusal = Acknowledgement::new(publish.packet_id.unwrap(), ReasonCode::UnspecifiedError);
        let refusal = if payload == "one" {
            Packet::PubAck(refusal)
        } else {
            Packet::PubRec(refusal)
        };
        first.send(&refusal).await?;
    }
    // The slot is free again without PUBREL and PUBCOMP.
    expect_text(&mut first, "three").await?;
    first.ping().await?;
    drop(first);
    connected(ConnectOptions::v5(&id).persistent())
        .await?
        .expect_no_publish(MOMENT)
        .await
}

/// A message that the server took is added to the session of each client with a matching subscription.
#[tokio::test]
async fn mqtt_4_5_0_1_a_message_goes_to_every_matching_session() -> Result<()> {
    let topic = unique("every");
    let filters = [topic.clone(), format!("{topic}/#")];
    let mut away = Vec::new();
    for filter in &filters {
        let id = unique("away");
        let mut client = connected(ConnectOptions::v5(&id).persistent()).await?;
        client.subscribe(filter, 2).await?;
        client.disconnect().await?;
        away.push(id);
    }
    let mut present = Vec::new();
    for filter in &filters {
        present.push(subscriber(filter, 2).await?);
    }
    for qos in [1, 2] {
        publish(Message::new(&topic, qos.to_string()).qos(qos)).await?;
    }
    for client in &mut present {
        expect_text(client, "1").await?;
        expect_text(client, "2").await?;
    }
    for id in away {
        let mut client = connected(ConnectOptions::v5(&id).persistent()).await?;
        expect_text(&mut client, "1").await?;
        expect_text(&mut client, "2").await?;
    }
    Ok(())
}

#[tokio::test]
async fn qos_2_of_a_publisher_is_remembered_over_a_reconnect() -> Result<()> {
    let (id, topic) = (unique("sender"), unique("sender"));
    let mut watcher = subscriber(&topic, 2).await?;
    let mut first = connected(ConnectOptions::v5(&id).persistent()).await?;
    let packet_id = first
        .send_publish(Message::new(&topic, "once").qos(2).packet_id(77))
        .await?
        .unwrap();
    first.expect_pubrec(packet_id).await?;
    drop(first);
    let mut second = connected(ConnectOptions::v5(&id).persistent()).await?;
    second
        .send_publish(Message::new(&topic, "once").qos(2).packet_id(77).dup())
        .await?;
    second.expect_pubrec(packet_id).await?;
    second.send_pubrel(packet_id).await?;
    ensure!(second.expect_pubcomp(packet_id).await?.reason_code == ReasonCode::Success);
    expect_text(&mut watcher, "once").await?;
    watcher.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn session_expiry_is_announced_where_it_differs() -> Result<()> {
    let client = connected(ConnectOptions::v5(unique("forever")).session_expiry(u32::MAX)).await?;
    let granted = client.connack().properties.session_expiry_interval;
    ensure!(
        granted.is_some_and(|seconds| seconds > 0 && seconds < u32::MAX),
        "the broker has a maximum: {granted:?}"
    );
    let client = connected(ConnectOptions::v5(unique("short")).session_expiry(5)).await?;
    let granted = client.connack().properties.session_expiry_interval;
    ensure!(granted.is_none_or(|seconds| seconds == 5), "{granted:?}");
    Ok(())
}
