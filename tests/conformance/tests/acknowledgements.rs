//! Sections 3.4 to 3.7: PUBACK, PUBREC, PUBREL and PUBCOMP.

use anyhow::{Result, ensure};
use bytes::Bytes;
use harness::{Client, ConnectOptions, Message};
use mqtt_codec::{Packet, PacketId, ReasonCode};

use crate::common::*;

const PUBACK_AND_PUBREC: [u8; 9] = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const PUBREL_AND_PUBCOMP: [u8; 2] = [0x00, 0x92];

/// A client that takes packets of up to 12 bytes: enough for every packet here without its optional properties.
async fn small_client() -> Result<Client> {
    connected(ConnectOptions::v5(unique("small")).maximum_packet_size(12)).await
}

/// The answers to messages that a broker may refuse: nobody subscribed, wrong format, names of the server's own.
async fn answers(client: &mut Client, qos: u8) -> Result<Vec<Bytes>> {
    let messages = [
        Message::new(&unique("nobody"), "x"),
        Message::new(&unique("utf8"), b"\xff\xfe").payload_format(1),
        Message::new("$SYS/broker/version", "x"),
    ];
    let mut frames = Vec::new();
    for (number, message) in messages.into_iter().enumerate() {
        let publish = message.qos(qos).packet_id(number as u16 + 1).build();
        frames.push(answer(client, &Packet::Publish(publish)).await?);
    }
    Ok(frames)
}

/// The answers to handshake packets for identifiers that nobody uses.
async fn answers_to_strangers(client: &mut Client) -> Result<[Bytes; 2]> {
    let pubrel = answer(client, &Packet::PubRec(acknowledge(501))).await?;
    let pubcomp = answer(client, &Packet::PubRel(acknowledge(502))).await?;
    Ok([pubrel, pubcomp])
}

fn acknowledge(id: u16) -> mqtt_codec::Acknowledgement {
    mqtt_codec::Acknowledgement::new(PacketId::new(id).expect("not zero"), ReasonCode::Success)
}

/// The reason code of an acknowledgement as it came; a short one means success.
fn reason(frame: &Bytes) -> u8 {
    if frame.len() > 4 { frame[4] } else { 0 }
}

/// The reason in PUBACK is one that PUBACK may have.
#[tokio::test]
async fn mqtt_3_4_2_1_the_reason_is_one_of_puback() -> Result<()> {
    for frame in answers(&mut client("acks").await?, 1).await? {
        ensure!(
            frame[0] == 0x40 && PUBACK_AND_PUBREC.contains(&reason(&frame)),
            "{frame:?}"
        );
    }
    Ok(())
}

/// No reason string makes a PUBACK too large for the client.
#[tokio::test]
async fn mqtt_3_4_2_2_a_reason_string_does_not_make_puback_too_large() -> Result<()> {
    for frame in answers(&mut small_client().await?, 1).await? {
        ensure!(frame[0] == 0x40 && frame.len() <= 12, "{frame:?}");
    }
    Ok(())
}

/// No user property makes a PUBACK too large for the client.
#[tokio::test]
async fn mqtt_3_4_2_3_user_properties_do_not_make_puback_too_large() -> Result<()> {
    let mut client = small_client().await?;
    for id in 1..50 {
        let message = Message::new("puback/with/properties", "x")
            .user_property("name", "value")
            .qos(1)
            .packet_id(id);
        let frame = answer(&mut client, &Packet::Publish(message.build())).await?;
        ensure!(frame[0] == 0x40 && frame.len() <= 12, "{frame:?}");
    }
    Ok(())
}

/// The reason in PUBREC is one that PUBREC may have.
#[tokio::test]
async fn mqtt_3_5_2_1_the_reason_is_one_of_pubrec() -> Result<()> {
    for frame in answers(&mut client("acks").await?, 2).await? {
        ensure!(
            frame[0] == 0x50 && PUBACK_AND_PUBREC.contains(&reason(&frame)),
            "{frame:?}"
        );
    }
    Ok(())
}

/// No reason string makes a PUBREC too large for the client.
#[tokio::test]
async fn mqtt_3_5_2_2_a_reason_string_does_not_make_pubrec_too_large() -> Result<()> {
    for frame in answers(&mut small_client().await?, 2).await? {
        ensure!(frame[0] == 0x50 && frame.len() <= 12, "{frame:?}");
    }
    Ok(())
}

/// No user property makes a PUBREC too large for the client.
#[tokio::test]
async fn mqtt_3_5_2_3_user_properties_do_not_make_pubrec_too_large() -> Result<()> {
    let mut client = small_client().await?;
    let message = Message::new("pubrec/with/properties", "x")
        .user_property("name", "value")
        .qos(2)
        .packet_id(1);
    let frame = answer(&mut client, &Packet::Publish(message.build())).await?;
    ensure!(frame[0] == 0x50 && frame.len() <= 12, "{frame:?}");
    Ok(())
}

/// The flags of PUBREL are 0010; anything else is malformed and ends the connection.
#[tokio::test]
async fn mqtt_3_6_1_1_the_flags_of_pubrel_are_checked() -> Result<()> {
    for first in [0x60, 0x61, 0x63, 0x6a, 0x6f] {
        expect_fatal(&frame(first, [0, 1]), ReasonCode::MalformedPacket).await?;
    }
    Ok(())
}

