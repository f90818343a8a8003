//! Sections 3.1.0 to 3.1.2: CONNECT comes first and once; its fixed and variable header.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Client, ConnectOptions, Message};
use mqtt_codec::{Packet, ReasonCode};
use tokio::time::Instant;

use crate::common::*;

/// The first packet of a connection is a CONNECT; anything else ends it.
#[tokio::test]
async fn mqtt_3_1_0_1_the_first_packet_is_connect() -> Result<()> {
    for packet in [
        vec![0xc0, 0],
        publish_frame(0, b"a", None, &[], b"x"),
        subscribe_frame(1, &[], b"a", 0),
        vec![0xe0, 0],
        frame(0xf0, [0x18, 0]),
    ] {
        expect_hung_up(&packet).await?;
    }
    Ok(())
}

/// A second CONNECT on a connection is a protocol error and ends it.
#[tokio::test]
async fn mqtt_3_1_0_2_a_second_connect_is_a_protocol_error() -> Result<()> {
    expect_fatal(&connect_frame(b"second", 2, &[], &[]), ReasonCode::ProtocolError).await
}

/// The protocol name is `MQTT`; a server that refuses another name closes the connection.
#[tokio::test]
async fn mqtt_3_1_2_1_another_protocol_name_is_refused() -> Result<()> {
    for name in [&b"MQTt"[..], b"mqtt", b"MQTTX", b"HTTP", b""] {
        let mut client = opened().await?;
        client
            .send_raw(&connect_frame_of(name, 5, b"name", 2, &[], &[]))
            .await?;
        // Whether it says so with a CONNACK is the server's choice.
        let mut said = Vec::new();
        while let Some(frame) = client.receive_frame().await? {
            said.push(frame);
        }
        ensure!(
            said.iter().all(|frame| frame[0] == 0x20 && frame[3] != 0),
            "{name:?}: {said:?}"
        );
    }
    ensure_serving().await
}

/// A version that the server does not speak is refused, and the connection closed.
#[tokio::test]
async fn mqtt_3_1_2_2_another_protocol_version_is_refused() -> Result<()> {
    for version in [0, 2, 6, 255] {
        let mut client = opened().await?;
        client
            .send_raw(&connect_frame_of(b"MQTT", version, b"version", 2, &[], &[]))
            .await?;
        let connack = client.receive_frame().await?.expect("a CONNACK");
        // 0x84 as version 5 has it, or return code 1 in the form of 3.1.1 for versions below 5.
        let refused = connack[0] == 0x20 && (connack[3] == 0x84 || (version < 5 && connack[3] == 1));
        ensure!(refused, "version {version}: {connack:?}");
        client.expect_closed().await?;
    }
    Ok(())
}

/// The reserved bit of the connect flags is zero; the server checks.
#[tokio::test]
async fn mqtt_3_1_2_3_the_reserved_connect_flag_is_checked() -> Result<()> {
    expect_refused(
        &connect_frame(b"reserved", 3, &[], &[]),
        ReasonCode::MalformedPacket,
    )
    .await
    .map(|_| ())
}

/// Clean start discards whatever session there was.
#[tokio::test]
async fn mqtt_3_1_2_4_clean_start_discards_the_session() -> Result<()> {
    let (id, topic) = (unique("clean"), unique("clean"));
    let mut before = connected(ConnectOptions::v5(&id).persistent()).await?;
    before.subscribe(&topic, 1).await?;
    before.disconnect().await?;
    publish(Message::new(&topic, "kept for the old session").qos(1)).await?;

    let mut after = connected(ConnectOptions::v5(&id).session_expiry(60)).await?;
    ensure!(!after.connack().session_present, "a clean start found a session");
    publish(Message::new(&topic, "to nobody").qos(1)).await?;
    after.expect_no_publish(MOMENT).await
}

/// Without clean start a session that exists is taken up again.
#[tokio::test]
async fn mqtt_3_1_2_5_the_existing_session_is_resumed() -> Result<()> {
    let (id, topic) = (unique("resume"), unique("resume"));
    let mut before = connected(ConnectOptions::v5(&id).persistent()).await?;
    before.subscribe(&topic, 1).await?;
    before.disconnect().await?;
    publish(Message::new(&topic, "while away").qos(1)).await?;

    let mut after = connected(ConnectOptions::v5(&id).persistent()).await?;
    ensure!(after.connack().session_present, "the session is gone");
    expect_text(&mut after, "while away").await?;
    publish(Message::new(&topic, "afterwards").qos(1)).await?;
    expect_text(&mut after, "afterwards").await.map(|_| ())
}

