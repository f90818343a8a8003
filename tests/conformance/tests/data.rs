//! Sections 1.5 and 2: how data is represented, fixed headers, packet identifiers, properties.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use harness::{ConnectOptions, Message};
use mqtt_codec::{Packet, ReasonCode};

use crate::common::*;

/// A string that is not well-formed UTF-8, surrogates included, makes the packet malformed.
#[tokio::test]
async fn mqtt_1_5_4_1_ill_formed_utf8_is_malformed() -> Result<()> {
    for bad in [
        &b"a\xffb"[..],
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
    ] {
        expect_fatal(
            &publish_frame(0, bad, None, &[], b"x"),
            ReasonCode::MalformedPacket,
        )
        .await?;
        expect_fatal(&subscribe_frame(1, &[], bad, 0), ReasonCode::MalformedPacket).await?;
        let in_user_property = [&[0x26][..], &string("name"), &string(bad)].concat();
        expect_fatal(
            &publish_frame(0, b"topic", None, &in_user_property, b"x"),
            ReasonCode::MalformedPacket,
        )
        .await?;
    }
    Ok(())
}

/// The null character does not occur in a string; a packet that has one is malformed.
#[tokio::test]
async fn mqtt_1_5_4_2_null_character_is_malformed() -> Result<()> {
    expect_fatal(
        &publish_frame(0, b"a\0b", None, &[], b"x"),
        ReasonCode::MalformedPacket,
    )
    .await?;
    let content_type = [&[0x03][..], &string(b"a\0b")].concat();
    expect_fatal(
        &publish_frame(0, b"a", None, &content_type, b"x"),
        ReasonCode::MalformedPacket,
    )
    .await?;
    expect_refused(&connect_frame(b"a\0b", 2, &[], &[]), ReasonCode::MalformedPacket)
        .await
        .map(|_| ())
}

/// The bytes EF BB BF are a character like others: a receiver keeps them.
#[tokio::test]
async fn mqtt_1_5_4_3_zero_width_no_break_space_is_kept() -> Result<()> {
    let plain = unique("bom");
    let marked = format!("\u{feff}{plain}");
    let mut client = subscriber(&marked, 0).await?;
    publish(Message::new(&plain, "without")).await?;
    publish(Message::new(&marked, "with").content_type("\u{feff}text")).await?;
    let received = expect_text(&mut client, "with").await?;
    ensure!(received.publication.topic().as_str() == marked, "{received:?}");
    let content_type = received.publication.properties().content_type;
    ensure!(
        content_type.as_deref() == Some("\u{feff}text"),
        "{content_type:?}"
    );
    Ok(())
}

/// A variable byte integer is written in as few bytes as its value needs.
#[tokio::test]
async fn mqtt_1_5_5_1_variable_byte_integers_are_as_short_as_possible() -> Result<()> {
    // A PINGREQ whose remaining length 0 takes two bytes, and a PUBLISH with the same fault in its property length.
    expect_fatal(&[0xc0, 0x80, 0x00], ReasonCode::MalformedPacket).await?;
    let body = [&string("a")[..], &[0x80, 0x00], b"x"].concat();
    expect_fatal(&frame(0x30, body), ReasonCode::MalformedPacket).await?;
    // What the broker writes: a payload that makes the remaining length exactly 127, then 128.
    let topic = unique("t");
    let mut client = subscriber(&topic, 0).await?;
    for (remaining, header) in [(127, 2), (128, 3)] {
        let payload = vec![b'x'; remaining - topic.len() - 3];
        publish(Message::new(&topic, payload)).await?;
        let frame = client.receive_frame().await?.expect("a PUBLISH");
        ensure!(
            frame.len() == remaining + header,
            "{} bytes: {frame:?}",
            frame.len()
        );
    }
    Ok(())
}

