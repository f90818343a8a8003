//! What a user relies on beyond single statements: settings that the broker announces, `$SYS`, request and response.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Broker, BrokerOptions, Client, ConnectOptions, Message, subscription_options, wait_for};
use mqtt_codec::{QoS, ReasonCode};

use crate::common::*;

#[tokio::test]
async fn a_maximum_qos_is_announced_and_enforced() -> Result<()> {
    let broker = with_config("[mqtt]\nmaximum_qos = 1")?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c")).await?;
    let announced = client.connack().properties.maximum_qos;
    ensure!(announced == Some(QoS::AtLeastOnce), "{announced:?}");
    let granted = client.subscribe("t", 2).await?;
    ensure!(granted == ReasonCode::GrantedQoS1, "{granted:?}");
    ensure!(client.publish(Message::new("t", "x").qos(1)).await? == ReasonCode::Success);
    client.receive().await?;
    client.send_publish(Message::new("t", "x").qos(2)).await?;
    client
        .expect_disconnect(ReasonCode::QoSNotSupported)
        .await
        .map(|_| ())
}

/// A will whose QoS is above what the server can do is refused with the CONNECT.
#[tokio::test]
async fn mqtt_3_2_2_12_a_will_above_the_maximum_qos_is_refused() -> Result<()> {
    let broker = with_config("[mqtt]\nmaximum_qos = 0")?;
    let mut client = Client::open(broker.mqtt_addr()).await?;
    client
        .send_connect(ConnectOptions::v5("c").will(Message::new("t", "x").qos(1)))
        .await?;
    let connack = client.expect_connack().await?;
    ensure!(connack.reason_code == ReasonCode::QoSNotSupported, "{connack:?}");
    client.expect_closed().await
}

/// A server without retained messages refuses a CONNECT with a retained will.
#[tokio::test]
async fn mqtt_3_2_2_13_a_retained_will_is_refused_where_nothing_is_retained() -> Result<()> {
    let broker = with_config("[mqtt]\nretain_available = false")?;
    let mut client = Client::open(broker.mqtt_addr()).await?;
    client
        .send_connect(ConnectOptions::v5("c").will(Message::new("t", "x").retain()))
        .await?;
    let connack = client.expect_connack().await?;
    ensure!(
        connack.reason_code == ReasonCode::RetainNotSupported,
        "{connack:?}"
    );
    client.expect_closed().await
}

/// Where retained messages are not available, a client sends none; one that does is refused.
#[tokio::test]
async fn mqtt_3_2_2_14_retained_messages_are_refused_where_they_are_not_available() -> Result<()> {
    let broker = with_config("[mqtt]\nretain_available = false")?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c")).await?;
    let announced = client.connack().properties.retain_available;
    ensure!(announced == Some(false), "{announced:?}");
    client
        .send_publish(Message::new("t", "x").qos(1).retain())
        .await?;
    client
        .expect_disconnect(ReasonCode::RetainNotSupported)
        .await
        .map(|_| ())
}

/// No PUBLISH exceeds the maximum QoS that the server announced; one that does is refused.
#[tokio::test]
async fn mqtt_3_2_2_11_a_publish_above_the_maximum_qos_is_refused() -> Result<()> {
    let broker = with_config("[mqtt]\nmaximum_qos = 0")?;
    for qos in [1, 2] {
        let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c")).await?;
        client.send_publish(Message::new("t", "x").qos(qos)).await?;
        client.expect_disconnect(ReasonCode::QoSNotSupported).await?;
    }
    Ok(())
}

/// Without topic alias maximum, or with zero, a client uses no aliases; one that does is refused.
#[tokio::test]
async fn mqtt_3_2_2_18_aliases_are_refused_where_the_server_takes_none() -> Result<()> {
    let broker = with_config("[limits]\ntopic_alias_maximum = 0")?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c")).await?;
    ensure!(client.connack().properties.topic_alias_maximum.unwrap_or(0) == 0);
    client.send_publish(Message::new("t", "x").topic_alias(1)).await?;
    client
        .expect_disconnect(ReasonCode::TopicAliasInvalid)
        .await
        .map(|_| ())
}

/// A keep alive that the server sets counts instead of the client's.
#[tokio::test]
async fn mqtt_3_1_2_21_the_servers_keep_alive_replaces_the_clients() -> Result<()> {
    let broker = with_config("[limits]\nkeep_alive_max = \"1s\"")?;
    for asked in [0, 600] {
        let options = ConnectOptions::v5(unique("c")).keep_alive(asked);
        let start = tokio::time::Instant::now();
        let mut client = Client::connect(broker.mqtt_addr(), options).await?;
        let announced = client.connack().properties.server_keep_alive;
        ensure!(announced == Some(1), "{announced:?}");
        client.expect_disconnect(ReasonCode::KeepAliveTimeout).await?;
        ensure!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }
    Ok(())
}