/// Without clean start and without a session, a new one begins.
#[tokio::test]
async fn mqtt_3_1_2_6_a_new_session_begins_where_there_was_none() -> Result<()> {
    let id = unique("fresh");
    let mut first = connected(ConnectOptions::v5(&id).persistent()).await?;
    ensure!(
        !first.connack().session_present,
        "session present for a name never seen"
    );
    first.ping().await?;
    first.disconnect().await?;
    let second = connected(ConnectOptions::v5(&id).persistent()).await?;
    ensure!(
        second.connack().session_present,
        "the first connection left no session"
    );
    Ok(())
}

/// A will is stored with the session when the CONNECT has one.
#[tokio::test]
async fn mqtt_3_1_2_7_the_will_is_stored() -> Result<()> {
    let topic = unique("will");
    let mut watcher = subscriber(&topic, 1).await?;
    let client = connected(ConnectOptions::v5(unique("w")).will(Message::new(&topic, "gone").qos(1))).await?;
    watcher.expect_silence(MOMENT).await?;
    drop(client);
    expect_text(&mut watcher, "gone").await.map(|_| ())
}

/// The will is published once the connection has ended and its delay, or the session, is over.
#[tokio::test]
async fn mqtt_3_1_2_8_the_will_is_published_after_its_delay_or_the_end_of_the_session() -> Result<()> {
    let topic = unique("will");
    let mut watcher = subscriber(&topic, 1).await?;
    let delayed = ConnectOptions::v5(unique("w")).session_expiry(60);
    let client = connected(delayed.delayed_will(Message::new(&topic, "delayed"), 1)).await?;
    let closed = Instant::now();
    drop(client);
    expect_text(&mut watcher, "delayed").await?;
    ensure!(
        closed.elapsed() >= Duration::from_millis(900),
        "early: {:?}",
        closed.elapsed()
    );

    let ends_first = ConnectOptions::v5(unique("w")).session_expiry(0);
    let client = connected(ends_first.delayed_will(Message::new(&topic, "session over"), 600)).await?;
    drop(client);
    expect_text(&mut watcher, "session over").await.map(|_| ())
}

/// With the will flag set, will properties, topic and payload have to be there.
#[tokio::test]
async fn mqtt_3_1_2_9_a_will_flag_demands_the_will_fields() -> Result<()> {
    expect_refused(&connect_frame(b"w", 0x06, &[], &[]), ReasonCode::MalformedPacket).await?;
    expect_refused(&connect_frame(b"w", 0x06, &[], &[0]), ReasonCode::MalformedPacket).await?;
    let no_payload = [&[0][..], &string("topic")].concat();
    expect_refused(
        &connect_frame(b"w", 0x06, &[], &no_payload),
        ReasonCode::MalformedPacket,
    )
    .await
    .map(|_| ())
}

/// A will that was published, or that a normal DISCONNECT took back, is gone from the session.
#[tokio::test]
async fn mqtt_3_1_2_10_a_will_is_published_once_and_not_after_a_normal_disconnect() -> Result<()> {
    let (id, topic) = (unique("once"), unique("once"));
    let mut watcher = subscriber(&topic, 1).await?;
    let options = ConnectOptions::v5(&id).persistent();
    drop(connected(options.clone().will(Message::new(&topic, "once").qos(1))).await?);
    expect_text(&mut watcher, "once").await?;
    // The session comes back without a will and ends abruptly: nothing is left to publish.
    drop(connected(options.clone()).await?);
    connected(options.will(Message::new(&topic, "taken back").qos(1)))
        .await?
        .disconnect()
        .await?;
    drop(connected(ConnectOptions::v5(&id).persistent()).await?);
    watcher.expect_no_publish(MOMENT).await
}

/// Without a will flag the will QoS is zero.
#[tokio::test]
async fn mqtt_3_1_2_11_will_qos_without_a_will_is_malformed() -> Result<()> {
    for qos in [0x08, 0x10] {
        expect_refused(
            &connect_frame(b"w", 0x02 | qos, &[], &[]),
            ReasonCode::MalformedPacket,
        )
        .await?;
    }
    Ok(())
}

