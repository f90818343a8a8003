//! Section 3.3.1: retained messages, retain handling and retain as published.

use anyhow::{Result, ensure};
use harness::{Client, ConnectOptions, Message, subscription_options};
use mqtt_codec::{RetainHandling, SubscriptionOptions};

use crate::common::*;

/// RETAIN on a message to the server replaces the retained message of its topic.
#[tokio::test]
async fn mqtt_3_3_1_5_a_retained_message_replaces_the_one_before() -> Result<()> {
    let topic = unique("retain");
    for (qos, payload) in [(0, "first"), (2, "second"), (1, "third")] {
        publish(Message::new(&topic, payload).qos(qos).retain()).await?;
        let mut client = subscriber(&topic, 2).await?;
        let received = expect_text(&mut client, payload).await?;
        ensure!(received.retain && received.qos as u8 == qos, "{received:?}");
        client.expect_no_publish(MOMENT).await?;
    }
    Ok(())
}

/// An empty retained message is delivered like others and removes the retained message of its topic.
#[tokio::test]
async fn mqtt_3_3_1_6_an_empty_retained_message_removes() -> Result<()> {
    let topic = unique("retain");
    publish(Message::new(&topic, "here").qos(1).retain()).await?;
    let mut present = subscriber(&topic, 1).await?;
    expect_text(&mut present, "here").await?;
    publish(Message::new(&topic, "").qos(1).retain()).await?;
    expect_text(&mut present, "").await?;
    subscriber(&topic, 1).await?.expect_no_publish(MOMENT).await
}

/// An empty retained message is not itself kept.
#[tokio::test]
async fn mqtt_3_3_1_7_an_empty_retained_message_is_not_stored() -> Result<()> {
    let topic = unique("retain");
    publish(Message::new(&topic, "").qos(1).retain().user_property("a", "b")).await?;
    subscriber(&topic, 1).await?.expect_no_publish(MOMENT).await
}

/// Without RETAIN nothing is kept, and what is kept stays as it is.
#[tokio::test]
async fn mqtt_3_3_1_8_messages_without_retain_leave_the_retained_one_alone() -> Result<()> {
    let topic = unique("retain");
    publish(Message::new(&topic, "not kept").qos(1)).await?;
    subscriber(&topic, 1).await?.expect_no_publish(MOMENT).await?;
    publish(Message::new(&topic, "kept").qos(1).retain()).await?;
    publish(Message::new(&topic, "passing").qos(1)).await?;
    publish(Message::new(&topic, "").qos(1)).await?;
    expect_text(&mut subscriber(&topic, 1).await?, "kept")
        .await
        .map(|_| ())
}

/// Retain handling 0: all matching retained messages are sent, at each subscribe.
#[tokio::test]
async fn mqtt_3_3_1_9_retain_handling_0_sends_at_each_subscribe() -> Result<()> {
    let prefix = retained_tree().await?;
    let mut client = client("handling").await?;
    for _ in 0..2 {
        subscribe(
            &mut client,
            &format!("{prefix}/#"),
            RetainHandling::SendAtSubscribe,
        )
        .await?;
        expect_topics(
            &mut client,
            &["", "/a", "/a/b", "/c"].map(|tail| format!("{prefix}{tail}")),
        )
        .await?;
    }
    subscribe(
        &mut client,
        &format!("{prefix}/+"),
        RetainHandling::SendAtSubscribe,
    )
    .await?;
    expect_topics(&mut client, &["/a", "/c"].map(|tail| format!("{prefix}{tail}"))).await
}

/// Retain handling 1: retained messages are sent for a subscription that is new, and not for one that exists.
#[tokio::test]
async fn mqtt_3_3_1_10_retain_handling_1_sends_for_new_subscriptions() -> Result<()> {
    let prefix = retained_tree().await?;
    let filter = format!("{prefix}/+");
    let id = unique("handling");
    let mut client = connected(ConnectOptions::v5(&id).persistent()).await?;
    subscribe(&mut client, &filter, RetainHandling::SendIfNew).await?;
    expect_topics(&mut client, &["/a", "/c"].map(|tail| format!("{prefix}{tail}"))).await?;
    subscribe(&mut client, &filter, RetainHandling::SendIfNew).await?;
    client.expect_no_publish(MOMENT).await?;
    client.disconnect().await?;
    // It exists in the resumed session too, until it is given up.
    let mut client = connected(ConnectOptions::v5(&id).persistent()).await?;
    subscribe(&mut client, &filter, RetainHandling::SendIfNew).await?;
    client.expect_no_publish(MOMENT).await?;
    client.unsubscribe(&[&filter]).await?;
    subscribe(&mut client, &filter, RetainHandling::SendIfNew).await?;
    expect_topics(&mut client, &["/a", "/c"].map(|tail| format!("{prefix}{tail}"))).await
}

