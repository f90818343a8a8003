//! Bad input: the reason that answers it, the end of the connection, and everybody else going on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Broker, BrokerOptions, Client, ConnectOptions, Message, subscription_options};
use mqtt_codec::{Packet, ReasonCode};

use crate::common::*;

#[tokio::test]
async fn a_packet_cut_short_waits_and_then_ends_with_its_connection() -> Result<()> {
    let topic = unique("cut");
    let mut watcher = subscriber(&topic, 0).await?;
    let whole = publish_frame(0, topic.as_bytes(), None, &[], b"payload");
    for length in 1..whole.len() {
        let mut client = client("cut").await?;
        client.send_raw(&whole[..length]).await?;
        drop(client);
    }
    watcher.expect_no_publish(MOMENT).await?;
    ensure_serving().await
}

#[tokio::test]
async fn a_body_that_ends_inside_a_field_is_malformed() -> Result<()> {
    for bytes in [
        frame(0x30, [0, 5, b'a']),
        frame(0x32, string("topic")),
        frame(0x40, [0]),
        frame(0x82, [0, 1, 0, 0, 9, b'a']),
        frame(0x82, [&[0, 1, 0][..], &string("filter")].concat()),
        frame(0xa2, [0, 1, 0, 0]),
        frame(0x30, [&string("topic")[..], &[5, 0x01]].concat()),
        frame(0x30, [&string("topic")[..], &[200, 1]].concat()),
    ] {
        expect_fatal(&bytes, ReasonCode::MalformedPacket).await?;
    }
    Ok(())
}

#[tokio::test]
async fn bytes_left_over_in_a_packet_are_malformed() -> Result<()> {
    for bytes in [
        frame(0xc0, [0]),
        frame(0x40, [0, 1, 0, 0, 0]),
        frame(0xe0, [0, 0, 0]),
    ] {
        expect_fatal(&bytes, ReasonCode::MalformedPacket).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_remaining_length_of_five_bytes_is_malformed() -> Result<()> {
    expect_fatal(&[0x30, 0x80, 0x80, 0x80, 0x80, 0x01], ReasonCode::MalformedPacket).await?;
    let mut client = opened().await?;
    client.send_raw(&[0x10, 0xff, 0xff, 0xff, 0xff, 0x7f]).await?;
    client.drain_until_closed().await
}

#[tokio::test]
async fn a_huge_first_packet_is_refused_by_its_header() -> Result<()> {
    let mut client = opened().await?;
    client.send_raw(&[0x10, 0xff, 0xff, 0xff, 0x7f, 0, 4]).await?;
    client.drain_until_closed().await?;
    ensure_serving().await
}

#[tokio::test]
async fn each_property_that_may_occur_once_is_refused_twice() -> Result<()> {
    let connect_properties: [&[u8]; 7] = [
        &[0x11, 0, 0, 0, 1],
        &[0x21, 0, 1],
        &[0x27, 0, 0, 1, 0],
        &[0x22, 0, 1],
        &[0x19, 1],
        &[0x17, 1],
        &[0x15, 0, 1, b'm'],
    ];
    for property in connect_properties {
        expect_refused(
            &connect_frame(b"x", 2, &property.repeat(2), &[]),
            ReasonCode::ProtocolError,
        )
        .await?;
    }
    let publish_properties: [&[u8]; 6] = [
        &[0x01, 1],
        &[0x02, 0, 0, 0, 9],
        &[0x23, 0, 1],
        &[0x08, 0, 1, b'r'],
        &[0x09, 0, 1, b'c'],
        &[0x03, 0, 1, b't'],
    ];
    for property in publish_properties {
        let bytes = publish_frame(0, b"topic", None, &property.repeat(2), b"x");
        expect_fatal(&bytes, ReasonCode::ProtocolError).await?;
    }
    Ok(())
}

#[tokio::test]
async fn property_values_out_of_range_are_protocol_errors() -> Result<()> {
    let values: [&[u8]; 4] = [&[0x21, 0, 0], &[0x27, 0, 0, 0, 0], &[0x19, 2], &[0x17, 2]];
    for property in values {
        expect_refused(&connect_frame(b"x", 2, property, &[]), ReasonCode::ProtocolError).await?;
    }
    Ok(())
}

#[tokio::test]
async fn topics_that_are_too_deep_are_refused() -> Result<()> {
    let deep = vec!["a"; 1000].join("/");
    let mut client = client("deep").await?;
    let reason = client.subscribe(&deep, 0).await?;
    ensure!(reason == ReasonCode::TopicFilterInvalid, "{reason:?}");
    client.ping().await?;
    expect_fatal(
        &publish_frame(0, deep.as_bytes(), None, &[], b"x"),
        ReasonCode::TopicNameInvalid,
    )
    .await?;
    let slashes = "/".repeat(1000);
    expect_fatal(
        &publish_frame(0, slashes.as_bytes(), None, &[], b"x"),
        ReasonCode::TopicNameInvalid,
    )
    .await
}

#[tokio::test]
async fn a_client_that_sends_one_byte_at_a_time_is_served() -> Result<()> {
    let topic = unique("slow");
    let mut client = opened().await?;
    let bytes = [
        connect_frame(topic.as_bytes(), 2, &[], &[]),
        subscribe_frame(1, &[], topic.as_bytes(), 1),
        publish_frame(2, topic.as_bytes(), Some(2), &[], b"byte by byte"),
    ]
    .concat();
    for byte in bytes {
        client.send_raw(&[byte]).await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    client.expect_connack().await?;
    client
        .expect_suback(mqtt_codec::PacketId::new(1).unwrap())
        .await?;
    client
        .expect_puback(mqtt_codec::PacketId::new(2).unwrap())
        .await?;
    expect_text(&mut client, "byte by byte").await.map(|_| ())
}

#[tokio::test]
async fn half_a_connect_and_silence_end_at_the_connect_timeout() -> Result<()> {
    let broker = with_limits("connect_timeout = \"500ms\"")?;
    let connect = connect_frame(b"half", 2, &[], &[]);
    for length in [0, 1, 5, connect.len() - 1] {
        let start = tokio::time::Instant::now();
        let mut client = Client::open(broker.mqtt_addr()).await?;
        client.send_raw(&connect[..length]).await?;
        client.expect_closed().await?;
        let after = start.elapsed();
        ensure!(
            after > Duration::from_millis(400) && after < Duration::from_secs(3),
            "{length} bytes: {after:?}"
        );
    }
    // Who has connected in time stays.
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("in-time")).await?;
    tokio::time::sleep(Duration::from_millis(900)).await;
    client.ping().await
}

#[tokio::test]
async fn a_subscription_bomb_is_refused_filter_by_filter() -> Result<()> {
    let broker = with_limits("subscriptions_per_client_max = 50\nfilters_per_packet_max = 20")?;
    let mut witness = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("witness")).await?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("bomb")).await?;
    let names: Vec<String> = (0..60).map(|number| format!("bomb/{number}/+/#")).collect();
    let mut reasons = Vec::new();
    for names in names.chunks(20) {
        let filters: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), subscription_options(0)))
            .collect();
        reasons.extend(client.subscribe_many(&filters, None).await?.reason_codes);
    }
    ensure!(
        reasons[..50].iter().all(|reason| *reason == ReasonCode::Success),
        "{reasons:?}"
    );
    ensure!(
        reasons[50..]
            .iter()
            .all(|reason| *reason == ReasonCode::QuotaExceeded),
        "{reasons:?}"
    );
    // Replacing one needs no room, and giving one up makes some.
    ensure!(client.subscribe(&names[0], 1).await? == ReasonCode::GrantedQoS1);
    client.unsubscribe(&[&names[1]]).await?;
    ensure!(client.subscribe(&names[55], 0).await? == ReasonCode::Success);

    let filters: Vec<_> = names[..21]
        .iter()
        .map(|name| (name.as_str(), subscription_options(0)))
        .collect();
    client.send_subscribe(&filters, None).await?;
    client.expect_disconnect(ReasonCode::QuotaExceeded).await?;
    witness.ping().await
}

