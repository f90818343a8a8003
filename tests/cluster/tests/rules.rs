//! Rules in a file that all nodes read: when it changes, it holds on every node, also for those who are connected.

use anyhow::{Context, Result, ensure};
use cluster_tests::*;
use harness::{Client, Cluster, ClusterOptions, ConnectOptions, Message, passwd, wait_for};
use mqtt_codec::ReasonCode;
use tempfile::TempDir;
use tokio::task::block_in_place;

const PASSWORD: &[u8] = b"secret";

async fn anna(cluster: &Cluster, node: usize, name: &str) -> Result<Client> {
    let options = ConnectOptions::v5(format!("{name}-{node}")).credentials("anna", PASSWORD);
    Client::connect(cluster.mqtt_addr(node), options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_a_right_loses_it_on_every_node_while_connected() -> Result<()> {
    let files = TempDir::new()?;
    let (users, rules) = (files.path().join("users"), files.path().join("rules"));
    passwd(&users, "anna", "secret", &[])?;
    std::fs::write(&rules, "allow all a/#\nallow all b/#\n")?;
    let cluster = block_in_place(|| {
        Cluster::start(ClusterOptions {
            config: format!(
                "[auth]\npassword_file = '{}'\n[access]\nrules = '{}'\n",
                users.display(),
                rules.display()
            ),
            ..ClusterOptions::default()
        })
    })?;
    let (mut readers, mut writers) = (Vec::new(), Vec::new());
    for node in cluster.all() {
        let mut reader = anna(&cluster, node, "reader").await?;
        subscribe(&mut reader, "b/#", 1).await?;
        readers.push(reader);
    }
    for node in cluster.all() {
        let mut writer = anna(&cluster, node, "writer").await?;
        publish(&mut writer, "b/1", "hello", 1).await?;
        writers.push(writer);
    }
    for reader in &mut readers {
        for _ in cluster.all() {
            expect_text(reader, "hello").await?;
        }
    }

    std::fs::write(&rules, "allow all a/#\n")?;
    for (node, (reader, writer)) in readers.iter_mut().zip(&mut writers).enumerate() {
        // Who has what is not allowed any more is disconnected; who has nothing of it stays, and is refused.
        let told = reader.expect_disconnect(ReasonCode::NotAuthorized).await;
        told.with_context(|| format!("the reader on node {node}"))?;
        let refused = async || {
            let publish = writer.publish(Message::new("b/1", "again").qos(1)).await;
            publish.is_ok_and(|reason| reason == ReasonCode::NotAuthorized)
        };
        wait_for(refused, RECOVERY)
            .await
            .with_context(|| format!("the writer on node {node}"))?;
        publish(writer, "a/1", "still", 1).await?;
        ensure!(anna(&cluster, node, "new").await?.subscribe("b/#", 1).await? == ReasonCode::NotAuthorized);
    }
    Ok(())
}
