//! What one client may be sent in a second, and what one user may have retained.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Client, ConnectOptions, Message, wait_for};
use mqtt_codec::{QoS, ReasonCode};

use crate::common::*;

const USERS: (&str, &str) = ("users", MADE_BY_MOSQUITTO);
const A_WHILE: Duration = Duration::from_secs(20);

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
