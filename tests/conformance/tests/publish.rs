//! Sections 3.3.1 (DUP and QoS) and 3.3.4: the flags of PUBLISH and what a server does with one.

use anyhow::{Result, ensure};
use harness::{Client, ConnectOptions, Message, subscription_options};
use mqtt_codec::{PacketId, QoS, ReasonCode};

use crate::common::*;

/// DUP is set on a PUBLISH that is sent again.
#[tokio::test]
async fn mqtt_3_3_1_1_dup_is_set_when_a_publish_is_sent_again() -> Result<()> {
    for qos in [1, 2] {
        let (id, topic) = (unique("dup"), unique("dup"));
        let mut before = connected(ConnectOptions::v5(&id).persistent()).await?;
        before.subscribe(&topic, qos).await?;
        publish(Message::new(&topic, "again").qos(qos)).await?;
        let first = before.expect_publish().await?;
        ensure!(!first.dup, "{first:?}");
        drop(before);
        let mut after = connected(ConnectOptions::v5(&id).persistent()).await?;
        let again = expect_text(&mut after, "again").await?;
        ensure!(
            again.dup && again.packet_id == first.packet_id,
            "{again:?} after {first:?}"
        );
    }
    Ok(())
}

/// DUP is never set on QoS 0.
#[tokio::test]
async fn mqtt_3_3_1_2_dup_is_not_set_on_qos_0() -> Result<()> {
    expect_fatal(
        &publish_frame(0x08, b"a", None, &[], b"x"),
        ReasonCode::MalformedPacket,
    )
    .await?;
    let topic = unique("dup");
    let mut client = subscriber(&topic, 0).await?;
    publish(Message::new(&topic, "x").qos(1).dup()).await?;
    let frame = client.receive_frame().await?.expect("a PUBLISH");
    ensure!(frame[0] == 0x30, "{frame:?}");
    Ok(())
}

/// DUP on what a server sends does not depend on DUP of what it received.
#[tokio::test]
async fn mqtt_3_3_1_3_dup_is_not_passed_on() -> Result<()> {
    for qos in [1, 2] {
        let topic = unique("dup");
        let mut client = subscriber(&topic, 2).await?;
        publish(Message::new(&topic, "x").qos(qos).dup()).await?;
        let received = client.receive().await?;
        ensure!(!received.dup, "{received:?}");
    }
    Ok(())
}

/// The two QoS bits are not both set.
#[tokio::test]
async fn mqtt_3_3_1_4_qos_3_is_malformed() -> Result<()> {
    expect_fatal(
        &publish_frame(0x06, b"a", Some(1), &[], b"x"),
        ReasonCode::MalformedPacket,
    )
    .await
}

/// The answer to a PUBLISH follows from its QoS: nothing, PUBACK, or PUBREC.
#[tokio::test]
async fn mqtt_3_3_4_1_the_answer_follows_from_the_qos() -> Result<()> {
    let mut client = client("answers").await?;
    let topic = unique("answers");
    client.send_publish(Message::new(&topic, "x")).await?;
    client.expect_silence(MOMENT).await?;
    let one = client
        .send_publish(Message::new(&topic, "x").qos(1))
        .await?
        .unwrap();
    client.expect_puback(one).await?;
    let two = client
        .send_publish(Message::new(&topic, "x").qos(2))
        .await?
        .unwrap();
    client.expect_pubrec(two).await?;
    client.expect_silence(MOMENT).await
}

/// Where subscriptions overlap, the message comes with the highest QoS among them.
#[tokio::test]
async fn mqtt_3_3_4_2_overlapping_subscriptions_give_the_highest_qos() -> Result<()> {
    let topic = unique("overlap");
    for filters in [["#", "+", ""], ["", "#", "+"], ["+", "", "#"]] {
        let mut client = client("overlap").await?;
        for (qos, tail) in filters.iter().enumerate() {
            let filter = if tail.is_empty() {
                format!("{topic}/a")
            } else {
                format!("{topic}/{tail}")
            };
            client.subscribe(&filter, qos as u8).await?;
        }
        publish(Message::new(&format!("{topic}/a"), "x").qos(2)).await?;
        let mut highest = QoS::AtMostOnce;
        let first = client.receive().await?;
        highest = highest.max(first.qos);
        ensure!(highest == QoS::ExactlyOnce, "{filters:?}: {first:?}");
        client.expect_no_publish(MOMENT).await?;
    }
    Ok(())
}

/// The subscription identifiers of overlapping subscriptions come with the message.
#[tokio::test]
async fn mqtt_3_3_4_3_subscription_identifiers_come_with_the_message() -> Result<()> {
    let topic = unique("ids");
    let mut client = client("ids").await?;
    client
        .subscribe_with(&topic, subscription_options(1), Some(268_435_455))
        .await?;
    publish(Message::new(&topic, "x").qos(1)).await?;
    let received = client.receive().await?;
    ensure!(received.subscription_ids[..] == [268_435_455], "{received:?}");
    Ok(())
}