/// Both halves of a string pair are UTF-8 strings.
#[tokio::test]
async fn mqtt_1_5_7_1_both_strings_of_a_pair_are_checked() -> Result<()> {
    for (name, value) in [
        (&b"\xff"[..], &b"value"[..]),
        (b"name", b"\xff"),
        (b"a\0", b"b"),
        (b"a", b"b\0"),
    ] {
        let pair = [&[0x26][..], &string(name), &string(value)].concat();
        expect_fatal(
            &publish_frame(0, b"topic", None, &pair, b"x"),
            ReasonCode::MalformedPacket,
        )
        .await?;
    }
    Ok(())
}

/// Reserved flag bits of the fixed header have the one value that the table gives them.
#[tokio::test]
async fn mqtt_2_1_3_1_reserved_flags_of_the_fixed_header_are_checked() -> Result<()> {
    let id = [0, 1];
    for (first, body) in [
        (0x41, &id[..]),
        (0x51, &id),
        (0x60, &id),
        (0x71, &id),
        (0xc1, &[]),
        (0xe1, &[0]),
    ] {
        expect_fatal(&frame(first, body), ReasonCode::MalformedPacket).await?;
    }
    // Before a CONNECT has been read no version is agreed on, and so nothing need be said.
    let mut connect = connect_frame(b"reserved", 2, &[], &[]);
    connect[0] = 0x11;
    let mut client = opened().await?;
    client.send_raw(&connect).await?;
    while let Some(answer) = client.receive_frame().await? {
        ensure!(answer[0] == 0x20 && answer[3] >= 0x80, "{answer:?}");
    }
    Ok(())
}

/// A QoS 0 PUBLISH has no packet identifier.
#[tokio::test]
async fn mqtt_2_2_1_2_qos_0_has_no_packet_identifier() -> Result<()> {
    let topic = unique("id");
    let mut client = subscriber(&topic, 0).await?;
    publish(Message::new(&topic, "x").qos(1)).await?;
    let frame = client.receive_frame().await?.expect("a PUBLISH");
    let expected = publish_frame(0, topic.as_bytes(), None, &[], b"x");
    ensure!(
        frame == expected,
        "expected {expected:02x?}, got {:02x?}",
        &frame[..]
    );
    Ok(())
}

/// SUBSCRIBE, UNSUBSCRIBE and PUBLISH above QoS 0 carry a packet identifier other than zero.
#[tokio::test]
async fn mqtt_2_2_1_3_packet_identifier_zero_is_refused() -> Result<()> {
    expect_fatal(
        &publish_frame(2, b"a", Some(0), &[], b"x"),
        ReasonCode::ProtocolError,
    )
    .await?;
    expect_fatal(
        &publish_frame(4, b"a", Some(0), &[], b"x"),
        ReasonCode::ProtocolError,
    )
    .await?;
    expect_fatal(&subscribe_frame(0, &[], b"a", 0), ReasonCode::ProtocolError).await?;
    expect_fatal(
        &frame(0xa2, [&[0, 0, 0][..], &string("a")].concat()),
        ReasonCode::ProtocolError,
    )
    .await
}

/// A server gives each new PUBLISH above QoS 0 an identifier that is not zero and not in use.
#[tokio::test]
async fn mqtt_2_2_1_4_servers_use_free_packet_identifiers() -> Result<()> {
    let topic = unique("ids");
    let mut client = subscriber(&topic, 2).await?;
    let mut publisher = client_with_messages(&topic, 20).await?;
    let mut ids = BTreeSet::new();
    for _ in 0..20 {
        let publish = client.expect_publish().await?;
        let id = publish.packet_id.expect("QoS above 0 has a packet id").get();
        ensure!(ids.insert(id), "packet id {id} is in use already");
    }
    publisher.ping().await
}

