//! Section 3.3.2: topic name and properties of PUBLISH.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{ConnectOptions, Message};
use mqtt_codec::{Packet, Publish, ReasonCode};

use crate::common::*;

/// A PUBLISH begins with its topic name, a UTF-8 string.
#[tokio::test]
async fn mqtt_3_3_2_1_the_topic_name_is_there_and_utf8() -> Result<()> {
    expect_fatal(&frame(0x30, []), ReasonCode::MalformedPacket).await?;
    expect_fatal(&frame(0x30, [0, 9, b'a']), ReasonCode::MalformedPacket).await?;
    expect_fatal(
        &publish_frame(0, b"a\xf0\x28", None, &[], b"x"),
        ReasonCode::MalformedPacket,
    )
    .await
}

/// A topic name has no wildcards.
#[tokio::test]
async fn mqtt_3_3_2_2_wildcards_in_a_topic_name_are_refused() -> Result<()> {
    for topic in [&b"#"[..], b"a/+/b", b"a/b#", b"+"] {
        for (flags, id) in [(0, None), (2, Some(1)), (4, Some(1))] {
            expect_fatal(
                &publish_frame(flags, topic, id, &[], b"x"),
                ReasonCode::TopicNameInvalid,
            )
            .await?;
        }
    }
    Ok(())
}

/// What a subscriber is sent has a topic that its filter matches.
#[tokio::test]
async fn mqtt_3_3_2_3_the_topic_matches_the_subscription() -> Result<()> {
    let prefix = unique("match");
    let mut client = subscriber(&format!("{prefix}/+/x"), 1).await?;
    for tail in ["a", "a/x/x", "x", "a/y", "b/x", "/x"] {
        publish(Message::new(&format!("{prefix}/{tail}"), tail).qos(1)).await?;
    }
    for tail in ["b/x", "/x"] {
        let received = expect_text(&mut client, tail).await?;
        ensure!(
            received.publication.topic().as_str() == format!("{prefix}/{tail}"),
            "{received:?}"
        );
    }
    client.expect_no_publish(MOMENT).await
}

/// The payload format indicator is passed on as it came.
#[tokio::test]
async fn mqtt_3_3_2_4_the_payload_format_indicator_is_passed_on() -> Result<()> {
    for indicator in [0, 1] {
        let frame = forwarded(|topic| Message::new(topic, "x").payload_format(indicator)).await?;
        ensure!(contains(&frame, &[2, 0x01, indicator]), "{frame:?}");
    }
    Ok(())
}

/// A message whose expiry interval has passed before its delivery began is not delivered.
#[tokio::test]
async fn mqtt_3_3_2_5_an_expired_message_is_not_delivered() -> Result<()> {
    let (id, topic) = (unique("expiry"), unique("expiry"));
    let mut away = connected(ConnectOptions::v5(&id).persistent()).await?;
    away.subscribe(&topic, 1).await?;
    away.disconnect().await?;
    publish(Message::new(&topic, "short-lived").qos(1).expiry(1)).await?;
    publish(Message::new(&topic, "long-lived").qos(1).expiry(600)).await?;
    publish(
        Message::new(&format!("{topic}/retained"), "short-lived")
            .qos(1)
            .retain()
            .expiry(1),
    )
    .await?;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    let mut back = connected(ConnectOptions::v5(&id).persistent()).await?;
    expect_text(&mut back, "long-lived").await?;
    subscriber(&format!("{topic}/retained"), 1)
        .await?
        .expect_no_publish(MOMENT)
        .await
}

