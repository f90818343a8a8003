//! What one packet and one client may hold, what a client may be sent in a second, and what one user may have retained.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Client, ConnectOptions, Message, subscription_options, wait_for};
use mqtt_codec::{
    Packet, PacketId, ProtocolVersion, QoS, ReasonCode, Subscribe, SubscribeFilter, Unsubscribe,
};

use tokio::time::{Instant, timeout};

use crate::common::*;

const USERS: (&str, &str) = ("users", MADE_BY_MOSQUITTO);
const A_WHILE: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(200);

fn limited(limits: &str) -> Result<World> {
    let config = format!("[auth]\npassword_file = 'FILES/users'\n[limits]\n{limits}\n");
    world(&[USERS], &config)
}

fn dropped(world: &World) -> Result<u64> {
    world.counter("flotilla_messages_dropped_total{reason=\"rate_limited\"}")
}

/// What the broker takes of one client before it has acknowledged any.
const AT_ONCE: usize = 30;

/// Publishes so many messages above QoS 0, many at once.
async fn publish_all(publisher: &mut Client, topic: &str, count: usize) -> Result<()> {
    let numbers: Vec<usize> = (0..count).collect();
    for numbers in numbers.chunks(AT_ONCE) {
        let mut sent = Vec::new();
        for number in numbers {
            let message = Message::new(topic, number.to_string()).qos(1);
            sent.extend(publisher.send_publish(message).await?);
        }
        for packet_id in sent {
            let answer = publisher.expect_puback(packet_id).await?.reason_code;
            ensure!(answer == ReasonCode::Success, "{packet_id:?}: {answer:?}");
        }
    }
    Ok(())
}

async fn receive_all(reader: &mut Client, count: usize) -> Result<()> {
    for number in 0..count {
        let payload = reader.receive().await?.publication.payload();
        ensure!(payload == number.to_string().as_bytes(), "{number}: {payload:?}");
    }
    Ok(())
}

#[tokio::test]
async fn who_is_sent_more_than_allowed_gets_it_later_and_nobody_else_waits() -> Result<()> {
    let world = limited("deliver_messages_per_second_max = 20")?;
    let mut slow = world.client(CARL, ConnectOptions::v5("in-memory")).await?;
    let mut kept = world
        .client(CARL, ConnectOptions::v5("kept").persistent())
        .await?;
    for reader in [&mut slow, &mut kept] {
        ensure!(reader.subscribe("a", 1).await? == ReasonCode::GrantedQoS1);
    }
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    // Three seconds' worth; who publishes is answered all along.
    publish_all(&mut anna, "a", 60).await?;
    let (slow, kept) = tokio::join!(receive_all(&mut slow, 60), receive_all(&mut kept, 60));
    slow.and(kept)?;
    ensure!(world.counter("flotilla_rate_limited_total{kind=\"delivered_messages\"}")? >= 2);
    ensure!(dropped(&world)? == 0);
    Ok(())
}

#[tokio::test]
async fn bytes_are_limited_like_messages() -> Result<()> {
    let world = limited("deliver_bytes_per_second_max = '20KiB'")?;
    let mut slow = world.client(CARL, ConnectOptions::v5("slow")).await?;
    ensure!(slow.subscribe("a", 1).await? == ReasonCode::GrantedQoS1);
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    for _ in 0..4 {
        let large = Message::new("a", vec![b'x'; 10 * 1024]).qos(1);
        ensure!(anna.publish(large).await? == ReasonCode::Success);
    }
    for _ in 0..4 {
        slow.receive().await?;
    }
    ensure!(world.counter("flotilla_rate_limited_total{kind=\"delivered_bytes\"}")? >= 1);
    Ok(())
}

#[tokio::test]
async fn qos_0_beyond_what_a_client_is_sent_is_dropped_and_every_one_is_counted() -> Result<()> {
    let world = limited("deliver_messages_per_second_max = 20")?;
    let mut slow = world.client(CARL, ConnectOptions::v5("slow")).await?;
    ensure!(slow.subscribe("a", 1).await? == ReasonCode::GrantedQoS1);
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    for number in 0..500 {
        anna.send_publish(Message::new("a", number.to_string())).await?;
    }
    // What is above QoS 0 waits for its turn behind them.
    ensure!(anna.publish(Message::new("a", "last").qos(1)).await? == ReasonCode::Success);
    let mut received = 0;
    loop {
        let message = slow.receive().await?;
        if message.qos == QoS::AtLeastOnce {
            break;
        }
        received += 1;
    }
    ensure!(received >= 20, "{received} have come");
    let dropped = dropped(&world)?;
    ensure!(
        dropped > 0 && received + dropped == 500,
        "{received} and {dropped}"
    );
    Ok(())
}

