//! Sections 3.10 and 3.11: UNSUBSCRIBE and UNSUBACK.

use anyhow::{Result, ensure};
use harness::{ConnectOptions, Message, subscription_options};
use mqtt_codec::{Packet, ReasonCode};

use crate::common::*;

fn unsubscribe_frame(packet_id: u16, filters: &[&[u8]]) -> Vec<u8> {
    let mut body = [&packet_id.to_be_bytes()[..], &[0]].concat();
    filters.iter().for_each(|filter| body.extend(string(filter)));
    frame(0xa2, body)
}

/// The flags of UNSUBSCRIBE are 0010; anything else is malformed and ends the connection.
#[tokio::test]
async fn mqtt_3_10_1_1_the_flags_of_unsubscribe_are_checked() -> Result<()> {
    for flags in [0x0, 0x1, 0x3, 0x6, 0xa, 0xf] {
        let mut packet = unsubscribe_frame(1, &[b"a"]);
        packet[0] = 0xa0 | flags;
        expect_fatal(&packet, ReasonCode::MalformedPacket).await?;
    }
    Ok(())
}

/// A topic filter is a UTF-8 string.
#[tokio::test]
async fn mqtt_3_10_3_1_the_filter_is_utf8() -> Result<()> {
    expect_fatal(
        &unsubscribe_frame(1, &[b"ok", b"a\xc0b"]),
        ReasonCode::MalformedPacket,
    )
    .await
}

/// An UNSUBSCRIBE has at least one filter.
#[tokio::test]
async fn mqtt_3_10_3_2_an_unsubscribe_without_filters_is_a_protocol_error() -> Result<()> {
    expect_fatal(&unsubscribe_frame(1, &[]), ReasonCode::ProtocolError).await
}

/// The filter is compared character by character, and the subscription it names is deleted.
#[tokio::test]
async fn mqtt_3_10_4_1_filters_are_compared_character_by_character() -> Result<()> {
    let topic = unique("exact");
    let mut client = subscriber(&format!("{topic}/+"), 1).await?;
    for different in [
        format!("{topic}/a"),
        format!("{topic}/#"),
        format!("{}/+", topic.to_uppercase()),
    ] {
        let unsuback = client.unsubscribe(&[&different]).await?;
        ensure!(
            unsuback.reason_codes[..] == [ReasonCode::NoSubscriptionExisted],
            "{different}: {unsuback:?}"
        );
    }
    publish(Message::new(&format!("{topic}/a"), "still here").qos(1)).await?;
    expect_text(&mut client, "still here").await?;
    let unsuback = client.unsubscribe(&[&format!("{topic}/+")]).await?;
    ensure!(unsuback.reason_codes[..] == [ReasonCode::Success], "{unsuback:?}");
    publish(Message::new(&format!("{topic}/a"), "to nobody").qos(1)).await?;
    client.expect_no_publish(MOMENT).await
}

/// After UNSUBSCRIBE no new messages are added for the client.
#[tokio::test]
async fn mqtt_3_10_4_2_no_new_messages_after_unsubscribe() -> Result<()> {
    for persistent in [false, true] {
        let topic = unique("stop");
        let id = unique("stop");
        let options = ConnectOptions::v5(&id);
        let mut client = connected(if persistent {
            options.session_expiry(60)
        } else {
            options
        })
        .await?;
        client.subscribe(&topic, 1).await?;
        client.subscribe(&format!("{topic}/#"), 1).await?;
        client.unsubscribe(&[&topic, &format!("{topic}/#")]).await?;
        publish(Message::new(&topic, "to nobody").qos(1)).await?;
        client.expect_no_publish(MOMENT).await?;
        if persistent {
            client.disconnect().await?;
            publish(Message::new(&topic, "to nobody").qos(1)).await?;
            connected(ConnectOptions::v5(&id).persistent())
                .await?
                .expect_no_publish(MOMENT)
                .await?;
        }
    }
    Ok(())
}

/// Deliveries that have begun are completed after UNSUBSCRIBE.
#[tokio::test]
async fn mqtt_3_10_4_3_deliveries_under_way_are_completed() -> Result<()> {
    let topic = unique("underway");
    let mut client = connected(ConnectOptions::v5(unique("underway")).session_expiry(60)).await?;
    client.subscribe(&topic, 2).await?;
    publish(Message::new(&topic, "exactly once").qos(2)).await?;
    let received = client.expect_publish().await?;
    client.unsubscribe(&[&topic]).await?;
    client.acknowledge(&received).await?;
    client.expect_no_publish(MOMENT).await
}