/// With a will flag the will QoS may be 0, 1 or 2, and is not 3.
#[tokio::test]
async fn mqtt_3_1_2_12_will_qos_is_0_1_or_2() -> Result<()> {
    let topic = unique("will");
    let mut watcher = subscriber(&topic, 2).await?;
    for qos in 0..=2 {
        let will = Message::new(&topic, qos.to_string()).qos(qos);
        drop(connected(ConnectOptions::v5(unique("w")).will(will)).await?);
        let received = expect_text(&mut watcher, &qos.to_string()).await?;
        ensure!(received.qos as u8 == qos, "{received:?}");
    }
    let fields = [&[0][..], &string("topic"), &string("gone")].concat();
    expect_refused(
        &connect_frame(b"w", 0x06 | 0x18, &[], &fields),
        ReasonCode::MalformedPacket,
    )
    .await
    .map(|_| ())
}

/// Without a will flag the will retain flag is zero.
#[tokio::test]
async fn mqtt_3_1_2_13_will_retain_without_a_will_is_malformed() -> Result<()> {
    expect_refused(&connect_frame(b"w", 0x22, &[], &[]), ReasonCode::MalformedPacket)
        .await
        .map(|_| ())
}

/// A will without will retain is published as an ordinary message.
#[tokio::test]
async fn mqtt_3_1_2_14_a_will_without_retain_is_not_retained() -> Result<()> {
    let topic = unique("will");
    let mut watcher = subscriber(&topic, 1).await?;
    drop(connected(ConnectOptions::v5(unique("w")).will(Message::new(&topic, "gone").qos(1))).await?);
    expect_text(&mut watcher, "gone").await?;
    subscriber(&topic, 1).await?.expect_no_publish(MOMENT).await
}

/// A will with will retain is published as a retained message.
#[tokio::test]
async fn mqtt_3_1_2_15_a_will_with_retain_is_retained() -> Result<()> {
    let topic = unique("will");
    let mut watcher = subscriber(&topic, 1).await?;
    drop(
        connected(ConnectOptions::v5(unique("w")).will(Message::new(&topic, "gone").qos(1).retain())).await?,
    );
    expect_text(&mut watcher, "gone").await?;
    let received = expect_text(&mut subscriber(&topic, 1).await?, "gone").await?;
    ensure!(received.retain, "{received:?}");
    Ok(())
}

/// Without a user name flag there is no user name in the payload.
#[tokio::test]
async fn mqtt_3_1_2_16_a_user_name_without_its_flag_is_malformed() -> Result<()> {
    let extra = string("user");
    expect_refused(&connect_frame(b"u", 2, &[], &extra), ReasonCode::MalformedPacket)
        .await
        .map(|_| ())
}

/// With a user name flag the user name has to be there.
#[tokio::test]
async fn mqtt_3_1_2_17_a_user_name_flag_demands_the_user_name() -> Result<()> {
    expect_refused(&connect_frame(b"u", 0x82, &[], &[]), ReasonCode::MalformedPacket)
        .await
        .map(|_| ())
}

/// Without a password flag there is no password in the payload.
#[tokio::test]
async fn mqtt_3_1_2_18_a_password_without_its_flag_is_malformed() -> Result<()> {
    let both = [string("user"), string("password")].concat();
    expect_refused(
        &connect_frame(b"u", 0x82, &[], &both),
        ReasonCode::MalformedPacket,
    )
    .await
    .map(|_| ())
}

/// With a password flag the password has to be there.
#[tokio::test]
async fn mqtt_3_1_2_19_a_password_flag_demands_the_password() -> Result<()> {
    expect_refused(
        &connect_frame(b"u", 0xc2, &[], &string("user")),
        ReasonCode::MalformedPacket,
    )
    .await?;
    expect_refused(&connect_frame(b"u", 0x42, &[], &[]), ReasonCode::MalformedPacket)
        .await
        .map(|_| ())
}

/// A connection silent for one and a half times its keep alive is closed as if the network had failed.
#[tokio::test]
async fn mqtt_3_1_2_22_keep_alive_ends_a_silent_connection() -> Result<()> {
    let topic = unique("silent");
    let mut watcher = subscriber(&topic, 1).await?;
    let options = ConnectOptions::v5(unique("silent"))
        .keep_alive(1)
        .will(Message::new(&topic, "silent").qos(1));
    let mut silent = connected(options).await?;
    let mut talking = connected(ConnectOptions::v5(unique("talking")).keep_alive(3)).await?;
    let start = Instant::now();
    silent.expect_disconnect(ReasonCode::KeepAliveTimeout).await?;
    let after = start.elapsed();
    ensure!(
        after >= Duration::from_millis(1400),
        "closed early, after {after:?}"
    );
    expect_text(&mut watcher, "silent").await?;
    // Together more than one and a half times its keep alive, each much less.
    for _ in 0..4 {
        talking.ping().await?;
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }
    talking.ping().await
}

