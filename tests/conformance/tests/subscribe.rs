//! Sections 3.8 and 3.9: SUBSCRIBE and SUBACK.

use anyhow::{Result, ensure};
use harness::{ConnectOptions, Message, subscription_options};
use mqtt_codec::{ReasonCode, RetainHandling, SubscriptionOptions};

use crate::common::*;

const REASONS: [u8; 12] = [
    0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2,
];

/// The flags of SUBSCRIBE are 0010; anything else is malformed and ends the connection.
#[tokio::test]
async fn mqtt_3_8_1_1_the_flags_of_subscribe_are_checked() -> Result<()> {
    for flags in [0x0, 0x1, 0x3, 0x6, 0xa, 0xf] {
        let mut packet = subscribe_frame(1, &[], b"a", 0);
        packet[0] = 0x80 | flags;
        expect_fatal(&packet, ReasonCode::MalformedPacket).await?;
    }
    Ok(())
}

/// A topic filter is a UTF-8 string.
#[tokio::test]
async fn mqtt_3_8_3_1_the_filter_is_utf8() -> Result<()> {
    expect_fatal(
        &subscribe_frame(1, &[], b"a/\xff/b", 0),
        ReasonCode::MalformedPacket,
    )
    .await
}

/// A SUBSCRIBE has at least one filter.
#[tokio::test]
async fn mqtt_3_8_3_2_a_subscribe_without_filters_is_a_protocol_error() -> Result<()> {
    expect_fatal(&frame(0x82, [0, 1, 0]), ReasonCode::ProtocolError).await
}

/// With no local, a message does not come back to the client id that published it.
#[tokio::test]
async fn mqtt_3_8_3_3_no_local_keeps_own_messages_away() -> Result<()> {
    for persistent in [false, true] {
        let topic = unique("local");
        let options = ConnectOptions::v5(unique("local"));
        let mut client = connected(if persistent {
            options.session_expiry(60)
        } else {
            options
        })
        .await?;
        let no_local = SubscriptionOptions {
            no_local: true,
            ..subscription_options(1)
        };
        client.subscribe_with(&topic, no_local, None).await?;
        client.publish(Message::new(&topic, "own").qos(1)).await?;
        client.publish(Message::new(&topic, "own")).await?;
        publish(Message::new(&topic, "of another").qos(1)).await?;
        expect_text(&mut client, "of another").await?;
        client.expect_no_publish(MOMENT).await?;
    }
    Ok(())
}

/// No local on a shared subscription is a protocol error.
#[tokio::test]
async fn mqtt_3_8_3_4_no_local_on_a_shared_subscription_is_a_protocol_error() -> Result<()> {
    expect_fatal(
        &subscribe_frame(1, &[], b"$share/group/topic", 0x04),
        ReasonCode::ProtocolError,
    )
    .await
}

/// Reserved bits in the subscription options make the packet malformed.
#[tokio::test]
async fn mqtt_3_8_3_5_reserved_option_bits_are_malformed() -> Result<()> {
    for options in [0x40, 0x80, 0xc1] {
        expect_fatal(
            &subscribe_frame(1, &[], b"a", options),
            ReasonCode::MalformedPacket,
        )
        .await?;
    }
    Ok(())
}

/// Each SUBSCRIBE is answered by a SUBACK.
#[tokio::test]
async fn mqtt_3_8_4_1_subscribe_is_answered_by_suback() -> Result<()> {
    let mut client = client("suback").await?;
    for filter in ["a", "a/#", "+/b", "#", "$SYS/#", "$share/group/a", "/", "//"] {
        let granted = client.subscribe(filter, 1).await?;
        ensure!(granted == ReasonCode::GrantedQoS1, "{filter}: {granted:?}");
    }
    Ok(())
}

/// SUBACK has the packet identifier of its SUBSCRIBE, also when several are under way.
#[tokio::test]
async fn mqtt_3_8_4_2_suback_carries_the_identifier_of_its_subscribe() -> Result<()> {
    let mut client = client("ids").await?;
    let mut bytes = Vec::new();
    for id in [300, 7, 65_535] {
        bytes.extend(subscribe_frame(id, &[], format!("ids/{id}").as_bytes(), 0));
    }
    client.send_raw(&bytes).await?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let suback = client.receive_frame().await?.expect("a SUBACK");
        ensure!(suback[0] == 0x90, "{suback:?}");
        ids.push(u16::from_be_bytes([suback[2], suback[3]]));
    }
    ids.sort_unstable();
    ensure!(ids == [7, 300, 65_535], "{ids:?}");
    Ok(())
}