/// The expiry interval that is passed on is what is left after the time spent in the server.
#[tokio::test]
async fn mqtt_3_3_2_6_the_remaining_expiry_interval_is_passed_on() -> Result<()> {
    let (id, topic) = (unique("expiry"), unique("expiry"));
    let mut away = connected(ConnectOptions::v5(&id).persistent()).await?;
    away.subscribe(&topic, 1).await?;
    let mut present = subscriber(&topic, 1).await?;
    away.disconnect().await?;
    publish(Message::new(&topic, "queued").qos(1).expiry(100)).await?;
    publish(
        Message::new(&format!("{topic}/retained"), "retained")
            .qos(1)
            .retain()
            .expiry(100),
    )
    .await?;
    let at_once = present.receive().await?.publication.message_expiry_interval();
    ensure!(
        at_once.is_some_and(|left| (99..=100).contains(&left)),
        "{at_once:?}"
    );
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let mut back = connected(ConnectOptions::v5(&id).persistent()).await?;
    let queued = expect_text(&mut back, "queued")
        .await?
        .publication
        .message_expiry_interval();
    ensure!(queued.is_some_and(|left| (90..=98).contains(&left)), "{queued:?}");
    let retained = subscriber(&format!("{topic}/retained"), 1)
        .await?
        .receive()
        .await?;
    let retained = retained.publication.message_expiry_interval();
    ensure!(
        retained.is_some_and(|left| (90..=98).contains(&left)),
        "{retained:?}"
    );
    Ok(())
}

/// Topic aliases end with the connection on which they were set.
#[tokio::test]
async fn mqtt_3_3_2_7_aliases_do_not_outlive_the_connection() -> Result<()> {
    let (id, topic) = (unique("alias"), unique("alias"));
    let mut first = connected(ConnectOptions::v5(&id).persistent()).await?;
    first
        .publish(Message::new(&topic, "sets it").qos(1).topic_alias(1))
        .await?;
    drop(first);
    let mut second = connected(ConnectOptions::v5(&id).persistent()).await?;
    second
        .send_raw(&publish_frame(0, b"", None, &[0x23, 0, 1], b"x"))
        .await?;
    second
        .expect_disconnect(ReasonCode::ProtocolError)
        .await
        .map(|_| ())
}

/// Alias 0 does not exist.
#[tokio::test]
async fn mqtt_3_3_2_8_alias_zero_is_refused() -> Result<()> {
    expect_fatal(
        &publish_frame(0, b"a", None, &[0x23, 0, 0], b"x"),
        ReasonCode::TopicAliasInvalid,
    )
    .await
}

/// A client uses no alias above the server's topic alias maximum.
#[tokio::test]
async fn mqtt_3_3_2_9_an_alias_above_the_maximum_is_refused() -> Result<()> {
    let mut client = client("alias").await?;
    let maximum = client.connack().properties.topic_alias_maximum.unwrap_or(0);
    client
        .publish(Message::new("a", "x").qos(1).topic_alias(maximum))
        .await?;
    client
        .send_publish(Message::new("a", "x").qos(1).topic_alias(maximum + 1))
        .await?;
    client.expect_disconnect(ReasonCode::TopicAliasInvalid).await?;
    ensure_serving().await
}

/// A server uses no alias above the client's topic alias maximum, and tells the topic along with each new one.
#[tokio::test]
async fn mqtt_3_3_2_11_aliases_to_a_client_stay_within_its_maximum_and_make_sense() -> Result<()> {
    let prefix = unique("alias");
    let mut client = connected(ConnectOptions::v5(unique("alias")).topic_alias_maximum(3)).await?;
    client.subscribe(&format!("{prefix}/#"), 1).await?;
    let mut aliases = std::collections::BTreeMap::new();
    for number in 0..24 {
        // Some topics come often, so that a broker with aliases has reason to use them.
        let topic = format!("{prefix}/{}", number % if number < 12 { 2 } else { 6 });
        publish(Message::new(&topic, number.to_string()).qos(1)).await?;
        let received = client.receive().await?;
        ensure!(
            resolve(&received, &mut aliases, 3)? == topic,
            "{number}: {received:?}"
        );
    }
    Ok(())
}

fn resolve(
    publish: &Publish,
    aliases: &mut std::collections::BTreeMap<u16, String>,
    max: u16,
) -> Result<String> {
    let name = publish.publication.topic().as_str().to_owned();
    let Some(alias) = publish.topic_alias.map(|alias| alias.get()) else {
        return Ok(name);
    };
    ensure!(alias <= max, "alias {alias} is above {max}");
    if !name.is_empty() {
        aliases.insert(alias, name);
    }
    aliases
        .get(&alias)
        .cloned()
        .ok_or_else(|| anyhow::anyhow!("alias {alias} was not set"))
}

