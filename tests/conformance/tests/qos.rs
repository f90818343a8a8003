//! Sections 4.3, 4.6 and 4.9: delivery protocols, order, and flow control.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Client, ConnectOptions, Message};
use mqtt_codec::{PacketId, Publish, ReasonCode};

use crate::common::*;

/// QoS 0 is sent with QoS 0 and DUP 0.
#[tokio::test]
async fn mqtt_4_3_1_1_qos_0_is_sent_without_dup() -> Result<()> {
    let topic = unique("zero");
    let mut client = subscriber(&topic, 2).await?;
    publish(Message::new(&topic, "x")).await?;
    let frame = client.receive_frame().await?.expect("a PUBLISH");
    ensure!(frame[0] == 0x30, "{frame:?}");
    Ok(())
}

/// QoS 1: each new message gets an identifier that is not in use.
#[tokio::test]
async fn mqtt_4_3_2_1_qos_1_gets_a_free_identifier() -> Result<()> {
    let (_, publishes) = unacknowledged(1, 12).await?;
    let ids: BTreeSet<_> = publishes
        .iter()
        .map(|publish| publish.packet_id.unwrap())
        .collect();
    ensure!(ids.len() == 12, "{ids:?}");
    Ok(())
}

/// QoS 1: a message is first sent with QoS 1 and DUP 0.
#[tokio::test]
async fn mqtt_4_3_2_2_qos_1_is_first_sent_without_dup() -> Result<()> {
    let (_, publishes) = unacknowledged(1, 3).await?;
    ensure!(
        publishes
            .iter()
            .all(|publish| !publish.dup && publish.qos as u8 == 1),
        "{publishes:?}"
    );
    Ok(())
}

/// QoS 1: a message is unacknowledged until its PUBACK comes.
#[tokio::test]
async fn mqtt_4_3_2_3_qos_1_is_unacknowledged_until_puback() -> Result<()> {
    let (id, topic) = (unique("until"), unique("until"));
    let options = || ConnectOptions::v5(&id).persistent();
    let mut client = connected(options()).await?;
    client.subscribe(&topic, 1).await?;
    publish(Message::new(&topic, "x").qos(1)).await?;
    for _ in 0..2 {
        client.expect_publish().await?;
        drop(client);
        client = connected(options()).await?;
    }
    expect_text(&mut client, "x").await?;
    client.ping().await?;
    drop(client);
    connected(options()).await?.expect_no_publish(MOMENT).await
}

/// QoS 1: a receiver answers with PUBACK and the identifier, having taken the message over.
#[tokio::test]
async fn mqtt_4_3_2_4_puback_means_that_the_message_is_taken_over() -> Result<()> {
    let (id, topic) = (unique("taken"), unique("taken"));
    let mut away = connected(ConnectOptions::v5(&id).persistent()).await?;
    away.subscribe(&topic, 1).await?;
    away.disconnect().await?;
    let mut publisher = client("publisher").await?;
    let packet_id = publisher
        .send_publish(Message::new(&topic, "x").qos(1).packet_id(4711))
        .await?
        .unwrap();
    publisher.expect_puback(packet_id).await?;
    drop(publisher);
    expect_text(&mut connected(ConnectOptions::v5(&id).persistent()).await?, "x")
        .await
        .map(|_| ())
}

/// QoS 1: after PUBACK a PUBLISH with the same identifier is a new message, whatever its DUP.
#[tokio::test]
async fn mqtt_4_3_2_5_the_same_identifier_after_puback_is_a_new_message() -> Result<()> {
    let topic = unique("new");
    let mut watcher = subscriber(&topic, 1).await?;
    let mut publisher = client("publisher").await?;
    publisher
        .publish(Message::new(&topic, "first").qos(1).packet_id(5))
        .await?;
    publisher
        .publish(Message::new(&topic, "second").qos(1).packet_id(5).dup())
        .await?;
    expect_text(&mut watcher, "first").await?;
    expect_text(&mut watcher, "second").await.map(|_| ())
}

/// QoS 2: each new message gets an identifier that is not in use.
#[tokio::test]
async fn mqtt_4_3_3_1_qos_2_gets_a_free_identifier() -> Result<()> {
    let (mut client, publishes) = unacknowledged(2, 12).await?;
    let mut ids: BTreeSet<_> = publishes
        .iter()
        .map(|publish| publish.packet_id.unwrap())
        .collect();
    ensure!(ids.len() == 12, "{ids:?}");
    // Identifiers between PUBREC and PUBCOMP are in use too.
    let topic = publishes[0].publication.topic().as_str().to_owned();
    client.send_pubrec(publishes[0].packet_id.unwrap()).await?;
    client.expect_pubrel(publishes[0].packet_id.unwrap()).await?;
    publish(Message::new(&topic, "one more").qos(2)).await?;
    let more = client.expect_publish().await?;
    ensure!(ids.insert(more.packet_id.unwrap()), "{more:?}");
    Ok(())
}