/// Subscribing to the same filter again replaces the subscription.
#[tokio::test]
async fn mqtt_3_8_4_3_subscribing_again_replaces_the_subscription() -> Result<()> {
    for persistent in [false, true] {
        let topic = unique("replace");
        let options = ConnectOptions::v5(unique("replace"));
        let mut client = connected(if persistent {
            options.session_expiry(60)
        } else {
            options
        })
        .await?;
        client
            .subscribe_with(&topic, subscription_options(2), Some(1))
            .await?;
        client
            .subscribe_with(&topic, subscription_options(1), Some(2))
            .await?;
        publish(Message::new(&topic, "x").qos(2)).await?;
        let received = client.receive().await?;
        ensure!(
            received.qos as u8 == 1 && received.subscription_ids[..] == [2],
            "{received:?}"
        );
        client
            .subscribe_with(&topic, subscription_options(0), None)
            .await?;
        publish(Message::new(&topic, "y").qos(2)).await?;
        let received = expect_text(&mut client, "y").await?;
        ensure!(
            received.qos as u8 == 0 && received.subscription_ids.is_empty(),
            "{received:?}"
        );
        client.expect_no_publish(MOMENT).await?;
    }
    Ok(())
}

/// Replacing with retain handling 0 sends retained messages again, and loses nothing that is published meanwhile.
#[tokio::test]
async fn mqtt_3_8_4_4_replacing_sends_retained_messages_again_and_loses_nothing() -> Result<()> {
    let topic = unique("replace");
    publish(Message::new(&format!("{topic}/kept"), "kept").qos(1).retain()).await?;
    let mut client = subscriber(&format!("{topic}/#"), 1).await?;
    expect_text(&mut client, "kept").await?;
    client.subscribe(&format!("{topic}/#"), 1).await?;
    expect_text(&mut client, "kept").await?;

    let stream = format!("{topic}/stream");
    let publisher = tokio::spawn(async move {
        let mut publisher = crate::common::client("stream").await?;
        for number in 0..100 {
            publisher
                .publish(Message::new(&stream, number.to_string()).qos(1))
                .await?;
        }
        anyhow::Ok(())
    });
    let again = SubscriptionOptions {
        retain_handling: RetainHandling::DoNotSend,
        ..subscription_options(1)
    };
    let mut next = 0;
    while next < 100 {
        if next % 10 == 0 {
            client.subscribe_with(&format!("{topic}/#"), again, None).await?;
        }
        expect_text(&mut client, &next.to_string()).await?;
        next += 1;
    }
    publisher.await?
}

/// A SUBSCRIBE with several filters acts like several, and is answered once.
#[tokio::test]
async fn mqtt_3_8_4_5_several_filters_are_answered_once() -> Result<()> {
    let topic = unique("many");
    let mut client = client("many").await?;
    let names: Vec<String> = (0..20).map(|number| format!("{topic}/{number}")).collect();
    let filters: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), subscription_options(1)))
        .collect();
    let suback = client.subscribe_many(&filters, None).await?;
    ensure!(suback.reason_codes.len() == 20, "{suback:?}");
    client.expect_silence(MOMENT).await?;
    for name in &names {
        publish(Message::new(name, name).qos(1)).await?;
        expect_text(&mut client, name).await?;
    }
    // The same filter twice in one packet: the later one counts, as if it had come in a packet of its own.
    let twice = [
        (topic.as_str(), subscription_options(2)),
        (topic.as_str(), subscription_options(0)),
    ];
    client.subscribe_many(&twice, None).await?;
    publish(Message::new(&topic, "x").qos(2)).await?;
    let received = client.receive().await?;
    ensure!(received.qos as u8 == 0, "{received:?}");
    client.expect_no_publish(MOMENT).await
}

/// SUBACK has a reason code for each filter.
#[tokio::test]
async fn mqtt_3_8_4_6_suback_has_a_reason_for_each_filter() -> Result<()> {
    let mut client = client("reasons").await?;
    for count in [1, 2, 7] {
        let filters: Vec<_> = (0..count)
            .map(|_| ("reasons/#/bad", subscription_options(0)))
            .collect();
        let suback = client.subscribe_many(&filters, None).await?;
        ensure!(suback.reason_codes.len() == count, "{suback:?}");
    }
    Ok(())
}

/// The reason is the QoS granted, or says that the subscription failed.
#[tokio::test]
async fn mqtt_3_8_4_7_the_reason_is_the_granted_qos_or_a_failure() -> Result<()> {
    let mut client = client("granted").await?;
    for qos in 0..=2 {
        let granted = client.subscribe(&unique("granted"), qos).await?;
        ensure!(granted as u8 == qos, "{granted:?}");
    }
    let topic = unique("granted");
    let failed = client.subscribe(&format!("{topic}/#/x"), 1).await?;
    ensure!(failed == ReasonCode::TopicFilterInvalid, "{failed:?}");
    Ok(())
}