/// Each UNSUBSCRIBE is answered by an UNSUBACK.
#[tokio::test]
async fn mqtt_3_10_4_4_unsubscribe_is_answered_by_unsuback() -> Result<()> {
    let topic = unique("unsuback");
    let mut client = subscriber(&topic, 1).await?;
    client
        .send_raw(&unsubscribe_frame(3, &[topic.as_bytes()]))
        .await?;
    let unsuback = client.receive_frame().await?.expect("an UNSUBACK");
    ensure!(unsuback[..] == [0xb0, 4, 0, 3, 0, 0], "{unsuback:?}");
    Ok(())
}

/// UNSUBACK has the packet identifier of its UNSUBSCRIBE, and comes even when nothing was deleted.
#[tokio::test]
async fn mqtt_3_10_4_5_unsuback_comes_even_when_nothing_was_deleted() -> Result<()> {
    let mut client = client("nothing").await?;
    client
        .send_raw(&unsubscribe_frame(0x7788, &[b"never/subscribed"]))
        .await?;
    let unsuback = client.receive_frame().await?.expect("an UNSUBACK");
    ensure!(
        unsuback[0] == 0xb0 && unsuback[2..4] == [0x77, 0x88],
        "{unsuback:?}"
    );
    ensure!(unsuback[unsuback.len() - 1] == 0x11, "{unsuback:?}");
    Ok(())
}

/// An UNSUBSCRIBE with several filters acts like several, and is answered once.
#[tokio::test]
async fn mqtt_3_10_4_6_several_filters_are_answered_once() -> Result<()> {
    let topic = unique("several");
    let [a, b, c] = ["a", "b", "c"].map(|tail| format!("{topic}/{tail}"));
    let mut client = client("several").await?;
    for filter in [&a, &b, &c] {
        client.subscribe(filter, 1).await?;
    }
    let unsuback = client.unsubscribe(&[&a, &c]).await?;
    ensure!(unsuback.reason_codes.len() == 2, "{unsuback:?}");
    client.expect_silence(MOMENT).await?;
    for name in [&a, &b, &c] {
        publish(Message::new(name, name).qos(1)).await?;
    }
    expect_text(&mut client, &b).await?;
    client.expect_no_publish(MOMENT).await
}

/// No reason string makes an UNSUBACK too large for the client.
#[tokio::test]
async fn mqtt_3_11_2_1_a_reason_string_does_not_make_unsuback_too_large() -> Result<()> {
    let mut client = connected(ConnectOptions::v5(unique("small")).maximum_packet_size(10)).await?;
    client.send_raw(&unsubscribe_frame(1, &[b"a/#/b"])).await?;
    let unsuback = client.receive_frame().await?.expect("an UNSUBACK");
    ensure!(unsuback[0] == 0xb0 && unsuback.len() <= 10, "{unsuback:?}");
    Ok(())
}

/// No user property makes an UNSUBACK too large for the client.
#[tokio::test]
async fn mqtt_3_11_2_2_user_properties_do_not_make_unsuback_too_large() -> Result<()> {
    let mut client = connected(ConnectOptions::v5(unique("small")).maximum_packet_size(10)).await?;
    let property = [&[0x26][..], &string("name"), &string("value")].concat();
    let body = [&[0, 1, property.len() as u8][..], &property, &string("a/b")].concat();
    client.send_raw(&frame(0xa2, body)).await?;
    let unsuback = client.receive_frame().await?.expect("an UNSUBACK");
    ensure!(unsuback[0] == 0xb0 && unsuback.len() <= 10, "{unsuback:?}");
    Ok(())
}

/// Reason codes are in the order of the filters.
#[tokio::test]
async fn mqtt_3_11_3_1_reasons_are_in_the_order_of_the_filters() -> Result<()> {
    let topic = unique("order");
    let [a, b, c] = ["a", "b", "c"].map(|tail| format!("{topic}/{tail}"));
    let mut client = client("order").await?;
    client
        .subscribe_many(
            &[(&a, subscription_options(0)), (&c, subscription_options(1))],
            None,
        )
        .await?;
    let unsuback = client.unsubscribe(&[&a, &b, &c, &a]).await?;
    let codes: Vec<u8> = unsuback.reason_codes.iter().map(|code| *code as u8).collect();
    ensure!(codes == [0, 0x11, 0, 0x11], "{codes:02x?}");
    Ok(())
}

/// Each reason is one that UNSUBACK may have.
#[tokio::test]
async fn mqtt_3_11_3_2_each_reason_is_one_of_unsuback() -> Result<()> {
    let mut client = client("reasons").await?;
    for filter in ["a", "", "a#", "$share/g", "$share//a", "#/#"] {
        client
            .send_raw(&unsubscribe_frame(5, &[filter.as_bytes()]))
            .await?;
        match client.receive_packet().await? {
            Packet::UnsubAck(unsuback) => {
                let code = unsuback.reason_codes[0] as u8;
                ensure!(
                    [0x00, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91].contains(&code),
                    "{filter}: {unsuback:?}"
                );
            }
            other => anyhow::bail!("{filter}: {other:?}"),
        }
    }
    Ok(())
}