/// The reason in PUBREL is one that PUBREL may have.
#[tokio::test]
async fn mqtt_3_6_2_1_the_reason_is_one_of_pubrel() -> Result<()> {
    let mut client = client("pubrel").await?;
    let [stranger, _] = answers_to_strangers(&mut client).await?;
    ensure!(stranger[0] == 0x62 && reason(&stranger) == 0x92, "{stranger:?}");
    let topic = unique("pubrel");
    client.subscribe(&topic, 2).await?;
    publish(Message::new(&topic, "x").qos(2)).await?;
    let id = client.expect_publish().await?.packet_id.unwrap();
    let pubrel = answer(&mut client, &Packet::PubRec(acknowledge(id.get()))).await?;
    ensure!(pubrel[0] == 0x62 && reason(&pubrel) == 0, "{pubrel:?}");
    Ok(())
}

/// No reason string makes a PUBREL too large for the client.
#[tokio::test]
async fn mqtt_3_6_2_2_a_reason_string_does_not_make_pubrel_too_large() -> Result<()> {
    let [pubrel, _] = answers_to_strangers(&mut small_client().await?).await?;
    ensure!(pubrel[0] == 0x62 && pubrel.len() <= 12, "{pubrel:?}");
    Ok(())
}

/// No user property makes a PUBREL too large for the client.
#[tokio::test]
async fn mqtt_3_6_2_3_user_properties_do_not_make_pubrel_too_large() -> Result<()> {
    let mut client = small_client().await?;
    let with_properties = [&[0, 9, 0, 13, 0x26][..], &string("nam"), &string("value")].concat();
    client.send_raw(&frame(0x50, with_properties)).await?;
    let pubrel = client.receive_frame().await?.expect("a PUBREL");
    ensure!(pubrel[0] == 0x62 && pubrel.len() <= 12, "{pubrel:?}");
    Ok(())
}

/// The reason in PUBCOMP is one that PUBCOMP may have.
#[tokio::test]
async fn mqtt_3_7_2_1_the_reason_is_one_of_pubcomp() -> Result<()> {
    let mut client = client("pubcomp").await?;
    let [_, stranger] = answers_to_strangers(&mut client).await?;
    ensure!(
        stranger[0] == 0x70 && PUBREL_AND_PUBCOMP.contains(&reason(&stranger)),
        "{stranger:?}"
    );
    ensure!(reason(&stranger) == 0x92, "{stranger:?}");
    let id = client
        .send_publish(Message::new("pubcomp", "x").qos(2))
        .await?
        .unwrap();
    client.expect_pubrec(id).await?;
    let pubcomp = answer(&mut client, &Packet::PubRel(acknowledge(id.get()))).await?;
    ensure!(pubcomp[0] == 0x70 && reason(&pubcomp) == 0, "{pubcomp:?}");
    Ok(())
}

/// No reason string makes a PUBCOMP too large for the client.
#[tokio::test]
async fn mqtt_3_7_2_2_a_reason_string_does_not_make_pubcomp_too_large() -> Result<()> {
    let [_, pubcomp] = answers_to_strangers(&mut small_client().await?).await?;
    ensure!(pubcomp[0] == 0x70 && pubcomp.len() <= 12, "{pubcomp:?}");
    Ok(())
}

/// No user property makes a PUBCOMP too large for the client.
#[tokio::test]
async fn mqtt_3_7_2_3_user_properties_do_not_make_pubcomp_too_large() -> Result<()> {
    let mut client = small_client().await?;
    let with_properties = [&[0, 9, 0, 13, 0x26][..], &string("nam"), &string("value")].concat();
    client.send_raw(&frame(0x62, with_properties)).await?;
    let pubcomp = client.receive_frame().await?.expect("a PUBCOMP");
    ensure!(pubcomp[0] == 0x70 && pubcomp.len() <= 12, "{pubcomp:?}");
    Ok(())
}

#[tokio::test]
async fn a_message_that_is_not_what_its_format_says_is_refused_or_passed_on_whole() -> Result<()> {
    let mut client = client("format").await?;
    let topic = unique("format");
    client.subscribe(&topic, 1).await?;
    let bad = Message::new(&topic, b"\xff\xfe").payload_format(1).qos(1);
    let reason = client.publish(bad).await?;
    if reason == ReasonCode::PayloadFormatInvalid {
        return client.expect_no_publish(MOMENT).await;
    }
    ensure!(reason == ReasonCode::Success, "{reason:?}");
    ensure!(client.receive().await?.publication.payload_slice() == b"\xff\xfe");
    Ok(())
}

#[tokio::test]
async fn a_message_for_nobody_is_acknowledged_as_such_or_plainly() -> Result<()> {
    let reason = client("nobody")
        .await?
        .publish(Message::new(&unique("nobody"), "x").qos(1))
        .await?;
    ensure!(
        matches!(reason, ReasonCode::Success | ReasonCode::NoMatchingSubscribers),
        "{reason:?}"
    );
    Ok(())
}