/// A message comes with the lower of its own QoS and the one granted.
#[tokio::test]
async fn mqtt_3_8_4_8_the_lower_qos_counts() -> Result<()> {
    for granted in 0..=2 {
        let topic = unique("lower");
        let mut client = subscriber(&topic, granted).await?;
        for published in 0..=2 {
            publish(Message::new(&topic, published.to_string()).qos(published)).await?;
            let received = expect_text(&mut client, &published.to_string()).await?;
            ensure!(
                received.qos as u8 == granted.min(published),
                "granted {granted}: {received:?}"
            );
        }
    }
    Ok(())
}

/// No reason string makes a SUBACK too large for the client.
#[tokio::test]
async fn mqtt_3_9_2_1_a_reason_string_does_not_make_suback_too_large() -> Result<()> {
    let mut client = connected(ConnectOptions::v5(unique("small")).maximum_packet_size(10)).await?;
    client.send_raw(&subscribe_frame(1, &[], b"a/#/b", 0)).await?;
    let suback = client.receive_frame().await?.expect("a SUBACK");
    ensure!(
        suback[0] == 0x90 && suback.len() <= 10 && suback[suback.len() - 1] == 0x8f,
        "{suback:?}"
    );
    Ok(())
}

/// No user property makes a SUBACK too large for the client.
#[tokio::test]
async fn mqtt_3_9_2_2_user_properties_do_not_make_suback_too_large() -> Result<()> {
    let mut client = connected(ConnectOptions::v5(unique("small")).maximum_packet_size(10)).await?;
    let property = [&[0x26][..], &string("name"), &string("value")].concat();
    client.send_raw(&subscribe_frame(1, &property, b"a/b", 0)).await?;
    let suback = client.receive_frame().await?.expect("a SUBACK");
    ensure!(suback[0] == 0x90 && suback.len() <= 10, "{suback:?}");
    Ok(())
}

/// Reason codes are in the order of the filters.
#[tokio::test]
async fn mqtt_3_9_3_1_reasons_are_in_the_order_of_the_filters() -> Result<()> {
    let topic = unique("order");
    let [a, bad, b, empty, c] = ["a", "#/x", "b", "", "c"].map(|tail| format!("{topic}/{tail}"));
    let mut client = client("order").await?;
    let suback = client
        .subscribe_many(
            &[
                (&a, subscription_options(2)),
                (&bad, subscription_options(2)),
                (&b, subscription_options(0)),
                (&empty, subscription_options(1)),
                (&c, subscription_options(1)),
            ],
            None,
        )
        .await?;
    let codes: Vec<u8> = suback.reason_codes.iter().map(|code| *code as u8).collect();
    ensure!(codes == [2, 0x8f, 0, 1, 1], "{codes:02x?}");
    Ok(())
}

/// Each reason is one that SUBACK may have.
#[tokio::test]
async fn mqtt_3_9_3_2_each_reason_is_one_of_suback() -> Result<()> {
    let mut client = client("reasons").await?;
    for filter in [
        "a",
        "",
        "a#",
        "$share",
        "$share/",
        "$share//a",
        "$share/+/a",
        "$share/g",
        "$share/g/",
        "+a/b",
    ] {
        client
            .send_raw(&subscribe_frame(5, &[], filter.as_bytes(), 0))
            .await?;
        let suback = client.receive_frame().await?.expect("a SUBACK");
        ensure!(
            suback[0] == 0x90 && suback.last().is_some_and(|code| REASONS.contains(code)),
            "{filter}: {suback:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn subscription_options_out_of_range_are_refused() -> Result<()> {
    expect_fatal(&subscribe_frame(1, &[], b"a", 0x03), ReasonCode::ProtocolError).await?;
    expect_fatal(&subscribe_frame(1, &[], b"a", 0x30), ReasonCode::ProtocolError).await
}

#[tokio::test]
async fn subscription_identifier_zero_or_twice_is_a_protocol_error() -> Result<()> {
    expect_fatal(
        &subscribe_frame(1, &[0x0b, 0], b"a", 0),
        ReasonCode::ProtocolError,
    )
    .await?;
    expect_fatal(
        &subscribe_frame(1, &[0x0b, 1, 0x0b, 2], b"a", 0),
        ReasonCode::ProtocolError,
    )
    .await
}