/// A single copy carries the identifiers of all matching subscriptions that have one.
#[tokio::test]
async fn mqtt_3_3_4_4_one_copy_carries_all_subscription_identifiers() -> Result<()> {
    let topic = unique("ids");
    let name = format!("{topic}/a");
    for (qos, persistent) in [(0, false), (1, false), (2, false), (1, true)] {
        let options = ConnectOptions::v5(unique("ids"));
        let mut client = connected(if persistent {
            options.session_expiry(60)
        } else {
            options
        })
        .await?;
        client
            .subscribe_with(&name, subscription_options(qos), Some(1))
            .await?;
        client
            .subscribe_with(&format!("{topic}/+"), subscription_options(qos), Some(200))
            .await?;
        client
            .subscribe_with(&format!("{topic}/#"), subscription_options(qos), Some(70_000))
            .await?;
        client
            .subscribe_with(&format!("{topic}/a/#"), subscription_options(qos), None)
            .await?;
        client
            .subscribe_with(&format!("{topic}/b"), subscription_options(qos), Some(9))
            .await?;
        publish(Message::new(&name, "x").qos(qos)).await?;
        let received = client.receive().await?;
        let mut ids: Vec<u32> = received.subscription_ids.to_vec();
        ids.sort_unstable();
        ensure!(ids == [1, 200, 70_000], "{received:?}");
        client.expect_no_publish(MOMENT).await?;
    }
    Ok(())
}

/// A PUBLISH from a client has no subscription identifier.
#[tokio::test]
async fn mqtt_3_3_4_6_a_subscription_identifier_from_a_client_is_a_protocol_error() -> Result<()> {
    expect_fatal(
        &publish_frame(0, b"a", None, &[0x0b, 1], b"x"),
        ReasonCode::ProtocolError,
    )
    .await
}

/// No more messages above QoS 0 are under way to a server than the receive maximum that it announced.
#[tokio::test]
async fn mqtt_3_3_4_7_exceeding_the_servers_receive_maximum_is_refused() -> Result<()> {
    let mut client = client("eager").await?;
    let maximum = client
        .connack()
        .properties
        .receive_maximum
        .map_or(65_535, |maximum| maximum.get());
    ensure!(
        maximum < 65_535,
        "the broker announces no receive maximum: it cannot be exceeded"
    );
    // QoS 2 without PUBREL keeps its slot however fast the broker answers.
    let mut bytes = Vec::new();
    for id in 1..=maximum + 1 {
        bytes.extend(publish_frame(4, b"eager", Some(id), &[], b""));
    }
    client.send_raw(&bytes).await?;
    loop {
        match client.receive_packet().await? {
            mqtt_codec::Packet::PubRec(_) => {}
            mqtt_codec::Packet::Disconnect(disconnect) => {
                ensure!(
                    disconnect.reason_code == ReasonCode::ReceiveMaximumExceeded,
                    "{disconnect:?}"
                );
                break;
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
    client.expect_closed().await
}

/// A server has no more messages above QoS 0 under way to a client than the client's receive maximum.
#[tokio::test]
async fn mqtt_3_3_4_9_the_clients_receive_maximum_is_respected() -> Result<()> {
    for persistent in [false, true] {
        let (mut client, ids) = client_with_full_window(2, persistent).await?;
        client.expect_silence(MOMENT).await?;
        // Each acknowledged message makes room for one more. PUBREC does not: the slot is free at PUBCOMP.
        client.send_puback(ids[0]).await?;
        client.receive().await?;
        client.expect_publish().await?;
        client.expect_silence(MOMENT).await?;
    }
    Ok(())
}

/// A full window holds back PUBLISH only, not the other packets.
#[tokio::test]
async fn mqtt_3_3_4_10_a_full_window_holds_back_only_publish() -> Result<()> {
    let (mut client, _) = client_with_full_window(1, false).await?;
    client.ping().await?;
    let own = unique("own");
    client.publish(Message::new(&own, "x").qos(2)).await?;
    client.subscribe(&own, 0).await?;
    client.unsubscribe(&[&own]).await?;
    client.expect_no_publish(MOMENT).await
}

/// A client with `window` QoS 1 messages received, none acknowledged, and five more waiting.
async fn client_with_full_window(window: u16, persistent: bool) -> Result<(Client, Vec<PacketId>)> {
    let topic = unique("window");
    let options = ConnectOptions::v5(unique("window")).receive_maximum(window);
    let mut client = connected(if persistent {
        options.session_expiry(60)
    } else {
        options
    })
    .await?;
    client.subscribe(&topic, 1).await?;
    for number in 0..window + 5 {
        publish(Message::new(&topic, number.to_string()).qos(1)).await?;
    }
    let mut ids = Vec::new();
    for number in 0..window {
        let publish = client.expect_publish().await?;
        ensure!(text(&publish) == number.to_string(), "{publish:?}");
        ids.push(publish.packet_id.expect("QoS 1 has a packet id"));
    }
    Ok((client, ids))
}

#[tokio::test]
async fn qos_0_is_not_held_back_by_a_full_window() -> Result<()> {
    let topic = unique("window");
    let mut client = connected(ConnectOptions::v5(unique("w")).receive_maximum(1)).await?;
    client.subscribe(&topic, 1).await?;
    publish(Message::new(&topic, "fills the window").qos(1)).await?;
    client.expect_publish().await?;
    publish(Message::new(&topic, "passes")).await?;
    let received = client.expect_publish().await?;
    ensure!(text(&received) == "passes", "{received:?}");
    Ok(())
}