async fn client_with_messages(topic: &str, count: usize) -> Result<harness::Client> {
    let mut publisher = client("publisher").await?;
    for number in 0..count {
        publisher
            .publish(Message::new(topic, number.to_string()).qos(1 + (number % 2) as u8))
            .await?;
    }
    Ok(publisher)
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP carry the packet identifier of the PUBLISH they belong to.
#[tokio::test]
async fn mqtt_2_2_1_5_acknowledgements_carry_the_identifier_of_their_publish() -> Result<()> {
    let mut client = client("acks").await?;
    let topic = unique("acks");
    let one = client
        .send_publish(Message::new(&topic, "1").qos(1).packet_id(0x1234))
        .await?
        .unwrap();
    client.expect_puback(one).await?;
    let two = client
        .send_publish(Message::new(&topic, "2").qos(2).packet_id(0xfffe))
        .await?
        .unwrap();
    client.expect_pubrec(two).await?;
    client.send_pubrel(two).await?;
    client.expect_pubcomp(two).await?;

    client.subscribe(&topic, 2).await?;
    client.send_publish(Message::new(&topic, "3").qos(0)).await?;
    client.receive().await?;
    publish(Message::new(&topic, "4").qos(2)).await?;
    let received = client.expect_publish().await?;
    let id = received.packet_id.unwrap();
    client.send_pubrec(id).await?;
    client.expect_pubrel(id).await?;
    client.send_pubcomp(id).await
}

/// SUBACK and UNSUBACK carry the packet identifier of their request.
#[tokio::test]
async fn mqtt_2_2_1_6_suback_and_unsuback_carry_the_identifier_of_their_request() -> Result<()> {
    let mut client = client("ids").await?;
    client
        .send_raw(&subscribe_frame(0xabcd, &[], b"some/filter", 0))
        .await?;
    let suback = client.receive_frame().await?.expect("a SUBACK");
    ensure!(suback[0] == 0x90 && suback[2..4] == [0xab, 0xcd], "{suback:?}");
    client
        .send_raw(&frame(
            0xa2,
            [&[0xfe, 0xdc, 0][..], &string("some/filter")].concat(),
        ))
        .await?;
    let unsuback = client.receive_frame().await?.expect("an UNSUBACK");
    ensure!(
        unsuback[0] == 0xb0 && unsuback[2..4] == [0xfe, 0xdc],
        "{unsuback:?}"
    );
    Ok(())
}

/// A packet without properties says so with a property length of zero.
#[tokio::test]
async fn mqtt_2_2_2_1_absence_of_properties_is_a_zero_length() -> Result<()> {
    let topic = unique("none");
    let mut client = subscriber(&topic, 0).await?;
    publish(Message::new(&topic, "x")).await?;
    let frame = client.receive_frame().await?.expect("a PUBLISH");
    ensure!(
        frame[4 + topic.len()] == 0,
        "no property length of zero after the topic: {frame:?}"
    );
    let suback = answer_to_subscribe(&mut client).await?;
    ensure!(suback[4] == 0 && suback.len() == 6, "{suback:?}");
    Ok(())
}

async fn answer_to_subscribe(client: &mut harness::Client) -> Result<bytes::Bytes> {
    client
        .send_raw(&subscribe_frame(77, &[], b"another/filter", 0))
        .await?;
    Ok(client.receive_frame().await?.expect("a SUBACK"))
}

#[tokio::test]
async fn a_missing_property_length_is_malformed() -> Result<()> {
    expect_fatal(&frame(0x30, string("topic")), ReasonCode::MalformedPacket).await?;
    expect_fatal(&frame(0x82, [0, 1]), ReasonCode::MalformedPacket).await
}

#[tokio::test]
async fn an_acknowledgement_of_success_is_written_short() -> Result<()> {
    let mut client = connected(ConnectOptions::v5(unique("short"))).await?;
    client.subscribe("short/acks", 0).await?;
    let publish = Message::new("short/acks", "x").qos(1).packet_id(9).build();
    client.send(&Packet::Publish(publish)).await?;
    let mut frames = Vec::new();
    for _ in 0..2 {
        frames.push(client.receive_frame().await?.expect("a packet"));
    }
    ensure!(
        frames.iter().any(|frame| frame[..] == [0x40, 2, 0, 9]),
        "{frames:?}"
    );
    Ok(())
}