/// QoS 2: a message is first sent with QoS 2 and DUP 0.
#[tokio::test]
async fn mqtt_4_3_3_2_qos_2_is_first_sent_without_dup() -> Result<()> {
    let (_, publishes) = unacknowledged(2, 3).await?;
    ensure!(
        publishes
            .iter()
            .all(|publish| !publish.dup && publish.qos as u8 == 2),
        "{publishes:?}"
    );
    Ok(())
}

/// QoS 2: a PUBLISH is unacknowledged until its PUBREC comes.
#[tokio::test]
async fn mqtt_4_3_3_3_qos_2_is_unacknowledged_until_pubrec() -> Result<()> {
    let (mut client, packet_id) = resumed_after(|_| async { Ok(()) }).await?;
    let again = client.expect_publish().await?;
    ensure!(again.dup && again.packet_id == Some(packet_id), "{again:?}");
    client.acknowledge(&again).await
}

/// QoS 2: a PUBREC below 0x80 is answered by PUBREL with the identifier of the PUBLISH.
#[tokio::test]
async fn mqtt_4_3_3_4_pubrec_is_answered_by_pubrel() -> Result<()> {
    let (mut client, publishes) = unacknowledged(2, 2).await?;
    for publish in &publishes {
        let packet_id = publish.packet_id.unwrap();
        client.send_pubrec(packet_id).await?;
        ensure!(client.expect_pubrel(packet_id).await?.reason_code == ReasonCode::Success);
        client.send_pubcomp(packet_id).await?;
    }
    client.ping().await
}

/// QoS 2: a PUBREL is unacknowledged until its PUBCOMP comes.
#[tokio::test]
async fn mqtt_4_3_3_5_pubrel_is_unacknowledged_until_pubcomp() -> Result<()> {
    let (mut client, packet_id) = resumed_after(pubrec_only).await?;
    client.expect_pubrel(packet_id).await?;
    client.send_pubcomp(packet_id).await?;
    client.expect_no_publish(MOMENT).await
}

/// QoS 2: after its PUBREL a PUBLISH is not sent again.
#[tokio::test]
async fn mqtt_4_3_3_6_publish_is_not_sent_again_after_pubrel() -> Result<()> {
    let (mut client, packet_id) = resumed_after(pubrec_only).await?;
    // `expect_pubrel` sets a PUBLISH aside; the silence after it fails on one.
    client.expect_pubrel(packet_id).await?;
    client.expect_silence(MOMENT).await
}

/// QoS 2: a message whose PUBLISH has been sent does not expire any more.
#[tokio::test]
async fn mqtt_4_3_3_7_a_message_under_way_does_not_expire() -> Result<()> {
    let (id, topic) = (unique("underway"), unique("underway"));
    let mut client = connected(ConnectOptions::v5(&id).persistent()).await?;
    client.subscribe(&topic, 2).await?;
    publish(Message::new(&topic, "x").qos(2).expiry(1)).await?;
    let sent = client.expect_publish().await?;
    drop(client);
    tokio::time::sleep(Duration::from_millis(2200)).await;
    let mut client = connected(ConnectOptions::v5(&id).persistent()).await?;
    let again = expect_text(&mut client, "x").await?;
    ensure!(again.packet_id == sent.packet_id && again.dup, "{again:?}");
    Ok(())
}

/// QoS 2: a receiver answers with PUBREC and the identifier, having taken the message over.
#[tokio::test]
async fn mqtt_4_3_3_8_pubrec_means_that_the_message_is_taken_over() -> Result<()> {
    let topic = unique("taken");
    let mut watcher = subscriber(&topic, 2).await?;
    let mut publisher = connected(ConnectOptions::v5(unique("p")).session_expiry(60)).await?;
    let packet_id = publisher
        .send_publish(Message::new(&topic, "x").qos(2).packet_id(4711))
        .await?
        .unwrap();
    let pubrec = publisher.expect_pubrec(packet_id).await?;
    ensure!(pubrec.reason_code == ReasonCode::Success, "{pubrec:?}");
    publisher.send_pubrel(packet_id).await?;
    expect_text(&mut watcher, "x").await.map(|_| ())
}