/// A server accepts every alias from 1 to the maximum that it announced.
#[tokio::test]
async fn mqtt_3_3_2_12_every_alias_up_to_the_maximum_is_accepted() -> Result<()> {
    let topic = unique("alias");
    let mut watcher = subscriber(&format!("{topic}/#"), 1).await?;
    let mut client = client("alias").await?;
    let maximum = client
        .connack()
        .properties
        .topic_alias_maximum
        .expect("the broker takes aliases");
    for alias in [1, maximum.div_ceil(2), maximum] {
        let name = format!("{topic}/{alias}");
        client
            .publish(Message::new(&name, "sets").qos(1).topic_alias(alias))
            .await?;
        client
            .send_raw(&publish_frame(
                2,
                b"",
                Some(500),
                &[0x23, (alias >> 8) as u8, alias as u8],
                b"uses",
            ))
            .await?;
        client
            .expect_puback(mqtt_codec::PacketId::new(500).unwrap())
            .await?;
        for payload in ["sets", "uses"] {
            let received = expect_text(&mut watcher, payload).await?;
            ensure!(received.publication.topic().as_str() == name, "{received:?}");
        }
    }
    // An alias may be given another topic.
    client
        .publish(
            Message::new(&format!("{topic}/other"), "moves")
                .qos(1)
                .topic_alias(1),
        )
        .await?;
    expect_text(&mut watcher, "moves").await?;
    client
        .send_raw(&publish_frame(0, b"", None, &[0x23, 0, 1], b"moved"))
        .await?;
    let received = expect_text(&mut watcher, "moved").await?;
    ensure!(
        received.publication.topic().as_str() == format!("{topic}/other"),
        "{received:?}"
    );
    Ok(())
}

/// The response topic is a UTF-8 string.
#[tokio::test]
async fn mqtt_3_3_2_13_the_response_topic_is_utf8() -> Result<()> {
    let property = [&[0x08][..], &string(b"\xff")].concat();
    expect_fatal(
        &publish_frame(0, b"a", None, &property, b"x"),
        ReasonCode::MalformedPacket,
    )
    .await
}

/// The response topic has no wildcards.
#[tokio::test]
async fn mqtt_3_3_2_14_the_response_topic_has_no_wildcards() -> Result<()> {
    for topic in ["a/+", "#"] {
        let property = [&[0x08][..], &string(topic)].concat();
        expect_fatal(
            &publish_frame(0, b"a", None, &property, b"x"),
            ReasonCode::ProtocolError,
        )
        .await?;
    }
    Ok(())
}

/// The response topic is passed on as it came.
#[tokio::test]
async fn mqtt_3_3_2_15_the_response_topic_is_passed_on() -> Result<()> {
    let frame = forwarded(|topic| Message::new(topic, "x").response_topic("answers/here")).await?;
    ensure!(
        contains(&frame, &[&[0x08][..], &string("answers/here")].concat()),
        "{frame:?}"
    );
    Ok(())
}

/// Correlation data is passed on as it came, whatever its bytes.
#[tokio::test]
async fn mqtt_3_3_2_16_correlation_data_is_passed_on() -> Result<()> {
    for data in [&b"\x00\xff\xfe\x00"[..], b""] {
        let frame = forwarded(|topic| Message::new(topic, "x").correlation_data(data)).await?;
        ensure!(
            contains(&frame, &[&[0x09][..], &string(data)].concat()),
            "{frame:?}"
        );
    }
    Ok(())
}

/// All user properties are passed on as they came.
#[tokio::test]
async fn mqtt_3_3_2_17_user_properties_are_passed_on() -> Result<()> {
    let pairs = [
        ("name", "value"),
        ("", ""),
        ("ключ", "значение"),
        ("name", "value"),
    ];
    let frame = forwarded(|topic| {
        pairs
            .iter()
            .fold(Message::new(topic, "x"), |message, (name, value)| {
                message.user_property(name, value)
            })
    })
    .await?;
    let expected: Vec<u8> = pairs
        .iter()
        .flat_map(|(name, value)| [vec![0x26], string(name), string(value)].concat())
        .collect();
    ensure!(contains(&frame, &expected), "{frame:?}");
    Ok(())
}