/// Retain handling 2: no retained messages are sent at subscribe.
#[tokio::test]
async fn mqtt_3_3_1_11_retain_handling_2_sends_nothing() -> Result<()> {
    let prefix = retained_tree().await?;
    let mut client = client("handling").await?;
    subscribe(&mut client, &format!("{prefix}/#"), RetainHandling::DoNotSend).await?;
    client.expect_no_publish(MOMENT).await?;
    publish(Message::new(&prefix, "live").qos(1)).await?;
    expect_text(&mut client, "live").await.map(|_| ())
}

/// Without retain as published, RETAIN is 0 on what is forwarded to an existing subscription.
#[tokio::test]
async fn mqtt_3_3_1_12_retain_is_cleared_when_forwarding() -> Result<()> {
    for persistent in [false, true] {
        let topic = unique("cleared");
        let options = ConnectOptions::v5(unique("cleared"));
        let mut client = connected(if persistent {
            options.session_expiry(60)
        } else {
            options
        })
        .await?;
        client.subscribe(&topic, 1).await?;
        publish(Message::new(&topic, "x").qos(1).retain()).await?;
        let received = expect_text(&mut client, "x").await?;
        ensure!(!received.retain, "{received:?}");
    }
    Ok(())
}

/// With retain as published, RETAIN is forwarded as it came.
#[tokio::test]
async fn mqtt_3_3_1_13_retain_as_published_keeps_the_flag() -> Result<()> {
    for persistent in [false, true] {
        let topic = unique("asis");
        let options = ConnectOptions::v5(unique("asis"));
        let mut client = connected(if persistent {
            options.session_expiry(60)
        } else {
            options
        })
        .await?;
        let as_published = SubscriptionOptions {
            retain_as_published: true,
            ..subscription_options(1)
        };
        client.subscribe_with(&topic, as_published, None).await?;
        publish(Message::new(&topic, "retained").qos(1).retain()).await?;
        ensure!(
            expect_text(&mut client, "retained").await?.retain,
            "RETAIN was cleared"
        );
        publish(Message::new(&topic, "plain").qos(1)).await?;
        ensure!(!expect_text(&mut client, "plain").await?.retain, "RETAIN was set");
    }
    Ok(())
}

#[tokio::test]
async fn retained_messages_at_subscribe_carry_retain_whatever_the_subscription_says() -> Result<()> {
    let topic = unique("atsub");
    publish(Message::new(&topic, "x").qos(1).retain()).await?;
    for retain_as_published in [false, true] {
        let mut client = client("atsub").await?;
        let options = SubscriptionOptions {
            retain_as_published,
            ..subscription_options(1)
        };
        client.subscribe_with(&topic, options, Some(5)).await?;
        let received = expect_text(&mut client, "x").await?;
        ensure!(
            received.retain && received.subscription_ids[..] == [5],
            "{received:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn retained_messages_keep_their_properties() -> Result<()> {
    let topic = unique("props");
    let message = Message::new(&topic, "x")
        .content_type("text/plain")
        .user_property("a", "1")
        .response_topic("r");
    publish(message.qos(1).retain()).await?;
    let received = subscriber(&topic, 1)
        .await?
        .receive()
        .await?
        .publication
        .properties();
    ensure!(
        received.content_type.as_deref() == Some("text/plain"),
        "{received:?}"
    );
    ensure!(received.response_topic.as_deref() == Some("r"), "{received:?}");
    ensure!(received.user_properties.len() == 1, "{received:?}");
    Ok(())
}

#[tokio::test]
async fn the_qos_of_a_retained_message_is_limited_by_the_subscription() -> Result<()> {
    let topic = unique("limit");
    publish(Message::new(&topic, "x").qos(2).retain()).await?;
    for granted in 0..=2 {
        let received = expect_text(&mut subscriber(&topic, granted).await?, "x").await?;
        ensure!(received.qos as u8 == granted, "{received:?}");
    }
    Ok(())
}

/// A few retained messages under a topic of their own.
async fn retained_tree() -> Result<String> {
    let prefix = unique("tree");
    for tail in ["", "/a", "/a/b", "/c"] {
        publish(Message::new(&format!("{prefix}{tail}"), "x").qos(1).retain()).await?;
    }
    Ok(prefix)
}

async fn subscribe(client: &mut Client, filter: &str, retain_handling: RetainHandling) -> Result<()> {
    let options = SubscriptionOptions {
        retain_handling,
        ..subscription_options(1)
    };
    let granted = client.subscribe_with(filter, options, None).await?;
    ensure!(granted as u8 == 1, "{granted:?}");
    Ok(())
}

/// Exactly these topics come, in any order, all retained.
async fn expect_topics(client: &mut Client, expected: &[String]) -> Result<()> {
    let mut received = Vec::new();
    for _ in expected {
        let publish = client.receive().await?;
        ensure!(publish.retain, "{publish:?}");
        received.push(publish.publication.topic().as_str().to_owned());
    }
    received.sort();
    let mut expected = expected.to_vec();
    expected.sort();
    ensure!(received == expected, "expected {expected:?}, got {received:?}");
    client.expect_no_publish(MOMENT).await
}
