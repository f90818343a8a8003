//! Section 3.2, CONNACK: what it says, and to whom.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Client, ConnectOptions, Message};
use mqtt_codec::{Packet, QoS, ReasonCode};

use crate::common::*;

/// CONNACK is the first packet a server sends, AUTH aside.
#[tokio::test]
async fn mqtt_3_2_0_1_connack_comes_before_everything_else() -> Result<()> {
    let (id, topic) = (unique("first"), unique("first"));
    let mut before = connected(ConnectOptions::v5(&id).persistent()).await?;
    before.subscribe(&topic, 1).await?;
    before.disconnect().await?;
    publish(Message::new(&topic, "waiting").qos(1)).await?;
    let mut client = opened().await?;
    client.send_connect(ConnectOptions::v5(&id).persistent()).await?;
    client.send_raw(&[0xc0, 0]).await?;
    let first = client.receive_packet().await?;
    ensure!(matches!(first, Packet::ConnAck(_)), "{first:?}");
    expect_text(&mut client, "waiting").await.map(|_| ())
}

/// There is one CONNACK in a connection.
#[tokio::test]
async fn mqtt_3_2_0_2_there_is_one_connack_only() -> Result<()> {
    let mut client = client("one").await?;
    client.send_raw(&connect_frame(b"again", 2, &[], &[])).await?;
    // `expect_disconnect` fails on a CONNACK.
    client
        .expect_disconnect(ReasonCode::ProtocolError)
        .await
        .map(|_| ())
}

/// The reserved bits of the connect acknowledge flags are zero.
#[tokio::test]
async fn mqtt_3_2_2_1_reserved_acknowledge_flags_are_zero() -> Result<()> {
    let id = unique("flags");
    for expected in [0, 1] {
        let mut client = opened().await?;
        client.send_connect(ConnectOptions::v5(&id).persistent()).await?;
        let connack = client.receive_frame().await?.expect("a CONNACK");
        ensure!(connack[0] == 0x20 && connack[2] == expected, "{connack:?}");
    }
    Ok(())
}

/// An accepted clean start is answered with session present 0 and reason 0x00.
#[tokio::test]
async fn mqtt_3_2_2_2_no_session_is_present_after_a_clean_start() -> Result<()> {
    let id = unique("clean");
    connected(ConnectOptions::v5(&id).persistent())
        .await?
        .disconnect()
        .await?;
    let client = connected(ConnectOptions::v5(&id)).await?;
    ensure!(!client.connack().session_present, "{:?}", client.connack());
    ensure!(client.connack().reason_code == ReasonCode::Success);
    Ok(())
}

/// Without clean start, session present says whether the server has a session.
#[tokio::test]
async fn mqtt_3_2_2_3_session_present_tells_whether_there_is_a_session() -> Result<()> {
    let id = unique("present");
    for expected in [false, true, true] {
        let client = connected(ConnectOptions::v5(&id).persistent()).await?;
        ensure!(
            client.connack().session_present == expected,
            "expected {expected}: {:?}",
            client.connack()
        );
        client.disconnect().await?;
    }
    Ok(())
}

/// A CONNACK that refuses has session present 0.
#[tokio::test]
async fn mqtt_3_2_2_6_session_present_is_zero_in_a_refusal() -> Result<()> {
    let id = unique("refused");
    connected(ConnectOptions::v5(&id).persistent())
        .await?
        .disconnect()
        .await?;
    // `expect_refused` looks at the flag; the session exists and clean start is 0.
    let method = [&[0x15][..], &string("no such method")].concat();
    expect_refused(
        &connect_frame(id.as_bytes(), 0, &method, &[]),
        ReasonCode::BadAuthenticationMethod,
    )
    .await?;
    let client = connected(ConnectOptions::v5(&id).persistent()).await?;
    ensure!(
        client.connack().session_present,
        "a refused CONNECT took the session away"
    );
    Ok(())
}

/// After a CONNACK with a reason of 0x80 or more the server closes.
#[tokio::test]
async fn mqtt_3_2_2_7_a_refusal_closes_the_connection() -> Result<()> {
    // `expect_refused` waits for the end of the connection.
    expect_refused(&connect_frame(b"x", 3, &[], &[]), ReasonCode::MalformedPacket)
        .await
        .map(|_| ())
}

/// The reason is one of those that CONNACK may have.
#[tokio::test]
async fn mqtt_3_2_2_8_the_reason_is_one_of_connack() -> Result<()> {
    let allowed = [
        0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99,
        0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
    ];
    let auth_data_without_method = [&[0x16][..], &string("data")].concat();
    let receive_maximum_zero = [0x21, 0, 0];
    for connect in [
        connect_frame(b"", 2, &[], &[]),
        connect_frame(b"x", 3, &[], &[]),
        connect_frame(b"x", 2, &auth_data_without_method, &[]),
        connect_frame(b"x", 2, &receive_maximum_zero, &[]),
        connect_frame(
            b"x",
            0x06,
            &[],
            &[&[0][..], &string("a/+"), &string("x")].concat(),
        ),
    ] {
        let mut client = opened().await?;
        client.send_raw(&connect).await?;
        let connack = client.receive_frame().await?.expect("a CONNACK");
        ensure!(allowed.contains(&connack[3]), "{connack:?} after {connect:?}");
    }
    Ok(())
}

/// A server that cannot do QoS 1 or 2 says what it can do; one that is silent can do both.
#[tokio::test]
async fn mqtt_3_2_2_9_all_qos_are_served_or_the_maximum_is_announced() -> Result<()> {
    let topic = unique("qos");
    let mut client = subscriber(&topic, 2).await?;
    let announced = client.connack().properties.maximum_qos;
    ensure!(announced.is_none(), "{announced:?}");
    for qos in 0..=2 {
        client
            .publish(Message::new(&topic, qos.to_string()).qos(qos))
            .await?;
        let received = client.receive().await?;
        ensure!(received.qos as u8 == qos, "{received:?}");
    }
    Ok(())
}

