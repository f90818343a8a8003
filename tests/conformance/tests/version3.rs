//! What MQTT 3.1.1 and 3.1 do differently, on the same port.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Client, ConnectOptions, Message};
use mqtt_codec::ProtocolVersion;

use crate::common::*;

/// A 3.1.1 CONNECT made by hand.
fn connect_311(client_id: &[u8], flags: u8, rest: &[u8]) -> Vec<u8> {
    connect_frame_of(b"MQTT", 4, client_id, flags, &[], rest)
}

/// A 3.1.1 SUBSCRIBE made by hand.
fn subscribe_311(packet_id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    for (filter, qos) in filters {
        body.extend(string(filter));
        body.push(*qos);
    }
    frame(0x82, body)
}

/// Opens a connection, sends bytes, and returns it to be asked for what comes back.
async fn sent(bytes: &[u8]) -> Result<Client> {
    let mut client = opened().await?;
    client.speak(ProtocolVersion::V3_1_1);
    client.send_raw(bytes).await?;
    Ok(client)
}

async fn next(client: &mut Client) -> Result<Vec<u8>> {
    Ok(client
        .receive_frame()
        .await?
        .map(|frame| frame.to_vec())
        .unwrap_or_default())
}

#[tokio::test]
async fn connack_has_two_bytes_and_a_return_code() -> Result<()> {
    let mut client = sent(&connect_311(unique("old").as_bytes(), 2, &[])).await?;
    ensure!(next(&mut client).await? == [0x20, 2, 0, 0]);
    let mut client = sent(&connect_frame_of(
        b"MQIsdp",
        3,
        unique("older").as_bytes(),
        2,
        &[],
        &[],
    ))
    .await?;
    ensure!(next(&mut client).await? == [0x20, 2, 0, 0]);
    Ok(())
}

#[tokio::test]
async fn an_unknown_level_is_refused_with_return_code_1() -> Result<()> {
    for (name, level) in [(&b"MQTT"[..], 3), (b"MQIsdp", 4)] {
        let mut client = sent(&connect_frame_of(name, level, b"level", 2, &[], &[])).await?;
        let answer = next(&mut client).await?;
        // To hang up without CONNACK is allowed where the protocol name does not fit.
        ensure!(answer == [0x20, 2, 0, 1] || answer.is_empty(), "{answer:02x?}");
        if !answer.is_empty() {
            client.expect_closed().await?;
        }
    }
    ensure_serving().await
}

#[tokio::test]
async fn an_empty_client_id_needs_a_clean_session() -> Result<()> {
    let mut client = sent(&connect_311(b"", 0, &[])).await?;
    ensure!(next(&mut client).await? == [0x20, 2, 0, 2]);
    client.expect_closed().await?;
    let mut client = sent(&connect_311(b"", 2, &[])).await?;
    ensure!(next(&mut client).await? == [0x20, 2, 0, 0]);
    client.ping().await
}

#[tokio::test]
async fn session_present_is_told_by_3_1_1_but_not_by_3_1() -> Result<()> {
    let id = unique("present");
    for expected in [0, 1] {
        let mut client = sent(&connect_311(id.as_bytes(), 0, &[])).await?;
        let connack = next(&mut client).await?;
        ensure!(connack == [0x20, 2, expected, 0], "{connack:02x?}");
        client.disconnect().await?;
    }
    let mut client = sent(&connect_frame_of(b"MQIsdp", 3, id.as_bytes(), 0, &[], &[])).await?;
    let connack = next(&mut client).await?;
    ensure!(
        connack == [0x20, 2, 0, 0],
        "3.1 has no session present flag: {connack:02x?}"
    );
    Ok(())
}