#[tokio::test]
async fn one_user_retains_so_many_messages_and_others_do_not_pay() -> Result<()> {
    let world = limited("retained_messages_per_user_max = 2")?;
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    let mut other = world.client(ANNA, ConnectOptions::v5("c-2")).await?;
    let mut carl = world.client(CARL, ConnectOptions::v5("c-3")).await?;
    let retained = |topic: &str, payload: &str| Message::new(topic, payload).qos(1).retain();
    ensure!((anna.publish(retained("a", "1")).await? as u8) < 0x80);
    ensure!((other.publish(retained("b", "1")).await? as u8) < 0x80);
    for client in [&mut anna, &mut other] {
        ensure!(client.publish(retained("c", "1")).await? == ReasonCode::QuotaExceeded);
    }
    // One of its own may be replaced; somebody else has room of their own.
    ensure!((other.publish(retained("a", "2")).await? as u8) < 0x80);
    for topic in ["c", "d"] {
        ensure!(
            (carl.publish(retained(topic, "1")).await? as u8) < 0x80,
            "{topic}"
        );
    }
    ensure!(carl.publish(retained("a", "3")).await? == ReasonCode::QuotaExceeded);
    let will = ConnectOptions::v5("c-4")
        .credentials(ANNA.0, ANNA.1.as_bytes())
        .will(retained("w", "1"));
    ensure!(world.refusal(will).await? == ReasonCode::QuotaExceeded);
    ensure!(world.counter("flotilla_rate_limited_total{kind=\"retained_per_user\"}")? == 4);
    // What is taken away makes room, when it is counted next.
    ensure!((anna.publish(retained("a", "")).await? as u8) < 0x80);
    let fits = async || {
        let answer = anna.publish(retained("e", "1")).await;
        answer.is_ok_and(|answer| (answer as u8) < 0x80)
    };
    wait_for(fits, A_WHILE).await
}

#[tokio::test]
async fn what_a_user_retains_with_qos_2_or_by_a_will_counts_too_and_over_a_restart() -> Result<()> {
    let mut world = limited("retained_messages_per_user_max = 3")?;
    let retained = |topic: &str, qos| Message::new(topic, "x").qos(qos).retain();
    let mut anna = world
        .client(ANNA, ConnectOptions::v5("kept").persistent())
        .await?;
    ensure!((anna.publish(retained("a", 2)).await? as u8) < 0x80);
    let mut dying = world
        .client(ANNA, ConnectOptions::v5("dying").will(retained("w", 1)))
        .await?;
    ensure!((dying.publish(retained("b", 1)).await? as u8) < 0x80);
    drop(dying);
    let mut reader = world.client(CARL, ConnectOptions::v5("reader")).await?;
    ensure!(reader.subscribe("w", 1).await? == ReasonCode::GrantedQoS1);
    reader.receive().await?;
    drop((anna, reader));
    world.broker.restart()?;
    let mut anna = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    ensure!(anna.publish(retained("c", 1)).await? == ReasonCode::QuotaExceeded);
    let mut carl = world.client(CARL, ConnectOptions::v5("c-2")).await?;
    ensure!((carl.publish(retained("c", 1)).await? as u8) < 0x80);
    Ok(())
}