#[tokio::test]
async fn features_that_are_turned_off_are_announced_and_refused() -> Result<()> {
    let broker = with_config(
        "[mqtt]\nwildcard_subscription_available = false\nshared_subscription_available = false\n\
         subscription_identifiers_available = false",
    )?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c")).await?;
    let properties = client.connack().properties.clone();
    ensure!(
        properties.wildcard_subscription_available == Some(false),
        "{properties:?}"
    );
    ensure!(
        properties.shared_subscription_available == Some(false),
        "{properties:?}"
    );
    ensure!(
        properties.subscription_identifiers_available == Some(false),
        "{properties:?}"
    );
    let reason = client.subscribe("a/+", 0).await?;
    ensure!(
        reason == ReasonCode::WildcardSubscriptionsNotSupported,
        "{reason:?}"
    );
    let reason = client.subscribe("$share/g/a", 0).await?;
    ensure!(
        reason == ReasonCode::SharedSubscriptionsNotSupported,
        "{reason:?}"
    );
    let reason = client.subscribe("a", 0).await?;
    ensure!(reason == ReasonCode::Success, "{reason:?}");
    client
        .send_subscribe(&[("a", subscription_options(0))], Some(1))
        .await?;
    match client.receive_packet().await? {
        mqtt_codec::Packet::SubAck(suback) => {
            ensure!(
                suback.reason_codes[..] == [ReasonCode::SubscriptionIdentifiersNotSupported],
                "{suback:?}"
            );
        }
        mqtt_codec::Packet::Disconnect(disconnect) => {
            ensure!(
                disconnect.reason_code == ReasonCode::SubscriptionIdentifiersNotSupported,
                "{disconnect:?}"
            );
        }
        other => anyhow::bail!("{other:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn a_payload_that_is_not_utf8_is_refused_where_the_format_is_checked() -> Result<()> {
    let broker = with_config("[mqtt]\nvalidate_payload_format = true")?;
    let mut watcher = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("watcher")).await?;
    watcher.subscribe("t", 2).await?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c")).await?;
    for qos in [1, 2] {
        let reason = client
            .publish(Message::new("t", b"\xff").payload_format(1).qos(qos))
            .await?;
        ensure!(reason == ReasonCode::PayloadFormatInvalid, "{reason:?}");
    }
    for (payload, format) in [(&b"\xff"[..], 0), ("déjà".as_bytes(), 1)] {
        ensure!(
            client
                .publish(Message::new("t", payload).payload_format(format).qos(1))
                .await?
                == ReasonCode::Success
        );
        ensure!(watcher.receive().await?.publication.payload_slice() == payload);
    }
    // QoS 0 has no acknowledgement to say so: the message is not delivered, whatever becomes of its connection.
    client
        .send_publish(Message::new("t", b"\xff").payload_format(1))
        .await?;
    watcher.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn sys_topics_tell_about_the_broker() -> Result<()> {
    let broker = with_config("[mqtt]\nsys_interval = \"1s\"")?;
    let options = ConnectOptions::v5("watcher").persistent();
    let mut watcher = Client::connect(broker.mqtt_addr(), options).await?;
    watcher.subscribe("$SYS/#", 1).await?;
    let mut clean = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("clean")).await?;
    clean.subscribe("t", 1).await?;
    clean.subscribe("t", 0).await?;
    clean.publish(Message::new("t", "0123456789").qos(1)).await?;
    clean.receive().await?;
    // One is retained, and one waits for somebody who is away.
    let mut away = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("away").persistent()).await?;
    away.subscribe("kept", 1).await?;
    away.disconnect().await?;
    clean.publish(Message::new("kept", "x").qos(1).retain()).await?;
    let mut seen = std::collections::BTreeMap::new();
    let wanted = [
        "$SYS/broker/version",
        "$SYS/broker/uptime",
        "$SYS/broker/clients/connected",
        "$SYS/broker/messages/received",
        "$SYS/broker/messages/sent",
        "$SYS/broker/subscriptions/count",
        "$SYS/broker/retained messages/count",
        "$SYS/broker/clients/maximum",
        "$SYS/broker/clients/expired",
        "$SYS/broker/publish/messages/received",
        "$SYS/broker/publish/messages/sent",
        "$SYS/broker/publish/messages/dropped",
        "$SYS/broker/publish/bytes/sent",
        "$SYS/broker/load/messages/received/1min",
        "$SYS/broker/load/publish/sent/5min",
        "$SYS/broker/load/connections/15min",
        "$SYS/broker/store/messages/count",
        "$SYS/broker/heap/maximum",
    ];
    // Subscriptions count once, whichever session has them; packets are more than the one PUBLISH.
    let settled = [
        ("clients/connected", "2"),
        ("clients/maximum", "3"),
        ("subscriptions/count", "3"),
        ("publish/messages/received", "2"),
        ("publish/bytes/received", "11"),
        ("messages/stored", "2"),
    ];
    let number = |seen: &std::collections::BTreeMap<String, String>, topic: &str| {
        let text = seen.get(&format!("$SYS/broker/{topic}"));
        text.and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let complete = |seen: &std::collections::BTreeMap<String, String>| {
        let is_settled = |(topic, value): &(&str, &str)| {
            seen.get(&format!("$SYS/broker/{topic}"))
                .is_some_and(|seen| seen == value)
        };
        // CONNECT, SUBSCRIBE, SUBSCRIBE, PUBLISH, PUBACK of one client, and two packets of the other.
        wanted.iter().all(|topic| seen.contains_key(*topic))
            && settled.iter().all(is_settled)
            && number(seen, "messages/received") >= 6.0
            && number(seen, "load/messages/received/1min") > 0.0
            && number(seen, "store/messages/bytes") > 1.0
            && number(seen, "heap/current") > 1_000_000.0
    };
    while !complete(&seen) {
        ensure!(
            tokio::time::Instant::now() < deadline,
            "missing some of {wanted:?}, or not {settled:?}; there is {seen:?}"
        );
        let publish = watcher.receive().await?;
        seen.insert(publish.publication.topic().as_str().to_owned(), text(&publish));
    }
    ensure!(
        seen["$SYS/broker/version"].to_lowercase().contains("flotilla"),
        "{seen:?}"
    );
    Ok(())
}

#[tokio::test]
async fn clients_do_not_publish_to_sys_topics() -> Result<()> {
    let mut watcher = subscriber("$SYS/broker/forged", 1).await?;
    let mut client = client("forger").await?;
    let reason = client
        .publish(Message::new("$SYS/broker/forged", "x").qos(1))
        .await?;
    ensure!(
        reason == ReasonCode::NotAuthorized || reason == ReasonCode::TopicNameInvalid,
        "{reason:?}"
    );
    watcher.expect_no_publish(MOMENT).await
}

#[tokio::test]
async fn request_and_response_find_each_other() -> Result<()> {
    let (service, answers) = (unique("service"), unique("answers"));
    let mut server = subscriber(&service, 1).await?;
    let mut caller = subscriber(&answers, 1).await?;
    let request = Message::new(&service, "question")
        .response_topic(&answers)
        .correlation_data(b"42")
        .qos(1);
    caller.publish(request).await?;
    let properties = server.receive().await?.publication.properties();
    let (topic, data) = (
        properties.response_topic.unwrap(),
        properties.correlation_data.unwrap(),
    );
    server
        .publish(Message::new(&topic, "answer").correlation_data(&data).qos(1))
        .await?;
    let answer = expect_text(&mut caller, "answer").await?;
    ensure!(
        answer.publication.properties().correlation_data.as_deref() == Some(b"42"),
        "{answer:?}"
    );
    Ok(())
}

#[tokio::test]
async fn probes_and_metrics_answer_over_http() -> Result<()> {
    publish(Message::new(&unique("counted"), "x").qos(1)).await?;
    for probe in ["/livez", "/readyz"] {
        admin_get(probe)?;
    }
    let counted = async || {
        admin_get("/metrics").is_ok_and(|text| {
            text.lines().any(|line| {
                let value = line
                    .rsplit(' ')
                    .next()
                    .and_then(|value| value.parse::<f64>().ok());
                line.starts_with("flotilla_messages_received_total{")
                    && value.is_some_and(|value| value > 0.0)
            })
        })
    };
    wait_for(counted, Duration::from_secs(5)).await
}

#[tokio::test]
async fn stopping_tells_clients_and_publishes_no_will() -> Result<()> {
    let mut broker = Broker::start(BrokerOptions::default())?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("c")).await?;
    client.subscribe("t", 0).await?;
    let status = tokio::task::spawn_blocking(move || broker.stop()).await??;
    ensure!(status.success(), "{status:?}");
    client
        .expect_disconnect(ReasonCode::ServerShuttingDown)
        .await
        .map(|_| ())
}