/// Whatever QoS a server can do, it accepts subscriptions that ask for 0, 1 or 2.
#[tokio::test]
async fn mqtt_3_2_2_10_subscriptions_may_ask_for_any_qos() -> Result<()> {
    let mut client = client("any").await?;
    for qos in 0..=2 {
        let granted = client.subscribe(&unique("any"), qos).await?;
        ensure!((granted as u8) <= qos, "asked for {qos}, got {granted:?}");
    }
    Ok(())
}

/// A server takes no packet larger than the maximum packet size that it announced.
#[tokio::test]
async fn mqtt_3_2_2_15_what_exceeds_the_servers_maximum_packet_size_is_refused() -> Result<()> {
    let mut client = client("large").await?;
    let maximum = client
        .connack()
        .properties
        .maximum_packet_size
        .expect("the broker has a limit and says so");
    // Only the header of a packet that would be too long: the broker need not wait for the rest.
    let mut remaining = maximum;
    let mut header = vec![0x30];
    while remaining > 0 {
        header.push((remaining & 0x7f) as u8 | if remaining > 0x7f { 0x80 } else { 0 });
        remaining >>= 7;
    }
    client.send_raw(&header).await?;
    client.expect_disconnect(ReasonCode::PacketTooLarge).await?;
    ensure_serving().await
}

/// A client without id is told the one it was given, which no session had.
#[tokio::test]
async fn mqtt_3_2_2_16_an_assigned_client_id_is_new() -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let client = connected(ConnectOptions::v5("").persistent()).await?;
        ensure!(!client.connack().session_present, "an assigned id had a session");
        let id = client.connack().properties.assigned_client_identifier.clone();
        ensure!(seen.insert(id.clone().expect("an id")), "assigned twice: {id:?}");
    }
    Ok(())
}

/// An alias above the server's topic alias maximum is refused.
#[tokio::test]
async fn mqtt_3_2_2_17_aliases_above_the_servers_maximum_are_refused() -> Result<()> {
    let mut client = client("alias").await?;
    let maximum = client.connack().properties.topic_alias_maximum.unwrap_or(0);
    ensure!(maximum < u16::MAX, "no alias is above {maximum}");
    client
        .send_publish(Message::new("a", "x").topic_alias(maximum + 1))
        .await?;
    client
        .expect_disconnect(ReasonCode::TopicAliasInvalid)
        .await
        .map(|_| ())
}

/// No reason string makes a CONNACK larger than the client's maximum packet size.
#[tokio::test]
async fn mqtt_3_2_2_19_reason_strings_do_not_make_connack_too_large() -> Result<()> {
    let frame = refusal_with_maximum(12).await?;
    ensure!(frame.len() <= 12, "{} bytes: {frame:?}", frame.len());
    Ok(())
}

/// No user property makes a CONNACK larger than the client's maximum packet size.
#[tokio::test]
async fn mqtt_3_2_2_20_user_properties_do_not_make_connack_too_large() -> Result<()> {
    let frame = refusal_with_maximum(20).await?;
    ensure!(frame.len() <= 20, "{} bytes: {frame:?}", frame.len());
    Ok(())
}

/// The CONNACK that refuses an unknown authentication method, to a client that takes only small packets.
async fn refusal_with_maximum(bytes: u8) -> Result<bytes::Bytes> {
    let properties = [&[0x27, 0, 0, 0, bytes, 0x15][..], &string("no such method")].concat();
    let mut client = opened().await?;
    client
        .send_raw(&connect_frame(b"small", 2, &properties, &[]))
        .await?;
    let frame = client.receive_frame().await?.expect("a CONNACK");
    ensure!(frame[0] == 0x20 && frame[3] == 0x8c, "{frame:?}");
    client.expect_closed().await?;
    Ok(frame)
}

/// A server that announces no keep alive of its own uses the client's.
#[tokio::test]
async fn mqtt_3_2_2_22_the_clients_keep_alive_counts_unless_the_server_sets_one() -> Result<()> {
    let mut client = connected(ConnectOptions::v5(unique("alive")).keep_alive(1)).await?;
    ensure!(
        client.connack().properties.server_keep_alive.is_none(),
        "{:?}",
        client.connack()
    );
    let start = tokio::time::Instant::now();
    client.expect_disconnect(ReasonCode::KeepAliveTimeout).await?;
    let after = start.elapsed();
    ensure!(
        after > Duration::from_millis(1300) && after < Duration::from_secs(4),
        "{after:?}"
    );
    Ok(())
}

#[tokio::test]
async fn connack_announces_what_the_broker_can_do() -> Result<()> {
    let client: Client = client("announce").await?;
    let properties = &client.connack().properties;
    ensure!(properties.retain_available.unwrap_or(true), "{properties:?}");
    ensure!(
        properties.wildcard_subscription_available.unwrap_or(true),
        "{properties:?}"
    );
    ensure!(
        properties.subscription_identifiers_available.unwrap_or(true),
        "{properties:?}"
    );
    ensure!(
        properties.shared_subscription_available.unwrap_or(true),
        "{properties:?}"
    );
    ensure!(
        properties.maximum_qos.is_none_or(|qos| qos == QoS::ExactlyOnce),
        "{properties:?}"
    );
    ensure!(properties.topic_alias_maximum.unwrap_or(0) > 0, "{properties:?}");
    ensure!(properties.authentication_method.is_none(), "{properties:?}");
    Ok(())
}