/// User properties keep their order.
#[tokio::test]
async fn mqtt_3_3_2_18_user_properties_keep_their_order() -> Result<()> {
    let topic = unique("order");
    let names: Vec<String> = (0..40).map(|number| format!("p{}", number * 7 % 40)).collect();
    let message = || {
        names
            .iter()
            .fold(Message::new(&topic, "x").qos(1), |message, name| {
                message.user_property(name, "v")
            })
    };
    for persistent in [false, true] {
        let options = ConnectOptions::v5(unique("order"));
        let mut client = connected(if persistent {
            options.session_expiry(60)
        } else {
            options
        })
        .await?;
        client.subscribe(&topic, 1).await?;
        publish(message()).await?;
        let received = client.receive().await?.publication.properties().user_properties;
        let received: Vec<&str> = received.iter().map(|(name, _)| &**name).collect();
        ensure!(received == names, "{received:?}");
    }
    Ok(())
}

/// The content type is a UTF-8 string.
#[tokio::test]
async fn mqtt_3_3_2_19_the_content_type_is_utf8() -> Result<()> {
    let property = [&[0x03][..], &string(b"text/\xfe")].concat();
    expect_fatal(
        &publish_frame(0, b"a", None, &property, b"x"),
        ReasonCode::MalformedPacket,
    )
    .await
}

/// The content type is passed on as it came.
#[tokio::test]
async fn mqtt_3_3_2_20_the_content_type_is_passed_on() -> Result<()> {
    let frame = forwarded(|topic| Message::new(topic, "x").content_type("Text/Plain; x=\"y\"")).await?;
    ensure!(
        contains(&frame, &[&[0x03][..], &string("Text/Plain; x=\"y\"")].concat()),
        "{frame:?}"
    );
    Ok(())
}

#[tokio::test]
async fn properties_of_publish_are_checked() -> Result<()> {
    let twice = [0x01, 0, 0x01, 1];
    expect_fatal(
        &publish_frame(0, b"a", None, &twice, b"x"),
        ReasonCode::ProtocolError,
    )
    .await?;
    let format_2 = [0x01, 2];
    expect_fatal(
        &publish_frame(0, b"a", None, &format_2, b"x"),
        ReasonCode::ProtocolError,
    )
    .await?;
    let not_of_publish = [0x24, 1];
    expect_fatal(
        &publish_frame(0, b"a", None, &not_of_publish, b"x"),
        ReasonCode::MalformedPacket,
    )
    .await?;
    let cut_short = [0x02, 0, 0];
    expect_fatal(
        &publish_frame(0, b"a", None, &cut_short, b"x"),
        ReasonCode::MalformedPacket,
    )
    .await
}

#[tokio::test]
async fn an_empty_topic_without_alias_is_a_protocol_error() -> Result<()> {
    expect_fatal(&publish_frame(0, b"", None, &[], b"x"), ReasonCode::ProtocolError).await
}

#[tokio::test]
async fn an_alias_never_set_is_a_protocol_error() -> Result<()> {
    expect_fatal(
        &publish_frame(0, b"", None, &[0x23, 0, 1], b"x"),
        ReasonCode::ProtocolError,
    )
    .await
}

/// The PUBLISH packet that a subscriber gets, as it came.
async fn forwarded(message: impl Fn(&str) -> Message) -> Result<bytes::Bytes> {
    let topic = unique("forwarded");
    let mut client = subscriber(&topic, 0).await?;
    let mut publisher = crate::common::client("publisher").await?;
    publisher.send(&Packet::Publish(message(&topic).build())).await?;
    Ok(client.receive_frame().await?.expect("a PUBLISH"))
}

fn contains(frame: &[u8], part: &[u8]) -> bool {
    frame.windows(part.len()).any(|window| window == part)
}