/// QoS 2: after a PUBREC of 0x80 or more a PUBLISH with the same identifier is a new message.
#[tokio::test]
async fn mqtt_4_3_3_9_the_same_identifier_after_a_refusal_is_a_new_message() -> Result<()> {
    let topic = unique("refused");
    let mut watcher = subscriber(&topic, 2).await?;
    let mut publisher = client("publisher").await?;
    // The server's own topics are not for clients to publish to.
    let refused = publisher
        .publish(Message::new("$SYS/broker/version", "x").qos(2).packet_id(8))
        .await?;
    ensure!(refused as u8 >= 0x80, "{refused:?}");
    let accepted = publisher
        .publish(Message::new(&topic, "new").qos(2).packet_id(8))
        .await?;
    ensure!((accepted as u8) < 0x80, "{accepted:?}");
    expect_text(&mut watcher, "new").await.map(|_| ())
}

/// QoS 2: until PUBREL, a PUBLISH with the same identifier is answered by PUBREC and delivered no second time.
#[tokio::test]
async fn mqtt_4_3_3_10_a_repeated_publish_is_delivered_once() -> Result<()> {
    let topic = unique("once");
    let mut watcher = subscriber(&topic, 2).await?;
    let mut publisher = client("publisher").await?;
    for repetition in 0..3 {
        let message = Message::new(&topic, "once").qos(2).packet_id(9);
        let message = if repetition > 0 { message.dup() } else { message };
        let packet_id = publisher.send_publish(message).await?.unwrap();
        publisher.expect_pubrec(packet_id).await?;
    }
    let packet_id = PacketId::new(9).unwrap();
    publisher.send_pubrel(packet_id).await?;
    publisher.expect_pubcomp(packet_id).await?;
    expect_text(&mut watcher, "once").await?;
    watcher.expect_no_publish(MOMENT).await
}

/// QoS 2: PUBREL is answered by PUBCOMP with its identifier.
#[tokio::test]
async fn mqtt_4_3_3_11_pubrel_is_answered_by_pubcomp() -> Result<()> {
    let mut publisher = client("publisher").await?;
    let packet_id = publisher
        .send_publish(Message::new(&unique("x"), "x").qos(2).packet_id(10))
        .await?
        .unwrap();
    publisher.expect_pubrec(packet_id).await?;
    for expected in [ReasonCode::Success, ReasonCode::PacketIdentifierNotFound] {
        publisher.send_pubrel(packet_id).await?;
        let pubcomp = publisher.expect_pubcomp(packet_id).await?;
        ensure!(pubcomp.reason_code == expected, "{pubcomp:?}");
    }
    Ok(())
}

/// QoS 2: after PUBCOMP a PUBLISH with the same identifier is a new message.
#[tokio::test]
async fn mqtt_4_3_3_12_the_same_identifier_after_pubcomp_is_a_new_message() -> Result<()> {
    let topic = unique("new");
    let mut watcher = subscriber(&topic, 2).await?;
    let mut publisher = client("publisher").await?;
    publisher
        .publish(Message::new(&topic, "first").qos(2).packet_id(11))
        .await?;
    publisher
        .publish(Message::new(&topic, "second").qos(2).packet_id(11).dup())
        .await?;
    expect_text(&mut watcher, "first").await?;
    expect_text(&mut watcher, "second").await.map(|_| ())
}

/// QoS 2: the handshake goes on although the message has expired.
#[tokio::test]
async fn mqtt_4_3_3_13_the_handshake_goes_on_after_expiry() -> Result<()> {
    let mut publisher = client("publisher").await?;
    let message = Message::new(&unique("late"), "x").qos(2).packet_id(12).expiry(1);
    let packet_id = publisher.send_publish(message.clone()).await?.unwrap();
    publisher.expect_pubrec(packet_id).await?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    publisher.send_publish(message.dup()).await?;
    publisher.expect_pubrec(packet_id).await?;
    publisher.send_pubrel(packet_id).await?;
    let pubcomp = publisher.expect_pubcomp(packet_id).await?;
    ensure!(pubcomp.reason_code == ReasonCode::Success, "{pubcomp:?}");
    Ok(())
}

/// Messages of one client to one topic reach a subscriber in the order in which they were sent, per QoS.
#[tokio::test]
async fn mqtt_4_6_0_5_messages_of_a_client_keep_their_order() -> Result<()> {
    for qos in 0..=2 {
        for persistent in [false, true] {
            let topic = unique("order");
            let options = ConnectOptions::v5(unique("order")).receive_maximum(7);
            let mut client = connected(if persistent {
                options.session_expiry(60)
            } else {
                options
            })
            .await?;
            client.subscribe(&topic, 2).await?;
            let name = topic.clone();
            let publisher = tokio::spawn(async move { send_numbers(&name, qos, 200).await });
            for number in 0..200 {
                expect_text(&mut client, &number.to_string()).await?;
            }
            publisher.await??;
        }
    }
    Ok(())
}