/// A session whose expiry interval is above zero outlives its connection.
#[tokio::test]
async fn mqtt_3_1_2_23_session_state_outlives_the_connection() -> Result<()> {
    let (id, topic) = (unique("stay"), unique("stay"));
    let mut first = connected(ConnectOptions::v5(&id).session_expiry(60)).await?;
    first.subscribe(&topic, 2).await?;
    drop(first);
    publish(Message::new(&topic, "1").qos(1)).await?;
    publish(Message::new(&topic, "2").qos(2)).await?;
    let mut second = connected(ConnectOptions::v5(&id).persistent()).await?;
    ensure!(second.connack().session_present, "the session is gone");
    let qos: Vec<u8> = [second.receive().await?, second.receive().await?]
        .map(|p| p.qos as u8)
        .into();
    ensure!(qos == [1, 2], "{qos:?}");
    Ok(())
}

/// No packet to a client is larger than the maximum packet size of its CONNECT.
#[tokio::test]
async fn mqtt_3_1_2_24_packets_do_not_exceed_the_clients_maximum_size() -> Result<()> {
    let topic = unique("size");
    let mut client = connected(ConnectOptions::v5(unique("size")).maximum_packet_size(100)).await?;
    client.subscribe(&topic, 1).await?;
    // 2 bytes of fixed header, 2 of topic length, 2 of packet id, 1 of property length: 100 in all, then 101.
    let fits = "x".repeat(100 - 7 - topic.len());
    publish(Message::new(&topic, format!("{fits}y")).qos(1)).await?;
    publish(Message::new(&topic, &fits).qos(1)).await?;
    let frame = client.receive_frame().await?.expect("a PUBLISH");
    ensure!(frame.len() == 100, "{} bytes", frame.len());
    Ok(())
}

/// A message too large for a client is dropped for it, and everything goes on as if it had been sent.
#[tokio::test]
async fn mqtt_3_1_2_25_what_is_too_large_is_dropped_as_if_sent() -> Result<()> {
    let topic = unique("size");
    let mut small = connected(
        ConnectOptions::v5(unique("s"))
            .maximum_packet_size(64)
            .receive_maximum(1),
    )
    .await?;
    small.subscribe(&topic, 1).await?;
    let mut large = subscriber(&topic, 1).await?;
    for _ in 0..3 {
        publish(Message::new(&topic, "x".repeat(200)).qos(1)).await?;
    }
    publish(Message::new(&topic, "small").qos(1)).await?;
    for _ in 0..3 {
        ensure!(
            large.receive().await?.publication.payload_len() == 200,
            "the others get the large message"
        );
    }
    // With one slot: had a dropped message kept it, this one would not come.
    expect_text(&mut small, "small").await.map(|_| ())
}

/// A server uses no topic alias above the client's topic alias maximum.
#[tokio::test]
async fn mqtt_3_1_2_26_topic_aliases_stay_within_the_clients_maximum() -> Result<()> {
    let prefix = unique("alias");
    let mut client = connected(ConnectOptions::v5(unique("alias")).topic_alias_maximum(2)).await?;
    client.subscribe(&format!("{prefix}/#"), 0).await?;
    for round in 0..3 {
        for topic in 0..5 {
            let name = format!("{prefix}/{topic}");
            publish(Message::new(&name, round.to_string())).await?;
            let received = client.receive().await?;
            let alias = received.topic_alias.map_or(0, |alias| alias.get());
            ensure!(alias <= 2, "alias {alias} is above the maximum of 2");
        }
    }
    Ok(())
}

/// A client without topic alias maximum, or with zero, is sent no alias.
#[tokio::test]
async fn mqtt_3_1_2_27_no_aliases_without_a_maximum() -> Result<()> {
    for options in [
        ConnectOptions::v5(unique("a")),
        ConnectOptions::v5(unique("a")).topic_alias_maximum(0),
    ] {
        let topic = unique("alias");
        let mut client = connected(options).await?;
        client.subscribe(&topic, 0).await?;
        for round in 0..4 {
            publish(Message::new(&topic, round.to_string())).await?;
            let received = expect_text(&mut client, &round.to_string()).await?;
            ensure!(received.topic_alias.is_none(), "{received:?}");
            ensure!(received.publication.topic().as_str() == topic, "{received:?}");
        }
    }
    Ok(())
}