#[tokio::test]
async fn an_address_has_as_many_connections_as_are_allowed_whoever_connects() -> Result<()> {
    let world = limited("connections_per_address_max = 2")?;
    let first = world.client(ANNA, ConnectOptions::v5("c-1")).await?;
    let mut second = world.client(CARL, ConnectOptions::v5("c-2")).await?;
    let more = || ConnectOptions::v5("c-3").credentials(CARL.0, CARL.1.as_bytes());
    ensure!(world.refusal(more()).await? == ReasonCode::QuotaExceeded);
    // Who was refused takes no place, and who comes back takes its own.
    ensure!(world.refusal(more()).await? == ReasonCode::QuotaExceeded);
    let rejected = "flotilla_connects_rejected_total{reason=\"connections_per_address\"}";
    ensure!(world.counter(rejected)? == 2);
    let mut again = world.client(CARL, ConnectOptions::v5("c-2")).await?;
    second.expect_disconnect(ReasonCode::SessionTakenOver).await?;
    first.disconnect().await?;
    let let_in = async || {
        let answer = world.connack(more()).await;
        answer.is_ok_and(|answer| answer.reason_code == ReasonCode::Success)
    };
    wait_for(let_in, A_WHILE).await?;
    again.ping().await
}

#[tokio::test]
async fn no_more_come_in_than_there_may_be_when_all_come_at_once() -> Result<()> {
    let world = limited("connections_max = 5")?;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(Client::open(world.broker.mqtt_addr()).await?);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let options = ConnectOptions::v5(format!("c-{number}"));
        let sent = client.send_connect(options.credentials(ANNA.0, ANNA.1.as_bytes()));
        sent.await?;
    }
    let mut welcome = Vec::new();
    for (number, mut client) in clients.into_iter().enumerate() {
        match client.expect_connack().await?.reason_code {
            ReasonCode::Success => welcome.push((number, client)),
            refused => ensure!(refused == ReasonCode::QuotaExceeded, "{refused:?}"),
        }
    }
    ensure!(welcome.len() == 5, "{} came in", welcome.len());
    ensure!(world.counter("flotilla_connects_rejected_total{reason=\"connections\"}")? == 35);
    // Who leaves makes room.
    welcome.pop();
    let let_in = async || {
        let options = ConnectOptions::v5("next").credentials(CARL.0, CARL.1.as_bytes());
        let answer = world.connack(options).await;
        answer.is_ok_and(|answer| answer.reason_code == ReasonCode::Success)
    };
    wait_for(let_in, A_WHILE).await
}

#[tokio::test]
async fn an_address_has_as_many_unfinished_connections_and_silence_keeps_nobody_out() -> Result<()> {
    let world = limited("connections_per_address_max = 3")?;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(Client::open(world.broker.mqtt_addr()).await?);
    }
    let closed = "flotilla_connects_rejected_total{reason=\"connections_per_address\"}";
    let all_but_three = async || world.counter(closed).is_ok_and(|closed| closed == 7);
    wait_for(all_but_three, A_WHILE).await?;
    // They have had their time to say something.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for (number, who) in [ANNA, CARL, ANNA].into_iter().enumerate() {
        let mut client = world
            .client(who, ConnectOptions::v5(format!("c-{number}")))
            .await?;
        client.ping().await?;
        client.disconnect().await?;
    }
    ensure!(world.counter("flotilla_connects_rejected_total{reason=\"handshakes\"}")? >= 1);
    Ok(())
}

#[tokio::test]
async fn a_will_waits_no_longer_than_is_allowed() -> Result<()> {
    let world = limited("will_delay_max = '1s'")?;
    let mut watcher = world.client(CARL, ConnectOptions::v5("watcher")).await?;
    ensure!(watcher.subscribe("wills/#", 1).await? == ReasonCode::GrantedQoS1);
    let will = Message::new("wills/c-1", "gone").qos(1);
    let session = ConnectOptions::v5("c-1").persistent().delayed_will(will, 3600);
    drop(world.client(ANNA, session).await?);
    // Within the time that a packet may take here, which is far below an hour.
    let fired = watcher.receive().await?;
    ensure!(fired.publication.topic().as_str() == "wills/c-1");
    Ok(())
}

/// Each of them small, and none in the way of another.
const SMALL: &str = "\
packet_size_max = '2KiB'
packet_size_before_connect = '1KiB'
topic_levels_max = 4
topic_bytes_max = 60
filters_per_packet_max = 3
receive_maximum = 2
topic_alias_maximum = 2
user_properties_max = 2
client_id_bytes_max = 30
subscriptions_per_client_max = 1
";
const DEEP: &str = "a/b/c/d/e";

/// As long as a topic or filter may be, and a byte more.
fn long() -> String {
    "t".repeat(61)
}

