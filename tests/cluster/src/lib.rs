//! What the stories about many nodes share: a cluster that is ready, clients on its nodes, and load that keeps book.

mod load;
mod members;

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Client, Cluster, ClusterOptions, ConnectOptions, Message, is_audited, wait_for};
use mqtt_codec::ReasonCode;
use tokio::task::block_in_place;

pub use load::Load;
pub use members::{Member, members, wait_complete, wait_member};

/// For the whole cluster to agree again after one of its nodes or links has gone.
pub const RECOVERY: Duration = Duration::from_secs(30);
/// The node's lease has run out by then, and a second has passed.
pub const FENCED: Duration = Duration::from_secs(4);

/// Three nodes that are ready.
pub fn three() -> Result<Cluster> {
    block_in_place(|| Cluster::start(ClusterOptions::default()))
}

/// The first three of so many nodes, ready; the others may join them later.
pub fn three_of(nodes: usize, config: &str) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(ClusterOptions {
        nodes,
        seeds: vec![vec![0, 1, 2]; nodes],
        config: config.to_owned(),
        ..ClusterOptions::default()
    })?;
    block_in_place(|| -> Result<()> {
        for node in 0..3 {
            cluster.launch(node)?;
        }
        cluster.wait_ready(&[0, 1, 2], RECOVERY)
    })?;
    Ok(cluster)
}

/// Three nodes that are ready, with links that can be cut.
pub fn three_with_links() -> Result<Cluster> {
    block_in_place(|| {
        Cluster::start(ClusterOptions {
            links: true,
            ..ClusterOptions::default()
        })
    })
}

/// A client on a node, with a session that ends with the connection.
pub async fn client(cluster: &Cluster, node: usize, name: &str) -> Result<Client> {
    Client::connect(cluster.mqtt_addr(node), ConnectOptions::v5(name)).await
}

/// A client on a node, with a session that outlives the connection.
pub async fn persistent(cluster: &Cluster, node: usize, name: &str) -> Result<Client> {
    Client::connect(cluster.mqtt_addr(node), ConnectOptions::v5(name).persistent()).await
}

/// Subscribes and makes sure that the QoS was granted.
pub async fn subscribe(client: &mut Client, filter: &str, qos: u8) -> Result<()> {
    let granted = client.subscribe(filter, qos).await?;
    ensure!(granted as u8 == qos, "{filter}: granted {granted:?}");
    Ok(())
}

/// Publishes and makes sure that it was accepted.
pub async fn publish(client: &mut Client, topic: &str, text: &str, qos: u8) -> Result<()> {
    let reason = client.publish(Message::new(topic, text).qos(qos)).await?;
    ensure!(accepts(reason), "{topic}: {reason:?}");
    Ok(())
}

/// Whether a reason code is not an error; "no matching subscribers" is not.
pub fn accepts(reason: ReasonCode) -> bool {
    (reason as u8) < 0x80
}

/// Receives one message, acknowledges it, and makes sure that it says this.
pub async fn expect_text(client: &mut Client, text: &str) -> Result<()> {
    let received = client.receive().await?;
    let payload = received.publication.payload();
    ensure!(payload == text.as_bytes(), "expected {text}, got {payload:?}");
    Ok(())
}

/// Waits until a node is ready, or is not.
pub async fn wait_ready(cluster: &Cluster, node: usize, ready: bool, within: Duration) -> Result<()> {
    wait_for(
        async || block_in_place(|| cluster.is_ready(node)) == ready,
        within,
    )
    .await
}

/// Waits until an event with these words is in the audit log of one of these nodes.
pub async fn wait_audited(cluster: &Cluster, nodes: &[usize], event: &str, words: &[&str]) -> Result<()> {
    let written = async || {
        nodes
            .iter()
            .any(|node| is_audited(&cluster.log(*node), event, words))
    };
    wait_for(written, RECOVERY)
        .await
        .with_context(|| format!("no `{event}` with {words:?} in the log of any of {nodes:?}"))
}

/// Runs `flotilla ctl`, which asks a node, and waits for its end.
pub fn ctl(cluster: &Cluster, node: usize, arguments: &[&str]) -> Result<Output> {
    let mut command = harness::flotilla(cluster.admin_addr(node))?;
    block_in_place(|| command.arg("ctl").args(arguments).output()).context("flotilla ctl")
}