/// Every topic is ordered for subscriptions that are not shared, also over wildcards.
#[tokio::test]
async fn mqtt_4_6_0_6_every_topic_is_ordered() -> Result<()> {
    let prefix = unique("order");
    let mut client = subscriber(&format!("{prefix}/#"), 1).await?;
    let publishers: Vec<_> = (0..3)
        .map(|number| {
            let topic = format!("{prefix}/{number}");
            tokio::spawn(async move { send_numbers(&topic, 1, 50).await })
        })
        .collect();
    let mut next = std::collections::BTreeMap::new();
    for _ in 0..150 {
        let received = client.receive().await?;
        let expected = next
            .entry(received.publication.topic().as_str().to_owned())
            .or_insert(0);
        ensure!(
            text(&received) == expected.to_string(),
            "expected {expected}: {received:?}"
        );
        *expected += 1;
    }
    for publisher in publishers {
        publisher.await??;
    }
    Ok(())
}

/// The send quota starts above zero and at most at the receive maximum.
#[tokio::test]
async fn mqtt_4_9_0_1_the_first_quota_is_at_most_the_receive_maximum() -> Result<()> {
    let (mut client, publishes) = window(3, 2, 8).await?;
    ensure!(publishes.len() == 3, "{publishes:?}");
    client.expect_silence(MOMENT).await
}

/// Each PUBLISH above QoS 0 takes from the quota; at zero no more are sent. PUBREC does not give it back.
#[tokio::test]
async fn mqtt_4_9_0_2_no_publish_without_quota() -> Result<()> {
    let (mut client, publishes) = window(2, 2, 8).await?;
    let packet_id = publishes[0].packet_id.unwrap();
    client.send_pubrec(packet_id).await?;
    client.expect_pubrel(packet_id).await?;
    client.expect_silence(MOMENT).await?;
    client.send_pubcomp(packet_id).await?;
    let next = client.expect_publish().await?;
    ensure!(text(&next) == "2", "{next:?}");
    client.expect_silence(MOMENT).await
}

/// With a quota of zero all other packets are still processed and answered.
#[tokio::test]
async fn mqtt_4_9_0_3_other_packets_are_served_without_quota() -> Result<()> {
    let (mut client, _) = window(1, 1, 4).await?;
    client.ping().await?;
    let topic = unique("other");
    client.subscribe(&topic, 1).await?;
    client.publish(Message::new(&topic, "x").qos(1)).await?;
    client.publish(Message::new(&topic, "x").qos(2)).await?;
    client.unsubscribe(&[&topic]).await?;
    client.disconnect().await
}

async fn send_numbers(topic: &str, qos: u8, count: usize) -> Result<()> {
    let mut publisher = client("publisher").await?;
    for number in 0..count {
        publisher
            .publish(Message::new(topic, number.to_string()).qos(qos))
            .await?;
    }
    publisher.ping().await
}

/// A client that has received `count` messages and acknowledged none, with room for more.
async fn unacknowledged(qos: u8, count: usize) -> Result<(Client, Vec<Publish>)> {
    window(100, qos, count).await
}

/// A client with receive maximum `window`, sent `count` messages, of which it has received what fits.
async fn window(window: u16, qos: u8, count: usize) -> Result<(Client, Vec<Publish>)> {
    let topic = unique("window");
    let options = ConnectOptions::v5(unique("window"))
        .receive_maximum(window)
        .session_expiry(60);
    let mut client = connected(options).await?;
    client.subscribe(&topic, qos).await?;
    send_numbers(&topic, qos, count).await?;
    let mut publishes = Vec::new();
    for number in 0..count.min(window.into()) {
        let publish = client.expect_publish().await?;
        ensure!(text(&publish) == number.to_string(), "{publish:?}");
        publishes.push(publish);
    }
    Ok((client, publishes))
}

/// A client that was sent a QoS 2 message, did something with it, went away and is back.
async fn resumed_after<F>(step: impl FnOnce((Client, PacketId)) -> F) -> Result<(Client, PacketId)>
where
    F: Future<Output = Result<()>>,
{
    let (id, topic) = (unique("resumed"), unique("resumed"));
    let mut client = connected(ConnectOptions::v5(&id).persistent()).await?;
    client.subscribe(&topic, 2).await?;
    publish(Message::new(&topic, "x").qos(2)).await?;
    let packet_id = client.expect_publish().await?.packet_id.unwrap();
    step((client, packet_id)).await?;
    Ok((connected(ConnectOptions::v5(&id).persistent()).await?, packet_id))
}

async fn pubrec_only((mut client, packet_id): (Client, PacketId)) -> Result<()> {
    client.send_pubrec(packet_id).await?;
    client.expect_pubrel(packet_id).await.map(|_| ())
}