#[tokio::test]
async fn too_many_user_properties_are_refused() -> Result<()> {
    let broker = with_limits("user_properties_max = 10")?;
    let mut client = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("properties")).await?;
    let with = |count| {
        (0..count).fold(Message::new("t", "x").qos(1), |message, _| {
            message.user_property("a", "b")
        })
    };
    client.publish(with(10)).await?;
    client.send_publish(with(11)).await?;
    client.expect_disconnect(ReasonCode::QuotaExceeded).await?;
    Client::connect(broker.mqtt_addr(), ConnectOptions::v5("another"))
        .await
        .map(|_| ())
}

#[tokio::test]
async fn a_connection_too_many_is_refused_and_others_stay() -> Result<()> {
    let broker = with_limits("connections_max = 3")?;
    let mut clients = Vec::new();
    for number in 0..3 {
        clients.push(Client::connect(broker.mqtt_addr(), ConnectOptions::v5(format!("c{number}"))).await?);
    }
    let mut one_more = Client::open(broker.mqtt_addr()).await?;
    let _ = one_more.send_connect(ConnectOptions::v5("one-more")).await;
    if let Ok(Packet::ConnAck(connack)) = one_more.receive_packet().await {
        ensure!(connack.reason_code == ReasonCode::QuotaExceeded, "{connack:?}");
        one_more.expect_closed().await?;
    }
    for client in &mut clients {
        client.ping().await?;
    }
    clients.pop().unwrap().disconnect().await?;
    let address = broker.mqtt_addr();
    let connects = async || Client::connect(address, ConnectOptions::v5("room")).await.is_ok();
    harness::wait_for(connects, Duration::from_secs(5)).await
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_hold_up_others() -> Result<()> {
    let topic = unique("deaf");
    let mut deaf = subscriber(&topic, 0).await?;
    let mut listening = subscriber(&topic, 1).await?;
    let mut publisher = client("publisher").await?;
    let payload = vec![b'x'; 100_000];
    // More than socket buffers and the broker's queue for one connection hold.
    for _ in 0..150 {
        publisher.publish(Message::new(&topic, &payload).qos(1)).await?;
        ensure!(listening.receive().await?.publication.payload_len() == payload.len());
    }
    // What it finds when it looks again is whole packets.
    ensure!(deaf.receive().await?.publication.payload_len() == payload.len());
    ensure_serving().await
}

/// What a slow reader sends waits in the kernel while there is much to be written to it: it is not silent for that.
#[tokio::test]
async fn a_client_that_reads_slowly_is_not_taken_for_a_silent_one() -> Result<()> {
    let topic = unique("slow");
    let mut slow = connected(ConnectOptions::v5(unique("slow")).keep_alive(1)).await?;
    slow.subscribe(&topic, 0).await?;
    let mut publisher = client("publisher").await?;
    let payload = vec![b'x'; 100_000];
    let mut pings = 0;
    // More than socket buffers and the broker's queue for one connection hold.
    for _ in 0..150 {
        publisher.send_publish(Message::new(&topic, &payload)).await?;
        publisher.ping().await?;
        slow.send(&Packet::PingReq).await?;
        pings += 1;
    }
    // Together twice the time after which a silent client is cut off.
    for _ in 0..12 {
        slow.send(&Packet::PingReq).await?;
        pings += 1;
        tokio::time::sleep(MOMENT).await;
    }
    let mut answered = 0;
    while answered < pings {
        answered += usize::from(matches!(slow.receive_packet().await?, Packet::PingResp));
    }
    Ok(())
}

/// Three kilobytes of SUBSCRIBE ask for 600,000 messages: they are not gathered before the client has read any.
#[tokio::test]
async fn a_burst_of_subscriptions_does_not_gather_all_their_retained_messages() -> Result<()> {
    const TOPICS: usize = 2_000;
    let broker = with_limits("")?;
    let mut publisher = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("publisher")).await?;
    for number in 0..TOPICS {
        let message = Message::new(&format!("r/{number}"), "x").retain();
        publisher.send_publish(message).await?;
    }
    // Acknowledged when it, and what came before it, is stored.
    publisher
        .publish(Message::new("r/last", "x").qos(1).retain())
        .await?;
    let before = resident_bytes(&broker)?;
    let mut burst = Client::connect(broker.mqtt_addr(), ConnectOptions::v5("burst")).await?;

    burst
        .send_raw(&subscribe_frame(1, &[], b"r/#", 0).repeat(300))
        .await?;

    burst.receive_packet().await?;
    let grown = resident_bytes(&broker)?.saturating_sub(before);
    ensure!(grown < 40 << 20, "{grown} bytes more than before");
    Ok(())
}