fn exceeded(world: &World, key: &str) -> Result<u64> {
    world.counter(&format!("flotilla_limit_exceeded_total{{limit=\"{key}\"}}"))
}

/// Packets, the last of which is beyond a limit: the key of that, and with what the connection ends.
fn packets_beyond_a_limit() -> Vec<(&'static str, ReasonCode, Vec<Packet>)> {
    let packet_id = |id| PacketId::new(id).expect("not 0");
    let publish = |message: Message| vec![Packet::Publish(message.build())];
    let subscribe = Packet::Subscribe(Subscribe {
        packet_id: packet_id(1),
        subscription_id: None,
        user_properties: Vec::new(),
        filters: ["a", "b", "c", "d"]
            .map(|filter| SubscribeFilter {
                filter: filter.into(),
                options: subscription_options(0),
            })
            .into(),
    });
    let unsubscribe = Packet::Unsubscribe(Unsubscribe {
        packet_id: packet_id(1),
        user_properties: Vec::new(),
        filters: ["a", "b", "c", "d"].map(Into::into).into(),
    });
    let with_properties = (0..3).fold(Message::new("a", "x"), |message, _| {
        message.user_property("name", "value")
    });
    let under_way = (1..=3)
        .map(|id| Packet::Publish(Message::new("a", "x").qos(2).packet_id(id).build()))
        .collect();
    vec![
        (
            "packet_size_max",
            ReasonCode::PacketTooLarge,
            publish(Message::new("a", vec![b'x'; 4096])),
        ),
        (
            "topic_levels_max",
            ReasonCode::TopicNameInvalid,
            publish(Message::new(DEEP, "x")),
        ),
        (
            "topic_bytes_max",
            ReasonCode::TopicNameInvalid,
            publish(Message::new(&long(), "x")),
        ),
        (
            "user_properties_max",
            ReasonCode::QuotaExceeded,
            publish(with_properties),
        ),
        (
            "topic_alias_maximum",
            ReasonCode::TopicAliasInvalid,
            publish(Message::new("a", "x").topic_alias(3)),
        ),
        ("receive_maximum", ReasonCode::ReceiveMaximumExceeded, under_way),
        (
            "filters_per_packet_max",
            ReasonCode::QuotaExceeded,
            vec![subscribe],
        ),
        (
            "filters_per_packet_max",
            ReasonCode::QuotaExceeded,
            vec![unsubscribe],
        ),
    ]
}

/// CONNECTs beyond a limit: the key of that, and what CONNACK says, if the server can know in which version.
fn connects_beyond_a_limit() -> Vec<(&'static str, Option<ReasonCode>, ConnectOptions)> {
    let connect = || ConnectOptions::v5("c").credentials(ANNA.0, ANNA.1.as_bytes());
    let mut with_properties = connect();
    with_properties.connect.properties.user_properties = vec![("name".into(), "value".into()); 3];
    let mut with_long_id = connect();
    with_long_id.connect.client_id = "c".repeat(31).into();
    vec![
        (
            "packet_size_before_connect",
            None,
            connect().will(Message::new("a", vec![b'x'; 1500])),
        ),
        (
            "client_id_bytes_max",
            Some(ReasonCode::ClientIdentifierNotValid),
            with_long_id,
        ),
        (
            "topic_levels_max",
            Some(ReasonCode::TopicNameInvalid),
            connect().will(Message::new(DEEP, "x")),
        ),
        (
            "topic_bytes_max",
            Some(ReasonCode::TopicNameInvalid),
            connect().will(Message::new(&long(), "x")),
        ),
        (
            "user_properties_max",
            Some(ReasonCode::QuotaExceeded),
            with_properties,
        ),
    ]
}

