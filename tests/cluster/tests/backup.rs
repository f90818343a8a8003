//! A cluster is lost with all its disks, and another one of another size goes on with what a backup has.

use std::path::PathBuf;
use std::process::Output;

use anyhow::{Result, ensure};
use cluster_tests::*;
use harness::{Client, Cluster, ClusterOptions, ConnectOptions, Message};
use mqtt_codec::{Publish, QoS};
use serde_json::Value;
use tokio::task::block_in_place;

/// Enough for all shards, those that the asked node has no replica of among them.
const CLIENTS: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_on_in_another_cluster_with_what_had_waited_for_them() -> Result<()> {
    let lost = block_in_place(|| {
        Cluster::start(ClusterOptions {
            nodes: 2,
            cluster_keys: "replication_factor = 1".to_owned(),
            ..ClusterOptions::default()
        })
    })?;
    let names: Vec<String> = (0..CLIENTS).map(|number| format!("device-{number}")).collect();
    let mut packet_ids = Vec::new();
    let mut sender = client(&lost, 1, "sender").await?;
    for name in &names {
        let mut device = persistent(&lost, 0, name).await?;
        subscribe(&mut device, &format!("to/{name}"), 2).await?;
        subscribe(&mut device, "to/all", 1).await?;
        // Sent, and never answered.
        send(&mut sender, name, "first", 2).await?;
        packet_ids.push(device.expect_publish().await?.packet_id);
        drop(device);
    }
    for name in &names {
        send(&mut sender, name, "second", 1).await?;
        send(&mut sender, name, &"third".repeat(1000), 2).await?;
    }
    let file = backup_file(&lost);
    let written = ctl(&lost, 0, &["sessions", "backup", &file])?;
    ensure!(written.status.success(), "{written:?}");
    let text = std::fs::read_to_string(&file)?;
    drop(lost);

    let found = block_in_place(|| Cluster::start(ClusterOptions::default()))?;
    // One was quicker than the operator.
    let quick = persistent(&found, 1, &names[0]).await?;
    ensure!(!quick.connack().session_present);
    quick.disconnect().await?;
    let file = backup_file(&found);
    // Half of it, as when the machine that restores goes away; then all.
    let half: Vec<&str> = text.lines().collect();
    std::fs::write(&file, half[..half.len() / 2].join("\n"))?;
    let restored = ctl(&found, 2, &["sessions", "restore", &file])?;
    ensure!(restored.status.code() == Some(3), "{restored:?}");
    std::fs::write(&file, &text)?;
    let restored = restore(&found, &file)?;
    ensure!(restored.status.success(), "{restored:?}");
    let told = String::from_utf8_lossy(&restored.stderr);
    ensure!(told.contains("device-0: its session is newer"), "{told}");
    let again: Value = serde_json::from_slice(&restore(&found, &file)?.stdout)?;
    let counts = |what: &str| (again[what]["sessions"].as_u64(), again[what]["messages"].as_u64());
    let others = CLIENTS as u64 - 1;
    ensure!(counts("restored") == (Some(0), Some(0)), "{again}");
    ensure!(counts("known") == (Some(others), Some(3 * others)), "{again}");
    ensure!(counts("newer") == (Some(1), Some(3)), "{again}");

    // Every node routes by what came back.
    let mut sender = client(&found, 2, "sender").await?;
    publish(&mut sender, "to/all", "fourth", 1).await?;
    for (number, name) in names.iter().enumerate().skip(1) {
        // One after the other.
        let options = ConnectOptions::v5(name.as_str()).persistent().receive_maximum(1);
        let mut device = Client::connect(found.mqtt_addr(number % 3), options).await?;
        ensure!(device.connack().session_present, "{name}");
        let first = received(&mut device, "first").await?;
        ensure!(first.dup && first.qos == QoS::ExactlyOnce, "{first:?}");
        ensure!(first.packet_id == packet_ids[number], "{first:?}");
        received(&mut device, "second").await?;
        received(&mut device, &"third".repeat(1000)).await?;
        received(&mut device, "fourth").await?;
        // The subscriptions are there as well.
        send(&mut sender, name, "fifth", 1).await?;
        received(&mut device, "fifth").await?;
        device.disconnect().await?;
    }
    Ok(())
}

async fn send(sender: &mut Client, device: &str, text: &str, qos: u8) -> Result<()> {
    let reason = sender
        .publish(Message::new(&format!("to/{device}"), text).qos(qos))
        .await?;
    ensure!(accepts(reason), "{device}: {reason:?}");
    Ok(())
}

async fn received(device: &mut Client, text: &str) -> Result<Publish> {
    let publish = device.receive().await?;
    let payload = publish.publication.payload();
    ensure!(payload == text.as_bytes(), "expected {text}, got {payload:?}");
    Ok(publish)
}

fn restore(cluster: &Cluster, file: &str) -> Result<Output> {
    ctl(cluster, 2, &["sessions", "restore", file, "--output", "json"])
}

/// Beside the data of a node.
fn backup_file(cluster: &Cluster) -> String {
    let directory = cluster.data_dir(0);
    let directory = directory.parent().map(PathBuf::from).unwrap_or_default();
    directory.join("sessions.jsonl").display().to_string()
}
