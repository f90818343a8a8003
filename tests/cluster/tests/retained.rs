//! Retained messages are those of the whole cluster.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::*;
use harness::{Client, Cluster, Message, subscription_options};
use mqtt_codec::Packet;
use tokio::sync::watch;

#[tokio::test(flavor = "multi_thread")]
async fn the_last_acknowledged_retained_message_is_found_on_every_node() -> Result<()> {
    let cluster = three()?;
    let mut writer = client(&cluster, 0, "writer").await?;
    for round in 0..20 {
        let text = round.to_string();
        writer
            .publish(Message::new("state/door", &text).qos(1).retain())
            .await?;
        for node in cluster.all() {
            let mut reader = client(&cluster, node, "reader").await?;
            subscribe(&mut reader, "state/+", 1).await?;
            expect_text(&mut reader, &text).await?;
            reader.disconnect().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_that_is_deleted_is_deleted_everywhere() -> Result<()> {
    let cluster = three()?;
    for round in 0..9 {
        let topic = format!("state/{round}");
        let mut writer = client(&cluster, round % 3, "writer").await?;
        writer.publish(Message::new(&topic, "is").qos(1).retain()).await?;
        let mut other = client(&cluster, (round + 1) % 3, "other").await?;
        other.publish(Message::new(&topic, "").qos(1).retain()).await?;
        for node in cluster.all() {
            let mut reader = client(&cluster, node, "reader").await?;
            subscribe(&mut reader, &topic, 1).await?;
            reader.expect_no_publish(Duration::ZERO).await?;
        }
    }
    Ok(())
}

/// Topics with a retained message.
const MANY: usize = 20_000;
/// How many messages one publisher has under way.
const WINDOW: usize = 32;
/// How often somebody is served at least while others get all of them.
const ROUNDS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_many_retained_messages_gets_them_all_and_holds_nobody_up() -> Result<()> {
    let cluster = three()?;
    write_many(&cluster).await?;
    let mut bystander = client(&cluster, 1, "bystander").await?;
    subscribe(&mut bystander, "beside", 1).await?;
    let (begun, mut all_begun) = watch::channel(0);
    let mut reading = tokio::task::JoinSet::new();
    for node in cluster.all() {
        let mut reader = client(&cluster, node, &format!("reader-{node}")).await?;
        let begun = begun.clone();
        reading.spawn(async move {
            let filter = ("many/#", subscription_options(1));
            reader.send_subscribe(&[filter], None).await?;
            begun.send_modify(|begun| *begun += 1);
            read_many(reader).await
        });
    }
    all_begun.wait_for(|begun| *begun == cluster.all().len()).await?;
    let mut rounds = 0;
    while reading.len() == cluster.all().len() {
        publish(&mut bystander, "beside", &rounds.to_string(), 1).await?;
        expect_text(&mut bystander, &rounds.to_string()).await?;
        rounds += 1;
        if let Some(read) = reading.try_join_next() {
            read??;
        }
    }
    println!("{rounds} rounds while {MANY} retained messages were read");
    ensure!(rounds >= ROUNDS, "served only {rounds} times");
    while let Some(read) = reading.join_next().await {
        read??;
    }
    Ok(())
}

async fn write_many(cluster: &Cluster) -> Result<()> {
    let mut writing = tokio::task::JoinSet::new();
    for node in cluster.all() {
        let mut writer = client(cluster, node, &format!("writer-{node}")).await?;
        let numbers: Vec<usize> = (node..MANY).step_by(cluster.all().len()).collect();
        writing.spawn(async move {
            for numbers in numbers.chunks(WINDOW) {
                let mut under_way = Vec::new();
                for number in numbers {
                    let topic = format!("many/{}/{number}", number % 100);
                    let message = Message::new(&topic, number.to_string()).qos(1).retain();
                    under_way.push(writer.send_publish(message).await?.context("a packet id")?);
                }
                for packet_id in under_way {
                    let reason = writer.expect_puback(packet_id).await?.reason_code;
                    ensure!(accepts(reason), "{reason:?}");
                }
            }
            Ok(())
        });
    }
    while let Some(written) = writing.join_next().await {
        written??;
    }
    Ok(())
}

/// Receives until each of them has come.
async fn read_many(mut reader: Client) -> Result<()> {
    let mut missing: std::collections::BTreeSet<usize> = (0..MANY).collect();
    while !missing.is_empty() {
        let Packet::Publish(publish) = reader.receive_packet().await? else {
            // SUBACK.
            continue;
        };
        reader.acknowledge(&publish).await?;
        let payload = publish.publication.payload();
        missing.remove(&std::str::from_utf8(&payload)?.parse()?);
    }
    Ok(())
}