#[tokio::test]
async fn each_limit_of_a_packet_and_of_a_client_has_its_reason_code_and_its_counter() -> Result<()> {
    let world = limited(SMALL)?;
    let packets = packets_beyond_a_limit();
    for (key, expected, packets) in &packets {
        let before = exceeded(&world, key)?;
        let mut client = world.client(ANNA, ConnectOptions::v5("c")).await?;
        for packet in packets {
            client.send(packet).await?;
        }
        let said = loop {
            if let Packet::Disconnect(goodbye) = client.receive_packet().await? {
                break goodbye.reason_code;
            }
        };
        ensure!(said == *expected, "{key}: {said:?}");
        ensure!(exceeded(&world, key)? == before + 1, "{key} is not counted");
    }
    let connects = connects_beyond_a_limit();
    for (key, expected, options) in &connects {
        let before = exceeded(&world, key)?;
        let mut client = Client::open(world.broker.mqtt_addr()).await?;
        client.send_connect(options.clone()).await?;
        match expected {
            Some(expected) => {
                let said = client.expect_connack().await?.reason_code;
                ensure!(said == *expected, "{key}: {said:?}");
            }
            None => client.expect_closed().await?,
        }
        ensure!(exceeded(&world, key)? == before + 1, "{key} is not counted");
    }

    // What SUBACK can say does not end the connection.
    let mut client = world.client(ANNA, ConnectOptions::v5("c")).await?;
    for (key, filter) in [("topic_levels_max", DEEP), ("topic_bytes_max", &long())] {
        let before = exceeded(&world, key)?;
        ensure!(client.subscribe(filter, 0).await? == ReasonCode::TopicFilterInvalid);
        ensure!(exceeded(&world, key)? == before + 1, "{key} is not counted");
    }
    client.subscribe("a", 0).await?;
    ensure!(client.subscribe("b", 0).await? == ReasonCode::QuotaExceeded);
    ensure!(world.counter("flotilla_rate_limited_total{kind=\"subscriptions\"}")? == 1);
    client.ping().await?;

    let metrics = world.broker.admin_get("/metrics")?;
    let counters = metrics
        .lines()
        .filter(|line| line.starts_with("flotilla_limit_exceeded_total{"));
    let never: Vec<&str> = counters.filter(|line| line.ends_with(" 0")).collect();
    ensure!(never.is_empty(), "limits without a case in this story: {never:?}");
    for (counter, count) in [
        (
            "flotilla_connections_closed_total{reason=\"limit_exceeded\"}",
            packets.len(),
        ),
        (
            "flotilla_connects_rejected_total{reason=\"limit_exceeded\"}",
            connects.len(),
        ),
        ("flotilla_connections_closed_total{reason=\"protocol_error\"}", 0),
        ("flotilla_connects_rejected_total{reason=\"protocol\"}", 0),
    ] {
        ensure!(world.counter(counter)? == count as u64, "{counter}");
    }
    Ok(())
}

#[tokio::test]
async fn before_mqtt_5_0_the_same_limits_end_the_connection_and_are_counted() -> Result<()> {
    let world = limited(SMALL)?;
    for (key, message) in [
        ("packet_size_max", Message::new("a", vec![b'x'; 4096])),
        ("topic_levels_max", Message::new(DEEP, "x")),
        ("topic_bytes_max", Message::new(&long(), "x")),
    ] {
        for version in [ProtocolVersion::V3_1, ProtocolVersion::V3_1_1] {
            let before = exceeded(&world, key)?;
            let mut client = world.client(ANNA, ConnectOptions::new(version, "c")).await?;
            client.send_publish(message.clone()).await?;
            client.expect_closed().await?;
            ensure!(exceeded(&world, key)? == before + 1, "{key} is not counted");
        }
    }
    Ok(())
}

#[tokio::test]
async fn who_comes_back_has_no_other_start() -> Result<()> {
    let world = limited("publish_messages_per_second_max = 10")?;
    let mut reader = world.client(CARL, ConnectOptions::v5("reader")).await?;
    reader.subscribe("t", 0).await?;
    let began = Instant::now();
    for _ in 0..8 {
        let mut writer = world.client(CARL, ConnectOptions::v5("writer")).await?;
        for number in 0..40 {
            writer.send_publish(Message::new("t", number.to_string())).await?;
        }
        // What is not read by then is lost with the connection.
        timeout(MOMENT, writer.ping()).await.ok();
    }
    let mut received = 0;
    while let Ok(publish) = timeout(2 * MOMENT, reader.receive()).await {
        publish?;
        received += 1;
    }
    // A second's worth at once, and its rate from then on; with eight starts it would have been 80.
    let allowed = 10 + 10 * (began.elapsed().as_secs() + 1);
    ensure!(received <= allowed, "{received} of {allowed}");
    ensure!(world.counter("flotilla_rate_limited_total{kind=\"messages\"}")? > 0);
    Ok(())
}