#[tokio::test]
async fn clean_session_0_is_kept_and_clean_session_1_forgotten() -> Result<()> {
    for options in [
        ConnectOptions::v311 as fn(String) -> ConnectOptions,
        ConnectOptions::v31,
    ] {
        let (id, topic) = (unique("kept"), unique("kept"));
        let mut first = connected(options(id.clone()).resume()).await?;
        first.subscribe(&topic, 1).await?;
        first.disconnect().await?;
        for number in 0..3 {
            publish(Message::new(&topic, number.to_string()).qos(1)).await?;
        }
        let mut second = connected(options(id.clone()).resume()).await?;
        for number in 0..3 {
            expect_text(&mut second, &number.to_string()).await?;
        }
        second.disconnect().await?;
        connected(options(id.clone())).await?.disconnect().await?;
        publish(Message::new(&topic, "to nobody").qos(1)).await?;
        let mut third = connected(options(id).resume()).await?;
        ensure!(!third.connack().session_present, "a clean session was kept");
        third.expect_no_publish(MOMENT).await?;
    }
    Ok(())
}

#[tokio::test]
async fn suback_has_the_granted_qos_or_0x80() -> Result<()> {
    let mut client = sent(&connect_311(unique("suback").as_bytes(), 2, &[])).await?;
    next(&mut client).await?;
    let filters = [("a/b", 0), ("a/#/b", 1), ("a/#", 1), ("", 0), ("+", 2)];
    client.send_raw(&subscribe_311(0x1234, &filters)).await?;
    let suback = next(&mut client).await?;
    ensure!(
        suback == [0x90, 7, 0x12, 0x34, 0, 0x80, 1, 0x80, 2],
        "{suback:02x?}"
    );
    Ok(())
}

#[tokio::test]
async fn acknowledgements_have_an_identifier_and_nothing_else() -> Result<()> {
    for (name, level) in [(&b"MQTT"[..], 4), (b"MQIsdp", 3)] {
        let mut client = sent(&connect_frame_of(
            name,
            level,
            unique("acks").as_bytes(),
            2,
            &[],
            &[],
        ))
        .await?;
        next(&mut client).await?;
        let topic = string(unique("nobody"));
        client
            .send_raw(&frame(0x32, [&topic[..], &[0, 7], b"x"].concat()))
            .await?;
        ensure!(next(&mut client).await? == [0x40, 2, 0, 7]);
        client
            .send_raw(&frame(0x34, [&topic[..], &[0, 8], b"x"].concat()))
            .await?;
        ensure!(next(&mut client).await? == [0x50, 2, 0, 8]);
        client.send_raw(&[0x62, 2, 0, 8]).await?;
        ensure!(next(&mut client).await? == [0x70, 2, 0, 8]);
        client
            .send_raw(&frame(0xa2, [&[0, 9][..], &string("never/subscribed")].concat()))
            .await?;
        ensure!(next(&mut client).await? == [0xb0, 2, 0, 9]);
        client.send_raw(&[0xc0, 0]).await?;
        ensure!(next(&mut client).await? == [0xd0, 0]);
    }
    Ok(())
}

#[tokio::test]
async fn errors_end_the_connection_without_disconnect() -> Result<()> {
    for bytes in [
        frame(0x30, [&string("a/#")[..], b"x"].concat()),
        frame(0x36, [&string("a")[..], &[0, 1]].concat()),
        frame(0x32, [&string("a")[..], &[0, 0]].concat()),
        subscribe_311(0, &[("a", 0)]),
        subscribe_311(1, &[]),
        subscribe_311(1, &[("a", 3)]),
        subscribe_311(1, &[("a", 4)]),
        connect_311(b"again", 2, &[]),
        vec![0xf0, 0],
        vec![0xe0, 2, 0, 0],
    ] {
        let mut client = sent(&connect_311(unique("error").as_bytes(), 2, &[])).await?;
        next(&mut client).await?;
        client.send_raw(&bytes).await?;
        let answer = next(&mut client).await?;
        ensure!(answer.is_empty(), "{answer:02x?} after {bytes:02x?}");
    }
    ensure_serving().await
}

#[tokio::test]
async fn a_malformed_connect_is_hung_up_on() -> Result<()> {
    for bytes in [
        connect_311(b"reserved", 3, &[]),
        connect_311(b"will qos", 0x0a, &[]),
        connect_311(b"password without user", 0x42, &string("password")),
        connect_311(b"no will topic", 0x06, &[]),
        connect_311(b"bad \xff utf8", 2, &[]),
    ] {
        let mut client = sent(&bytes).await?;
        let answer = next(&mut client).await?;
        ensure!(
            answer.is_empty() || (answer[0] == 0x20 && answer[3] != 0),
            "{answer:02x?} after {bytes:02x?}"
        );
    }
    ensure_serving().await
}