/// A client that does not ask for response information is not sent any.
#[tokio::test]
async fn mqtt_3_1_2_28_no_response_information_unless_asked() -> Result<()> {
    for wanted in [None, Some(false)] {
        let mut options = ConnectOptions::v5(unique("response"));
        options.connect.properties.request_response_information = wanted;
        let client = connected(options).await?;
        ensure!(
            client.connack().properties.response_information.is_none(),
            "{:?}",
            client.connack()
        );
    }
    Ok(())
}

/// A client that wants no problem information gets reason strings and user properties on CONNACK, PUBLISH and
/// DISCONNECT only.
#[tokio::test]
async fn mqtt_3_1_2_29_no_reason_strings_for_a_client_that_does_not_want_them() -> Result<()> {
    let options = ConnectOptions::v5(unique("terse")).request_problem_information(false);
    let mut client = connected(options).await?;
    let topic = unique("terse");
    let suback = client
        .subscribe_many(&[("a/#/b", harness::subscription_options(0))], None)
        .await?;
    ensure!(
        suback.reason_codes[0] == ReasonCode::TopicFilterInvalid,
        "{suback:?}"
    );
    ensure!(
        suback.reason_string.is_none() && suback.user_properties.is_empty(),
        "{suback:?}"
    );
    let unsuback = client.unsubscribe(&["never/subscribed"]).await?;
    ensure!(
        unsuback.reason_string.is_none() && unsuback.user_properties.is_empty(),
        "{unsuback:?}"
    );
    let id = client
        .send_publish(Message::new(&topic, "x").qos(1))
        .await?
        .unwrap();
    let puback = client.expect_puback(id).await?;
    ensure!(
        puback.reason_string.is_none() && puback.user_properties.is_empty(),
        "{puback:?}"
    );
    client
        .send_pubrel(mqtt_codec::PacketId::new(999).unwrap())
        .await?;
    let pubcomp = client
        .expect_pubcomp(mqtt_codec::PacketId::new(999).unwrap())
        .await?;
    ensure!(
        pubcomp.reason_code == ReasonCode::PacketIdentifierNotFound,
        "{pubcomp:?}"
    );
    ensure!(
        pubcomp.reason_string.is_none() && pubcomp.user_properties.is_empty(),
        "{pubcomp:?}"
    );
    // User properties of a PUBLISH pass all the same.
    client.subscribe(&topic, 0).await?;
    publish(Message::new(&topic, "x").user_property("a", "b")).await?;
    ensure!(
        client
            .receive()
            .await?
            .publication
            .properties()
            .user_properties
            .len()
            == 1
    );
    Ok(())
}

#[tokio::test]
async fn what_follows_connect_at_once_is_served() -> Result<()> {
    let mut client = Client::open(address()).await?;
    let topic = unique("pipelined");
    let bytes = [
        connect_frame(topic.as_bytes(), 2, &[], &[]),
        subscribe_frame(1, &[], topic.as_bytes(), 0),
        publish_frame(0, topic.as_bytes(), None, &[], b"at once"),
        vec![0xc0, 0],
    ]
    .concat();
    client.send_raw(&bytes).await?;
    client.expect_connack().await?;
    client
        .expect_suback(mqtt_codec::PacketId::new(1).unwrap())
        .await?;
    let mut seen = (false, false);
    while seen != (true, true) {
        match client.receive_packet().await? {
            Packet::Publish(publish) => seen.0 = text(&publish) == "at once",
            Packet::PingResp => seen.1 = true,
            other => anyhow::bail!("{other:?}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_topic_alias_does_not_make_a_packet_too_large() -> Result<()> {
    let topic = unique("size");
    let options = ConnectOptions::v5(unique("size"))
        .maximum_packet_size(100)
        .topic_alias_maximum(1);
    let mut client = connected(options).await?;
    client.subscribe(&topic, 0).await?;
    // Exactly 100 bytes with the topic and without an alias: an alias in addition would not fit.
    publish(Message::new(&topic, "x".repeat(100 - 5 - topic.len()))).await?;
    publish(Message::new(&topic, "small")).await?;
    for _ in 0..2 {
        let frame = client.receive_frame().await?.expect("a PUBLISH");
        ensure!(frame.len() <= 100, "{} bytes", frame.len());
        if frame.ends_with(b"small") {
            return Ok(());
        }
    }
    anyhow::bail!("the small message did not come")
}