/// What the broker says of its own memory.
fn resident_bytes(broker: &Broker) -> Result<u64> {
    let metrics = broker.admin_get("/metrics")?;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    let value: f64 = line
        .context("no resident memory in the metrics")?
        .trim()
        .parse()?;
    Ok(value as u64)
}

#[tokio::test]
async fn millions_of_tiny_packets_are_answered_in_order() -> Result<()> {
    let mut client = client("tiny").await?;
    let pings = [0xc0, 0].repeat(10_000);
    for _ in 0..5 {
        client.send_raw(&pings).await?;
        for _ in 0..10_000 {
            let answer = client.receive_frame().await?.expect("a PINGRESP");
            ensure!(answer[..] == [0xd0, 0], "{answer:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn random_bytes_end_the_connection_and_nothing_else() -> Result<()> {
    let mut witness = subscriber(&unique("witness"), 0).await?;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..200 {
        let mut bytes = Vec::new();
        for _ in 0..64 {
            // xorshift: the same bytes in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.push(state as u8);
        }
        let mut victim = if round % 2 == 0 {
            opened().await?
        } else {
            client("random").await?
        };
        victim.send_raw(&bytes).await.ok();
        drop(victim);
    }
    witness.ping().await?;
    ensure_serving().await
}

#[tokio::test]
async fn plain_bytes_and_silence_on_a_tls_listener_hurt_nobody() -> Result<()> {
    let broker = Broker::start(BrokerOptions {
        tls: true,
        ..BrokerOptions::default()
    })?;
    let _silent = Client::open(broker.mqtts_addr()).await?;
    for address in [broker.mqtts_addr(), broker.wss_addr()] {
        let mut client = tokio::net::TcpStream::connect(address).await?;
        tokio::io::AsyncWriteExt::write_all(&mut client, &connect_frame(b"plain", 2, &[], &[])).await?;
        let mut answer = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut client, &mut answer);
        // A TLS alert may come, or a reset; a CONNACK may not.
        let _ = tokio::time::timeout(harness::LIMIT, read).await?;
        ensure!(answer.first() != Some(&0x20), "{answer:02x?}");
    }
    Client::connect(broker.mqtt_addr(), ConnectOptions::v5("plain"))
        .await
        .map(|_| ())
}

/// A broker of its own with other limits.
fn with_limits(limits: &str) -> Result<Broker> {
    Broker::start(BrokerOptions {
        config: Some(format!("[limits]\n{limits}\n")),
        ..BrokerOptions::default()
    })
}