#[tokio::test]
async fn publish_has_no_properties_for_old_clients() -> Result<()> {
    let topic = unique("mixed");
    let mut old = sent(&connect_311(unique("old").as_bytes(), 2, &[])).await?;
    next(&mut old).await?;
    old.send_raw(&subscribe_311(1, &[(&topic, 0)])).await?;
    next(&mut old).await?;
    publish(
        Message::new(&topic, "x")
            .user_property("a", "b")
            .content_type("c")
            .expiry(9),
    )
    .await?;
    let received = next(&mut old).await?;
    ensure!(
        received == frame(0x30, [&string(&topic)[..], b"x"].concat()),
        "{received:02x?}"
    );
    // And the other way: a message of an old client has no properties for new ones.
    let mut new = subscriber(&topic, 0).await?;
    old.send_raw(&received).await?;
    let received = new.receive_frame().await?.expect("a PUBLISH");
    ensure!(
        received == publish_frame(0, topic.as_bytes(), None, &[], b"x"),
        "{received:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_takeover_closes_an_old_client_without_a_word() -> Result<()> {
    let id = unique("taken");
    let mut first = connected(ConnectOptions::v311(&id)).await?;
    let _second = connected(ConnectOptions::v5(&id)).await?;
    first.expect_closed().await
}

#[tokio::test]
async fn keep_alive_closes_an_old_client() -> Result<()> {
    let start = tokio::time::Instant::now();
    let mut client = connected(ConnectOptions::v311(unique("silent")).keep_alive(1)).await?;
    client.expect_closed().await?;
    let after = start.elapsed();
    ensure!(
        after > Duration::from_millis(1400) && after < Duration::from_secs(4),
        "{after:?}"
    );
    Ok(())
}

#[tokio::test]
async fn all_versions_talk_to_each_other_at_every_qos() -> Result<()> {
    let versions = [
        ConnectOptions::v31 as fn(String) -> ConnectOptions,
        ConnectOptions::v311,
        ConnectOptions::v5,
    ];
    for from in versions {
        for to in versions {
            let topic = unique("mix");
            let mut receiver = connected(to(unique("to"))).await?;
            receiver.subscribe(&topic, 2).await?;
            let mut sender = connected(from(unique("from"))).await?;
            for qos in 0..=2 {
                sender
                    .publish(Message::new(&topic, qos.to_string()).qos(qos))
                    .await?;
                let received = expect_text(&mut receiver, &qos.to_string()).await?;
                ensure!(received.qos as u8 == qos, "{received:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn unacknowledged_messages_are_sent_again_with_dup() -> Result<()> {
    let (id, topic) = (unique("dup"), unique("dup"));
    let mut first = connected(ConnectOptions::v311(&id).resume()).await?;
    first.subscribe(&topic, 2).await?;
    publish(Message::new(&topic, "1").qos(1)).await?;
    publish(Message::new(&topic, "2").qos(2)).await?;
    let sent = [first.expect_publish().await?, first.expect_publish().await?];
    drop(first);
    let mut second = connected(ConnectOptions::v311(&id).resume()).await?;
    for before in sent {
        let again = second.expect_publish().await?;
        ensure!(
            again.dup && again.packet_id == before.packet_id,
            "{again:?} after {before:?}"
        );
        second.acknowledge(&again).await?;
    }
    second.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn a_3_1_client_id_has_1_to_23_characters() -> Result<()> {
    let mut client = sent(&connect_frame_of(b"MQIsdp", 3, b"", 2, &[], &[])).await?;
    let answer = next(&mut client).await?;
    ensure!(answer == [0x20, 2, 0, 2] || answer.is_empty(), "{answer:02x?}");
    let mut client = sent(&connect_frame_of(
        b"MQIsdp",
        3,
        b"abcdefghijklmnopqrstuvw",
        2,
        &[],
        &[],
    ))
    .await?;
    ensure!(next(&mut client).await? == [0x20, 2, 0, 0]);
    Ok(())
}
